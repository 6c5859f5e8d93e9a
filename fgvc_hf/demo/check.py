"""Check an uploaded clip in a subprocess.

A decoder that crashes, hangs or runs out of memory on a crafted file ends the subprocess, not the server. The server opens only files that
were decoded to their end within the limits. `python -m fgvc_hf.demo.check FILE` prints one line of JSON: `{}`, or `{"error": ...}`.
"""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from ..io.video import VideoFile
from .jobs import checkpoint
from .limits import MAX_FRAMES, MAX_MEGABYTES, check_length, check_size


MAX_BYTES_IN_MEMORY = 3 << 30  # address space; libraries that are mapped count as well
MAX_CPU_SECONDS = 60
MAX_WALL_SECONDS = 90
# Containers that hold a clip themselves, and are no lists of other files or addresses
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,asf"


class Unchecked(ValueError):
    """The check did not come to an end: it crashed, was stopped, or took too long."""


def check_clip(path: Path, name: str) -> None:
    """
    Check that the clip is accepted.

    Args:
        path: The file.
        name (`str`): What the user calls it; in errors instead of the path.

    Raises:
        `ValueError`: it is no video, is damaged, or is beyond the limits of the demo.
    """
    if path.stat().st_size > MAX_MEGABYTES << 20:
        raise ValueError(f"{name}: is larger than {MAX_MEGABYTES} MB.")
    report = run_check([sys.executable, "-m", "fgvc_hf.demo.check", str(path)])
    if report is None:
        raise Unchecked(f"{name}: cannot be read within the limits of this demo; the file may be damaged.")
    if "error" in report:
        raise ValueError(report["error"].replace(str(path), name))


def run_check(command: list[str]) -> dict | None:
    """What the process printed; `None` if it crashed, took too long or printed no answer. It ends with the job that started it."""
    end = time.monotonic() + MAX_WALL_SECONDS
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            printed = None
            while printed is None and time.monotonic() < end:
                checkpoint()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    printed, _ = process.communicate(timeout=0.2)
        finally:
            process.kill()
    try:
        report = json.loads(printed or "") if process.returncode == 0 else None
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def inspect(path: Path) -> None:
    """Decode a clip to its end.

    Raises:
        `ValueError`, `OSError`: as of [`check_clip`], with the path in the place of the name.
    """
    import av

    try:
        with av.open(
            f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        ) as container:
            for stream in container.streams.video[:1]:
                check_size(stream.height, stream.width)
                # Counted, for a header may say anything; and before the index of the whole file is built
                packets = sum(1 for _, packet in zip(range(MAX_FRAMES + 1), container.demux(stream)) if packet.size)
                check_length(packets)
    except av.FFmpegError as error:
        raise OSError(f"{path}: is no video that can be read, or is damaged ({error.strerror}).") from None
    video = VideoFile(path)
    check_size(video.height, video.width)
    check_length(video.num_frames)
    for _ in video.frames():
        pass


def limit_this_process() -> None:
    """Memory and processor time, where the system can limit them."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES_IN_MEMORY, MAX_BYTES_IN_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    limit_this_process()
    try:
        inspect(Path(sys.argv[1]))
        report = {}
    except (ValueError, OSError) as error:
        report = {"error": " ".join(str(error).split())}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
