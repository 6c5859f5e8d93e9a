"""Files of points from anyone: read, or refused in one sentence and in bounded memory."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from fgvc_hf import PointTracks, read_labels, read_points_file, read_tracks, save_tracks
from fgvc_hf.io import tracks as tracks_module


POINTS = np.array([[0, 5, 6.5], [2, 7, 8]])
JSON = json.dumps({"queries": POINTS.tolist()})
CSV = "t,x,y\n0,5,6.5\n2,7,8\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", CSV.encode("utf-8-sig")),
        ("p.csv", CSV.replace("\n", "\r\n").encode()),
        ("p.csv", CSV.replace("\n", "\r\n").encode("utf-8-sig")),
        ("p.csv", (CSV + "\n , , \n").replace(",", " , ").encode()),
        ("p.json", JSON.encode("utf-8-sig")),
        ("p.json", JSON.replace(" ", "\r\n").encode()),
    ],
)
def test_byte_order_marks_and_line_ends(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(read_points_file(tmp_path / name), POINTS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", CSV.encode("utf-16"), "CSV text file in UTF-8"),
        ("p.csv", CSV.encode("utf-16-le"), "CSV text file in UTF-8"),
        ("p.json", JSON.encode("utf-16"), "JSON text file in UTF-8"),
        ("p.json", JSON.encode("utf-32-be"), "JSON text file in UTF-8"),
        ("p.csv", b"t,x,y\n0,nan,5\n", "point 0 must be"),
        ("p.csv", b"t,x,y\n0,5,5\n0,1e300,5\n", "point 1 must be"),
        ("p.csv", b"t,x,y\n-1,5,5\n", "point 0 must be"),
        ("p.csv", b"t,x,y\n0.5,5,5\n", "point 0 must be"),
        ("p.csv", b"t,x,y\n1e300,5,5\n", "point 0 must be"),
        ("p.csv", b"t,x,y\n" + b"9" * 5000 + b",5,x\n", r"line 2: .*\.\.\."),
        ("p.json", b'{"queries": [[0, NaN, 5]]}', "point 0 must be"),
        ("p.json", b'{"queries": [[0, Infinity, 5]]}', "point 0 must be"),
        ("p.json", b'{"queries": [[0, "5", 5]]}', "with numbers"),
        ("p.json", b'{"queries": [[true, 5, 5]]}', "with numbers"),
        ("p.json", b'{"queries": [[0, null, 5]]}', "with numbers"),
        ("p.json", b'{"queries": [[0, 5, 1' + b"0" * 400 + b"]]}", "with numbers"),
        ("p.json", b'{"queries": [[0, 5, 1' + b"0" * 9000 + b"]]}", "with numbers"),
        ("p.json", b'{"queries": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "with numbers"),
        ("p.json", b'{"queries": "text"}', "with numbers"),
        ("p.json", b'{"queries": 5}', "with numbers"),
        ("p.json", b"null", "with numbers"),
    ],
)
def test_points_that_are_none_are_one_short_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
        read_points_file(tmp_path / name)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def npz(path, **headers):
    """An NPZ file of arrays whose headers claim a shape and hold 16 bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, (shape, dtype) in headers.items():
            file = io.BytesIO()
            np.lib.format.write_array_header_2_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", file.getvalue() + b"\0" * 16)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((10**12, 3), "<f8", "not what it holds"),
        ((10**30, 3), "<f8", "not what it holds"),
        ((2**62, 4), "<f8", "not what it holds"),
        ((3, 3), "<f8", "not what it holds"),
        ((-1, 3), "<f8", "not what it holds"),
        ((2,), "|O", "pickled objects"),
        ((1, 1), "<U4", "got <U4"),
    ],
)
def test_headers_that_claim_more_than_there_is(tmp_path, shape, dtype, message):
    npz(tmp_path / "p.npz", queries=(shape, dtype), tracks=(shape, dtype))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"p.npz: must be an NPZ file.*{message}"):
        read_points_file(tmp_path / "p.npz")
    with pytest.raises(ValueError, match="p.npz: must be an NPZ file with the arrays"):
        read_tracks(tmp_path / "p.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.slow
def test_arrays_that_unpack_to_gigabytes_are_not_unpacked(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "p.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("queries.npy", "w", force_zip64=True) as file,
    ):
        rows = 2**31 // 24 + 1
        np.lib.format.write_array_header_2_0(file, {"descr": "<f8", "fortran_order": False, "shape": (rows, 3)})
        for _ in range(24 * rows // 2**24 + 1):
            file.write(b"\0" * 2**24)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 2147483648 bytes"):
        read_points_file(tmp_path / "p.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def tracks(ids):
    n = len(ids)
    flat = np.zeros((n, 4), np.float32)
    return PointTracks(
        ids, np.zeros((n, 3), np.float32), np.zeros((n, 4, 2), np.float32), flat > 1, flat, flat, flat > 1, (20, 30)
    )


def test_ids_are_kept(tmp_path):
    saved = tracks([30, -2, 2**60])
    save_tracks(saved, tmp_path / "t.npz")
    assert read_tracks(tmp_path / "t.npz").object_ids == [30, -2, 2**60]
    save_tracks(saved, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["object_ids"] == [30, -2, 2**60]


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_tracks_read_as_points_keep_ids_and_all_labels(tmp_path, suffix):
    first = [[0, 4, 5], [2, 6, 7]]
    several = np.array([[7, 0, 4, 5], [7, 3, 8, 9], [3, 2, 6, 7]], np.float64)
    for labels, found in ((None, {7: first[:1], 3: first[1:]}), (several, {7: several[:2, 1:], 3: several[2:, 1:]})):
        shape = {
            "tracks": np.zeros((2, 4, 2)),
            "queries": np.array(first, np.float64),
            "size": (16, 16),
            "labels": labels,
        }
        shape |= {name: np.ones((2, 4)) for name in ("visible", "confidence", "uncertainty", "outside")}
        save_tracks(PointTracks([7, 3], **shape), tmp_path / f"t.{suffix}")
        points = read_points_file(tmp_path / f"t.{suffix}")
        assert list(points) == [7, 3]
        for obj_id, rows in found.items():
            np.testing.assert_array_equal(points[obj_id], rows)


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_tracks_of_points_that_were_looked_for_are_no_prompts(tmp_path, suffix):
    saved = tracks([7, 8])
    saved.queries[1, 1:] = np.nan
    save_tracks(saved, tmp_path / f"t.{suffix}")
    with pytest.raises(ValueError, match=rf"t.{suffix}: point 8 has no position, as points that were looked for"):
        read_points_file(tmp_path / f"t.{suffix}")


def test_a_table_of_tracks_is_told_apart_from_labels_of_another_tool(tmp_path):
    save_tracks(tracks([7, 8]), tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t.csv: holds tracks; those in .json and .npz are read as points"):
        read_points_file(tmp_path / "t.csv")


def test_own_points_are_labels_by_id_and_time_once_on_a_frame_of_one_clip(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,t,x,y\n5,4,1,2\n2,0,3,3\n5,1,6,7\n")
    labels = read_labels(path)
    assert labels.ids.tolist() == [2, 5, 5] and list(labels.names) == [2, 5]
    assert labels.points.tolist() == [[0, 3, 3], [1, 6, 7], [4, 1, 2]]
    assert labels.visible.tolist() == 3 * [True] and labels.confidence.tolist() == 3 * [1.0]  # people put them there
    with pytest.raises(ValueError, match="p.csv: clip is of labels of another tool"):
        read_labels(path, clip="dog")
    path.write_text("id,t,x,y\n5,4,1,2\n2,0,3,3\n5,4,6,7\n")
    with pytest.raises(ValueError, match="p.csv: 5 is labelled twice on frame 4"):
        read_labels(path)


def test_files_without_ids_and_with_wrong_ones(tmp_path):
    save_tracks(tracks([7, 8]), tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as content:
        arrays = dict(content)
    del arrays["object_ids"]
    np.savez(tmp_path / "old.npz", **arrays)
    assert read_tracks(tmp_path / "old.npz").object_ids == [0, 1]
    for ids in (np.array([1, 1]), np.array([0.5, 1.5]), np.array([1, 2, 3])):
        np.savez(tmp_path / "bad.npz", **arrays, object_ids=ids)
        with pytest.raises(ValueError, match="bad.npz: object_ids must be"):
            read_tracks(tmp_path / "bad.npz")


@pytest.mark.parametrize(("points", "accepted"), [(3, True), (4, False)])
def test_as_many_points_as_are_followed_at_a_time(tmp_path, monkeypatch, points, accepted):
    monkeypatch.setattr(tracks_module, "MAX_POINTS", 3)
    (tmp_path / "p.csv").write_text("t,x,y\n" + "0,1,2\n" * points)
    if accepted:
        assert len(read_points_file(tmp_path / "p.csv")[1]) == 3
    else:
        with pytest.raises(ValueError, match="holds 4 points, at most 3 are followed at a time"):
            read_points_file(tmp_path / "p.csv")
