"""Speed on a GPU. Variants are timed in turns; ratios are of medians.

    python scripts/benchmark_gpu.py --output gpu.json

`frame`: from pixels to five label maps at 480x640, with six context frames. `search`: the top-k keys alone at 128x128 cells, against the
released algorithm. `tracking`: whole steps of a session, from a frame to its result. `training`: the losses, and an update.

`tiled` is torch alone, `Triton` the fused kernels, `CUDA graph` an encoder by `torch.compile(mode="reduce-overhead")` before them. Their results
are compared before anything is timed. The paper reports 8 frames/s, and 34 for its coarse-to-fine model, which are printed beside.
`--device cpu --size 64 64` tries the script without a GPU, and without Triton.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, render_clip
from fgvc_hf.data.scene import Random
from fgvc_hf.data.textures import natural_image
from fgvc_hf.evaluation.timing import time_interleaved
from fgvc_hf.io.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from fgvc_hf.kernels.dispatch import SWITCH
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.matching.windows import reference_topk, window_topk
from fgvc_hf.tracking.label_maps import propagate_labels
from fgvc_hf.training.joint import JointTraining, make_synthetic
from fgvc_hf.training.objectives import cell_grid
from fgvc_hf.training.recipes import RECIPES
from fgvc_hf.training.window_losses import window_average, window_cross_entropy
from fgvc_hf.training.window_targets import GaussianTarget


PAPER = {"FGVC, as the paper reports it": 8, "its coarse-to-fine model": 34}  # frames/s
CHUNK = 128  # queries at a time, as in the official configuration
MEMORY_FRAMES, LABELS = 6, 5
OFFICIAL_SIZE = (256, 256)  # pixels: 128x128 cells, whose full product fits into memory in chunks
CELLS, RADIUS, CHANNELS = 128, 24, 256  # of the losses
TOLERANCE = 1e-3  # between cosines of 16-bit features that are summed in float32


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no GPU here; --device cpu --size 64 64 tries the script without one.")
    device, size = torch.device(arguments.device), tuple(arguments.size)
    results = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__}
    print(results)
    for name, section in (("frame", frame), ("search", search), ("tracking", tracking), ("training", training)):
        print(f"\n{name}", flush=True)
        results[name] = section(device, size, arguments.rounds)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


def prepare(device: torch.device, size: tuple[int, int]):
    """A model in bfloat16, frames (7, 1, 3, H, W), and the features of the first six of them, (h, w, C) each."""
    model = FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint"), dtype=torch.bfloat16).to(device)
    clip = render_clip(MEMORY_FRAMES + 1, *size, num_points=1)
    frames = (
        FgvcImageProcessorPil()(list(clip.frames), return_tensors="pt").pixel_values[:, None].to(device).bfloat16()
    )
    keys = [model.normalized_features(each)[0].clone() for each in frames[:MEMORY_FRAMES]]
    window = (model.config.propagation_radius, model.config.propagation_window, model.config.propagation_topk)
    return model, frames, keys, window


@torch.inference_mode()
def frame(device: torch.device, size: tuple[int, int], rounds: int) -> dict:
    """Encoder and propagation of five label maps from six context frames."""
    model, frames, keys, window = prepare(device, size)
    h, w, _ = keys[0].shape
    labels, everywhere = torch.rand(MEMORY_FRAMES, h * w, LABELS, device=device), keys[0].new_ones(h * w).bool()

    def step(encode: Callable, backend: str) -> torch.Tensor:
        best = window_topk(encode(frames[-1])[0], keys, *window, backend=backend)
        return propagate_labels(*best, labels, model.config.temperature, everywhere)

    variants = {"tiled": partial(step, model.normalized_features, "torch")}
    if device.type == "cuda":
        encode = torch.compile(model.normalized_features, mode="reduce-overhead")
        variants["Triton"] = partial(step, model.normalized_features, "triton")
        variants["Triton, CUDA graph"] = partial(step, encode, "triton")
        expected = variants["tiled"]()
        for name, run in list(variants.items())[1:]:
            print(f"  {name}: labels differ from tiled by {(run() - expected).abs().mean():.2e} on average")
    results = timed(variants, device, rounds)
    for name, result in results.items():
        result["frames_per_second"] = 1000 / result["median_ms"]
        print(f"  {name:32s} {result['frames_per_second']:.1f} frames/s")
    print("  " + ", ".join(f"{name}: {rate} frames/s" for name, rate in PAPER.items()))
    return results


@torch.inference_mode()
def search(device: torch.device, size: tuple[int, int], rounds: int) -> dict:
    """The top-k keys of every query in six context frames, against the full product in float32."""
    model, frames, keys, window = prepare(device, min(size, OFFICIAL_SIZE))
    query = model.normalized_features(frames[-1])[0]
    cells = torch.arange(query.shape[0] * query.shape[1], device=device)

    def official() -> None:
        for chunk in cells.split(CHUNK):
            reference_topk(query, keys, *window, query_cells=chunk)

    variants = {"official, in chunks": official, "tiled": partial(window_topk, query, keys, *window, backend="torch")}
    if device.type == "cuda":
        variants["Triton"] = partial(window_topk, query, keys, *window, backend="triton")
        difference = (variants["Triton"]()[0] - variants["tiled"]()[0]).abs().max()
        if difference > TOLERANCE:
            raise RuntimeError(
                f"Triton's scores differ from those of torch by up to {difference:.2e}: it is not to be used."
            )
    return timed(variants, device, rounds)


def tracking(device: torch.device, size: tuple[int, int], rounds: int) -> dict:
    """Steps of sessions with both checkpoints, from a frame to its result, once their memory of context frames is full."""
    frames, (height, width) = render_clip(MEMORY_FRAMES + 3, *size, num_points=1).frames, size
    processor, steps = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")), {}
    stripes = torch.arange(width).mul(LABELS).div(width, rounding_mode="floor").expand(height, width)
    masks = torch.stack([stripes == label for label in range(LABELS)]).numpy()
    points = np.random.default_rng(0).random((500, 2)) * (width, height)
    for checkpoint in (None, "fgvc-coarse"):
        for what, method, prompts in (
            ("32 points", "templates", {"input_points": points[:32]}),
            ("500 points", "templates", {"input_points": points}),
            ("32 points by label maps", "labels", {"input_points": points[:32]}),
            (f"{LABELS} masks", "labels", {"input_masks": masks}),
        ):
            model = Tracker.from_pretrained(checkpoint, device=str(device), point_matching=method).model
            session = processor.init_video_session()
            ids = range(1, 1 + len(next(iter(prompts.values()))))
            processor.add_inputs_to_inference_session(session, 0, ids, **prompts)
            pictures = cycle(frames)
            step = lambda model=model, session=session, pictures=pictures: model.step(session, next(pictures))  # noqa: E731
            for _ in range(MEMORY_FRAMES + 1):
                step()
            steps[f"{checkpoint or DEFAULT_CHECKPOINT}, {what}"] = step
    return timed(steps, device, rounds)


def training(device: torch.device, size: tuple[int, int], rounds: int) -> dict:
    """The losses of two pairs of maps, forward and backward, and an update of the recipe joint-small with 8 pairs of each domain."""
    cells, radius = (CELLS, RADIUS) if device.type == "cuda" else (16, 3)
    noise = F.interpolate(
        torch.randn(4, CHANNELS, cells // 4, cells // 4, device=device), scale_factor=4, mode="bilinear"
    )
    features = F.normalize(noise.permute(0, 2, 3, 1), dim=-1).bfloat16()
    query, key = (part.contiguous().requires_grad_() for part in features.split(2))
    values, valid = query.new_ones(2, cells, cells, 2).float().cumsum(1), query.new_ones(2, cells, cells).bool()
    target = GaussianTarget(cell_grid(query).expand(2, cells, cells, 2) + 0.3, 0.7)

    def reconstruct(backend: str) -> tuple[torch.Tensor, ...]:
        copy = window_average(query, key, values, radius, 1 / 0.07, backend=backend)
        return torch.autograd.grad(copy.square().mean(), (query, key))

    def compare(backend: str) -> tuple[torch.Tensor, ...]:
        loss = window_cross_entropy(query, key, valid, target, radius, 1 / 0.07, backend)
        return torch.autograd.grad(loss.mean(), (query, key))

    backends = {"tiled": "torch"} | ({"Triton": "triton"} if device.type == "cuda" else {})
    variants = {}
    for what, run in (("reconstruction", reconstruct), ("label", compare)):
        variants |= {f"{what}, {name}": partial(run, backend) for name, backend in backends.items()}
        for gradients in zip(*(run(backend) for backend in backends.values()), strict=True):
            difference = (gradients[-1].float() - gradients[0].float()).norm() / gradients[0].float().norm()
            print(f"  {what}: gradients differ by {difference:.1e} of their length")
    results, update = timed(variants, device, rounds), make_update(device)
    updates = {f"update, {name}": partial(update, backend) for name, backend in backends.items()}
    return results | timed(updates, device, rounds)


def make_update(device: torch.device) -> Callable[[str], None]:
    """An update in bfloat16 on one batch on the device, by a back end."""
    recipe = replace(RECIPES["joint-small"], batch_size=8)
    textures, seeds = (255 * natural_image(256, 60, 0.4, Random(range(4)))).byte(), list(range(recipe.batch_size))
    pairs = make_synthetic(recipe, textures, seeds, stride=2)
    pairs = replace(pairs, **{name: value.to(device) for name, value in vars(pairs).items()})
    real = (255 * pairs.frames).byte()
    module = JointTraining(FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint")), recipe).train().to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)

    def update(backend: str) -> None:
        os.environ[SWITCH] = backend
        with torch.autocast(device.type, torch.bfloat16):
            total = torch.stack(list(module(real, pairs, seeds).values())).sum()
        del os.environ[SWITCH]
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def timed(variants: Mapping[str, Callable], device: torch.device, rounds: int) -> dict:
    """[`time_interleaved`], with the device synchronised after every run."""

    def waited(run: Callable) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return time_interleaved({name: partial(waited, run) for name, run in variants.items()}, rounds)


if __name__ == "__main__":
    main()
