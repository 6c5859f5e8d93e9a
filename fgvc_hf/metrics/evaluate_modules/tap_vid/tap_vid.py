"""TAP-Vid scores as a metric of `evaluate`: one prediction and one reference for each video."""

import datasets
import evaluate
import numpy as np

from fgvc_hf.metrics.average_jaccard import aggregate, count_tapvid


DESCRIPTION = """
Average Jaccard, position accuracy and occlusion accuracy of tracked points as in TAP-Vid, in the three averages in use.
Points are (x, y) in pixels of a video resized to 256 x 256; each track of a video has one query.
"""
POINTS = datasets.List(datasets.List(datasets.List(datasets.Value("float64"))))
FLAGS = datasets.List(datasets.List(datasets.Value("bool")))


class TapVid(evaluate.Metric):
    """`compute(predictions=[{tracks, visible}], references=[{query_frames, points, occluded}], query_mode="first")`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Doersch et al., TAP-Vid: A Benchmark for Tracking Any Point in a Video, 2022",
            inputs_description=str(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": {"tracks": POINTS, "visible": FLAGS},
                    "references": {
                        "query_frames": datasets.List(datasets.Value("int64")),
                        "points": POINTS,
                        "occluded": FLAGS,
                    },
                }
            ),
        )

    def _compute(self, *, predictions=None, references=None, query_mode="first", **kwargs):
        counts = {
            str(index): count_tapvid(
                np.array(truth["query_frames"]),
                np.array(truth["points"]),
                np.array(truth["occluded"]),
                np.array(found["tracks"]),
                np.array(found["visible"]),
                query_mode,
            )
            for index, (found, truth) in enumerate(zip(predictions or [], references or [], strict=True))
        }
        return {f"{kind}/{name}": value for kind, row in aggregate(counts).items() for name, value in row.items()}
