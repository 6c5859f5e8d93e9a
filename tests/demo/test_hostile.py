"""A running server, and what strangers may send it without the page: raw calls, crafted files, and many at once."""

import concurrent.futures
import math
import time

import httpx
import pytest
from demo_visitors import SECRETS, Visitor, error_of

from fgvc_hf import open_video


pytestmark = pytest.mark.slow


MEBIBYTE = 1 << 20
NAN, INFINITE = math.nan, math.inf


@pytest.fixture(scope="module")
def visitor(server, clip_file):
    """A session with a clip and a point."""
    visitor = Visitor(server)
    assert visitor.take(clip_file.read_bytes())["success"] and visitor.click([100, 100])["success"]
    return visitor


def file_data(path) -> dict:
    return {"path": path, "orig_name": "clip.mp4", "meta": {"_type": "gradio.FileData"}}


STROKE = '[[1, "brush", 3, [20, 20, 40, 30]]]'
FILES = [  # in the place of an upload
    None,
    5,
    "/etc/passwd",
    {},
    [],
    {"path": None},
    file_data("/etc/passwd"),
    file_data("../../../../etc/passwd"),
    file_data("file:///etc/passwd"),
    file_data("/proc/self/environ"),
    file_data("http://127.0.0.1:1/clip.mp4"),
    file_data("http://169.254.169.254/latest/meta-data"),
    file_data("\0"),
    file_data("x" * 10_000),
    {"path": "", "url": "http://127.0.0.1:1/clip.mp4", "meta": {"_type": "gradio.FileData"}},
]
CALLS = [
    *(("upload", [file], None) for file in FILES),
    ("upload", [], None),
    ("upload", {"path": "/etc/passwd"}, None),
    *(("show_frame", [t], None) for t in (None, "0", NAN, INFINITE, -1, 6, 10**30, {}, [[]])),
    *(("add_point", [0, ""], {"index": i, "value": None}) for i in (None, "a", [1], [NAN, 1], [-5, 3], [1e300, 0])),
    ("add_point", [0, ""], None),
    ("add_point", [0, ""], "no dictionary"),
    ("add_point", [0, "x" * 10**6], {"index": [1, 1]}),
    ("add_grid", [0, 10**9], None),
    ("add_grid", [0, -1], None),
    *(("track_1", [preset, "forward"], None) for preset in ("best", None, 5, "../fast", ["fast"])),
    ("track_1", ["fast", "sideways"], None),
    ("track_1", [], None),
    *(("follow", [0, p, "fast", "forward"], None) for p in ("", "{", "[" * 10**5, '[[1,"brush",1e9,[1,2]]]', 5)),
    ("follow", [99, STROKE, "fast", "forward"], None),
    ("flow_1", [0, 10**9, "fast"], None),
    ("match", [0, 1, "fast"], {"index": [1e9, 1]}),
    ("example", [], {"index": 99, "value": None}),
    ("example", [], {"index": "../../etc/passwd", "value": None}),
]


def test_there_are_forty_of_them():
    assert len(CALLS) >= 40


@pytest.mark.parametrize("number", range(len(CALLS)), ids=lambda number: f"{CALLS[number][0]}-{number}")
def test_a_malformed_call_is_refused_and_the_session_goes_on(visitor, number):
    error_of(visitor.call(*CALLS[number]))
    assert visitor.call("show_frame", [1])["success"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../etc/passwd", "pyproject.toml", "fgvc_hf/cli/main.py", "http://127.0.0.1:1/"]
)
def test_nothing_is_read_out(visitor, path):
    for route in ("/file=", "/file/", "/stream/"):
        answer = visitor.http.get(f"{route}{path}", follow_redirects=False)
        assert answer.status_code >= 400 and not any(secret in answer.text for secret in SECRETS)


def test_clips_of_others_are_not_read_out(visitor):
    clips = list(visitor.server.folder.glob("*/clips/*/clip.mp4"))
    assert clips
    for clip in clips:
        assert visitor.http.get(f"/file={clip}").status_code >= 400
        error_of(Visitor(visitor.server).call("upload", [file_data(str(clip))]))


def test_a_refused_upload_leaves_no_file_and_says_why(server):
    before = settled_files_of(server)
    answer = Visitor(server).take(b"PK\x03\x04 a zip, in truth")
    assert error_of(answer).startswith("clip.mp4: is no video that can be read")
    assert settled_files_of(server) == before


def test_an_upload_beyond_the_limit_is_cut_short(server):
    before, memory = settled_files_of(server), server.memory
    content = bytes(60 * MEBIBYTE)
    answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("huge.mp4", content)}, timeout=120)
    assert answer.status_code == 413
    assert settled_files_of(server) == before and server.memory < memory + 100 * MEBIBYTE


def files_of(server) -> set:
    return {path for path in server.folder.rglob("*") if path.is_file()}


def settled_files_of(server) -> set:
    """The files once they have been the same for a second, and none is being written: visitors of the tests before may still be served."""
    found, since = files_of(server), time.monotonic()
    deadline = since + 60
    while time.monotonic() < min(since + 1, deadline):
        time.sleep(0.1)
        if (now := files_of(server)) != found or any(path.name.startswith(".") for path in now):
            found, since = now, time.monotonic()
    return found


def test_twenty_users_at_once_are_served_or_told_and_memory_is_bounded(server, tmp_path, write_clip, clip_file):
    clip = write_clip(tmp_path / "short.mp4", list(open_video(clip_file).frames(0, 2))).read_bytes()
    memory = server.memory

    def visit(number: int) -> list[dict]:
        user = Visitor(server)
        content = clip if number % 2 else b"no video " + bytes([number])
        answers = [user.take(content), user.click([50, 50]), user.call("track_1", ["fast", "forward"])]
        user.http.close()
        return answers

    with concurrent.futures.ThreadPoolExecutor(20) as users:
        visits = list(users.map(visit, range(20)))
    for number, answers in enumerate(visits):
        if number % 2:
            assert all(answer["success"] for answer in answers), answers
        else:
            assert not any(answer["success"] for answer in answers)
    assert server.memory < memory + 1024 * MEBIBYTE  # the model came in, and the work of one user at a time


def test_after_all_that_the_next_user_is_served(server, clip_file):
    user = Visitor(server)
    assert user.take(clip_file.read_bytes())["success"]
    assert user.click([60, 60])["success"]
    answer = user.call("track_1", ["fast", "both"])
    assert answer["success"]
    video = answer["output"]["data"][0]
    path = (video.get("video") or video)["path"]
    content = user.http.get(f"/file={path}").content
    assert content[4:8] == b"ftyp" and len(content) > 1000
