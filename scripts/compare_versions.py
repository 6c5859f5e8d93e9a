"""Speed of a session step of this version against another one, in turns, so that a machine whose speed varies slows both alike.

    git worktree add ../before v0.1
    python scripts/compare_versions.py ../before
    python scripts/compare_versions.py ../before --only "30 points" --turns 30

Each version steps a session of its own in a process of its own, four frames a turn. The result is the median, and the quartiles, of the quotients of
neighbouring turns: above 1, this version is slower.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path


CASES = {  # checkpoint, preset, (height, width), points; five masks where there are none
    "30 points": ("fgvc-joint", "balanced", (256, 256), 30),
    "500 points": ("fgvc-joint", "balanced", (256, 256), 500),
    "five masks": ("fgvc-joint", "balanced", (256, 256), 0),
    "30 points, coarse, 480p": ("fgvc-coarse", "accurate", (480, 854), 30),
    "five masks, coarse, 480p": ("fgvc-coarse", "accurate", (480, 854), 0),
}
FRAMES_A_TURN, WARM_UP, CLIP_LENGTH = 4, 8, 20
HERE = Path(__file__).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="a checkout of another version")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--turns", type=int, default=24, help="turns of each version")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what a process of one version steps
    arguments = parser.parse_args()
    if arguments.case:
        serve(*CASES[arguments.case])
        return
    if not (arguments.other / "fgvc_hf" / "__init__.py").is_file():
        sys.exit(f"error: {arguments.other} is no checkout of fgvc_hf.")
    if arguments.turns < 2:
        sys.exit(f"error: --turns must be 2 or more, got {arguments.turns}.")
    print("| a step with | the other, ms | this, ms | this / other | quartiles |\n|---|---|---|---|---|")
    for case in arguments.only:
        print(compare(case, arguments.other, arguments.turns), flush=True)


def compare(case: str, other: Path, turns: int) -> str:
    """A row of the table."""
    processes = [start(case, checkout) for checkout in (other, HERE.parents[1])]
    times: list[list[float]] = [[], []]
    try:
        for turn in range(turns):
            for version in (0, 1) if turn % 2 else (1, 0):
                times[version].append(take_turn(processes[version]))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    quotients = [this / that for that, this in zip(*times, strict=True)]
    before, now = (1e3 * statistics.median(of) for of in times)
    low, middle, high = statistics.quantiles(quotients, n=4)
    return f"| {case} | {before:.1f} | {now:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |"


def start(case: str, checkout: Path) -> subprocess.Popen:
    """A process that has loaded the version of a checkout and steps when it is told to."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, str(HERE), str(checkout), "--case", case]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    if process.stdout.readline().strip() != str(checkout.resolve()):
        process.kill()
        sys.exit(f"error: the version in {checkout} could not be loaded.")
    return process


def take_turn(process: subprocess.Popen) -> float:
    """Seconds per frame of a turn."""
    assert process.stdin is not None and process.stdout is not None
    print("go", file=process.stdin, flush=True)
    return float(process.stdout.readline()) / FRAMES_A_TURN


def serve(checkpoint: str, preset: str, size: tuple[int, int], points: int) -> None:
    """Step a session on a moving picture, four frames for each line of input, and print the seconds that they took."""
    import numpy as np
    from PIL import Image

    import fgvc_hf

    if hasattr(fgvc_hf, "Tracker"):
        tracker = fgvc_hf.Tracker.from_pretrained(checkpoint, preset)
        model, processor = tracker.model, tracker.processor
    else:  # version 0.1
        model, processor = fgvc_hf.load(checkpoint, preset=preset)
    height, width = size
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 8 + 20, width // 8 + 20, 3), dtype=np.uint8)
    scene = np.array(
        Image.fromarray(coarse).resize((8 * coarse.shape[1], 8 * coarse.shape[0]), Image.Resampling.BICUBIC)
    )
    frames = [np.ascontiguousarray(scene[2 * t : 2 * t + height, 3 * t : 3 * t + width]) for t in range(CLIP_LENGTH)]
    session = processor.init_video_session()
    if points:
        places = 10 + random.random((points, 2)) * (width - 20, height - 20)
        processor.add_inputs_to_inference_session(session, 0, list(range(points)), input_points=places.tolist())
    else:
        masks = np.zeros((5, height, width), bool)
        for k in range(5):
            masks[k, 20 + 30 * k : 60 + 30 * k, 30 + 30 * k : 100 + 30 * k] = True
        processor.add_inputs_to_inference_session(session, 0, list(range(1, 6)), input_masks=list(masks))
    clip = cycle(frames)

    def advance(number: int) -> None:
        for frame in islice(clip, number):
            processor.post_process_masks(model.step(session, frame), session)

    advance(WARM_UP)
    print(Path(fgvc_hf.__file__).parents[1], flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        advance(FRAMES_A_TURN)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
