"""PoseMark, the benchmark format of poseinterface: COCO keypoints of one animal, by names of files that tell what they are of.

`..._framelabels.json` is of single frames of a session's video, `..._start-1000_dur-5_cliplabels.json` of every frame of a clip, and
`..._startlabels.json` of a clip's first. The `id` of an image is its frame, counted from 0 in the video or in the clip that the file is of.
"""

import json
import re
from pathlib import Path

from ...tracking.results import PointTracks
from ..text_files import cut
from .coco_keypoints import keypoint_file, read_keypoints
from .point_labels import LARGEST, Label, PointName


CLIP = re.compile(
    r"(sub-[A-Za-z0-9]+_ses-[A-Za-z0-9]+_cam-[A-Za-z0-9]+)_start-(\d{1,9})_dur-(\d{1,9})_cliplabels", re.ASCII
)


def read(path: Path) -> tuple[list[Label], list[PointName], tuple[int, int] | None]:
    """Labels of a file, names in its order, and (height, width) if it tells."""
    return read_keypoints(path, _frame_of)


def _frame_of(image: dict, path: Path) -> tuple[str, int]:
    if type(image["id"]) is not int or not 0 <= image["id"] < LARGEST:
        raise ValueError(f"{path}: the id of an image must be its frame number, got {cut(repr(image['id']))}.")
    return "", image["id"]


def named(names: list[PointName]) -> list[PointName]:
    """The names, which must be of one animal."""
    if any(name.individual for name in names):
        raise ValueError("PoseMark is of one animal: the names of points must have no individual.")
    return names


def check_target(target: Path, length: int) -> re.Match:
    """What the name of a file of clip labels says of a clip of `length` frames; a `ValueError` if it says nothing, or of another one."""
    matched = CLIP.fullmatch(target.stem)
    if matched is None:
        raise ValueError(
            f"{target}: clip labels of PoseMark must be named sub-X_ses-Y_cam-Z_start-FRAME_dur-FRAMES_cliplabels.json."
        )
    if int(matched[3]) != length:
        raise ValueError(f"{target}: names a clip of {int(matched[3])} frames, but this one has {length}.")
    return matched


def write(tracks: PointTracks, path: Path, names: list[PointName], target: Path) -> None:
    """
    Write the labels of a clip.

    Args:
        target (`Path`): The name that the file will have, `sub-X_ses-Y_cam-Z_start-1000_dur-5_cliplabels.json`.
    """
    length = tracks.tracks.shape[1]
    session, start, _ = check_target(target, length).groups()
    named(names)
    images = [(t, f"{session}_frame-{int(start) + t:0{len(start)}}") for t in range(length)]
    path.write_text(json.dumps(keypoint_file(tracks, names, images), allow_nan=False), encoding="utf-8")
