"""Options of a command stand before, between or after its other arguments."""

import argparse
import itertools

import pytest

from fgvc_hf.cli.main import build_parser


def commands():
    (action,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return action.choices


def words_of(command):
    """Arguments without a name, and all that must be given besides; one option of one value in any case."""
    words, options = [], [["--device", "cpu"]] if "--device" in command._option_string_actions else []
    for action in command._actions:
        if not action.option_strings:
            number = action.nargs if isinstance(action.nargs, int) else 1
            words += [[str(next(iter(action.choices or ["name"])))]] * number
        elif action.required:
            options.append([action.option_strings[0], "x"])
    for group in command._mutually_exclusive_groups:
        if group.required:
            options.append([group._group_actions[0].option_strings[0], "x"])
    return words, options


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_order_means_the_same(name):
    words, options = words_of(commands()[name])
    words = [[f"{word}{number}" if word == "name" else word] for number, (word,) in enumerate(words)]
    parser, found = build_parser(), []
    for order in itertools.permutations([*words, *options]):
        if [part for part in order if part in words] == words:
            found.append(vars(parser.parse_args([name, *itertools.chain.from_iterable(order)])))
    assert found and all(one == found[0] for one in found)


def test_a_word_too_much_is_refused_and_a_missing_one_too(capsys):
    for words in (["match", "a", "--device", "cpu"], ["track-dataset", "a", "--engine", "ray", "b", "c"]):
        with pytest.raises(SystemExit, match="2"):
            build_parser().parse_args(words)
    assert "unrecognized arguments: c" in capsys.readouterr().err


def test_names_that_begin_with_a_dash_follow_two_dashes():
    arguments = build_parser().parse_args(["track-dataset", "--points", "grid:2", "--", "-source", "-tracks"])
    assert (arguments.source, arguments.destination) == ("-source", "-tracks")
