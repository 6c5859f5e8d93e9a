"""Coarse-to-fine models: the head, what it refuses, and the lean search for keys."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, load, render_clip
from fgvc_hf.encoder.coarse_to_fine import FgvcAttentionLayer, from_windows, rotary_positions, rotate, to_windows


TINY = {"hidden_sizes": [8, 8, 16], "fine_size": 8}
TINY |= {"num_attention_layers": 2, "num_attention_heads": 2, "attention_window": 2}


def tiny(**changes) -> FgvcModel:
    """Random weights everywhere, where fresh attention would be the identity."""
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(**TINY | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("head.") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny(propagation_radius=8, num_context_frames=3)


@pytest.mark.parametrize("upsampling", ["shuffle", "bilinear"])
@pytest.mark.parametrize("layers", [0, 2, 3])
@pytest.mark.parametrize("size", [(16, 24), (72, 40), (37, 50), (41, 17)])
def test_features_at_every_size(upsampling, layers, size):
    features = tiny(upsampling=upsampling, num_attention_layers=layers)(torch.rand(2, 3, *size)).features
    assert features.shape == (2, 8, -(-size[0] // 2), -(-size[1] // 2))
    assert torch.isfinite(features).all()


def test_frames_of_a_clip_are_encoded_each_for_itself(model):
    clip = torch.rand(2, 3, 3, 32, 40)
    torch.testing.assert_close(model(clip).features[1, 2], model(clip[1, 2:]).features[0], rtol=1e-4, atol=1e-5)


def test_windows_are_put_back():
    cells = torch.rand(2, 6, 9, 5)
    windows = to_windows(cells, 3)
    assert windows.shape == (12, 9, 5)
    assert torch.equal(windows[4].view(3, 3, 5), cells[0, 3:6, 3:6])
    assert torch.equal(from_windows(windows, 2, 3), cells)


def test_rotated_products_depend_on_offsets_alone():
    query, key = torch.rand(1, 16), torch.rand(1, 16)
    angles = rotary_positions(5, 16)
    products = (rotate(query.expand(25, -1), angles) @ rotate(key.expand(25, -1), angles).T).view(5, 5, 5, 5)
    torch.testing.assert_close(products[0, 0, 2, 1], products[1, 3, 3, 4])
    torch.testing.assert_close(products[3, 4, 0, 2], products[4, 3, 1, 1])
    assert (products[0, 0, 2, 1] - products[0, 0, 1, 2]).abs() > 1e-3


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_layer_is_attention_among_the_cells_of_a_window(shifted):
    """Against each window cut out by itself; 7x10 cells leave windows that are cut off at the border."""
    torch.manual_seed(0)
    config = FgvcConfig(**TINY | {"attention_window": 4})
    config._attn_implementation = "sdpa"
    layer = FgvcAttentionLayer(config, 16, shifted)
    cells, shift = torch.rand(2, 7, 10, 16), 2 if shifted else 0
    found = layer(cells)
    angles = rotary_positions(4, 8)
    for top in range(-shift, 7, 4):
        for left in range(-shift, 10, 4):
            y, x = (torch.arange(max(0, a), min(n, a + 4)) for a, n in ((top, 7), (left, 10)))
            place = ((y - top)[:, None] * 4 + (x - left)).flatten()
            inside = layer.attention_norm(cells[:, y[:, None], x]).flatten(1, 2)
            mixed = layer.attention(inside, None, angles[place])[0].unflatten(1, (len(y), len(x)))
            expected = cells[:, y[:, None], x] + mixed
            expected = expected + layer.mlp(layer.mlp_norm(expected))
            torch.testing.assert_close(found[:, y[:, None], x], expected)


def test_eager_and_sdpa_attention_agree():
    model, pixel_values = tiny(num_attention_layers=2), torch.rand(2, 3, 40, 56)
    model.set_attn_implementation("sdpa")
    expected = model(pixel_values)
    model.set_attn_implementation("eager")
    found = model(pixel_values, output_attentions=True)
    torch.testing.assert_close(found.features, expected.features)
    assert [weights.shape[1:] for weights in found.attentions] == [(2, 4, 4)] * 2
    torch.testing.assert_close(found.attentions[0].sum(-1), torch.ones_like(found.attentions[0][..., 0]))


def test_bilinear_upsampling_keeps_the_centres_of_cells():
    head, coarse = tiny(upsampling="bilinear").head, torch.rand(1, 2, 3, 5)
    fine = head._upsample(coarse, 4)
    torch.testing.assert_close(fine[..., :12:4, :20:4], coarse)
    torch.testing.assert_close(fine[..., 0, 2], coarse[..., 0, :2].mean(-1))


def test_frames_smaller_than_a_window_of_attention():
    with pytest.raises(ValueError, match="frames must be at least 32 pixels high and wide"):
        tiny(attention_window=4)(torch.rand(1, 3, 24, 64))
    assert tiny(attention_window=4, num_attention_layers=0)(torch.rand(1, 3, 24, 64)).features is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upsampling": "nearest"}, "upsampling must be one of"),
        ({"fine_size": -1}, "fine_size must be an integer of 0 or more"),
        ({"num_attention_heads": 3}, "num_attention_heads must split 16 channels"),
        ({"attention_window": 0}, "attention_window must be an integer of 1 or more"),
        ({"output_stride": 8}, "output_stride must be one of"),
        ({"encoder": "external"}, "needs encoder 'resnet', got 'external'"),
        ({"projection_size": 4}, "needs projection_size 0, got 4"),
        ({"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}, "has three layers"),
    ],
)
def test_config_errors_say_what_is_accepted(settings, message):
    with pytest.raises(ValueError, match=message):
        FgvcConfig(**TINY | settings)


def test_a_checkpoint_stays_of_its_kind(model, tiny_model, tmp_path):
    model.save_pretrained(tmp_path / "coarse")
    tiny_model.save_pretrained(tmp_path / "fine")
    with pytest.raises(ValueError, match="of a fine model with 0, got 8"):
        FgvcModel.from_pretrained(tmp_path / "fine", fine_size=8)
    with pytest.raises(ValueError, match="of a coarse-to-fine model with 8, got 0"):
        FgvcModel.from_pretrained(tmp_path / "coarse", fine_size=0)
    with pytest.raises(ValueError, match="num_attention_layers is part of the weights"):
        FgvcModel.from_pretrained(tmp_path / "coarse", num_attention_layers=4)
    assert FgvcModel.from_pretrained(tmp_path / "coarse", fine_size=8, refine_radius=5).config.refine_radius == 5


def test_save_load_and_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, pixel_values = AutoModel.from_pretrained(tmp_path), torch.rand(1, 3, 32, 48)
    assert type(loaded) is FgvcModel and loaded.config.hidden_size == 8
    assert torch.equal(loaded(pixel_values).features, model(pixel_values).features)
    half = FgvcModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    cosine = F.cosine_similarity(half(pixel_values).features.float(), model(pixel_values).features, dim=1)
    assert half(pixel_values).features.dtype == torch.bfloat16 and cosine.mean() > 0.99


@pytest.mark.slow
def test_export_with_any_batch_and_size():
    model = tiny()
    dims = {0: torch.export.Dim("batch"), 2: 8 * torch.export.Dim("h8", min=3), 3: 8 * torch.export.Dim("w8", min=3)}
    exported = torch.export.export(model, (torch.rand(2, 3, 32, 48),), dynamic_shapes={"pixel_values": dims})
    pixel_values = torch.rand(3, 3, 72, 40)
    torch.testing.assert_close(exported.module()(pixel_values).features, model(pixel_values).features)


@pytest.fixture(scope="module")
def clip():
    return render_clip(num_frames=5, height=48, width=64, num_points=3, seed=3)


@pytest.mark.parametrize("method", ["labels", "templates"])
def test_points_are_followed_like_with_a_fine_model(clip, method):
    model, processor = (
        tiny(propagation_radius=8, point_matching=method),
        FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")),
    )
    points = [(0, 20, 20), (0, 40.5, 30), (2, 10, 12)]
    tracks = Tracker(model, processor).track(clip.frames, points)
    assert tracks.tracks.shape == (3, 5, 2) and np.isfinite(tracks.tracks[:2]).all()
    np.testing.assert_allclose(tracks.tracks[0, 0], (20, 20))
    alone = Tracker(model, processor).track(clip.frames, points[:1])
    np.testing.assert_array_equal(alone.tracks[0], tracks.tracks[0])  # others change nothing
    live = processor.init_video_session()
    processor.add_inputs_to_inference_session(live, 0, 0, [points[0][1:]])
    outputs = [model.step(live, frame) for frame in clip.frames]
    streamed = processor.post_process_point_tracking(outputs, live)
    np.testing.assert_array_equal(streamed.tracks[0], tracks.tracks[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 256), (480, 854), (720, 1280)])
def test_the_bundled_checkpoint_follows_points_at_every_size(size):
    clip = render_clip(6, *size, num_points=24, seed=3)
    model = load("fgvc-coarse").model
    processor = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))
    found = Tracker(model, processor).track(clip.frames, clip.queries)
    seen = clip.visible & np.isfinite(found.tracks[..., 0])  # from the frame of the query on
    error = np.linalg.norm(found.tracks - clip.tracks, axis=-1)[seen]
    assert len(error) > 100 and np.median(error) < 0.5 and (error < 4).mean() > 0.95
    assert found.visible[seen].mean() > 0.95


def test_masks_and_flow_like_with_a_fine_model(model, clip):
    processor = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))
    ids = np.zeros((48, 64), np.uint8)
    ids[10:30, 20:40] = 1
    masks = dict(Tracker(model, processor).propagate_masks(clip.frames, ids))
    assert len(masks) == 5 and all(found.shape == (48, 64) for found in masks.values())
    np.testing.assert_array_equal(masks[0], ids)
    flow = Tracker(model, processor).flow(clip.frames[0], clip.frames[1])
    assert flow.flow.shape == (48, 64, 2) and np.isfinite(flow.flow).all()


def test_flow_of_a_frame_to_itself_is_zero(model, clip):
    flow = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))).flow(
        clip.frames[0], clip.frames[0]
    )
    assert np.abs(flow.flow).max() < 1.5 and np.abs(flow.flow).mean() < 0.5
