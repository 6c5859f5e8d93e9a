"""Training data as Parquet shards: written once, then loaded from a folder or streamed from the Hub with `datasets`.

There are two kinds of rows, with different columns:

* clips: `name`, and `frames`, the JPEG bytes of up to `CLIP_LENGTH` consecutive frames at reduced size;
* labelled pairs: `name`, `frames`, the PNG bytes of two frames, and `flow`, the bytes of an NPZ file whose array `flow` is
  `(2, H, W, 2)` in half precision. Nothing is pickled.
"""

import io
import itertools
import logging
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from ..io.files import atomic_write
from ..io.json_files import reason_of
from .flying_things import LabelledPair, labelled_pair
from .shard_manifest import MANIFEST, begin, finish, shard_files
from .video_folder import choose_clip, resized_images, scaled_frames, video_sources


logger = logging.getLogger(__name__)

CLIP_LENGTH = 32  # frames per row: enough for every gap, few enough to stream
ROWS_PER_SHARD = 64
JPEG_QUALITY = 92


def encode_image(image: np.ndarray, kind: str, quality: int = JPEG_QUALITY) -> bytes:
    """An image `(H, W, 3)` as a file of a kind, `"JPEG"` of a quality or `"PNG"`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """The image `(H, W, 3)`, uint8, of a file; an `OSError` if it is damaged."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def clip_rows(folder: str | Path, short_side: int = 256) -> Iterator[dict]:
    """Rows of the videos in a folder: files, or folders of images such as YouTube-VOS's `JPEGImages`.

    Videos that cannot be read or have fewer than two frames are skipped, and their number is logged.
    """
    skipped = []
    for source in video_sources(folder):
        try:
            frames = scaled_frames(source, short_side)
        except OSError as error:
            skipped.append(str(error))
            continue
        if len(frames) < 2:
            skipped.append(f"{source}: has fewer than two frames.")
            continue
        for start in range(0, len(frames) - 1, CLIP_LENGTH):
            part = frames[start : start + CLIP_LENGTH]
            if len(part) > 1:
                yield {"name": f"{source.stem}/{start}", "frames": [encode_image(frame, "JPEG") for frame in part]}
    if skipped:
        logger.warning("%s: left out %d videos; the first: %s", folder, len(skipped), skipped[0])


def labelled_rows(pairs: Iterable[LabelledPair]) -> Iterator[dict]:
    """Rows of labelled pairs."""
    for number, pair in enumerate(pairs):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, flow=pair.flow.numpy().astype(np.float16))
        frames = [encode_image(frame, "PNG") for frame in pair.frames.permute(0, 2, 3, 1).numpy()]
        yield {"name": f"{number:06d}", "frames": frames, "flow": buffer.getvalue()}


def write_shards(
    rows: Iterable[dict], output: str | Path, rows_per_shard: int = ROWS_PER_SHARD, resume: bool = False
) -> list[Path]:
    """Write rows as `output/data-00000.parquet` and following. Every file is complete or absent, and the manifest comes last.

    Args:
        rows: As [`clip_rows`] or [`labelled_rows`] yield them.
        output: Folder; made if needed.
        rows_per_shard (`int`): Rows per file.
        resume (`bool`, defaults to `False`): Continue a run that was ended, with the same rows from the first on. Those that are written
            already are compared by name and left out.

    Returns:
        The files.

    Raises:
        `ValueError`: there are no rows, or `rows_per_shard` is below 1.
        `OSError`: a file cannot be written; or the folder holds shards already, which are not those of a run with these rows.
    """
    import datasets

    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}.")
    output = Path(output)
    if resume and (output / MANIFEST).is_file():
        return shard_files(output)
    held, written = begin(output, rows_per_shard, resume), {}
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, rows_per_shard)):
        path = output / f"data-{len(written):05d}.parquet"
        if path in held:
            names = datasets.Dataset.from_parquet(str(path), columns=["name"])["name"]
            if list(names) != [row["name"] for row in batch]:
                raise FileExistsError(f"{path}: holds other rows; resume with the same source and settings.")
        else:
            with atomic_write(path) as temporary:
                datasets.Dataset.from_list(batch).to_parquet(temporary)
        written[path] = len(batch)
    if not written:
        raise ValueError(f"{output}: there is nothing to write.")
    if not set(held) <= set(written):
        raise FileExistsError(f"{max(held)}: holds rows beyond the last; resume with the same source and settings.")
    finish(output, written)
    return list(written)


def load_shards(source: str | Path, streaming: bool = False) -> Any:
    """A `datasets` dataset of the shards in a folder, or in a dataset repository of the Hub.

    Raises:
        `OSError`: the folder holds no shards, or is not whole by its manifest.
    """
    import datasets

    folder = Path(source)
    if not folder.is_dir():
        return datasets.load_dataset(str(source), split="train", streaming=streaming)
    files = [str(path) for path in shard_files(folder)]
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)


def row_to_labelled_pair(row: dict) -> LabelledPair:
    """The labelled pair of a row; an `OSError` that names the row if it is damaged."""
    try:
        with np.load(io.BytesIO(row["flow"]), allow_pickle=False) as archive:
            flow = archive["flow"].astype(np.float32)
        frames = [decode_image(data) for data in row["frames"]]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise OSError(f"{row.get('name', 'a row')}: is damaged ({reason_of(error)}).") from None
    return labelled_pair(frames, flow, row["name"])


class ShardedClips(Dataset):
    """Pairs of frames by number from the rows of clips, as [`VideoFolder`] gives them from videos.

    Args:
        rows: A map-style dataset of rows.
        size, gap, area, aspect, offsets, seed: As of [`VideoFolder`].
    """

    def __init__(self, rows, size=256, gap=(1, 5), area=(0.6, 1.0), aspect=(1.5, 2.0), offsets=(), seed: int = 0):
        self.rows, self.settings, self.seed = rows, (size, gap, area, aspect, offsets), seed

    def __getitem__(self, index: int) -> torch.Tensor:
        """Pair or clip `index`, uint8 of shape `(T, 3, size, size)`."""
        draw = np.random.default_rng((self.seed, index))
        row = self.rows[int(draw.integers(len(self.rows)))]
        return choose_clip(row["frames"], decode_image, draw, *self.settings)


class ShardedPairs(Dataset):
    """The labelled pairs of rows, for [`LabelledCrops`]."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LabelledPair:
        return row_to_labelled_pair(self.rows[index])


class StreamedClips(IterableDataset):
    """Pairs of frames by number from shards that are streamed one after the other.

    Pair n comes from the n-th row of the shuffled stream, which starts again at its end. A shard that cannot be read is logged by name and skipped.

    Args:
        shards (list of `str` or `Path`): Parquet files of clips: paths, or URLs that `datasets` opens (`hf://...`).
        size, gap, area, aspect, offsets, seed: As of [`VideoFolder`].
        buffer (`int`): Rows in the shuffle buffer, which are held in memory.
    """

    def __init__(
        self,
        shards,
        size=256,
        gap=(1, 5),
        area=(0.6, 1.0),
        aspect=(1.5, 2.0),
        offsets=(),
        seed: int = 0,
        buffer: int = 256,
    ):
        self.shards, self.settings, self.seed, self.buffer = (
            [str(shard) for shard in shards],
            (size, gap, area, aspect, offsets),
            seed,
            buffer,
        )
        if not self.shards:
            raise ValueError("shards is empty: there is nothing to stream.")
        self.numbers: Iterable[int] = itertools.count()

    def rows(self) -> Iterator[dict]:
        """The rows of all shards, repeated without end."""
        import datasets
        from datasets.exceptions import DatasetGenerationError

        while True:
            found = False
            for shard in self.shards:
                try:
                    for row in datasets.load_dataset("parquet", data_files=[shard], split="train", streaming=True):
                        found = True
                        yield row
                except (OSError, ValueError, DatasetGenerationError) as error:
                    logger.warning("%s: cannot be read and is left out (%s).", shard, error)
            if not found:
                raise OSError(f"{self.shards[0]}: none of the {len(self.shards)} shards can be read.")

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(n, pair n) for the numbers in `numbers`, which must increase."""
        draw, held, rows, at = np.random.default_rng(self.seed), [], self.rows(), -1
        for number in self.numbers:
            while at < number:
                while len(held) < self.buffer:
                    held.append(next(rows))
                row = held.pop(int(draw.integers(len(held))))
                at += 1
            yield (
                number,
                choose_clip(row["frames"], decode_image, np.random.default_rng((self.seed, number)), *self.settings),
            )


def shard_names(source: str | Path) -> list[str]:
    """The shards in a folder, or in a dataset repository of the Hub, in name order.

    Raises:
        `OSError`: there are none, or the folder is not whole by its manifest.
    """
    if Path(source).is_dir():
        return [str(path) for path in shard_files(Path(source))]
    from huggingface_hub import HfFileSystem

    names = [f"hf://{path}" for path in sorted(HfFileSystem().glob(f"datasets/{source}/**/*.parquet"))]
    if not names:
        raise FileNotFoundError(f"{source}: holds no shards (*.parquet).")
    return names


def shard_textures(rows: Iterable[dict], count: int, height: int, width: int) -> torch.Tensor:
    """Frames from the first `count` rows, for synthetic pairs: uint8 of shape `(N, 3, height, width)`."""
    chosen = itertools.islice(rows, count)
    images = [decode_image(row["frames"][len(row["frames"]) // 2]) for row in chosen]
    return resized_images(images, height, width)
