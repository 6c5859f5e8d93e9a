"""SLEAP, COCO keypoints and PoseMark: files of the tools' own libraries are read, and they open ours."""

import json

import numpy as np
import pytest
from labelled_clips import NAMES, SIZE, example_tracks, positions_of, tracked, two_animals
from PIL import Image

from fgvc_hf import read_labels, save_tracks


sleap_io = pytest.importorskip("sleap_io", reason="sleap_io is not installed")


# ---- SLEAP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".h5", ".slp"])
@pytest.mark.parametrize("several", [False, True])
def test_sleap_io_opens_what_is_written(tmp_path, suffix, several):
    tracks, names = two_animals() if several else (example_tracks(), NAMES)
    path = tmp_path / f"tracked{suffix}"
    save_tracks(tracks, path, "sleap", names=names, video="clip.mp4")
    opened = (
        sleap_io.load_analysis_h5(str(path)) if suffix == ".h5" else sleap_io.load_slp(str(path), open_videos=False)
    )
    assert opened.skeletons[0].node_names == (["nose", "tail"] if several else ["nose", "tail tip"])
    assert [track.name for track in opened.tracks] == (["mouse1", "mouse2"] if several else ["animal"])
    assert opened.videos[0].filename == "clip.mp4" and [frame.frame_idx for frame in opened.labeled_frames] == [
        0,
        1,
        2,
        3,
    ]
    instance = opened.labeled_frames[2].instances[0]
    np.testing.assert_allclose(instance.numpy(), tracks.tracks[:2, 2] - 0.5, atol=1e-5)
    np.testing.assert_allclose(instance.points["score"], tracks.confidence[:2, 2], atol=1e-5)
    labels = read_labels(path, "sleap")
    for row, name in enumerate(
        ["mouse1/nose", "mouse1/tail", "mouse2/nose", "mouse2/tail"] if several else NAMES.values()
    ):
        assert positions_of(labels, name) == tracked(tracks, row)


@pytest.mark.parametrize("suffix", [".h5", ".slp"])
@pytest.mark.parametrize("several", [False, True])
def test_tracks_of_points_that_were_found_nowhere_are_written(tmp_path, suffix, several):
    """As of a point that was looked for by a picture and is not in the clip."""
    tracks, names = two_animals() if several else (example_tracks(), NAMES)
    tracks.tracks[:], tracks.visible[:] = np.nan, False
    path = tmp_path / f"nowhere{suffix}"
    save_tracks(tracks, path, "sleap", names=names, video="clip.mp4")
    opened = (
        sleap_io.load_analysis_h5(str(path)) if suffix == ".h5" else sleap_io.load_slp(str(path), open_videos=False)
    )
    assert opened.skeletons[0].node_names == (["nose", "tail"] if several else ["nose", "tail tip"])
    assert all(np.isnan(instance.numpy()).all() for frame in opened.labeled_frames for instance in frame.instances)


def test_the_documented_layout_of_analysis_files(tmp_path):
    """Arrays as SLEAP's own export has them: tracks (tracks, 2, nodes, frames)."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / "t.h5", "sleap", names=NAMES)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["tracks"].shape == (1, 2, 2, 4) and file["point_scores"].shape == (1, 2, 4)
        np.testing.assert_allclose(file["tracks"][0].transpose(1, 2, 0), tracks.tracks - 0.5, atol=1e-5)
        assert [name.decode() for name in file["node_names"]] == list(NAMES.values())
        assert file["track_occupancy"].shape == (4, 1) and file["track_occupancy"][()].all()
    with h5py.File(tmp_path / "own.h5", "w") as file:  # without what sleap-io adds
        file["tracks"] = np.array([[[[10, np.nan]], [[20, np.nan]]]])
        file["point_scores"], file["instance_scores"] = np.array([[[0.5, 0]]]), np.zeros((1, 2))
        file["tracking_scores"], file["track_occupancy"] = np.zeros((1, 2)), np.array([[1], [0]], np.uint8)
        file["node_names"], file["track_names"] = np.array([b"nose"]), np.array([b"mouse"])
        file["video_path"] = b"clip.mp4"
    labels = read_labels(tmp_path / "own.h5", "sleap")
    assert positions_of(labels, "mouse/nose") == {0: (10.5, 20.5)} and labels.confidence.tolist() == [0.5]


def test_without_a_video_a_file_is_whole(tmp_path):
    save_tracks(example_tracks(), tmp_path / "t.slp")
    assert len(read_labels(tmp_path / "t.slp")) == 7


def test_what_people_labelled_goes_before_predictions(tmp_path):
    skeleton, video = sleap_io.Skeleton(["nose", "tail"]), sleap_io.Video("clip.mp4", open_backend=False)
    user = sleap_io.Instance.from_numpy(np.array([[1.0, 2], [np.nan, np.nan]]), skeleton)
    found = sleap_io.PredictedInstance.from_numpy(
        np.array([[9.0, 9], [8, 8]]), skeleton, point_scores=np.array([0.5, 0.25])
    )
    frames = [sleap_io.LabeledFrame(video=video, frame_idx=5, instances=[found, user])]
    frames.append(sleap_io.LabeledFrame(video=video, frame_idx=7, instances=[found]))
    sleap_io.Labels(frames, videos=[video], skeletons=[skeleton]).save(str(tmp_path / "l.slp"), verbose=False)
    labels = read_labels(tmp_path / "l.slp")  # no other format has this suffix
    assert positions_of(labels, "nose") == {5: (1.5, 2.5), 7: (9.5, 9.5)}
    assert positions_of(labels, "tail") == {7: (8.5, 8.5)}
    assert len(labels.confident(0.4)) == 2 and list(labels.confident(0.4).names.values()) == [("nose", "")]


def test_predictions_of_other_tracks_than_what_people_labelled_are_read_beside_it(tmp_path):
    skeleton, video = sleap_io.Skeleton(["nose"]), sleap_io.Video("clip.mp4", open_backend=False)
    a, b = sleap_io.Track("a"), sleap_io.Track("b")

    def save(instances):
        frame = sleap_io.LabeledFrame(video=video, frame_idx=5, instances=instances)
        tracks = [one for one in (a, b) if any(instance.track is one for instance in instances)]
        labels = sleap_io.Labels([frame], videos=[video], skeletons=[skeleton], tracks=tracks)
        labels.save(str(tmp_path / "l.slp"), verbose=False)
        return tmp_path / "l.slp"

    def user(x, track=None):
        return sleap_io.Instance.from_numpy(np.array([[x, 2.0]]), skeleton, track=track)

    def found(x, track=None):
        scores = np.array([0.5])
        return sleap_io.PredictedInstance.from_numpy(np.array([[x, 2.0]]), skeleton, point_scores=scores, track=track)

    labels = read_labels(save([found(7.0, a), user(1.0, a), found(9.0, b)]))
    assert positions_of(labels, "a/nose") == {5: (1.5, 2.5)} and positions_of(labels, "b/nose") == {5: (9.5, 2.5)}
    assert sorted(labels.confidence.tolist()) == [0.5, 1]
    b.name = "a"
    with pytest.raises(ValueError, match="two tracks of one video are called a; name them apart"):
        read_labels(save([user(1.0, a), found(9.0, b)]))
    for untold in ([user(1.0), user(3.0)], [found(1.0), found(3.0)]):
        with pytest.raises(ValueError, match="several instances, and one on frame 5 is in no track; give all of them"):
            read_labels(save(untold))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
@pytest.mark.parametrize("suffix", [".h5", ".slp"])
def test_damaged_files_of_sleap_are_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f"l{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a file of SLEAP, or"):
        read_labels(path, "sleap")


def test_a_file_of_deeplabcut_is_not_one_of_sleap(tmp_path):
    save_tracks(example_tracks(), tmp_path / "t.h5", "dlc")
    with pytest.raises(ValueError, match="must be a file of SLEAP"):
        read_labels(tmp_path / "t.h5", "sleap")
    save_tracks(example_tracks(), tmp_path / "t.h5", "sleap")
    with pytest.raises(ValueError, match="is not an H5 file of DeepLabCut"):
        read_labels(tmp_path / "t.h5", "dlc")


# ---- COCO keypoints -------------------------------------------------------------------------------------------------


def coco(**changes) -> dict:
    """Two labelled frames of one mouse: the nose on both, hidden on the second; the tail on none."""
    shape = {"height": SIZE[0], "width": SIZE[1]}
    images = [
        {"id": 70, "file_name": "frames/img0003.png", **shape},
        {"id": 71, "file_name": "frames/img0012.png", **shape},
    ]
    one = {"category_id": 1, "iscrowd": 0, "bbox": [0, 0, 5, 5], "area": 25, "num_keypoints": 1}
    annotations = [
        {"id": 1, "image_id": 70, "keypoints": [10, 20, 2, 0, 0, 0], **one},
        {"id": 2, "image_id": 71, "keypoints": [11.25, 21, 1, 0, 0, 0], **one},
    ]
    categories = [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": []}]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


def write_json(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_coco_files_of_other_tools(tmp_path):
    """CVAT has numbers among the attributes; boxes, masks and crowds have categories or annotations without keypoints."""
    rows = [{**row, "attributes": {"occluded": False, "track_id": 4}} for row in coco()["annotations"]]
    rows += [{**rows[0], "id": 8, "attributes": {"track_id": 5}, "keypoints": [30, 31, 2, 0, 0, 0]}]
    rows += [{"id": 9, "image_id": 70, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 0, "area": 81}]
    rows += [{"id": 10, "image_id": 71, "category_id": 1, "keypoints": [0] * 6, "num_keypoints": 0, "iscrowd": 1}]
    categories = [*coco()["categories"], {"id": 2, "name": "box", "supercategory": ""}]
    content = coco(annotations=rows, categories=categories)
    labels = read_labels(write_json(tmp_path / "l.json", content), "coco")
    assert {name.individual for name in labels.names.values()} == {"track4", "track5"}
    assert sorted(labels.points.tolist()) == [[3, 10.5, 20.5], [3, 30.5, 31.5], [12, 11.75, 21.5]]


def test_coco_labels_are_read(tmp_path):
    labels = read_labels(write_json(tmp_path / "l.json", coco()), "coco")
    assert positions_of(labels, "nose") == {3: (10.5, 20.5), 12: (11.75, 21.5)} and labels.size == SIZE
    assert labels.visible.tolist() == [True, False] and labels.prompts() == {0: (3, 10.5, 20.5)}
    with pytest.raises(ValueError, match="the labels are of a video of 48x64, but this video is 48x65"):
        labels.check(20, (48, 65))


def test_the_score_of_an_annotation_of_coco_is_the_confidence_of_its_points(tmp_path):
    rows = coco()["annotations"]
    path = write_json(tmp_path / "l.json", coco(annotations=[rows[0] | {"score": 0.25}, rows[1]]))
    labels = read_labels(path, "coco")
    assert labels.confidence.tolist() == [0.25, 1] and labels.confident(0.5).points[:, 0].tolist() == [12]
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / "t.json", "coco", names=NAMES)
    read = read_labels(tmp_path / "t.json", "coco")
    for t in range(4):  # the mean of those that are written
        of_it = read.points[:, 0] == t
        mean = tracks.confidence[read.ids[of_it], t].mean()
        np.testing.assert_allclose(read.confidence[of_it], mean, atol=1e-4)
    for score, message in (
        (1.5, "confidence"),
        ("high", "the score of an annotation must be a number"),
        (True, "number"),
    ):
        path = write_json(tmp_path / "l.json", coco(annotations=[rows[0] | {"score": score}, rows[1]]))
        with pytest.raises(ValueError, match=message):
            read_labels(path, "coco")


@pytest.mark.parametrize("field", ["track_id", "individual", "score"])
def test_a_field_of_coco_that_is_null_says_nothing(tmp_path, field):
    rows = [row | {field: None} for row in coco()["annotations"]]
    labels = read_labels(write_json(tmp_path / "l.json", coco(annotations=rows)), "coco")
    assert positions_of(labels, "nose") == {3: (10.5, 20.5), 12: (11.75, 21.5)}
    rows = [rows[0] | {"track_id": 1}, rows[0] | {"track_id": 2}]
    labels = read_labels(write_json(tmp_path / "l.json", coco(annotations=rows)), "coco")
    assert {str(name) for name in labels.names.values()} >= {"track1/nose", "track2/nose"}


@pytest.mark.parametrize("several", [False, True])
def test_coco_opens_in_sleap_io_and_comes_back(tmp_path, several):
    tracks, names = two_animals() if several else (example_tracks(), NAMES)
    save_tracks(tracks, tmp_path / "t.json", "coco", names=names)
    for t in range(4):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"img{t}.png")
    opened = sleap_io.load_coco(str(tmp_path / "t.json"), dataset_root=str(tmp_path))
    assert opened.skeletons[0].node_names == (["nose", "tail"] if several else ["nose", "tail tip"])
    first = opened.labeled_frames[0].instances[0].numpy()
    np.testing.assert_allclose(first[0], tracks.tracks[0, 0] - 0.5, atol=1e-3)
    labels = read_labels(tmp_path / "t.json", "coco")
    for row, name in enumerate(
        ["mouse1/nose", "mouse1/tail", "mouse2/nose", "mouse2/tail"] if several else NAMES.values()
    ):
        assert positions_of(labels, name) == tracked(tracks, row)
    seen = labels.visible[labels.ids == 0].tolist()
    assert seen == [True, True, False, True]


MALFORMED = {
    "[]": "is not a file of COCO keypoints",
    "{}": "is not a file of COCO keypoints",
    "": "must be a JSON file of COCO keypoints, or is damaged",
    "[" * 100_000: "must be a JSON file of COCO keypoints, or is damaged",
    '{"images": ' + "9" * 9000 + "}": "must be a JSON file of COCO keypoints, or is damaged",
    json.dumps({"queries": [[0, 1, 2]]}): "is not a file of COCO keypoints",
    json.dumps(
        coco(images=[{"id": 70, "file_name": "first.png"}])
    ): "'first.png' is not the name of an image that ends",
    json.dumps(
        coco(annotations=[{"image_id": 70, "category_id": 1, "keypoints": [1, 2]}])
    ): "not x, y, v for each name",
    json.dumps(
        coco(annotations=[{"image_id": 70, "category_id": 1, "keypoints": [1, "a", 2, 0, 0, 0]}])
    ): "not x, y, v",
    json.dumps(
        coco(annotations=[{"image_id": 99, "category_id": 1, "keypoints": [1, 2, 2, 0, 0, 0]}])
    ): "an annotation is of image 99, which is not listed",
    json.dumps(coco(annotations=2 * coco()["annotations"])): "several individuals on an image, which need a track_id",
    json.dumps(
        coco(annotations=[{**coco()["annotations"][0], "track_id": i} for i in (None, 3)])
    ): "several individuals on an image, which need a track_id",
    json.dumps(
        coco(annotations=[{**coco()["annotations"][0], "individual": i} for i in (None, None)])
    ): "several individuals on an image, which need a track_id",
    json.dumps(coco(annotations=[])): "holds no labelled point",
    json.dumps(coco()).replace("10, 20, 2", "NaN, 20, 2"): "nose has y but no x on frame 3",
    json.dumps(coco()).replace("10, 20, 2", "10, NaN, 2"): "nose has x but no y on frame 3",
    json.dumps(coco()).replace("10, 20, 2", "NaN, NaN, 2"): "stays",
    json.dumps(coco()).replace("10, 20, 2", "1e400, 20, 2"): "at a finite position",
    json.dumps(coco()).replace('"tail"', '"nose"'): "'nose' is there twice as a keypoint of category 0",
    json.dumps(
        coco(images=[{"id": 70, "file_name": f"{t}.png"} for t in (3, 12)])
    ): "70 is there twice as the id of an image",
    json.dumps(coco(categories=2 * coco()["categories"])): "1 is there twice as the id of a category",
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_malformed_coco_is_one_sentence(tmp_path, text, message):
    path = write_json(tmp_path / "l.json", text)
    if message == "stays":  # not labelled there; the second label stays
        assert list(positions_of(read_labels(path, "coco"), "nose")) == [12]
        return
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(path, "coco")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_folders_of_the_same_name_in_others_are_clips_of_their_own(tmp_path):
    images = [{"id": i, "file_name": f"{day}/cam/img{i}.png"} for i, day in enumerate(("mon", "tue"))]
    rows = [{"image_id": i, "category_id": 1, "keypoints": [10 + i, 20, 2, 0, 0, 0]} for i in range(2)]
    path = write_json(tmp_path / "l.json", coco(images=images, annotations=rows))
    with pytest.raises(ValueError, match="labels of 2 clips, .*: mon/cam, tue/cam"):
        read_labels(path, "coco")
    assert positions_of(read_labels(path, "coco", "tue/cam"), "nose") == {1: (11.5, 20.5)}
    images[1]["file_name"] = "tue/top/img1.png"
    path = write_json(tmp_path / "l.json", coco(images=images, annotations=rows))
    for clip in ("top", "tue/top"):
        assert positions_of(read_labels(path, "coco", clip), "nose") == {1: (11.5, 20.5)}


@pytest.mark.parametrize("several", [False, True])
def test_videos_of_the_same_name_in_sleap_are_clips_of_their_own(tmp_path, several):
    """A file, or the images of a folder, of which all begin alike."""
    skeleton, frames = sleap_io.Skeleton(["nose"]), []
    for i, day in enumerate(("mon", "tue")):
        (tmp_path / day).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / day / "img0.png")
        name = [str(tmp_path / day / "img0.png")] * 2 if several else f"{day}/cam.mp4"
        video = sleap_io.Video.from_filename(name) if several else sleap_io.Video(name, open_backend=False)
        made = sleap_io.Instance.from_numpy(np.array([[1.0 + i, 2]]), skeleton)
        frames.append(sleap_io.LabeledFrame(video=video, frame_idx=i, instances=[made]))
    sleap_io.Labels(frames).save(str(tmp_path / "l.slp"), verbose=False)
    with pytest.raises(
        ValueError, match="labels of 2 clips, .*: mon, tue" if several else "2 clips, .*: mon/cam, tue/cam"
    ):
        read_labels(tmp_path / "l.slp")
    labels = read_labels(tmp_path / "l.slp", clip="tue" if several else "tue/cam")
    assert positions_of(labels, "nose") == {1: (2.5, 2.5)}


def test_the_size_of_one_video_in_sleap_is_not_that_of_another(tmp_path):
    skeleton, frames = sleap_io.Skeleton(["nose"]), []
    for i, shape in enumerate(((3, 48, 64, 3), None)):
        video = sleap_io.Video(f"v{i}.mp4", backend_metadata={"shape": shape} if shape else {}, open_backend=False)
        made = sleap_io.Instance.from_numpy(np.array([[1.0 + i, 2]]), skeleton)
        frames.append(sleap_io.LabeledFrame(video=video, frame_idx=0, instances=[made]))
    sleap_io.Labels(frames).save(str(tmp_path / "l.slp"), verbose=False)
    assert read_labels(tmp_path / "l.slp", clip="v1").size is None


def test_scores_of_sleap_that_are_none(tmp_path):
    """SLEAP writes NaN of what people have labelled into its analysis files."""
    skeleton, video = sleap_io.Skeleton(["nose"]), sleap_io.Video("clip.mp4", open_backend=False)
    made = sleap_io.Instance.from_numpy(np.array([[1.0, 2]]), skeleton)
    frame = sleap_io.LabeledFrame(video=video, frame_idx=0, instances=[made])
    labels = sleap_io.Labels([frame], videos=[video], skeletons=[skeleton])
    sleap_io.save_analysis_h5(labels, str(tmp_path / "l.h5"), video=video)
    found = read_labels(tmp_path / "l.h5", "sleap")
    assert found.confidence.tolist() == [1.0] and len(found.points) == 1
    found = sleap_io.PredictedInstance.from_numpy(np.array([[1.0, 2]]), skeleton, point_scores=np.array([-1.5]))
    frame = sleap_io.LabeledFrame(video=video, frame_idx=0, instances=[found])
    sleap_io.Labels([frame], videos=[video], skeletons=[skeleton]).save(str(tmp_path / "l.slp"), verbose=False)
    with pytest.raises(ValueError, match="nose must have a confidence from 0 to 1 on frame 0, got -1.5"):
        read_labels(tmp_path / "l.slp")


# ---- PoseMark -------------------------------------------------------------------------------------------------------


CLIP = "sub-M1_ses-02_cam-top_start-0500_dur-4_cliplabels.json"


def test_posemark_start_labels_are_prompts_and_clip_labels_come_back(tmp_path):
    tracks = example_tracks()
    save_tracks(tracks, tmp_path / CLIP, "posemark", names=NAMES)
    content = json.loads((tmp_path / CLIP).read_text())
    assert [image["id"] for image in content["images"]] == [0, 1, 2, 3]
    assert content["images"][3]["file_name"] == "sub-M1_ses-02_cam-top_frame-0503"
    assert positions_of(read_labels(tmp_path / CLIP, "posemark"), "nose") == tracked(tracks, 0)
    content["annotations"], content["images"] = content["annotations"][:1], content["images"][:1]
    start = write_json(tmp_path / CLIP.replace("cliplabels", "startlabels"), content)
    assert read_labels(start, "posemark").prompts() == {0: (0, 1.5, 2.25)}


def test_posemark_says_how_files_are_named(tmp_path):
    tracks, names = two_animals()
    for name, message in (
        ("t.json", "must be named sub-X_ses-Y_cam-Z_start"),
        (CLIP.replace("dur-4", "dur-5"), "of 5 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            save_tracks(example_tracks(), tmp_path / name, "posemark")
    with pytest.raises(ValueError, match="PoseMark is of one animal"):
        save_tracks(tracks, tmp_path / CLIP, "posemark", names=names)
    assert not list(tmp_path.iterdir())
    for number, shown in (("a", "'a'"), (-1, "-1"), (10**30, "1000"), (True, "True")):
        content = coco(images=[{"id": number, "file_name": "x"}])
        with pytest.raises(ValueError, match=f"the id of an image must be its frame number, got {shown}"):
            read_labels(write_json(tmp_path / "l.json", content), "posemark")
