"""Uploads, to a server of the test's own."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from hub_server import NEW, OLD, REPO, HubHandler
from huggingface_hub import ModelCard, constants

from fgvc_hf import FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.hub.repository import push_to_hub, write_repository


ROOT = Path(__file__).parents[2]


def test_documented_commands(hub, push, checkpoint, result, tmp_path):
    """As they stand, but for the folders."""
    source = shutil.copytree(checkpoint, tmp_path / "mine", ignore=shutil.ignore_patterns("README.md"))
    places = {"outputs/mine/last": source, "tapvid.json": result, "FOLDER": tmp_path / "out"}
    page = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if "push_to_hub.py" in line]
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("python ")]
    assert len(commands) == 2
    for command in commands:
        assert push(*(places.get(word, word) for word in command)) == 0
    ((_, _, files),) = hub.commits
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0" and "* **Data**: My clips" in card.text


def test_what_is_uploaded_is_the_folder_of_the_dry_run(hub, push, repository, checkpoint, result, capsys):
    options = ["--results", result, "--with-code", "--revision", "v1", "--message", "First"]
    assert push(checkpoint, REPO, *options) == 0 and capsys.readouterr().out.strip().endswith(f"/commit/{NEW}")
    ((path, message, files),) = hub.commits
    assert path.endswith("/commit/v1") and message == "First" and f"/api/models/{REPO}/branch/v1" in hub.other
    assert files == {file.name: file.read_bytes() for file in repository.iterdir()}


def test_a_tracker_is_uploaded_with_its_card_numbers_and_code(hub, repository, checkpoint, result):
    tracker = Tracker.from_pretrained(str(checkpoint), device="cpu", dtype="float32")
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert push_to_hub(tracker, REPO, card, [result], with_code=True).endswith(f"/commit/{NEW}")
    with pytest.raises(ValueError, match="card must begin with a YAML header"):
        push_to_hub(tracker, REPO, "")
    ((_, _, files),) = hub.commits
    assert files == {file.name: file.read_bytes() for file in repository.iterdir() if file.name != "curve.png"}


def test_methods_of_transformers_work_without_a_card(hub, checkpoint):
    """They upload the model or the processor alone, with transformers' default card."""
    model, processor = FgvcModel.from_pretrained(checkpoint), FgvcProcessor.from_pretrained(checkpoint)
    model.push_to_hub(REPO)
    model.push_to_hub(repo_id=REPO, commit_message="Third", revision="v1", token="good", private=True, tags=["video"])
    processor.push_to_hub(REPO)
    (path, _, plain), (branch, message, tagged), (_, _, part) = hub.commits
    assert path.endswith("/commit/main") and branch.endswith("/commit/v1") and message == "Third"
    assert set(plain) == set(tagged) == {"config.json", "model.safetensors", "README.md"}
    assert plain["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert json.loads(plain["config.json"]) == json.loads((checkpoint / "config.json").read_text())
    assert "library_name: transformers" in plain["README.md"].decode() and "- video" in tagged["README.md"].decode()
    assert set(part) == {"processor_config.json", "README.md"}


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


@pytest.mark.parametrize("load", [Tracker.from_pretrained, FgvcModel.from_pretrained, FgvcProcessor.from_pretrained])
def test_options_of_the_hub_reach_every_file(hub, load, monkeypatch, tmp_path):
    """Subfolder, revision, cache and token: the server sees them in each request, and offline nothing is asked for."""
    asked = []
    monkeypatch.setattr(
        HubHandler, "do_HEAD", lambda self: asked.append((self.path, self.headers["Authorization"])) or self.do_GET()
    )
    options = {"subfolder": "small", "revision": OLD, "cache_dir": tmp_path, "token": "mine"}
    with pytest.raises((OSError, ValueError)):
        load(REPO, **options)
    assert asked and all(
        f"{OLD}/small/" in path and token == "Bearer mine" for path, token in asked if "/resolve/" in path
    )
    asked.clear()
    with pytest.raises((OSError, ValueError)):
        load(REPO, **options, local_files_only=True)
    assert not asked


def test_a_folder_with_files_is_left_as_it_is(tiny_model, processor, tmp_path):
    card = "---\nlicense: apache-2.0\n---\n\n# tiny\n"
    (tmp_path / "README.md").write_text("My own notes.")
    with pytest.raises(OSError, match="exists already; give a new or an empty folder"):
        write_repository(Tracker(tiny_model, processor), tmp_path, "user/tiny", card)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "My own notes."}


def test_an_empty_folder_is_filled_where_it_is(tiny_model, processor, tmp_path):
    """Also through a link, and without a change of who may read it, such as the temporary folder of an upload."""
    card = "---\nlicense: apache-2.0\n---\n\n# tiny\n"
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("empty")
    write_repository(Tracker(tiny_model, processor), tmp_path / "link", "user/tiny", card)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty").stat().st_mode & 0o777 == 0o700
    assert {"README.md", "config.json", "model.safetensors"} < {path.name for path in (tmp_path / "empty").iterdir()}


def test_a_repository_that_cannot_be_written_leaves_no_folder(tiny_model, processor, tmp_path, monkeypatch):
    def full_disk(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fgvc_hf.hub.repository.add_code", full_disk)
    card = "---\nlicense: apache-2.0\n---\n\n# tiny\n"
    with pytest.raises(OSError, match="new: cannot be written"):
        write_repository(Tracker(tiny_model, processor), tmp_path / "new", "user/tiny", card, with_code=True)
    assert not list(tmp_path.iterdir())
