"""The page of the demo, and its server. `fgvc-hf demo` and the Space start the same one with [`launch`]."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from .. import __version__
from ..io.drawing import point_colours
from . import handlers as on
from .clips import Shelf
from .examples import EXAMPLES
from .limits import DIRECTIONS, MAX_GRID, MAX_MEGABYTES, MAX_NAME, MAX_OBJECTS, PRESETS, STATEMENT
from .work import loaded


HERE = Path(__file__).parent
HOUR = 3600
KEPT_RESULTS = 300, HOUR // 2  # seconds between two clean-ups of what Gradio copied, and that it is kept
MAX_WAITING = 40  # calls in the queue; more are turned away
MAX_SESSIONS = 200
LOOKING: dict[str, Any] = {
    "concurrency_id": "looking",
    "concurrency_limit": 4,
    "show_progress": "hidden",
    "api_visibility": "private",
}
OPENING: dict[str, Any] = {"concurrency_id": "opening", "concurrency_limit": 2, "api_visibility": "private"}
WORKING: dict[str, Any] = {"concurrency_id": "working", "concurrency_limit": 1, "api_visibility": "private"}
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


def source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def build_app(shelf: Shelf) -> gr.Blocks:
    """The page, with clips kept on the shelf."""
    intake = on.Intake(shelf)
    with gr.Blocks(
        title="FGVC: follow pixels through video", analytics_enabled=False, delete_cache=KEPT_RESULTS
    ) as app:
        desk = gr.State(on.Desk(), time_to_live=HOUR, delete_callback=on.Desk.clear)
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
                    columns=3,
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

        with gr.Tab("Points", elem_id="points"), gr.Row():
            with gr.Column(min_width=300):
                points_t = frame_slider("Frame", "points-frame")
                picture = picture_of("Click to add points", "points-picture", "clickable")
                legend = gr.HTML(on.views.legend([]), elem_id="legend")
                with gr.Row():
                    undo = gr.Button("Undo", size="sm", min_width=60)
                    clear = gr.Button("Clear", size="sm", min_width=60)
                    grid = gr.Button("Add a grid", size="sm", min_width=90)
                with gr.Row():
                    name = gr.Textbox(label="Name of the next point", max_length=MAX_NAME, max_lines=1, min_width=140)
                    side = gr.Slider(1, MAX_GRID, value=3, step=1, label="Points on a side of the grid", min_width=140)
                track, stop_points = start_and_stop("Track", "track")
            with gr.Column(min_width=300):
                tracked = result_video("The points, followed", "tracked")
                points_timeline = timeline_of("tracked")
                points_files = downloads(on.POINT_FILES)
                with gr.Accordion("The same in your own code", open=False):
                    code = gr.Code(language="python", show_label=False, interactive=False)
        with gr.Tab("Masks", elem_id="masks"), gr.Row():
            with gr.Column(min_width=300):
                masks_t = frame_slider("Frame", "masks-frame")
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
                follow, stop_masks = start_and_stop("Follow", "follow")
            with gr.Column(min_width=300):
                masked = result_video("The objects, followed", "masked")
                masks_timeline = timeline_of("masked")
                masks_files = downloads(on.MASK_FILES)
        with gr.Tab("Matching", elem_id="matching"):
            gr.Markdown(
                "Click any pixel of frame A: how probable it is that it is at each place of frame B.",
                elem_classes="hint",
            )
            with gr.Row():
                with gr.Column(min_width=300):
                    match_a = frame_slider("Frame A", "match-a")
                    match_from = picture_of("Frame A: click on it", "match-from", "clickable")
                with gr.Column(min_width=300):
                    match_b = frame_slider("Frame B", "match-b")
                    match_to = picture_of("Frame B: probability", "match-to")
            matched = gr.Markdown(elem_id="matched")
        with gr.Tab("Dense flow", elem_id="flow"):
            with gr.Row():
                with gr.Column(min_width=300):
                    flow_a = frame_slider("From frame", "flow-a")
                    flow_from = picture_of("From", "flow-from")
                with gr.Column(min_width=300):
                    flow_b = frame_slider("To frame", "flow-b")
                    flow_to = picture_of("To", "flow-to")
            compute = gr.Button("Compute", variant="primary", elem_id="compute")
            flow_picture = picture_of("Motion of every pixel", "flow-picture")
            gr.Markdown(
                "The hue is the direction, the saturation the length; dark is what is not seen in the other frame.",
                elem_classes="hint",
            )
            flow_files = downloads(on.FLOW_FILES)
        with gr.Tab("How it works", elem_id="how"):
            gr.Markdown(source("how_it_works.md"))
            gr.Markdown(f"fgvc_hf {__version__}", elem_classes="hint")

        points = [description, points_t, picture, legend]
        pairs = [match_a, match_b, match_from, match_to, flow_a, flow_b, flow_from, flow_to]
        shown = [*points, masks_t, painter, *pairs]
        results = [tracked, points_timeline, code, *points_files]
        others = [masked, masks_timeline, *masks_files, matched, flow_picture, *flow_files]
        # The session is an output, for Gradio counts its time to live from when it was written last
        changed = [*shown, *results, *others, desk]
        opened: dict[str, Any] = {"outputs": changed, "show_progress_on": picture, **OPENING}
        arrived = gr.on([upload.upload, upload.stop_recording], intake.upload, [upload, desk], **opened)
        arrived.then(lambda: None, None, upload, **LOOKING)
        examples.select(intake.example, desk, **opened)
        app.unload(intake.leave)
        for slider, handler, output in (
            (points_t, on.show_frame, picture),
            (masks_t, on.show_painter, painter),
            (match_a, on.show_plain, match_from),
            (match_b, on.show_plain, match_to),
            (flow_a, on.show_plain, flow_from),
            (flow_b, on.show_plain, flow_to),
        ):
            slider.input(handler, [desk, slider], output, trigger_mode="always_last", **LOOKING)
        picture.select(on.add_point, [desk, points_t, name], [picture, legend, name], **LOOKING)
        grid.click(on.add_grid, [desk, points_t, side], [picture, legend], **LOOKING)
        undo.click(on.undo_point, [desk, points_t], [picture, legend], **LOOKING)
        clear.click(on.clear_points, [desk, points_t], [picture, legend], **LOOKING)
        track.click(on.track, [desk, preset, direction], results, show_progress_on=tracked, **WORKING)
        follow.click(
            on.follow,
            [desk, masks_t, painter, preset, direction],
            [masked, masks_timeline, *masks_files],
            show_progress_on=masked,
            **WORKING,
        )
        gr.on([stop_points.click, stop_masks.click], on.cancel, desk, None, **LOOKING)
        match_from.select(
            on.match,
            [desk, match_a, match_b, preset],
            [match_from, match_to, matched],
            show_progress_on=match_to,
            **WORKING,
        )
        compute.click(
            on.flow,
            [desk, flow_a, flow_b, preset],
            [flow_picture, *flow_files],
            show_progress_on=flow_picture,
            **WORKING,
        )
    return app.queue(max_size=MAX_WAITING, api_open=False)


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


def downloads(labels: tuple[str, ...]) -> list[gr.DownloadButton]:
    with gr.Row(elem_classes="downloads"):
        return [gr.DownloadButton(f"↓ {label}", size="sm", min_width=50, interactive=False) for label in labels]


def prepare_examples(shelf: Shelf) -> None:
    """Make the clips of all examples, so that the first to ask does not wait."""
    for example in EXAMPLES:
        with contextlib.suppress(
            OSError
        ):  # the server may have stopped; any other reason shows when the example is asked for
            on.prepared(shelf, example)


def launch(port: int | None = None, host: str = "127.0.0.1", share: bool = False, block: bool = True):
    """
    Start the demo.

    Args:
        port (`int`, *optional*): A free one from 7860 on if not given.
        host (`str`, defaults to `"127.0.0.1"`): `"0.0.0.0"` lets other machines in, as a Space must.
        share (`bool`, defaults to `False`): Ask Gradio for a public address.
        block (`bool`, defaults to `True`): Serve until interrupted, and remove all files then. Otherwise return at once.

    Returns:
        The Gradio app, and a function that stops it and removes its files.

    Raises:
        `OSError`: the port is taken.
    """
    folder = Path(tempfile.mkdtemp(prefix="fgvc-demo-"))
    clips = folder / "clips"
    clips.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if "spaces" in sys.modules:  # ZeroGPU wants models placed before the first call
        for preset in PRESETS:
            loaded(preset)
    shelf = Shelf(clips)
    app = build_app(shelf)

    def stop() -> None:
        app.close()
        shutil.rmtree(folder, ignore_errors=True)

    try:
        app.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size=f"{MAX_MEGABYTES}mb",
            state_session_capacity=MAX_SESSIONS,
            max_threads=16,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=source("style.css"),
        )
    except BaseException:
        stop()
        raise
    threading.Thread(target=prepare_examples, args=[shelf], daemon=True).start()
    if block:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that files are removed then as well
        try:
            app.block_thread()
        finally:
            stop()
    return app, stop
