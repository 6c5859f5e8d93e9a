"""Writing: where may be written, and files and folders that appear complete, or not at all."""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .names import folded


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEMPORARY = ".fgvc-hf-"  # begins the names of temporary files and folders, so that nobody else's are taken for them


def local_path(path: str | os.PathLike, use: str = "read") -> Path:
    """A path on this machine.

    Args:
        path: Of a file or folder.
        use (`str`, defaults to `"read"`): `"read"` or `"written"`, what the message of an error says that it cannot be.

    Raises:
        `ValueError`: it is no path, is a URL, is empty, or has a null character.
        `OSError`: it is longer than the file system allows.
    """
    text = os.fspath(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise ValueError(f"{text}: is a URL; only files on this machine are read and written, so download it first.")
    if not text or "\0" in os.fsdecode(text):
        raise ValueError(f"a path must be the name of a file or folder, got {path!r:.200}.")
    found = Path(os.fsdecode(text))
    try:
        found.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(f"{found}: cannot be {use} ({error.strerror}).") from None
    return found


def check_writable(path: str | os.PathLike) -> Path:
    """The path, checked to be writable, so that a long computation does not end in an error.

    Raises:
        `OSError`: its folder does not exist or is not writable, or the path is a folder or a device.
        `ValueError`: it is a URL.
    """
    path = local_path(path, "written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: cannot be written, the folder {path.parent} does not exist.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written, it is a folder.")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: cannot be written, it is not an ordinary file.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: cannot be written, the folder {path.parent} is not writable.")
    return path


def check_outputs(outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None]) -> None:
    """
    Check, before there is any work, that no output overwrites an input or another output.

    Two paths are the same place if they lead to one file or folder, by links too, or if they differ in case only: many file systems
    ignore it.

    Args:
        outputs (iterable of paths): Files and folders that will be written; `None` is skipped.
        inputs (iterable of paths): Files and folders that will be read; `None` and what does not exist, such as a Hub id, is skipped.

    Raises:
        `ValueError`: an output is an input or another output, or lies in a folder that is one.
    """
    written = [local_path(path, "written") for path in outputs if path is not None]
    read = [Path(path) for path in inputs if path is not None and os.path.exists(path)]
    for number, output in enumerate(written):
        for other in written[:number]:
            if same_place(output, other):
                raise ValueError(f"{output}: is written twice; give each output a name of its own.")
            if lies_in(output, other) or lies_in(other, output):
                raise ValueError(
                    f"{output}: and {other} are outputs, one within the other; give them separate places."
                )
        for source in read:
            if same_place(output, source):
                raise ValueError(f"{output}: is an input, which would be overwritten; give the output another name.")
            if source.is_dir() and lies_in(output, source):
                raise ValueError(f"{output}: lies in {source}, which is an input; write to another folder.")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file or folder, or would on a file system that ignores case."""
    if a.exists() and b.exists() and os.path.samefile(a, b):
        return True
    return folded(os.path.realpath(a)) == folded(os.path.realpath(b))


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder, at any depth."""
    return any(same_place(parent, folder) for parent in Path(os.path.realpath(path)).parents)


def not_hidden(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without hidden ones such as the `._00000.png` that macOS leaves beside files on other systems."""
    return sorted(path for path in paths if not path.name.startswith("."))


@contextmanager
def atomic_write(path: str | os.PathLike) -> Generator[Path]:
    """
    A context manager: a temporary file beside `path` replaces it on success, and is deleted on an error.

    Yields:
        The temporary path to write to, with the suffix of `path`.

    Raises:
        `OSError`: the file cannot be written, for instance on a full disk.
    """
    path = check_writable(path)
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(_temporary_file(path))
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            if _is_of_another(error, path):
                raise
            raise OSError(f"{path}: cannot be written ({error.strerror}).") from None


def _is_of_another(error: OSError, path: Path) -> bool:
    """Whether an error is of another file than what is written to `path`, one that was read meanwhile: a sentence, or the system names it."""
    named = (
        os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    )  # or the number of an open file
    return error.errno is None or (named not in ("", str(path)) and TEMPORARY not in named)


@contextmanager
def _temporary_file(path: Path) -> Generator[Path]:
    """
    A hidden file beside `path`, deleted at the end. It has the same name every time, so that what a process that was killed left behind is
    overwritten by the next; and another name while a process that is alive writes to it, or where the file system has no locks to tell.
    """
    temporary = path.with_name(f"{TEMPORARY}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{path.suffix}")
    lock = _locked(temporary)
    if lock is None:
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
    finally:
        if lock is None or _leads_to(
            temporary, lock
        ):  # if not, it has become `path`, and another process may have the next of its name
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The descriptor of an empty file of this process alone; `None` if another one has it, or the file system has no locks."""
    if fcntl is None:
        return None
    try:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError:  # of another user, or a link
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _leads_to(path, lock):
            os.truncate(lock, 0)
            return lock
    except (BlockingIOError, PermissionError):  # of another process
        pass
    except OSError:  # without locks no process writes to a file of this name
        path.unlink(missing_ok=True)
    os.close(lock)
    return None


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether a file that is open is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of one of [`atomic_write`]: if nobody is writing, a process that was killed has left it behind."""
    named = re.fullmatch(re.escape(TEMPORARY) + r"[0-9a-f]{32}(\..+)?", path.name)
    return named is not None and path.is_file() and not path.is_symlink()


def check_place_of_folder(path: Path) -> None:
    """
    Check that a folder can be made at a path, or written to if it is there.

    Raises:
        `OSError`: its name cannot be, it is a file or a link to what does not exist, or the folder around it does not exist or is not writable.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # such as a name that is too long
        raise OSError(f"{path}: cannot be written ({error.strerror}).") from None
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: cannot be written, it is a link to what does not exist.")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path}: is a file; the destination must be a folder.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: cannot be written, the folder {path.parent} does not exist.")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise PermissionError(f"{path}: cannot be written, it is not writable.")


def check_new_folder(path: str | os.PathLike) -> Path:
    """The path of a folder that does not exist or is empty.

    Raises:
        `OSError`: it exists and is not an empty folder, or as of [`check_place_of_folder`].
    """
    path = local_path(path, "written")
    check_place_of_folder(path)
    if path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path}: exists already; give a new or an empty folder.")
    return path


@contextmanager
def growing_folder(path: str | os.PathLike) -> Generator[Path]:
    """
    A context manager: a new folder for files that are of use one by one. On an error, those finished stay; an empty folder does not.

    Yields:
        The folder.

    Raises:
        `OSError`: as of [`check_new_folder`].
    """
    path = check_new_folder(path)
    existed = path.exists()
    path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        if not existed and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def updated_folder(path: str | os.PathLike) -> Generator[Path]:
    """
    A context manager: a temporary folder becomes `path` on success; if there is one, its files take the places of those there, one by one.

    Every file is therefore whole at any moment, as in a folder of a model that is saved again and again.

    Yields:
        The temporary folder to write to, of files alone.
    """
    path = local_path(path, "written")
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir()
        yield temporary
        if not path.is_dir():
            os.replace(temporary, path)
        else:
            for file in temporary.iterdir():
                os.replace(file, path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Generator[Path]:
    """
    A context manager: a temporary folder becomes `path` on success, and is deleted on an error.

    Yields:
        The temporary folder to write to.

    Raises:
        `OSError`: `path` exists and is not an empty folder, or cannot be created.
    """
    path = check_new_folder(path)
    with ExitStack() as stack:
        try:
            owned = stack.enter_context(_temporary_file(path.absolute()))  # whose lock makes the name ours
            temporary = owned.with_name(f"{owned.stem}-folder")
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            if _is_of_another(error, path):
                raise
            raise OSError(f"{path}: cannot be written ({error.strerror}).") from None
