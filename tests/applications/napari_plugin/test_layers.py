"""What the plugin makes of layers, and layers of tracks. There is no window here."""

import threading

import dask.array
import npe2
import numpy as np
import pytest
import yaml
from napari import layers

import fgvc_hf.applications.napari_plugin as plugin
from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, VideoWriter, render_clip
from fgvc_hf.applications.napari_plugin import layer_tracking
from fgvc_hf.applications.napari_plugin.background_job import BackgroundJob, Cancelled
from fgvc_hf.applications.napari_plugin.layer_frames import LayerFrames, read_video_layer, video_reader
from fgvc_hf.applications.napari_plugin.layer_points import (
    corrected,
    free_id,
    from_layer,
    labels_of_layer,
    moved_points,
    to_layer,
    track_layer,
    transform_of,
    write_labels,
)
from fgvc_hf.applications.napari_plugin.layer_tracking import TrackRequest, follow, masks_at
from fgvc_hf.tracking.results import PointTracks


NAN = np.nan


@pytest.fixture(scope="module")
def frames():
    """(6, 40, 60, 3)"""
    return np.stack(list(render_clip(num_frames=6, height=40, width=60, num_points=0).frames))


@pytest.fixture
def image(frames):
    return layers.Image(frames, name="clip", rgb=True)


@pytest.fixture
def tiny(monkeypatch):
    """A model that takes no time."""
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4, point_matching="templates")).eval()
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(size={"height": 40, "width": 60})))
    monkeypatch.setattr(layer_tracking, "tracker_of", lambda checkpoint, preset: tracker)
    return tracker


@pytest.fixture
def tracks():
    """Two points on three frames; the second is hidden on the last one and was not followed on the first."""
    places = np.array([[[1, 2], [3, 4], [5, 6]], [[NAN, NAN], [20, 30], [21, 31]]], np.float32)
    visible = np.array([[True, True, True], [False, True, False]])
    confidence = np.array([[1, 0.9, 0.5], [0, 0.8, 0.2]], np.float32)
    uncertainty = np.where(np.isnan(places[..., 0]), NAN, 0.5).astype(np.float32)
    queries = np.array([[0, 1, 2], [1, 20, 30]], np.float32)
    return PointTracks([4, 7], queries, places, visible, confidence, uncertainty, np.zeros((2, 3), bool), (40, 60))


def points_layer(rows, ids=None, **settings):
    features = {} if ids is None else {"id": ids}
    return layers.Points(np.array(rows, float).reshape(-1, 3), features=features, name="mine", **settings)


# ---- coordinates and labels ----


def test_the_first_pixel_has_its_centre_at_the_origin_of_napari():
    """Where napari draws a pixel at (row, column), a point in its middle is at (column + 0.5, row + 0.5)."""
    np.testing.assert_array_equal(to_layer([[3, 0.5, 0.5]]), [[3, 0, 0]])
    np.testing.assert_array_equal(from_layer([[2, 10, 20]]), [[2, 20.5, 10.5]])
    points = np.random.default_rng(0).uniform(0, 50, (5, 4, 3))
    np.testing.assert_allclose(from_layer(to_layer(points)), points)


def test_labels_of_several_frames_are_those_of_one_point(image):
    layer = points_layer([[0, 10, 20], [4, 12, 22], [0, 5, 6]], [3, 3, 1])
    labels = labels_of_layer(layer, image)
    assert list(labels) == [3, 1]
    np.testing.assert_allclose(labels[3], [[0, 20.5, 10.5], [4, 22.5, 12.5]])
    np.testing.assert_allclose(labels[1], [[0, 6.5, 5.5]])


def test_without_ids_every_row_is_a_point(image):
    assert list(labels_of_layer(points_layer([[0, 1, 1], [0, 2, 2]]), image)) == [0, 1]


def test_metadata_of_other_plugins_say_nothing(frames):
    source = LayerFrames(layers.Image(frames, rgb=True, metadata={"frames": np.arange(3), "video": "a.mp4"}))
    np.testing.assert_array_equal(np.stack(list(source.frames())), frames)


def test_labels_are_of_the_video_however_the_layers_lie(frames):
    """Half a pixel to the world's unit and moved by (2, 4), and points in another place again."""
    image = layers.Image(frames, rgb=True, scale=(1, 0.5, 0.5), translate=(0, 2, 4))
    layer = points_layer([[1, 3, 5]], scale=(1, 2, 2), translate=(0, 1, 1))  # in the world at (1, 7, 11)
    labels = labels_of_layer(layer, image)
    np.testing.assert_allclose(labels[0], [[1, 14.5, 10.5]])
    before = layer.data.copy()
    write_labels(layer, image, labels)
    np.testing.assert_allclose(layer.data, before)
    assert layer.features["id"].tolist() == [0]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: points_layer([]), "holds no points"),
        (lambda: layers.Points([[1, 2]], name="mine"), "must have points"),
        (lambda: points_layer([[0, 1, 1], [0, 2, 2]], [1, NAN]), "row 1 has no id"),
        (lambda: points_layer([[0, 1, 1]], [1.5]), "must be a whole number"),
        (lambda: points_layer([[0, 1, 1]], metadata={"tracks": None}), "holds tracks"),
    ],
)
def test_layers_that_are_no_labels_are_refused_in_a_sentence(image, layer, said):
    with pytest.raises(ValueError, match=said) as refused:
        labels_of_layer(layer(), image)
    assert "mine" in str(refused.value) and "\n" not in str(refused.value)


def test_the_next_click_is_of_the_first_point_without_a_label_on_the_frame():
    labels = {0: np.array([[0, 1, 1], [5, 1, 1.0]]), 1: np.array([[0, 2, 2.0]])}
    assert [free_id(labels, t) for t in (0, 5, 3)] == [2, 1, 0] and free_id({}, 0) == 0


# ---- tracks as a layer ----


def test_tracks_are_a_layer_with_hollow_hidden_points(tracks, image):
    layer = layers.Layer.create(*track_layer(tracks, "tracks", transform_of(image)))
    assert len(layer.data) == 5 and layer.features["id"].tolist() == [4, 4, 4, 7, 7]
    np.testing.assert_allclose(layer.data[3], [1, 29.5, 19.5])
    assert layer.face_color[:, 3].tolist() == [1, 1, 1, 1, 0]
    assert layer.border_color[4, 3] < 0.5 and (layer.border_color[:4, 3] == 1).all()
    red, green = layer.face_color[:3, 0], layer.face_color[:3, 1]
    assert red[0] < red[2] and green[0] > 0.8  # certain is green


def test_points_that_were_moved_or_added_are_corrections(tracks, image):
    layer = layers.Layer.create(*track_layer(tracks, "tracks", transform_of(image)))
    with pytest.raises(ValueError, match="no point of layer 'tracks' was moved"):
        moved_points(layer)
    data = layer.data.copy()
    data[1] += [0, 2, -1]
    layer.data = np.concatenate([data, [[0, 8, 9]]])
    layer.features = {"id": [4, 4, 4, 7, 7, 7]}
    moved = moved_points(layer)
    np.testing.assert_allclose(moved[4], [[1, 2, 6]])  # x - 1, y + 2
    np.testing.assert_allclose(moved[7], [[0, 9.5, 8.5]])
    labels = corrected({4: np.array([[0, 1, 2], [1, 3, 4.0]])}, moved)
    np.testing.assert_allclose(labels[4], [[0, 1, 2], [1, 2, 6]])
    np.testing.assert_allclose(labels[7], [[0, 9.5, 8.5]])


# ---- frames ----


def test_layers_of_all_kinds_are_read_frame_by_frame(frames):
    grey = frames[..., 1]
    wide = (grey.astype(np.uint16) * 4) + 100
    opaque = np.concatenate([frames, np.full_like(frames[..., :1], 255)], axis=-1)
    taken = []
    lazy = dask.array.from_array(frames, chunks=(1, 40, 60, 3)).map_blocks(
        lambda block: taken.append(1) or block, dtype=np.uint8, meta=np.empty((0,) * 4, np.uint8)
    )
    for layer, expected in (
        (layers.Image(frames, rgb=True), frames),
        (layers.Image(lazy, rgb=True), frames),
        (layers.Image(opaque, rgb=True), frames),
        (layers.Image(frames / 255.0, rgb=True), frames),
        (layers.Image(grey), np.repeat(grey[..., None], 3, axis=-1)),
        (layers.Image(wide, contrast_limits=(100, 100 + 4 * 255)), np.repeat(grey[..., None], 3, axis=-1)),
        (layers.Image([frames, frames[:, ::2, ::2]], rgb=True, multiscale=True), frames),
    ):
        source = LayerFrames(layer)
        assert (source.num_frames, source.height, source.width) == (6, 40, 60)
        del taken[:]
        np.testing.assert_array_equal(list(source.frames(1, 4, reverse=True)), expected[3:0:-1])
        assert len(taken) == (3 if layer.data is lazy else 0)


def test_a_layer_that_is_no_video_is_refused(frames):
    with pytest.raises(
        ValueError, match=r"layer 'one' must be a video of frames \(T, H, W\), got shape \(40, 60, 3\)"
    ):
        LayerFrames(layers.Image(frames[0], rgb=True, name="one"))


def test_video_files_open_as_lazy_layers(frames, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 12, 40, 60) as writer:
        for frame in frames:
            writer.write(frame)
    assert video_reader([str(path)]) is None
    layer = layers.Layer.create(*video_reader(str(path))(str(path))[0])
    assert layer.name == "clip" and layer.rgb and layer.data.shape == (6, 40, 60, 3)
    np.testing.assert_array_equal(np.asarray(layer.data[4]), list(LayerFrames(layer).frames(4, 5))[0])
    whole = list(LayerFrames(layer).frames())
    for part, expected in (  # with the metadata of the whole, as napari's plugins copy layers
        (layer.data[2:5, 8:30, 16:50], [frame[8:30, 16:50] for frame in whole[2:5]]),
        (layer.data[::-1], whole[::-1]),
        (np.asarray(layer.data)[:, :, ::-1], [frame[:, ::-1] for frame in whole]),
    ):
        taken = LayerFrames(layers.Image(part, rgb=True, metadata=layer.metadata))
        np.testing.assert_array_equal(list(taken.frames()), expected)
    with pytest.raises(OSError, match="no such video"):
        read_video_layer(str(tmp_path / "none.mp4"))


# ---- work ----


def test_points_and_masks_are_followed(image, tiny):
    ids = np.zeros((40, 60), int)
    ids[10:20, 10:30] = 3
    labels = labels_of_layer(points_layer([[0, 10, 20], [5, 12, 24], [2, 5, 6]], [1, 1, 2]), image)
    shares = []
    tracked = follow(TrackRequest(image, labels, ids, 1, "", "fast", "both"), shares.append)
    assert tracked.tracks.object_ids == [1, 2] and tracked.tracks.tracks.shape == (2, 6, 2)
    np.testing.assert_allclose(tracked.tracks.tracks[0, [0, 5]], [[20.5, 10.5], [24.5, 12.5]], atol=1e-4)
    assert tracked.masks.dtype == np.uint8 and (tracked.masks[1] == ids).all() and tracked.masks[5].any()
    assert shares == sorted(shares) and shares[0] == 0 and 0.9 < shares[-1] <= 1
    with pytest.raises(ValueError, match="nothing to follow"):
        TrackRequest(image, {}, None, 0, "", "fast", "both")


def test_masks_are_those_of_the_frame_that_is_shown():
    ids = np.arange(24).reshape(2, 3, 4)
    video = layers.Image(np.zeros((10, 3, 4), np.uint8))
    assert (masks_at(layers.Labels(ids), video, 1) == ids[1]).all()
    assert (masks_at(layers.Labels(ids[0]), video, 9) == ids[0]).all()
    with pytest.raises(ValueError, match="has 2 frames, so there is no frame 2"):
        masks_at(layers.Labels(ids), video, 2)


@pytest.mark.parametrize("frames", [(), (2,)])
def test_masks_are_taken_where_they_lie_over_the_video(frames):
    ids = np.broadcast_to(np.arange(1, 13).reshape(3, 4), (*frames, 3, 4))
    scaled, moved = (1.0,) * len(frames), (0.0,) * len(frames)
    video = layers.Image(np.zeros((2, 6, 8), np.uint8))
    # each pixel of the masks covers 2 x 2 of the video, the first from its corner on
    half = layers.Labels(ids, scale=(*scaled, 2, 2), translate=(*moved, 0.5, 0.5))
    np.testing.assert_array_equal(masks_at(half, video, 1), np.kron(ids.reshape(-1, 3, 4)[0], np.ones((2, 2))))
    # without a shift, the centre of every other pixel is between two of the masks
    between = layers.Labels(ids, scale=(*scaled, 2, 2))
    np.testing.assert_array_equal(masks_at(between, video, 1), np.kron(ids.reshape(-1, 3, 4)[0], np.ones((2, 2))))
    pyramid = layers.Labels([ids, ids[..., ::2, ::2]], scale=(*scaled, 2, 2), multiscale=True)
    np.testing.assert_array_equal(masks_at(pyramid, video, 1), masks_at(between, video, 1))
    # two rows down and a column to the right of the corner of a video that is itself drawn at three times its size, from elsewhere
    video = layers.Image(np.zeros((2, 6, 8), np.uint8), scale=(1, 3, 3), translate=(0, 30, 60))
    part = layers.Labels(ids, scale=(*scaled, 3, 3), translate=(*moved, 36, 63))
    expected = np.zeros((6, 8), int)
    expected[2:5, 1:5] = ids.reshape(-1, 3, 4)[0]
    np.testing.assert_array_equal(masks_at(part, video, 1), expected)


def test_work_in_a_thread_reports_and_ends_when_it_is_cancelled():
    begun = threading.Event()

    def endless(report):
        while True:
            report(0.25)
            begun.set()

    job = BackgroundJob(endless)
    assert begun.wait(60) and not job.done and job.share == 0.25
    job.cancel()
    assert job.wait(60)
    with pytest.raises(Cancelled):
        job.result()
    job = BackgroundJob(lambda report: 7)
    assert job.wait(60) and job.result() == 7


def test_the_manifest_names_what_there_is():
    path = f"{plugin.__path__[0]}/napari.yaml"
    manifest = npe2.PluginManifest.from_file(path)
    manifest.validate_imports()
    with open(path, encoding="utf-8") as file:
        assert yaml.safe_load(file)["name"] == manifest.name == "fgvc-hf"
