"""DAVIS: video object segmentation from the masks of the first frame, in the official layout.

ROOT/JPEGImages/480p/SEQUENCE/00000.jpg
ROOT/Annotations/480p/SEQUENCE/00000.png
ROOT/ImageSets/2017/SPLIT.txt
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.files import not_hidden
from ..io.names import check_names
from ..io.text_files import read_text
from ..io.video import open_video
from ..metrics.region_contour import VOID, ObjectScores, count_davis
from ..tracker import Tracker
from .sequence_folders import masks_of_frames, read_masks


@dataclass(frozen=True)
class DavisVideo:
    """One sequence.

    Args:
        name (`str`): Name of the sequence.
        frames (`Path`): Folder of its frames.
        masks (`tuple[Path, ...]`): Annotation of each frame.
    """

    name: str
    frames: Path
    masks: tuple[Path, ...]


def split_names(root: Path, split: str) -> list[str]:
    """Sequences of a split.

    Raises:
        `OSError`: there is no such split; the message lists those that there are.
    """
    folder = root / "ImageSets" / "2017"
    file = folder / f"{split}.txt"
    if not file.is_file():
        present = [path.stem for path in not_hidden(folder.glob("*.txt"))]
        if not present:
            raise FileNotFoundError(f"{root}: ImageSets/2017/{split}.txt was expected there, as in DAVIS.")
        raise FileNotFoundError(f"{folder}: has no split {split!r}; there are {', '.join(present)}.")
    return read_text(file).split()


def load_davis(root: str | Path, split: str = "val") -> list[DavisVideo]:
    """The sequences of a split, checked.

    Raises:
        `OSError`: the folder has another layout, the split does not exist, or a frame lacks its mask or a mask its frame.
    """
    root = Path(root)
    root = root / "davis" if (root / "davis").is_dir() else root
    videos = []
    for name in check_names(split_names(root, split), f"{root}, split {split}"):
        frames, annotations = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        for folder in (frames, annotations):
            if not folder.is_dir():
                raise FileNotFoundError(f"{root}: {folder.relative_to(root)} was expected there, as in DAVIS.")
        videos.append(DavisVideo(name, frames, masks_of_frames(frames, annotations)))
    return videos


def segment(tracker: Tracker, video: DavisVideo) -> tuple[np.ndarray, dict[int, ObjectScores]]:
    """Propagate the masks of the first frame through a sequence, and score them.

    Returns:
        Object ids `(T, H, W)`, and the scores of each object. Where there is one object, annotated as 255, its id is 1.

    Raises:
        `ValueError`: a mask is of another size than its frame.
    """
    source = open_video(video.frames)
    truth = read_truth(video, source)
    first = np.where(truth[0] == VOID, 0, truth[0])
    found = np.zeros_like(truth)
    for t, ids in tracker.propagate_masks(source, first):
        found[t] = ids
    return found, count_davis(found, truth)


def read_truth(video: DavisVideo, source) -> np.ndarray:
    """Annotated ids `(T, H, W)`; 1 where there is one object, annotated as 255.

    Raises:
        `ValueError`: a mask is of another size than its frame.
    """
    truth = read_masks(video.masks, source)
    return (truth == VOID).astype(np.uint8) if set(np.unique(truth[0])) == {0, VOID} else truth
