"""Which frames labels come from: every setting of the memory against a loop that lists its frames and cells and sorts them all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from feature_fields import frame_of, unit_features

from fgvc_hf import FgvcConfig, FgvcModel, load_session, save_session
from fgvc_hf.conversion.official import SOURCES
from fgvc_hf.tracking.label_maps import LABEL_CUTOFF, draw_masks
from fgvc_hf.tracking.label_tracker import LabelMapTracker, TargetGroup
from fgvc_hf.tracking.memory import FrameMemory
from fgvc_hf.tracking.memory_bound import frames_that_fit
from fgvc_hf.tracking.prompts import BoxTarget, MaskTarget, PointLooks, PointTarget


PROMPT = 1  # frame
MEMORIES = [
    {},
    {"context_step": 2},
    {"kept_frame": 2},
    {"num_context_frames": 3, "context_step": 2, "kept_frame": 5},
    {"repeat_first": True},
    {"first_windowed": False},
    {"first_windowed": False, "repeat_first": True, "num_context_frames": 4},
    {"propagation_family": "per_reference", "repeat_first": True, "num_context_frames": 4},
    {"propagation_family": "windowed", "context_step": 2, "kept_frame": 3, "first_windowed": False},
]


def offsets(t, config):
    """Frames after the prompt, 0 is its own, that the frame `t` takes labels from; one may be there several times."""
    recent = [t - 1 - i * config.context_step for i in range(config.num_context_frames)]
    recent = [frame for frame in recent if frame > 0]
    missing = config.num_context_frames - len(recent)
    kept = [config.kept_frame] if 0 < config.kept_frame < t and config.kept_frame not in recent else []
    return [0] * (1 + missing * config.repeat_first) + kept + recent


def current_maps(session):
    """Label maps (masks, h, w) on the frame that was processed last, in the order of the ids."""
    maps = {i: one for read in session.labels.read_masks() for i, one in zip(read.ids, read.maps, strict=True)}
    return torch.stack([maps[i] for i in session.masks if i in maps])


def new_labels(features, labels, t, config):
    """Label maps (cells, targets) of frame `t` from those of the frames before."""
    h, w, _ = features[0].shape
    cell = torch.arange(h * w)
    dy, dx = cell // w - (cell // w)[:, None], cell % w - (cell % w)[:, None]
    window = dy**2 + dx**2 < config.propagation_radius**2
    scores, frames = [], offsets(t, config)
    for frame in frames:
        inside = torch.ones_like(window) if frame == 0 and not config.first_windowed else window
        products = features[t].flatten(0, 1) @ features[frame].flatten(0, 1).T
        scores.append((products / config.temperature).masked_fill(~inside, -torch.inf))
    if config.propagation_family == "per_reference":
        weights = [torch.softmax(s, dim=1) for s in scores]
        weights = [w * (w >= w.topk(config.propagation_topk).values[:, -1:]) / len(frames) for w in weights]
        weights = torch.cat(weights, dim=1)
    else:
        together = torch.cat(scores, dim=1)
        if config.propagation_family == "joint":
            best = together.topk(config.propagation_topk)
            together = torch.full_like(together, -torch.inf).scatter(1, best.indices, best.values)
        weights = torch.softmax(together, dim=1)
    new = weights @ torch.cat([labels[frame] for frame in frames])
    return new.masked_fill(new < LABEL_CUTOFF, 0)


@pytest.mark.parametrize("settings", MEMORIES)
def test_labels_come_from_the_frames_that_are_meant(settings, processor):
    torch.manual_seed(0)
    settings = {"propagation_radius": 4, "num_context_frames": 2, "propagation_topk": 7, **settings}
    model = FgvcModel(FgvcConfig(hidden_sizes=[16, 32, 64], **settings)).eval()
    clip = np.random.default_rng(0).integers(0, 256, (10, 40, 56, 3), np.uint8)
    mask = np.zeros((40, 56), bool)
    mask[10:30, 20:40] = True
    session = processor.init_video_session(clip)
    processor.add_inputs_to_inference_session(session, PROMPT, [4], input_masks=mask[None])
    found = [current_maps(session) for _ in model.propagate_in_video_iterator(session)]
    with torch.inference_mode():
        images = processor.image_processor(list(clip[PROMPT:]), return_tensors="pt").pixel_values
        features = [model.normalized_features(image[None])[0] for image in images]
    labels = [found[0].flatten(1).T]
    for t in range(1, len(features)):
        labels.append(new_labels(features, labels, t, model.config))
        torch.testing.assert_close(found[t].flatten(1).T, labels[t], atol=2e-4, rtol=1e-3)


def test_memories_of_the_compared_methods():
    """The frames of comparison tables: MAST's 0, 5, t-1, t-3, t-5; CRW's and TimeCycle's full from the start."""
    configs = {name: FgvcConfig(**source.config) for name, source in SOURCES.items()}
    assert sorted(offsets(20, configs["mast"])) == [0, 5, 15, 17, 19]
    assert sorted(offsets(6, configs["mast"])) == [0, 1, 3, 5] and offsets(1, configs["mast"]) == [0]
    assert len(offsets(1, configs["crw"])) == 21 and len(offsets(1, configs["time-cycle"])) == 8
    assert offsets(3, configs["crw"]).count(0) == 19
    assert {name for name, config in configs.items() if not config.first_windowed} == {"crw", "dul"}
    assert offsets(1, configs["vfs-resnet18"]) == [0] and len(offsets(90, configs["vfs-resnet18"])) == 21


def test_the_kept_frame_is_saved_with_the_session(processor, noise_clip, tmp_path):
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], num_context_frames=1, kept_frame=2)).eval()
    mask = np.zeros((40, 56), bool)
    mask[10:30, 20:40] = True
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [4], input_masks=mask[None])
    for frame in noise_clip[:6]:
        model.step(session, frame)
    save_session(session, model, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", model)
    for frame in noise_clip[6:]:
        for one in (restored, session):
            model.step(one, frame)
        assert torch.equal(current_maps(restored), current_maps(session))


def masks(*boxes):
    found = np.zeros((len(boxes), 40, 56), bool)
    for mask, (top, left, bottom, right) in zip(found, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return found


def maps_of(model, processor, clip, prompts, **options):
    """Label maps of all frames, and what the session holds at the end of each."""
    session, maps, held = processor.init_video_session(**options), [], []
    for t, frame in enumerate(clip):
        for ids, kind in prompts.get(t, {}).items():
            processor.add_inputs_to_inference_session(session, t, [ids], **kind)
        model.step(session, frame)
        maps.append(current_maps(session).clone())
        held.append(session.memory_bytes)
    return session, maps, held


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize(
    ("frames", "moves", "slots"), [(2, [(2, 0), (0, 1)], [2, 0]), (5, [(0, 3), (2, 1)], [-1, 2, -1, 0, -1])]
)
def test_label_maps_move_with_the_frames_and_the_first_and_the_kept_one_stay(kept, frames, moves, slots):
    """Of three previous frames; what is empty is zero."""
    values = torch.arange(1.0, 5 + kept)[:, None, None]  # of the first frame, the slots 0 to 2, and the kept frame
    nothing = torch.zeros(0)
    group = TargetGroup([], [1], nothing, values, values > 2, nothing, nothing, nothing, nothing)
    group.resize(3, frames, moves)
    expected = [1, *(0 if slot < 0 else slot + 2 for slot in slots), *[5] * kept]
    assert group.labels.flatten().tolist() == expected
    assert group.support.flatten().tolist() == [value > 2 for value in expected]


@pytest.mark.parametrize("kept_frame", [0, 2])
def test_a_bound_on_memory_is_kept_by_fewer_frames(processor, noise_clip, kept_frame):
    torch.manual_seed(0)
    config = {"hidden_sizes": [8, 16, 32], "propagation_radius": 5, "kept_frame": kept_frame}
    model = FgvcModel(FgvcConfig(num_context_frames=6, **config)).eval()
    first, second, box = masks((5, 5, 25, 25), (10, 30, 30, 50), (12, 12, 20, 20))[:, None]
    early = {0: {1: {"input_masks": first}, 7: {"input_points": [(20, 20)]}}}
    late = early | {4: {2: {"input_masks": second}, 3: {"input_masks": box}, 9: {"input_boxes": [(5, 5, 20, 20)]}}}
    _, outputs, held = maps_of(model, processor, noise_clip, early)
    frame = 20 * 28 * (4 * 32 + 2 * 4 + 1)  # features, two label maps, and their support
    limit = held[-1] - 3 * frame
    session, _, bound = maps_of(model, processor, noise_clip, early, max_memory_bytes=limit)
    assert len(session.labels.memory) == 3 and max(bound) <= limit
    shorter = FgvcModel(FgvcConfig(num_context_frames=3, **config)).eval()
    shorter.load_state_dict(model.state_dict())
    _, expected, _ = maps_of(shorter, processor, noise_clip, early)
    _, outputs, _ = maps_of(model, processor, noise_clip, early, max_memory_bytes=limit)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))

    # targets that come later take frames from those that are there
    _, _, free = maps_of(model, processor, noise_clip, late)
    limit = free[-1] - 2 * 20 * 28 * (4 * 32 + 2 * (2 * 4 + 1))
    session, outputs, held = maps_of(model, processor, noise_clip, late, max_memory_bytes=limit)
    assert max(held) <= limit < free[-1] and len(session.labels.memory) == 4
    assert len(outputs[-1]) == 3 and (outputs[-1].amax(dim=(1, 2)) > 0).all()


def test_a_bound_that_nothing_fits_into_is_refused_and_the_session_goes_on(tiny_model, processor, noise_clip):
    mask, other = masks((5, 5, 25, 25), (10, 30, 30, 50))[:, None]
    _, _, held = maps_of(tiny_model, processor, noise_clip[:3], {0: {1: {"input_masks": mask}}})
    frame = 20 * 28 * (4 * 32 + 4 + 1)
    session = processor.init_video_session(
        max_memory_bytes=held[-1] - 2 * frame
    )  # one previous frame instead of three
    processor.add_inputs_to_inference_session(session, 0, [1], input_masks=mask)
    tiny_model.step(session, noise_clip[0])
    held = session.memory_bytes
    for frame_idx, ids, new in ((0, [2], other), (1, [2], other), (5, [2, 3], np.concatenate([other, mask]))):
        with pytest.raises(ValueError, match="max_memory_bytes must be at least"):
            processor.add_inputs_to_inference_session(session, frame_idx, ids, input_masks=new)
        assert session.obj_ids == [1] and session.memory_bytes == held
    with pytest.raises(ValueError, match="max_memory_bytes must be at least"):
        processor.add_inputs_to_inference_session(session, 1, list(range(4, 24)), input_boxes=[(5, 5, 20, 20)] * 20)
    assert session.obj_ids == [1]
    assert np.unique(tiny_model.step(session, noise_clip[1]).masks).tolist() == [0, 1]
    with pytest.raises(ValueError, match="max_memory_bytes must be positive"):
        processor.init_video_session(max_memory_bytes=0)


def test_prompts_before_the_first_frame_are_refused_on_it_and_the_session_is_as_before(
    tiny_model, processor, noise_clip
):
    mask, other = masks((5, 5, 25, 25), (10, 30, 30, 50))[:, None]
    _, _, held = maps_of(tiny_model, processor, noise_clip[:3], {0: {1: {"input_masks": mask}}})
    limit = held[-1] - 2 * 20 * 28 * (4 * 32 + 4 + 1)  # one previous frame instead of three
    session = processor.init_video_session(max_memory_bytes=limit)
    processor.add_inputs_to_inference_session(session, 0, [1], input_masks=mask)
    processor.add_inputs_to_inference_session(
        session, 3, [2], input_masks=other
    )  # found on the first frame, not on the fourth
    for _ in range(2):
        with pytest.raises(ValueError, match="max_memory_bytes must be at least"):
            tiny_model.step(session, noise_clip[0])
        assert session.last_frame_idx is None and session.memory_bytes == 0 and session.obj_ids == [1, 2]
    session.remove(2)
    assert np.unique(tiny_model.step(session, noise_clip[0]).masks).tolist() == [0, 1]
    live = processor.init_video_session(max_memory_bytes=limit)
    tiny_model.step(live, noise_clip[0])  # without targets
    processor.add_inputs_to_inference_session(live, 0, [1], input_masks=mask)
    with pytest.raises(ValueError, match="max_memory_bytes must be at least"):
        processor.add_inputs_to_inference_session(live, 0, [2], input_masks=other)
        processor.add_inputs_to_inference_session(live, 1, [3], input_masks=other)
    assert tiny_model.step(live, noise_clip[1]).masks.any()


def test_remembered_features_may_be_of_lower_precision(tiny_model, processor, noise_clip, tmp_path):
    prompts = {0: {1: {"input_masks": masks((5, 5, 25, 25))}}}
    _, expected, held = maps_of(tiny_model, processor, noise_clip, prompts)
    half = {"memory_dtype": torch.bfloat16, "memory_device": "cpu"}
    session, outputs, less = maps_of(tiny_model, processor, noise_clip, prompts, **half)
    assert session.labels.memory.ring.dtype == session.labels.groups[0].anchor.dtype == torch.bfloat16
    assert held[-1] - less[-1] == 4 * 20 * 28 * 32 * 2  # four frames of features
    different = [(a - b).abs().mean() for a, b in zip(outputs, expected, strict=True)]
    assert 0 < max(different) < 0.02
    save_session(session, tiny_model, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", tiny_model)
    for one in (restored, session):
        tiny_model.step(one, noise_clip[0])
    assert torch.equal(current_maps(restored), current_maps(session))
    assert restored.labels.memory.ring.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="memory_dtype must be"):
        processor.init_video_session(memory_dtype=torch.int8)


def test_what_prompts_take_beside_the_frames_by_value():
    """Points with their looks, of which one that is looked for is the first patch; boxes; and the label maps of each frame."""
    looks = [PointLooks(torch.zeros(k, 1, 1), torch.zeros(k, 3, 3)) for k in (2, 4, 3)]
    due = {
        (1, 0): PointTarget(0, (1.0, 1.0)),
        (2, 0): PointTarget(0, (1.0, 1.0), looks[0]),
        (3, 5): PointTarget(5, looks=looks[1]),
        (4, 5): BoxTarget(5, np.zeros((4, 2)), False),
        (5, 7): MaskTarget(7, np.ones((2, 2), bool)),
        (6, 5): MaskTarget(5, np.ones((2, 2), bool)),
        (7, 7): MaskTarget(7, np.ones((2, 2), bool)),
    }
    templates = SimpleNamespace(nbytes=10**6, bytes_of=lambda number, looks=0: number + 100 * looks)
    boxes = SimpleNamespace(nbytes=10**7, bytes_of=lambda number: 10**4 * number)

    def asked(matching):
        config = SimpleNamespace(point_matching=matching)
        labels = SimpleNamespace(config=config, frames_that_fit=lambda *arguments: arguments)
        return frames_that_fit(77, due, labels, templates, boxes)

    assert asked("templates") == (77, [2, 1], 10**7 + 10**6 + 10**4 + 3 + 100 * 3)
    assert asked("labels") == (77, [2, 2, 2], 10**7 + 10**6 + 10**4)


def label_tracker_of(features, **fields):
    config = FgvcConfig(**fields)
    memory = FrameMemory.like(features)
    memory.add(features)
    return LabelMapTracker(config, memory)


def test_masks_of_a_video_of_another_size_than_the_input_cover_the_same_cells():
    tracker, mask = label_tracker_of(unit_features(16, 24)), torch.zeros(1, 96, 72, dtype=torch.bool)
    mask[:, 20:60, 9:30] = True
    tracker.start([], torch.zeros(0, 2, dtype=torch.float64), [3], mask, (32, 48), torch.device("cpu"))
    expected = draw_masks(mask, (16, 24), (32, 48), 2)
    assert torch.equal(tracker.groups[0].labels[0], expected) and torch.equal(tracker.groups[0].masks, expected)


def test_without_a_window_labels_reach_the_far_end_of_a_long_frame():
    """All cells are alike, so that each takes the mean of all labels."""
    features = torch.ones(3, 40, 1)
    tracker = label_tracker_of(
        features, propagation_family="per_reference", propagation_window="none", propagation_topk=120
    )
    mask = torch.zeros(1, 6, 80, dtype=torch.bool)
    mask[:, :, :20] = True
    tracker.start([], torch.zeros(0, 2, dtype=torch.float64), [3], mask, (6, 80), torch.device("cpu"))
    mean = tracker.groups[0].labels[0].mean()
    tracker.step(frame_of(features))
    torch.testing.assert_close(tracker.groups[0].masks, mean.expand(120, 1))


@pytest.mark.parametrize(("frames", "kept"), [(4, [3, 4]), (1, [4]), (2, [3, 4])])
def test_with_more_room_there_are_as_many_frames_as_before(frames, kept):
    """Of five frames there is room for two; those that come after take empty slots first, and then that of the oldest."""
    memory = FrameMemory(torch.zeros(2, 1, 1, 1))
    for t in range(5):
        memory.add(torch.full((1, 1, 1), float(t)))
    before, moves = memory.ring.flatten().tolist(), memory.resize(frames)
    assert [before[old] for old, _ in moves] == kept
    for t in range(5, 12):
        known = [float(memory.ring[slot]) for slot in memory.recent_slots(t)]
        assert known == [*range(t - 1, kept[0] - 1, -1)][:frames] and float(memory.last) == t - 1
        memory.add(torch.full((1, 1, 1), float(t)))


@pytest.mark.parametrize("settings", [{}, {"kept_frame": 2}, {"kept_frame": 1, "context_step": 2}])
@pytest.mark.parametrize("family", ["joint", "per_reference", "windowed"])
def test_room_that_is_empty_takes_nothing_from_labels(family, settings):
    """Where memory becomes free, labels come from the frames that there are: the same as without that room."""
    frames = [unit_features(12, 16, seed=seed) for seed in range(8)]
    fields = {"propagation_family": family, "propagation_radius": 4, "num_context_frames": 6} | settings
    mask, maps = torch.zeros(1, 24, 32, dtype=torch.bool), []
    mask[:, 6:16, 8:20] = True
    for room in (2, 6):
        tracker = label_tracker_of(frames[0], **fields)
        tracker.resize(2)
        tracker.start([], torch.zeros(0, 2, dtype=torch.float64), [3], mask, (24, 32), torch.device("cpu"))
        for features in frames[1:6]:
            tracker.step(frame_of(features))
        tracker.resize(room)
        tracker.step(frame_of(frames[6]))
        maps.append(tracker.groups[0].masks)
    assert maps[0].sum() > 1
    torch.testing.assert_close(maps[1], maps[0])


def test_a_group_without_some_targets_keeps_what_belongs_to_the_others():
    """Label columns are those of the points and then those of the masks."""
    labels = torch.arange(1.0, 6).expand(2, 6, 5).clone()
    labels[:, :3, 0], labels[:, 4:, 4] = 0, 0
    places, halves = torch.tensor([[4.0, 40], [9, 90]]).double(), torch.tensor([[3.0, 30], [8, 80], [5, 50]])
    values, support = torch.tensor([0.4, 0.9]), (labels > 0).any(dim=-1)
    group = TargetGroup(
        [4, 9], [3, 8, 5], torch.zeros(0), labels, support, places, values, 2 * values, labels[0, :, 2:]
    )
    group.age, group.halves = 7, halves
    left = group.without({9, 3, 8, 77})
    assert (left.point_ids, left.mask_ids, left.age) == ([4], [5], 7)
    assert torch.equal(left.labels, labels[..., [0, 4]]) and torch.equal(left.masks, labels[0, :, 4:])
    assert left.support.tolist() == [[True] * 6] * 2 and group.without({4, 5, 9}).halves.tolist() == [[3, 30], [8, 80]]
    assert left.points.tolist() == [[4, 40]] and left.halves.tolist() == [[5, 50]]
    torch.testing.assert_close((left.confidence, left.uncertainty), (torch.tensor([0.4]), torch.tensor([0.8])))
    assert group.without({4}).without({3, 5, 8}).support.all() and group.without({3, 4, 5, 8, 9}) is None


def test_a_point_of_which_no_label_is_left_stays_where_it_was():
    tracker = label_tracker_of(unit_features(12, 16))
    points = torch.tensor([[20.5, 10.5], [4.5, 6.5]], dtype=torch.float64)
    tracker.start([3, 5], points, [], None, (24, 32), torch.device("cpu"))
    group = tracker.groups[0]
    group.labels[..., 0] = 0
    tracker.step(frame_of(unit_features(12, 16)))
    assert group.points[0].tolist() == [20.5, 10.5] and group.confidence[0] == 0 and group.uncertainty[0] == 32
    assert group.confidence[1] > 0.5


@pytest.mark.parametrize("kept_frame", [0, 3])
def test_what_previous_frames_take_by_its_definition(kept_frame):
    """Each has its features, and for every label map a float32 and a byte of support of each cell, which groups share."""
    features = unit_features(5, 7)
    tracker = label_tracker_of(features, num_context_frames=9, kept_frame=kept_frame)
    maps = 35 * ((4 * 2 + 1) + (4 * 3 + 1))  # two groups
    each = features.nbytes + maps
    fixed = 1000 + (2 if kept_frame else 1) * (2 * features.nbytes + maps)
    for room, frames in ((1, 1), (3, 3), (100, 9)):
        assert tracker.frames_that_fit(fixed + room * each, [2, 3], 1000) == frames
    assert tracker.frames_that_fit(fixed + 3 * each - 1, [2, 3], 1000) == 2
    assert tracker.frames_that_fit(None, [2, 3], 1000) == 9
    with pytest.raises(
        ValueError, match=f"must be at least {fixed + each} for the targets of this session, got {fixed + each - 1}"
    ):
        tracker.frames_that_fit(fixed + each - 1, [2, 3], 1000)


def test_more_frames_than_memory_has_room_for():
    memory = FrameMemory.like(torch.zeros(4, 4, 8))
    with pytest.raises(ValueError, match=r"^1099511627776 previous frames take 5.24e\+05 GiB: set max_memory_bytes"):
        memory.resize(2**40)  # of 512 bytes each
