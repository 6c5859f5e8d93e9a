import pytest

from fgvc_hf.training import pace as module
from fgvc_hf.training.pace import LEAST_CHECKPOINT, SPARE, Pace, parse_duration


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("8m", 480.0), ("1.5h", 5400.0), ("0.5s", 0.5), ("1e2s", 100.0)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "m", "8 min", "-3m", "0s", "infs", "nanm", "8d"])
def test_other_texts_are_refused(text):
    with pytest.raises(
        ValueError, match="a duration must be a positive number with s, m or h, such as 90s or 8m, got"
    ):
        parse_duration(text)


def test_a_run_is_over_when_another_update_and_a_checkpoint_would_not_fit(clock):
    pace = Pace(time_limit=60, started=clock.now)
    assert pace.left() == 60 - SPARE * LEAST_CHECKPOINT
    pace.check(4.0)
    clock.now += pace.left() - SPARE * 4.0
    assert not pace.is_over()
    clock.now += 0.1
    assert pace.is_over()
    for _ in range(module.RECENT):
        pace.count(1.0)  # the slow ones are long ago
    assert not pace.is_over() and pace.fitting_updates(1.0) == 5
    pace.saved(20.0)  # checkpoints are slow: the last one must be begun earlier
    assert pace.is_over() and pace.fitting_updates(1.0) == 0


def test_a_limit_that_is_too_short_is_refused(clock):
    pace = Pace(time_limit=10, started=clock.now - 2)
    with pytest.raises(
        ValueError,
        match="the time limit of 10 s is too short: 2.0 s have passed, an update takes 7.00 s and a checkpoint",
    ):
        pace.check(7.0)
    Pace(time_limit=10, started=clock.now - 2).check(2.0)


def test_without_a_limit_nothing_depends_on_the_clock(clock):
    pace = Pace()
    clock.now += 1e9
    assert not (pace.depends_on_time or pace.is_over() or pace.is_time_to_save())
    assert pace.line(1, 2, {"label": 1.0}) is None


def test_checkpoints_by_time(clock):
    pace = Pace(save_seconds=60, started=0.0)
    clock.now += 59
    assert pace.depends_on_time and not pace.is_time_to_save()
    clock.now += 1
    assert pace.is_time_to_save()
    pace.saved(1.0)
    assert not pace.is_time_to_save()


def test_printed_lines_are_means_since_the_last(clock):
    pace, found = Pace(print_every=2), []
    for step in range(1, 5):
        clock.now += 0.5
        found.append(pace.line(step, 9, {"label": float(step), "reconstruction": 0.25}))
    assert found == [
        None,
        "2 of 9 updates, 2.00 updates/s, label 1.5000, reconstruction 0.2500",
        None,
        "4 of 9 updates, 2.00 updates/s, label 3.5000, reconstruction 0.2500",
    ]
