"""Small clips in all kinds of source, and a small checkpoint."""

import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tracked_datasets import rows_in

from fgvc_hf import VideoWriter, render_clip, track_dataset
from fgvc_hf.cli.main import main


FRAMES, SIDE = 4, 48


def write_clip(path, seed, frames=FRAMES, side=SIDE):
    clip = render_clip(num_frames=max(frames, 2), height=side, width=side, num_points=1, seed=seed)
    with VideoWriter(path, 12, side, side) as writer:
        for frame in clip.frames[:frames]:
            writer.write(frame)


@pytest.fixture(scope="session")
def checkpoint(tiny_model, processor, tmp_path_factory):
    """A folder with random weights, which follows points by templates at the size of the video."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with a subfolder and a name beyond ASCII: three clips, one of a single frame, and one that was cut off."""
    folder = tmp_path_factory.mktemp("source") / "clips"
    (folder / "späť").mkdir(parents=True)
    write_clip(folder / "a.mp4", 0)
    write_clip(folder / "späť" / "b c.mp4", 1)
    write_clip(folder / "one.mp4", 2, frames=1)
    content = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    return folder


@pytest.fixture
def copied(clips, tmp_path):
    """A copy of the clips, to change."""
    return shutil.copytree(clips, tmp_path / "clips")


@pytest.fixture(scope="session")
def parquet(clips, tmp_path_factory):
    """Two files in small row groups: the bytes of clips, one of them twice, and points; rows without the one or the other, and with wrong ones."""
    folder = tmp_path_factory.mktemp("parquet")
    a, b = ((clips / name).read_bytes() for name in ("a.mp4", "späť/b c.mp4"))
    rows = [
        (a, [[0.0, 10.0, 12.0], [1.0, 20.0, 30.5]]),
        (b, [[24.0, 24.0]]),  # (x, y) on the first frame
        (a, [[0.0, 10.0, 12.0], [1.0, 20.0, 30.5]]),
        (None, [[0.0, 1.0, 1.0]]),
        (a, None),
        (a, []),
        (a, [[0.0, 100.0, 1.0]]),  # outside the frame
        (a, [[9.0, 10.0, 1.0]]),  # after the last frame
        (b"no video", [[0.0, 1.0, 1.0]]),
        (a, [[0.0, float("nan"), 1.0]]),
    ]
    schema = pyarrow.schema([("clip", pyarrow.binary()), ("points", pyarrow.list_(pyarrow.list_(pyarrow.float64())))])
    for part, held in enumerate((rows[:4], rows[4:])):
        table = pyarrow.Table.from_pylist([{"clip": clip, "points": points} for clip, points in held], schema)
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet", row_group_size=3)
    return folder


@pytest.fixture(scope="session")
def webdataset(clips, tmp_path_factory):
    """A tar file of three samples: with points in JSON, with points in NPY, and without a video."""
    folder = tmp_path_factory.mktemp("tar")
    array = io.BytesIO()
    np.save(array, np.array([[0, 10.0, 12.0]]))
    content = (clips / "a.mp4").read_bytes()
    members = {
        "x/0.mp4": content,
        "x/0.points.json": json.dumps([[0, 10, 12]]).encode(),
        "x/1.points.json": array.getvalue(),
        "x/1.mp4": content,
        "y/2.points.json": b"[[0, 1, 1]]",
    }
    with tarfile.open(folder / "00.tar", "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return folder


@pytest.fixture(scope="session")
def lerobot(tmp_path_factory):
    """A LeRobotDataset v3 of two episodes, 3 and 2 frames long, of two cameras, each in one video."""
    root = tmp_path_factory.mktemp("lerobot") / "robot"
    lengths, rate, cameras = (3, 2), 12, ("observation.images.top", "observation.images.hand")
    video = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"], "info": None}
    numbers = {
        name: {"dtype": "int64", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index")
    }
    features = {
        "action": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **numbers,
        **dict.fromkeys(cameras, video),
    }
    info = {
        "codebase_version": "v3.0",
        "robot_type": "arm",
        "total_episodes": 2,
        "total_frames": 5,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": rate,
        "splits": {"train": "0:2"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    episodes, frames, start = [], [], 0
    for number, length in enumerate(lengths):
        place = {"chunk_index": 0, "file_index": 0}
        times = {"from_timestamp": start / rate, "to_timestamp": (start + length) / rate}
        episodes.append(
            {
                "episode_index": number,
                "tasks": ["push"],
                "length": length,
                "dataset_from_index": start,
                "dataset_to_index": start + length,
            }
            | {f"data/{name}": value for name, value in place.items()}
            | {f"meta/episodes/{name}": value for name, value in place.items()}
            | {f"videos/{camera}/{name}": value for camera in cameras for name, value in (place | times).items()}
            | {"prompts": [[0, 10.0, 12.0]]}
        )
        frames += [
            {
                "action": [0.5, t],
                "timestamp": t / rate,
                "frame_index": t,
                "episode_index": number,
                "index": start + t,
                "task_index": 0,
            }
            for t in range(length)
        ]
        start += length
    for folder, rows in (("meta/episodes", episodes), ("data", frames)):
        (root / folder / "chunk-000").mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / folder / "chunk-000" / "file-000.parquet")
    tasks = pyarrow.table({"task_index": [0], "__index_level_0__": ["push"]})
    pyarrow.parquet.write_table(tasks, root / "meta" / "tasks.parquet")
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for seed, camera in enumerate(cameras):
        (root / "videos" / camera / "chunk-000").mkdir(parents=True)
        write_clip(root / "videos" / camera / "chunk-000" / "file-000.mp4", seed, frames=5)
    return root


@pytest.fixture
def run(checkpoint, tmp_path):
    """A function that tracks a source into `tmp_path/tracks`, and gives the rows by their source."""

    def run(source, points="grid:2", name="tracks", **options):
        track_dataset(source, tmp_path / name, points, checkpoint=checkpoint, **options)
        return rows_in(tmp_path / name)

    return run


@pytest.fixture
def command(checkpoint, tmp_path, capsys):
    """A function that runs the command, and gives its status and what it printed."""

    def command(*arguments, destination=tmp_path / "tracks", points="grid:2"):
        source, *options = map(str, arguments)
        words = [source, str(destination), "--points", points, "--checkpoint", checkpoint, *options]
        status = main(["track-dataset", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command
