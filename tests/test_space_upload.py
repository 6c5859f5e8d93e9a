"""`scripts/push_space.py`: what it writes is a Space that starts by itself."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import gradio
import pytest
import yaml
from environments import environment_without_package, without_source_tree
from scripts_as_functions import script_main

import fgvc_hf


ROOT = Path(__file__).parents[1]
WHEEL = f"fgvc_hf-{fgvc_hf.__version__}-py3-none-any.whl"
SERVE = """
import json, sys, time
from gradio_client import Client
for _ in range(240):
    try:
        client = Client(sys.argv[1], verbose=False)
        break
    except Exception:  # whatever a server says that is still starting
        time.sleep(0.5)
print(json.dumps(sorted(client.view_api(return_format="dict")["named_endpoints"])))
"""


@pytest.fixture(scope="module")
def push_space():
    return script_main("push_space")


def a_wheel(folder, name=WHEEL):
    (folder / name).write_bytes(b"wheel")
    return folder / name


def test_the_folder_is_a_space_with_its_wheel(push_space, tmp_path):
    assert push_space("--dry-run", tmp_path / "space", "--wheel", a_wheel(tmp_path)) == 0
    space = tmp_path / "space"
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "requirements.txt", WHEEL}
    assert (space / "requirements.txt").read_text() == f"./{WHEEL}[demo]\n"
    card = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (
        card["sdk"] == "gradio" and card["sdk_version"] == gradio.__version__ and (space / card["app_file"]).is_file()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either the name of the Space"),
        (["a/b", "--dry-run", "out"], "give either the name of the Space"),
        (["a/b/c"], "repo_id must be name or user/name"),
        (["--dry-run", "out", "--wheel", "none.whl"], "none.whl: there is no such file"),
        (["--dry-run", "out", "--wheel", "fgvc_hf-0.0.1-py3-none-any.whl"], f"must be {WHEEL}"),
        (["--dry-run", "full", "--wheel", WHEEL], "full: exists already"),
    ],
)
def test_user_errors_are_one_line_and_leave_nothing(push_space, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    for name in (WHEEL, "fgvc_hf-0.0.1-py3-none-any.whl", "full/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert push_space(*options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_space_starts_offline_from_its_wheel_alone_and_serves(push_space, tmp_path):
    assert push_space("--dry-run", tmp_path / "space") == 0
    space, python = (
        tmp_path / "space",
        environment_without_package(tmp_path / "python", Path(sysconfig.get_path("purelib"))),
    )
    requirement = (space / "requirements.txt").read_text().strip()
    wheel = space / re.fullmatch(r"\./(\S+\.whl)\[demo\]", requirement)[1]
    (packages,) = (tmp_path / "python").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)  # pip would, and take the other requirements as they are
    environment = without_source_tree() | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    where = subprocess.run(
        [python, "-I", "-c", "import fgvc_hf; print(fgvc_hf.__file__)"], capture_output=True, text=True, cwd=space
    )
    assert where.stdout.startswith(str(packages))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = (space / "app.py").read_text(encoding="utf-8")
    (space / "app.py").write_text(app.replace("7860", str(port)), encoding="utf-8")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([python, "app.py"], cwd=space, env=environment, stdout=log, stderr=log)
        try:
            command = [sys.executable, "-c", SERVE, f"http://127.0.0.1:{port}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, (tmp_path / "log").read_text()
            assert json.loads(done.stdout.splitlines()[-1])
            server.send_signal(signal.SIGINT)
            assert server.wait(5) == 0
        finally:
            server.kill()
            server.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
    shutil.rmtree(tmp_path / "python")
