"""TAP-Vid: annotated point tracks, and how well a tracker reproduces them.

[`load_tapvid_npz`] reads tracks from an `.npz` file and frames from a folder in the official DAVIS layout. Points are in pixels of the
stored frames; they are scored on a raster of 256x256 pixels.
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..coordinates import rescale_points
from ..io.array_files import read_npz
from ..io.files import not_hidden
from ..io.image_files import open_picture, read_image
from ..io.names import check_names
from ..metrics.average_jaccard import RASTER_SIZE, TapVidCounts, count_tapvid, queries_first, queries_strided
from ..tracker import Tracker
from ..tracking.results import PointTracks
from .baselines import ChainedTracker
from .tapvid_pickle import PickledVideo, are_tracks, load_tapvid_pickle


@dataclass(frozen=True, eq=False)
class TapVidVideo:
    """One video with its true point tracks.

    Args:
        name (`str`): Name of the sequence.
        frame_paths (`tuple[Path, ...]`): The T image files.
        points (`numpy.ndarray` of shape `(N, T, 2)`): (x, y) in pixels of the stored frames; meaningless where hidden.
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): Where the point is hidden.
        size (`tuple[int, int]`): (height, width) of the stored frames.
    """

    name: str
    frame_paths: tuple[Path, ...]
    points: np.ndarray
    occluded: np.ndarray
    size: tuple[int, int]

    @cached_property
    def frames(self) -> np.ndarray:
        """RGB frames of shape `(T, H, W, 3)`, uint8, read when first asked for and kept as long as the video is."""
        return np.stack([_read_frame(path) for path in self.frame_paths])


def load_tapvid(root: str | Path, split: str | None = None) -> Iterator["TapVidVideo | PickledVideo"]:
    """The videos of a split.

    | split | where |
    |---|---|
    | `davis` | `ROOT/tapvid_davis/tapvid_davis.pkl`, the official file |
    | `kinetics` | `ROOT/tapvid_kinetics/*.pkl`, the official files, one at a time |
    | any other | `ROOT/tapvid_davis_32/SPLIT.npz`, with frames in `ROOT/davis/JPEGImages/480p` |

    Raises:
        OSError: There is no such split; says which there are. Or a file is damaged.
    """
    root = Path(root)
    files: dict[str, list[Path]] = {
        path.stem: [path] for path in not_hidden((root / "tapvid_davis_32").glob("*.npz"))
    } | {name: not_hidden((root / f"tapvid_{name}").glob("*.pkl")) for name in ("davis", "kinetics")}
    present = [name for name, paths in files.items() if paths]
    if not present:
        raise FileNotFoundError(
            f"{root}: tapvid_davis_32/SPLIT.npz, tapvid_davis/*.pkl or tapvid_kinetics/*.pkl was expected there."
        )
    split = split or present[0]
    if split not in present:
        raise FileNotFoundError(f"{root}: has no split {split!r}; there are {', '.join(present)}.")
    if files[split][0].suffix == ".npz":
        return load_tapvid_npz(files[split][0], root / "davis" / "JPEGImages" / "480p")
    return (video for path in files[split] for video in load_tapvid_pickle(path))


def load_tapvid_npz(
    npz_path: str | Path, frames_root: str | Path, names: Iterable[str] | None = None
) -> Iterator[TapVidVideo]:
    """Go through the videos of a track file, one at a time, in the file's order.

    Args:
        npz_path (`str` or `Path`): File with three arrays per sequence: `<name>/points` of shape `(N, T, 2)`, (x, y)
            in pixels of the stored frames, `<name>/occluded` of shape `(N, T)`, and `<name>/size`, (width, height).
        frames_root (`str` or `Path`): Folder with `<name>/00000.jpg` and so on, such as DAVIS' `JPEGImages/480p`.
            Frames beyond the annotated ones are ignored.
        names (`Iterable[str]`, *optional*): Sequences to go through, in this order; all of the file if left out.

    Returns:
        `Iterator[TapVidVideo]`: the videos; their pixels are not read before they are used.

    Raises:
        OSError: The track file, a sequence's folder or one of its frames is missing or cannot be read.
        ValueError: The file is not such a track file, does not have a sequence, or does not fit the frames.
    """
    path, mark = Path(npz_path), "/points.npy"
    known = [member.removesuffix(mark) for member in _members(path) if member.endswith(mark)]
    names = check_names(known if names is None else names, npz_path)
    unknown = sorted(set(names) - set(known))
    if unknown or not known:
        wanted = f"the sequence {unknown[0]!r}" if unknown else "an array named <sequence>/points"
        raise ValueError(f"{npz_path} does not have {wanted}; it has {', '.join(known) or 'no sequences'}.")
    return _videos(path, Path(frames_root), names)


def _members(path: Path) -> list[str]:
    """The names of what an .npz file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no track file {path}: an .npz file of TAP-Vid tracks is needed.")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        raise ValueError(f"{path} is not an .npz file.") from None


def _videos(path: Path, frames_root: Path, names: list[str]) -> Iterator[TapVidVideo]:
    for name in names:
        points, occluded, size = _read_tracks(path, name)
        paths = _frame_paths(frames_root / name, points.shape[1])
        _check_sizes(paths, size)
        yield TapVidVideo(name, paths, points, occluded, size)


def _read_tracks(path: Path, name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Points, occlusion and (height, width) of one sequence."""
    wanted = tuple(f"{name}/{key}" for key in ("points", "occluded", "size"))
    arrays = read_npz(path, (), "a file of TAP-Vid tracks", wanted)
    if missing := [key for key in wanted if key not in arrays]:
        raise ValueError(f"{path}: lacks {missing[0]}; points, occluded and size are needed.")
    points, occluded, size = (arrays[key] for key in wanted)
    if not are_tracks(points, occluded) or not points.shape[1]:
        raise ValueError(
            f"{path}: the tracks of {name} must be points of shape (N, T, 2) and occluded of shape (N, T), 0 or 1, "
            f"but they have {points.shape} of {points.dtype} and {occluded.shape} of {occluded.dtype}."
        )
    if size.shape != (2,) or size.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name}/size must be (width, height), but it has {size.shape} of {size.dtype}.")
    width, height = size.tolist()
    return points, occluded.astype(bool), (height, width)


def _frame_paths(folder: Path, num_frames: int) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with the frames of {folder.name}.")
    paths = tuple(folder / f"{index:05d}.jpg" for index in range(num_frames))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {missing[0]}: the {num_frames} annotated frames need 00000.jpg to {paths[-1].name}."
        )
    return paths


def _check_sizes(paths: Iterable[Path], size: tuple[int, int]) -> None:
    """Compare the sizes in the image headers, without decoding, with the annotated (height, width)."""
    for path in paths:
        with open_picture(path) as image:
            width, height = image.size
        if (height, width) != size:
            found, expected = f"{width}x{height}", f"{size[1]}x{size[0]}"
            raise ValueError(f"{path} is {found}, but its points are annotated on {expected} frames.")


def _read_frame(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except OSError as error:
        raise OSError(f"{path} cannot be decoded: {error}") from None


def track_queries(
    tracker: Tracker | ChainedTracker, video: TapVidVideo | PickledVideo, query_mode: str = "first"
) -> tuple[PointTracks, TapVidCounts]:
    """Track the points of a video, and compare them with the annotations.

    The points share one pass over the video, but are tracked independently of each other, as the benchmark demands.

    Args:
        query_mode (`str`, defaults to `"first"`): `"first"`: each point is queried on the first frame where it is visible, and
            tracked forward. `"strided"`: on every fifth frame, if visible there, and tracked in both directions.

    Returns:
        The tracks in pixels of the stored frames, and their counts.

    Raises:
        `ValueError`: no point can be queried, or one is visible at a place that is not finite.
    """
    queries, index = (queries_first if query_mode == "first" else queries_strided)(video.points, video.occluded)
    if not len(queries):
        raise ValueError("no point is visible in a frame where it could be queried, so there is nothing to track.")
    height, width = video.size
    queries[:, 1:] = queries[:, 1:].clip(0, (width, height))  # a few annotations lie just outside the frame
    direction = "forward" if query_mode == "first" else "both"
    tracks = tracker.track(video.frames, queries, direction=direction)
    truth, found = (rescale_points(p, video.size, RASTER_SIZE) for p in (video.points[index], tracks.tracks))
    return tracks, count_tapvid(queries[:, 0], truth, video.occluded[index], found, tracks.visible, query_mode)
