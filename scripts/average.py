"""Average checkpoints, and estimate the statistics of batch normalisation again on frames of a folder of videos.

    python scripts/average.py outputs/teacher/last=0.5 outputs/joint/last=0.5 --videos FOLDER --output outputs/average

Only checkpoints fine-tuned one from another can be averaged; one alone gets new statistics. With `--frames 0` the statistics are averaged like the
weights, for checkpoints of one origin whose training left them as they were (`freeze_batch_norm`); no videos are needed then.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor
from fgvc_hf.data.augmentation import rgb_to_pixel_values
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.io.files import check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.averaging import average_weights, estimate_batch_norm
from fgvc_hf.training.experiment import load_model


BATCH = 4
CROP, GAP, AREA, ASPECT = 256, (1, 6), (0.5, 1.0), (1.0, 1.8)  # crops close to whole frames, as a tracker sees them


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT=SHARE")
    parser.add_argument("--videos", type=Path, help="of whose frames the statistics are")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--frames", type=int, default=160, help="crops that the statistics are the mean over; 0 averages them"
    )
    arguments = parser.parse_args()
    if arguments.frames < 0:
        parser.error(f"--frames must be at least 0, got {arguments.frames}")
    if arguments.frames and arguments.videos is None:
        parser.error("--videos is needed, unless --frames is 0")
    try:
        average(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def average(arguments: argparse.Namespace) -> None:
    names, shares = zip(*(parse(text) for text in arguments.checkpoints), strict=True)
    check_outputs([arguments.output], [*names, *([arguments.videos] if arguments.videos else [])])
    videos = VideoFolder(arguments.videos, CROP, GAP, AREA, ASPECT) if arguments.frames else None
    model = average_weights([load_model(name).eval() for name in names], shares)
    if videos is not None:
        estimate_batch_norm(model, crops(videos, arguments.frames))
    model.save_pretrained(arguments.output)
    FgvcProcessor(FgvcImageProcessorPil()).save_pretrained(arguments.output)


def parse(text: str) -> tuple[str, float]:
    """Name and share of `CHECKPOINT=SHARE`; a share of 1 if there is none."""
    name, equals, share = text.rpartition("=")
    try:
        return (name, float(share)) if equals else (text, 1.0)
    except ValueError:
        raise ValueError(f"a share must be a number, got {share!r} in {text!r}.") from None


def crops(videos: VideoFolder, frames: int) -> Iterator[torch.Tensor]:
    """First frames of real pairs, as the model's input, in batches."""
    for start in range(0, frames, BATCH):
        batch = torch.stack([videos[number][0] for number in range(start, start + BATCH)])
        yield rgb_to_pixel_values(batch.float() / 255)


if __name__ == "__main__":
    main()
