"""A recording that was cut off is told from a whole one, in every container and wherever it was cut."""

import re
import warnings
from types import SimpleNamespace

import av
import numpy as np
import pytest
from media_files import CONTAINERS, write_media

from fgvc_hf import open_video
from fgvc_hf.io import video_files


FRAMES = 24
SHARES = (0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 0.97, 0.995)


def write(path, codec, sound, options) -> None:
    """24 frames of noise, so that every frame takes many bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8)
    write_media(path, noise, codec, sound, options)


@pytest.fixture(scope="module", params=CONTAINERS)
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / request.param
    try:
        write(path, *CONTAINERS[request.param])
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        pytest.skip(f"PyAV cannot write it here ({error}).")
    return path


def test_a_whole_file_raises_no_complaint(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_video(whole).frames())) == FRAMES


@pytest.mark.parametrize("share", SHARES)
def test_a_part_is_refused_or_read_with_a_warning(whole, tmp_path, share):
    content = whole.read_bytes()
    path = tmp_path / whole.name
    cut = int(len(content) * share)
    # A transport stream that ends between two of its packets is a whole one
    path.write_bytes(content[: cut + (cut % 188 == 0 or cut % 192 == 0)])
    with pytest.raises(OSError, match=f"^{re.escape(str(path))}: ") as refusal:
        list(open_video(path).frames())
    assert str(refusal.value).count(". ") == 0 and str(refusal.value).endswith(".")
    if not (told := re.search(r"after frame (\d+); the first (\d+) can be read", str(refusal.value))):
        with pytest.raises(OSError):
            list(open_video(path, allow_truncated=True).frames())
        return
    with pytest.warns(UserWarning, match=rf"after frame {told[1]}; it is read up to there"):
        video = open_video(path, allow_truncated=True)
    frames = list(video.frames())
    assert len(frames) == video.num_frames == int(told[2]) == int(told[1]) + 1 <= FRAMES
    truth = list(open_video(whole).frames(0, len(frames)))
    wrong = [n for n, (a, b) in enumerate(zip(frames, truth, strict=True)) if np.abs(a.astype(int) - b).mean() > 1]
    assert not wrong
    np.testing.assert_array_equal(next(video.frames(reverse=True)), frames[-1])


@pytest.mark.parametrize(
    "name", ["index at the end.mp4", "h264.mkv", "frames.gif", "mpeg4.avi", "frames.apng", "h264.flv"]
)
@pytest.mark.parametrize("appended", [bytes(100), b"SEFT and other data of cameras\n" * 50], ids=["zeros", "data"])
def test_what_programs_append_is_no_damage(tmp_path, name, appended):
    write(tmp_path / name, *CONTAINERS[name])
    with (tmp_path / name).open("ab") as file:
        file.write(appended)
    assert open_video(tmp_path / name).num_frames == FRAMES


def test_a_recorder_that_was_killed(tmp_path):
    """A file without duration and index is whole, as a browser writes it, unless it ends within an element."""
    write(live := tmp_path / "live.webm", *CONTAINERS["live.webm"])
    content = live.read_bytes()
    assert b"\x1c\x53\xbb\x6b" not in content  # no index
    assert open_video(live).num_frames == FRAMES
    live.write_bytes(content[:-5])
    with pytest.raises(OSError, match="cut off"):
        open_video(live)


def test_truncation_is_a_keyword_of_the_file_alone(tmp_path):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    assert open_video(frames, allow_truncated=True).num_frames == 2


def test_a_stream_that_the_reader_does_not_know_is_an_error_of_decoding():
    """PyAV raises an `IndexError` where damaged headers announce a stream in the middle of a file: it must not end the video without a word."""

    class Container:
        def demux(self, stream):
            yield SimpleNamespace(size=3)
            yield SimpleNamespace(size=0)
            raise IndexError

    packets = video_files._packets(Container(), None)
    assert next(packets).size == 3
    with pytest.raises(video_files._errors()) as caught:
        next(packets)
    assert caught.value.strerror == "the frame is corrupt"
