"""Turn a finished training run into a checkpoint: weights, configuration, learning curve and model card.

    python scripts/write_card.py outputs/joint fgvc_hf/checkpoints/fgvc-joint --weights outputs/average --text card.json --preset balanced

`card.json` holds the text of the card: `summary`, `data`, `notes` and `results` (Markdown, with the commands). `--score STEP=VALUE` adds a score
that was measured after the run to its curve; `--results` adds result files of `fgvc-hf evaluate` on these weights.
"""

import argparse
import json
import sys
from pathlib import Path

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor
from fgvc_hf.hub.measured_results import measured_results
from fgvc_hf.hub.model_card import card_with_results
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.files import atomic_write, check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.training_card import draw_curves, read_log, training_card


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path, help="folder of the weights; default: RUN/last")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="settings that the checkpoint has by default")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--results", nargs="+", default=[], metavar="R.json", help="result files of fgvc-hf evaluate")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the configuration")
    parser.add_argument("--score", action="append", default=[], metavar="STEP=VALUE", help="delta_avg in per cent")
    arguments = parser.parse_args()
    try:
        check_outputs([arguments.output], [arguments.run, arguments.text, *arguments.results])
        write(arguments)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"error: {error}")


def write(arguments: argparse.Namespace) -> None:
    settings = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in arguments.set)}
    text = json.loads(arguments.text.read_text(encoding="utf-8"))
    folder = arguments.weights or arguments.run / "last"
    resizing, method = PRESETS[arguments.preset] if arguments.preset else ({}, {})
    model = FgvcModel.from_pretrained(folder, **method, **settings)
    model.save_pretrained(arguments.output)
    FgvcProcessor(FgvcImageProcessorPil(**resizing)).save_pretrained(arguments.output)
    updates, evaluations = read_log(arguments.run / "log.jsonl")
    for step, value in (pair.split("=", 1) for pair in arguments.score):
        evaluations.append({"step": int(step), "scores": {"delta_avg": float(value) / 100}})
    evaluations.sort(key=lambda entry: entry["step"])
    with atomic_write(arguments.output / "training.png") as path:
        draw_curves(updates, evaluations).save(path)
    card = training_card(
        arguments.output.name, text["summary"], text["data"], arguments.run, text["results"], text["notes"]
    )
    card = card_with_results(card, arguments.output.name, measured_results(arguments.results, model))
    with atomic_write(arguments.output / "README.md") as path:
        path.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
