"""The page, driven in a headless Chromium as a user would, at the width of a desktop and of a phone.

`FGVC_SCREENSHOTS=FOLDER` keeps a picture of every state, to be looked at.
"""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fgvc_hf import open_video
from fgvc_hf.data.synthetic import translating_texture
from fgvc_hf.demo.examples import EXAMPLES


sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("FGVC_REQUIRE_BROWSER_TESTS"),
        reason="there is no Chromium; apt-get install chromium, or set FGVC_REQUIRE_BROWSER_TESTS=1 to fail instead",
    ),
]

FRAMES, HEIGHT, WIDTH, FPS, VELOCITY = 12, 96, 160, 12, (1.5, 0.5)
CLICKS = [(40, 30), (100, 20), (70, 61)]
PATIENCE = 300_000  # milliseconds
PLAY = """async () => {
  const film = document.querySelector('#tracked video');
  film.muted = true; film.loop = false; film.currentTime = 0;
  await film.play();
  await new Promise(done => { film.onended = done; });
  return [film.duration, film.videoWidth, film.videoHeight];
}"""
# Goes to the middle of each frame's time, and counts the different frames that are shown
COUNT_FRAMES = """async fps => {
  const film = document.querySelector('#tracked video'), seen = new Set();
  film.pause();
  for (let time = 0.5 / fps; time < film.duration; time += 1 / fps) {
    const shown = new Promise(done => film.requestVideoFrameCallback((now, frame) => done(frame.mediaTime)));
    film.currentTime = time;
    await new Promise(done => { film.onseeked = done; });
    const late = new Promise(done => setTimeout(done, 1000));  // no callback where the frame is the same as before
    const when = await Promise.race([shown, late]);
    if (when !== undefined) seen.add(when.toFixed(3));
  }
  return seen.size;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def moving_clip(tmp_path_factory, write_clip):
    """A texture that moves as is known exactly."""
    frames = translating_texture(FRAMES, HEIGHT, WIDTH, VELOCITY, seed=1).frames
    return write_clip(tmp_path_factory.mktemp("moving") / "moving.mp4", frames, FPS)


@pytest.fixture(params=[(1280, 1000), (390, 844)], ids=["desktop", "phone"])
def page(browser, server, request):
    """The page, open; in the end nothing went wrong in it, and it has asked no other host for anything."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    opened, asked, wrong = context.new_page(), [], []
    opened.set_default_timeout(PATIENCE)
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.wait_for_selector("#points-picture")
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == [] and len(asked) > 5
    assert wrong == []


def keep(page, name: str) -> None:
    folder = os.environ.get("FGVC_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{page.viewport_size['width']}-{name}.png", full_page=True)


def click_pixel(page, selector: str, column: int, row: int) -> None:
    """Click the middle of a pixel of the clip in a picture that is shown at another size."""
    picture = page.locator(f"{selector} img")
    picture.scroll_into_view_if_needed()
    natural = picture.evaluate("p => [p.naturalWidth, p.naturalHeight]")
    assert natural[0] % WIDTH == natural[1] % HEIGHT == 0
    box = picture.bounding_box()
    picture.click(position={"x": (column + 0.5) * box["width"] / WIDTH, "y": (row + 0.5) * box["height"] / HEIGHT})


def open_tab(page, name: str) -> None:
    """A tab, which is in a menu where the page is narrow."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def upload(page, path) -> None:
    page.locator("#upload input[type=file]").set_input_files(str(path))
    page.get_by_text(f"{FRAMES} frames of {WIDTH}×{HEIGHT} pixels").wait_for()


def paint_and_follow(page) -> None:
    open_tab(page, "Masks")
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    keep(page, "3-painted")
    page.locator("#follow").click()
    page.wait_for_selector("#masked video")
    assert page.locator("#masked-timeline .row svg").count() == 1
    with page.expect_download() as waiting:
        page.get_by_role("button", name="↓ Video").and_(page.locator(":visible")).click()
    assert open_video(waiting.value.path()).num_frames == FRAMES
    keep(page, "4-masks")


def match_a_pixel(page) -> None:
    open_tab(page, "Matching")
    page.wait_for_selector("#match-to img")
    before = page.locator("#match-to img").get_attribute("src")
    click_pixel(page, "#match-from", 40, 30)
    page.wait_for_function("before => document.querySelector('#match-to img').src !== before", arg=before)
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", page.inner_text("#matched"))]
    assert numbers[0] == pytest.approx(40.5, abs=1) and numbers[1] == pytest.approx(30.5, abs=1)
    assert numbers[2] == pytest.approx(40.5 + VELOCITY[0] * (FRAMES - 1), abs=4)
    keep(page, "5-matching")


def test_a_user_follows_points_and_objects_and_matches_pixels(page, moving_clip):
    assert "Clips of up to 300 frames" in page.inner_text("body")
    keep(page, "0-empty")
    upload(page, moving_clip)

    for number, (column, row) in enumerate(CLICKS, 1):
        click_pixel(page, "#points-picture", column, row)
        page.locator(f"#legend li >> nth={number - 1}").wait_for()
    said = re.findall(r"frame 0 · ([\d.]+), ([\d.]+)", page.inner_text("#legend"))
    for (column, row), (x, y) in zip(CLICKS, said, strict=True):
        assert abs(float(x) - 0.5 - column) < 0.6 and abs(float(y) - 0.5 - row) < 0.6
    keep(page, "1-points")

    page.get_by_role("radio", name="fast").check()
    page.locator("#track").click()
    page.wait_for_selector("#tracked video")
    page.wait_for_function("document.querySelector('#tracked video').readyState >= 2")
    duration, width, height = page.evaluate(PLAY)
    assert duration == pytest.approx(FRAMES / FPS, abs=0.05) and (width, height) == (WIDTH, HEIGHT)
    assert page.evaluate(COUNT_FRAMES, FPS) == FRAMES
    assert page.locator("#tracked-timeline .row svg").count() == len(CLICKS)
    assert page.locator("#tracked-timeline .row svg").first.is_visible()
    page.locator("#tracked-timeline svg").first.click(position={"x": 2, "y": 5})
    page.wait_for_function("document.querySelector('#tracked video').currentTime < 0.1")
    keep(page, "2-tracked")

    with page.expect_download() as waiting:
        page.get_by_role("button", name="↓ CSV").click()
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        last = [row for row in csv.DictReader(file) if int(row["t"]) == FRAMES - 1]
    for (x, y), row in zip(said, last, strict=True):
        for start, speed, end in zip((x, y), VELOCITY, (row["x"], row["y"]), strict=True):
            assert float(end) == pytest.approx(float(start) + speed * (FRAMES - 1), abs=2)

    paint_and_follow(page)
    match_a_pixel(page)
    open_tab(page, "Dense flow")
    page.locator("#compute").click()
    page.wait_for_selector("#flow-picture img")
    keep(page, "6-flow")
    open_tab(page, "How it works")
    keep(page, "7-how")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_an_example_comes_with_its_tracks_and_an_error_is_a_sentence(page, tmp_path):
    page.locator("#examples img").first.click()
    page.wait_for_selector("#tracked video")
    points = len(EXAMPLES[0].points)
    assert page.locator("#tracked-timeline .row svg").count() == page.locator("#legend li").count() == points
    keep(page, "8-example")
    (tmp_path / "holiday.mp4").write_text("no video")
    page.locator("#upload input[type=file]").set_input_files(str(tmp_path / "holiday.mp4"))
    page.get_by_text("holiday.mp4: is no video that can be read").wait_for()
    keep(page, "9-error")
    assert page.locator("#legend li").count() == points  # what was there before is still there


def wait_for_file(page, part: str, called: str) -> None:
    """Download the file for another tool of the format that was chosen."""
    page.locator(part).get_by_role("button", name=f"↓ {called}").wait_for(timeout=60_000)
    with page.expect_download() as waiting:
        page.locator(part).get_by_role("button", name=f"↓ {called}").click()
    assert waiting.value.suggested_filename == called


def test_files_for_other_tools_are_chosen_by_keys_and_by_the_mouse_and_points_are_found_by_a_picture(
    page, moving_clip, tmp_path
):
    page.locator("#examples img").first.click()
    page.wait_for_selector("#tracked video")
    page.locator("#other-tools button").first.click()
    first = page.locator("#other-tools input[type=radio]").first
    first.focus()
    page.keyboard.press("Space")
    wait_for_file(page, "#other-tools", "tracks_dlc.csv")
    first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_for_file(page, "#other-tools", "tracks_dlc.h5")
    page.locator("#other-tools").get_by_role("radio", name="Nuke (*.nk)").check()
    wait_for_file(page, "#other-tools", "tracks_nuke.nk")
    keep(page, "10-tools")
    page.locator("#upload input[type=file]").set_input_files(str(moving_clip))
    page.get_by_text(f"{FRAMES} frames of {WIDTH}×{HEIGHT} pixels").wait_for()
    Image.fromarray(next(iter(open_video(moving_clip).frames()))).save(tmp_path / "look.png")
    open_tab(page, "From a picture")
    with page.expect_file_chooser() as choosing:
        page.locator("#look-upload").click()
    choosing.value.set_files(str(tmp_path / "look.png"))
    page.wait_for_selector("#looks-picture img")
    click_pixel(page, "#looks-picture", 70, 40)
    page.locator("#looks-legend li").wait_for()
    page.get_by_role("radio", name="fast").check()
    page.locator("#find").click()
    page.wait_for_selector("#found video")
    assert "is seen on" in page.inner_text("#found-where")
    page.locator("#other-tools-found button").first.click()
    page.locator("#other-tools-found").get_by_role("radio", name="CVAT for video (*.xml)").check()
    wait_for_file(page, "#other-tools-found", "tracks_cvat.xml")
    keep(page, "11-found")


def test_quick_clicks_all_count(page, moving_clip):
    upload(page, moving_clip)
    for column, row in CLICKS:
        click_pixel(page, "#points-picture", column, row)
    page.locator(f"#legend li >> nth={len(CLICKS) - 1}").wait_for(timeout=20_000)
    for _ in CLICKS:
        page.get_by_role("button", name="Undo").first.click()
    page.locator("#legend .hint").wait_for(timeout=20_000)


def test_messages_leave_the_results_free(page, tmp_path):
    (tmp_path / "holiday.mp4").write_text("no video")
    page.locator("#examples img").first.click()
    page.wait_for_selector("#tracked video")
    page.locator("#upload input[type=file]").set_input_files(str(tmp_path / "holiday.mp4"))
    page.get_by_text("holiday.mp4: is no video that can be read").wait_for()
    if page.viewport_size["width"] > 500:  # in one column, everything is below
        button = page.get_by_role("button", name="↓ CSV")
        button.scroll_into_view_if_needed()
        toast, below = page.locator(".toast-body").bounding_box(), button.bounding_box()
        assert toast["x"] + toast["width"] < below["x"]
