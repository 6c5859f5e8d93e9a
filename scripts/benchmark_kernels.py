"""What each kernel is worth, end to end: whole session steps with and without it, in turns.

    python scripts/benchmark_kernels.py                                      30 points and 5 masks at 256x256 and 480x854, default checkpoint
    python scripts/benchmark_kernels.py --isa avx2 --checkpoint fgvc-coarse  as on a CPU with AVX2, in float32
    taskset -c 0-3 python scripts/benchmark_kernels.py                       on four cores

A ratio is the median of the quotients of neighbouring turns; 1.3 says that a frame takes 1.3 times as long in that variant. `--isa` restricts
oneDNN, MKL, ATen and numba to the instructions of older CPUs: `avx512_bf16` has bfloat16 products but no matrix tiles, `avx512` and `avx2`
have none and run in float32. `inductor` is `fuse_conv_bn_eval` and `torch.compile` with freezing in place of the encoder for inference; its
first step includes the compilation, which needs a C++ compiler.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from unittest.mock import patch

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, load, render_clip
from fgvc_hf.encoder.fused_encoder import FusedEncoder, modules_of, weights_version
from fgvc_hf.kernels.patches_torch import TorchPatches
from fgvc_hf.kernels.process import keep_freed_memory
from fgvc_hf.kernels.topk_torch import TorchTopk


POINTS, MASKS = 30, 5
ISAS = {
    "native": {},
    "avx512_bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "NUMBA_CPU_NAME": "cooperlake"},
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "NUMBA_CPU_NAME": "skylake-avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
}
# Variant -> what is put in the place of what
VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "no Winograd": {"fgvc_hf.encoder.fused_encoder.winograd_is_faster": lambda weight: False},
    "no top-k in numba": {
        "fgvc_hf.matching.windows.topk_for": lambda backend: TorchTopk,
        "fgvc_hf.matching.block_search.topk_for": lambda backend: TorchTopk,
    },
    "no patches in numba": {
        "fgvc_hf.matching.patches.patches_for": lambda features: TorchPatches,
        "fgvc_hf.tracking.template_memory.patches_for": lambda features: TorchPatches,
    },
    "threads of our own": {"fgvc_hf.kernels.numba_runtime.openmp_threads": lambda: None},
    "torch alone": {"fgvc_hf.kernels.dispatch._numba_works": lambda features: False},
    "inductor": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--isa", choices=ISAS, default="native")
    parser.add_argument("--sizes", nargs="+", default=["256x256", "480x854"], metavar="HEIGHTxWIDTH")
    parser.add_argument("--targets", nargs="+", choices=("points", "masks"), default=["points", "masks"])
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=[name for name in VARIANTS if name != "inductor"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if not ISAS[arguments.isa].items() <= os.environ.items():  # libraries read them when they are loaded
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | ISAS[arguments.isa]))
    keep_freed_memory()  # as the command line does
    dtype = "float32" if arguments.isa in ("avx2", "avx512") else None
    with ExitStack() as stack:
        if arguments.isa != "native":
            stack.enter_context(patch("torch.cpu._is_amx_tile_supported", lambda: False))
        tracker = load(arguments.checkpoint, device="cpu", dtype=dtype, point_matching="templates")
        print(f"{arguments.isa}, {torch.get_num_threads()} threads, {tracker.model.dtype}, torch {torch.__version__}")
        for size in arguments.sizes:
            for targets in arguments.targets:
                print(f"\n{size}, {arguments.points if targets == 'points' else MASKS} {targets}", flush=True)
                compare(tracker.model, *map(int, size.split("x")), targets, arguments)


def compare(model, height: int, width: int, targets: str, arguments: argparse.Namespace) -> None:
    """Print the median time of a step of each variant, and its ratio to the first."""
    runs = {
        name: steps(model, name, height, width, targets, arguments.points)
        for name in dict.fromkeys(arguments.variants)
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    warm_up = 3 if targets == "points" else model.config.num_context_frames + 1
    for turn in range(-warm_up, arguments.rounds):
        for name in list(runs) if turn % 2 else reversed(runs):
            taken = next(runs[name])
            if turn >= 0:
                times[name].append(taken)
    first = next(iter(times.values()))
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        print(f"  {name:22s} {1000 * statistics.median(taken):8.1f} ms   x{ratio:.2f}", flush=True)


def steps(model, variant: str, height: int, width: int, targets: str, points: int) -> Iterator[float]:
    """Seconds of one session step after the other."""
    clip = render_clip(6, height, width, num_points=points, seed=1)
    processor = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))
    session = processor.init_video_session()
    if targets == "points":
        queries = clip.tracks[:, 0].clip(0, (width - 1, height - 1))
        processor.add_inputs_to_inference_session(session, 0, range(points), queries)
    else:
        stripes = torch.arange(width).mul(MASKS).div(width, rounding_mode="floor").expand(height, width)
        masks = torch.stack([stripes == label for label in range(MASKS)]).numpy()
        processor.add_inputs_to_inference_session(session, 0, range(1, MASKS + 1), input_masks=masks)
    with replaced(variant):
        encoder = Inductor(model.encoder) if variant == "inductor" else FusedEncoder(model.encoder)
    for i in count():
        model._fused = encoder
        with replaced(variant):
            start = time.perf_counter()
            model.step(session, clip.frames[i % len(clip.frames)])
            taken = time.perf_counter() - start
        yield taken


def replaced(variant: str) -> ExitStack:
    """A context in which a variant's parts are in place."""
    stack = ExitStack()
    for name, part in VARIANTS[variant].items():
        stack.enter_context(patch(name, part))
    return stack


class Inductor:
    """The encoder by `fuse_conv_bn_eval` and `torch.compile` with freezing, as a [`FusedEncoder`]."""

    def __init__(self, encoder):
        from torch._inductor import config

        config.freezing = True
        fused = copy.deepcopy(encoder)
        fuse(fused, "conv1", "bn1")
        for block in [*fused.layer1, *fused.layer2, *fused.layer3]:
            for i in (1, 2):
                fuse(block, f"conv{i}", f"bn{i}")
            if block.downsample is not None:
                fuse(block.downsample, "0", "1")
        fused = fused.to(memory_format=torch.channels_last)
        self.version, self.dtype = weights_version(modules_of(encoder)), fused.conv1.weight.dtype
        self.compiled_stages = torch.compile(fused.stages, dynamic=False)
        self.compiled_forward = torch.compile(fused.forward, dynamic=False)

    def is_of(self, modules, every_value: bool) -> bool:
        return self.version == weights_version(modules)

    def stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.compiled_stages(pixel_values.to(self.dtype))

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.compiled_forward(pixel_values.to(self.dtype))


def fuse(block: nn.Module, convolution: str, norm: str) -> None:
    """Put one convolution in the place of a convolution and a batch normalisation, in the convolution's precision."""
    before = getattr(block, convolution)
    dtype = before.weight.dtype
    setattr(block, convolution, fuse_conv_bn_eval(before.float(), getattr(block, norm)).to(dtype))
    setattr(block, norm, nn.Identity())


if __name__ == "__main__":
    main()
