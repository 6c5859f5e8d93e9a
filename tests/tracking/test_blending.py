"""The blend of both passes between labels, frame by frame, by its definition."""

import math

import numpy as np
import pytest

from fgvc_hf.tracking.blending import blended, disagreement, disagreement_sentence, forward_weights, gaps
from fgvc_hf.tracking.labels import LabelPass, labels_of
from fgvc_hf.tracking.results import LabelDisagreement, PointTracks


LABELS = labels_of([(1, 20.0, 30.0), (5, 28.0, 33.0), (9, 40.0, 35.0), (3, 60.0, 50.0)], [7, 7, 7, 2])
LENGTH, SIZE = 12, (100, 144)  # a twentieth of the mean side is 6 pixels


def one_pass(seed, arrivals):
    """Random tracks of two points on all frames."""
    rng = np.random.default_rng(seed)
    tracks = rng.uniform(0, 100, (2, LENGTH, 2)).astype(np.float32)
    confidence, uncertainty = rng.uniform(0, 1, (2, LENGTH)), rng.uniform(0.1, 4, (2, LENGTH))
    outside = rng.random((2, LENGTH)) < 0.5
    visible = np.ones((2, LENGTH), bool)
    values = confidence.astype(np.float32), uncertainty.astype(np.float32)
    found = PointTracks([7, 2], np.zeros((2, 3)), tracks, visible, *values, outside, SIZE)
    return LabelPass(found, np.array(arrivals))


@pytest.mark.parametrize("seed", range(4))
def test_the_blend_by_its_definition(seed):
    """Each pass by the variance of the other since its label, which the error on arrival scales; nothing is averaged where no pass arrives."""
    nothing = [np.nan] * 2
    # from frame 1 to 5 both arrive within 6 pixels, one of them less than one; from 5 to 9 neither does
    forward = one_pass(seed, [[28, 37], [45, 41], nothing, nothing])
    backward = one_pass(seed + 9, [nothing, [20.5, 30], [28, 39.5], nothing])
    forward.tracks.tracks[0, :1], forward.tracks.tracks[1, :3] = np.nan, np.nan
    found = blended(forward, backward, LABELS, 0.5)
    ahead, back = forward.tracks, backward.tracks
    assert [vars(one) for one in found.disagreements] == [
        vars(LabelDisagreement(7, 5, 9, math.dist((45, 41), (40, 35)), math.dist((28, 39.5), (28, 33))))
    ]
    for row in range(2):
        for t in range(LENGTH):
            gap = next((ends for ends in ((1, 5), (5, 9)) if row == 0 and ends[0] < t < ends[1]), None)
            if gap is None:
                before = t < (1 if row == 0 else 3)
                source = back if before else ahead
                for name in ("tracks", "confidence", "uncertainty"):
                    np.testing.assert_array_equal(getattr(found, name)[row, t], getattr(source, name)[row, t])
                assert found.visible[row, t] == (source.confidence[row, t] >= 0.5)
                assert found.outside[row, t] == (source.outside[row, t] and not found.visible[row, t])
                continue
            arrived = (
                (4.0, 1.0) if gap == (1, 5) else (math.dist((45, 41), (40, 35)), 6.5)
            )  # half a pixel counts as one
            grown = []
            for of, frames, error in (
                (ahead, range(gap[0] + 1, t + 1), arrived[0]),
                (back, range(t, gap[1]), arrived[1]),
            ):
                step = lambda s, of=of: float(of.uncertainty[0, s]) ** 2 / max(float(of.confidence[0, s]), 0.05)  # noqa: E731
                total = sum(map(step, range(gap[0] + 1, gap[1])))
                grown.append(sum(map(step, frames)) * error / math.sqrt(total))
            share = grown[1] / (grown[0] + grown[1])
            weight = share if gap == (1, 5) else float(share > 0.5)
            place = weight * ahead.tracks[0, t] + (1 - weight) * back.tracks[0, t]
            np.testing.assert_allclose(found.tracks[0, t], place, rtol=1e-4)
            confidence = weight * ahead.confidence[0, t] + (1 - weight) * back.confidence[0, t]
            assert found.confidence[0, t] == pytest.approx(confidence, rel=1e-4)
            distance = float(np.linalg.norm(ahead.tracks[0, t] - back.tracks[0, t]))
            variance = share * (ahead.uncertainty[0, t] ** 2 + ((1 - weight) * distance) ** 2)
            variance += (1 - share) * (back.uncertainty[0, t] ** 2 + (weight * distance) ** 2)
            assert found.uncertainty[0, t] == pytest.approx(math.sqrt(variance), rel=1e-4)
            assert found.visible[0, t] == (confidence >= 0.5)
            outside = (ahead if weight > 0.5 else back).outside[0, t]
            assert found.outside[0, t] == (outside and not found.visible[0, t])


@pytest.mark.parametrize(("there", "back", "told"), [(6, 6, True), (6, 5.99, False), (5.99, 6, False), (9, 6, True)])
def test_labels_disagree_from_a_twentieth_of_the_mean_side_on(there, back, told):
    """Which is 6 pixels; if either pass arrives nearer, they do not."""
    nothing = [np.nan] * 2
    forward = one_pass(0, [[28, 33 + there], nothing, nothing, nothing])
    backward = one_pass(1, [nothing, [20 - back, 30], nothing, nothing])
    found = disagreement(forward, backward, LABELS, next(gaps(LABELS)))
    assert (found is not None) == told
    if found is not None:
        assert vars(found) == vars(LabelDisagreement(7, 1, 5, there, back))


def test_what_is_said_names_five_at_most():
    several = [LabelDisagreement(number, number, number + 10, 1.0, 2.0) for number in range(7)]
    sentence = disagreement_sentence(several)
    assert sentence.startswith(
        "labels may be of different points, for none was reached from the other: id 0 on frames 0 and 10; id 1"
    )
    assert sentence.endswith("id 4 on frames 4 and 14, and 2 more") and "more" not in disagreement_sentence(
        several[:5]
    )
    assert disagreement_sentence(several[2:3], {2: "nose"}).endswith("other: nose on frames 2 and 12")


@pytest.mark.parametrize("seed", [0, 1, 2, 8])  # on frame 2 the forward pass weighs 0.66, 0.58, 0.61 and 0.75
def test_whether_a_hidden_point_is_outside_is_said_by_the_pass_that_weighs_more(seed):
    nothing = [np.nan] * 2
    forward = one_pass(seed, [[28, 37], [45, 41], nothing, nothing])
    backward = one_pass(seed + 9, [nothing, [20.5, 30], [28, 39.5], nothing])
    forward.tracks.outside[:], backward.tracks.outside[:] = True, False
    weights = forward_weights(forward, backward, LABELS, next(iter(gaps(LABELS))))
    assert 0.5 < weights[0] < 0.76 and (weights[1:] < 0.5).all()
    found = blended(forward, backward, LABELS, threshold=1.1)  # nothing is visible
    assert found.outside[0, 2:5].tolist() == [True, False, False]
