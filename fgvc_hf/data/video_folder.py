"""Unlabelled real video: a folder of clips as pairs of frames for training, decoded with PyAV.

Number n gives the same clip, frames and crop in every process and after every restart.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..io.image_files import IMAGE_SUFFIXES
from ..io.video import VIDEO_SUFFIXES, open_video


logger = logging.getLogger(__name__)

READ_SUFFIXES = (*VIDEO_SUFFIXES, ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv")


def video_sources(folder: str | Path) -> list[Path]:
    """The videos in a folder and its subfolders, in name order: files, and folders of numbered images. Hidden files and folders are left out.

    Raises:
        `OSError`: the folder does not exist, or holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder of videos.")
    # A link that leads nowhere is among them, to be told like others that cannot be read
    inside = [path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder))]
    files = {path for path in inside if path.suffix.lower() in READ_SUFFIXES and not path.is_dir()}
    images = {path.parent for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()}
    found = sorted(files | images)
    if not found:
        raise FileNotFoundError(f"{folder}: holds no videos ({', '.join(READ_SUFFIXES)}, or folders of images).")
    return found


def is_hidden(path: Path) -> bool:
    """Whether a path below a folder is, or is in, one that begins with a dot, as macOS has them beside every file of other disks."""
    return any(part.startswith(".") for part in path.parts)


def clip_name(source: Path) -> str:
    """The name of a video without its suffix; a folder of images has none, and "." has that of the folder it stands for."""
    return source.absolute().name if source.is_dir() else source.stem


def scaled_frames(source, short_side: int, every: int = 1, most: int | None = None) -> np.ndarray:
    """Every `every`-th frame of a video, at `most` so many, `(T, H, W, 3)`, uint8, the shorter side reduced to `short_side` (never enlarged)."""
    if short_side < 1:
        raise ValueError(f"short_side must be at least 1, got {short_side}.")
    video = open_video(source)
    scale = min(1.0, short_side / min(video.height, video.width))
    size = round(video.width * scale), round(video.height * scale)
    frames = []
    stop = most and min((most - 1) * every + 1, video.num_frames)
    for frame in itertools.islice(video.frames(0, stop), 0, None, every):
        image = Image.fromarray(frame)
        frames.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR) if scale < 1 else image))
    return np.stack(frames)


def random_crop_box(height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], draw):
    """A box (left, top, right, bottom) of a random share of the frame and a random aspect (width by height)."""
    for _ in range(20):
        size = height * width * draw.uniform(*area)
        ratio = math.exp(draw.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_w, box_h = math.sqrt(size * ratio), math.sqrt(size / ratio)
        if box_w <= width and box_h <= height:
            left, top = draw.uniform(0, width - box_w), draw.uniform(0, height - box_h)
            return left, top, left + box_w, top + box_h
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@dataclass(frozen=True)
class View:
    """A part of a clip: numbers of frames, and a box (left, top, right, bottom) that is resized to a square of `size` pixels, mirrored or not."""

    numbers: list[int]
    box: tuple[float, float, float, float]
    mirrored: bool
    size: int

    def crop(self, frame: np.ndarray) -> torch.Tensor:
        """The view of a frame `(H, W, 3)`: `(3, size, size)`."""
        resized = Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BILINEAR, box=self.box)
        crop = np.asarray(resized)[:, ::-1] if self.mirrored else np.asarray(resized)
        return torch.from_numpy(crop.copy()).permute(2, 0, 1)

    def positions(self, points: np.ndarray) -> np.ndarray:
        """Positions in the view, in its pixels, of points `(..., 2)` (x, y) of the frames."""
        left, top, right, bottom = self.box
        found = (points - (left, top)) / (right - left, bottom - top) * self.size
        return found * (-1, 1) + (self.size, 0) if self.mirrored else found


def check_view(size: int, gap, area, aspect, offsets=(), seed: int = 0) -> None:
    """A `ValueError` if there is no view of such settings, as of [`VideoFolder`], or no random choice by the seed."""
    for name, value, fine, accepted in (
        ("size", size, size >= 1, "at least 1"),
        ("gap", gap, 1 <= gap[0] <= gap[1], "two numbers of frames, 1 or more, the smaller first"),
        ("area", area, 0 < area[0] <= area[1] <= 1, "two shares above 0 and up to 1, the smaller first"),
        ("aspect", aspect, 0 < aspect[0] <= aspect[1] < math.inf, "two numbers above 0, the smaller first"),
        (
            "offsets",
            offsets,
            all(a < b for a, b in itertools.pairwise((-1, *offsets))),
            "numbers from 0 on that increase",
        ),
        ("seed", seed, seed >= 0, "0 or more"),
    ):
        if not fine:
            raise ValueError(f"{name} must be {accepted}, got {value}.")


def choose_view(
    length: int, frame: tuple[int, int], draw: np.random.Generator, size: int, gap, area, aspect, offsets=()
) -> View:
    """A random view of a clip, forward or backward in time: two frames within the gap, or one at each offset.

    Args:
        length (`int`): Frames of the clip.
        frame (`tuple[int, int]`): Their (height, width).
        draw (`numpy.random.Generator`): Of the random choices.
        size, gap, area, aspect, offsets: As of [`VideoFolder`]. If the clip is shorter than the last offset, frames are spread evenly over it.

    Raises:
        `ValueError`: the clip has fewer frames.
    """
    if length < max(2, len(offsets)):
        raise ValueError(f"a clip has {length} frames, but {max(2, len(offsets))} are needed.")
    if not offsets:
        offsets = (0, min(int(draw.integers(gap[0], gap[1] + 1)), length - 1))
    elif length <= offsets[-1]:
        offsets = np.linspace(0, length - 1, len(offsets)).round().astype(int).tolist()
    first = int(draw.integers(length - offsets[-1]))
    box = random_crop_box(*frame, area, aspect, draw)
    mirrored, backward = draw.random() < 0.5, draw.random() < 0.5
    numbers = [first + offset for offset in offsets]
    return View(numbers[::-1] if backward else numbers, box, bool(mirrored), size)


def choose_clip(
    clip: Sequence | np.ndarray, decode: Callable, draw: np.random.Generator, size: int, gap, area, aspect, offsets=()
) -> torch.Tensor:
    """A random view of a clip, uint8 `(T, 3, size, size)`; see [`choose_view`]. `decode` returns the frame (H, W, 3) of an element of the clip."""
    frame = decode(clip[0]).shape[:2] if len(clip) else (0, 0)
    view = choose_view(len(clip), frame, draw, size, gap, area, aspect, offsets)
    frames = [decode(clip[number]) for number in view.numbers]
    if any(other.shape[:2] != frame for other in frames):
        raise ValueError("frames of a clip must have one size.")
    return torch.stack([view.crop(other) for other in frames])


class HeldClips(Dataset):
    """Pairs of frames, or clips of several, of clips that are held in memory.

    Args:
        source: Where the clips are from, for messages.
        clips (list of `numpy.ndarray` of shape `(T, H, W, 3)`, uint8): Those of fewer than two frames, or than there are offsets, are left out.
        size, gap, area, aspect, offsets, length, seed: As of [`VideoFolder`].

    Raises:
        `ValueError`: no clip is left, or a setting is not among those accepted.
    """

    def __init__(
        self,
        source: str | Path,
        clips: list[np.ndarray],
        size: int = 256,
        gap: tuple[int, int] = (1, 5),
        area: tuple[float, float] = (0.6, 1.0),
        aspect: tuple[float, float] = (1.5, 2.0),
        offsets: tuple[int, ...] = (),
        length: int = 2**40,
        seed: int = 0,
    ):
        check_view(size, gap, area, aspect, offsets, seed)
        least = max(2, len(offsets))
        self.clips, self.settings = [clip for clip in clips if len(clip) >= least], (size, gap, area, aspect, offsets)
        if not self.clips:
            raise ValueError(f"{source}: holds no clip of at least {least} frames.")
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        """Pair or clip `index`, uint8 of shape `(T, 3, size, size)`; the frames in either order of time."""
        draw = np.random.default_rng((self.seed, index))
        clip = self.clips[draw.integers(len(self.clips))]
        return choose_clip(clip, lambda frame: frame, draw, *self.settings)

    def texture_images(self, count: int, height: int, width: int) -> torch.Tensor:
        """`count` frames spread over all clips, for synthetic pairs: uint8 of shape `(count, 3, height, width)`."""
        return resized_images([_spread(self.clips, i, count) for i in range(count)], height, width)


def readable_clips(
    folder: str | Path, short_side: int, least: int = 2, every: int = 1, most: int | None = None
) -> Iterator[tuple[Path, np.ndarray]]:
    """The videos in a folder and their frames by [`scaled_frames`]. Others are skipped, and their number is logged.

    Args:
        folder: Searched with its subfolders.
        short_side (`int`): The shorter side of frames is reduced to this, in pixels.
        least (`int`): Videos of fewer frames are skipped.
        every, most (`int`): Only every `every`-th frame of a video, and at most so many.

    Raises:
        `OSError`: the folder holds no video that can be read with so many frames.
    """
    count, skipped, found = "two" if least == 2 else least, [], False
    for source in video_sources(folder):
        try:
            frames = scaled_frames(source, short_side, every, most)
        except OSError as error:
            skipped.append((source.name, str(error)))
            continue
        if len(frames) < least:
            skipped.append((source.name, f"fewer than {count} frames"))
            continue
        found = True
        yield source, frames
    if skipped:
        name, reason = skipped[0]
        logger.warning("%s: left out %d videos, the first is %s (%s).", folder, len(skipped), name, reason)
    if not found:
        raise OSError(f"{folder}: holds no video of at least {count} frames that can be read.")


class VideoFolder(HeldClips):
    """Pairs of frames, or clips of several, of the videos in a folder, which are held in memory at reduced size.

    Args:
        folder: Searched with its subfolders.
        size (`int`): Side of the crops.
        gap (`tuple[int, int]`): Least and largest number of frames from one frame of a pair to the other.
        area, aspect (`tuple[float, float]`): Ranges of the share of the frame that a crop covers, and of its width / height. The
            defaults are those of the released code, which resizes crops of wide video to squares.
        offsets (`tuple[int, ...]`): Frames of a clip by their offset from its first frame, instead of pairs within the gap.
        short_side (`int`): The shorter side of frames is reduced to this, in pixels.
        length (`int`): Number of pairs.
        seed (`int`): A pair depends on it and on its number alone.

    Raises:
        `OSError`: the folder holds no video that can be read with at least two frames, or as many as there are offsets. Other videos are
            skipped, and their number is logged.
        `ValueError`: a setting is not among those accepted.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int = 256,
        gap: tuple[int, int] = (1, 5),
        area: tuple[float, float] = (0.6, 1.0),
        aspect: tuple[float, float] = (1.5, 2.0),
        offsets: tuple[int, ...] = (),
        short_side: int = 256,
        length: int = 2**40,
        seed: int = 0,
    ):
        check_view(size, gap, area, aspect, offsets, seed)  # before the videos are read
        clips = [frames for _, frames in readable_clips(folder, short_side, max(2, len(offsets)))]
        super().__init__(folder, clips, size, gap, area, aspect, offsets, length, seed)


def _spread(clips: Sequence[np.ndarray], index: int, count: int) -> np.ndarray:
    """The `index`-th of `count` frames, spread evenly over all clips."""
    clip = clips[index % len(clips)]
    turns = math.ceil(count / len(clips))
    return clip[int((index // len(clips) + 0.5) / turns * len(clip))]


def resized_images(images: Sequence[np.ndarray], height: int, width: int) -> torch.Tensor:
    """Images `(H, W, 3)` of any size, centre-cropped to the aspect and resized: `(N, 3, height, width)`."""
    resized = []
    for image in images:
        picture = Image.fromarray(image)
        scale = max(height / picture.height, width / picture.width)
        box_w, box_h = width / scale, height / scale
        left, top = (picture.width - box_w) / 2, (picture.height - box_h) / 2
        box = (left, top, left + box_w, top + box_h)
        resized.append(np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box)))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
