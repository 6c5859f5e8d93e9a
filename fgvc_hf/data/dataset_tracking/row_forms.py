"""What is followed decides what a row holds: tracks of points, or masks of objects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...io.drawing import draw_masks
from ...io.overlays import Draw, drawn_tracks
from . import mask_encoding, row_encoding
from .clip_points import queries_of
from .mask_encoding import MaskFrames, encode_masks, load_masks, mask_features, mask_of
from .row_columns import ALWAYS, column_table
from .row_encoding import encode_tracks, load_tracks, track_features
from .run_options import prompts_of


if TYPE_CHECKING:
    from ...tracker import Tracker


@dataclass(frozen=True)
class RowForm:
    """
    Args:
        kind (`str`): Of [`Prompts`].
        name (`str`), title (`str`): What a row holds, and many of them.
        features (callable): Gives the columns of the rows, for `datasets`.
        read (callable): Prompts for [`Tracker`] from those of a row, and the height and width of the video.
        follow (callable): The columns that are found, from a tracker, a frame source and prompts.
        load (callable): What was found, from a row.
        drawn (callable): What draws that over frames.
        example (`str`): How `load` is used, for the dataset card.
        module (`module`): That of the encoding, whose documentation describes the columns.
    """

    kind: str
    name: str
    title: str
    features: Callable[[], Any]
    read: Callable[[Any, int, int], Any]
    follow: Callable[["Tracker", Any, Any], dict[str, Any]]
    load: Callable[[Mapping[str, Any]], Any]
    drawn: Callable[[Any], Draw]
    example: str
    module: Any

    @property
    def found(self) -> list[str]:
        """The columns that are null where there is an error."""
        return [name for name in self.features() if name not in ALWAYS]

    @property
    def table(self) -> str:
        """The columns and their bounds, as Markdown."""
        return column_table(self.module.__doc__)


def follow_points(tracker: "Tracker", frames: Any, queries: np.ndarray) -> dict[str, Any]:
    return encode_tracks(tracker.track(frames, queries))


def follow_masks(tracker: "Tracker", frames: Any, mask: Any) -> dict[str, Any]:
    found = (ids for _, ids in tracker.propagate_masks(frames, mask))
    return encode_masks(found, [i for i in np.unique(mask).tolist() if i], (frames.height, frames.width))


def drawn_masks(masks: MaskFrames) -> Draw:
    return lambda t, frame, scale=1.0: draw_masks(frame, masks[t], scale=scale)


FORMS = {
    "points": RowForm(
        "points",
        "tracks",
        "Point tracks",
        track_features,
        queries_of,
        follow_points,
        load_tracks,
        lambda tracks: drawn_tracks({"tracks": tracks}),
        "tracks = load_tracks(rows[0])  # tracks.tracks: (N, T, 2) in pixels; tracks.visible: (N, T)",
        row_encoding,
    ),
    "masks": RowForm(
        "masks",
        "masks",
        "Masks",
        mask_features,
        mask_of,
        follow_masks,
        load_masks,
        drawn_masks,
        "masks = load_masks(rows[0])  # masks[t]: (H, W), object ids of frame t; masks.object_ids",
        mask_encoding,
    ),
}


def form_of(run: Mapping[str, Any]) -> RowForm:
    """The form of the rows of a run."""
    return FORMS[prompts_of(run["points"], run["masks"]).kind]


def encoded_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of the arrays and images of a row."""
    images = row.get("masks") or ()
    return sum(len(value) for value in row.values() if isinstance(value, bytes)) + sum(
        len(one["bytes"]) for one in images
    )


__all__ = ["FORMS", "RowForm", "encoded_bytes", "form_of"]
