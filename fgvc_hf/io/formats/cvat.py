"""CVAT for video 1.1: XML with a `track` for each object, of `points`, `box` or `skeleton` shapes on frames.

A shape is `outside` where the object is not in the frame, `occluded` where something hides it, and a `keyframe` where someone set it; CVAT
interpolates between keyframes, and shapes that it interpolated are not read. What a skeleton is, its points are. Of a box with a `rotation`, the
upright box around it is read. An export of a project has the tracks of several tasks, each with its `task_id`: every task is a clip. A file that
declares a document type is refused, since entities of one can grow without bound.
"""

import math
from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, TreeBuilder
from xml.parsers import expat

import numpy as np

from ...tracking.box_results import BoxTracks
from ...tracking.results import PointTracks
from ..text_files import cut, read_text
from ..text_numbers import number_in, whole_in
from .point_labels import LARGEST, BoxLabel, Label, PointName, texts_of


SIDES = ("xtl", "ytl", "xbr", "ybr")
FLAGS = {"0": False, "false": False, "1": True, "true": True}
DEEPEST = 32  # elements within elements; CVAT has 6


def read(path: Path) -> tuple[list[Label], list[PointName], tuple[int, int] | None]:
    """Labels of points of a file, names in its order, and (height, width) if it tells."""
    root = _parse(path)
    tracks = [track for track in root.findall("track") if track.find("box") is None]
    clips = _clips(root)
    repeated = Counter((track.get("task_id"), track.get("label", "")) for track in tracks)
    rows: list[Label] = []
    for track in tracks:
        label, number = track.get("label", ""), track.get("id", "")
        clip, single = _clip(track, clips, path), repeated[track.get("task_id"), label] == 1
        owner = label if single else f"{label} {number}"
        for shape in track:
            if shape.tag == "skeleton":
                rows += [
                    row
                    for one in shape.findall("points")
                    for row in _points(one, shape, PointName(one.get("label", ""), owner), clip, path)
                ]
            elif shape.tag == "points":
                name = PointName.of(label) if single else PointName(label, owner)
                rows += _points(shape, shape, name, clip, path)
    shapes = {shape.tag for track in root.findall("track") for shape in track}
    if shapes and not shapes & {"points", "skeleton"}:
        raise ValueError(f"{path}: holds no points and no skeletons, only {cut(', '.join(sorted(shapes)))}.")
    return rows, list(dict.fromkeys(row.name for row in rows)), _size(root)


def _clips(root: Element) -> dict[str | None, str]:
    """The clip of each task of a project, by its id: its number and its name."""
    return {
        task.findtext("id"): f"{task.findtext('id')}/{task.findtext('name')}" for task in root.iterfind("meta//task")
    }


def _clip(track: Element, clips: dict[str | None, str], path: Path) -> str:
    """The clip of a track; the only one of a file that is of one task."""
    task = track.get("task_id")
    if task is None and len(clips) > 1:
        raise ValueError(f"{path}: a track must have the task_id of one of the {len(clips)} tasks of the file.")
    return "" if task is None else clips.get(task, task)


def _points(shape: Element, timed: Element, name: PointName, clip: str, path: Path) -> list[Label]:
    """Labels of a shape of one point or several; of none where it is outside or interpolated."""
    t = _whole(timed, "frame", path)
    outside, occluded = (any(_flag(one, flag, path) for one in (timed, shape)) for flag in ("outside", "occluded"))
    if outside or not _flag(shape if "keyframe" in shape.attrib else timed, "keyframe", path, True):
        return []
    places = shape.get("points", "").split(";")
    rows = []
    for i, place in enumerate(places):
        try:
            x, y = (number_in(value) for value in place.split(","))
        except ValueError:
            raise ValueError(f"{path}: points must be x,y;x,y;..., found {cut(place)!r}.") from None
        one = name if len(places) == 1 else PointName(f"{name.part} {i}", name.individual)
        rows.append(Label(one, t, x, y, not occluded, clip=clip))
    return rows


def read_boxes(path: Path) -> list[BoxLabel]:
    """Boxes of a file, of keyframes on which the object is inside the frame."""
    rows = []
    root = _parse(path)
    clips = _clips(root)
    for track in root.findall("track"):
        number, label = _whole(track, "id", path), track.get("label", "")
        for box in track.findall("box"):
            if not _flag(box, "outside", path) and _flag(box, "keyframe", path, True):
                t, clip = _whole(box, "frame", path), _clip(track, clips, path)
                rows.append(BoxLabel(number, t, _upright(box, path), label, clip))
    return rows


def _upright(box: Element, path: Path) -> tuple[float, float, float, float]:
    """Sides of the upright box around one that may be turned about its middle."""
    x0, y0, x1, y1 = (_number(box, side, path) for side in SIDES)
    degrees = _number(box, "rotation", path) if "rotation" in box.attrib else 0.0
    if not degrees:
        return x0, y0, x1, y1
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_x, half_y = ((x1 - x0) * c + (y1 - y0) * s) / 2, ((x1 - x0) * s + (y1 - y0) * c) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _flag(element: Element, name: str, path: Path, default: bool = False) -> bool:
    """Whether a flag is set, as `0`, `1` or a word of XML."""
    text = element.get(name, str(default)).strip()
    if text.lower() not in FLAGS:
        raise ValueError(f"{path}: {name} of a {element.tag} must be 0 or 1, found {cut(text)!r}.")
    return FLAGS[text.lower()]


def _number(element: Element, attribute: str, path: Path) -> float:
    text = element.get(attribute, "nothing")
    try:
        number = number_in(text)
    except ValueError:
        number = np.inf
    if abs(number) < LARGEST:
        return number
    raise ValueError(f"{path}: {attribute} of a {element.tag} must be a number, found {cut(text)!r}.")


def _whole(element: Element, attribute: str, path: Path) -> int:
    text = element.get(attribute, "nothing")
    whole = whole_in(text)
    if whole is None:
        raise ValueError(f"{path}: {attribute} of a {element.tag} must be a whole number, found {cut(text)!r}.")
    return whole


def _size(root: Element) -> tuple[int, int] | None:
    """(height, width) of the video, if the file tells one for all tasks."""
    sizes = list(root.iterfind("meta//original_size"))
    told = {tuple(size.findtext(side, "") for side in ("height", "width")) for size in sizes}
    if len(told) != 1 or len(sizes) < len(_clips(root)):
        return None
    height, width = (int(text) if text.isdecimal() and len(text) < 9 else 0 for text in told.pop())
    return (height, width) if height and width else None


def _parse(path: Path) -> Element:
    """The root element of a file of CVAT for video.

    Raises:
        `ValueError`: it is malformed, declares a document type, or is of another kind.
    """
    builder, depth, parser = TreeBuilder(), 0, expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{path}: is not a file of CVAT: elements lie more than {DEEPEST} deep.")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_) -> None:
        raise ValueError(
            f"{path}: declares a document type, which is not read, since its entities could grow without bound."
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(read_text(path), True)
    except expat.ExpatError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not valid XML.") from None
    root = builder.close()
    if root.tag != "annotations":
        raise ValueError(f"{path}: is not a file of CVAT, whose XML begins with annotations; found {cut(root.tag)}.")
    if root.find("track") is None:
        kind = "is of CVAT for images" if root.find("image") is not None else "holds no track"
        raise ValueError(f"{path}: {kind}; export tracks as CVAT for video 1.1.")
    of_tracks = Counter((one.get("task_id"), one.get("id") or one.get("label", "")) for one in root.findall("track"))
    if twice := [number for (_, number), times in of_tracks.items() if times > 1]:
        raise ValueError(f"{path}: two tracks have the id {cut(twice[0])}; of two, one would be lost.")
    return root


def named(names: list[PointName]) -> list[str]:
    """The label of each point."""
    return texts_of(names)


def write(tracks: PointTracks, path: Path, names: list[PointName]) -> None:
    """Write tracks: one track for each point, with a keyframe on every frame that was processed."""
    labels = named(names)
    root = _document(dict.fromkeys(labels, "points"), tracks.size, tracks.tracks.shape[1])
    there = ~np.isnan(tracks.tracks[..., 0])  # (N, T)
    for number, label in enumerate(labels):
        shapes = [
            ("points", t, tracks.outside[number, t], not tracks.visible[number, t], {"points": f"{x:.3f},{y:.3f}"})
            for t, (x, y) in enumerate(tracks.tracks[number])
            if there[number, t]
        ]
        _track(root, number, label, shapes, tracks.tracks.shape[1])
    _save(root, path)


def write_boxes(tracks: BoxTracks, path: Path, names: dict[int, str]) -> None:
    """Write boxes: one track for each, with a keyframe on every frame that was processed; what turned gets the upright box around it."""
    labels = [names.get(obj_id) or f"box{obj_id}" for obj_id in tracks.object_ids]
    root = _document(dict.fromkeys(labels, "bbox"), tracks.size, tracks.corners.shape[1])
    for row, (obj_id, label) in enumerate(zip(tracks.object_ids, labels, strict=True)):
        shapes = []
        for t, sides in enumerate(tracks.sides[row]):
            if not np.isnan(sides[0]):
                places = {side: f"{value:.3f}" for side, value in zip(SIDES, sides, strict=True)}
                shapes.append(("box", t, False, not tracks.visible[row, t], places))
        _track(root, obj_id, label, shapes, tracks.corners.shape[1])
    _save(root, path)


def _document(labels: dict[str, str], size: tuple[int, int], length: int) -> Element:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for tag, text in (("name", "fgvc_hf"), ("size", str(length)), ("mode", "interpolation")):
        SubElement(task, tag).text = text
    declared = SubElement(task, "labels")
    for name, kind in labels.items():
        label = SubElement(declared, "label")
        SubElement(label, "name").text, SubElement(label, "type").text = name, kind
        SubElement(label, "attributes")
    of_video = SubElement(task, "original_size")
    SubElement(of_video, "width").text, SubElement(of_video, "height").text = str(size[1]), str(size[0])
    return root


def _track(root: Element, number: int, label: str, shapes: list[tuple], length: int) -> None:
    """Add a track. CVAT carries the last shape on, so one that ends before the clip, or pauses, is set outside on the next frame."""
    track = SubElement(root, "track", id=str(number), label=label, source="auto")
    frames = {t for _, t, *_ in shapes}
    for tag, t, outside, occluded, places in shapes:
        _shape(track, tag, t, outside, occluded, places)
        if t + 1 not in frames and t + 1 < length:
            _shape(track, tag, t + 1, True, occluded, places)


def _shape(track: Element, tag: str, t: int, outside: bool, occluded: bool, places: dict[str, str]) -> None:
    flags = {"outside": str(int(outside)), "occluded": str(int(occluded)), "keyframe": "1"}
    SubElement(track, tag, {"frame": str(t), **flags, **places, "z_order": "0"})


def _save(root: Element, path: Path) -> None:
    ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
