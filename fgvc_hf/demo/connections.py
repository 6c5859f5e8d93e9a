"""Which handler answers which part of the page, and what it is given and returns."""

import inspect
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from . import frame_labels, page
from . import handlers as on
from .endpoints import Endpoints
from .jobs import LOOKING, OPENING, WORKING, Cancelled, Lane
from .middleware import ARRIVED
from .server_state import RESULT_BYTES, ServerState


# Arguments come as they are sent: the handlers check them, and say what is wrong
OUTER: dict[str, Any] = {"api_visibility": "public", "concurrency_limit": None, "preprocess": False}
INNER: dict[str, Any] = {**OUTER, "api_visibility": "private"}
LOOK: dict[str, Any] = {**INNER, "show_progress": "hidden"}
# A click counts even if the one before is not answered yet; the calls of a session come one after another
CLICK: dict[str, Any] = {**LOOK, "trigger_mode": "multiple"}


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
    looks: page.LooksTab,
) -> None:
    """A clip comes in, and everything on the page changes: in the order of what [`Intake`] returns."""
    shown = [clip.description, points.frame, *points.labels, masks.frame, masks.painter]
    for pair in (matching, flow):
        shown += [pair.frame_a, pair.frame_b, pair.picture_a, pair.picture_b]
    others: list[Any] = [masks.video, masks.timeline, *masks.files, matching.sentence, flow.picture, *flow.files]
    others += [looks.picture, looks.legend, *looks.results]
    opened: dict[str, Any] = {
        "outputs": [*shown, *points.results, *others],
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
    drawn = tab.labels
    tab.picture.select(events.look(on.add_point), [tab.frame, tab.name], [*drawn, tab.name], **CLICK)
    tab.grid.click(events.look(on.add_grid), [tab.frame, tab.side], drawn, **LOOK)
    tab.undo.click(events.look(on.undo_point), tab.frame, drawn, **CLICK)
    tab.clear.click(events.look(on.clear_points), tab.frame, drawn, **LOOK)
    tab.start.click(
        events.work(on.track),
        [clip.preset, clip.direction],
        tab.results,
        show_progress_on=tab.video,
        **INNER,
    )
    tab.target.input(events.look(frame_labels.choose_target), tab.target, tab.picture, **LOOK)
    edited = [tab.picture, tab.legend, tab.target]
    tab.table.input(
        events.look(frame_labels.edit_labels), [tab.frame, tab.table], edited, trigger_mode="always_last", **LOOK
    )
    tab.between.click(
        events.work(frame_labels.track_between), clip.preset, tab.results, show_progress_on=tab.video, **INNER
    )
    for number, button in enumerate(tab.suggestions):
        button.click(events.look(frame_labels.jump_to(number)), None, [tab.frame, tab.picture, tab.target], **LOOK)
    connect_tools(events, tab.other_tools, frame_labels.export_tracks)


def connect_tools(events: Events, part: page.OtherTools, handler: Callable) -> None:
    """The file of a format is made as soon as it is chosen; of several that are chosen quickly, at least that of the last one."""
    part.format.input(events.open(handler), part.format, part.file, trigger_mode="always_last", **LOOK)


def connect_looks(events: Events, pictures: frame_labels.Pictures, clip: page.ClipPart, tab: page.LooksTab) -> None:
    """Points of a picture are placed, and looked for in the clip."""
    drawn = [tab.picture, tab.legend]
    tab.upload.upload(events.open(pictures.take_picture), tab.upload, [*drawn, *tab.results], **LOOK)
    tab.picture.select(events.look(frame_labels.add_look), None, drawn, **CLICK)
    tab.clear.click(events.look(frame_labels.clear_looks), None, drawn, **LOOK)
    tab.start.click(
        events.work(frame_labels.find),
        [clip.preset, clip.direction],
        tab.results,
        show_progress_on=tab.video,
        **INNER,
    )
    connect_tools(events, tab.other_tools, frame_labels.export_found)


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
