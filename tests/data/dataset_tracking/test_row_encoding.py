"""Encoding of rows: what comes back, within the bounds that the module states."""

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgvc_hf import PointTracks, load_tracks
from fgvc_hf.data.dataset_tracking.row_encoding import BINARY, encode_tracks, track_features
from fgvc_hf.data.dataset_tracking.row_forms import encoded_bytes


def random_tracks(number, length, height, width, seed):
    draw = np.random.default_rng(seed)
    positions = draw.random((number, length, 2), np.float32) * np.float32([width, height])
    positions[draw.random((number, length)) < 0.05] = (width, height)  # the outer corner
    starts = draw.integers(0, length, number)
    lost = np.arange(length) < starts[:, None]  # before the query
    positions[lost] = np.nan
    uncertainty = np.where(lost, np.nan, 10 ** draw.uniform(-7, 3, (number, length))).astype(np.float32)
    confidence = draw.random((number, length), np.float32)
    visible = (confidence > 0.5) & ~lost
    queries = np.column_stack([starts, positions[np.arange(number), starts]]).astype(np.float32)
    outside = draw.random((number, length)) < 0.2
    return PointTracks(
        list(range(number)), queries, positions, visible, confidence, uncertainty, outside, (height, width)
    )


def loaded(tracks):
    return load_tracks({"id": "0", "source": "clip", "error": None} | encode_tracks(tracks))


@given(
    number=st.integers(1, 9),
    length=st.integers(1, 30),
    size=st.sampled_from([(1, 1), (48, 64), (480, 854), (2160, 3840), (8192, 8192)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_tracks_come_back_within_the_bounds(number, length, size, seed):
    tracks = random_tracks(number, length, *size, seed)
    found, lost = loaded(tracks), np.isnan(tracks.tracks)
    bound = np.array(size[::-1]) / 131068
    rounding = 2**-23 * max(size)  # of float32
    assert (np.abs(found.tracks.astype(float) - tracks.tracks.astype(float)) <= bound + rounding)[~lost].all()
    np.testing.assert_array_equal(np.isnan(found.tracks), lost)
    assert np.abs(found.confidence - tracks.confidence).max() <= 1 / 510 + 1e-7
    known = ~np.isnan(tracks.uncertainty)
    error = np.abs(found.uncertainty - tracks.uncertainty)[known]
    assert (error <= np.maximum(tracks.uncertainty[known] / 2048, 3e-8)).all()
    for name in ("visible", "outside", "queries"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tracks, name))
    rows, starts = np.arange(number), tracks.queries[:, 0].astype(int)
    np.testing.assert_array_equal(found.tracks[rows, starts], tracks.queries[:, 1:])
    assert found.size == tracks.size and found.object_ids == tracks.object_ids


def test_a_point_and_frame_take_seven_and_a_quarter_bytes():
    row = encode_tracks(random_tracks(64, 40, 480, 854, 0))
    assert encoded_bytes(row) == 7.25 * 64 * 40
    assert encoded_bytes(encode_tracks(random_tracks(1, 1, 48, 48, 0))) <= 10


def test_the_error_at_4k_is_the_stated_one():
    assert round(3840 / 131068, 3) == 0.029 and round(640 / 131068, 3) == 0.005


def test_a_position_outside_the_frame_is_refused():
    tracks = random_tracks(2, 3, 48, 64, 0)
    tracks.tracks[0, 2] = 65, 20
    with pytest.raises(ValueError, match="inside the frame, 48x64"):
        encode_tracks(tracks)


@pytest.mark.parametrize("reader", ["pyarrow", "pandas", "datasets"])
def test_rows_are_read_as_others_give_them(reader):
    import datasets

    row = encode_tracks(random_tracks(3, 5, 48, 64, 1)) | {"id": "0", "source": "clip"}
    table = pyarrow.Table.from_pylist([row], track_features().arrow_schema)
    given = {
        "pyarrow": lambda: table.to_pylist()[0],
        "pandas": lambda: table.to_pandas().iloc[0],
        "datasets": lambda: datasets.Dataset(table)[0],
    }[reader]()
    np.testing.assert_array_equal(load_tracks(given).tracks, load_tracks(row | {"error": None}).tracks)


def test_rows_without_tracks_and_damaged_rows_are_refused():
    row = {"id": "7", "source": "a.mp4", "error": "video: is damaged.", "tracks": None}
    with pytest.raises(ValueError, match=r"row 7 \(a.mp4\) holds no tracks: video: is damaged\.$"):
        load_tracks(row)
    whole = encode_tracks(random_tracks(3, 5, 48, 64, 1)) | {"id": "7", "source": "a.mp4", "error": None}
    for name in ("tracks", "visible", "confidence", "uncertainty"):
        with pytest.raises(ValueError, match="row 7 is damaged"):
            load_tracks(whole | {name: whole[name][:-2]})


WRONG = (None, float("nan"), "x", -1, b"", [[0, 1]], [[1e9, 1, 1]], [[-1, 1, 1]], [[0, float("nan"), 1]])


@pytest.mark.parametrize("column", ["num_frames", "width", "height", "queries", *BINARY])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_whatever_a_damaged_row_holds_is_refused_by_a_sentence(column, value):
    whole = encode_tracks(random_tracks(3, 5, 48, 64, 1)) | {"id": "7", "source": "a.mp4", "error": None}
    with pytest.raises(ValueError, match="^row 7 (is damaged|.a.mp4. holds no tracks)"):
        load_tracks(whole | {column: value})
    del whole[column]
    with pytest.raises(ValueError, match=f"must have a column {column}, it has "):
        load_tracks(whole)


@pytest.mark.parametrize("row", [None, 3, "row", [], {}], ids=repr)
def test_what_is_no_row_is_refused_by_a_sentence(row):
    with pytest.raises(ValueError, match="a row of tracks must"):
        load_tracks(row)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_formats_that_cut_zeros_off_are_named(name):
    import datasets

    tracks = random_tracks(3, 5, 48, 64, 1)
    tracks.outside[:] = False
    row = encode_tracks(tracks) | {"id": "0", "source": "clip"}
    data = datasets.Dataset(pyarrow.Table.from_pylist([row], track_features().arrow_schema))
    with pytest.raises(ValueError, match="in the format numpy or torch of datasets"):
        load_tracks(data.with_format(name)[0])


@pytest.mark.parametrize(
    "column, value",
    [
        *(
            (side, value)
            for side in ("num_frames", "width", "height")
            for value in (5.9, 10**400, True, "5", 2**31, 0)
        ),
        ("queries", [[0, 1, 1, 0, 2, 2]] * 3),
        ("queries", [["0", "1", "1"]] * 3),
        ("queries", [[0, 1j, 1]] * 3),
        ("queries", [[0.5, 1, 1]] * 3),
        ("tracks", np.full((3, 5, 2), (7, 65535), "<u2").tobytes()),
        ("tracks", np.full((3, 5, 2), (65535, 7), "<u2").tobytes()),
        ("uncertainty", np.full((3, 5), -1, "<f2").tobytes()),
        ("uncertainty", np.full((3, 5), np.inf, "<f2").tobytes()),
    ],
)
def test_rows_that_are_never_written_are_refused(column, value):
    row = encode_tracks(random_tracks(3, 5, 48, 64, 1)) | {"id": "7", "source": "a.mp4"}
    load_tracks(
        row | {side: float(row[side]) for side in ("num_frames", "width", "height")}
    )  # of pandas, beside nulls
    with pytest.raises(ValueError, match="^row 7 is damaged"):
        load_tracks(row | {column: value})
