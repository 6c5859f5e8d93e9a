"""Turn a published checkpoint of this or a compared method into one for `from_pretrained`.

    python scripts/convert.py METHOD CHECKPOINT OUTPUT

METHOD is one of those in fgvc_hf/conversion/official.py. Only tensors are read from the file.
"""

import argparse
import sys
from pathlib import Path

from fgvc_hf.conversion.official import SOURCES, convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=tuple(SOURCES))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="new folder")
    arguments = parser.parse_args()
    try:
        if arguments.output.exists():
            raise OSError(f"{arguments.output}: exists already; give a new folder.")
        model, processor = convert(arguments.method, arguments.checkpoint)
        model.save_pretrained(arguments.output)
        processor.save_pretrained(arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, stride {model.config.output_stride}: {arguments.output}"
    )


if __name__ == "__main__":
    main()
