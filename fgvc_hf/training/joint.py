"""The module that is trained: encoder, discriminator and frozen teacher behind one forward that returns all losses."""

import copy

import torch
from torch import nn

from ..configuration_fgvc import FgvcConfig
from ..data.augmentation import change_light, colour_of, drop_channel, rgb_to_pixel_values
from ..data.scene import Random
from ..data.synthetic import SyntheticPairs, render_pairs
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..modeling_fgvc import FgvcModel
from .objectives import (
    MapDiscriminator,
    adversarial_loss,
    dirac_loss,
    distillation_loss,
    gaussian_loss,
    reconstruction_loss,
    soft_label_loss,
    target_positions,
)
from .recipes import Recipe


class JointTraining(nn.Module):
    """All losses of a recipe in one forward, so that one wrapper distributes the whole.

    Args:
        model ([`FgvcModel`]): The student.
        recipe ([`Recipe`]): The losses.
        teacher ([`FgvcModel`], *optional*): Frozen; needed where the recipe has soft labels or distills.

    Raises:
        `ValueError`: the recipe needs a teacher and there is none, or one of another feature size or stride; of another stride
            alone, or no fine model, where it distills.
    """

    def __init__(self, model: FgvcModel, recipe: Recipe, teacher: FgvcModel | None = None):
        super().__init__()
        if recipe.needs_teacher and teacher is None:
            raise ValueError("the recipe learns from soft labels or distills: it needs a teacher.")
        self.model, self.recipe, self.processor = model, recipe, FgvcImageProcessorPil()
        self.discriminator = MapDiscriminator(recipe.radius) if recipe.adversarial else None
        self._mean = copy.deepcopy(model).eval().requires_grad_(False) if recipe.average else None
        # Not a submodule: it is neither trained nor saved
        self._teacher = (teacher.eval().requires_grad_(False),) if recipe.needs_teacher and teacher else ()
        for other in self._teacher:
            self._check_teacher(other.config)
        if recipe.freeze_encoder:
            if model.head is None:
                raise ValueError("freeze_encoder leaves nothing to train in a model without a coarse-to-fine head.")
            model.encoder.requires_grad_(False)

    def _check_teacher(self, teacher: FgvcConfig) -> None:
        config, distills = self.model.config, bool(self.recipe.distillation)
        if distills and teacher.fine_size:
            raise ValueError("the teacher of a distillation must be a fine model, not a coarse-to-fine one.")
        sizes = {teacher.hidden_size} if distills else {teacher.hidden_size, config.hidden_size}
        if len(sizes) > 1 or teacher.output_stride != config.output_stride:
            raise ValueError(
                f"teacher has {teacher.hidden_size} features at stride {teacher.output_stride}, "
                f"the model {config.hidden_size} at stride {config.output_stride}."
            )

    @property
    def result(self) -> FgvcModel:
        """The model that training makes: the running mean of the student's weights, or the student."""
        return self.model if self._mean is None else self._mean

    @torch.no_grad()
    def update_mean(self) -> None:
        """Move the running mean towards the student, after an update of its weights."""
        if self._mean is None:
            return
        for mean, new in zip(self._mean.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - self.recipe.average)

    def train(self, mode: bool = True):
        super().train(mode)
        if self._mean is not None:
            self._mean.eval()
        if self.recipe.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, real: torch.Tensor | None, synthetic: SyntheticPairs | None, seeds: list[int]):
        """Losses by name, each the mean over the pairs.

        Args:
            real (`torch.Tensor` of shape `(B, 2, 3, H, W)`, uint8): Real pairs; `None` where the recipe has no use for them.
            synthetic ([`SyntheticPairs`]): Synthetic pairs, or `None`.
            seeds (list of B `int`): One for each pair; they choose the channels that are dropped, and the light.
        """
        losses = {}
        real_features = synthetic_features = None
        if real is not None and self.recipe.real:
            losses["reconstruction"], real_features = self._reconstruct(real, seeds)
        if real is not None and self.recipe.distillation:
            losses["distillation"] = self._distill(real)
        if synthetic is not None:
            losses["label"], synthetic_features = self._compare_with_labels(synthetic, seeds)
        if self.discriminator is not None and real_features is not None and synthetic_features is not None:
            losses["adversarial"] = self._adversarial(real_features, synthetic_features)
        return losses

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features `(B, 2, h, w, C)`, channels last."""
        return self.model(pixel_values).features.movedim(2, -1)

    @torch.no_grad()
    def _teach(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """The teacher's features `(B, 2, h, w, C)`; nothing where there is no teacher."""
        features = [teacher(pixel_values).features.movedim(2, -1) for teacher in self._teacher]
        return features[0] if features else None

    def _directions(self) -> tuple[tuple[int, int], ...]:
        """(query, key): the second frame looks into the first, as in the paper; and the other way round."""
        return ((1, 0), (0, 1)) if self.recipe.both_ways else ((1, 0),)

    def _reconstruct(self, frames: torch.Tensor, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        recipe, random = self.recipe, Random([2 * seed for seed in seeds], frames.device)
        pixel_values = rgb_to_pixel_values(frames.float() / 255)
        dropped = random.integer(1, 3)
        colours = colour_of(pixel_values, dropped)  # (B, 2, 1, H, W)
        features = self._encode(drop_channel(pixel_values, dropped))
        losses = [
            reconstruction_loss(
                features[:, query],
                features[:, key],
                colours[:, query],
                colours[:, key],
                recipe.radius,
                recipe.reconstruction,
                recipe.occlusion_test,
            )
            for query, key in self._directions()
        ]
        return torch.stack(losses).mean(), features

    def _distill(self, frames: torch.Tensor) -> torch.Tensor:
        """Both see all colours: what the student is to learn is to match like the teacher, with less."""
        recipe, pixel_values = self.recipe, rgb_to_pixel_values(frames.float() / 255)
        features, teacher = self._encode(pixel_values), self._teach(pixel_values)
        assert teacher is not None
        losses = [
            distillation_loss(
                features[:, query],
                features[:, key],
                teacher[:, query],
                teacher[:, key],
                recipe.radius,
                recipe.temperature,
            )
            for query, key in self._directions()
        ]
        return torch.stack(losses).mean()

    def _compare_with_labels(self, pairs: SyntheticPairs, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        recipe, random = self.recipe, Random([2 * seed + 1 for seed in seeds], pairs.frames.device)
        pixel_values = rgb_to_pixel_values(change_light(pairs.frames, random, recipe.light))
        dropped = random.integer(1, 3) * random.chance(recipe.synthetic_dropout)
        features = self._encode(drop_channel(pixel_values, dropped))
        stride = self.model.config.output_stride
        teacher_features = self._teach(pixel_values)
        losses = []
        for query, key in self._directions():
            positions, valid = target_positions(pairs.flow[:, query], pairs.visible[:, query], stride, recipe.radius)
            arguments = features[:, query], features[:, key]
            where = positions, valid, recipe.radius, recipe.temperature
            if recipe.label == "soft" and teacher_features is not None:
                teacher = teacher_features[:, key]
                losses.append(soft_label_loss(*arguments, teacher, *where, recipe.teacher_norm))
            elif recipe.label == "gaussian":
                losses.append(gaussian_loss(*arguments, *where, recipe.label_sigma))
            else:
                losses.append(dirac_loss(*arguments, *where))
        return torch.stack(losses).mean(), features

    def _adversarial(self, real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
        recipe, discriminator = self.recipe, self.discriminator
        assert discriminator is not None
        losses = [
            adversarial_loss(
                discriminator,
                features[:, 1],
                features[:, 0],
                is_real,
                recipe.radius,
                recipe.adversarial_maps,
                recipe.adversarial_step,
            )
            for features, is_real in ((real, True), (synthetic, False))
        ]
        return torch.stack(losses).mean()


@torch.no_grad()
def make_synthetic(recipe: Recipe, textures: torch.Tensor, seeds: list[int], stride: int) -> SyntheticPairs:
    """The synthetic pairs of a batch, rendered on the device of the textures."""
    device = textures.device
    return render_pairs(
        textures, [3 * seed + 2**40 for seed in seeds], recipe.crop, recipe.reach, stride, device=device
    )
