"""What reads each kind of file, as a user would, and what is wrong with what it accepts."""

import argparse
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from fuzz_runner import Wrong
from fuzz_seeds import FRAMES, HEIGHT, KINDS, WIDTH, Seed, clip_frames, evaluate_flow, make_seeds, tiny_tracker

from fgvc_hf import Tracker, load_session, open_video
from fgvc_hf.cli.track import read_points
from fgvc_hf.hub.measured_results import measured_results
from fgvc_hf.io.masks import read_mask
from fgvc_hf.io.tracks import read_points_file, read_tracks


@dataclass(frozen=True)
class Case:
    """The `number`-th case of a kind: hostile files first, then seeds in turn, damaged as the numbers say."""

    kind: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number} (seed {self.seed})"


class Library:
    """The seeds of all kinds, and what is needed to read them."""

    def __init__(self, kinds: tuple[str, ...] = KINDS):
        self.frames, self.tracker = clip_frames(), tiny_tracker()
        with tempfile.TemporaryDirectory() as folder:
            self.seeds: dict[str, list[Seed]] = {}
            for kind in kinds:
                (place := Path(folder) / kind).mkdir()
                self.seeds[kind] = make_seeds(kind, place, self.tracker)

    @cached_property
    def scratch(self) -> Path:
        """A folder of the process that reads, in memory where there is one."""
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        return Path(tempfile.mkdtemp(prefix="fgvc-fuzz-", dir=place))

    def files(self, case: Case) -> tuple[str, dict[str, bytes]]:
        """The files of a case by name, and the name of what is read."""
        seeds = self.seeds[case.kind]
        hostile, others = [s for s in seeds if not s.mutations], [s for s in seeds if s.mutations]
        if case.number < len(hostile):
            return hostile[case.number].name, hostile[case.number].files
        seed = others[case.number % len(others)]
        draw = np.random.default_rng([case.seed, KINDS.index(case.kind), case.number])
        name = list(seed.mutations)[int(draw.integers(len(seed.mutations)))]
        return seed.name, seed.files | {name: seed.mutations[name](seed.files[name], draw)}

    def read(self, case: Case) -> str:
        """Read the files of a case; what the reader accepts is used."""
        name, files = self.files(case)
        try:
            for file, content in files.items():
                path = self.scratch / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                return READERS[case.kind](self, self.scratch / name, said)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)


def read_media(library: Library, path: Path, said: list) -> str:
    """All frames; fewer than there were only if neither demuxer nor decoder complains."""
    video = open_video(path)
    count = sum(1 for _ in video.frames())
    if count != video.num_frames:
        raise Wrong("shorter", f"{path.name}: {count} of {video.num_frames} frames came")
    whole = 1 if path.name.startswith("picture") else FRAMES
    if count < whole and not said and (complaints := reported(path)):
        raise Wrong("shorter", f"{path.name}: {count} of {whole} frames; reported: {complaints[:3]}")
    return f"{count} of {whole} frames" if count < whole else "whole"


def reported(path: Path) -> list[str]:
    """The errors that FFmpeg's demuxer and decoder log or raise for a file of video."""
    av.logging.set_level(av.logging.ERROR)
    complaints = []
    try:
        with av.logging.Capture(local=False) as logs:
            complaints += _raised(path)
    finally:  # threads of decoders that log while a file is closed wait for ever
        av.logging.set_level(None)
    return complaints + [text.strip() for _, _, text in logs]


def _raised(path: Path) -> list[str]:
    complaints = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for packet in container.demux(video=0):
                complaints += ["corrupt packet"] * packet.is_corrupt
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    complaints.append(str(error))
                    continue
                complaints += ["corrupt frame" for frame in frames if frame.is_corrupt]
    except (av.FFmpegError, IndexError) as error:
        complaints.append(str(error))
    return complaints


def read_prompts(library: Library, path: Path, said: list) -> str:
    """Points of a file or of the command line become prompts of a session."""
    if path.name == "tracks.npz":
        return f"{len(read_tracks(path).object_ids)} tracks"
    if path.suffix == ".txt":
        text = path.read_bytes().decode(errors="surrogateescape")
        points = read_points(argparse.Namespace(points_file=None, points=text, grid=None), HEIGHT, WIDTH)
    else:
        points = read_points_file(path)
    tracks = library.tracker.track(library.frames[:FRAMES], points)
    return f"{len(tracks.object_ids)} points"


def read_mask_file(library: Library, path: Path, said: list) -> str:
    found = library.tracker.propagate_masks(library.frames[:2], read_mask(path))
    return f"{len(list(found))} frames"


def read_session(library: Library, path: Path, said: list) -> str:
    """The session goes on for a frame."""
    session = load_session(path, library.tracker)
    output = library.tracker.model.step(session, library.frames[3])
    return f"frame {output.frame_idx}"


def read_checkpoint(library: Library, path: Path, said: list) -> str:
    """A point, a mask and the flow of two frames."""
    tracker, frames = Tracker.from_pretrained(path), library.frames[:3]
    tracker.track(frames, [(0, 20.0, 30.0)])
    list(tracker.propagate_masks(frames, np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
    tracker.flow(*frames[:2])
    return "used"


def read_result(library: Library, path: Path, said: list) -> str:
    """A result for a model card, or an evaluation that goes on."""
    if path.name == "result.json":
        return f"{len(measured_results([path], library.tracker.model))} numbers"
    result = evaluate_flow(path, {"baseline": "zero"}, resume=True, report=lambda line: None)
    return f"{len(result['videos'])} videos"


READERS = {
    "media": read_media,
    "points": read_prompts,
    "masks": read_mask_file,
    "sessions": read_session,
    "checkpoints": read_checkpoint,
    "results": read_result,
}
