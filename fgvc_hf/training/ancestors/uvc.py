"""UVC: joint-task self-supervised learning for temporal correspondence (Li et al., NeurIPS 2019).

One affinity of two frames serves two tasks: it localises a patch of the reference in the target, and copies the patch's colours there. The
encoder sees lightness alone, so it cannot match colours directly.

Where the paper and the released training script differ, a field of the recipe chooses; the paper is the default.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ...conversion.official import SOURCES
from ...data.augmentation import rgb_to_pixel_values
from ...data.scene import Random
from ...image_processing_pil_fgvc import FgvcImageProcessorPil
from ...modeling_fgvc import FgvcModel
from ..objectives import cell_grid
from ..recipes import check_not_negative
from .colour_autoencoder import COLOUR_INPUT, ColourAutoEncoder, colour_loss
from .patch_localisation import Place, carry, crop, crop_image, keep_inside, localise, products, transported
from .video_training import VideoRecipe, VideoTraining


EPOCHS = 30  # of the schedule, in every length of run
TURN = 10.0  # largest rotation of both frames, in degrees
ZOOM = 1.2  # largest change of their scale, in the first stage
OUTLIER = 2.5  # pairs with a larger loss do not count
WINDOW = 8  # side of the regions of the concentration loss, in cells


@dataclass(frozen=True)
class UvcRecipe(VideoRecipe):
    """Hyperparameters of UVC.

    Args:
        crop (`int`): Side of the reference patch in pixels. The first stage matches patches of both frames, the second localises patches in
            whole frames.
        localise_from (`float`): Share of the run after which the second stage begins; 10 of 30 epochs.
        box (`str`): Size of a patch in the target. `"estimated"`: from the affinity, as in the paper; `"fixed"`: as in the reference, as
            in the released training script.
        temperature (`float`): Divides the products of features.
        colour_cycle (`float`), concentration (`float`), cycle (`float`): Weights of the regularisation beside colours, whose weight is 1:
            orthogonality in feature space, concentration, and orthogonality in coordinates. The published command sets the last to 0.
        truncated (`bool`): Whether distances within the extent of the region are 0 in the concentration loss, as in the paper but not in
            the released code. A rigid shift has no loss then.
        steps, ...: As of [`VideoRecipe`].
    """

    crop: int = 256
    localise_from: float = 1 / 3
    box: str = "estimated"
    temperature: float = 1.0
    colour_cycle: float = 0.1
    concentration: float = 0.3
    cycle: float = 0.1
    truncated: bool = True

    config = SOURCES["uvc"].config
    processor = SOURCES["uvc"].processor

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(self, "colour_cycle", "concentration", "cycle")
        self.check_side("crop")
        if self.crop > self.frame:
            raise ValueError(
                f"crop, a patch, must not be larger than the frame of {self.frame} pixels, got {self.crop}."
            )
        if self.box not in ("estimated", "fixed"):
            raise ValueError(f"box must be 'estimated' or 'fixed', got {self.box!r}.")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        if not 0 <= self.localise_from <= 1:
            raise ValueError(f"localise_from must be a share from 0 to 1, got {self.localise_from}.")

    @property
    def weights(self) -> dict[str, float]:
        names = ("colour_cycle", "concentration", "cycle")
        return {"colour": 1.0, **{name: getattr(self, name) for name in names}}

    def epoch(self, step: int) -> int:
        return EPOCHS * step // self.steps

    @property
    def first_localising(self) -> int:
        """First epoch of the second stage."""
        return round(EPOCHS * self.localise_from)

    def decay(self, step: int) -> float:
        """(1 - epoch / 30)^0.9, with epochs counted from the start of each stage."""
        epoch = self.epoch(step)
        return (1 - (epoch - self.first_localising * (epoch >= self.first_localising)) / EPOCHS) ** 0.9


class UvcTraining(VideoTraining):
    """UVC's losses.

    Args:
        colours ([`ColourAutoEncoder`]): Frozen.

    Raises:
        `ValueError`: the recipe needs colours and there are none, or they are at another resolution than the features.
    """

    def __init__(self, model: FgvcModel, recipe: UvcRecipe, colours: ColourAutoEncoder | None):
        super().__init__(model, recipe)
        if colours is None:
            raise ValueError("the recipe copies colours by their features: it needs a colour auto-encoder.")
        if colours.config.stride != model.config.output_stride:
            raise ValueError(
                f"the colour auto-encoder works at stride {colours.config.stride}, but the model's features are at stride "
                f"{model.config.output_stride}; they must be the same."
            )
        self.frozen = (colours.eval().requires_grad_(False),)

    def forward(self, frames: torch.Tensor, seeds: list[int], step: int, labelled=None) -> dict[str, torch.Tensor]:
        """Losses by name, each the mean over the pairs `(B, 2, 3, H, W)`, uint8."""
        recipe, epoch = self.recipe, self.recipe.epoch(step)
        localising = epoch >= recipe.first_localising
        reference, target = views(frames.float() / 255, Random(seeds, frames.device), recipe.crop, localising)
        features, target_features = self.encode(reference), self.encode(target)
        if localising:
            place = self.find(features, target_features)
            target = crop_image(target, place, features.shape[1:3], self.model.config.output_stride)
            target_features = crop(target_features, place, features.shape[1:3])
        affinity = products(features, target_features, 1 / recipe.temperature)
        losses = self._colours(affinity, reference, target)
        warm = epoch == 0 or 0 <= epoch - recipe.first_localising < 2
        if not warm:
            total = losses["colour"] + recipe.colour_cycle * losses["colour_cycle"]
            losses = {name: loss * (total.detach() <= OUTLIER) for name, loss in losses.items()}
        grid = cell_grid(features)
        moved = transported(affinity, grid), transported(affinity.mT, grid)
        concentration = torch.stack([concentration_loss(positions, recipe.truncated) for positions in moved]).sum(0)
        losses |= {"concentration": concentration * (epoch > 0), "cycle": orthogonality_loss(affinity, grid)}
        return {name: loss.mean() for name, loss in losses.items()}

    def find(self, features: torch.Tensor, target_features: torch.Tensor) -> Place:
        """The places of the reference patches `(B, h, w, C)` in the targets `(B, H, W, C)`: region localisation."""
        size, frame = features.shape[1:3], target_features.shape[1:3]
        affinity = products(features, target_features, 1 / self.recipe.temperature)
        found = localise(
            transported(affinity, cell_grid(target_features), size), scales=self.recipe.box == "estimated"
        )
        return keep_inside(found, size, frame)

    @torch.no_grad()
    def draw(self, frames: torch.Tensor | None, labelled, seeds: list[int]) -> dict[str, np.ndarray]:
        """One row per pair: the reference with its middle patch outlined, and the target with the patch where it is found."""
        assert frames is not None
        images, stride = frames.float() / 255, self.model.config.output_stride
        size = (self.recipe.crop // stride, self.recipe.crop // stride)
        middle = Place.at(images.new_full((len(images), 2), (self.recipe.frame / stride - 1) / 2))
        found = self.find(self.encode(crop_image(images[:, 0], middle, size, stride)), self.encode(images[:, 1]))
        rows = [
            np.concatenate([self.outlined(pair[t], at, i, size) for t, at in ((0, middle), (1, found))], axis=1)
            for i, pair in enumerate(images)
        ]
        return {"real": np.concatenate(rows)}

    def _colours(
        self, affinity: torch.Tensor, reference: torch.Tensor, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Fine-grained matching: losses `(B,)` of the target's colours copied from the reference, and of the reverse by the same matrix."""
        (autoencoder,), images = self.frozen, [rgb_to_pixel_values(rgb, _COLOURS) for rgb in (reference, target)]
        with torch.no_grad():
            reference_colours, target_colours = (autoencoder.encode(image).float() for image in images)
        copying = affinity.mT.softmax(-1)  # (B, target cells, reference cells)
        losses = {}
        for name, weights, colours, image in (
            ("colour", copying, reference_colours, images[1]),
            ("colour_cycle", copying.mT, target_colours, images[0]),
        ):
            copied = carry(weights, colours).unflatten(1, colours.shape[1:3])
            losses[name] = colour_loss(autoencoder.decode(copied).float(), image)
        return losses


_COLOURS = FgvcImageProcessorPil(**COLOUR_INPUT)


def views(frames: torch.Tensor, random: Random, size: int, localising: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Reference and target `(B, 3, h, w)` of pairs `(B, 2, 3, H, W)`, rotated by a common angle.

    In the first stage a patch of `size` pixels of each frame, at different places and a common scale; if `localising`, a patch of the first
    frame and the whole second frame.
    """
    side = frames.shape[-1]
    middle = frames.new_full((len(frames), 2), (side - 1) / 2)
    angle = torch.deg2rad(random.uniform(-TURN, TURN))
    zoom = 1.0 if localising else ZOOM ** random.uniform(-1, 1)[:, None]
    found = []
    for frame in frames.unbind(1):
        whole = localising and bool(found)
        shift = 0 if whole else random.uniform(-1, 1, 2) * (side - size) / 2
        place = Place(middle + shift, torch.ones_like(middle) * zoom, angle)
        found.append(crop(frame.movedim(1, -1), place, (side, side) if whole else (size, size)).movedim(-1, 1))
    return found[0], found[1]


def concentration_loss(positions: torch.Tensor, truncated: bool = True) -> torch.Tensor:
    """Concentration loss `(B,)`: squared distances of the expected positions from the mean of their region of 8x8 cells (UVC, Eq. 5).

    Args:
        positions (`torch.Tensor` of shape `(B, h, w, 2)`): Expected positions in the other map; distances are in units of half the map.
        truncated (`bool`): Whether distances within the extent of the region are 0.
    """
    h, w = (side // WINDOW * WINDOW or side for side in positions.shape[1:3])
    rows, columns = min(WINDOW, h), min(WINDOW, w)
    regions = positions[:, :h, :w].unflatten(1, (-1, rows)).unflatten(3, (-1, columns))  # (B, H, 8, W, 8, 2)
    distance = (regions - regions.mean((2, 4), keepdim=True)).abs()
    if truncated:
        extent = positions.new_tensor([columns - 1, rows - 1]) / 2
        distance = (distance - extent).clamp_min(0)
    half = positions.new_tensor([positions.shape[2] - 1, positions.shape[1] - 1]) / 2
    return (distance / half).square().sum(-1).flatten(1).mean(1)


def orthogonality_loss(affinity: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Orthogonality loss `(B,)` in coordinates: cells go to the other patch by the affinity and return by its transpose (UVC, Eq. 7).

    The mean absolute difference to where they started, in units of half the map; 0 for a permutation.

    Args:
        affinity (`torch.Tensor` of shape `(B, N, N)`): Before the softmax.
        grid (`torch.Tensor` of shape `(h, w, 2)`): Positions of the N cells.
    """
    half = (grid.new_tensor(grid.shape[1::-1]) - 1) / 2
    sources = transported(affinity.mT, grid)  # where the target's cells come from
    returned = carry(affinity.softmax(-1), sources)
    return ((returned - grid.flatten(0, 1)) / half).abs().mean((1, 2))


UVC = UvcRecipe(steps=300_000, batch_size=40, frame=640, learning_rate=1e-4)
UVC_SMALL = UvcRecipe(
    steps=2_000,
    batch_size=4,
    frame=192,
    crop=96,
    learning_rate=1e-3,
    temperature=4.0,
    gap=(1, 6),
    area=(0.15, 0.6),
    aspect=(0.8, 1.25),
)
