"""The rows of a data set of tracks, and their compact encoding: 7.25 bytes for a point and frame, before Parquet compresses them.

| `queries` | list of 3 float32 | (t, x, y) of the N points, exact |
| `tracks` | binary | positions, `(N, T, 2)` uint16: x in 1/65534 of W and y of H; 65535 where a point was not tracked |
| `visible`, `outside` | binary | `(N, T)` bits, eight to a byte, the first in the highest bit |
| `confidence` | binary | `(N, T)` uint8, in 1/255 |
| `uncertainty` | binary | `(N, T)` float16, in pixels |

Arrays are little-endian, the last axis first. Decoded values differ from those encoded by at most: W/131068 and H/131068 pixels in positions (0.029 pixels
at 3840, 0.005 at 640), plus the rounding of float32; 1/510 in confidence; 1/2048 of its value in uncertainty above 6.1e-5 pixels, and 3e-8 pixels below.
Visibility, queries, and positions on the frame of the query are exact. Where there was no position, there is none.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...tracking.results import PointTracks
from .clip_points import rows_of_numbers
from .row_columns import check_row, row_features, whole


if TYPE_CHECKING:
    import datasets


STEPS = 65534  # positions from one side of the frame to the other
NOWHERE = 65535
LARGEST_UNCERTAINTY = 65504.0  # of float16
BINARY = ("tracks", "visible", "outside", "confidence", "uncertainty")


def track_features() -> "datasets.Features":
    """The schema of the rows, for `datasets`."""
    import datasets

    queries = datasets.List(datasets.List(datasets.Value("float32"), length=3))
    return row_features(queries=queries, **dict.fromkeys(BINARY, datasets.Value("large_binary")))


def encode_tracks(tracks: PointTracks) -> dict[str, Any]:
    """
    The columns of a row that hold tracks.

    Args:
        tracks ([`PointTracks`]): Positions inside the frame, or NaN.

    Raises:
        `ValueError`: a position is outside the frame.
    """
    height, width = tracks.size
    lost = np.isnan(tracks.tracks).any(axis=-1)
    codes = np.rint(tracks.tracks.astype(np.float64) / (width, height) * STEPS)  # (N, T, 2)
    codes[lost] = NOWHERE
    if not ((codes >= 0) & (codes <= np.where(lost, NOWHERE, STEPS)[..., None])).all():
        raise ValueError(f"tracks must be inside the frame, {height}x{width}, or NaN.")
    spread = np.minimum(tracks.uncertainty, LARGEST_UNCERTAINTY)
    return {
        "num_frames": tracks.tracks.shape[1],
        "width": width,
        "height": height,
        "queries": tracks.queries.astype(np.float32).tolist(),
        "tracks": codes.astype("<u2").tobytes(),
        "visible": np.packbits(tracks.visible).tobytes(),
        "outside": np.packbits(tracks.outside).tobytes(),
        "confidence": np.rint(np.clip(tracks.confidence, 0, 1) * 255).astype(np.uint8).tobytes(),
        "uncertainty": spread.astype("<f2").tobytes(),
    }


def load_tracks(row: Mapping[str, Any]) -> PointTracks:
    """
    The tracks of a row, as [`Tracker.track`] gives them, within the bounds of the encoding.

    Args:
        row (mapping): A row of the data set, as `datasets`, Ray, pandas or pyarrow's `to_pylist` give it. The formats `"numpy"` and `"torch"` of
            `datasets` cut zeros off the ends of arrays: take the row without them.

    Returns:
        [`PointTracks`] in pixels of the video; `object_ids` are 0 to N-1.

    Raises:
        `ValueError`: it is no such row, holds an error instead of tracks, or is damaged.
    """
    check_row(row, "tracks", ("num_frames", "width", "height", "queries", *BINARY))
    name = row.get("id")
    try:
        length, height, width = (whole(row[side]) for side in ("num_frames", "height", "width"))
        given = rows_of_numbers(row["queries"])
        if given is None or given.shape[1] != 3:
            raise ValueError
        queries, number = given.astype(np.float32), len(given)
        codes = np.frombuffer(row["tracks"], "<u2").reshape(number, length, 2)
        confidence = np.frombuffer(row["confidence"], np.uint8).reshape(number, length)
        uncertainty = np.frombuffer(row["uncertainty"], "<f2").reshape(number, length)
        visible, outside = (_bits(row[column], number, length) for column in ("visible", "outside"))
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"row {name} is damaged, or in the format numpy or torch of datasets: its arrays are not of its points and frames."
        ) from None
    lost = codes == NOWHERE
    if (lost[..., 0] != lost[..., 1]).any() or (uncertainty < 0).any() or np.isinf(uncertainty).any():
        raise ValueError(f"row {name} is damaged: its arrays hold values that are never written.")
    inside = (queries >= 0) & (queries <= (length - 1, width, height))  # not of NaN
    if not (inside.all() and (queries[:, 0] == np.rint(queries[:, 0])).all()):
        raise ValueError(
            f"row {name} is damaged: its points are not in its {length} frames of {width} x {height} pixels."
        )
    positions = (codes / STEPS * (width, height)).astype(np.float32)  # (N, T, 2)
    positions[lost[..., 0]] = np.nan
    positions[np.arange(number), queries[:, 0].astype(int)] = queries[:, 1:]
    return PointTracks(
        object_ids=list(range(number)),
        queries=queries,
        tracks=positions,
        visible=visible,
        confidence=(confidence / 255).astype(np.float32),
        uncertainty=uncertainty.astype(np.float32),
        outside=outside,
        size=(height, width),
    )


def _bits(packed: bytes, number: int, length: int) -> np.ndarray:
    """(N, T), bool, of packed bits."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    if bits.size != -(-number * length // 8) * 8:
        raise ValueError
    return bits[: number * length].reshape(number, length).astype(bool)


__all__ = ["encode_tracks", "load_tracks", "track_features"]
