"""A repository needs the package's core dependencies only, with the package and without it."""

import subprocess

from environments import environment_without_package, without_source_tree

from fgvc_hf import Tracker, model_card
from fgvc_hf.hub.repository import write_repository


LOAD = """
import numpy as np
from transformers import AutoModel, AutoProcessor, pipeline

model, processor = (kind.from_pretrained("tracker", **trust) for kind in (AutoModel, AutoProcessor))
session = processor.init_video_session("clip.mp4")
processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=[0], input_points=[(20, 30)])
tracks = processor.post_process_point_tracking(list(model.propagate_in_video_iterator(session)), session).tracks
found = pipeline("point-tracking", model="tracker", **trust)("clip.mp4", points=[(0, 20, 30)])["tracks"]
np.testing.assert_array_equal(found, tracks)
ids = np.pad(np.ones((20, 20), int), 22)
masks = pipeline("mask-propagation", model="tracker", **trust)("clip.mp4", masks=ids)["masks"]
assert tracks.shape == (1, 5, 2) and masks.shape == (5, 64, 64) and (masks[0] == ids).all()
print(type(model).__module__)
"""


def test_a_repository_needs_core_dependencies_only(clean_python, folder_with_clip):
    card = model_card("tracker", "apache-2.0", "See fgvc-joint.")
    write_repository(Tracker.from_pretrained(dtype="float32"), "tracker", "user/tracker", card, with_code=True)
    (packages,) = clean_python.parents[1].glob("lib/python*/site-packages")
    python = environment_without_package(folder_with_clip / "environment", packages)
    environment = without_source_tree() | {"HF_HOME": str(folder_with_clip / "home"), "HF_HUB_OFFLINE": "1"}
    for interpreter, setting, home in (
        (clean_python, "from fgvc_hf import FgvcModel\ntrust = {}", "fgvc_hf."),
        (python, "trust = {'trust_remote_code': True}", "transformers_modules."),
    ):
        command = [interpreter, "-I", "-c", setting + LOAD]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(home)
