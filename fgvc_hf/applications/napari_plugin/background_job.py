"""Work in a thread of its own, which tells how far it is and can be cancelled."""

import threading
from collections.abc import Callable
from typing import Any


class Cancelled(Exception):
    """The work was cancelled."""


class BackgroundJob:
    """
    Work that starts at once.

    Args:
        work (callable): Called with a function that it calls with the share that is done, in [0, 1], between its steps; that function
            raises [`Cancelled`] once the work is to stop.
    """

    def __init__(self, work: Callable[[Callable[[float], None]], Any]):
        self.share = 0.0
        self._work, self._stop = work, threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is done; whether it is."""
        self._thread.join(seconds)
        return self.done

    def result(self) -> Any:
        """What the work returned, once it is done; what it raised is raised here."""
        if self._error is not None:
            raise self._error
        return self._result

    def _report(self, share: float) -> None:
        if self._stop.is_set():
            raise Cancelled
        self.share = share

    def _run(self) -> None:
        try:
            self._result = self._work(self._report)
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error


__all__ = ["BackgroundJob", "Cancelled"]
