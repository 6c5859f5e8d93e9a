"""FGVC's training module: encoder, discriminator and frozen teacher behind one forward that returns all losses of a recipe."""

import copy
from itertools import permutations

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ..configuration_fgvc import FgvcConfig
from ..coordinates import point_to_cell
from ..data.augmentation import change_light, colour_of, drop_channel, rgb_to_pixel_values
from ..data.scene import Random
from ..data.synthetic_pairs import SyntheticPairs, render_pairs
from ..data.training_clips import TrainingClips, render_training_clips
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..modeling_fgvc import FgvcModel
from .module import TrainingModule
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
from .pictures import real_picture, synthetic_picture
from .recipes import Recipe
from .tracking_objective import SUPPORTED, tracking_loss


CLIP_POINTS = 48  # of a clip of the tracking objective
# Numbers of frames after the first that it compares: one of each pair, the next one after so many updates
LATER = (((1, 2), 1), ((4, 8), 2), ((12, 16), 4))


class JointTraining(TrainingModule):
    """The losses of a [`Recipe`].

    Args:
        model ([`FgvcModel`]): The student.
        recipe ([`Recipe`]): The losses.
        teacher ([`FgvcModel`], *optional*): Frozen; needed if the recipe has soft labels or distils.

    Raises:
        `ValueError`: the recipe needs a teacher and there is none, or its features have another size or stride than the student's (a
            distillation accepts another size, and needs a fine model as teacher); or `freeze_encoder` leaves nothing to train.
    """

    def __init__(self, model: FgvcModel, recipe: Recipe, teacher: FgvcModel | None = None):
        super().__init__(model, recipe, FgvcImageProcessorPil())
        if recipe.needs_teacher:
            if teacher is None:
                raise ValueError("the recipe learns from soft labels or distills: it needs a teacher.")
            self._check_teacher(teacher.config)
            self.frozen = (teacher.eval().requires_grad_(False),)
        self.discriminator = MapDiscriminator(recipe.radius) if recipe.adversarial else None
        # The EMA of the weights; checkpoints of runs know it by this name
        self._mean = copy.deepcopy(model).eval().requires_grad_(False) if recipe.average else None
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
        """The EMA of the student if the recipe has one, else the student."""
        return self.model if self._mean is None else self._mean

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the EMA towards the student."""
        if self._mean is None:
            return
        for mean, new in zip(self._mean.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - self.recipe.average)

    def train(self, mode: bool = True):
        """Training mode, but for the EMA and for batch normalisation that is frozen."""
        super().train(mode)
        if self._mean is not None:
            self._mean.eval()
        if self.recipe.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):  # synchronised between processes as well
                    module.eval()
        return self

    def forward(
        self,
        frames: torch.Tensor | None,
        labelled: SyntheticPairs | None,
        seeds: list[int],
        step: int = 0,
        clips: TrainingClips | None = None,
        tracked: TrainingClips | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses by name, each the mean over the pairs or clips; see [`TrainingModule`]."""
        losses = {}
        real_features = labelled_features = None
        if frames is not None and self.recipe.real:
            losses["reconstruction"], real_features = self._reconstruct(frames, seeds)
        if frames is not None and self.recipe.distillation:
            losses["distillation"] = self._distill(frames)
        if followed := [self._track(of, seeds, step) for of in (clips, tracked) if of is not None]:
            losses["tracking"] = torch.stack(followed).mean()
        if labelled is not None:
            losses["label"], labelled_features = self._compare_with_labels(labelled, seeds)
        if self.discriminator is not None and real_features is not None and labelled_features is not None:
            losses["adversarial"] = self._adversarial(real_features, labelled_features)
        return losses

    def draw(
        self, frames: torch.Tensor | None, labelled: SyntheticPairs | None, seeds: list[int]
    ) -> dict[str, np.ndarray]:
        """Pictures of labelled and of real pairs; see [`fgvc_hf.training.pictures`]."""
        pictures = {}
        if labelled is not None:
            pictures["labelled"] = synthetic_picture(self.result, next(iter(self.frozen), None), labelled, self.recipe)
        if frames is not None:
            pictures["real"] = real_picture(self.result, frames, self.recipe)
        return pictures

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features `(B, 2, h, w, C)`, channels last."""
        return self.model(pixel_values, return_dict=True).features.movedim(2, -1)

    @torch.no_grad()
    def _teach(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """The teacher's features `(B, 2, h, w, C)`, if there is one."""
        features = [teacher(pixel_values, return_dict=True).features.movedim(2, -1) for teacher in self.frozen]
        return features[0] if features else None

    def _directions(self) -> tuple[tuple[int, int], ...]:
        """(query, key): from the second frame into the first, as in the paper, and back if the recipe says so."""
        return ((1, 0), (0, 1)) if self.recipe.both_ways else ((1, 0),)

    def _reconstruct(self, frames: torch.Tensor, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction loss of real pairs, one colour channel dropped (Eq. 8), and their features."""
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
        """Distillation loss of real pairs (section 3.2). Student and teacher see all colour channels."""
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

    def _track(self, clips: TrainingClips, seeds: list[int], step: int) -> torch.Tensor:
        """The tracking objective between pairs of frames of clips, in both orders."""
        recipe, config = self.recipe, self.model.config
        random = Random([2 * seed + 1 for seed in seeds], clips.frames.device)
        features = self._encode(rgb_to_pixel_values(clips.frames))  # (B, T, h, w, C)
        cells = point_to_cell(clips.tracks, config.output_stride, config.cell_origin)  # (B, N, T, 2)
        losses = []
        for source, target in permutations(range(clips.frames.shape[1]), 2):
            seen = clips.visible[:, :, source]
            losses.append(
                tracking_loss(
                    features[:, source],
                    features[:, target],
                    cells[:, :, source],
                    cells[:, :, target],
                    seen & clips.visible[:, :, target],
                    seen & clips.hidden[:, :, target],
                    random.uniform(-1, 1, cells.shape[1], 2),
                    config.template_radius,
                    recipe.tracking_search,
                    recipe.tracking_temperature,
                    step % 10 < 10 * SUPPORTED,
                )
            )
        return torch.stack(losses).mean()

    def _compare_with_labels(self, pairs: SyntheticPairs, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Label loss of pairs with flow (Eqs. 2 to 5), and their features."""
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
        """Adversarial loss of the features of both domains (Eq. 10)."""
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
    """The synthetic pairs of a batch, rendered on the device of the textures; seeds differ from those of the augmentation."""
    device = textures.device
    return render_pairs(
        textures, [3 * seed + 2**40 for seed in seeds], recipe.crop, recipe.reach, stride, device=device
    )


@torch.no_grad()
def make_clips(recipe: Recipe, textures: torch.Tensor, seeds: list[int], step: int) -> TrainingClips:
    """The clips of a batch for the tracking objective: a frame, and others some frames later. All clips of update `step` have the same times."""
    later = [choices[step // updates % len(choices)] for choices, updates in LATER]
    return render_training_clips(
        textures,
        [3 * seed + 2**41 for seed in seeds],
        num_frames=max(later) + 1,
        size=recipe.crop,
        num_points=CLIP_POINTS,
        times=[0, *later],
        device=textures.device,
    )


def tracked_clips(clips: Dataset, numbers: list[int], device: torch.device) -> TrainingClips:
    """The clips of these numbers as [`TrackedClips`] gives them, on a device."""
    parts = zip(*(clips[number] for number in numbers), strict=True)
    frames, tracks, visible, hidden = (torch.stack(part).to(device) for part in parts)
    return TrainingClips(frames, visible.int().argmax(dim=2), tracks, visible, hidden)
