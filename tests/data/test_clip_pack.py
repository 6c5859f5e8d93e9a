import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgvc_hf.data.clip_pack import HEADER, LENGTH, PackedClip, PackedVideos, packed_clips, read_pack, write_pack
from fgvc_hf.data.shards import decode_image, encode_image
from fgvc_hf.data.video_folder import VideoFolder, scaled_frames


@pytest.fixture
def folder(videos, tmp_path):
    """Three video files, and a folder of images in a subfolder."""
    root = tmp_path / "root"
    (root / "more" / "images").mkdir(parents=True)
    for path in videos.glob("*.mp4"):
        (root / path.name).write_bytes(path.read_bytes())
    for t in range(5):
        Image.fromarray(np.full((48, 80, 3), 40 * t, np.uint8)).save(root / "more" / "images" / f"{t}.png")
    return root


@pytest.fixture
def pack(folder, tmp_path):
    path = tmp_path / "clips.pack"
    write_pack(path, packed_clips(folder, short_side=40))
    return path


def test_clips_come_back_as_they_were_packed(folder, pack):
    clips = read_pack(pack)
    assert [clip.name for clip in clips] == ["0", "1", "2", "more/images"]
    assert [clip.fps for clip in clips] == [12.0, 12.0, 12.0, None]
    for clip, source in zip(clips, ["0.mp4", "1.mp4", "2.mp4", "more/images"], strict=True):
        expected = scaled_frames(folder / source, 40)
        found = np.stack([decode_image(frame) for frame in clip.frames])
        assert found.shape == expected.shape and min(found.shape[1:3]) == 40
        assert np.abs(found.astype(int) - expected).mean() < 12  # JPEG halves the resolution of colours


def test_pairs_are_those_of_the_folder(folder, pack):
    settings = {"size": 32, "gap": (1, 3), "seed": 5}
    packed, unpacked = PackedVideos(pack, **settings), VideoFolder(folder, short_side=40, **settings)
    for number in range(8):
        assert packed[number].shape == (2, 3, 32, 32)
        assert (packed[number].float() - unpacked[number].float()).abs().mean() < 12
    assert packed.texture_images(6, 20, 30).shape == (6, 3, 20, 30)
    with pytest.raises(ValueError, match="holds no clip of at least 9 frames"):
        PackedVideos(pack, offsets=tuple(range(9)))


def test_only_the_first_frames_of_a_clip(folder):
    whole, cut = list(packed_clips(folder)), list(packed_clips(folder, max_frames=3))
    assert [len(clip.frames) for clip in whole] == [8, 8, 8, 5]
    assert [clip.frames for clip in cut] == [clip.frames[:3] for clip in whole]
    for most in (None, 3):
        sparse = list(packed_clips(folder, every=2, max_frames=most))
        assert [clip.frames for clip in sparse] == [clip.frames[::2][:most] for clip in whole]
        assert [clip.fps for clip in sparse] == [6.0, 6.0, 6.0, None]


def test_a_pack_that_is_too_large_is_refused_with_what_fits(tmp_path):
    clips = [PackedClip(name, 24.0, [bytes([t]) * 1000 for t in range(10)]) for name in ("a", "b")]
    path = tmp_path / "clips.pack"
    path.write_bytes(b"before")
    with pytest.raises(
        ValueError, match=r"more than the 0.015 MB .*the first 7 frames of each clip would fit \(--max-frames 7\)"
    ):
        write_pack(path, clips, 15_000)
    with pytest.raises(ValueError, match="not even two frames of each clip would fit"):
        write_pack(path, clips, 2_000)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1
    fitting = [PackedClip(clip.name, clip.fps, clip.frames[:7]) for clip in clips]
    assert write_pack(path, fitting, 15_000) == path.stat().st_size <= 15_000
    assert read_pack(path) == fitting


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"short_side": 8}, "short_side of a pack must be at least 32, got 8"),
        ({"quality": 0}, "quality of a pack must be from 1 to 95, got 0"),
        ({"quality": 96}, "quality of a pack must be from 1 to 95, got 96"),
        ({"every": 0}, "every of a pack must be at least 1, got 0"),
        ({"max_frames": 1}, "max_frames of a pack must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        list(packed_clips(folder, **wrong))


def damaged(data, kind):
    if kind == "another version":
        return data[:8] + (2).to_bytes(4, "little") + data[12:]
    if kind == "cut off":
        return data[: len(data) // 2]
    place = {"the checksum": 20, "a length": HEADER.size + 1, "the index": HEADER.size + LENGTH.size + 3}.get(kind, -5)
    return data[:place] + bytes([data[place] ^ 1]) + data[place:][1:]


@pytest.mark.parametrize("kind", ["cut off", "the checksum", "a length", "the index", "a frame"])
def test_a_damaged_pack_is_refused(pack, kind):
    pack.write_bytes(damaged(pack.read_bytes(), kind))
    with pytest.raises(ValueError, match="clips.pack: is cut off or damaged, its checksum is wrong"):
        read_pack(pack)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([b"x", b"x"], "clips.pack, sub/clip, frame 0: cannot be used .a frame is no image of a known format"),
        (lambda frame: [frame, frame[:-30]], "clips.pack, sub/clip, frame 1: cannot be used .*truncated"),
        (lambda frame: [frame, encode_image(np.zeros((9, 9, 3), np.uint8), "PNG")], "frame 1: .* of another size"),
    ],
)
def test_frames_that_cannot_be_used_are_named(pack, frames, message):
    frame = read_pack(pack)[0].frames[0]
    write_pack(pack, [PackedClip("sub/clip", None, frames if isinstance(frames, list) else frames(frame))])
    with pytest.raises(OSError, match=message):
        PackedVideos(pack)


def test_a_pack_of_nothing_is_refused_and_a_clip_of_nothing_left_out(pack):
    clips = read_pack(pack)
    before = pack.read_bytes()
    with pytest.raises(ValueError, match="clips.pack: there is nothing to write"):
        write_pack(pack, iter([]))
    assert pack.read_bytes() == before
    write_pack(pack, [PackedClip("empty", None, []), *clips])
    assert len(PackedVideos(pack, size=32).clips) == len(clips)


@pytest.mark.parametrize("data", [b"", b"FGVC", b"FGVCPACK", b"PK\x03\x04" + bytes(100)])
def test_another_file_is_refused(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="file: is no pack of clips; scripts/prepare.py pack writes one"):
        read_pack(path)


def test_another_version_and_no_file_are_refused(pack):
    pack.write_bytes(damaged(pack.read_bytes(), "another version"))
    with pytest.raises(ValueError, match="is a pack of version 2, but this program reads version 1"):
        read_pack(pack)
    for name, reason in (("absent", "No such file"), (".", "Is a directory")):
        with pytest.raises(OSError, match=f"cannot be read as a pack of clips .{reason}"):
            read_pack(pack.parent / name)


BLOCKED = """
import runpy, sys
for name in ("av", "numba", "datasets"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_training_needs_neither_video_library_nor_numba(pack, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    options = ["--recipe", "joint-small", "--pack", pack, "--output", tmp_path / "run", "--start-from", "fgvc-joint"]
    for change in ("crop=32", "radius=4", "steps=2", "batch_size=2", "textures=8"):
        options += ["--set", change]
    command = [sys.executable, "-c", BLOCKED, script, *options]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "2 updates" in done.stdout and "2 of 2 are done" in done.stdout
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(entries) == 2 and all(entry["reconstruction"] > 0 and entry["label"] > 0 for entry in entries)
