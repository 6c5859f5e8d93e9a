import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fgvc_hf.evaluation.tapvid import load_tapvid
from fgvc_hf.evaluation.tapvid_pickle import load_tapvid_pickle, read_pickle


H, W, T = 20, 30, 4


def video(value, jpeg=False):
    frames = np.full((T, H, W, 3), value, np.uint8)
    points = np.full((2, T, 2), [0.5, 0.25])
    if jpeg:
        stored = []
        for frame in frames:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG", quality=95)
            stored.append(buffer.getvalue())
        frames = stored
    return {"video": frames, "points": points, "occluded": np.zeros((2, T), bool)}


def write(path, content, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_davis_is_a_dict_of_videos(tmp_path, protocol):
    write(tmp_path / "tapvid_davis" / "tapvid_davis.pkl", {"goat": video(7), "cows": video(9)}, protocol)
    first, second = load_tapvid(tmp_path, "davis")
    assert (first.name, second.name, first.size) == ("goat", "cows", (H, W))
    assert second.frames[0, 0, 0, 0] == 9
    np.testing.assert_allclose(first.points[0, 0], [15, 5])  # pixels, from shares of width and height
    assert not first.occluded.any()


def test_kinetics_is_lists_of_videos_in_several_files(tmp_path):
    for index in range(2):
        content = [video(10 * index + i, jpeg=True) for i in range(2)]
        write(tmp_path / "tapvid_kinetics" / f"{index:04d}_of_0002.pkl", content)
    videos = list(load_tapvid(tmp_path, "kinetics"))
    assert [v.name for v in videos] == [f"{i:04d}_of_0002-{j:04d}" for i in range(2) for j in range(2)]
    assert abs(int(videos[3].frames[0, 0, 0, 0]) - 11) <= 1 and videos[3].frames.shape == (T, H, W, 3)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def test_a_pickle_that_constructs_anything_else_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "bad.pkl", {"goat": video(1), "other": Exploit()})
    with pytest.raises(OSError, match=r"bad.pkl: .* it tries to construct posix.mkdir, which is not allowed"):
        read_pickle(path)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([video(1)])[:-200]])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged.pkl: cannot be read as a pickle of arrays"):
        read_pickle(path)


def test_other_content_is_named(tmp_path):
    with pytest.raises(OSError, match="the video goat lacks video, points or occluded"):
        list(load_tapvid_pickle(write(tmp_path / "a.pkl", {"goat": {"video": 3}})))
    with pytest.raises(OSError, match="holds no videos"):
        list(load_tapvid_pickle(write(tmp_path / "b.pkl", {})))
