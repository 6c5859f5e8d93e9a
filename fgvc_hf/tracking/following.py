"""Points followed through a whole video: from one label each, from several, or from what they look like."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .blending import blended, report
from .labels import LabelPass, Labels
from .prompts import PointLooks
from .results import FgvcVideoOutput, PointTracks, TrackTable
from .session import FgvcInferenceSession


@dataclass(frozen=True)
class Following:
    """
    One video, and how points are followed through it.

    Args:
        model ([`FgvcModel`]), processor ([`FgvcProcessor`]): Of a [`Tracker`].
        video (frame source): As [`open_video`] gives.
        passes (`tuple[bool, ...]`): Whether each pass over the video is in reverse.
        threshold (`float`, *optional*): Confidence from which a point counts as visible; that of the configuration if not given.
        progress (`bool`): Show progress bars.
    """

    model: Any
    processor: Any
    video: Any
    passes: tuple[bool, ...]
    threshold: float | None
    progress: bool

    def points(self, labels: Labels) -> PointTracks:
        """Tracks from one label of each point."""
        session = self.processor.init_video_session(self.video)
        for obj_id, (t, x, y) in zip(labels.object_ids, labels.positions, strict=True):
            self.processor.add_inputs_to_inference_session(session, int(t), obj_id, [(x, y)])
        outputs = (output for reverse in self.passes for output in self._outputs(session, reverse))
        tracks = self.processor.post_process_point_tracking(outputs, session, self.threshold)
        last = labels.positions[:, 0].max()
        if last >= tracks.tracks.shape[1]:  # an iterator ends when it ends; other sources were checked before
            raise ValueError(f"points start on frame_idx {last:.0f}, but the video ended before that frame.")
        tracks.labels = labels.table
        return tracks

    def labels(self, labels: Labels, look: Callable[[np.ndarray, np.ndarray], PointLooks]) -> PointTracks:
        """Tracks from several labels of some points, whose templates are used together.

        Args:
            labels ([`Labels`]): All of them.
            look (callable): Looks of points (n, 2) on a frame.
        """
        tracks = self.blend(self.label_passes(labels, look), labels)
        report(tracks.disagreements)
        return tracks

    def label_passes(self, labels: Labels, look: Callable[[np.ndarray, np.ndarray], PointLooks]) -> list[LabelPass]:
        """What each pass finds; arguments as of [`~Following.labels`]."""
        self._check(labels)
        templates = self.model.config.point_matching == "templates"
        looks = self._looks(labels, look) if templates else None
        return [self._label_pass(labels, looks, reverse) for reverse in self.passes]

    def blend(self, passes: list[LabelPass], labels: Labels) -> PointTracks:
        """The tracks of one pass, or of both."""
        tracks = passes[0].tracks if len(passes) == 1 else blended(*passes, labels, self._threshold)
        tracks.labels = labels.table
        return tracks

    def queries(self, looks: dict[int, PointLooks]) -> PointTracks:
        """Tracks of points that are looked for from the first frame on; backward, from the last one."""
        table, (reverse, *back) = TrackTable(), self.passes
        session = self.processor.init_video_session(self.video)
        num_frames = session.video.num_frames
        session.add_queries(num_frames - 1 if reverse and num_frames else 0, looks)
        first: dict[int, tuple[int, np.ndarray]] = {}  # where each was found
        for output in self._outputs(session, reverse):
            table.add(output)
            for obj_id, point in zip(output.ids, output.points, strict=True):
                if obj_id not in first and not np.isnan(point[0]):
                    first[obj_id] = output.frame_idx, point
        queries = {obj_id: (prompt.frame_idx, *prompt.point) for obj_id, prompt in session.points.items()}
        if back and first:  # from where each was found to the start
            session = self.processor.init_video_session(self.video)
            for obj_id, (t, point) in first.items():
                session.add_point(obj_id, t, point, looks[obj_id])
            for output in self._outputs(session, True):
                before = np.array([first[obj_id][0] > output.frame_idx for obj_id in output.ids], dtype=bool)
                table.add(some_points(output, before, output.ids))
        return table.tracks(queries, num_frames, session.sizes[0], self._threshold)

    @property
    def _threshold(self) -> float:
        return self.model.config.visibility_threshold if self.threshold is None else self.threshold

    def _outputs(self, session: FgvcInferenceSession, reverse: bool) -> Iterator[FgvcVideoOutput]:
        return self.model.propagate_in_video_iterator(session, reverse=reverse, show_progress_bar=self.progress)

    def _check(self, labels: Labels) -> None:
        """A `ValueError` if labels do not fit the video."""
        if self.video.num_frames is None:
            raise ValueError(
                "video is an iterator, which is read once; several labels of a point need a file, a folder, an array or a list."
            )
        session = self.processor.init_video_session(self.video)
        for obj_id, (t, x, y) in zip(labels.ids, labels.positions, strict=True):
            self.processor.add_inputs_to_inference_session(session, int(t), obj_id, [(x, y)])

    def _looks(self, labels: Labels, look: Callable[[np.ndarray, np.ndarray], PointLooks]) -> list[PointLooks]:
        """What the point of each label looks like there."""
        looks: dict[int, PointLooks] = {}
        for t in np.unique(labels.positions[:, 0]).astype(int).tolist():
            (frame,) = self.video.frames(t, t + 1)
            here = np.flatnonzero(labels.positions[:, 0] == t)
            found = look(frame, labels.positions[here, 1:])
            for row, label in enumerate(here.tolist()):
                looks[label] = PointLooks(found.templates[row : row + 1], found.images[row : row + 1])
        return [looks[label] for label in range(len(labels.rows))]

    def _label_pass(self, labels: Labels, looks: list[PointLooks] | None, reverse: bool) -> LabelPass:
        """One pass, with every label as a target of its own, whose id is its number, until the next label of its point takes over."""
        session = self.processor.init_video_session(self.video)
        for label, (t, x, y) in enumerate(labels.positions):
            beside = labels.beside(label) if looks else []
            known = joined_looks([looks[other] for other in beside]) if looks and beside else None
            session.add_point(label, int(t), (x, y), known)
        table, ends = TrackTable(), labels.ends(reverse)
        arrivals = np.full((len(labels.rows), 2), np.nan)
        for output in self._outputs(session, reverse):
            numbers = np.array(output.ids, dtype=int)
            arrived = ends[numbers] == output.frame_idx
            arrivals[numbers[arrived]] = output.points[arrived]
            for label in numbers[arrived].tolist():
                session.remove(label)
            table.add(some_points(output, ~arrived, [labels.ids[label] for label in output.ids]))
        tracks = table.tracks(labels.first, self.video.num_frames, session.sizes[0], self._threshold)
        return LabelPass(tracks, arrivals)


def some_points(output: FgvcVideoOutput, kept: np.ndarray, ids: list[int]) -> FgvcVideoOutput:
    """Some of the points of an output, by a mask over its rows, with these ids (one for each row of the output)."""
    names = "queries", "points", "visible", "confidence", "uncertainty", "at_border", "outside"
    rows = {name: getattr(output, name)[kept] for name in names}
    return FgvcVideoOutput(output.frame_idx, [obj_id for obj_id, keep in zip(ids, kept, strict=True) if keep], **rows)


def joined_looks(looks: Iterable[PointLooks]) -> PointLooks:
    """All of some looks of one point."""
    several = list(looks)
    return PointLooks(*(torch.cat([getattr(look, name) for look in several]) for name in ("templates", "images")))


__all__ = ["Following"]
