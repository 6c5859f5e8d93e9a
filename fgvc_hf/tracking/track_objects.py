"""Tracks as objects of other libraries: tables of pandas, key points and detections of supervision."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def load_pandas() -> Any:
    """pandas; an `ImportError` that names the extra if it is not installed."""
    try:
        import pandas
    except ImportError:
        raise ImportError('a table of tracks needs pandas: pip install "fgvc-hf[formats]"') from None
    return pandas


def load_supervision() -> Any:
    """supervision; an `ImportError` that names the extra if it is not installed."""
    try:
        import supervision
    except ImportError:
        raise ImportError('objects of supervision need it: pip install "fgvc-hf[formats]"') from None
    return supervision


def track_frame(tracks: Any, names: Mapping[int, object] | None = None) -> Any:
    """A `pandas.DataFrame` of [`PointTracks`]: see [`~PointTracks.to_frame`]."""
    pandas = load_pandas()
    number, length = tracks.visible.shape
    columns: dict[str, Any] = {"point": np.repeat(np.array(tracks.object_ids, dtype=np.int64), length)}
    if names is not None:
        columns["name"] = [str(names[obj_id]) for obj_id in tracks.object_ids for _ in range(length)]
    columns["t"] = np.tile(np.arange(length), number)
    columns |= {axis: tracks.tracks[..., i].ravel() for i, axis in enumerate("xy")}
    columns |= {name: getattr(tracks, name).ravel() for name in ("visible", "confidence", "uncertainty", "outside")}
    return pandas.DataFrame(columns)


def track_key_points(tracks: Any) -> list[Any]:
    """`supervision.KeyPoints` of [`PointTracks`]: see [`~PointTracks.to_supervision`]."""
    supervision = load_supervision()
    return [
        supervision.KeyPoints(
            xy=np.nan_to_num(tracks.tracks[None, :, t]).astype(np.float32),  # (1, N, 2)
            keypoint_confidence=tracks.confidence[None, :, t].astype(np.float32),
            visible=tracks.visible[None, :, t],
            class_id=np.zeros(1, dtype=int),
        )
        for t in range(tracks.visible.shape[1])
    ]


def box_detections(boxes: Any) -> list[Any]:
    """`supervision.Detections` of [`BoxTracks`]: see [`~BoxTracks.to_supervision`]."""
    supervision = load_supervision()
    found = []
    for t in range(boxes.visible.shape[1]):
        rows = np.flatnonzero(boxes.visible[:, t])
        found.append(
            supervision.Detections(
                xyxy=boxes.sides[rows, t].reshape(-1, 4).astype(np.float32),
                confidence=boxes.confidence[rows, t],
                tracker_id=np.array(boxes.object_ids, dtype=int)[rows],
            )
        )
    return found
