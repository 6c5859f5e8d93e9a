"""A repository is loaded with and without the package, as pushed and as saved again, from a folder and from the cache of a download."""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from environments import environment_without_package
from forked_interpreters import failing
from hub_server import NEW, OLD, REPO
from transformers import AutoModel, AutoProcessor, pipeline

from fgvc_hf import FgvcModel, FgvcProcessor, Tracker, VideoWriter


ROOT = Path(__file__).parents[2]
POINTS = [(0, 12.0, 20.0), (1, 30.5, 8.0)]

IMPORTS = """
import importlib.util, sys
assert importlib.util.find_spec("fgvc_hf") is None
import numpy as np
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline
"""
WITHOUT_PACKAGE = """
trust = {"trust_remote_code": True} | options
clip, video, points = np.load(f"{folder}/clip.npy"), f"{folder}/clip.mp4", [(0, 12.0, 20.0), (1, 30.5, 8.0)]
ids = np.zeros(clip.shape[1:3], int); ids[10:30, 10:30] = 3
config, model = AutoConfig.from_pretrained(repo, **trust), AutoModel.from_pretrained(repo, dtype="float32", **trust)
processor, images = AutoProcessor.from_pretrained(repo, **trust), AutoImageProcessor.from_pretrained(repo, **trust)
assert config.temperature == model.config.temperature and images.to_dict() == processor.image_processor.to_dict()
assert type(model).__module__.startswith("transformers_modules.")

session = processor.init_video_session(clip)
for obj_id, (t, x, y) in enumerate(points):
    processor.add_inputs_to_inference_session(session, frame_idx=t, obj_ids=[obj_id], input_points=[(x, y)])
tracks = np.full((2, len(clip), 2), np.nan, np.float32)
for result in model.propagate_in_video_iterator(session):
    tracks[result.ids, result.frame_idx] = result.points
assert np.array_equal(processor.post_process_point_tracking(result, session).tracks[:, -1], tracks[:, -1])  # one result alone
tracker = pipeline("point-tracking", model=repo, dtype="float32", **trust)
propagator = pipeline("mask-propagation", model=repo, dtype="float32", **trust)
found = {"session": tracks, "pipeline": tracker(clip, points=points)["tracks"], "masks": propagator(clip, masks=ids)["masks"]}
found |= {"video": tracker(video, points=points)["tracks"]}
found |= {"temperature": config.temperature, "policy": processor.image_processor.resize_policy == "none"}
for name in ("av", "av.video"):
    sys.modules[name] = None
try:
    tracker(video, points=points)
except ImportError as error:
    found["without_av"] = str(error)
np.savez(f"{saved}/found.npz", **found)
model.save_pretrained(f"{saved}/parts")
processor.save_pretrained(f"{saved}/parts")
tracker.save_pretrained(f"{saved}/pipeline")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with all that is installed here but the package."""
    packages = Path(sysconfig.get_path("purelib"))
    return environment_without_package(tmp_path_factory.mktemp("environment"), packages)


@pytest.fixture(scope="module")
def expected(checkpoint, noise_clip, tmp_path_factory):
    """Tracks and masks by the package, and the clip as files."""
    folder = tmp_path_factory.mktemp("expected")
    clip = noise_clip[:5]
    np.save(folder / "clip.npy", clip)
    with VideoWriter(folder / "clip.mp4", 12, *clip.shape[1:3]) as writer:
        for frame in clip:
            writer.write(frame)
    tracker = Tracker.from_pretrained(str(checkpoint), dtype="float32", device="cpu")
    ids = np.zeros(clip.shape[1:3], int)
    ids[10:30, 10:30] = 3
    tracks = tracker.track(clip, POINTS).tracks
    return {
        "folder": folder,
        "clip": clip,
        "ids": ids,
        "session": tracks,
        "pipeline": tracks,
        "video": tracker.track(folder / "clip.mp4", POINTS).tracks,
        "masks": np.stack([masks for _, masks in tracker.propagate_masks(clip, ids)]),
    }


def environment(**variables):
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | offline | {name: str(value) for name, value in variables.items()}


def run(*command, **variables):
    options = {"env": environment(**variables), "timeout": 300}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done


def load_without_package(python, repositories, expected, home, **options):
    """What the code of repositories finds, by the folder where they are saved again to `parts` and `pipeline`: one may be loaded from there."""
    codes = {}
    for saved, repo in repositories.items():
        saved.mkdir()
        given = (
            f"repo, folder, saved, options = {str(repo)!r}, {str(expected['folder'])!r}, {str(saved)!r}, {options!r}"
        )
        codes[str(saved)] = IMPORTS + given + WITHOUT_PACKAGE
    failed, errors = failing([python, "-I"], "import torch, numba, av" + IMPORTS, codes, env=environment(HF_HOME=home))
    assert not failed, errors
    return [dict(np.load(saved / "found.npz")) for saved in repositories]


def check(found, expected):
    for name in ("session", "pipeline", "video", "masks"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_a_repository_loads_without_the_package_and_again_once_saved(python, repository, expected, tmp_path):
    first, kinds = tmp_path / "first", ("parts", "pipeline")
    repositories = {first: repository} | {tmp_path / kind: first / kind for kind in kinds}
    all_found = load_without_package(python, repositories, expected, tmp_path)
    for found in all_found:
        check(found, expected)
    assert str(all_found[0]["without_av"]) == "reading or writing video files needs PyAV: pip install av"
    code = {path.name for path in repository.glob("*.py")}
    assert all({path.name for path in (first / kind).glob("*.py")} == code for kind in kinds)


@pytest.fixture(scope="module")
def cache(repository, tmp_path_factory):
    """A Hugging Face home that holds two versions of the repository, as if both had been downloaded; the old one differs."""
    home = tmp_path_factory.mktemp("home")
    root = home / "hub" / f"models--{REPO.replace('/', '--')}"
    for commit in (OLD, NEW):
        snapshot = root / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in repository.iterdir():
            content = file.read_bytes()
            if commit == OLD and file.name == "config.json":
                content = json.dumps(json.loads(content) | {"temperature": 0.5}).encode()
            if commit == OLD and file.name == "processor_config.json":
                content = content.replace(b'"none"', b'"stretch"')
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(content)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(NEW)
    return home


@pytest.mark.slow
def test_the_offline_cache_is_enough_without_the_package(python, cache, expected, tmp_path):
    first = tmp_path / "first"
    repositories = {first: REPO, tmp_path / "again": first / "parts"}
    for found in load_without_package(python, repositories, expected, cache):
        check(found, expected)


@pytest.mark.slow
def test_a_pinned_revision_is_all_of_one_version(python, cache, expected, tmp_path):
    pinned = {"revision": OLD, "code_revision": NEW}
    (found,) = load_without_package(python, {tmp_path / "saved": REPO}, expected, cache, **pinned)
    assert found["temperature"] == 0.5 and not found["policy"]
    np.testing.assert_array_equal(found["session"], found["pipeline"])
    assert not np.array_equal(found["session"], expected["session"])


@pytest.mark.slow
def test_usage_in_the_card_runs_as_it_stands(python, repository, cache, expected):
    """The first block uses the package, the others work without it."""
    card = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 3 and all(REPO in block for block in blocks)
    go = f"import os; os.chdir({str(expected['folder'])!r})\n"
    run(sys.executable, "-c", f"{go}{blocks[0]}\nassert tracks.tracks.shape == (1, 5, 2)", HF_HOME=str(cache))
    pipeline_finds = "assert tracks['tracks'].shape == (1, 5, 2)"
    session_finds = "assert tracks.tracks.shape == (1, 5, 2)"
    run(python, "-I", "-c", "\n".join([go, blocks[1], pipeline_finds, blocks[2], session_finds]), HF_HOME=str(cache))


def test_a_repository_loads_with_the_package_and_asks_for_no_trust(repository, expected, tmp_path):
    model, processor = (
        AutoModel.from_pretrained(repository, dtype="float32"),
        AutoProcessor.from_pretrained(repository),
    )
    assert type(model) is FgvcModel and type(processor) is FgvcProcessor
    options = {"model": repository, "device": "cpu", "dtype": "float32"}
    tracker = pipeline("point-tracking", **options)
    trusting = pipeline("point-tracking", **options, trust_remote_code=True)
    found = {
        "session": Tracker(model, processor).track(expected["clip"], POINTS).tracks,
        "pipeline": tracker(expected["clip"], points=POINTS)["tracks"],
        "video": trusting(str(expected["folder"] / "clip.mp4"), points=POINTS)["tracks"],
        "masks": pipeline("mask-propagation", **options)(expected["clip"], masks=expected["ids"])["masks"],
    }
    check(found, expected)
    tracker.save_pretrained(tmp_path)
    again = pipeline("point-tracking", **options | {"model": str(tmp_path)})
    np.testing.assert_array_equal(again(expected["clip"], points=POINTS)["tracks"], expected["pipeline"])


def test_what_the_package_saves_names_no_code(repository, tmp_path):
    FgvcModel.from_pretrained(repository).save_pretrained(tmp_path)
    assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / "config.json").read_text()))
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.slow
def test_the_package_pins_and_works_offline_too(cache, expected):
    clip = expected["folder"] / "clip.mp4"
    options = ["--points", "0,12,20;1,30.5,8", "--checkpoint", REPO, "--dtype", "float32"]
    code = f"""
import sys
from fgvc_hf import Tracker
from fgvc_hf.cli.main import main
for name, revision in (("new", "main"), ("old", {OLD!r})):
    tracker = Tracker.from_pretrained({REPO!r}, revision=revision)
    assert tracker.model.config.temperature == (0.5 if name == "old" else 0.07)
    assert tracker.processor.image_processor.resize_policy == ("stretch" if name == "old" else "none")
    command = ["track", {str(clip)!r}, *{options!r}, "--revision", revision, "--output", {str(cache)!r} + f"/{{name}}.npz"]
    assert main(command) == 0
assert main(command[:-4] + ["--revision", "v9", "--output", {str(cache)!r} + "/none.npz"]) == 2
"""
    done = run(sys.executable, "-c", code, HF_HOME=str(cache))
    assert done.stderr.splitlines()[-1].startswith("fgvc-hf: error: "), done.stderr
    assert not (cache / "none.npz").exists()
    with np.load(cache / "new.npz") as new, np.load(cache / "old.npz") as old:
        np.testing.assert_array_equal(new["tracks"], expected["video"])
        assert not np.array_equal(old["tracks"], new["tracks"])


def test_a_subfolder_of_a_folder(checkpoint, tmp_path):
    import shutil

    shutil.copytree(checkpoint, tmp_path / "models" / "tiny")
    tracker = Tracker.from_pretrained(
        tmp_path / "models", subfolder="tiny", device="cpu", dtype="float32", local_files_only=True
    )
    assert tracker.processor.image_processor.resize_policy == "none"
    with pytest.raises(ValueError, match="has no config.json"):
        Tracker.from_pretrained(tmp_path / "models", subfolder="none")
