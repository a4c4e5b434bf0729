"""Which images a user means: files, patterns, folders of any format, tables, and layouts with a file per channel."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.formats.content import kind_of
from medseg.formats.table import FORMATS, class_map, label_suffix, stem_of, suffix_of
from medseg.ingest.layouts.bids import images_of
from medseg.ingest.layouts.dsb2018 import image_folders
from medseg.ingest.layouts.found import HEADERS, LITTER, visible
from medseg.ingest.layouts.table import image_columns, row_faults, spacing_of
from medseg.ingest.layouts.words import is_derived, rank
from medseg.ingest.tables import read_table
from medseg.progress import say

TABLES = (".csv", ".tsv")
# What slices of a DICOM series are called, besides names without any suffix and numbers.
SLICES = (".dcm", ".ima", "")
# Names that one message lists.
SHOWN = 5
# How nnU-Net calls a file of one channel.
NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")


@dataclass(frozen=True, slots=True)
class Input:
    """One image to predict.

    Attributes:
        files: one file or folder with all channels, or one per channel.
        name: of its prediction, without a suffix; with the folders below the one that was named.
        series: which series of a DICOM folder is wanted; empty: the only one.
        spacing: micrometres per axis of files without a header, where a table says it.
    """

    files: tuple[Path, ...]
    name: str
    series: str = ""
    spacing: tuple[float, ...] | None = None

    @property
    def shown(self) -> str:
        """How messages call it."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0]}{more}"

    def labels(self, out: Path) -> Path:
        """Its label map in the folder ``out``, in the format of the image."""
        first = self.files[0]
        # What is no format is reported when it is read.
        known = first.is_dir() or suffix_of(first) in FORMATS
        return out / f"{self.name}{label_suffix(first) if known else suffix_of(first)}"

    def classes(self, out: Path) -> Path:
        """Where the classes of its objects go, if there are several."""
        return class_map(self.labels(out))


def of_file(path: Path) -> Input:
    """A file or folder as an image of that name."""
    return Input((path,), path.name if path.is_dir() and suffix_of(path) not in FORMATS else stem_of(path))


def find_inputs(
    words: Sequence[Path], channels: Sequence[str], out: Path, *, layout: str | None = None, series: str = ""
) -> list[Input]:
    """The images that a user means, in the order of the words.

    Args:
        words: files, patterns (``*``, ``?``, ``[...]``, ``**``), folders, tables (CSV or TSV).
        channels: names of the model's channels.
        out: folder of the predictions, which are no images to predict.
        layout: a row of ``INPUT_LAYOUTS``, by which each word is read; none: files are images. Then files that differ
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
        found = [one for word in words for one in INPUT_LAYOUTS[layout](word, channels)]
    else:
        found = _grouped([one for word in words for one in _of_word(word, channels, out, series)], channels)
    # What a table says of one image comes first.
    return [one if one.series else replace(one, series=series) for one in found]


def _of_word(word: Path, channels: Sequence[str], out: Path, series: str) -> Iterable[Input]:
    if not word.exists():
        return _of_pattern(word, out, series)
    if word.is_dir():
        return _of_folder(word, out, series)
    return _of_table(word, channels) if suffix_of(word) in TABLES else [of_file(word)]


def _of_pattern(pattern: Path, out: Path, series: str) -> Iterator[Input]:
    """What a pattern matches; names have the folders below its fixed beginning."""
    parts = pattern.parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    found = [Path(p) for p in sorted(glob.glob(str(pattern), recursive=True)) if not _within(Path(p), out)]
    # A pattern that ends in ** names folders beside all that is in them.
    found = [path for path in found if not (path.is_dir() and parts[-1] == "**")]
    if not found:
        raise DataError(f"no such image: {pattern} matches nothing; put the pattern right, or name a folder")
    for path in found:
        inside = _of_folder(path, out, series) if path.is_dir() else [of_file(path)]
        for one in inside:
            above = path.parent.relative_to(root).as_posix()
            yield one if above == "." else replace(one, name=f"{above}/{one.name}")


def _of_folder(folder: Path, out: Path, series: str) -> list[Input]:
    """The images below a folder: one by itself (a DICOM series, a format of folders), or all that are in it.

    Raises:
        DataError: if there is none.
    """
    if suffix_of(folder) in FORMATS:
        return [of_file(folder)]
    others: list[Path] = []
    paths = list(_images_below(folder, out, others))
    if not paths:
        raise DataError(_nothing_in(folder, others))
    _say_left_out(folder, others, "no format of images is called so")
    masks = _masks(folder, paths)
    if masks and len(masks) < len(paths):
        _say_left_out(folder, masks, "called like label maps, and others are not (name them to take them)")
        paths = [path for path in paths if path not in masks]
    if all(path.is_dir() and suffix_of(path) not in FORMATS for path in paths) and _one_series(paths, series):
        return [of_file(folder)]
    return [_below(folder, path) for path in paths]


def _say_left_out(folder: Path, paths: Sequence[Path], why: str) -> None:
    if paths:
        names = ", ".join(str(path.relative_to(folder)) for path in paths[:SHOWN])
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        say(f"predict: left out of {folder}: {names}{more}: {why}")


def _masks(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Those of the images in a folder that are called like label maps: ``masks/a``, ``a_mask`` beside ``a``."""
    stems: dict[Path, list[str]] = defaultdict(list)
    for path in paths:
        stems[path.parent].append(stem_of(path))
    return [path for path in paths if _is_mask(path, path.relative_to(folder).parent.parts, stems[path.parent])]


def _is_mask(path: Path, folders: Sequence[str], beside: Sequence[str]) -> bool:
    stem = stem_of(path)
    endings = [stem[len(other) :] for other in beside if other != stem and stem.startswith(other)]
    return any(rank(name) or is_derived(name) for name in (*folders, *endings))


def _below(folder: Path, path: Path) -> Input:
    """An image in a folder, its name with the folders between them."""
    one, above = of_file(path), path.parent.relative_to(folder).as_posix()
    return one if above == "." else replace(one, name=f"{above}/{one.name}")


def _images_below(folder: Path, out: Path, others: list[Path]) -> Iterator[Path]:
    """Files and folders below ``folder`` that are images, sorted; visible files that are none go into ``others``."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        # Links may lead around in a circle.
        real = os.path.realpath(here)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _counts(name) and not _within(here / name, out))
        for name in [name for name in folders if suffix_of(Path(name)) in FORMATS]:
            folders.remove(name)
            yield here / name
        files = sorted(here / name for name in names if _counts(name))
        slices = [path for path in files if _is_slice(path)]
        if slices and not _are_volumes(slices):
            folders[:] = []
            yield here
            continue
        yield from slices
        headers = {stem_of(path) for path in files if suffix_of(path) in HEADERS}
        for path in [path for path in files if path not in slices]:
            if suffix_of(path) in FORMATS:
                yield path
            elif path.stem not in headers and path.name.partition(".")[0] not in headers:
                others.append(path)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in LITTER and name.casefold() != "dicomdir"


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_slice(path: Path) -> bool:
    """Whether a file is DICOM: by its name a slice may be anything, so its first bytes decide."""
    suffix = suffix_of(path)
    if suffix not in SLICES and not suffix[1:].isdigit():
        return False
    return suffix == ".dcm" or _kind(path) == "DICOM"


def _kind(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(512))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from None


def _header(path: Path) -> Any:
    """Series and number of frames of a DICOM file; an empty header if it is none, which reading it reports."""
    import pydicom

    try:
        tags = ["SeriesInstanceUID", "NumberOfFrames"]
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=False)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, TypeError):
        return pydicom.Dataset()


def _are_volumes(slices: Sequence[Path]) -> bool:
    """Whether the DICOM files of a folder are volumes of their own: each has many frames and another series."""
    if len(slices) < 2:
        return False
    first, second = _header(slices[0]), _header(slices[1])
    many = all(int(header.get("NumberOfFrames") or 1) > 1 for header in (first, second))
    return many and first.get("SeriesInstanceUID") != second.get("SeriesInstanceUID")


def _one_series(folders: Sequence[Path], series: str) -> bool:
    """Whether folders of slices are one series that lies in parts, or one was named, which finds its own files."""
    if len(folders) == 1 or series:
        return True
    firsts = [
        next(path for path in sorted(folder.iterdir()) if path.is_file() and _is_slice(path)) for folder in folders
    ]
    found = {str(_header(path).get("SeriesInstanceUID")) for path in firsts}
    return len(found) == 1 and found != {"None"}


def _nothing_in(folder: Path, others: Sequence[Path]) -> str:
    kinds = sorted({path.suffix or path.name for path in others})
    what = f"{len(others)} other files ({', '.join(kinds[:SHOWN])})" if others else "no files"
    return f"{folder}: no image in it or below it, but {what}; name a folder of images or of DICOM slices"


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


def _of_table(path: Path, channels: Sequence[str]) -> list[Input]:
    """The images that a table lists: columns ``case`` and ``image``, or one column per channel.

    The columns are those of the layout of that name; labels and subjects do not matter.
    """
    header, rows = read_table(path)
    columns = image_columns(header, channels)
    causes = [] if columns else ["no column 'image', nor one per channel (image_1, image_2, …)"]
    causes += [] if "case" in header else ["no column 'case'"]
    causes += [
        f"line {number}: {cause}" for number, row in enumerate(rows, start=2) for cause in row_faults(row, columns)
    ]
    cases = [row.get("case", "") for row in rows]
    causes += [f"case '{case}' is there twice" for case in sorted({c for c in cases if cases.count(c) > 1})]
    if not rows:
        causes.append("no rows")
    if causes:
        shown = "; ".join(causes[:SHOWN]) + (f"; and {len(causes) - SHOWN} more" if len(causes) > SHOWN else "")
        raise DataError(f"{path}: {shown}; correct the table (docs/predict.md)")
    found = []
    for row in rows:
        files = tuple(path.parent / row[column] for column in columns)
        spacing = spacing_of(row["spacing"]) if row.get("spacing") else None
        found.append(Input(files, row["case"].replace("/", "-"), row.get("series", ""), spacing))
    missing = [str(file) for one in found for file in one.files if not file.exists()]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DataError(f"{path}: lists files that are not there: {', '.join(missing[:SHOWN])}{more}")
    return found


def _nnunet(word: Path, channels: Sequence[str]) -> list[Input]:
    """A folder of ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, …, or nnU-Net's raw folder, whose ``imagesTs`` counts."""
    folder = _part(word, "imagesTs")
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    causes = []
    for path in _files(folder):
        match = NUMBERED.fullmatch(stem_of(path))
        if match is None:
            causes.append(f"{path.name} has no number of a channel at its end")
            continue
        cases[match["case"]][match["channel"]] = path
    wanted = [f"{k:04d}" for k in range(len(channels))]
    for case, files in cases.items():
        lacks = [f"_{number} ({channels[int(number)]})" for number in wanted if number not in files]
        more = [f"_{number}" for number in files if number not in wanted]
        causes += [f"{case} has no {', '.join(lacks)}"] if lacks else []
        causes += [f"{case} has {', '.join(more)}, beyond the model's {len(wanted)} channels"] if more else []
    if causes or not cases:
        shown = "; ".join(causes[:SHOWN]) + (f"; and {len(causes) - SHOWN} more" if len(causes) > SHOWN else "")
        fix = "the nnunet layout has a file CASE_0000, CASE_0001, … per channel; or leave out --layout"
        raise DataError(f"{folder}: {shown or 'no image'}; {fix}")
    return [Input(tuple(files[number] for number in wanted), case) for case, files in sorted(cases.items())]


def _decathlon(word: Path, channels: Sequence[str]) -> list[Input]:
    """The files of ``imagesTs``, all channels in one."""
    return _some(word, [of_file(path) for path in _files(_part(word, "imagesTs"))], "imagesTs/")


def _pairs(word: Path, channels: Sequence[str]) -> list[Input]:
    """The files of ``images``."""
    return _some(word, [of_file(path) for path in _files(_part(word, "images"))], "images/")


def _dsb2018(word: Path, channels: Sequence[str]) -> list[Input]:
    """``ID/images/ID.png``, whatever lies in ``ID/masks``."""
    found = [Input((word / files[0],), case) for case, files in image_folders(word).items()]
    return _some(word, found, "ID/images/")


def _bids(word: Path, channels: Sequence[str]) -> list[Input]:
    """``sub-XX/…/*_T2w.nii.gz``; the model's channels are the ends of the names."""
    cases = images_of(word, list(channels))
    lacking = [f"{case}_{name}" for case, files in cases.items() for name in channels if name not in files]
    if lacking:
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise DataError(f"{word}: no files {', '.join(lacking[:SHOWN])}{more}; add them, or name the images as files")
    found = [Input(tuple(word / files[name] for name in channels), case) for case, files in cases.items()]
    return _some(word, found, f"sub-…/*_{channels[0]}.*, by the names of the model's channels,")


def _table(word: Path, channels: Sequence[str]) -> list[Input]:
    """A CSV or TSV file of cases."""
    if word.is_dir():
        raise DataError(f"{word}: a folder; the table layout takes the CSV or TSV file of cases")
    return _of_table(word, channels)


# --layout -> how the images of a folder are found; the names are those of data sets (docs/data.md).
INPUT_LAYOUTS: Mapping[str, Callable[[Path, Sequence[str]], list[Input]]] = {
    "nnunet": _nnunet,
    "decathlon": _decathlon,
    "pairs": _pairs,
    "bids": _bids,
    "dsb2018": _dsb2018,
    "table": _table,
}


def _part(word: Path, name: str) -> Path:
    """The folder ``name`` of a data set, or the folder itself where there is none."""
    if not word.is_dir():
        raise DataError(f"{word}: no folder; a layout is that of a folder")
    return word / name if (word / name).is_dir() else word


def _files(folder: Path) -> list[Path]:
    """Images directly in a folder, DICOM folders included."""
    paths = [folder / name for name in visible(folder, ".")]
    return [path for path in paths if path.is_dir() or suffix_of(path) in FORMATS]


def _some(word: Path, found: list[Input], where: str) -> list[Input]:
    if not found:
        raise DataError(f"{word}: no image in {where} there; correct the folder or --layout")
    return found
