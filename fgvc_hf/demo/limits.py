"""What the demo accepts. Every argument of every handler is checked here, because handlers can be called without the page.

Errors are `ValueError`s of one sentence, which the page shows as they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


MAX_MEGABYTES = 50
MAX_FRAMES = 300
MAX_SIDE = 1920
MAX_PIXELS = 1920 * 1080
MIN_SIDE = 16
MAX_ASPECT = 4  # the model works on a frame whose shorter side is given: its longer one is bounded by this
MAX_POINTS = 64
MAX_LABELS = 256  # of all points together
MAX_ID = 10**6
MAX_GRID = 8
MAX_NAME = 24
MAX_OBJECTS = 5
MAX_SHAPES = 200
MAX_VERTICES = 4000  # of all shapes together
MAX_PAINTED_CHARACTERS = 400_000
MAX_SECONDS_OF_WORK = 600.0

PRESETS = ("fast", "balanced", "accurate")
DIRECTIONS = ("forward", "backward", "both")
STATEMENT = (
    f"Clips of up to {MAX_FRAMES} frames (10 s at 30 frames per second), {MAX_MEGABYTES} MB and {MAX_SIDE}×1080 pixels, "
    f"in any format that FFmpeg reads; up to {MAX_POINTS} points or {MAX_OBJECTS} objects at a time."
)


@dataclass(frozen=True)
class Point:
    """
    A label of a point to follow: frame, and position in pixels of the clip. A point may have several, on different frames.

    Args:
        name (`str`): What the user calls the point.
        obj_id (`int`): Which point it is a label of.
    """

    t: int
    x: float
    y: float
    name: str
    obj_id: int = 0


@dataclass(frozen=True)
class Shape:
    """A piece of a painted mask.

    Args:
        obj_id (`int`): The object it belongs to, 1 to 5; 0 erases.
        kind (`str`): `"brush"`, a line through `vertices`, or `"box"`, between the two of them.
        radius (`float`): Of the brush, in pixels of the clip.
        vertices (`list[tuple[float, float]]`): (x, y) in pixels of the clip.
    """

    obj_id: int
    kind: str
    radius: float
    vertices: list[tuple[float, float]]


def check_size(height: int, width: int, what: str = "The clip") -> None:
    """A `ValueError` if frames of this size are not accepted."""
    problem = ""
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        problem = f"at most {MAX_SIDE}×1080 or 1080×{MAX_SIDE} are accepted"
    elif min(height, width) < MIN_SIDE:
        problem = f"sides of at least {MIN_SIDE} pixels are accepted"
    elif max(height, width) > MAX_ASPECT * min(height, width):
        problem = f"a side may be at most {MAX_ASPECT} times as long as the other"
    if problem:
        raise ValueError(f"{what} is {width}×{height} pixels; {problem}.")


def check_length(num_frames: int) -> None:
    """A `ValueError` if a clip of so many frames is not accepted."""
    if num_frames > MAX_FRAMES:
        raise ValueError(f"The clip has more than {MAX_FRAMES} frames; please cut it to {MAX_FRAMES} or fewer.")


def whole_number(name: str, value, low: int, high: int) -> int:
    """`value` as an `int` in low..high; a `ValueError` if it is anything else."""
    number = _number(value)
    if number is None or number != int(number) or not low <= number <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_shown(value)}.")
    return int(number)


def choice(name: str, value, accepted: Sequence[str]) -> str:
    """`value`, if it is one of those accepted; a `ValueError` otherwise."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {_shown(value)}.")
    return value


def clicked(index, height: int, width: int, zoom: int) -> tuple[float, float]:
    """The place (x, y) in the clip of a click at [column, row] of a picture that is `zoom` times as large; a `ValueError` outside of it."""
    pair = index if isinstance(index, list | tuple) and len(index) == 2 else (None, None)
    column, row = map(_number, pair)
    if column is None or row is None or not (0 <= column < zoom * width and 0 <= row < zoom * height):
        size = f"{zoom * width}×{zoom * height}"
        raise ValueError(f"A click must be [column, row] in the picture of {size} pixels, got {_shown(index)}.")
    return column / zoom, row / zoom


def points(value, num_frames: int, height: int, width: int) -> list[Point]:
    """Points from a list `[[t, x, y], ...]`, or from the JSON text of one.

    Raises:
        `ValueError`: it is anything else, is empty or too long, or a point is outside of the clip.
    """
    listed = value
    if isinstance(value, str) and len(value) <= MAX_PAINTED_CHARACTERS:
        try:
            listed = json.loads(value)
        except (ValueError, RecursionError):
            listed = None
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_POINTS:
        raise ValueError(f"points must be a list of 1 to {MAX_POINTS} points [t, x, y], got {_shown(value)}.")
    return [_point(point, num_frames, height, width, obj_id) for obj_id, point in enumerate(listed)]


def _point(value, num_frames: int, height: int, width: int, obj_id: int, name: str = "") -> Point:
    numbers = [_number(number) for number in value] if isinstance(value, list) and len(value) == 3 else [None]
    if None in numbers:
        raise ValueError(f"A point must be three numbers [t, x, y], got {_shown(value)}.")
    t, x, y = (float(number) for number in numbers if number is not None)
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"A point must be inside of the frame of {width}×{height} pixels, got {_shown(value)}.")
    return Point(whole_number("The frame of a point", t, 0, num_frames - 1), x, y, name, obj_id)


def labels(table, names: Mapping[int, str], num_frames: int, height: int, width: int) -> list[Point]:
    """
    Labels from the table of the page, `{"data": [[id, frame, x, y], ...]}`. Rows that are not complete yet are left out.

    Args:
        names (`dict[int, str]`): What points are called; others get a name by their id.

    Raises:
        `ValueError`: it is anything else, a label is outside of the clip, a point has two on a frame, or there are too many.
    """
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(rows, list) or len(rows) > 2 * MAX_LABELS or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"The labels must be a table of up to {MAX_LABELS} rows, got {_shown(table)}.")
    found = []
    for row in rows:
        cells = [_cell(cell) for cell in row]
        if len(cells) != 4 or any(cell is None or cell == "" for cell in cells):
            continue
        obj_id = whole_number("The id of a point", cells[0], 0, MAX_ID)
        found.append(_point(cells[1:], num_frames, height, width, obj_id, names.get(obj_id, f"point {obj_id + 1}")))
    return accepted(found)


def accepted(labels: list[Point]) -> list[Point]:
    """The labels; a `ValueError` if a point has two on a frame, or there are too many."""
    places = [(label.obj_id, label.t) for label in labels]
    if len(set(places)) < len(places):
        obj_id, t = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"Point {obj_id} has two labels on frame {t}; please remove one of them.")
    if len({label.obj_id for label in labels}) > MAX_POINTS:
        raise ValueError(f"At most {MAX_POINTS} points are followed at a time.")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"At most {MAX_LABELS} labels are used at a time.")
    return labels


def by_point(labels: list[Point]) -> dict[int, list[Point]]:
    """The labels of each point by its id, in the order in which the points come first."""
    found: dict[int, list[Point]] = {}
    for label in labels:
        found.setdefault(label.obj_id, []).append(label)
    return found


def _cell(value):
    """A cell of a table: a number, or a text that may be one."""
    if isinstance(value, str) and len(value) <= 20:
        try:
            return float(value)
        except ValueError:
            return value.strip()
    return value


def short_name(value, default: str) -> str:
    """A name of a target: text of one line, or the default where there is none."""
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > 10 * MAX_NAME:
        raise ValueError(f"A name must be a text of up to {MAX_NAME} characters, got {_shown(value)}.")
    return " ".join(value.split())[:MAX_NAME] or default


def shapes(painted, height: int, width: int) -> list[Shape]:
    """The shapes that the painter sends as JSON: `[[obj_id, kind, radius, [x, y, x, y, ...]], ...]`.

    Raises:
        `ValueError`: anything else, too many shapes, or numbers that are far outside of the frame.
    """
    if painted in (None, ""):
        return []
    malformed = ValueError("The painted mask must be a list of shapes as the page sends it.")
    if not isinstance(painted, str) or len(painted) > MAX_PAINTED_CHARACTERS:
        raise malformed
    try:
        found = json.loads(painted)
        read = [_shape(*shape, height=height, width=width) for shape in found]
    except (TypeError, ValueError, RecursionError):
        raise malformed from None
    vertices = sum(len(shape.vertices) for shape in read)
    if len(read) > MAX_SHAPES or vertices > MAX_VERTICES:
        raise ValueError(f"The painted mask may have {MAX_SHAPES} strokes and {MAX_VERTICES} places in all.")
    return read


def _shape(obj_id, kind, radius, numbers, *, height: int, width: int) -> Shape:
    side = max(height, width)
    flat = [_number(value) for value in numbers]
    if not flat or len(flat) % 2 or (kind == "box" and len(flat) != 4):
        raise ValueError("a shape has places (x, y), a box two of them")
    if any(value is None or not -side <= value <= 2 * side for value in (*flat, radius)):
        raise ValueError("numbers near the frame")
    places = [float(value) for value in flat if value is not None]
    return Shape(
        whole_number("object", obj_id, 0, MAX_OBJECTS),
        choice("kind", kind, ("brush", "box")),
        max(0.5, float(radius)),
        list(zip(places[::2], places[1::2], strict=True)),
    )


def _number(value) -> int | float | None:
    """`value` if it is a finite number, and no truth value; otherwise `None`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        return None
    return value


def _shown(value) -> str:
    """A value as an error may quote it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
