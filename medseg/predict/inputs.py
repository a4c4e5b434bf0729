"""Which images a user means: files, patterns, folders of any format, tables, and layouts with a file per channel."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import ConfigError, DataError
from medseg.formats.table import stem_of, suffix_of
from medseg.predict.input import NUMBERED, Input, of_file
from medseg.predict.input_folders import of_folder, within
from medseg.predict.input_layouts import INPUT_LAYOUTS, of_table
from medseg.progress import say

TABLES = (".csv", ".tsv")


def find_inputs(
    words: Sequence[Path], channels: Sequence[str], out: Path, *, layout: str | None = None, series: str = ""
) -> list[Input]:
    """The images that a user means, in the order of the words.

    Args:
        words: files, patterns (``*``, ``?``, ``[...]``, ``**``), folders, tables (CSV or TSV).
        channels: names of the model's channels.
        out: folder of the predictions, which are no images to predict.
        layout: a row of ``INPUT_LAYOUTS``, by which the words are read; none: files are images. Then files that differ
            in an ending ``_0000``, ``_0001``, … or in the names of the channels, and are a complete set for a model of
            several channels, are one image.
        series: the series of DICOM folders that is wanted, if it was said.

    Raises:
        DataError: if something is not there, holds no image, or a layout's files are incomplete.
        ConfigError: if there is no such layout.
    """
    if layout is not None and layout not in INPUT_LAYOUTS:
        raise ConfigError(f"--layout {layout}: there is no such layout; there are {', '.join(INPUT_LAYOUTS)}")
    missing = [str(word) for word in words if not word.exists() and not glob.has_magic(str(word))]
    if missing:
        raise DataError(f"no such image: {', '.join(missing)}")
    if layout is not None:
        found = INPUT_LAYOUTS[layout](words, channels)
    else:
        folders = sum(word.is_dir() for word in words)
        named = [(word, list(_of_word(word, channels, out, series))) for word in words]
        # Of several folders, each has one of its own among the predictions.
        found = [_in_folder(word, one) if folders > 1 else one for word, inside in named for one in inside]
        found = _grouped(found, channels)
    # What a table says of one image comes first.
    return [one if one.series else replace(one, series=series) for one in found]


def _of_word(word: Path, channels: Sequence[str], out: Path, series: str) -> Iterable[Input]:
    if not word.exists():
        return _of_pattern(word, out, series)
    if word.is_dir():
        return of_folder(word, out, series)
    return of_table(word, channels) if suffix_of(word) in TABLES else [of_file(word)]


def _in_folder(word: Path, one: Input) -> Input:
    """An image in a folder that was named, its name with that of the folder; others as they are."""
    return replace(one, name=f"{word.name}/{one.name}") if word.is_dir() and one.files != (word,) else one


def _of_pattern(pattern: Path, out: Path, series: str) -> Iterator[Input]:
    """What a pattern matches; names have the folders below its fixed beginning."""
    parts = pattern.parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    found = [Path(p) for p in sorted(glob.glob(str(pattern), recursive=True)) if not within(Path(p), out)]
    # A pattern that ends in ** names folders beside all that is in them.
    found = [path for path in found if not (path.is_dir() and parts[-1] == "**")]
    if not found:
        raise DataError(f"no such image: {pattern} matches nothing; put the pattern right, or name a folder")
    for path in found:
        inside = of_folder(path, out, series) if path.is_dir() else [of_file(path)]
        for one in inside:
            above = path.parent.relative_to(root).as_posix()
            yield one if above == "." else replace(one, name=f"{above}/{one.name}")


def _grouped(found: list[Input], channels: Sequence[str]) -> list[Input]:
    """Images, files of one channel each that are complete sets for the model brought together."""
    if len(channels) < 2:
        return found
    groups: dict[tuple[Path, str, str, str], dict[str, Input]] = defaultdict(dict)
    for one in found:
        for kind, case, channel in _endings(one, channels):
            groups[one.files[0].parent, kind, case, suffix_of(one.files[0])][channel] = one
    joined: dict[Input, Input | None] = {}
    wanted = {"number": [f"{k:04d}" for k in range(len(channels))], "name": [name.casefold() for name in channels]}
    for (_, kind, _, _), parts in groups.items():
        members = [parts[c] for c in wanted[kind]] if set(wanted[kind]) == set(parts) else []
        if members and not any(one in joined for one in members):
            joined |= dict.fromkeys(members)
            joined[min(members, key=found.index)] = _together(members, _case(members[0], kind, channels))
    made = [one for one in joined.values() if one is not None]
    if made:
        names = ", ".join(file.name for file in made[0].files)
        say(f"predict: files are channels of one image, {len(made)} in all: {names} are {made[0].name}")
    return [one for one in (joined.get(one, one) for one in found) if one is not None]


def _endings(one: Input, channels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Ways in which a name may end in a channel: kind, the name before, the channel."""
    stem = stem_of(one.files[0])
    if match := NUMBERED.fullmatch(stem):
        yield "number", match["case"], match["channel"]
    for name in sorted({name.casefold() for name in channels}):
        if re.fullmatch(rf".+[_.-]{re.escape(name)}", stem.casefold()):
            yield "name", stem[: -len(name) - 1], name


def _case(one: Input, kind: str, channels: Sequence[str]) -> str:
    return next(case for found, case, _ in _endings(one, channels) if found == kind)


def _together(members: Sequence[Input], case: str) -> Input:
    """One image of several files, each with one channel."""
    above = members[0].name.rpartition("/")[0]
    return Input(tuple(one.files[0] for one in members), f"{above}/{case}" if above else case)
