"""Speed on a GPU, in turns: a frame at 480x640 from pixels to labels, and the search for keys against the released algorithm.

    python scripts/benchmark_gpu.py --output gpu.json

`tiled` is torch alone, `Triton` the fused kernel, `CUDA graph` an encoder by `torch.compile(mode="reduce-overhead")` before it. Both kernels'
best keys are compared before anything is timed. For orientation it prints what the paper reports: 8 frames/s, and 34 for its coarse-to-fine
model. `--device cpu --size 64 64` tries the script where there is no GPU, without Triton.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from benchmark import CHUNK, LABELS, MEMORY_FRAMES, in_turns

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, default_checkpoint, render_clip
from fgvc_hf.correlation_fgvc import reference_topk, window_topk
from fgvc_hf.propagation_fgvc import propagate_labels


PAPER = {"FGVC, as the paper reports it": 8, "its coarse-to-fine model": 34}  # frames/s
OFFICIAL_SIZE = (256, 256)  # pixels: 128x128 cells, whose full product fits into memory in chunks
TOLERANCE = 1e-3  # between cosines of 16-bit features, scored again in float32 or summed in it


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
    for name, section in (("frame", frame), ("search", search)):
        print(f"\n{name}")
        results[name] = section(device, size if name == "frame" else min(size, OFFICIAL_SIZE), arguments.rounds)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


def prepare(device: torch.device, size: tuple[int, int]):
    """A model in bfloat16, frames (7, 1, 3, H, W), and the features of the first six of them, (h, w, C) each."""
    model = FgvcModel.from_pretrained(default_checkpoint(), dtype=torch.bfloat16).to(device)
    clip = render_clip(MEMORY_FRAMES + 1, *size, num_points=1)
    frames = (
        FgvcImageProcessorPil()(list(clip.frames), return_tensors="pt").pixel_values[:, None].to(device).bfloat16()
    )
    keys = [model.normalized_features(each)[0].clone() for each in frames[:MEMORY_FRAMES]]
    window = (model.config.propagation_radius, model.config.propagation_window, model.config.propagation_topk)
    return model, frames, keys, window


@torch.inference_mode()
def frame(device: torch.device, size: tuple[int, int], rounds: int) -> dict:
    """Encoder and propagation of five label maps from six memory frames."""
    model, frames, keys, window = prepare(device, size)
    h, w, _ = keys[0].shape
    labels, everywhere = torch.rand(MEMORY_FRAMES, h * w, LABELS, device=device), keys[0].new_ones(h * w).bool()

    def step(encode: Callable, compiled: bool | None) -> torch.Tensor:
        best = window_topk(encode(frames[-1])[0], keys, *window, compiled=compiled)
        return propagate_labels(*best, labels, model.config.temperature, everywhere)

    variants = {"tiled": partial(step, model.normalized_features, None)}
    if device.type == "cuda":
        encode = torch.compile(model.normalized_features, mode="reduce-overhead")
        variants["Triton"] = partial(step, model.normalized_features, True)
        variants["Triton, CUDA graph"] = partial(step, encode, True)
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
    """The best keys of every query in six memory frames, against the full product in float32."""
    model, frames, keys, window = prepare(device, size)
    query = model.normalized_features(frames[-1])[0]
    cells = torch.arange(query.shape[0] * query.shape[1], device=device)

    def official() -> None:
        for chunk in cells.split(CHUNK):
            reference_topk(query, keys, *window, query_cells=chunk)

    variants = {"official, in chunks": official, "tiled": partial(window_topk, query, keys, *window)}
    if device.type == "cuda":
        variants["Triton"] = partial(window_topk, query, keys, *window, compiled=True)
        difference = (variants["Triton"]()[0] - variants["tiled"]()[0]).abs().max()
        if difference > TOLERANCE:
            raise RuntimeError(
                f"Triton's scores differ from those of torch by up to {difference:.2e}: it is not to be used."
            )
    return timed(variants, device, rounds)


def timed(variants: Mapping[str, Callable], device: torch.device, rounds: int) -> dict:
    """[`in_turns`], waiting for the device."""

    def waited(run: Callable) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return in_turns({name: partial(waited, run) for name, run in variants.items()}, rounds)


if __name__ == "__main__":
    main()
