"""Whoever imports the package can use the Auto classes and pipelines of transformers, in every order of imports."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked_interpreters import failing


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
OTHER_MODELS = """
import fgvc_hf
from transformers import AutoConfig, AutoModel, CONFIG_MAPPING
from transformers.models.auto import configuration_auto
config = AutoConfig.for_model("resnet", depths=[1], hidden_sizes=[8], embedding_size=4)
assert type(AutoModel.from_config(config)).__name__ == "ResNetModel"
assert "fgvc" in CONFIG_MAPPING and len(CONFIG_MAPPING.keys()) > 100
assert configuration_auto.__spec__.loader.get_source(configuration_auto.__name__).startswith("#")
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


PYTHON = [sys.executable, "-W", "error::ImportWarning"]


def run(code: str, *arguments) -> str:
    command = [*PYTHON, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(checkpoint, processor):
    """A checkpoint, with a folder of its processor alone."""
    processor.save_pretrained(checkpoint / "processor")
    return checkpoint


# What the package and transformers import, and neither of these. Orders are tried in forks of an interpreter that has loaded it; what it is
# like to start without, test_the_pipelines_alone shows
OTHERS = """
import contextlib, importlib
names = "accelerate av huggingface_hub numba numpy PIL.Image safetensors.torch scipy.optimize tokenizers torch"
names += " torch._dynamo torch.distributed.fsdp torch.distributed.tensor torch.export"
for name in names.split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
assert not {"transformers", "fgvc_hf"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def failed(folder):
    """The names of the orders that fail, "other models" if these are not found, and what was printed to standard error."""
    codes = {"other models": OTHER_MODELS}
    for number, (order, imports) in enumerate(ORDERS.items()):
        use = (PIPELINE + AUTO, AUTO + PIPELINE)[number % 2]
        codes[order] = "\n".join([f"folder = {str(folder)!r}", *imports, "import numpy as np, transformers", use])
    return failing(PYTHON, OTHERS, codes, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_imports(failed, order):
    orders, errors = failed
    assert order not in orders, errors


@pytest.mark.slow
def test_other_models_are_found_as_before(failed):
    """The package adds to the tables, and takes nothing away."""
    orders, errors = failed
    assert "other models" not in orders, errors


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
