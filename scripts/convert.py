"""Convert a published checkpoint of FGVC or of a compared method into one for `from_pretrained`.

    python scripts/convert.py METHOD CHECKPOINT OUTPUT
    python scripts/convert.py uvc-colours ENCODER DECODER OUTPUT

METHOD is a key of SOURCES in fgvc_hf/conversion/official.py. uvc-colours converts the two files of UVC's colour auto-encoder, which
scripts/train.py takes as --colours. Only tensors are read from the files; no other object is unpickled.
"""

import argparse
import sys
from pathlib import Path

from fgvc_hf.conversion.official import SOURCES, convert
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.ancestors.published_colours import convert_colours


COLOURS = "uvc-colours"


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=(*SOURCES, COLOURS))
    parser.add_argument("checkpoint", type=Path, nargs="+")
    parser.add_argument("output", type=Path, help="new folder")
    arguments = parser.parse_args()
    try:
        if arguments.output.exists():
            raise OSError(f"{arguments.output}: exists already; give a new folder.")
        if len(arguments.checkpoint) != (files := 2 if arguments.method == COLOURS else 1):
            raise ValueError(f"{arguments.method} is published as {files} file(s), got {len(arguments.checkpoint)}.")
        if arguments.method == COLOURS:
            model = convert_colours(*arguments.checkpoint)
            stride = model.config.stride
        else:
            model, processor = convert(arguments.method, *arguments.checkpoint)
            processor.save_pretrained(arguments.output)
            stride = model.config.output_stride
        model.save_pretrained(arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, stride {stride}: {arguments.output}")


if __name__ == "__main__":
    main()
