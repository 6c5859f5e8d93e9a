"""Tracking on the features of other networks."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ConvNextConfig, Dinov2Config
from transformers.models.convnext import ConvNextBackbone
from transformers.models.dinov2 import Dinov2Backbone

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, model_from_backbone


def dinov2():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56, out_indices=[-1]
    )
    return Dinov2Backbone(config), 14, True


def convnext():
    torch.manual_seed(0)
    return (
        ConvNextBackbone(ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_indices=[1])),
        4,
        True,
    )


class Pyramid(nn.Module):
    """A list of maps, as timm gives them with features_only=True."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return [x, self.second(x)]


@pytest.mark.parametrize("point_matching", ["labels", "templates"])
@pytest.mark.parametrize("make", [dinov2, convnext, lambda: (Pyramid(), 4, False)], ids=["dinov2", "convnext", "list"])
def test_a_still_video_is_followed(make, point_matching):
    model = model_from_backbone(*make(), point_matching=point_matching, label_sigma=8.0)
    rgb = {"do_convert_lab": False, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none", **rgb)))
    frame = np.random.default_rng(0).integers(0, 255, (90, 101, 3), np.uint8)  # no multiple of any stride
    queries = np.array([(0, x, y) for x in (30.0, 50.0, 70.0) for y in (30.0, 45.0, 60.0)])
    tracks = tracker.track([frame] * 4, queries)
    stride = model.config.output_stride
    assert np.abs(tracks.tracks - queries[:, None, 1:]).max() < 0.5 * stride
    mask = np.zeros((90, 101), bool)
    mask[20:60, 30:70] = True
    *_, (_, ids) = tracker.propagate_masks([frame] * 2, mask.astype(int))
    assert (ids == mask).mean() > 0.9


def test_cells_of_patches_are_centred_on_blocks():
    """A textured block that moves by one block is found at its centre."""
    patches = nn.Conv2d(3, 12, 8, 8)
    model = model_from_backbone(patches, 8, True)
    assert model.config.cell_origin == 4
    first, second = np.zeros((2, 64, 64, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    first[:], second[:] = noise, np.roll(noise, 8, axis=1)
    model.config.point_matching, model.config.template_radius = "templates", 1
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    tracks = tracker.track([first, second], [(0, 28, 28)])
    np.testing.assert_allclose(tracks.tracks[0, 1], (36, 28), atol=1.5)


@pytest.mark.parametrize("affine", [True, False])
def test_the_network_keeps_its_weights(affine):
    """Wrapping must neither initialise a pretrained network again nor fail on layers without weights."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16, affine=affine), nn.Linear(4, 4)
    )
    network[1].running_mean += 3
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = model_from_backbone(network, stride=2, patches=False)
    after = model.encoder.backbone.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert model.encoder.backbone is network


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"must give \(N, C, 8, 8\) at stride 8, got \(1, 1, 16, 16\)"):
        model_from_backbone(nn.Conv2d(3, 1, 4, 4), 8, True)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="exactly if config.encoder is 'external'"):
        FgvcModel(FgvcConfig(encoder="external", output_stride=14))
    with pytest.raises(ValueError, match="exactly if config.encoder is 'external'"):
        FgvcModel(FgvcConfig(), nn.AvgPool2d(2))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((nn.Conv2d(3, 8, 4, 4), "4", True), "output_stride must be an integer of 1 or more, got '4'"),
        ((nn.Conv2d(3, 8, 4, 4), None, True), "output_stride must be an integer of 1 or more, got None"),
        ((nn.Conv2d(3, 8, 4, 4), 4, "False"), "patches must be True or False, got 'False'"),
        ((nn.Conv2d(3, 8, 4, 4), 4, None), "patches must be True or False, got None"),
        ((nn.Conv2d, 4, True), "backbone must be a torch.nn.Module, got type"),
        (("resnet18", 4, True), "backbone must be a torch.nn.Module, got str"),
    ],
)
def test_arguments_of_another_kind(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        model_from_backbone(*arguments)
