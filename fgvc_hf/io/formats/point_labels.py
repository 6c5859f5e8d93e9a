"""Labelled points and boxes of a clip, as annotation tools keep them: what the readers of all formats return."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from ..text_files import cut


LARGEST = 1e9  # frame number and position, beyond any video
LONGEST_NAME = 200  # characters
ROUNDING = 1e-6  # by which a confidence of float32 may pass 0 or 1


class PointName(NamedTuple):
    """What a point is called.

    Args:
        part (`str`): The body part or landmark: a `bodypart` of DeepLabCut, a node of SLEAP, a keypoint of COCO, a label of CVAT.
        individual (`str`): The animal or object that it belongs to; empty if the file does not tell several apart.
    """

    part: str
    individual: str = ""

    def __str__(self) -> str:
        return f"{self.individual}/{self.part}" if self.individual else self.part

    @classmethod
    def of(cls, text: str) -> "PointName":
        """The name of a text as [`str`] makes it."""
        individual, slash, part = text.partition("/")
        return cls(part, individual) if slash else cls(text)


class Label(NamedTuple):
    """One point on one frame, in the coordinates of the file that it comes from."""

    name: PointName
    t: float
    x: float
    y: float
    visible: bool = True
    confidence: float = 1.0
    clip: str = ""  # path of the video or of the folder of images that it is of, in files that hold several


class BoxLabel(NamedTuple):
    """One box on one frame, in the coordinates of the file that it comes from."""

    object_id: int
    t: float
    sides: tuple[float, float, float, float]  # x0, y0, x1, y1
    name: str = ""
    clip: str = ""  # as of a point


Row = TypeVar("Row", Label, BoxLabel)


@dataclass
class PointLabels:
    """
    Labelled points of one clip, in pixels of the video. A point may be labelled on several frames.

    Args:
        ids (`numpy.ndarray` of shape `(L,)`, int64): The point of each label; sorted.
        points (`numpy.ndarray` of shape `(L, 3)`, float64): (t, x, y), by time for each point.
        visible (`numpy.ndarray` of shape `(L,)`, bool): Whether the point is seen there; false for a position that was labelled although
            something hides it.
        confidence (`numpy.ndarray` of shape `(L,)`, float64): In [0, 1]; 1 for what people labelled.
        names (`dict[int, PointName]`): What each point is called.
        size (`tuple[int, int]`, *optional*): (height, width) of the video, if the file tells.
        centre (`float`, defaults to 0.5): Coordinate of the centre of the first pixel in the file; messages have the numbers of the file.
    """

    ids: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    names: dict[int, PointName]
    size: tuple[int, int] | None = None
    centre: float = 0.5

    def __len__(self) -> int:
        return len(self.ids)

    def prompts(self) -> dict[int, tuple[float, float, float] | np.ndarray]:
        """
        The labels as [`Tracker.track`] takes them.

        Returns:
            `dict`: by id, the (t, x, y) of a point that is labelled once, an array (K, 3) of them of one that is labelled on several
            frames. Hidden labels are left out: what hides a point would be followed.

        Raises:
            `ValueError`: no label is visible.
        """
        if not self.visible.any():
            raise ValueError("labels hold no visible point; points are followed from a frame on which they are seen.")
        found = {}
        for obj_id in self.names:
            rows = self.points[(self.ids == obj_id) & self.visible]
            if len(rows):
                found[obj_id] = tuple(rows[0].tolist()) if len(rows) == 1 else rows
        return found

    def select(self, parts: Iterable[str]) -> "PointLabels":
        """
        The labels of some points only.

        Args:
            parts (iterable of `str`): Names, as `nose`, or `mouse1/nose` for one individual's.

        Raises:
            `ValueError`: no point has such a name; the message lists those there are.
        """
        wanted = {part: [i for i, name in self.names.items() if part in (name.part, str(name))] for part in parts}
        for part, ids in wanted.items():
            if not ids:
                there = ", ".join(sorted({name.part for name in self.names.values()}))
                raise ValueError(f"no point is called {cut(part)!r}; the labels are of {cut(there)}.")
        chosen = sorted({i for ids in wanted.values() for i in ids})
        return self._where(np.isin(self.ids, chosen))

    def confident(self, least: float) -> "PointLabels":
        """
        The labels of at least a confidence, of predictions of a pose model for instance.

        Raises:
            `ValueError`: the confidence is not from 0 to 1.
        """
        if not 0 <= least <= 1:
            raise ValueError(f"the least confidence of labels must be from 0 to 1, got {least}.")
        return self._where(self.confidence >= least)

    def _where(self, rows: np.ndarray) -> "PointLabels":
        kept = set(self.ids[rows].tolist())
        names = {i: name for i, name in self.names.items() if i in kept}
        arrays = (array[rows] for array in (self.ids, self.points, self.visible, self.confidence))
        return PointLabels(*arrays, names, self.size, self.centre)

    def check(self, num_frames: int | None, size: tuple[int, int]) -> None:
        """Check that all labels are of a clip of so many frames and of a size (height, width).

        Raises:
            `ValueError`: a label is of a frame beyond the clip or outside the frame, or the file tells another size.
        """
        if self.size is not None and tuple(self.size) != tuple(size):
            of, got = ("x".join(map(str, s)) for s in (self.size, size))
            raise ValueError(f"the labels are of a video of {of}, but this video is {got} (height x width).")
        t, x, y = self.points.T
        late = np.zeros(len(t), bool) if num_frames is None else t >= num_frames
        away = ~((x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0]))
        for wrong, problem in (
            (late, f"the clip ends with frame {(num_frames or 0) - 1}"),
            (away, "the frame is {}x{} (height x width)".format(*size)),
        ):
            if wrong.any():
                row = int(wrong.argmax())
                name = cut(str(self.names[int(self.ids[row])]))
                place = f"({x[row] + self.centre - 0.5:.7g}, {y[row] + self.centre - 0.5:.7g})"
                raise ValueError(f"{name} is labelled at {place} on frame {t[row]:.0f}, but {problem}.")


@dataclass
class BoxLabels:
    """
    Labelled boxes of one clip, in pixels of the video.

    Args:
        ids (`numpy.ndarray` of shape `(L,)`, int64): The object of each label.
        frames (`numpy.ndarray` of shape `(L,)`, int64): Its frame.
        boxes (`numpy.ndarray` of shape `(L, 4)`, float64): Its sides (x0, y0, x1, y1).
        names (`dict[int, str]`): What each object is called; empty where the file does not tell.
        centre (`float`, defaults to 0.5), first_frame (`int`, defaults to 0): Coordinate of the centre of the first pixel, and number of the first
            frame, in the file; messages have the numbers of the file.
    """

    ids: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    names: dict[int, str] = field(default_factory=dict)
    centre: float = 0.5
    first_frame: int = 0

    def first(self) -> dict[int, tuple[int, np.ndarray]]:
        """By id, the frame and the sides (4,) of an object's first label."""
        found: dict[int, tuple[int, np.ndarray]] = {}
        for obj_id, t, box in zip(self.ids.tolist(), self.frames.tolist(), self.boxes, strict=True):
            if obj_id not in found or t < found[obj_id][0]:
                found[obj_id] = (t, box)
        return found

    def check(self, num_frames: int | None, size: tuple[int, int]) -> None:
        """Check that all labels are of a clip of so many frames and of a size (height, width).

        Raises:
            `ValueError`: a label is of a frame beyond the clip, or its middle is outside the frame.
        """
        x, y = (self.boxes[:, :2] + self.boxes[:, 2:]).T / 2
        late = np.zeros(len(x), bool) if num_frames is None else self.frames >= num_frames
        away = ~((x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0]))
        for wrong, problem in (
            (late, f"the clip ends with frame {(num_frames or 0) - 1 + self.first_frame}"),
            (away, "its middle is outside the frame, {}x{} (height x width)".format(*size)),
        ):
            if wrong.any():
                row = int(wrong.argmax())
                place = ", ".join(f"{side:.7g}" for side in self.boxes[row] + self.centre - 0.5)
                t = self.frames[row] + self.first_frame
                raise ValueError(f"the box of {self.ids[row]} is labelled at ({place}) on frame {t}, but {problem}.")


def gather_points(
    rows: list[Label], names: list[PointName], source: object, size: tuple[int, int] | None, clip: str | None
) -> PointLabels:
    """
    Checked labels of one clip, of the rows of a file.

    Args:
        rows (`list[Label]`): What the file holds; where x and y are NaN, a point is not labelled.
        names (`list[PointName]`): All points of the file in its order, by which they get their ids.
        source: The file, for messages.
        size (`tuple[int, int]`, *optional*): (height, width), if the file tells.
        clip (`str`, *optional*): Which clip, if the file has several.

    Raises:
        `ValueError`: nothing is labelled, a point is labelled twice on a frame or has one coordinate only, a number is impossible, or it is
        not clear which clip is meant.
    """
    for name in names:
        check_label_name(name, source)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: {cut(str(twice))} is there twice; every point needs a name of its own.")
    rows = [row for row in _of_clip(rows, source, clip) if not (np.isnan(row.x) and np.isnan(row.y))]
    if half := [row for row in rows if np.isnan(row.x) or np.isnan(row.y)]:
        has, lacks = ("y", "x") if np.isnan(half[0].x) else ("x", "y")
        raise ValueError(f"{source}: {cut(str(half[0].name))} has {has} but no {lacks} on frame {half[0].t:g}.")
    if not rows:
        raise ValueError(f"{source}: holds no labelled point.")
    number = {name: i for i, name in enumerate(names)}
    ids = np.array([number[row.name] for row in rows])
    points = np.array([(row.t, row.x, row.y) for row in rows], dtype=np.float64)
    order = np.lexsort((points[:, 0], ids))
    ids, points = ids[order], points[order]
    wrong = ~(np.abs(points) < LARGEST).all(axis=1) | (points[:, 0] < 0) | (points[:, 0] != np.floor(points[:, 0]))
    if wrong.any():
        row = int(wrong.argmax())
        t, x, y = points[row]
        raise ValueError(
            f"{source}: {cut(str(names[ids[row]]))} must be labelled on a frame number of 0 or more at a finite position, "
            f"got frame {t:g}, ({x:g}, {y:g})."
        )
    again = (np.diff(ids) == 0) & (np.diff(points[:, 0]) == 0)
    if again.any():
        row = int(again.argmax())
        raise ValueError(f"{source}: {cut(str(names[ids[row]]))} is labelled twice on frame {points[row, 0]:.0f}.")
    visible = np.array([row.visible for row in rows], dtype=bool)[order]
    confidence = np.array([row.confidence for row in rows], dtype=np.float64)[order]
    if (wrong := ~((confidence >= -ROUNDING) & (confidence <= 1 + ROUNDING))).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{source}: {cut(str(names[ids[row]]))} must have a confidence from 0 to 1 on frame {points[row, 0]:.0f}, got {confidence[row]:g}."
        )
    confidence = confidence.clip(0, 1)
    return PointLabels(ids, points, visible, confidence, {i: names[i] for i in np.unique(ids).tolist()}, size)


def _of_clip(rows: list[Row], source: object, clip: str | None) -> list[Row]:
    """The labels of one clip, which is called by its path, or by the last part of it if no other has the same."""
    paths = sorted({row.clip for row in rows})
    last = Counter(path.rpartition("/")[2] for path in paths)
    named = {name if last[name := path.rpartition("/")[2]] == 1 else path: path for path in paths}
    there = cut(", ".join(named)) or "none"
    if clip is None and len(paths) > 1:
        raise ValueError(
            f"{source}: holds labels of {len(paths)} clips, say which one is meant by clip= or --clip: {there}."
        )
    if clip is None:
        return rows
    if clip not in named and clip not in paths:
        raise ValueError(f"{source}: holds no clip {cut(clip)!r}; it has {there}.")
    return [row for row in rows if row.clip == named.get(clip, clip)]


def gather_boxes(rows: list[BoxLabel], source: object, clip: str | None = None) -> BoxLabels:
    """Checked boxes of one clip, of the rows of a file.

    Raises:
        `ValueError`: there is none, it is not clear which clip is meant, an object has two on a frame, a box has no area, or a number is impossible.
    """
    if not rows:
        raise ValueError(f"{source}: holds no box.")
    rows = _of_clip(rows, source, clip)
    seen: set[tuple[int, float]] = set()
    for row in rows:
        numbers = np.array([row.t, *row.sides], dtype=np.float64)
        if not (np.abs(numbers) < LARGEST).all() or row.t < 0 or row.t != np.floor(row.t):
            raise ValueError(f"{source}: the box of {row.object_id} on frame {row.t:g} must be of finite numbers.")
        if not (row.sides[0] < row.sides[2] and row.sides[1] < row.sides[3]):
            raise ValueError(f"{source}: the box of {row.object_id} on frame {row.t:g} has no area.")
        if (row.object_id, row.t) in seen:
            raise ValueError(f"{source}: {row.object_id} has two boxes on frame {row.t:g}.")
        seen.add((row.object_id, row.t))
    names = {row.object_id: row.name for row in rows if row.name}
    ids, frames = (np.array(values, dtype=np.int64) for values in ([r.object_id for r in rows], [r.t for r in rows]))
    return BoxLabels(ids, frames, np.array([row.sides for row in rows], dtype=np.float64), names)


def check_label_name(name: PointName, source: object) -> None:
    """A `ValueError` for a name that is empty, too long, or not printable."""
    for text in (name.part, name.individual or "-"):
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_NAME or not text.isprintable():
            raise ValueError(f"{source}: {cut(repr(text))} is not a name of a point.")


def names_of(ids: list[int], names: Mapping[int, PointName | str] | None) -> list[PointName]:
    """
    What points are called in a file: their names, else `point0` by their ids.

    Args:
        ids (`list[int]`): The points.
        names (`dict[int, PointName]`, *optional*): Names by id; a `str` is the name of a part.

    Raises:
        `ValueError`: a point has no name, a name is of no point, or two points have the same.
    """
    if names is None:
        return [PointName(f"point{obj_id}") for obj_id in ids]
    if missing := [obj_id for obj_id in ids if obj_id not in names]:
        raise ValueError(f"names must have a name for every point, but {missing[0]} has none.")
    if unknown := [obj_id for obj_id in names if obj_id not in ids]:
        raise ValueError(
            f"names has one for point {unknown[0]}, but the tracks are of {cut(', '.join(map(str, ids)))}."
        )
    found = [_as_name(names[obj_id]) for obj_id in ids]
    for name, times in Counter(found).items():
        check_label_name(name, "names")
        if name != (name.part.strip(), name.individual.strip()):
            raise ValueError(f"names must not begin or end with a space, got {cut(repr(str(name)))}.")
        if times > 1:
            raise ValueError(f"names must differ, but {cut(str(name))} is there twice.")
    return found


def owners_of(names: list[PointName], nobody: str) -> list[str]:
    """
    The individual of each point, for tools in which every point has one.

    Args:
        names (`list[PointName]`): The points.
        nobody (`str`): What stands for no individual.

    Raises:
        `ValueError`: an individual is called that, and would be none when it is read back.
    """
    if taken := [name for name in names if name.individual == nobody]:
        raise ValueError(
            f"names: the individual of {cut(str(taken[0]))} must be called otherwise, for {nobody!r} stands for no individual there."
        )
    return [name.individual or nobody for name in names]


def texts_of(names: list[PointName]) -> list[str]:
    """
    Each name as one text, for tools that have no individuals; [`PointName.of`] makes names of them again.

    Raises:
        `ValueError`: it would make another name of one.
    """
    if unclear := [name for name in names if PointName.of(str(name)) != name]:
        raise ValueError(
            f"names: {cut(str(unclear[0]))} has a slash, which stands between individual and part there; use another character."
        )
    return [str(name) for name in names]


def _as_name(name: object) -> PointName:
    """A name, given as the text of a part or as part and individual."""
    texts = (name,) if isinstance(name, str) else name
    if not (isinstance(texts, tuple) and len(texts) in (1, 2) and all(isinstance(text, str) for text in texts)):
        raise ValueError(f"names must be text, or a PointName of part and individual, got {cut(repr(name))}.")
    return PointName(*texts)


__all__ = ["BoxLabel", "BoxLabels", "Label", "PointLabels", "PointName", "gather_boxes", "gather_points", "names_of"]
