"""The structure of the package: imports run one way, names are unique, files and functions fit a screen."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import fgvc_hf


PACKAGE = Path(fgvc_hf.__file__).parent
ROOT = PACKAGE.parent
# From the bottom up: a module imports from its own line or from lines above it in this list
FLOORS = [
    ["coordinates", "configuration_fgvc", "kernels", "metrics"],
    ["matching"],
    ["tracking"],
    ["encoder"],
    ["modeling_fgvc"],
    ["image_processing_pil_fgvc", "io"],
    ["processing_fgvc"],
    ["tracker"],
    ["pipelines"],
    ["applications", "conversion", "data", "evaluation", "hub"],
    ["training"],
    ["demo"],
    ["cli"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
LONG_FUNCTIONS = {  # "file:function" -> why it is longer than 60 lines
    "fgvc_hf/kernels/window_losses_triton.py:_gradient_kernel": "27 lines are the arguments of one kernel",
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "evaluate_modules" not in path.parts)
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def dotted(path: Path) -> str:
    """`fgvc_hf.io.video` of a path; that of a folder for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or in a function."""
    found, package = set(), dotted(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "fgvc_hf"}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] == "fgvc_hf":
                full = {f"{module}.{alias.name}" for alias in node.names}
                found |= (full & NAMES) or {module}
    return found


def wing(module: str) -> str:
    """The folder or root module that a module is in; empty for the package itself."""
    return (module.split(".") + [""])[1]


def test_every_module_is_on_a_floor():
    assert {wing(dotted(path)) for path in MODULES} - {""} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_import_runs_up(path):
    own = wing(dotted(path))
    if not own:
        return  # the package itself names its public classes, which are imported when they are used
    up = {module for module in imports(path) if wing(module) and FLOOR[wing(module)] > FLOOR[own]}
    assert not up, f"{dotted(path)} imports {sorted(up)}, which are above it"


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names along a circle of a graph; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := visit(other, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


def test_no_circle_of_modules_or_of_wings():
    modules = {dotted(path): imports(path) - {"fgvc_hf", dotted(path)} for path in MODULES if wing(dotted(path))}
    assert not circle(modules)
    wings = defaultdict(set)
    for module, others in modules.items():
        wings[wing(module)] |= {wing(other) for other in others} - {wing(module), ""}
    assert not circle(wings)


def test_the_check_finds_circles():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}})


def test_scripts_import_the_package_and_not_each_other():
    names = {path.stem for path in SCRIPTS}
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level and node.module not in names, f"{path.name} imports {node.module}"
            elif isinstance(node, ast.Import):
                assert not names & {alias.name for alias in node.names}, path.name


def test_the_root_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert len([path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]) <= 16


def test_no_two_modules_have_one_name():
    names = [path.stem for path in MODULES if path.stem not in ("__init__", "__main__")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit_a_screen(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60 or f"{path.relative_to(ROOT)}:{node.name}" in LONG_FUNCTIONS, f"{node.name}: {lines}"


@pytest.mark.parametrize("old", sorted(fgvc_hf._MOVED))
def test_an_old_import_path_names_the_new_one(old):
    new = f"fgvc_hf.{fgvc_hf._MOVED[old]}"
    assert new in NAMES
    package, _, name = f"fgvc_hf.{old}".rpartition(".")
    for statement in (f"import fgvc_hf.{old}", f"from {package} import {name}"):
        with pytest.raises(ImportError, match=f"fgvc_hf.{old} has moved: import from {new} instead"):
            exec(statement, {})
