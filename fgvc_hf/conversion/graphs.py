"""The encoder and one step of label propagation as graphs for runtimes without Python: a `torch.export` program, or ONNX, in float32.

Both take any height and width, and use convolutions, matrix products, gathers and top-k only. Decoding, the memory of context frames and the
read-out of label maps stay with the caller:

    features = encoder(pixel_values)                 # of every frame, as FgvcImageProcessorPil makes it
    labels = propagation(features, keys, labels)     # keys and labels of the context frames; the first frame is one of them
"""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration_fgvc import COARSE_STRIDE
from ..matching.row_search import row_topk
from ..modeling_fgvc import FgvcModel
from ..tracking.label_maps import LABEL_CUTOFF


OPSET = 18
LEAST_SIDE = 16  # pixels of a frame
FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


class EncoderGraph(nn.Module):
    """Normalised features `(h, w, C)` of one frame `(1, 3, H, W)`; not normalised if `config.similarity` is `"dot"`.

    Those of a coarse-to-fine model are the fine ones; its frames are at least one window of attention high and wide.
    """

    inputs, outputs = ("pixel_values",), ("features",)

    def __init__(self, model: FgvcModel):
        super().__init__()
        self.model = copy.deepcopy(model).to("cpu", torch.float32).eval()
        self.unit = model.config.similarity == "cosine"
        self.least = LEAST_SIDE if model.head is None else max(LEAST_SIDE, COARSE_STRIDE * model.head.least)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.model(pixel_values, return_dict=True).features[0].permute(1, 2, 0)
        return F.normalize(features, dim=-1) if self.unit else features

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.rand(1, 3, self.least + 8, self.least + 16, **FLOAT32),)

    def dynamic_shapes(self) -> tuple:
        height, width = (torch.export.Dim(name, min=self.least) for name in ("height", "width"))
        return ({2: height, 3: width},)


class PropagationGraph(nn.Module):
    """New label maps of a frame from those of the context frames: a softmax over the top-k keys of all windows jointly.

    Results are those of [`window_topk`] and [`propagate_labels`].

    Raises:
        `ValueError`: `config.propagation_family` is not `"joint"`, or `config.first_windowed` is false.
    """

    inputs, outputs = ("query", "keys", "labels"), ("new_labels",)

    def __init__(self, model: FgvcModel):
        super().__init__()
        config = model.config
        if config.propagation_family != "joint" or not config.first_windowed:
            raise ValueError(
                "propagation can be exported where propagation_family is 'joint' and first_windowed is true, got "
                f"{config.propagation_family!r} and {config.first_windowed}."
            )
        self.window = config.propagation_radius, config.propagation_window
        self.topk, self.temperature = config.propagation_topk, config.temperature
        self.channels = config.hidden_size

    def forward(self, query: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            query (`torch.Tensor` of shape `(h, w, C)`): Features of the new frame.
            keys (`torch.Tensor` of shape `(F, h, w, C)`): Features of the context frames.
            labels (`torch.Tensor` of shape `(F, h, w, L)`): Label maps of the context frames.

        Returns:
            `torch.Tensor` of shape `(h, w, L)`: Label maps of the new frame.
        """
        best, index = row_topk(query, keys, *self.window, self.topk)  # (h * w, k) each
        weights = torch.softmax(best / self.temperature, dim=-1)
        new = (weights[..., None] * labels.flatten(0, 2)[index]).sum(dim=1).unflatten(0, query.shape[:2])
        return new.masked_fill(new < LABEL_CUTOFF, 0)

    def example(self) -> tuple[torch.Tensor, ...]:
        query, keys = (torch.rand(*n, 24, 32, self.channels, **FLOAT32) for n in ((), (3,)))
        return F.normalize(query, dim=-1), F.normalize(keys, dim=-1), torch.rand(3, 24, 32, 2, **FLOAT32)

    def dynamic_shapes(self) -> tuple:
        h, w, frames, labels = (torch.export.Dim(name, min=2) for name in ("h", "w", "frames", "labels"))
        return {0: h, 1: w}, {0: frames, 1: h, 2: w}, {0: frames, 1: h, 2: w, 3: labels}


GRAPHS = {"encoder": EncoderGraph, "propagation": PropagationGraph}


def export_program(graph: EncoderGraph | PropagationGraph) -> torch.export.ExportedProgram:
    """Export a graph as a program that `torch.export.save` writes and AOTInductor compiles.

    Raises:
        `ValueError`: the encoder cannot be exported for frames of any size: those of others, and heads with attention.
    """
    graph.eval()
    try:
        with torch.no_grad():
            return torch.export.export(graph, graph.example(), dynamic_shapes=graph.dynamic_shapes())
    except RuntimeError as error:
        raise ValueError(
            "the graph cannot be exported for frames of any size: torch.export finds sizes that it depends on."
        ) from error


def export_onnx(graph: EncoderGraph | PropagationGraph, path: str | Path) -> Path:
    """Write a graph as ONNX (opset 18), weights included.

    Raises:
        `ImportError`: `onnx` or `onnxscript` is not installed (`pip install "fgvc-hf[export]"`).
    """
    if not all(find_spec(name) for name in ("onnx", "onnxscript")):
        raise ImportError('writing ONNX needs onnx and onnxscript: pip install "fgvc-hf[export]"')
    names: dict = {"input_names": graph.inputs, "output_names": graph.outputs, "opset_version": OPSET}
    program = torch.onnx.export(export_program(graph), **names, dynamo=True, verbose=False)
    assert program is not None
    path = Path(path)
    program.save(path, external_data=False)
    return path
