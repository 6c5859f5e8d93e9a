"""Written video keeps its colours, pixel aspect and times, as the command `ffmpeg` and [`open_video`] read it."""

import re
import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import turn
from PIL import Image

from fgvc_hf import VideoWriter, open_video
from fgvc_hf.io.overlays import write_overlay


COLOURS = np.array(
    [
        [230, 40, 40],
        [40, 200, 60],
        [30, 60, 220],
        [220, 210, 40],
        [200, 60, 200],
        [40, 200, 200],
        [20, 20, 20],
        [235, 235, 235],
    ],
    np.uint8,
)
SIZES = [(48, 64), (480, 640), (718, 64), (719, 64), (720, 64), (1080, 64), (2160, 32)]


def stripes(height: int, width: int) -> np.ndarray:
    """A frame of eight stripes of known colours, one below the other."""
    return np.repeat(np.repeat(COLOURS, -(-height // 8), axis=0)[:height, None], width, axis=1)


def middles(frame: np.ndarray) -> np.ndarray:
    """The colours in the middle of the stripes."""
    size = -(-frame.shape[0] // 8)
    return np.array([frame[i * size + size // 2, frame.shape[1] // 2] for i in range(8)], int)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_colours(tmp_path, height, width, suffix):
    """BT.709 from 720 rows on, BT.601 below; in the tags, in what ffmpeg shows and in what is read here."""
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, 25, height, width) as writer:
        for _ in range(2):
            writer.write(stripes(height, width))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    matrix = 1 if height >= 720 else 6  # as ITU-T H.273 numbers BT.709 and SMPTE 170M
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (matrix, matrix, matrix, 1)
    shown = [next(open_video(path).frames())]
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        shown.append(np.frombuffer(raw, np.uint8).reshape(height + height % 2, width, 3))
    for picture in shown:
        assert np.abs(middles(picture[:height]) - COLOURS).max() <= 8
    # The other matrix would be seen
    other = frame.to_ndarray(format="rgb24", src_colorspace="ITU601" if height >= 720 else "ITU709")
    assert np.abs(middles(other[:height]) - COLOURS).max() > 12


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("aspect", [1, Fraction(16, 11), Fraction(8, 9), 1.5, np.float32(0.5)])
def test_pixel_aspect(tmp_path, suffix, aspect):
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, 25, 48, 64, aspect) as writer:
        writer.write(stripes(48, 64))
    video = open_video(path)
    assert video.pixel_aspect == pytest.approx(float(aspect))
    write_overlay(video, lambda t, frame: frame, tmp_path / "overlay.mp4")
    assert open_video(tmp_path / "overlay.mp4").pixel_aspect == video.pixel_aspect
    if shutil.which("ffprobe"):
        query = ["ffprobe", "-v", "error", "-show_entries", "stream=sample_aspect_ratio", "-of", "csv=p=0"]
        found = subprocess.run([*query, tmp_path / "overlay.mp4"], capture_output=True, text=True, check=True).stdout
        assert Fraction(re.sub(":", "/", found.strip())) == video.pixel_aspect


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 64), (64, 1), (3, 5), (2, 2), (17, 719)])
def test_small_and_odd_sizes(tmp_path, height, width):
    frame = np.full((height, width, 3), 200, np.uint8)
    with VideoWriter(tmp_path / "a.mp4", 25, height, width) as writer:
        for _ in range(3):
            writer.write(frame)
    shown = list(open_video(tmp_path / "a.mp4").frames())
    assert len(shown) == 3 and shown[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(shown[2].astype(int) - 200).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(17, 24), (24, 17), (17, 17)])
def test_an_odd_frame_gets_a_row_or_a_column_more_and_is_not_enlarged(tmp_path, height, width):
    """Stripes of one pixel, which would be blurred; what is added is like the last row or column."""
    frame = np.zeros((height, width, 3), np.uint8)
    if height % 2:
        frame[::2] = 255
    else:
        frame[:, ::2] = 255
    with VideoWriter(tmp_path / "a.mp4", 25, height, width) as writer:
        writer.write(frame)
    shown = next(open_video(tmp_path / "a.mp4").frames()).astype(int)
    expected = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(shown - expected).max() < 40


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e-9, 1e9, 5000, None, "24", 0j, [24]])
def test_rates_that_are_none(tmp_path, fps):
    with pytest.raises(ValueError, match="^fps must be a number of frames per second, .* got"):
        VideoWriter(tmp_path / "a.mp4", fps, 48, 64)


@pytest.mark.parametrize(
    "fps", [0.001, 0.5, 23.976, Fraction(24000, 1001), np.float32(29.97), np.int64(30), 240, 1000]
)
def test_rates(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps, 48, 64) as writer:
        for _ in range(4):
            writer.write(stripes(48, 64))
    video = open_video(tmp_path / "a.mp4")
    assert video.num_frames == 4 and video.time(3) == pytest.approx(3 / float(fps), rel=0.01, abs=2e-5)


@pytest.mark.parametrize("size", [(0, 64), (48, -2), (48.0, 64), (None, 64), ("48", 64)])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(ValueError, match="^height and width must be positive whole numbers, got"):
        VideoWriter(tmp_path / "a.mp4", 25, *size)


@pytest.mark.parametrize("aspect", [0, -1, float("nan"), None, "16:9", 1000])
def test_aspects_that_are_none(tmp_path, aspect):
    with pytest.raises(ValueError, match="^pixel_aspect must be a number, .* got"):
        VideoWriter(tmp_path / "a.mp4", 25, 48, 64, aspect)


@pytest.mark.parametrize("time", [-1, float("nan"), float("inf"), 0.0])
def test_times_that_are_none(tmp_path, time):
    with pytest.raises(ValueError, match="must increase"), VideoWriter(tmp_path / "a.mp4", 25, 48, 64) as writer:
        writer.write(stripes(48, 64), time=0.0)
        writer.write(stripes(48, 64), time=time)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_encoder_refuses(tmp_path):
    with (
        pytest.raises(OSError, match=r"a\.mp4: cannot be written"),
        VideoWriter(tmp_path / "a.mp4", 25, 2, 70000) as writer,
    ):
        writer.write(np.zeros((2, 70000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_source_is_not_one_of_the_file(tmp_path):
    lost = ConnectionResetError(104, "the camera is gone")
    with pytest.raises(ConnectionResetError) as caught, VideoWriter(tmp_path / "a.mp4", 25, 16, 16) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
        raise lost
    assert caught.value is lost and list(tmp_path.iterdir()) == []


def test_frames_of_every_kind(tmp_path):
    grey = np.full((48, 64), 90, np.uint8)
    kinds = [grey, grey[..., None], Image.fromarray(grey), np.repeat(grey[..., None], 3, 2)[::-1, ::-1]]
    with VideoWriter(tmp_path / "a.mp4", 25, 48, 64) as writer:
        for frame in kinds:
            writer.write(frame)
    assert [round(frame.mean() / 10) for frame in open_video(tmp_path / "a.mp4").frames()] == [9] * 4


def test_an_overlay_of_joined_recordings(tmp_path):
    """Times that start again where the second recording does cannot be written; the clip goes on at its rate."""
    one = tmp_path / "one.ts"
    with av.open(str(one), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    two = tmp_path / "two.ts"
    two.write_bytes(2 * one.read_bytes())
    video = open_video(two)
    assert [video.time(n) for n in range(20)] == pytest.approx([n / 25 for n in range(20)])
    write_overlay(video, lambda t, frame: frame, tmp_path / "overlay.mp4")
    assert open_video(tmp_path / "overlay.mp4").num_frames == 20


@pytest.mark.parametrize(("matrix", "aspect"), [((0, 1, -1, 0), Fraction(1, 2)), ((-1, 0, 0, -1), 2)])
def test_the_pixel_aspect_of_a_turned_video_is_that_of_its_pixels_as_shown(tmp_path, matrix, aspect):
    """Of pixels that are stored twice as wide as high."""
    path = tmp_path / "turned.mp4"
    with VideoWriter(path, 25, 48, 64, 2) as writer:
        writer.write(stripes(48, 64))
    turn(path, matrix)
    video = open_video(path)
    assert video.pixel_aspect == aspect and (video.height, video.width) == ((64, 48) if matrix[0] == 0 else (48, 64))
