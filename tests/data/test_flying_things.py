import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf.data.flying_things import FlyingThings3D, LabelledCrops, LabelledPair, consistent, read_pfm
from fgvc_hf.data.scene import Random
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.textures import natural_image


H, W = 40, 56


def write_pfm(path, values, little=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"PF\n{values.shape[1]} {values.shape[0]}\n{-1.0 if little else 1.0}\n".encode()
    path.write_bytes(header + values[::-1].astype("<f4" if little else ">f4").tobytes())


def flow_field(number, future):
    """A field that says which file it came from: (frame number, +-1) everywhere, its row in the third channel."""
    values = np.zeros((H, W, 3), np.float32)
    values[..., 0], values[..., 1] = number / 10, 1 if future else -1
    values[..., 2] = np.arange(H)[:, None]
    return values


@pytest.fixture
def tree(tmp_path):
    for scene in ("A/0000", "C/0012"):
        frames = tmp_path / "frames_cleanpass_webp" / "TRAIN" / scene / "left"
        frames.mkdir(parents=True)
        for number in (6, 7, 8):
            Image.fromarray(np.full((H, W, 3), number, np.uint8)).save(frames / f"{number:04d}.webp", lossless=True)
            for name, folder in (("IntoFuture", "into_future"), ("IntoPast", "into_past")):
                path = tmp_path / "optical_flow" / "TRAIN" / scene / folder / "left"
                field = flow_field(number, name == "IntoFuture")
                write_pfm(path / f"OpticalFlow{name}_{number:04d}_L.pfm", field, little=number != 7)
    return tmp_path


def test_pairs_of_both_orders_with_their_two_flows(tree):
    pairs = FlyingThings3D(tree)
    assert len(pairs) == 2 * 2 * 2
    forward, backward = pairs[2], pairs[3]
    assert forward.frames[:, 0, 0, 0].tolist() == [7, 8] and backward.frames[:, 0, 0, 0].tolist() == [8, 7]
    np.testing.assert_allclose(forward.flow[:, 0, 0], [[0.7, 1], [0.8, -1]])
    np.testing.assert_allclose(backward.flow[:, 0, 0], [[0.8, -1], [0.7, 1]])
    assert forward.flow.shape == (2, H, W, 2) and forward.frames.shape == (2, 3, H, W)


def test_a_frame_that_is_missing_has_no_pair_and_other_files_are_no_frames(tree):
    """The flow of frame 6 leads to frame 7, never to frame 8."""
    left = tree / "frames_cleanpass_webp/TRAIN/A/0000/left"
    whole = len(FlyingThings3D(tree))
    for name in ("._0006.webp", "._0008.webp", "mean.png"):
        (left / name).write_bytes(b"x")
    assert len(FlyingThings3D(tree)) == whole
    (left / "0007.webp").unlink()
    assert [scene for scene, _, _ in FlyingThings3D(tree).pairs] == ["C/0012"] * 4


def test_pfm_begins_with_the_lowest_row(tree):
    path = next(tree.rglob("*.pfm"))
    np.testing.assert_array_equal(read_pfm(path)[:, 0, 2], np.arange(H))


def test_crops_are_cut_without_resizing(tree):
    crops = LabelledCrops(FlyingThings3D(tree), size=32, stride=2, seed=1)
    frames, flow, visible = crops[5]
    assert frames.shape == (2, 3, 32, 32) and flow.shape == (2, 16, 16, 2) and visible.shape == (2, 16, 16)
    assert not visible[0, -1].any() or not visible[1, 0].any()  # one pixel up or down leads out of the crop
    for one, other in zip(crops[5], LabelledCrops(FlyingThings3D(tree), 32, 2, seed=1)[5], strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="do not fit into frames of 40x56"):
        LabelledCrops(FlyingThings3D(tree), size=48)[0]


def test_the_forward_backward_test_agrees_with_exact_visibility():
    images = (255 * natural_image(160, 40, 0.4, Random(range(3)))).byte()
    pairs = render_pairs(images, range(6), 96, reach=16, stride=1)
    agreement = [(consistent(flow) == visible).float().mean() for flow, visible in zip(pairs.flow, pairs.visible)]
    assert min(agreement) > 0.9


def test_other_layouts_and_damage_are_named(tree, tmp_path):
    with pytest.raises(OSError, match="frames_cleanpass_webp or frames_cleanpass with a folder TEST was expected"):
        FlyingThings3D(tree, "TEST")
    path = tree / "optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm"
    write_pfm(path, flow_field(6, True)[:-2])
    with pytest.raises(OSError, match="A/0000 0006 to 0007: the flow is 38x56, but its frames 40x56"):
        FlyingThings3D(tree)[0]
    broken = flow_field(6, True)
    broken[3, 3, 0] = np.nan
    write_pfm(path, broken)
    with pytest.raises(OSError, match="A/0000 0006 to 0007: the flow holds values that are not finite"):
        FlyingThings3D(tree)[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match="ends before its 40 rows"):
        FlyingThings3D(tree)[0]
    path.write_bytes(b"Pf\n56 40\n-1.0\n" + bytes(4 * 56 * 40))
    with pytest.raises(OSError, match="A/0000 0006 to 0007: the flow is 40x2, but its frames 40x56"):
        FlyingThings3D(tree)[0]
    for data in (b"GIF89a", b"PF\n2 2\n--\n" + bytes(48), b"PF\n2 2\n1e\n" + bytes(48)):
        path.write_bytes(data)
        with pytest.raises(OSError, match="is no PFM image"):
            read_pfm(path)
    path.write_bytes(b"PF\n999999999 999999999\n-1.0\n")
    with pytest.raises(OSError, match="ends before its 999999999 rows"):
        read_pfm(path)


def test_pictures_of_a_pair_that_differ_in_size_are_named(tree):
    frames = tree / "frames_cleanpass_webp/TRAIN/A/0000/left"
    Image.new("RGB", (W, H - 2)).save(frames / "0007.webp", lossless=True)
    with pytest.raises(OSError, match="A/0000 0006 to 0007: must have two frames of one size, and a flow of each"):
        FlyingThings3D(tree)[0]


def test_flows_may_differ_by_a_hundredth_of_both_and_half_a_pixel():
    for length, seen in ((0.95, True), (0.96, False)):  # squared 0.9025 of 0.914, and 0.9216 of 0.913
        flow = torch.zeros(2, 4, 40, 2)
        flow[0, ..., 0], flow[1, ..., 0] = 5.0, length - 5.0
        assert consistent(flow)[0, :, :35].all() == seen and not consistent(flow)[0, :, 35:].any()


def test_crops_are_taken_anywhere_and_what_leads_out_of_them_is_not_visible():
    """The frame shows x in red and y in green."""
    y, x = torch.meshgrid(torch.arange(36), torch.arange(44), indexing="ij")
    frames = torch.stack([x, y, 0 * x]).byte().expand(2, 3, 36, 44)
    generator = torch.Generator().manual_seed(0)
    flow = 20 * torch.rand(2, 36, 44, 2, generator=generator) - 10
    pair = LabelledPair(frames, flow, torch.rand(2, 36, 44, generator=generator) < 0.8)
    crops, places = LabelledCrops([pair], size=32, stride=4), set()
    for number in range(250):
        found, shifts, visible = crops[number]
        left, top = (255 * found[0, :2, 0, 0]).round().int().tolist()
        assert torch.equal(found, frames[..., top : top + 32, left : left + 32] / 255)
        rows, columns = slice(top, top + 32, 4), slice(left, left + 32, 4)
        assert torch.equal(shifts, flow[:, rows, columns])
        ends = torch.stack([x - left, y - top], -1)[rows, columns] + 0.5 + shifts
        inside = ((ends >= 0) & (ends < 32)).all(-1)
        assert torch.equal(visible, pair.visible[:, rows, columns] & inside)
        places.add((top, left))
    tops, lefts = (set(of) for of in zip(*places, strict=True))
    assert tops == set(range(5)) and lefts == set(range(13))
