"""The endpoints for programs, called as programs call them: by gradio_client, by an MCP client, and over plain HTTP."""

import asyncio
import base64
import concurrent.futures
import json
import os
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from fgvc_hf import open_video


gradio_client = pytest.importorskip("gradio_client", reason="the extra demo is not installed")
mcp = pytest.importorskip("mcp", reason="the extra demo is not installed")
sse_client = pytest.importorskip("mcp.client.sse", reason="the extra demo is not installed").sse_client
streamablehttp_client = pytest.importorskip(
    "mcp.client.streamable_http", reason="the extra demo is not installed"
).streamablehttp_client


pytestmark = pytest.mark.slow
POINTS = [[0, 60.5, 40.5], [2, 30, 20.5]]


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.url, verbose=False, download_files=True)


@pytest.fixture(scope="module")
def clip(clip_file):
    return gradio_client.handle_file(str(clip_file))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Files of masks for a clip of 120×72 pixels, good and bad."""
    folder = tmp_path_factory.mktemp("masks")
    ids = np.zeros((72, 120), np.uint8)
    ids[20:40, 20:50], ids[50:60, 70:100] = 1, 3
    pictures = {
        "good": ids,
        "empty": ids * 0,
        "small": ids[::2, ::2],
        "crowded": np.arange(72 * 120).reshape(72, 120) % 9,
    }
    for name, picture in pictures.items():
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(ids).save(folder / "lossy.jpg")
    (folder / "text.png").write_text("no image")
    return folder


def left_files(server) -> list:
    """Clips that are still held, but for the examples."""
    return [path for path in server.folder.glob("*/clips/*") if path.is_dir()]


def test_only_three_endpoints_are_public_and_their_schemas_are_clear(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/track", "/propagate", "/flow"}
    parameters = {p["parameter_name"]: p for p in named["/track"]["parameters"]}
    assert list(parameters) == ["video", "points", "preset", "direction"]
    assert parameters["points"]["type"]["items"] == {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 3,
        "maxItems": 3,
    }
    assert parameters["preset"]["type"]["enum"] == ["fast", "balanced", "accurate"]
    assert not parameters["video"]["parameter_has_default"] and parameters["preset"]["parameter_has_default"]


def test_pages_and_clients_hold_a_connection_by_which_it_is_known_that_they_are_there(server):
    assert httpx.get(f"{server.url}/config").json()["connect_heartbeat"] is True


def test_points_are_tracked_and_nothing_is_kept(client, clip, server):
    before = left_files(server)
    tracks, video = client.predict(clip, POINTS, "fast", "both", api_name="/track")
    places = np.array(tracks["tracks"], float)
    assert places.shape == (2, 6, 2) and np.abs(places[0, 0] - POINTS[0][1:]).max() < 1
    assert tracks["queries"] == [[float(n) for n in point] for point in POINTS] and tracks["size"] == [72, 120]
    assert np.shape(tracks["visible"]) == np.shape(tracks["confidence"]) == (2, 6)
    overlay = open_video(video)
    assert (overlay.num_frames, overlay.height, overlay.width) == (6, 72, 120)
    again, _ = client.predict(clip, json.dumps(POINTS), preset="fast", direction="both", api_name="/track")
    assert again == tracks and left_files(server) == before


def test_masks_are_propagated(client, clip, masks):
    mask = gradio_client.handle_file(str(masks / "good.png"))
    said, archive, video = client.predict(clip, mask, 2, "fast", "both", api_name="/propagate")
    assert said["objects"] == [1, 3] and np.shape(said["areas"]) == (2, 6)
    assert open_video(video).num_frames == 6
    with zipfile.ZipFile(archive) as files:
        assert len(files.namelist()) == 6
        with files.open("00002.png") as file:
            assert (np.asarray(Image.open(file)) == np.asarray(Image.open(masks / "good.png"))).mean() > 0.98


def test_flow_is_a_picture_and_arrays(client, clip):
    picture, arrays = client.predict(clip, 0, 3, "fast", api_name="/flow")
    assert Image.open(picture).size == (120, 72)
    with np.load(arrays) as found:
        assert found["flow"].shape == (72, 120, 2) and found["occluded"].shape == (72, 120)


def of_masks(name):
    return lambda masks: gradio_client.handle_file(str(masks / name))


BAD = [
    *(("/track", {"points": points}, "points must be a list of 1 to 64") for points in ([], None, {}, "][", "{}", 5)),
    ("/track", {"points": [[0, 1, 1]] * 65}, "points must be a list of 1 to 64"),
    *(
        ("/track", {"points": [point]}, "A point must be three numbers")
        for point in ([0, 1], 5, [0, "1", 2], [0, 1, None])
    ),
    ("/track", {"points": [[True, 1, 1]]}, "A point must be three numbers"),
    *(("/track", {"points": [[0, x, 1]]}, "inside of the frame of 120×72 pixels") for x in (-1, 121, 1e9)),
    *(
        ("/track", {"points": [[t, 1, 1]]}, "The frame of a point must be a whole number from 0 to 5")
        for t in (6, -1, 0.5)
    ),
    (
        "/track",
        {"points": POINTS, "preset": "best"},
        "The preset must be one of fast, balanced, accurate, got 'best'.",
    ),
    ("/track", {"points": POINTS, "direction": "up"}, "The direction must be one of"),
    *(
        ("/track", {"points": POINTS, "video": video}, "uploaded to this server")
        for video in (None, 5, [], "/etc/passwd", {"path": "/etc/passwd"}, {"path": "http://127.0.0.1:1/a.mp4"})
    ),
    ("/track", {"points": POINTS, "video": of_masks("text.png")}, "text.png: is no video that can be read"),
    ("/propagate", {"mask": None}, "mask must be a file that was uploaded"),
    ("/propagate", {"mask": of_masks("small.png")}, "is 60×36 pixels, but the clip is 120×72"),
    ("/propagate", {"mask": of_masks("empty.png")}, "must hold 1 to 5 objects"),
    ("/propagate", {"mask": of_masks("crowded.png")}, "must hold 1 to 5 objects"),
    ("/propagate", {"mask": of_masks("lossy.jpg")}, "a mask must be a PNG file"),
    ("/propagate", {"mask": of_masks("text.png")}, "text.png: is no image that can be read"),
    ("/propagate", {"mask": of_masks("good.png"), "frame": 6}, "frame must be a whole number from 0 to 5"),
    ("/flow", {"to_frame": 99}, "to_frame must be a whole number from 0 to 5"),
    ("/flow", {"frame": 0.5}, "frame must be a whole number from 0 to 5"),
    ("/flow", {"preset": ["fast"]}, "The preset must be one of"),
]


@pytest.mark.parametrize("number", range(len(BAD)), ids=lambda number: f"{BAD[number][0]} {number}")
def test_what_makes_no_sense_is_one_sentence(client, clip, masks, server, number):
    name, keywords, message = BAD[number]
    keywords = {key: value(masks) if callable(value) else value for key, value in keywords.items()}
    with pytest.raises(Exception, match=message) as refused:
        client.predict(**{"video": clip, "preset": "fast"} | keywords, api_name=name)
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said and str(server.folder) not in said and "Traceback" not in said


def test_a_client_has_a_share_and_another_is_served(client, server, clip):
    greedy = [client.submit(clip, POINTS, "fast", "both", api_name="/track") for _ in range(8)]
    other = gradio_client.Client(server.url, verbose=False)
    tracks, _ = other.predict(clip, POINTS, "fast", api_name="/track")
    assert len(tracks["tracks"]) == 2
    ends = [job.exception(timeout=120) for job in greedy]
    assert all(end is None or "You have 2 calls running or waiting already" in str(end) for end in ends)
    assert 2 <= ends.count(None) < 8


def test_a_client_without_a_session_is_served(server, clip_file):
    """As `curl` is."""
    with httpx.Client(base_url=f"{server.url}/gradio_api", timeout=120) as http:
        (path,) = http.post("/upload", files={"files": ("clip.mp4", clip_file.read_bytes())}).json()
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, POINTS, "fast", "forward"]
        event = http.post("/call/track", json={"data": data}).json()["event_id"]
        answer = http.get(f"/call/track/{event}").text
    assert answer.count("event: complete") == 1 and '"tracks"' in answer


# ---- MCP ----------------------------------------------------------------------------------------------------------


def with_tools(server, scene, transport="http"):
    """What an asynchronous scene returns that is played with an MCP session."""

    async def whole():
        address = f"{server.url}/gradio_api/mcp/"
        opened = streamablehttp_client(address) if transport == "http" else sse_client(f"{address}sse")
        async with opened as (read, write, *_), mcp.ClientSession(read, write) as session:
            await session.initialize()
            return await scene(session)

    return asyncio.run(asyncio.wait_for(whole(), 120))


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_mcp_clients_find_three_tools_that_are_described(server, transport):
    tools = {tool.name: tool for tool in with_tools(server, lambda s: s.list_tools(), transport).tools}
    assert set(tools) == {"track", "propagate", "flow"}
    assert tools["track"].description.startswith("Follow points through a video clip")
    for tool in tools.values():
        properties = tool.inputSchema["properties"]
        assert all(len(described.get("description", "")) > 20 for described in properties.values()), properties
        assert "video" in tool.inputSchema["required"] and properties["preset"]["enum"]
    assert tools["track"].inputSchema["properties"]["points"]["type"] == "array"


def test_mcp_clients_get_tracks_as_json_and_files_as_addresses(server, clip_file, masks):
    def uri(path, kind):
        return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()

    content = clip_file.read_bytes()
    (path,) = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("clip.mp4", content)}).json()
    clip = uri(clip_file, "video/mp4")

    async def scene(session):
        mask = uri(masks / "good.png", "image/png")
        return (
            await session.call_tool("track", {"video": clip, "points": POINTS, "preset": "fast"}),
            await session.call_tool("propagate", {"video": clip, "mask": mask, "preset": "fast"}),
            await session.call_tool("flow", {"video": f"{server.url}/gradio_api/file={path}", "preset": "fast"}),
            await session.call_tool("track", {"video": clip, "points": [[99, 1, 1]]}),
            await session.call_tool("track", {"video": "http://127.0.0.1:1/clip.mp4", "points": POINTS}),
        )

    tracked, propagated, flow, late, elsewhere = with_tools(server, scene)
    tracks = json.loads(tracked.content[0].text)
    assert (
        np.shape(tracks["visible"]) == (2, 6) and np.abs(np.subtract(tracks["tracks"][0][0], POINTS[0][1:])).max() < 1
    )
    assert httpx.get(tracked.content[1].text).content[4:8] == b"ftyp"
    assert json.loads(propagated.content[0].text)["objects"] == [1, 3]
    assert httpx.get(propagated.content[1].text).content[:2] == b"PK"
    assert flow.content[0].type == "image" and httpx.get(flow.content[-1].text).content[:2] == b"PK"
    assert late.isError and "The frame of a point must be a whole number from 0 to 5" in late.content[0].text
    assert elsewhere.isError and "must be a file that was uploaded to this server" in elsewhere.content[0].text


def test_many_clients_at_once_each_get_their_own(server, clip):
    def visit(x: int) -> float:
        tracks, _ = gradio_client.Client(server.url, verbose=False).predict(
            clip, [[0, x, 40]], "fast", api_name="/track"
        )
        return tracks["queries"][0][1]

    with concurrent.futures.ThreadPoolExecutor(8) as users:
        assert list(users.map(visit, range(20, 28))) == list(range(20, 28))


# ---- afterwards ---------------------------------------------------------------------------------------------------


def test_a_server_that_nobody_uses_rests(server):
    """It takes less than a twentieth of a core, in some second: the examples may still be prepared before."""

    def seconds() -> float:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    for _ in range(60):
        before = seconds()
        time.sleep(1)
        if seconds() - before < 0.05:
            return
    raise AssertionError("it is always busy")
