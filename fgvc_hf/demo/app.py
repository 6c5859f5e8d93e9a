"""The demo's page and its server. `fgvc-hf demo` and the Space start the same one with [`launch`]."""

import contextlib
import ctypes
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import gradio as gr
import gradio.mcp
import gradio.routes
from gradio import processing_utils

from . import frame_labels, page
from . import handlers as on
from .connections import (
    LOOK,
    Events,
    connect_clips,
    connect_endpoints,
    connect_frames,
    connect_looks,
    connect_masks,
    connect_pairs,
    connect_points,
)
from .endpoints import Endpoints
from .examples import EXAMPLES
from .limits import MAX_MEGABYTES, PRESETS
from .middleware import LimitsMiddleware
from .server_state import ServerState
from .stopping import BEFORE_EXIT, Stopping, ends_on_signals
from .work import loaded


KEPT_RESULTS = 300, 1800  # seconds between two clean-ups of what Gradio copied, and that it is kept
MAX_SESSIONS = 300  # of which Gradio remembers what their page shows; workspaces are in the server_state
CALLS = 400  # that Gradio has in hand at once; they wait for their turn in our lanes, which hold fewer
SWEEP_SECONDS = 60
M_ARENA_MAX, ARENAS = -8, 2  # the option of glibc's `mallopt`, and what the server sets it to
# Between two looks of Gradio for new calls and for progress. Its own, 0.001 and 0.01, take a tenth of a core of a server that nobody uses
CALL_SECONDS, PROGRESS_SECONDS = 0.02, 0.1


def build_app(server_state: ServerState) -> gr.Blocks:
    """The page, and the endpoints."""
    with gr.Blocks(
        title="FGVC: follow pixels through video", analytics_enabled=False, delete_cache=KEPT_RESULTS
    ) as app:
        events = Events(server_state)
        clip = page.clip_part()
        points, masks, looks = page.points_tab(), page.masks_tab(), page.looks_tab()
        matching, flow = page.matching_tab(), page.flow_tab()
        page.how_tab()
        connect_endpoints(Endpoints(server_state), page.components())
        connect_clips(events, on.Intake(server_state), clip, points, masks, matching, flow, looks)
        connect_frames(events, points, masks, matching, flow)
        connect_points(events, clip, points)
        connect_masks(events, clip, masks)
        connect_looks(events, frame_labels.Pictures(server_state), clip, looks)
        connect_pairs(events, clip, matching, flow)
        app.unload(
            lambda: None
        )  # pages hold a connection only where something waits for its end; it is the middleware that does
        gr.on([points.stop.click, masks.stop.click, looks.stop.click], events.cancel, None, None, **LOOK)
    one_sentence(app)
    return app.queue(max_size=10 * CALLS, api_open=False)


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
    if block:
        share_memory_of_threads()
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


def share_memory_of_threads() -> None:
    """
    glibc gives threads memory of their own, up to 8 such arenas a core, and what one thread has freed others don't use. The threads of a
    server take turns at the same work, so that it held the memory of this work once per thread.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):  # other C libraries have no arenas
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


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
