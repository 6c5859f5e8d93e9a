"""What tests of tracked data sets look at: rows and files of a folder, and a run that is ended in its middle."""

from pyarrow.parquet import read_table

from fgvc_hf.data.dataset_tracking.track_job import TrackJob


def rows_in(folder):
    """Rows of the shards of a folder by their source; no id is there twice."""
    files = sorted(folder.glob("data-*.parquet"))
    rows = [row for file in files for row in read_table(file).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["source"]: row for row in rows}


def files_in(folder):
    """The bytes of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_after(monkeypatch, count, error):
    """Have the tracking of clips end with an error after some; the list of those that were begun."""
    original, done = TrackJob._row, []

    def row(self, clip, tracker):
        if len(done) == count:
            raise error
        done.append(clip.source)
        return original(self, clip, tracker)

    monkeypatch.setattr(TrackJob, "_row", row)
    return done
