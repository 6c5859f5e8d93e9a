"""DeepLabCut: labels and predictions in the layouts that its versions write, and what its reader makes of ours."""

import numpy as np
import pandas as pd
import pytest
from labelled_clips import NAMES, example_tracks, positions_of, tracked, two_animals
from PIL import Image

from fgvc_hf import read_labels, save_tracks


SPLIT = """scorer,,,me,me,me,me
bodyparts,,,nose,nose,tail,tail
coords,,,x,y,x,y
labeled-data,clip,img0003.png,10,20.5,,
labeled-data,clip,img0012.png,11.25,21,5,6
"""
JOINED = """scorer,me,me,me,me
bodyparts,nose,nose,tail,tail
coords,x,y,x,y
labeled-data/clip/img0003.png,10,20.5,,
labeled-data\\clip\\img0012.png,11.25,21,5,6
"""
PREDICTED = """scorer,net,net,net,net,net,net
bodyparts,nose,nose,nose,tail,tail,tail
coords,x,y,likelihood,x,y,likelihood
3,10,20.5,0.75,,,
12,11.25,21,1,5,6,0.25
"""
SEVERAL = """scorer,,,me,me,me,me
individuals,,,m1,m1,m2,m2
bodyparts,,,nose,nose,nose,nose
coords,,,x,y,x,y
labeled-data,clip,img0003.png,10,20.5,,
labeled-data,clip,img0012.png,11.25,21,5,6
"""
NOSE = {3: (10.5, 21.0), 12: (11.75, 21.5)}  # half a pixel further: here the first pixel's centre is (0.5, 0.5)
TAIL = {12: (5.5, 6.5)}


def frame_of(text: str) -> pd.DataFrame:
    """As DeepLabCut builds it, from a CSV."""
    lines = text.splitlines()
    levels = 4 if lines[1].startswith("individuals") else 3
    given = 3 if lines[0].startswith("scorer,,,") else 1
    cells = [line.split(",") for line in lines]
    names = [row[0] for row in cells[:levels]]
    columns = pd.MultiIndex.from_tuples(list(zip(*(row[given:] for row in cells[:levels]), strict=True)), names=names)
    index = [tuple(row[:3]) if given == 3 else row[0] for row in cells[levels:]]
    index = pd.MultiIndex.from_tuples(index) if given == 3 else [int(i) if i.isdecimal() else i for i in index]
    values = [[float(cell or "nan") for cell in row[given:]] for row in cells[levels:]]
    return pd.DataFrame(values, index=index, columns=columns)


LAYOUTS = [
    *((text, layout) for text in (SPLIT, JOINED, PREDICTED, SEVERAL) for layout in ("csv", "Windows", "fixed")),
    (PREDICTED, "table"),
]


@pytest.mark.parametrize(("text", "layout"), LAYOUTS)
def test_files_of_all_versions_are_read(tmp_path, text, layout):
    path = tmp_path / ("labels.h5" if layout in ("fixed", "table") else "labels.csv")
    if path.suffix == ".csv":
        path.write_bytes(text.encode() if layout == "csv" else text.replace("\n", "\r\n").encode("utf-8-sig"))
    else:
        frame_of(text).to_hdf(path, key="df_with_missing", mode="w", format=layout)
    labels = read_labels(path, "dlc")
    first, second = ("m1/nose", "m2/nose") if text is SEVERAL else ("nose", "tail")
    assert positions_of(labels, first) == NOSE and positions_of(labels, second) == TAIL
    assert labels.confidence.tolist() == ([0.75, 1, 0.25] if text is PREDICTED else [1, 1, 1])
    assert labels.prompts()[1] == (12, 5.5, 6.5) and labels.prompts()[0].shape == (2, 3)


@pytest.mark.parametrize("layout", ["fixed", "table"])
def test_tables_of_an_h5_file_may_have_any_name(tmp_path, layout):
    """napari-deeplabcut names them otherwise than DeepLabCut; of several, none can be chosen."""
    frame_of(PREDICTED).to_hdf(tmp_path / "l.h5", key="keypoints", mode="w", format=layout)
    frame_of(PREDICTED).to_hdf(tmp_path / "same.h5", key="df_with_missing", mode="w", format=layout)
    found, expected = (read_labels(tmp_path / name, "dlc") for name in ("l.h5", "same.h5"))
    np.testing.assert_array_equal(found.points, expected.points)
    frame_of(PREDICTED).to_hdf(tmp_path / "l.h5", key="tracks", mode="a", format=layout)
    with pytest.raises(ValueError, match="is not an H5 file of DeepLabCut"):
        read_labels(tmp_path / "l.h5", "dlc")


@pytest.mark.parametrize("suffix", [".csv", ".h5"])
def test_predictions_open_as_those_of_deeplabcut(tmp_path, suffix):
    path, tracks = tmp_path / f"tracked{suffix}", example_tracks()
    save_tracks(tracks, path, "dlc", names=NAMES)
    if suffix == ".h5":
        found = pd.read_hdf(path)
    else:
        found = pd.read_csv(path, header=[0, 1, 2], index_col=0)
    assert list(found.columns.names) == ["scorer", "bodyparts", "coords"] and found.index.tolist() == [0, 1, 2, 3]
    nose = found["fgvc_hf"]["nose"]
    np.testing.assert_allclose(nose[["x", "y"]], tracks.tracks[0] - 0.5, atol=1e-4)
    np.testing.assert_allclose(nose["likelihood"], tracks.confidence[0], atol=1e-4)
    assert found["fgvc_hf"]["tail tip"]["x"].isna().tolist() == [True, False, False, False]
    labels = read_labels(path, "dlc")
    assert positions_of(labels, "nose") == tracked(tracks, 0) and positions_of(labels, "tail tip") == tracked(
        tracks, 1
    )


@pytest.mark.parametrize("suffix", [".csv", ".h5"])
def test_several_animals_come_back(tmp_path, suffix):
    tracks, names = two_animals()
    save_tracks(tracks, tmp_path / f"t{suffix}", "dlc", names=names)
    labels = read_labels(tmp_path / f"t{suffix}", "dlc")
    for row, (part, individual) in enumerate(names.values()):
        assert positions_of(labels, f"{individual}/{part}") == tracked(tracks, row)


def test_labels_of_a_project_open_in_sleap_io(tmp_path):
    """The project's images beside them, as DeepLabCut keeps both."""
    sleap_io = pytest.importorskip("sleap_io", reason="sleap_io is not installed")
    folder, tracks = tmp_path / "labeled-data" / "clip", example_tracks()
    folder.mkdir(parents=True)
    for t in range(4):
        Image.new("RGB", (64, 48)).save(folder / f"img{t}.png")
    path = folder / "CollectedData_me.csv"
    save_tracks(tracks, path, "dlc", names=NAMES, images="labeled-data/clip")
    opened = sleap_io.load_dlc(path)
    assert [node.name for node in opened.skeletons[0].nodes] == ["nose", "tail tip"]
    points = np.stack([frame.instances[0].numpy() for frame in opened.labeled_frames])  # (frames, nodes, 2)
    expected = np.where(tracks.visible[..., None], tracks.tracks - 0.5, np.nan).transpose(1, 0, 2)
    np.testing.assert_allclose(points, expected, atol=1e-4)
    save_tracks(tracks, path.with_suffix(".h5"), "dlc", names=NAMES, images="labeled-data/clip")
    np.testing.assert_allclose(pd.read_hdf(path.with_suffix(".h5")).to_numpy().reshape(4, 2, 2), expected, atol=1e-6)


def test_one_of_several_clips_is_chosen(tmp_path):
    path = tmp_path / "CollectedData.csv"
    path.write_text(JOINED.replace("labeled-data\\clip\\", "labeled-data\\other\\"))
    with pytest.raises(ValueError, match="holds labels of 2 clips, say which .*: clip, other"):
        read_labels(path, "dlc")
    assert positions_of(read_labels(path, "dlc", clip="clip"), "nose") == {3: NOSE[3]}
    with pytest.raises(ValueError, match="holds no clip 'third'; it has clip, other"):
        read_labels(path, "dlc", clip="third")


MALFORMED = {
    "": "is not a file of DeepLabCut, .* found nothing",
    "t,x,y\n0,1,2\n": "is not a file of DeepLabCut, .* found t, 0",
    SPLIT.replace("coords,,,x,y,x,y", "coords,,,x,y,x,z"): "coords must be x, y and likelihood, found 'z'",
    SPLIT.replace("coords,,,x,y,x,y", "coords,,,x,y,x,likelihood"): "'tail' must have the columns x and y",
    SPLIT.replace("tail", "nose"): "the column of nose x is there twice",
    SPLIT.replace("20.5", "left"): r"line 4: must hold numbers, found labeled-data,.*left",
    SPLIT.replace("20.5,,", "20.5,"): "line 4: has 6 cells, but the header has 7",
    SPLIT.replace("img0012", "img0003"): "nose is labelled twice on frame 3",
    SPLIT.replace("img0012.png", "last.png"): "neither a frame number nor the name of an image",
    SPLIT.replace("img0012.png", "img99999999999999999999.png"): "neither a frame number nor",
    SPLIT.replace("20.5", "inf"): "nose must be labelled .* at a finite position",
    SPLIT.replace("20.5", "1e300"): "nose must be labelled .* at a finite position",
    SPLIT.replace("nose", " "): "is not a name of a point",
    SPLIT.splitlines()[0] + "\n" + "\n".join(SPLIT.splitlines()[1:3]): "holds no labelled point",
    SPLIT.replace("nose", "no\0se"): "is not a CSV text file",
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.items())
def test_malformed_csv_is_one_sentence(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(tmp_path / "l.csv", "dlc")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "l.csv").write_bytes(SPLIT.encode("utf-16"))
    with pytest.raises(ValueError, match="is not a CSV text file in UTF-8"):
        read_labels(tmp_path / "l.csv", "dlc")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("slist failed (file write failed:\n, errno = 28)"), "HDF5 fails, as on a full disk"),
        (OSError(28, "Can't write data (file write failed:\n, errno = 28)"), "No space left on device"),
    ],
)
def test_what_hdf5_says_of_a_full_disk_is_one_sentence(tmp_path, monkeypatch, error, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_hdf", fail)
    with pytest.raises(OSError) as caught:
        save_tracks(example_tracks(), tmp_path / "t.h5", "dlc")
    assert str(caught.value) == f"{tmp_path / 't.h5'}: cannot be written ({said})." and not list(tmp_path.iterdir())


def test_damaged_h5_is_one_sentence_and_runs_nothing(tmp_path):
    import h5py

    frame_of(PREDICTED).to_hdf(tmp_path / "l.h5", key="df_with_missing", mode="w", format="table")
    with h5py.File(tmp_path / "l.h5", "r+") as file:
        touch = f"cposix\nsystem\n(S'touch {tmp_path}/touched'\ntR.".encode()
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.bytes_(touch)
    whole = (tmp_path / "l.h5").read_bytes()
    for content in (whole, b"", b"text", whole[:300], whole[:5000]):
        (tmp_path / "l.h5").write_bytes(content)
        with pytest.raises(ValueError, match=r"l\.h5: is not an H5 file of DeepLabCut, or a damaged one"):
            read_labels(tmp_path / "l.h5", "dlc")
    assert not (tmp_path / "touched").exists()


def test_h5_that_claims_more_than_memory_is_refused(tmp_path):
    """Some hundred bytes, and an array of an exabyte of which no page is written."""
    import h5py

    for form, name in (("dlc", "df_with_missing/block0_values"), ("sleap", "tracks")):
        with h5py.File(tmp_path / "l.h5", "w") as file:
            file.create_dataset(name, shape=(2**30, 2**27), dtype="f8", chunks=(1024, 1024))
        with pytest.raises(ValueError, match="its arrays take more than 2 GiB, the limit for labels"):
            read_labels(tmp_path / "l.h5", form)


def test_images_must_be_a_folder_of_two_names(tmp_path):
    with pytest.raises(ValueError, match="images must be a folder as labeled-data/clip, got 'clip'"):
        save_tracks(example_tracks(), tmp_path / "t.csv", "dlc", images="clip")
    for images in ("../clip", "labeled-data/..", "/clip", "a\\b/clip"):
        with pytest.raises(ValueError, match="images must be a folder as labeled-data/clip"):
            save_tracks(example_tracks(), tmp_path / "t.csv", "dlc", images=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [SPLIT, JOINED, PREDICTED, SEVERAL])
def test_an_index_that_has_names_is_one(tmp_path, text):
    """pandas writes them into a row of their own, below the names of the columns."""
    frame = frame_of(text)
    frame.index.names = ["labeled-data", "video", "image"][: frame.index.nlevels]
    frame.to_csv(tmp_path / "l.csv")
    assert len((tmp_path / "l.csv").read_text().splitlines()) == len(text.splitlines()) + 1
    assert positions_of(read_labels(tmp_path / "l.csv", "dlc"), "m1/nose" if text is SEVERAL else "nose") == NOSE


@pytest.mark.parametrize("suffix", ["csv", "h5"])
def test_labels_of_a_project_on_which_nothing_is_visible(tmp_path, suffix):
    tracks = example_tracks()
    tracks.visible[:] = False
    save_tracks(tracks, tmp_path / f"t.{suffix}", "dlc", images="labeled-data/clip")
    with pytest.raises(ValueError, match="holds no labelled point"):
        read_labels(tmp_path / f"t.{suffix}", "dlc")


def test_what_version_3_did_not_find_is_not_labelled(tmp_path):
    (tmp_path / "l.csv").write_text(PREDICTED.replace("12,11.25,21,1,5,6,0.25", "12,-1,-1,-1,5,6,0.25"))
    labels = read_labels(tmp_path / "l.csv", "dlc")
    assert 12 not in positions_of(labels, "nose") and positions_of(labels, "tail")[12] == (5.5, 6.5)


@pytest.mark.parametrize("suffix", ["csv", "h5"])
def test_half_a_label_and_a_position_without_a_likelihood_are_refused(tmp_path, suffix):
    for row, said in (
        ("12,11.25,,1,5,6,0.25", "nose has x but no y on frame 12"),
        ("12,,21,1,5,6,0.25", "nose has y but no x on frame 12"),
        ("12,11.25,21,,5,6,0.25", "nose must have a confidence from 0 to 1 on frame 12, got nan"),
    ):
        text = PREDICTED.replace("12,11.25,21,1,5,6,0.25", row)
        path = tmp_path / f"l.{suffix}"
        if suffix == "csv":
            path.write_text(text)
        else:
            frame_of(text).to_hdf(path, key="df_with_missing", mode="w")
        with pytest.raises(ValueError, match=said):
            read_labels(path, "dlc")


def test_folders_of_the_same_name_in_others_are_clips_of_their_own(tmp_path):
    (tmp_path / "l.csv").write_text(JOINED.replace("labeled-data\\clip", "other-data\\clip"))
    with pytest.raises(ValueError, match="labels of 2 clips, .*: labeled-data/clip, other-data/clip"):
        read_labels(tmp_path / "l.csv", "dlc")
    assert positions_of(read_labels(tmp_path / "l.csv", "dlc", "other-data/clip"), "tail") == TAIL
