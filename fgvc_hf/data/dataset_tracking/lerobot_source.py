"""LeRobotDataset v3: many episodes of a camera in one video file, and where each is in Parquet.

meta/info.json                             version, rate, features, and templates of paths
meta/episodes/chunk-000/file-000.parquet   a row per episode: length, and for each camera the file and where the episode is in it
data/chunk-000/file-000.parquet            a row per frame
videos/CAMERA/chunk-000/file-000.mp4       one episode after the other
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from .clip_sources import Clip, Content, candidates
from .stored_files import files_below, join, local_copy, open_file, stamp_of


INFO, EPISODES = "meta/info.json", "meta/episodes/"


def read_info(root: str) -> dict[str, Any]:
    """`meta/info.json` of a LeRobotDataset.

    Raises:
        `OSError`: it is damaged.
        `ValueError`: the data set is of another version.
    """
    path = join(root, INFO)
    try:
        with open_file(path) as file:
            info = json.loads(file.read())
        version, rate, cameras = str(info["codebase_version"]), float(info["fps"]), cameras_of(info)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OSError(f"{path}: is damaged; it must have codebase_version, fps and features.") from None
    if not version.startswith("v3."):
        raise ValueError(f"{root}: is a LeRobotDataset {version}; v3.0 is read, and lerobot converts older ones.")
    if not rate > 0:
        raise OSError(f"{path}: is damaged; fps must be positive, it is {rate:g}.")
    if not cameras:
        raise ValueError(f"{root}: has no features of dtype video; {candidates(list(info['features']))}.")
    return info


def cameras_of(info: dict[str, Any]) -> list[str]:
    """The features that are videos."""
    return [name for name, feature in info["features"].items() if feature["dtype"] == "video"]


class LeRobotSource:
    """
    The episodes of a LeRobotDataset, one clip for each camera.

    Args:
        root (`str`): Its folder.
        video (`str`, *optional*): The camera; all if not given.
        points (`str`, *optional*): Name of a column of the episodes: (t, x, y) each with t from the start of the episode, or (x, y) on its first frame.
    """

    def __init__(self, root: str, video: str | None = None, points: str | None = None):
        self.root, self.points, info = root, points, read_info(root)
        self.fps, self.video_path, cameras = float(info["fps"]), str(info["video_path"]), cameras_of(info)
        if video is not None and video not in cameras:
            raise ValueError(f"{root}: has no camera {video}; {candidates(cameras)}.")
        self.cameras = cameras if video is None else [video]
        self._points: dict[int, Any] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_points": None}

    def clips(self) -> Iterator[Clip]:
        stamps: dict[str, tuple[int, int]] = {}
        for episode in self.episodes(self._columns(), [self.points] if self.points else []):
            number = episode["episode_index"]
            for camera in self.cameras:
                chunk, file = (episode[f"videos/{camera}/{name}_index"] for name in ("chunk", "file"))
                name = self.video_path.format(video_key=camera, chunk_index=chunk, file_index=file)
                if name not in stamps:
                    stamps[name] = stamp_of(join(self.root, name))
                start = round(episode[f"videos/{camera}/from_timestamp"] * self.fps)
                stop = start + episode["length"]
                yield Clip(f"{name}#episode={number}", name, stamps[name], number, start, stop, (camera,))

    def _columns(self) -> list[str]:
        parts = ("chunk_index", "file_index", "from_timestamp")
        return ["episode_index", "length", *(f"videos/{camera}/{part}" for camera in self.cameras for part in parts)]

    def episodes(self, columns: list[str], needed: list[str] | tuple = ()) -> Iterator[dict[str, Any]]:
        """Rows of the episodes with some columns; others are needed to be there.

        Raises:
            `ValueError`: a column is not there.
            `OSError`: a file is damaged.
        """
        names = [name for name in files_below(self.root) if name.startswith(EPISODES) and name.endswith(".parquet")]
        for name in names:
            path = join(self.root, name)
            with open_file(path) as file:
                try:
                    table = pyarrow.parquet.ParquetFile(file)
                    missing = [one for one in (*columns, *needed) if one not in table.schema_arrow.names]
                    if missing:
                        raise ValueError(
                            f"{path}: has no column {missing[0]}; {candidates(table.schema_arrow.names)}."
                        )
                    yield from table.read(columns).to_pylist()
                except pyarrow.ArrowInvalid as error:
                    raise OSError(f"{path}: is no Parquet file, or is damaged ({error}).") from None

    def read(self, clip: Clip, folder: Path) -> Content:
        points = None
        if self.points is not None:
            if self._points is None:
                rows = self.episodes(["episode_index", self.points])
                self._points = {row["episode_index"]: row[self.points] for row in rows}
            points = self._points.get(clip.row)
        return Content(local_copy(join(self.root, clip.file), folder), points)


__all__ = ["INFO", "LeRobotSource", "cameras_of", "read_info"]
