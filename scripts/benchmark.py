"""Speed and memory of the package on this machine. Variants are timed in turns; ratios are of medians.

    python scripts/benchmark.py                     speed: a few minutes
    python scripts/benchmark.py --only memory       peak memory at 50 and 400 frames: some minutes
    python scripts/benchmark.py --only length       memory and time per frame at 100 and 2,000 frames: a quarter of an hour
    python scripts/benchmark.py --only coarse --coarse CHECKPOINT   a coarse-to-fine model against the fine one, at 480x640
    python scripts/benchmark.py --only scaling --output bench.json --plot bench.png

`official` is the algorithm of the paper's released evaluation: the full product of all queries with all keys of all context frames, masked, in
chunks of 128 queries. Some chunks are run, and their time is scaled to all. It runs with the C library's own settings, as it was released; those
that the command line sets for large frames make it 1.5 times faster.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path

from fgvc_hf.kernels.process import clean_end, keep_freed_memory, rest_soon


rest_soon()  # before torch is loaded, as the command line does

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, render_clip
from fgvc_hf.encoder.fused_encoder import FusedEncoder
from fgvc_hf.evaluation.baselines import BASELINES
from fgvc_hf.evaluation.timing import (
    describe_machine,
    draw_curves,
    process_memory_mib,
    time_interleaved,
    write_looped_video,
)
from fgvc_hf.io.checkpoints import resolve_checkpoint
from fgvc_hf.io.files import check_outputs
from fgvc_hf.matching.probability_map import window_correlation
from fgvc_hf.matching.windows import reference_topk, window_topk
from fgvc_hf.modeling_fgvc import FgvcEncoder
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.label_maps import propagate_labels
from fgvc_hf.tracking.template_tracker import TemplateTracker


CHUNK = 128  # queries at a time, as the official configuration
SAMPLED_CHUNKS = 2
MEMORY_FRAMES = 6
LABELS = 5


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=(*SECTIONS, "coarse"),
        action="append",
        help="sections to run; default: encoder, correlation, propagation and tracking",
    )
    parser.add_argument("--coarse", help="coarse-to-fine checkpoint, for the section of that name")
    parser.add_argument("--rounds", type=int, default=5, help="turns that every variant gets")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--plot", type=Path, help="PNG of the curves of `scaling`")
    parser.add_argument("--peak-memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dense-memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--preset", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory_of:
        print(json.dumps(peak_memory(arguments.peak_memory_of, arguments.preset)))
        return
    if arguments.dense_memory_of:
        print(json.dumps(dense_memory(arguments.dense_memory_of)))
        return
    try:
        check_outputs([arguments.output, arguments.plot], [arguments.coarse])
    except ValueError as error:
        parser.error(str(error))
    chosen = arguments.only or ["encoder", "correlation", "propagation", "tracking"]
    if "coarse" in chosen and not arguments.coarse:
        parser.error("the section coarse needs --coarse CHECKPOINT")
    sections: dict[str, Callable[[int], dict]] = SECTIONS | {"coarse": partial(coarse, checkpoint=arguments.coarse)}
    if arguments.plot and "scaling" not in chosen:
        parser.error("--plot draws the curves of the section scaling, which is not among those to run.")
    results: dict = {"machine": describe_machine()}
    for name in chosen:
        print(f"\n{name}", flush=True)
        results[name] = sections[name](arguments.rounds)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2), encoding="utf-8")
    if arguments.plot:
        draw_curves(results["scaling"]).save(arguments.plot)


@torch.inference_mode()
def encoder(rounds: int) -> dict:
    """The encoder on one 256x256 frame at stride 2: as trained, and with fused Conv-BN as at inference; and cosine similarity of features."""
    frame = render_clip(num_frames=1, num_points=1).frames[0]
    pixel_values = FgvcImageProcessorPil()(frame, return_tensors="pt").pixel_values
    single = FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint")).encoder
    half = FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint"), dtype=torch.bfloat16).encoder
    fused = FusedEncoder(single), FusedEncoder(half)
    variants = {
        "float32, channels first": lambda: _channels_first(single, pixel_values),
        "float32": lambda: single(pixel_values),
        "float32, fused Conv-BN": lambda: fused[0](pixel_values),
        "bfloat16": lambda: half(pixel_values.bfloat16()),
        "bfloat16, fused Conv-BN": lambda: fused[1](pixel_values),
    }
    with FlopCounterMode(display=False) as counter:
        expected = single(pixel_values)
    results = time_interleaved(variants, rounds, flops=counter.get_total_flops())
    for name, run in list(variants.items())[1:]:
        similarity = F.cosine_similarity(run().float(), expected, dim=1)
        results[name] |= {"cosine_mean": similarity.mean().item(), "cosine_min": similarity.min().item()}
        print(f"  {name:32s} cosine similarity {similarity.mean():.5f}, at least {similarity.min():.5f}")
    return results


def _channels_first(encoder: FgvcEncoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """The encoder without the channels-last layout that its forward converts to."""
    hidden_states = F.relu(encoder.bn1(encoder.conv1(pixel_values)))
    return encoder.layer3(encoder.layer2(encoder.layer1(hidden_states)))


@torch.inference_mode()
def correlation(rounds: int) -> dict:
    """The dense map of Eq. 1 at 128x128 cells, r = 24: by tiles, and by one product per offset, of which one row of 49 is run."""
    query, key = F.normalize(torch.randn(2, 1, 128, 128, 256), dim=-1)
    radius, (h, w) = 24, (128, 128)
    channels_first = query.movedim(-1, 1).contiguous()
    padded = F.pad(key.movedim(-1, 1), (radius,) * 4)

    def shift():
        rows = padded[:, :, radius : radius + h]
        torch.stack([(channels_first * rows[..., dx : dx + w]).sum(1) for dx in range(2 * radius + 1)])

    variants = {"shift, float32 (1 of 49 rows, scaled)": shift} | {
        f"tiled, {dtype}": partial(window_correlation, query.to(of), key.to(of), radius)
        for dtype, of in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    return time_interleaved(variants, rounds, scale={next(iter(variants)): 2 * radius + 1})


@torch.inference_mode()
def propagation(rounds: int) -> dict:
    """Matching one 256x256 frame at stride 2 with six context frames, and propagating five dense label maps."""
    clip = render_clip(num_frames=MEMORY_FRAMES + 1, num_points=1)
    model = FgvcModel.from_pretrained(resolve_checkpoint("fgvc-joint"))
    pixel_values = FgvcImageProcessorPil()(list(clip.frames), return_tensors="pt").pixel_values
    query, *keys = torch.cat([model.normalized_features(frame[None]) for frame in pixel_values])
    h, w, _ = query.shape
    labels = torch.rand(MEMORY_FRAMES, h * w, LABELS)
    window = (model.config.propagation_radius, model.config.propagation_window, model.config.propagation_topk)
    cells = torch.randperm(h * w)[: CHUNK * SAMPLED_CHUNKS]
    everywhere = torch.ones(h * w, dtype=torch.bool)

    def official():
        for chunk in cells.split(CHUNK):
            scores, indices = reference_topk(query, keys, *window, query_cells=chunk)
            weights = torch.softmax(scores / model.config.temperature, dim=-1)
            F.embedding_bag(indices, labels.flatten(0, 1), per_sample_weights=weights, mode="sum")

    def tiled(dtype, backend):
        best = window_topk(query.to(dtype), [key.to(dtype) for key in keys], *window, backend=backend)
        propagate_labels(*best, labels, model.config.temperature, everywhere)

    variants = {
        f"official ({len(cells)} of {h * w} queries, scaled)": official,
    } | {
        f"{name}, {dtype}": partial(tiled, getattr(torch, dtype), backend)
        for name, backend in (("tiled, by torch", "torch"), ("tiled, by numba", "numba"))
        for dtype in ("float32", "bfloat16")
    }
    return time_interleaved(variants, rounds, scale={next(iter(variants)): h * w / len(cells)})


def tracking(rounds: int) -> dict:
    """Frames per second of 32 points in a video file, decoding included, in steady state: by label maps and by templates; and of 500."""
    results = {}
    for height, width, frames, turns in ((256, 256, 24, min(rounds, 5)), (480, 854, 10, 1)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            clip = render_clip(num_frames=frames, height=height, width=width, num_points=32)
            write_looped_video(path, clip.frames, frames)
            points = clip.tracks[:, 0].clip(0, (width, height))
            many = np.random.default_rng(0).random((500, 2)) * (width, height)
            variants = [("labels", points), ("templates", points)] + [("templates", many)] * (height == 256)
            rates = [[frames_per_second(path, of, method) for method, of in variants] for _ in range(turns)]
            for (method, of), turn in zip(variants, zip(*rates, strict=True), strict=True):
                name, rate = f"{height}x{width}, {len(of)} points, {method}", statistics.median(turn)
                print(f"  {name:36s} {rate:8.2f} frames/s", flush=True)
                results[name] = {"frames_per_second": rate}
            if height == 256:
                ratio = statistics.median(few / those for _, few, those in rates)
                print(f"  500 points cost {ratio:.2f} times what 32 do (median of turns)")
                results["500 points cost"] = {"ratio": ratio}
    return results


def baselines(rounds: int) -> dict:
    """32 points from one frame to the next by OpenCV, for reference: Lucas-Kanade with forward-backward check, and dense DIS flow."""
    clip = render_clip(num_frames=2, height=256, width=256, num_points=32)
    points = clip.tracks[:, 0].clip(0, 255)
    steps = {name: partial(BASELINES[name], *clip.frames, points) for name in ("lucas-kanade", "dis")}
    return time_interleaved(steps, rounds)


@torch.inference_mode()
def scaling(rounds: int) -> dict:
    """Time per frame over its side (encoder, 32 templates), over the number of templates, and over the number of context frames (label maps)."""
    model = at_own_resolution(point_matching="templates").model
    curves = {"side of the frame": {}, "points": {}, "context frames": {}}
    for side in (128, 192, 256, 384):
        pixel_values = torch.rand(1, 3, side, side) * 2 - 1
        encode = partial(model.normalized_features, pixel_values)
        curves["side of the frame"][side] = {"encode": encode, "match 32 points": _templates(model, encode(), 32)}
    features = model.normalized_features(torch.rand(1, 3, 256, 256) * 2 - 1)
    for number in (1, 32, 100, 500):
        curves["points"][number] = {"match": _templates(model, features, number)}
    window = (model.config.propagation_radius, model.config.propagation_window, model.config.propagation_topk)
    for number in (1, 2, 4, 6):
        curves["context frames"][number] = {
            "match all cells": partial(window_topk, features[0], [features[0]] * number, *window)
        }
    results = {}
    for axis, variants in curves.items():
        named = {f"{axis} {at}, {what}": run for at, runs in variants.items() for what, run in runs.items()}
        times = iter(time_interleaved(named, rounds).values())
        results[axis] = {at: {what: next(times)["median_ms"] for what in runs} for at, runs in variants.items()}
    return results


def _templates(model: FgvcModel, features: torch.Tensor, number: int) -> Callable[[], None]:
    """A step of tracking so many points on a frame with the same features (1, h, w, C)."""
    size = tuple(model.config.output_stride * side for side in features.shape[1:3])
    image = torch.rand(size, generator=torch.Generator().manual_seed(1))
    frame = EncodedFrame(features[0], image, image)
    points = torch.rand(number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tracker = TemplateTracker.empty(features[0], model.config)
    tracker.start(list(range(number)), points * torch.tensor(size[::-1]), frame)
    return partial(tracker.step, frame)


def at_own_resolution(checkpoint: str | None = None, **config_fields) -> Tracker:
    """A tracker on the CPU that does not resize frames, with the memory settings of the command line."""
    keep_freed_memory()
    model = Tracker.from_pretrained(checkpoint, device="cpu", **config_fields).model
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


def tracked_frames(tracker: Tracker, path: Path, points):
    """Frames of a video file, one at a time, with points (N, 2) of its first frame."""
    session = tracker.processor.init_video_session(path)
    tracker.processor.add_inputs_to_inference_session(session, 0, range(len(points)), points)
    return tracker.model.propagate_in_video_iterator(session)


def frames_per_second(path: Path, points, method: str) -> float:
    """Rate of tracking points (N, 2) from the first frame, once the memory of context frames is full."""
    tracker = at_own_resolution(point_matching=method)
    ends = [time.perf_counter() for _ in tracked_frames(tracker, path, points)]
    full = tracker.model.config.num_context_frames + 1
    return (len(ends) - 1 - full) / (ends[-1] - ends[full])


def coarse(rounds: int, checkpoint: str) -> dict:
    """A coarse-to-fine checkpoint against the default one at 480x640, frame by frame in turns, with six context frames.

    Dense: label maps of five masks that cover the frame. Points: 32 of them, from a video file, decoding included. Memory of dense
    propagation is measured in processes of their own: of the session, and the peak beyond that of the loaded model.
    """
    names, clip = {"fine": "fgvc-joint", "coarse to fine": checkpoint}, render_clip(12, 480, 640, num_points=32)
    sessions = {name: dense_session(name_or_path, clip.frames) for name, name_or_path in names.items()}
    results = {
        "dense": time_interleaved({name: lambda run=run: next(run) for name, (run, _) in sessions.items()}, rounds)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_looped_video(path, clip.frames, rounds + 10)
        points = clip.tracks[:, 0].clip(0, (640, 480))
        runs = {
            name: tracked_frames(at_own_resolution(name_or_path, point_matching="templates"), path, points)
            for name, name_or_path in names.items()
        }
        results["32 points"] = time_interleaved(
            {name: lambda run=run: next(run) for name, run in runs.items()}, rounds
        )
    for name, name_or_path in names.items():
        command = [sys.executable, __file__, "--dense-memory-of", name_or_path]
        found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        print(
            f"  {name:32s} {found['session_mib']:.0f} MiB in the session, {found['peak_mib']:.0f} at the peak",
            flush=True,
        )
        results[f"memory, {name}"] = found
    return results


def dense_session(checkpoint: str | None, frames):
    """Steps of a session with five masks that cover the frame, once its memory is full; and the session."""
    tracker = at_own_resolution(checkpoint)
    session, (height, width) = tracker.processor.init_video_session(), frames[0].shape[:2]
    stripes = torch.arange(width).mul(LABELS).div(width, rounding_mode="floor").expand(height, width)
    masks = torch.stack([stripes == label for label in range(LABELS)]).numpy()
    tracker.processor.add_inputs_to_inference_session(session, 0, range(1, LABELS + 1), input_masks=masks)
    steps = (tracker.model.step(session, frames[i % len(frames)]) for i in count())
    for _ in range(MEMORY_FRAMES):
        next(steps)
    return steps, session


def dense_memory(checkpoint: str) -> dict:
    """Memory of [`dense_session`] in this process in MiB: of the session, and the peak beyond the process with the model loaded.

    Frames are noise: their content changes nothing, and a renderer has a peak of its own.
    """
    noise = (255 * torch.rand(2, 480, 640, 3)).byte().numpy()
    at_own_resolution(checkpoint)
    before = process_memory_mib("VmRSS")
    steps, session = dense_session(checkpoint, noise)
    next(steps)
    return {"session_mib": session.memory_bytes / 2**20, "peak_mib": process_memory_mib("VmHWM") - before}


def memory(rounds: int) -> dict:
    """Peak resident memory of tracking 4 points in 480x854 video files of 50 and 400 frames, at their own resolution."""
    return {f"{frames} frames": of_length(frames) for frames in (50, 400)}


def length(rounds: int) -> dict:
    """Memory and time per frame of tracking 4 points in 480x854 video files of 100 and 2,000 frames, preset balanced."""
    return {f"{frames} frames": of_length(frames, "--preset", "balanced") for frames in (100, 2000)}


def of_length(frames: int, *options: str) -> dict:
    """[`peak_memory`] in a process of its own, for a clip of so many frames."""
    clip = render_clip(num_frames=25, height=480, width=854, num_points=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_looped_video(path, clip.frames, frames)
        command = [sys.executable, __file__, "--peak-memory-of", str(path), *options]
        found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    print(
        f"  {frames} frames: {found['peak_mib']:.0f} MiB; median time of a frame {found['first_ms']:.0f} ms among "
        f"the first 100, {found['last_ms']:.0f} ms among the last",
        flush=True,
    )
    return found


def peak_memory(path: Path, preset: str | None = None) -> dict:
    """Track four points in this process, at the video's own resolution if there is no preset."""
    keep_freed_memory()
    tracker = Tracker.from_pretrained(preset=preset, device="cpu") if preset else at_own_resolution()
    points = [(x, y) for x in (200, 600) for y in (150, 350)]
    ends = [time.perf_counter() for _ in tracked_frames(tracker, path, points)]
    taken = [1000 * (after - before) for before, after in pairwise(ends)]
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_ms": statistics.median(taken[:100]),
        "last_ms": statistics.median(taken[-100:]),
    }


SECTIONS = {
    "encoder": encoder,
    "correlation": correlation,
    "propagation": propagation,
    "tracking": tracking,
    "baselines": baselines,
    "scaling": scaling,
    "memory": memory,
    "length": length,
}


if __name__ == "__main__":
    main()
