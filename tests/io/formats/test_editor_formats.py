"""Nuke, Blender and After Effects: the text that they read, and the script that runs in Blender."""

import argparse
import csv
import re
import runpy
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
from labelled_clips import NAMES, SIZE, example_tracks, tracked

from fgvc_hf import open_video, save_tracks
from fgvc_hf.cli.label_formats import output_options


ROOT = Path(__file__).parents[3]
COLUMNS = (
    "enable name track_x track_y offset_x offset_y T R S error error_min error_max pattern_x pattern_y pattern_r pattern_t search_x search_y "
    "search_r search_t key_track key_search_x key_search_y key_search_r key_search_t key_track_x key_track_y key_track_r key_track_t "
    "key_centre_offset_x key_centre_offset_y"
).split()


def nested(text: str) -> list:
    """Lists of a script of Tcl: braces are lists, quotes are words."""
    stack: list[list] = [[]]
    for word in re.findall(r'"[^"]*"|[{}]|[^\s{}"]+', text):
        if word == "{":
            stack.append([])
        elif word == "}":
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(word.strip('"'))
    assert len(stack) == 1
    return stack[0]


def curve(cell: list) -> dict[int, float]:
    """Frame and value of `{curve x1 2.5 x2 3}`."""
    words = [word for word in cell if word not in ("curve", "K")]
    return {int(at[1:]): float(value) for at, value in zip(words[::2], words[1::2], strict=True)}


def test_a_nuke_tracker_has_the_points_from_the_bottom_left(tmp_path):
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / "t.nk", names=NAMES, first_frame=1001)  # no other format has this suffix
    save_tracks(tracks, tmp_path / "float.nk", names=NAMES, first_frame=1001.0)
    assert (tmp_path / "float.nk").read_text() == (tmp_path / "t.nk").read_text()
    kind, body = nested((tmp_path / "t.nk").read_text())
    assert kind == "Tracker4" and body[body.index("reference_frame") + 1] == "1001"
    (layout, columns, rows) = body[body.index("tracks") + 1]
    assert layout == ["1", "31", "2"] and [column[3] for column in columns] == COLUMNS
    assert [len(row) for row in rows] == [31, 31] and [row[1] for row in rows] == ["nose", "tail tip"]
    for row, cells in enumerate(rows):
        frames = np.flatnonzero(tracks.visible[row])
        x, y = curve(cells[2]), curve(cells[3])
        found = {t - 1001: (x[t], SIZE[0] - y[t]) for t in x}
        assert found == tracked(tracks, row, frames) and list(x) == list(y)
    assert curve(rows[0][0]) == {1001: 1, 1003: 0, 1004: 1} and curve(rows[1][0]) == {1001: 0, 1002: 1, 1004: 0}


@pytest.mark.parametrize("name", ['[exec "rm"]', "$env(HOME)", "a}b{", 'quo"te', "Ünïcode\\"])
def test_names_are_no_code_in_nuke(tmp_path, name):
    save_tracks(example_tracks(), tmp_path / "t.nk", names={4: name, 11: "b"})
    text = (tmp_path / "t.nk").read_text()
    assert not set(text) & set("[]$\\;") and text.isascii()
    assert len(nested(text)[1][nested(text)[1].index("tracks") + 1][2]) == 2


def test_after_effects_keyframes(tmp_path):
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / "t.txt", "after-effects", names=NAMES, fps=23.976)
    content = (tmp_path / "t.txt").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n")
    lines = content.decode().split("\r\n")
    assert lines[0] == "Adobe After Effects 8.0 Keyframe Data" and lines[-2] == "End of Keyframe Data"
    assert "\tUnits Per Second\t23.976" in lines and "\tSource Width\t64" in lines and "\tSource Height\t48" in lines
    for row in range(2):
        start = lines.index(f"Effects\tPoint Control #{row + 1}\tPoint #2")
        assert lines[start + 1] == "\tFrame\tX pixels\tY pixels\t"
        keys = [line.split("\t")[1:4] for line in lines[start + 2 : lines.index("", start)]]
        found = {int(t): (float(x), float(y)) for t, x, y in keys}
        assert found == tracked(tracks, row, np.flatnonzero(tracks.visible[row]))
    one = example_tracks()
    for name in ("queries", "tracks", "visible", "confidence", "uncertainty", "outside"):
        setattr(one, name, getattr(one, name)[:1])
    one.object_ids = [4]
    save_tracks(one, tmp_path / "one.txt", "after-effects", fps=25)
    assert "Transform\tPosition" in (tmp_path / "one.txt").read_text()


@pytest.mark.parametrize("fps", [None, 0, -1, np.nan, True, "25"])
def test_after_effects_needs_a_frame_rate(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be a positive number of frames per second"):
        save_tracks(example_tracks(), tmp_path / "t.txt", "after-effects", fps=fps)
    assert not list(tmp_path.iterdir())


def test_blender_is_given_shares_of_the_picture_from_the_bottom_left(tmp_path):
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / "t.csv", "blender", names=NAMES)
    with (tmp_path / "t.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["track", "frame", "x", "y", "enabled"]
    nose = [row for row in rows if row[0] == "nose"]
    assert [row[1::3] for row in nose] == [["1", "1"], ["2", "1"], ["3", "0"], ["4", "1"]]
    for _, frame, x, y, enabled in nose:
        if enabled == "1":
            position = (float(x) * SIZE[1], (1 - float(y)) * SIZE[0])
            assert position == pytest.approx(tracks.tracks[0, int(frame) - 1].tolist(), abs=1e-4)
    assert [row[1::3] for row in rows if row[0] == "tail tip"] == [["2", "1"], ["3", "1"], ["4", "0"]]


def stand_in(monkeypatch) -> list:
    """A module `bpy`, and what the script registers with it."""
    registered: list = []
    bpy = ModuleType("bpy")
    menu = SimpleNamespace(append=registered.append)
    bpy.types = SimpleNamespace(Operator=object, CLIP_MT_track=menu)
    bpy.props = SimpleNamespace(StringProperty=lambda **_: str)
    bpy.utils = SimpleNamespace(register_class=registered.append)
    monkeypatch.setitem(sys.modules, "bpy", bpy)
    return registered


class Clip:
    """The tracks of a movie clip."""

    def __init__(self):
        self.made: dict[str, dict[int, SimpleNamespace]] = {}

    def new(self, name: str, frame: int):
        markers = self.made.setdefault(name, {})

        def insert_frame(frame, co):
            markers[frame] = SimpleNamespace(co=co, mute=False)
            return markers[frame]

        return SimpleNamespace(markers=SimpleNamespace(insert_frame=insert_frame))


def test_the_script_for_blender_adds_the_tracks(tmp_path, monkeypatch):
    registered = stand_in(monkeypatch)
    script = runpy.run_path(str(ROOT / "scripts/blender_import_tracks.py"), run_name="__main__")
    assert len(registered) == 2
    save_tracks(example_tracks(), tmp_path / "t.csv", "blender", names=NAMES)
    clip = Clip()
    assert script["import_tracks"](str(tmp_path / "t.csv"), clip) == 2
    assert list(clip.made["nose"]) == [1, 2, 3, 4] and clip.made["nose"][3].mute and not clip.made["nose"][2].mute
    assert clip.made["nose"][1].co == pytest.approx((1.5 / 64, 1 - 2.25 / 48), abs=1e-6)
    operator = script["CLIP_OT_import_fgvc_hf_tracks"]()
    messages = []
    operator.report = lambda kind, text: messages.append(text)
    context = SimpleNamespace(edit_movieclip=SimpleNamespace(tracking=SimpleNamespace(tracks=Clip())))
    operator.filepath = str(tmp_path / "t.csv")
    assert operator.execute(context) == {"FINISHED"} and messages == ["2 tracks"]
    (tmp_path / "t.csv").write_text("t,x,y\n")
    assert operator.execute(context) == {"CANCELLED"} and "is not a file of tracks for Blender" in messages[-1]


@pytest.mark.parametrize("name", ["t.nk", "t_blender.csv", "t.txt", "t.xml"])
def test_editors_are_warned_of_frames_that_are_not_evenly_spaced(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    for clip, times in (("even.mp4", range(0, 240, 40)), ("uneven.mp4", (0, 40, 120, 130, 400, 1000))):
        with av.open(clip, "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            stream.codec_context.time_base = unit = Fraction(1, 1000)
            for time in times:
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
                picture.time_base, picture.pts = unit, time
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        kind = {"t.nk": "nuke", "t_blender.csv": "blender", "t.txt": "after-effects", "t.xml": "cvat"}[name]
        options = argparse.Namespace(
            output=name, output_format=kind, video=clip, fps=None, first_frame=None, images=None
        )
        output_options(options, open_video(clip), None)
        warned = capsys.readouterr().err
        assert ("uneven.mp4 are not evenly spaced in time" in warned) == (clip == "uneven.mp4" and kind != "cvat")
        assert warned.count("\n") <= 1
