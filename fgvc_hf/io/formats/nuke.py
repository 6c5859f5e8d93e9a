"""Nuke: a Tracker4 node, as a script that is opened or pasted.

Its curves are of pixels from the bottom left corner. A point has keys on the frames on which it is visible, and is disabled on others. Characters
of names that have a meaning in Nuke's scripts become underscores; names that would be the same then get a number.
"""

import re
from pathlib import Path

import numpy as np

from ...tracking.results import PointTracks
from .point_labels import PointName


# The columns of the table that the knob holds: type, whether hidden, width, and the name
COLUMNS = (
    ("5 1 20", "enable e"),
    ("3 1 75", "name name"),
    *(("2 1 58", f"track_{axis} track_{axis}") for axis in "xy"),
    *(("2 1 63", f"offset_{axis} offset_{axis}") for axis in "xy"),
    *(("4 1 27", f"{use} {use}") for use in "TRS"),
    ("2 0 45", "error error"),
    *(("1 1 0", f"error_{end} error_{end}") for end in ("min", "max")),
    *(("1 1 0", f"{area}_{side} {area}_{side}") for area in ("pattern", "search") for side in "xyrt"),
    ("2 1 0", "key_track key_track"),
    *(("2 1 0", f"key_{area}_{side} key_{area}_{side}") for area in ("search", "track") for side in "xyrt"),
    *(("2 1 0", f"key_centre_offset_{axis} key_centre_offset_{axis}") for axis in "xy"),
)
AREAS = "-32 -32 32 32 -22 -22 22 22"  # boxes around a point, in pixels, as Nuke makes them


def write(tracks: PointTracks, path: Path, names: list[PointName], first_frame: int = 1) -> None:
    """
    Write a node.

    Args:
        first_frame (`int`, defaults to 1): The number of the clip's first frame in Nuke.
    """
    plain = _plain(names)
    rows = [_row(tracks, n, name, first_frame) for n, name in enumerate(plain) if tracks.visible[n].any()]
    columns = "\n".join(f" {{ {kind} {name} 1 }}" for kind, name in COLUMNS)
    text = (
        f"Tracker4 {{\ninputs 0\ntracks {{ {{ 1 {len(COLUMNS)} {len(rows)} }}\n{{\n{columns}\n}}\n{{\n"
        + "\n".join(rows)
        + "\n}\n}\n"
        f"reference_frame {first_frame}\nname Tracks_fgvc_hf\nselected true\n}}\n"
    )
    path.write_text(text, encoding="ascii", newline="\n")


def _plain(names: list[PointName]) -> list[str]:
    """Names of characters without a meaning in Nuke; where several become one, the later ones get a number."""
    taken: dict[str, None] = {}
    for name in names:
        text = re.sub(r"[^A-Za-z0-9_./ -]", "_", str(name))
        taken[next(one for one in (text, *(f"{text}_{i}" for i in range(2, len(names) + 2))) if one not in taken)] = (
            None
        )
    return list(taken)


def _row(tracks: PointTracks, n: int, name: str, first_frame: int) -> str:
    """The row of a point: its 31 cells in the order of the columns."""
    seen = tracks.visible[n]
    frames = np.flatnonzero(seen)
    changes = [t for t in range(len(seen)) if t == 0 or seen[t] != seen[t - 1]]
    enable = " ".join(f"x{first_frame + t} {int(seen[t])}" for t in changes)
    x, y = (
        " ".join(
            f"x{first_frame + t} {value:.4f}" for t, value in zip(frames, tracks.tracks[n, frames, axis], strict=True)
        )
        for axis in (0, 1)
    )
    still = f"{{curve K x{first_frame} 0}}"
    cells = f'{{curve K {enable}}} "{name}" {{curve {x}}} {{curve {y}}} {still} {still} 1 0 0 {still} 0 0 {AREAS}'
    return f" {{ {cells}{' {}' * 11} }}"  # no keyframe patterns
