"""The same as the page does, for programs: `/track`, `/propagate` and `/flow`, for `gradio_client`, MCP clients and plain HTTP.

They keep nothing between calls. What they accept is bounded as on the page. Their docstrings are what MCP clients read.
"""

import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.processing_utils import save_file_to_cache
from PIL import Image

from ..io.masks import read_mask
from . import limits
from .clips import Clip
from .handlers import answer_to, on_gpu, settings
from .jobs import SHARE_OF_MCP, WORKING, Cancelled
from .limits import MAX_OBJECTS, PRESETS
from .middleware import CALLER
from .server_state import RESULT_BYTES, ServerState
from .work import flow_between, follow_masks, track_points


class Endpoints:
    """
    The functions that programs call.

    Args:
        server_state ([`ServerState`]): Where they get their turn, and room.
    """

    def __init__(self, server_state: ServerState):
        self.server_state = server_state

    async def track(
        self, video: dict, points: list, request: gr.Request, preset="balanced", direction="forward", bar=gr.Progress()
    ):
        """Follow points through a video clip, also behind other things. Accepts clips of up to 300 frames, 50 MB and 1920x1080 pixels.

        Args:
            video: The clip: an uploaded file, in any format that FFmpeg reads.
            points: Up to 64 points [[t, x, y], ...]: the number of a frame, counted from 0, and a place in it in pixels from the upper left corner.
            preset: How precise: "fast", "balanced" or "accurate".
            direction: From the frame of each point "forward", "backward" or to "both" ends of the clip.

        Returns:
            A dictionary with "tracks", for each point and frame its place [x, y] or null, "visible" and "confidence" for each point and frame, "queries" and "size" [height, width]; and a video with the points drawn into it.
        """

        return await self._answer(request, bar, video, track_clip, points, preset, direction)

    async def propagate(
        self,
        video: dict,
        mask: dict,
        request: gr.Request,
        frame=0,
        preset="balanced",
        direction="forward",
        bar=gr.Progress(),
    ):
        """Follow painted objects through a video clip: their mask in one frame becomes their mask in every frame. Accepts clips of up to 300 frames, 50 MB and 1920x1080 pixels.

        Args:
            video: The clip: an uploaded file, in any format that FFmpeg reads.
            mask: An image as large as the frames, PNG for instance, whose values are 0 for the background and from 1 on for up to 5 objects.
            frame: The number of the frame that the mask belongs to, counted from 0.
            preset: How precise: "fast", "balanced" or "accurate".
            direction: From that frame "forward", "backward" or to "both" ends of the clip.

        Returns:
            A dictionary with "objects", the numbers of the objects, and "areas", for each object and frame its area as a share of its largest, or null; a ZIP file with the mask of every frame as a PNG image; and a video with the masks drawn into it.
        """

        def painted(clip: Clip) -> np.ndarray:
            return mask_of(self.server_state.uploaded("mask", mask), clip)

        return await self._answer(request, bar, video, propagate_mask, painted, frame, preset, direction)

    async def flow(self, video: dict, request: gr.Request, frame=0, to_frame=1, preset="balanced", bar=gr.Progress()):
        """Measure how every pixel moves from one frame of a video clip to another (dense optical flow). Accepts clips of up to 300 frames, 50 MB and 1920x1080 pixels.

        Args:
            video: The clip: an uploaded file, in any format that FFmpeg reads.
            frame: The number of the frame from which the motion is measured, counted from 0.
            to_frame: The number of the other frame.
            preset: How precise: "fast", "balanced" or "accurate".

        Returns:
            A picture of the motion, its hue the direction and its saturation the length; and an NPZ file with the arrays flow, pixels to the right and down, of shape (height, width, 2), and occluded, of shape (height, width).
        """

        return await self._answer(request, bar, video, flow_of_frames, frame, to_frame, preset)

    async def _answer(self, request: gr.Request, bar: gr.Progress, video: dict, work: Callable, *arguments):
        """Hold the clip, wait for a turn, work, and hand out copies of the files; nothing else is kept. Arguments that depend on the clip are functions of it."""
        own = None
        try:
            session, caller = request.session_hash or "", request.headers.get(CALLER.decode())
            upload = self.server_state.uploaded("video", video)
            own = self.server_state.clip_store.hold(upload)
            return await self.server_state.jobs.run(
                WORKING,
                session,
                self._work,
                own,
                upload,
                work,
                arguments,
                bar,
                waiting=lambda before: bar(0, desc=f"waiting; {before} before you" if before else "starting"),
                owner=f"mcp {caller}" if caller else session,
                share=SHARE_OF_MCP if caller else WORKING.share,
            )
        except Cancelled as cancelled:
            raise gr.Error(str(cancelled), print_exception=False) from None
        except Exception as error:
            return answer_to(error, work, ())
        finally:
            if own is not None:
                self.server_state.clip_store.drop(own)

    def _work(self, own: Path, upload: Path, work: Callable, arguments: tuple, bar: gr.Progress) -> tuple:
        self.server_state.make_room(RESULT_BYTES)
        clip = self.server_state.clip_store.open(own, upload)
        arguments = tuple(argument(clip) if callable(argument) else argument for argument in arguments)
        try:
            results = work(clip, *arguments, bar)
        except (ValueError, OSError) as error:
            return answer_to(error, work, (clip,))
        return tuple(
            save_file_to_cache(one, str(self.server_state.cache)) if isinstance(one, Path) else one for one in results
        )


@on_gpu
def track_clip(clip: Clip, points, preset, direction, bar: gr.Progress) -> tuple:
    """Tracks as a dictionary, and the overlay."""
    asked = limits.points(points, clip.num_frames, *clip.size)
    preset, direction = settings(preset, direction)
    followed = track_points(clip, asked, preset, direction, lambda share, what: bar(share, desc=what))
    tracks = next(file for file in followed.files if file.suffix == ".json")
    return json.loads(tracks.read_text(encoding="utf-8")), followed.video


@on_gpu
def propagate_mask(clip: Clip, ids: np.ndarray, frame, preset, direction, bar: gr.Progress) -> tuple:
    """Areas as a dictionary, the archive of masks, and the overlay."""
    t = limits.whole_number("frame", frame, 0, clip.num_frames - 1)
    preset, direction = settings(preset, direction)
    followed = follow_masks(clip, ids, t, preset, direction, lambda share, what: bar(share, desc=what))
    areas = [[None if np.isnan(area) else float(area) for area in row] for row in followed.confidence]
    return {"objects": followed.ids, "areas": areas}, *followed.files


@on_gpu
def flow_of_frames(clip: Clip, frame, to_frame, preset, bar: gr.Progress) -> tuple:
    """The picture, and the arrays."""
    t_0 = limits.whole_number("frame", frame, 0, clip.num_frames - 1)
    t_1 = limits.whole_number("to_frame", to_frame, 0, clip.num_frames - 1)
    _, files = flow_between(clip, t_0, t_1, limits.choice("The preset", preset, PRESETS))
    by_suffix = {file.suffix: file for file in files}
    return by_suffix[".png"], by_suffix[".npz"]


def mask_of(path: Path, clip: Clip) -> np.ndarray:
    """Object ids (H, W) of an uploaded mask.

    Raises:
        `ValueError`: it is no image of ids of the size of the clip, or holds too many objects.
    """
    name = path.name
    try:
        with Image.open(path) as image:
            size = image.size[::-1]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{name}: is no image that can be read.") from None
    if size != clip.size:
        sizes = "{1}×{0} pixels, but the clip is {3}×{2}".format(*size, *clip.size)
        raise ValueError(f"{name}: is {sizes}; a mask must be as large as the frames.")
    try:
        ids = read_mask(path)
    except (ValueError, OSError) as error:
        raise ValueError(" ".join(str(error).replace(str(path), name).split())) from None
    objects = np.unique(ids[ids > 0])
    if not 0 < len(objects) <= MAX_OBJECTS or objects.max() > 255:
        raise ValueError(f"{name}: must hold 1 to {MAX_OBJECTS} objects of numbers up to 255, got {len(objects)}.")
    return ids.astype(np.uint8)
