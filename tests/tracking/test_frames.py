"""One rule for a frame at every public entry: what is accepted is the same picture everywhere, everything else is one sentence."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, Tracker, chain_flow, draw_masks, draw_tracks, paint
from fgvc_hf.tracking.frames import as_frame
from fgvc_hf.tracking.prompts import binary_masks, masks_of_ids


FRAME = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
GREY = FRAME[..., 0]
READ_ONLY = FRAME.copy()
READ_ONLY.flags.writeable = False

ACCEPTED = {
    "array": (FRAME, FRAME),
    "tensor": (torch.from_numpy(FRAME.copy()), FRAME),
    "strided tensor": (torch.from_numpy(FRAME.transpose(2, 0, 1).copy()).permute(1, 2, 0), FRAME),
    "PIL image": (Image.fromarray(FRAME), FRAME),
    "read-only": (READ_ONLY, FRAME),
    "negative strides": (FRAME[:, ::-1][:, ::-1][::-1], FRAME[::-1]),
    "Fortran order": (np.asfortranarray(FRAME), FRAME),
    "grey": (GREY, np.stack([GREY] * 3, -1)),
    "grey with an axis": (GREY[..., None], np.stack([GREY] * 3, -1)),
    "PIL grey": (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
    "PIL with alpha": (Image.fromarray(np.dstack([FRAME, GREY])), FRAME),
    "PIL palette": (Image.fromarray(GREY % 4).convert("P"), np.stack([GREY % 4] * 3, -1)),
    "PIL 16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
    "PIL floats": (Image.fromarray((GREY / 255).astype("f4")), np.stack([GREY] * 3, -1)),
    "PIL bits": (Image.fromarray(GREY > 99), np.stack([np.where(GREY > 99, 255, 0)] * 3, -1)),
}
REFUSED = {
    "floats in [0, 1]": ((FRAME / 255).astype("f4"), r"float32: values in \[0, 1\] become uint8 by"),
    "float tensor": (torch.from_numpy(FRAME) / 255, "float32"),
    "bfloat16 tensor": ((torch.from_numpy(FRAME) / 255).bfloat16(), "must be uint8"),
    "16 bits": (FRAME.astype(np.uint16) * 257, "uint16: 16-bit values become uint8 by"),
    "int64": (FRAME.astype(np.int64), r"int64: .*frame.astype\(np.uint8\)"),
    "bool": (FRAME > 99, "bool"),
    "not a number": (np.full((40, 56, 3), np.nan), "float64"),
    "channels first": (FRAME.transpose(2, 0, 1), "channels come last"),
    "channels first tensor": (torch.from_numpy(FRAME).permute(2, 0, 1), "channels come last"),
    "alpha": (np.dstack([FRAME, GREY]), "drop the alpha channel"),
    "batch": (FRAME[None], "one frame at a time"),
    "two channels": (FRAME[..., :2], "must have the shape"),
    "objects": (FRAME.astype(object), "of object"),
    "rows of unequal length": ([[1, 2], [3]], "got list"),
    "nested lists": (FRAME.tolist(), "must be uint8, 0 to 255, got int64"),
    "nothing": (None, "got NoneType"),
    "path": ("frame.png", "got str|list of paths"),
    "no rows": (FRAME[:0], "must have pixels"),
    "no columns": (FRAME[:, :0], "must have pixels"),
    "PIL floats beyond": (Image.fromarray(GREY.astype("f4")), r"must lie in \[0, 1\]"),
    "PIL floats, not a number": (Image.fromarray(np.full((4, 4), np.nan, "f4")), r"must lie in \[0, 1\]"),
    "PIL 32 bits": (Image.fromarray(GREY.astype(np.int32)), "whose white is not known"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_frames(name):
    given, expected = ACCEPTED[name]
    frame = as_frame(given)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, expected)


@pytest.fixture(scope="module")
def tracker(tiny_model):
    return Tracker(tiny_model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


def masked(frame):
    return np.pad(np.ones((4, 4), np.uint8), ((8, 28), (8, 44)))


ENTRIES = {
    "step": lambda tracker, frame: tracker.stream().step(frame),
    "model.step": lambda tracker, frame: tracker.model.step(tracker.processor.init_video_session(), frame),
    "flow": lambda tracker, frame: tracker.flow(FRAME, frame),
    "match": lambda tracker, frame: tracker.match(frame, FRAME, point=(20, 20)),
    "track": lambda tracker, frame: tracker.track([FRAME, frame], [(0, 20, 20)]),
    "track, iterator": lambda tracker, frame: tracker.track(iter([FRAME, frame]), [(0, 20, 20)]),
    "propagate_masks": lambda tracker, frame: list(tracker.propagate_masks([FRAME, frame], masked(frame))),
    "chain_flow": lambda tracker, frame: list(chain_flow(tracker, [FRAME, frame])),
    "paint": lambda tracker, frame: list(paint(tracker, [FRAME, frame], np.full((40, 56, 4), 255, np.uint8))),
    "draw_tracks": lambda tracker, frame: draw_tracks(frame, np.ones((1, 1, 2)), np.ones((1, 1), bool), 0),
    "draw_masks": lambda tracker, frame: draw_masks(frame, masked(frame)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_frames_are_one_sentence_at_every_entry(tracker, name):
    given, message = REFUSED[name]
    for entry in ENTRIES.values():
        with pytest.raises(ValueError, match=message) as caught:
            entry(tracker, given)
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("levels", [FRAME, GREY, GREY.astype(np.uint16) * 257], ids=["RGB", "grey", "16 bits"])
def test_a_damaged_image_of_pillow_is_one_sentence_everywhere(levels):
    def damaged():
        """It is found when it is decoded, after it was opened."""
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
        return Image.open(io.BytesIO(file.getvalue()[:-300]))

    def add(masks):
        return binary_masks(masks, 1)

    for use in (as_frame, FgvcImageProcessorPil(), masks_of_ids, add, lambda image: add([image])):
        with pytest.raises(ValueError, match=r"^\w+ is an image that cannot be decoded \(image file is truncated"):
            use(damaged())


@pytest.mark.parametrize("entry", ENTRIES)
def test_accepted_frames_are_the_same_picture_at_every_entry(tracker, entry):
    def numbers(result):
        if isinstance(result, list):
            return [part for one in result for part in numbers(one)]
        if isinstance(result, tuple):
            return [part for one in result for part in numbers(one)]
        values = result.values() if hasattr(result, "values") else [result]
        values = vars(result).values() if hasattr(result, "tracks") else values
        return [np.asarray(one) for one in values if one is not None]

    for given, expected in ACCEPTED.values():
        want, got = (
            numbers(ENTRIES[entry](tracker, frame))
            for frame in (np.ascontiguousarray(expected).astype(np.uint8), given)
        )
        assert want and len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [(1, 40), (3, 40), (4, 40), (40, 1), (40, 3), (40, 4), (3, 3), (1, 1)])
def test_the_layout_is_never_guessed(tracker, size):
    """A frame as high or wide as it has channels is read as the same frame repeated to a size that cannot be mistaken."""
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    session = tracker.processor.init_video_session()
    pixel_values = session.preprocess(frame)
    settings = {"do_resize": False, "return_tensors": "pt"}
    tall = np.concatenate([frame] * 8)
    tall = np.concatenate([tall] * 8, axis=1)  # (8 H, 8 W, 3)
    plain = FgvcImageProcessorPil(**settings)
    expected = plain(tall, **settings).pixel_values[..., : size[0], : size[1]]
    torch.testing.assert_close(plain(frame, input_data_format="channels_last", **settings).pixel_values, expected)
    torch.testing.assert_close(plain(frame, **settings).pixel_values, expected)
    assert session.sizes[0] == size and pixel_values.shape[-2:] == session.sizes[1]


def test_a_video_whose_frames_change_in_size_is_one_sentence(tracker):
    small = FRAME[:30]
    for video in ([FRAME, small], iter([FRAME, small])):
        with pytest.raises(ValueError, match="one size"):
            tracker.track(video, [(0, 20, 20)])
    live = tracker.stream()
    live.step(FRAME)
    with pytest.raises(ValueError, match=r"of size \(40, 56\) as those before, got \(30, 56\)"):
        live.step(small)
    live.step(FRAME)


@pytest.mark.parametrize("shape", [(40, 56, 3), (40, 56, 4)])
def test_one_frame_is_no_video(tracker, shape):
    with pytest.raises(ValueError, match="one frame"):
        tracker.track(np.zeros(shape, np.uint8), [(0, 2, 2)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FRAME / 255, "pass rescale_factor=1.0"),
        (torch.from_numpy(FRAME) / 255, "pass rescale_factor=1.0"),
        (FRAME.astype(np.uint16) * 257, "maps to"),
        (FRAME.astype(np.int64) - 300, "maps to"),
        (np.full((40, 56, 3), np.nan), "maps to"),
        (FRAME > 99, "arrays of numbers"),
        (FRAME.astype(object), "arrays of numbers|image type"),
        (FRAME[:0], "arrays of numbers"),
        (FRAME[:3].transpose(2, 1, 0)[..., :1], "input_data_format must be given"),
        (np.zeros((3, 40, 4), np.uint8), "input_data_format must be given"),
        (Image.fromarray(GREY.astype(np.int32)), "whose white is not known"),
    ],
)
def test_the_image_processor_guesses_no_range_and_no_layout(images, message):
    with pytest.raises(ValueError, match=message):
        FgvcImageProcessorPil()(images)


def test_the_image_processor_takes_floats_by_their_factor():
    processor = FgvcImageProcessorPil(do_resize=False)
    expected = processor(FRAME, return_tensors="pt").pixel_values
    scaled = processor(FRAME / 255, rescale_factor=1.0, return_tensors="pt").pixel_values
    torch.testing.assert_close(scaled, expected)
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    torch.testing.assert_close(
        processor(wide, return_tensors="pt").pixel_values,
        processor(np.stack([GREY] * 3, -1), return_tensors="pt").pixel_values,
    )
