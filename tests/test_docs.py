"""README and the documentation: every code block runs, every command, path and link is right, and the site builds."""

import os
import re
import runpy
import shlex
import sys
import tomllib
from argparse import ArgumentParser
from pathlib import Path

import nbformat
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from nbclient import NotebookClient

import fgvc_hf
from fgvc_hf.cli.main import build_parser, main


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
LANGUAGES = {
    "python",
    "bash",
    "sh",
    "text",
}  # bash is run; sh is checked by its options, for it needs data, time or a network
NOT_RUN = {"docs/hub.md": 3}  # blocks marked <!-- not run: reason -->, by page
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def blocks(page: str, *languages: str) -> list[str]:
    """Blocks of a page in some languages that are not marked as not run."""
    return [body for mark, language, body in BLOCK.findall(TEXTS[page]) if language in languages and not mark]


def lines(*languages: str) -> list[str]:
    """Lines of all such blocks of all pages, each once, without comments."""
    found = [
        line.partition("#")[0].strip()
        for page in TEXTS
        for block in blocks(page, *languages)
        for line in block.splitlines()
    ]
    return sorted({line for line in found if line})


def test_languages_and_blocks_that_are_not_run():
    found = {page: BLOCK.findall(text) for page, text in TEXTS.items()}
    assert {language for page in found.values() for _, language, _ in page} == LANGUAGES
    marked = {page: sum(bool(mark) for mark, _, _ in of_page) for page, of_page in found.items()}
    assert {page: number for page, number in marked.items() if number} == NOT_RUN
    assert all(text.count("```") == 2 * len(found[page]) for page, text in TEXTS.items())  # none escapes the pattern


# ---- code -----------------------------------------------------------------------------------------------------------


WITH_PYTHON = [page for page in TEXTS if blocks(page, "python")]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page == "README.md" else pytest.mark.slow) for page in WITH_PYTHON]
)
def test_python_runs(page, folder_with_clip, evaluate_cache):
    """All blocks of a page in one namespace, as a reader would paste them one after the other."""
    namespace = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("line", lines("bash"))
def test_bash_runs(folder_with_clip, line):
    program, *arguments = shlex.split(line)
    assert program == "fgvc-hf" and main(arguments) == 0


class Parsed(Exception):
    """Raised in the place of what a program does with its arguments."""


@pytest.mark.parametrize("line", lines("sh"))
def test_shell_line_is_accepted(line, monkeypatch):
    """By the program's own parser. The commands of train.py and push_to_hub.py are run in tests of their own."""
    words = shlex.split(line)
    if words[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(.*?)\]", line)
        assert {extra for group in extras for extra in group.split(",")} <= set(EXTRAS)
        return
    if words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK)
        return
    words = words[3:] if words[0] == "torchrun" else words[1:]  # --nproc_per_node N
    for command in ("evaluate", "track", "track-dataset", "demo"):  # of fgvc-hf, or of `-m fgvc_hf.cli`
        if command in words:
            build_parser().parse_args(words[words.index(command) :])
            return
    parse = ArgumentParser.parse_args

    def parse_only(*arguments):
        parse(*arguments)
        raise Parsed

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.slow
def test_the_quick_start_runs():
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT / "docs"}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


# ---- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_paths_and_names_exist(page):
    """Files named in the text, and in a table row with names in its last column, what is defined in them."""
    text = TEXTS[page]
    for path in re.findall(r"`?((?:scripts|tests|fgvc_hf|docs|spaces_demo)/[\w/.-]+\.\w+)", text):
        assert (ROOT / path).is_file(), path
    for files, names in re.findall(
        r"^\|[^|]+\| ((?:`fgvc_hf/[^`]+\.py`(?:, )?)+) \| ((?:`\w+`(?:, )?)+) \|$", text, re.MULTILINE
    ):
        sources = "".join((ROOT / path).read_text(encoding="utf-8") for path in re.findall(r"`(.+?)`", files))
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^ *(?:def|class) {name}\b|^{name}\b", sources, re.MULTILINE), (files, name)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        assert "://" not in target or target.startswith("https://")
        if "://" not in target and path:
            file = (ROOT / page).parent / path
            assert file.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len(TEXTS["README.md"].split()) <= 1200


def test_the_reference_has_every_public_name():
    documented = set(re.findall(r"^::: [\w.]+\.(\w+)$", "\n".join(TEXTS.values()), re.MULTILINE))
    assert set(fgvc_hf.__all__) <= documented


def test_every_module_that_moved_is_in_the_migration_guide():
    for old, new in fgvc_hf._MOVED.items():
        assert f"| `fgvc_hf.{old}` | `fgvc_hf.{new}` |" in TEXTS["docs/migration.md"]


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """As `mkdocs build --strict`: a warning is an error."""
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    config.plugins.run_event("startup", command="build", dirty=False)
    build(config)
    reference = (tmp_path / "api" / "tracker.html").read_text(encoding="utf-8")
    assert 'id="fgvc_hf.tracker.Tracker.track"' in reference
    assert "[<code>" not in reference and '<a class="autorefs autorefs-internal"' in reference
