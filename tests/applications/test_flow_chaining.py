"""Flow that is chained, by value: places go on from where they came to, and what was hidden once stays so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, Tracker
from fgvc_hf.applications import flow_chaining
from fgvc_hf.applications.flow_chaining import chain_flow
from fgvc_hf.tracking.dense_flow import DenseFlow


HEIGHT, WIDTH = 6, 8


def steps(first, second):
    """What a tracker finds from one frame to the next: a shift to the right, then one down that grows with the row."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    if first == 0:
        hidden[2, 3] = True
        return DenseFlow(torch.stack([0 * x + 1.0, 0.0 * x], -1), hidden, 0.5 + 0.0 * x)
    hidden[4, 6] = True
    return DenseFlow(torch.stack([0.0 * x, 0.25 * y], -1), hidden, 0.125 * x)


@pytest.fixture
def tracker(monkeypatch):
    frames = [np.full((HEIGHT, WIDTH, 3), t, np.uint8) for t in range(3)]
    session = SimpleNamespace(
        sizes=((HEIGHT, WIDTH), (HEIGHT, WIDTH)),
        preprocess=lambda frame, device: frame,
        ordered_frames=lambda start, stop, reverse: list(enumerate(frames))[start:],
    )
    asked = []

    def found(images, features, size, config):
        assert size == (HEIGHT, WIDTH) and config == "settings"
        assert (images[1] > images[0]).all()  # in the order of the frames, as their features
        first, second = features[:, 0, 0, 0].tolist()
        asked.append((first, second))
        return steps(first, second), None

    monkeypatch.setattr(flow_chaining, "dense_flow", found)
    return SimpleNamespace(
        processor=SimpleNamespace(init_video_session=lambda video: session),
        model=SimpleNamespace(device=torch.device("cpu"), config="settings"),
        features=lambda frame: torch.tensor(frame).float(),
        asked=asked,
    )


def test_steps_add_up_along_the_way_of_each_pixel(tracker):
    results = list(chain_flow(tracker, "video"))
    assert [t for t, _ in results] == [0, 1, 2] and tracker.asked == [(0, 1), (1, 2)]
    flows, hidden, errors = zip(*((of.flow, of.occluded, of.uncertainty) for _, of in results), strict=True)
    assert not np.any(flows[0]) and not np.any(hidden[0]) and not np.any(errors[0])
    for y, x in np.ndindex(HEIGHT, WIDTH):
        left = x + 1 > WIDTH - 1  # leaves the frame to the right
        assert flows[1][y][x].tolist() == [1, 0] and float(errors[1][y][x]) == 0.5
        assert bool(hidden[1][y][x]) == (left or (y, x) == (2, 3))
        assert flows[2][y][x].tolist() == pytest.approx([1, 0.25 * y])
        assert float(errors[2][y][x]) == pytest.approx(0.5 + 0.125 * min(x + 1, WIDTH - 1))
        low = y + 0.25 * y > HEIGHT - 1
        assert bool(hidden[2][y][x]) == (left or low or (y, x) in ((2, 3), (4, 5)))


def test_it_begins_at_the_frame_that_is_asked_for(tracker):
    assert [t for t, _ in chain_flow(tracker, "video", 1)] == [1, 2] and tracker.asked == [(1, 2)]


def test_the_mode_of_inference_is_not_that_of_who_gives_the_frames(tiny_model, noise_clip):
    modes = []

    def frames():
        for frame in noise_clip[:3]:
            modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
            yield frame

    whole = Tracker(tiny_model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    assert len(list(chain_flow(whole, frames()))) == 3 and set(modes) == {(False, True)}


def test_a_start_after_the_end_of_an_iterator_is_refused(tiny_model, processor, noise_clip):
    tracker, number = Tracker(tiny_model, processor), len(noise_clip)
    with pytest.raises(ValueError, match=f"flow starts on frame_idx {number}, but the video ended before that frame"):
        list(chain_flow(tracker, iter(noise_clip), number))
    assert [t for t, _ in chain_flow(tracker, iter(noise_clip), number - 1)] == [number - 1]
