"""Flow files of every format, by their bytes, and what is none."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf.io.flow_colours import draw_flow
from fgvc_hf.io.flow_files import read_flo, read_kitti_flow, save_flow


def flo(width: int, height: int, numbers: int, tag: bytes = b"PIEH") -> bytes:
    return tag + struct.pack("<ii", width, height) + struct.pack(f"<{numbers}f", *range(numbers))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3), (4, 1), (3, 2)])
def test_middlebury_files_of_all_sizes(tmp_path, width, height):
    (tmp_path / "a.flo").write_bytes(flo(width, height, 2 * width * height))
    found = read_flo(tmp_path / "a.flo")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(2.0 * width * height).reshape(height, width, 2))
    save_flow(found, np.zeros((height, width), bool), tmp_path / "b.flo")
    assert (tmp_path / "b.flo").read_bytes() == (tmp_path / "a.flo").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"PIEH", flo(2, 2, 8)[:11], flo(0, 0, 0), flo(0, 4, 0), flo(4, 0, 0), flo(-1, -2, 4), flo(2, 2, 8, b"PIEX"),
     flo(2, 2, 7), flo(2, 2, 9), flo(2, 2, 8) + b"x", flo(65536, 65536, 0)],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_middlebury_file(tmp_path, content):
    (tmp_path / "a.flo").write_bytes(content)
    with pytest.raises(ValueError, match="a.flo: is no flow file, or a damaged one"):
        read_flo(tmp_path / "a.flo")


@pytest.mark.parametrize("name", ["a.flo", "a.npz", "a.png", "a.exr"])
@pytest.mark.parametrize("shape", [(2, 4, 6), (4, 6, 3), (4, 6), (0, 6, 2)])
def test_what_is_no_flow_is_not_written(tmp_path, name, shape):
    with pytest.raises(ValueError, match=r"^flow must be displacements \(H, W, 2\), got float32 of \("):
        save_flow(np.zeros(shape, np.float32), np.zeros((4, 6), bool), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"^flow must be displacements"):
        draw_flow(np.zeros(shape, np.float32))


def test_flow_of_every_kind_is_the_same_file(tmp_path):
    flow = np.random.default_rng(0).integers(-5, 5, (4, 6, 2))
    for kind in (torch.from_numpy(flow), flow.astype(">f8"), flow.astype(np.float16), np.asfortranarray(flow)):
        save_flow(kind, np.zeros((4, 6), bool), tmp_path / "a.flo")
        np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow)
    assert read_flo(tmp_path / "a.flo").flags.writeable
    with pytest.raises(FileNotFoundError, match=r"b\.flo: there is no such file\.$"):
        read_flo(tmp_path / "b.flo")


def test_other_formats_hold_the_flow_and_what_they_say(tmp_path):
    flow, occluded = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32), np.zeros((4, 6), bool)
    flow[2, 2] = (3.0, 4.0)
    occluded[1, 5] = True
    save_flow(flow, occluded, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) == {"flow", "occluded"}
        np.testing.assert_array_equal(file["flow"], flow)
        np.testing.assert_array_equal(file["occluded"], occluded)
    save_flow(flow, occluded, tmp_path / "a.PNG")
    with Image.open(tmp_path / "a.PNG") as picture:
        assert picture.text == {"largest": "5"} and picture.format == "PNG"
        np.testing.assert_array_equal(np.asarray(picture), draw_flow(flow))
    with pytest.raises(ValueError, match=r"a.jpg: the name must end in .flo, .npz, .png or .exr"):
        save_flow(flow, occluded, tmp_path / "a.jpg")


def test_files_of_kitti_by_value(tmp_path):
    """64ths of a pixel around 2^15, and 0 in blue where nothing is known."""
    import av

    values = np.array([[[2**15, 2**15 + 64, 1], [2**15 - 128, 2**15 + 1, 0], [0, 2**16 - 1, 7]]], np.uint16)
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", 1)
        stream.width, stream.height, stream.pix_fmt = 3, 1, "rgb48be"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(values, "rgb48be")) + stream.encode())
    flow, known = read_kitti_flow(tmp_path / "a.png")
    assert flow.tolist() == [[[0, 1], [-2, 1 / 64], [-512, 512 - 1 / 64]]] and flow.dtype == np.float32
    assert known.tolist() == [[True, False, True]]
    Image.new("RGB", (3, 1)).save(tmp_path / "b.png")
    with pytest.raises(
        ValueError, match="b.png: is no flow file of KITTI, which is a PNG of three channels of 16 bits"
    ):
        read_kitti_flow(tmp_path / "b.png")
