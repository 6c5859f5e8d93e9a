import pytest


pytest.importorskip("gradio", reason="the demo needs the extra demo")

from fgvc_hf import VideoWriter, render_clip
from fgvc_hf.demo.clips import Shelf
from fgvc_hf.demo.handlers import Desk


@pytest.fixture(scope="session")
def write_clip():
    def write(path, frames, fps=12):
        with VideoWriter(path, fps, *frames[0].shape[:2]) as writer:
            for frame in frames:
                writer.write(frame)
        return path

    return write


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory, write_clip):
    """6 frames of 120x72 pixels."""
    frames = render_clip(num_frames=6, height=72, width=120, num_points=0).frames
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(folder, capacity=3)


@pytest.fixture
def desk(shelf, clip_file):
    """A session that has its clip."""
    return Desk(shelf.copy(clip_file, "my clip.mp4"))
