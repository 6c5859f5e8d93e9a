"""Measure any network with a feature map by how well its features track points.

    python scripts/examples/evaluate_your_encoder.py

The encoder here is one layer of random filters, as a lower bound; put your own network in its place. The clips are rendered, so the ground truth is
exact and nothing is downloaded. `fgvc-hf evaluate` measures on TAP-Vid, DAVIS, BADJA, JHMDB and VIP in the same way.
"""

import sys

import torch
from torch import nn

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, Tracker, model_from_backbone, render_clip
from fgvc_hf.metrics.average_jaccard import aggregate, count_tapvid


def main(clips: str = "3") -> None:
    torch.manual_seed(0)
    filters = nn.Conv2d(3, 64, kernel_size=8, stride=4, padding=2)
    backbone = model_from_backbone(filters, stride=4, patches=True, propagation_radius=8)
    # A pretrained network needs its own input: FgvcImageProcessorPil(do_convert_lab=False, image_mean=..., image_std=...) for RGB
    random_filters = Tracker(backbone, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    bundled = Tracker.from_pretrained(preset="fast")
    for name, tracker in (("random filters", random_filters), ("the bundled checkpoint", bundled)):
        counts = {}
        for seed in range(int(clips)):
            clip = render_clip(num_frames=12, height=128, width=128, num_points=16, seed=seed)
            found = tracker.track(clip.frames, clip.queries)
            times = clip.queries[:, 0].astype(int)
            # TAP-Vid scores positions in pixels of 256x256, whatever the size of the video
            counts[str(seed)] = count_tapvid(times, 2 * clip.tracks, ~clip.visible, 2 * found.tracks, found.visible)
        scores = aggregate(counts)["tapvid"]
        print(f"{name}: " + ", ".join(f"{metric} {100 * scores[metric]:.1f}" for metric in ("delta_avg", "AJ", "OA")))


if __name__ == "__main__":
    main(*sys.argv[1:])
