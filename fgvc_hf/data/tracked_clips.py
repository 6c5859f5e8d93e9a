"""Clips of real videos with tracks, for the objective of tracking, over which parts of other clips move.

Tracks that agree forwards and backwards know little of what trackers lose points by: outlines, thin things, and what covers a point. So a part of
another clip, with a random outline, moves over a clip. Its points are on a surface whose background moves otherwise, and points of the clip are
hidden where it covers them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from .clip_disturbance import disturb
from .scene import Random
from .tracked_videos import DRAWS, VideosWithTracks
from .video_folder import View, choose_view


LATER = 2  # frames of a clip after its first one
POINTS, PASTED = 48, 12  # of a clip, and how many of them at most are of the part that moves over it
LEAST_POINTS = 8  # that a view shows on two frames or more, if one is found
MARGIN = 2.0  # pixels from the border within which a point is not used
DISTURBED, STRENGTH = (
    0.5,
    0.7,
)  # share of the clips with changed light, noise and compression, and how strong; see `disturb`
PASTES = 0.6  # share of the clips that a part of another one moves over
SIDES = 0.2, 0.7  # of a part, as shares of the crop
SPEEDS = 0.3, 1.5, 4.0  # standard deviations of its own motion, of which one is chosen, in pixels per frame
COVERED, FREE = 0.6, 0.1  # opacity from which on a point is hidden, and below which it is visible
SLOW, FAST = (
    3.0,
    20.0,
)  # pixels: points are chosen as often as they move against the median, and these more; from FAST on no more often
OF_POINTS = "tracks", "visible", "hidden", "motion"  # fields of a [`Crop`]


@dataclass(frozen=True)
class Crop:
    """
    Frames of a clip and its points.

    Args:
        frames (`numpy.ndarray` of shape `(T, S, S, 3)`, uint8): Square crops.
        numbers (`numpy.ndarray` of shape `(T,)`): Of the frames.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`): (x, y) in pixels of the crops; NaN where unknown.
        visible, hidden (`numpy.ndarray` of shape `(N, T)`, bool): Known to be visible, and known to be covered; of others nothing is known.
        motion (`numpy.ndarray` of shape `(N,)`): Pixels by which a point moves against the median.
    """

    frames: np.ndarray
    numbers: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray
    hidden: np.ndarray
    motion: np.ndarray


class TrackedClips(VideosWithTracks):
    """Clips of three frames by number: the first, and two later ones within `gap`, in either order of time. The crop follows one of the points.

    Takes what [`VideosWithTracks`] takes, and raises what it raises. Videos of fewer frames are left out.
    """

    def __init__(self, folder: str | Path, tracks: str | Path, *settings, **named):
        super().__init__(folder, tracks, *settings, **named)
        self.clips = [clip for clip in self.clips if len(clip[0]) > LATER]
        if not self.clips:
            raise OSError(f"{folder}: holds no video of at least {LATER + 1} frames that has tracks.")

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frames `(T, 3, size, size)` in [0, 1], tracks `(POINTS, T, 2)` in pixels, and where points are visible and where hidden `(POINTS, T)`."""
        draw = np.random.default_rng((self.seed, index))
        first, last = self.settings[0]
        later = np.sort(draw.choice(np.arange(first, last + 1), min(LATER, last - first + 1), replace=False))
        offsets = [0, *later.tolist()]
        crop = self._crop(draw, offsets)
        own = chosen(crop, POINTS - PASTED, draw)
        if draw.random() < PASTES:
            own, other = pasted(own, self._crop(draw, offsets), draw)
            own = joined(own, chosen(other, PASTED, draw))
        frames = torch.from_numpy(own.frames).movedim(-1, 1).float() / 255
        if draw.random() < DISTURBED:
            frames = disturb(frames[None], Random([int(draw.integers(2**40))]), STRENGTH)[0]
        missing = POINTS - len(own.tracks)
        tracks = np.pad(np.nan_to_num(own.tracks), ((0, missing), (0, 0), (0, 0)))
        visible, hidden = (np.pad(of, ((0, missing), (0, 0))) for of in (own.visible, own.hidden))
        return frames, torch.from_numpy(tracks).float(), torch.from_numpy(visible), torch.from_numpy(hidden)

    def _crop(self, draw: np.random.Generator, offsets: Sequence[int]) -> Crop:
        """A random view that follows one of its points, drawn until it shows some points on two frames."""
        frames, tracks, sure = self.clips[draw.integers(len(self.clips))]
        size = frames.shape[1:3]
        for _ in range(DRAWS):
            view = choose_view(len(frames), size, draw, self.size, *self.settings, offsets)
            seen, places = sure[:, view.numbers], tracks[:, view.numbers]  # (N, T), (N, T, 2)
            shown = seen.sum(axis=1) >= 2
            motion = motion_of(places, shown)
            views = [replace(view, numbers=[number]) for number in view.numbers]
            if whole := np.flatnonzero(seen.all(axis=1)).tolist():
                weights = SLOW + np.minimum(motion[whole], FAST)
                followed = places[draw.choice(whole, p=weights / weights.sum())]
                views = [following(one, place, size, draw) for one, place in zip(views, followed, strict=True)]
            found = np.stack([one.positions(places[:, i]) for i, one in enumerate(views)], axis=1)
            inside = ((found >= MARGIN) & (found < self.size - MARGIN)).all(axis=2)
            if ((seen & inside).sum(axis=1) >= 2).sum() >= LEAST_POINTS:
                break
        images = [one.crop(frames[one.numbers[0]]).permute(1, 2, 0).numpy() for one in views]
        visible = seen & inside
        return Crop(np.stack(images), np.array(view.numbers), found, visible, np.zeros_like(visible), motion)


def motion_of(places: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Pixels (N,) by which points move against the median of those shown, from the first to the last of the places (N, T, 2); 0 if unknown."""
    moved = places[:, -1] - places[:, 0]
    known = shown & np.isfinite(moved).all(axis=1)
    if not known.any():
        return np.zeros(len(places))
    return np.where(known, np.linalg.norm(np.nan_to_num(moved - np.median(moved[known], axis=0)), axis=1), 0.0)


def following(view: View, place: np.ndarray, size: tuple[int, int], draw: np.random.Generator) -> View:
    """A view of the same size, inside the frame of (height, width), that shows a place (x, y) in its middle half if it can."""
    left, top, right, bottom = view.box
    sides = np.array([right - left, bottom - top])
    corner = np.clip(place - sides * draw.uniform(0.25, 0.75, 2), 0, np.maximum(np.array(size[::-1]) - sides, 0))
    return replace(view, box=(*corner.tolist(), *(corner + sides).tolist()))


def chosen(crop: Crop, count: int, draw: np.random.Generator) -> Crop:
    """At most `count` points of those seen on two frames, fast ones more often."""
    usable = np.flatnonzero(crop.visible.sum(axis=1) >= 2)
    rows = usable
    if len(usable) > count:
        weights = SLOW + np.minimum(crop.motion[usable], FAST)
        rows = draw.choice(usable, count, replace=False, p=weights / weights.sum())
    return replace(crop, **{name: getattr(crop, name)[rows] for name in OF_POINTS})


def joined(crop: Crop, other: Crop) -> Crop:
    """The frames of a crop with the points of both."""
    return replace(crop, **{name: np.concatenate([getattr(crop, name), getattr(other, name)]) for name in OF_POINTS})


def pasted(crop: Crop, other: Crop, draw: np.random.Generator) -> tuple[Crop, Crop]:
    """A crop that a part of another one moves over, and that other one with its points where the part is."""
    whole = np.flatnonzero(other.visible.all(axis=1))
    if not len(whole):
        return crop, chosen(other, 0, draw)
    size = len(crop.frames[0])
    shape = outline(int(draw.uniform(*SIDES) * size), draw)
    # The part moves with one of its points in its own clip, and by itself over the other one, by whole pixels
    corners = (other.tracks[draw.choice(whole)] - len(shape) * draw.uniform(0.3, 0.7, 2)).round().astype(int)
    speed = draw.choice(SPEEDS) * draw.normal(size=2)
    start = draw.uniform(0.15, 0.85, 2) * size - len(shape) / 2 - corners[0]
    shifts = (start + speed * np.abs(crop.numbers - crop.numbers[0])[:, None]).round().astype(int)  # (T, 2)
    light = draw.uniform(0.75, 1.25)
    frames, opacity = [], []
    for below, above, corner, shift in zip(crop.frames, other.frames, corners, shifts, strict=True):
        alpha = moved(shape, corner + shift, size) * moved(np.ones((size, size)), shift, size)
        part = moved(above, shift, size) * light
        frames.append((below + (part - below) * alpha[..., None]).clip(0, 255).astype(np.uint8))
        opacity.append(alpha)
    covered = opacity_at(np.stack(opacity), crop.tracks)
    places = other.tracks + shifts
    inside = ((places >= MARGIN) & (places < size - MARGIN)).all(axis=2)
    shown = other.visible & inside & (opacity_at(np.stack(opacity), places) > COVERED)
    below = replace(
        crop,
        frames=np.stack(frames),
        visible=crop.visible & (covered < FREE),
        hidden=crop.visible & (covered > COVERED),
    )
    return below, replace(other, tracks=places, visible=shown, hidden=np.zeros_like(shown))


def moved(image: np.ndarray, corner: np.ndarray, size: int) -> np.ndarray:
    """An image (h, w, ...) with its first pixel at `corner` (x, y) of a square of `size` pixels, 0 around it."""
    canvas = np.zeros((size, size, *image.shape[2:]), np.float32)
    (left, top), (height, width) = corner.tolist(), image.shape[:2]
    rows, columns = (
        slice(max(top, 0), max(min(top + height, size), 0)),
        slice(max(left, 0), max(min(left + width, size), 0)),
    )
    part = canvas[rows, columns]
    part[:] = image[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]]
    return canvas


def opacity_at(opacity: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Opacity (N, T), by frames (T, S, S), of the pixels of tracks (N, T, 2)."""
    x, y = np.nan_to_num(tracks).clip(0, opacity.shape[1] - 1).astype(int).transpose(2, 0, 1)
    return opacity[np.arange(len(opacity)), y, x]


def outline(side: int, draw: np.random.Generator) -> np.ndarray:
    """The opacity (side, side) of a random shape: a polygon, an ellipse or a bar, with soft edges."""
    image, middle = Image.new("L", (side, side)), side / 2
    kind, pen = draw.integers(4), ImageDraw.Draw(image)
    if kind < 2:
        corners = draw.integers(5, 10)
        angles, reach = np.sort(draw.uniform(0, 2 * np.pi, corners)), draw.uniform(0.2, 0.48, corners) * side
        pen.polygon(
            [(middle + r * np.cos(a), middle + r * np.sin(a)) for a, r in zip(angles, reach, strict=True)], 255
        )
    else:
        low, high = (0.15, 0.48) if kind == 2 else (0.03, 0.12)
        width, height = draw.uniform(low, high) * side, (draw.uniform(low, high) if kind == 2 else 0.48) * side
        box = middle - max(width, 1), middle - height, middle + max(width, 1), middle + height
        (pen.ellipse if kind == 2 else pen.rectangle)(box, 255)
    turned = image.rotate(draw.uniform(0, 180), Image.Resampling.BILINEAR)
    return np.asarray(turned.filter(ImageFilter.GaussianBlur(draw.uniform(0.4, 1.0))), np.float32) / 255


__all__ = ["TrackedClips"]
