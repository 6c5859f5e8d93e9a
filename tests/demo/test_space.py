"""The folder of the Space, and the command that starts the same page."""

import importlib.util
import re
import socket
import sys
import types
from pathlib import Path

import pytest
import yaml

from fgvc_hf.cli import main as cli
from fgvc_hf.demo import app, jobs, limits, page, server_state


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces_demo"


def test_the_card_has_what_a_space_needs_and_states_the_limits():
    _, front_matter, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front_matter)
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file() and card["license"] == "apache-2.0"
    assert len(card["short_description"]) <= 60  # the Hub cuts longer ones
    extra = re.search(
        r'demo = \["gradio\[mcp\]>=([\d.]+),<(\d+)"\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    version = tuple(map(int, card["sdk_version"].split(".")))
    assert extra and tuple(map(int, extra[1].split("."))) <= version[:2] < (int(extra[2]),)
    numbers = (limits.MAX_FRAMES, limits.MAX_MEGABYTES, limits.MAX_SIDE, limits.MAX_ASPECT, limits.MAX_POINTS)
    assert all(
        f"{number}" in text
        for number in (*numbers, limits.MAX_OBJECTS, jobs.WORKING.in_all - 1, server_state.MAX_CLIPS)
    )


def test_the_space_imports_zero_gpu_before_torch_and_serves_all_interfaces(monkeypatch):
    launched = []
    monkeypatch.setattr(app, "launch", lambda **arguments: launched.append(arguments))
    monkeypatch.setitem(sys.modules, "spaces", types.ModuleType("spaces"))
    source = (SPACE / "app.py").read_text(encoding="utf-8")
    assert source.index("import spaces") < source.index("from fgvc_hf")
    exec(compile(source, "app.py", "exec"), {"__name__": "__main__"})
    assert launched == [{"port": 7860, "host": "0.0.0.0"}]


def test_the_command_stays_on_this_machine_unless_it_is_asked(monkeypatch):
    launched = []
    monkeypatch.setattr(app, "launch", lambda **arguments: launched.append(arguments))
    assert cli.main(["demo"]) == cli.main(["demo", "--port", "8123", "--share", "yes"]) == 0
    assert launched == [{"port": None, "share": False}, {"port": 8123, "share": True}]


def test_user_errors_of_the_command_are_one_line(monkeypatch, capsys):
    assert cli.main(["demo", "--port", "99999"]) == 2
    assert capsys.readouterr().err == "fgvc-hf: error: --port must be from 1 to 65535, got 99999.\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == 'fgvc-hf: error: the demo needs Gradio: pip install "fgvc-hf[demo]"\n'


def test_a_port_that_is_taken_is_one_line_and_leaves_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "False")  # the command changes them; afterwards they are as before
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "port" in error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["style.css", "painter.js", "timeline.js", "how_it_works.md"])
def test_the_page_asks_no_other_host(name):
    assert "http" not in page.source(name)
