"""Programs that write, killed at random moments: what they leave, and whether another run ends as if nothing had been.

Every run is a fork of this process, which has imported everything and has neither trained nor tracked: threads do not survive a fork.
"""

import faulthandler
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from fuzz_seeds import clip_frames, tiny_tracker
from safetensors.torch import load_file
from torch.utils.data import Dataset

from fgvc_hf import FgvcModel, VideoWriter
from fgvc_hf.cli.main import main
from fgvc_hf.data.clip_pack import packed_clips, read_pack, write_pack
from fgvc_hf.data.dataset_card import UNKNOWN, write_dataset_card
from fgvc_hf.data.scene import Random
from fgvc_hf.data.shards import clip_rows, write_shards
from fgvc_hf.data.textures import natural_image
from fgvc_hf.io.masks import write_mask
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import Recipe
from fgvc_hf.training.state import checkpoints, load_parts


STUCK = 300  # seconds after which a run is ended, and says where it was
TINY = Recipe(steps=6, batch_size=2, crop=32, radius=4, reach=6.0, adversarial=0.0, label="gaussian", textures=2)


@dataclass(frozen=True)
class Writer:
    """
    A program that writes.

    Args:
        name (`str`): What it is called.
        run (callable): Does its work in a folder, from the start or from where a run was killed.
        check (callable): Looks at what a killed run has left in the folder; an `AssertionError` if a file under a final name is not whole.
        clear (callable): What a user removes before the next run.
    """

    name: str
    run: Callable[[Path], None]
    check: Callable[[Path], None] = lambda folder: None
    clear: Callable[[Path], None] = lambda folder: None


def fork(writer: Writer, folder: Path) -> int:
    """Start a run; the number of its process."""
    if child := os.fork():
        return child
    status = 1
    try:
        with (folder.parent / f"{folder.name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            faulthandler.dump_traceback_later(STUCK, file=log, exit=True)
            try:
                os.chdir(folder)
                writer.run(folder)
                status = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(status)


def finish(writer: Writer, folder: Path) -> float:
    """A run to its end; its seconds."""
    began = time.monotonic()
    _, state = os.waitpid(fork(writer, folder), 0)
    assert state == 0, (
        f"{writer.name}: a run after kills fails: {(folder.parent / f'{folder.name}.log').read_text()[-2000:]}"
    )
    return time.monotonic() - began


def kill_often(writer: Writer, kills: int, place: Path, seed: int) -> tuple[int, int]:
    """
    Kill runs of a program at random moments, each followed by the next run, until it ends; and so on, to a number of kills.

    Returns:
        Kills, and runs from an empty folder to the end, each of which has left the same bytes as the first, in which numba may have had
        kernels to compile, and which was not killed.
    """
    draw, done, runs = random.Random(seed), 0, 0
    (reference := place / f"{writer.name}-reference").mkdir(parents=True)
    (second := place / f"{writer.name}-second").mkdir()
    finish(writer, reference)
    seconds = finish(writer, second)
    expected = snapshot(reference)
    assert snapshot(second) == expected, f"{writer.name}: a second run leaves other bytes than the first"
    while done < kills:
        (folder := place / f"{writer.name}-{runs}").mkdir()
        for _ in range(min(kills - done, draw.randint(2, 6))):
            child = fork(writer, folder)
            time.sleep(draw.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            _, state = os.waitpid(child, 0)
            done += os.WIFSIGNALED(state)
            writer.check(folder)
            if not os.WIFSIGNALED(state):
                break
            writer.clear(folder)
        if os.WIFSIGNALED(state):
            finish(writer, folder)
        found = snapshot(folder)
        differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        assert not differ, f"{writer.name}, run {runs}: {differ} differ from a run that was not killed"
        shutil.rmtree(folder)
        runs += 1
    return done, runs


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder; times are left out, and so are lines that a log says again."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(".")
    ]
    return {path.relative_to(folder).as_posix(): _content(path) for path in files}


def _content(path: Path) -> bytes:
    if path.suffix == ".json" and path.name not in ("shards.json", "config.json"):
        content = json.loads(path.read_text())
        return json.dumps({name: value for name, value in content.items() if name != "seconds"}).encode()
    if path.suffix == ".jsonl":
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return json.dumps(
            sorted({json.dumps({k: v for k, v in e.items() if k != "seconds"}) for e in entries})
        ).encode()
    return path.read_bytes()


# ---- Training -------------------------------------------------------------------------------------------------------


class Noise(Dataset):
    """Real pairs, as far as the loop can tell."""

    def __getitem__(self, number):
        return (255 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(number))).byte()


def train(folder: Path) -> None:
    """A few updates, with a checkpoint, an evaluation and pictures after each, and scores that often rise."""
    textures = (255 * natural_image(96, 20, 0.4, Random(range(2)))).byte()
    module = JointTraining(tiny_tracker().model, TINY, None)
    training = Training(
        module, TINY, folder / "run", Accelerator(cpu=True), Noise(), textures, evaluate=score, save_every=1, evaluate_every=1, picture_every=3
    )  # fmt: skip
    training.run(show_progress_bar=False)


def score(model: FgvcModel) -> dict[str, float]:
    return {"score": -sum(float(value.abs().sum()) for value in model.parameters())}


def check_training(folder: Path) -> None:
    run = folder / "run"
    for checkpoint in run.glob("checkpoints/step-*"):
        assert checkpoint in checkpoints(run / "checkpoints"), f"{checkpoint.name} is not whole"
        json.loads((checkpoint / "state.json").read_text())
        load_parts(checkpoint, "module")
        load_parts(checkpoint, "optimizer")
    for name in ("best", "last"):
        if (run / name).exists():
            load_file(run / name / "model.safetensors")
            FgvcModel.config_class.from_pretrained(run / name)
            assert any((run / name / file).is_file() for file in ("processor_config.json", "preprocessor_config.json"))
    for picture in run.glob("pictures/*"):
        assert picture.name.startswith(".") or picture.read_bytes().endswith(b"IEND\xaeB`\x82"), picture.name
    if (run / "log.jsonl").exists():
        for line in (run / "log.jsonl").read_text().splitlines():
            json.loads(line)


# ---- Commands -------------------------------------------------------------------------------------------------------


def command(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


INPUTS = ("checkpoint", "clip.mp4", "mask.png", "clips")


def make_inputs(paths: dict[str, Path]) -> None:
    """A checkpoint, a clip, a mask, and a folder of clips."""
    tracker, frames = tiny_tracker(), clip_frames()
    paths["clips"].mkdir(parents=True)
    tracker.model.save_pretrained(paths["checkpoint"])
    tracker.processor.save_pretrained(paths["checkpoint"])
    ids = np.zeros(frames.shape[1:3], np.uint8)
    ids[10:30, 10:40] = 1
    write_mask(paths["mask.png"], ids)
    for path in (paths["clip.mp4"], *(paths["clips"] / f"{number}.mp4" for number in range(6))):
        with VideoWriter(path, 12, *frames.shape[1:3]) as writer:
            for frame in frames:
                writer.write(frame)


def writers(folder: Path) -> dict[str, Writer]:
    """The programs by name; what they read lies in a folder."""
    paths = {name: folder / name for name in INPUTS}
    if not (child := os.fork()):  # encoders and progress bars have threads
        try:
            make_inputs(paths)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert paths["clips"].is_dir()
    clip, options = paths["clip.mp4"], ("--checkpoint", paths["checkpoint"])
    drawn = ("--overlay", "overlay.mp4", "--sheet", "sheet.png")

    def track(_: Path) -> None:
        command("track", clip, "--points", "0,20,30;2,40,10", "--output", "tracks.npz", *drawn, *options)

    def propagate(_: Path) -> None:
        command("propagate", clip, "--mask", paths["mask.png"], "--output", "masks", *drawn, *options)

    def evaluate(_: Path) -> None:
        videos = ("--sequences", *(f"small-0{number}" for number in range(4)))
        what = ("evaluate", "flow", "--data", "rendered", "--split", "small", *videos, "--baseline", "zero")
        command(*what, "--output", "result.json", "--resume")

    def prepare(folder: Path) -> None:
        write_shards(clip_rows(paths["clips"], 32), folder / "shards", rows_per_shard=1, resume=True)
        write_dataset_card(folder / "shards", "clips", UNKNOWN)
        write_pack(folder / "clips.pack", packed_clips(paths["clips"], 32))

    all_of_them = (
        Writer("train", train, check_training),
        Writer("track", track, check_outputs),
        Writer("propagate", propagate, check_outputs, lambda folder: shutil.rmtree(folder / "masks", ignore_errors=True)),
        Writer("evaluate", evaluate, check_outputs),
        Writer("prepare", prepare, check_outputs),
    )  # fmt: skip
    return {writer.name: writer for writer in all_of_them}


def check_outputs(folder: Path) -> None:
    """Every file that has a name without a dot is whole, and there is no more than one hidden file for each."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path.name
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name] is not None for name in arrays.files)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pack":
            assert read_pack(path)
        elif path.suffix == ".parquet":
            assert path.read_bytes()[-4:] == b"PAR1", path.name
        elif path.suffix == ".mp4":
            from fgvc_hf import open_video

            assert open_video(path).num_frames == 8
    hidden = [path for path in folder.glob(".*") if path.is_file()]
    assert len(hidden) <= 4, f"leftovers pile up: {hidden}"
