"""SLEAP: analysis H5 and `.slp`, both by its own library, sleap-io.

An analysis H5 holds `tracks` (tracks, 2, nodes, frames), `node_names`, `track_names`, `track_occupancy` (frames, tracks) and
`point_scores` (tracks, nodes, frames); sleap-io also reads its other orders of axes. SLEAP's instances are individuals here and its nodes
parts; point scores, which may pass 1 a little, are confidences.
"""

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...tracking.results import PointTracks
from ..hdf5_files import check_hdf5
from ..json_files import understanding
from ..optional_libraries import load_library
from ..text_files import cut
from .point_labels import Label, PointName, owners_of


ONLY = "animal"  # what the individual is called where names have none


def read(path: Path) -> tuple[list[Label], list[PointName], tuple[int, int] | None]:
    """Labels of a file, names in its order, and (height, width) if it tells. What people labelled goes before predictions of its track, or of none."""
    sleap_io = load_library("sleap_io", "reading files of SLEAP", "formats")
    check_hdf5(path, "reading files of SLEAP", "a file of SLEAP")
    with understanding(path, "a file of SLEAP"):
        if path.suffix.lower() == ".h5":
            labels = sleap_io.load_analysis_h5(str(path), video=sleap_io.Video("", open_backend=False))
        else:
            labels = sleap_io.load_slp(str(path), open_videos=False)
        used = [_used(frame) for frame in labels.labeled_frames]
        several = any(len(of) > 1 for of in used) or len({instance.track for of in used for instance in of}) > 1
        _check_tracks(labels, path)
        rows = [row for frame in labels.labeled_frames for row in _frame_rows(frame, several, path)]
        owners = dict.fromkeys([*map(_owner, labels.tracks), *(row.name.individual for row in rows)])
        names = [PointName(node, owner) for owner in owners for node in labels.skeletons[0].node_names]
        shapes = {video.shape and tuple(video.shape[1:3]) for video in labels.videos}
    unknown = {row.name for row in rows} - set(names)
    if unknown:
        raise ValueError(f"{path}: holds several skeletons; files of one skeleton are read.")
    return rows, names, shapes.pop() if len(shapes) == 1 else None


def _check_tracks(labels: Any, path: Path) -> None:
    """A `ValueError` if two tracks of one video have the same name, and would be one animal."""
    used = [(_clip(frame.video), one.track) for frame in labels.labeled_frames for one in _used(frame) if one.track]
    named = Counter((clip, name) for clip, name, _ in {(clip, track.name, id(track)) for clip, track in used})
    if twice := [name for (_, name), times in named.items() if times > 1]:
        raise ValueError(f"{path}: two tracks of one video are called {cut(twice[0])}; name them apart in SLEAP.")


def _frame_rows(frame: Any, several: bool, path: Path) -> list[Label]:
    """Labels of a frame of sleap-io."""
    rows = []
    for instance in _used(frame):
        if several and instance.track is None:
            raise ValueError(
                f"{path}: holds several instances, and one on frame {frame.frame_idx} is in no track; give all of them tracks in SLEAP."
            )
        for node, point in zip(instance.skeleton.node_names, instance.points, strict=True):
            (x, y), made = point["xy"].tolist(), not hasattr(instance, "score")
            score = 1.0 if made else float(np.minimum(point["score"], 1))
            score = 1.0 if np.isnan(score) else score  # analysis files write it of what people have labelled
            name = PointName(node, _owner(instance.track))
            rows.append(Label(name, frame.frame_idx, x, y, bool(point["visible"]), score, _clip(frame.video)))
    return rows


def _used(frame: Any) -> list[Any]:
    """The instances of a frame that people labelled, and the predictions of other tracks than theirs."""
    made = [instance for instance in frame.instances if not hasattr(instance, "score")]
    if not made:
        return list(frame.instances)
    replaced = {None, *(instance.track for instance in made)}
    return [one for one in frame.instances if not hasattr(one, "score") or one.track not in replaced]


def _owner(track: Any) -> str:
    return "" if track is None or track.name == ONLY else track.name


def _clip(video: Any) -> str:
    """The path of a video without its suffix, or of the folder of images."""
    several = not isinstance(video.filename, str)
    path = PurePosixPath((video.filename[0] if several else video.filename).replace("\\", "/"))
    return str(path.parent if several else path.with_suffix("") if path.name else path)


def named(names: list[PointName]) -> list[str]:
    """The individual of each point."""
    return owners_of(names, ONLY)


def check_target(target: Path, length: int) -> None:
    """An `ImportError` if the library that writes the file is not installed."""
    _load_writer()


def _load_writer() -> Any:
    return load_library("sleap_io", "writing files of SLEAP", "formats")


def write(tracks: PointTracks, path: Path, names: list[PointName], video: str | os.PathLike = "video.mp4") -> None:
    """
    Write tracks as predictions: an instance for each individual on every frame that was processed.

    Args:
        video (`str`, defaults to `"video.mp4"`): The video that they are of, which SLEAP will look for.
    """
    sleap_io = _load_writer()
    parts = list(dict.fromkeys(name.part for name in names))
    individuals = named(names)
    skeleton, shape = sleap_io.Skeleton(list(parts)), (tracks.tracks.shape[1], *tracks.size, 3)
    clip = sleap_io.Video(os.fspath(video), backend_metadata={"shape": shape}, open_backend=False)
    owners = [sleap_io.Track(individual) for individual in dict.fromkeys(individuals)]
    frames = []
    for t in range(tracks.tracks.shape[1]):
        instances = []
        for owner in owners:
            xy, scores = np.full((len(parts), 2), np.nan), np.zeros(len(parts))
            for row, name in enumerate(names):
                if individuals[row] == owner.name:
                    node = parts.index(name.part)
                    xy[node], scores[node] = tracks.tracks[row, t], tracks.confidence[row, t]
            there = ~np.isnan(xy[:, 0])
            if there.any():
                mean = float(scores[there].mean())
                make = sleap_io.PredictedInstance.from_numpy
                instances.append(make(xy, skeleton, point_scores=scores, score=mean, track=owner))
        if instances:
            frames.append(sleap_io.LabeledFrame(video=clip, frame_idx=t, instances=instances))
    analysis = path.suffix.lower() == ".h5"
    if analysis and not frames:  # an analysis file has at least one frame: nothing was found on it
        nowhere = np.full((len(parts), 2), np.nan)
        none = [sleap_io.PredictedInstance.from_numpy(nowhere, skeleton, track=owner) for owner in owners]
        frames.append(sleap_io.LabeledFrame(video=clip, frame_idx=0, instances=none))
    labels = sleap_io.Labels(frames, videos=[clip], skeletons=[skeleton], tracks=owners)
    if analysis:
        sleap_io.save_analysis_h5(labels, str(path), video=clip)
    else:
        labels.save(str(path), format="slp", verbose=False)
