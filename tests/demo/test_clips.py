"""Files that are let in, and what becomes of them."""

import os
import shutil
import sys
import threading

import av
import numpy as np
import pytest

from fgvc_hf.demo import check
from fgvc_hf.demo.check import check_clip, run_check
from fgvc_hf.demo.clips import WatchedVideo


def blank(path, frames, height, width, codec="libx264"):
    """A video of grey frames, quickly written, of any size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8), format="rgb24")
        for t in range(frames):
            picture.pts = t
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def claims_a_million_frames(path, clip_file):
    """A clip whose table of samples says that there are a million of them."""
    content = bytearray(clip_file.read_bytes())
    place = content.index(b"stsz") + 12  # after version, flags and the common size: the number of samples
    content[place : place + 4] = (1_000_000).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def playlist(path, *_):
    path.write_text(f"ffconcat version 1.0\nfile '{path.parent}/other.mp4'\n")
    return path


BAD_FILES = {
    "empty": (lambda path, clip: path.write_bytes(b""), "is no video that can be read"),
    "text": (lambda path, clip: path.write_text("hello" * 500), "is no video that can be read"),
    "zip": (lambda path, clip: path.write_bytes(b"PK\x03\x04" + bytes(500)), "is no video that can be read"),
    "web page": (
        lambda path, clip: path.write_text("<html><script>alert(1)</script>"),
        "is no video that can be read",
    ),
    "list of files": (playlist, "is no video that can be read"),
    "stream list": (
        lambda path, clip: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n"),
        "is no video that can be read",
    ),
    "cut off": (lambda path, clip: path.write_bytes(clip.read_bytes()[:-900]), "is damaged"),
    "noise inside": (
        lambda path, clip: path.write_bytes(clip.read_bytes()[:1500] + bytes(9) * 200 + clip.read_bytes()[3300:]),
        "",
    ),
    "million frames claimed": (claims_a_million_frames, "has no frames"),
    "wide": (lambda path, clip: blank(path, 2, 16, 10_000), "The clip is 10000×16 pixels; at most 1920×1080"),
    "large": (lambda path, clip: blank(path, 1, 1600, 1600), "The clip is 1600×1600 pixels; at most 1920×1080"),
    "thin": (lambda path, clip: blank(path, 2, 32, 480), "a side may be at most 4 times as long as the other"),
    "tiny": (lambda path, clip: blank(path, 2, 8, 8), "sides of at least 16 pixels are accepted"),
    "long": (lambda path, clip: blank(path, 301, 32, 32), "The clip has more than 300 frames"),
    "no video": (lambda path, clip: sound(path), "has no video stream"),
}


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44_100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_refused_upload_is_one_sentence_and_leaves_no_file(kind, clip_store, clip_file, tmp_path):
    folder = tmp_path / "of this upload"
    folder.mkdir()
    upload = folder / "holiday.mp4"
    make, message = BAD_FILES[kind]
    make(upload, clip_file)
    with pytest.raises(ValueError) as refused:
        clip_store.take(upload)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert not upload.exists() and not list(clip_store.folder.iterdir())


def test_too_many_bytes_are_refused_before_they_are_read(clip_store, tmp_path, monkeypatch):
    upload = tmp_path / "huge.mp4"
    with upload.open("wb") as file:
        file.truncate((50 << 20) + 1)
    monkeypatch.setattr(check, "run_check", lambda command: pytest.fail("was read"))
    with pytest.raises(ValueError, match=r"^huge.mp4: is larger than 50 MB\.$"):
        check_clip(upload, upload.name)


@pytest.mark.parametrize(
    "code", ["import os; os.abort()", "print('no JSON')", "print('[]')", "import sys; sys.exit(3)", "while True: pass"]
)
def test_a_process_that_crashes_or_hangs_is_an_answer_as_well(code, monkeypatch):
    monkeypatch.setattr(check, "MAX_WALL_SECONDS", 2)
    assert run_check([sys.executable, "-c", code]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="memory of a process is limited on POSIX systems")
def test_the_process_has_an_end_to_its_memory():
    code = "from fgvc_hf.demo.check import limit_this_process as limit; limit(); bytes(4 << 30)"
    assert run_check([sys.executable, "-c", code]) is None
    code = "from fgvc_hf.demo.check import limit_this_process as limit; limit(); bytes(64 << 20); print('{}')"
    assert run_check([sys.executable, "-c", code]) == {}


def test_what_is_accepted_is_copied_and_the_upload_stays_with_gradio(clip_store, clip_file):
    clip = clip_store.take(clip_file)
    assert clip.name == "clip.mp4" and clip.size == (72, 120) and clip.num_frames == 6
    assert clip_file.exists() and clip.video.path.is_relative_to(clip_store.folder)
    assert clip.frame(5).shape == (72, 120, 3)
    clip.discard()
    assert not list(clip_store.folder.iterdir())
    with pytest.raises(ValueError, match="put away"):
        clip.frame(0)


def test_an_upload_is_held_while_others_send_the_same(clip_store, clip_file, tmp_path):
    """Each of them replaces the file, as Gradio does; a link to a file that is replaced during the call is refused by the system."""
    upload, ended = tmp_path / "clip.mp4", threading.Event()
    shutil.copyfile(clip_file, upload)

    def send(number: int) -> None:
        while not ended.is_set():
            shutil.copyfile(clip_file, tmp_path / f"{number}.mp4")
            os.replace(tmp_path / f"{number}.mp4", upload)

    others = [threading.Thread(target=send, args=[number]) for number in range(2)]
    for other in others:
        other.start()
    try:
        held = [clip_store.hold(upload) for _ in range(1000)]
    finally:
        ended.set()
        for other in others:
            other.join()
    assert {path.read_bytes() for path in held} == {clip_file.read_bytes()}
    upload.unlink()
    with pytest.raises(ValueError, match="clip.mp4: is not there any more"):
        clip_store.hold(upload)
    assert len(list(clip_store.folder.iterdir())) == len(held)


def test_what_was_said_of_a_file_holds_for_all_who_send_it(clip_store, clip_file, tmp_path, monkeypatch):
    """Also for those whose upload went away with the one that was refused first."""
    upload = tmp_path / "bad.mp4"
    upload.write_text("no video")
    held = clip_store.hold(upload)
    with pytest.raises(ValueError, match="is no video that can be read") as first:
        clip_store.take(upload)
    assert not upload.exists()
    with pytest.raises(ValueError) as second:
        clip_store.open(held, upload)
    with pytest.raises(ValueError) as third:
        clip_store.take(upload)
    assert str(first.value) == str(second.value) == str(third.value) and not list(clip_store.folder.iterdir())
    clip_store.take(clip_file)
    monkeypatch.setattr("fgvc_hf.demo.clips.check_clip", lambda *_: pytest.fail("was checked again"))
    clip_store.take(clip_file)


def test_a_check_that_came_to_no_end_is_made_again(clip_store, clip_file, monkeypatch):
    monkeypatch.setattr(check, "MAX_WALL_SECONDS", 0)
    with pytest.raises(ValueError, match="cannot be read within the limits of this demo"):
        clip_store.take(clip_file)
    assert clip_file.exists() and not list(clip_store.folder.iterdir())
    monkeypatch.undo()
    assert clip_store.take(clip_file).num_frames == 6


@pytest.mark.parametrize(
    "name", ["..mp4", "Ü 動画 🎯.mp4", "x" * 240 + ".mp4", "a.mp4\n<b>", "-i.mov", "clip", "a.m\tp4"]
)
def test_names_are_kept_for_the_user_only(clip_store, clip_file, tmp_path, name):
    upload = tmp_path / name
    upload.write_bytes(clip_file.read_bytes())
    clip = clip_store.take(upload)
    assert clip.name == name and clip.num_frames == 6
    assert clip.video.path.name.startswith("clip.") and clip.video.path.name.isascii()


def test_results_take_the_place_of_earlier_ones(workspace):
    first = workspace.clip.results("points") / "tracks.csv"
    first.write_text("1")
    assert list(workspace.clip.results("points").iterdir()) == []
    assert not first.exists()


def test_watched_frames_are_those_of_the_clip(workspace):
    clip, shares = workspace.clip, []
    watched = WatchedVideo(clip, 6, shares.append)
    for seen, frame in zip(watched.frames(), clip.video.frames(), strict=True):
        assert (seen == frame).all()
    assert shares == [t / 6 for t in range(1, 7)]
