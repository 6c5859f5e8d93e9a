import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fgvc_hf import PointTracks, read_points_file, read_tracks, save_tracks
from fgvc_hf.io import tracks as tracks_module
from fgvc_hf.tracking.point_grid import grid_points


POINTS = [[0, 12.5, 20.25], [3, 0, 0], [17, 639.875, 1e-3]]
SUFFIXES = [".csv", ".json", ".npz"]


@pytest.fixture
def tracks() -> PointTracks:
    """Two points over three frames; the second is prompted on frame 1, so it has no position on frame 0."""
    positions = np.array([[[1.5, 2.25], [3, 4], [5.1234, 6]], [[np.nan, np.nan], [7, 8], [9, 10]]], dtype=np.float32)
    return PointTracks(
        object_ids=[4, 11],
        queries=np.array([[0, 1.5, 2.25], [1, 7, 8]], dtype=np.float32),
        tracks=positions,
        visible=np.array([[True, False, True], [False, True, True]]),
        confidence=np.array([[1, 0.0512, 0.3], [0, 1, 0.125]], dtype=np.float32),
        uncertainty=np.array([[0, 12.5, 0.75], [np.nan, 0, 2.25]], dtype=np.float32),
        outside=np.array([[False, True, False], [False, False, False]]),
        size=(480, 854),
    )


def write_points(path: Path, points) -> Path:
    if path.suffix.lower() == ".csv":
        path.write_text("t,x,y\n" + "".join(",".join(map(str, point)) + "\n" for point in points))
    elif path.suffix.lower() == ".json":
        path.write_text(json.dumps({"queries": points}))
    else:
        with path.open("wb") as file:
            np.savez(file, queries=points)
    return path


def write(path: Path, content: str | bytes | dict) -> Path:
    """Text, bytes, or the arrays of an NPZ file."""
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("axis", [0, 1])
def test_a_position_without_one_coordinate_is_none_in_json(tmp_path, tracks, axis):
    tracks.tracks[0, 1, axis] = np.nan
    save_tracks(tracks, tmp_path / "t.json")
    positions = json.loads((tmp_path / "t.json").read_text())["tracks"]
    assert positions[0][1] is None and positions[1][0] is None and positions[0][0] == [1.5, 2.25]


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.npz", "P.CSV", "two words.JSON"])
def test_points_come_back_exactly(tmp_path, name):
    points = read_points_file(write_points(tmp_path / name, POINTS))
    assert points.dtype == np.float64 and points.tolist() == POINTS
    assert read_points_file(str(tmp_path / name)).tolist() == POINTS


@pytest.mark.parametrize(
    "text",
    [
        "\ufefft,x,y\r\n0,1.5,2\r\n\r\n4,3,1e1\r\n",  # as spreadsheets write it
        "T, X ,y\n0, 1.5 ,2\n4,3,10",
        '"t","x","y"\n"0","1.5","2"\n4,3,10\n\n',
    ],
)
def test_csv_in_the_styles_of_others(tmp_path, text):
    assert read_points_file(write(tmp_path / "p.csv", text)).tolist() == [[0, 1.5, 2], [4, 3, 10]]


PICKLED = np.array([[0, 1, 2]], dtype=object)
MALFORMED = [
    ("p.csv", "t,x,y\n0,5,5\n0,five,5\n", "p.csv, line 3: expected three numbers t,x,y, found 0,five,5"),
    ("p.csv", "t,x,y\n\n0,5,5\n\n0,5\n", "p.csv, line 5: expected three numbers"),
    ("p.csv", "t,x,y\n0,5,5,5\n", "p.csv, line 2: expected three numbers"),
    ("p.csv", "id,t,x,y\n1,0,5,5\n1,2,5\n", "p.csv, line 3: expected four numbers id,t,x,y, found 1,2,5"),
    ("p.csv", "t,x,y\n0,,5\n", "p.csv, line 2: expected three numbers"),
    ("p.csv", "x,y,t\n0,5,5\n", "p.csv, line 1: the header must be t,x,y or id,t,x,y, found x,y,t"),
    ("p.csv", "0,5,5\n", "p.csv, line 1: the header must be t,x,y"),
    ("p.csv", "", "p.csv, line 1: the header must be t,x,y or id,t,x,y, found nothing"),
    ("p.csv", "t,x,y\n", "p.csv: holds no points"),
    ("p.csv", b"\xff\xfe\x00\x01", "p.csv: is not a CSV text file"),
    ("p.json", '{"queries":\n [[0, 1, 2],\n  [0, 1 2]]}', "p.json, line 3: is not valid JSON"),
    ("p.json", "", "p.json, line 1: is not valid JSON"),
    ("p.json", b"\xff\xfe\x00", "p.json: is not a JSON text file"),
    ("p.json", "[[0, 1, 2]]", "p.json: must hold"),
    ("p.json", '{"points": [[0, 1, 2]]}', "p.json: must hold"),
    ("p.json", '{"queries": [[0, 1, 2], [0, 1]]}', "p.json: must hold"),
    ("p.json", '{"queries": [[0, "left", 2]]}', "p.json: must hold"),
    ("p.json", '{"queries": []}', "p.json: holds no points"),
    ("p.json", '{"queries": [[0, 1]]}', "p.json: holds no points"),
    ("p.npz", {"points": POINTS}, "p.npz: must be an NPZ file with an array queries"),
    ("p.npz", {"queries": PICKLED}, "p.npz: must be an NPZ file with an array queries"),
    ("p.npz", {"queries": [["a", "b", "c"]]}, "p.npz: must be an NPZ file with an array queries"),
    ("p.npz", {"queries": np.zeros((2, 2))}, "p.npz: holds no points"),
    ("p.npz", "text", "p.npz: must be an NPZ file"),
    ("p.npz", b"", "p.npz: must be an NPZ file"),
    ("p.npz", b"PK\x03\x04 cut off", "p.npz: must be an NPZ file"),
    ("p.txt", "t,x,y\n0,5,5\n", "p.txt: the name must end in .csv, .json or .npz"),
    ("p", "t,x,y\n0,5,5\n", "p: the name must end in .csv, .json or .npz"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_malformed_points_are_a_plain_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as caught:
        read_points_file(path)
    assert f"{tmp_path}/{message}" in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_a_plain_error(tmp_path, save):
    path = tmp_path / "p.npz"
    save(path, queries=np.random.default_rng(0).random((30, 3)))
    whole = path.read_bytes()
    cut_off = [whole[:length] for length in range(0, len(whole), 97)]
    changed = [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(0, len(whole), 3)]
    refused = 0
    for damaged in cut_off + changed:
        path.write_bytes(damaged)
        try:
            read_points_file(path)
        except ValueError as error:
            refused += 1
            assert "p.npz: " in str(error)
    assert refused >= len(cut_off)


def test_a_pickle_in_an_npz_is_never_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    np.savez(tmp_path / "p.npz", queries=np.array([Touch()], dtype=object))
    with pytest.raises(ValueError, match="must be an NPZ file"):
        read_points_file(tmp_path / "p.npz")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_points_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match="there is no such points file"):
        read_points_file(tmp_path / f"none{suffix}")


def test_npz_holds_the_tracks(tmp_path, tracks):
    save_tracks(tracks, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as content:
        names = {"queries", "tracks", "visible", "confidence", "uncertainty", "outside"}
        assert set(content) == {*names, "size", "object_ids"}
        for name in names:
            np.testing.assert_array_equal(content[name], getattr(tracks, name))
            assert content[name].dtype == getattr(tracks, name).dtype
        assert content["size"].tolist() == [480, 854]


@pytest.mark.parametrize("labels", [None, [[4, 0, 1.5, 2.25], [4, 2, 5, 6], [11, 1, 7, 8]]])
def test_tracks_come_back_as_they_were(tmp_path, tracks, labels):
    tracks.labels = None if labels is None else np.array(labels)
    save_tracks(tracks, tmp_path / "out.npz")
    found = read_tracks(tmp_path / "out.npz")
    assert (found.object_ids, found.size, found.disagreements) == ([4, 11], (480, 854), [])
    assert found.labels is None if labels is None else found.labels.tolist() == labels
    for name in ("queries", "tracks", "visible", "confidence", "uncertainty", "outside"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tracks, name), strict=True)


def test_json_holds_the_tracks(tmp_path, tracks):
    save_tracks(tracks, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content["tracks"][1][0] is None
    positions = [[[np.nan] * 2 if point is None else point for point in row] for row in content["tracks"]]
    np.testing.assert_array_equal(np.array(positions, dtype=np.float32), tracks.tracks)
    assert content["uncertainty"] == [[0, 12.5, 0.75], [None, 0, 2.25]]
    for name in ("queries", "visible", "confidence", "outside"):
        np.testing.assert_array_equal(np.array(content[name], dtype=np.float32), getattr(tracks, name))
    assert content["size"] == [480, 854]


def test_csv_holds_the_tracks(tmp_path, tracks):
    save_tracks(tracks, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["point", "t", "x", "y", "visible", "confidence", "uncertainty", "outside"]
    assert rows == [
        ["4", "0", "1.500", "2.250", "1", "1.0000", "0.000", "0"],
        ["4", "1", "3.000", "4.000", "0", "0.0512", "12.500", "1"],
        ["4", "2", "5.123", "6.000", "1", "0.3000", "0.750", "0"],
        ["11", "0", "", "", "0", "0.0000", "", "0"],
        ["11", "1", "7.000", "8.000", "1", "1.0000", "0.000", "0"],
        ["11", "2", "9.000", "10.000", "1", "0.1250", "2.250", "0"],
    ]


@pytest.mark.parametrize("suffix", [".json", ".npz", ".JSON", ".NPZ"])
def test_tracks_serve_as_points(tmp_path, tracks, suffix):
    save_tracks(tracks, tmp_path / f"out{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"out{suffix}"]
    points = read_points_file(tmp_path / f"out{suffix}")
    assert list(points) == tracks.object_ids and np.concatenate([*points.values()]).tolist() == tracks.queries.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("anything else")])
@pytest.mark.parametrize("existing", [None, "an earlier result"])
def test_nothing_is_half_written(tmp_path, tracks, monkeypatch, suffix, error, existing):
    path = tmp_path / f"out{suffix}"
    if existing:
        path.write_text(existing)

    def fail(file, *_, **__):
        if suffix == ".npz":
            file.write(b"half")
        raise error

    owner, name = {".csv": (csv, "writer"), ".json": (json, "dumps"), ".npz": (np, "savez_compressed")}[suffix]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(type(error)) as caught:
        save_tracks(tracks, path)
    if isinstance(error, OSError):
        assert str(path) in str(caught.value) and "No space left" in str(caught.value)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([existing] if existing else [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_where_no_file_can_be_written(tmp_path, tracks, suffix):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_tracks(tracks, tmp_path / "no" / f"out{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(IsADirectoryError):
        save_tracks(tracks, tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("name", ["out.txt", "out", "out.npy", "out.csv.gz"])
def test_wrong_suffix_writes_nothing(tmp_path, tracks, name):
    with pytest.raises(ValueError, match=r"the name must end in \.csv, \.json or \.npz"):
        save_tracks(tracks, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.csv", "OUT.NPZ", Path("a/b.json")])
def test_check_format_takes_the_three(name):
    assert tracks_module.check_format(name) == Path(name)


def test_flags_of_another_writer_are_truths_and_sizes_whole_numbers(tmp_path):
    flags, numbers = np.array([[1, 0, 1]]), np.zeros((1, 3), np.float32)
    arrays = {
        "queries": np.array([[0, 1, 2]]),
        "tracks": np.zeros((1, 3, 2), ">f4"),
        "visible": flags,
        "outside": 1 - flags,
    }
    arrays |= {"confidence": flags, "uncertainty": numbers, "size": np.array([40.0, 56.0])}
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_tracks(tmp_path / "a.npz")
    assert (~found.visible).tolist() == [[False, True, False]] and found.size == (40, 56)
    assert found.outside.dtype == bool and found.queries.dtype.kind == found.confidence.dtype.kind == "f"
    for wrong, message in (
        ({"visible": 2 * flags}, "visible must be 0 or 1"),
        ({"outside": np.full((1, 3), np.nan)}, "outside must be 0 or 1"),
        ({"size": np.array([40, np.nan])}, "size must be a whole number, got nan"),
    ):
        np.savez(tmp_path / "b.npz", **(arrays | wrong))
        with pytest.raises(ValueError, match=rf"b\.npz: {message}"):
            read_tracks(tmp_path / "b.npz")


def test_a_grid_is_spread_evenly_over_the_first_frame():
    np.testing.assert_array_equal(grid_points(2, 100, 200), [[0, 50, 25], [0, 150, 25], [0, 50, 75], [0, 150, 75]])
    np.testing.assert_array_equal(grid_points((1, 3), 10, 30), [[0, 5, 5], [0, 15, 5], [0, 25, 5]])
    np.testing.assert_array_equal(grid_points([3, 1], 30, 10), [[0, 5, 5], [0, 5, 15], [0, 5, 25]])
    points = grid_points(np.int64(7), 480, 853)
    assert points.shape == (49, 3) and points.dtype == np.float64
    assert points[:, 1:].min() > 0 and (points[:, 1:] < (853, 480)).all()
    np.testing.assert_allclose(points[:, 1:].mean(axis=0), (426.5, 240))


@pytest.mark.parametrize(
    "grid", [0, -1, True, 2.0, "22", None, np.nan, (), (2,), (2, 0), (2, True), (2, 2.0), (1, 2, 3), np.array([2, 3])]
)
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(
        ValueError, match=r"^grid must be an integer of 1 or more, or a pair \(rows, columns\) of such, got"
    ):
        grid_points(grid, 10, 10)
