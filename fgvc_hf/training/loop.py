"""The training loop over Accelerate, in one process or several. [`Training.run`] is the loop, [`Training.update`] the training step.

All random choices depend on the seed and on the number of the pair alone: update u takes the pairs u * batch_size and following, whichever
process gets them. A checkpoint is therefore weights, Adam's moments and the number of the update, and a run that is killed and started again
ends with the same weights.
"""

import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from ..data.shards import StreamedClips
from ..data.synthetic_pairs import SyntheticPairs
from ..io.files import atomic_write, updated_folder
from ..processing_fgvc import FgvcProcessor
from .joint import make_clips, make_synthetic, tracked_clips
from .module import TrainingModule
from .pace import Pace
from .state import check_recipe, check_room, checkpoints, load_checkpoint, remove_leftovers, save_checkpoint


PICTURED = (0, 1)  # numbers of the pairs that pictures show


class PairNumbers(Sampler):
    """The numbers of the pairs that one process gets, from update `first_step` on.

    Args:
        recipe: Its batch size and steps.
        first_step (`int`): The first update.
        parts (`int`): Parts that every batch is accumulated over.
        process, processes (`int`): Number of this process, and of all.
    """

    def __init__(self, recipe: Any, first_step: int, parts: int, process: int, processes: int):
        self.recipe, self.first_step, self.parts = recipe, first_step, parts
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[int]:
        share = self.recipe.batch_size // (self.parts * self.processes)
        for step in range(self.first_step, self.recipe.steps):
            for part in range(self.parts):
                start = step * self.recipe.batch_size + (part * self.processes + self.process) * share
                yield from range(start, start + share)


class NumberedPairs(Dataset):
    """Pairs with their numbers; numbers alone if there are no pairs."""

    def __init__(self, pairs: Dataset | None):
        self.pairs = pairs

    def __getitem__(self, index: int):
        return (index, torch.empty(0)) if self.pairs is None else (index, self.pairs[index])


class Training:
    """A run of a recipe.

    Args:
        module ([`TrainingModule`]): Model and losses.
        recipe ([`Recipe`], or one of an ancestor): Hyperparameters.
        output: Folder of the run: `log.jsonl`, `checkpoints/`, and `best/` and `last/`, which are models for `from_pretrained`.
        accelerator (`Accelerator`): Precision, processes, accumulation and experiment trackers.
        real (`Dataset`, *optional*): Real pairs or clips by number, as [`VideoFolder`] gives them.
        textures (`torch.Tensor` of shape `(N, 3, H, W)`, uint8, *optional*): Images that synthetic pairs are cut from.
        labelled (`Dataset`, *optional*): Labelled crops by number, as [`LabelledCrops`] gives them, instead of rendered pairs; for the tracking objective [`TrackedClips`], beside rendered clips.
        evaluate (callable, *optional*): Takes the model, returns scores by name; the first one chooses the best checkpoint.
        save_every, evaluate_every, picture_every (`int`): Updates between checkpoints, evaluations and pictures; 0 for none.
        keep (`int`): Checkpoints kept; 0 for all.
        workers (`int`): Processes that read real pairs.

    Raises:
        `ValueError`: a number is below its least value, the batch cannot be divided evenly, the recipe lacks its data, or `output` holds a run of another recipe.
        `OSError`: the disk has no room for a checkpoint.
    """

    def __init__(
        self,
        module: TrainingModule,
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
        numbers = save_every, evaluate_every, picture_every, keep, workers
        if parts < 1 or min(numbers) < 0:
            raise ValueError(
                "accumulated parts must be 1 or more, and save_every, evaluate_every, picture_every, keep and workers 0 or more, "
                f"got {parts} and {', '.join(map(str, numbers))}."
            )
        if recipe.batch_size % (parts * accelerator.num_processes):
            raise ValueError(
                f"batch_size is {recipe.batch_size}, but must be a multiple of the {accelerator.num_processes} processes "
                f"times the {parts} accumulated parts."
            )
        if recipe.uses_real and real is None:
            raise ValueError("the recipe learns from real pairs: it needs a folder of videos.")
        if (recipe.synthetic and textures is None and labelled is None) or (recipe.tracking and textures is None):
            raise ValueError(
                "the recipe learns from labelled pairs or clips: it needs images for the textures of rendered ones, or the pairs."
            )
        self.recipe, self.output, self.accelerator, self.evaluate = recipe, Path(output), accelerator, evaluate
        self.save_every, self.evaluate_every, self.picture_every = save_every, evaluate_every, picture_every
        self.keep, self.workers = keep, workers
        self.real, self.textures, self.labelled = (real if recipe.uses_real else None), textures, labelled
        self.step, self.best, self.pace = 0, -math.inf, Pace()
        module.to(accelerator.device)
        for network in module.frozen:
            network.to(accelerator.device)
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas)
        self.bare = module  # without the wrapper that distributes it
        check_room(self.output, module)
        self._resume()
        self._saved = self.step  # of the newest checkpoint; 0 if there is none
        self.module, self.prepared_optimizer = accelerator.prepare(module, self.optimizer)

    def run(self, show_progress_bar: bool = True, pace: Pace | None = None) -> None:
        """Train from the last checkpoint to the end, or until a time limit, at which the run is saved to be continued.

        Args:
            show_progress_bar (`bool`): On standard error, where that is a terminal.
            pace ([`Pace`], *optional*): The time limit, the time between checkpoints, and the updates between printed lines.

        Raises:
            `ValueError`: the time limit is too short for one update. Nothing has been written.
            `FloatingPointError`: a loss or a gradient is not finite. The weights are not updated by it, and the last checkpoint is kept.
        """
        self.pace = pace = pace or Pace()
        if pace.time_limit < math.inf and self.step < self.recipe.steps:
            pace.check(self.rehearse()["seconds_per_update"])
        self.module.train()
        batches = self._batches()
        hidden = None if show_progress_bar and self.accelerator.is_main_process else True
        pace.begin()
        with tqdm(
            total=self.recipe.steps, initial=self.step, desc="training", unit=" steps", disable=hidden
        ) as progress:
            while self.step < self.recipe.steps and not self._anywhere(pace.is_over()):
                start = time.perf_counter()
                losses = self.update(batches)
                self.step += 1
                self._log(losses, time.perf_counter() - start)
                progress.update()
                self._milestones()
        if self.step < self.recipe.steps:
            self._save_checkpoint()
        self._save_model("last")

    def end(self) -> None:
        """End the experiment trackers and the connection of the processes. The weights stay usable; the run cannot go on.

        The wrapper that distributes the module goes first. Its destructor holds Python's lock: as the last owner of a Gloo group it would
        wait for the group's threads, which may themselves wait for that lock.
        """
        self.module = self.bare
        self.accelerator.free_memory()
        gc.collect()  # the wrapper is part of cycles
        self.accelerator.end_training()

    def update(self, batches: Iterator[tuple[list[int], torch.Tensor | None]]) -> dict[str, torch.Tensor]:
        """One update of the weights: the losses of all parts of the next batch, their gradients, a step of Adam, and the EMA.

        Returns:
            Losses by name, their means over the parts.
        """
        recipe, accelerator, parts = self.recipe, self.accelerator, self.accelerator.gradient_accumulation_steps
        means: dict[str, torch.Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.decay(self.step)
        for part in range(parts):
            with nullcontext() if part == parts - 1 else accelerator.no_sync(self.module):
                losses = self.losses(*next(batches))
                total = torch.stack([recipe.weights[name] * value for name, value in losses.items()]).sum()
                self._check_losses(total, losses)
                accelerator.backward(total)  # divides by the parts
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / parts
        self._check_gradients()
        if recipe.max_grad_norm:
            accelerator.clip_grad_norm_(self.module.parameters(), recipe.max_grad_norm)
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.bare.update_average()
        return means

    def losses(self, numbers: list[int], frames: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """All losses of a part of a batch: the pairs of these numbers, whose real frames are given."""
        labelled = self._labelled(numbers) if self.recipe.synthetic else None
        seeds, clips = self._seeds(numbers), {}
        if self.recipe.tracking and self.textures is not None:
            clips["clips"] = make_clips(self.recipe, self.textures, seeds, self.step)
        if self.recipe.tracking and self.labelled is not None:
            clips["tracked"] = tracked_clips(self.labelled, numbers, self.accelerator.device)
        with self.accelerator.autocast():
            return self.module(frames=frames, labelled=labelled, seeds=seeds, step=self.step, **clips)

    def _batches(self) -> Iterator[tuple[list[int], torch.Tensor | None]]:
        """Numbers and real frames of every part of a batch that is this process's, from the current update on."""
        accelerator, parts = self.accelerator, self.accelerator.gradient_accumulation_steps
        numbers = PairNumbers(self.recipe, self.step, parts, accelerator.process_index, accelerator.num_processes)
        share = self.recipe.batch_size // (parts * accelerator.num_processes)
        if isinstance(self.real, StreamedClips):
            self.real.numbers, loader = numbers, DataLoader(self.real, share)
        else:
            loader = DataLoader(NumberedPairs(self.real), share, sampler=numbers, num_workers=self.workers)
        for ids, frames in loader:
            yield ids.tolist(), frames.to(accelerator.device) if self.real is not None else None

    def _seeds(self, numbers: list[int]) -> list[int]:
        return [number * 2**20 + self.recipe.seed for number in numbers]

    def _labelled(self, numbers: list[int]) -> SyntheticPairs:
        """Labelled pairs of these numbers: those given, else rendered ones."""
        if self.labelled is not None:
            crops = zip(*(self.labelled[number] for number in numbers), strict=True)
            return SyntheticPairs(*(torch.stack(part).to(self.accelerator.device) for part in crops))
        assert self.textures is not None
        stride = self.bare.model.config.output_stride
        return make_synthetic(self.recipe, self.textures, self._seeds(numbers), stride)

    def _check_losses(self, total: torch.Tensor, losses: dict[str, torch.Tensor]) -> None:
        if torch.isfinite(total):
            return
        wrong = [name for name, value in losses.items() if not torch.isfinite(value)]
        raise FloatingPointError(
            f"update {self.step}: the loss {' and '.join(wrong)} is not finite; the last checkpoint is in {self.output}."
        )

    def _check_gradients(self) -> None:
        """Refuse an update by gradients that are not finite; in float16, where they may overflow, the gradient scaler skips it instead."""
        if self.accelerator.scaler is not None:
            return
        gradients = {name: p.grad for name, p in self.bare.named_parameters() if p.grad is not None}
        finite = torch.stack(
            [gradient.isfinite().all() for gradient in gradients.values()]
        ).tolist()  # one synchronisation
        wrong = [name for name, good in zip(gradients, finite, strict=True) if not good]
        if wrong:
            more = f" and of {len(wrong) - 1} more parameters" if len(wrong) > 1 else ""
            raise FloatingPointError(
                f"update {self.step}: the gradient of {wrong[0]}{more} is not finite; the last checkpoint is in {self.output}."
            )

    def rehearse(self, updates: int = 3) -> dict[str, float]:
        """Measure time and memory of an update, of `updates` or of as many as are left, without changing anything.

        Returns:
            `seconds_per_update` (median) and `peak_mib` of the device, or of the process on a CPU.

        Raises:
            `ValueError`: the run is finished.
        """
        if self.step >= self.recipe.steps:
            raise ValueError(f"{self.output}: all {self.recipe.steps} updates are done, there is none to measure.")
        self.module.train()
        buffers = {name: value.clone() for name, value in self.bare.named_buffers()}
        batches, times = self._batches(), []
        for _ in range(min(updates, self.recipe.steps - self.step)):
            start = time.perf_counter()
            for _ in range(self.accelerator.gradient_accumulation_steps):
                losses = self.losses(*next(batches))
                self.accelerator.backward(torch.stack(list(losses.values())).sum())
            self.optimizer.zero_grad()
            if self.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        for name, value in self.bare.named_buffers():
            value.copy_(buffers[name])
        if self.accelerator.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            import resource  # not on Windows

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds_per_update": statistics.median(times), "peak_mib": peak}

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one, after a comparison of its recipe with this one."""
        folder = self.output / "checkpoints"
        if self.accelerator.is_main_process:
            remove_leftovers(folder)
        found = checkpoints(folder)
        if not found:
            return
        check_recipe(found[-1], self.recipe)
        state = load_checkpoint(found[-1], self.bare, self.optimizer)
        self.step, self.best = state["step"], state["best"] if state["best"] is not None else -math.inf
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _log(self, losses: dict[str, torch.Tensor], seconds: float) -> None:
        names = sorted(losses)
        values = self.accelerator.reduce(torch.stack([losses[name] for name in names]), "mean").tolist()
        entry = dict(zip(names, (round(value, 6) for value in values), strict=True))
        rate = self.optimizer.param_groups[0]["lr"]
        self._write({"step": self.step, **entry, "learning_rate": rate, "seconds": round(seconds, 3)})
        self.accelerator.log({**entry, "learning_rate": rate}, step=self.step)
        self.pace.count(seconds)
        line = self.pace.line(self.step, self.recipe.steps, entry)
        if line and self.accelerator.is_main_process:
            print(line, flush=True)

    def _anywhere(self, flag: bool) -> bool:
        """Whether a flag is set in any process, so that all of them save and stop at the same update."""
        if self.accelerator.num_processes == 1 or not self.pace.depends_on_time:
            return flag
        return bool(
            self.accelerator.reduce(torch.tensor(float(flag), dtype=torch.float32, device=self.accelerator.device))
        )

    def _write(self, entry: dict) -> None:
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            with (self.output / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")

    def _milestones(self) -> None:
        """Evaluate, draw and save a checkpoint at their intervals and after the last update."""
        over = self.step == self.recipe.steps
        if self.evaluate is not None and self.evaluate_every and (over or self.step % self.evaluate_every == 0):
            self._evaluate()
        if self.picture_every and (over or self.step % self.picture_every == 0):
            self._draw()
        due = self._anywhere(self.pace.is_time_to_save())
        if over or due or (self.save_every and self.step % self.save_every == 0):
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        """Save a checkpoint of this update, unless there is one: what is written twice is not there for a moment between."""
        if self._saved == self.step:
            return
        start = time.monotonic()
        state = {
            "recipe": asdict(self.recipe),
            "best": self.best if math.isfinite(self.best) else None,
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),  # of fp16
        }
        if self.accelerator.is_main_process:
            save_checkpoint(self.output / "checkpoints", self.step, self.bare, self.optimizer, state, self.keep)
        self.accelerator.wait_for_everyone()
        self._saved = self.step
        self.pace.saved(time.monotonic() - start)

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
        """Pictures of the first pairs; of labelled ones alone where real ones are streamed."""
        if not self.accelerator.is_main_process:
            return
        folder, numbers, frames = self.output / "pictures", list(PICTURED), None
        folder.mkdir(parents=True, exist_ok=True)
        if self.real is not None and not isinstance(self.real, StreamedClips):
            frames = torch.stack([self.real[number] for number in numbers]).to(self.accelerator.device)
        labelled = self._labelled(numbers) if self.recipe.synthetic else None
        self.bare.eval()
        for name, picture in self.bare.draw(frames, labelled, self._seeds(numbers)).items():
            with atomic_write(folder / f"{name}-{self.step:08d}.png") as temporary:
                Image.fromarray(picture).save(temporary)
        self.bare.train()

    def _save_model(self, name: str) -> None:
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)
            with updated_folder(self.output / name) as folder:
                self.bare.result.save_pretrained(folder)
                FgvcProcessor(self.bare.processor).save_pretrained(folder)
