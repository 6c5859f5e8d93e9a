"""Ids of rows: equal work has equal names, and other work others."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from fgvc_hf import FgvcModel, FgvcProcessor, Tracker, track_dataset
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import track_job
from fgvc_hf.data.dataset_tracking.clip_sources import Clip
from fgvc_hf.data.dataset_tracking.source_kinds import open_source
from fgvc_hf.data.dataset_tracking.stored_files import pinned
from fgvc_hf.data.dataset_tracking.track_job import TrackJob


OPTIONS = track_job.Options("grid:2", "m", "r", "s", None, None, "0")


def test_names_are_the_same_on_every_machine_and_differ_by_options(clips, tmp_path, checkpoint):
    copy = shutil.copytree(clips, tmp_path / "elsewhere")
    options = track_job.Options("grid:2", "m", "r", "s", None, None, "0")
    jobs = [TrackJob(open_source(str(source)), options, checkpoint) for source in (clips, copy)]
    names = [[job.name(clip) for clip in job.source.clips()] for job in jobs]
    assert names[0] == names[1] and len(set(names[0])) == 4
    for field in ("points", "model", "revision", "settings", "preset", "dtype", "package"):
        other = TrackJob(jobs[0].source, replace(options, **{field: "other"}), checkpoint)
        assert not set(names[0]) & {other.name(clip) for clip in other.source.clips()}


def test_names_differ_by_all_that_is_known_of_a_clip(checkpoint):
    job, clip = TrackJob(None, OPTIONS, checkpoint), Clip("a", "a", (5, 6), 1, 2, 3, ("camera", [[0, 1, 1]]))
    others = {"source": "b", "stamp": (4, 6), "row": 0, "start": 0, "stop": 4, "place": ("camera", [[0, 1, 2]])}
    found = {job.name(clip), *(job.name(replace(clip, **{name: value})) for name, value in others.items())}
    assert len(found) == 1 + len(others)
    assert job.name(replace(clip, stamp=(5, 7))) == job.name(clip) == job.name(Clip.from_json(clip.to_json()))


def test_columns_of_videos_have_names_of_their_own(checkpoint, clips, tmp_path):
    content = (clips / "a.mp4").read_bytes()
    pyarrow.parquet.write_table(pyarrow.table({"left": [content], "right": [content]}), tmp_path / "a.parquet")
    jobs = [TrackJob(open_source(str(tmp_path), video), OPTIONS, checkpoint) for video in ("left", "right")]
    assert len({job.name(clip) for job in jobs for clip in job.source.clips()}) == 2


def test_names_differ_by_the_configuration_of_equal_weights(checkpoint, tmp_path):
    folder = tmp_path / "tiny"  # of the same name
    FgvcModel.from_pretrained(checkpoint, temperature=0.5).save_pretrained(folder)
    FgvcProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    trackers = [Tracker.from_pretrained(place) for place in (checkpoint, str(folder))]
    assert len({track_job.revision_of(tracker) for tracker in trackers}) == 1
    assert len({track_job.settings_of(tracker) for tracker in trackers}) == 2


def test_options_that_are_equal_have_one_name(command, clips, tmp_path, checkpoint):
    assert command(clips, "--dtype", "float32", points="grid:2")[0] == 0
    for points in ("grid:02", "grid:2x2", "grid:2x02"):
        status, printed, _ = command(clips, "--dtype", "float32", points=points)
        assert status == 0 and "; 0 new" in printed
    again = track_dataset(clips, tmp_path / "tracks", "grid:2", checkpoint=checkpoint, dtype=torch.float32)
    assert again.added == 0
    assert "points was grid:2, now grid:2x3" in command(clips, "--dtype", "float32", points="grid:2x3")[2]


# ---- one place, by whatever name -------------------------------------------------------------------------------------


def ways_to(place, tmp_path):
    """Paths that lead to a folder or a file, from a working folder that is `tmp_path`."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "folder").symlink_to(place.parent, target_is_directory=True)
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "deep" / "er", target_is_directory=True)
    link = tmp_path / f"link{place.suffix}"
    link.symlink_to(place)
    (tmp_path / f"again{place.suffix}").symlink_to(link.name)
    relative = os.path.relpath(place, tmp_path)
    ways = [
        link,
        Path(f"again{place.suffix}"),
        Path("folder", place.name),
        relative,
        f"./{relative}",
        f"{place.parent}//{place.name}",
    ]
    ways += [f"deep/link/../../{relative}"]  # of the system: from where the link leads
    return [*ways, f"{place}/", f"{link}/."] if place.is_dir() else ways


@pytest.mark.parametrize("kind", ["clips", "0.parquet", "00.tar"])
def test_one_source_has_one_name_however_it_is_reached(
    command, clips, parquet, webdataset, tmp_path, monkeypatch, kind
):
    place = {"clips": clips, "0.parquet": parquet / "0.parquet", "00.tar": webdataset / "00.tar"}[kind]
    monkeypatch.chdir(tmp_path)
    assert command(place)[0] == 0
    for source in ways_to(place, tmp_path):
        status, printed, error = command(source)
        assert status == 0 and "; 0 new" in printed, error
    link = tmp_path / f"link{place.suffix}"
    assert command(link, destination=tmp_path / "by link")[0] == 0
    link.unlink()
    assert "; 0 new" in command(place, destination=tmp_path / "by link")[1]
    folders = [tmp_path / "tracks", tmp_path / "by link"]
    assert len({(folder / "README.md").read_bytes() for folder in folders}) == 1
    noted = [json.loads((folder / ".fgvc-hf-run.json").read_text())["source"] for folder in folders]
    assert noted == [os.path.realpath(place)] * 2


def test_a_file_in_the_cache_of_the_hub_keeps_its_name(run, parquet, tmp_path):
    """A link to a blob, whose name has no ending."""
    shutil.copy(parquet / "0.parquet", tmp_path / "c0ffee")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "0.parquet").symlink_to("../c0ffee")
    assert list(run(tmp_path / "snapshot" / "0.parquet")) == [f"0.parquet#{i}" for i in range(4)]


def test_two_files_of_one_folder_are_two_sources(command, parquet, tmp_path):
    assert command(parquet / "0.parquet")[0] == 0
    status, _, error = command(parquet / "1.parquet")
    assert status == 2 and f"source was {parquet / '0.parquet'}, now {parquet / '1.parquet'}" in error


def test_overlays_of_a_source_of_one_file(command, webdataset, clips, tmp_path, capsys):
    """Beside which there may be anything."""
    shutil.copy(clips / "a.mp4", tmp_path)
    shutil.copy(webdataset / "00.tar", tmp_path)
    assert command(tmp_path / "00.tar", destination=tmp_path / "tracks")[0] == 0
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 0
    assert "overlays/" in (printed := capsys.readouterr().out) and "no overlay" not in printed


@pytest.mark.parametrize("store", [".git/annex/objects/x", "elsewhere"])
def test_relative_paths_of_a_table_that_is_a_link_are_beside_the_link(run, clips, tmp_path, store):
    """As of git-annex, which keeps the ending in the names of its objects, and as of any link."""
    folder = tmp_path / "annex"
    (folder / store).mkdir(parents=True)
    shutil.copy(clips / "a.mp4", folder)
    kept = folder / store / "SHA256E-s1--aa.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"video": ["a.mp4"]}), kept)
    (folder / "t.parquet").symlink_to(os.path.relpath(kept, folder))
    ((name, row),) = run(folder / "t.parquet").items()
    assert row["error"] is None and name == ("t.parquet#0" if store[0] == "." else "SHA256E-s1--aa.parquet#0")


def test_a_file_reached_by_dots_after_a_link_keeps_its_name(tmp_path, monkeypatch):
    """As in a snapshot of the Hub's cache, whose files are links to blobs without an ending."""
    for folder in ("far/snapshot", "far/blobs", "near"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "far" / "blobs" / "c0ffee").touch()
    (tmp_path / "far" / "0.parquet").symlink_to("blobs/c0ffee")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "snapshot", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert pinned("near/link/../0.parquet") == os.path.realpath(tmp_path / "far") + "/0.parquet"
    assert pinned("near/link/..") == os.path.realpath(tmp_path / "far")
