"""A drafted configuration as YAML with comments."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.draft.lines import Draft, Line

WIDTH = 110
# Text that YAML takes as it is; words such as `no` and numbers are put into quotes.
PLAIN = re.compile(r"(?:[A-Za-z/]|\.{1,2}/)[A-Za-z0-9_./-]*|\.{1,2}")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def draft_text(draft: Draft, file: Path) -> str:
    """The whole file."""
    lines = [
        f"# Written by `medseg new`, from what is in {draft.name}'s folder. Change what is wrong, then:",
        f"#   medseg ingest --check --config {file} --dataset {draft.name}",
        f"#   medseg run {file}",
    ]
    if draft.open:
        lines += ["#", "# Not decided, or not seen:"]
        for text in draft.open:
            lines += textwrap.wrap(_one_line(text), WIDTH, initial_indent="# - ", subsequent_indent="#   ")
    lines += ["", f"experiment: {scalar(draft.name)}", f"data_root: {scalar(draft.data_root)}", "", "datasets:"]
    lines += [f"  {scalar(draft.name)}:", f"    path: {scalar(draft.path)}"]
    for line in draft.dataset:
        lines += _written(line, "    ")
    for line in draft.study:
        lines += ["", *_written(line, "")]
    return "\n".join(lines) + "\n"


def _written(line: Line, indent: str) -> Iterator[str]:
    """The lines of a key: comments, then the key; one that is only offered is a comment, too."""
    if line.why:
        yield from textwrap.wrap(
            _one_line(line.why), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
    yield f"{indent}{'# ' if line.off else ''}{line.key}: {scalar(line.value)}"


def scalar(value: Any) -> str:
    """A value in YAML, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {scalar(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and value.lower() not in WORDS
        # JSON's strings are YAML's in double quotes.
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _one_line(text: str) -> str:
    """Text for a comment; what cannot be printed is shown as escapes."""
    return " ".join(text.split()) if text.isprintable() else ascii(text)[1:-1]
