"""Names from files are names, and never paths."""

import numpy as np
import pytest

from fgvc_hf.evaluation.davis import load_davis
from fgvc_hf.evaluation.jhmdb import load_jhmdb
from fgvc_hf.evaluation.run import Task
from fgvc_hf.evaluation.tapvid import load_tapvid_npz
from fgvc_hf.evaluation.vip import load_vip
from fgvc_hf.evaluation.visuals import write_visual
from fgvc_hf.io.names import check_name, check_names


PATHS = [
    "../up",
    "/tmp/x",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".hidden",
    "C:x",
    "a\0b",
    "a\nb",
    "nul",
    "COM1.txt",
    "x" * 300,
    "é" * 101,
    "a.",
    "~/",
]


@pytest.mark.parametrize("name", [*PATHS, "", " a", 3, None, b"a", ("a",)])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(
        OSError, match=r"^data\.pkl: .* is not a name; a sequence must be named as one file or folder can be\.$"
    ):
        check_name(name, "data.pkl")


@pytest.mark.parametrize("name", ["goat", "bike-packing", "0001_of_0010-0003", "A (1)!", "馬", "x" * 200, "a.b", "~x"])
def test_names_of_data_sets_are_accepted(name):
    assert check_name(name, "data.pkl") == name


@pytest.mark.parametrize("names", [["a", "a"], ["Goat", "b", "goat"], ["caf\u00e9", "cafe\u0301"]])
def test_no_name_is_there_twice(names):
    with pytest.raises(OSError, match="is there twice"):
        check_names(names, "data.pkl")


def refuses(load):
    with pytest.raises(OSError, match="is not a name"):
        list(load())


@pytest.mark.parametrize("name", ["../../up", "/etc", "..", "a\\b"])
def test_lists_of_data_sets_lead_nowhere_else(tmp_path, name):
    for folder in ("ImageSets/2017", "lists", "splits", "JPEGImages/480p"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text(f"{name}\n")
    (tmp_path / "lists/val_videos.txt").write_text(f"{name}\n")
    (tmp_path / "splits/run_test_split1.txt").write_text(f"{name}.avi 2\n")
    np.savez(
        tmp_path / "a.npz",
        **{f"{name}/points": np.zeros((1, 2, 2)), f"{name}/occluded": np.zeros((1, 2)), f"{name}/size": [9, 9]},
    )
    refuses(lambda: load_davis(tmp_path))
    refuses(lambda: load_vip(tmp_path))
    refuses(lambda: load_jhmdb(tmp_path))
    refuses(lambda: load_tapvid_npz(tmp_path / "a.npz", tmp_path))


def test_no_overlay_is_written_elsewhere(tmp_path):
    for name in PATHS:
        refuses(lambda name=name: write_visual(tmp_path / "visuals", name, [np.zeros((32, 32, 3), np.uint8)]) or ())
    assert not list(tmp_path.iterdir())


def test_a_benchmark_refuses_names_before_it_measures(tmp_path):
    import pickle

    video = {
        "video": np.zeros((2, 8, 8, 3), np.uint8),
        "points": np.zeros((1, 2, 2)),
        "occluded": np.zeros((1, 2), bool),
    }
    (tmp_path / "tapvid_davis").mkdir()
    (tmp_path / "tapvid_davis" / "tapvid_davis.pkl").write_bytes(pickle.dumps({"../../../out": video}))
    refuses(Task("tapvid", tmp_path, "davis").names)
