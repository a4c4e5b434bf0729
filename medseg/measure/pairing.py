"""Which mask belongs to which image: by name, as files of Cellpose and others are called, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError
from medseg.formats.table import FORMATS, stem_of, suffix_of
from medseg.ingest.layouts.found import by_stem, visible
from medseg.measure.files import OBJECT_FILES
from medseg.progress import say

# What names of masks may have after the name of their image.
SUFFIXES = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")
# Pairs that an error lists.
LISTED = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and the map of its objects.

    Attributes:
        name: of the files that are written, without suffix.
        image, mask: the files, or folders of DICOM slices.
    """

    name: str
    image: Path
    mask: Path


def find_pairs(images: Path, masks: Path) -> list[Pair]:
    """Pair images with masks, in the order of their names.

    Args:
        images, masks: two files; or two folders, or one folder with both, whose files are paired by name: a mask is
            called like its image, with one of ``SUFFIXES`` after it or (in a folder of its own) without. ``images`` may
            be one file of which ``masks`` is the folder.

    Raises:
        DataError: if something is missing, an image has no mask or several, or a mask has no image.
    """
    for path in (images, masks):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give the images first, then their masks")
    if not _holds_images(masks):
        return [Pair(images.name if _holds_images(images) else stem_of(images), images, masks)]
    if images.is_dir() and images.samefile(masks):
        return _in_one_folder(images)
    found = _entries(images) if _holds_images(images) else {stem_of(images): images}
    return _pairs(found, _entries(masks), masks, alone=not _holds_images(images))


def _holds_images(path: Path) -> bool:
    """Whether a path is a folder of images, not one that is an image by its name (OME-Zarr)."""
    return path.is_dir() and suffix_of(path) not in FORMATS


def _entries(folder: Path) -> dict[str, Path]:
    """Images of a folder by name; files of other kinds, and those that ``medseg`` writes for objects, are left out."""
    ours = tuple(row.suffix for row in OBJECT_FILES.values())
    names = [n for n in visible(folder, ".") if not n.endswith(ours)]
    names = [n for n in names if not stem_of(Path(n)).endswith(".classes")]
    names = [n for n in names if (folder / n).is_dir() or suffix_of(Path(n)) in FORMATS]
    groups = by_stem(folder, names)
    for name, files in groups.items():
        if len(files) > 1:
            raise DataError(f"{folder}: {' and '.join(files)} have one name; move all but one elsewhere ('{name}')")
    return {name: folder / files[0] for name, files in groups.items()}


def _in_one_folder(folder: Path) -> list[Pair]:
    entries = {name: path for name, path in _entries(folder).items() if not _holds_images(path)}
    masks = {name: path for name, path in entries.items() if _base(name, entries) is not None}
    images = {base: entries[base] for base in dict.fromkeys(_base(name, entries) for name in masks) if base}
    if not masks:
        raise DataError(
            f"{folder}: no file is called like another one and {', '.join(SUFFIXES)}; give the folder of the masks"
        )
    rest = sorted(entries.keys() - images.keys() - masks.keys())
    if rest:
        say(f"{folder}: left out, since no mask is called like them: {_shown(rest)}")
    return _pairs(images, masks, folder, alone=False)


def _pairs(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path, *, alone: bool) -> list[Pair]:
    """Pair by name; ``alone``: masks of other images are no fault."""
    pairs, faults, used, suffixes = [], [], set(), set()
    for name, image in sorted(images.items()):
        found = [(s, masks[name + s]) for s in ("", *SUFFIXES) if name + s in masks and masks[name + s] != image]
        if len(found) == 1:
            suffix, mask = found[0]
            pairs.append(Pair(name, image, mask))
            used.add(name + suffix)
            suffixes.add(suffix)
        elif found:
            faults.append(f"{image}: several masks, {' and '.join(mask.name for _, mask in found)}; keep one")
            used |= {name + suffix for suffix, _ in found}
        else:
            faults.append(f"{image}: no mask; expected {folder / name}.* or with one of {', '.join(SUFFIXES)}")
    lonely = [] if alone else sorted(masks.keys() - used)
    faults += [f"{masks[name]}: no image of this name" for name in lonely]
    if faults:
        more = f"\nand {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise DataError("\n".join(faults[:LISTED]) + more)
    if not pairs:
        raise DataError(f"{folder}: no images; expected files of {', '.join(FORMATS)}")
    if suffixes - {""}:
        say(f"masks are paired with images by name and {', '.join(sorted(suffixes - {''}))}")
    return pairs


def _base(name: str, names: Mapping[str, Path]) -> str | None:
    """The name of the image whose mask this is by its own name."""
    return next((name[: -len(s)] for s in SUFFIXES if name.endswith(s) and name[: -len(s)] in names), None)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
