"""The package as a user gets it: the wheel, alone in a clean environment."""

import subprocess
import zipfile
from pathlib import Path

from environments import without_source_tree


ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_demo(wheel):
    """Its files that are not modules."""
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    demo = ROOT / "fgvc_hf" / "demo"
    files = {path for path in demo.rglob("*.*") if path.suffix != ".pyc"}
    assert {f"fgvc_hf/{path.relative_to(demo.parent)}" for path in files} <= names


def test_a_wheel_alone_in_a_clean_environment_tracks(clean_python, folder_with_clip):
    arguments = ["track", "clip.mp4", "--grid", "2", "--overlay", "overlay.mp4", "--output", "tracks.csv"]
    command = [clean_python.parent / "fgvc-hf", *arguments]
    subprocess.run(command, check=True, timeout=300, env=without_source_tree())
    assert Path("overlay.mp4").stat().st_size and len(Path("tracks.csv").read_text().splitlines()) == 1 + 4 * 5
