"""The style of our docstrings, which is that of transformers, in the pages that mkdocstrings makes of them.

[`Name`] becomes a link to the API reference where it documents that name, and plain code elsewhere. Types lose their backticks, and what
the signature says anyway.
"""

import re

from fgvc_hf import _HOMES


REFERENCE = re.compile(r"\[<code>~?([\w.]+)</code>\]")
TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")


def on_page_content(html: str, **_) -> str:
    """Called by MkDocs with the HTML of each page; mkdocs-autorefs resolves the links."""
    return TYPE.sub(_plain_type, REFERENCE.sub(_link, html))


def _link(match: re.Match) -> str:
    name = match[1]
    home = _HOMES.get(name.partition(".")[0])  # `Tracker.track` is fgvc_hf.tracker.Tracker.track
    identifier = f"fgvc_hf.{home}.{name}" if home else name
    return f'<autoref identifier="{identifier}" optional><code>{name.rpartition(".")[2]}</code></autoref>'


def _plain_type(match: re.Match) -> str:
    text = re.sub(r", \*optional\*|, defaults to .*", "", match[1])
    text = re.sub(r"\[`~?([\w.]+)`\]", r"\1", text).replace("`", "")
    return f"<code>{text}</code>"
