"""What goes to the Hub: the folder, its card, its code without the package, the cache, and the upload to a server of the test's own."""

import base64
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor, VideoWriter, load, model_card
from fgvc_hf.cli.main import main
from fgvc_hf.hub.repository import card_with_results, code_files, measured_results


ROOT = Path(__file__).parents[2]
REPO = "user/tiny"
OLD, NEW = "a" * 40, "b" * 40  # commits
POINTS = [(0, 12.0, 20.0), (1, 30.5, 8.0)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, request):
    """A folder as training leaves it, with a card and a picture."""
    folder = tmp_path_factory.mktemp("checkpoint")
    request.getfixturevalue("tiny_model").save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    card = model_card("tiny", "mit", "None: random weights.", "For tests.", "![Curve](curve.png)\n\n## Limits\n\nAll.")
    (folder / "README.md").write_text(card, encoding="utf-8")
    Image.new("RGB", (4, 4)).save(folder / "curve.png")
    return folder


@pytest.fixture(scope="module")
def result(checkpoint, tmp_path_factory, request):
    """What `fgvc-hf evaluate tapvid` measures on a clip of noise that drifts by a pixel per frame."""
    root = tmp_path_factory.mktemp("data")
    frames = root / "davis" / "JPEGImages" / "480p" / "noise"
    frames.mkdir(parents=True)
    clip = request.getfixturevalue("noise_clip")[:4]
    for t, frame in enumerate(clip):
        Image.fromarray(frame).save(frames / f"{t:05d}.jpg", quality=95)
    tracks = np.array([[20.0, 30.0], [40.0, 20.0]])[:, None] - np.arange(4)[None, :, None]
    arrays = {"points": tracks, "occluded": np.zeros((2, 4), bool), "size": np.array([56, 40])}
    (root / "tapvid_davis_32").mkdir()
    np.savez(root / "tapvid_davis_32" / "dev.npz", **{f"noise/{name}": array for name, array in arrays.items()})
    arguments = ["evaluate", "tapvid", "--data", str(root), "--split", "dev", "--checkpoint", str(checkpoint)]
    assert main([*arguments, "--dtype", "bfloat16", "--set", "temperature=0.5", "--output", str(root / "r.json")]) == 0
    return root / "r.json"


def run(*command, **variables):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def push():
    """`scripts/push_to_hub.py`, as a function of its arguments."""
    spec = importlib.util.spec_from_file_location("push_to_hub", ROOT / "scripts" / "push_to_hub.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return lambda *arguments: script.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def repository(checkpoint, result, push, tmp_path_factory):
    """The folder that would be uploaded, code included."""
    folder = tmp_path_factory.mktemp("dry-run") / "tiny"
    assert push(checkpoint, REPO, "--results", result, "--with-code", "--dry-run", folder) == 0
    return folder


def test_a_repository_holds_what_it_needs(repository):
    names = {path.name for path in repository.iterdir()}
    weights = {"config.json", "model.safetensors", "processor_config.json", "README.md", "curve.png"}
    assert names == weights | {path.name for path in code_files()}
    assert {"modeling_fgvc.py", "pipelines.py", "video.py", "inference_session_fgvc.py"} <= names


def test_commands_in_readme(hub, push, checkpoint, result, tmp_path):
    """As they stand, but for the folders."""
    source = shutil.copytree(checkpoint, tmp_path / "mine", ignore=shutil.ignore_patterns("README.md"))
    places = {"outputs/mine/last": source, "tapvid.json": result, "FOLDER": tmp_path / "out"}
    lines = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "push_to_hub.py" in line
    ]
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("python ")]
    assert len(commands) == 2
    for command in commands:
        assert push(*(places.get(word, word) for word in command)) == 0
    ((_, _, files),) = hub.commits
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0" and "* **Data**: My clips" in card.text


# ---- the card -----------------------------------------------------------------------------------------------------


def test_the_card_says_what_was_measured(repository, result):
    card, content = ModelCard.load(repository / "README.md"), json.loads(result.read_text())
    assert (card.data.license, card.data.library_name, card.data.model_name) == ("mit", "transformers", "tiny")
    stated = {(m.metric_args["average"], m.metric_name): m.metric_value for m in card.data.eval_results}
    assert stated == {
        (average, name): round(100 * value, 2)
        for average, metrics in content["metrics"].items()
        for name, value in metrics.items()
    }
    first = card.data.eval_results[0]
    assert (first.dataset_name, first.dataset_split) == ("TAP-Vid-DAVIS-32 dev (1 video)", "dev")
    assert (first.metric_args["dtype"], first.metric_args["temperature"]) == ("bfloat16", 0.5)  # as it was set
    assert f"| {stated['tapvid', 'delta_avg']} |" in card.text
    assert "None: random weights." in card.text and card.text.index("## Limits") < card.text.index("## Use")
    assert f'model="{REPO}", trust_remote_code=True' in card.text


def test_numbers_replace_older_ones_of_their_kind(repository, result, checkpoint):
    text = (repository / "README.md").read_text(encoding="utf-8")
    results = measured_results([result], FgvcModel.from_pretrained(checkpoint))
    assert ModelCard(card_with_results(text, "tiny", results)).text.count("## Evaluation") == 1
    assert len(ModelCard(card_with_results(text, "tiny", results)).data.eval_results) == len(results)
    results[0].metric_value = 12.34
    renewed = ModelCard(card_with_results(text, "tiny", results))
    assert len(renewed.data.eval_results) == len(results) and "| 12.34 |" in renewed.text
    results[0].metric_args = results[0].metric_args | {"preset": "fast"}
    assert len(ModelCard(card_with_results(text, "tiny", results)).data.eval_results) == len(results) + 1


@pytest.mark.parametrize(
    ("benchmark", "split", "task", "name"),
    [
        ("davis", "dev", "video-object-segmentation", "DAVIS-2017 dev (1 video)"),
        ("badja", None, "point-tracking", "BADJA (1 video)"),
        ("tapvid", "davis", "point-tracking", "TAP-Vid-DAVIS davis (1 video)"),
        ("newer", None, "newer", "newer (1 video)"),
    ],
)
def test_every_benchmark_has_its_name(checkpoint, result, tmp_path, benchmark, split, task, name):
    content = json.loads(result.read_text()) | {
        "metrics": {"mean": {"score": 0.51234, "iou_3": 0.1, "lost": float("nan")}}
    }
    content["settings"] |= {"benchmark": benchmark, "split": split}
    (tmp_path / "r.json").write_text(json.dumps(content))
    (measured,) = measured_results([tmp_path / "r.json"], FgvcModel.from_pretrained(checkpoint))
    assert (measured.task_type, measured.dataset_name) == (task, name)
    assert (measured.metric_name, measured.metric_value) == ("score", 51.23)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"weights": "0" * 64}}, "was measured on other weights"),
        ({"settings": {"baseline": "dis"}}, "measures the baseline dis, not this model"),
        ({"settings": {"split": None}}, "does not say what it was measured on"),
        ({"metrics": None}, "is no result of fgvc-hf evaluate"),
    ],
)
def test_numbers_of_something_else_are_refused(tiny_model, result, tmp_path, change, message):
    content = json.loads(result.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        measured_results([tmp_path / "r.json"], tiny_model)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# No header", "must begin with a YAML header"),
        ("---\ntags: [a]\n---\n# No licence", "must state a license"),
        ("---\nlicense: [mit\n---\n", "no valid YAML"),
    ],
)
def test_cards_that_lack_something_are_refused(card, message):
    with pytest.raises(ValueError, match=message):
        card_with_results(card, "tiny", [])


# ---- loading ------------------------------------------------------------------------------------------------------

WITHOUT_PACKAGE = """
import json, sys
sys.modules["fgvc_hf"] = None  # whoever imports the package fails
import numpy as np
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline
repo, clip, video, output, pinned = sys.argv[1:]
trust = {"trust_remote_code": True} | json.loads(pinned)
clip, points = np.load(clip), [(0, 12.0, 20.0), (1, 30.5, 8.0)]
ids = np.zeros(clip.shape[1:3], int); ids[10:30, 10:30] = 3
config, model = AutoConfig.from_pretrained(repo, **trust), AutoModel.from_pretrained(repo, dtype="float32", **trust)
processor, images = AutoProcessor.from_pretrained(repo, **trust), AutoImageProcessor.from_pretrained(repo, **trust)
assert config.temperature == model.config.temperature and images.to_dict() == processor.image_processor.to_dict()
found = {"model": model.track(clip, points, processor=processor).tracks, "own": model.track(clip, points).tracks}
tracker = pipeline("point-tracking", model=repo, dtype="float32", **trust)
found["pipeline"], found["video"] = tracker(clip, points=points)["tracks"], tracker(video, points=points)["tracks"]
found["masks"] = pipeline("mask-propagation", model=repo, dtype="float32", **trust)(clip, masks=ids)["masks"]
found |= {"temperature": config.temperature, "policy": processor.image_processor.resize_policy == "none"}
for name in ("av", "av.video"):
    sys.modules[name] = None
try:
    tracker(video, points=points)
except ImportError as error:
    found["without_av"] = str(error)
assert type(model).__module__.startswith("transformers_modules.") and not any(n.startswith("fgvc_hf.") for n in sys.modules)
np.savez(output, **found)
"""


@pytest.fixture(scope="module")
def expected(checkpoint, noise_clip, tmp_path_factory):
    """Tracks and masks by the package, and the clip as files."""
    folder = tmp_path_factory.mktemp("expected")
    clip = noise_clip[:5]
    np.save(folder / "clip.npy", clip)
    with VideoWriter(folder / "clip.mp4", 12, *clip.shape[1:3]) as writer:
        for frame in clip:
            writer.write(frame)
    model, processor = load(str(checkpoint), dtype="float32")
    ids = np.zeros(clip.shape[1:3], int)
    ids[10:30, 10:30] = 3
    return {
        "folder": folder,
        "clip": clip,
        "ids": ids,
        "tracks": model.track(clip, POINTS, processor=processor).tracks,
        "video": model.track(folder / "clip.mp4", POINTS, processor=processor).tracks,
        "masks": np.stack([masks for _, masks in model.propagate_masks(clip, ids, processor=processor)]),
    }


def load_without_package(repo, expected, home, **pinned):
    files = expected["folder"] / "clip.npy", expected["folder"] / "clip.mp4", home / "found.npz"
    done = run(sys.executable, "-c", WITHOUT_PACKAGE, repo, *files, json.dumps(pinned), HF_HOME=str(home))
    assert done.returncode == 0, done.stderr
    with np.load(home / "found.npz") as found:
        return dict(found)


def check(found, expected):
    for name, truth in {
        "model": "tracks",
        "own": "tracks",
        "pipeline": "tracks",
        "video": "video",
        "masks": "masks",
    }.items():
        np.testing.assert_array_equal(found[name], expected[truth], err_msg=name)


def test_a_repository_loads_without_the_package(repository, expected, tmp_path):
    found = load_without_package(repository, expected, tmp_path)
    check(found, expected)
    assert str(found["without_av"]) == "reading or writing video files needs PyAV: pip install av"


def test_a_repository_loads_with_the_package_and_asks_for_no_trust(repository, expected):
    model, processor = AutoModel.from_pretrained(repository), AutoProcessor.from_pretrained(repository)
    assert type(model) is FgvcModel and type(processor) is FgvcProcessor
    points = {"model": repository, "device": "cpu", "dtype": "float32"}
    found = {
        "model": model.track(expected["clip"], POINTS, processor=processor).tracks,
        "own": load(str(repository), dtype="float32")[0].track(expected["clip"], POINTS).tracks,
        "pipeline": pipeline("point-tracking", **points)(expected["clip"], points=POINTS)["tracks"],
        "video": pipeline("point-tracking", **points, trust_remote_code=True)(
            str(expected["folder"] / "clip.mp4"), points=POINTS
        )["tracks"],
        "masks": pipeline("mask-propagation", **points)(expected["clip"], masks=expected["ids"])["masks"],
    }
    check(found, expected)


def test_what_the_package_saves_does_not_name_code_that_is_not_there(repository, tmp_path):
    FgvcModel.from_pretrained(repository).save_pretrained(tmp_path)
    assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / "config.json").read_text()))


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


def test_the_offline_cache_is_enough_without_the_package(cache, expected):
    check(load_without_package(REPO, expected, cache), expected)


def test_a_pinned_revision_is_all_of_one_version(cache, expected, checkpoint):
    found = load_without_package(REPO, expected, cache, revision=OLD, code_revision=NEW)
    assert found["temperature"] == 0.5 and not found["policy"]
    np.testing.assert_array_equal(found["model"], found["own"])
    np.testing.assert_array_equal(found["model"], found["pipeline"])
    assert not np.array_equal(found["model"], expected["tracks"])


def test_the_package_pins_and_works_offline_too(cache, expected):
    clip = expected["folder"] / "clip.mp4"
    options = ["--points", "0,12,20;1,30.5,8", "--checkpoint", REPO, "--dtype", "float32"]
    code = f"""
import sys
from fgvc_hf import load
from fgvc_hf.cli.main import main
for name, revision in (("new", "main"), ("old", {OLD!r})):
    model, processor = load({REPO!r}, revision=revision)
    assert model.config.temperature == (0.5 if name == "old" else 0.07)
    policy = "stretch" if name == "old" else "none"
    assert processor.image_processor.resize_policy == model._own_processor().image_processor.resize_policy == policy
    command = ["track", {str(clip)!r}, *{options!r}, "--revision", revision, "--output", {str(cache)!r} + f"/{{name}}.npz"]
    assert main(command) == 0
sys.exit(main(command[:-4] + ["--revision", "v9", "--output", {str(cache)!r} + "/none.npz"]))
"""
    done = run(sys.executable, "-c", code, HF_HOME=str(cache))
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("fgvc-hf: error: "), done.stderr
    assert not (cache / "none.npz").exists()
    with np.load(cache / "new.npz") as new, np.load(cache / "old.npz") as old:
        np.testing.assert_array_equal(new["tracks"], expected["video"])
        assert not np.array_equal(old["tracks"], new["tracks"])


# ---- the upload ---------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload needs: repositories, branches, commits; the token is `good`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, kind, *rest = self.path.split("/")
        if self.headers["Authorization"] != "Bearer good":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        if "preupload" in rest:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "commit" in rest:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
            self.server.commits.append((self.path, lines[0]["value"]["summary"], files))
            return self.answer({"commitUrl": f"{self.server.url}/{REPO}/commit/{NEW}", "commitOid": NEW})
        if kind == "repos":
            return self.answer({"url": f"{self.server.url}/{REPO}"})
        self.server.other.append(self.path)
        self.answer({})

    def answer(self, content, status=200, headers=()):
        data = json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        """There is nothing in it yet."""
        self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def hub(monkeypatch):
    """A server that huggingface_hub takes for the Hub, with a token that it accepts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.commits, server.other = f"http://127.0.0.1:{server.server_port}", [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "good")
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_uploaded_is_the_folder_of_the_dry_run(hub, push, repository, checkpoint, result, capsys):
    options = ["--results", result, "--with-code", "--revision", "v1", "--message", "First"]
    assert push(checkpoint, REPO, *options) == 0 and capsys.readouterr().out.strip().endswith(f"/commit/{NEW}")
    ((path, message, files),) = hub.commits
    assert path.endswith("/commit/v1") and message == "First" and f"/api/models/{REPO}/branch/v1" in hub.other
    assert files == {file.name: file.read_bytes() for file in repository.iterdir()}


def test_methods_upload_as_well(hub, repository, checkpoint, result):
    """The model with all that belongs to it; the processor, as of all processors, itself alone."""
    model, processor = load(str(checkpoint), dtype="float32")
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert model.push_to_hub(REPO, processor, card, [result], with_code=True).endswith(f"/commit/{NEW}")
    processor.push_to_hub(REPO)
    with pytest.raises(ValueError, match="card must begin with a YAML header"):
        model.push_to_hub(REPO, processor)
    (_, _, whole), (_, _, part) = hub.commits
    assert whole == {file.name: file.read_bytes() for file in repository.iterdir() if file.name != "curve.png"}
    assert {"processor_config.json", "README.md"} == set(part)


@pytest.mark.parametrize(
    ("source", "repo", "options", "message"),
    [
        ("good", "a/b/c", [], "repo_id must be name or user/name"),
        ("good", REPO, ["--license", "mit"], "is the card, and states licence and data"),
        ("good", REPO, ["--results", "none.json"], "none.json: cannot be read (No such file"),
        ("bare", REPO, [], "bare: has no README.md; give --license and --data"),
        ("empty", REPO, ["--dry-run", "out"], "empty: is no checkpoint, it has no config.json"),
        ("weightless", REPO, ["--dry-run", "out"], "weightless: has no weights"),
        ("user/name", REPO, ["--dry-run", "out"], "user/name: must be a folder or a bundled checkpoint"),
        ("good", REPO, ["--dry-run", "bare"], "bare: exists already; give a new or an empty folder"),
    ],
)
def test_user_errors_are_one_line_and_leave_nothing(
    hub, push, checkpoint, tmp_path, monkeypatch, capsys, source, repo, options, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "good")
    shutil.copytree(checkpoint, "bare", ignore=shutil.ignore_patterns("README.md"))
    os.mkdir("empty")
    shutil.copytree(checkpoint, "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    refused(push, capsys, [source, repo, *options], message)
    assert not hub.commits and sorted(os.listdir()) == ["bare", "empty", "good", "weightless"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": ""}, "there is no token for the Hub: run hf auth login, or set HF_TOKEN"),
        ({"token": "bad"}, "user/tiny: cannot be uploaded (Client error '401 Unauthorized'"),
        ({"ENDPOINT": "http://127.0.0.1:9"}, "user/tiny: cannot be uploaded ([Errno 111]"),
        ({"HF_HUB_OFFLINE": True}, "user/tiny: cannot be uploaded (Cannot reach"),
    ],
)
def test_a_hub_that_cannot_be_reached_or_refuses(
    hub, push, checkpoint, monkeypatch, tmp_path, capsys, change, message
):
    monkeypatch.setenv("HF_TOKEN", change.pop("token", "good"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name, value in change.items():
        monkeypatch.setattr(constants, name, value)
    refused(push, capsys, [checkpoint, REPO], message)


def refused(push, capsys, arguments, message):
    assert push(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert message in captured.err
