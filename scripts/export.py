"""Export the encoder and one step of label propagation of a checkpoint, for runtimes without Python.

python scripts/export.py --output exported                     exported/encoder.onnx and exported/propagation.onnx
python scripts/export.py --output exported --format torch      .pt2, for torch.export.load and AOTInductor
python scripts/export.py --output exported --set output_stride=8 --set propagation_radius=6
"""

import argparse
import sys
from pathlib import Path

import torch

from fgvc_hf import Tracker
from fgvc_hf.cli.options import parse_setting
from fgvc_hf.conversion.graphs import GRAPHS, export_onnx, export_program
from fgvc_hf.io.files import check_outputs
from fgvc_hf.kernels.process import clean_end


@clean_end()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder; created if it does not exist"
    )
    parser.add_argument("--checkpoint", metavar="C", help="name of a bundled checkpoint, folder, or Hub id")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the configuration to change"
    )
    arguments = parser.parse_args()
    try:
        check_outputs([arguments.output], [arguments.checkpoint])
        settings = dict(parse_setting(assignment) for assignment in arguments.set)
        model = Tracker.from_pretrained(arguments.checkpoint, device="cpu", dtype="float32", **settings).model
        graphs = {name: graph(model) for name, graph in GRAPHS.items()}
        arguments.output.mkdir(parents=True, exist_ok=True)
        for name, graph in graphs.items():
            path = arguments.output / name
            if arguments.format == "onnx":
                print(export_onnx(graph, path.with_suffix(".onnx")))
            else:
                torch.export.save(export_program(graph), path.with_suffix(".pt2"))
                print(path.with_suffix(".pt2"))
    except (ValueError, OSError, ImportError) as error:
        print(f"export: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
