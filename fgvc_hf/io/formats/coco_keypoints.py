"""COCO keypoints: JSON with `images`, `annotations` of one individual on one image each, and `categories` that name the keypoints.

A keypoint is x, y, v: v is 2 where it is seen, 1 where it is labelled but hidden, 0 where it is not labelled. The frame of an image is the number
that its `file_name` ends in. Annotations of several individuals need a `track_id`; an `individual`, which files written here have, names it.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...tracking.results import PointTracks
from ..json_files import read_json
from ..text_files import cut
from ..text_numbers import frame_in, image_path
from .point_labels import Label, PointName


def read(path: Path) -> tuple[list[Label], list[PointName], tuple[int, int] | None]:
    """Labels of a file, names in its order, and (height, width) if it tells."""
    return read_keypoints(path, _frame_of)


def _frame_of(image: dict, path: Path) -> tuple[str, int]:
    """The folder of an image, and the number that its name ends in."""
    name = image_path(str(image["file_name"]))
    t = frame_in(name)
    if t is None:
        raise ValueError(f"{path}: {cut(name)!r} is not the name of an image that ends in a frame number.")
    return name.rpartition("/")[0], t


def read_keypoints(
    path: Path, frame_of: Callable[[dict, Path], tuple[str, int]]
) -> tuple[list[Label], list[PointName], tuple[int, int] | None]:
    """As [`read`], with the clip and the frame of an image by `frame_of(image, path)`."""
    content = read_json(path, "a JSON file of COCO keypoints")
    try:
        _check_once(content, path)
        frames = {image["id"]: frame_of(image, path) for image in content["images"]}
        sizes = {(image.get("height"), image.get("width")) for image in content["images"]}
        keypoints = {category["id"]: list(category.get("keypoints") or []) for category in content["categories"]}
        annotations = [one for one in content["annotations"] if any(v > 0 for *_, v in _triples(one))]
        if lost := [one["image_id"] for one in annotations if one["image_id"] not in frames]:
            raise ValueError(f"{path}: an annotation is of image {cut(repr(lost[0]))}, which is not listed.")
        owners = _owners(annotations, path)
        rows = [
            Label(
                PointName(part, owner),
                frames[one["image_id"]][1],
                float(x),
                float(y),
                v == 2,
                _score(one, path),
                clip=frames[one["image_id"]][0],
            )
            for one, owner in zip(annotations, owners, strict=True)
            for part, (x, y, v) in zip(keypoints[one["category_id"]], _triples(one), strict=True)
            if v > 0
        ]
        parts = [part for one in dict.fromkeys(a["category_id"] for a in annotations) for part in keypoints[one]]
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError(
            f"{path}: is not a file of COCO keypoints, with images, annotations and categories."
        ) from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path}: has keypoints that are not x, y, v for each name of their category, v 0, 1 or 2."
        ) from None
    names = [PointName(part, owner) for owner in dict.fromkeys(owners) for part in dict.fromkeys(parts)]
    (height, width) = sizes.pop() if len(sizes) == 1 else (None, None)
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return rows, names, size


def _check_once(content: dict, path: Path) -> None:
    """A `ValueError` if an id of an image or of a category, or a keypoint of a category, is there twice: of two, one would be lost."""
    listed = {"the id of an image": [image["id"] for image in content["images"]]}
    listed["the id of a category"] = [category["id"] for category in content["categories"]]
    listed |= {
        f"a keypoint of category {i}": category.get("keypoints") or []
        for i, category in enumerate(content["categories"])
    }
    for what, values in listed.items():
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{path}: {cut(repr(twice[0]))} is there twice as {what}.")


def _triples(annotation: dict) -> list[tuple[float, float, int]]:
    """x, y and v of each keypoint; none of an annotation of a box or a mask alone."""
    values = annotation.get("keypoints") or []
    triples = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    if any(v not in (0, 1, 2) for *_, v in triples):
        raise ValueError
    return triples


def _score(annotation: dict, path: Path) -> float:
    """The confidence of the keypoints of an annotation: its score, which predictions have; what people labelled is certain."""
    score = annotation.get("score")
    if score is None:
        return 1.0
    if type(score) not in (int, float):
        raise ValueError(f"{path}: the score of an annotation must be a number from 0 to 1, got {cut(repr(score))}.")
    return float(score)


def _owners(annotations: list[dict], path: Path) -> list[str]:
    """The individual of each annotation, by its name or its number; empty if there is one only, which has no name."""
    images = [one["image_id"] for one in annotations]
    told = [  # CVAT has the number among the attributes
        {key: one[key] for key in ("individual", "track_id") if one.get(key) is not None}
        for one in ((annotation.get("attributes") or {}) | annotation for annotation in annotations)
    ]
    if len(set(images)) == len(images) and len({one.get("track_id") for one in told}) <= 1:
        return [str(one.get("individual", "")) for one in told]
    if not all(told):
        raise ValueError(f"{path}: has several individuals on an image, which need a track_id to be told apart.")
    return [str(one["individual"] if "individual" in one else f"track{one['track_id']}") for one in told]


def write(tracks: PointTracks, path: Path, names: list[PointName]) -> None:
    """Write tracks: an image for every frame, named `img0012.png`, and an annotation for every individual that is seen on it or hidden."""
    length = tracks.tracks.shape[1]
    digits = len(str(max(length - 1, 0)))
    images = [(t, f"img{t:0{digits}}.png") for t in range(length)]
    path.write_text(json.dumps(keypoint_file(tracks, names, images), allow_nan=False), encoding="utf-8")


def keypoint_file(
    tracks: PointTracks, names: list[PointName], images: list[tuple[int, str]], category: str = "animal"
) -> dict[str, Any]:
    """The content of a file: images are the id and name of each frame."""
    height, width = tracks.size
    parts = list(dict.fromkeys(name.part for name in names))
    individuals = list(dict.fromkeys(name.individual for name in names))
    there = ~np.isnan(tracks.tracks[..., 0])  # (N, T)
    annotations = []
    for t, (image_id, _) in enumerate(images):
        for number, individual in enumerate(individuals):
            of_it = [row for row, name in enumerate(names) if name.individual == individual and there[row, t]]
            if not of_it:
                continue
            keypoints = np.zeros((len(parts), 3))
            for row in of_it:
                seen = 2 if tracks.visible[row, t] else 1
                keypoints[parts.index(names[row].part)] = (*tracks.tracks[row, t].round(3), seen)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "track_id": number,
                    **({"individual": individual} if any(individuals) else {}),
                    "keypoints": [round(value, 3) for value in keypoints.ravel().tolist()],
                    "num_keypoints": len(of_it),
                    "score": round(float(tracks.confidence[of_it, t].mean()), 4),
                    **_bounds(tracks.tracks[of_it, t]),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": i, "file_name": name, "height": height, "width": width} for i, name in images],
        "annotations": annotations,
        "categories": [{"id": 1, "name": category, "keypoints": parts, "skeleton": []}],
    }


def _bounds(points: np.ndarray) -> dict[str, Any]:
    """`bbox` and `area` of the pixels that points (N, 2) are in."""
    low = np.floor(points.astype(np.float64).min(axis=0) + 0.5)
    size = np.floor(points.astype(np.float64).max(axis=0) + 0.5) + 1 - low
    return {"bbox": [*low.tolist(), *size.tolist()], "area": float(size.prod())}
