"""Region similarity and contour accuracy of DAVIS as a metric of `evaluate`: one prediction and one reference for each video."""

import datasets
import evaluate
import numpy as np

from fgvc_hf.metrics.region_contour import aggregate, count_davis


DESCRIPTION = """
J, F and J&F of video object segmentation as DAVIS measures them: objects of the first frame, first and last frame not scored.
Masks are (T, H, W) object ids, 0 for the background.
"""
MASKS = datasets.List(datasets.List(datasets.List(datasets.Value("uint8"))))


class DavisJF(evaluate.Metric):
    """`compute(predictions=[masks], references=[masks])`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Pont-Tuset et al., The 2017 DAVIS Challenge on Video Object Segmentation, 2017",
            inputs_description=str(self.__doc__),
            features=datasets.Features({"predictions": MASKS, "references": MASKS}),
        )

    def _compute(self, *, predictions=None, references=None, **kwargs):
        pairs = zip(predictions or [], references or [], strict=True)
        return aggregate({str(i): count_davis(np.array(f), np.array(t)) for i, (f, t) in enumerate(pairs)})
