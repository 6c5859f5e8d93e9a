"""Upload a checkpoint to the Hub: weights, processor, and a card with measured numbers, licence and data; on request with its code.

    fgvc-hf evaluate tapvid --data DATA --split dev --checkpoint CHECKPOINT --output tapvid.json
    python scripts/push_to_hub.py CHECKPOINT user/name --results tapvid.json --with-code --dry-run FOLDER
    python scripts/push_to_hub.py CHECKPOINT user/name --results tapvid.json --with-code

The card is the README.md of CHECKPOINT, with the pictures that it shows. If there is none, --license and --data are needed. The second command
writes the folder that the third uploads; it needs neither network nor token.
"""

import argparse
import re
import shutil
import sys
from functools import partial
from pathlib import Path

from transformers.utils import logging

from fgvc_hf import Tracker, model_card
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.hub.repository import write_or_upload, write_repository
from fgvc_hf.io.checkpoints import resolve_checkpoint
from fgvc_hf.io.files import check_outputs
from fgvc_hf.kernels.process import clean_end


@clean_end()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name of a bundled checkpoint")
    parser.add_argument("repo_id", metavar="USER/NAME")
    parser.add_argument("--results", nargs="+", default=[], metavar="R.json", help="result files of fgvc-hf evaluate")
    parser.add_argument(
        "--license", metavar="L", help="licence of the weights, as the Hub names it, such as apache-2.0"
    )
    parser.add_argument("--data", metavar="TEXT", help="what the weights were trained on, and under which terms")
    parser.add_argument("--with-code", action="store_true", help="include the code, for trust_remote_code=True")
    parser.add_argument("--dry-run", metavar="FOLDER", help="write a new folder instead of uploading")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is new")
    parser.add_argument("--revision", metavar="BRANCH", help="upload to this branch")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", metavar="TEXT", help="commit message")
    arguments = parser.parse_args(argv)
    logging.disable_progress_bar()
    return print_result(partial(push, arguments))


def push(arguments: argparse.Namespace) -> str:
    """Write or upload the repository; the folder or the URL of the commit."""
    check_outputs([arguments.dry_run], [arguments.checkpoint, *arguments.results])
    return write_or_upload(
        partial(fill, arguments=arguments),
        arguments.repo_id,
        arguments.dry_run,
        private=arguments.private or None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
    )


def fill(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the repository into an empty folder."""
    source = Path(resolve_checkpoint(arguments.checkpoint))
    if not source.is_dir():
        raise ValueError(f"{arguments.checkpoint}: must be a folder or a bundled checkpoint.")
    card = read_card(source, arguments)
    tracker = Tracker.from_pretrained(source, device="cpu", dtype="float32")
    write_repository(tracker, folder, arguments.repo_id, card, arguments.results, arguments.with_code)
    for name in set(re.findall(r"!\[[^\]]*\]\(([\w.-]+)\)", card)):  # pictures beside the card
        shutil.copyfile(source / name, folder / name)


def read_card(source: Path, arguments: argparse.Namespace) -> str:
    """The checkpoint's card, or a new one from the arguments."""
    stated = arguments.license, arguments.data
    if (source / "README.md").is_file():
        if any(stated):
            raise ValueError(f"{source / 'README.md'}: is the card, and states licence and data; edit it instead.")
        return (source / "README.md").read_text(encoding="utf-8")
    if not all(stated):
        raise ValueError(f"{source}: has no README.md; give --license and --data, which its card must state.")
    return model_card(arguments.repo_id.rpartition("/")[2], *stated)


if __name__ == "__main__":
    sys.exit(main())
