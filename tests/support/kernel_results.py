"""Digests of what every JIT kernel computes, in the order of the arguments, and the functions that its machine code calls; as JSON."""

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable

import torch

from fgvc_hf.kernels.alignment_numba import NumbaAlignment
from fgvc_hf.kernels.flow_numba import NumbaFlow
from fgvc_hf.kernels.patches_numba import NumbaPatches
from fgvc_hf.kernels.topk_numba import NumbaTopk
from fgvc_hf.kernels.winograd_numba import WinogradConvolution


MODULES = (
    "numba_runtime", "alignment_numba", "bilinear_numba", "flow_numba", "patches_numba", "topk_numba", "winograd_numba"
)  # fmt: skip


def operations(dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Each operation of the kernels on random input of sizes that fill no vector register."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    features, templates, weights = random(19, 23, 37).to(dtype), random(6, 9, 37).to(dtype), random(6, 9)
    recent, trusted, cells = random(6, 3, 9, 37).to(dtype), random(6, 3) > 0.3, 20 * random(6, 2)
    image, points, window = random(41, 53), 40 * random(7, 2), random(49)
    flow = (9 * random(5, 19, 23, 2) - 4).int()
    convolution = WinogradConvolution(random(29, 37, 3, 3) - 0.5, random(29).to(dtype))
    corners = torch.tensor([[[0, 0]], [[3, 5]]])
    blocks, slots = random(2, 16, 37).to(dtype), torch.zeros(6, dtype=torch.long)
    patches, slopes, inverse = random(7, 25), random(2, 7, 25), random(7, 3)
    decay, residual = random(23, 37), random(1, 29, 19, 23).to(dtype)
    around = NumbaAlignment.sample(image, points, 3)
    return {
        "convolution": lambda: convolution(features.permute(2, 0, 1)[None], residual),
        "select": lambda: NumbaTopk.select(features[:9, :9].reshape(1, 1, 1, 37, 9, 9).contiguous(), (4,) * 9, 3),
        "score": lambda: NumbaTopk.score(blocks, blocks, torch.arange(10).repeat(2, 16, 1)),
        "refine": lambda: NumbaTopk.refine(blocks, [features], corners, (5, 5), 4),
        "correlate": lambda: NumbaPatches.correlate(features, (18 * cells / 20).int() - 2, templates, weights, 4),
        "mean": lambda: NumbaPatches.mean(templates, 1.5, recent, trusted),
        "take": lambda: NumbaPatches.take(features, cells, templates, trusted[:, 0], recent.clone(), slots),
        "sample": lambda: NumbaAlignment.sample(image, points, 3),
        "align": lambda: NumbaAlignment.align(image, around, window / window.sum(), points + 0.7, 6),
        "similarity": lambda: NumbaFlow.similarity(features, features, flow),
        "difference": lambda: NumbaFlow.difference(image, patches, points, points / 9),
        "search": lambda: NumbaFlow.search(image, patches, slopes, inverse, points, points / 9, 4),
        "spread": lambda: NumbaFlow.spread(features.float(), decay),
    }  # fmt: skip


def digest(result: object) -> str:
    tensors = result if isinstance(result, tuple) else (result,)
    return hashlib.sha256(b"".join(t.float().contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def functions_called() -> dict[str, list[str] | None]:
    """Functions of this package that the machine code of each kernel calls, itself left out; none for a kernel that was not needed."""
    calls: dict[str, list[str] | None] = {}
    for module in (importlib.import_module(f"fgvc_hf.kernels.{name}") for name in MODULES):
        for name, kernel in vars(module).items():
            if not hasattr(kernel, "overloads") or kernel.py_func.__module__ != module.__name__:
                continue
            found = set()
            for compiled in kernel.overloads.values():
                named = re.findall(r"\bcall\b[^@\n]*@\"?(_ZN[\w.]+)", compiled.library.get_llvm_str())
                found |= {
                    function
                    for function in named
                    if "fgvc_hf" in function and function != compiled.fndesc.mangled_name
                }
            calls[f"{module.__name__}.{name}"] = sorted(found) if kernel.overloads else None
    return calls


def main(order: list[str]) -> None:
    torch.set_num_threads(1)
    kinds = {"float32": operations(torch.float32), "bfloat16": operations(torch.bfloat16)}
    chosen = [f"{name} {kind}" for kind in kinds for name in kinds[kind]]
    chosen = chosen[::-1] if "backwards" in order else chosen
    results = {name: digest(kinds[name.split()[1]][name.split()[0]]()) for name in chosen}
    print(json.dumps({"results": results, "calls": functions_called()}))


if __name__ == "__main__":
    main(sys.argv[1:])
