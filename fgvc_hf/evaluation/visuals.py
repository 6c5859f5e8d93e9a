"""Overlays of a benchmark's videos, of which the best and the worst are kept."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..io.names import check_name
from ..io.video import VideoWriter


KEPT = 2  # overlays of the best videos, and as many of the worst
RANKED = re.compile(r"(best|worst)-\d+-.+\.mp4")  # the names of overlays that are kept
FPS = 12  # benchmarks do not say their frame rate


def write_visual(folder: Path, name: str, frames: Iterable[np.ndarray]) -> None:
    """Write `frames` (H, W, 3) as FOLDER/NAME.mp4; an `OSError` if the name is a path."""
    check_name(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    frames = iter(frames)
    first = next(frames)
    with VideoWriter(folder / f"{name}.mp4", FPS, *first.shape[:2]) as writer:
        writer.write(first)
        for frame in frames:
            writer.write(frame)


def keep_extremes(folder: Path, scores: dict[str, float]) -> None:
    """Rename the overlays of the best and the worst videos to best-1-NAME.mp4, worst-1-NAME.mp4 and so on; delete the others, and those of an
    earlier run.

    Args:
        scores (`dict[str, float]`): Score of every video by name. Videos without an overlay, because they were measured before a
            run was interrupted, are skipped; of those whose score is NaN none is kept.
    """
    for old in folder.glob("*.mp4"):
        if RANKED.fullmatch(old.name) and old.stem not in scores:
            old.unlink()
    ranked = sorted((name for name in scores if scores[name] == scores[name]), key=lambda name: scores[name])
    kinds = (("worst", ranked[:KEPT]), ("best", ranked[::-1][:KEPT]))
    for name in scores:
        file = folder / f"{name}.mp4"
        if not file.is_file():
            continue
        place = next((f"{kind}-{names.index(name) + 1}" for kind, names in kinds if name in names), None)
        if place is None:
            file.unlink()
        else:
            file.rename(folder / f"{place}-{name}.mp4")


__all__ = ["keep_extremes", "write_visual"]
