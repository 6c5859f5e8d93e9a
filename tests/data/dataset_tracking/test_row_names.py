"""Ids of rows: equal work has equal names, and other work others."""

import shutil
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import torch

from fgvc_hf import FgvcModel, FgvcProcessor, Tracker, track_dataset
from fgvc_hf.data.dataset_tracking import track_job
from fgvc_hf.data.dataset_tracking.clip_sources import Clip
from fgvc_hf.data.dataset_tracking.source_kinds import open_source
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
