"""Image layers as frame sources, and video files as image layers. Frames are taken one by one, so that a long or lazy layer fits."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np

from ...io.video import open_video
from ...io.video_files import DEFAULT_FPS, VideoFile
from ...tracking.frames import as_frame


class LayerFrames:
    """
    An image layer as a frame source, as [`open_video`] describes them.

    Colours and grey of 8 bits are taken as they are. Grey of other types becomes what is seen at the layer's contrast limits, colours of other types
    what napari shows of them: 0 to 1 of floats, the whole range of integers.

    Args:
        layer (`napari.layers.Image`): Frames (T, H, W), of an array, a dask array or anything that can be indexed.
        read (callable, *optional*): Called after each frame that was read.

    Raises:
        `ValueError`: the layer is not a video.
    """

    fps = None

    def __init__(self, layer: Any, read: Callable[[], None] = lambda: None):
        data = layer.data[0] if layer.multiscale else layer.data
        if len(data.shape) - layer.rgb != 3:
            raise ValueError(
                f"layer {layer.name!r} must be a video of frames (T, H, W), got shape {tuple(data.shape)}."
            )
        self.name = layer.name
        self.num_frames, self.height, self.width = data.shape[:3]
        self._data, self._rgb, self._read = data, layer.rgb, read
        self._limits = None if data.dtype == np.uint8 else white_and_black(layer, data.dtype)
        # What is cut out of a layer, or changed, keeps its metadata; the file itself decodes faster in its order
        video = layer.metadata.get("video")
        whole = isinstance(video, VideoFile) and getattr(data, "name", None) == layer.metadata.get("frames")
        self._video = video if whole else None

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        if self._video is not None:
            frames = self._video.frames(start, stop, reverse)
        else:
            numbers = range(start, self.num_frames if stop is None else stop)
            frames = (self._frame(t) for t in (reversed(numbers) if reverse else numbers))
        for frame in frames:
            yield frame
            self._read()

    def time(self, index: int) -> float:
        """Seconds from the first frame, at the default rate."""
        return index / DEFAULT_FPS

    def _frame(self, t: int) -> np.ndarray:
        frame = np.asarray(self._data[t])
        frame = frame[..., :3] if self._rgb else frame  # without opacity
        if self._limits is not None:
            black, white = self._limits
            frame = (255 * ((frame.astype(np.float64) - black) / (white - black)).clip(0, 1)).round().astype(np.uint8)
        return as_frame(frame, f"frame {t} of layer {self.name!r}")


def white_and_black(layer: Any, dtype: np.dtype) -> tuple[float, float]:
    """Values that a layer shows as black and as white."""
    if not layer.rgb:
        black, white = layer.contrast_limits
        return float(black), float(white)
    return 0.0, float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def video_reader(path: str | list[str]) -> Callable[[str], list[tuple]] | None:
    """The reader of video files, as npe2 asks for it."""
    return read_video_layer if isinstance(path, str | os.PathLike) else None


def read_video_layer(path: str) -> list[tuple[Any, dict[str, Any], str]]:
    """
    A video file as an image layer whose frames are decoded when they are shown.

    Raises:
        `OSError`: it is no video, or damaged.
    """
    video = open_video(path)

    def decoded(t: int) -> np.ndarray:
        return next(iter(video.frames(t, t + 1)))

    shape = (video.height, video.width, 3)
    frames = [
        dask.array.from_delayed(dask.delayed(decoded)(t), shape=shape, dtype=np.uint8) for t in range(video.num_frames)
    ]
    stack = dask.array.stack(frames)
    metadata = {"video": video, "frames": stack.name}
    return [(stack, {"name": Path(path).stem, "rgb": True, "metadata": metadata}, "image")]


__all__ = ["LayerFrames", "read_video_layer", "video_reader"]
