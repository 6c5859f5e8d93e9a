"""Whose turn it is: every call of a handler is a job, and waits in the lane of its kind until it may run.

A session has a share of every lane, so that none can fill it; a call beyond the share is refused at once, with a sentence. Jobs come, get their
turn and leave in the thread of the event loop, so nothing is locked; they may be stopped from any thread.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .limits import MAX_SECONDS_OF_WORK


class Cancelled(Exception):
    """The job is to stop; the message says why."""


class Busy(ValueError):
    """The job is not accepted now; the message says why, and what to do."""


@dataclass(frozen=True)
class Lane:
    """
    A kind of jobs.

    Args:
        at_once (`int`): How many run at the same time.
        share (`int`): How many a session may have in it, running and waiting.
        in_all (`int`): How many there may be of all sessions.
        turn (`str`): Jobs of one session with the same word run one after another.
    """

    name: str
    at_once: int
    share: int
    in_all: int
    turn: str


LOOKING = Lane("looking", 4, 16, 200, "workspace")
OPENING = Lane("opening", 2, 2, 40, "workspace")
WORKING = Lane("working", 1, 2, 41, "work")
SHARE_OF_MCP = 8  # of the working lane: MCP clients at one address cannot be told apart
FULL = "The page is full: {}. Please try again in a minute."


@dataclass(eq=False)
class Job:
    """
    A call of a handler.

    Args:
        owner (`str`): Whose share it counts in.
        session (`str`): With whose page it ends.
        end (`float`): Until when it may run, on the monotonic clock.
        stopped (`str`, *optional*): Why it is to stop.
    """

    lane: Lane
    owner: str
    session: str
    turn: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    end: float = 0.0
    stopped: str | None = None

    @property
    def running(self) -> bool:
        return self.end > 0


_current: contextvars.ContextVar[Job | None] = contextvars.ContextVar("job", default=None)


def checkpoint() -> None:
    """Long work calls this between its steps.

    Raises:
        [`Cancelled`]: the job is to stop.
        `ValueError`: it has taken longer than the demo grants.
    """
    job = _current.get()
    if job is None:
        return
    if job.stopped is not None:
        raise Cancelled(job.stopped)
    if time.monotonic() > job.end:
        raise ValueError("This took longer than the demo grants; please try a shorter clip or a faster preset.")


def begin(function: Callable, *arguments) -> Any:
    """What a thread does for a job."""
    checkpoint()
    return function(*arguments)


def wake(job: Job) -> None:
    """End the waiting of a job that was stopped."""
    if not job.turn.done():
        job.turn.set_exception(Cancelled(job.stopped))


class Jobs:
    """All jobs of the server, in the order in which they came."""

    def __init__(self):
        self._jobs: list[Job] = []
        lanes = (LOOKING, OPENING, WORKING)
        self._threads = ThreadPoolExecutor(sum(lane.at_once for lane in lanes), thread_name_prefix="demo")
        self._closed: str | None = None

    def of(self, session: str, lane: Lane | None = None) -> list[Job]:
        """The jobs of a session that run or wait."""
        return [job for job in list(self._jobs) if job.session == session and lane in (None, job.lane)]

    async def run(
        self,
        lane: Lane,
        session: str,
        function: Callable,
        *arguments,
        owner: str | None = None,
        share: int | None = None,
        waiting: Callable[[int], None] = lambda before: None,
    ) -> Any:
        """
        Run a function in a thread once it is its turn, and return what it returns.

        Args:
            owner (`str`, *optional*): Whose share it counts in; that of the session if not given.
            share (`int`, *optional*): How large it is; that of the lane if not given.
            waiting (callable): Called with the number of jobs before this one, whenever it changes.

        Raises:
            [`Busy`]: the lane is full, or the session has its share already.
            [`Cancelled`]: the job was cancelled, before it ran or while it did.
        """
        job = self._enter(lane, session, owner or session, share or lane.share)
        try:
            await self._wait(job, waiting)
        except BaseException:  # the server drops the call as well
            self._leave(job)
            raise
        context = contextvars.copy_context()
        context.run(_current.set, job)
        running = asyncio.get_running_loop().run_in_executor(self._threads, context.run, begin, function, *arguments)
        running.add_done_callback(lambda _: self._leave(job))  # it keeps its place until the thread is free
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            job.stopped = job.stopped or "Cancelled."
            raise
        except Exception:
            if job.stopped is not None:  # whatever it ran into because its files went away
                raise Cancelled(job.stopped) from None
            raise

    def stop(self, jobs: list[Job], reason: str) -> None:
        """Stop jobs: those that wait leave at once, those that run at their next checkpoint. From any thread."""
        for job in jobs:
            job.stopped = job.stopped or reason
            job.turn.get_loop().call_soon_threadsafe(wake, job)

    def close(self, reason: str) -> None:
        """Stop what runs, and accept nothing more. From any thread."""
        self._closed = reason
        for job in list(self._jobs):
            job.stopped = job.stopped or reason
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _enter(self, lane: Lane, session: str, owner: str, share: int) -> Job:
        in_lane = [job for job in self._jobs if job.lane is lane]
        if self._closed is not None:
            raise Busy(self._closed)
        if sum(job.owner == owner for job in in_lane) >= share:
            raise Busy(f"You have {share} calls running or waiting already; please wait until one of them has ended.")
        if len(in_lane) >= lane.in_all:
            raise Busy(FULL.format(f"{len(in_lane)} calls are running or waiting"))
        job = Job(lane, owner, session)
        self._jobs.append(job)
        self._advance()
        return job

    async def _wait(self, job: Job, waiting: Callable[[int], None]) -> None:
        before = None
        while not job.turn.done():
            ahead = [other for other in self._jobs[: self._jobs.index(job)] if other.lane is job.lane]
            if len(ahead) != before:
                before = len(ahead)
                waiting(before)
            await asyncio.wait([job.turn], timeout=0.5)
        job.turn.result()

    def _advance(self) -> None:
        """Give their turn to all jobs that may run now."""
        running = [job for job in self._jobs if job.running]
        for job in self._jobs:
            taken = sum(other.lane is job.lane for other in running)
            after_own = any(o.session == job.session and o.lane.turn == job.lane.turn for o in running)
            if job.running or job.turn.done() or taken >= job.lane.at_once:
                continue
            if after_own and job.owner == job.session:
                continue
            job.end = time.monotonic() + MAX_SECONDS_OF_WORK
            job.turn.set_result(None)
            running.append(job)

    def _leave(self, job: Job) -> None:
        self._jobs.remove(job)
        self._advance()
