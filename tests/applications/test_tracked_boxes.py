"""Boxes followed through a whole video."""

import numpy as np
import pytest

from fgvc_hf import Tracker, track_boxes
from fgvc_hf.io.formats.point_labels import BoxLabels


def test_labels_after_the_end_of_an_iterator_are_refused(tiny_model, processor, noise_clip):
    """How many frames it has is known at its end alone; frames are counted from 0."""
    tracker, number = Tracker(tiny_model, processor), len(noise_clip)
    sides = np.array([[5.0, 5, 20, 20], [6, 6, 22, 22]])
    for first, last in ((0, number), (number, number + 5)):
        labels = BoxLabels(np.array([1, 2]), np.array([first, last]), sides)
        with pytest.raises(ValueError, match=f"boxes have a label on frame_idx {last}, but the video ended before"):
            track_boxes(tracker, iter(noise_clip), labels)
    labels = BoxLabels(np.array([1]), np.array([number - 1]), sides[:1])
    assert track_boxes(tracker, iter(noise_clip), labels).visible[0].nonzero()[0].tolist() == [number - 1]
