"""Runs that last: a live session whose memory and time per frame must stay as they are, and a demo that many visit at once."""

import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from demo_visitors import Visitor

from fgvc_hf import Tracker, VideoWriter, render_clip


HOSTILE = ([float("nan")] * 2, [1e300, -1], "x" * 1000, None, {"a": []}, [[[[]]]] * 50, -1)


def memory_of(process: int | str = "self") -> float:
    """MiB that a process holds."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[0]) / 1024


def live(
    seconds: float, height: int, width: int, points: int = 8, tracker: Tracker | None = None, fps: float | None = None
) -> dict[str, float]:
    """
    A live session on rendered frames, forth and back, with points and a mask; as fast as it goes, or at the rate of a camera.

    Returns:
        Frames; median seconds of a processor per frame, of the first and the last tenth; MiB after the first tenth and at the end.
    """
    frames = render_clip(num_frames=12, height=height, width=width, num_points=0, seed=4).frames
    order = [*range(12), *range(10, 0, -1)]
    session = (tracker or Tracker.from_pretrained()).stream()
    session.step(frames[0])
    draw = np.random.default_rng(0)
    session.add_points({n: tuple(draw.uniform(8, (width - 8, height - 8))) for n in range(points)})
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 200
    session.add_masks(mask)
    times, memory, began = [], [], time.monotonic()
    while time.monotonic() - began < seconds or len(times) < 60:
        if fps:
            time.sleep(max(0.0, began + len(times) / fps - time.monotonic()))
        start = time.process_time()
        result = session.step(frames[order[(len(times) + 1) % len(order)]])
        times.append(time.process_time() - start)
        memory.append(memory_of())
        assert result.frame_idx == len(times) and result.masks is not None
    tenth = len(times) // 10
    return {
        "frames": len(times),
        "first_seconds": statistics.median(times[tenth : 2 * tenth]),  # the very first ones compile
        "last_seconds": statistics.median(times[-tenth:]),
        "first_mib": statistics.median(memory[tenth : 2 * tenth]),
        "last_mib": statistics.median(memory[-tenth:]),
    }


@contextlib.contextmanager
def demo_server(folder: Path):
    """A running `fgvc-hf demo`, whose files are in a folder: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fgvc_hf.cli", "demo", "--port", str(port)]
    environment = os.environ | {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(900):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}").status_code == 200:
                        break
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait(60)


class Load:
    """
    Users who come again and again, and strangers who send what no page sends.

    Args:
        url (`str`): Of the server.
        clip (`bytes`): What users upload, of 120x72 pixels.
    """

    def __init__(self, url: str, clip: bytes):
        self.url, self.clip, self.ends, self.waits = url, clip, Counter(), []

    def visit(self, draw: random.Random) -> str:
        """Upload, click, track: `"right"`, `"refused"` with a sentence, or what is wrong."""
        user, x, y = Visitor(self), draw.randint(60, 600), draw.randint(60, 350)
        try:
            for call in (lambda: user.take(self.clip), lambda: user.click([x, y]), user.track):
                answer = call()
                if not answer["success"]:
                    text = str(answer["output"].get("error"))
                    return (
                        "refused"
                        if text.endswith((".", "minute.")) and "Traceback" not in text
                        else f"unclear: {text}"
                    )
            file = answer["output"]["data"][4]
            path = (file.get("value") or file)["path"]
            found = np.array(user.http.get(f"/file={path}").json()["queries"])
            right = found.shape == (1, 3) and np.allclose(found[0], [0, x / 6, y / 6], atol=0.01)
            return "right" if right else f"wrong: {found}"
        finally:
            user.http.close()

    def attack(self, draw: random.Random) -> str:
        """A hostile call; the answer has no traceback in it."""
        user = Visitor(self)
        try:
            handler, value = draw.choice(["add_point", "track_1", "show_frame", "upload"]), draw.choice(HOSTILE)
            if draw.random() < 0.3:
                user.http.post("/upload", files={"files": ("x.mp4", draw.randbytes(draw.randint(0, 100_000)))})
            user.call(handler, [value] * draw.randint(0, 3), {"index": value, "value": value})
            return "hostile"
        finally:
            user.http.close()

    def run(self, seconds: float, users: int, strangers: int) -> None:
        """Visits of so many users, and attacks beside them, for a time."""
        until = time.monotonic() + seconds

        def again(number: int, act) -> None:
            draw = random.Random(number)
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    end = act(draw)
                except Exception as error:
                    end = f"{act.__name__}: {type(error).__name__}: {error}"[:200]
                self.ends[end] += 1
                self.waits += [time.monotonic() - began] * (end == "right")

        acts = [(number, self.visit if number < users else self.attack) for number in range(users + strangers)]
        threads = [threading.Thread(target=again, args=of, daemon=True) for of in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 600)


def demo(seconds: float, folder: Path, users: int = 50, strangers: int = 8) -> dict:
    """The demo under load: ends of visits, MiB before and after, and the longest wait for a right answer."""
    frames = render_clip(num_frames=2, height=72, width=120, num_points=0).frames
    with VideoWriter(folder / "clip.mp4", 12, 72, 120) as writer:
        for frame in frames:
            writer.write(frame)
    with demo_server(folder) as (url, process):
        load = Load(url, (folder / "clip.mp4").read_bytes())
        warm = load.visit(random.Random(0))
        before = memory_of(process.pid)
        load.run(seconds, users, strangers)
        assert process.poll() is None, "the server went down"
        return {
            "first": warm,
            "ends": dict(load.ends),
            "before_mib": round(before),
            "after_mib": round(memory_of(process.pid)),
            "median_wait": round(statistics.median(load.waits), 1) if load.waits else None,
            "longest_wait": round(max(load.waits, default=0.0), 1),
        }
