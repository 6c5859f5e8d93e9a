"""The end of the server, at any moment: while it starts, serves, or works.

Threads of the model may be inside of native code, which nothing can interrupt; an interpreter that shuts down under them aborts. So the
process ends at once when its files are removed.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator


class Stopping:
    """What is to be done in the end; the step that was added last comes first."""

    def __init__(self):
        self._steps: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    def add(self, step: Callable[[], None]) -> None:
        self._steps.append(step)

    def run(self) -> None:
        """Do all steps, each once, whatever becomes of the others."""
        with self._lock:
            while self._steps:
                with contextlib.suppress(Exception):
                    self._steps.pop()()


BEFORE_EXIT = Stopping()  # of this process


@contextlib.contextmanager
def ends_on_signals() -> Generator[None]:
    """Within it the process ends with exit status 0, after `BEFORE_EXIT`, when it is interrupted or asked to end."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it is
        signals.append(signal.SIGHUP)

    def end(number: int, frame) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)  # once is enough
        BEFORE_EXIT.run()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # it may be in use
                stream.flush()
        os._exit(0)

    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
