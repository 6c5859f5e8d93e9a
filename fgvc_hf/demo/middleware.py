"""What comes in over HTTP, before Gradio reads it: requests have bounds, in size and in time, and it is known who is still there."""

import asyncio
import contextlib
import re
import time
from urllib.parse import parse_qs

from .jobs import Busy
from .limits import MAX_MEGABYTES
from .server_state import ServerState


UPLOAD_BYTES = (MAX_MEGABYTES + 1) << 20  # of a request, all its files together
BODY_BYTES = 8 << 20  # of any other request
MCP_BYTES = 2 * UPLOAD_BYTES  # a clip may come as text
DRAINED_BYTES = 256 << 20  # of a refused request, so that its sender gets to read why
UPLOAD_SECONDS = 300.0
SILENT_SECONDS = 30.0
LEFT_SECONDS = 3.0  # after which one who listens no more has left; a connection may break, and come again
ARRIVED = "fgvc.arrived"  # key of a request's scope: when it came, on the monotonic clock
CALLER = b"x-fgvc-caller"  # at which address an MCP client is; Gradio calls its own server for it, with its headers
LISTENING = re.compile(r"/gradio_api/(?:heartbeat/(?P<session>[^/]+)|queue/data)$")


CLOSED = ("/process_recording", "/component_server")  # of Gradio; they take files, and the page does not need them


class Refused(Exception):
    """Of a request: status and sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class LimitsMiddleware:
    """
    Middleware in front of Gradio.

    Args:
        app: The ASGI application.
        server_state ([`ServerState`]): Whose room uploads take, and who is told when a page is closed.
    """

    def __init__(self, app, server_state: ServerState):
        self.app, self.server_state = app, server_state

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = scope | {ARRIVED: time.monotonic()}
        if session := listening_for(scope):
            self.server_state.connected(session)
            try:
                await self.app(scope, receive, send)
            finally:
                unheard = self.server_state.disconnected(session)
                if unheard:
                    asyncio.get_running_loop().call_later(LEFT_SECONDS, self.server_state.left, session, unheard)
        elif scope["method"] in ("POST", "PUT", "PATCH"):
            await self._take_in(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _take_in(self, scope, receive, send) -> None:
        """A request with a body, of which no more is taken in than is accepted."""
        path = scope["path"].rstrip("/")
        limit = BODY_BYTES
        if path.endswith("/gradio_api/upload"):
            limit = UPLOAD_BYTES
        elif "/gradio_api/mcp" in path:
            limit = MCP_BYTES
        scope = named_caller(scope) if limit == MCP_BYTES else scope
        body = Body(scope, receive, limit)
        answer = Answer(send, body)
        try:
            if path.endswith(CLOSED):
                raise Refused(404, "There is no such page.")
            body.check()
            if limit == UPLOAD_BYTES:
                room = await asyncio.to_thread(self._enter_upload, body.expected)
                with room:
                    await self.app(scope, body.receive, answer.send)
            else:
                await self.app(scope, body.receive, answer.send)
        except Busy as busy:
            body.refused = Refused(503, str(busy))
        except Refused as refused:
            body.refused = refused
        except Exception:
            if body.refused is None:  # else Gradio only met the end of a body that was refused
                raise
        if body.refused is not None and not answer.begun:
            await body.drain()
            await answer.say(body.refused)

    def _enter_upload(self, size: int) -> contextlib.ExitStack:
        """Room for an upload, until the stack is closed."""
        stack = contextlib.ExitStack()
        stack.enter_context(self.server_state.room_for_upload(size))
        return stack


class Body:
    """What a request sends, up to a limit. Past it, or when it comes too slowly, the application is told that the sender has gone."""

    def __init__(self, scope, receive, limit: int):
        self._receive, self.limit, self.taken, self.ended = receive, limit, 0, False
        declared = dict(scope["headers"]).get(b"content-length", b"")
        self.expected = int(declared) if declared.isdigit() else limit
        self.end = time.monotonic() + UPLOAD_SECONDS
        self.refused: Refused | None = None

    def check(self) -> None:
        if self.expected > self.limit:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"This is larger than the {self.limit >> 20} MB that are accepted at once.")

    async def receive(self) -> dict:
        if self.refused is not None:
            return {"type": "http.disconnect"}
        if self.ended:  # the application only waits for the sender to go
            return await self._receive()
        try:
            seconds = min(SILENT_SECONDS, self.end - time.monotonic())
            message = await asyncio.wait_for(self._receive(), max(seconds, 0.001))
        except TimeoutError:
            self.refused = Refused(408, "This came too slowly; please try again.")
            return {"type": "http.disconnect"}
        self.taken += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        if self.taken > self.limit:
            self.refused = self._too_large()
            return {"type": "http.disconnect"}
        return message

    async def drain(self) -> None:
        """Read on, and throw away, so that the sender comes to read the answer."""
        end = time.monotonic() + SILENT_SECONDS
        while not self.ended and self.taken < DRAINED_BYTES and time.monotonic() < end:
            try:
                message = await asyncio.wait_for(self._receive(), SILENT_SECONDS)
            except TimeoutError:
                return
            self.taken += len(message.get("body", b""))
            self.ended = message["type"] != "http.request" or not message.get("more_body", False)


class Answer:
    """What goes back: what the application says, or, where nothing has gone yet and the request is refused, why."""

    def __init__(self, send, body: Body):
        self._send, self._body, self.begun = send, body, False

    async def send(self, message: dict) -> None:
        if self.begun or self._body.refused is None:
            self.begun = True
            await self._send(message)

    async def say(self, refused: Refused) -> None:
        """One sentence."""
        body = str(refused).encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def listening_for(scope) -> str | None:
    """The session for which a request waits for news, if it does."""
    found = LISTENING.search(scope["path"]) if scope["method"] == "GET" else None
    if found is None:
        return None
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return found["session"] or next(iter(query.get("session_hash", [])), None)


def named_caller(scope) -> dict:
    """The request of an MCP client, with its address."""
    headers = [(name, value) for name, value in scope["headers"] if name != CALLER]
    forwarded = dict(headers).get(b"x-forwarded-for", b"").split(b",")[0].strip()
    address = forwarded or (scope.get("client") or ("", 0))[0].encode()
    return scope | {"headers": [*headers, (CALLER, address or b"unknown")]}
