"""BADJA: joints of animals in sequences of DAVIS.

ROOT/joint_annotations/SEQUENCE.json      or   ROOT/badja/joint_annotations/SEQUENCE.json
ROOT/JPEGImages/480p/SEQUENCE/00000.jpg   or   ROOT/davis/JPEGImages/480p/SEQUENCE/00000.jpg
and Annotations beside JPEGImages
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..coordinates import rescale_points
from ..io.json_files import reason_of
from ..io.masks import read_mask
from ..io.text_numbers import frame_in
from ..metrics.pck import BadjaCounts, count_badja
from ..tracker import Tracker
from ..tracking.results import PointTracks
from .baselines import ChainedTracker
from .sequence_folders import numbered_frames, sequence_of


SEQUENCES = ("bear", "camel", "cows", "dog", "dog-agility", "horsejump-high", "horsejump-low")
JOINTS = (8, 9, 10, 12, 13, 14, 15, 18, 19, 20, 22, 23, 24, 25, 28, 31, 32, 33, 35, 36)
ANNOTATED_SIZE = (1080, 1920)  # (height, width) of the frames that the joints are annotated on
SCORED_SIZE = (320, 512)  # (height, width) that distances and areas are measured in


@dataclass(frozen=True)
class BadjaVideo:
    """One sequence.

    Args:
        name (`str`): Name of the sequence.
        frames (`tuple[Path, ...]`): Its frames, from the first to the last annotated one.
        masks (`tuple[Path, ...]`): Masks of the annotated frames.
        numbers (`numpy.ndarray` of shape `(T,)`): Numbers of the annotated frames, which increase.
        joints (`numpy.ndarray` of shape `(T, N, 2)`): (x, y) in pixels of `SCORED_SIZE`.
        visible (`numpy.ndarray` of shape `(T, N)`, bool): Whether a joint is annotated as visible.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    numbers: np.ndarray
    joints: np.ndarray
    visible: np.ndarray


def load_badja(root: str | Path, split: str | None = None) -> list[BadjaVideo]:
    """The sequences of BADJA that a folder has, or the one that `split` names.

    Raises:
        `OSError`: the folder has another layout, or a file is missing or damaged.
    """
    root = Path(root)
    annotations = next(
        (root / p for p in ("joint_annotations", "badja/joint_annotations") if (root / p).is_dir()), None
    )
    if annotations is None:
        raise FileNotFoundError(f"{root}: a folder joint_annotations was expected there, as in BADJA.")
    davis = root / "davis" if (root / "davis").is_dir() else root
    present = [name for name in SEQUENCES if (annotations / f"{name}.json").is_file()]
    wanted = [split] if split else present
    unknown = sorted(set(wanted) - set(present))
    if unknown or not present:
        raise FileNotFoundError(
            f"{annotations}: has no {(unknown or ['sequence.json'])[0]}; there are {', '.join(present)}."
        )
    return [_load(name, annotations / f"{name}.json", davis) for name in wanted]


def _load(name: str, file: Path, davis: Path) -> BadjaVideo:
    try:
        numbers, joints, visible = _annotations(json.loads(file.read_bytes()))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise OSError(f"{file}: is no annotation of BADJA ({reason_of(error)}).") from None
    folder = davis / "JPEGImages" / "480p" / name
    masks = tuple(davis / "Annotations" / "480p" / name / f"{number:05d}.png" for number in numbers)
    missing = [path for path in (folder, *masks) if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: was expected there, as in DAVIS.")
    frames = numbered_frames(folder, range(numbers[0], numbers[-1] + 1))
    return BadjaVideo(name, frames, masks, numbers, rescale_points(joints, ANNOTATED_SIZE, SCORED_SIZE), visible)


def _annotations(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, joints and visibility of the annotated frames, in the order of the frames."""
    found = [frame_in(row["image_path"]) for row in rows]
    numbered = {number: row for number, row in zip(found, rows, strict=True) if number is not None}
    if not rows or len(numbered) != len(rows):
        raise ValueError("each row must name a frame of its own, by its number")
    numbers, rows = np.array(sorted(numbered)), [numbered[number] for number in sorted(numbered)]
    joints = np.array([[row["joints"][j] for j in JOINTS] for row in rows], dtype=float)[..., ::-1]  # from (y, x)
    visible = np.array([[row["visibility"][j] for j in JOINTS] for row in rows])
    if joints.shape != (*visible.shape, 2) or not np.isin(visible, (0, 1)).all():
        raise ValueError("a joint must be two numbers, and its visibility true or false")
    visible = visible.astype(bool)
    if not np.isfinite(joints[visible]).all():
        raise ValueError("a joint that is visible must have a finite position")
    return numbers, joints, visible


def follow_joints(tracker: Tracker | ChainedTracker, video: BadjaVideo) -> tuple[PointTracks, BadjaCounts]:
    """Track the joints that are visible in the first annotated frame to the last one, and compare them with the annotations.

    A joint that is hidden in the first frame cannot be tracked; it counts as missed in the frames where it is annotated.

    Returns:
        The tracks in pixels of the stored frames, from the first annotated frame on, and the counts.
    """
    source = sequence_of(video.frames)
    size = source.height, source.width
    frames = np.stack(list(source.frames()))
    known = np.flatnonzero(video.visible[0])
    start = rescale_points(video.joints[0, known], SCORED_SIZE, size).clip(0, (size[1], size[0]))
    queries = np.concatenate([np.zeros((len(known), 1)), start], axis=1)
    tracks = tracker.track(frames, queries)
    found = np.full(video.joints.shape, np.nan)
    at = tracks.tracks[:, video.numbers - video.numbers[0]].transpose(1, 0, 2)  # (T, known, 2)
    found[:, known] = rescale_points(at, size, SCORED_SIZE)
    return tracks, count_badja(found, video.joints, video.visible, np.array([_area(path) for path in video.masks]))


def _area(path: Path) -> int:
    """Pixels of the animal at `SCORED_SIZE`."""
    mask = Image.fromarray((read_mask(path) > 0).astype(np.uint8))
    return int(np.asarray(mask.resize(SCORED_SIZE[::-1], Image.Resampling.NEAREST)).sum())
