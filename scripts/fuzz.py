"""Damage files of every kind that is read from strangers, read them, and count how that ends.

    python scripts/fuzz.py --cases 2000                            # of each kind; seconds to minutes
    python scripts/fuzz.py --kinds media --cases 20000 --seed 1
    python scripts/fuzz.py --case media:123 --keep FOLDER          # one case again, here; its files stay in FOLDER

A case is right if it is read, or refused by a `ValueError` or an `OSError` of one sentence. Every other end is a fault, which is printed with the
command that repeats it: another exception, a process that dies, more than 20 seconds, more than 2 GiB, or a video with fewer frames than before
where FFmpeg reports an error and nobody was told. The exit status is 1 if there was any. Cases run in forked processes, so this needs Linux.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fuzz_readers import Case, Library
from fuzz_runner import SECONDS, End, run_cases
from fuzz_seeds import KINDS


OUTCOMES = ("ok", "refused", "unclear", "shorter", "traceback", "hang", "crash", "memory")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # before any fork: threads do not survive it
    if arguments.case:
        kind, _, number = arguments.case.partition(":")
        run_one(Case(kind, arguments.seed, int(number)), arguments.keep)
        return
    counts = {
        kind: int(count or arguments.cases)
        for kind, _, count in (k.partition(":") for k in arguments.kinds.split(","))
    }
    library, faults = Library(tuple(counts)), 0
    print(f"{'':12s}" + "".join(f"{name:>10s}" for name in (*OUTCOMES, "ms/case", "most MiB")))
    for kind, count in counts.items():
        cases: list = [Case(kind, arguments.seed, number) for number in range(arguments.first, count)]
        began, ends = time.monotonic(), []
        for end in run_cases(cases, library.read, arguments.seconds):
            ends.append(end)
            faults += report(end)
        print(row(kind, ends, time.monotonic() - began), flush=True)
    sys.exit(int(faults > 0))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help=f"some of {', '.join(KINDS)}, each with a number of cases such as media:900; default: all",
    )
    parser.add_argument("--cases", type=int, default=500, help="of each kind; default: 500")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="start with case N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a case may take")
    parser.add_argument("--case", metavar="KIND:N", help="run one case in this process, with its traceback")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the files of this one case are written to")
    return parser.parse_args()


def run_one(case: Case, folder: Path | None) -> None:
    """One case in this process."""
    library = Library((case.kind,))
    name, files = library.files(case)
    for file, content in files.items() if folder else ():
        assert folder is not None
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    print(f"{case}: {name}")
    print(library.read(case))


def report(end: End) -> bool:
    """Print a fault; whether it is one."""
    if end.is_fault:
        assert isinstance(end.case, Case)
        again = f"--seed {end.case.seed} --case {end.case.kind}:{end.case.number}"
        print(f"\n{end.outcome}: {again} ({end.seconds:.1f} s)\n{end.text}", file=sys.stderr, flush=True)
    return end.is_fault


def row(kind: str, ends: list[End], seconds: float) -> str:
    counts = Counter(end.outcome for end in ends)
    numbers = [counts[name] for name in OUTCOMES] + [f"{1000 * seconds / max(1, len(ends)):.1f}"]
    most = max((end.mebibytes for end in ends), default=0)
    return f"{kind:12s}" + "".join(f"{number:>10}" for number in (*numbers, most))


if __name__ == "__main__":
    main()
