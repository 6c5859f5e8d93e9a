"""What labels and descriptions are worth on annotated tracks: frames between labels, and points looked for without a position.

    python scripts/label_rates.py --data DATA --checkpoint fgvc-coarse --preset fast

Points are labelled on every k-th frame; delta_avg of the frames between is that of the forward pass alone and of both passes blended. Then one
label of each point is moved by a fifth of the frame or more, and what is reported as of two points is counted. And points described on the first
frame are looked for from a later one on, beside the same points followed from the first. Means over videos.
"""

import argparse
from pathlib import Path

import numpy as np

from fgvc_hf import Tracker
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.evaluation.labelling import label_rates, mean_of_videos, search_from, wrong_labels
from fgvc_hf.evaluation.tapvid import load_tapvid
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.kernels.process import clean_end


@clean_end()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with TAP-Vid, as of fgvc-hf evaluate")
    parser.add_argument("--split", help="of TAP-Vid")
    parser.add_argument("--sequences", nargs="+", help="only these")
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="fast")
    parser.add_argument("--every", type=int, nargs="+", default=[8, 16, 31], help="frames from label to label")
    parser.add_argument("--search-from", type=int, default=16, metavar="FRAME")
    arguments = parser.parse_args()
    return print_result(lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> str:
    """Means over the videos; those of each video are printed as they come."""
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    videos = load_tapvid(arguments.data, arguments.split)
    chosen = [video for video in videos if not arguments.sequences or video.name in arguments.sequences]
    rates, wrong = {every: [] for every in arguments.every}, {every: [] for every in arguments.every}
    searches = []
    for video in chosen:
        for every in arguments.every:
            rates[every].append(label_rates(tracker, video, every))
            wrong[every].append(wrong_labels(tracker, video, every))
        searches.append(search_from(tracker, video, arguments.search_from))
        last = ", ".join(f"k={every}: {of[-1].forward:.3f} {of[-1].blended:.3f}" for every, of in rates.items())
        found = ", ".join(
            f"{name} {mean_of_videos(searches[-1:], name):.3f}" for name in ("sought", "followed", "said")
        )
        print(f"{video.name}: {last}; {found}", flush=True)
    lines = []
    for every, of in rates.items():
        forward, blended = (100 * np.nanmean([getattr(one, name) for one in of]) for name in ("forward", "blended"))
        lines.append(f"a label every {every} frames: delta_avg {forward:.1f} forward alone, {blended:.1f} blended")
        told, moved, accused, right = (
            sum(getattr(one, name) for one in wrong[every]) for name in ("told", "wrong", "accused", "right")
        )
        lines.append(
            f"  {told} of {moved} pairs with a moved label reported, {accused} of {right} pairs of right ones"
        )
    sought, followed, said = (100 * mean_of_videos(searches, name) for name in ("sought", "followed", "said"))
    lines.append(
        f"looked for from frame {arguments.search_from}: {said:.1f} % found, {sought:.1f} % within 8 px at 256"
    )
    lines.append(f"the same points followed from the first frame: {followed:.1f} % within 8 px")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
