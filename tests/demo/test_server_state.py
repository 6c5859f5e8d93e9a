"""Room on the disk, clips that are put away, and which files of a client are read."""

import os
import time
import types

import pytest

from fgvc_hf.demo import server_state as module
from fgvc_hf.demo.jobs import Busy
from fgvc_hf.demo.server_state import ServerState


MEBIBYTE = 1 << 20


def seated(server_state, clip_file, count: int, ago: float = 0.0) -> list:
    """So many sessions with a clip, last used so many seconds ago."""
    workspaces = []
    for number in range(count):
        workspace = server_state.workspace(f"session {number}")
        server_state.place(workspace, server_state.clip_store.copy(clip_file, f"{number}.mp4"), [])
        workspace.used = time.monotonic() - ago + number / 1000
        workspaces.append(workspace)
    return workspaces


def test_clips_in_use_are_never_put_away_and_those_who_come_are_told(server_state, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLIPS", 5)
    workspaces = seated(server_state, clip_file, 5)
    with pytest.raises(
        Busy, match=r"^The page is full: its clips and results need all of the room. Please try again in a minute.$"
    ):
        server_state.make_room(0)
    assert all(workspace.clip.frame(0).shape == (72, 120, 3) for workspace in workspaces)


def test_of_clips_that_are_not_used_the_oldest_go_first_and_whose_page_is_closed(server_state, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLIPS", 4)
    monkeypatch.setattr(
        server_state.jobs, "of", lambda session, *kinds: ["a job"] * (session == "session 0" and not kinds)
    )
    workspaces = seated(server_state, clip_file, 4, ago=module.GRACE + 10)
    server_state.connected("session 1")
    for gone in (2, 3, 1):
        server_state.make_room(0)
        assert workspaces[gone].clip is None
        with pytest.raises(ValueError, match="This clip was put away, because it had not been used for a while"):
            server_state.workspace(f"session {gone}").the_clip()
        server_state.place(
            server_state.workspace(f"new {gone}"), server_state.clip_store.copy(clip_file, "new.mp4"), []
        )
    with pytest.raises(Busy):
        server_state.make_room(0)
    assert workspaces[0].clip.frame(5).shape == (72, 120, 3)  # it has a job


def test_a_session_of_an_hour_ago_is_swept_and_one_that_goes_on_is_not(server_state, clip_file):
    old, new = seated(server_state, clip_file, 2, ago=module.HOUR + 1)
    server_state.workspace(new.session)
    empty, fresh, kept = (server_state.cache / name for name in ("empty", "fresh", "kept"))
    for folder in (empty, fresh, kept):
        folder.mkdir()
    (kept / "clip.mp4").touch()
    for folder in (empty, kept):
        os.utime(folder, (0, 0))
    server_state.sweep()
    assert old.clip is None and new.clip.video.path.exists()
    assert sorted(server_state.cache.iterdir()) == [fresh, kept]


def test_uploads_and_results_together_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    server_state = ServerState(tmp_path / "small", max_bytes=4 * MEBIBYTE)
    with server_state.room_for_upload(3 * MEBIBYTE), pytest.raises(Busy, match="The page is full"):
        server_state.make_room(2 * MEBIBYTE)
    server_state.make_room(2 * MEBIBYTE)
    fixed = server_state.cache / "a" / "picture of the page.jpg"
    kept = server_state.cache / "b" / "just downloaded.mp4"
    old = server_state.cache / "c" / "old.mp4"
    for file in (fixed, kept, old):
        file.parent.mkdir()
        file.write_bytes(bytes(MEBIBYTE))
    server_state._fixed = {fixed}
    monkeypatch.setattr(module, "old_files", lambda folder, seconds: [fixed, old])
    server_state.make_room(2 * MEBIBYTE)
    assert not old.exists()
    with pytest.raises(Busy, match="The page is full"):
        server_state.make_room(3 * MEBIBYTE)
    assert fixed.exists() and kept.exists()
    server_state.close()
    assert not (tmp_path / "small").exists()


def test_old_files_are_those_that_were_not_written_for_so_long(tmp_path):
    (tmp_path / "new").write_text("1")
    assert module.old_files(tmp_path, 60) == []
    time.sleep(0.05)
    assert module.old_files(tmp_path, 0.01) == [tmp_path / "new"]


def test_links_count_once(server_state, clip_file):
    before = server_state.used_bytes()
    upload = server_state.cache / "a"
    upload.write_bytes(bytes(MEBIBYTE))
    held = [server_state.clip_store.hold(upload) for _ in range(10)]
    assert server_state.used_bytes() - before == MEBIBYTE
    upload.unlink()
    assert all(own.stat().st_size == MEBIBYTE for own in held)


def test_what_an_aborted_upload_leaves_goes_when_no_other_comes_in(server_state):
    with server_state.room_for_upload(10):
        with server_state.room_for_upload(10):
            rest = server_state.cache / "tmpabc"
            rest.write_bytes(b"half a cl")
        assert rest.exists()
    assert not rest.exists() and server_state._expected == 0


def test_a_full_disk_is_no_upload(server_state, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=MEBIBYTE))
    with pytest.raises(Busy, match="The page is full"):
        server_state.make_room(10)


def test_sessions_are_bounded_and_those_with_a_clip_stay(server_state, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_WORKSPACES", 10)
    (mine,) = seated(server_state, clip_file, 1)
    for number in range(100):
        server_state.workspace(f"passing {number}")
    assert len(server_state._workspaces) == 10 and server_state.workspace("session 0") is mine


def test_two_tabs_of_a_session_are_there_until_both_are_closed(server_state, monkeypatch):
    stopped, waiting = [], ["a job"]
    monkeypatch.setattr(server_state.jobs, "of", lambda session, *_: list(waiting))
    monkeypatch.setattr(server_state.jobs, "stop", lambda jobs, reason: stopped.append((jobs, reason)))
    server_state.connected("me")
    server_state.connected("me")
    assert server_state.disconnected("me") == []
    server_state.left("me", ["a job"])
    assert stopped == []
    unheard = server_state.disconnected("me")
    waiting.append("one that came later, for which nobody has listened yet")
    server_state.connected("me")
    server_state.left("me", unheard)
    assert stopped == []  # the connection broke, and came again
    server_state.disconnected("me")
    server_state.left("me", unheard)
    assert stopped == [(["a job"], "Cancelled: the page was closed.")]


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "clip.mp4",
        [],
        {},
        {"path": None},
        {"path": 5},
        {"path": ""},
        {"path": "\0"},
        {"path": "/etc/passwd"},
        {"path": "../../../etc/passwd"},
        {"path": "x" * 100_000},
        {"path": "http://127.0.0.1:1/clip.mp4"},
        {"path": "http://127.0.0.1:1/gradio_api/file=/etc/passwd"},
        {"path": "https://example.com/gradio_api/file="},
        {"path": "file:///etc/passwd"},
        {"url": "http://127.0.0.1:1/clip.mp4"},
        "CLIPS",
        "ABOVE",
        "LOOSE",
    ],
)
def test_only_uploads_are_read(server_state, clip_file, value):
    (server_state.cache / "tmpabc").write_text("an upload that is coming in")
    others = server_state.clip_store.copy(clip_file, "clip.mp4").video.path
    paths = {
        "CLIPS": str(others),
        "ABOVE": f"{server_state.cache}/a/../../clips/x",
        "LOOSE": str(server_state.cache / "tmpabc"),
    }
    value = {"path": paths[value]} if isinstance(value, str) and value in paths else value
    with pytest.raises(
        ValueError, match=r"^video must be a file that was uploaded to this server, at /gradio_api/upload;"
    ):
        server_state.uploaded("video", value)


def test_an_upload_is_known_by_its_path_and_by_its_address(server_state, upload_of):
    sent = upload_of(b"1", "a clip é.mp4")
    for path in (
        sent["path"],
        f"http://127.0.0.1:1/gradio_api/file={sent['path']}",
        f"https://h/gradio_api/file={sent['path'].replace(' ', '%20')}",
    ):
        assert str(server_state.uploaded("video", {"path": path})) == sent["path"]


@pytest.mark.parametrize("returns", range(1, 4))
def test_an_upload_that_was_refused_and_is_sent_again_meanwhile_is_still_one(
    server_state, upload_of, monkeypatch, returns
):
    """Gone for the first looks, there for the next: what is sent again comes to the same path."""
    sent = upload_of(b"1", "clip.mp4")
    looks, real = [], os.stat

    def gone_at_first(path, *args, **kwargs):
        if str(path) == sent["path"]:
            looks.append(path)
            if len(looks) <= returns:
                raise FileNotFoundError(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", gone_at_first)
    assert str(server_state.uploaded("video", sent)) == sent["path"]
    assert looks
