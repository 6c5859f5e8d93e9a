"""Whose turn it is, who is refused, and what a cancellation stops."""

import asyncio
import threading
import time
import types

import gradio as gr
import pytest

from fgvc_hf.demo import jobs as module
from fgvc_hf.demo.app import Events
from fgvc_hf.demo.jobs import LOOKING, OPENING, WORKING, Busy, Cancelled, Jobs, checkpoint
from fgvc_hf.demo.middleware import ARRIVED


def played(scene) -> None:
    """Play an asynchronous scene with new jobs, to its end."""

    async def whole():
        jobs = Jobs()
        try:
            await asyncio.wait_for(scene(jobs), 20)
        finally:
            jobs.close("The server is stopping.")

    asyncio.run(whole())


class Work:
    """Work that lasts until it is released."""

    def __init__(self):
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        while not self.released.wait(0.01):
            checkpoint()
        return "done"


async def begun(work: Work) -> None:
    while not work.begun.is_set():
        await asyncio.sleep(0.01)


def test_a_session_has_a_share_and_others_have_theirs():
    async def scene(jobs):
        work = Work()
        greedy = [asyncio.ensure_future(jobs.run(WORKING, "greedy", work)) for _ in range(41)]
        await begun(work)
        modest = [asyncio.ensure_future(jobs.run(WORKING, f"modest {i}", lambda: "served")) for i in range(20)]
        await asyncio.sleep(0.1)
        refused = [job.exception() for job in greedy if job.done()]
        assert len(refused) == 39 and not any(job.done() for job in modest)
        assert {str(error) for error in refused} == {
            "You have 2 calls running or waiting already; please wait until one of them has ended."
        }
        work.released.set()
        assert await asyncio.gather(*modest) == ["served"] * 20
        assert [await job for job in greedy if job not in {job for job in greedy if job.exception()}] == ["done"] * 2

    played(scene)


@pytest.mark.parametrize("lane", [LOOKING, OPENING, WORKING], ids=lambda lane: lane.name)
def test_every_lane_is_bounded_and_says_so(lane):
    async def scene(jobs):
        work = Work()
        accepted = [asyncio.ensure_future(jobs.run(lane, f"session {i}", work)) for i in range(lane.in_all)]
        await begun(work)
        with pytest.raises(
            Busy, match=rf"^The page is full: {lane.in_all} calls are running or waiting. Please try again"
        ):
            await jobs.run(lane, "late", work)
        work.released.set()
        assert await asyncio.gather(*accepted) == ["done"] * lane.in_all
        assert await jobs.run(lane, "late", work) == "done"

    played(scene)


def test_no_more_run_at_once_than_a_lane_grants_and_those_of_a_session_in_order():
    async def scene(jobs):
        running, most, order = [], [], []

        def work(session, number):
            running.append(session)
            most.append(list(running))
            time.sleep(0.01)
            order.append((session, number))
            running.remove(session)

        await asyncio.gather(
            *(jobs.run(LOOKING, s, work, s, n) for n in range(6) for s in ("a", "b", "c", "d", "e", "f"))
        )
        assert max(map(len, most)) <= LOOKING.at_once and all(len(set(some)) == len(some) for some in most)
        for session in "abcdef":
            assert [number for s, number in order if s == session] == list(range(6))

    played(scene)


def test_a_session_does_not_look_at_a_clip_that_is_being_exchanged():
    async def scene(jobs):
        work, looked = Work(), []
        opening = asyncio.ensure_future(jobs.run(OPENING, "me", work))
        await begun(work)
        looking = asyncio.ensure_future(jobs.run(LOOKING, "me", lambda: looked.append(work.released.is_set())))
        await jobs.run(LOOKING, "other", lambda: None)
        assert looked == []
        work.released.set()
        await asyncio.gather(opening, looking)
        assert looked == [True]

    played(scene)


def test_cancelling_ends_what_runs_and_what_waits_of_one_session_only():
    async def scene(jobs):
        mine, other = Work(), Work()
        run = asyncio.ensure_future(jobs.run(WORKING, "me", mine))
        await begun(mine)
        others = asyncio.ensure_future(jobs.run(WORKING, "other", other))
        wait = asyncio.ensure_future(jobs.run(WORKING, "me", mine))
        await asyncio.sleep(0.05)
        jobs.stop(jobs.of("me"), "Cancelled.")
        for job in (run, wait):
            with pytest.raises(Cancelled, match=r"^Cancelled\.$"):
                await job
        await begun(other)
        other.released.set()
        assert await others == "done" and not jobs.of("me")
        mine.released.set()
        assert await jobs.run(WORKING, "me", mine) == "done"  # and the next time it works

    played(scene)


def test_a_call_that_came_before_a_cancellation_is_cancelled_also_when_gradio_starts_it_later(server_state):
    def handler(workspace, text):
        return f"{text} done"

    def call(came: float):
        return types.SimpleNamespace(session_hash="me", request=types.SimpleNamespace(scope={ARRIVED: came}))

    events, now = Events(server_state), time.monotonic()

    async def scene():
        await events.cancel(call(now))
        before = await events.work(handler)(call(now - 0.01), "work")
        look = await events.look(handler)(call(now - 0.01), "look")  # which is not what a cancellation stops
        after = await events.work(handler)(call(now + 0.01), "work")
        return before, look, after

    before, look, after = asyncio.run(scene())
    assert before == gr.skip() and (look, after) == ("look done", "work done")


def test_a_job_that_fails_or_is_dropped_frees_its_place():
    async def scene(jobs):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await jobs.run(WORKING, "me", lambda: 1 / 0)
        work = Work()
        run = asyncio.ensure_future(jobs.run(WORKING, "me", work))
        await begun(work)
        wait = asyncio.ensure_future(jobs.run(WORKING, "me", work))
        await asyncio.sleep(0.05)
        for dropped in (wait, run):  # as the server does when nobody listens any more
            dropped.cancel()
        await asyncio.wait([run, wait])
        assert await jobs.run(WORKING, "me", lambda: "next") == "next"
        assert not jobs.of("me")

    played(scene)


def test_an_error_of_a_job_that_was_stopped_is_its_stopping():
    """Its files went away, for instance."""

    async def scene(jobs):
        work = Work()

        def gone():
            work.begun.set()
            work.released.wait()
            raise OSError("clip.mp4: is gone")

        run = asyncio.ensure_future(jobs.run(WORKING, "me", gone))
        await begun(work)
        jobs.stop(jobs.of("me"), "Cancelled: another clip took its place.")
        work.released.set()
        with pytest.raises(Cancelled, match="another clip took its place"):
            await run

    played(scene)


def test_a_job_has_an_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS_OF_WORK", 0.1)

    async def scene(jobs):
        with pytest.raises(ValueError, match="longer than the demo grants"):
            await jobs.run(WORKING, "me", Work())
        assert await jobs.run(WORKING, "me", lambda: "next") == "next"

    played(scene)


def test_those_who_wait_hear_how_many_are_before_them():
    async def scene(jobs):
        work, heard = Work(), []
        first = asyncio.ensure_future(jobs.run(WORKING, "a", work))
        await begun(work)
        second = asyncio.ensure_future(jobs.run(WORKING, "b", work))
        third = asyncio.ensure_future(jobs.run(WORKING, "c", work, waiting=heard.append))
        await asyncio.sleep(0.1)
        jobs.stop(jobs.of("b"), "Cancelled.")
        await asyncio.sleep(0.7)
        work.released.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert heard == [2, 1]

    played(scene)


def test_when_the_server_stops_nothing_goes_on_and_nothing_is_accepted():
    async def scene(jobs):
        work = Work()
        run = asyncio.ensure_future(jobs.run(WORKING, "me", work))
        await begun(work)
        jobs.close("The server is stopping.")
        with pytest.raises(Cancelled, match="The server is stopping."):
            await run
        with pytest.raises(Busy, match="The server is stopping."):
            await jobs.run(WORKING, "me", work)

    played(scene)


def test_without_a_job_a_checkpoint_is_nothing():
    checkpoint()
