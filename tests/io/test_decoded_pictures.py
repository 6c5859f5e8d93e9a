"""What decoded frames leave behind: nothing that waits for the garbage collector, or for threads."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from media_files import CONTAINERS, write_media

from fgvc_hf.io.video import open_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    levels = np.arange(20, 170, 2, dtype=np.uint8)
    write_media(path, np.broadcast_to(levels[:, None, None, None], (75, 48, 64, 3)).copy(), *CONTAINERS["h264.mkv"])
    return path


def test_frames_are_freed_as_they_are_read(clip):
    """Frames that refer to each other are freed by the garbage collector alone, at some time."""
    video, found = open_video(clip), {}
    gc.collect()
    gc.disable()
    try:
        for stop in (2, 75):
            list(video.frames(0, stop))
            found[stop] = gc.collect()
    finally:
        gc.enable()
    assert found[75] == found[2]


FORKED = """
import gc, os, sys, time
from fgvc_hf.io.video import open_video

gc.disable()  # what is not freed by now is freed in the child
video = open_video(sys.argv[1])
for _ in video.frames():
    pass
child = os.fork()
if not child:
    gc.collect()
    os._exit(0 if len(list(video.frames())) == 75 else 1)
end = time.monotonic() + 30
while time.monotonic() < end:
    process, state = os.waitpid(child, os.WNOHANG)
    if process:
        sys.exit(state)
    time.sleep(0.02)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_has_read_a_video_may_fork(clip):
    """As the workers of a DataLoader do on Linux."""
    done = subprocess.run([sys.executable, "-c", FORKED, clip], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
