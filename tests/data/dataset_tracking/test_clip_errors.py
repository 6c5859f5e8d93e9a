"""Whatever is raised in the work on a clip becomes the error of its row, in every stage; faults of the machine end the job."""

import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import torch

from fgvc_hf import PointTracks, Tracker, track_rows
from fgvc_hf.data.dataset_tracking import clip_tracking, row_forms
from fgvc_hf.data.dataset_tracking.clip_errors import LostDevice, error_text, renamed
from fgvc_hf.data.dataset_tracking.clip_points import parse_grid, queries_of
from fgvc_hf.data.dataset_tracking.clip_tracking import track_clip
from fgvc_hf.data.dataset_tracking.row_encoding import track_features


STAGES = {
    ("points", "read"): "source",
    ("points", "open_video"): "video",
    ("points", "prompts"): "points",
    ("points", "track"): "tracker",
    ("points", "encode_tracks"): "tracker",
    ("masks", "read"): "source",
    ("masks", "prompts"): "masks",
    ("masks", "propagate_masks"): "tracker",
    ("masks", "encode_masks"): "tracker",
}
PROMPTS = {"points": "grid:2", "masks": np.eye(8, dtype=np.uint8)}
ORDINARY = (
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    KeyError("queries"),
    StopIteration(),
    AssertionError("no"),
    NotImplementedError("a codec"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("of\na library \udcff"),
)
VIDEO = [np.zeros((8, 8, 3), np.uint8)] * 2


class Still:
    """A tracker of points and masks that do not move."""

    model = SimpleNamespace(device=torch.device("cpu"))

    def track(self, video, queries):
        shape = (len(queries), video.num_frames)
        places = np.repeat(queries[:, None, 1:], video.num_frames, axis=1).astype(np.float32)
        flags, ones = np.ones(shape, bool), np.ones(shape, np.float32)
        return PointTracks(list(range(len(queries))), queries, places, flags, ones, ones, ~flags, (8, 8))

    def propagate_masks(self, video, masks):
        return ((t, masks) for t in range(video.num_frames))


def run(monkeypatch, stage=("points", None), error=None, tracker=None, prompts=None):
    """Track a clip with an error in one of the stages."""

    def fail(*_, **__):
        raise error

    tracker, (kind, stage) = tracker or Still(), stage
    if hasattr(tracker, stage or ""):
        setattr(tracker, stage, fail)
    elif stage == "prompts":
        monkeypatch.setitem(row_forms.FORMS, kind, replace(row_forms.FORMS[kind], read=fail))
    elif stage not in (None, "read"):
        monkeypatch.setattr(clip_tracking if stage == "open_video" else row_forms, stage, fail)
    given = PROMPTS[kind] if prompts is None else prompts
    read = fail if stage == "read" else lambda _: {"video": VIDEO, kind: given}
    return track_clip(read, tracker, None, "clip", kind)


def test_without_an_error_there_are_tracks(monkeypatch):
    row = run(monkeypatch)
    assert row["error"] is None and row["num_frames"] == 2 and len(row["queries"]) == 4
    row = run(monkeypatch, ("masks", None))
    assert row["error"] is None and row["num_frames"] == 2 and row["objects"] == [1] and len(row["masks"]) == 2


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", ORDINARY, ids=lambda error: type(error).__name__)
def test_an_error_of_any_type_is_one_of_the_clip(monkeypatch, stage, error):
    row = run(monkeypatch, stage, error)
    kind, _, reason = row["error"].partition(": ")
    refused = isinstance(error, ValueError) and STAGES[stage] == "tracker"  # those say what is wrong with prompts
    assert kind == (stage[0] if refused else STAGES[stage])
    assert reason and "\n" not in reason and row["error"].encode()
    assert row[{"points": "tracks", "masks": "masks"}[stage[0]]] is None


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_of_the_system_is_one_of_the_source(monkeypatch, stage):
    row = run(monkeypatch, stage, OSError(errno.EIO, os.strerror(errno.EIO), "/data/clip.mp4"))
    assert row["error"].startswith("source: ") and "Input/output error" in row["error"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE])
def test_a_machine_that_is_full_ends_the_job(monkeypatch, stage, number):
    with pytest.raises(OSError) as found:
        run(monkeypatch, stage, OSError(number, os.strerror(number)))
    assert found.value.errno == number


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_ends_the_job(monkeypatch, stage, error):
    with pytest.raises(type(error)):
        run(monkeypatch, stage, error)


def test_an_accelerator_that_is_lost_ends_the_job(monkeypatch):
    tracker = Still()
    tracker.model = SimpleNamespace(device=torch.device("cuda", 99))  # there are not as many
    with pytest.raises(LostDevice, match="cuda:99 can no longer be used"):
        run(monkeypatch, ("points", "track"), RuntimeError("an illegal memory access was encountered"), tracker)
    assert run(monkeypatch, ("points", "track"), ValueError("points"), tracker)["error"].startswith("points: ")


def test_an_error_has_a_bounded_length(monkeypatch):
    assert len(run(monkeypatch, ("points", "read"), ValueError("x" * 10**6))["error"]) < 1100


@pytest.mark.parametrize("file, shown", [("c1.mp4", "N: "), (None, "c1.mp4: ")])
def test_errors_of_the_system_are_sentences(file, shown):
    error = PermissionError(errno.EACCES, "Permission denied", "c1.mp4")
    assert error_text(error, "video", file, "N") == f"source: {shown}cannot be read (Permission denied)."


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("a", "a: has a frame that is damaged", "N: has a frame that is damaged"),
        ("a", "[Errno 2] No such file: 'a'", "[Errno 2] No such file: 'N'"),
        ("e", "the name e is here", "the name e is here"),
        (
            "/t/a",
            "/t/a: is damaged, not /t/a.mp4 or /x/t/a or /t/ab",
            "N: is damaged, not /t/a.mp4 or /x/t/a or /t/ab",
        ),
        ("/t/a", "/t/a/0.png: is damaged (in /t/a).", "N/0.png: is damaged (in N)."),
        ("/t/(a", "cannot read /t/(a.", "cannot read N."),
    ],
)
def test_only_whole_paths_are_renamed_in_messages(file, text, expected):
    assert renamed(text, file, "N") == expected


def npy(shape, data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (b"[" * 100_000, "points: their JSON is nested too deeply."),
        (b'{"queries": ' * 20_000, "points: their JSON is nested too deeply."),
        (npy((10**12, 3)), "points: the array claims the shape (1000000000000, 3), which is not what it holds"),
        (npy((-1, 3)), "points: "),
        (b"\x93NUMPY\x09\x00", "points: the array has an unknown version"),
        (npy((100_001, 3), bytes(100_001 * 24)), "points: there are 100001, at most 100000 are followed."),
        (json.dumps([[0, 1]] * 100_001).encode(), "points: there are 100001, at most 100000 are followed."),
        (b" " * (65 << 20), "points: their file is larger than 64 MiB."),
        ([[0, 1, 1]] * 100_001, "points: there are 100001, at most 100000 are followed."),
        (b"7", "points: they must be"),
        (b"null", "points: they must be"),
        (b'"grid:2"', "points: they must be"),
        ([[0, 10**400, 1]], "points: they must be"),
        ("grid:400", "points: points must be at most 100000, got 'grid:400'."),
        (object(), "points: they must be"),
        (np.ones((2, 3), complex), "points: they must be"),
        (np.ones((2, 3), bool), "points: they must be"),
        (np.array([["0", "1", "1"]]), "points: they must be"),
        ([[0, "1", "1"]], "points: they must be"),
        (b"{", "points: their file is neither JSON nor NPY."),
        (b'{"queries": [[0, 1, 1], [1, 2, 1]], "ids": [3, 3]}', "points: their file has several labels of one point"),
    ],
)  # fmt: skip
def test_points_of_any_bytes(monkeypatch, points, expected):
    assert run(monkeypatch, prompts=points)["error"].startswith(expected)


def test_points_in_each_form_are_equal():
    array, file = np.array([[0, 1.5, 2], [1, 3, 4]]), io.BytesIO()
    np.save(file, array)
    numbered = {"queries": array.tolist(), "ids": [4, 3]}
    for points in (
        file.getvalue(),
        *(json.dumps(one).encode() for one in (array.tolist(), numbered)),
        array.tolist(),
        array,
    ):
        np.testing.assert_array_equal(queries_of(points, 8, 8), array)


@pytest.mark.parametrize("points", ["grid:317", "grid:1x100001", "grid:99999999999999", f"grid:{'9' * 5000}"])
def test_a_grid_has_a_bound(points):
    with pytest.raises(ValueError, match="points must be"):
        parse_grid(points)
    assert parse_grid("grid:316") == (316, 316)


class Nameless:
    def __str__(self):
        return "a\udcff"


@pytest.mark.parametrize(
    "row, error",
    [
        (None, "source: a row must be a mapping, got NoneType."),
        ("a.mp4", "source: a row must be a mapping, got str."),
        ([1], "source: a row must be a mapping, got list."),
        ({}, "video: the row has no video."),
        ({"points": None}, "points: the row has no points."),
        *(({"frames": frames}, "source: frames must be") for frames in ("abc", (1,), 3, (0, 2.0), (None, 2), {})),
        ({"frames": np.array([0, 2])}, None),
        ({"frames": [1, None]}, None),
        ({"model": Path("m"), "revision": np.int64(3), "preset": Nameless(), "id": 5}, None),
        ({"source": Nameless(), "model": object()}, None),
        ({"source": None, "points": bytearray(b"[[0, 1, 2]]")}, None),
        ({"points": memoryview(b"[[0, 1, 2]]")}, None),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_rows_of_ones_own_are_never_the_end_of_the_job(clips, checkpoint, row, error):
    tracker = Tracker.from_pretrained(checkpoint)
    whole = {"video": clips / "a.mp4", "points": "grid:2"}
    rows = list(track_rows([whole | row if row and isinstance(row, dict) else row, whole], tracker))
    assert (rows[0]["error"] or "").startswith(error or "") and (rows[0]["error"] is None) == (error is None)
    assert rows[1]["error"] is None
    pyarrow.Table.from_pylist(rows, track_features().arrow_schema)  # the columns are of their types
