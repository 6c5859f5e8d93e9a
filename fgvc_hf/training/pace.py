"""The clock of a training run: when it saves, when it prints, and when it stops so that it ends before a time limit."""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
RECENT = 5  # updates whose slowest is expected next
SPARE = 1.5  # times that an update or a checkpoint may take longer than before
LEAST_CHECKPOINT = 2.0  # seconds that are kept for a checkpoint at least


def parse_duration(text: str) -> float:
    """Seconds of a duration: a number with `s`, `m` or `h`, such as `90s`, `8m` or `1.5h`.

    Raises:
        `ValueError`: it is another text, or not positive.
    """
    try:
        seconds = float(text[:-1]) * UNITS[text[-1:]]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"a duration must be a positive number with s, m or h, such as 90s or 8m, got {text!r}.")
    return seconds


@dataclass
class Pace:
    """
    Args:
        time_limit (`float`): Seconds from `started` within which the run ends, its last checkpoint included; infinite for none.
        save_seconds (`float`): Most seconds between checkpoints; infinite for none but those at their number of updates.
        print_every (`int`): Updates between printed lines; 0 for none.
        started (`float`): When the run began, in seconds of `time.monotonic`; now if not given.
    """

    time_limit: float = math.inf
    save_seconds: float = math.inf
    print_every: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        self.checkpoint_seconds = LEAST_CHECKPOINT
        self._updates: deque[float] = deque(maxlen=RECENT)
        self._losses: list[Mapping[str, float]] = []
        self.begin()

    def begin(self) -> None:
        """Count the time to the first checkpoint and to the first printed line from now on."""
        self._saved_at = self._printed_at = time.monotonic()

    @property
    def depends_on_time(self) -> bool:
        """Whether the run looks at the clock at all."""
        return min(self.time_limit, self.save_seconds) < math.inf

    def left(self) -> float:
        """Seconds until the last checkpoint must be begun."""
        return self.started + self.time_limit - time.monotonic() - SPARE * self.checkpoint_seconds

    def fitting_updates(self, update_seconds: float) -> int:
        """Updates of so many seconds that fit into what is left of the time limit."""
        return max(0, int(self.left() / update_seconds))

    def check(self, update_seconds: float) -> None:
        """Expect updates of so many seconds, and refuse by a `ValueError` a time limit that is too short for one."""
        self._updates.append(update_seconds)
        if self.is_over():
            raise ValueError(
                f"the time limit of {self.time_limit:g} s is too short: {time.monotonic() - self.started:.1f} s have passed, an update takes "
                f"{update_seconds:.2f} s and a checkpoint needs {SPARE * self.checkpoint_seconds:.1f} s."
            )

    def is_over(self) -> bool:
        """Whether another update would end after the time limit."""
        return self.left() < SPARE * max(self._updates, default=0.0)

    def is_time_to_save(self) -> bool:
        """Whether the last checkpoint is old enough for the next."""
        return time.monotonic() - self._saved_at >= self.save_seconds

    def count(self, seconds: float) -> None:
        """Note the time that an update took."""
        self._updates.append(seconds)

    def saved(self, seconds: float) -> None:
        """Note the time that a checkpoint took, which is over now."""
        self._saved_at = time.monotonic()
        self.checkpoint_seconds = max(self.checkpoint_seconds, seconds)

    def line(self, step: int, steps: int, losses: Mapping[str, float]) -> str | None:
        """The line to print after update `step`: its number, updates per second, and the losses' means since the last line."""
        if not self.print_every:
            return None
        self._losses.append(losses)
        if step % self.print_every:
            return None
        now = time.monotonic()
        means = {name: sum(each[name] for each in self._losses) / len(self._losses) for name in losses}
        text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        rate = len(self._losses) / (now - self._printed_at)
        self._printed_at, self._losses = now, []
        return f"{step} of {steps} updates, {rate:.2f} updates/s, {text}"
