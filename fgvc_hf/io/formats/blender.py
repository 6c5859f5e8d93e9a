"""Blender: CSV that `scripts/blender_import_tracks.py` reads into the tracks of a movie clip.

Header `track,frame,x,y,enabled`; x and y are shares of the clip's width and height from its bottom left corner, as of Blender's markers.
"""

import csv
from pathlib import Path

import numpy as np

from ...tracking.results import PointTracks
from .point_labels import PointName, texts_of


def write(tracks: PointTracks, path: Path, names: list[PointName], first_frame: int = 1) -> None:
    """
    Write a row for each point and frame on which it is visible, and one that is not enabled for the first frame on which it no longer is.

    Args:
        first_frame (`int`, defaults to 1): The number of the clip's first frame in Blender.
    """
    height, width = tracks.size
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["track", "frame", "x", "y", "enabled"])
        for n, name in enumerate(texts_of(names)):
            x, y = (tracks.tracks[n].astype(np.float64) / (width, height)).T
            seen, last = tracks.visible[n], None
            for t in range(len(seen)):
                if seen[t]:
                    last = t
                    writer.writerow([name, first_frame + t, f"{x[t]:.7f}", f"{y[t]:.7f}", 1])
                elif last == t - 1:
                    writer.writerow([name, first_frame + t, f"{x[last]:.7f}", f"{y[last]:.7f}", 0])
