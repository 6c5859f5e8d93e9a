"""JHMDB: fifteen joints of people, in the official layout.

ROOT/Rename_Images/ACTION/CLIP/00001.png
ROOT/joint_positions/ACTION/CLIP/joint_positions.mat
ROOT/splits/ACTION_test_split1.txt                 lines `CLIP.avi 1`, or 2 where the clip is for testing
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..coordinates import rescale_points
from ..io.files import not_hidden
from ..io.json_files import reason_of
from ..io.names import check_name
from ..io.text_files import cut, read_text
from ..metrics.pck import JhmdbCounts, count_jhmdb
from ..tracker import Tracker
from ..tracking.results import PointTracks
from .baselines import ChainedTracker
from .sequence_folders import numbered_frames, sequence_of


JOINTS = 15
SCORED_SIZE = (320, 320)  # (height, width) that distances are measured in


@dataclass(frozen=True)
class JhmdbVideo:
    """One clip: its name, its annotated frames, and its joints (T, 15, 2), (x, y) in pixels of the frames."""

    name: str
    frames: tuple[Path, ...]
    joints: np.ndarray


def load_jhmdb(root: str | Path, split: str | None = None) -> list[JhmdbVideo]:
    """The test clips of a split, `"split1"` (the one in use) to `"split3"`.

    Raises:
        `OSError`: the folder has another layout, the split does not exist, or a file is missing or damaged.
        `ImportError`: scipy, which reads the annotations, is not installed.
    """
    root = Path(root)
    lists = not_hidden((root / "splits").glob("*_test_split?.txt"))
    present = sorted({path.stem[-6:] for path in lists})
    if not present:
        raise FileNotFoundError(f"{root}: splits/ACTION_test_split1.txt was expected there, as in JHMDB.")
    split = split or "split1"
    if split not in present:
        raise FileNotFoundError(f"{root}/splits: has no {split!r}; there are {', '.join(present)}.")
    videos = []
    for path in lists:
        action, _, _ = path.stem.rpartition(f"_test_{split}")
        for line in read_text(path).splitlines() if action else ():
            words = line.split()
            if len(words) not in (0, 2):
                raise OSError(f"{path}: holds the line {cut(line)!r}, but CLIP.avi and 1 or 2 were expected.")
            if words and words[1] == "2":
                clip = words[0]
                videos.append(_load(root, action, check_name(clip.removesuffix(Path(clip).suffix), path)))
    return videos


def _load(root: Path, action: str, clip: str) -> JhmdbVideo:
    frames = root / "Rename_Images" / action / clip
    file = root / "joint_positions" / action / clip / "joint_positions.mat"
    for path in (frames, file):
        if not path.exists():
            raise FileNotFoundError(f"{root}: {path.relative_to(root)} was expected there, as in JHMDB.")
    joints = read_joints(file)
    return JhmdbVideo(f"{action}-{clip}", numbered_frames(frames, range(1, len(joints) + 1)), joints)


def read_joints(path: Path) -> np.ndarray:
    """Joints (T, 15, 2) of an annotation: (x, y) in pixels. In the file pixels are counted from 1, at their centres."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        positions = np.asarray(loadmat(path, variable_names=["pos_img"])["pos_img"], dtype=float)
    except (MatReadError, ValueError, IndexError, KeyError, TypeError, NotImplementedError) as error:
        raise OSError(f"{path}: is no annotation of JHMDB ({reason_of(error)}).") from None
    if positions.ndim != 3 or positions.shape[:2] != (2, JOINTS) or not positions.size:
        raise OSError(f"{path}: holds pos_img of {positions.shape}, but (2, {JOINTS}, T) was expected.")
    known = np.isfinite(positions).all(axis=(0, 1))
    if not known.all():
        raise OSError(f"{path}: holds a joint of frame {known.argmin() + 1:05d} that is NaN or infinite.")
    return positions.transpose(2, 1, 0) - 0.5


def follow_people(tracker: Tracker | ChainedTracker, video: JhmdbVideo) -> tuple[PointTracks, JhmdbCounts]:
    """Track the joints of the first frame to the last annotated one, and compare them with the annotations.

    Returns:
        The tracks in pixels of the frames, and the counts.
    """
    source = sequence_of(video.frames)
    size = source.height, source.width
    start = video.joints[0].clip(0, (size[1], size[0]))
    queries = np.concatenate([np.zeros((JOINTS, 1)), start], axis=1)
    tracks = tracker.track(np.stack(list(source.frames())), queries)
    found, truth = (rescale_points(p, size, SCORED_SIZE) for p in (tracks.tracks.transpose(1, 0, 2), video.joints))
    return tracks, count_jhmdb(found, truth)
