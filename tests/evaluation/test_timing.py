"""Interleaved timing, and what the benchmarks write and draw."""

import mmap
import sys

import numpy as np
import pytest

from fgvc_hf.evaluation.timing import (
    describe_machine,
    draw_curves,
    process_memory_mib,
    time_interleaved,
    write_looped_video,
)
from fgvc_hf.io.video import open_video


def test_variants_take_turns_and_the_first_round_is_not_counted(monkeypatch, capsys):
    order, clock, durations = [], [0.0], {"slow": iter([9, 4, 2, 6]), "fast": iter([9, 1, 1, 1])}
    monkeypatch.setattr("fgvc_hf.evaluation.timing.time.perf_counter", lambda: clock[0])

    def variant(name):
        def run():
            order.append(name)
            clock[0] += next(durations[name])

        return run

    found = time_interleaved({name: variant(name) for name in durations}, 3, scale={"fast": 2.0}, flops=4e9)
    assert order == ["slow", "fast"] * 4
    assert found["slow"] == {"median_ms": pytest.approx(4000), "ratio": 1.0}
    assert found["fast"] == {"median_ms": pytest.approx(2000), "ratio": pytest.approx(2.0)}
    assert "x2.0   2 GFLOP/s" in capsys.readouterr().out


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr("fgvc_hf.evaluation.timing.MATRIX_SIDE", 64)
    machine = describe_machine()
    assert set(machine) == {"processor", "threads", "matmul_float32_gflops", "matmul_bfloat16_gflops"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_process():
    before = process_memory_mib("VmRSS")
    # Fresh pages: the C library may have kept the memory of an array that was freed before
    held = np.frombuffer(mmap.mmap(-1, 64 * 2**20), dtype=np.uint8)
    held[:] = 1
    assert 50 < process_memory_mib("VmRSS") - before < 100 and held[-1] == 1
    assert process_memory_mib("VmHWM") >= process_memory_mib("VmRSS")


def test_a_looped_video_goes_forward_and_backward(tmp_path):
    frames = [np.full((32, 48, 3), 80 * level, np.uint8) for level in range(3)]
    write_looped_video(tmp_path / "clip.mp4", frames, 7)
    levels = [round(frame.mean() / 80) for frame in open_video(tmp_path / "clip.mp4").frames()]
    assert levels == [0, 1, 2, 1, 0, 1, 2]


def test_every_axis_has_its_panel():
    curves = {"points": {1: {"match": 2.0}, 100: {"match": 8.0}}, "side": {64: {"encode": 1.0, "match": 3.0}}}
    picture = draw_curves(curves)
    assert picture.size == (720, 260) and len(set(picture.convert("P").tobytes())) > 3
