"""The panel in a window of napari, used as its user does."""

import os
from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("pytestqt", reason="pytest-qt is not installed")

from fgvc_hf.data.synthetic import translating_texture


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FRAMES, HEIGHT, WIDTH, VELOCITY = 8, 96, 160, (1.5, 0.5)
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def frames():
    return np.stack(list(translating_texture(FRAMES, HEIGHT, WIDTH, VELOCITY, seed=1).frames))


@pytest.fixture
def window(display, request, frames):
    """A window with a video and the panel."""
    from fgvc_hf.applications.napari_plugin.track_widget import TrackWidget

    viewer = request.getfixturevalue("make_napari_viewer")()
    widget = TrackWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Track points and masks")
    viewer.add_image(frames, rgb=True, name="clip")
    widget.preset.value = "fast"
    return viewer, widget


def errors() -> list[str]:
    from napari.utils.notifications import notification_manager

    return [str(record.message) for record in notification_manager.records if record.severity.value == "error"]


def keep(viewer, name: str) -> None:
    """`FGVC_SCREENSHOTS=FOLDER` keeps a picture, to be looked at."""
    if folder := os.environ.get("FGVC_SCREENSHOTS"):
        viewer.screenshot(str(Path(folder) / f"napari-{name}.png"), canvas_only=False, flash=False)


def test_a_user_labels_tracks_corrects_and_tracks_again(window, qtbot):
    viewer, widget = window
    widget.track.changed.emit(True)
    assert widget._job is None and errors()[-1].startswith("there is nothing to follow")

    widget.new.changed.emit(True)
    layer = widget.points.value
    viewer.dims.set_current_step(0, 0)
    for row, column in ((30, 40), (20, 100)):
        layer.add([0, row, column])
    assert layer.features["id"].tolist() == [0, 1] and widget.next_id.value == 2
    viewer.dims.set_current_step(0, 7)
    assert widget.next_id.value == 0
    keep(viewer, "1-labels")

    widget.track.changed.emit(True)
    assert widget.cancel.enabled and not widget.track.enabled
    qtbot.waitUntil(lambda: widget._job is None, timeout=PATIENCE)
    result = viewer.layers["tracks"]
    assert len(result.data) == 2 * FRAMES and widget.points.value is layer and widget.track.enabled
    tracks = result.metadata["tracks"].tracks
    moved = np.array([[40.5, 30.5], [100.5, 20.5]])[:, None] + np.arange(FRAMES)[:, None] * VELOCITY
    assert np.abs(tracks - moved).max() < 2
    viewer.dims.set_current_step(0, 4)
    keep(viewer, "2-tracks")

    data = result.data.copy()
    data[4] += [0, 3, 3]  # the first point on frame 4
    result.data = data
    widget.fix.changed.emit(True)
    qtbot.waitUntil(lambda: widget._job is None, timeout=PATIENCE)
    assert sorted(zip(layer.features["id"], layer.data[:, 0], strict=True)) == [(0, 0), (0, 4), (1, 0)]
    corrected = viewer.layers["tracks"].metadata["tracks"].tracks
    np.testing.assert_allclose(corrected[0, 4], tracks[0, 4] + 3, atol=0.01)
    assert len([one for one in viewer.layers if "tracks" in one.metadata]) == 1
    keep(viewer, "3-corrected")

    widget.suggest.changed.emit(True)
    assert widget.said.value.startswith(f"Frame {widget.frame}: point ")
    assert len(errors()) == 1


def test_labels_that_may_be_of_two_points_are_told_after_every_run(window, qtbot):
    from napari.utils.notifications import notification_manager

    viewer, widget = window
    widget.new.changed.emit(True)
    for t, row, column in ((0, 30, 40), (7, 80, 120)):
        viewer.dims.set_current_step(0, t)
        widget.points.value.add([t, row, column])
    for times in (1, 2):
        widget.track.changed.emit(True)
        qtbot.waitUntil(lambda: widget._job is None, timeout=PATIENCE)
        assert viewer.layers["tracks"].metadata["tracks"].disagreements
        told = [str(one.message) for one in notification_manager.records if one.severity.value == "warning"]
        assert len(told) == times and told[-1].endswith("none was reached from the other: id 0 on frames 0 and 7.")


def test_masks_are_tracked_and_work_can_be_cancelled(window, qtbot):
    viewer, widget = window
    ids = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    ids[2, 20:50, 30:70] = 2
    masks = viewer.add_labels(ids, name="mine")
    widget.masks.value = masks
    viewer.dims.set_current_step(0, 2)
    widget.track.changed.emit(True)
    widget.track.changed.emit(True)
    assert errors()[-1].startswith("the tracker is at work")
    qtbot.waitUntil(lambda: widget._job is None, timeout=PATIENCE)
    found = viewer.layers["tracked masks"].data
    assert (found[2] == ids[2]).all() and set(np.unique(found)) == {0, 2} and all(frame.any() for frame in found)
    keep(viewer, "4-masks")

    viewer.layers.remove("tracked masks")
    widget.track.changed.emit(True)
    widget.cancel.changed.emit(True)
    qtbot.waitUntil(lambda: widget._job is None, timeout=PATIENCE)
    assert "tracked masks" not in viewer.layers and widget.track.enabled
