"""Runs cases in forked processes, under limits of time and memory, and says how each ended.

The process that starts them has imported everything, so that a case costs no more than its work. One child runs case after case and says when it
begins and ends one; a case in which it dies, or that takes too long, is the last of that child, and the next one goes on behind it.
"""

import json
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


SECONDS = 20.0  # of a processor that a case may take; ten times as long by the clock
BYTES = 2 << 30  # that a case may hold
SPACE = 8 << 30  # of addresses beyond those at the start: what is asked for and not touched takes no memory
BATCH = 200  # cases of a child


@dataclass(frozen=True)
class End:
    """
    How a case ended.

    Args:
        case: What the reader was called with.
        outcome (`str`): `"ok"`, `"refused"` by one sentence, `"unclear"` (refused by something else than one sentence), `"traceback"` of another
            exception, `"hang"`, `"crash"`, `"memory"`, or what the reader says is wrong, such as `"shorter"`.
        text (`str`): The sentence, the traceback or what the reader returned.
        seconds, mebibytes (`float`): Time, and most memory beyond that at the start.
    """

    case: object
    outcome: str
    text: str = ""
    seconds: float = 0.0
    mebibytes: float = 0.0

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("ok", "refused")


class Wrong(Exception):
    """A reader accepts what it should not: the outcome, and what is wrong."""

    def __init__(self, outcome: str, text: str):
        self.outcome = outcome
        super().__init__(text)


def run_cases(cases: list, read: Callable[[Any], str], seconds: float = SECONDS, held: int = BYTES) -> Iterator[End]:
    """
    Run cases one after the other, each in a forked process.

    Args:
        cases (list): What is read.
        read (callable): Reads one case, and returns a word about it.
        seconds (`float`): Of a processor, for each.
        held (`int`): Bytes that each may hold.
    """
    position = 0
    while position < len(cases):
        for end in _child(cases[position : position + BATCH], read, seconds, held):
            position += 1
            yield end


def _child(cases: list, read: Callable[[Any], str], seconds: float, held: int) -> Iterator[End]:
    """The ends of cases in one process, up to the first one that it does not survive."""
    sys.stdout.flush()
    sys.stderr.flush()
    receiver, sender = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            os.close(receiver)
            _work(cases, read, sender, held)
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    number, buffer, began, worked = 0, b"", time.monotonic(), 0.0
    try:
        while number < len(cases):
            ready, _, _ = select.select([receiver], [], [], seconds)
            if (
                not ready
                and (work := _work_seconds(child) - worked) < seconds
                and time.monotonic() - began < 10 * seconds
            ):
                continue  # other programs have the processor
            received = os.read(receiver, 1 << 16) if ready else b""
            if not ready:
                yield End(cases[number], "hang", f"over {seconds:g} s", work)
                return
            if not received:
                _, state = os.waitpid(child, 0)
                child = 0
                yield _death(cases[number], state, time.monotonic() - began)
                return
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                yield End(cases[number], **json.loads(line))
                number, began, worked = number + 1, time.monotonic(), _work_seconds(child)
    finally:
        os.close(receiver)
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work_seconds(process: int) -> float:
    """Seconds of a processor that a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _death(case, state: int, seconds: float) -> End:
    if os.WIFSIGNALED(state):
        name = signal.Signals(os.WTERMSIG(state)).name
        return End(case, "crash", name, seconds)
    return End(case, "crash", f"exit status {os.waitstatus_to_exitcode(state)}", seconds)


def _work(cases: list, read: Callable[[Any], str], sender: int, most: int) -> None:
    """What a child does."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
    for case in cases:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        before, began = _peak(), time.monotonic()
        outcome, text = _outcome(read, case)
        took, held = time.monotonic() - began, _peak() - before
        if held > most and outcome in ("ok", "refused", "unclear"):
            outcome, text = "memory", f"{held >> 20} MiB: {text}"
        line = {"outcome": outcome, "text": text[-3000:], "seconds": round(took, 3), "mebibytes": held >> 20}
        os.write(sender, json.dumps(line).encode() + b"\n")


def _outcome(read: Callable[[Any], str], case) -> tuple[str, str]:
    try:
        return "ok", str(read(case))
    except Wrong as wrong:
        return wrong.outcome, str(wrong)
    except (ValueError, OSError) as error:
        text = str(error)
        return ("refused" if _is_one_sentence(error) else "unclear"), text or repr(error)
    except MemoryError:
        return "memory", traceback.format_exc()
    except BaseException:
        return "traceback", traceback.format_exc()


def _is_one_sentence(error: Exception) -> bool:
    """Whether an error says something in one line of a length that can be read, and not by a number of the system."""
    text = str(error)
    return 20 < len(text) < 1000 and "\n" not in text and text.endswith(".") and not text.startswith("[Errno")


def _peak() -> int:
    """Most bytes in memory since the last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0
