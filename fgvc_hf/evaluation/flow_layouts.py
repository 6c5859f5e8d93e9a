"""The layouts that data sets of optical flow are downloaded in. Which one a folder has is seen from its files.

| data set | frames | flow | splits |
|---|---|---|---|
| MPI-Sintel | `training/{clean,final}/SCENE/frame_0001.png` | `training/flow/SCENE/frame_0001.flo`; `training/{occlusions,invalid}` if there | clean, final |
| KITTI-2015 | `training/image_2/000000_10.png`, `000000_11.png` | `training/flow_occ/000000_10.png`; `training/flow_noc` if there | training |
| FlyingChairs | `data/00001_img1.ppm`, `00001_img2.ppm` | `data/00001_flow.flo` | val, train, by `FlyingChairs_train_val.txt`; all |
| Spring | `train/0001/frame_left/frame_left_0001.png` | `train/0001/flow_FW_left/flow_FW_left_0001.flo5`; `train/0001/maps` if there | train |
| Middlebury | `other-data/SEQUENCE/frame10.png`, `frame11.png` | `other-gt-flow/SEQUENCE/flow10.flo` | other |
| any other | `frame_0001.png`, `frame_0002.png` | `frame_0001.flo` beside them | all |

The data `rendered` is no folder: its pairs are made by the package; see `rendered_pairs.py`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..io.files import not_hidden
from ..io.flow_colours import known_flow
from ..io.flow_files import load_h5py, read_flo, read_flo5, read_kitti_flow
from ..io.image_files import read_image
from ..io.text_files import read_text
from .flow_pairs import FlowPair, FlowSample
from .rendered_pairs import REACH, rendered_pairs


RENDERED = "rendered"
CHAIRS_SPLIT = "FlyingChairs_train_val.txt"  # a line for each pair: 1 for training, 2 for validation

# flow (H, W, 2), where it is known, and where a pixel is occluded, both (H, W), bool; None: everywhere, and not known
Truth = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class Layout:
    """One layout.

    Args:
        dataset (`str`): Name of the data set.
        example (`str`): Path of a flow file, for messages.
        mark (`str`): Pattern of a path that folders of this layout have, and those of no other.
        splits (callable): Root folder to the names of its splits, the default first.
        pairs (callable): (root folder, split) to its pairs.
    """

    dataset: str
    example: str
    mark: str
    splits: Callable[[Path], list[str]]
    pairs: Callable[[Path, str], Iterator[FlowPair]]


def load_flow(root: str | Path, split: str | None = None) -> list[FlowPair]:
    """The pairs of a split of a data set, or of the layout's default split; nothing is decoded before a pair is read.

    Raises:
        `OSError`: the folder has none of the layouts, no such split or no pairs, or a file is missing.
        `ImportError`: the data is of Spring, and h5py is not installed.
    """
    root = Path(root)
    layout, split = _recognise(root, split)
    pairs = list(layout.pairs(root, split))
    if not pairs:
        raise FileNotFoundError(
            f"{root}: holds no pairs; {layout.example} was expected there, as in {layout.dataset}."
        )
    return pairs


def describe_flow(root: str | Path, split: str | None = None) -> dict[str, str]:
    """What a result states: the `dataset` that was recognised, and its `split`.

    Raises:
        `OSError`: as of [`load_flow`].
    """
    layout, split = _recognise(Path(root), split)
    dataset = f"folder {Path(root).resolve().name}" if layout is LAYOUTS[-1] else layout.dataset
    return {"dataset": dataset, "split": split}


def _recognise(root: Path, split: str | None) -> tuple[Layout, str]:
    """The layout of a folder, and the split, checked."""
    if str(root) == RENDERED and not root.exists():
        layout = RENDERED_LAYOUT
    else:
        layout = next((layout for layout in LAYOUTS if any(root.glob(layout.mark))), None)
    if layout is None:
        wrong = "has no layout that is known" if root.is_dir() else "is no folder"
        accepted = ", ".join(f"{layout.dataset} ({layout.example})" for layout in LAYOUTS)
        raise FileNotFoundError(f"{root}: {wrong}; accepted are {accepted}, or the word {RENDERED}.")
    splits = layout.splits(root)
    split = split or splits[0]
    if split not in splits:
        raise FileNotFoundError(f"{root}: {layout.dataset} has no split {split!r}; there are {', '.join(splits)}.")
    return layout, split


# ---- layouts --------------------------------------------------------------------------------------------------------


def _sintel(root: Path, split: str) -> Iterator[FlowPair]:
    training = root / "training"
    for flow in not_hidden((training / "flow").glob("*/*.flo")):
        scene, folder = flow.parent.name, training / split / flow.parent.name
        masks = [
            _present(training / kind, f"{scene}/{flow.stem}.png", "MPI-Sintel") for kind in ("invalid", "occlusions")
        ]
        frames = folder / f"{flow.stem}.png", folder / f"{_next(flow.stem)}.png"
        name = f"{scene}-{flow.stem.removeprefix('frame_')}"
        yield _pair(name, frames, flow, partial(_flo_with_masks, flow, *masks), "MPI-Sintel")


def _kitti(root: Path, split: str) -> Iterator[FlowPair]:
    folder = root / split
    for flow in not_hidden((folder / "flow_occ").glob("*_10.png")):
        frames = folder / "image_2" / flow.name, folder / "image_2" / f"{_next(flow.stem)}.png"
        visible = _present(folder / "flow_noc", flow.name, "KITTI-2015")
        yield _pair(flow.stem.removesuffix("_10"), frames, flow, partial(_kitti_truth, flow, visible), "KITTI-2015")


def _chairs_splits(root: Path) -> list[str]:
    return ["val", "train", "all"] if (root / CHAIRS_SPLIT).is_file() else ["all"]


def _chairs(root: Path, split: str) -> Iterator[FlowPair]:
    wanted = {"train": "1", "val": "2"}.get(split)
    parts = read_text(root / CHAIRS_SPLIT).split() if wanted else []
    for flow in not_hidden((root / "data").glob("*_flow.flo")):
        name = flow.stem.removesuffix("_flow")
        if wanted:
            if not name.isdecimal() or not 1 <= int(name) <= len(parts):
                raise OSError(f"{root / CHAIRS_SPLIT}: has {len(parts)} lines, one a pair, and none for {flow.name}.")
            if parts[int(name) - 1] != wanted:
                continue
        frames = flow.with_name(f"{name}_img1.ppm"), flow.with_name(f"{name}_img2.ppm")
        yield _pair(name, frames, flow, partial(_flo_with_masks, flow), "FlyingChairs")


def _spring(root: Path, split: str) -> Iterator[FlowPair]:
    load_h5py()  # refused before there is any work
    for flow in not_hidden((root / split).glob("*/flow_FW_left/flow_FW_left_*.flo5")):
        scene, number = flow.parents[1], flow.stem.removeprefix("flow_FW_left_")
        matched = _present(scene / "maps" / "matchmap_flow_FW_left", f"matchmap_flow_FW_left_{number}.png", "Spring")
        frames = [scene / "frame_left" / f"frame_left_{which}.png" for which in (number, _next(number))]
        yield _pair(f"{scene.name}-{number}", frames, flow, partial(_spring_truth, flow, matched), "Spring")


def _middlebury(root: Path, split: str) -> Iterator[FlowPair]:
    for flow in not_hidden((root / "other-gt-flow").glob("*/flow10.flo")):
        frames = [root / "other-data" / flow.parent.name / f"frame{number}.png" for number in (10, 11)]
        yield _pair(flow.parent.name, frames, flow, partial(_flo_with_masks, flow), "Middlebury")


def _plain(root: Path, split: str) -> Iterator[FlowPair]:
    for flow in not_hidden(root.glob("*.flo")):
        if not re.search(r"\d$", flow.stem):
            raise OSError(f"{flow}: must be named after its first frame, with a number, such as frame_0001.flo.")
        frames = flow.with_suffix(".png"), flow.with_name(f"{_next(flow.stem)}.png")
        yield _pair(flow.stem, frames, flow, partial(_flo_with_masks, flow), "a folder of pairs")


LAYOUTS = (
    Layout("MPI-Sintel", "training/flow/SCENE/frame_0001.flo", "training/flow", lambda _: ["clean", "final"], _sintel),
    Layout("KITTI-2015", "training/flow_occ/000000_10.png", "training/flow_occ", lambda _: ["training"], _kitti),
    Layout("FlyingChairs", "data/00001_flow.flo", "data/*_flow.flo", _chairs_splits, _chairs),
    Layout(
        "Spring",
        "train/0001/flow_FW_left/flow_FW_left_0001.flo5",
        "train/*/flow_FW_left",
        lambda _: ["train"],
        _spring,
    ),
    Layout("Middlebury", "other-gt-flow/SEQUENCE/flow10.flo", "other-gt-flow", lambda _: ["other"], _middlebury),
    Layout("frames with flow beside them", "frame_0001.flo", "*.flo", lambda _: ["all"], _plain),
)
RENDERED_LAYOUT = Layout("rendered pairs", "", "", lambda _: list(REACH), lambda _, split: rendered_pairs(split))


# ---- files ----------------------------------------------------------------------------------------------------------


def _next(stem: str) -> str:
    """The name of the frame after this one: its last number plus one, with as many digits."""
    return re.sub(r"\d+$", lambda number: str(int(number[0]) + 1).zfill(len(number[0])), stem)


def _present(folder: Path, name: str, dataset: str) -> Path | None:
    """A file of a folder that may be left out as a whole."""
    return _expected(folder / name, dataset) if folder.is_dir() else None


def _expected(path: Path, dataset: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: was expected there, as in {dataset}.")
    return path


def _pair(name: str, frames, flow: Path, read_truth: Callable[[], Truth], dataset: str) -> FlowPair:
    """A pair whose frames are there."""
    first, second = (_expected(path, dataset) for path in frames)
    return FlowPair(name, partial(_read, first, second, flow, read_truth))


def _read(first: Path, second: Path, flow_file: Path, read_truth: Callable[[], Truth]) -> FlowSample:
    """Read and check a pair.

    Raises:
        `OSError`, `ValueError`: a file is damaged or of another size, or no pixel is valid.
    """
    frames = read_image(first), read_image(second)
    _check_size(second, frames[1], frames[0], first)
    flow, known, occluded = read_truth()
    _check_size(flow_file, flow, frames[0], first)
    valid = known_flow(flow)  # (H, W)
    if known is not None:
        valid = valid & known
    if not valid.any():
        raise ValueError(f"{flow_file}: says of no pixel where it moves, so there is nothing to measure.")
    return FlowSample(frames, np.where(valid[..., None], flow, 0).astype(np.float32), valid, occluded)


def _flo_with_masks(flow_file: Path, invalid: Path | None = None, occlusion: Path | None = None) -> Truth:
    """Truth of a .flo file, and of pictures that are not black where it is invalid, and where a pixel is occluded."""
    flow = read_flo(flow_file)
    masks = [_mask(path) if path else None for path in (invalid, occlusion)]
    for path, mask in zip((invalid, occlusion), masks, strict=True):
        _check_size(path, mask, flow, flow_file)
    return flow, None if masks[0] is None else ~masks[0], masks[1]


def _kitti_truth(flow_file: Path, visible_file: Path | None) -> Truth:
    """Truth of KITTI: pixels that have flow in `flow_occ` and none in `flow_noc` are occluded."""
    flow, known = read_kitti_flow(flow_file)
    if visible_file is None:
        return flow, known, None
    _, visible = read_kitti_flow(visible_file)
    _check_size(visible_file, visible, flow, flow_file)
    return flow, known, known & ~visible


def _spring_truth(flow_file: Path, unmatched_file: Path | None) -> Truth:
    """Truth of Spring, whose maps are of twice the size of the frames: every second pixel. The flow is in pixels of the frames."""
    flow, unmatched = read_flo5(flow_file), None
    if unmatched_file is not None:
        unmatched = _mask(unmatched_file)
        _check_size(unmatched_file, unmatched, flow, flow_file)
        unmatched = unmatched[::2, ::2]
    return flow[::2, ::2], None, unmatched


def _mask(path: Path) -> np.ndarray:
    """Where a picture is not black in its first channel `(H, W)`, bool."""
    return read_image(path)[..., 0] > 0


def _check_size(path: Path | None, array: np.ndarray | None, like: np.ndarray, like_path: Path) -> None:
    """Refuse, by a `ValueError`, an array of another height and width than that of another file."""
    if array is not None and array.shape[:2] != like.shape[:2]:
        found, expected = ("x".join(map(str, each.shape[:2])) for each in (array, like))
        raise ValueError(f"{path}: is {found}, but {like_path.name} is {expected}.")


__all__ = ["LAYOUTS", "describe_flow", "load_flow"]
