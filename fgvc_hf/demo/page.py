"""What is on the page: one function for each part of it, which lays out its components and returns them by name."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from .. import __version__
from ..io.drawing import point_colours
from . import views
from .examples import EXAMPLES
from .handlers import EXPORTS, FLOW_FILES, MASK_FILES, NEW_POINT, POINT_FILES, SUGGESTIONS
from .limits import DIRECTIONS, MAX_GRID, MAX_NAME, MAX_OBJECTS, PRESETS, STATEMENT


FOLDER = Path(__file__).parent
PAINTER = """
<div class="painter">
  <div class="tools" hidden>
    {objects}
    <button data-tool="brush" title="Paint">Brush</button><button data-tool="box" title="Drag a box">Box</button>
    <button data-tool="eraser" title="Erase">Eraser</button>
    <input type="range" min="1" max="20" aria-label="Width of the brush">
    <button data-action="undo">Undo</button><button data-action="clear">Clear</button>
  </div>
  <div class="empty hint">Upload or record a clip, or take an example.</div>
</div>
"""


@dataclass(frozen=True)
class ClipPart:
    """Where a clip comes from, and how it is worked on."""

    upload: gr.Video
    examples: gr.Gallery
    preset: gr.Radio
    direction: gr.Radio
    description: gr.Markdown


@dataclass(frozen=True)
class OtherTools:
    """Files of tracks for other tools."""

    format: gr.Radio
    file: gr.DownloadButton


@dataclass(frozen=True)
class PointsTab:
    frame: gr.Slider
    picture: gr.Image
    legend: gr.HTML
    undo: gr.Button
    clear: gr.Button
    grid: gr.Button
    name: gr.Textbox
    side: gr.Slider
    start: gr.Button
    stop: gr.Button
    video: gr.Video
    timeline: gr.HTML
    files: list[gr.DownloadButton]
    code: gr.Code
    target: gr.Dropdown
    table: gr.Dataframe
    between: gr.Button
    suggestions: list[gr.Button]
    other_tools: OtherTools

    @property
    def labels(self) -> list[gr.Component]:
        """What shows the labels."""
        return [self.picture, self.legend, self.table, self.target]

    @property
    def results(self) -> list[gr.Component]:
        """What shows the tracks."""
        shown = [self.video, self.timeline, self.code, *self.files]
        return [*shown, *self.suggestions, self.other_tools.format, self.other_tools.file]


@dataclass(frozen=True)
class MasksTab:
    frame: gr.Slider
    painter: gr.HTML
    start: gr.Button
    stop: gr.Button
    video: gr.Video
    timeline: gr.HTML
    files: list[gr.DownloadButton]


@dataclass(frozen=True)
class MatchingTab:
    frame_a: gr.Slider
    picture_a: gr.Image
    frame_b: gr.Slider
    picture_b: gr.Image
    sentence: gr.Markdown


@dataclass(frozen=True)
class FlowTab:
    frame_a: gr.Slider
    picture_a: gr.Image
    frame_b: gr.Slider
    picture_b: gr.Image
    start: gr.Button
    picture: gr.Image
    files: list[gr.DownloadButton]


@dataclass(frozen=True)
class LooksTab:
    upload: gr.UploadButton
    picture: gr.Image
    legend: gr.HTML
    clear: gr.Button
    start: gr.Button
    stop: gr.Button
    sentence: gr.Markdown
    video: gr.Video
    timeline: gr.HTML
    files: list[gr.DownloadButton]
    other_tools: OtherTools

    @property
    def results(self) -> list[gr.Component]:
        """What shows what was found."""
        shown = [self.sentence, self.video, self.timeline, *self.files]
        return [*shown, self.other_tools.format, self.other_tools.file]


@dataclass(frozen=True)
class EndpointComponents:
    """What clients in place of a browser send and get; nothing of it is seen on the page."""

    video: gr.File
    mask: gr.File
    points: gr.JSON
    frame: gr.Number
    to_frame: gr.Number
    preset: gr.Radio
    direction: gr.Radio
    triggers: list[gr.Button]
    numbers: gr.JSON
    files: list[gr.File]


def source(name: str) -> str:
    """A text file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def clip_part() -> ClipPart:
    gr.Markdown(
        f"# Follow pixels through video\nClick on a few things and watch them followed, hidden and found again. {STATEMENT}"
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            upload = gr.Video(label="Your clip", sources=["upload", "webcam"], height=240, elem_id="upload")
        with gr.Column(scale=3, min_width=300):
            gr.Markdown("Or take an example, with its tracks:", elem_classes="hint")
            examples = gr.Gallery(
                [(str(example.thumbnail), example.title) for example in EXAMPLES],
                show_label=False,
                columns=len(EXAMPLES),
                height=190,
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                interactive=False,
                elem_id="examples",
            )
    with gr.Row():
        preset = gr.Radio(PRESETS, value="balanced", label="Preset", info="Faster, or more precise", min_width=280)
        direction = gr.Radio(
            DIRECTIONS, value="forward", label="Direction", info="From the frame you click on", min_width=280
        )
    description = gr.Markdown("No clip yet.", elem_id="description")
    return ClipPart(upload, examples, preset, direction, description)


def points_tab() -> PointsTab:
    with gr.Tab("Points", elem_id="points"), gr.Row():
        with gr.Column(min_width=300):
            frame = frame_slider("Frame", "points-frame")
            picture = picture_of("Click to add points", "points-picture", "clickable")
            legend = gr.HTML(views.legend([]), elem_id="legend")
            with gr.Row():
                undo = gr.Button("Undo", size="sm", min_width=60)
                clear = gr.Button("Clear", size="sm", min_width=60)
                grid = gr.Button("Add a grid", size="sm", min_width=90)
            with gr.Row():
                name = gr.Textbox(label="Name of the next point", max_length=MAX_NAME, max_lines=1, min_width=140)
                side = gr.Slider(1, MAX_GRID, value=3, step=1, label="Points on a side of the grid", min_width=140)
            start, stop = start_and_stop("Track", "track")
            target, table, between, suggestions = labels_part()
        with gr.Column(min_width=300):
            video = result_video("The points, followed", "tracked")
            gr.Markdown("Hollow: hidden. A ring around a dot: the error to expect.", elem_classes="hint")
            timeline = timeline_of("tracked")
            files = downloads(POINT_FILES)
            other_tools = tools_part("other-tools")
            with gr.Accordion("The same in your own code", open=False):
                code = gr.Code(language="python", show_label=False, interactive=False)
    made = (frame, picture, legend, undo, clear, grid, name, side, start, stop, video, timeline, files, code)
    return PointsTab(*made, target, table, between, suggestions, other_tools)


def labels_part() -> tuple[gr.Dropdown, gr.Dataframe, gr.Button, list[gr.Button]]:
    """Labels of points on several frames."""
    with gr.Accordion("Correct, and label several frames", open=False, elem_id="labels"):
        gr.Markdown(
            "Choose a point, go to a frame where it went wrong, and click where it is. Then track between the labels.",
            elem_classes="hint",
        )
        target = gr.Dropdown([(NEW_POINT, -1)], value=-1, label="A click labels", elem_id="target")
        table = gr.Dataframe(
            headers=["id", "frame", "x", "y"],
            datatype="number",
            type="array",
            value=[],
            column_count=4,
            column_limits=(4, 4),
            interactive=True,
            max_height=220,
            label="Labels: edit, add or remove rows",
            buttons=[],
            elem_id="label-table",
        )
        between = gr.Button("Track between labels", elem_id="between")
        gr.Markdown("Frames where another label would help most, once there are tracks:", elem_classes="hint")
        with gr.Row(elem_id="suggestions"):
            suggestions = [gr.Button(size="sm", min_width=120, visible=False) for _ in range(SUGGESTIONS)]
    return target, table, between, suggestions


def masks_tab() -> MasksTab:
    with gr.Tab("Masks", elem_id="masks"), gr.Row():
        with gr.Column(min_width=300):
            frame = frame_slider("Frame", "masks-frame")
            colours = ["rgb({},{},{})".format(*colour) for colour in point_colours(range(1, MAX_OBJECTS + 1))]
            objects = "".join(
                f'<button class="object" data-object="{i}" title="Object {i}" style="background:{colour}">{i}</button>'
                for i, colour in enumerate(colours, 1)
            )
            painter = gr.HTML(
                "",
                html_template=PAINTER.format(objects=objects),
                js_on_load=source("painter.js"),
                picture="",
                elem_id="painter",
            )
            start, stop = start_and_stop("Follow", "follow")
        with gr.Column(min_width=300):
            video = result_video("The objects, followed", "masked")
            timeline = timeline_of("masked")
            files = downloads(MASK_FILES)
    return MasksTab(frame, painter, start, stop, video, timeline, files)


def looks_tab() -> LooksTab:
    with gr.Tab("From a picture", elem_id="looks"), gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown(
                "Upload a picture of something that is in the clip as well, click on it, and have it found and followed.",
                elem_classes="hint",
            )
            upload = gr.UploadButton("Upload a picture", file_types=["image"], size="sm", elem_id="look-upload")
            picture = picture_of("Click on the picture", "looks-picture", "clickable")
            legend = gr.HTML("", elem_id="looks-legend")
            clear = gr.Button("Clear", size="sm", min_width=60)
            start, stop = start_and_stop("Find in the clip", "find")
        with gr.Column(min_width=300):
            sentence = gr.Markdown(elem_id="found-where")
            video = result_video("The points, found and followed", "found")
            timeline = timeline_of("found")
            files = downloads(POINT_FILES)
            other_tools = tools_part("other-tools-found")
    return LooksTab(upload, picture, legend, clear, start, stop, sentence, video, timeline, files, other_tools)


def matching_tab() -> MatchingTab:
    with gr.Tab("Matching", elem_id="matching"):
        gr.Markdown("Click any pixel of frame A to see its probability at each place of frame B.", elem_classes="hint")
        with gr.Row():
            with gr.Column(min_width=300):
                frame_a = frame_slider("Frame A", "match-a")
                picture_a = picture_of("Frame A: click on it", "match-from", "clickable")
            with gr.Column(min_width=300):
                frame_b = frame_slider("Frame B", "match-b")
                picture_b = picture_of("Frame B: probability", "match-to")
        sentence = gr.Markdown(elem_id="matched")
    return MatchingTab(frame_a, picture_a, frame_b, picture_b, sentence)


def flow_tab() -> FlowTab:
    with gr.Tab("Dense flow", elem_id="flow"):
        with gr.Row():
            with gr.Column(min_width=300):
                frame_a = frame_slider("From frame", "flow-a")
                picture_a = picture_of("From", "flow-from")
            with gr.Column(min_width=300):
                frame_b = frame_slider("To frame", "flow-b")
                picture_b = picture_of("To", "flow-to")
        start = gr.Button("Compute", variant="primary", elem_id="compute")
        picture = picture_of("Motion of every pixel", "flow-picture")
        gr.Markdown(
            "The hue is the direction, the saturation the length; hatched pixels are occluded in the other frame.",
            elem_classes="hint",
        )
        files = downloads(FLOW_FILES)
    return FlowTab(frame_a, picture_a, frame_b, picture_b, start, picture, files)


def how_tab() -> None:
    with gr.Tab("How it works", elem_id="how"):
        gr.Markdown(source("how_it_works.md"))
        gr.Markdown(f"fgvc_hf {__version__}", elem_classes="hint")


def list_of_points() -> gr.JSON:
    """JSON whose schema tells what points are; a class of its own would make Gradio write into this folder."""
    points = gr.JSON(label="points")
    point = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    points.api_info = lambda: {"type": "array", "items": point, "description": "points [[t, x, y], ...]"}
    points.example_payload = points.example_value = lambda: [[0, 60.5, 40.5]]
    return points


def components() -> EndpointComponents:
    with gr.Column(visible=False):
        return EndpointComponents(
            video=gr.File(label="video"),
            mask=gr.File(label="mask"),
            points=list_of_points(),
            frame=gr.Number(0, precision=0, label="frame"),
            to_frame=gr.Number(1, precision=0, label="to_frame"),
            preset=gr.Radio(PRESETS, value="balanced", label="preset"),
            direction=gr.Radio(DIRECTIONS, value="forward", label="direction"),
            triggers=[gr.Button() for _ in range(3)],
            numbers=gr.JSON(label="result"),
            files=[gr.File(label="file"), gr.File(label="file")],
        )


def frame_slider(label: str, elem_id: str) -> gr.Slider:
    return gr.Slider(0, 1, value=0, step=1, label=label, buttons=[], elem_id=elem_id)


def picture_of(label: str, elem_id: str, *classes: str) -> gr.Image:
    """A picture as wide as its column, and never full screen, where Gradio miscounts clicks."""
    return gr.Image(
        label=label, interactive=False, format="jpeg", buttons=[], elem_id=elem_id, elem_classes=list(classes)
    )


def start_and_stop(label: str, elem_id: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        start = gr.Button(label, variant="primary", scale=3, min_width=120, elem_id=elem_id)
        return start, gr.Button("Cancel", variant="stop", scale=1, min_width=80, elem_id=f"{elem_id}-cancel")


def result_video(label: str, elem_id: str) -> gr.Video:
    return gr.Video(label=label, interactive=False, autoplay=True, loop=True, buttons=[], elem_id=elem_id)


def timeline_of(video: str) -> gr.HTML:
    return gr.HTML("", js_on_load=source("timeline.js"), video=video, elem_id=f"{video}-timeline")


def tools_part(elem_id: str) -> OtherTools:
    """Tracks in the formats of other tools; radio buttons, which answer to Tab and Space as to the mouse."""
    with gr.Accordion("Files for other tools", open=False, elem_id=elem_id):
        format = gr.Radio(list(EXPORTS), value=None, label="Format")
        return OtherTools(format, *downloads(("File",)))


def downloads(labels: tuple[str, ...]) -> list[gr.DownloadButton]:
    with gr.Row(elem_classes="downloads"):
        return [gr.DownloadButton(f"↓ {label}", size="sm", min_width=50, interactive=False) for label in labels]
