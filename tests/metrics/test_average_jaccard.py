import json
import math

import numpy as np
import pytest

from fgvc_hf.metrics.average_jaccard import (
    THRESHOLDS,
    TapVidCounts,
    aggregate,
    count_tapvid,
    queries_first,
    queries_strided,
)


QUERIES = {"first": queries_first, "strided": queries_strided}
AGGREGATIONS = ("tapvid", "track", "pooled")


def random_video(seed, num_tracks=7, num_frames=12):
    """Truth with one track never visible and one always visible, and a prediction that errs at every threshold."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 256, (num_tracks, num_frames, 2))
    occluded = rng.random((num_tracks, num_frames)) < 0.4
    occluded[0], occluded[-1] = True, False
    tracks = points + rng.normal(size=points.shape) * rng.choice([0.5, 2.0, 10.0], (num_tracks, num_frames, 1))
    tracks[rng.random((num_tracks, num_frames)) < 0.05] = np.nan
    visible = rng.random((num_tracks, num_frames)) < 0.6
    return points, occluded, tracks, visible


def count(points, occluded, tracks, visible, mode="first"):
    queries, index = QUERIES[mode](points, occluded)
    return count_tapvid(queries[:, 0], points[index], occluded[index], tracks[index], visible[index], mode)


def score(*video, mode="first"):
    return aggregate({"video": count(*video, mode=mode)})


def always_visible(num_tracks=3, num_frames=6):
    points = np.random.default_rng(0).integers(0, 256, (num_tracks, num_frames, 2)).astype(float)
    return points, np.zeros((num_tracks, num_frames), dtype=bool)


def mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def divide(a, b):
    return a / b if b else math.nan


def loop_rows(points, occluded, tracks, visible, mode):
    """Rows of (evaluated, visible, agreement, then hits, TP and FP at each threshold), from the definitions."""
    rows = []
    for n in range(len(points)):
        shown = [t for t in range(points.shape[1]) if not occluded[n, t]]
        starts = shown[:1] if mode == "first" else [t for t in shown if t % 5 == 0]
        for start in starts:
            frames = [t for t in range(points.shape[1]) if (t > start if mode == "first" else t != start)]
            row = {"E": len(frames), "V": 0, "A": 0, "H": [0] * 5, "TP": [0] * 5, "FP": [0] * 5}
            for t in frames:
                row["V"] += not occluded[n, t]
                row["A"] += bool(occluded[n, t]) == (not visible[n, t])
                distance = math.dist(tracks[n, t], points[n, t])
                for k, threshold in enumerate(THRESHOLDS):
                    near = distance < threshold
                    row["H"][k] += near and not occluded[n, t]
                    row["TP"][k] += bool(near and not occluded[n, t] and visible[n, t])
                    row["FP"][k] += bool((occluded[n, t] and visible[n, t]) or (not near and visible[n, t]))
            rows.append(row)
    return rows


def loop_scores(rows):
    """delta at each threshold, AJ and OA of the summed rows."""

    def total(key, k=None):
        return sum(row[key] if k is None else row[key][k] for row in rows)

    delta = [divide(total("H", k), total("V")) for k in range(5)]
    jaccard = [divide(total("TP", k), total("V") + total("FP", k)) for k in range(5)]
    return [*delta, sum(jaccard) / 5, divide(total("A"), total("E"))]


def loop_aggregate(videos):
    columns = {
        "tapvid": zip(*[loop_scores(rows) for rows in videos]),
        "track": zip(*[[mean(column) for column in zip(*[loop_scores([row]) for row in rows])] for rows in videos]),
        "pooled": zip(loop_scores([row for rows in videos for row in rows])),
    }
    scores = {name: [mean(column) for column in column_list] for name, column_list in columns.items()}
    keys = [f"delta_{threshold}" for threshold in THRESHOLDS] + ["AJ", "OA"]
    return {name: dict(zip(keys, row)) | {"delta_avg": sum(row[:5]) / 5} for name, row in scores.items()}


@pytest.mark.parametrize("mode", QUERIES)
@pytest.mark.parametrize("sizes", [(1,), (7,), (2, 7, 4)])
def test_equals_straightforward_loops(mode, sizes):
    videos = [random_video(seed, num_tracks) for seed, num_tracks in enumerate(sizes)]
    expected = loop_aggregate([loop_rows(*video, mode) for video in videos])
    actual = aggregate({str(i): count(*video, mode=mode) for i, video in enumerate(videos)})
    assert actual.keys() == expected.keys()
    for name in AGGREGATIONS:
        assert actual[name] == pytest.approx(expected[name], rel=0, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("mode", QUERIES)
def test_perfect_prediction(mode):
    points, occluded, _, _ = random_video(1)
    for scores in score(points, occluded, points, ~occluded, mode=mode).values():
        assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("mode", QUERIES)
def test_constant_offset_of_three_pixels(mode):
    points, occluded = always_visible()
    for scores in score(points, occluded, points + [3.0, 0.0], ~occluded, mode=mode).values():
        assert scores["delta_avg"] == pytest.approx(3 / 5)
        assert [scores[f"delta_{threshold}"] for threshold in THRESHOLDS] == [0, 0, 1, 1, 1]
        assert scores["AJ"] == pytest.approx(3 / 5)
        assert scores["OA"] == 1


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_threshold_is_strict(threshold):
    points, occluded = always_visible()
    key = f"delta_{threshold}"
    assert score(points, occluded, points + [0.0, threshold], ~occluded)["tapvid"][key] == 0
    inside = threshold - 1e-6
    assert score(points, occluded, points + [0.0, inside], ~occluded)["tapvid"][key] == 1


def test_all_predicted_occluded():
    points, occluded = always_visible()
    for scores in score(points, occluded, points, occluded).values():
        assert (scores["delta_avg"], scores["AJ"], scores["OA"]) == (1, 0, 0)


def test_all_predicted_visible():
    points, occluded = always_visible(num_tracks=1, num_frames=5)
    occluded[0, 2:] = True  # one of the four scored frames is visible
    for scores in score(points, occluded, points, np.ones_like(occluded)).values():
        assert (scores["delta_avg"], scores["AJ"], scores["OA"]) == (1, 1 / 4, 1 / 4)


def test_visible_miss_is_punished_twice():
    points, occluded = always_visible(num_tracks=1, num_frames=3)
    tracks = points.copy()
    tracks[0, 2] += 100
    scores = score(points, occluded, tracks, ~occluded)["tapvid"]
    assert (scores["delta_avg"], scores["AJ"]) == (1 / 2, pytest.approx(1 / 3))


def test_nan_prediction_is_a_miss():
    points, occluded = always_visible(num_tracks=1, num_frames=3)
    counts = count(points, occluded, np.full_like(points, np.nan), ~occluded)
    assert counts.hits.tolist() == counts.true_positives.tolist() == [[0] * 5]
    assert counts.false_positives.tolist() == [[2] * 5]
    assert counts.agreement.tolist() == [2]


@pytest.fixture
def seven_frames():
    """Visible in frames 0-6, in 2-5, and never."""
    points = np.arange(3 * 7 * 2, dtype=np.float32).reshape(3, 7, 2)
    occluded = np.zeros((3, 7), dtype=bool)
    occluded[1, [0, 1, 6]] = True
    occluded[2] = True
    return points, occluded


def test_first_queries_on_seven_frames(seven_frames):
    points, occluded = seven_frames
    queries, index = queries_first(points, occluded)
    assert index.tolist() == [0, 1]
    assert queries.tolist() == [[0, 0, 1], [2, 18, 19]]
    assert queries.dtype == np.float32
    counts = count(points, occluded, points, ~occluded)
    assert counts.evaluated.tolist() == [6, 4]
    assert counts.visible.tolist() == [6, 3]


def test_strided_queries_on_seven_frames(seven_frames):
    points, occluded = seven_frames
    queries, index = queries_strided(points, occluded)
    assert index.tolist() == [0, 0, 1]
    assert queries.tolist() == [[0, 0, 1], [5, 10, 11], [5, 24, 25]]
    counts = count(points, occluded, points, ~occluded, mode="strided")
    assert counts.evaluated.tolist() == [6, 6, 6]
    assert counts.visible.tolist() == [6, 6, 3]
    assert len(queries_strided(points, occluded, stride=2)[1]) == 4 + 2


def test_three_aggregations_of_two_videos():
    def row(hits, visible):
        return {"evaluated": [10], "visible": [visible], "agreement": [hits]} | dict.fromkeys(
            ("hits", "true_positives"), [[hits] * 5]
        )

    def video(*rows):
        merged = {key: [row[key][0] for row in rows] for key in rows[0]}
        return TapVidCounts.from_lists(merged | {"false_positives": [[0] * 5] * len(rows)})

    scores = aggregate({"a": video(row(2, 2), row(0, 8)), "b": video(row(1, 4))})
    for name, delta, accuracy in (
        ("tapvid", (2 / 10 + 1 / 4) / 2, (2 / 20 + 1 / 10) / 2),
        ("track", (1 / 2 + 1 / 4) / 2, (1 / 10 + 1 / 10) / 2),
        ("pooled", 3 / 14, 3 / 30),
    ):
        assert scores[name]["delta_avg"] == pytest.approx(delta)
        assert scores[name]["AJ"] == pytest.approx(delta)
        assert scores[name]["OA"] == pytest.approx(accuracy)


def test_undefined_videos_are_left_out():
    points, occluded = always_visible(num_tracks=2, num_frames=4)
    hidden = occluded.copy()
    hidden[:, 1:] = True  # nothing visible is scored
    good = count(points, occluded, points + 3, ~occluded)
    undefined = count(points, hidden, points, ~hidden)
    never = count(points, np.ones_like(hidden), points, ~occluded)
    assert never.hits.shape == (0, 5)
    scores = aggregate({"good": good, "undefined": undefined, "never": never})
    alone = aggregate({"good": good})
    for name in AGGREGATIONS:
        assert scores[name]["delta_avg"] == alone[name]["delta_avg"]
    nothing = aggregate({"undefined": undefined})["tapvid"]
    assert math.isnan(nothing["delta_avg"])
    assert math.isnan(nothing["AJ"])
    assert nothing["OA"] == 1


@pytest.mark.filterwarnings("error")
def test_only_never_visible_tracks_give_nan_without_warning():
    points, occluded, tracks, visible = random_video(0, num_tracks=3)
    for scores in score(points, np.ones_like(occluded), tracks, visible).values():
        assert all(math.isnan(value) for value in scores.values())


def test_order_of_tracks_does_not_matter():
    video = random_video(3)
    order = np.random.default_rng(0).permutation(len(video[0]))
    for mode in QUERIES:
        plain, permuted = (score(*arrays, mode=mode) for arrays in (video, [array[order] for array in video]))
        for name in AGGREGATIONS:
            assert permuted[name] == pytest.approx(plain[name], abs=1e-12)


def test_counts_survive_json():
    counts = {"some": count(*random_video(2)), "one": count(*random_video(0, num_tracks=1), mode="strided")}
    empty = count(*(array[:0] for array in random_video(2)))
    counts["empty"] = empty
    stored = json.loads(json.dumps({name: video.to_lists() for name, video in counts.items()}))
    assert aggregate({name: TapVidCounts.from_lists(lists) for name, lists in stored.items()}) == aggregate(counts)


def test_mistakes_are_named():
    points, occluded = always_visible()
    frames = np.zeros(3)
    with pytest.raises(ValueError, match="query_mode must be"):
        count_tapvid(frames, points, occluded, points, ~occluded, "last")
    with pytest.raises(ValueError, match="tracks has shape"):
        count_tapvid(frames, points, occluded, points[:2], ~occluded)
    with pytest.raises(ValueError, match="visible has shape"):
        count_tapvid(frames, points, occluded, points, ~occluded[:, :2])
    with pytest.raises(ValueError, match="query_frames has shape"):
        count_tapvid(frames[:1], points, occluded, points, ~occluded)
    with pytest.raises(ValueError, match="points must have shape"):
        queries_first(points, occluded[:, :2])
    with pytest.raises(ValueError, match="NaN or infinite"):
        queries_first(points * np.nan, occluded)
    with pytest.raises(ValueError, match="stride must be"):
        queries_strided(points, occluded, stride=0)
    with pytest.raises(ValueError, match="no videos"):
        aggregate({})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.float64])
def test_queries_have_their_frame_in_every_type_of_points(dtype):
    occluded = np.ones((1, 2100), bool)
    occluded[0, 2053:] = False
    points = np.full((1, 2100, 2), 7, dtype)
    assert queries_first(points, occluded)[0].tolist() == [[2053, 7, 7]]
    assert queries_strided(points, occluded)[0][:2].tolist() == [[2055, 7, 7], [2060, 7, 7]]
