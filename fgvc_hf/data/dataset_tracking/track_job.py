"""A job: which clips are tracked, by what and how. Engines do its work, and it can be pickled."""

import tempfile
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clip_sources import Clip, ClipSource
from .row_names import clip_id, digest
from .stored_files import join, stamp_of


if TYPE_CHECKING:
    from ...tracker import Tracker


@dataclass(frozen=True)
class Options:
    """What the tracks of a data set depend on, beside its clips.

    Args:
        points (`str`): `"grid:N"`, `"grid:ROWSxCOLUMNS"` or `"column:NAME"`.
        model (`str`): Checkpoint as it was named.
        revision (`str`): Commit of a Hub id, or the fingerprint of the weights of a bundled checkpoint or a folder.
        preset (`str`, *optional*), dtype (`str`, *optional*): As of [`Tracker.from_pretrained`].
        package (`str`): Version of this package.
    """

    points: str
    model: str
    revision: str
    preset: str | None
    dtype: str | None
    package: str


@dataclass(frozen=True)
class TrackJob:
    """
    Args:
        source ([`ClipSource`]): Where the clips are.
        options ([`Options`]): What tracks them.
        checkpoint (`str`): Folder or Hub id.
        commit (`str`, *optional*): Of a Hub id.
        device (`str`, *optional*): Where to run.
        time_limit (`float`, *optional*): Seconds for a clip.
    """

    source: ClipSource
    options: Options
    checkpoint: str
    commit: str | None = None
    device: str | None = None
    time_limit: float | None = None

    def name(self, clip: Clip) -> str:
        """The id of a clip's row."""
        return clip_id((clip.source, *clip.stamp[:1], clip.row, clip.start), asdict(self.options))

    def load_tracker(self) -> "Tracker":
        """The tracker.

        Raises:
            `OSError`: there are other weights on this machine than those that the job was started with.
        """
        from transformers.utils import logging

        from ...tracker import Tracker

        logging.disable_progress_bar()
        options = self.options
        tracker = Tracker.from_pretrained(self.checkpoint, options.preset, self.device, options.dtype, self.commit)
        if revision_of(tracker) != options.revision:
            raise OSError(f"{self.checkpoint}: holds other weights on this machine than where the run was started.")
        return tracker

    def rows(self, clips: Iterable[Clip], tracker: "Tracker") -> Generator[dict]:
        """The row of each clip.

        Raises:
            `OSError`: the source has changed, cannot be reached, or there is no room for a clip on this machine.
        """
        for clip in clips:
            path = join(self.source.root, clip.file)
            check_unchanged(path, clip)
            yield self._row(clip, tracker)
            check_unchanged(path, clip)

    def _row(self, clip: Clip, tracker: "Tracker") -> dict:
        from .clip_tracking import EMPTY, track_rows

        options, column = self.options, self.options.points.startswith("column:")
        names = {"model": options.model, "revision": options.revision, "preset": options.preset}
        names |= {"id": self.name(clip), "source": clip.source}
        with tempfile.TemporaryDirectory(prefix="fgvc-hf-clip-") as folder:
            try:
                content = self.source.read(clip, Path(folder))
            except FileNotFoundError as error:
                return EMPTY | names | {"error": f"video: {error}"}
            except ValueError as error:
                return EMPTY | names | {"error": f"points: {error}"}
            points = content.points if column else options.points
            row = {"video": content.video, "points": points, "frames": (clip.start, clip.stop), **names}
            return next(track_rows([row], tracker, self.time_limit))


def check_unchanged(path: str, clip: Clip) -> None:
    """An `OSError` if the file of a clip is another than when it was listed."""
    try:
        same = stamp_of(path) == clip.stamp
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: was in the source when it was listed, and is no longer there.") from None
    if not same:
        raise OSError(f"{path}: has changed while the source was read; start anew when nothing writes to it.")


def revision_of(tracker: "Tracker") -> str:
    """Commit of the Hub that a tracker was loaded from, or the fingerprint of its weights."""
    from ...hub.measured_results import weights_fingerprint

    commit = getattr(tracker.model.config, "_commit_hash", None)
    return commit or weights_fingerprint(tracker.model)[:40]


def described(clips: Iterable[Clip], source: str, options: Options, video: str | None) -> dict[str, Any]:
    """What a destination keeps of a run, to compare a later run with."""
    listed = [[clip.source, *clip.stamp] for clip in clips]
    return {"source": source, "video": video, **asdict(options), "clips": len(listed), "listing": digest(listed)}


__all__ = ["Options", "TrackJob", "check_unchanged", "described", "revision_of"]
