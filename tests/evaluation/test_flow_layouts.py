"""Pairs of frames with flow: every layout and every error, on small trees in which a picture moves by (3, 2) pixels."""

import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fgvc_hf import render_clip
from fgvc_hf.evaluation.flow_layouts import LAYOUTS, describe_flow, load_flow
from fgvc_hf.evaluation.flow_pairs import measure_flow
from fgvc_hf.io.flow_files import read_flo5, read_kitti_flow, save_flow
from fgvc_hf.metrics.end_point_error import aggregate_flow
from fgvc_hf.tracking.results import FgvcFlowOutput


H, W = 48, 64
MOTION = np.float32([3, 2])
OCCLUDED = np.zeros((H, W), bool)
OCCLUDED[-2:], OCCLUDED[:, -3:] = True, True  # what leaves the frame
INVALID = np.zeros((H, W), bool)
INVALID[:4] = True


@pytest.fixture(scope="module")
def frames():
    picture = render_clip(num_frames=1, height=H + 8, width=W + 8, num_points=1, seed=4).frames[0]
    return [picture[4 - 2 * t : 4 - 2 * t + H, 6 - 3 * t : 6 - 3 * t + W] for t in range(2)]


def flow_field(height=H, width=W):
    return np.broadcast_to(MOTION, (height, width, 2)).copy()


def write_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_flo(path, flow):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_flow(flow, np.zeros(flow.shape[:2], bool), path)


def write_kitti_flow(path, flow, known):
    """A PNG of three channels of 16 bits, which Pillow does not write."""
    height, width = known.shape
    values = np.concatenate([flow * 64 + 2**15, known[..., None]], axis=-1).round().astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*chunks, (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_sintel(root, frames):
    for scene in ("alley_1", "cave_2"):
        for kind in ("clean", "final"):
            for t, frame in enumerate(frames):
                write_picture(root / "training" / kind / scene / f"frame_{t + 1:04d}.png", frame)
        write_flo(root / "training" / "flow" / scene / "frame_0001.flo", flow_field())
        for kind, mask in (("occlusions", OCCLUDED), ("invalid", INVALID)):
            write_picture(root / "training" / kind / scene / "frame_0001.png", mask.astype(np.uint8) * 255)


def write_kitti(root, frames):
    for t, frame in enumerate(frames):
        write_picture(root / "training" / "image_2" / f"000007_1{t}.png", frame)
    write_kitti_flow(root / "training" / "flow_occ" / "000007_10.png", flow_field(), ~INVALID)
    write_kitti_flow(root / "training" / "flow_noc" / "000007_10.png", flow_field(), ~INVALID & ~OCCLUDED)


def write_chairs(root, frames):
    for number in (1, 2, 3):
        for t, frame in enumerate(frames):
            write_picture(root / "data" / f"{number:05d}_img{t + 1}.ppm", frame)
        write_flo(root / "data" / f"{number:05d}_flow.flo", flow_field())
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")


def write_spring(root, frames):
    """Flow at twice the size of the frames, in their pixels; every other pixel is wrong, so that the chosen ones are known."""
    scene = root / "train" / "0004"
    for t, frame in enumerate(frames):
        write_picture(scene / "frame_left" / f"frame_left_{t + 9:04d}.png", frame)
    flow, matched = np.zeros((2 * H, 2 * W, 2), np.float32), np.zeros((2 * H, 2 * W, 3), np.uint8)
    flow[::2, ::2] = MOTION
    flow[:8:2, ::2] = np.nan
    matched[::2, ::2, 0] = 255 * OCCLUDED
    write_picture(scene / "maps" / "matchmap_flow_FW_left" / "matchmap_flow_FW_left_0009.png", matched)
    file = scene / "flow_FW_left" / "flow_FW_left_0009.flo5"
    file.parent.mkdir()
    with open(file, "wb") as content:
        np.save(content, flow)


def write_middlebury(root, frames):
    flow = flow_field()
    flow[:4] = 1.666e9  # unknown
    for t, frame in enumerate(frames):
        write_picture(root / "other-data" / "RubberWhale" / f"frame1{t}.png", frame)
    write_flo(root / "other-gt-flow" / "RubberWhale" / "flow10.flo", flow)


def write_plain(root, frames):
    for t, frame in enumerate(frames):
        write_picture(root / f"frame_{t + 1:04d}.png", frame)
    write_flo(root / "frame_0001.flo", flow_field())


class StandInFile:
    """`h5py.File`, of a file that NumPy has written: h5py is not installed everywhere."""

    def __init__(self, path, mode):
        try:
            self.flow = np.load(path)
        except ValueError:
            raise OSError("no HDF5") from None

    def __enter__(self):
        return {"flow": self.flow}

    def __exit__(self, *error):
        pass


@pytest.fixture
def h5py_stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=StandInFile))


class Moves:
    """A tracker that knows the motion, and takes the last column for the only occluded one."""

    def flow(self, first, second):
        occluded = np.zeros(first.shape[:2], bool)
        occluded[:, -1:] = True
        return FgvcFlowOutput(flow_field(*first.shape[:2]), occluded)


WRITERS = {
    "MPI-Sintel": (write_sintel, None, "clean", ["alley_1-0001", "cave_2-0001"], True, True),
    "MPI-Sintel final": (write_sintel, "final", "final", ["alley_1-0001", "cave_2-0001"], True, True),
    "KITTI-2015": (write_kitti, None, "training", ["000007"], True, True),
    "FlyingChairs": (write_chairs, None, "val", ["00002"], False, False),
    "FlyingChairs train": (write_chairs, "train", "train", ["00001", "00003"], False, False),
    "FlyingChairs all": (write_chairs, "all", "all", ["00001", "00002", "00003"], False, False),
    "Spring": (write_spring, None, "train", ["0004-0009"], True, True),
    "Middlebury": (write_middlebury, None, "other", ["RubberWhale"], True, False),
    "folder pairs": (write_plain, None, "all", ["frame_0001"], False, False),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_layout_is_recognised_and_read(case, frames, tmp_path, h5py_stand_in):
    write, split, resolved, names, masked, knows_occlusion = WRITERS[case]
    root = tmp_path / "pairs"
    root.mkdir()
    write(root, frames)
    pairs = load_flow(root, split)
    assert [pair.name for pair in pairs] == names
    dataset = "folder pairs" if case == "folder pairs" else case.split()[0]
    assert describe_flow(root, split) == {"dataset": dataset, "split": resolved}
    sample = pairs[0].read()
    for found, written in zip(sample.frames, frames, strict=True):
        np.testing.assert_array_equal(found, written)
    valid = ~INVALID if masked else np.ones((H, W), bool)
    np.testing.assert_array_equal(sample.valid, valid)
    assert sample.flow.dtype == np.float32
    np.testing.assert_array_equal(sample.flow, flow_field() * valid[..., None])
    if not knows_occlusion:
        assert sample.occluded is None
    else:
        np.testing.assert_array_equal(sample.occluded & valid, OCCLUDED & valid)
    found, counts = measure_flow(Moves(), pairs[0])
    assert counts.pixels[0] == valid.sum() and counts.error[0] == 0
    scores = aggregate_flow({"": counts})["pixels"]
    if knows_occlusion:
        predicted = found.occluded & valid
        assert scores["occ_P"] == 1  # the last column has left the frame
        assert scores["occ_R"] == pytest.approx(predicted.sum() / (OCCLUDED & valid).sum())
    else:
        assert np.isnan(scores["occ_F1"]) and np.isnan(scores["EPE_occ"])


def test_masks_and_splits_may_be_left_out(frames, tmp_path):
    import shutil

    write_sintel(tmp_path / "sintel", frames)
    for kind in ("occlusions", "invalid"):
        shutil.rmtree(tmp_path / "sintel" / "training" / kind)
    write_kitti(tmp_path / "kitti", frames)
    shutil.rmtree(tmp_path / "kitti" / "training" / "flow_noc")
    write_chairs(tmp_path / "chairs", frames)
    (tmp_path / "chairs" / "FlyingChairs_train_val.txt").unlink()
    samples = [load_flow(tmp_path / name)[0].read() for name in ("sintel", "kitti", "chairs")]
    assert all(sample.occluded is None for sample in samples)
    assert samples[0].valid.all() and not samples[1].valid.all()
    assert describe_flow(tmp_path / "chairs")["split"] == "all"


def test_nothing_is_decoded_before_a_pair_is_read(frames, tmp_path):
    write_plain(tmp_path, frames)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    (pair,) = load_flow(tmp_path)
    with pytest.raises(OSError, match="frame_0001.png: cannot be read as an image"):
        pair.read()


def test_the_flow_of_kitti_is_read_in_64ths(tmp_path):
    flow = np.random.default_rng(0).integers(-(2**15), 2**15, (H, W, 2)) / np.float32(64)
    write_kitti_flow(tmp_path / "a.png", flow, ~INVALID)
    found, known = read_kitti_flow(tmp_path / "a.png")
    np.testing.assert_array_equal(found, flow)
    np.testing.assert_array_equal(known, ~INVALID)


def test_hdf5_as_h5py_writes_it(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "a.flo5", "w") as file:
        file.create_dataset("flow", data=flow_field(), compression="gzip")
    np.testing.assert_array_equal(read_flo5(tmp_path / "a.flo5"), flow_field())
    (tmp_path / "a.flo5").write_bytes((tmp_path / "a.flo5").read_bytes()[:200])
    with pytest.raises(ValueError, match="is no flow file of Spring, or a damaged one"):
        read_flo5(tmp_path / "a.flo5")


OTHER_HDF5 = {
    "a group": lambda file: file.create_group("flow"),
    "nothing": lambda file: None,
    "a link": lambda file: file.__setitem__("flow", sys.modules["h5py"].SoftLink("/nowhere")),
    "text": lambda file: file.create_dataset("flow", data="text"),
    "no values": lambda file: file.create_dataset("flow", data=sys.modules["h5py"].Empty("f4")),
    "a row": lambda file: file.create_dataset("flow", data=np.zeros(3)),
    "three channels": lambda file: file.create_dataset("flow", data=np.zeros((4, 4, 3))),
    "no pixels": lambda file: file.create_dataset("flow", data=np.zeros((0, 4, 2))),
    "complex numbers": lambda file: file.create_dataset("flow", data=np.zeros((4, 4, 2), complex)),
    "8 TiB that are not there": lambda file: file.create_dataset("flow", (2**20, 2**20, 2), "f4", chunks=(64, 64, 2)),
}


@pytest.mark.parametrize("held", OTHER_HDF5)
def test_hdf5_of_something_else_is_refused(tmp_path, held):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "a.flo5", "w") as file:
        OTHER_HDF5[held](file)
    with pytest.raises(ValueError, match="^.*a.flo5: (is no flow file|holds flow of|its flow takes more than 2 GiB)"):
        read_flo5(tmp_path / "a.flo5")


# ---- errors ---------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def smaller(path):
    write_picture(path, np.zeros((H, W - 2, 3), np.uint8))


DAMAGE = {
    "frames of two sizes": (write_plain, "frame_0002.png", smaller, "is 48x62, but frame_0001.png is 48x64"),
    "flow of another size": (
        write_plain,
        "frame_0001.flo",
        lambda path: write_flo(path, flow_field(H, W - 2)),
        "frame_0001.flo: is 48x62, but frame_0001.png is 48x64",
    ),
    "occlusion of another size": (
        write_sintel,
        "training/occlusions/alley_1/frame_0001.png",
        smaller,
        "is 48x62, but frame_0001.flo is 48x64",
    ),
    "visible flow of another size": (
        write_kitti,
        "training/flow_noc/000007_10.png",
        lambda path: write_kitti_flow(path, flow_field(H, W - 2), ~INVALID[:, 2:]),
        "is 48x62, but 000007_10.png is 48x64",
    ),
    "cut .flo": (write_middlebury, "other-gt-flow/RubberWhale/flow10.flo", cut, "is no flow file, or a damaged one"),
    "cut .png flow": (write_kitti, "training/flow_occ/000007_10.png", cut, "cannot be read as an image"),
    "flow of 8 bits": (write_kitti, "training/flow_occ/000007_10.png", smaller, "three channels of 16 bits"),
    "cut .flo5": (
        write_spring,
        "train/0004/flow_FW_left/flow_FW_left_0009.flo5",
        cut,
        "is no flow file of Spring, or a damaged one",
    ),
    "cut frame": (write_plain, "frame_0002.png", cut, "frame_0002.png: cannot be read as an image"),
    "no valid pixel": (
        write_plain,
        "frame_0001.flo",
        lambda path: write_flo(path, flow_field() * np.nan),
        "says of no pixel where it moves, so there is nothing to measure",
    ),
    "no known pixel": (
        write_kitti,
        "training/flow_occ/000007_10.png",
        lambda path: write_kitti_flow(path, flow_field(), np.zeros((H, W), bool)),
        "says of no pixel where it moves",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_when_a_pair_is_read(case, frames, tmp_path, h5py_stand_in):
    write, file, damage, message = DAMAGE[case]
    write(tmp_path, frames)
    damage(tmp_path / file)
    with pytest.raises((OSError, ValueError), match=message) as error:
        load_flow(tmp_path)[0].read()
    assert "\n" not in str(error.value)


MISSING = {
    "second frame": (write_plain, "frame_0002.png", "was expected there, as in a folder of pairs"),
    "frame of Sintel": (write_sintel, "training/clean/cave_2/frame_0002.png", "was expected there, as in MPI-Sintel"),
    "mask of Sintel": (write_sintel, "training/invalid/cave_2/frame_0001.png", "was expected there, as in MPI-Sintel"),
    "frame of KITTI": (write_kitti, "training/image_2/000007_11.png", "was expected there, as in KITTI-2015"),
    "frame of chairs": (write_chairs, "data/00002_img1.ppm", "was expected there, as in FlyingChairs"),
    "frame of Spring": (write_spring, "train/0004/frame_left/frame_left_0010.png", "was expected there, as in Spring"),
    "frame of Middlebury": (write_middlebury, "other-data/RubberWhale/frame11.png", "as in Middlebury"),
    "flow of Sintel": (write_sintel, "training/flow/*/frame_0001.flo", "holds no pairs; training/flow/SCENE/"),
    "flow of KITTI": (write_kitti, "training/flow_occ/000007_10.png", "holds no pairs; training/flow_occ/000000_10"),
    "flow of Middlebury": (write_middlebury, "other-gt-flow/*/flow10.flo", "holds no pairs; other-gt-flow/SEQUENCE"),
    "flow of Spring": (write_spring, "train/0004/flow_FW_left/*.flo5", "holds no pairs; train/0001/flow_FW_left"),
    "flow of a folder": (write_plain, "frame_0001.flo", "has no layout that is known"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_named(case, frames, tmp_path, h5py_stand_in):
    write, pattern, message = MISSING[case]
    write(tmp_path, frames)
    for path in tmp_path.glob(pattern):
        path.unlink()
    with pytest.raises(OSError, match=message):
        load_flow(tmp_path)


def test_other_folders_are_refused_with_the_layouts_that_are_accepted(tmp_path):
    with pytest.raises(OSError, match="has no layout that is known; accepted are MPI-Sintel") as error:
        load_flow(tmp_path)
    assert all(layout.dataset in str(error.value) for layout in LAYOUTS) and "the word rendered" in str(error.value)
    with pytest.raises(OSError, match="nowhere: is no folder; accepted are"):
        load_flow(tmp_path / "nowhere")


def test_splits_and_names_that_do_not_fit(frames, tmp_path):
    write_sintel(tmp_path / "sintel", frames)
    with pytest.raises(OSError, match="MPI-Sintel has no split 'albedo'; there are clean, final"):
        load_flow(tmp_path / "sintel", "albedo")
    write_chairs(tmp_path / "chairs", frames)
    (tmp_path / "chairs" / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(OSError, match="has 2 lines, one a pair, and none for 00003_flow.flo"):
        load_flow(tmp_path / "chairs")
    write_plain(tmp_path / "plain", frames)
    write_flo(tmp_path / "plain" / "flow.flo", flow_field())
    with pytest.raises(OSError, match="flow.flo: must be named after its first frame, with a number"):
        load_flow(tmp_path / "plain")


def test_spring_needs_h5py(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    write_spring(tmp_path, frames)
    with pytest.raises(ImportError, match="needs h5py: pip install h5py"):
        load_flow(tmp_path)
