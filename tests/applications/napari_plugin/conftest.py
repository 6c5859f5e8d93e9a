"""napari draws with OpenGL, which Qt's offscreen platform has only beside an X server: where there is no display, one without a screen is started."""

import os
import shutil
import subprocess

import pytest


pytest.importorskip("napari", reason="napari is not installed")


@pytest.fixture(scope="session")
def display():
    """A display for the windows of napari, which do not open on it."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if os.environ.get("DISPLAY"):
        yield os.environ["DISPLAY"]
        return
    program = shutil.which("Xvfb")
    if program is None and not os.environ.get("FGVC_REQUIRE_NAPARI_TESTS"):
        pytest.skip(
            "there is no display and no Xvfb; apt-get install xvfb, or set FGVC_REQUIRE_NAPARI_TESTS=1 to fail instead"
        )
    read, write = os.pipe()
    command = [program or "Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as answer:
            os.environ["DISPLAY"] = f":{answer.readline().strip()}"
        yield os.environ["DISPLAY"]
        server.terminate()
    del os.environ["DISPLAY"]
