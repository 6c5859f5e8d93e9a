"""Turn training data into Parquet shards, which `datasets` loads or streams, from a folder or from the Hub.

    python scripts/prepare.py videos FOLDER SHARDS             # any folder of videos, or of folders of images
    python scripts/prepare.py youtube-vos ROOT SHARDS          # ROOT/train/JPEGImages/VIDEO/00000.jpg
    python scripts/prepare.py flyingthings3d ROOT SHARDS       # ROOT/frames_cleanpass_webp, ROOT/optical_flow

Upload the folder of shards as a dataset repository to stream it: `hf upload --repo-type dataset NAME SHARDS`. Its README.md is the dataset
card; state the licence of the frames with --license.
"""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from fgvc_hf.data.dataset_card import UNKNOWN, write_dataset_card
from fgvc_hf.data.flying_things import FlyingThings3D
from fgvc_hf.data.shards import clip_rows, labelled_rows, write_shards


SOURCES = {
    "videos": "a folder of videos",
    "youtube-vos": "the training videos of YouTube-VOS",
    "flyingthings3d": "FlyingThings3D",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=tuple(SOURCES))
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--short-side", type=int, default=256, help="reduce the frames of videos to this")
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument(
        "--license", default=UNKNOWN, metavar="L", help="of the frames, as the Hub names it, such as cc-by-4.0"
    )
    arguments = parser.parse_args()
    try:
        files = write_shards(rows(arguments), arguments.output, arguments.rows_per_shard)
        write_dataset_card(arguments.output, SOURCES[arguments.kind], arguments.license)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} shards, {size / 2**20:.1f} MiB: {arguments.output}")


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
