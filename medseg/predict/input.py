"""One image that a model is to predict: its files, and what its prediction is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.formats.table import FOLDER, FORMATS, class_map, format_of, label_suffix, stem_of, suffix_of

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
    return Input((path,), path.name if path.is_dir() and not is_of_a_format(path) else stem_of(path))


def is_of_a_format(folder: Path) -> bool:
    """Whether a folder is one image of a format of its own, whatever it holds: not a folder of slices."""
    return format_of(folder) is not FORMATS[FOLDER]


def in_short(names: Sequence[str], separator: str = ", ") -> str:
    """The first of some names or sentences, and how many more there are."""
    more = f"{separator}and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{separator.join(names[:SHOWN])}{more}"
