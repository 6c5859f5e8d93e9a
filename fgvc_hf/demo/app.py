"""The demo's events and its server. `fgvc-hf demo` and the Space start the same one with [`launch`]."""

import contextlib
import inspect
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import gradio.routes
from gradio import processing_utils

from . import handlers as on
from . import page
from .endpoints import Endpoints
from .examples import EXAMPLES
from .jobs import LOOKING, OPENING, WORKING, Cancelled, Lane
from .limits import MAX_MEGABYTES, PRESETS
from .middleware import ARRIVED, LimitsMiddleware
from .server_state import RESULT_BYTES, ServerState
from .stopping import BEFORE_EXIT, Stopping, ends_on_signals
from .work import loaded


KEPT_RESULTS = 300, 1800  # seconds between two clean-ups of what Gradio copied, and that it is kept
MAX_SESSIONS = 300  # of which Gradio remembers what their page shows; workspaces are in the server_state
CALLS = (
    400  # that Gradio has in hand at once; they wait for their turn in our lanes, so it must be more than these hold
)
SWEEP_SECONDS = 60
# Between two looks of Gradio for new calls and for progress. Its own, 0.001 and 0.01, take a tenth of a core of a server that nobody uses
CALL_SECONDS, PROGRESS_SECONDS = 0.02, 0.1
# Arguments come as they are sent: the handlers check them, and say what is wrong
OUTER: dict[str, Any] = {"api_visibility": "public", "concurrency_limit": None, "preprocess": False}
INNER: dict[str, Any] = {**OUTER, "api_visibility": "private"}
LOOK: dict[str, Any] = {**INNER, "show_progress": "hidden"}


class Events:
    """
    Handlers as Gradio calls them: in the place of its workspace, a handler gets the request, which tells whose workspace it is.

    Args:
        server_state ([`ServerState`]): All workspaces and jobs.
    """

    def __init__(self, server_state: ServerState):
        self.server_state = server_state

    def look(self, handler: Callable) -> Callable:
        return self._event(LOOKING, handler)

    def open(self, handler: Callable) -> Callable:
        return self._event(OPENING, handler, RESULT_BYTES)

    def work(self, handler: Callable) -> Callable:
        return self._event(WORKING, handler, RESULT_BYTES)

    async def cancel(self, request: gr.Request) -> None:
        """Stop the work of a session, that which waits as well. Gradio may start a call after a later one, so that the time of this is kept."""
        workspace = self.server_state.workspace(request.session_hash or "")
        workspace.cancelled = arrival(request)
        self.server_state.jobs.stop(self.server_state.jobs.of(workspace.session, WORKING), "Cancelled.")

    def _event(self, lane: Lane, handler: Callable, room: int = 0) -> Callable:
        def with_room(*arguments):
            if room:
                on.plain(self.server_state.make_room)(room)
            return handler(*arguments)

        async def event(request: gr.Request, *arguments):
            workspace = self.server_state.workspace(request.session_hash or "")
            bars = [a for a in arguments if isinstance(a, gr.Progress)]

            def waiting(before: int) -> None:
                for bar in bars:
                    bar(0, desc=f"waiting; {before} before you" if before else "starting")

            try:
                if lane is WORKING and arrival(request) < workspace.cancelled:
                    raise Cancelled("Cancelled.")
                return await self.server_state.jobs.run(
                    lane, workspace.session, with_room, workspace, *arguments, waiting=waiting
                )
            except Exception as error:
                return on.answer_to(error, handler, (workspace,))
            finally:
                self.server_state.workspace(workspace.session)  # it was in use until now

        signature = inspect.signature(handler)
        request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        own = {
            "__name__": getattr(handler, "__name__", ""),
            "__signature__": signature.replace(parameters=[request, *list(signature.parameters.values())[1:]]),
            "__annotations__": {**handler.__annotations__, "request": gr.Request},
        }
        for name, value in own.items():
            setattr(event, name, value)
        return event


def arrival(request: gr.Request) -> float:
    """When a call came to the server, on the monotonic clock."""
    scope = {} if request.request is None else request.request.scope
    return scope.get(ARRIVED, time.monotonic())


def build_app(server_state: ServerState) -> gr.Blocks:
    """The page, and the endpoints."""
    with gr.Blocks(
        title="FGVC: follow pixels through video", analytics_enabled=False, delete_cache=KEPT_RESULTS
    ) as app:
        events = Events(server_state)
        clip = page.clip_part()
        points, masks = page.points_tab(), page.masks_tab()
        matching, flow = page.matching_tab(), page.flow_tab()
        page.how_tab()
        connect_endpoints(Endpoints(server_state), page.components())
        connect_clips(events, on.Intake(server_state), clip, points, masks, matching, flow)
        connect_frames(events, points, masks, matching, flow)
        connect_points(events, clip, points)
        connect_masks(events, clip, masks)
        connect_pairs(events, clip, matching, flow)
        app.unload(
            lambda: None
        )  # pages hold a connection only where something waits for its end; it is the middleware that does
        gr.on([points.stop.click, masks.stop.click], events.cancel, None, None, **LOOK)
    one_sentence(app)
    return app.queue(max_size=10 * CALLS, api_open=False)


def connect_endpoints(endpoints: Endpoints, components: page.EndpointComponents) -> None:
    """What programs call, in the order of the arguments."""
    settings = [components.preset, components.direction]
    track, propagate, flow = components.triggers
    track.click(
        endpoints.track,
        [components.video, components.points, *settings],
        [components.numbers, components.files[0]],
        api_name="track",
        **OUTER,
    )
    propagate.click(
        endpoints.propagate,
        [components.video, components.mask, components.frame, *settings],
        [components.numbers, *components.files],
        api_name="propagate",
        **OUTER,
    )
    flow.click(
        endpoints.flow,
        [components.video, components.frame, components.to_frame, components.preset],
        components.files,
        api_name="flow",
        **OUTER,
    )


def connect_clips(
    events: Events,
    intake: on.Intake,
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
    opened: dict[str, Any] = {
        "outputs": [*shown, *results, *others],
        "show_progress_on": points.picture,
        **INNER,
    }
    arrived = gr.on(
        [clip.upload.upload, clip.upload.stop_recording], events.open(intake.upload), clip.upload, **opened
    )
    arrived.then(lambda: None, None, clip.upload, **LOOK)
    clip.examples.select(events.open(intake.example), None, **opened)


def connect_frames(
    events: Events,
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
        slider.input(events.look(handler), slider, output, trigger_mode="always_last", **LOOK)


def connect_points(events: Events, clip: page.ClipPart, tab: page.PointsTab) -> None:
    """Points are placed, and followed."""
    drawn = [tab.picture, tab.legend]
    tab.picture.select(events.look(on.add_point), [tab.frame, tab.name], [*drawn, tab.name], **LOOK)
    tab.grid.click(events.look(on.add_grid), [tab.frame, tab.side], drawn, **LOOK)
    tab.undo.click(events.look(on.undo_point), tab.frame, drawn, **LOOK)
    tab.clear.click(events.look(on.clear_points), tab.frame, drawn, **LOOK)
    tab.start.click(
        events.work(on.track),
        [clip.preset, clip.direction],
        [tab.video, tab.timeline, tab.code, *tab.files],
        show_progress_on=tab.video,
        **INNER,
    )


def connect_masks(events: Events, clip: page.ClipPart, tab: page.MasksTab) -> None:
    """Painted objects are followed."""
    tab.start.click(
        events.work(on.follow),
        [tab.frame, tab.painter, clip.preset, clip.direction],
        [tab.video, tab.timeline, *tab.files],
        show_progress_on=tab.video,
        **INNER,
    )


def connect_pairs(events: Events, clip: page.ClipPart, matching: page.MatchingTab, flow: page.FlowTab) -> None:
    """Two frames are matched."""
    matching.picture_a.select(
        events.work(on.match),
        [matching.frame_a, matching.frame_b, clip.preset],
        [matching.picture_a, matching.picture_b, matching.sentence],
        show_progress_on=matching.picture_b,
        **INNER,
    )
    flow.start.click(
        events.work(on.flow),
        [flow.frame_a, flow.frame_b, clip.preset],
        [flow.picture, *flow.files],
        show_progress_on=flow.picture,
        **INNER,
    )


def prepare(server_state: ServerState) -> None:
    """Make the clips of all examples, so that the first to ask does not wait; then put away what nobody uses, as long as the server is up."""
    for example in EXAMPLES:
        # The server may have stopped meanwhile; any other reason shows when the example is asked for
        with contextlib.suppress(OSError):
            on.prepared(server_state.clip_store, example)
    while server_state.folder.exists():
        server_state.sweep()
        time.sleep(SWEEP_SECONDS)


def fetch_only_uploads(server_state: ServerState) -> None:
    """Gradio would fetch any address that stands in the place of a file, of any size. Now it takes those of files that were uploaded here."""

    async def fetch(url: str, cache_dir: str) -> str:
        try:
            return str(server_state.uploaded("A file", {"path": url}))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    setattr(processing_utils, "async_ssrf_protected_download", fetch)


def one_sentence(app: gr.Blocks) -> None:
    """Arguments that Gradio cannot make out, before any handler sees them, are refused with a sentence as well."""
    read = app.preprocess_data

    async def told(*arguments, **keywords):
        try:
            return await read(*arguments, **keywords)
        except gr.Error:
            raise
        except Exception as error:  # Gradio's components raise anything on values that are not theirs
            logging.getLogger(__name__).info("arguments were refused: %r", error)
            raise gr.Error(
                "An argument is missing or is not of the accepted kind; a file must be one that was uploaded to this server.",
                print_exception=False,
            ) from None

    app.preprocess_data = told


def speak_json(server: gradio.mcp.GradioMCPServer) -> None:
    """MCP clients get every result by itself, and dictionaries as JSON."""
    told = server.postprocess_output_data

    def each(data, root_url: str):
        flat = [one for part in data for one in (part if isinstance(part, list | tuple) else [part])]
        texts = [json.dumps(one) if isinstance(one, dict) and "path" not in one else one for one in flat]
        return told(texts, root_url)

    server.postprocess_output_data = each


def launch(port: int | None = None, host: str = "127.0.0.1", share: bool = False, block: bool = True):
    """
    Start the demo, with its endpoints for programs and for MCP clients.

    Args:
        port (`int`, *optional*): A free one from 7860 on if not given.
        host (`str`, defaults to `"127.0.0.1"`): `"0.0.0.0"` lets other machines in, as a Space must.
        share (`bool`, defaults to `False`): Ask Gradio for a public address.
        block (`bool`, defaults to `True`): Serve until the process is interrupted or asked to end; all files are removed then, and it exits
            with status 0. Otherwise return at once.

    Returns:
        The Gradio app, and a function that stops it and removes its files.

    Raises:
        `OSError`: the port is taken.
    """
    stopping = Stopping()
    BEFORE_EXIT.add(stopping.run)
    with ends_on_signals() if block else contextlib.nullcontext():
        server_state = open_server_state(stopping)
        if "spaces" in sys.modules:  # ZeroGPU wants models placed before the first call
            for preset in PRESETS:
                loaded(preset)
        try:
            app = build_app(server_state)
            server_state.keep()
            stopping.add(lambda: shut(app))
            serve(app, server_state, port, host, share)
        except BaseException:
            stopping.run()
            raise
        threading.Thread(target=prepare, args=[server_state], daemon=True).start()
        while block and app.is_running:
            time.sleep(1)
    return app, stopping.run


def open_server_state(stopping: Stopping) -> ServerState:
    """The state of a server, in a temporary folder that Gradio uses as well and that is removed in the end."""
    folder = Path(tempfile.gettempdir(), f"fgvc-demo-{secrets.token_hex(6)}")
    stopping.add(lambda: shutil.rmtree(folder, ignore_errors=True))
    folder.mkdir(mode=0o700)
    server_state = ServerState(folder)
    stopping.add(server_state.close)
    os.environ["GRADIO_TEMP_DIR"] = str(server_state.cache)
    gradio.mcp.DEFAULT_TEMP_DIR = gradio.routes.DEFAULT_TEMP_DIR = str(server_state.cache)  # which were read at import
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    fetch_only_uploads(server_state)
    return server_state


def shut(app: gr.Blocks) -> None:
    """Stop the server; connections that are still open are cut."""
    if app.is_running and app.server is not None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut is no error
        app.server.force_exit = True
        app.close(verbose=False)


def serve(app: gr.Blocks, server_state: ServerState, port: int | None, host: str, share: bool) -> None:
    """Start Gradio's server, which goes on in threads of its own."""
    app.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        show_error=False,
        max_file_size=f"{MAX_MEGABYTES}mb",
        state_session_capacity=MAX_SESSIONS,
        max_threads=CALLS,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=True,
        app_kwargs={"middleware": [(LimitsMiddleware, (), {"server_state": server_state})]},
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=page.source("style.css"),
    )
    app._queue.sleep_when_free, app._queue.progress_update_sleep_when_free = CALL_SECONDS, PROGRESS_SECONDS
    if app.mcp_server_obj is not None:
        speak_json(app.mcp_server_obj)
