"""The end of the server: at any moment, with exit status 0, in seconds, and without a file left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from demo_visitors import Visitor

from fgvc_hf.demo.stopping import Stopping, ends_on_signals


SECONDS = 5
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems"),
]


class Started:
    """A server that a test ends; `folder` has all its files."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        environment = os.environ | {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "fgvc_hf.cli", "demo", "--port", str(port)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def until_up(self) -> "Started":
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url).status_code == 200:
                    return self
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.1)
        raise AssertionError("it did not start")

    def end(self, *numbers: int) -> None:
        """Send signals, and see what is left."""
        began = time.monotonic()
        for number in numbers:
            self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, printed
        assert time.monotonic() - began < SECONDS
        assert b"Traceback" not in printed, printed
        assert list(self.folder.glob("fgvc-demo-*")) == []
        assert [path for path in self.folder.rglob("*") if path.is_file()] == []


@pytest.fixture
def started(tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    started = Started(folder)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_idle(started, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("under nohup it is ignored")
    started.until_up().end(number)


@pytest.mark.parametrize("seconds", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_while_it_starts(started, number, seconds):
    time.sleep(seconds)
    started.end(number)


def test_impatiently(started):
    started.until_up().end(signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_with_a_job_a_queue_pages_and_uploads(started, number, clip_file):
    started.until_up()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            user = Visitor(started)
            assert user.take(clip_file.read_bytes())["success"] and user.click([100, 100])["success"]
            user.join("track_1", ["fast", "both"])
            stack.enter_context(user.http.stream("GET", f"/heartbeat/{user.session}"))
        checked = Visitor(started)
        checked.join("upload", [checked.upload(clip_file.read_bytes() + b"another")])
        stopped = threading.Event()
        stack.callback(stopped.set)

        def slowly():
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(1 << 20)
            stopped.wait(30)

        def upload():
            with contextlib.suppress(httpx.TransportError):
                headers = {"Content-Type": "multipart/form-data; boundary=x"}
                httpx.post(f"{started.url}/gradio_api/upload", content=slowly(), headers=headers, timeout=60)

        threading.Thread(target=upload, daemon=True).start()
        time.sleep(0.7)
        started.end(number)


def test_steps_are_done_once_the_last_first_whatever_becomes_of_them():
    done, stopping = [], Stopping()
    stopping.add(lambda: done.append("first"))
    stopping.add(lambda: 1 / 0)
    stopping.add(lambda: done.append("last"))
    stopping.run()
    stopping.run()
    assert done == ["last", "first"]


def test_afterwards_signals_are_as_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="taken"), ends_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        raise OSError("the port is taken")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
