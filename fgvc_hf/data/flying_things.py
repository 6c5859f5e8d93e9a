"""FlyingThings3D: labelled synthetic pairs in the layout of its download.

    ROOT/frames_cleanpass_webp/TRAIN/{A,B,C}/SCENE/left/0006.webp
    ROOT/optical_flow/TRAIN/{A,B,C}/SCENE/{into_future,into_past}/left/OpticalFlowIntoFuture_0006_L.pfm

`frames_cleanpass` with PNG files is accepted as well. A pair is two frames that follow each other, in either order of time.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ..io.image_files import read_image
from .scene import pixel_centres


logger = logging.getLogger(__name__)

ATTEMPTS = 20
SCALE = rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"  # of a PFM image, whose sign is the order of bytes
FRAME_FOLDERS = ("frames_cleanpass_webp", "frames_cleanpass")


@dataclass(frozen=True)
class LabelledPair:
    """Two frames with the flow between them at every pixel.

    Args:
        frames (`torch.Tensor` of shape `(2, 3, H, W)`, uint8): RGB.
        flow (`torch.Tensor` of shape `(2, H, W, 2)`): (x, y) in pixels, from frame 0 to frame 1, and from frame 1 to frame 0.
        visible (`torch.Tensor` of shape `(2, H, W)`, bool): Whether the target of the flow is in the frame and not occluded.
    """

    frames: torch.Tensor
    flow: torch.Tensor
    visible: torch.Tensor


def read_pfm(path: str | Path) -> np.ndarray:
    """A PFM image `(H, W, 3)` or `(H, W)`, float32, rows from top to bottom.

    Raises:
        `OSError`: the file is missing, is no PFM image, or ends too early.
    """
    with Path(path).open("rb") as file:
        kind = file.readline().strip()
        size = re.fullmatch(rb"\s*(\d{1,9})\s+(\d{1,9})\s*", file.readline())
        scale = file.readline().strip()
        if kind not in (b"PF", b"Pf") or size is None or not re.fullmatch(SCALE, scale):
            raise OSError(f"{path}: is no PFM image.")
        width, height, channels = int(size[1]), int(size[2]), 3 if kind == b"PF" else 1
        length = 4 * width * height * channels
        if os.fstat(file.fileno()).st_size - file.tell() < length:  # before there is memory for what it claims
            raise OSError(f"{path}: ends before its {height} rows are complete.")
        data = file.read(length)
    values = np.frombuffer(data, "<f4" if float(scale) < 0 else ">f4").reshape(height, width, channels)
    values = values[::-1].astype(np.float32)  # the file begins with the lowest row
    return values if channels == 3 else values[..., 0]


def consistent(flow: torch.Tensor) -> torch.Tensor:
    """Visibility `(2, H, W)` of two flows `(2, H, W, 2)` by the forward-backward check.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, with b the other flow at the target of f; false if the target is outside the frame (Sundaram et al.,
    Dense point trajectories by GPU-accelerated large displacement optical flow, ECCV 2010).
    """
    height, width = flow.shape[1:3]
    extent = flow.new_tensor([width, height])
    ends = pixel_centres(height, width, device=flow.device).view(height, width, 2) + flow
    back = F.grid_sample(
        flow.flip(0).movedim(-1, 1), ends / extent * 2 - 1, padding_mode="border", align_corners=False
    )
    back = back.movedim(1, -1)
    inside = ((ends >= 0) & (ends < extent)).all(-1)
    return inside & ((flow + back).square().sum(-1) < 0.01 * (flow.square() + back.square()).sum(-1) + 0.5)


def labelled_pair(frames: Sequence[np.ndarray], flow: Sequence[np.ndarray], name: str) -> LabelledPair:
    """A checked [`LabelledPair`] of two frames `(H, W, 3)` and two flows `(H, W, 2)`.

    Raises:
        `OSError`: frames differ in size, a flow has another size than they, or holds values that are not finite. Names `name`.
    """
    if len(frames) != 2 or len(flow) != 2 or frames[0].shape != frames[1].shape:
        raise OSError(f"{name}: must have two frames of one size, and a flow of each.")
    height, width = frames[0].shape[:2]
    for values in flow:
        if values.shape != (height, width, 2):
            found = "x".join(map(str, values.shape[:2] if values.shape[2:] == (2,) else values.shape))
            raise OSError(f"{name}: the flow is {found}, but its frames {height}x{width}.")
        if not np.isfinite(values).all():
            raise OSError(f"{name}: the flow holds values that are not finite.")
    tensor = torch.from_numpy(np.stack(flow)).float()
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    return LabelledPair(pixels, tensor, consistent(tensor))


class FlyingThings3D(Dataset):
    """The pairs of FlyingThings3D: 9 in each scene of 10 frames, each in both orders of time.

    Args:
        root: Folder that holds `frames_cleanpass_webp` (or `frames_cleanpass`) and `optical_flow`.
        split (`str`): `"TRAIN"` or `"TEST"`.

    Raises:
        `OSError`: the folder has another layout; the message says what was expected where. On access: a damaged file, named.
    """

    def __init__(self, root: str | Path, split: str = "TRAIN"):
        root = Path(root)
        folders = [root / name / split for name in FRAME_FOLDERS if (root / name / split).is_dir()]
        if not folders:
            raise FileNotFoundError(f"{root}: {' or '.join(FRAME_FOLDERS)} with a folder {split} was expected there.")
        self._flow_root = root / "optical_flow" / split
        self.pairs: list[tuple[str, Path, Path]] = []  # scene, first frame, second frame
        for left in sorted(folders[0].glob("*/*/left")):
            scene = left.parent.relative_to(folders[0])
            files = (path for path in left.iterdir() if path.suffix in (".webp", ".png") and path.stem.isdecimal())
            frames = {int(path.stem): path for path in files}
            for number in sorted(frames):  # the flow of a frame leads to the next number, which may be missing
                if second := frames.get(number + 1):
                    self.pairs += [(str(scene), frames[number], second), (str(scene), second, frames[number])]
        if not self.pairs:
            raise FileNotFoundError(f"{folders[0]}: no pair of frames LETTER/SCENE/left/NUMBER was found there.")

    def __len__(self) -> int:
        return len(self.pairs)

    def _flow(self, scene: str, start: Path, end: Path) -> np.ndarray:
        direction, name = ("into_future", "IntoFuture") if end.stem > start.stem else ("into_past", "IntoPast")
        file = f"OpticalFlow{name}_{start.stem}_L.pfm"
        return read_pfm(self._flow_root / scene / direction / "left" / file)[..., :2]

    def __getitem__(self, index: int) -> LabelledPair:
        scene, first, second = self.pairs[index]
        frames = []
        for path in (first, second):
            frames.append(read_image(path))
        flow = self._flow(scene, first, second), self._flow(scene, second, first)
        return labelled_pair(frames, flow, f"{scene} {first.stem} to {second.stem}")


class LabelledCrops(Dataset):
    """Random crops of labelled pairs by number, without resizing. Points whose target is outside the crop are not visible.

    Args:
        pairs (`Dataset` of [`LabelledPair`]): Pairs that the crops are cut from.
        size (`int`): Side of the crops in pixels.
        stride (`int`): Flow and visibility are given at the centre of every `stride`-th pixel.
        seed (`int`): A crop depends on it and on its number alone.
    """

    def __init__(self, pairs: Dataset, size: int = 256, stride: int = 2, seed: int = 0):
        self.pairs, self.size, self.stride, self.seed = pairs, size, stride, seed

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frames `(2, 3, size, size)` in [0, 1], flow `(2, h, w, 2)` and visibility `(2, h, w)`."""
        draw = np.random.default_rng((self.seed, index))
        pair = self._readable_pair(draw)
        height, width = pair.frames.shape[-2:]
        if min(height, width) < self.size:
            raise ValueError(f"crops of {self.size} pixels do not fit into frames of {height}x{width}.")
        top, left = (int(draw.integers(side - self.size + 1)) for side in (height, width))
        rows, columns = slice(top, top + self.size), slice(left, left + self.size)
        flow = pair.flow[:, rows, columns][:, :: self.stride, :: self.stride]
        ends = pixel_centres(self.size, self.size, self.stride).view(*flow.shape[1:3], 2) + flow
        inside = ((ends >= 0) & (ends < self.size)).all(-1)
        visible = pair.visible[:, rows, columns][:, :: self.stride, :: self.stride] & inside
        return pair.frames[..., rows, columns].float() / 255, flow, visible

    def _readable_pair(self, draw: np.random.Generator) -> LabelledPair:
        """A random pair; a damaged one is logged, and another is drawn."""
        for _ in range(ATTEMPTS):
            try:
                return self.pairs[int(draw.integers(len(self.pairs)))]  # ty: ignore[invalid-argument-type]
            except OSError as error:
                logger.warning("left out: %s", error)
        raise OSError(f"{ATTEMPTS} labelled pairs one after the other are damaged.")
