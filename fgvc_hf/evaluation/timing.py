"""Interleaved timing: variants are run in turns, so that changes of the speed of the machine affect all of them; medians are compared."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..io.video import VideoWriter


CURVE_COLOURS = ((214, 69, 65), (44, 110, 187), (60, 150, 80))
PANEL_SIZE, PANEL_MARGIN = (360, 260), 44  # pixels
MATRIX_SIDE, MATRIX_PRODUCTS = 2048, 5  # of the machine's peak


def time_interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    scale: Mapping[str, float] | None = None,
    flops: float | None = None,
) -> dict[str, dict[str, float]]:
    """Time variants in turns, print a line for each and return the results. A first round warms up and is not counted.

    Args:
        variants (mapping of `str` to callable): What is timed. The first is the baseline of the ratios.
        rounds (`int`): Counted runs of each variant.
        scale (mapping of `str` to `float`, *optional*): Factor on the times of a variant that does only a part of the work.
        flops (`float`, *optional*): Floating-point operations of one run; if given, GFLOP/s are printed.

    Returns:
        For each variant `median_ms`, and `ratio`: how many times faster than the first it is.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append((time.perf_counter() - start) * 1000 * (scale or {}).get(name, 1))
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = next(iter(medians.values()))
    for name, median in medians.items():
        rate = "" if flops is None else f"   {flops / median / 1e6:.0f} GFLOP/s"
        print(f"  {name:32s} {median:10.1f} ms   x{baseline / median:.1f}{rate}", flush=True)
    return {name: {"median_ms": median, "ratio": baseline / median} for name, median in medians.items()}


def describe_machine() -> dict[str, str | int]:
    """Print and return the processor, the number of threads, and the rate of 2048x2048 matrix products in GFLOP/s."""
    machine: dict[str, str | int] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(dtype)
        matrix @ matrix
        start = time.perf_counter()
        for _ in range(MATRIX_PRODUCTS):
            matrix @ matrix
        seconds = time.perf_counter() - start
        machine[f"matmul_{str(dtype)[6:]}_gflops"] = round(MATRIX_PRODUCTS * 2 * MATRIX_SIDE**3 / seconds / 1e9)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    return machine


def process_memory_mib(field: str) -> float:
    """Memory of this process on Linux in MiB: `"VmRSS"` is resident now, `"VmHWM"` the peak.

    The peak is this process's own; `resource.getrusage` counts that of the parent as well.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def write_looped_video(path: Path, frames: Sequence[np.ndarray] | np.ndarray, length: int, fps: int = 24) -> None:
    """A video file of `length` frames: those given, forward and backward in turn."""
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    with VideoWriter(path, fps, *frames[0].shape[:2]) as writer:
        for i in range(length):
            writer.write(frames[order[i % len(order)]])


def draw_curves(curves: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Image.Image:
    """One panel per axis: milliseconds of each variant over the quantity they grow with.

    Args:
        curves: By the name of an axis, by the value on it, and by the variant: the time in ms.
    """
    (width, height), margin = PANEL_SIZE, PANEL_MARGIN
    picture = Image.new("RGB", (width * len(curves), height), "white")
    draw = ImageDraw.Draw(picture)
    for panel, (axis, points) in enumerate(curves.items()):
        left, right, bottom = panel * width + margin, (panel + 1) * width - 16, height - margin
        most = max(duration for times in points.values() for duration in times.values())
        draw.line([(left, margin), (left, bottom), (right, bottom)], fill="black")
        draw.text((left, height - 18), f"{axis}: {', '.join(map(str, points))}", "black")
        draw.text((left - 40, margin - 6), f"{most:.0f} ms", "black")
        for line, what in enumerate(next(iter(points.values()))):
            colour = CURVE_COLOURS[line]
            places = [
                (left + (right - left) * at / max(points), bottom - (bottom - margin) * times[what] / most)
                for at, times in points.items()
            ]
            draw.text((left + 6, 6 + 14 * line), what, colour)
            draw.line(places, fill=colour, width=2)
            for x, y in places:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    return picture
