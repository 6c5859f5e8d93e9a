"""Text in messages: names as they are, on one line."""

import pytest

from fgvc_hf.io.json_files import reason_of
from fgvc_hf.io.text_files import cut, one_line, printable


@pytest.mark.parametrize(
    "name", ["a  b.mp4", "\u3000全角.mp4", "a\u202fb", "\u00a0x", "👩\u200d👧.mp4", "späť\u00ad", " a"]
)
def test_names_are_printed_as_they_are(name):
    assert printable(name) == name
    assert f"'{name}'" in one_line(f"'{name}': no")


@pytest.mark.parametrize(
    "one", ["\n", "\r", "\x1b", "\x85", "\u2028", "\u2029", "\u202e", "\u2067", "\u200f", "\udcff", "\0"]
)
def test_what_would_change_the_line_is_escaped(one):
    assert printable(f"a{one}b") == f"a{one.encode('unicode_escape').decode()}b"


def test_lines_become_one():
    assert one_line("a:\n\n   b  c \r\n d\x1b") == "a: b  c d\\x1b"


@pytest.mark.parametrize(("shorten", "longest"), [(cut, 60), (lambda text: reason_of(ValueError(text)), 200)])
def test_text_that_is_too_long_ends_in_dots_and_other_text_is_whole(shorten, longest):
    text = "".join(chr(ord("a") + i % 26) for i in range(longest + 1))
    assert shorten(text[:-1]) == text[:-1] and shorten(text) == f"{text[: longest - 3]}..."
