"""Room on the disk, clips that are put away, and which files of a client are read."""

import time
import types

import pytest

from fgvc_hf.demo import house as module
from fgvc_hf.demo.house import House
from fgvc_hf.demo.jobs import Busy


MEBIBYTE = 1 << 20


def seated(house, clip_file, count: int, ago: float = 0.0) -> list:
    """So many sessions with a clip, last used so many seconds ago."""
    desks = []
    for number in range(count):
        desk = house.desk(f"session {number}")
        house.place(desk, house.shelf.copy(clip_file, f"{number}.mp4"), [])
        desk.used = time.monotonic() - ago + number / 1000
        desks.append(desk)
    return desks


def test_clips_in_use_are_never_put_away_and_those_who_come_are_told(house, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLIPS", 5)
    desks = seated(house, clip_file, 5)
    with pytest.raises(
        Busy, match=r"^The page is full: its clips and results need all of the room. Please try again in a minute.$"
    ):
        house.make_room(0)
    assert all(desk.clip.frame(0).shape == (72, 120, 3) for desk in desks)


def test_of_clips_that_are_not_used_the_oldest_go_first_and_whose_page_is_closed(house, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLIPS", 4)
    monkeypatch.setattr(house.jobs, "of", lambda session, *kinds: ["a job"] * (session == "session 0" and not kinds))
    desks = seated(house, clip_file, 4, ago=module.GRACE + 10)
    house.connected("session 1")
    for gone in (2, 3, 1):
        house.make_room(0)
        assert desks[gone].clip is None
        with pytest.raises(ValueError, match="This clip was put away, because it had not been used for a while"):
            house.desk(f"session {gone}").the_clip()
        house.place(house.desk(f"new {gone}"), house.shelf.copy(clip_file, "new.mp4"), [])
    with pytest.raises(Busy):
        house.make_room(0)
    assert desks[0].clip.frame(5).shape == (72, 120, 3)  # it has a job


def test_a_session_of_an_hour_ago_is_swept_and_one_that_goes_on_is_not(house, clip_file):
    old, new = seated(house, clip_file, 2, ago=module.HOUR + 1)
    house.desk(new.session)
    house.sweep()
    assert old.clip is None and new.clip.video.path.exists()


def test_uploads_and_results_together_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    house = House(tmp_path / "small", max_bytes=4 * MEBIBYTE)
    with house.room_for_upload(3 * MEBIBYTE), pytest.raises(Busy, match="The page is full"):
        house.make_room(2 * MEBIBYTE)
    house.make_room(2 * MEBIBYTE)
    fixed = house.cache / "a" / "picture of the page.jpg"
    kept = house.cache / "b" / "just downloaded.mp4"
    old = house.cache / "c" / "old.mp4"
    for file in (fixed, kept, old):
        file.parent.mkdir()
        file.write_bytes(bytes(MEBIBYTE))
    house._fixed = {fixed}
    monkeypatch.setattr(module, "old_files", lambda folder, seconds: [fixed, old])
    house.make_room(2 * MEBIBYTE)
    assert not old.parent.exists()
    with pytest.raises(Busy, match="The page is full"):
        house.make_room(3 * MEBIBYTE)
    assert fixed.exists() and kept.exists()
    house.close()
    assert not (tmp_path / "small").exists()


def test_old_files_are_those_that_were_not_written_for_so_long(tmp_path):
    (tmp_path / "new").write_text("1")
    assert module.old_files(tmp_path, 60) == []
    time.sleep(0.05)
    assert module.old_files(tmp_path, 0.01) == [tmp_path / "new"]


def test_links_count_once(house, clip_file):
    before = house.used_bytes()
    upload = house.cache / "a"
    upload.write_bytes(bytes(MEBIBYTE))
    held = [house.shelf.hold(upload) for _ in range(10)]
    assert house.used_bytes() - before == MEBIBYTE
    upload.unlink()
    assert all(own.stat().st_size == MEBIBYTE for own in held)


def test_what_an_aborted_upload_leaves_goes_when_no_other_comes_in(house):
    with house.room_for_upload(10):
        with house.room_for_upload(10):
            rest = house.cache / "tmpabc"
            rest.write_bytes(b"half a cl")
        assert rest.exists()
    assert not rest.exists() and house._expected == 0


def test_a_full_disk_is_no_upload(house, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=MEBIBYTE))
    with pytest.raises(Busy, match="The page is full"):
        house.make_room(10)


def test_sessions_are_bounded_and_those_with_a_clip_stay(house, clip_file, monkeypatch):
    monkeypatch.setattr(module, "MAX_DESKS", 10)
    (mine,) = seated(house, clip_file, 1)
    for number in range(100):
        house.desk(f"passing {number}")
    assert len(house._desks) == 10 and house.desk("session 0") is mine


def test_two_tabs_of_a_session_are_there_until_both_are_closed(house, monkeypatch):
    stopped, waiting = [], ["a job"]
    monkeypatch.setattr(house.jobs, "of", lambda session, *_: list(waiting))
    monkeypatch.setattr(house.jobs, "stop", lambda jobs, reason: stopped.append((jobs, reason)))
    house.connected("me")
    house.connected("me")
    assert house.disconnected("me") == []
    house.left("me", ["a job"])
    assert stopped == []
    unheard = house.disconnected("me")
    waiting.append("one that came later, for which nobody has listened yet")
    house.connected("me")
    house.left("me", unheard)
    assert stopped == []  # the connection broke, and came again
    house.disconnected("me")
    house.left("me", unheard)
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
def test_only_uploads_are_read(house, clip_file, value):
    (house.cache / "tmpabc").write_text("an upload that is coming in")
    others = house.shelf.copy(clip_file, "clip.mp4").video.path
    paths = {"CLIPS": str(others), "ABOVE": f"{house.cache}/a/../../clips/x", "LOOSE": str(house.cache / "tmpabc")}
    value = {"path": paths[value]} if isinstance(value, str) and value in paths else value
    with pytest.raises(
        ValueError, match=r"^video must be a file that was uploaded to this server, at /gradio_api/upload;"
    ):
        house.uploaded("video", value)


def test_an_upload_is_known_by_its_path_and_by_its_address(house, upload_of):
    sent = upload_of(b"1", "a clip é.mp4")
    for path in (
        sent["path"],
        f"http://127.0.0.1:1/gradio_api/file={sent['path']}",
        f"https://h/gradio_api/file={sent['path'].replace(' ', '%20')}",
    ):
        assert str(house.uploaded("video", {"path": path})) == sent["path"]
