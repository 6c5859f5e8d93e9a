"""Whoever imports the package can use the Auto classes and pipelines of transformers, in every order of imports."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]

AUTO = """
model = AutoModel.from_pretrained(folder)
assert type(model).__name__ == "FgvcModel" and type(model).__module__ == "fgvc_hf.modeling_fgvc"
assert type(AutoModel.from_config(AutoConfig.from_pretrained(folder))) is type(model)
assert type(AutoConfig.for_model("fgvc", hidden_sizes=[8, 16, 32])).__name__ == "FgvcConfig"
for place in (folder, folder + "/processor"):
    assert type(AutoProcessor.from_pretrained(place)).__name__ == "FgvcProcessor"
    assert type(AutoImageProcessor.from_pretrained(place)).__name__ == "FgvcImageProcessorPil"
"""
PIPELINE = """
assert {"point-tracking", "mask-propagation"} <= set(transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks())
pipe = transformers.pipeline("point-tracking", model=folder, device="cpu")
assert pipe(np.zeros((2, 40, 56, 3), np.uint8), points=[(0, 8, 9)])["tracks"].shape == (1, 2, 2)
assert type(transformers.pipeline("mask-propagation", model=pipe.model, processor=pipe.processor)).__module__ == "fgvc_hf.pipelines"
"""
NAMES = "AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor"
ORDERS = {
    "the package first": ("import fgvc_hf", f"from transformers import {NAMES}"),
    "transformers first": ("import transformers", "import fgvc_hf", f"from transformers import {NAMES}"),
    "the classes first": (f"from transformers import {NAMES}, pipeline", "import fgvc_hf"),
    "one class first": ("from transformers import AutoConfig", "import fgvc_hf", f"from transformers import {NAMES}"),
    "modules of transformers": ("import fgvc_hf", f"from transformers.models.auto import {NAMES}"),
    "a module of the package": ("from fgvc_hf.modeling_fgvc import FgvcModel", f"from transformers import {NAMES}"),
    "another one": ("from fgvc_hf.processing_fgvc import FgvcProcessor", f"from transformers import {NAMES}"),
    "its pipelines": ("from fgvc_hf.pipelines import PointTrackingPipeline", f"from transformers import {NAMES}"),
    "a name that needs no torch": ("from fgvc_hf import default_checkpoint", f"from transformers import {NAMES}"),
    "a class of the package": ("from fgvc_hf import Tracker", f"from transformers import {NAMES}"),
    "both, by turns": (
        "import fgvc_hf",
        "import transformers",
        "import fgvc_hf.io.video",
        f"from transformers import {NAMES}",
    ),
    "twice": ("import fgvc_hf, importlib", "importlib.reload(fgvc_hf)", f"from transformers import {NAMES}"),
}


def run(code: str, *arguments) -> str:
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(checkpoint, processor):
    """A checkpoint, with a folder of its processor alone."""
    processor.save_pretrained(checkpoint / "processor")
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "use"),
    [(order, [PIPELINE + AUTO, AUTO + PIPELINE][i % 2]) for i, order in enumerate(ORDERS)],
    ids=list(ORDERS),
)
def test_every_order_of_imports(folder, order, use):
    imports = "\n".join(ORDERS[order])
    run(f"import sys\nfolder = sys.argv[1]\n{imports}\nimport numpy as np\nimport transformers\n{use}", folder)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["transformers", "fgvc_hf"])
def test_the_pipelines_alone(folder, first):
    """The first use of the package is a call of `transformers.pipeline`."""
    second = {"transformers": "fgvc_hf", "fgvc_hf": "transformers"}[first]
    run(
        f"import sys\nfolder = sys.argv[1]\nimport {first}\nimport {second}\nimport transformers\nimport numpy as np\n{PIPELINE}",
        folder,
    )


@pytest.mark.parametrize(
    "imports", ["import fgvc_hf", "import fgvc_hf.cli.main", "from fgvc_hf import default_checkpoint"]
)
def test_the_import_of_the_package_loads_neither_torch_nor_transformers(imports):
    heavy = "{'torch', 'transformers', 'numpy', 'PIL', 'av', 'numba'}"
    assert run(f"import sys\n{imports}\nprint(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_other_models_are_found_as_before():
    """The package adds to the tables, and takes nothing away."""
    code = """
import fgvc_hf
from transformers import AutoConfig, AutoModel, CONFIG_MAPPING
from transformers.models.auto import configuration_auto
config = AutoConfig.for_model("resnet", depths=[1], hidden_sizes=[8], embedding_size=4)
print(type(AutoModel.from_config(config)).__name__, "fgvc" in CONFIG_MAPPING, len(CONFIG_MAPPING.keys()) > 100)
print(configuration_auto.__spec__.loader.get_source(configuration_auto.__name__).startswith("#"))
"""
    assert run(code).split() == ["ResNetModel", "True", "True", "True"]
