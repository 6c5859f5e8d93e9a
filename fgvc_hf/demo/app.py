"""The demo's events and its server. `fgvc-hf demo` and the Space start the same one with [`launch`]."""

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

from . import handlers as on
from . import page
from .clips import Shelf
from .examples import EXAMPLES
from .limits import MAX_MEGABYTES, PRESETS
from .work import loaded


HOUR = 3600
KEPT_RESULTS = 300, HOUR // 2  # seconds between two clean-ups of what Gradio copied, and that it is kept
MAX_WAITING = 40  # calls in the queue; more are turned away
MAX_SESSIONS = 200
# Queues of the server: how many calls of a kind run at once
LOOKING: dict[str, Any] = {
    "concurrency_id": "looking",
    "concurrency_limit": 4,
    "show_progress": "hidden",
    "api_visibility": "private",
}
OPENING: dict[str, Any] = {"concurrency_id": "opening", "concurrency_limit": 2, "api_visibility": "private"}
WORKING: dict[str, Any] = {"concurrency_id": "working", "concurrency_limit": 1, "api_visibility": "private"}


def build_app(shelf: Shelf) -> gr.Blocks:
    """The page, with clips kept on the shelf."""
    with gr.Blocks(
        title="FGVC: follow pixels through video", analytics_enabled=False, delete_cache=KEPT_RESULTS
    ) as app:
        desk = gr.State(on.Desk(), time_to_live=HOUR, delete_callback=on.Desk.clear)
        clip = page.clip_part()
        points, masks = page.points_tab(), page.masks_tab()
        matching, flow = page.matching_tab(), page.flow_tab()
        page.how_tab()
        connect_clips(app, on.Intake(shelf), desk, clip, points, masks, matching, flow)
        connect_frames(desk, points, masks, matching, flow)
        connect_points(desk, clip, points)
        connect_masks(desk, clip, masks)
        connect_pairs(desk, clip, matching, flow)
        gr.on([points.stop.click, masks.stop.click], on.cancel, desk, None, **LOOKING)
    return app.queue(max_size=MAX_WAITING, api_open=False)


def connect_clips(
    app: gr.Blocks,
    intake: on.Intake,
    desk: gr.State,
    clip: page.ClipPart,
    points: page.PointsTab,
    masks: page.MasksTab,
    matching: page.MatchingTab,
    flow: page.FlowTab,
) -> None:
    """A clip comes in, and everything on the page changes: in the order of what [`Intake`] returns."""
    shown = [clip.description, points.frame, points.picture, points.legend, masks.frame, masks.painter]
    for pair in (matching, flow):
        shown += [pair.frame_a, pair.frame_b, pair.picture_a, pair.picture_b]
    results = [points.video, points.timeline, points.code, *points.files]
    others = [masks.video, masks.timeline, *masks.files, matching.sentence, flow.picture, *flow.files]
    # The session is an output, because Gradio counts its time to live from when it was last written
    opened: dict[str, Any] = {
        "outputs": [*shown, *results, *others, desk],
        "show_progress_on": points.picture,
        **OPENING,
    }
    arrived = gr.on([clip.upload.upload, clip.upload.stop_recording], intake.upload, [clip.upload, desk], **opened)
    arrived.then(lambda: None, None, clip.upload, **LOOKING)
    clip.examples.select(intake.example, desk, **opened)
    app.unload(intake.leave)


def connect_frames(
    desk: gr.State,
    points: page.PointsTab,
    masks: page.MasksTab,
    matching: page.MatchingTab,
    flow: page.FlowTab,
) -> None:
    """Sliders show the frame that they stand on."""
    for slider, handler, output in (
        (points.frame, on.show_frame, points.picture),
        (masks.frame, on.show_painter, masks.painter),
        (matching.frame_a, on.show_plain, matching.picture_a),
        (matching.frame_b, on.show_plain, matching.picture_b),
        (flow.frame_a, on.show_plain, flow.picture_a),
        (flow.frame_b, on.show_plain, flow.picture_b),
    ):
        slider.input(handler, [desk, slider], output, trigger_mode="always_last", **LOOKING)


def connect_points(desk: gr.State, clip: page.ClipPart, tab: page.PointsTab) -> None:
    """Points are placed, and followed."""
    drawn = [tab.picture, tab.legend]
    tab.picture.select(on.add_point, [desk, tab.frame, tab.name], [*drawn, tab.name], **LOOKING)
    tab.grid.click(on.add_grid, [desk, tab.frame, tab.side], drawn, **LOOKING)
    tab.undo.click(on.undo_point, [desk, tab.frame], drawn, **LOOKING)
    tab.clear.click(on.clear_points, [desk, tab.frame], drawn, **LOOKING)
    tab.start.click(
        on.track,
        [desk, clip.preset, clip.direction],
        [tab.video, tab.timeline, tab.code, *tab.files],
        show_progress_on=tab.video,
        **WORKING,
    )


def connect_masks(desk: gr.State, clip: page.ClipPart, tab: page.MasksTab) -> None:
    """Painted objects are followed."""
    tab.start.click(
        on.follow,
        [desk, tab.frame, tab.painter, clip.preset, clip.direction],
        [tab.video, tab.timeline, *tab.files],
        show_progress_on=tab.video,
        **WORKING,
    )


def connect_pairs(desk: gr.State, clip: page.ClipPart, matching: page.MatchingTab, flow: page.FlowTab) -> None:
    """Two frames are matched."""
    matching.picture_a.select(
        on.match,
        [desk, matching.frame_a, matching.frame_b, clip.preset],
        [matching.picture_a, matching.picture_b, matching.sentence],
        show_progress_on=matching.picture_b,
        **WORKING,
    )
    flow.start.click(
        on.flow,
        [desk, flow.frame_a, flow.frame_b, clip.preset],
        [flow.picture, *flow.files],
        show_progress_on=flow.picture,
        **WORKING,
    )


def prepare_examples(shelf: Shelf) -> None:
    """Make the clips of all examples, so that the first to ask does not wait."""
    for example in EXAMPLES:
        # The server may have stopped meanwhile; any other reason shows when the example is asked for
        with contextlib.suppress(OSError):
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
        serve(app, port, host, share)
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


def serve(app: gr.Blocks, port: int | None, host: str, share: bool) -> None:
    """Start Gradio's server, which goes on in threads of its own."""
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
        css=page.source("style.css"),
    )
