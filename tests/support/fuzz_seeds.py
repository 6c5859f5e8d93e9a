"""Whole files of every kind that is read from strangers, the damage that fits each, and files that are hostile by design."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import fuzz_mutations as mutations
import numpy as np
import torch
from media_files import CONTAINERS, write_media
from PIL import Image

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    Tracker,
    render_clip,
    save_session,
    save_tracks,
)
from fgvc_hf.applications.session_files import _checksum
from fgvc_hf.evaluation.flow_baselines import FlowBaseline
from fgvc_hf.evaluation.run import Task, evaluate
from fgvc_hf.hub.measured_results import weights_fingerprint
from fgvc_hf.io.masks import write_mask


FRAMES, HEIGHT, WIDTH = 8, 48, 64
KINDS = ("media", "points", "masks", "sessions", "checkpoints", "results")
Mutation = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Seed:
    """
    Files that belong together.

    Args:
        name (`str`): Of the file or folder that is read, within the folder of the case.
        files (`dict`): Content by name.
        mutations (`dict`): How files are damaged, by name; one of them is in each case. Empty for what is hostile as it is.
    """

    name: str
    files: dict[str, bytes]
    mutations: dict[str, Mutation]


def one_file(name: str, content: bytes, mutation: Mutation | None = None) -> Seed:
    return Seed(name, {name: content}, {name: mutation} if mutation else {})


def tiny_tracker() -> Tracker:
    """Random weights and few channels."""
    torch.manual_seed(0)
    config = FgvcConfig(
        hidden_sizes=[4, 4, 8],
        depths=[1, 1, 1],
        propagation_radius=3,
        num_context_frames=2,
        point_matching="templates",
    )
    return Tracker(FgvcModel(config).eval(), FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


def clip_frames() -> np.ndarray:
    return render_clip(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_points=0, seed=1).frames


def make_seeds(kind: str, folder: Path, tracker: Tracker) -> list[Seed]:
    """The seeds of a kind, hostile ones last; files are made in a folder."""
    makers = {
        "media": media_seeds,
        "points": points_seeds,
        "masks": masks_seeds,
        "sessions": sessions_seeds,
        "checkpoints": checkpoints_seeds,
        "results": results_seeds,
    }
    return makers[kind](folder, tracker)


# ---- Media ----------------------------------------------------------------------------------------------------------


def media_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    frames, seeds = clip_frames(), []
    for name, settings in CONTAINERS.items():
        try:
            write_media(folder / name, frames, *settings)
        except (av.FFmpegError, av.codec.codec.UnknownCodecError):
            continue  # PyAV cannot write it here
        seeds.append(one_file(name, (folder / name).read_bytes(), mutations.damaged))
    for suffix in ("png", "jpg", "webp", "bmp"):
        Image.fromarray(frames[0]).save(folder / f"picture.{suffix}")
        content = (folder / f"picture.{suffix}").read_bytes()
        seeds.append(one_file(f"picture.{suffix}", content, mutations.damaged))
    return seeds + picture_bombs()


def picture_bombs() -> list[Seed]:
    """Small files that claim pictures of gigabytes."""
    bombs = [
        one_file(f"bomb{i}.png", png(*size))
        for i, size in enumerate(((30000, 30000), (2**31 - 1, 2**31 - 1), (65535, 1300)))
    ]
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    gif += b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\0" + b"\x3b"
    webp = b"VP8X" + struct.pack("<IB3x", 10, 2) + (16383).to_bytes(3, "little") * 2
    bombs += [
        one_file("bomb.gif", gif),
        one_file("bomb.webp", b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp),
    ]
    tiff = struct.pack("<2sHIH", b"II", 42, 8, 5)
    for tag, kind, value in ((256, 4, 2**31), (257, 4, 2**31), (258, 3, 8), (262, 3, 1), (273, 4, 8)):
        tiff += struct.pack("<HHII", tag, kind, 1, value)
    return [*bombs, one_file("bomb.tif", tiff + bytes(4)), one_file("endless.tif", tiff + struct.pack("<I", 8))]


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---- Points and masks -----------------------------------------------------------------------------------------------


def points_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    """Files of prompts, files of tracks, and prompts of the command line (`.txt`)."""
    queries = [[0, 20.5, 30.0], [2, 40.0, 10.5], [5, 1.0, 47.0]]
    buffer = io.BytesIO()
    np.savez(buffer, queries=np.array(queries, np.float64))
    save_tracks(tracker.track(clip_frames(), queries), folder / "tracks.npz")
    rows = "\n".join(",".join(map(str, row)) for row in queries)
    prompts = ";".join(",".join(map(str, row)) for row in queries)
    return [
        one_file("points.csv", f"t,x,y\n{rows}\n".encode(), mutations.edited_csv),
        one_file("points.json", json.dumps({"queries": queries}).encode(), mutations.edited_json),
        one_file("points.npz", buffer.getvalue(), mutations.edited_npz),
        one_file("tracks.npz", (folder / "tracks.npz").read_bytes(), mutations.edited_npz),
        one_file("prompts.txt", prompts.encode(), mutations.edited_csv),
        *hostile_points(),
    ]


def hostile_points() -> list[Seed]:
    huge = mutations.npy_header(np.random.default_rng(0)).replace(b"\0", b"\0")
    claimed = huge[:10] + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }".ljust(117) + b"\n"
    zeros = mutations.npy(np.zeros((30_000_000, 3)))  # 720 MB, of 700 kB
    texts = (
        "0,1e300,1",
        "1e300,1,1",
        "-1,1,1",
        "nan,1,1",
        "0,inf,1",
        "0,1e309,1",
        "9" * 400 + ",1,1",
        ";" * 10_000,
        "0,1,1;" * 3000,
    )
    return [
        one_file("points.json", mutations.deep("[")),
        one_file("points.json", b'{"queries": ' * 50_000 + b"1" + b"}" * 50_000),
        one_file("points.json", b'{"queries": ' + mutations.deep("[") + b"}"),
        one_file("points.json", b'{"queries": [[0, ' + b"1" * 100_000 + b", 1]]}"),
        one_file("points.csv", b"t,x,y\n" + b"0," * 1_000_000),
        one_file("points.csv", b't,x,y\n0,1,"' + b"x" * 1_000_000),
        one_file("points.npz", mutations.zipped({"queries.npy": claimed})),
        one_file("points.npz", mutations.zipped({"queries.npy": zeros})),
        one_file("tracks.npz", mutations.zipped({"queries.npy": claimed, "tracks.npy": claimed})),
        *(one_file("prompts.txt", text.encode()) for text in texts),
    ]


def masks_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[10:30, 5:25], ids[20:40, 30:60] = 1, 2
    write_mask(folder / "palette.png", ids)
    write_mask(folder / "wide.png", ids * 300)
    Image.fromarray((ids > 0).astype(np.uint8) * 255).convert("1").save(folder / "bits.png")
    Image.fromarray(ids.astype(np.uint8)).save(folder / "grey.png")
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)[ids]
    Image.fromarray(colours).save(folder / "davis.png")
    Image.fromarray(np.dstack([colours, (ids > 0).astype(np.uint8) * 255])).save(folder / "alpha.png")
    for suffix in ("gif", "bmp", "tif"):
        Image.fromarray(ids.astype(np.uint8)).save(folder / f"grey.{suffix}")
    names = (
        "palette.png",
        "wide.png",
        "bits.png",
        "grey.png",
        "davis.png",
        "alpha.png",
        "grey.gif",
        "grey.bmp",
        "grey.tif",
    )
    return [one_file(name, (folder / name).read_bytes(), mutations.damaged) for name in names] + picture_bombs()


# ---- Sessions and checkpoints ---------------------------------------------------------------------------------------


def sessions_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    """Two steps of a live session with a point, a mask and a box; the same before its first frame."""
    live, frames = tracker.stream(), clip_frames()
    mask = np.zeros((HEIGHT, WIDTH), np.int32)
    mask[10:30, 5:25] = 7
    live.step(frames[0])
    live.add_points({1: (20.0, 30.0), 2: (40.0, 10.0)})
    live.add_masks(mask)
    live.add_boxes({9: (5.0, 5.0, 30.0, 30.0)})
    save_session(live, tracker, folder / "started.safetensors")
    for frame in frames[1:3]:
        live.step(frame)
    save_session(live, tracker, folder / "stepped.safetensors")
    contents = {name: (folder / name).read_bytes() for name in ("started.safetensors", "stepped.safetensors")}
    header, data = mutations.split_tensors(contents["stepped.safetensors"])
    lies = {name: {**entry, "shape": [10**12]} if "shape" in entry else entry for name, entry in header.items()}
    nested = header | {"__metadata__": {**header["__metadata__"], "session": mutations.deep("[").decode()}}
    return [
        *(one_file(name, content, mutations.edited_tensors) for name, content in contents.items()),
        *(one_file(name, content, edited_session) for name, content in contents.items()),
        one_file("lies.safetensors", mutations.join_tensors(lies, data)),
        one_file("deep.safetensors", sealed(nested, data)),
        one_file("empty.safetensors", struct.pack("<Q", 2) + b"{}"),
    ]


def edited_session(content: bytes, draw: np.random.Generator) -> bytes:
    """A session of which a stranger has changed a value, and made the checksum fit."""
    header, data = mutations.split_tensors(content)
    text = json.dumps(mutations.edited(json.loads(header["__metadata__"]["session"]), draw))
    return sealed(header | {"__metadata__": {"session": text}}, data)


def sealed(header: dict, data: bytes) -> bytes:
    """A session's file with the checksum of its content."""
    from safetensors.torch import load

    tensors = load(mutations.join_tensors(header, data))
    metadata = {"session": header["__metadata__"]["session"]}
    metadata["checksum"] = _checksum(metadata["session"], tensors)
    return mutations.join_tensors(header | {"__metadata__": metadata}, data)


def checkpoints_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    tracker.model.save_pretrained(folder / "checkpoint")
    tracker.processor.save_pretrained(folder / "checkpoint")
    files = {f"checkpoint/{file.name}": file.read_bytes() for file in sorted((folder / "checkpoint").iterdir())}
    config = json.loads(files["checkpoint/config.json"])
    how = {
        name: mutations.edited_tensors if name.endswith(".safetensors") else mutations.edited_json for name in files
    }
    seed = Seed("checkpoint", files, how)

    def changed(**fields) -> Seed:
        text = json.dumps(config | fields).encode()
        return Seed("checkpoint", files | {"checkpoint/config.json": text}, {})

    hostile: list[dict] = [
        *({"depths": [10**9] * 3}, {"hidden_sizes": [10**9] * 3}, {"depths": [10**6, 1, 1]}, {"projection_size": 10**9}),
        *({"hidden_sizes": [10**5] * 3}, {"num_attention_layers": 10**9, "fine_size": 64}, {"fine_size": 10**12}),
        *({"num_channels": 10**12}, {"attention_window": 10**12}, {"propagation_radius": 10**9}, {"num_context_frames": 10**9}),
        *({"hidden_sizes": [4] * 100_000}, {"template_radius": 10**9}, {"batch_norm_eps": 1e300}, {"label_sigma": 1e-300}),
        *({"window_radius": 10**9}, {"context_step": 10**9}, {"propagation_topk": 10**9}, {"search_radius": 1e300}),
        *({"kept_frame": 10**12}, {"refine_radius": 10**9}, {"output_stride": 10**9}, {"visibility_weights": [1e300] * 10}),
        *({"quantization_config": {"quant_method": "x"}}, {"dtype": "x"}, {"architectures": 5}, {"id2label": {"a": 1}}),
    ]  # fmt: skip
    deep = Seed("checkpoint", files | {"checkpoint/config.json": mutations.deep("[")}, {})
    within = Seed(
        "checkpoint", files | {"checkpoint/config.json": b'{"model_type": "fgvc", "a": ' + mutations.deep() + b"}"}, {}
    )
    return [seed, deep, within, *(changed(**fields) for fields in hostile)]


def results_seeds(folder: Path, tracker: Tracker) -> list[Seed]:
    """A result of `fgvc-hf evaluate` of the model (`result.json`), and the finished parts of an interrupted one."""
    metrics = {"mean": {"average_jaccard": 0.5, "occlusion_accuracy": 0.8}}
    settings = {"benchmark": "tapvid", "split": "davis", "weights": weights_fingerprint(tracker.model), "config": {}}
    result = {
        "metrics": metrics,
        "videos": {"one": {"counts": {}, "metrics": metrics}},
        "settings": settings,
        "versions": {"python": "3"},
        "seconds": {"one": 1.0},
    }
    seeds = [one_file("result.json", json.dumps(result).encode(), mutations.edited_json)]
    parts = interrupted_evaluation(folder)
    how = dict.fromkeys(parts, mutations.edited_json)
    for file in ("result.json", *parts):
        hostile = {"result.json": seeds[0].files["result.json"]} if file == "result.json" else parts
        name = "result.json" if file == "result.json" else "flow.json"
        seeds.append(Seed(name, hostile | {file: mutations.deep("[")}, {}))
    return [*seeds[:1], Seed("flow.json", parts, how), *seeds[1:]]


SEQUENCES = ("small-00", "small-01")
evaluate_flow = partial(evaluate, FlowBaseline("zero"), Task("flow", "rendered", "small", SEQUENCES))


def interrupted_evaluation(folder: Path) -> dict[str, bytes]:
    """The files of an evaluation that ended when all videos were measured, and before the result was written."""
    output = folder / "flow.json"
    evaluate_flow(output, {"baseline": "zero"}, report=lambda line: None)
    result = json.loads(output.read_text())
    parts = {
        "flow.json.parts/.settings.json": result["settings"] | {"data": "rendered", "versions": result["versions"]}
    }
    for name, video in result["videos"].items():
        parts[f"flow.json.parts/{name}.json"] = {"counts": video["counts"], "seconds": 1.0}
    return {name: json.dumps(content).encode() for name, content in parts.items()}
