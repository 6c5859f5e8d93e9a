"""JHMDB: fifteen joints of people, in the official layout.

ROOT/Rename_Images/ACTION/CLIP/00001.png
ROOT/joint_positions/ACTION/CLIP/joint_positions.mat
ROOT/splits/ACTION_test_split1.txt                 lines `CLIP.avi 1`, or 2 where the clip is for testing
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..coordinates import rescale_points
from ..io.json_files import reason_of
from ..io.names import check_name
from ..io.video import open_video
from ..metrics.pck import JhmdbCounts, count_jhmdb
from ..tracker import Tracker
from ..tracking.results import PointTracks
from .baselines import ChainedTracker


JOINTS = 15
SCORED_SIZE = (320, 320)  # (height, width) that distances are measured in


@dataclass(frozen=True)
class JhmdbVideo:
    """One clip: its name, the folder of its frames, and its joints (T, 15, 2), (x, y) in pixels of the frames."""

    name: str
    frames: Path
    joints: np.ndarray


def load_jhmdb(root: str | Path, split: str | None = None) -> list[JhmdbVideo]:
    """The test clips of a split, `"split1"` (the one in use) to `"split3"`.

    Raises:
        `OSError`: the folder has another layout, the split does not exist, or a file is missing or damaged.
        `ImportError`: scipy, which reads the annotations, is not installed.
    """
    root = Path(root)
    lists = sorted((root / "splits").glob("*_test_split?.txt"))
    present = sorted({path.stem[-6:] for path in lists})
    if not present:
        raise FileNotFoundError(f"{root}: splits/ACTION_test_split1.txt was expected there, as in JHMDB.")
    split = split or "split1"
    if split not in present:
        raise FileNotFoundError(f"{root}/splits: has no {split!r}; there are {', '.join(present)}.")
    videos = []
    for path in lists:
        action, _, _ = path.stem.rpartition(f"_test_{split}")
        for line in path.read_text(encoding="utf-8").splitlines() if action else ():
            clip, kind = line.split()
            if kind == "2":
                videos.append(_load(root, action, check_name(clip.removesuffix(Path(clip).suffix), path)))
    return videos


def _load(root: Path, action: str, clip: str) -> JhmdbVideo:
    frames = root / "Rename_Images" / action / clip
    file = root / "joint_positions" / action / clip / "joint_positions.mat"
    for path in (frames, file):
        if not path.exists():
            raise FileNotFoundError(f"{root}: {path.relative_to(root)} was expected there, as in JHMDB.")
    return JhmdbVideo(f"{action}-{clip}", frames, read_joints(file))


def read_joints(path: Path) -> np.ndarray:
    """Joints (T, 15, 2) of an annotation: (x, y) in pixels. In the file pixels are counted from 1, at their centres."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        positions = np.asarray(loadmat(path, variable_names=["pos_img"])["pos_img"], dtype=float)
    except (MatReadError, ValueError, IndexError, KeyError, TypeError, NotImplementedError) as error:
        raise OSError(f"{path}: is no annotation of JHMDB ({reason_of(error)}).") from None
    if positions.ndim != 3 or positions.shape[:2] != (2, JOINTS):
        raise OSError(f"{path}: holds pos_img of {positions.shape}, but (2, {JOINTS}, T) was expected.")
    return positions.transpose(2, 1, 0) - 0.5


def follow_people(tracker: Tracker | ChainedTracker, video: JhmdbVideo) -> tuple[PointTracks, JhmdbCounts]:
    """Track the joints of the first frame to the last annotated one, and compare them with the annotations.

    Returns:
        The tracks in pixels of the frames, and the counts.

    Raises:
        `OSError`: there are fewer frames than annotations.
    """
    source = open_video(video.frames)
    size, length = (source.height, source.width), len(video.joints)
    if source.num_frames is not None and source.num_frames < length:
        raise OSError(f"{video.frames}: has {source.num_frames} frames, but {length} are annotated.")
    start = video.joints[0].clip(0, (size[1], size[0]))
    queries = np.concatenate([np.zeros((JOINTS, 1)), start], axis=1)
    tracks = tracker.track(np.stack(list(source.frames(0, length))), queries)
    found, truth = (rescale_points(p, size, SCORED_SIZE) for p in (tracks.tracks.transpose(1, 0, 2), video.joints))
    return tracks, count_jhmdb(found, truth)
