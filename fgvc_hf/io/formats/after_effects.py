"""After Effects: keyframe text, to be copied and pasted onto a layer.

One point becomes the layer's Position, several become the effects Point Control 1, 2, ... of the layer, in the order of the tracks. Frames count
from the layer's time indicator; a point has keyframes where it is visible. Lines end as After Effects' own do.
"""

from pathlib import Path

import numpy as np

from ...tracking.prompts import positive_number
from ...tracking.results import PointTracks
from .point_labels import PointName


def write(tracks: PointTracks, path: Path, names: list[PointName], fps: float | None = None) -> None:
    """
    Write keyframes.

    Args:
        fps (`float`): Frames per second of the composition.

    Raises:
        `ValueError`: it is not given, or no positive number.
    """
    fps = positive_number("fps", fps, "frames per second, of the composition")
    height, width = tracks.size
    lines = ["Adobe After Effects 8.0 Keyframe Data", "", f"\tUnits Per Second\t{fps:.6g}"]
    lines += [f"\tSource Width\t{width}", f"\tSource Height\t{height}"]
    lines += ["\tSource Pixel Aspect Ratio\t1", "\tComp Pixel Aspect Ratio\t1", ""]
    for n in range(len(names)):
        group = "Transform\tPosition" if len(names) == 1 else f"Effects\tPoint Control #{n + 1}\tPoint #2"
        lines += [group, "\tFrame\tX pixels\tY pixels\t"]
        frames = np.flatnonzero(tracks.visible[n])
        lines += [f"\t{t}\t{x:.4f}\t{y:.4f}\t" for t, (x, y) in zip(frames, tracks.tracks[n, frames], strict=True)]
        lines.append("")
    path.write_text("\n".join([*lines, "", "End of Keyframe Data", ""]), encoding="utf-8", newline="\r\n")
