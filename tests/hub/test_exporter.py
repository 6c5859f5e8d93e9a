"""The flattened code of a repository."""

import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from fgvc_hf.hub.exporter import AUTO_MAP, PACKAGE, PIPELINES, flatten, flattened_code


CORE = {
    "torch",
    "numpy",
    "PIL",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "tqdm",
}  # where transformers is installed


def package(folder: Path, **modules: str) -> Path:
    """A package of modules `name` or, for two underscores, `folder/name`."""
    for name, source in modules.items():
        path = folder / "tracker_package" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder / "tracker_package"


def test_imports_are_followed_and_rewritten(tmp_path):
    root = package(
        tmp_path,
        modeling="import math\nfrom .encoder.backbone import (\n    Encoder,\n)\n\nuse = Encoder\n",
        encoder__backbone="from ..shapes import size as size_of\n\n\ndef Encoder():\n    from .deep.head import Head\n    return Head\n",
        encoder__deep__head="from ...encoder.backbone import Encoder\nfrom ...shapes import size\n",
        shapes="size = 3\n",
        unused="from .nowhere import name\n",
    )
    assert flatten(root, [root / "modeling.py"]) == {
        "modeling.py": "import math\nfrom .encoder_backbone import (\n    Encoder,\n)\n\nuse = Encoder\n",
        "encoder_backbone.py": "from .shapes import size as size_of\n\n\ndef Encoder():\n    from .encoder_deep_head import Head\n"
        "    return Head\n",
        "encoder_deep_head.py": "from .encoder_backbone import Encoder\nfrom .shapes import size\n",
        "shapes.py": "size = 3\n",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from . import shapes", "write from .module import name"),
        ("from .folder import name", ".folder is no module"),
        ("from .nowhere import name", ".nowhere is no module"),
        ("from ..outside import name", "..outside is no module"),
        ("import tracker_package.shapes", "write from .module import name"),
        ("from tracker_package.shapes import size", "write from .module import name"),
        ("importlib.import_module('.shapes', __package__)", "write from .module import name"),
        ("x = 1; from .shapes import size", "begin the line with from .module import"),
        ("from .shapes \\\n    import size", "begin the line with from .module import"),
        ("'''\nfrom .folder.inner import name\n'''", "text there reads as a relative import"),
    ],
)
def test_what_cannot_be_flattened_is_refused_with_its_place(tmp_path, line, message):
    root = package(tmp_path, modeling=f"import importlib\n{line}\n", shapes="size = 3\n", folder__inner="name = 1\n")
    (tmp_path / "outside.py").write_text("name = 1\n")
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(root))}/modeling.py:[23]: cannot be flattened; .*{re.escape(message)}"
    ):
        flatten(root, [root / "modeling.py"])


def test_two_modules_of_one_flat_name_are_refused(tmp_path):
    root = package(
        tmp_path, modeling="from .a.b_c import x\nfrom .a_b.c import x\n", a__b_c="x = 1\n", a_b__c="x = 2\n"
    )
    with pytest.raises(ValueError, match="would both be exported as a_b_c.py"):
        flatten(root, [root / "modeling.py"])


def test_the_code_is_complete_and_needs_nothing_but_the_core(tmp_path):
    code = flattened_code()
    for name, source in code.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    named = {f"{name.partition('.')[0]}.py" for name in (*AUTO_MAP.values(), *PIPELINES.values())}
    assert named <= code.keys()
    for name in code:
        followed = {Path(path).name for path in get_relative_import_files(tmp_path / name)}
        assert followed <= code.keys(), name
        assert set(get_imports(tmp_path / name)) <= CORE | set(sys.stdlib_module_names), name
    # What save_pretrained copies with a model is all of it
    assert {Path(path).name for path in get_relative_import_files(tmp_path / "modeling_fgvc.py")} == code.keys()


def test_a_repository_holds_what_it_needs(repository):
    names = {path.name for path in repository.iterdir()}
    files = {"config.json", "model.safetensors", "processor_config.json", "README.md", "curve.png"}
    assert names == files | flattened_code().keys()
    assert {"modeling_fgvc.py", "pipelines.py", "io_video.py", "tracking_session.py"} <= names
    assert (PACKAGE / "tracking" / "session.py").is_file()
