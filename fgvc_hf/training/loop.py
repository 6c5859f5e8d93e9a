"""The training loop over Accelerate: one process or many, resumed exactly.

Every random choice depends on the seed and the number of the pair alone: update u takes the pairs u * batch_size and following,
whichever process gets them. So nothing but weights, moments and the number of the update has to be saved, and a run that is
killed and started again ends with the same weights.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from ..data.shards import StreamedClips
from ..data.synthetic import SyntheticPairs
from ..processing_fgvc import FgvcProcessor
from .ancestors.video_training import VideoRecipe, VideoTraining
from .joint import JointTraining, make_synthetic
from .pictures import real_picture, synthetic_picture
from .state import check_room, checkpoints, load_checkpoint, save_checkpoint


class Numbers(Sampler):
    """The numbers of the pairs that one process sees, from one update on."""

    def __init__(self, recipe: Any, first_step: int, parts: int, process: int, processes: int):
        self.recipe, self.first_step, self.parts = recipe, first_step, parts
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[int]:
        share = self.recipe.batch_size // (self.parts * self.processes)
        for step in range(self.first_step, self.recipe.steps):
            for part in range(self.parts):
                start = step * self.recipe.batch_size + (part * self.processes + self.process) * share
                yield from range(start, start + share)

    def __len__(self) -> int:
        return (self.recipe.steps - self.first_step) * self.recipe.batch_size // self.processes


class Numbered(Dataset):
    """A dataset of pairs that gives each with its number; of numbers alone where there are no real pairs."""

    def __init__(self, pairs: Dataset | None):
        self.pairs = pairs

    def __getitem__(self, index: int):
        return (index, torch.empty(0)) if self.pairs is None else (index, self.pairs[index])


class Training:
    """A run of a recipe.

    Args:
        module ([`JointTraining`] or a [`VideoTraining`]): Model and losses.
        recipe ([`Recipe`] or the [`VideoRecipe`] of the module): How to train.
        output: Folder of the run: `log.jsonl`, `checkpoints/`, and `best/` and `last/`, which are models for `from_pretrained`.
        real (`Dataset`, *optional*): Real pairs by number, as [`VideoFolder`] gives them.
        textures (`torch.Tensor` of shape `(N, 3, H, W)`, uint8, *optional*): Material of synthetic pairs.
        labelled (`Dataset`, *optional*): Labelled crops by number, as [`LabelledCrops`] gives them, instead of rendered pairs.
        accelerator (`Accelerator`): Precision, processes, accumulation and trackers.
        evaluate (callable, *optional*): Takes the model, returns scores by name; the first chooses the best checkpoint.
        save_every, evaluate_every, picture_every (`int`): Updates between checkpoints, evaluations and pictures; 0 for none of the
            latter two.
        keep (`int`): Checkpoints kept.

    Raises:
        `ValueError`: the batch cannot be shared out evenly, the recipe lacks its data, or `output` holds a run of another recipe.
        `OSError`: the disk has no room for a checkpoint.
    """

    def __init__(
        self,
        module: JointTraining | VideoTraining,
        recipe: Any,
        output: str | Path,
        accelerator: Accelerator,
        real: Dataset | None = None,
        textures: torch.Tensor | None = None,
        labelled: Dataset | None = None,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
        save_every: int = 500,
        evaluate_every: int = 0,
        picture_every: int = 0,
        keep: int = 2,
        workers: int = 0,
    ):
        parts = accelerator.gradient_accumulation_steps
        if recipe.batch_size % (parts * accelerator.num_processes):
            raise ValueError(
                f"batch_size is {recipe.batch_size}, but must be a multiple of the {accelerator.num_processes} processes "
                f"times the {parts} accumulated parts."
            )
        if recipe.uses_real and real is None:
            raise ValueError("the recipe learns from real pairs: it needs a folder of videos.")
        if recipe.synthetic and textures is None and labelled is None:
            raise ValueError(
                "the recipe learns from labelled pairs: it needs them, or images for the textures of rendered ones."
            )
        self.recipe, self.output, self.accelerator, self.evaluate = recipe, Path(output), accelerator, evaluate
        self.save_every, self.evaluate_every, self.picture_every = save_every, evaluate_every, picture_every
        self.keep, self.workers = keep, workers
        self.real, self.textures, self.labelled = (real if recipe.uses_real else None), textures, labelled
        self.step, self.best = 0, -math.inf
        module.to(accelerator.device)
        for other in module._teacher:
            other.to(accelerator.device)
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas)
        self.bare = module
        check_room(self.output, module)
        self._resume()
        self.module, self.wrapped = accelerator.prepare(module, self.optimizer)

    def _resume(self) -> None:
        found = checkpoints(self.output / "checkpoints")
        if not found:
            return
        state = json.loads((found[-1] / "state.json").read_text())
        young = {field.name: field.default for field in fields(self.recipe) if field.default is not MISSING}
        before, now = young | state["recipe"], asdict(self.recipe)  # a field that there was not yet had its default
        before, now = json.loads(json.dumps([before, now]))
        different = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if different:
            raise ValueError(
                f"{self.output} holds a run of another recipe ({', '.join(different)} differ); choose another output folder."
            )
        load_checkpoint(found[-1], self.bare, self.optimizer)
        self.step, self.best = state["step"], state["best"] if state["best"] is not None else -math.inf
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _batches(self) -> Iterator[tuple[list[int], torch.Tensor | None]]:
        accelerator, parts = self.accelerator, self.accelerator.gradient_accumulation_steps
        numbers = Numbers(self.recipe, self.step, parts, accelerator.process_index, accelerator.num_processes)
        share = self.recipe.batch_size // (parts * accelerator.num_processes)
        if isinstance(self.real, StreamedClips):
            self.real.numbers, loader = numbers, DataLoader(self.real, share)
        else:
            loader = DataLoader(Numbered(self.real), share, sampler=numbers, num_workers=self.workers)
        for ids, frames in loader:
            yield ids.tolist(), frames.to(accelerator.device) if self.real is not None else None

    def losses(self, numbers: list[int], frames: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """All losses of a part of a batch."""
        seeds = self._seeds(numbers)
        if isinstance(self.recipe, VideoRecipe):
            with self.accelerator.autocast():
                return self.module(frames, seeds, self.step)
        synthetic = self._synthetic(numbers) if self.recipe.synthetic else None
        with self.accelerator.autocast():
            return self.module(frames, synthetic, seeds)

    def _seeds(self, numbers: list[int]) -> list[int]:
        return [number * 2**20 + self.recipe.seed for number in numbers]

    def _synthetic(self, numbers: list[int]) -> SyntheticPairs:
        """Labelled pairs: those given, or else rendered ones."""
        if self.labelled is not None:
            crops = zip(*(self.labelled[number] for number in numbers), strict=True)
            return SyntheticPairs(*(torch.stack(part).to(self.accelerator.device) for part in crops))
        assert self.textures is not None
        stride = self.bare.model.config.output_stride
        return make_synthetic(self.recipe, self.textures, self._seeds(numbers), stride)

    def rehearse(self, updates: int = 3) -> dict[str, float]:
        """Time and memory of an update, without changing anything.

        Returns:
            `seconds_per_update` (median) and `peak_mib` of the device, or of the process on a CPU.
        """
        self.module.train()
        buffers = {name: value.clone() for name, value in self.bare.named_buffers()}
        batches, times = self._batches(), []
        for _ in range(updates):
            start = time.perf_counter()
            for _ in range(self.accelerator.gradient_accumulation_steps):
                losses = self.losses(*next(batches))
                self.accelerator.backward(torch.stack(list(losses.values())).sum())
            self.optimizer.zero_grad()
            times.append(time.perf_counter() - start)
        for name, value in self.bare.named_buffers():
            value.copy_(buffers[name])
        if self.accelerator.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            import resource  # not on Windows

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds_per_update": statistics.median(times), "peak_mib": peak}

    def run(self, show_progress_bar: bool = True) -> None:
        """Train from where the run stands to its end.

        Raises:
            `FloatingPointError`: a loss is not finite; the last checkpoint is kept.
        """
        recipe, accelerator, parts = self.recipe, self.accelerator, self.accelerator.gradient_accumulation_steps
        weights = recipe.weights
        self.module.train()
        batches = self._batches()
        hidden = None if show_progress_bar and accelerator.is_main_process else True
        bar = tqdm(total=recipe.steps, initial=self.step, desc="training", unit=" steps", disable=hidden)
        while self.step < recipe.steps:
            start, sums = time.perf_counter(), {}
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * recipe.decay(self.step)
            for part in range(parts):
                last = part == parts - 1
                with nullcontext() if last else accelerator.no_sync(self.module):
                    losses = self.losses(*next(batches))
                    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value.detach().float() / parts
                    self._check_finite(total, losses)
                    accelerator.backward(total / parts)
            if recipe.max_grad_norm:
                accelerator.clip_grad_norm_(self.module.parameters(), recipe.max_grad_norm)
            self.wrapped.step()
            self.wrapped.zero_grad()
            self.bare.update_mean()
            self.step += 1
            self._log(sums, time.perf_counter() - start)
            bar.update()
            self._milestones()
        bar.close()
        self._save_model("last")

    def _check_finite(self, total: torch.Tensor, losses: dict[str, torch.Tensor]) -> None:
        if torch.isfinite(total):
            return
        wrong = [name for name, value in losses.items() if not torch.isfinite(value)]
        raise FloatingPointError(
            f"update {self.step}: the loss {' and '.join(wrong)} is not finite; the last checkpoint is in {self.output}."
        )

    def _log(self, sums: dict[str, torch.Tensor], seconds: float) -> None:
        names = sorted(sums)
        values = self.accelerator.reduce(torch.stack([sums[name] for name in names]), "mean").tolist()
        entry = dict(zip(names, (round(value, 6) for value in values), strict=True))
        rate = self.optimizer.param_groups[0]["lr"]
        self._write({"step": self.step, **entry, "learning_rate": rate, "seconds": round(seconds, 3)})
        self.accelerator.log({**entry, "learning_rate": rate}, step=self.step)

    def _write(self, entry: dict) -> None:
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            with (self.output / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")

    def _milestones(self) -> None:
        """Evaluate, and save a checkpoint, when it is time for it or the run is over."""
        over = self.step == self.recipe.steps
        if self.evaluate is not None and self.evaluate_every and (over or self.step % self.evaluate_every == 0):
            self._evaluate()
        if self.picture_every and (over or self.step % self.picture_every == 0):
            self._draw()
        if over or self.step % self.save_every == 0:
            state = {
                "recipe": asdict(self.recipe),
                "best": self.best if math.isfinite(self.best) else None,
                "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),  # of fp16
            }
            if self.accelerator.is_main_process:
                folder = self.output / "checkpoints"
                save_checkpoint(folder, self.step, self.bare, self.optimizer, state, self.keep)
            self.accelerator.wait_for_everyone()

    def _evaluate(self) -> None:
        if self.accelerator.is_main_process and self.evaluate is not None:
            self.bare.eval()
            scores = self.evaluate(self.bare.result)
            self.bare.train()
            self._write({"step": self.step, "scores": scores})
            self.accelerator.log(scores, step=self.step)
            if next(iter(scores.values())) > self.best:
                self.best = next(iter(scores.values()))
                self._save_model("best")
        self.accelerator.wait_for_everyone()

    def _draw(self) -> None:
        """Pictures of what the model makes of the first pairs."""
        if not self.accelerator.is_main_process:
            return
        folder, numbers = self.output / "pictures", [0, 1]
        folder.mkdir(parents=True, exist_ok=True)
        self.bare.eval()
        if self.recipe.synthetic:
            teacher = next(iter(self.bare._teacher), None)
            picture = synthetic_picture(self.bare.result, teacher, self._synthetic(numbers), self.recipe)
            Image.fromarray(picture).save(folder / f"labelled-{self.step:08d}.png")
        if self.real is not None and not isinstance(self.real, StreamedClips):
            frames = torch.stack([self.real[number] for number in numbers]).to(self.accelerator.device)
            if isinstance(self.bare, VideoTraining):
                picture = self.bare.draw(frames, self._seeds(numbers))
            else:
                picture = real_picture(self.bare.result, frames, self.recipe)
            Image.fromarray(picture).save(folder / f"real-{self.step:08d}.png")
        self.bare.train()

    def _save_model(self, name: str) -> None:
        if self.accelerator.is_main_process:
            self.bare.result.save_pretrained(self.output / name)
            FgvcProcessor(self.bare.processor).save_pretrained(self.output / name)
