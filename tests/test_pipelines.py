"""The pipelines of transformers."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.utils.data import Dataset
from transformers.pipelines.pt_utils import KeyDataset

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, VideoWriter


POINTS = [(2, 12, 20), (3, 30.5, 8)]
IDS = np.pad(np.full((20, 20), 3), ((10, 10), (10, 26)))
TASKS = {"point-tracking": {"points": POINTS}, "mask-propagation": {"masks": IDS, "frame_idx": 2}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("checkpoint")
    request.getfixturevalue("tiny_model").save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    return str(folder)


def test_point_tracking(checkpoint, noise_clip):
    points = [(0, 12, 20), (3, 30.5, 8)]
    result = transformers.pipeline("point-tracking", model=checkpoint, device="cpu")(noise_clip, points=points)
    expected = Tracker.from_pretrained(checkpoint, dtype="float32").track(noise_clip, points)
    np.testing.assert_array_equal(result["tracks"], expected.tracks)
    np.testing.assert_array_equal(result["visible"], expected.visible)
    assert result["size"] == (40, 56) and result["queries"].shape == (2, 3)


def test_several_videos_and_both_ways(checkpoint, noise_clip):
    tracker = transformers.pipeline("point-tracking", model=checkpoint, device="cpu")
    results = tracker([noise_clip, noise_clip[:5]], points=[(4, 12, 20)], direction="both")
    assert [result["tracks"].shape for result in results] == [(1, 10, 2), (1, 5, 2)]
    assert not np.isnan(results[0]["tracks"]).any()


def test_mask_propagation(checkpoint, noise_clip):
    ids = np.zeros((40, 56), int)
    ids[10:30, 10:30] = 3
    segment = transformers.pipeline("mask-propagation", model=checkpoint, device="cpu")
    result = segment(noise_clip, masks=ids, frame_idx=2, direction="both")
    assert result["frame_idx"].tolist() == list(range(10)) and result["masks"].shape == (10, 40, 56)
    np.testing.assert_array_equal(result["masks"][2], ids)


def test_prompts_must_be_given(checkpoint, noise_clip):
    with pytest.raises(ValueError, match="points is missing"):
        transformers.pipeline("point-tracking", model=checkpoint, device="cpu")(noise_clip)
    with pytest.raises(ValueError, match="masks is missing"):
        transformers.pipeline("mask-propagation", model=checkpoint, device="cpu")(noise_clip)


def test_queries_take_the_place_of_points(checkpoint, noise_clip):
    settings = {"point_matching": "templates", "dtype": "float32"}
    tracker = Tracker.from_pretrained(checkpoint, **settings)
    queries = tracker.describe(noise_clip[0], {7: (12, 20), 9: (30.5, 8)})
    pipe = transformers.pipeline("point-tracking", tracker.model, processor=tracker.processor, points=POINTS)
    found, expected = pipe(noise_clip, queries=queries), tracker.track(noise_clip, queries=queries)
    assert found["object_ids"] == [7, 9]
    np.testing.assert_array_equal(found["tracks"], expected.tracks)
    with pytest.raises(ValueError, match="exactly one of points, grid and queries"):
        pipe(noise_clip, queries=queries, grid=3)


@pytest.fixture(scope="module")
def tracker(checkpoint):
    return Tracker.from_pretrained(checkpoint, dtype="float32", device="cpu")


@pytest.fixture
def pipe(tracker):
    """A pipeline of a task, made with parameters; of the tracker's model and processor unless others are named."""
    own = {"model": tracker.model, "processor": tracker.processor, "device": "cpu"}
    return lambda task="point-tracking", **kwargs: transformers.pipeline(
        task, **(kwargs | {"device": "cpu"} if "model" in kwargs else own | kwargs)
    )


def expected(tracker, task, video, **parameters):
    """What the Tracker finds."""
    if task == "point-tracking":
        return tracker.track(video, **parameters).tracks
    found = dict(tracker.propagate_masks(video, **parameters))
    return np.stack([found[t] for t in sorted(found)])


def found(task, result):
    return result["tracks" if task == "point-tracking" else "masks"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("direction", ["backward", "both"])
def test_parameters_of_the_construction_hold_and_those_of_a_call_take_their_place(
    pipe, tracker, noise_clip, task, direction
):
    made = pipe(task, direction=direction, **TASKS[task])
    np.testing.assert_array_equal(
        found(task, made(noise_clip)), expected(tracker, task, noise_clip, direction=direction, **TASKS[task])
    )
    forward = expected(tracker, task, noise_clip, **TASKS[task])
    np.testing.assert_array_equal(found(task, made(noise_clip, direction="forward")), forward)
    again = found(
        task, made(noise_clip, direction=None)
    )  # the same as not given, and the call before has left nothing
    np.testing.assert_array_equal(again, expected(tracker, task, noise_clip, direction=direction, **TASKS[task]))


def test_a_threshold_of_the_construction_and_one_of_a_call(pipe, tracker, noise_clip):
    made = pipe(threshold=0.999, points=POINTS)
    strict, loose = (tracker.track(noise_clip, POINTS, threshold=t).visible for t in (0.999, 0.0))
    assert (strict != loose).any()
    np.testing.assert_array_equal(made(noise_clip)["visible"], strict)
    np.testing.assert_array_equal(made(noise_clip, threshold=0.0)["visible"], loose)


def test_a_grid_takes_the_place_of_points_and_ids_are_kept(pipe, tracker, noise_clip):
    made = pipe(points=POINTS)
    np.testing.assert_array_equal(made(noise_clip, grid=2)["tracks"], tracker.track(noise_clip, grid=2).tracks)
    assert pipe(grid=2)(noise_clip, points={7: (0, 1, 2), 4: (1, 3, 4)})["object_ids"] == [7, 4]
    with pytest.raises(ValueError, match="exactly one of points, grid and queries"):
        made(noise_clip, points=POINTS, grid=2)


@pytest.mark.parametrize(
    ("task", "name", "near"),
    [
        ("point-tracking", "treshold", "threshold"),
        ("point-tracking", "point", "points"),
        ("mask-propagation", "mask", "masks"),
        ("mask-propagation", "frame_index", "frame_idx"),
        ("mask-propagation", "top_k", None),
    ],
)
def test_unknown_parameters_are_refused_at_construction_and_at_a_call(pipe, noise_clip, task, name, near):
    message = f"{task} has no parameter '{name}'" + (f"; did you mean {near}" if near else ". Accepted are")
    with pytest.raises(TypeError, match=message):
        pipe(task, **{name: 1})
    with pytest.raises(TypeError, match=message):
        pipe(task)(noise_clip, **TASKS[task], **{name: 1})
    with pytest.raises(TypeError):
        pipe(task)(noise_clip, POINTS)  # not by position, which the base class ignores


class Videos(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture(scope="module")
def files(noise_clip, tmp_path_factory):
    """Two clips of different length as files, one of them a folder of images."""
    folder = tmp_path_factory.mktemp("files")
    with VideoWriter(folder / "a.mp4", 12, 40, 56) as writer:
        for frame in noise_clip[:6]:
            writer.write(frame)
    (folder / "b").mkdir()
    for t, frame in enumerate(noise_clip[:5]):
        Image.fromarray(frame).save(folder / "b" / f"{t}.png")
    return [str(folder / "a.mp4"), folder / "b"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "give",
    [
        list,
        tuple,
        np.array,
        iter,
        lambda files: (file for file in files),
        Videos,
        lambda files: KeyDataset([{"file": file} for file in files], "file"),
        lambda files: [{"video": file} for file in files],
        pytest.param(
            lambda files: __import__("datasets").Dataset.from_dict({"f": list(map(str, files))})["f"], id="column"
        ),
        pytest.param(
            lambda files: __import__("datasets").Dataset.from_dict({"video": list(map(str, files))}), id="rows"
        ),
    ],
)
def test_several_videos_in_every_form(pipe, tracker, files, task, give):
    results = list(pipe(task, **TASKS[task], batch_size=2)(give(files)))
    assert len(results) == 2
    for result, file in zip(results, files, strict=True):
        np.testing.assert_array_equal(found(task, result), expected(tracker, task, file, **TASKS[task]))


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 5}, {"num_workers": 1}, {"num_workers": 2, "batch_size": 2}]
)
@pytest.mark.parametrize("give", [list, Videos])
def test_batches_and_workers_change_no_result(pipe, files, options, give):
    made = pipe(points=POINTS)
    for one, other in zip(made(give(files), **options), made(files), strict=True):
        np.testing.assert_array_equal(one["tracks"], other["tracks"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "give",
    [
        list,
        tuple,
        iter,
        lambda clip: (frame for frame in clip),
        lambda clip: [Image.fromarray(frame) for frame in clip],
        lambda clip: {"video": list(clip)},
        lambda clip: clip,
    ],
)
def test_frames_are_one_video(pipe, tracker, noise_clip, task, give):
    result = pipe(task, batch_size=3, **TASKS[task])(give(noise_clip))
    np.testing.assert_array_equal(found(task, result), expected(tracker, task, noise_clip, **TASKS[task]))


def test_grey_frames_and_grey_videos(pipe, tracker, noise_clip):
    grey, made = noise_clip[..., 0], pipe(points=POINTS)
    result = expected(tracker, "point-tracking", grey, points=POINTS)
    for one in (grey, list(grey), [frame[..., None] for frame in grey], (frame for frame in grey)):
        np.testing.assert_array_equal(made(one)["tracks"], result)
    several = made([grey, grey[:5]])
    np.testing.assert_array_equal(several[0]["tracks"], result)
    assert several[1]["tracks"].shape == (2, 5, 2)
    assert [one["tracks"].shape for one in made([list(noise_clip), noise_clip[:6]])] == [(2, 10, 2), (2, 6, 2)]
    assert len(made(np.stack([noise_clip, noise_clip]))) == 2


def test_every_video_of_a_data_set_may_have_parameters_of_its_own(pipe, tracker, files):
    rows = [{"video": files[0], "points": [(0, 5, 6)], "direction": "both"}, {"video": files[1]}]
    first, second = pipe(points=POINTS)(rows)
    np.testing.assert_array_equal(first["tracks"], tracker.track(files[0], [(0, 5, 6)], direction="both").tracks)
    np.testing.assert_array_equal(second["tracks"], tracker.track(files[1], POINTS).tracks)
    with pytest.raises(TypeError, match="has no parameter 'label'"):
        pipe(points=POINTS)([{"video": files[0], "label": 3}])
    with pytest.raises(ValueError, match="must have a video, got clip"):
        pipe(points=POINTS)({"clip": files[0]})


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda clip: [], "inputs is empty"),
        (lambda clip: iter(()), "inputs is empty"),
        (lambda clip: clip[0], r"got one frame \(40, 56, 3\)"),
        (lambda clip: Image.fromarray(clip[0]), "got one frame"),
        (lambda clip: [clip[0], "clip.mp4"], "must hold frames .* got str"),
        (lambda clip: [clip[0], clip], r"must hold frames .* got an array \(10, 40, 56, 3\)"),
        (lambda clip: [["a.mp4", "b.mp4"]], "must hold frames .* got str"),
        (lambda clip: list(clip.transpose(0, 3, 1, 2)), r"with the channels last.* got \(3, 40, 56\)"),
        (lambda clip: list(torch.from_numpy(clip).permute(0, 3, 1, 2)), "with the channels last"),
        (lambda clip: ["0.png", "1.png"], "0.png: is one image"),
        (lambda clip: 3, "inputs must be a video"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_video_is_refused(pipe, noise_clip, give, message, task):
    with pytest.raises(ValueError, match=message):
        list(pipe(task, **TASKS[task])(give(noise_clip)))


@pytest.mark.parametrize("size", [0, -1, "2", 1.5])
def test_an_impossible_batch_size_is_refused(pipe, noise_clip, size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        pipe(points=POINTS)([noise_clip], batch_size=size)


@pytest.mark.parametrize("task", TASKS)
def test_models_and_processors_as_objects_and_by_name(pipe, checkpoint, tracker, noise_clip, task):
    model, processor = tracker.model, tracker.processor
    resized = FgvcImageProcessorPil(resize_policy="stretch", size={"height": 32, "width": 32})
    other = Tracker(model, FgvcProcessor(resized))
    for given, by in (
        ({"model": model, "processor": processor}, tracker),
        ({"model": model, "processor": checkpoint}, tracker),
        ({"model": model, "image_processor": processor.image_processor}, tracker),
        ({"model": model, "image_processor": checkpoint}, tracker),
        ({"model": model, "image_processor": resized}, other),
        ({"model": checkpoint}, tracker),
        ({"model": checkpoint, "image_processor": resized}, other),
        ({"model": checkpoint, "processor": FgvcProcessor(resized)}, other),
        ({"model": checkpoint, "local_files_only": True, "dtype": torch.float32}, tracker),
    ):
        result = found(task, pipe(task, **given)(noise_clip, **TASKS[task]))
        np.testing.assert_array_equal(result, expected(by, task, noise_clip, **TASKS[task]), err_msg=str(given))
    assert pipe(task, model=checkpoint, dtype="bfloat16").model.dtype == torch.bfloat16
    assert pipe(task, device=-1).device == torch.device("cpu")


def test_a_model_that_lacks_a_processor_or_is_another_is_refused(pipe, tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path)
    for model in (tiny_model, str(tmp_path)):
        with pytest.raises(ValueError, match="processor is missing"):
            pipe(model=model)
    with pytest.raises(ValueError, match="needs an FgvcModel, got ResNetModel"):
        pipe(model=transformers.ResNetModel(transformers.ResNetConfig(depths=[1], hidden_sizes=[8], embedding_size=4)))


def test_a_pipeline_that_was_saved_is_the_same(pipe, tmp_path, noise_clip):
    made = pipe(points=POINTS)
    made.save_pretrained(tmp_path)
    again = pipe(model=str(tmp_path), points=POINTS)
    assert isinstance(again.model, FgvcModel)
    np.testing.assert_array_equal(again(noise_clip)["tracks"], made(noise_clip)["tracks"])
