"""Paths of a folder as patterns: files whose names have something in common, and what differs between them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from medseg.formats.table import FORMATS, suffix_of
from medseg.ingest.layouts.found import OVERLOOKED
from medseg.ingest.layouts.words import is_derived, is_image, part_of, rank, tokens

# Files and folders per folder that are looked at: enough to see what is repeated.
FILES_SEEN, FOLDERS_SEEN = 400, 60
# Folders below one another that are looked at.
DEPTH = 5
# Pieces of a name that an ending or a beginning may have.
PIECES = 8
# Images that no reader has a row for, so that the message is about them and not about a layout.
FOREIGN = frozenset((".bmp", ".gif", ".jpg", ".jpeg", ".ppm", ".pgm", ".czi", ".nd2", ".lif", ".lsm", ".svs"))
# What slices of a DICOM series are called, besides names without any suffix.
SLICES = frozenset([".dcm", ".ima", ""])


@dataclass(frozen=True, slots=True)
class Unit:
    """A file, or a folder of DICOM slices, in a data set's folder.

    Attributes:
        path: relative to it.
        folders: of the path.
        stem, suffix: of the last name; a folder has no suffix.
        part: which part of the data set it belongs to by its folders: training, validation, test or nothing.
    """

    path: str
    folders: tuple[str, ...]
    stem: str
    suffix: str
    part: str


@dataclass(frozen=True, slots=True)
class Template:
    """A pattern without its suffix, and what is called like it.

    Attributes:
        text: the pattern.
        rank: how surely its fixed parts say that these are label maps, see ``words.rank``; -1: neither maps nor images.
        units: values of the placeholders -> files.
    """

    text: str
    rank: int
    units: dict[tuple[str, ...], list[Unit]] = field(compare=False, hash=False)

    @property
    def variables(self) -> int:
        """Placeholders in it."""
        return self.text.count("{")


def find_units(root: Path) -> Iterator[Unit]:
    """Files (and folders) with a suffix of an image format, and folders that hold slices; of many in a folder, some."""
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place).relative_to(root)
        folders[:] = sorted(name for name in folders if _counts(name) and _plain(name))[:FOLDERS_SEEN]
        files = [name for name in folders if suffix_of(Path(name)) in FORMATS]
        folders[:] = [name for name in folders if name not in files]
        if len(here.parts) >= DEPTH:
            folders[:] = []
        files += sorted(name for name in names if _counts(name))
        suffixes = {suffix_of(Path(name)) for name in files}
        if here.parts and files and all(_is_slice(suffix) for suffix in suffixes):
            yield _unit(here.parent, here.name, "")
        for name in files[:FILES_SEEN]:
            suffix = suffix_of(Path(name))
            # The word in .seg.nrrd is one of the name's.
            suffix = Path(name.lower()).suffix if rank(suffix) else suffix
            if (suffix in FORMATS or suffix in FOREIGN) and _plain(name):
                yield _unit(here, name[: len(name) - len(suffix)], name[len(name) - len(suffix) :])


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in OVERLOOKED


def _plain(name: str) -> bool:
    """Whether a name means itself in a pattern."""
    return not set(name) & set("{}*\\")


def _unit(folder: Path, stem: str, suffix: str) -> Unit:
    path = (folder / f"{stem}{suffix}").as_posix()
    parts = [part for name in folder.parts if (part := part_of(name))]
    return Unit(path, folder.parts, stem, suffix, parts[0] if parts else "")


def _is_slice(suffix: str) -> bool:
    return suffix in SLICES or suffix[1:].isdigit()


def templates_of(units: Sequence[Unit]) -> list[Template]:
    """Every way to write each path as a pattern, and all paths that share one."""
    common = _common_folders(units)
    endings = _endings(units)
    varying = _varying(units)
    groups: dict[tuple[str, int], dict[tuple[str, ...], list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        for folders, values, literal in _folder_ways(unit, varying):
            for name, case, ending in _name_ways(unit, endings[_family(unit)], bool(values)):
                sure = _sureness([*literal[common:], ending])
                text = "/".join((*folders, name))
                if "{case}" not in text:
                    # The folder is the case.
                    text = text.replace("{group}", "{case}")
                groups[text, sure][(*values, *case)].append(unit)
    return [Template(text, sure, dict(found)) for (text, sure), found in groups.items() if "{case}" in text]


def _sureness(literal: Sequence[str]) -> int:
    """The rank of a path's fixed parts as one of masks; -1 for what was made from others (outlines, overlays)."""
    sure = max((rank(text) for text in literal), default=0)
    return -1 if not sure and any(is_derived(text) for text in literal) else sure


def _common_folders(units: Sequence[Unit]) -> int:
    """How many folders all paths begin with: their names say nothing of the single file."""
    first = units[0].folders
    while any(unit.folders[: len(first)] != first for unit in units):
        first = first[:-1]
    return len(first)


def _family(unit: Unit) -> tuple[str, str]:
    """Files whose names are compared: those of a folder with one suffix; of folders that hold few, of all."""
    return "/".join(unit.folders), unit.suffix.lower()


def _endings(units: Sequence[Unit]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Of each family, the beginnings and endings that names share, or that are a word for images or masks."""
    families: dict[tuple[str, str], list[str]] = defaultdict(list)
    for unit in units:
        families[_family(unit)].append(unit.stem)
    # Of folders with a case each, endings are shared between the folders.
    everywhere = Counter(affix for names in families.values() for stem in names for affix in _affixes(stem))
    known = {}
    for family, names in families.items():
        counts = Counter(affix for stem in names for affix in _affixes(stem))
        known[family] = {
            affix
            for affix, count in counts.items()
            if count > 1
            or rank("".join(affix))
            or is_image("".join(affix))
            or (len(names) < 9 and everywhere[affix] > 1)
        }
    return known


def _affixes(stem: str) -> set[tuple[str, str]]:
    """What a name may begin or end with beside the name of the case: (beginning, "") or ("", ending)."""
    pieces = tokens(stem)
    ends = {("", "".join(pieces[k:])) for k in range(max(1, len(pieces) - PIECES), len(pieces))}
    starts = {("".join(pieces[:k]), "") for k in range(1, min(PIECES, len(pieces)))}
    return {affix for affix in ends | starts if _says_something("".join(affix))}


def _says_something(affix: str) -> bool:
    """An ending of digits alone numbers cases, but for channels as nnU-Net writes them."""
    return any(c.isalpha() for c in affix) or (affix[:1] in "_-" and len(affix) == 5 and affix[1:3] == "00")


def _varying(units: Sequence[Unit]) -> set[tuple[str, ...]]:
    """Folders that hold several folders alike, so that the name below them may be a case, a subject, a group."""
    below: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for unit in units:
        for k in range(len(unit.folders)):
            below[unit.folders[:k]].add(unit.folders[k])
    return {folder for folder, names in below.items() if len(names) > 1}


def _folder_ways(
    unit: Unit, varying: set[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Each way to write the folders: (names with placeholders, values, what stays literal of each)."""
    ways: list[list[tuple[str, str, str]]] = []
    for k, name in enumerate(unit.folders):
        options = [(name, "", name)]
        if part_of(name) and len(tokens(name)) == 1:
            options.append(("{split}", name, ""))
        elif rank(name) or is_image(name):
            pieces = tokens(name)
            digits = [i for i, piece in enumerate(pieces) if piece.isdigit()]
            if digits and digits[-1] > 0:
                place = digits[-1]
                before, after = "".join(pieces[:place]), "".join(pieces[place + 1 :])
                options.append((f"{before}{{group}}{after}", pieces[place], before + after))
        elif unit.folders[:k] in varying:
            options.append(("{group}", name, ""))
        ways.append(options)
    for chosen in product(*ways):
        names = tuple(name for name, _, _ in chosen)
        if sum("{group}" in name for name in names) <= 1:
            yield names, tuple(value for _, value, _ in chosen if value), tuple(rest for _, _, rest in chosen)


def _name_ways(
    unit: Unit, endings: Iterable[tuple[str, str]], in_folder: bool
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each way to write a name: (name with placeholder, its value, what stays literal)."""
    yield "{case}", (unit.stem,), ""
    for start, end in endings:
        if unit.stem.startswith(start) and unit.stem.endswith(end):
            core = unit.stem[len(start) : len(unit.stem) - len(end)]
            # Separators belong to what stays, so that cases have one name in images and masks.
            if core and core == core.strip("_-. "):
                yield f"{start}{{case}}{end}", (core,), start + end
    if in_folder:
        yield unit.stem, (), unit.stem
