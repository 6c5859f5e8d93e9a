"""Many users at once, greedy ones, and those who leave."""

import concurrent.futures
import contextlib
import threading
import time

import httpx
import numpy as np
import pytest
from demo_visitors import Visitor, error_of

from fgvc_hf import open_video


pytestmark = pytest.mark.slow
MEBIBYTE = 1 << 20
USERS, VISITS = 20, 2
TRUE = (  # what those may be told who are not served
    "The page is full",
    "You have 2 calls running or waiting already",
    "Cancelled: the page was closed.",
)


@pytest.fixture(scope="module")
def short(tmp_path_factory, write_clip, clip_file):
    """Content of a clip of two frames."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    return write_clip(path, list(open_video(clip_file).frames(0, 2))).read_bytes()


def disk(server) -> int:
    return sum(path.stat().st_size for path in server.folder.rglob("*") if path.is_file())


def tracked(user, answer) -> np.ndarray:
    """The points (N, 3) that an answer is about."""
    assert answer["success"], answer
    file = answer["output"]["data"][4]  # JSON, after video, timeline, code and CSV
    path = (file.get("value") or file)["path"]
    return np.array(user.http.get(f"/file={path}").json()["queries"])


def test_twenty_users_come_again_and_again_and_each_gets_what_is_theirs(server, short):
    Visitor(server).take(short)
    memory, before, began = server.memory, disk(server), time.monotonic()

    def visit(number: int) -> str:
        user = Visitor(server)
        place = [100 + 20 * (number % 20), 60 + 6 * (number // 20)]  # in a picture that is 6 times as large
        for answer in (user.take(short), user.click(place), user.track()):
            if not answer["success"]:
                assert error_of(answer).startswith(TRUE), answer
                return "refused"
        found = tracked(user, answer)
        user.http.close()
        right = found.shape == (1, 3) and np.allclose(found[0], [0, place[0] / 6, place[1] / 6], atol=0.01)
        return "right" if right else f"wrong: {found}"

    with concurrent.futures.ThreadPoolExecutor(USERS) as users:
        ends = list(users.map(visit, range(USERS * VISITS)))
    print(f"{len(ends)} visits in {time.monotonic() - began:.0f} s; memory +{(server.memory - memory) >> 20} MiB")
    assert ends.count("right") >= 0.99 * (len(ends) - ends.count("refused")), ends
    assert ends.count("refused") == 0  # there is room for all of these
    assert server.memory < memory + 1024 * MEBIBYTE and disk(server) < before + 100 * MEBIBYTE


def test_a_greedy_session_is_refused_and_others_are_served(server, short, clip_file):
    greedy = Visitor(server)
    assert greedy.take(clip_file.read_bytes())["success"] and greedy.click([100, 100])["success"]
    joined = [greedy.join("track_1", ["fast", "both"]) for _ in range(60)]
    assert all(one.status_code == 200 for one in joined)
    looked = [greedy.join("show_frame", [0]) for _ in range(60)]
    other = Visitor(server)
    assert other.take(short)["success"] and other.click([50, 50])["success"] and other.track()["success"]
    ends = greedy.news(len(joined) + len(looked))
    refused = [error_of(end) for end in ends if not end["success"]]
    assert {text.split(";")[0] for text in refused} <= {
        "You have 2 calls running or waiting already",
        "You have 16 calls running or waiting already",
    }
    assert len(refused) >= 58 and greedy.track()["success"]  # and later it is served again


def test_cancel_stops_only_the_jobs_of_its_session(server, clip_file):
    users = [Visitor(server) for _ in range(3)]
    for user in users:
        assert user.take(clip_file.read_bytes())["success"] and user.click([100, 100])["success"]
    last = users[-1]
    for user in [*users[:-1], *users]:
        assert user.join("track_1", ["fast", "both"]).status_code == 200
    assert last.join("cancel", []).status_code == 200
    answers = last.news(2)
    assert all(answer["success"] for answer in answers) and last.said == "Cancelled."
    for user in users[:-1]:
        assert [len(tracked(user, answer)) for answer in user.news(2)] == [1, 1] and not hasattr(user, "said")
    assert len(tracked(last, last.track())) == 1


def test_jobs_of_those_who_left_are_dropped(server, clip_file):
    """Their page is closed while their jobs run and wait; the next user does not wait for them."""
    gone = [Visitor(server) for _ in range(12)]
    for user in gone:
        assert user.take(clip_file.read_bytes())["success"] and user.click([100, 100])["success"]
    stay = Visitor(server)
    assert stay.take(clip_file.read_bytes())["success"] and stay.click([100, 100])["success"]
    for user in gone:
        for _ in range(2):
            user.join("track_1", ["fast", "both"])
    for user in gone:  # as the page does: it listens, and is closed
        with user.http.stream("GET", f"/heartbeat/{user.session}") as lines:
            next(lines.iter_lines())
    began = time.monotonic()
    assert stay.track()["success"]
    alone = time.monotonic()
    assert stay.track()["success"]
    assert alone - began < 6 * (time.monotonic() - alone) + 3  # one running job may end first, not 24
    assert gone[0].track()["success"]  # the clip is still there for one who comes back


def test_one_who_listens_late_is_answered(server, clip_file):
    """Nobody listens for the session when the call comes, nor seconds later."""
    user = Visitor(server)
    assert user.take(clip_file.read_bytes())["success"] and user.click([100, 100])["success"]
    user.join("track_1", ["fast", "both"])
    time.sleep(5)
    (answer,) = user.news()
    assert len(tracked(user, answer)) == 1 and not hasattr(user, "said")


def test_a_new_clip_ends_the_job_on_the_one_before(server, clip_file, short):
    busy, user = Visitor(server), Visitor(server)
    for one in (busy, user):
        assert one.take(clip_file.read_bytes())["success"] and one.click([100, 100])["success"]
    busy.join("track_1", ["fast", "both"])
    user.join("track_1", ["fast", "both"])
    user.join("upload", [user.upload(short)])
    ends = user.news(2)
    assert all(end["success"] for end in ends)
    assert (
        getattr(user, "said", "Cancelled: another clip took its place.") == "Cancelled: another clip took its place."
    )
    assert user.click([10, 10])["success"] and len(tracked(user, user.track())) == 1
    assert busy.news()[0]["success"]


def test_the_same_clip_of_many_good_or_bad(server, short):
    def visit(number: int) -> str:
        user = Visitor(server)
        answer = user.take(short if number % 2 else b"the same bad file", "same.mp4")
        return "" if answer["success"] else error_of(answer)

    with concurrent.futures.ThreadPoolExecutor(16) as users:
        said = list(users.map(visit, range(32)))
    assert set(said[1::2]) == {""} and len(set(said[::2])) == 1
    assert said[0].startswith("same.mp4: is no video that can be read")


@pytest.mark.parametrize(
    "name", ["../../../x.mp4", "动画 ü🎯.mp4", "x" * 1000 + ".mp4", "a\r\nb.mp4", "-i", "<b>.mp4", "%2e%2e%2f.mp4"]
)
def test_names_of_uploads_are_no_paths(server, short, name):
    user = Visitor(server)
    answer = user.take(short, name)
    assert answer["success"], answer
    assert not [path for path in server.folder.rglob("*.mp4") if len(path.relative_to(server.folder).parts) < 3]


def test_requests_beyond_what_is_accepted_are_refused_and_leave_nothing(server):
    """Many files in one request, other bodies than uploads, and uploads that are cut off."""
    files = [("files", (f"{i}.mp4", bytes(30 * MEBIBYTE))) for i in range(2)]
    many = httpx.post(f"{server.url}/gradio_api/upload", files=files, timeout=120)
    assert many.status_code == 413 and "larger than the 51 MB" in many.text
    body = httpx.post(f"{server.url}/gradio_api/queue/join", content=bytes(9 * MEBIBYTE), timeout=120)
    assert body.status_code == 413

    def endless():
        for _ in range(60):
            yield bytes(MEBIBYTE)

    without_length = httpx.post(
        f"{server.url}/gradio_api/upload",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=120,
    )
    assert without_length.status_code in (400, 413)
    assert httpx.post(f"{server.url}/gradio_api/process_recording", files={"file": b"1"}).status_code == 404

    def broken():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(MEBIBYTE)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        httpx.post(
            f"{server.url}/gradio_api/upload",
            content=broken(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    deadline = time.monotonic() + 10
    while (rest := [p for p in server.folder.glob("*/gradio/*") if p.is_file()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rest == []


def test_sessions_that_never_end_do_not_keep_others_out(server, short):
    with contextlib.ExitStack() as open_pages:
        for _ in range(40):
            user = Visitor(server)
            open_pages.enter_context(user.http.stream("GET", f"/heartbeat/{user.session}"))
        other = Visitor(server)
        assert other.take(short)["success"] and other.click([50, 50])["success"] and other.track()["success"]


def test_examples_are_there_for_many_at_once(server):
    done = []

    def visit(number: int) -> None:
        answer = Visitor(server).call("example", [], {"index": 1, "value": None})
        done.append(answer["success"])

    users = [threading.Thread(target=visit, args=[number]) for number in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert done == [True] * 4
