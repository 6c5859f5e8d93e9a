"""Points described in one image, and looked for in videos."""

import json

import numpy as np
import pytest
import torch
from feature_fields import frame_of, unit_features
from safetensors import safe_open
from safetensors.torch import save_file

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    PointQueries,
    Tracker,
    load_session,
    save_session,
    save_tracks,
)
from fgvc_hf.matching.patches import sample_patches
from fgvc_hf.matching.pyramid import FeaturePyramid
from fgvc_hf.matching.template_search import Match
from fgvc_hf.tracking.evidence import judge
from fgvc_hf.tracking.point_search import PointSearch
from fgvc_hf.tracking.point_state import PointState
from fgvc_hf.tracking.prompts import PointLooks
from fgvc_hf.tracking.session import FgvcInferenceSession
from fgvc_hf.tracking.template_memory import TemplateMemory


FIELDS = ("tracks", "confidence", "uncertainty", "visible", "outside")
POINTS = {4: (30.3, 20.1), 9: (40.0, 25.5)}


def tracker_of(tiny_model, resize_policy="none", **fields) -> Tracker:
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"} | fields)
    model = FgvcModel(config).eval()
    model.load_state_dict(tiny_model.state_dict())
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy=resize_policy)))


@pytest.fixture(scope="module")
def tracker(tiny_model) -> Tracker:
    return tracker_of(tiny_model)


@pytest.fixture(scope="module")
def late_clip(noise_clip):
    """The clip after three frames of something else."""
    other = np.random.default_rng(1).integers(0, 255, (3, *noise_clip.shape[1:]), np.uint8)
    return np.concatenate([other, noise_clip[1:]])


def test_points_are_found_where_they_are_and_followed(tracker, noise_clip, late_clip):
    """Content moves by (-1, -1) a frame; before it comes, there is no position."""
    queries = tracker.describe(noise_clip[0], POINTS)
    tracks = tracker.track(late_clip, queries=queries)
    assert tracks.object_ids == [4, 9]
    assert np.isnan(tracks.tracks[:, :3]).all() and np.isnan(tracks.uncertainty[:, :3]).all()
    assert (
        not tracks.visible[:, :3].any() and (tracks.confidence[:, :3] == 0).all() and not tracks.outside[:, :3].any()
    )
    np.testing.assert_array_equal(tracks.queries, [(0, np.nan, np.nan)] * 2)
    for row, point in enumerate(POINTS.values()):
        truth = np.array(point) - np.arange(1, 10)[:, None]
        assert np.abs(tracks.tracks[row, 3:] - truth).max() < 1
    assert tracks.visible[:, 3:].all()


def test_a_stream_is_the_same_as_a_video_and_points_do_not_depend_on_others(tracker, noise_clip, late_clip):
    offline = tracker.track(late_clip, queries=tracker.describe(noise_clip[0], POINTS))
    live = tracker.stream()
    live.add_queries(tracker.describe(noise_clip[0], {9: POINTS[9]}))
    for t, frame in enumerate(late_clip):
        result = live.step(frame)
        np.testing.assert_array_equal(np.float32(result.points[0]), offline.tracks[1, t])
        assert result.confidence[0] == offline.confidence[1, t] and result.visible[0] == offline.visible[1, t]


def test_queries_added_to_a_running_stream_are_looked_for_on_its_last_frame(tracker, noise_clip):
    queries, live = tracker.describe(noise_clip[0], POINTS), tracker.stream()
    live.add_points({1: (20, 20)})
    live.step(noise_clip[0])
    live.step(noise_clip[0])
    live.add_queries(queries)
    with pytest.raises(ValueError, match="target 4 exists already"):
        live.add_queries(PointQueries(**(vars(queries) | {"ids": [77, 4]})))
    assert live.session.obj_ids == [1, 4, 9]
    result = live.step(noise_clip[1])
    assert result.ids == [1, 4, 9] and result.visible.all() and result.queries[1:, 0].tolist() == [1, 1]
    live.add_points({4: (25, 25)})  # a correction
    assert live.step(noise_clip[2]).ids == [1, 4, 9]
    live.remove(9)
    assert live.step(noise_clip[3]).ids == [1, 4]


@pytest.mark.parametrize("moment", [0, 1, 3, 5])
def test_a_session_with_points_to_be_found_is_saved(tracker, noise_clip, late_clip, tmp_path, moment):
    live = tracker.stream()
    live.add_queries(tracker.describe(noise_clip[0], POINTS))
    for frame in late_clip[:moment]:
        live.step(frame)
    save_session(live, tracker, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", tracker)
    for frame in late_clip[moment:]:
        first, second = live.step(frame), tracker.model.step(restored, frame)
        for name in ("points", "confidence", "uncertainty", "visible", "queries"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


CONFIG = FgvcConfig(hidden_sizes=[8, 16, 16])


def search_for(features, cells, config=CONFIG):
    """A search for what is at these cells of features, by one look of each."""
    templates = sample_patches(features, torch.tensor(cells), config.template_radius)
    looks = [PointLooks(one[None], torch.zeros(1, 13, 13)) for one in templates]
    like = TemplateMemory.of(templates[:0], torch.zeros(0, 13, 13), 16)
    return PointSearch.of(config, list(range(10, 10 + len(cells))), looks, like)


def test_the_first_look_is_the_first_patch_and_all_together_are_the_reference():
    values = torch.tensor([2.0, 4.0, 9.0, 7.0])
    looks = [PointLooks(of.view(-1, 1, 1), of.view(-1, 1, 1).expand(-1, 3, 3)) for of in (values[:3], values[3:])]
    like = TemplateMemory.of(torch.zeros(0, 1, 1, dtype=torch.bfloat16), torch.zeros(0, 3, 3), 4)
    memory = PointSearch.of(CONFIG, [8, 3], looks, like).memory
    assert memory.anchor.flatten().tolist() == [2, 7] and memory.anchor.dtype == torch.bfloat16
    assert memory.references.flatten().tolist() == [5, 7] and memory.recent.shape == (2, 4, 1, 1)
    patches, known = memory.images(slice(None), ())
    assert patches[:, :, 1, 1].tolist() == [[2, 7], [4, 0], [9, 0]]
    assert known.tolist() == [[True, True], [True, False], [True, False]]


@pytest.mark.parametrize(("h", "w"), [(25, 60), (60, 25), (24, 25), (33, 32)])
def test_points_are_found_in_every_corner_of_a_frame(h, w):
    features = unit_features(h, w)
    cells = [(0.0, 0.0), (w - 1.0, 0.0), (0.0, h - 1.0), (w - 1.0, h - 1.0), (float(w // 2), float(h // 2))]
    search = search_for(features, cells)
    match = search.find(FeaturePyramid(features))
    torch.testing.assert_close(match.cells, torch.tensor(cells), atol=0.3, rtol=0)
    torch.testing.assert_close(match.evidence[-1, :2], torch.ones(2), atol=1e-4, rtol=0)  # the whole patch is there
    assert torch.equal(match.anchor, match.mean) and search.found(match).any()


def test_points_are_found_from_a_similarity_and_a_lead_on():
    evidence = torch.tensor([[0.75, -1.0, 0.05], [0.7499, 0.9, 0.3], [0.9, 0.9, 0.0499], [1.0, 0.0, 1.0]])
    search = search_for(unit_features(20, 20), [(9.0, 9.0)])
    assert search.found(Match(torch.zeros(4, 2), evidence)).tolist() == [True, False, False, True]


def test_what_is_found_is_handed_over_and_what_is_not_is_looked_for_again():
    """The middle one of three points is not on the frame."""
    features, other = unit_features(30, 40), unit_features(30, 40, seed=1)
    cells = [(8.0, 9.0), (20.0, 15.0), (30.0, 21.0)]
    search = search_for(features, cells[:1])
    search.join(PointSearch(CONFIG, [5], search_for(other, cells[1:2]).memory))
    search.join(PointSearch(CONFIG, [7], search_for(features, cells[2:]).memory))
    search.drop({99})
    assert search.ids == [10, 5, 7]
    frame = frame_of(features)
    match = search.find(FeaturePyramid(features))
    ids, memory, state = search.step(FeaturePyramid(features), frame)
    assert ids == [10, 7] and search.ids == [5] and len(search.memory.anchor) == 1
    assert torch.equal(memory.anchor, sample_patches(features, torch.tensor([cells[0], cells[2]]), 3))
    # plain images move no point: it is where its cell is centred
    torch.testing.assert_close(state.points, 2 * match.cells[[0, 2]].double() + 0.5)
    first = PointState.first(state.points, match.cells[[0, 2]])
    judged = judge(match.evidence[[0, 2]], first.averages, CONFIG, search.constants)
    for name in ("confidence", "uncertainty", "evidence", "averages"):
        assert torch.equal(getattr(state, name), getattr(judged, name))
    assert state.lost.tolist() == [0, 0] and torch.equal(state.expected, state.points)


def test_a_point_that_is_found_beyond_the_border_is_on_it(monkeypatch):
    """Of a frame of 60 x 80 pixels."""
    features = unit_features(30, 40)
    search = search_for(features, [(8.0, 9.0), (20.0, 15.0)])
    match = Match(torch.tensor([[-1.0, 31.0], [41.0, -0.5]]), torch.ones(2, 3))
    monkeypatch.setattr(search, "find", lambda pyramid: match)
    assert search.step(FeaturePyramid(features), frame_of(features))[2].points.tolist() == [[0, 60], [80, 0]]


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_in_reverse_and_both_ways(tracker, noise_clip, direction):
    clip = noise_clip if direction == "backward" else np.concatenate([noise_clip[:1, ::-1, ::-1], noise_clip[1:]])
    tracks = tracker.track(clip, queries=tracker.describe(noise_clip[4], {0: (30, 20)}), direction=direction)
    truth = np.array((30, 20)) + 4 - np.arange(10)[:, None]
    assert np.abs(tracks.tracks[0, 1:9] - truth[1:9]).max() < 1


def test_the_way_back_starts_where_a_point_was_found_with_its_looks_and_changes_nothing_from_there_on(
    tracker, noise_clip, late_clip, monkeypatch
):
    """Both points on frame 3; what was found there stays, though the way back has it as its prompt, of which it is sure."""
    queries, started = tracker.describe(noise_clip[0], POINTS), []
    add = FgvcInferenceSession.add_point

    def spy(session, obj_id, frame_idx, point, looks=None):
        started.append((obj_id, frame_idx, looks))
        add(session, obj_id, frame_idx, point, looks)

    monkeypatch.setattr(FgvcInferenceSession, "add_point", spy)
    forward, both = (tracker.track(late_clip, queries=queries, direction=way) for way in ("forward", "both"))
    assert [(obj_id, t) for obj_id, t, _ in started] == [(4, 3), (9, 3)]
    for obj_id, _, looks in started:
        assert torch.equal(looks.templates, queries.looks()[obj_id].templates)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(both, name)[:, 3:], getattr(forward, name)[:, 3:])
    assert np.isfinite(both.tracks).all() and (forward.confidence[:, 3] < 1).all()


def test_a_point_that_is_found_on_the_first_frame_has_its_position_there(tracker, noise_clip):
    tracks = tracker.track(noise_clip[:2], queries=tracker.describe(noise_clip[0], POINTS))
    np.testing.assert_allclose(tracks.tracks[:, 0], list(POINTS.values()), atol=0.5)
    assert tracks.visible[:, 0].all()


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_points_that_are_found_nowhere_have_no_position(tracker, noise_clip, late_clip, direction):
    tracks = tracker.track(late_clip[:3], queries=tracker.describe(noise_clip[0], POINTS), direction=direction)
    assert tracks.object_ids == [4, 9] and np.isnan(tracks.tracks).all() and not tracks.visible.any()


def test_several_looks_of_one_point(tracker, noise_clip):
    first, second = (tracker.describe(noise_clip[t], {5: (35 - t, 22 - t)}) for t in (0, 6))
    queries = first.joined(second)
    assert len(queries) == 2 and list(queries.looks()) == [5]
    tracks = tracker.track(noise_clip, queries=queries)
    assert tracks.object_ids == [5] and np.abs(tracks.tracks[0, -1] - (26, 13)).max() < 1


def test_a_file_gives_the_same_tracks(tracker, noise_clip, tmp_path):
    queries = tracker.describe(noise_clip[0], POINTS)
    queries.save(tmp_path / "q.safetensors")
    loaded = PointQueries.load(tmp_path / "q.safetensors")
    assert loaded.ids == [4, 9] and loaded.points.tolist() == [list(p) for p in POINTS.values()]
    first, second = (tracker.track(noise_clip, queries=of) for of in (queries, loaded))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    save_tracks(second, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["queries"] == [[0, None, None]] * 2


def test_points_in_masks_are_spread(tracker, noise_clip):
    masks = np.zeros((40, 56), np.uint8)
    masks[5:15, 5:45], masks[30:32, 30:32] = 3, 7
    queries = tracker.describe(noise_clip[0], masks=masks, points_per_mask=4)
    assert queries.ids == list(range(8)) and queries.mask_ids == [3] * 4 + [7] * 4
    x, y = queries.points[:4].T
    assert np.diff(np.sort(x)).min() > 5 and (masks[y.astype(int), x.astype(int)] == 3).all()
    assert len(np.unique(queries.points[4:], axis=0)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of points and masks"),
        ({"points": [(1, 2, 3)]}, r"points must be an array \(N, 2\)"),
        ({"points": []}, r"points must be an array \(N, 2\)"),
        ({"points": "here"}, r"points must be an array \(N, 2\)"),
        ({"points": [(57, 3)]}, "input_points must lie inside the frame"),
        ({"points": [(np.nan, 3)]}, "input_points must be finite"),
        ({"points": {"a": (1, 2)}}, "ids must be a whole number"),
        ({"masks": np.zeros((40, 56), int)}, "masks hold no object"),
        ({"masks": np.ones((4, 5), int)}, "masks must be 40x56 like the image, got 4x5"),
        ({"masks": np.ones((40, 56), int), "points_per_mask": 0}, "points_per_mask must be 1 or more"),
    ],
)
def test_what_cannot_be_described(tracker, noise_clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        tracker.describe(noise_clip[0], **arguments)


def test_queries_of_another_checkpoint_or_resolution(tracker, tiny_model, noise_clip):
    queries = tracker.describe(noise_clip[0], POINTS)
    other = FgvcModel(tracker.model.config).eval()
    for use in (lambda t: t.track(noise_clip, queries=queries), lambda t: t.stream().add_queries(queries)):
        with pytest.raises(ValueError, match="queries are of another checkpoint"):
            use(Tracker(other, tracker.processor))
        with pytest.raises(ValueError, match="described at the size of the frames, but this tracker works at 256"):
            use(tracker_of(tiny_model, "stretch"))
        with pytest.raises(ValueError, match="works by label maps"):
            use(tracker_of(tiny_model, point_matching="labels"))
        with pytest.raises(ValueError, match="templates of another size"):
            use(tracker_of(tiny_model, template_radius=2))
    with pytest.raises(ValueError, match="queries must be what describe returns, got list"):
        tracker.track(noise_clip, queries=[1])
    with pytest.raises(ValueError, match="exactly one of points, grid and queries"):
        tracker.track(noise_clip, points=[(0, 1, 2)], queries=queries)


def test_the_hash_does_not_depend_on_the_precision(tracker, noise_clip):
    queries = tracker.describe(noise_clip[0], POINTS)
    half = FgvcModel(tracker.model.config).eval()
    half.load_state_dict(tracker.model.state_dict())
    tracks = Tracker(half.to(torch.bfloat16), tracker.processor).track(noise_clip, queries=queries)
    assert tracks.visible[:, -1].all()


def test_files_that_hold_no_queries(tracker, noise_clip, tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no such file of queries"):
        PointQueries.load(path)
    tracker.describe(noise_clip[0], POINTS).save(path)
    whole = path.read_bytes()
    damaged = [
        whole[:-5],
        whole[: len(whole) // 2],
        b"",
        b"x" * 100,
        whole.replace(b"fgvc-queries-1", b"fgvc-queries-0"),
    ]
    damaged.append(whole.replace(b'\\"ids\\": [4, 9]', b'\\"ids\\": [4.9]'))
    for content in damaged:
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no described points, or is damaged"):
            PointQueries.load(path)
    save_file({"templates": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no described points"):
        PointQueries.load(path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        tracker.describe(noise_clip[0], POINTS).save(tmp_path / "q.npz")


def rewritten(path, changes: dict, **tensors) -> None:
    """A file of queries with other values in its metadata, and other tensors."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["queries"]) | changes
        kept = {name: file.get_tensor(name) for name in ("templates", "images")} | tensors
    save_file(kept, path, metadata={"queries": json.dumps(metadata)})


HOSTILE = [
    {"ids": [4, 10**30]},
    {"ids": [4, True]},
    {"ids": [4]},
    {"ids": []},
    {"ids": 5},
    {"points": [[1, float("nan")], [1, 2]]},
    {"points": [[1, 2, 3, 4]]},
    {"points": [1, 2, 3, 4]},
    {"mask_ids": [0, -1]},
    {"mask_ids": [0]},
    {"resizing": {"resize_policy": "none", "size": 5, "size_divisor": 8}},
    {"resizing": {"resize_policy": "none", "size": {"height": "5"}, "size_divisor": 8}},
    {"resizing": {"resize_policy": "none", "size": {"height": -5}, "size_divisor": 8}},
    {"resizing": {"resize_policy": "magic", "size": {"height": 8}, "size_divisor": 8}},
    {"resizing": {"resize_policy": "none", "size": {"height": 8}}},
    {"resizing": 5},
    {"checkpoint": 5},
    {"unknown": 5},
    {"templates": torch.zeros(2, 49, 16, dtype=torch.int64)},
    {"templates": torch.zeros(2, 49, 16, dtype=torch.float64)},
    {"templates": torch.zeros(3, 49, 16, dtype=torch.float16)},
    {"templates": torch.zeros(2, 49, dtype=torch.float16)},
    {"templates": torch.full((2, 49, 16), torch.nan, dtype=torch.float16)},
    {"images": torch.zeros(2, 13, 12, dtype=torch.float16)},
    {"images": torch.zeros(2, 13, 13, dtype=torch.int16)},
    {"images": torch.zeros((), dtype=torch.float16)},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=range(len(HOSTILE)))
def test_files_with_hostile_values_are_one_sentence(tracker, noise_clip, tmp_path, changes):
    tracker.describe(noise_clip[0], POINTS).save(tmp_path / "q.safetensors")
    tensors = {name: of for name, of in changes.items() if isinstance(of, torch.Tensor)}
    rewritten(tmp_path / "q.safetensors", {n: of for n, of in changes.items() if n not in tensors}, **tensors)
    with pytest.raises(ValueError, match="q.safetensors: holds no described points, or is damaged"):
        PointQueries.load(tmp_path / "q.safetensors")


def test_patches_of_another_size_are_one_sentence(tracker, noise_clip, tmp_path):
    """Whole in themselves, but not of this tracker: where they are used, and where they are joined."""
    queries, path = tracker.describe(noise_clip[0], POINTS), tmp_path / "q.safetensors"
    for tensors in (
        {"templates": torch.zeros(2, 49, 5).half()},
        {"templates": torch.zeros(2, 25, 16).half()},
        {"images": torch.zeros(2, 3, 3).half()},
    ):
        queries.save(path)
        rewritten(path, {}, **tensors)
        other = PointQueries.load(path)
        with pytest.raises(ValueError, match="templates of another size, .* but this tracker has"):
            tracker.track(noise_clip, queries=other)
        with pytest.raises(ValueError, match="templates of another size, .* but the other queries have"):
            queries.joined(other)
    with pytest.raises(ValueError, match="queries must be what describe returns, got list"):
        queries.joined([1])
    assert queries.joined(queries).ids == [4, 9, 4, 9]
