"""Points of napari's layers as labels, and tracks as a layer; and the one place where napari's coordinates become ours and back.

A row of a layer is (frame, row, column), and napari draws the first pixel with its centre at (0, 0). Here a point is (t, x, y), and that centre is
at (0.5, 0.5). The column `id` of a layer's features says which point a row is a label of; without it, every row is a point of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...io.drawing import point_colours
from ...tracking.prompts import whole_number
from ...tracking.results import PointTracks


Labels = dict[int, np.ndarray]  # (K, 3) of (t, x, y), by the id of the point
TRANSFORMS = ("scale", "translate", "rotate", "shear", "affine")  # of a layer, from its data to the world
MOVED = 1e-2  # pixels; positions are kept in float32
HIDDEN_OPACITY = 0.45
# Colours (r, g, b) of no confidence, of a half and of full confidence: they differ in lightness as well
CONFIDENCE_COLOURS = ((0.75, 0.1, 0.2), (0.95, 0.75, 0.25), (0.2, 0.85, 0.45))


def to_layer(points: np.ndarray) -> np.ndarray:
    """Rows (..., 3) of a layer, (frame, row, column), of points (t, x, y)."""
    t, x, y = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    return np.stack([t, y - 0.5, x - 0.5], axis=-1)


def from_layer(rows: np.ndarray) -> np.ndarray:
    """Points (..., 3), (t, x, y), of rows of a layer: the inverse of [`to_layer`]."""
    t, row, column = np.moveaxis(np.asarray(rows, dtype=np.float64), -1, 0)
    return np.stack([t, column + 0.5, row + 0.5], axis=-1)


def transform_of(image: Any) -> dict[str, Any]:
    """How an image layer lies in the world, as another layer takes it."""
    return {name: getattr(image, name) for name in TRANSFORMS}


def layer_ids(layer: Any) -> list[int]:
    """The id of the point of each row of a Points layer.

    Raises:
        `ValueError`: one is missing or no whole number.
    """
    if "id" not in layer.features:
        return list(range(len(layer.data)))
    ids = layer.features["id"]
    if ids.isna().any():
        raise ValueError(f"layer {layer.name!r}: row {int(ids.isna().argmax())} has no id.")
    return [whole_number(f"id of layer {layer.name!r}", one) for one in ids]


def labels_of_layer(layer: Any, image: Any) -> Labels:
    """
    The labels of a Points layer, in pixels of an image layer.

    Raises:
        `ValueError`: there is none, the layer holds tracks or has no frames, or an id is none.
    """
    if "tracks" in layer.metadata:
        raise ValueError(f"layer {layer.name!r} holds tracks: choose the layer of your own points as Points.")
    if layer.ndim != 3:
        raise ValueError(
            f"layer {layer.name!r} must have points (frame, row, column), but it has {layer.ndim} dimensions."
        )
    if not len(layer.data):
        raise ValueError(f"layer {layer.name!r} holds no points: click on what is to be followed.")
    rows = np.array([image.world_to_data(layer.data_to_world(row)) for row in layer.data])
    points = from_layer(rows)
    points[:, 0] = points[:, 0].round()
    return grouped(layer_ids(layer), points)


def grouped(ids: list[int], points: np.ndarray) -> Labels:
    """Points (L, 3) by their ids, in the order in which ids come first."""
    return {obj_id: points[np.array(ids) == obj_id] for obj_id in dict.fromkeys(ids)}


def write_labels(layer: Any, image: Any, labels: Labels) -> None:
    """Put labels, in pixels of an image layer, into a Points layer in the place of what it holds."""
    rows = to_layer(np.concatenate(list(labels.values())))
    layer.data = np.array([layer.world_to_data(image.data_to_world(row)) for row in rows])
    layer.features = {"id": [obj_id for obj_id, points in labels.items() for _ in points]}


def corrected(labels: Labels, moved: Labels) -> Labels:
    """Labels, and those that were moved; these take the place of labels of the same point and frame."""
    found = dict(labels)
    for obj_id, points in moved.items():
        before = found.get(obj_id, np.empty((0, 3)))
        kept = before[~np.isin(before[:, 0], points[:, 0])]
        together = np.concatenate([kept, points])
        found[obj_id] = together[np.argsort(together[:, 0], kind="stable")]
    return found


def free_id(labels: Mapping[int, np.ndarray], t: int) -> int:
    """The first id that has no label on frame t: the point that a user who goes through all of them clicks next."""
    return next(i for i in range(len(labels) + 1) if i not in labels or t not in labels[i][:, 0])


def track_layer(
    tracks: PointTracks, name: str, transform: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any], str]:
    """
    Tracks as data of a Points layer: a row for each point and frame on which it was followed.

    The face has the colour of the confidence, the border that of the point. Points that are hidden are hollow and faint. The tracks are kept in
    `metadata["tracks"]`, so that it can be told which points a user has moved.
    """
    n, t = np.nonzero(~np.isnan(tracks.tracks[..., 0]))
    ids = np.array(tracks.object_ids)[n]
    visible, confidence = tracks.visible[n, t], tracks.confidence[n, t]
    border = np.ones((len(n), 4))
    border[:, :3] = np.array(point_colours(ids.tolist()), dtype=np.float64).reshape(-1, 3) / 255
    border[:, 3] = np.where(visible, 1.0, HIDDEN_OPACITY)
    features = {"id": ids, "confidence": confidence, "visible": visible, "uncertainty": tracks.uncertainty[n, t]}
    shown: dict[str, Any] = {
        "name": name,
        "features": features,
        "metadata": {"tracks": tracks},
        "face_color": confidence_colours(confidence, visible),
        "border_color": border,
        "border_width": 0.25,
        "size": point_size(tracks.size),
        **transform,
    }
    return layer_rows(tracks, n, t), shown, "points"


def layer_rows(tracks: PointTracks, n: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Rows of a layer for points n on frames t."""
    return to_layer(np.column_stack([t, tracks.tracks[n, t]]))


def confidence_colours(confidence: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """RGBA (N, 4) in [0, 1] of confidences (N,): red, yellow, green; nothing where the point is hidden."""
    places = np.linspace(0, 1, len(CONFIDENCE_COLOURS))
    channels = [np.interp(confidence, places, values) for values in zip(*CONFIDENCE_COLOURS, strict=True)]
    return np.column_stack([*channels, visible.astype(np.float64)])


def point_size(size: tuple[int, int]) -> float:
    """Diameter of points in pixels: 2 % of the longer side of the frame."""
    return max(3.0, 0.02 * max(size))


def moved_points(layer: Any) -> Labels:
    """
    Points of a layer of tracks that are not where the tracks are: those that a user has moved, or added.

    Raises:
        `ValueError`: there is none.
    """
    tracks: PointTracks = layer.metadata["tracks"]
    row = {obj_id: n for n, obj_id in enumerate(tracks.object_ids)}
    ids, points = layer_ids(layer), from_layer(layer.data)
    points[:, 0] = points[:, 0].round()
    found = []
    for i, (obj_id, (t, x, y)) in enumerate(zip(ids, points, strict=True)):
        known = obj_id in row and 0 <= t < tracks.tracks.shape[1]
        before = tracks.tracks[row[obj_id], int(t)] if known else np.full(2, np.nan)
        if not np.hypot(*(before - (x, y))) <= MOVED:
            found.append(i)
    if not found:
        raise ValueError(
            f"no point of layer {layer.name!r} was moved: drag those that are wrong to where they belong first."
        )
    return grouped([ids[i] for i in found], points[found])


__all__ = [
    "corrected",
    "free_id",
    "from_layer",
    "labels_of_layer",
    "moved_points",
    "to_layer",
    "track_layer",
    "write_labels",
]
