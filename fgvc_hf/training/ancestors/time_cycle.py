"""TimeCycle: learning correspondence from the cycle-consistency of time (Wang, Jabri and Efros, CVPR 2019).

A patch of a frame is tracked backward through earlier frames and forward again, and should end where it began. The tracker is differentiable:
the distance between start and end is the loss, and its gradient reaches the features of every step of the cycle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...conversion.official import SOURCES
from ...data.scene import Random
from ...modeling_fgvc import FgvcModel
from ..objectives import cell_grid, unit_length
from ..recipes import check_not_negative
from .patch_localisation import Place, Size, crop, crop_image, localise, products, transported
from .video_training import VideoRecipe, VideoTraining


BASE_FRAMES = 4  # earlier frames, which cycles go through
GRID = 9  # blocks along a side of the frame whose motion is compared
CANDIDATES = 10  # a patch is drawn from so many places with the most motion
TURN = 45.0  # largest rotation of a patch, in degrees
SAMPLES = 2  # points per cell and axis by which places are compared
KERNEL = 4  # side of the convolutions of the localiser
SCALE = 512**0.5  # on cosines, before the softmax


@dataclass(frozen=True)
class TimeCycleRecipe(VideoRecipe):
    """Hyperparameters of TimeCycle.

    Args:
        patch (`int`): Side of the patches in pixels, a third of the frame's.
        patches (`int`): Patches per clip. The paper tracks one; more share the features of the frames.
        offsets (`tuple[int, ...]`): Frames of a clip, in order of time: four that cycles go through, the patch's own, and a later one by which
            a moving patch is chosen.
        localiser (`str`): From an affinity to a place. `"network"`: two convolutions and a linear layer, as in the paper.
            `"coordinates"`: mean and rotation of the expected positions, without parameters.
        similarity (`float`), skip (`float`), long (`float`): Weights of the inlier similarity, of skip cycles and of long cycles.
        steps, ...: As of [`VideoRecipe`].
    """

    patch: int = 80
    patches: int = 1
    offsets: tuple[int, ...] = (0, 2, 4, 6, 15, 17)
    localiser: str = "network"
    similarity: float = 1.0
    skip: float = 0.1
    long: float = 0.02

    betas = (0.5, 0.999)
    max_grad_norm = 10.0
    config = SOURCES["time-cycle"].config
    processor = SOURCES["time-cycle"].processor

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(self, "similarity", "skip", "long")
        self.check_side("patch")
        if self.patch >= self.frame:
            raise ValueError(f"patch must be smaller than the frame of {self.frame} pixels, got {self.patch}.")
        if self.patches < 1:
            raise ValueError(f"patches must be 1 or more, got {self.patches}.")
        if len(self.offsets) != BASE_FRAMES + 2 or self.offsets[0] or list(self.offsets) != sorted({*self.offsets}):
            raise ValueError(f"offsets must be {BASE_FRAMES + 2} increasing numbers from 0 on, got {self.offsets}.")
        if self.localiser not in ("network", "coordinates"):
            raise ValueError(f"localiser must be 'network' or 'coordinates', got {self.localiser!r}.")

    @property
    def clip_settings(self) -> tuple:
        return *super().clip_settings, self.offsets

    @property
    def weights(self) -> dict[str, float]:
        return {"similarity": self.similarity, "skip": self.skip, "long": self.long}


class Localiser(nn.Module):
    """The network that maps the affinity of a patch to its place (x, y, angle).

    Args:
        frame, patch (`int`): Cells along a side of the frame's and of the patch's map.

    Raises:
        `ValueError`: the patch is too small for its convolutions.
    """

    def __init__(self, frame: int, patch: int):
        super().__init__()
        left = patch - 2 * (KERNEL - 1)
        if left < 1:
            raise ValueError(
                f"patch must have at least {2 * KERNEL - 1} cells along a side for the localiser, got {patch}."
            )
        place = nn.Linear(64 * left**2, 3, dtype=torch.float32)
        nn.init.normal_(place.weight, std=0.01)
        nn.init.zeros_(place.bias)
        self.layers = nn.Sequential(
            nn.Conv2d(frame**2, 128, KERNEL, bias=False, dtype=torch.float32),
            nn.LeakyReLU(0.1),
            nn.Conv2d(128, 64, KERNEL, bias=False, dtype=torch.float32),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            place,
        )
        self.frame, self.patch = frame, patch

    def forward(self, weights: torch.Tensor) -> Place:
        """The places of patches by the softmax of their affinity `(B, h * w, H * W)`."""
        x, y, angle = self.layers(weights.mT.unflatten(2, (self.patch, self.patch))).unbind(1)
        half = (self.frame - 1) / 2
        return Place.at(half * (1 + torch.stack([x, y], dim=1)), angle)


@dataclass
class Tracked:
    """A patch localised on a frame: its features `(B, h, w, C)` there, its place, and the affinity `(B, h * w, H * W)`."""

    features: torch.Tensor
    place: Place
    affinity: torch.Tensor = field(repr=False)


PatchTracker = Callable[[torch.Tensor, torch.Tensor], Tracked]  # from features of a patch and of a frame


class TimeCycleTraining(VideoTraining):
    """TimeCycle's losses.

    Args:
        model ([`FgvcModel`]): The encoder that is trained.
        recipe ([`TimeCycleRecipe`]): Its hyperparameters.
    """

    def __init__(self, model: FgvcModel, recipe: TimeCycleRecipe):
        super().__init__(model, recipe)
        stride = model.config.output_stride
        learnt = recipe.localiser == "network"
        self.localiser = Localiser(recipe.frame // stride, recipe.patch // stride) if learnt else None

    def forward(self, frames: torch.Tensor, seeds: list[int], step: int, labelled=None) -> dict[str, torch.Tensor]:
        """Losses by name, each the mean over the patches of clips `(B, 6, 3, H, W)`, uint8: base frames, the patch's frame, and a later one."""
        recipe, stride = self.recipe, self.model.config.output_stride
        images, cells = frames.float() / 255, recipe.patch // stride
        seeds = [recipe.patches * seed + i for seed in seeds for i in range(recipe.patches)]
        last_pair = images[:, -2:].repeat_interleave(recipe.patches, dim=0)
        place = choose_patches(last_pair, Random(seeds, frames.device), recipe.patch, stride)
        patch = self.encode(crop_image(last_pair[:, 0], place, (cells, cells), stride))
        features = self.encode(images[:, :-1].flatten(0, 1)).unflatten(0, images[:, :-1].shape[:2])
        *base, target = features.repeat_interleave(recipe.patches, dim=0).unbind(1)
        with torch.autocast(frames.device.type, enabled=False):
            losses = cycle_losses(self.track, patch, base, target, place)
        return {name: loss.mean() for name, loss in losses.items()}

    @torch.no_grad()
    def draw(self, frames: torch.Tensor | None, labelled, seeds: list[int]) -> dict[str, np.ndarray]:
        """One row per clip: the patch on its own frame, and where it is found on the frames before it, the latest first."""
        assert frames is not None
        images, size = frames.float() / 255, (self.recipe.patch // self.model.config.output_stride,) * 2
        place = choose_patches(images[:, -2:], Random(seeds), self.recipe.patch, self.model.config.output_stride)
        patch = self.encode(crop_image(images[:, -2], place, size, self.model.config.output_stride))
        places = [place] + [self.track(patch, self.encode(images[:, t])).place for t in (3, 2, 1, 0)]
        rows = [
            np.concatenate(
                [self.outlined(clip[t], at, i, size) for t, at in zip((4, 3, 2, 1, 0), places, strict=True)], 1
            )
            for i, clip in enumerate(images)
        ]
        return {"real": np.concatenate(rows)}

    def track(self, patch: torch.Tensor, frame: torch.Tensor) -> Tracked:
        """Localise patches `(B, h, w, C)` on frames `(B, H, W, C)`."""
        size = patch.shape[1:3]
        affinity = products(unit_length(patch), unit_length(frame), SCALE)
        if self.localiser is None:
            place = localise(transported(affinity, cell_grid(frame), size), turns=True, scales=False)
        else:
            place = self.localiser(affinity.softmax(-1))
        return Tracked(crop(frame, place, size), place, affinity)


def cycle_losses(
    track: PatchTracker, patch: torch.Tensor, base: Sequence[torch.Tensor], target: torch.Tensor, place: Place
) -> dict[str, torch.Tensor]:
    """Losses `(B,)` by name: inlier similarity, skip cycles through each earlier frame, and long cycles through the last 1 to 4 of them.

    Args:
        track: The differentiable tracker.
        patch (`torch.Tensor` of shape `(B, h, w, C)`): Patches of the target.
        base (sequence of `torch.Tensor` of shape `(B, H, W, C)`): Earlier frames, in order of time.
        target (`torch.Tensor` of shape `(B, H, W, C)`): The frame that the patches are of.
        place ([`Place`]): Their true place on it.
    """
    size, frame = patch.shape[1:3], target.shape[1:3]
    direct = [track(patch, features) for features in base]
    ends = [track(found.features, target).place for found in direct]
    long = [cycle(track, patch, [*base[len(base) - length :]], target) for length in range(1, len(base) + 1)]
    return {
        "similarity": torch.stack([inlier_loss(found, frame) for found in direct]).mean(0),
        "skip": torch.stack([distance(end, place, size, frame) for end in ends]).mean(0),
        "long": torch.stack([distance(end, place, size, frame) for end in long]).mean(0),
    }


def cycle(track: PatchTracker, patch: torch.Tensor, base: Sequence[torch.Tensor], target: torch.Tensor) -> Place:
    """The place on the target of a patch that is tracked backward through all of `base`, forward again, and to the target."""
    for features in [*base[::-1], *base[1:]]:
        patch = track(patch, features).features
    return track(patch, target).place


def distance(found: Place, true: Place, size: Size, frame: Size) -> torch.Tensor:
    """Mean squared distance `(B,)` between the points of a patch of `size` cells at two places, in units of half the frame."""
    half = (found.centre.new_tensor([frame[1], frame[0]]) - 1) / 2
    points = [place.positions(size, SAMPLES) / half for place in (found, true)]
    return (points[0] - points[1]).square().sum(-1).mean((1, 2))


def inlier_loss(found: Tracked, frame: Size) -> torch.Tensor:
    """1 minus the mean affinity `(B,)` at the positions of the place that lie on the frame, the inliers; 0 for a certain affinity that agrees."""
    positions = found.place.positions(found.features.shape[1:3]).flatten(1, 2)  # (B, N, 2)
    half = (positions.new_tensor([frame[1], frame[0]]) - 1) / 2
    maps = found.affinity.softmax(-1).flatten(0, 1).view(-1, 1, *frame)
    grid = (positions / half - 1).view(-1, 1, 1, 2)
    mass = F.grid_sample(maps, grid, align_corners=True).view(positions.shape[:2])
    inside = ((positions >= 0) & (positions <= 2 * half)).all(-1)
    return 1 - (mass * inside).sum(1) / inside.sum(1).clamp_min(1)


def choose_patches(pair: torch.Tensor, random: Random, patch: int, stride: int) -> Place:
    """Places of patches on the first of two frames `(B, 2, 3, H, W)` where the second differs most, with random rotations.

    One of the ten of 7x7 places with the largest differences, shifted by up to a twelfth of the range.
    """
    side = pair.shape[-1]
    motion = F.adaptive_avg_pool2d((pair[:, 0] - pair[:, 1]).abs().sum(1, keepdim=True), GRID)
    motion = F.avg_pool2d(motion, 3, stride=1).flatten(1)  # (B, 49)
    places = GRID - 2
    chosen = motion.topk(CANDIDATES).indices.gather(1, random.integer(0, CANDIDATES, 1))[:, 0]
    share = torch.stack([chosen % places, chosen // places], dim=1).float() / (places - 1)
    share = (share + random.uniform(-1 / 12, 1 / 12, 2)).clamp(0, 1)
    first = (patch / stride - 1) / 2  # the centre of a patch at the border, in cells
    centre = first + share * (side - patch) / stride
    return Place.at(centre, torch.deg2rad(random.uniform(-TURN, TURN)))


TIME_CYCLE = TimeCycleRecipe(
    steps=95_000, batch_size=36, frame=240, learning_rate=2e-4, area=(0.45, 0.9), aspect=(1.0, 1.0)
)
TIME_CYCLE_SMALL = TimeCycleRecipe(
    steps=2_000,
    batch_size=4,
    frame=168,
    patch=56,
    patches=4,
    offsets=(0, 1, 2, 3, 6, 7),
    learning_rate=1e-3,
    localiser="coordinates",
    area=(0.15, 0.6),
    aspect=(0.8, 1.25),
)
