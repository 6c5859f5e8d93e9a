"""A checkpoint, a result measured on it, the repository made of both, and a server in place of the Hub."""

import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hub_server import REPO, HubHandler
from huggingface_hub import constants
from PIL import Image
from scripts_as_functions import script_main

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, model_card
from fgvc_hf.cli.main import main


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_model):
    """A folder as training leaves it, with a card and a picture."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model.save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    card = model_card("tiny", "mit", "None: random weights.", "For tests.", "![Curve](curve.png)\n\n## Limits\n\nAll.")
    (folder / "README.md").write_text(card, encoding="utf-8")
    Image.new("RGB", (4, 4)).save(folder / "curve.png")
    return folder


@pytest.fixture(scope="session")
def result(checkpoint, tmp_path_factory, noise_clip):
    """What `fgvc-hf evaluate tapvid` measures on a clip of noise that drifts by a pixel per frame."""
    root = tmp_path_factory.mktemp("data")
    frames = root / "davis" / "JPEGImages" / "480p" / "noise"
    frames.mkdir(parents=True)
    for t, frame in enumerate(noise_clip[:4]):
        Image.fromarray(frame).save(frames / f"{t:05d}.jpg", quality=95)
    tracks = np.array([[20.0, 30.0], [40.0, 20.0]])[:, None] - np.arange(4)[None, :, None]
    arrays = {"points": tracks, "occluded": np.zeros((2, 4), bool), "size": np.array([56, 40])}
    (root / "tapvid_davis_32").mkdir()
    np.savez(root / "tapvid_davis_32" / "dev.npz", **{f"noise/{name}": array for name, array in arrays.items()})
    output = tmp_path_factory.mktemp("result") / "r.json"
    arguments = ["evaluate", "tapvid", "--data", str(root), "--split", "dev", "--checkpoint", str(checkpoint)]
    assert main([*arguments, "--dtype", "bfloat16", "--set", "temperature=0.5", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def push():
    """`scripts/push_to_hub.py`, as a function of its arguments."""
    return script_main("push_to_hub")


@pytest.fixture(scope="session")
def repository(checkpoint, result, push, tmp_path_factory):
    """The folder that would be uploaded, code included."""
    folder = tmp_path_factory.mktemp("dry-run") / "tiny"
    assert push(checkpoint, REPO, "--results", result, "--with-code", "--dry-run", folder) == 0
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A server that huggingface_hub takes for the Hub, with a token that it accepts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.url, server.commits, server.other = f"http://127.0.0.1:{server.server_port}", [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it keeps the address that it was made with
    monkeypatch.setenv("HF_TOKEN", "good")
    yield server
    server.shutdown()
    server.server_close()
