"""The repository of a model on the Hub: weights, processor, a card with measured numbers and, on request, the code.

[`write_repository`] writes the folder, [`upload_repository`] uploads a folder in a single commit, [`push_to_hub`] does both. To upload a model
alone, without its numbers, use `model.push_to_hub("user/name")` of transformers.
"""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from ..io.files import atomic_folder
from .exporter import add_code
from .measured_results import measured_results
from .model_card import card_with_results, card_with_usage


def push_to_hub(
    tracker, repo_id: str, card: str, results: Iterable[str | Path] = (), with_code: bool = False, **upload
) -> str:
    """
    Upload a tracker's model and processor with a card that carries their measured numbers.

    Args:
        tracker ([`Tracker`]): The model and the processor; `Tracker(model, processor)` wraps what is loaded already.
        repo_id (`str`): `user/name`, or a name in one's own account.
        card, results, with_code: As of [`write_repository`].
        upload: `token`, `private`, `revision`, `create_pr`, `commit_message` and `commit_description`, as of [`upload_repository`].

    Returns:
        `str`: URL of the commit, or of the pull request.

    Raises:
        `ValueError`, `OSError`: As of [`write_repository`] and [`upload_repository`]. Nothing is uploaded then.
    """
    check_upload(repo_id, upload.get("token"))
    with tempfile.TemporaryDirectory() as folder:
        write_repository(tracker, folder, repo_id, card, results, with_code)
        return upload_repository(folder, repo_id, **upload)


def write_repository(
    tracker,
    folder: str | Path,
    repo_id: str,
    card: str,
    results: Iterable[str | Path] = (),
    with_code: bool = False,
) -> None:
    """
    Write everything that belongs in a model's repository.

    Args:
        tracker ([`Tracker`]): The model and the processor.
        folder: New or empty folder to write to. A new one appears once it is whole.
        repo_id (`str`): `user/name`, for the card.
        card (`str`): README in Markdown with a YAML header that states the licence, such as [`model_card`] makes.
        results (paths): Files that `fgvc-hf evaluate` has written; their numbers go into the card.
        with_code (`bool`, defaults to `False`): Whether the repository carries the code, so that it can be loaded with
            `trust_remote_code=True` where the package is not installed.

    Raises:
        `ValueError`: The card states no licence, or a result is no result or was measured on other weights.
        `OSError`: A result cannot be read, or the folder exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    text = card_with_results(card, repo_id.rpartition("/")[2], measured_results(results, tracker.model))
    empty = folder.is_dir() and not any(folder.iterdir())
    with nullcontext(folder) if empty else atomic_folder(folder) as written:
        tracker.model.save_pretrained(written)
        tracker.processor.save_pretrained(written)
        (written / "README.md").write_text(card_with_usage(text, repo_id, with_code), encoding="utf-8")
        if with_code:
            add_code(written)


def write_or_upload(
    write: Callable[[Path], None], repo_id: str | None, folder: str | Path | None = None, **upload
) -> str:
    """
    Upload what a function writes, or write it to a folder to be looked at.

    Args:
        write (callable): Writes a repository into an empty folder.
        repo_id (`str`, *optional*): `user/name`; not needed with `folder`.
        folder: New folder to write to, instead of an upload.
        upload: As of [`upload_repository`].

    Returns:
        `str`: The folder, or the URL of the commit.

    Raises:
        `ValueError`, `OSError`: As of the function and of [`upload_repository`], or the folder exists.
    """
    if folder is not None:
        with atomic_folder(folder) as temporary:
            write(temporary)
        return str(folder)
    if repo_id is None:
        raise ValueError("repo_id must be USER/NAME.")
    check_upload(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        return upload_repository(temporary, repo_id, **upload)


def check_upload(repo_id: str, token: str | bool | None = None) -> None:
    """Check before any work that the repository's name is valid and that there is a token.

    Raises:
        `ValueError`: The name is not accepted.
        `OSError`: There is no token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        accepted = "name or user/name, of letters, digits, '-', '_' and '.', at most 96 of them"
        raise ValueError(f"repo_id must be {accepted}, got {repo_id!r}.") from None
    if not (token if isinstance(token, str) else get_token()):
        raise OSError("there is no token for the Hub: run hf auth login, or set HF_TOKEN.")


def upload_repository(
    folder: str | Path,
    repo_id: str,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    space_sdk: str | None = None,
) -> str:
    """
    Upload a folder in one commit. The repository is created if it does not exist.

    Args:
        folder: As [`write_repository`] writes it.
        repo_id (`str`): `user/name`, or a name in one's own account.
        token, private, revision, create_pr, commit_message, commit_description: As of transformers' `push_to_hub`.
        space_sdk (`str`, *optional*): What a Space runs, such as `"gradio"`; the repository is one of a model if not given.

    Returns:
        `str`: URL of the commit, or of the pull request.

    Raises:
        `ValueError`, `OSError`: As of [`check_upload`], or the Hub cannot be reached or refuses.
    """
    check_upload(repo_id, token)
    api, kind = HfApi(token=token), "space" if space_sdk else "model"
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind, space_sdk=space_sdk).repo_id
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True, repo_type=kind)
        commit = api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or f"Upload {kind}",
            commit_description=commit_description,
        )
    except (HTTPError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OSError(f"{repo_id}: cannot be uploaded ({reason.strip().rstrip('.')}).") from None
    return commit.pr_url or commit.commit_url


__all__ = ["push_to_hub", "upload_repository", "write_repository"]
