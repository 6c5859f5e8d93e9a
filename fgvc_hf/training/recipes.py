"""What is trained, on what, and how: one dataclass. The defaults are the paper's values; small variants stand beside them."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from .ancestors.colour_autoencoder import COLOURS, COLOURS_SMALL
from .ancestors.time_cycle import TIME_CYCLE, TIME_CYCLE_SMALL
from .ancestors.uvc import UVC, UVC_SMALL


LAST_RATE = 1e-3  # of the learning rate at the start, at the end of the cosine


@dataclass(frozen=True)
class Recipe:
    """A way of training.

    Args:
        steps (`int`): Updates of the weights.
        batch_size (`int`): Pairs of each domain per update, over all processes and accumulated parts.
        crop (`int`): Side of the training frames in pixels.
        radius (`int`): Window radius r of the losses in cells.
        learning_rate (`float`): Of Adam, at the start; a cosine takes it to a thousandth at the end.
        real (`float`), synthetic (`float`), adversarial (`float`): Weights of the losses: reconstruction of real pairs
            (Eq. 8), labels of synthetic pairs (Eqs. 2 to 5), and the domain of their maps (Eq. 10). 0 leaves one out.
        distillation (`float`): Weight of the cross-entropy with the maps of a frozen fine teacher on real pairs (section 3.2).
        freeze_encoder (`bool`): Train the head of a coarse-to-fine model alone.
        label (`str`): `"soft"` (Eq. 5), `"gaussian"` (Eqs. 3 and 4, with `label_sigma`) or `"dirac"` (Eq. 2).
        label_sigma (`float`): Standard deviation of Gaussian labels in cells.
        temperature (`float`): Of the maps that are compared with labels. The paper says 1, its code 0.07 on cosines.
        teacher_norm (`str`): `"channel"`, or `"height"` as the released code has it; see `soft_label_loss`.
        reconstruction (`str`): `"aligned"` or `"official"`; see `reconstruction_loss`.
        occlusion_test (`bool`): Leave cells out of the reconstruction whose match does not lead back (Eq. 7).
        adversarial_maps (`str`), adversarial_step (`int`): What the discriminator sees; see `adversarial_loss`.
        both_ways (`bool`): Match the second frame with the first as well; costs no features.
        synthetic_dropout (`float`): Share of the synthetic pairs that lose a colour channel; 1 in the released code. Real pairs
            always do, for there is nothing to reconstruct otherwise.
        light (`float`): Strength of the changes of light and colour of synthetic pairs.
        reach (`float`): Largest shift of a body between synthetic frames, in pixels.
        gap (`tuple[int, int]`): Frames from one frame of a real pair to the other.
        area, aspect (`tuple[float, float]`): Crops of real pairs; see [`VideoFolder`].
        freeze_batch_norm (`bool`): Use the running statistics instead of those of the batch, and leave them as they are.
        average (`float`): Share that a running mean of the weights keeps of itself at each update. The mean is what is evaluated
            and saved as the model; 0 for the weights as they are.
        textures (`int`): Frames kept as material for synthetic pairs.
        seed (`int`): Of everything.
    """

    steps: int = 302_265  # 30 passes over 40,302 pairs
    batch_size: int = 4
    crop: int = 256
    radius: int = 24
    learning_rate: float = 1e-3
    real: float = 1.0
    synthetic: float = 1.0
    adversarial: float = 1.0
    distillation: float = 0.0
    freeze_encoder: bool = False
    label: str = "soft"
    label_sigma: float = 1.0
    temperature: float = 0.07
    teacher_norm: str = "channel"
    reconstruction: str = "aligned"
    occlusion_test: bool = False
    adversarial_maps: str = "probability"
    adversarial_step: int = 1
    both_ways: bool = True
    synthetic_dropout: float = 1.0
    light: float = 1.0
    reach: float = 44.0
    gap: tuple[int, int] = (1, 5)
    area: tuple[float, float] = (0.6, 1.0)
    aspect: tuple[float, float] = (1.5, 2.0)
    freeze_batch_norm: bool = False
    average: float = 0.0
    textures: int = 512
    seed: int = 0

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    max_grad_norm: ClassVar[float] = 0.0  # none

    def __post_init__(self):
        for name, accepted in (
            ("label", ("soft", "gaussian", "dirac")),
            ("teacher_norm", ("channel", "height")),
            ("reconstruction", ("aligned", "official")),
            ("adversarial_maps", ("probability", "correlation")),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {getattr(self, name)!r}.")
        for name in ("steps", "batch_size", "radius", "learning_rate", "temperature", "label_sigma", "textures"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}.")
        if self.crop < 32 or self.crop % 8:
            raise ValueError(f"crop must be a multiple of 8 of at least 32, got {self.crop}.")
        if not (self.uses_real or self.synthetic):
            raise ValueError("real, distillation and synthetic are all 0: there is nothing to learn from.")
        if self.adversarial and not (self.real and self.synthetic):
            raise ValueError("adversarial needs both domains: set real and synthetic above 0, or adversarial to 0.")

    @property
    def uses_real(self) -> bool:
        return bool(self.real or self.distillation)

    @property
    def weights(self) -> dict[str, float]:
        """Of each loss in the total."""
        losses = {"reconstruction": self.real, "label": self.synthetic, "adversarial": self.adversarial}
        return losses | {"distillation": self.distillation}

    @property
    def clip_settings(self) -> tuple:
        """How real pairs are chosen; see [`VideoFolder`]."""
        return self.crop, self.gap, self.area, self.aspect

    def decay(self, step: int) -> float:
        """Factor on the learning rate of update `step`: a cosine from 1 to a thousandth."""
        wave = (1 + math.cos(math.pi * step / self.steps)) / 2
        return LAST_RATE + (1 - LAST_RATE) * wave

    @property
    def needs_teacher(self) -> bool:
        return bool(self.distillation) or (bool(self.synthetic) and self.label == "soft")


def _small(recipe: Recipe, **changes) -> Recipe:
    """For a small machine: crops of 128 pixels with the window in proportion, a step of about a second on two cores."""
    recipe = replace(recipe, crop=128, radius=12, reach=22.0, gap=(1, 6), area=(0.15, 0.6), aspect=(0.8, 1.25))
    return replace(recipe, adversarial_step=4, **changes)


TEACHER = Recipe(synthetic=0, adversarial=0)
# What measured best with little time: labels with the exact sub-cell target, and no discriminator
JOINT_SMALL = _small(
    Recipe(),
    steps=2_800,
    batch_size=2,
    learning_rate=4e-4,
    label="gaussian",
    label_sigma=0.7,
    adversarial=0.0,
    synthetic_dropout=0.3,
)
# What is to get better is reconstruction; labels, whose loss is forty times as large, keep what was learnt before. The running mean is
# over the whole run: a third of it are the weights that it started from, which costs little of the gain and keeps other videos as they were
FINETUNE_SMALL = replace(
    JOINT_SMALL, steps=300, learning_rate=1e-4, synthetic=0.1, freeze_batch_norm=True, average=1 - 1 / 300
)
# The map of the paper is distilled from crops of 256 pixels, where r = 24 fine cells are the 6 coarse ones of Eq. 1
DISTILL = Recipe(real=0.0, synthetic=0.0, adversarial=0.0, distillation=1.0, gap=(1, 8), freeze_batch_norm=True)
RECIPES: dict[str, Any] = {
    "teacher": TEACHER,
    "joint": Recipe(),
    "finetune": replace(
        FINETUNE_SMALL, crop=256, radius=24, reach=44.0, steps=2_000, batch_size=4, average=1 - 1 / 2_000
    ),
    "teacher-small": _small(TEACHER, steps=4_000),
    "joint-small": JOINT_SMALL,
    "finetune-small": FINETUNE_SMALL,
    "distill": DISTILL,
    "distill-small": _small(DISTILL, steps=6_000, batch_size=2, learning_rate=5e-4, average=0.99),
    "uvc": UVC,
    "uvc-small": UVC_SMALL,
    "timecycle": TIME_CYCLE,
    "timecycle-small": TIME_CYCLE_SMALL,
    "colours": COLOURS,
    "colours-small": COLOURS_SMALL,
}


def parse_recipe(name: str, changes: dict[str, str]) -> Any:
    """A recipe by name, a [`Recipe`] or a [`VideoRecipe`], with some fields changed, their values as text.

    Raises:
        `ValueError`: there is no such recipe or field, or the value does not fit it.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}.")
    recipe = RECIPES[name]
    known = {field.name for field in fields(recipe)}
    values = {}
    for field, text in changes.items():
        if field not in known:
            raise ValueError(f"a recipe has no field {field!r}; its fields are {', '.join(sorted(known))}.")
        values[field] = _parse(field, text, getattr(recipe, field))
    return replace(recipe, **values)


def _parse(field: str, text: str, example):
    kind = type(example)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            return tuple(type(of)(part) for of, part in zip(example, text.split(","), strict=True))
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{field} must be a {kind.__name__} like {example!r}, got {text!r}.") from None
