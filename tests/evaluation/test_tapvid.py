from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fgvc_hf.coordinates import rescale_points
from fgvc_hf.evaluation.tapvid import load_tapvid_npz, track_queries


WIDTH, HEIGHT, NUM_FRAMES = 20, 12, 4


def write_frames(folder, num_frames=NUM_FRAMES, size=(WIDTH, HEIGHT)):
    folder.mkdir(parents=True)
    for index in range(num_frames):
        Image.new("RGB", size, (200, 40 * index, 10)).save(folder / f"{index:05d}.jpg", quality=95)


def tracks(num_tracks, num_frames=NUM_FRAMES):
    points = np.random.default_rng(num_tracks).uniform(0, HEIGHT, (num_tracks, num_frames, 2)).astype(np.float32)
    return {
        "points": points,
        "occluded": points[..., 0] < HEIGHT / 2,
        "size": np.array([WIDTH, HEIGHT]),
        "is_fg": np.ones(num_tracks, dtype=bool),
    }


def write_npz(path, sequences):
    np.savez(path, **{f"{name}/{key}": value for name, arrays in sequences.items() for key, value in arrays.items()})


@pytest.fixture
def tree(tmp_path):
    """(track file, frames folder) of the sequences goat, with 2 tracks, and judo, with 3."""
    write_npz(tmp_path / "dev.npz", {"goat": tracks(2), "judo": tracks(3)})
    frames = tmp_path / "JPEGImages" / "480p"
    write_frames(frames / "goat")
    write_frames(frames / "judo", num_frames=NUM_FRAMES + 2)
    return tmp_path / "dev.npz", frames


def test_reads_tracks_and_frames(tree):
    videos = list(load_tapvid_npz(*tree))
    assert [video.name for video in videos] == ["goat", "judo"]
    for video, num_tracks in zip(videos, (2, 3)):
        expected = tracks(num_tracks)
        np.testing.assert_array_equal(video.points, expected["points"])
        np.testing.assert_array_equal(video.occluded, expected["occluded"])
        assert video.size == (HEIGHT, WIDTH)
        assert video.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
        assert video.frames.dtype == np.uint8
        assert np.abs(video.frames[2, 5, 5].astype(int) - [200, 80, 10]).max() <= 4
        assert video.frames is video.frames


def test_selects_sequences_in_the_order_asked_for(tree):
    assert [video.name for video in load_tapvid_npz(*tree, names=["judo"])] == ["judo"]
    assert [video.name for video in load_tapvid_npz(*tree, names=["judo", "goat"])] == ["judo", "goat"]
    with pytest.raises(ValueError, match="does not have the sequence 'wolf'; it has goat, judo"):
        load_tapvid_npz(*tree, names=["wolf"])


def test_is_lazy(tree):
    npz_path, frames = tree
    (frames / "judo" / "00000.jpg").unlink()
    videos = load_tapvid_npz(npz_path, frames)
    assert next(videos).name == "goat"
    with pytest.raises(FileNotFoundError, match="lacks 00000.jpg"):
        next(videos)


def test_grayscale_frames_become_rgb(tree):
    npz_path, frames = tree
    for path in (frames / "goat").iterdir():
        Image.new("L", (WIDTH, HEIGHT), 90).save(path)
    assert next(load_tapvid_npz(npz_path, frames)).frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)


def test_missing_track_file_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no track file"):
        load_tapvid_npz(tmp_path / "none.npz", tmp_path)


def test_file_of_another_kind(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match="is not an .npz file"):
        load_tapvid_npz(tmp_path / "text.npz", tmp_path)
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    with pytest.raises(ValueError, match="does not have an array named <sequence>/points"):
        load_tapvid_npz(tmp_path / "other.npz", tmp_path)


def test_missing_sequence_folder(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*goat"):
        next(load_tapvid_npz(tree[0], tmp_path))


def test_fewer_frames_than_annotated(tree):
    npz_path, frames = tree
    (frames / "goat" / "00003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="goat lacks 00003.jpg: the 4 annotated frames"):
        next(load_tapvid_npz(npz_path, frames))


def test_frames_of_another_size(tree):
    npz_path, frames = tree
    Image.new("RGB", (HEIGHT, WIDTH)).save(frames / "goat" / "00002.jpg")
    with pytest.raises(ValueError, match="00002.jpg is 12x20, but its points are annotated on 20x12 frames"):
        next(load_tapvid_npz(npz_path, frames))


def test_damaged_frame_is_named(tree):
    npz_path, frames = tree
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = frames / "goat" / "00001.jpg"
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-200])
    video = next(load_tapvid_npz(npz_path, frames))
    with pytest.raises(OSError, match="00001.jpg cannot be decoded"):
        _ = video.frames


@pytest.mark.parametrize("key", ["occluded", "size"])
def test_incomplete_track_file(tree, key):
    npz_path, frames = tree
    arrays = tracks(2)
    del arrays[key]
    write_npz(npz_path, {"goat": arrays})
    with pytest.raises(ValueError, match=f"lacks goat/{key}"):
        next(load_tapvid_npz(npz_path, frames))


def test_tracks_that_do_not_fit_each_other(tree):
    npz_path, frames = tree
    write_npz(npz_path, {"goat": tracks(2) | {"occluded": np.zeros((3, NUM_FRAMES), dtype=bool)}})
    with pytest.raises(ValueError, match="tracks of goat must be"):
        next(load_tapvid_npz(npz_path, frames))


def test_pickled_objects_are_refused(tree):
    npz_path, frames = tree
    write_npz(npz_path, {"goat": tracks(2) | {"points": np.array([{"a": 1}], dtype=object)}})
    with pytest.raises(ValueError, match="dev.npz: .*goat/points.npy holds pickled objects"):
        next(load_tapvid_npz(npz_path, frames))


def test_points_go_to_the_scoring_raster_by_the_ratio_of_the_sizes(tree):
    corners = np.array([[0, 0], [WIDTH, HEIGHT], [WIDTH / 2, 0]], dtype=np.float32)
    scaled = rescale_points(corners, next(load_tapvid_npz(*tree)).size, (256, 256))
    np.testing.assert_allclose(scaled, [[0, 0], [256, 256], [128, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("error", "hits"),
    [
        ((7.9, 0), 3),
        ((8.01, 0), 2),
        ((0, 3.99), 3),
        ((0, 4.01), 2),
        ((31.95, 0), 1),
        ((32.05, 0), 0),
        ((0, 15.97), 1),
        ((0, 16.03), 0),
    ],
)
def test_errors_count_on_a_raster_of_256_by_256(error, hits):
    """On a video of 512 x 256 pixels, 8 pixels along x are 4 of the raster, and 4 along y are 4: the thresholds are 1, 2, 4, 8 and 16."""
    truth = np.tile(np.float32([100, 50]), (1, 2, 1))
    video = SimpleNamespace(points=truth, occluded=np.zeros((1, 2), bool), size=(256, 512), frames=None)

    class Off:
        def track(self, frames, queries, direction):
            assert queries.tolist() == [[0, 100, 50]] and direction == "forward"
            found = truth + np.float32([[(0, 0), error]])
            return SimpleNamespace(tracks=found, visible=np.ones((1, 2), bool))

    _, counts = track_queries(Off(), video)
    assert counts.hits.tolist() == [[0] * (5 - hits) + [1] * hits]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.full((2, NUM_FRAMES, 2), "a")}, "the tracks of goat must be .* of <U1"),
        ({"points": np.ones((2, NUM_FRAMES, 2), complex)}, "the tracks of goat must be .* of complex128"),
        ({"occluded": np.full((2, NUM_FRAMES), np.nan)}, "the tracks of goat must be .* 0 or 1"),
        ({"occluded": np.full((2, NUM_FRAMES), 2)}, "the tracks of goat must be .* 0 or 1"),
        ({"occluded": np.full((2, NUM_FRAMES), "false")}, "the tracks of goat must be .* of <U5"),
        ({"points": np.ones((2, 0, 2)), "occluded": np.ones((2, 0), bool)}, "the tracks of goat must be"),
        ({"size": np.array(20)}, r"goat/size must be \(width, height\)"),
        ({"size": np.array([20, 12, 3])}, r"goat/size must be \(width, height\)"),
        ({"size": np.array(["20", "12"])}, r"goat/size must be \(width, height\)"),
    ],
)
def test_tracks_of_another_kind_are_refused_by_the_file(tree, change, message):
    npz_path, frames = tree
    write_npz(npz_path, {"goat": tracks(2) | change})
    with pytest.raises(ValueError, match=f"dev.npz: {message}"):
        next(load_tapvid_npz(npz_path, frames))


def test_damaged_track_files_are_one_sentence(tree):
    npz_path, frames = tree
    content, refused = npz_path.read_bytes(), 0
    for start in range(0, len(content), 23):
        for damaged in (
            content[:start],
            content[:start] + b"zzzz" + content[start + 4 :],
            content[:start] + content[start + 60 :],
        ):
            npz_path.write_bytes(damaged)
            try:
                assert [len(video.points) for video in load_tapvid_npz(npz_path, frames)] == [
                    2,
                    3,
                ]  # is_fg is not read
            except (ValueError, FileNotFoundError) as error:
                assert "dev.npz" in str(error) and "\n" not in str(error)
                refused += 1
    assert refused > len(content) / 23


def test_no_visible_point_is_said(tree):
    npz_path, frames = tree
    write_npz(npz_path, {"goat": tracks(2) | {"occluded": np.ones((2, NUM_FRAMES), bool)}})
    with pytest.raises(ValueError, match="no point is visible in a frame where it could be queried"):
        track_queries(None, next(load_tapvid_npz(npz_path, frames)))
