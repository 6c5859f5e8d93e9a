"""The sessions of the server and the room on its disk.

A session has a workspace. Its clip is never put away while a job of the session runs or waits, nor within `GRACE` seconds of its last use; where
this leaves no room, new clips are refused with a sentence.
"""

import contextlib
import os
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from ..tracking.results import PointTracks
from . import limits, views
from .clips import PUT_AWAY, Clip, ClipStore
from .jobs import FULL, WORKING, Busy, Job, Jobs
from .limits import Point


GRACE = 120.0  # seconds in which whoever was here last may come back
HOUR = 3600.0
MAX_CLIPS = 256
MAX_WORKSPACES = 4096
MAX_BYTES = 4 << 30  # of uploads, clips, results and what Gradio copies of them, together
SPARE_BYTES = 256 << 20  # of the disk, for others
RESULT_BYTES = 128 << 20  # the most that a job is expected to write


@dataclass
class Workspace:
    """
    What a session works on.

    Args:
        clip ([`Clip`], *optional*): Its clip.
        points (`list[Point]`): Labels of the points on it.
        tracks ([`PointTracks`], *optional*): Where the points went when they were followed last.
        target (`int`, *optional*): The point that a click labels; a new one if not given.
        looks (`list[Point]`): Points on its picture, which is kept with the clip.
        found ([`PointTracks`], *optional*): Where those were found and followed to.
        cancelled (`float`): When it last asked to cancel, on the monotonic clock.
    """

    clip: Clip | None = None
    points: list[Point] = field(default_factory=list)
    tracks: PointTracks | None = None
    target: int | None = None
    looks: list[Point] = field(default_factory=list)
    found: PointTracks | None = None
    session: str = ""
    cancelled: float = 0.0
    used: float = field(default_factory=time.monotonic, compare=False)
    put_away: bool = False

    def the_clip(self) -> Clip:
        if self.clip is None:
            missing = "There is no clip yet: upload or record one, or take an example."
            raise ValueError(PUT_AWAY if self.put_away else missing)
        return self.clip

    def frame_number(self, value) -> int:
        return limits.whole_number("The frame", value, 0, self.the_clip().num_frames - 1)

    def clicked(self, index) -> tuple[float, float]:
        """The place (x, y) in the clip of a click at [column, row] of its picture."""
        height, width = self.the_clip().size
        return limits.clicked(index, height, width, views.zoom_of(width))

    def next_id(self) -> int:
        """An id that no point has, nor had when points were followed last."""
        followed = [] if self.tracks is None else self.tracks.object_ids
        return max([-1, *(point.obj_id for point in self.points), *followed]) + 1

    def forget(self) -> None:
        """Everything that belongs to a clip."""
        self.clip, self.points, self.tracks, self.target = None, [], None, None
        self.looks, self.found = [], None

    def clear(self) -> None:
        if self.clip is not None:
            self.clip.discard()
        self.forget()
        self.put_away = False


class ServerState:
    """
    All workspaces, the jobs of their sessions, and the folder that holds every file of the server.

    Args:
        folder (`Path`): With `clips`, of the clip store, and `gradio`, for what is uploaded and downloaded.
        max_bytes (`int`, *optional*): Of all files in the folder together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = folder, max_bytes
        self.cache = folder / "gradio"
        for place in (folder / "clips", self.cache):
            place.mkdir(exist_ok=True)
        self.clip_store, self.jobs = ClipStore(folder / "clips"), Jobs()
        self._workspaces: dict[str, Workspace] = {}
        self._connections: Counter[str] = Counter()
        self._expected, self._fixed = 0, set[Path]()
        self._lock = threading.RLock()

    # ---- sessions ----

    def workspace(self, session: str) -> Workspace:
        """The workspace of a session; it counts as used now."""
        with self._lock:
            workspace = self._workspaces.pop(session, None) or Workspace(session=session)
            workspace.used = time.monotonic()
            self._workspaces[session] = workspace
            if len(self._workspaces) > MAX_WORKSPACES:
                empty = next((key for key, other in self._workspaces.items() if other.clip is None), None)
                self._workspaces.pop(empty, None)
            return workspace

    def connected(self, session: str) -> None:
        """A page, or a client, listens for a session."""
        self._connections[session] += 1

    def disconnected(self, session: str) -> list[Job]:
        """It listens no more; the jobs that nobody waits for now."""
        self._connections[session] -= 1
        if self._connections[session] > 0:
            return []
        del self._connections[session]
        return self.jobs.of(session)

    def left(self, session: str, jobs: list[Job]) -> None:
        """Unless somebody listens for the session again, these jobs end, because others may be waiting."""
        if session not in self._connections:
            self.jobs.stop(jobs, "Cancelled: the page was closed.")

    def place(self, workspace: Workspace, clip: Clip, points: list[Point]) -> None:
        """Put a clip on a workspace, in the place of the one before; work on that one ends."""
        self.jobs.stop(self.jobs.of(workspace.session, WORKING), "Cancelled: another clip took its place.")
        before = workspace.clip
        workspace.forget()
        workspace.clip, workspace.points, workspace.put_away = clip, points, False
        if before is not None:
            before.discard()

    def sweep(self) -> None:
        """Put away what has not been used for an hour, and remove folders of uploads that are gone."""
        with self._lock:
            for workspace in self._idle(HOUR):
                self._put_away(workspace)
            for place in self.cache.iterdir():
                with contextlib.suppress(OSError):  # it is a file, not empty, or gone
                    if place.stat().st_mtime < time.time() - GRACE:
                        place.rmdir()

    # ---- files ----

    def uploaded(self, what: str, value) -> Path:
        """
        The file that a client sends as `{"path": ...}`, where it is one that was uploaded, or the address of one.

        Raises:
            `ValueError`: it is anything else.
        """
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(path, str) and "\0" not in path:
            _, _, after = path.partition("/gradio_api/file=")
            file = Path(os.path.abspath(unquote(after) if path.startswith(("http://", "https://")) else path))
            with contextlib.suppress(OSError):  # a name that is too long
                if file.is_relative_to(self.cache) and file.parent != self.cache and is_file_or_gone(file):
                    return file
        raise ValueError(
            f"{what} must be a file that was uploaded to this server, at /gradio_api/upload; others are not read or fetched."
        )

    def keep(self) -> None:
        """What is in the cache now is part of the page, and stays."""
        self._fixed = set(old_files(self.cache, 0))

    # ---- room ----

    def make_room(self, needed: int) -> None:
        """
        Make sure that so many bytes may be written, and a clip be added.

        Raises:
            [`Busy`]: everything on the disk is in use.
        """
        with self._lock:
            if self._has_room(needed):
                return
            for workspace in self._idle(GRACE):
                self._put_away(workspace)
                if self._has_room(needed):
                    return
            for file in old_files(self.cache, GRACE):
                if file in self._fixed:
                    continue
                file.unlink(missing_ok=True)
                if self._has_room(needed):
                    return
        raise Busy(FULL.format("its clips and results need all of the room"))

    @contextlib.contextmanager
    def room_for_upload(self, size: int) -> Generator[None]:
        """Keep room for an upload while it comes in; when none does, what aborted ones have left is removed."""
        with self._lock:
            self.make_room(size)
            self._expected += size
        try:
            yield
        finally:
            with self._lock:
                self._expected -= size
                if not self._expected:
                    for rest in self.cache.glob("*"):
                        if rest.is_file():
                            rest.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Of all files; one that has several names counts once."""
        sizes = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):  # gone meanwhile
                    status = os.lstat(os.path.join(folder, name))
                    sizes[status.st_dev, status.st_ino] = status.st_size
        return sum(sizes.values())

    def _has_room(self, needed: int) -> bool:
        clips = sum(workspace.clip is not None for workspace in self._workspaces.values())
        left = min(
            self.max_bytes - self.used_bytes(), shutil.disk_usage(self.folder).free - min(SPARE_BYTES, self.max_bytes)
        )
        return clips < MAX_CLIPS and left - self._expected >= needed

    def _idle(self, seconds: float) -> list[Workspace]:
        """Desks with a clip that are not in use; those first whose page is closed, then those that were used longest ago."""
        end = time.monotonic() - seconds
        idle = [
            d for d in self._workspaces.values() if d.clip is not None and d.used < end and not self.jobs.of(d.session)
        ]
        return sorted(idle, key=lambda workspace: (workspace.session in self._connections, workspace.used))

    def _put_away(self, workspace: Workspace) -> None:
        workspace.clear()
        workspace.put_away = True

    def close(self) -> None:
        """Stop all work, and remove all files."""
        self.jobs.close("The server is stopping.")
        end = time.monotonic() + 1
        while self.folder.exists() and time.monotonic() < end:
            shutil.rmtree(self.folder, ignore_errors=True)


def is_file_or_gone(path: Path) -> bool:
    """Looked at once: an upload that was refused may be removed, and sent again by another, between two looks.

    Raises:
        `OSError`: the system cannot tell, as of a name that is too long.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True


def old_files(folder: Path, seconds: float) -> list[Path]:
    """Files below a folder that have not been written for so long; the oldest first."""
    end = time.time() - seconds
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                path = Path(place, name)
                found.append((path.lstat().st_ctime, path))
    return [path for changed, path in sorted(found) if changed < end]
