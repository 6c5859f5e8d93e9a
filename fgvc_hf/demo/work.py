"""The calls of the package that the demo makes, with progress, cancellation and files to download."""

import functools
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..io.drawing import draw_heat_map, draw_masks, scaled
from ..io.flow_files import save_flow
from ..io.formats.table import TABLE
from ..io.masks import read_mask, write_mask
from ..io.overlays import drawn_tracks, write_overlay
from ..io.tracks import save_tracks
from ..io.video_files import DEFAULT_FPS
from ..tracker import Tracker
from ..tracking.blending import say_otherwise
from ..tracking.results import FgvcFlowOutput, PointTracks
from . import limits
from .clips import Clip, WatchedVideo
from .limits import Point, Shape


Report = Callable[[float, str], None]  # share of the work that is done, and what is being done

# Preset of the demo -> preset and checkpoint that propagate masks. The fine checkpoint is several times slower, and 1.9 points of J&F better
MASK_TRACKERS = {
    "fast": ("fast", "fgvc-coarse"),
    "balanced": ("balanced", "fgvc-coarse"),
    "accurate": ("balanced", "fgvc-joint"),
}
CLIP_NAME = "sub-1_ses-1_cam-1_start-0_dur-{}_cliplabels"  # of PoseMark, which tells the clip by the name of the file


@functools.cache
def loaded(preset: str, checkpoint: str | None = None) -> Tracker:
    """The tracker of a preset, loaded once; of the default checkpoint if none is named."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return Tracker.from_pretrained(checkpoint, preset)


def loaded_for_masks(preset: str) -> Tracker:
    """The tracker that propagates masks at a preset."""
    return loaded(*MASK_TRACKERS[preset])


@dataclass(frozen=True)
class Followed:
    """Targets that were followed.

    Args:
        video, files (`Path`, `list[Path]`): The overlay, and what there is to download.
        ids (`list[int]`): Of the targets; their colours come from them.
        confidence (`numpy.ndarray` of shape `(N, T)`): In [0, 1]; for a mask its area as a share of the largest. NaN where a target was
            not followed.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Whether it is seen.
        tracks ([`PointTracks`], *optional*): Of points.
    """

    video: Path
    files: list[Path]
    ids: list[int]
    confidence: np.ndarray
    visible: np.ndarray
    tracks: PointTracks | None = None


def frames_to_read(clip: Clip, times: list[int], direction: str) -> int:
    """Frames that are read to follow targets of these frames."""
    forward, backward = clip.num_frames - min(times), max(times) + 1
    return {"forward": forward, "backward": backward, "both": forward + backward}[direction]


def track_points(clip: Clip, points: list[Point], preset: str, direction: str, report: Report) -> Followed:
    """
    Follow points through a clip, each from all of its labels.

    Raises:
        as [`WatchedVideo`].
    """
    expected = frames_to_read(clip, [point.t for point in points], direction)
    watched = WatchedVideo(clip, expected, lambda share: report(0.85 * share, "following points"))
    say_otherwise(__name__)
    tracks = loaded(preset).track(watched, prompts(points), direction=direction)
    return deliver(clip, tracks, lambda share, what: report(0.85 + 0.15 * share, what))


def prompts(points: list[Point]) -> dict[int, list[tuple[int, float, float]]]:
    """Labels as [`Tracker.track`] takes them."""
    return {
        obj_id: [(label.t, label.x, label.y) for label in labels] for obj_id, labels in limits.by_point(points).items()
    }


def find_points(
    clip: Clip, picture: np.ndarray, points: list[Point], preset: str, direction: str, report: Report
) -> Followed:
    """
    Look for points of a picture in a clip, and follow them from where they are found.

    Raises:
        as [`track_points`].
    """
    tracker = loaded(preset)
    queries = tracker.describe(picture, {point.obj_id: (point.x, point.y) for point in points})
    expected = clip.num_frames * (2 if direction == "both" else 1)
    watched = WatchedVideo(clip, expected, lambda share: report(0.85 * share, "looking for points"))
    tracks = tracker.track(watched, queries=queries, direction=direction)
    return deliver(clip, tracks, lambda share, what: report(0.85 + 0.15 * share, what), "found")


def export(clip: Clip, tracks: PointTracks, points: list[Point], format: str, suffix: str) -> Path:
    """
    A file of tracks in a format of another tool.

    Raises:
        `ValueError`: a library that writes it is not on this server.
    """
    named = {obj_id: labels[0].name for obj_id, labels in limits.by_point(points).items()}
    names = {obj_id: named.get(obj_id, f"point {obj_id + 1}") for obj_id in tracks.object_ids}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    names = {obj_id: f"{name} {obj_id}" if name in twice else name for obj_id, name in names.items()}
    name = CLIP_NAME.format(clip.num_frames) if TABLE[format].by_name else f"tracks_{format}"
    path = clip.results("export") / f"{name}{suffix}"
    fps = clip.video.fps or DEFAULT_FPS if "fps" in TABLE[format].options else None
    try:
        save_tracks(tracks, path, format, names=names, fps=fps)
    except ImportError as error:
        raise ValueError(f"This server cannot write files of {TABLE[format].tool}: {error}.") from None
    return path


def deliver(clip: Clip, tracks: PointTracks, report: Report, kind: str = "points") -> Followed:
    """Files and overlay of the tracks of a clip."""
    folder = clip.results(kind)
    files = [folder / f"tracks{suffix}" for suffix in (".csv", ".json", ".npz")]
    for file in files:
        save_tracks(tracks, file)
    overlay = folder / "tracked.mp4"
    drawn = WatchedVideo(clip, clip.num_frames, lambda share: report(share, "drawing"))
    write_overlay(drawn, drawn_tracks({"": tracks}), overlay)
    confidence = np.where(np.isnan(tracks.tracks[..., 0]), np.nan, tracks.confidence)
    return Followed(overlay, [*files, overlay], tracks.object_ids, confidence, tracks.visible, tracks)


def rasterize(shapes: list[Shape], height: int, width: int) -> np.ndarray:
    """Object ids `(H, W)`, uint8, of painted shapes; later ones cover earlier ones."""
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        # PIL counts from the centre of the first pixel, half a pixel from its corner
        places = [(x - 0.5, y - 0.5) for x, y in shape.vertices]
        if shape.kind == "box":
            (x0, y0), (x1, y1) = places
            draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=shape.obj_id)
            continue
        draw.line(places, fill=shape.obj_id, width=max(1, round(2 * shape.radius)), joint="curve")
        for x, y in (places[0], places[-1]):
            draw.ellipse((x - shape.radius, y - shape.radius, x + shape.radius, y + shape.radius), fill=shape.obj_id)
    return np.asarray(canvas)


def follow_masks(clip: Clip, ids: np.ndarray, t: int, preset: str, direction: str, report: Report) -> Followed:
    """
    Carry object ids (H, W) of frame t through a clip.

    Raises:
        as [`track_points`]; `ValueError`: nothing is painted.
    """
    if not ids.any():
        raise ValueError("Nothing is painted yet: paint over an object, or drag a box around it.")
    watched = WatchedVideo(clip, frames_to_read(clip, [t], direction), lambda s: report(0.85 * s, "following objects"))
    found = loaded_for_masks(preset).propagate_masks(watched, ids, t, direction)
    folder = clip.results("masks")
    masks = folder / "masks"
    masks.mkdir()
    objects = [int(obj_id) for obj_id in np.unique(ids) if obj_id]
    areas = np.full((len(objects), clip.num_frames), np.nan)
    for frame_idx, frame_ids in found:
        write_mask(masks / f"{frame_idx:05d}.png", frame_ids)  # on disk, so that memory does not grow with the clip
        areas[:, frame_idx] = [(frame_ids == obj_id).sum() for obj_id in objects]
    overlay = folder / "masks.mp4"
    drawn = WatchedVideo(clip, clip.num_frames, lambda share: report(0.85 + 0.15 * share, "drawing"))

    def draw(frame_idx: int, frame: np.ndarray, scale: float = 1.0) -> np.ndarray:
        mask = masks / f"{frame_idx:05d}.png"
        return draw_masks(frame, read_mask(mask), scale=scale) if mask.exists() else scaled(frame, scale)

    write_overlay(drawn, draw, overlay)
    archive = Path(shutil.make_archive(str(folder / "masks"), "zip", masks))
    shutil.rmtree(masks)
    return Followed(overlay, [archive, overlay], objects, areas / np.nanmax(areas, axis=1, keepdims=True), areas > 0)


def flow_between(clip: Clip, t_0: int, t_1: int, preset: str) -> tuple[FgvcFlowOutput, list[Path]]:
    """Flow from one frame to another, and files to download."""
    found = loaded(preset).flow(clip.frame(t_0), clip.frame(t_1))
    folder = clip.results("flow")
    files = [folder / f"flow_{t_0}_{t_1}{suffix}" for suffix in (".flo", ".npz", ".png")]
    for file in files:
        save_flow(found.flow, found.occluded, file)
    return found, files


def match_of(
    clip: Clip, t_0: int, t_1: int, point: tuple[float, float], preset: str
) -> tuple[np.ndarray, tuple[float, float]]:
    """Heat map (H, W, 3) over frame `t_1` of where a point of frame `t_0` is, in proportion to the most probable place, and that (x, y)."""
    frame = clip.frame(t_1)
    probability = loaded(preset).match(clip.frame(t_0), frame, point)
    row, column = np.unravel_index(probability.argmax(), probability.shape)
    return draw_heat_map(frame, probability), (float(column) + 0.5, float(row) + 0.5)
