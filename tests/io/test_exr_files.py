"""Flow and STMaps as OpenEXR."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from fgvc_hf import read_stmap, save_stmap
from fgvc_hf.cli.main import main
from fgvc_hf.io.exr_files import flow_of, read_exr, read_exr_flow, stmap_of
from fgvc_hf.io.flow_files import save_flow


openexr = pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
FLOW = np.random.default_rng(0).normal(0, 20, (12, 20, 2)).astype(np.float32)
HIDDEN = np.zeros((12, 20), bool)


def test_flow_is_in_half_floats_with_v_upwards(tmp_path):
    save_flow(FLOW, HIDDEN, tmp_path / "f.exr", backward=-FLOW)
    channels = read_exr(tmp_path / "f.exr")
    assert set(channels) == {"forward.u", "forward.v", "backward.u", "backward.v"}
    assert {channel.dtype for channel in channels.values()} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(channels["forward.u"], FLOW[..., 0].astype(np.float16))
    np.testing.assert_array_equal(channels["forward.v"], -FLOW[..., 1].astype(np.float16))
    forward, backward = read_exr_flow(tmp_path / "f.exr")
    np.testing.assert_allclose(forward, FLOW, atol=1 / 32)
    np.testing.assert_array_equal(backward, -forward)
    save_flow(FLOW, HIDDEN, tmp_path / "one.exr")
    assert read_exr_flow(tmp_path / "one.exr")[1] is None


def test_flow_beyond_half_floats_is_refused_and_what_is_not_known_stays_so(tmp_path):
    flow = np.zeros((3, 4, 2), np.float32)
    flow[0, 0], flow[1, 1] = (65504, -65504), np.nan
    save_flow(flow, flow[..., 0] > 0, tmp_path / "f.exr")
    np.testing.assert_array_equal(read_exr_flow(tmp_path / "f.exr")[0], flow)
    for value in (-70000, np.inf):
        flow[2, 3, 1] = value
        with pytest.raises(ValueError, match=f"in half floats, up to 65504 pixels, but one displacement is {value}"):
            save_flow(flow, flow[..., 0] > 0, tmp_path / "long.exr")
    assert not (tmp_path / "long.exr").exists()
    with pytest.raises(ValueError, match="backward flow in EXR"):
        save_flow(0 * flow[:2], flow[:2, :, 0] > 0, tmp_path / "long.exr", backward=flow[1:])


def test_an_stmap_of_no_motion_is_the_centres_of_pixels_from_the_bottom_left(tmp_path):
    save_stmap(np.zeros((4, 8, 2), np.float32), tmp_path / "still.exr")
    stmap = read_stmap(tmp_path / "still.exr")
    np.testing.assert_array_equal(stmap[0, :, 0], (np.arange(8) + 0.5) / 8)
    np.testing.assert_array_equal(stmap[::-1, 0, 1], (np.arange(4) + 0.5) / 4)
    assert read_exr(tmp_path / "still.exr")["R"].dtype == np.float32


def through(stmap: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """What Nuke's STMap shows of a picture: every pixel is read where the map says, from the bottom left corner."""
    height, width = picture.shape
    columns = np.floor(stmap[..., 0] * width).astype(int).clip(0, width - 1)
    rows = np.floor((1 - stmap[..., 1]) * height).astype(int).clip(0, height - 1)
    return picture[rows, columns]


def test_a_map_warps_the_second_picture_onto_the_first_and_its_inverse_back():
    picture = np.random.default_rng(1).random((30, 40))
    moved = np.roll(picture, (2, 5), axis=(0, 1))  # 5 pixels to the right, 2 down
    flow = np.broadcast_to(np.float32((5, 2)), (30, 40, 2))
    there, back = stmap_of(flow), stmap_of(-flow)
    np.testing.assert_array_equal(through(there, moved)[:28, :35], picture[:28, :35])
    np.testing.assert_array_equal(through(back, picture)[2:, 5:], moved[2:, 5:])
    assert np.abs(flow_of(there) - flow).max() < 1e-5 and np.abs(flow_of(stmap_of(FLOW)) - FLOW).max() < 1e-4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_said_of_the_file_that_was_asked_for(tmp_path):
    """A limit on the size of files stands for the disk."""
    import resource

    limits, flow = resource.getrlimit(resource.RLIMIT_FSIZE), np.random.default_rng(0).random((200, 200, 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"^{tmp_path}/a\.exr: cannot be written \(File too large\)\.$"):
            save_stmap(flow, tmp_path / "a.exr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"text", b"\x76\x2f\x31\x01" + b"\0" * 40])
def test_damaged_files_are_one_sentence(tmp_path, content):
    (tmp_path / "f.exr").write_bytes(content)
    with pytest.raises(ValueError, match=r"f\.exr: is not an EXR file, or a damaged one"):
        read_stmap(tmp_path / "f.exr")


def test_files_of_another_kind_and_missing_ones_are_named(tmp_path):
    save_flow(FLOW, HIDDEN, tmp_path / "f.exr")
    save_stmap(FLOW, tmp_path / "m.exr")
    with pytest.raises(ValueError, match=r"f\.exr: is no STMap, which has the channels R and G"):
        read_stmap(tmp_path / "f.exr")
    with pytest.raises(ValueError, match=r"m\.exr: has no flow in the channels forward.u and forward.v"):
        read_exr_flow(tmp_path / "m.exr")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_stmap(tmp_path / "none.exr")
    with pytest.raises(ValueError, match=r"the name must end in \.exr"):
        save_stmap(FLOW, tmp_path / "m.png")


def test_without_openexr_the_extra_is_named_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ImportError, match=r'an EXR file needs OpenEXR: pip install "fgvc-hf\[exr\]"'):
        save_stmap(FLOW, tmp_path / "m.exr")
    for name in "ab":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    images = [str(tmp_path / f"{name}.png") for name in "ab"]
    assert main(["flow", *images, "--output", str(tmp_path / "f.exr")]) == 2
    printed = capsys.readouterr().err
    assert printed == 'fgvc-hf: error: an EXR file needs OpenEXR: pip install "fgvc-hf[exr]"\n'
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_the_command_line_writes_flow_and_both_maps(folder_with_clip, capsys):
    maps = ["--stmap", "there.exr", "--inverse-stmap", "back.exr"]
    assert main(["flow", "frame0.png", "frame1.png", "--output", "flow.exr", *maps, "--preset", "fast"]) == 0
    assert capsys.readouterr().out.split() == ["flow.exr", "there.exr", "back.exr"]
    forward, backward = read_exr_flow("flow.exr")
    np.testing.assert_allclose(flow_of(read_stmap("there.exr")), forward, atol=0.01)
    np.testing.assert_allclose(flow_of(read_stmap("back.exr")), backward, atol=0.01)
    assert main(["flow", "frame0.png", "frame1.png", "--output", "f.flo", "--stmap", "frame0.png"]) == 2
