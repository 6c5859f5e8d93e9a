"""The files beside the code say the same as the code."""

import re
from pathlib import Path

import yaml

import fgvc_hf
from fgvc_hf import open_video
from fgvc_hf.demo.limits import MAX_FRAMES


ROOT = Path(__file__).parents[1]
CLIPS = sorted((ROOT / "docs" / "clips").glob("*.mp4"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == fgvc_hf.__version__
    assert re.findall(r"^## ([\d.]+)$", text("CHANGELOG.md"), re.MULTILINE)[0] == fgvc_hf.__version__


def test_clips_are_small_and_their_source_is_named():
    assert [clip.stem for clip in CLIPS] == ["cockatoo", "dog", "juggle"]
    for clip in CLIPS:
        video = open_video(clip)
        assert (
            clip.stat().st_size < 700_000 and min(video.height, video.width) == 320 and video.num_frames < MAX_FRAMES
        )
        assert f"docs/clips/{clip.name}" in text("NOTICE")


def test_the_first_example_of_the_demo_is_a_clip_of_the_documentation():
    name = "cockatoo.mp4"
    assert (ROOT / "fgvc_hf/demo/examples" / name).read_bytes() == (ROOT / "docs/clips" / name).read_bytes()
    assert f"fgvc_hf/demo/examples/{name}" in text("NOTICE")
