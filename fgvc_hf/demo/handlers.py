"""The handlers of the page's events. Each checks its arguments first, because anyone can call it without the page.

A wrong argument is a `gr.Error` of one sentence. An unexpected error is logged, and shown without its details.
"""

import functools
import html
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import gradio as gr

from ..io.formats.table import TABLE, names_that
from ..tracking.blending import disagreement_sentence
from ..tracking.results import PointTracks
from ..tracking.suggestions import suggest_frames
from . import limits, views
from .clips import Clip, ClipStore
from .examples import DIRECTION, EXAMPLES, PRESET, Example
from .jobs import Cancelled
from .limits import DIRECTIONS, MAX_GRID, MAX_POINTS, PRESETS, Point
from .server_state import ServerState, Workspace
from .work import Followed, deliver, flow_between, follow_masks, match_of, rasterize, track_points


POINT_FILES, MASK_FILES, FLOW_FILES = ("CSV", "JSON", "NPZ", "Video"), ("Masks", "Video"), (".flo", "NPZ", "Picture")
NO_FILE = gr.update(value=None, interactive=False)
# What the page shows before there are results: of `track`, and of `follow`, `match`, `flow` and `find`
SUGGESTIONS = 5
NO_BUTTON = gr.update(visible=False)
EXPORTS = {
    f"{TABLE[name].tool} (*{suffix})": (name, suffix)
    for name in names_that("write")
    for suffix in TABLE[name].suffixes
}
NO_EXPORT = (gr.update(value=None), NO_FILE | gr.update(label="↓ File"))
NO_POINTS = (None, "", "", *[NO_FILE] * len(POINT_FILES), *[NO_BUTTON] * SUGGESTIONS, *NO_EXPORT)
NO_LOOKS = (None, "", "", None, "", *[NO_FILE] * len(POINT_FILES), *NO_EXPORT)
NO_OTHERS = (None, "", *[NO_FILE] * len(MASK_FILES), "", None, *[NO_FILE] * len(FLOW_FILES), *NO_LOOKS)
NEW_POINT = "a new point"
PREPARING = threading.Lock()  # one example at a time
GPU_SECONDS = 120  # that a call may hold a ZeroGPU


def plain(handler: Callable) -> Callable:
    """The handler, with its errors as sentences for the page."""

    @functools.wraps(handler)
    def checked(*arguments, **keywords):
        try:
            return handler(*arguments, **keywords)
        except Exception as error:
            return answer_to(error, handler, arguments)

    return checked


def answer_to(error: Exception, handler: Callable, arguments: tuple):
    """What the page gets in the place of a result: nothing new after a cancellation, otherwise a `gr.Error` of one sentence."""
    if isinstance(error, gr.Error):
        raise error
    if isinstance(error, Cancelled):
        gr.Info(str(error), duration=3)
        return gr.skip()
    # An error of the system names paths of the server; those of the package are sentences
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno is None):
        raise gr.Error(sentence(error, arguments), print_exception=False) from None
    logging.getLogger(__name__).error("%s failed", handler, exc_info=error)
    raise gr.Error("Something went wrong on the server, and was logged there.", print_exception=False) from None


def sentence(error: Exception, arguments: tuple) -> str:
    """The message of an error, with the name of the clip in the place of its path on the server."""
    text = " ".join(str(error).split())
    for argument in arguments:
        clip = argument.clip if isinstance(argument, Workspace) else argument
        if isinstance(clip, Clip):
            text = text.replace(str(clip.video.path), clip.name)
    return text


def on_gpu(handler: Callable) -> Callable:
    """The handler, run on a GPU of Hugging Face's ZeroGPU where the Space has imported `spaces`."""
    spaces = sys.modules.get("spaces")
    return handler if spaces is None else spaces.GPU(duration=GPU_SECONDS)(handler)


# ---- clips --------------------------------------------------------------------------------------------------------


class Intake:
    """The handlers that open a clip.

    Args:
        server_state ([`ServerState`]): Keeps the clips of all sessions.
    """

    def __init__(self, server_state: ServerState):
        self.server_state = server_state

    @plain
    def upload(self, workspace: Workspace, file: dict | None):
        """Take over what was uploaded or recorded; where it is refused, the clip before stays."""
        if file is None:
            raise ValueError("There is no clip yet: upload or record one, or take an example.")
        clip = self.server_state.clip_store.take(self.server_state.uploaded("The clip", file))
        self.server_state.place(workspace, clip, [])
        return *showing(workspace), *NO_POINTS, *NO_OTHERS

    @plain
    def example(self, workspace: Workspace, event: gr.SelectData):
        """Take an example with its tracks, which ship with the package."""
        example = EXAMPLES[limits.whole_number("The example", event.index, 0, len(EXAMPLES) - 1)]
        clip = self.server_state.clip_store.copy(prepared(self.server_state.clip_store, example), f"{example.key}.mp4")
        self.server_state.place(workspace, clip, list(example.points))
        workspace.tracks = example.tracks()
        followed = deliver(clip, workspace.tracks, lambda share, what: None)
        return *showing(workspace), *points_result(clip, workspace.points, followed, PRESET, DIRECTION), *NO_OTHERS


def prepared(clip_store: ClipStore, example: Example) -> Path:
    """The clip of an example, made when it is first asked for."""
    with PREPARING:
        path = clip_store.folder / f"{example.key}.mp4"
        if not path.exists():
            unfinished = path.with_name(f"unfinished-{path.name}")
            example.write_clip(unfinished)
            os.replace(unfinished, path)
    return path


def showing(workspace: Workspace) -> tuple:
    """Everything on the page that depends on the clip: description, sliders, pictures, legend, painter."""
    clip = workspace.the_clip()
    height, width = clip.size
    rate = f", {clip.video.fps:.3g} frames per second" if clip.video.fps else ""
    description = f"**{markdown_escape(clip.name)}** · {clip.num_frames} frames of {width}×{height} pixels{rate}"
    end = clip.num_frames - 1
    times = 0, min(1, end), end
    frames = [clip.frame(t) for t in times]
    start, after, stop = (gr.Slider(maximum=max(end, 1), value=t) for t in times)
    points = (start, *drawn(workspace, 0))
    painter = (start, gr.HTML(value="", picture=views.data_uri(frames[0])))
    first, second, last = map(views.enlarged, frames)
    to_match, for_flow = (start, stop, first, last), (start, after, first, second)
    return description, *points, *painter, *to_match, *for_flow


def markdown_escape(text: str) -> str:
    """Text as it is, in Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-!|~" else c for c in text)


# ---- points -------------------------------------------------------------------------------------------------------


def drawn(workspace: Workspace, t: int) -> tuple:
    """Picture, legend, table of labels, and the choice of what a click labels."""
    frame, points = workspace.the_clip().frame(t), workspace.points
    table = [[point.obj_id, point.t, round(point.x, 2), round(point.y, 2)] for point in points]
    return views.picture_of(frame, points, t, workspace.tracks), views.legend(points), table, targets(workspace)


def targets(workspace: Workspace) -> dict:
    """What a click may label: a new point, or one that there is."""
    named = {obj_id: labels[0].name for obj_id, labels in limits.by_point(workspace.points).items()}
    if workspace.target not in named:
        workspace.target = None
    choices = [(NEW_POINT, -1), *((f"{name} (id {obj_id})", obj_id) for obj_id, name in named.items())]
    return gr.update(choices=choices, value=-1 if workspace.target is None else workspace.target)


@plain
def show_frame(workspace: Workspace, t):
    return drawn(workspace, workspace.frame_number(t))[0]


@plain
def add_point(workspace: Workspace, t, name, event: gr.SelectData):
    """A label where the picture was clicked: of a new point, or of the one that is chosen, in the place of its label on this frame."""
    t = workspace.frame_number(t)
    x, y = workspace.clicked(event.index)
    known = limits.by_point(workspace.points)
    name, target = limits.short_name(name, f"point {len(known) + 1}"), workspace.target
    if target in known:
        label = Point(t, x, y, known[target][0].name, target)
        kept = [point for point in workspace.points if (point.obj_id, point.t) != (target, t)]
        workspace.points = limits.accepted([*kept, label])
    else:
        add(workspace, [Point(t, x, y, name, workspace.next_id())])
    return *drawn(workspace, t), ""


@plain
def add_grid(workspace: Workspace, t, side):
    """side × side points spread evenly over the frame."""
    t, side = workspace.frame_number(t), limits.whole_number("The side of the grid", side, 1, MAX_GRID)
    height, width = workspace.the_clip().size
    places = [
        ((column + 0.5) / side * width, (row + 0.5) / side * height) for row in range(side) for column in range(side)
    ]
    first, known = workspace.next_id(), len(limits.by_point(workspace.points))
    add(workspace, [Point(t, x, y, f"point {known + i + 1}", first + i) for i, (x, y) in enumerate(places)])
    return drawn(workspace, t)


def add(workspace: Workspace, points: list[Point]) -> None:
    known = len(limits.by_point(workspace.points))
    if known + len(points) > MAX_POINTS:
        raise ValueError(f"At most {MAX_POINTS} points are followed at a time; there are {known} already.")
    workspace.points = limits.accepted([*workspace.points, *points])


@plain
def undo_point(workspace: Workspace, t):
    t = workspace.frame_number(t)
    workspace.points = workspace.points[:-1]
    return drawn(workspace, t)


@plain
def clear_points(workspace: Workspace, t):
    t = workspace.frame_number(t)
    workspace.points, workspace.tracks = [], None
    return drawn(workspace, t)


@on_gpu
@plain
def track(workspace: Workspace, preset, direction, progress=gr.Progress()):
    preset, direction = settings(preset, direction)
    clip, points = workspace.the_clip(), workspace.points  # as they are now; more may be placed meanwhile
    clip.frame(0)
    if not points:
        raise ValueError("There are no points yet: click on the picture, or add a grid.")
    followed = track_points(clip, points, preset, direction, lambda share, what: progress(share, desc=what))
    if workspace.clip is clip:
        workspace.tracks = followed.tracks
    return points_result(clip, points, followed, preset, direction)


def points_result(clip: Clip, points: list[Point], followed: Followed, preset: str, direction: str) -> tuple:
    """Video, timeline, the code that does the same, files, suggestions, and files for other tools."""
    names = {obj_id: labels[0].name for obj_id, labels in limits.by_point(points).items()}
    titles = [names[obj_id] for obj_id in followed.ids]
    timeline = views.timeline(titles, followed.ids, followed.confidence, followed.visible)
    shown = str(followed.video), timeline, points_code(clip, points, preset, direction), *downloads(followed.files)
    return *shown, *suggestion_buttons(followed.tracks, names), *NO_EXPORT


def suggestion_buttons(tracks: PointTracks | None, names: Mapping[int, str]) -> list[dict]:
    """A button for each frame on which labels would help; and a warning of labels that may be of two points."""
    if tracks is not None and tracks.disagreements:
        shown = {obj_id: html.escape(name) for obj_id, name in names.items()}  # which the page takes for HTML
        gr.Warning(f"Look again: {disagreement_sentence(tracks.disagreements, shown)}.")
    found = suggest_frames(tracks, SUGGESTIONS) if tracks is not None else []
    buttons = [
        gr.update(visible=True, value=f"Frame {one.frame_idx}: {', '.join(names[i] for i in one.object_ids[:3])}")
        for one in found
    ]
    return [*buttons, *[NO_BUTTON] * (SUGGESTIONS - len(buttons))]


def points_code(clip: Clip, points: list[Point], preset: str, direction: str) -> str:
    places = {
        obj_id: [f"({label.t}, {round(label.x, 2):g}, {round(label.y, 2):g})" for label in labels]
        for obj_id, labels in limits.by_point(points).items()
    }
    if len(points) == len(places) and list(places) == list(range(len(places))):
        given = f"[{', '.join(place for (place,) in places.values())}]"
    else:
        several = [f"{obj_id}: [{', '.join(of_point)}]" for obj_id, of_point in places.items()]
        given = f"{{{', '.join(several)}}}"
    return (
        f"from fgvc_hf import Tracker\n\ntracker = Tracker.from_pretrained(preset={preset!r})\n"
        f"tracks = tracker.track({clip.name!r}, points={given}, direction={direction!r})"
    )


# ---- masks --------------------------------------------------------------------------------------------------------


@plain
def show_painter(workspace: Workspace, t):
    t = workspace.frame_number(t)
    return gr.HTML(value="", picture=views.data_uri(workspace.the_clip().frame(t)))


@on_gpu
@plain
def follow(workspace: Workspace, t, painted, preset, direction, progress=gr.Progress()):
    preset, direction = settings(preset, direction)
    t = workspace.frame_number(t)
    clip = workspace.the_clip()
    clip.frame(t)
    ids = rasterize(limits.shapes(painted, *clip.size), *clip.size)
    followed = follow_masks(clip, ids, t, preset, direction, lambda share, what: progress(share, desc=what))
    titles = [f"object {obj_id}" for obj_id in followed.ids]
    timeline = views.timeline(titles, followed.ids, followed.confidence, followed.visible, "area, of the largest")
    return str(followed.video), timeline, *downloads(followed.files)


# ---- two frames ---------------------------------------------------------------------------------------------------


@on_gpu
@plain
def flow(workspace: Workspace, t_0, t_1, preset):
    t_0, t_1 = workspace.frame_number(t_0), workspace.frame_number(t_1)
    found, files = flow_between(workspace.the_clip(), t_0, t_1, limits.choice("The preset", preset, PRESETS))
    return views.coloured(found.flow, found.occluded), *downloads(files)


@on_gpu
@plain
def match(workspace: Workspace, t_0, t_1, preset, event: gr.SelectData):
    """Where the clicked pixel of frame A is in frame B."""
    t_0, t_1 = workspace.frame_number(t_0), workspace.frame_number(t_1)
    clip = workspace.the_clip()
    point = workspace.clicked(event.index)
    heat, best = match_of(clip, t_0, t_1, point, limits.choice("The preset", preset, PRESETS))
    here, there = (f"({x:.1f}, {y:.1f})" for x, y in (point, best))
    said = f"{here} of frame {t_0} is most probably at {there} of frame {t_1}."
    return views.crosshair(clip.frame(t_0), point), views.crosshair(heat, best), said


@plain
def show_plain(workspace: Workspace, t):
    return views.enlarged(workspace.the_clip().frame(workspace.frame_number(t)))


# ---- all ----------------------------------------------------------------------------------------------------------


def settings(preset, direction) -> tuple[str, str]:
    return limits.choice("The preset", preset, PRESETS), limits.choice("The direction", direction, DIRECTIONS)


def downloads(files: list[Path]) -> list[dict]:
    return [gr.update(value=str(file), interactive=True) for file in files]
