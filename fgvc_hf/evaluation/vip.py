"""VIP: parts of people, in the official layout.

ROOT/lists/val_videos.txt
ROOT/Images/VIDEO/000000000001.jpg
ROOT/Annotations/Category_ids/VIDEO/000000000001.png
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.files import not_hidden
from ..io.names import check_names
from ..io.text_files import read_text
from ..io.video import open_video
from ..metrics.mean_iou import confusion
from ..tracker import Tracker
from .sequence_folders import masks_of_frames, read_masks


UNKNOWN = 255  # annotated value that is not scored


@dataclass(frozen=True)
class VipVideo:
    """One video: its name, the folder of its frames, and the part labels of each frame."""

    name: str
    frames: Path
    labels: tuple[Path, ...]


def load_vip(root: str | Path, split: str | None = None) -> list[VipVideo]:
    """The videos of a split, `"val"` by default.

    Raises:
        `OSError`: the folder has another layout, the split does not exist, or a frame lacks its labels or labels their frame.
    """
    root = Path(root)
    root = root / "VIP_Fine" if (root / "VIP_Fine").is_dir() else root
    lists = {path.stem.removesuffix("_videos"): path for path in not_hidden((root / "lists").glob("*_videos.txt"))}
    if not lists:
        raise FileNotFoundError(f"{root}: lists/val_videos.txt was expected there, as in VIP.")
    split = split or "val"
    if split not in lists:
        raise FileNotFoundError(f"{root}/lists: has no split {split!r}; there are {', '.join(lists)}.")
    videos = []
    for name in check_names(read_text(lists[split]).split(), lists[split]):
        frames, labels = root / "Images" / name, root / "Annotations" / "Category_ids" / name
        for folder in (frames, labels):
            if not folder.is_dir():
                raise FileNotFoundError(f"{root}: {folder.relative_to(root)} was expected there, as in VIP.")
        videos.append(VipVideo(name, frames, masks_of_frames(frames, labels)))
    return videos


def label_parts(tracker: Tracker, video: VipVideo) -> tuple[np.ndarray, np.ndarray]:
    """Propagate the part labels of the first frame through a video, and compare them with the annotations.

    Returns:
        Labels `(T, H, W)`, and the confusion matrix over all frames, the first included.

    Raises:
        `ValueError`: labels are of another size than their frame.
    """
    source = open_video(video.frames)
    truth = read_masks(video.labels, source)
    found = np.zeros_like(truth)
    first = np.where(truth[0] == UNKNOWN, 0, truth[0])
    if first.any():
        for t, ids in tracker.propagate_masks(source, first):
            found[t] = ids
    return found, confusion(found, truth, ignore=UNKNOWN)
