"""PCK of BADJA as a metric of `evaluate`: one prediction and one reference for each video."""

import datasets
import evaluate
import numpy as np

from fgvc_hf.metrics.pck import aggregate_badja, count_badja


DESCRIPTION = """
Share of joints closer to the truth than alpha times the square root of the animal's area, in the two averages in use (fgvc, pips).
Joints are (T, N, 2) on the annotated frames, in pixels; areas are in square pixels of the same image size.
"""
POINTS = datasets.List(datasets.List(datasets.List(datasets.Value("float64"))))


class BadjaPck(evaluate.Metric):
    """`compute(predictions=[points], references=[{points, visible, areas}])`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Biggs et al., Creatures great and SMAL, 2018",
            inputs_description=str(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": POINTS,
                    "references": {
                        "points": POINTS,
                        "visible": datasets.List(datasets.List(datasets.Value("bool"))),
                        "areas": datasets.List(datasets.Value("float64")),
                    },
                }
            ),
        )

    def _compute(self, *, predictions=None, references=None, **kwargs):
        counts = {
            str(index): count_badja(
                np.array(found), np.array(truth["points"]), np.array(truth["visible"]), np.array(truth["areas"])
            )
            for index, (found, truth) in enumerate(zip(predictions or [], references or [], strict=True))
        }
        return {
            f"{kind}/{name}": value for kind, row in aggregate_badja(counts).items() for name, value in row.items()
        }
