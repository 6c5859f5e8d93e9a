"""The handlers of labels on several frames, of files for other tools, and of points that are looked for by a picture."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from ..io.image_files import read_image
from ..io.overlays import write_picture
from ..tracking.results import PointTracks
from ..tracking.suggestions import suggest_frames
from . import limits, views
from .handlers import (
    EXPORTS,
    NO_EXPORT,
    NO_LOOKS,
    SUGGESTIONS,
    downloads,
    drawn,
    on_gpu,
    plain,
    settings,
    targets,
    track,
)
from .limits import MAX_ID, MAX_POINTS, Point
from .server_state import ServerState, Workspace
from .work import export, find_points


CLICK = "Click to add points"


# ---- labels -------------------------------------------------------------------------------------------------------


@plain
def choose_target(workspace: Workspace, value):
    """What the next clicks label."""
    value = limits.whole_number("The point", value, -1, MAX_ID)
    names = {point.obj_id: point.name for point in workspace.points}
    if value != -1 and value not in names:
        raise ValueError(f"There is no point {value}; there may be a new one.")
    workspace.target = None if value == -1 else value
    return gr.update(label=click_label(workspace))


def click_label(workspace: Workspace) -> str:
    """What the picture says of clicks."""
    names = {point.obj_id: point.name for point in workspace.points}
    return f"Click where {names[workspace.target]} is" if workspace.target in names else CLICK


@plain
def edit_labels(workspace: Workspace, t, table):
    """Take over the table; rows that are being written stay on the page only."""
    t, clip = workspace.frame_number(t), workspace.the_clip()
    names = {point.obj_id: point.name for point in workspace.points}
    workspace.points = limits.labels(table, names, clip.num_frames, *clip.size)
    picture, legend, _, choice = drawn(workspace, t)
    return picture, legend, choice


def track_between(workspace: Workspace, preset, progress=gr.Progress()):
    """Follow all points from all of their labels, forward and backward."""
    return track(workspace, preset, "both", progress)


def jump_to(number: int) -> Callable:
    """The handler of a suggestion: go to its frame, and let clicks label the point that needs it most."""

    @plain
    def jump(workspace: Workspace):
        clip = workspace.the_clip()
        found = [] if workspace.tracks is None else suggest_frames(workspace.tracks, SUGGESTIONS)
        if number >= len(found):
            raise ValueError("There is no such suggestion any more; please track again.")
        t = found[number].frame_idx
        known = {point.obj_id for point in workspace.points}
        workspace.target = next((obj_id for obj_id in found[number].object_ids if obj_id in known), None)
        picture = views.picture_of(clip.frame(t), workspace.points, t, workspace.tracks)
        return t, gr.update(value=picture, label=click_label(workspace)), targets(workspace)

    return jump


@plain
def export_tracks(workspace: Workspace, choice):
    """The file of the format that was chosen, of the points that are labelled."""
    return exported(workspace, choice, workspace.tracks, workspace.points, "click on the picture, and press Track")


@plain
def export_found(workspace: Workspace, choice):
    """The file of the format that was chosen, of the points of a picture."""
    hint = "click on a picture, and press Find in the clip"
    return exported(workspace, choice, workspace.found, workspace.looks, hint)


def exported(workspace: Workspace, choice, tracks: PointTracks | None, points: list[Point], hint: str) -> dict:
    choice = limits.choice("The format", choice, tuple(EXPORTS))
    clip = workspace.the_clip()
    if tracks is None:
        raise ValueError(f"There are no tracks yet: {hint}.")
    file = export(clip, tracks, points, *EXPORTS[choice])
    return downloads([file])[0] | {
        "label": f"↓ {file.name}"
    }  # the button may still be of another format while this one is made


# ---- points of a picture ------------------------------------------------------------------------------------------


class Pictures:
    """
    The handler that takes a picture. It is kept in the folder of the clip, and goes with it.

    Args:
        server_state ([`ServerState`]): Where uploads are.
    """

    def __init__(self, server_state: ServerState):
        self.server_state = server_state

    @plain
    def take_picture(self, workspace: Workspace, file: dict | None):
        """Take over an uploaded picture, on which points are described."""
        clip = workspace.the_clip()
        path = self.server_state.uploaded("The picture", file)
        picture = checked_picture(path)
        write_picture(picture, clip.results("picture") / "picture.png")
        workspace.looks, workspace.found = [], None
        return views.enlarged(picture), "", *NO_LOOKS[2:]


def checked_picture(path: Path) -> np.ndarray:
    """An uploaded picture (H, W, 3).

    Raises:
        `ValueError`: it is none, or of a size that is not accepted.
    """
    try:
        with Image.open(path) as image:
            limits.check_size(image.height, image.width, "The picture")  # before it is decoded
        return read_image(path)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{path.name}: is no picture that can be read.") from None


def the_picture(workspace: Workspace) -> np.ndarray:
    path = workspace.the_clip().video.path.parent / "picture" / "picture.png"
    if not path.is_file():
        raise ValueError("There is no picture yet: upload one that shows what is to be found in the clip.")
    return read_image(path)


@plain
def add_look(workspace: Workspace, event: gr.SelectData):
    """A point where the uploaded picture was clicked."""
    picture = the_picture(workspace)
    height, width = picture.shape[:2]
    x, y = limits.clicked(event.index, height, width, views.zoom_of(width))
    if len(workspace.looks) >= MAX_POINTS:
        raise ValueError(f"At most {MAX_POINTS} points are looked for at a time.")
    number = len(workspace.looks)
    workspace.looks = [*workspace.looks, Point(0, x, y, f"point {number + 1}", number)]
    return views.picture_of(picture, workspace.looks, 0), views.legend(workspace.looks)


@plain
def clear_looks(workspace: Workspace):
    picture = the_picture(workspace)
    workspace.looks = []
    return views.enlarged(picture), ""


@on_gpu
@plain
def find(workspace: Workspace, preset, direction, progress=gr.Progress()):
    """Look for the points of the picture in the clip, and follow them."""
    preset, direction = settings(preset, direction)
    clip, picture, looks = workspace.the_clip(), the_picture(workspace), workspace.looks
    clip.frame(0)
    if not looks:
        raise ValueError("There are no points yet: click on the picture.")
    followed = find_points(clip, picture, looks, preset, direction, lambda share, what: progress(share, desc=what))
    if workspace.clip is clip:
        workspace.found = followed.tracks
    names = [look.name for look in looks]
    timeline = views.timeline(names, followed.ids, followed.confidence, followed.visible)
    said = where_found(names, followed.visible)
    return said, str(followed.video), timeline, *downloads(followed.files), *NO_EXPORT


def where_found(names: list[str], visible: np.ndarray) -> str:
    """A sentence on each point: on which frames it is seen first and last."""
    said = []
    for name, seen in zip(names, visible, strict=True):
        frames = np.flatnonzero(seen)
        where = f"is seen on {len(frames)} frames, {frames[0]} to {frames[-1]}" if len(frames) else "was not found"
        said.append(f"{name} {where}.")
    return " ".join(said)
