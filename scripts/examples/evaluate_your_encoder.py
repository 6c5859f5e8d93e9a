"""Measure any network that gives a feature map by what points it can follow.

    python scripts/examples/evaluate_your_encoder.py

The encoder here is one layer of random filters, so that you see what the propagation alone is worth; put your own in its place. The clips are rendered, so their truth is exact and nothing has to be downloaded. `fgvc-hf evaluate` measures on TAP-Vid, DAVIS,
BADJA, JHMDB and VIP in the same way.
"""

import sys

import torch
from torch import nn

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, load, model_from_backbone, render_clip
from fgvc_hf.metrics.average_jaccard import aggregate, count_tapvid


def main(clips: str = "3") -> None:
    torch.manual_seed(0)
    filters = nn.Conv2d(3, 64, kernel_size=8, stride=4, padding=2)
    backbone = model_from_backbone(filters, stride=4, patches=True, propagation_radius=8)
    # Your network wants its own mean, deviation, and RGB: FgvcImageProcessorPil(do_convert_lab=False, image_mean=..., image_std=...)
    own_input = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))
    bundled, processor = load(preset="fast")
    for name, model, inputs in (
        ("random filters", backbone, own_input),
        ("the bundled checkpoint", bundled, processor),
    ):
        counts = {}
        for seed in range(int(clips)):
            clip = render_clip(num_frames=12, height=128, width=128, num_points=16, seed=seed)
            found = model.track(clip.frames, clip.queries, processor=inputs)
            times = clip.queries[:, 0].astype(int)
            # Points are scored on a raster of 256x256, whatever the size of the video
            counts[str(seed)] = count_tapvid(times, 2 * clip.tracks, ~clip.visible, 2 * found.tracks, found.visible)
        scores = aggregate(counts)["tapvid"]
        print(f"{name}: " + ", ".join(f"{metric} {100 * scores[metric]:.1f}" for metric in ("delta_avg", "AJ", "OA")))


if __name__ == "__main__":
    main(*sys.argv[1:])
