"""Tables of images, and layouts: a row per way in which the images of a data set lie in its folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medseg.errors import DataError
from medseg.formats.table import stem_of
from medseg.ingest.layouts.bids import images_of
from medseg.ingest.layouts.dsb2018 import image_folders
from medseg.ingest.layouts.found import visible
from medseg.ingest.layouts.table import image_columns, row_faults, spacing_of
from medseg.ingest.tables import read_table
from medseg.predict.input import NUMBERED, Input, in_short, of_file
from medseg.predict.input_folders import is_image


def of_table(path: Path, channels: Sequence[str]) -> list[Input]:
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
        raise DataError(f"{path}: {in_short(causes, '; ')}; correct the table (docs/predict.md)")
    found = []
    for row in rows:
        files = tuple(path.parent / row[column] for column in columns)
        spacing = spacing_of(row["spacing"]) if row.get("spacing") else None
        found.append(Input(files, row["case"].replace("/", "-"), row.get("series", ""), spacing))
    missing = [str(file) for one in found for file in one.files if not file.exists()]
    if missing:
        raise DataError(f"{path}: lists files that are not there: {in_short(missing)}; correct the table")
    return found


def _nnunet(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, …: files, a folder of them, or the ``imagesTs`` of nnU-Net's."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    causes = []
    for path in _files(words, "imagesTs"):
        match = NUMBERED.fullmatch(stem_of(path))
        if match is None:
            causes.append(f"{path.name} has no number of a channel at its end")
            continue
        if match["channel"] in cases[match["case"]]:
            causes.append(f"{path} is a second file of {match['case']}_{match['channel']}")
        cases[match["case"]][match["channel"]] = path
    wanted = [f"{k:04d}" for k in range(len(channels))]
    for case, files in cases.items():
        lacks = [f"_{number} ({channels[int(number)]})" for number in wanted if number not in files]
        more = [f"_{number}" for number in files if number not in wanted]
        causes += [f"{case} has no {', '.join(lacks)}"] if lacks else []
        causes += [f"{case} has {', '.join(more)}, beyond the model's {len(wanted)} channels"] if more else []
    if causes or not cases:
        fix = "the nnunet layout has a file CASE_0000, CASE_0001, … per channel; or leave out --layout"
        raise DataError(f"{words[0]}: {in_short(causes, '; ') or 'no image'}; {fix}")
    return [Input(tuple(files[number] for number in wanted), case) for case, files in sorted(cases.items())]


def _decathlon(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """The files of ``imagesTs``, all channels in one."""
    return _some(words, [of_file(path) for path in _files(words, "imagesTs")], "imagesTs/")


def _pairs(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """The files of ``images``."""
    return _some(words, [of_file(path) for path in _files(words, "images")], "images/")


def _dsb2018(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """``ID/images/ID.png``, whatever lies in ``ID/masks``."""
    folders = _folders(words)
    found = [Input((word / files[0],), case) for word in folders for case, files in image_folders(word).items()]
    return _some(words, found, "ID/images/")


def _bids(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """``sub-XX/…/*_T2w.nii.gz``; the model's channels are the ends of the names."""
    cases = [(word, case, files) for word in _folders(words) for case, files in images_of(word, list(channels)).items()]
    lacking = [f"{case}_{name}" for _, case, files in cases for name in channels if name not in files]
    if lacking:
        raise DataError(f"{words[0]}: no files {in_short(lacking)}; add them, or name the images as files")
    found = [Input(tuple(word / files[name] for name in channels), case) for word, case, files in cases]
    return _some(words, found, f"sub-…/*_{channels[0]}.*, by the names of the model's channels,")


def _table(words: Sequence[Path], channels: Sequence[str]) -> list[Input]:
    """CSV or TSV files of cases."""
    for word in filter(Path.is_dir, words):
        raise DataError(f"{word}: a folder; the table layout takes the CSV or TSV file of cases")
    return [one for word in words for one in of_table(word, channels)]


# --layout -> how the images of a folder are found; the names are those of data sets (docs/data.md).
INPUT_LAYOUTS: Mapping[str, Callable[[Sequence[Path], Sequence[str]], list[Input]]] = {
    "nnunet": _nnunet,
    "decathlon": _decathlon,
    "pairs": _pairs,
    "bids": _bids,
    "dsb2018": _dsb2018,
    "table": _table,
}


def _folders(words: Sequence[Path]) -> Sequence[Path]:
    """The words, which are folders."""
    for word in words:
        if not word.is_dir():
            raise DataError(f"{word}: no folder; this layout is that of a folder")
    return words


def _files(words: Sequence[Path], part: str) -> list[Path]:
    """Files, and images directly in folders or in their folder ``part``, DICOM folders included."""
    found: list[Path] = []
    for word in words:
        folder = word / part if (word / part).is_dir() else word
        paths = [folder / name for name in visible(folder, ".")] if folder.is_dir() else [word]
        found += [path for path in paths if path == word or is_image(path)]
    return found


def _some(words: Sequence[Path], found: list[Input], where: str) -> list[Input]:
    if not found:
        raise DataError(f"{words[0]}: no image in {where} there; correct the folder or --layout")
    return found
