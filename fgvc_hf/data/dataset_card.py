"""The dataset card of a folder of shards. The Hub and `datasets` read features and sizes from its header."""

from pathlib import Path

import datasets
import pyarrow.parquet
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from ..io.files import atomic_write
from .dataset_tracking.stored_files import understood
from .shards import CLIP_LENGTH


SHARDS = "data-*.parquet"  # file names of write_shards
UNKNOWN = "unknown"  # the Hub's identifier of a licence that is not stated
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
ROWS = {
    "clips": f"A row has `name`, and `frames`: the JPEG bytes of 2 to {CLIP_LENGTH} consecutive frames.",
    "labelled pairs": "A row has `name`, `frames`: the PNG bytes of two frames, and `flow`: the bytes of an NPZ file whose array `flow` "
    "(2, H, W, 2), in half precision, is the displacement (x, y) in pixels from each frame to the other.",
}


def write_dataset_card(folder: str | Path, source: str, license: str = UNKNOWN) -> None:
    """Write the README.md of a folder of shards. Features, counts and sizes are read from the shards.

    Args:
        folder: Of shards by [`write_shards`].
        source (`str`): What the rows were made from, in a few words.
        license (`str`, defaults to `"unknown"`): Identifier of the licence of the frames as the Hub has them.

    Raises:
        `OSError`: there are no shards, or the file cannot be written.
    """
    files, features, count, size = shards_in(folder)
    kind = "labelled pairs" if "flow" in features else "clips"
    unstated = "The licence of the frames was not stated: state it above before you share them.\n\n"
    text = f"""# {count} {kind} for fgvc_hf

Made from {source} by `scripts/prepare.py`: {size / 2**20:.1f} MiB. {ROWS[kind]}

{unstated if license == UNKNOWN else ""}`python scripts/train.py --shards FOLDER` trains on this folder, and with `--stream` on a dataset repository of the Hub.
"""
    write_card(folder, text, license)


def shards_in(folder: str | Path) -> tuple[list[Path], datasets.Features, int, int]:
    """The shards in a folder, their features, and their numbers of rows and of bytes.

    Raises:
        `OSError`: there are none, or one is damaged.
    """
    files = sorted(Path(folder).glob(SHARDS))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no shards ({SHARDS}).")
    footers = [footer(file) for file in files]
    features = datasets.Features.from_arrow_schema(footers[0].schema.to_arrow_schema())
    return files, features, sum(part.num_rows for part in footers), sum(file.stat().st_size for file in files)


def footer(file: Path) -> pyarrow.parquet.FileMetaData:
    """What the end of a Parquet file says of it; an `OSError` that names the file if it is damaged."""
    with understood(str(file), "Parquet file"):
        return pyarrow.parquet.read_metadata(file)


def write_card(folder: str | Path, text: str, license: str = UNKNOWN) -> None:
    """Write the README.md of a folder of shards: a header, with features, counts and sizes as the shards have them, and a text below it.

    Raises:
        `OSError`: there are no shards, or the file cannot be written.
    """
    files, features, count, size = shards_in(folder)
    metadata = [footer(file) for file in files]
    held = sum(part.row_group(i).total_byte_size for part in metadata for i in range(part.num_row_groups))
    splits = datasets.SplitDict({"train": datasets.SplitInfo("train", held, count)})
    header = DatasetCardData(
        license=license,
        size_categories=next((name for limit, name in SIZES if count < limit), "n>10M"),
        tags=["point-tracking", "video-correspondence"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": SHARDS}]}],
    )
    info = datasets.DatasetInfo(features=features, splits=splits, download_size=size, dataset_size=held)
    DatasetInfosDict({"default": info}).to_dataset_card_data(header)
    card = f"---\n{header.to_yaml()}\n---\n\n{text}"
    with atomic_write(Path(folder) / "README.md") as path:
        path.write_text(card, encoding="utf-8")
