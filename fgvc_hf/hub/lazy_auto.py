"""The Auto classes and pipelines of transformers know FGVC from `import fgvc_hf` on, whichever of the two packages is imported first.

transformers and torch take seconds to import, so the package does not import them itself. Instead it waits for the modules of transformers that
hold the tables of model types, and adds the names of its classes to each table once it is there. transformers then finds the classes under
`transformers.models.fgvc`, a second name of this package, when they are asked for. Where the tables were there before, the classes are registered
at once.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


PACKAGE, MODEL_TYPE, REGISTRATION = "fgvc_hf", "fgvc", "fgvc_hf.hub.auto"
AUTO = "transformers.models.auto"
TABLES = {  # module of transformers -> its table, and the entry of FGVC
    f"{AUTO}.configuration_auto": ("CONFIG_MAPPING_NAMES", "FgvcConfig"),
    f"{AUTO}.modeling_auto": ("MODEL_MAPPING_NAMES", "FgvcModel"),
    f"{AUTO}.processing_auto": ("PROCESSOR_MAPPING_NAMES", "FgvcProcessor"),
    f"{AUTO}.image_processing_auto": ("IMAGE_PROCESSOR_MAPPING_NAMES", {"pil": "FgvcImageProcessorPil"}),
}
PIPELINES, OWN_PIPELINES = "transformers.pipelines", "fgvc_hf.pipelines"


def _complete(module: ModuleType) -> None:
    """Add FGVC to a module that has just been imported."""
    name = module.__name__
    if name in TABLES:
        table, entry = TABLES[name]
        sys.modules.setdefault(f"transformers.models.{MODEL_TYPE}", sys.modules[PACKAGE])
        getattr(module, table).setdefault(MODEL_TYPE, entry)
    elif name == OWN_PIPELINES or OWN_PIPELINES not in sys.modules:  # otherwise it is being imported, and comes next
        importlib.import_module(REGISTRATION)


class _WhenImported(MetaPathFinder):
    """Finds the modules that are waited for as the other finders do, and completes them after their import."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname not in (*TABLES, PIPELINES, OWN_PIPELINES):
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _WhenImported))
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            setattr(spec.loader, "exec_module", _then_complete(spec.loader.exec_module))  # noqa: B010
        return spec


def _then_complete(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_complete(module: ModuleType) -> None:
        execute(module)
        _complete(module)

    return execute_and_complete


def make_known() -> None:
    """Make the classes known to transformers: at once if its tables are there, else as soon as they are."""
    if any(name in sys.modules for name in (*TABLES, PIPELINES)):
        importlib.import_module(REGISTRATION)
    elif not any(type(finder).__name__ == _WhenImported.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


__all__ = ["make_known"]
