"""A job: which clips are tracked, by what and how. Engines do its work, and it can be pickled."""

import json
import os
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...io.text_files import printable
from .clip_sources import Clip, ClipSource
from .row_names import clip_id, digest
from .run_options import Prompts, prompts_of
from .stored_files import ABSENT, content_of, join, real_place, stamp_of


if TYPE_CHECKING:
    from ...tracker import Tracker


@dataclass(frozen=True)
class Options:
    """What the tracks of a data set depend on, beside its clips.

    Args:
        points (`str`, *optional*), masks (`str`, *optional*): The place of what is followed, as of [`Prompts`]; of the other, `None`.
        model (`str`): Checkpoint as it was named.
        revision (`str`): Commit of a Hub id, or the fingerprint of the weights of a bundled checkpoint or a folder.
        settings (`str`): As of [`settings_of`].
        preset (`str`, *optional*), dtype (`str`, *optional*): As of [`Tracker.from_pretrained`].
        package (`str`): Version of this package.
    """

    points: str | None
    model: str
    revision: str
    settings: str
    preset: str | None
    dtype: str | None
    package: str
    masks: str | None = None


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

    @property
    def prompts(self) -> Prompts:
        return prompts_of(self.options.points, self.options.masks)

    def name(self, clip: Clip) -> str:
        """The id of a clip's row: of all that its tracks depend on but the time at which its file was written."""
        place = (clip.source, clip.stamp[0], clip.row, clip.start, clip.stop, *clip.place)
        options = asdict(self.options)
        if options["masks"] is None:
            del options["masks"]  # rows of points keep the names that they had before there were masks
        return clip_id(place, options)

    def load_tracker(self) -> "Tracker":
        """The tracker.

        Raises:
            `OSError`: the model on this machine is another than the one that the job was started with.
        """
        from transformers.utils import logging

        from ...tracker import Tracker

        logging.disable_progress_bar()
        options = self.options
        tracker = Tracker.from_pretrained(self.checkpoint, options.preset, self.device, options.dtype, self.commit)
        if (revision_of(tracker), settings_of(tracker)) != (options.revision, options.settings):
            raise OSError(f"{self.checkpoint}: is another model on this machine than where the run was started.")
        return tracker

    def rows(self, clips: Iterable[Clip], tracker: "Tracker") -> Generator[dict]:
        """The row of each clip.

        Raises:
            `OSError`: the source has changed or cannot be reached, there is no room for a clip on this machine, or its accelerator is lost.
        """
        for clip in clips:
            path = join(self.source.root, clip.file)
            check_unchanged(path, clip.stamp)
            row = self._row(clip, tracker)
            check_unchanged(path, clip.stamp)
            yield row

    def _row(self, clip: Clip, tracker: "Tracker") -> dict:
        from .clip_tracking import track_clip

        prompts = self.prompts
        stamps: dict[str, tuple[int, int]] = {}

        def read(folder: Path) -> dict[str, Any]:
            content = self.source.read(clip, folder)
            for file in (content.video, content.prompts):
                if isinstance(file, Path) and folder not in file.parents:  # not listed if a column has its path
                    stamps[str(file)] = stamp_of(str(file))
            given = content.prompts if prompts.column else prompts.place
            return {"video": content.video, prompts.kind: given, "frames": (clip.start, clip.stop)}

        found = track_clip(read, tracker, self.time_limit, clip.source, prompts.kind)
        for path, stamp in stamps.items():
            check_unchanged(path, stamp)
        names = {name: getattr(self.options, name) for name in ("model", "revision", "preset")}
        return {"id": self.name(clip), "source": clip.source} | found | names


def check_unchanged(path: str, before: tuple[int, int]) -> None:
    """An `OSError` if a file of the source has another stamp than before."""
    stamp = stamp_of(path)
    if stamp == before:
        return
    if stamp == ABSENT:
        raise FileNotFoundError(f"{printable(path)}: was in the source when it was listed, and is no longer there.")
    raise OSError(f"{printable(path)}: has changed while the source was read; start anew when nothing writes to it.")


def revision_of(tracker: "Tracker") -> str:
    """Commit of the Hub that a tracker was loaded from, or the fingerprint of its weights."""
    from ...hub.measured_results import weights_fingerprint

    commit = getattr(tracker.model.config, "_commit_hash", None)
    return commit or weights_fingerprint(tracker.model)[:40]


def settings_of(tracker: "Tracker") -> str:
    """A digest of how a tracker uses its weights: of its configuration, and of how it prepares frames."""
    config = tracker.model.config
    fields = {name: getattr(config, name) for name in type(config).__annotations__}
    return digest(json.loads(json.dumps([fields, tracker.processor.image_processor.to_dict()], default=str)))


def described(
    clips: Iterable[Clip], opened: ClipSource, options: Options, video: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a destination keeps of a run, to compare a later run with, and a digest of each clip by its name: of its place, and of the content
    of its file, whatever the time of that; `""` if that cannot be read."""
    source = real_place(opened.path)
    file = os.path.basename(source) if os.path.isfile(source) else None  # by whatever link it was given
    contents: dict[str, str | None] = {}
    listed = {}
    for clip in clips:
        if clip.file not in contents:
            contents[clip.file] = content_of(join(opened.root, clip.file))
        same = replace(clip, file=file or clip.file, stamp=(clip.stamp[0], 0))
        content = contents[clip.file]
        listed[clip.source] = "" if content is None else digest([same.to_json(), content])
    run = {"source": source, "video": video, **asdict(options), "clips": len(listed)}
    return run | {"listing": digest(list(listed.items()))}, listed


__all__ = ["Options", "TrackJob", "check_unchanged", "described", "revision_of", "settings_of"]
