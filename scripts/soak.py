"""Programs that are killed, a demo under load, and a live session that lasts.

    python scripts/soak.py kills --kills 100 --programs train         # kill -9 at random moments; the end must be bit-equal
    python scripts/soak.py kills --kills 20 --programs track propagate evaluate prepare
    python scripts/soak.py demo --minutes 10                          # 50 users and 8 strangers with hostile calls
    python scripts/soak.py live --minutes 60                          # 480x640, 8 points and a mask
    python scripts/soak.py live --minutes 60 --fps 2                  # as a camera that gives two frames a second

Each prints what it has seen, and ends with status 1 where that is not as it must be. Linux only: programs are forks of this process, and memory is
read from /proc.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs = parser.add_subparsers(required=True, metavar="RUN")
    kills = runs.add_parser("kills", help="kill programs that write")
    kills.add_argument("--programs", nargs="+", default=["train", "track", "propagate", "evaluate", "prepare"])
    kills.add_argument("--kills", type=int, default=20, help="of each")
    kills.add_argument("--seed", type=int, default=0)
    kills.set_defaults(run=run_kills)
    demo = runs.add_parser("demo", help="the demo under load")
    demo.add_argument("--minutes", type=float, default=10)
    demo.add_argument("--users", type=int, default=50)
    demo.set_defaults(run=run_demo)
    live = runs.add_parser("live", help="a live session")
    live.add_argument("--minutes", type=float, default=60)
    live.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    live.add_argument("--fps", type=float, help="rate of the camera; default: as fast as frames are tracked")
    live.add_argument("--checkpoint", help="default: the bundled one")
    live.add_argument("--preset", help="of the tracker, such as fast")
    live.set_defaults(run=run_live)
    arguments = parser.parse_args()
    sys.exit(int(not arguments.run(arguments)))


def run_kills(arguments: argparse.Namespace) -> bool:
    from kills import kill_often, writers

    torch.set_num_threads(1)  # before any fork
    with tempfile.TemporaryDirectory(prefix="fgvc-soak-") as place:
        known = writers(Path(place) / "inputs")
        for name in arguments.programs:
            done, ends = kill_often(known[name], arguments.kills, Path(place), arguments.seed)
            print(f"{name:10s} {done} kills, {ends} runs to the end, all bit-equal", flush=True)
    return True


def run_demo(arguments: argparse.Namespace) -> bool:
    from long_runs import demo

    with tempfile.TemporaryDirectory(prefix="fgvc-soak-") as place:
        seen = demo(60 * arguments.minutes, Path(place), arguments.users)
    print(seen)
    answered = sum(count for end, count in seen["ends"].items() if end not in ("hostile", "refused"))
    return seen["ends"].get("right", 0) >= 0.99 * answered


def run_live(arguments: argparse.Namespace) -> bool:
    from long_runs import live

    from fgvc_hf import Tracker

    tracker = Tracker.from_pretrained(arguments.checkpoint, preset=arguments.preset)
    seen = live(60 * arguments.minutes, *arguments.size, tracker=tracker, fps=arguments.fps)
    print({name: round(value, 4) for name, value in seen.items()})
    return seen["last_seconds"] < 1.2 * seen["first_seconds"] and seen["last_mib"] < seen["first_mib"] + 32


if __name__ == "__main__":
    main()
