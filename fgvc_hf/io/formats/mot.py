"""MOTChallenge: text of one box in a row, `frame,id,left,top,width,height,conf,x,y,z`.

Frames, ids and pixels count from 1. In files of ground truth the seventh number is 0 for boxes that do not count, and the ninth and last one is
the share of the object that is seen; boxes that do not count, or show nothing, are not read.
"""

from pathlib import Path

import numpy as np

from ...tracking.box_results import BoxTracks
from ..text_files import cut, read_rows
from ..text_numbers import number_in, whole_in
from .point_labels import BoxLabel


LEAST = 1e-6  # confidence that is written: 0 would say that the box does not count


def read_boxes(path: Path) -> list[BoxLabel]:
    """Boxes of a file."""
    rows = []
    for line, cells in read_rows(path):
        try:
            left, top, width, height, *more = (number_in(cell) for cell in cells[2:])
            frame, number = whole_in(cells[0]), whole_in(cells[1])
        except ValueError:
            frame = number = None
        if frame is None or number is None or frame < 1:
            raise ValueError(
                f"{path}, line {line}: expected frame,id,left,top,width,height,... as MOTChallenge has them, found {cut(','.join(cells))}."
            )
        if number < 0:
            raise ValueError(
                f"{path}, line {line}: is a detection of no object, whose id is {number}; boxes need ids."
            )
        counts, hidden = not more or more[0] != 0, len(more) == 3 and more[2] == 0
        if counts and not hidden:
            rows.append(BoxLabel(number, frame, (left, top, left + width, top + height)))
    return rows


def write_boxes(tracks: BoxTracks, path: Path, names: dict[int, str]) -> None:
    """Write boxes: a row for each one that is visible, frame by frame, with its confidence; what turned gets the upright box around it."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for t in range(tracks.corners.shape[1]):
            for row in np.flatnonzero(tracks.visible[:, t]):
                x0, y0, x1, y1 = tracks.sides[row, t]
                confidence = max(float(tracks.confidence[row, t]), LEAST)
                score = np.format_float_positional(round(confidence, 6), min_digits=4)
                numbers = f"{x0:.3f},{y0:.3f},{x1 - x0:.3f},{y1 - y0:.3f},{score}"
                file.write(f"{t + 1},{tracks.object_ids[row]},{numbers},-1,-1,-1\n")
