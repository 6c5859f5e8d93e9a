"""What commands write: never over what they read, complete or not at all, and what is finished stays."""

import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, VideoWriter, read_mask
from fgvc_hf.cli.main import main
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.io.files import check_outputs
from fgvc_hf.io.masks import write_mask
from fgvc_hf.kernels import process


MODEL = ["--checkpoint", "tiny"]


@pytest.fixture
def folder(folder_with_clip):
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=2)).save_pretrained("tiny")
    FgvcProcessor(FgvcImageProcessorPil(size={"height": 48, "width": 48})).save_pretrained("tiny")
    os.mkdir("frames")
    for t in (0, 1):
        Image.open(f"frame{t}.png").save(f"frames/{t}.png")
    os.symlink("clip.mp4", "link.mp4")
    os.link("clip.mp4", "hard.mp4")
    os.symlink("frames", "linked")
    return folder_with_clip


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


TRACK = ["track", "clip.mp4", "--points", "0,20,20", *MODEL]
FRAMES = ["track", "frames", "--points", "0,20,20", *MODEL]
PROPAGATE = ["propagate", "clip.mp4", "--mask", "mask.png", *MODEL]
PAINT = ["paint", "clip.mp4", "--texture", "texture.png", *MODEL]
FLOW = ["flow", "frame0.png", "frame1.png", *MODEL]


@pytest.mark.parametrize(
    "command",
    [
        [*TRACK, "--overlay", "clip.mp4"],
        [*TRACK, "--overlay", "./frames/../clip.mp4"],
        [*TRACK, "--overlay", "link.mp4"],
        [*TRACK, "--overlay", "hard.mp4"],
        [*TRACK, "--overlay", "CLIP.mp4"],
        ["track", "link.mp4", "--grid", "2", *MODEL, "--overlay", "clip.mp4"],
        ["track", "clip.mp4", "--points-file", "points.csv", *MODEL, "--output", "points.csv"],
        [*TRACK, "--output", "o.csv", "--overlay", "o.mp4", "--sheet", "tiny/sheet.png"],
        [*FRAMES, "--sheet", "frames/0.png"],
        [*FRAMES, "--sheet", "frames/new.png"],
        [*FRAMES, "--sheet", "linked/new.png"],
        [*PROPAGATE, "--sheet", "mask.png"],
        [*PROPAGATE, "--output", "frames"],
        [*PROPAGATE, "--output", "masks", "--overlay", "clip.mp4"],
        ["propagate", "frames", "--mask", "mask.png", *MODEL, "--output", "frames/masks"],
        [*PAINT, "--output", "clip.mp4"],
        [*PAINT, "--output", "o.mp4", "--sheet", "texture.png"],
        [*FLOW, "--output", "frame0.png"],
        [*FLOW, "--output", "o.png", "--overlay", "o.png"],
        [*FLOW, "--output", "o.png", "--overlay", "O.PNG"],
        ["match", "frame0.png", "frame1.png", "--point", "5,5", *MODEL, "--output", "frame1.png"],
        ["evaluate", "davis", "--data", "frames", "--output", "frames/0.png", *MODEL],
        ["evaluate", "davis", "--data", "frames", "--output", "o.json", "--save-visuals", "frames", *MODEL],
    ],
    ids=" ".join,
)
def test_outputs_that_are_inputs_or_each_other_are_refused_before_any_work(folder, capsys, monkeypatch, command):
    monkeypatch.setattr("fgvc_hf.tracker.Tracker.from_pretrained", lambda *_, **__: pytest.fail("there was work"))
    before = contents(folder)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert any(reason in captured.err for reason in ("is an input", "lies in", "is written twice", "exists already"))
    assert contents(folder) == before


def test_the_rule_of_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("in")
    (tmp_path / "in" / "a.mp4").write_bytes(b"")
    check_outputs(["out.csv", None, "other.csv"], ["in", "in/a.mp4", None, "user/name"])
    check_outputs(["in.csv", "in2/x"], ["in"])
    for outputs, message in (
        (["é.csv", "e\u0301.csv"], "written twice"),
        (["new", "new/x.csv"], "one within the other"),
        (["IN"], "is an input"),
        (["in/deep/er/x.csv"], "lies in in"),
        (["https://example.org/x.csv"], "https://example.org/x.csv: is a URL"),
    ):
        with pytest.raises(ValueError, match=message):
            check_outputs(outputs, ["in"])


def test_no_device_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OSError, match="not an ordinary file"):
        process_free_write(tmp_path / "pipe.csv")


def process_free_write(path):
    from fgvc_hf.io.files import atomic_write

    with atomic_write(path):
        pass


# ---- masks as they come ---------------------------------------------------------------------------------------------


def test_masks_are_written_for_frames_that_were_processed_only(folder):
    for direction, start, expected in (("forward", 3, [3, 4]), ("backward", 1, [0, 1]), ("both", 2, range(5))):
        command = [*PROPAGATE, "--frame", str(start), "--direction", direction, "--output", direction]
        assert main([*command, "--overlay", f"{direction}.mp4"]) == 0
        assert sorted(os.listdir(direction)) == [f"{t:05d}.png" for t in expected]
        np.testing.assert_array_equal(read_mask(f"{direction}/{start:05d}.png"), read_mask("mask.png"))


@pytest.mark.parametrize("written", [["--output", "masks"], ["--overlay", "o.mp4"]])
def test_memory_does_not_grow_with_the_video(folder, monkeypatch, written):
    """A full frame of ids is 256 KiB here; the tracker is replaced, so that its own memory is not measured."""
    ids = np.zeros((256, 256), np.int32)
    ids[20:40, 20:40] = 1
    write_mask("mask.png", ids)

    class Stub:
        @staticmethod
        def propagate_masks(video, *_, **__):
            for t, _ in enumerate(video.frames()):
                yield t, ids + 0

    monkeypatch.setattr("fgvc_hf.cli.propagate.load_tracker", lambda _: Stub())
    peak = {}
    for length in (4, 8, 64):
        with VideoWriter(f"{length}.mp4", 24, 256, 256) as writer:
            for _ in range(length):
                writer.write(np.zeros((256, 256, 3), np.uint8))
        arguments = [word.replace("masks", f"masks{length}") for word in written]
        tracemalloc.start()
        assert main(["propagate", f"{length}.mp4", "--mask", "mask.png", *arguments]) == 0
        peak[length] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[64] < peak[8] + 4 * ids.nbytes  # 56 more frames


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it, and what it starts
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from fgvc_hf.cli.main import main
from fgvc_hf.tracker import Tracker
original = Tracker.propagate_masks
def slow(self, *arguments, **options):
    for found in original(self, *arguments, **options):
        yield found
        print("frame", flush=True)
        if found[0] == 2:
            time.sleep(60)
Tracker.propagate_masks = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_finished_masks_stay_and_nothing_else_does(folder, number, status):
    before = set(os.listdir())
    command = [sys.executable, "-c", SLOW, *PROPAGATE, "--output", "masks", "--overlay", "o.mp4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for _ in range(3):
            assert run.stdout.readline() == "frame\n"
        run.send_signal(number)
        assert run.wait(timeout=30) == status
    assert set(os.listdir()) - before == {"masks"}
    assert sorted(os.listdir("masks")) == ["00000.png", "00001.png", "00002.png"]
    assert all((read_mask(f"masks/{t:05d}.png") == 1).any() for t in range(3))


WRITING = """
import sys, time
from fgvc_hf.io import {module}
from fgvc_hf.cli.main import main
def slow(*_, **__):
    print("writing", flush=True)
    time.sleep(60)
{module}.{name} = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        ("tracks", "_write_csv", [*TRACK, "--output", "o.csv"]),
        ("drawing", "draw_masks", [*PROPAGATE, "--overlay", "o.mp4"]),
        ("flow_files", "draw_flow", [*FLOW, "--output", "o.png"]),
    ],
)
def test_sigterm_leaves_no_temporary_file(folder, module, name, command):
    before, temporary = set(os.listdir()), folder / "tmp"
    temporary.mkdir()
    program = [sys.executable, "-c", WRITING.format(module=module, name=name), *command]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)}
    ) as run:
        assert run.stdout.readline() == "writing\n"
        time.sleep(0.2)
        run.terminate()
        assert run.wait(timeout=30) == 143
    assert set(os.listdir()) - before == {"tmp"}
    assert not [name for name in os.listdir(temporary) if name.startswith("fgvc-hf")]


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, process.clean_end():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_without_a_home_there_is_no_folder_of_that_name(tmp_path, monkeypatch):
    def no_user(_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_user)
    assert os.path.expanduser("~/.cache") == "~/.cache" and not process.has_home()
    monkeypatch.setenv("HOME", "")  # so that the patch restores it
    monkeypatch.delenv("HOME")
    assert process.give_home() and os.path.isabs(os.path.expanduser("~/.cache")) and not process.give_home()


@pytest.mark.parametrize("name", ["ü.flo", os.fsdecode(b"\xff.flo")])
def test_a_name_that_cannot_be_printed_does_not_end_a_command(folder, monkeypatch, name):
    written = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["flow", "frame0.png", "frame1.png", "--output", name, *MODEL]) == 0
    written.flush()
    assert written.buffer.getvalue() == name.encode("ascii", "backslashreplace") + b"\n" and os.path.isfile(name)
    assert written.errors == "strict"
    assert print_result(lambda: name) == 0
