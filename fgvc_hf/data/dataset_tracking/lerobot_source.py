"""LeRobotDataset v3: many episodes of a camera in one video file, and where each is in Parquet.

meta/info.json                             version, rate, features, and templates of paths
meta/episodes/chunk-000/file-000.parquet   a row per episode: length, and for each camera the file and where the episode is in it
data/chunk-000/file-000.parquet            a row per frame
videos/CAMERA/chunk-000/file-000.mp4       one episode after the other
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pyarrow
import pyarrow.parquet

from .clip_sources import Clip, Content, candidates
from .run_options import Prompts
from .stored_files import files_below, join, local_copy, open_file, stamp_of, understood


INFO, EPISODES = "meta/info.json", "meta/episodes/"
PART_OF_PATH = re.compile(r"\{video_key\}|\{(chunk|file)_index(:0?\dd)?\}")
LARGEST = 1e9  # of any number in the metadata: episodes, frames, rates and seconds


def read_info(root: str) -> dict[str, Any]:
    """`meta/info.json` of a LeRobotDataset.

    Raises:
        `OSError`: it is damaged.
        `ValueError`: the data set is of another version.
    """
    path = join(root, INFO)
    with understood(path, "info of a LeRobotDataset v3"), open_file(path) as file:
        info = json.loads(file.read())
        version, cameras = str(info["codebase_version"]), cameras_of(info)
    if not version.startswith("v3."):
        raise ValueError(f"{root}: is a LeRobotDataset {version}; v3.0 is read, and lerobot converts older ones.")
    if not cameras:
        raise ValueError(f"{root}: has no features of dtype video; {candidates(list(info['features']))}.")
    if not number(info, "fps", path):
        raise OSError(f"{path}: is damaged; fps must be positive.")
    if re.search("[{}]", PART_OF_PATH.sub("", str(info.get("video_path", "{")))):
        raise OSError(
            f"{path}: is damaged; video_path must be made of {{video_key}}, {{chunk_index}} and {{file_index}}."
        )
    return info


def number(
    values: dict[str, Any], name: str, path: str, least: float = 0, kind: type | UnionType = int | float
) -> Any:
    """A number among the values of a file.

    Raises:
        `OSError`: there is none of this name, or it is not finite, smaller than the least, or of another kind.
    """
    value = values.get(name)
    right = isinstance(value, int | float) and isinstance(value, kind) and not isinstance(value, bool)
    if not right or not least <= value <= LARGEST:
        form = f"a whole number of {least}" if kind is int else "a finite number of 0"
        raise OSError(f"{path}: is damaged; {name} must be {form} or more, it is {value}.")
    return value


def cameras_of(info: dict[str, Any]) -> list[str]:
    """The features that are videos."""
    return [name for name, feature in info["features"].items() if feature["dtype"] == "video"]


def holds_points(kind: pyarrow.DataType) -> bool:
    """Whether a column holds lists of lists of numbers."""
    kind = getattr(kind, "storage_type", kind)  # of an array of datasets
    for _ in range(2):
        if not hasattr(kind, "value_type"):
            return False
        kind = kind.value_type
    return pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)


class LeRobotSource:
    """
    The episodes of a LeRobotDataset, one clip for each camera.

    Args:
        root (`str`): Its folder.
        video (`str`, *optional*): The camera; all if not given.
        prompts ([`Prompts`], *optional*): A column of points of the episodes: (t, x, y) each with t from the start of the episode, or (x, y) on its first frame.
    """

    def __init__(self, root: str, video: str | None = None, prompts: Prompts | None = None):
        if prompts is not None and prompts.kind == "masks":
            raise ValueError(f"{root}: is a LeRobotDataset, whose episodes have no masks; points are followed in it.")
        self.path, self.root, info = root, root, read_info(root)
        self.points = prompts.column if prompts is not None else None
        self.fps, self.video_path, cameras = float(info["fps"]), str(info["video_path"]), cameras_of(info)
        if video is not None and video not in cameras:
            raise ValueError(f"{root}: has no camera {video}; {candidates(cameras)}.")
        self.cameras = cameras if video is None else [video]

    def clips(self) -> Iterator[Clip]:
        stamps: dict[str, tuple[int, int]] = {}
        for path, episode in self.episodes():
            episode_index, length = (
                number(episode, *of, kind=int) for of in (("episode_index", path), ("length", path, 1))
            )
            points = episode[self.points] if self.points is not None else None
            for camera in self.cameras:
                chunk, file, start = (
                    number(episode, f"videos/{camera}/{name}", path, kind=kind)
                    for name, kind in (("chunk_index", int), ("file_index", int), ("from_timestamp", int | float))
                )
                name = self.video_path.format(video_key=camera, chunk_index=chunk, file_index=file)
                if name not in stamps:
                    stamps[name] = stamp_of(join(self.root, name))
                first = round(start * self.fps)
                place = (camera, points)
                yield Clip(
                    f"{name}#episode={episode_index}", name, stamps[name], episode_index, first, first + length, place
                )

    def episodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The file and the row of each episode, with the columns that are needed.

        Raises:
            `ValueError`: a column is not there.
            `OSError`: a file is damaged.
        """
        parts = ("chunk_index", "file_index", "from_timestamp")
        columns = [
            "episode_index",
            "length",
            *(f"videos/{camera}/{part}" for camera in self.cameras for part in parts),
        ]
        columns += [self.points] if self.points is not None else []
        names = [name for name in files_below(self.root) if name.startswith(EPISODES) and name.endswith(".parquet")]
        for path in (join(self.root, name) for name in names):
            with understood(path, "Parquet file"), open_file(path) as file:
                table = pyarrow.parquet.ParquetFile(file)
                if missing := [name for name in columns if name not in table.schema_arrow.names]:
                    raise ValueError(f"{path}: has no column {missing[0]}; {candidates(table.schema_arrow.names)}.")
                if self.points is not None and not holds_points(kind := table.schema_arrow.field(self.points).type):
                    raise ValueError(f"{path}: column {self.points} must hold lists of (t, x, y), it holds {kind}.")
                rows = table.read(columns).to_pylist()
            yield from ((path, row) for row in rows)

    def read(self, clip: Clip, folder: Path) -> Content:
        return Content(local_copy(join(self.root, clip.file), folder), clip.place[1])


__all__ = ["EPISODES", "INFO", "LeRobotSource", "cameras_of", "read_info"]
