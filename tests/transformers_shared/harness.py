"""The tests that transformers shares among its own models, obtained at test time.

The source distribution of transformers carries them (`tests/test_*.py`). The one of the installed version is downloaded
once, into a folder that git ignores, and its tests are laid out there as the package `tests` that they expect to be.
"""

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import transformers


ROOT = Path(__file__).parents[2] / ".transformers_tests" / transformers.__version__
STUBS = {  # modules that the shared tests import, and that the source distribution leaves out
    "tests/__init__.py": "",
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/__init__.py": "",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/__init__.py": "",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def provide_shared_tests() -> None:
    """Put the shared tests on the import path; skip the calling module if they cannot be had."""
    if not (ROOT / "tests" / "__init__.py").is_file():
        try:
            _download()
        except (subprocess.SubprocessError, OSError) as error:
            if os.environ.get("FGVC_REQUIRE_NETWORK_TESTS"):
                raise
            pytest.skip(
                f"the source distribution of transformers cannot be downloaded: {error}", allow_module_level=True
            )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def _download() -> None:
    """Laid out in a folder of its own and then moved, for several test processes may do this at once: the first one's stays."""
    ROOT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:
        requirement = f"transformers=={transformers.__version__}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        pip += ["--no-build-isolation", "--dest", folder, requirement]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip() or f"pip ended with status {done.returncode}")
        (archive,) = Path(folder).glob("transformers-*.tar.gz")
        laid_out = Path(folder) / "shared"
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                parts = Path(member.name).parts
                if len(parts) == 3 and parts[1] == "tests" and parts[2].startswith("test_"):
                    target = laid_out / "tests" / parts[2]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
        for name, content in STUBS.items():
            (laid_out / name).parent.mkdir(parents=True, exist_ok=True)
            (laid_out / name).write_text(content)
        with contextlib.suppress(OSError):  # it is there by now
            laid_out.rename(ROOT)
    if not (ROOT / "tests" / "__init__.py").is_file():
        raise OSError(f"{ROOT}: is incomplete; remove it")
