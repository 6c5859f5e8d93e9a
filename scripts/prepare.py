"""Turn training data into Parquet shards, which `datasets` loads or streams from a folder or from the Hub, or into one file.

    python scripts/prepare.py videos FOLDER SHARDS             # any folder of videos, or of folders of images
    python scripts/prepare.py youtube-vos ROOT SHARDS          # ROOT/train/JPEGImages/VIDEO/00000.jpg
    python scripts/prepare.py flyingthings3d ROOT SHARDS       # ROOT/frames_cleanpass_webp, ROOT/optical_flow
    python scripts/prepare.py pack FOLDER OUTPUT.pack          # a folder as of `videos`, in one file for `scripts/train.py --pack`

Upload the folder of shards as a dataset repository to stream it: `hf upload --repo-type dataset NAME SHARDS`. Its README.md is the dataset
card; state the licence of the frames with --license. A pack holds JPEG frames and is read without a video library; one that would be larger than
--max-size is refused with the number of frames per clip that fit.
"""

import argparse
import math
import sys
from pathlib import Path

from tqdm.auto import tqdm

from fgvc_hf.data.clip_pack import MAX_BYTES, packed_clips, write_pack
from fgvc_hf.data.dataset_card import UNKNOWN, write_dataset_card
from fgvc_hf.data.flying_things import FlyingThings3D
from fgvc_hf.data.shards import JPEG_QUALITY, clip_rows, labelled_rows, write_shards
from fgvc_hf.io.files import check_outputs, check_writable
from fgvc_hf.kernels.process import clean_end


SOURCES = {
    "videos": "a folder of videos",
    "youtube-vos": "the training videos of YouTube-VOS",
    "flyingthings3d": "FlyingThings3D",
}
PACK = "pack"


@clean_end()
def main() -> None:
    arguments = parse_arguments()
    try:
        check_outputs([arguments.output], [arguments.source])
        (write_one_file if arguments.kind == PACK else write_many)(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=(*SOURCES, PACK))
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path, help="folder of the shards, or the file of a pack")
    parser.add_argument("--short-side", type=int, default=256, help="reduce the frames of videos to this")
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--resume", action="store_true", help="continue shards of a run that was ended")
    parser.add_argument("--quality", type=int, default=JPEG_QUALITY, help="of the JPEG frames of a pack, 1 to 95")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="keep every K-th frame in a pack")
    parser.add_argument("--max-frames", type=int, help="of each clip of a pack, the first ones kept; all if not given")
    parser.add_argument("--max-size", type=float, default=MAX_BYTES / 1e6, metavar="MB", help="of a pack")
    parser.add_argument(
        "--license", default=UNKNOWN, metavar="L", help="of the frames, as the Hub names it, such as cc-by-4.0"
    )
    return parser.parse_args()


def write_many(arguments: argparse.Namespace) -> None:
    """Shards and their dataset card."""
    files = write_shards(rows(arguments), arguments.output, arguments.rows_per_shard, arguments.resume)
    write_dataset_card(arguments.output, SOURCES[arguments.kind], arguments.license)
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} shards, {size / 2**20:.1f} MiB: {arguments.output}")


def write_one_file(arguments: argparse.Namespace) -> None:
    """A pack."""
    check_writable(arguments.output)
    if not 0 < arguments.max_size < math.inf:
        raise ValueError(f"--max-size must be a positive number of MB, got {arguments.max_size}.")
    settings = arguments.short_side, arguments.quality, arguments.every, arguments.max_frames
    packed = packed_clips(arguments.source, *settings)
    clips = list(tqdm(packed, disable=None, unit=" clips"))
    size = write_pack(arguments.output, clips, round(1e6 * arguments.max_size))
    frames = sum(len(clip.frames) for clip in clips)
    print(f"{len(clips)} clips, {frames} frames, {size / 1e6:.1f} MB: {arguments.output}")


def rows(arguments: argparse.Namespace):
    """Rows of the kind asked for, with a progress bar."""
    if arguments.kind == "flyingthings3d":
        pairs = FlyingThings3D(arguments.source)
        return tqdm(labelled_rows(pairs[i] for i in range(len(pairs))), total=len(pairs), disable=None, unit=" pairs")
    folder = arguments.source
    if arguments.kind == "youtube-vos":
        folder = folder / "train" / "JPEGImages"
        if not folder.is_dir():
            raise FileNotFoundError(f"{arguments.source}: a folder train/JPEGImages was expected there.")
    return tqdm(clip_rows(folder, arguments.short_side), disable=None, unit=" clips")


if __name__ == "__main__":
    main()
