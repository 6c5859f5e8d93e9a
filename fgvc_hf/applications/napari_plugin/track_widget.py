"""The panel in napari's window. It reads layers, starts the work in a thread, and shows what comes back; all else is in the modules beside it."""

from pathlib import Path
from typing import Any

import napari.layers
import numpy as np
from magicgui.widgets import ComboBox, Container, Label, LineEdit, ProgressBar, PushButton, SpinBox, create_widget
from napari.utils.notifications import show_error, show_info, show_warning
from napari.viewer import Viewer
from qtpy.QtCore import QTimer

from ...io.checkpoints import default_checkpoint
from ...tracking.blending import disagreement_sentence
from ...tracking.suggestions import Suggestion, suggest_frames
from .background_job import BackgroundJob, Cancelled
from .layer_points import (
    Labels,
    corrected,
    free_id,
    labels_of_layer,
    moved_points,
    point_size,
    track_layer,
    transform_of,
    write_labels,
)
from .layer_tracking import Tracked, TrackRequest, follow, masks_at


POINTS, TRACKS, MASKS = "points", "tracks", "tracked masks"  # names of the layers that are made here
SUGGESTIONS = 5
LOOK_AGAIN = 50  # milliseconds between two looks at the work in the thread
LARGEST_ID = 2**31 - 1


def layer_choice(kind: Any, label: str) -> Any:
    """A choice among the layers of a kind in the window."""
    return create_widget(annotation=kind, label=label)


class TrackWidget(Container):
    """
    Label points on frames of a video, track them, see where they need another label, correct them, and track again.

    Args:
        viewer (`napari.Viewer`): The window that it is docked in.
    """

    def __init__(self, viewer: Viewer):
        self._viewer, self._job, self._suggested = viewer, None, 0
        self._make_choices()
        self._make_buttons()
        choices = [self.image, self.points, self.masks, self.next_id, self.preset, self.direction, self.checkpoint]
        buttons = [self.new, self.track, self.fix, self.suggest, self.cancel, self.progress, self.said]
        super().__init__(widgets=[*choices, *buttons])
        self._timer = QTimer(self.native)
        self._timer.setInterval(LOOK_AGAIN)
        self._timer.timeout.connect(self._look)
        self.native.destroyed.connect(self._leave)
        viewer.dims.events.current_step.connect(self._offer_id)
        viewer.layers.events.removed.connect(self._offer_id)

    def _make_choices(self) -> None:
        self.image = layer_choice(napari.layers.Image, "Video")
        self.points = layer_choice(napari.layers.Points | None, "Points")
        self.masks = layer_choice(napari.layers.Labels | None, "Masks")
        self.next_id = SpinBox(
            label="Next click", min=0, max=LARGEST_ID, tooltip="Id of the point that the next click labels"
        )
        self.preset = ComboBox(label="Preset", choices=["fast", "balanced", "accurate"], value="balanced")
        self.direction = ComboBox(label="Direction", choices=["both", "forward", "backward"], value="both")
        tip = "Name of a checkpoint that comes with the package, a folder, or an id on the Hub"
        self.checkpoint = LineEdit(label="Checkpoint", value=Path(default_checkpoint()).name, tooltip=tip)
        self.points.changed.connect(self._watch)
        self.next_id.changed.connect(self._set_id)

    def _make_buttons(self) -> None:
        self.new = PushButton(text="New points layer", tooltip="A layer to click points in")
        self.track = PushButton(text="Track", tooltip="Follow the points and the masks of the current frame")
        tip = "Points of the tracks that you moved become labels, and everything is tracked again"
        self.fix = PushButton(text="Fix here and re-track", tooltip=tip)
        self.suggest = PushButton(
            text="Suggest frames", tooltip="Go to the frame on which labels would help most, then to the next"
        )
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.progress = ProgressBar(label="", min=0, max=100, visible=False)
        self.said = Label(value="")
        for button, action in (
            (self.new, self._new_points),
            (self.track, self._track),
            (self.fix, self._fix),
            (self.suggest, self._suggest),
        ):
            button.changed.connect(lambda _=None, action=action: self._told(action))
        self.cancel.changed.connect(self._cancel)

    def _told(self, action) -> None:
        """Do it; an error that is one of the user's is a sentence in napari's own notification."""
        try:
            action()
        except (ValueError, OSError, ImportError) as error:
            self.said.value = ""
            show_error(" ".join(str(error).split()))

    # ---- layers ----

    @property
    def frame(self) -> int:
        """Number of the frame that is shown."""
        image = self._video()
        return round(float(image.world_to_data(self._viewer.dims.point[-image.ndim :])[0]))

    def _video(self) -> Any:
        if self.image.value is None:
            raise ValueError("there is no video: open one, or choose an image layer.")
        return self.image.value

    def _result(self) -> Any:
        """The layer of tracks."""
        found = [layer for layer in self._viewer.layers if "tracks" in layer.metadata]
        if not found:
            raise ValueError("there are no tracks yet: press Track first.")
        return found[-1]

    def _put(self, layer: Any) -> None:
        """Put a layer in the place of the one of that name."""
        if layer.name in self._viewer.layers:
            self._viewer.layers.remove(layer.name)
        self._viewer.add_layer(layer)

    def _new_points(self) -> None:
        image = self._video()
        layer = napari.layers.Points(
            np.empty((0, 3)),
            name=POINTS,
            features={"id": np.empty(0, dtype=int)},
            feature_defaults={"id": [0]},
            text={"string": "{id}", "color": "white", "anchor": "upper_left"},
            size=point_size(image.data.shape[1:3]),
            face_color="white",
            **transform_of(image),
        )
        self._viewer.add_layer(layer)
        layer.mode = "add"
        self.points.reset_choices()
        self.points.value = layer
        self._offer_id()

    def _watch(self, layer: Any = None) -> None:
        """Offer another id after every click in the layer that is chosen."""
        if layer is not None:
            layer.events.data.disconnect(self._offer_id)
            layer.events.data.connect(self._offer_id)
        self._offer_id()

    def _offer_id(self, event: Any = None) -> None:
        layer = self.points.value
        if layer is None or self.image.value is None or "id" not in layer.features or "tracks" in layer.metadata:
            return
        labels = labels_of_layer(layer, self.image.value) if len(layer.data) else {}
        self.next_id.value = free_id(labels, self.frame)
        self._set_id(self.next_id.value)

    def _set_id(self, obj_id: int) -> None:
        layer = self.points.value
        if layer is not None and "id" in layer.features and "tracks" not in layer.metadata:
            layer.feature_defaults = {"id": [obj_id]}

    # ---- tracking ----

    def _prompts(self) -> Labels:
        return {} if self.points.value is None else labels_of_layer(self.points.value, self._video())

    def _track(self) -> None:
        """Follow what is chosen: the points, and the masks of this frame."""
        masks = self.masks.value
        masks = None if masks is None or masks.name == MASKS else masks_at(masks, self._video(), self.frame)
        self._start(self._prompts(), masks)

    def _fix(self) -> None:
        """Make labels of the points that were moved, and follow all points again."""
        if self.points.value is None:
            raise ValueError("there is no layer for the corrections: choose the layer of your own points as Points.")
        labels = corrected(self._prompts(), moved_points(self._result()))
        write_labels(self.points.value, self._video(), labels)
        self._start(labels, None)

    def _start(self, labels: Labels, masks: np.ndarray | None) -> None:
        if self._job is not None:
            raise ValueError("the tracker is at work: wait for it, or cancel it.")
        image, how = self._video(), (self.checkpoint.value, self.preset.value, self.direction.value)
        request = TrackRequest(image, labels, masks, self.frame, *how)
        self._job = BackgroundJob(lambda report: follow(request, report))
        self._set_busy(True)
        self._timer.start()

    def _set_busy(self, busy: bool) -> None:
        for button in (self.track, self.fix, self.suggest):
            button.enabled = not busy
        self.cancel.enabled = self.progress.visible = busy
        self.progress.value = 0
        self.said.value = "Tracking ..." if busy else ""

    def _look(self) -> None:
        """Called by the timer while there is work."""
        job = self._job
        if job is None or not job.done:
            self.progress.value = 0 if job is None else round(100 * job.share)
            return
        self._timer.stop()
        self._job = None
        self._set_busy(False)
        self._told(lambda: self._finish(job))

    def _finish(self, job: BackgroundJob) -> None:
        try:
            tracked: Tracked = job.result()
        except Cancelled:
            show_info("Cancelled.")
            return
        chosen, transform = self.points.value, transform_of(self._video())
        if tracked.tracks is not None:
            self._put(napari.layers.Layer.create(*track_layer(tracked.tracks, TRACKS, transform)))
            if tracked.tracks.disagreements:
                show_warning(f"{disagreement_sentence(tracked.tracks.disagreements)}.")
        if tracked.masks is not None:
            self._put(napari.layers.Labels(tracked.masks, name=MASKS, **transform))
        self.points.value, self._suggested = chosen, 0
        self.said.value = "Done."

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def _leave(self) -> None:
        """The panel is closed."""
        self._cancel()

    def _suggest(self) -> None:
        """Go to the next frame on which labels would help."""
        image, found = self._video(), suggest_frames(self._result().metadata["tracks"], SUGGESTIONS)
        if not found:
            raise ValueError("no frame stands out: the tracker is certain of all points.")
        one: Suggestion = found[self._suggested % len(found)]
        self._suggested += 1
        dims = self._viewer.dims
        dims.set_point(dims.ndim - image.ndim, float(image.data_to_world((one.frame_idx, 0, 0))[0]))
        points = ", ".join(map(str, one.object_ids))
        self.said.value = f"Frame {one.frame_idx}: point {points} (expected error {one.score:.1f} px)"


__all__ = ["TrackWidget"]
