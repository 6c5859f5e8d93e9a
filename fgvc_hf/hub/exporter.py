"""Flattening exporter: the package's modules as flat files, which is how a repository on the Hub has to carry code.

With `trust_remote_code=True` transformers fetches the module that `auto_map` names and follows its statements `from .name import ...`, each to
`name.py` in the same folder. It follows neither `from .a.b import ...` nor `from ..a import ...`. So the module `a/b.py` is exported as `a_b.py`,
and its relative imports become `from .a_b import ...`.
"""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


PACKAGE = Path(__file__).parents[1]
AUTO_MAP = {  # Auto class of transformers -> module and class
    "AutoConfig": "configuration_fgvc.FgvcConfig",
    "AutoModel": "modeling_fgvc.FgvcModel",
    "AutoImageProcessor": "image_processing_pil_fgvc.FgvcImageProcessorPil",
    "AutoProcessor": "processing_fgvc.FgvcProcessor",
}
PIPELINES = {
    "point-tracking": "pipelines.PointTrackingPipeline",
    "mask-propagation": "pipelines.MaskPropagationPipeline",
}
# save_pretrained copies the modules that the model's module imports. The model needs no pipeline, but a folder that it is saved to does.
PIPELINES_TRAVEL = """

from typing import TYPE_CHECKING


if TYPE_CHECKING:  # never runs: by this line save_pretrained copies pipelines.py too
    from .pipelines import MaskPropagationPipeline, PointTrackingPipeline
"""
FOLLOWED = re.compile(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", flags=re.MULTILINE)  # by transformers
RELATIVE_IMPORT = re.compile(r"from[ \t]+\.[\w.]*(?=[ \t]+import\b)")


def add_code(folder: str | Path) -> None:
    """Add the flattened code to a saved model and processor, and name the classes in their configuration files.

    Args:
        folder: Folder with `config.json` and `processor_config.json`.

    Raises:
        `ValueError`: As of [`flattened_code`].
        `OSError`: A configuration file is missing, or the folder cannot be written.
    """
    folder = Path(folder)
    for name, source in flattened_code().items():
        (folder / name).write_text(source, encoding="utf-8")
    pipelines = {task: {"impl": name, "pt": ["AutoModel"], "type": "multimodal"} for task, name in PIPELINES.items()}
    _update_json(folder / "config.json", {"auto_map": AUTO_MAP, "custom_pipelines": pipelines})
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    image_processor = processor["image_processor"] | {"auto_map": AUTO_MAP}
    _update_json(folder / "processor_config.json", {"auto_map": AUTO_MAP, "image_processor": image_processor})


def flattened_code() -> dict[str, str]:
    """File name and source of every module that the classes in `AUTO_MAP` and `PIPELINES` need.

    Raises:
        `ValueError`: A module has an import that cannot be flattened; the message gives its file and line.
    """
    roots = {name.partition(".")[0] for name in (*AUTO_MAP.values(), *PIPELINES.values())}
    code = flatten(PACKAGE, [PACKAGE / f"{root}.py" for root in sorted(roots)])
    code["modeling_fgvc.py"] += PIPELINES_TRAVEL
    return code


def flatten(package: Path, roots: list[Path]) -> dict[str, str]:
    """Flatten modules of a package, and all that they import from it, at import time or inside functions.

    Args:
        package (`Path`): Folder of the package.
        roots (list of `Path`): Files in it to start from.

    Returns:
        `dict[str, str]`: Sources by flat file name, such as `tracking_session.py` for `tracking/session.py`.

    Raises:
        `ValueError`: An import cannot be flattened, or two modules would get the same name.
    """
    code: dict[str, str] = {}
    origins: dict[str, Path] = {}
    pending = list(roots)
    while pending:
        path = pending.pop()
        name = f"{_flat_name(package, path)}.py"
        if name in code and origins[name] != path:
            raise ValueError(f"{path} and {origins[name]} would both be exported as {name}.")
        if name not in code:
            code[name], imported = _flatten_module(package, path)
            origins[name] = path
            pending += imported
    return dict(sorted(code.items()))


def _flat_name(package: Path, path: Path) -> str:
    return "_".join(path.relative_to(package).with_suffix("").parts)


def _flatten_module(package: Path, path: Path) -> tuple[str, list[Path]]:
    """Source of a module with flat imports, and the modules that it imports from the package."""
    source = path.read_text(encoding="utf-8")
    lines, imported = source.splitlines(keepends=True), {}
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.stmt | ast.expr) and _imports_otherwise(node, package.name):
            raise ValueError(f"{path}:{node.lineno}: cannot be flattened; write from .module import name.")
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        target = _imported_module(package, path, node)
        before, after = lines[node.lineno - 1][: node.col_offset], lines[node.lineno - 1][node.col_offset :]
        if before.strip() or not RELATIVE_IMPORT.match(after):
            raise ValueError(f"{path}:{node.lineno}: cannot be flattened; begin the line with from .module import.")
        lines[node.lineno - 1] = before + RELATIVE_IMPORT.sub(f"from .{_flat_name(package, target)}", after, count=1)
        imported[node.lineno] = target
    flat = "".join(lines)
    for match in FOLLOWED.finditer(flat):  # transformers reads lines, so it would follow text in a string as well
        line = flat.count("\n", 0, match.end()) + 1
        if line not in imported:
            raise ValueError(f"{path}:{line}: cannot be flattened; text there reads as a relative import.")
    return flat, list(imported.values())


def _imported_module(package: Path, path: Path, node: ast.ImportFrom) -> Path:
    """File of the module that a relative import takes names from."""
    if node.module is None:
        raise ValueError(f"{path}:{node.lineno}: cannot be flattened; write from .module import name.")
    target = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
    if not target.is_relative_to(package) or not target.is_file():
        raise ValueError(f"{path}:{node.lineno}: cannot be flattened; {'.' * node.level}{node.module} is no module.")
    return target


def _imports_otherwise(node: ast.stmt | ast.expr, package: str) -> bool:
    """Whether a node imports the package by its absolute name, or calls `import_module`."""
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == package for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return not node.level and (node.module or "").split(".")[0] == package
    if isinstance(node, ast.Call):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        return function in ("import_module", "__import__")
    return False


def _update_json(path: Path, values: Mapping[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | dict(values)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["add_code", "flatten", "flattened_code"]
