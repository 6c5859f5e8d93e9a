"""Time and memory of training on this machine. Variants are timed in turns; ratios are of medians.

    python scripts/benchmark_training.py

`shift` is the correlation of the released code, one product for every offset of the window with autograd through all of them. One of its 49
rows of offsets is run, and its time is scaled to all. The memory of a loss is the peak of a fresh process beyond inputs and their gradients.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from fgvc_hf import FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.textures import natural_image
from fgvc_hf.evaluation.timing import describe_machine, process_memory_mib, time_interleaved
from fgvc_hf.io.checkpoints import resolve_checkpoint
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.joint import JointTraining, make_synthetic
from fgvc_hf.training.objectives import cell_grid
from fgvc_hf.training.recipes import RECIPES
from fgvc_hf.training.window_losses import window_average, window_cross_entropy
from fgvc_hf.training.window_targets import GaussianTarget


SIDE, CHANNELS, RADIUS = 128, 256, 24
LOSSES = ("reconstruction", "label")


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns that every variant gets")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(extra_memory(arguments.memory_of[0], getattr(torch, arguments.memory_of[1]))))
        return
    results: dict = {"machine": describe_machine()}
    print(f"\nlosses at {SIDE}x{SIDE}, r = {RADIUS}, forward and backward", flush=True)
    results["losses"] = losses(arguments.rounds)
    for name in LOSSES:
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, __file__, "--memory-of", name, dtype]
            mib = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            print(f"  extra memory of {name}, {dtype}: {mib:.0f} MiB", flush=True)
            results[f"extra memory of {name}, {dtype}, MiB"] = mib
    print("\nan update of joint-small, batch of 2 and 2 pairs", flush=True)
    results["update"] = update(arguments.rounds)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of two frames of smooth noise, unit length, and what is reconstructed."""
    torch.manual_seed(0)
    noise = F.interpolate(torch.randn(2, CHANNELS, SIDE // 4, SIDE // 4), scale_factor=4, mode="bilinear")
    features = F.normalize(noise.permute(0, 2, 3, 1), dim=-1).to(dtype)
    query, key = (features[i : i + 1].contiguous().requires_grad_() for i in (0, 1))
    return query, key, torch.randn(1, SIDE, SIDE, 2)


def tiled_loss(name: str, dtype: torch.dtype):
    query, key, values = inputs(dtype)
    positions, valid = cell_grid(query)[None] + 0.3, torch.ones(1, SIDE, SIDE, dtype=torch.bool)

    def run():
        if name == "reconstruction":
            loss = window_average(query, key, values, RADIUS, 1 / 0.07).square().mean()
        else:
            loss = window_cross_entropy(query, key, valid, GaussianTarget(positions, 0.7), RADIUS, 1 / 0.07).mean()
        torch.autograd.grad(loss, (query, key))

    return run


def shift_loss():
    """One row of offsets of the released algorithm."""
    query, key, values = inputs(torch.float32)
    size = 2 * RADIUS + 1
    query, key = (f.permute(0, 3, 1, 2).detach().contiguous().requires_grad_() for f in (query, key))
    shown = F.pad(values.permute(0, 3, 1, 2), (RADIUS,) * 4)

    def run():
        padded = F.pad(key, (RADIUS,) * 4)
        scores = [(query * padded[:, :, RADIUS : RADIUS + SIDE, dx : dx + SIDE]).sum(1) / 0.07 for dx in range(size)]
        weights = torch.stack(scores, dim=1).softmax(1)
        copies = [weights[:, dx, None] * shown[:, :, RADIUS : RADIUS + SIDE, dx : dx + SIDE] for dx in range(size)]
        copy = torch.stack(copies).sum(0)
        torch.autograd.grad(copy.square().mean(), (query, key))

    return run


def losses(rounds: int) -> dict:
    """Forward and backward of the windowed losses, in both precisions, against a row of the released algorithm."""
    variants = {"shift, float32 (1 of 49 rows, scaled)": shift_loss()}
    for name in LOSSES:
        for dtype in (torch.float32, torch.bfloat16):
            variants[f"{name}, {str(dtype)[6:]}"] = tiled_loss(name, dtype)
    return time_interleaved(variants, rounds, scale={next(iter(variants)): 2 * RADIUS + 1})


def extra_memory(name: str, dtype: torch.dtype) -> float:
    """Peak of resident memory during a loss in MiB, beyond that before and the two gradients."""
    run = tiled_loss(name, dtype)
    torch.mm(torch.randn(256, 256, dtype=dtype), torch.randn(256, 256, dtype=dtype))  # thread pools, kernels
    before, stop, peak = process_memory_mib("VmRSS"), threading.Event(), [0.0]

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], process_memory_mib("VmRSS"))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    stop.set()
    watcher.join()
    return peak[0] - before - 2 * SIDE * SIDE * CHANNELS * dtype.itemsize / 2**20


def update(rounds: int) -> dict:
    """Forward, backward and Adam of the small joint recipe, on one rendered batch."""
    recipe = replace(RECIPES["joint-small"], batch_size=2)
    textures = (255 * natural_image(256, 60, 0.4, Random(range(4)))).byte()
    synthetic = make_synthetic(recipe, textures, [1, 2], 2)
    real = (255 * make_synthetic(recipe, textures, [3, 4], 2).frames).byte()

    def variant(enabled: bool):
        module = JointTraining(FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint")), recipe).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)

        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                total = torch.stack(list(module(real, synthetic, [1, 2]).values())).sum()
            total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    return time_interleaved({"float32": variant(False), "bfloat16": variant(True)}, rounds)


if __name__ == "__main__":
    main()
