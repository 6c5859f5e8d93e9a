"""Labelled training pairs from real videos with tracks.

Tracks may be annotations, or the output of a stronger tracker: templates match dozens of cells at a high resolution, and training distils
that into the feature of every single cell.

    VIDEOS/camel.mp4 or VIDEOS/camel/00000.jpg ...      the video
    TRACKS/camel.npz                                     its tracks, as `fgvc-hf track` writes them
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..io.tracks import read_tracks
from ..tracking.results import PointTracks
from .video_folder import check_view, choose_view, clip_name, scaled_frames, video_sources


logger = logging.getLogger(__name__)

DRAWS = 300  # of a view, until it shows a point that is sure on both frames: tracks may cover parts of a video only
SAME_ASPECT = (
    0.05  # by how much of it the aspects of a video and of its tracks may differ: sides are rounded to pixels
)


class VideosWithTracks(Dataset):
    """Videos of a folder and where their tracks are sure.

    Args:
        folder: Videos, searched with its subfolders.
        tracks: Folder of the tracks: an .npz for each video, named as it; of a folder of images by its whole name.
        size, gap, area, aspect, short_side, seed: As of [`VideoFolder`].
        least_confidence (`float`), largest_error (`float`): Positions below this confidence, or above this expected error in pixels of the
            original video, are not used.

    Attributes:
        clips (list): Frames `(T, H, W, 3)`, uint8, tracks `(N, T, 2)` in their pixels, and which positions are sure `(N, T)`.

    Raises:
        `OSError`: no video has tracks, or one cannot be read. Videos without tracks are skipped, and their number is logged.
        `ValueError`: tracks are malformed, of another video, of fewer than two frames, or may be of two videos of one name.
    """

    def __init__(
        self,
        folder: str | Path,
        tracks: str | Path,
        size: int = 256,
        gap: tuple[int, int] = (1, 5),
        area: tuple[float, float] = (0.6, 1.0),
        aspect: tuple[float, float] = (1.5, 2.0),
        short_side: int = 256,
        least_confidence: float = 0.9,
        largest_error: float = 4.0,
        seed: int = 0,
    ):
        check_view(size, gap, area, aspect, seed=seed)
        self.size, self.seed, self.settings = size, seed, (gap, area, aspect)
        self.clips, missing, owners = [], 0, {}
        for source in video_sources(folder):
            path = Path(tracks) / f"{clip_name(source)}.npz"
            if not path.is_file():
                missing += 1
                continue
            if (owner := owners.setdefault(path, source)) != source:
                raise ValueError(
                    f"{path}: may be the tracks of {owner} or of {source}; give videos names of their own."
                )
            frames, found = scaled_frames(source, short_side), read_tracks(path)
            check_tracks(found, frames, path, source)
            scale = np.array(frames.shape[2:0:-1]) / found.size[::-1]
            sure = found.visible & (found.confidence >= least_confidence) & (found.uncertainty <= largest_error)
            self.clips.append((frames[: found.tracks.shape[1]], found.tracks * scale, sure))
        if missing:
            logger.warning("%s: left out %d videos without tracks in %s.", folder, missing, tracks)
        if not self.clips:
            raise OSError(f"{tracks}: holds no tracks (NAME.npz) of the videos in {folder}.")


class TrackedVideos(VideosWithTracks):
    """Pairs of frames by number, with the flow of the points that are visible on both.

    Args:
        folder, tracks, settings: As of [`VideosWithTracks`], which says what is raised.
        stride (`int`): Pixels per cell of the flow; every point sets the flow of the cell nearest to it.
    """

    def __init__(self, folder: str | Path, tracks: str | Path, *settings, stride: int = 2, **named):
        super().__init__(folder, tracks, *settings, **named)
        self.stride = stride

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frames `(2, 3, size, size)` in [0, 1], flow `(2, h, w, 2)` in pixels and where it is known `(2, h, w)`."""
        draw = np.random.default_rng((self.seed, index))
        frames, tracks, sure = self.clips[draw.integers(len(self.clips))]
        for _ in range(DRAWS):
            view = choose_view(len(frames), frames.shape[1:3], draw, self.size, *self.settings)
            positions = view.positions(tracks[:, view.numbers])  # (N, 2, 2)
            inside = ((positions >= 0) & (positions < self.size)).all(axis=(1, 2))
            positions = torch.from_numpy(positions[inside & sure[:, view.numbers].all(axis=1)]).float()
            if len(positions):
                break
        cells = self.size // self.stride
        flow, known = (
            torch.zeros((2, cells, cells, 2), dtype=torch.float32),
            torch.zeros((2, cells, cells), dtype=torch.bool),
        )
        for query, key in ((0, 1), (1, 0)):
            x, y = ((positions[:, query] - 0.5) / self.stride).round().long().clamp(0, cells - 1).unbind(1)
            flow[query, y, x] = positions[:, key] - positions[:, query]
            known[query, y, x] = True
        return torch.stack([view.crop(frames[number]) for number in view.numbers]).float() / 255, flow, known


def check_tracks(found: PointTracks, frames: np.ndarray, path: Path, source: Path) -> None:
    """A `ValueError` if tracks cannot be those of the frames `(T, H, W, 3)` of a video, or of a part of it from its first frame on."""
    length, (height, width) = found.tracks.shape[1], found.size
    if length > len(frames):
        raise ValueError(f"{path}: has tracks of {length} frames, but {source} has {len(frames)}.")
    if length < 2:
        raise ValueError(f"{path}: has tracks of {length} frame; two or more are needed.")
    if abs(frames.shape[2] / frames.shape[1] * height / width - 1) > SAME_ASPECT:
        raise ValueError(f"{path}: has tracks in frames of {height}x{width}, but {source} has another aspect.")
