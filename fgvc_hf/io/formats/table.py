"""The formats of other tools, in one table; and the one place where their coordinates become ours and back.

Here, (0, 0) is the outer corner of the first pixel and (0.5, 0.5) its centre. Each tool has its own coordinate of that centre, `centre` in the
table, which decides by how much positions are shifted:

- DeepLabCut: 0. Labels are clicked on images that napari, and matplotlib before it, draw with the centre of the first pixel at (0, 0).
- SLEAP: 0, in files of version 1.1 and later; sleap-io shifts those of earlier versions.
- COCO keypoints, and PoseMark with them: 0. They are indices of pixels; detectron2 adds 0.5 to them.
- CVAT: 0.5. Shapes are drawn over the picture with its corner at (0, 0).
- MOTChallenge: 1.5. Everything counts from 1, so that a box whose left is 1 begins with the first pixel.
- Nuke, Blender, After Effects: 0.5; Nuke and Blender count y from the bottom.
"""

import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...tracking.box_results import BoxTracks
from ...tracking.prompts import positive_number, whole_number
from ...tracking.results import PointTracks
from ..files import TEMPORARY, local_path
from ..text_files import cut
from .point_labels import BoxLabels, PointLabels, PointName, gather_boxes, gather_points, names_of


OWN = (".csv", ".json", ".npz")  # this package's, which need no name


@dataclass(frozen=True)
class Format:
    """
    A format of another tool.

    Args:
        tool (`str`): Whose it is.
        suffixes (`tuple[str, ...]`): Of its files.
        module (`str`): Where its functions are: `read`, `write`, `read_boxes`, `write_boxes`.
        does (`tuple[str, ...]`): Those it has.
        centre (`float`): Coordinate of the centre of the first pixel.
        first_frame (`int`): Number of the first frame, of files that are read.
        upward (`bool`): Whether y is counted from the bottom.
        options (`tuple[str, ...]`): Arguments of [`save_tracks`] that it takes.
        by_name (`bool`): Whether the name of the file says something, so that the writer must have it.
        by_suffix (`bool`): Whether a suffix that no other format has is enough to mean it.
    """

    tool: str
    suffixes: tuple[str, ...]
    module: str
    does: tuple[str, ...]
    centre: float = 0.5
    first_frame: int = 0
    upward: bool = False
    options: tuple[str, ...] = ()
    by_name: bool = False
    by_suffix: bool = True

    @property
    def of_editor(self) -> bool:
        """Whether it is of a program that shows frames at a constant rate."""
        return "fps" in self.options or "first_frame" in self.options

    def function(self, name: str) -> Any:
        """One of its functions; its module is loaded by that."""
        return getattr(importlib.import_module(f"{__package__}.{self.module}"), name)

    def check_names(self, names: list[PointName]) -> None:
        """A `ValueError` if it cannot hold these names: its module has a function `named` where it cannot hold all."""
        getattr(importlib.import_module(f"{__package__}.{self.module}"), "named", list)(names)

    def check_target(self, path: Path, length: int) -> None:
        """
        Find out before any work whether a file can be written: its module has a function `check_target` where that depends on more than the suffix.

        Args:
            path (`Path`): The file.
            length (`int`): Frames of the clip.

        Raises:
            `ValueError`: the file cannot have this name.
            `ImportError`: a library that writes it is not installed.
        """
        module = importlib.import_module(f"{__package__}.{self.module}")
        if hasattr(module, "check_target"):
            module.check_target(path, length)


POINTS, BOXES = ("read", "write"), ("read_boxes", "write_boxes")
TABLE = {
    "dlc": Format("DeepLabCut", (".csv", ".h5"), "deeplabcut", POINTS, centre=0.0, options=("images",)),
    "sleap": Format("SLEAP", (".h5", ".slp"), "sleap", POINTS, centre=0.0, options=("video",)),
    "coco": Format("COCO keypoints", (".json",), "coco_keypoints", POINTS, centre=0.0),
    "posemark": Format("PoseMark", (".json",), "posemark", POINTS, centre=0.0, by_name=True),
    "cvat": Format("CVAT for video", (".xml",), "cvat", (*POINTS, *BOXES)),
    "mot": Format("MOTChallenge", (".txt", ".csv"), "mot", BOXES, centre=1.5, first_frame=1),
    "nuke": Format("Nuke", (".nk",), "nuke", ("write",), upward=True, options=("first_frame",)),
    "blender": Format("Blender", (".csv",), "blender", ("write",), upward=True, options=("first_frame",)),
    "after-effects": Format(
        "After Effects", (".txt",), "after_effects", ("write",), options=("fps",), by_suffix=False
    ),
}
HDF5 = (".h5", ".slp")  # suffixes of files that the HDF5 library writes
WHAT = {
    "read": "is read for points",
    "write": "is written for points",
    "read_boxes": "is read for boxes",
    "write_boxes": "is written for boxes",
}


def names_that(does: str) -> list[str]:
    """Names of the formats that do something: `read`, `write`, `read_boxes` or `write_boxes`."""
    return [name for name, form in TABLE.items() if does in form.does]


def find_format(path: Path, name: str | None, does: str) -> str | None:
    """
    The name of the format of a file; `None` for this package's own.

    Args:
        path (`Path`): The file, which need not exist.
        name (`str`, *optional*): The format; by the suffix if it is not given: the own one, or the only one with that suffix.
        does (`str`): What is wanted of it, as of [`names_that`].

    Raises:
        `ValueError`: there is no such format, it does not do that or has another suffix, or the suffix does not tell.
    """
    suffix = path.suffix.lower()
    if name is None and suffix in OWN and does in POINTS:
        return None
    if name is not None:
        able = names_that(does)
        if name not in able:
            known = "" if name not in TABLE else f", and {TABLE[name].tool} is not one that {WHAT[does]}"
            raise ValueError(f"format must be one of {', '.join(able)}, got {name!r}{known}.")
        if suffix not in TABLE[name].suffixes:
            raise ValueError(
                f"{path}: the name of a file of {TABLE[name].tool} must end in {_either(TABLE[name].suffixes)}."
            )
        return name
    able = [one for one in names_that(does) if TABLE[one].by_suffix]
    fitting = [one for one in able if suffix in TABLE[one].suffixes]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{path}: {suffix} is of several formats; name one of {', '.join(fitting)}.")
    others = sorted({one for form in able for one in TABLE[form].suffixes} - set(OWN if does in POINTS else ()))
    own = OWN if does in POINTS else ()
    raise ValueError(f"{path}: the name must end in {_either(own or tuple(others))}{_or_else(others) if own else ''}.")


def _either(suffixes: tuple[str, ...]) -> str:
    return suffixes[0] if len(suffixes) == 1 else f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"


def _or_else(others: list[str]) -> str:
    return f", or, for another tool's format, in {_either(tuple(others))}"


def read_foreign(path: Path, name: str, clip: str | None) -> PointLabels:
    """Labels of a file in a format of the table, in our coordinates."""
    rows, names, size = TABLE[name].function("read")(path)
    labels = gather_points(rows, names, path, size, clip)
    labels.centre = TABLE[name].centre
    labels.points[:, 1:] += 0.5 - labels.centre
    return labels


def read_boxes(path, format: str | None = None, clip: str | None = None) -> BoxLabels:
    """
    Read labelled boxes.

    Args:
        path: A file of MOTChallenge (.txt, .csv) or CVAT for video (.xml).
        format (`str`, *optional*): `"mot"` or `"cvat"`; by the suffix if it is not given.
        clip (`str`, *optional*): Which clip, of a file that holds boxes of several: the name of the task in a project of CVAT.

    Returns:
        [`BoxLabels`] in pixels of the video.

    Raises:
        `OSError`, `ValueError`: the file is missing or malformed.
    """
    path = existing(path)
    name = find_format(path, format, "read_boxes")
    form = TABLE[str(name)]
    boxes = gather_boxes(form.function("read_boxes")(path), path, clip)
    boxes.centre, boxes.first_frame = form.centre, form.first_frame
    boxes.boxes += 0.5 - form.centre
    boxes.frames -= form.first_frame
    return boxes


def existing(path) -> Path:
    """A path, checked to be that of a file.

    Raises:
        `FileNotFoundError`: there is no such file.
    """
    path = local_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such points file.")
    return path


def check_options(name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a format, fit for its writer; a `ValueError` for those that it does not take, or not with these values."""
    taken = () if name is None else TABLE[name].options
    for option, value in options.items():
        if value is not None and option not in taken:
            tool = "this package's own format" if name is None else TABLE[name].tool
            raise ValueError(f"{option} is not an argument of {tool}{f', which takes {taken[0]}' if taken else ''}.")
    given = {option: value for option, value in options.items() if option in taken}
    if "fps" in given:
        given["fps"] = positive_number("fps", given["fps"], "frames per second, of the composition")
    if given.get("first_frame") is not None:
        given["first_frame"] = whole_number("first_frame", given["first_frame"])
    images = given.get("images")
    parts = () if images is None else PurePosixPath(images).parts
    if images is not None and (len(parts) != 2 or any(part == ".." or "/" in part or "\\" in part for part in parts)):
        raise ValueError(f"images must be a folder as labeled-data/clip, got {cut(images)!r}.")
    return given


def write_foreign(
    tracks: PointTracks,
    temporary: Path,
    path: Path,
    name: str,
    names: Mapping[int, PointName | str] | None,
    options: Mapping[str, Any],
) -> None:
    """Write tracks to a temporary file in a format of the table, in its coordinates."""
    form = TABLE[name]
    points = tracks.tracks.astype(np.float64) + (form.centre - 0.5)
    if form.upward:
        points[..., 1] = tracks.size[0] - points[..., 1]
    given = {option: value for option, value in options.items() if value is not None}
    if form.by_name:
        given["target"] = path
    arguments = replace(tracks, tracks=points), names_of(tracks.object_ids, names)
    if temporary.suffix.lower() not in HDF5:
        form.function("write")(arguments[0], temporary, arguments[1], **given)
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=temporary.parent) as folder:  # HDF5 locks its files itself
        unlocked = Path(folder, temporary.name)
        try:
            form.function("write")(arguments[0], unlocked, arguments[1], **given)
        except (OSError, RuntimeError) as error:
            # Of a full disk HDF5 says so in many lines, or fails in any other way
            number = error.errno if isinstance(error, OSError) else None
            reason = "HDF5 fails, as on a full disk" if number is None else os.strerror(number)
            raise OSError(f"{path}: cannot be written ({reason}).") from None
        os.replace(unlocked, temporary)


def write_foreign_boxes(tracks: BoxTracks, temporary: Path, name: str, names: Mapping[int, str]) -> None:
    """Write boxes to a temporary file in a format of the table, in its coordinates."""
    form = TABLE[name]
    corners = tracks.corners.astype(np.float64) + (form.centre - 0.5)
    form.function("write_boxes")(replace(tracks, corners=corners), temporary, names)


__all__ = ["TABLE", "Format", "find_format", "names_that", "read_boxes"]
