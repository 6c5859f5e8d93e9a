import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest


pytest.importorskip("gradio", reason="the extra demo is not installed")

import httpx

from fgvc_hf import VideoWriter, render_clip
from fgvc_hf.demo.examples import EXAMPLES
from fgvc_hf.demo.server_state import ServerState


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
def server_state(tmp_path):
    folder = tmp_path / "server_state"
    folder.mkdir()
    server_state = ServerState(folder)
    yield server_state
    server_state.close()


@pytest.fixture
def clip_store(server_state):
    return server_state.clip_store


@pytest.fixture
def workspace(server_state, clip_file):
    """A session that has its clip."""
    workspace = server_state.workspace("me")
    workspace.clip = server_state.clip_store.copy(clip_file, "my clip.mp4")
    return workspace


@pytest.fixture
def upload_of(server_state):
    """A function that puts a file where Gradio puts uploads, and returns what the page sends for it."""

    def upload(content: bytes, name: str = "clip.mp4") -> dict:
        place = server_state.cache / hashlib.sha256(content).hexdigest()
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
        return {"path": str(place / name), "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    return upload


@dataclass
class Server:
    """A running `fgvc-hf demo`; all its files are in `folder`."""

    url: str
    pid: int
    folder: Path

    @property
    def memory(self) -> int:
        """Bytes that it holds in memory."""
        return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())[0]) * 1024


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Started as a user does, and ended as a system does; it leaves no file behind."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "fgvc_hf.cli", "demo", "--port", str(port)]
    with (tmp_path_factory.mktemp("log") / "server.log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(url).status_code == 200:
                        break
                assert process.poll() is None, log.seek(0) or log.read()
                time.sleep(0.2)
            examples = [next(folder.glob("fgvc-demo-*")) / "clips" / f"{example.key}.mp4" for example in EXAMPLES]
            end = time.monotonic() + 120  # it makes them in the background: files that no visitor sent
            while not all(path.exists() for path in examples):
                assert process.poll() is None and time.monotonic() < end, log.seek(0) or log.read()
                time.sleep(0.2)
            yield Server(url, process.pid, folder)
            assert process.poll() is None, "the server went down"
        finally:
            before, began = log.seek(0, os.SEEK_END), time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
        assert time.monotonic() - began < 5
        log.seek(before)
        assert "Traceback" not in log.read()
    assert list(folder.glob("fgvc-demo-*")) == []
    assert [path for path in folder.rglob("*") if path.is_file()] == []
