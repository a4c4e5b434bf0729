"""What every layout returns, and how it searches folders without leaving them."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, Fault
from medseg.formats.table import FORMATS, stem_of, suffix_of
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.label_source import LabelSource

# Left behind by file managers; files whose names begin with a dot are ignored as well.
LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}
# The folder of corrected predictions in a data set's, which has a table of its own: no other layout looks into it.
CORRECTIONS = "medseg-corrections"
OVERLOOKED = LITTER | {CORRECTIONS}
# Headers whose voxels are in a further file of the same name.
HEADERS = {".mhd", ".nhdr", ".hdr"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image with its label files, found but not yet read.

    Attributes:
        id: case id.
        subject: evidence key for folds; empty where the layout does not know it.
        images: files (or DICOM folders), one per channel or one with all, relative to the data set's folder.
        labels: label files, relative likewise: one label map, or one mask file per object.
        site, series: as in ``medseg.ingest.manifest.Case``.
        spacing: micrometres per axis of files without a header, where the layout knows them for this very case.
        test: whether it is kept apart for `medseg test`.
        class_map: file with the class of each voxel of objects of several classes, relative likewise; empty: none.
        object_classes: object number -> class value, from a table of the user's own; None: no table says it.
        chosen: whether ``images`` are those of several files, one per channel, that the configuration chose.
        group: folder that the case shares with others, where a pattern has ``{group}``; empty: none.
        file_values: where there is one mask file per class, the value of each; empty: values are those in the files.
        source: of a reference that began as a prediction; its values are those of the label table.
    """

    id: str
    subject: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    site: str = ""
    series: str = ""
    spacing: tuple[float, ...] | None = None
    test: bool = False
    class_map: str = ""
    object_classes: Mapping[int, int] | None = None
    chosen: bool = False
    group: str = ""
    file_values: tuple[int, ...] = ()
    source: LabelSource | None = None


@dataclass(slots=True)
class Found:
    """What a layout found.

    Attributes:
        candidates: in any order; those whose files are not all there are only among the faults.
        labels: what label values mean; None if that could not be found out (then ``faults`` explains why).
        channels: channel names, or None where the data set does not name them.
        faults: everything wrong with the way files are listed, named and paired.
        splits: a file of folds that the layout brings, relative to the data set's folder; empty: none.
        evidence: what in the data set names the subject of a case; empty: nothing.
        remarks: what was decided with certainty, to be printed.
    """

    candidates: list[Candidate] = field(default_factory=list)
    labels: LabelTable | None = None
    channels: tuple[str, ...] | None = None
    faults: list[Fault] = field(default_factory=list)
    splits: str = ""
    evidence: str = ""
    remarks: list[str] = field(default_factory=list)


def label_table_of(names: Mapping[str, int], config: DatasetConfig, *, instances: bool = False) -> LabelTable:
    """The label table of class names -> values, with what the configuration says beyond them.

    Args:
        names, config: what is known.
        instances: whether the files are objects, whatever the configuration says.
    """
    objects = instances or config.instances
    return LabelTable.create(names, instances=objects, regions=config.regions, ignore=config.ignore)


def required_table(dataset: str, config: DatasetConfig, *, instances: bool = False) -> LabelTable:
    """The label table of the configuration, for layouts whose files name no classes; ``ConfigError`` without one."""
    if not config.labels:
        example = "labels: {nucleus: 1}"
        what = f"the {config.layout} layout needs the classes, e.g. {example}"
        raise ConfigError(f"datasets.{dataset}.labels: missing; {what}")
    return label_table_of(config.class_values, config, instances=instances)


def visible(root: Path, folder: str) -> list[str]:
    """Entries of a folder as paths relative to the data set's, sorted, without hidden ones and litter."""
    if not (root / folder).is_dir():
        return []
    names = (p.name for p in (root / folder).iterdir())
    return sorted(str(PurePosixPath(folder, n)) for n in names if not n.startswith(".") and n not in OVERLOOKED)


def walk(root: Path, folder: str) -> list[str]:
    """All visible files below a folder, sorted; folders that are called like an image (OME-Zarr) are files here.

    Links to folders are not followed, so that no loop is walked.
    """
    files = []
    for place, folders, names in os.walk(root / folder, followlinks=False):
        images = [name for name in folders if suffix_of(Path(name)) in FORMATS]
        folders[:] = [n for n in folders if not n.startswith(".") and n not in OVERLOOKED and n not in images]
        here = Path(place).relative_to(root).as_posix()
        files += [f"{here}/{name}" for name in (*names, *images) if not name.startswith(".") and name not in OVERLOOKED]
    return sorted(files)


def entries(root: Path) -> list[str]:
    """All visible files and folders below a folder, sorted, folders with a "/" at the end.

    Links to folders are listed, but not followed; nor is a folder that is called like a file, which is one image.
    """
    found = []
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place).relative_to(root)
        there = [name for name in folders if not name.startswith(".") and name not in OVERLOOKED]
        found += [(here / name).as_posix() + "/" for name in there]
        found += [(here / name).as_posix() for name in names if not name.startswith(".") and name not in OVERLOOKED]
        folders[:] = [name for name in there if suffix_of(Path(name)) not in FORMATS]
    return sorted(found)


def stem(root: Path, file: str) -> str:
    """Name without the suffix of a format; a folder (a DICOM series) has none, unless it is called like a file."""
    path = root / file
    return path.name if suffix_of(path) not in FORMATS and path.is_dir() else stem_of(path)


def by_stem(root: Path, files: Iterable[str]) -> dict[str, list[str]]:
    """Files by ``stem``; the voxel files that headers like MHD point to do not count as images of their own."""
    files = list(files)
    headers = {stem_of(Path(file)) for file in files if suffix_of(Path(file)) in HEADERS}
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        name = Path(file).name
        voxels = suffix_of(Path(file)) not in FORMATS and any(name.startswith(f"{header}.") for header in headers)
        if not voxels or suffix_of(Path(file)) in HEADERS:
            groups[stem(root, file)].append(file)
    return groups


def outside(root: Path, files: Iterable[str]) -> list[Fault]:
    """The fault ``unsafe-path`` for files that are, links followed, outside the data set's folder.

    Of a folder (a DICOM series), the links in it count as well.
    """
    base = os.path.realpath(root)
    faults = []
    for file in files:
        if not Path(os.path.realpath(root / file)).is_relative_to(base):
            faults.append(fault("unsafe-path", stem(root, file), file, "leads out of the data set's folder"))
        elif (root / file).is_dir() and (links := _links_out(root / file, base)):
            cause = f"{len(links)} links in it lead out of the data set's folder, such as {links[0]}"
            fix = "keep all files inside the data set's folder, or set `path` to a folder above that holds both"
            faults.append(fault("unsafe-path", stem(root, file), file, cause, fix))
    return faults


def _links_out(folder: Path, base: str) -> list[str]:
    """Names of the links below a folder that lead out of ``base``."""
    links = [Path(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)]
    links = [link for link in links if link.is_symlink()]
    return sorted(link.name for link in links if not Path(os.path.realpath(link)).is_relative_to(base))


def usable(name: object) -> bool:
    """Whether a value read from a file can name a file at all."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 1024:
        return False
    try:
        return all(len(os.fsencode(part)) <= 255 for part in PurePosixPath(name).parts)
    except UnicodeEncodeError:
        return False


def same_name(name: str) -> str:
    """A key that is equal for names that some file system treats as one: other case, other Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def files_there(root: Path, listed: Iterable[Candidate]) -> tuple[list[Candidate], list[Fault]]:
    """Those of listed cases whose files are all there and inside the folder, and what is wrong with the others."""
    kept: list[Candidate] = []
    faults: list[Fault] = []
    for case in listed:
        if escapes := outside(root, (*case.images, *case.labels)):
            faults += escapes
            continue
        no_image = [file for file in case.images if not (root / file).exists()]
        no_label = [file for file in case.labels if not (root / file).exists()]
        if not no_image and case.labels and not no_label:
            kept.append(case)
        elif not no_image:
            cause = f"{no_label[0]} is listed but not there" if no_label else "no label is listed for it"
            faults.append(fault("image-without-label", case.id, case.images[0], cause))
        elif len(no_image) < len(case.images):
            cause = f"{no_image[0]} is listed but not there: {len(no_image)} of {len(case.images)} channel files"
            faults.append(fault("channels", case.id, case.images[0], cause, "add the file"))
        elif case.labels and not no_label:
            cause = f"{no_image[0]} is listed but not there"
            faults.append(fault("label-without-image", case.id, case.labels[0], cause))
        else:
            cause = f"neither {no_image[0]} nor {no_label[0] if no_label else 'a label'} is there"
            fix = "add the files or take the case off the list"
            faults.append(fault("missing", case.id, no_image[0], cause, fix))
    return kept, faults
