"""Patterns of paths with placeholders, as in ``imgs/{case}.tif``: what files they match, and with which values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from medseg.errors import ConfigError
from medseg.formats.table import FORMATS

# Placeholder -> what it means, in the order of messages.
PLACEHOLDERS = {
    "case": "the name of a case, equal in image and mask",
    "subject": "whose case it is",
    "group": "a further part of the path that image and mask share",
    "split": "the same, for train and validation",
    "channel": "of images: one file per channel",
    "object": "of masks: one file per object",
    "class": "of masks: one file per class",
}
# Those that say which mask belongs to which image.
SHARED = ("split", "group", "subject", "case")
# Ends a pattern that takes any suffix of a format.
ANY_SUFFIX = ".*"

_PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of paths relative to the data set's folder.

    Attributes:
        text: as written. ``{case}`` stands for some text without "/", the same wherever it comes again;
            ``{split:train|val}`` for one of these, in which ``*`` stands for any text; ``*`` elsewhere for any text
            that does not matter; ``.*`` at the end for any suffix of a format.
        names: placeholders in it.
        expression: what ``text`` means.
        folders: whether it names folders (DICOM series), having no suffix.
    """

    text: str
    names: frozenset[str]
    expression: re.Pattern[str]
    folders: bool

    @classmethod
    def create(cls, text: str) -> Pattern:
        """Compile a pattern.

        Raises:
            ConfigError: if it leads out of the folder, or has an unknown placeholder or a brace without its partner.
        """
        path = PurePosixPath(text)
        if not text.strip() or path.is_absolute() or ".." in path.parts or "\\" in text:
            raise ConfigError(f"'{text}': expected a path inside the data set's folder, such as 'images/{{case}}.tif'")
        body = text.removeprefix("./").rstrip("/")
        any_suffix = body.endswith(ANY_SUFFIX)
        body = body.removesuffix(ANY_SUFFIX) if any_suffix else body
        parts, names, end = list[str](), list[str](), 0
        for match in _PLACEHOLDER.finditer(body):
            name, choices = match[1], match[2]
            if name not in PLACEHOLDERS:
                raise ConfigError(f"'{text}': no placeholder {{{name}}}; there are {_known()}")
            parts.append(_literal(text, body[end : match.start()]))
            parts.append(f"(?P={name})" if name in names else f"(?P<{name}>{_choices(choices)})")
            names.append(name)
            end = match.end()
        parts.append(_literal(text, body[end:]))
        if any_suffix:
            suffixes = sorted((s for s in FORMATS if s.startswith(".")), key=len, reverse=True)
            parts.append(f"(?i:{'|'.join(map(re.escape, suffixes))})")
        folders = not any_suffix and "." not in _PLACEHOLDER.sub("", body.rpartition("/")[2])
        return cls(text, frozenset(names), re.compile("".join(parts)), folders)

    def matches(self, paths: Iterable[str]) -> dict[str, dict[str, str]]:
        """Path -> values of the placeholders, of those paths that match; folders end with "/" and lose it."""
        found = {}
        for path in paths:
            match = self.expression.fullmatch(path.removesuffix("/"))
            if match is not None and (path.endswith("/") or not self.folders):
                found[path.removesuffix("/")] = match.groupdict()
        return found


def filled(pattern: str, values: Mapping[str, str]) -> str:
    """A pattern with values in place of its placeholders; those without a value stay as they are."""
    return _PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), pattern)


def _known() -> str:
    return ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def _literal(text: str, part: str) -> str:
    """An expression for what stands between placeholders; upper and lower case of a suffix at the end are one."""
    if "{" in part or "}" in part:
        raise ConfigError(f"'{text}': a brace without its partner; placeholders are written {_known()}")
    if "**" in part:
        fix = "write {group} for one folder, {subject}/{group} for two"
        raise ConfigError(f"'{text}': ** is no pattern here; {fix}")
    plain = "[^/]*".join(map(re.escape, part.split("*")))
    dot = plain.rfind("\\.")
    return plain if dot < 0 or "/" in plain[dot:] else f"{plain[:dot]}(?i:{plain[dot:]})"


def _choices(choices: str | None) -> str:
    """An expression for the values that a placeholder may have."""
    if choices is None:
        return "[^/]+?"
    return "|".join(re.escape(choice).replace("\\*", "[^/]*") for choice in choices.split("|"))
