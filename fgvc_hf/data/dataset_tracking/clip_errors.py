"""What goes wrong with one clip, and what goes wrong with the job.

A clip that fails becomes a row with `error`, whatever was raised. The job ends for what no clip is to blame for: a machine that is full or
whose accelerator is lost, an interruption, and outside of the work on clips a checkpoint that is missing or a source that has changed.

| kind | what |
|---|---|
| `source` | the row or the file of the clip cannot be read: it is missing, damaged, or cannot be reached |
| `video` | there is none, or it cannot be decoded |
| `points`, `masks` | there are none, or they are not of the video |
| `time` | it took longer than the limit |
| `tracker` | anything else |
"""

import errno
import os
import re
from typing import TYPE_CHECKING

from ...io.json_files import reason_of
from ...io.text_files import one_line, printable


if TYPE_CHECKING:
    from ...tracker import Tracker


PASSING = ("source", "time", "tracker")  # kinds that another attempt at the same may not meet
OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
LONGEST = 1000  # characters of an error


class ClipError(Exception):
    """Why a clip has no tracks: a kind, and a sentence."""

    def __init__(self, kind: str, reason: object):
        super().__init__(reason)
        self.kind = kind


class LostDevice(OSError):
    """The accelerator of a process can no longer be used, by this process at least."""


def error_text(error: Exception, stage: str, file: str | None = None, name: str = "") -> str:
    """
    The `error` of the row of a clip, as `kind: sentence`.

    Args:
        error (`Exception`): What was raised.
        stage (`str`): What was done then: the kind of most errors of it.
        file (`str`, *optional*), name (`str`): Where the video is on this machine, and what the message calls it instead.

    Raises:
        The error itself, if it is not of the clip but of the machine.
    """
    if isinstance(error, OSError) and error.errno in OF_MACHINE:
        raise error
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: cannot be read ({error.strerror})."
    text = one_line(text if file is None else renamed(text, file, printable(name)))
    if not isinstance(error, ClipError | OSError | ValueError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{kind_of(error, stage)}: {text[:LONGEST]}"


def renamed(text: str, file: str, name: str) -> str:
    """A message that calls a file by another name. A path without a folder may be any word: it is one where a message begins, or in quotes."""
    before, after = r"(?:^|(?<=[\s'\"(\[]))", r"(?=[/\\]|\.?(?:[^\w.-]|$))"
    if not os.path.dirname(file):
        before, after = r"(?:^|(?<=['\"]))", r"(?=[/\\:'\"])"
    return re.sub(before + re.escape(file) + after, lambda _: name, text)


def kind_of(error: Exception, stage: str) -> str:
    """The kind of an error."""
    if isinstance(error, ClipError):
        return error.kind
    if isinstance(error, OSError) and error.errno is not None:
        return "source"  # of the system or the network; sentences about what a file holds have no number
    if stage == "tracker" and isinstance(error, OSError):
        return "video"  # frames are decoded while they are tracked
    return stage


def check_device(tracker: "Tracker") -> None:
    """A [`LostDevice`] if the accelerator of a tracker can no longer compute, as after an illegal access to its memory."""
    import torch

    device = tracker.model.device
    if device.type == "cpu":
        return
    try:
        torch.zeros(1, device=device).add(1).cpu()
    except Exception as error:
        raise LostDevice(f"{device} can no longer be used ({reason_of(error)}); the same command goes on.") from None


__all__ = ["PASSING", "ClipError", "LostDevice", "check_device", "error_text"]
