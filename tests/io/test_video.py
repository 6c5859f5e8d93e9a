import os
import resource
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from media_files import turn
from PIL import Image

from fgvc_hf.io.files import atomic_write, check_writable
from fgvc_hf.io.video import VideoWriter, open_video, writing_rate


def numbered_frames(length: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames (T, H, W, 3) whose grey level tells their number, robust against compression."""
    level = (np.arange(length) * 7 % 200 + 20).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (length, height, width, 3)).copy()


def write(path, frames, codec="libx264", pix_fmt="yuv420p", times=None, options=None, container_options=None):
    """A file by PyAV alone, with short groups of pictures and B-frames."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10", "bf": "2"} | (options or {}))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = unit = Fraction(1, 1000) if times else Fraction(1, 25)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.time_base, picture.pts = unit, times[i] if times else i
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered_frames(75))


def test_the_rate_of_a_source_is_that_of_its_copy_if_it_can_be_written():
    for fps, written in ((0.001, 0.001), (25, 25), (1000, 1000), (0, 24), (None, 24), (0.00099, 24), (1000.1, 24)):
        assert writing_rate(SimpleNamespace(fps=fps)) == written


def test_file_size_rate_and_content(clip):
    video = open_video(clip)
    assert (video.num_frames, video.height, video.width, video.fps) == (75, 48, 64, 25)
    assert [video.time(i) for i in (0, 1, 74)] == pytest.approx([0, 0.04, 2.96])
    for frame, truth in zip(video.frames(), numbered_frames(75), strict=True):
        assert frame.dtype == np.uint8 and abs(int(frame.mean()) - int(truth.mean())) <= 2


@pytest.mark.parametrize(("start", "stop"), [(0, None), (1, 5), (9, 12), (10, 40), (33, 34), (74, 75), (20, 20)])
@pytest.mark.parametrize("reverse", [False, True])
def test_ranges_in_both_directions(clip, start, stop, reverse):
    video = open_video(clip)
    expected = list(video.frames())[start:stop]
    found = list(video.frames(start, stop, reverse))
    assert len(found) == len(expected)
    assert all((a == b).all() for a, b in zip(found, expected[::-1] if reverse else expected, strict=True))


def test_range_outside_the_clip(clip):
    with pytest.raises(ValueError, match="which has 75"):
        list(open_video(clip).frames(70, 76))


def test_variable_frame_rate(tmp_path):
    times = [0, 40, 120, 130, 400, 1000]
    video = open_video(write(tmp_path / "vfr.mp4", numbered_frames(6), times=times))
    assert [video.time(i) for i in range(6)] == pytest.approx([t / 1000 for t in times])
    copy = tmp_path / "copy.mp4"
    with VideoWriter(copy, video.fps, video.height, video.width) as writer:
        for i, frame in enumerate(video.frames()):
            writer.write(frame, time=video.time(i))
    again = open_video(copy)
    assert [again.time(i) for i in range(6)] == pytest.approx([t / 1000 for t in times], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "ffv1", "yuv444p"),
        ("a.mp4", "libx264", "yuv422p10le"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
    ],
)
def test_formats(tmp_path, name, codec, pix_fmt):
    frames = numbered_frames(23)
    options = {} if codec != "ffv1" else {"bf": "0"}
    video = open_video(write(tmp_path / name, frames, codec, pix_fmt, options=options))
    assert video.num_frames == 23
    levels = [int(frame.mean()) for frame in video.frames()]
    assert np.abs(np.array(levels) - frames[:, 0, 0, 0]).max() < 7  # the step to the next
    assert [int(frame.mean()) for frame in video.frames(11, 15, reverse=True)] == levels[11:15][::-1]


def test_odd_sizes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 33, 47, 3), dtype=np.uint8)
    source = open_video(write(tmp_path / "odd.mkv", frames, "ffv1", "bgr0", options={"bf": "0"}))
    assert (source.height, source.width) == (33, 47)
    np.testing.assert_array_equal(np.stack(list(source.frames())), frames)
    with VideoWriter(tmp_path / "even.mp4", 25, 33, 47) as writer:
        for frame in frames:
            writer.write(frame)
    written = open_video(tmp_path / "even.mp4")
    assert (written.height, written.width) == (34, 48)


@pytest.mark.parametrize(("matrix", "corner"), [((0, 1, -1, 0), "top right"), ((0, -1, 1, 0), "bottom left")])
def test_rotation_metadata(tmp_path, matrix, corner):
    """A mark at the top left of the stored frames goes where the display matrix (a, b, c, d) sends it."""
    frames = np.full((3, 48, 64, 3), 40, np.uint8)
    frames[:, :16, :16] = 220
    path = write(tmp_path / "rotated.mp4", frames)
    turn(path, matrix)
    video = open_video(path)
    assert (video.height, video.width) == (64, 48)
    frame = next(video.frames())
    mark = frame[:16, -16:] if corner == "top right" else frame[-16:, :16]
    assert mark.mean() > 180 and frame.mean() < 80


def test_folder_in_natural_order(tmp_path):
    for i in (0, 2, 10, 1):
        Image.fromarray(np.full((8, 10, 3), 10 * i, np.uint8)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    video = open_video(tmp_path)
    assert (video.num_frames, video.height, video.width) == (4, 8, 10)
    assert [int(frame.mean()) for frame in video.frames()] == [0, 10, 20, 100]
    assert [int(frame.mean()) for frame in video.frames(1, 3, reverse=True)] == [20, 10]
    Image.fromarray(np.zeros((9, 10, 3), np.uint8)).save(tmp_path / "frame11.png")
    with pytest.raises(OSError, match="frame11.png: is 9x10"):
        list(open_video(tmp_path).frames())


def test_folders_that_are_no_video(tmp_path):
    with pytest.raises(OSError, match="holds no images"):
        open_video(tmp_path)
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(OSError, match=r"a\.png: cannot be read as an image"):
        open_video(tmp_path)


def test_arrays_and_lists():
    frames = numbered_frames(4)
    for source in (frames, list(frames), [Image.fromarray(frame) for frame in frames]):
        video = open_video(source)
        np.testing.assert_array_equal(np.stack(list(video.frames())), frames)
        assert open_video(video) is video
    assert next(open_video(frames[..., 0]).frames()).shape == (48, 64, 3)


def test_iterators_lose_no_frame_and_run_once():
    frames = numbered_frames(4)
    video = open_video(iter(frames))
    assert (video.num_frames, video.height, video.width) == (None, 48, 64)
    np.testing.assert_array_equal(np.stack(list(video.frames())), frames)
    with pytest.raises(ValueError, match="has been read already"):
        list(video.frames())
    with pytest.raises(ValueError, match="forward only"):
        list(open_video(iter(frames)).frames(reverse=True))
    np.testing.assert_array_equal(np.stack(list(open_video(iter(frames)).frames(1, 3))), frames[1:3])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "must be uint8"),
        (np.zeros((8, 8), np.uint8), "video must be a path"),
        (np.zeros((2, 8, 8, 4), np.uint8), "must have the shape"),
        ([], "holds no frames"),
        (iter([]), "holds no frames"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "must have one size"),
        (7, "video must be a path"),
    ],
)
def test_sources_that_are_no_video(source, message):
    with pytest.raises(ValueError, match=message):
        open_video(source)


def test_missing_empty_and_mislabelled_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such video file"):
        open_video(tmp_path / "none.mp4")
    for content in (b"", b"this is a text file\n" * 20):
        (tmp_path / "bad.mp4").write_bytes(content)
        with pytest.raises(OSError, match=r"bad\.mp4: is no video that can be read"):
            open_video(tmp_path / "bad.mp4")


@pytest.mark.parametrize("name", ["front.mp4", "end.mp4", "clip.mkv"])
def test_truncated_files_are_damaged_not_short(tmp_path, name):
    options = {"movflags": "faststart"} if name == "front.mp4" else {}
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = write(tmp_path / name, noise, container_options=options)
    content = path.read_bytes()
    assert open_video(path).num_frames == 60
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(OSError, match=r"is cut off after frame \d+;|is no video that can be read, or is damaged"):
        open_video(path)


def test_damage_in_the_middle_is_found_when_it_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = write(tmp_path / "hole.mp4", noise)
    content = bytearray(path.read_bytes())
    middle = slice(len(content) * 4 // 10, len(content) * 6 // 10)
    content[middle] = bytes(middle.stop - middle.start)
    path.write_bytes(content)
    with pytest.raises(OSError, match="is damaged"):
        list(open_video(path).frames())


def test_audio_only(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(OSError, match="has no video stream"):
        open_video(tmp_path / "sound.mp4")


@pytest.mark.parametrize("fps", [24, 12.5, 30000 / 1001])
def test_writer_keeps_the_rate(tmp_path, fps):
    with VideoWriter(tmp_path / "out.mp4", fps, 48, 64) as writer:
        for frame in numbered_frames(12):
            writer.write(frame)
    video = open_video(tmp_path / "out.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-4) and video.num_frames == 12
    with av.open(str(tmp_path / "out.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_failing_body_leaves_nothing(tmp_path):
    with (
        pytest.raises(ValueError, match="frame must be of the size"),
        VideoWriter(tmp_path / "o.mp4", 24, 48, 64) as writer,
    ):
        writer.write(numbered_frames(1)[0])
        writer.write(np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "o.csv") as path:
        path.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"o\.mp4: cannot be written \(No space left"):
        with VideoWriter(tmp_path / "o.mp4", 24, 48, 64) as writer:
            writer.write(numbered_frames(1)[0])
    assert not list(tmp_path.iterdir())


def test_names_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="must end in .mp4, .mov, .mkv"):
        VideoWriter(tmp_path / "o.gif", 24, 48, 64)
    with pytest.raises(OSError, match="does not exist"):
        check_writable(tmp_path / "none" / "o.mp4")
    with pytest.raises(OSError, match="it is a folder"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {"x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"}),
        ("a.ts", "libx264", {"x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"}),
        ("a.ts", "mpeg2video", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_every_frame_can_be_read_alone(tmp_path, name, codec, options):
    """Also where a container seeks past its target, or to a key frame that comes after frames that need others."""
    video = open_video(write(tmp_path / name, numbered_frames(36), codec, options=options))
    for i, frame in enumerate(list(video.frames())):
        np.testing.assert_array_equal(next(video.frames(i, i + 1)), frame)


def test_a_trimmed_file_is_not_a_damaged_one(tmp_path):
    """An edit list that shows frames 13 to 37 of 60, with frames before them that are only decoded."""
    path = write(tmp_path / "trimmed.mp4", numbered_frames(60), options={"sc_threshold": "0"})
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12  # the one entry: duration in milliseconds, start in ticks of the stream
    with av.open(str(path)) as container:
        skipped = int(Fraction(13, 25) / container.streams.video[0].time_base)
    start = struct.unpack_from(">i", content, at + 4)[0] + skipped
    struct.pack_into(">Ii", content, at, 1000, start)
    path.write_bytes(content)
    video = open_video(path)
    levels = [int(frame.mean()) for frame in video.frames()]
    assert video.num_frames == 25 and video.time(1) == pytest.approx(0.04)
    assert np.abs(np.array(levels) - numbered_frames(60)[13:38, 0, 0, 0]).max() <= 2


@pytest.mark.parametrize("name", ["front.mp4", "fragments.mp4", "clip.mkv", "clip.avi"])
def test_a_few_lost_frames_are_noticed(tmp_path, name):
    flags = {"front.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}.get(name)
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write(tmp_path / name, noise, codec, container_options={"movflags": flags} if flags else {})
    content = path.read_bytes()
    assert len(list(open_video(path).frames())) == 60
    path.write_bytes(content[: len(content) * 95 // 100])
    with pytest.raises(OSError, match=r"is damaged, it is cut off after frame 5\d; the first 5\d can be read"):
        open_video(path)


def test_one_frame_and_none(tmp_path):
    for name in ("one.mp4", "one.mkv"):
        video = open_video(write(tmp_path / name, numbered_frames(1)))
        assert video.num_frames == len(list(video.frames())) == 1
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        container.add_stream("libx264", rate=25).height = 32
    with pytest.raises(OSError, match=r"none\.mp4"):
        open_video(tmp_path / "none.mp4")


def test_a_change_of_size_within_a_file(tmp_path):
    parts = []
    for first, side in ((0, 48), (10, 32)):
        frames, times = numbered_frames(10, side, side), [40 * (first + i) for i in range(10)]
        parts.append(write(tmp_path / f"{side}.ts", frames, times=times, options={"bf": "0"}).read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(OSError, match=r"both\.ts: frame 10 is 32x32, but those before are 48x48"):
        list(open_video(tmp_path / "both.ts").frames())
    with pytest.raises(ValueError, match="must have one size"):
        list(open_video(iter([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)])).frames())


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("a:b.mp4", 25, 48, 64) as writer:
        writer.write(numbered_frames(1)[0])
    assert open_video("a:b.mp4").num_frames == 1


def test_image_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :4] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    video = open_video(tmp_path)
    assert (video.height, video.width) == (16, 8)
    frame = next(video.frames())
    assert frame[:4, -4:].min() == 255 and frame[:4, :4].max() == 0


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv"])
def test_a_disk_that_fills_up_while_writing(tmp_path, name):
    """A limit to the size of files stands in for the disk; FFmpeg meets it as it would a full one."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{name}: cannot be written \(File too large\)"):
            with VideoWriter(tmp_path / name, 24, 48, 64) as writer:
                for frame in noise:
                    writer.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_errors_of_the_source_are_not_taken_for_the_writer_s(tmp_path):
    with pytest.raises(OSError, match=r"^in\.mp4: is damaged\.$"), VideoWriter(tmp_path / "o.mp4", 24, 48, 64):
        raise OSError("in.mp4: is damaged.")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [[], [0, 0], [1, 0.5], [-1]])
def test_times_that_do_not_make_a_video(tmp_path, times):
    (tmp_path / "o.mp4").write_text("as before")
    with pytest.raises(ValueError, match=r"must increase" if times else "no frame was written"):
        with VideoWriter(tmp_path / "o.mp4", 24, 48, 64) as writer:
            for time in times:
                writer.write(numbered_frames(1)[0], time=time)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("o.mp4", "as before")]
