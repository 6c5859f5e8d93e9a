"""Errors of optical flow as a metric of `evaluate`: one prediction and one reference for each pair of frames."""

import datasets
import evaluate
import numpy as np

from fgvc_hf.metrics.end_point_error import aggregate_flow, count_flow


DESCRIPTION = """
End-point error (EPE, by true speed and by occlusion), outlier rates (Fl of KITTI, 1px) and precision, recall and F1 of occlusion, over all
pixels and over the averages of pairs. Flow is (H, W, 2), (x, y) in pixels; valid and occluded are (H, W).
"""
FLOW = datasets.List(datasets.List(datasets.List(datasets.Value("float32"))))
FLAGS = datasets.List(datasets.List(datasets.Value("bool")))


class OpticalFlow(evaluate.Metric):
    """`compute(predictions=[{flow, occluded}], references=[{flow, valid, occluded}])`; a reference's occluded is `None` if it is not known."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Butler et al., A naturalistic open source movie for optical flow evaluation, 2012",
            inputs_description=str(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": {"flow": FLOW, "occluded": FLAGS},
                    "references": {"flow": FLOW, "valid": FLAGS, "occluded": FLAGS},
                }
            ),
        )

    def _compute(self, *, predictions=None, references=None, **kwargs):
        counts = {
            str(index): count_flow(
                np.array(found["flow"]),
                np.array(truth["flow"]),
                np.array(truth["valid"]),
                np.array(found["occluded"]),
                None if truth["occluded"] is None else np.array(truth["occluded"]),
            )
            for index, (found, truth) in enumerate(zip(predictions or [], references or [], strict=True))
        }
        return {f"{kind}/{name}": value for kind, row in aggregate_flow(counts).items() for name, value in row.items()}
