"""Masks of a whole data set: from every kind of source to images in rows, and back."""

import errno
import glob
import io
import os
import shutil
import tarfile

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageFile
from tracked_datasets import files_in, rows_in, stop_after

from fgvc_hf import Tracker, load_masks, open_video, track_dataset, track_rows
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import stored_files
from fgvc_hf.data.dataset_tracking.mask_encoding import encode_masks, mask_features
from fgvc_hf.data.dataset_tracking.row_forms import encoded_bytes


SIDE = 48


def ids_of(*objects):
    """A mask with a rectangle for each object."""
    ids = np.zeros((SIDE, SIDE), np.int32)
    for number, i in enumerate(objects):
        ids[8 + 16 * number : 20 + 16 * number, 10:30] = i
    return ids


def png(ids):
    """The bytes of an image of ids."""
    file = io.BytesIO()
    Image.fromarray(ids.astype(np.uint16 if ids.max() > 255 else np.uint8)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tracker(checkpoint):
    return Tracker.from_pretrained(checkpoint)


@pytest.fixture
def expected(tracker, clips):
    """The masks of `a.mp4` from those of its first frame, as the tracker gives them one clip at a time."""
    return lambda ids: np.stack([found for _, found in tracker.propagate_masks(clips / "a.mp4", ids)])


@pytest.fixture
def with_masks(clips, tmp_path):
    """Rows with masks as bytes, as `datasets` has them, and by a path; and rows whose masks are missing or wrong."""
    folder = tmp_path / "source"
    folder.mkdir()
    video = (clips / "a.mp4").read_bytes()
    (folder / "0.png").write_bytes(png(ids_of(1, 7)))
    rows = {
        "bytes": {"bytes": png(ids_of(1, 7)), "path": None},
        "path": {"bytes": None, "path": "0.png"},
        "both": {"bytes": png(ids_of(300)), "path": "nowhere.png"},
        "none": None,
        "empty": {"bytes": png(ids_of()), "path": None},
        "small": {"bytes": png(ids_of(1)[:40]), "path": None},
        "no image": {"bytes": b"no image", "path": None},
        "no file": {"bytes": None, "path": "nowhere.png"},
    }
    table = pyarrow.Table.from_pylist([{"clip": video, "mask": mask} for mask in rows.values()])
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=2)
    return folder, {f"rows.parquet#{number}": name for number, name in enumerate(rows)}


def run(source, tmp_path, checkpoint, **options):
    track_dataset(source, tmp_path / "masks", masks="column:mask", video="clip", checkpoint=checkpoint, **options)
    return rows_in(tmp_path / "masks")


def test_rows_are_what_the_tracker_gives(with_masks, tmp_path, checkpoint, expected):
    source, names = with_masks
    rows = {names[place]: row for place, row in run(source, tmp_path, checkpoint).items()}
    for name, objects in (("bytes", [1, 7]), ("path", [1, 7]), ("both", [300])):
        masks, truth = load_masks(rows[name]), expected(ids_of(*objects))
        assert len(masks) == rows[name]["num_frames"] == 4 and masks.size == (SIDE, SIDE)
        assert rows[name]["objects"] == masks.object_ids == objects
        assert np.array_equal(np.stack(masks), truth) and masks[-1].dtype == np.int32
        assert np.array_equal(np.stack(masks[1:3]), truth[1:3])
        assert set(np.unique(truth)) == {0, *objects}
    for name, sentence in {
        "none": "masks: the row has no mask.",
        "empty": "masks: masks hold no object",
        "small": "masks: ",
        "no image": "masks: the mask: cannot be read as an image, it is no image of a known format.",
        "no file": "source: ",
    }.items():
        assert rows[name]["error"].startswith(sentence) and rows[name]["masks"] is None
        with pytest.raises(ValueError, match="holds no masks: [a-z]+: .*[^.][.]$"):
            load_masks(rows[name])


def test_every_reader_gives_the_masks(with_masks, tmp_path, checkpoint, expected):
    source, truth = with_masks[0], expected(ids_of(1, 7))
    run(source, tmp_path, checkpoint)
    folder = tmp_path / "masks"
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert data[0]["masks"][0].size == (SIDE, SIDE)  # as pictures
    frame = pandas.concat(map(pandas.read_parquet, sorted(glob.glob(f"{folder}/data-*.parquet"))))
    batch = pyarrow.parquet.read_table(min(folder.glob("data-*.parquet"))).to_pylist()
    for row in (data[0], data.with_format("numpy")[0], frame.iloc[0], batch[0]):
        assert np.array_equal(np.stack(load_masks(row)), truth)
    assert np.array_equal(np.stack(load_masks(data[2])), expected(ids_of(300)))
    card = (folder / "README.md").read_text()
    assert "# Masks of 8 clips" in card and "load_masks(rows[0])" in card and "`objects`" in card


def test_masks_in_tar_files(clips, tmp_path, checkpoint, expected):
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "0.tar", "w") as archive:
        for name, data in {
            "0.clip.mp4": (clips / "a.mp4").read_bytes(),
            "0.mask.png": png(ids_of(2)),
            "1.clip.mp4": (clips / "a.mp4").read_bytes(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    track_dataset(tmp_path / "tar", tmp_path / "masks", masks="column:mask.png", checkpoint=checkpoint)
    first, second = rows_in(tmp_path / "masks").values()
    assert np.array_equal(np.stack(load_masks(first)), expected(ids_of(2)))
    assert second["error"] == "masks: the row has no mask."


@pytest.mark.parametrize("form", ["array", "picture", "bytes", "path", "mapping"])
def test_rows_of_ones_own(tracker, clips, tmp_path, expected, form):
    ids = ids_of(1, 7)
    (tmp_path / "m.png").write_bytes(png(ids))
    given = {
        "array": ids,
        "picture": Image.open(tmp_path / "m.png"),
        "bytes": png(ids),
        "path": tmp_path / "m.png",
        "mapping": {"bytes": png(ids), "path": None},
    }
    (row,) = track_rows([{"video": clips / "a.mp4", "masks": given[form]}], tracker)
    assert row["error"] is None and np.array_equal(np.stack(load_masks(row)), expected(ids))
    assert len(row["id"]) == 32 and row["fps"] == 12
    pyarrow.Table.from_pylist([row], mask_features().arrow_schema)  # the columns are of their types
    assert encoded_bytes(row) == sum(len(mask["bytes"]) for mask in row["masks"]) > 0


def test_a_run_that_was_ended_goes_on(with_masks, tmp_path, checkpoint, monkeypatch):
    source, _ = with_masks
    run(source, tmp_path, checkpoint)
    whole = files_in(tmp_path / "masks")
    shutil.rmtree(tmp_path / "masks")
    stop_after(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path, checkpoint)
    monkeypatch.undo()
    run(source, tmp_path, checkpoint)
    assert files_in(tmp_path / "masks") == whole


def test_rows_in_another_format_or_damaged_are_refused():
    ids = ids_of(1, 7)
    whole = encode_masks([ids, ids], [1, 7], ids.shape) | {"id": "7", "source": "a", "error": None}
    assert np.array_equal(load_masks(whole)[1], ids)
    image = {"bytes": png(ids_of(2)), "path": None}
    for column, value in {
        "masks": [whole["masks"][0]],
        "num_frames": 3,
        "width": 0,
        "height": "48",
        "objects": ["a"],
    }.items():
        with pytest.raises(
            ValueError,
            match="row 7 is damaged, or in the format torch of datasets: its masks are not of its frames and objects",
        ):
            load_masks(whole | {column: value})
    with pytest.raises(ValueError, match="row 7 is damaged: a mask is no PNG image of 48x48[.]$"):
        load_masks(whole | {"masks": [{"bytes": b"no image", "path": None}] * 2})[0]
    for value in (image, {"bytes": png(ids[:40]), "path": None}, {"bytes": b"", "path": None}, {}, None, "a"):
        with pytest.raises(ValueError, match="row 7 is damaged"):
            load_masks(whole | {"masks": [value] * 2})[0]
    with pytest.raises(ValueError, match="its masks are missing"):
        load_masks(whole | {"masks": {1, 2}})
    tensors = {name: torch.tensor(whole[name]) for name in ("num_frames", "width", "height", "objects")}
    with pytest.raises(ValueError, match="row 7 is damaged, or in the format torch of datasets"):
        load_masks(whole | tensors)
    with pytest.raises(ValueError, match="must have a column masks, it has id"):
        load_masks({"id": "7"})
    with pytest.raises(IndexError):
        load_masks(whole)[2]


def test_ids_that_no_image_holds_cost_their_row(tracker, clips):
    (row,) = track_rows([{"video": clips / "a.mp4", "masks": ids_of(70_000)}], tracker)
    assert row["error"].startswith("masks: ") and "65535" in row["error"]


def test_options_that_are_refused(clips, parquet, lerobot, tmp_path, checkpoint, capsys):
    folder = tmp_path / "masks"
    for source, options, expected in (
        (clips, ["--masks", "column:mask"], "has no columns; --masks column:mask needs a data set"),
        (parquet, ["--masks", "column:mask"], "has no column mask; it has clip, points"),
        (parquet, ["--masks", "column:points"], "column points must hold the bytes or the paths of images"),
        (parquet, ["--masks", "grid:2"], "masks must be column:NAME, got 'grid:2'"),
        (parquet, ["--masks", ""], "masks must be column:NAME, got ''"),
        (parquet, ["--masks", "column:clip", "--points", "grid:2"], "give points or masks, got both"),
        (parquet, [], "give SRC, DST, and --points or --masks"),
        (lerobot, ["--masks", "column:prompts"], "whose episodes have no masks"),
    ):
        words = ["track-dataset", str(source), str(folder), "--checkpoint", checkpoint, *options]
        assert main(words) == 2 and not folder.exists()
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1


def test_masks_are_drawn_and_other_options_are_named(with_masks, tmp_path, checkpoint, capsys):
    source, _ = with_masks
    run(source, tmp_path, checkpoint)
    folder = str(tmp_path / "masks")
    assert main(["track-dataset", "--inspect", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 with masks, of 12 frames" in lines[1] and any("4 with an error: masks" in line for line in lines)
    pictures = sorted((tmp_path / "masks" / "overlays").glob("*.png"))
    assert len(pictures) == 3
    words = ["track-dataset", str(source), folder, "--video", "clip", "--checkpoint", checkpoint]
    assert main([*words, "--points", "grid:2"]) == 2
    assert "points was None, now grid:2; masks was column:mask, now None" in capsys.readouterr().err
    assert open_video(pictures[0]).width > 400


def test_masks_of_another_size_are_refused_before_they_are_decoded(tracker, clips, tmp_path, monkeypatch):
    large = np.zeros((9000, 9000), np.uint8)  # 3 GB as a mask for each object
    large.flat[:40] = range(1, 41)
    data, whole = png(large), encode_masks([ids_of(1)], [1], (SIDE, SIDE)) | {"id": "7", "source": "a", "error": None}
    (tmp_path / "m.png").write_bytes(data)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    for given in (data, tmp_path / "m.png"):
        (row,) = track_rows([{"video": clips / "a.mp4", "masks": given}], tracker)
        assert row["error"] == "masks: the mask must be 48x48 like the video, it is 9000x9000."
    whole["masks"] = [{"bytes": data, "path": None}]
    with pytest.raises(ValueError, match="row 7 is damaged: a mask is no PNG image of 48x48[.]$"):
        load_masks(whole)[0]


def test_masks_are_not_taken_for_videos(clips, tmp_path, checkpoint):
    video, mask = (clips / "a.mp4").read_bytes(), png(ids_of(1))
    gif = io.BytesIO()
    Image.fromarray(ids_of(1).astype(np.uint8)).save(gif, format="GIF")
    table, struct, tar = (tmp_path / name for name in ("paths.parquet", "structs.parquet", "0.tar"))
    (tmp_path / "a.mp4").write_bytes(video)
    pyarrow.parquet.write_table(pyarrow.table({"video": ["a.mp4"], "mask": [mask]}), table)
    rows = [{"any": {"bytes": video, "path": None}, "mask": {"bytes": mask, "path": None}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), struct)
    with tarfile.open(tar, "w") as archive:
        for name, data in (("0.mask", gif.getvalue()), ("0.mask.gif", gif.getvalue()), ("0.mp4", video)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    for number, (source, column) in enumerate(((table, "mask"), (struct, "mask"), (tar, "mask.gif"))):
        track_dataset(source, tmp_path / f"{number}", masks=f"column:{column}", checkpoint=checkpoint)
        (row,) = rows_in(tmp_path / f"{number}").values()
        assert row["error"] is None and row["num_frames"] == 4 and row["fps"] == 12


def test_points_and_masks_in_one_row_are_refused(tracker, clips):
    (row,) = track_rows([{"video": clips / "a.mp4", "masks": ids_of(1), "points": "grid:2"}], tracker)
    assert row["error"] == "masks: the row has points and masks; give one of them." and row["masks"] is None


def test_masks_that_cannot_be_read_now_are_tried_again(with_masks, tmp_path, checkpoint, expected, monkeypatch):
    """Not as damaged images, which stay as they are."""
    source, names = with_masks

    def opened(path, *arguments):
        if str(path).endswith(".png"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stored_files, "open", opened, raising=False)
        rows = {names[place]: row for place, row in run(source, tmp_path, checkpoint).items()}
    assert rows["path"]["error"] == f"source: {source}/0.png: cannot be read (Permission denied)."
    rows = {names[place]: row for place, row in run(source, tmp_path, checkpoint, retry_errors=True).items()}
    assert np.array_equal(np.stack(load_masks(rows["path"])), expected(ids_of(1, 7)))
