"""Training data as Parquet shards: written once, then loaded from a folder or streamed from the Hub with `datasets`.

There are two kinds of rows, with different columns:

* clips: `name`, and `frames`, the JPEG bytes of up to `CLIP_LENGTH` consecutive frames at reduced size;
* labelled pairs: `name`, `frames`, the PNG bytes of two frames, and `flow`, the bytes of an NPZ file whose array `flow` is
  `(2, H, W, 2)` in half precision. Nothing is pickled.
"""

import io
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset, IterableDataset

from ..io.files import atomic_write
from ..io.json_files import reason_of
from ..tracking.frames import rgb_of
from .dataset_tracking.stored_files import understood
from .flying_things import LabelledPair, labelled_pair
from .shard_manifest import MANIFEST, UNFINISHED, begun, finish, place_of_row, shard_files
from .video_folder import check_view, choose_clip, clip_name, resized_images, scaled_frames, video_sources


logger = logging.getLogger(__name__)

CLIP_LENGTH = 32  # frames per row: enough for every gap, few enough to stream
ROWS_PER_SHARD = 64
JPEG_QUALITY = 92
TRIES = 100  # rows one after the other that may be damaged or too short


def encode_image(image: np.ndarray, kind: str, quality: int = JPEG_QUALITY) -> bytes:
    """An image `(H, W, 3)` as a file of a kind, `"JPEG"` of a quality or `"PNG"`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """The image `(H, W, 3)`, uint8, of a file, by the rule of [`as_frame`]; an `OSError` if it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return rgb_of(image, "a frame")
    except UnidentifiedImageError:
        raise OSError("a frame is no image of a known format.") from None
    except Exception as error:  # decoders raise anything on damaged files
        raise OSError(reason_of(error)) from None


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
                yield {
                    "name": f"{clip_name(source)}/{start}",
                    "frames": [encode_image(frame, "JPEG") for frame in part],
                }
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
            already are compared and left out.

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
        (output / UNFINISHED).unlink(missing_ok=True)  # of a run that was killed before it had removed it
        return shard_files(output)
    with begun(output, rows_per_shard, resume) as held:
        written, remaining = {}, iter(rows)
        while batch := list(itertools.islice(remaining, rows_per_shard)):
            path = output / f"data-{len(written):05d}.parquet"
            if path not in held:
                with atomic_write(path) as temporary:
                    datasets.Dataset.from_list(batch).to_parquet(temporary)
            elif read_shard(path) != batch:
                raise FileExistsError(f"{path}: holds other rows; resume with the same source and settings.")
            written[path] = len(batch)
        if not written:
            raise ValueError(f"{output}: there is nothing to write.")
        if not set(held) <= set(written):
            raise FileExistsError(
                f"{max(held)}: holds rows beyond the last; resume with the same source and settings."
            )
        finish(output, written)
    return list(written)


def read_shard(path: str | Path) -> list[dict]:
    """The rows of a shard; an `OSError` that names it if it is damaged."""
    import pyarrow.parquet

    with understood(str(path), "Parquet file"):
        return pyarrow.parquet.read_table(Path(path).absolute(), partitioning=None).to_pylist()


def load_shards(source: str | Path, streaming: bool = False) -> Any:
    """A `datasets` dataset of the shards in a folder, or in a dataset repository of the Hub.

    Raises:
        `OSError`: there is no such folder, it holds no shards or is not whole by its manifest, or a shard is damaged.
    """
    import datasets

    if not is_local(source):
        return datasets.load_dataset(str(source), split="train", streaming=streaming)
    files = shard_files(Path(source))
    try:
        return datasets.load_dataset(
            "parquet", data_files=[str(path) for path in files], split="train", streaming=streaming
        )
    except Exception as error:  # of datasets, which names no file
        cause = error.__cause__ or error
        if not (isinstance(cause, OSError) and cause.errno):  # such as of a full disk
            for path in files:
                read_shard(path)
        raise OSError(f"{source}: its shards cannot be loaded ({reason_of(cause)}).") from None


def is_local(source: str | Path) -> bool:
    """Whether shards are in a folder, or else in a dataset repository of the Hub; a `FileNotFoundError` of a name that is none of one."""
    if Path(source).is_dir():
        return True
    if Path(source).exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
        raise FileNotFoundError(f"{source}: holds no shards, there is no such folder.")
    return False


@contextmanager
def damaged(row: Any, place: Callable[[], str]) -> Generator[None]:
    """A context in which what a row holds is used: whatever goes wrong is damage of it, an `OSError` that says where the row is."""
    try:
        yield
    except Exception as error:  # of columns that are missing or of another type, and of decoders
        name = row.get("name") if isinstance(row, Mapping) else None
        reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) and error.args else reason_of(error)
        label = ", ".join(str(part) for part in (place(), name) if part)
        raise OSError(f"{label or 'a row'}: is damaged ({reason.rstrip('.')}).") from None


def row_to_labelled_pair(row: dict, place: Callable[[], str] = str) -> LabelledPair:
    """The labelled pair of a row; an `OSError` that names the row, and its `place`, if it is damaged."""
    with damaged(row, place):
        with np.load(io.BytesIO(row["flow"]), allow_pickle=False) as archive:
            flow = archive["flow"].astype(np.float32)
        if flow.ndim != 4:
            raise ValueError(f"flow must be (2, H, W, 2), it is {flow.shape}")
        frames, name = [decode_image(data) for data in row["frames"]], str(row["name"])
    return labelled_pair(frames, flow, ", ".join(part for part in (place(), name) if part))


def clip_of_rows(rows: Iterable[tuple[Callable[[], str], Any]], draw: np.random.Generator, settings) -> torch.Tensor:
    """
    A random view, as of [`choose_clip`], of the first row that is neither damaged nor too short. Damaged ones are logged.

    Args:
        rows (iterable of `tuple`): Where a row is, and the row.
        draw (`numpy.random.Generator`): Of the view.
        settings (`tuple`): `size`, `gap`, `area`, `aspect` and `offsets`.

    Raises:
        `OSError`: there are 100 others, or nothing else.
    """
    least, reason = max(2, len(settings[-1])), ""
    for place, row in itertools.islice(rows, TRIES):
        try:
            with damaged(row, place):
                if (length := len(row["frames"])) >= least:
                    return choose_clip(row["frames"], decode_image, draw, *settings)
            reason = f"{place()}: has {length} frames, but {least} are needed."
        except OSError as error:
            reason = str(error)
            logger.warning("left out: %s", reason)
    raise OSError(f"no row can be used of those that were drawn; the last is {reason}")


class ShardedClips(Dataset):
    """Pairs of frames by number from the rows of clips, as [`VideoFolder`] gives them from videos.

    Args:
        rows: A map-style dataset of rows.
        size, gap, area, aspect, offsets, seed: As of [`VideoFolder`]. For a row that is damaged, which is logged, or too short, another is drawn.
        source: Where the rows are from, for messages.
    """

    def __init__(
        self, rows, size=256, gap=(1, 5), area=(0.6, 1.0), aspect=(1.5, 2.0), offsets=(), seed: int = 0, source="rows"
    ):
        check_view(size, gap, area, aspect, offsets, seed)
        self.rows, self.settings, self.seed = rows, (size, gap, area, aspect, offsets), seed
        self.source = source

    def __getitem__(self, index: int) -> torch.Tensor:
        """Pair or clip `index`, uint8 of shape `(T, 3, size, size)`."""
        draw = np.random.default_rng((self.seed, index))
        return clip_of_rows(self._drawn(draw), draw, self.settings)

    def _drawn(self, draw: np.random.Generator) -> Iterator[tuple[Callable[[], str], dict]]:
        while True:
            number = int(draw.integers(len(self.rows)))
            yield partial(place_of_row, self.source, number), self.rows[number]


class ShardedPairs(Dataset):
    """The labelled pairs of rows, for [`LabelledCrops`]. `source` is where they are from, for messages."""

    def __init__(self, rows, source="rows"):
        self.rows, self.source = rows, source

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LabelledPair:
        return row_to_labelled_pair(self.rows[index], partial(place_of_row, self.source, index))


def shuffled(rows: Sequence, draw: np.random.Generator) -> Iterator:
    """Rows in a random order, which is drawn once there is need of one."""
    for number in draw.permutation(len(rows)):
        yield rows[number]


def read_shards(shards: Iterable[str | Path]) -> Iterator[tuple[Callable[[], str], dict]]:
    """The rows of shards one after the other, and where each is. A shard that cannot be read is logged by name, and the rest of it left out."""
    import datasets

    for shard in shards:
        try:
            rows = datasets.load_dataset("parquet", data_files=[str(shard)], split="train", streaming=True)
            for number, row in enumerate(rows):
                yield partial("{}, row {}".format, shard, number), row
        except Exception as error:  # of datasets, pyarrow, the network and the Hub
            logger.warning("%s: cannot be read and is left out (%s).", shard, reason_of(error).rstrip("."))


class StreamedClips(IterableDataset):
    """Pairs of frames by number from shards that are streamed one after the other.

    Pair n comes from the n-th row of the shuffled stream, which starts again at its end. A shard that cannot be read is logged by name and skipped.
    For a row that is damaged, which is logged too, or too short, another of the buffer is taken.

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
        check_view(size, gap, area, aspect, offsets, seed)
        self.shards, self.settings, self.seed, self.buffer = (
            [str(shard) for shard in shards],
            (size, gap, area, aspect, offsets),
            seed,
            buffer,
        )
        if not self.shards:
            raise ValueError("shards is empty: there is nothing to stream.")
        self.numbers: Iterable[int] = itertools.count()

    def rows(self) -> Iterator[tuple[Callable[[], str], dict]]:
        """The rows of all shards and where they are, repeated without end."""
        while True:
            found = False
            for row in read_shards(self.shards):
                found = True
                yield row
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
            of_view = np.random.default_rng((self.seed, number))
            yield number, clip_of_rows(itertools.chain([row], shuffled(held, of_view)), of_view, self.settings)


def shard_names(source: str | Path) -> list[str]:
    """The shards in a folder, or in a dataset repository of the Hub, in name order.

    Raises:
        `OSError`: there is no such folder, it holds none, or is not whole by its manifest.
    """
    if is_local(source):
        return [str(path) for path in shard_files(Path(source))]
    from huggingface_hub import HfFileSystem

    names = [f"hf://{path}" for path in sorted(HfFileSystem().glob(f"datasets/{source}/**/*.parquet"))]
    if not names:
        raise FileNotFoundError(f"{source}: holds no shards (*.parquet).")
    return names


def shard_textures(source: str | Path, count: int, height: int, width: int) -> torch.Tensor:
    """Frames from the first `count` rows of shards, for synthetic pairs: uint8 of shape `(N, 3, height, width)`. Damaged rows are logged, and left out.

    Raises:
        `OSError`: as of [`shard_names`], or no row can be read.
    """
    if is_local(source):
        rows = read_shards(shard_names(source))
    else:
        rows = ((partial(place_of_row, source, n), row) for n, row in enumerate(load_shards(source, streaming=True)))
    images = []
    for place, row in itertools.islice(rows, count):
        try:
            with damaged(row, place):
                images.append(decode_image(row["frames"][len(row["frames"]) // 2]))
        except OSError as error:
            logger.warning("left out: %s", error)
    if not images:
        raise OSError(f"{source}: none of the first {count} rows has a frame that can be read.")
    return resized_images(images, height, width)
