"""Masks through a video: drawing, reading, competition, and that they are sessions like any other."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, open_video, render_clip
from fgvc_hf import draw_masks as draw_masks_over
from fgvc_hf.cli.main import main
from fgvc_hf.io.drawing import point_colours
from fgvc_hf.io.masks import davis_palette, read_mask, write_mask
from fgvc_hf.io.video import VideoWriter
from fgvc_hf.tracking.label_maps import draw_masks, object_ids, read_masks


def ellipse(height=40, width=56, y=20, x=20, ry=9, rx=12):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("input_size", [(80, 112), (160, 224), (96, 96)])
def test_a_mask_that_is_drawn_and_read_is_where_it_was(stride, input_size):
    mask = ellipse(160, 224, 90, 70, 40, 30)
    size = input_size[0] // stride, input_size[1] // stride
    labels = draw_masks(torch.from_numpy(mask)[None], size, input_size, stride)
    read = read_masks(labels.T.view(1, *size), input_size, mask.shape, stride)[0].numpy() > 0.5
    assert iou(read, mask) > (0.93 if stride == 4 and input_size[0] < 100 else 0.96)
    rows, columns = np.nonzero(read)
    expected_rows, expected_columns = np.nonzero(mask)
    pixel = 160 / input_size[0]  # of the model's input, in pixels of the mask: less than a half of one is allowed
    assert abs(rows.mean() - expected_rows.mean()) < 0.12 * pixel
    assert abs(columns.mean() - expected_columns.mean()) < 0.12 * 224 / input_size[1]


def test_a_cell_holds_the_share_that_is_covered():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :, :5] = True  # cell 2 of stride 2 spans 3.5 to 5.5: four of its five samples are covered
    labels = draw_masks(mask, (8, 8), (16, 16), 2).view(8, 8)
    torch.testing.assert_close(labels[3], torch.tensor([1.0, 1, 0.8, 0, 0, 0, 0, 0]))
    edge = torch.zeros(1, 16, 16, dtype=torch.bool)
    edge[:, 0] = True  # the first row of cells spans -0.5 to 1.5, and what lies outside is as the pixels at the border
    rows = draw_masks(edge, (8, 8), (16, 16), 2).view(8, 8)[:, 3]
    torch.testing.assert_close(rows, torch.tensor([0.8, 0, 0, 0, 0, 0, 0, 0]))


@pytest.fixture(scope="module")
def tracker(tiny_model, processor):
    return Tracker(tiny_model, processor)


def label_maps(session):
    """Label map of each object with a mask on the frame that was seen last, by id."""
    return {i: one for part in session.labels.read_masks() for i, one in zip(part.ids, part.maps, strict=True)}


def moving(noise_clip):
    ids = np.zeros((40, 56), np.uint8)
    ids[ellipse(y=20, x=18, ry=8, rx=8)] = 3
    ids[ellipse(y=20, x=38, ry=8, rx=8)] = 1
    return noise_clip, ids


def test_the_frame_of_the_prompt_is_exact_and_objects_go_on(bundled_model, processor):
    texture = render_clip(num_frames=1, height=128, width=160, num_points=1, seed=3).frames[0]
    clip = [texture[4 * t : 96 + 4 * t, 4 * t : 112 + 4 * t] for t in range(5)]
    ids = np.zeros((96, 112), np.uint8)
    ids[ellipse(96, 112, 60, 45, 20, 20)] = 3
    ids[ellipse(96, 112, 45, 80, 18, 14)] = 1
    found = dict(Tracker(bundled_model, processor).propagate_masks(clip, ids))
    assert list(found) == list(range(5))
    np.testing.assert_array_equal(found[0], ids)
    assert found[4].dtype == np.int32 and set(np.unique(found[4])) == {0, 1, 3}
    moved = np.roll(ids, (-16, -16), axis=(0, 1))
    for obj_id in (1, 3):
        assert iou(found[4] == obj_id, moved == obj_id) > 0.9


def test_both_directions_give_every_frame_once(tracker, noise_clip):
    clip, ids = moving(noise_clip)
    both = dict(tracker.propagate_masks(clip, ids, 4, "both"))
    forward = dict(tracker.propagate_masks(clip, ids, 4, "forward"))
    backward = dict(tracker.propagate_masks(clip, ids, 4, "backward"))
    assert sorted(both) == list(range(10))
    assert all((both[t] == {**backward, **forward}[t]).all() for t in range(10))
    turned = dict(tracker.propagate_masks(clip[::-1], ids, 5, "forward"))
    assert all((backward[9 - t] == turned[t]).all() for t in range(5, 10))


def test_points_and_masks_share_a_session_without_influence(tiny_model, processor, noise_clip):
    clip, ids = moving(noise_clip)

    def outputs(points, masks):
        session = processor.init_video_session(clip)
        if points:
            processor.add_inputs_to_inference_session(session, 0, [7, 8], [(20, 20), (30.5, 10)])
        if masks:
            processor.add_inputs_to_inference_session(session, 0, [1, 3], input_masks=[ids == 1, ids == 3])
        return session, [(output, label_maps(session)) for output in tiny_model.propagate_in_video_iterator(session)]

    session, mixed = outputs(True, True)
    _, points = outputs(True, False)
    _, masks = outputs(False, True)
    for (both, maps), (point, no_maps), (mask, same_maps) in zip(mixed, points, masks, strict=True):
        np.testing.assert_array_equal(both.points, point.points)
        np.testing.assert_array_equal(both.confidence, point.confidence)
        np.testing.assert_array_equal(both.masks, mask.masks)
        assert all(torch.equal(maps[obj_id], same_maps[obj_id]) for obj_id in (1, 3))
        assert both.ids == [7, 8] and list(maps) == list(same_maps) == [1, 3]
        assert point.masks is None and no_maps == {} and mask.ids == []
    tracks = processor.post_process_point_tracking([output for output, _ in mixed], session)
    assert tracks.object_ids == [7, 8]


def test_streaming_equals_offline(tracker, tiny_model, processor, noise_clip):
    clip, ids = moving(noise_clip)
    offline = dict(tracker.propagate_masks(clip, ids, 2))
    live = processor.init_video_session()
    for t, frame in enumerate(clip):
        if t == 2:
            processor.add_inputs_to_inference_session(live, 2, [1, 3], input_masks=[ids == 1, ids == 3])
        output = tiny_model.step(live, frame)
        if t >= 2:
            np.testing.assert_array_equal(processor.post_process_masks(output, live), offline[t])
        else:
            assert not processor.post_process_masks(output, live).any()


@pytest.mark.parametrize(
    ("ids", "masks", "message"),
    [
        ([1], np.zeros((40, 56), bool), "that of target 1 is empty"),
        ([1], np.ones((30, 56), bool), "must be 40x56 like the video, but that of target 1 is 30x56"),
        ([0], np.ones((40, 56), bool), "obj_ids must be 1 or more for masks"),
        ([9], np.ones((40, 56), bool), "target 9 exists already"),
        ([1, 2], np.ones((40, 56), bool), "a mask .* for each of 2 obj_ids"),
        ([1], np.full((40, 56), 7), "of 0 and 1"),
        (range(10, 266), np.ones((256, 40, 56), bool), "at most 255 masks"),
        ([1], None, "exactly one of input_points, input_masks and"),
    ],
)
def test_bad_masks_leave_the_session_as_it_was(tiny_model, processor, noise_clip, ids, masks, message):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, 9, [(20, 20)])
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, 0, ids, input_masks=masks)
    assert session.obj_ids == [9]
    assert len(list(tiny_model.propagate_in_video_iterator(session))) == 10


def test_bad_id_maps(tracker, noise_clip):
    for masks, message in (
        (np.zeros((40, 56), int), "masks hold no object"),
        (np.ones((40, 56)), "masks must hold integer object ids"),
    ):
        with pytest.raises(ValueError, match=message):
            next(tracker.propagate_masks(noise_clip, masks))


@pytest.fixture
def files(tmp_path, noise_clip):
    clip, ids = moving(noise_clip)
    with VideoWriter(tmp_path / "clip.mp4", 12, 40, 56) as writer:
        for frame in clip:
            writer.write(frame)
    write_mask(tmp_path / "mask.png", ids)
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4)).save_pretrained(tmp_path / "tiny")
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(tmp_path / "tiny")
    return tmp_path, ids


def propagate(folder, *arguments):
    command = ["propagate", "clip.mp4", "--mask", "mask.png", "--checkpoint", "tiny", *arguments]
    names = {"clip.mp4", "mask.png", "tiny", "out", "overlay.mp4", "text.png", "colour.png", "small.png", "empty.png"}
    return main([str(folder / word) if word in names else word for word in command])


def test_the_command_writes_masks_and_overlay(files, capsys):
    folder, ids = files
    assert propagate(folder, "--output", "out", "--overlay", "overlay.mp4") == 0
    assert capsys.readouterr().out.split() == [str(folder / "out"), str(folder / "overlay.mp4")]
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == [f"{t:05d}.png" for t in range(10)]
    np.testing.assert_array_equal(read_mask(folder / "out" / "00000.png"), ids)
    drawn = next(open_video(folder / "overlay.mp4").frames(0, 1))
    plain = next(open_video(folder / "clip.mp4").frames(0, 1))
    change = np.abs(drawn.astype(int) - plain).mean(-1)
    assert change[ids > 0].mean() > 3 * change[ids == 0].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out", "--mask", "absent.png"], "absent.png: there is no such mask"),
        (["--output", "out", "--mask", "text.png"], "text.png: cannot be read as an image"),
        (["--output", "out", "--mask", "colour.png"], "must be a palette or grey image"),
        (["--output", "out", "--mask", "small.png"], "input_masks must be 40x56 like the video"),
        (["--output", "out", "--mask", "empty.png"], "masks hold no object"),
        (["--output", "out", "--frame", "10"], "frame_idx must be a frame of the video, 0 to 9"),
        (["--output", "tiny"], "exists already; give a new or an empty folder"),
        ([], "nothing to write"),
    ],
)
def test_bad_commands_are_one_line_and_leave_nothing(files, capsys, arguments, message):
    folder, ids = files
    (folder / "text.png").write_text("no image")
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(folder / "colour.png")
    write_mask(folder / "small.png", ids[:20])
    write_mask(folder / "empty.png", ids * 0)
    before = sorted(path.name for path in folder.iterdir())
    assert propagate(folder, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert sorted(path.name for path in folder.iterdir()) == before


def test_objects_are_tinted_and_outlined():
    frame, ids = np.full((40, 56, 3), 100, np.uint8), np.zeros((40, 56), int)
    ids[10:20, 10:30] = 5
    drawn = draw_masks_over(frame, ids)
    assert (drawn[ids == 0] == 100).all() and (drawn[ids == 5] != 100).any(-1).all()
    assert (drawn[10, 15] == point_colours([5])[0]).all() and (drawn[15, 20] != point_colours([5])[0]).any()


def test_a_mask_can_be_corrected_and_removed(tiny_model, processor, noise_clip):
    left, right = np.zeros((2, 40, 56), bool)
    left[10:30, 5:20], right[10:30, 30:50] = True, True
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, [1, 2], input_masks=np.stack([left, right]))
    processor.add_inputs_to_inference_session(session, 4, 1, input_masks=right & (np.arange(40) < 20)[:, None])
    alone = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(alone, 0, 2, input_masks=right)
    expected = [label_maps(alone)[2] for _ in tiny_model.propagate_in_video_iterator(alone)]
    for t, output in enumerate(tiny_model.propagate_in_video_iterator(session)):
        maps = label_maps(session)
        assert sorted(maps) == ([1, 2] if t < 7 else [2])
        assert torch.equal(maps[2], expected[t])
        assert (1 in output.masks) == (t < 7)
        if t == 4:
            np.testing.assert_array_equal(output.masks == 1, right & (np.arange(40) < 20)[:, None])
        if t == 6:
            session.remove(1)


def test_a_small_object_that_was_blurred_keeps_its_place_and_one_that_is_gone_does_not():
    blurred = torch.zeros(2, 20, 28)  # label maps of stride 2
    blurred[0, 2:18, 2:15], blurred[1, 9:13, 19:23] = 0.9, 0.2
    blurred[1, 10:12, 20:22] = 0.4
    found = object_ids(blurred, [1, 2], (40, 56), (40, 56), 2)
    assert (found[20:23, 40:43] == 2).all() and (found[:16] != 2).all() and (found[8:32, 8:26] == 1).all()
    blurred[1] *= 0.01
    assert not (object_ids(blurred, [1, 2], (40, 56), (40, 56), 2) == 2).any()


def test_the_palette_is_that_of_davis_and_pascal_voc():
    palette = davis_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 20: (0, 64, 128)}
    for number, colour in (known | {128: (0, 32, 0), 254: (96, 224, 192), 255: (224, 224, 192)}).items():
        assert tuple(palette[number]) == colour
