"""Where cases come from: known folder layouts, and what is wrong with the way files are paired."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, DataError, Fault
from medseg.files import SAFE_NAME, read_json
from medseg.image.formats import stem_of
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault

# Left behind by file managers; files whose names begin with a dot are ignored as well.
LITTER = {"Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image with its label files, found but not yet read; files are relative to the data set's folder.

    ``site``, ``series`` as in ``medseg.ingest.manifest.Case``; ``spacing``: micrometres per axis of this case's files,
    where the layout knows them better than the configuration.
    """

    id: str
    subject: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    site: str = ""
    series: str = ""
    spacing: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What a layout found.

    Attributes:
        root: the data set's folder.
        candidates: sorted by id.
        labels: what label values mean; None if that could not be found out (then ``faults`` says why).
        channels: channel names, or None where neither data set nor configuration names them.
        faults: everything wrong so far.
    """

    root: Path
    candidates: tuple[Candidate, ...]
    labels: LabelTable | None
    channels: tuple[str, ...] | None
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Files that belong together by name or by list."""

    id: str
    images: tuple[str, ...]
    label: str


def find_cases(dataset: str, root: Path, config: DatasetConfig) -> Source:
    """Look for a data set's cases in ``root`` by its layout; nothing but ``dataset.json`` is opened.

    Raises:
        ConfigError: if the configuration lacks what the layout needs, or ``subject`` is no usable expression.
    """
    subject_of = _subject_rule(dataset, config.subject)
    if not root.is_dir():
        where = fault("missing", "-", "-", f"no folder {root}")
        return Source(root, (), None, None, (where,))
    pairs, labels, channels, faults = LAYOUTS[config.layout](dataset, root, config)
    faults += _id_faults(pairs)
    candidates: dict[str, Candidate] = {}
    for pair in sorted(pairs, key=lambda p: p.id):
        subject = subject_of(pair.id)
        if not subject:
            cause = f"'{config.subject}' finds no subject in this id"
            faults.append(fault("subject", pair.id, pair.images[0], cause))
        candidates.setdefault(pair.id, Candidate(pair.id, subject or pair.id, pair.images, (pair.label,)))
    if not pairs and not faults:
        faults.append(fault("missing", "-", "-", f"no images in {root}"))
    named = tuple(config.channels) if config.channels else channels
    return Source(root, tuple(candidates.values()), labels, named, tuple(faults))


def _subject_rule(dataset: str, pattern: str | None) -> Callable[[str], str | None]:
    """Case id -> subject: the one group of ``pattern``; without a pattern each case is its own."""
    if pattern is None:
        return lambda case_id: case_id
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"datasets.{dataset}.subject: {pattern!r} is no regular expression ({error})") from None
    if expression.groups != 1:
        found = expression.groups
        raise ConfigError(f"datasets.{dataset}.subject: {pattern!r} has {found} groups (...), expected exactly one")

    def subject(case_id: str) -> str | None:
        match = expression.search(case_id)
        return match.group(1) if match else None

    return subject


def _id_faults(pairs: list[_Pair]) -> list[Fault]:
    """Ids that are unsafe, or that another case has too (on some file systems 'A' and 'a' are one)."""
    faults = []
    groups: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.id.casefold()].append(pair)
        if not SAFE_NAME.fullmatch(pair.id):
            cause = "an id that is unsafe in paths and command lines"
            faults.append(fault("unsafe-id", pair.id, pair.images[0], cause))
    for group in groups.values():
        for other in group[1:]:
            cause = f"the same id as {group[0].images[0]}"
            faults.append(fault("duplicate-id", other.id, other.images[0], cause))
    return faults


Found = tuple[list[_Pair], LabelTable | None, tuple[str, ...] | None, list[Fault]]


def _visible(root: Path, folder: str) -> list[str]:
    """Entries of a folder as paths relative to the data set's, without hidden ones and litter."""
    if not (root / folder).is_dir():
        return []
    names = (p.name for p in (root / folder).iterdir())
    return sorted(f"{folder}/{name}" for name in names if not name.startswith(".") and name not in LITTER)


def _outside(root: Path, files: Iterable[str]) -> list[Fault]:
    """Files that lie, links followed, outside the data set's folder."""
    base = root.resolve()
    return [
        fault("unsafe-path", stem_of(Path(file)), file, "leads out of the data set's folder")
        for file in files
        if not (root / file).resolve().is_relative_to(base)
    ]


def _pairs_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """``images/NAME.*`` and ``masks/NAME.*``, paired by name."""
    if not config.labels:
        example = "labels: {nucleus: 1}"
        raise ConfigError(f"datasets.{dataset}.labels: missing; the pairs layout needs the classes, e.g. {example}")
    table = LabelTable.create(config.labels, instances=config.instances)
    faults = [
        fault("missing", "-", name, "no such folder", "the pairs layout has folders images and masks")
        for name in ("images", "masks")
        if not (root / name).is_dir()
    ]
    if faults:
        return [], table, None, faults
    images, masks = _by_id(_visible(root, "images")), _by_id(_visible(root, "masks"))
    pairs: list[_Pair] = []
    for case in sorted(images.keys() | masks.keys()):
        pictures, labels = images.get(case, []), masks.get(case, [])
        faults += _outside(root, pictures + labels)
        if not labels:
            faults += [fault("image-without-label", case, p, f"no file masks/{case}.*") for p in pictures]
        elif not pictures:
            faults += [fault("label-without-image", case, m, f"no file images/{case}.*") for m in labels]
        else:
            faults += [fault("duplicate-id", case, m, f"the same id as {labels[0]}") for m in labels[1:]]
            pairs += [_Pair(case, (picture,), labels[0]) for picture in pictures]
    bad = {f.file for f in faults if f.code == "unsafe-path"}
    return [p for p in pairs if not bad & {*p.images, p.label}], table, None, faults


def _by_id(files: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        groups[stem_of(Path(file))].append(file)
    return groups


def _decathlon_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """``dataset.json`` names labels, channels and files in ``imagesTr/`` and ``labelsTr/``.

    Antonelli et al. 2022, The Medical Segmentation Decathlon, Nature Communications 13:4128.
    """
    try:
        index = read_json(root / "dataset.json")
    except DataError as error:
        cause = str(error).removeprefix(f"{root / 'dataset.json'}: ").partition(";")[0]
        code = "dataset-json" if (root / "dataset.json").exists() else "missing"
        mend = "the decathlon layout has a file dataset.json, folders imagesTr and labelsTr"
        return [], None, None, [fault(code, "-", "dataset.json", cause, mend)]
    if not isinstance(index, dict) or not isinstance(index.get("training"), list):
        return [], None, None, [fault("dataset-json", "-", "dataset.json", "no list 'training'")]
    faults: list[Fault] = []
    table = _label_table(index, config, faults)
    listed = _listed(index["training"], faults)
    pairs: list[_Pair] = []
    for pair in listed:
        escapes = _outside(root, (*pair.images, pair.label))
        faults += escapes
        if escapes:
            continue
        gone = [file for file in pair.images if not (root / file).exists()]
        label_there = (root / pair.label).exists()
        if not gone and label_there:
            pairs.append(pair)
        elif not gone:
            cause = f"{pair.label} is listed but not there"
            faults.append(fault("image-without-label", pair.id, pair.images[0], cause))
        elif label_there:
            faults.append(fault("label-without-image", pair.id, pair.label, f"{gone[0]} is listed but not there"))
        else:
            cause = f"neither {gone[0]} nor {pair.label} is there"
            faults.append(fault("missing", pair.id, gone[0], cause, "add the files or take the case off the list"))
    return pairs, table, _channel_names(index), faults + _unlisted(root, listed)


def _label_table(index: Mapping[str, Any], config: DatasetConfig, faults: list[Fault]) -> LabelTable | None:
    """The label table of the configuration or else of dataset.json, in either of its spellings."""
    if config.labels:
        return LabelTable.create(config.labels, instances=config.instances)
    labels = index.get("labels")
    try:
        if not isinstance(labels, dict):
            raise ValueError("no mapping 'labels'")
        if all(str(key).isdigit() for key in labels):
            names = {str(name): int(key) for key, name in labels.items()}
        else:
            names = {str(name): int(value) for name, value in labels.items()}
        if len(names) != len(labels):
            raise ValueError("two labels have one name")
        return LabelTable.create(names, instances=config.instances)
    except (ValueError, TypeError) as error:
        faults.append(fault("dataset-json", "-", "dataset.json", f"labels: {error}"))
        return None


def _channel_names(index: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Channel names in order from ``modality`` or ``channel_names``: a mapping {"0": "MRI"} or a list."""
    value = index.get("modality", index.get("channel_names"))
    if isinstance(value, dict) and all(str(key).isdigit() for key in value):
        return tuple(str(value[key]) for key in sorted(value, key=int)) or None
    return tuple(str(name) for name in value) or None if isinstance(value, list) else None


def _listed(training: list[Any], faults: list[Fault]) -> list[_Pair]:
    """The entries of ``training`` as pairs; an image may be one file or a list with a file per channel."""
    pairs = []
    for number, entry in enumerate(training):
        image = entry.get("image") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        images = image if isinstance(image, list) else [image]
        if not images or not all(_usable(name) for name in (*images, label)):
            cause = f"training[{number}]: expected {{'image': file, 'label': file}}"
            faults.append(fault("dataset-json", "-", "dataset.json", cause))
            continue
        files = [str(PurePosixPath(file)) for file in (*images, str(label))]
        pairs.append(_Pair(stem_of(Path(files[0])), tuple(files[:-1]), files[-1]))
    return pairs


def _usable(name: object) -> bool:
    """Whether a value read from JSON can name a file at all."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 1024:
        return False
    try:
        return all(len(os.fsencode(part)) <= 255 for part in PurePosixPath(name).parts)
    except UnicodeEncodeError:
        return False


def _unlisted(root: Path, listed: list[_Pair]) -> list[Fault]:
    """Files in ``imagesTr/`` and ``labelsTr/`` that dataset.json does not name."""
    known = {file for pair in listed for file in (*pair.images, pair.label)}
    images = _by_id([f for f in _visible(root, "imagesTr") if f not in known])
    labels = _by_id([f for f in _visible(root, "labelsTr") if f not in known])
    faults = []
    for case in sorted(images.keys() | labels.keys()):
        if case in images and case in labels:
            faults.append(fault("unlisted", case, images[case][0], "dataset.json does not list this case"))
            continue
        there = (images.get(case) or labels[case])[0]
        code, lacks = ("image-without-label", "labelsTr") if case in images else ("label-without-image", "imagesTr")
        faults.append(fault(code, case, there, f"not in dataset.json, and no new file {lacks}/{case}.*"))
    return faults


# Layout (a value of `layout` in the configuration) -> how its files are found and paired.
LAYOUTS: dict[str, Callable[[str, Path, DatasetConfig], Found]] = {
    "pairs": _pairs_layout,
    "decathlon": _decathlon_layout,
}
