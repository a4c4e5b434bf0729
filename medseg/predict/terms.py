"""On which terms images are taken: how they are read, what is doubtful about them, and what of that is allowed.

Doubts are those of ``medseg.ingest.doubts``, as at the check of a data set. What the training knew (``model.json``)
holds, unless the user says otherwise.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ConfigError, DataError
from medseg.formats.read import open_image
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.ingest.cases import grid_of
from medseg.ingest.doubts import (
    OF_IMAGES,
    Doubt,
    channel_doubts,
    grid_doubts,
    header_doubts,
    size_doubts,
)
from medseg.ingest.faults import FAULTS
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.predict.input import Input
from medseg.progress import say
from medseg.reading import Reading, are_axes
from medseg.text import escaped
from medseg.train.checkpoint import Checkpoint

# Kind of fault -> what can be done about it here, where the table of faults speaks of a configuration.
FIXES = {
    "orientation": "correct the header, or name the form that counts: --orientation sform (or qform)",
    "nonfinite": "replace NaN and Inf by real numbers, or say what stands for them: --allow nonfinite --fill NUMBER",
    "tiff-pages": "say what the pages are: --axes CYX (channels) or --axes ZYX (slices)",
    "channels": "name the channels that are taken, once each: --channel NUMBER (from 0), or the file's name of it",
    "series": "name one by --series: its UID or number",
    "too-large": "split the image, or allow one file more memory: --max-gb NUMBER",
    "voxel-size": "correct the size in the file, or say it, if the file states none: --spacing",
    "constant-image": "export the image again, or leave it out",
}


_SAY = "say which counts for all: --"
_APART = "predict with each alone"
# What models may differ in when they read a file -> what can be done about it.
_READ_BY = {
    "axes": f"{_SAY}axes",
    "channels": f"{_SAY}channel",
    "names": f"{_SAY}channel",
    "colour": _APART,
    "spacing": f"{_SAY}spacing",
    "unit": f"{_SAY}spacing",
    "sizes": _APART,
    "orientation": f"{_SAY}orientation",
    "fill": f"{_SAY}allow nonfinite --fill NUMBER",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """How images are read for a model, and which doubts are allowed by name.

    Attributes:
        reading: what is declared of the files.
        allow: codes of ``OF_IMAGES``.
        sizes: voxel sizes of the images that the model was trained on; of several models one of each; none: there is
            no record.
    """

    reading: Reading
    allow: frozenset[str]
    sizes: tuple[VoxelSizes, ...] = ()

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        orientation: str | None = None,
        fill: float | None = None,
        allow: Iterable[str] = (),
        spacing: Sequence[float] | None = None,
        axes: str | None = None,
        channels: Sequence[int | str] = (),
    ) -> Terms:
        """The terms of a model's training, with what the user says beyond them.

        Args:
            checkpoint: of the model.
            orientation: form of contradicting NIfTI headers that counts.
            fill: stands for NaN and Inf voxels.
            allow: codes of doubts.
            spacing: micrometres per axis of files that state no size.
            axes: what the planes of TIFF files are.
            channels: numbers or names of the channels that are taken.

        Raises:
            ConfigError: if a code cannot be allowed, axes are none, or ``nonfinite`` and ``fill`` do not go together.
        """
        allow = tuple(allow)
        for code in allow:
            if code in FAULTS and FAULTS[code].allowed and code not in OF_IMAGES:
                # What was allowed of the data set may be given as it stands there.
                say(f"predict: --allow {code}: is about a data set, nothing of it is asked of an image")
            elif code not in OF_IMAGES:
                near = difflib.get_close_matches(code, OF_IMAGES, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"can be: {', '.join(OF_IMAGES)}"
                raise ConfigError(f"--allow {code}: nothing that can be allowed of an image; {hint}")
        if axes is not None and not are_axes(axes):
            raise ConfigError(f"--axes {axes}: expected letters T, Z, C, each at most once, then YX, as in CYX or ZYX")
        reading = checkpoint.reading.sized(spacing)
        if axes is not None:
            reading = replace(reading, axes=axes)
        if channels:
            reading = replace(reading, channels=tuple(channels), names=())
        if orientation is not None:
            reading = replace(reading, orientation=orientation)
        if fill is not None:
            reading = replace(reading, fill=fill)
        both = frozenset(code for code in (*allow, *checkpoint.accepts) if code in OF_IMAGES)
        if ("nonfinite" in both) != (reading.fill is not None):
            raise ConfigError("--allow nonfinite and --fill NUMBER go together; give both or none")
        return cls(reading, both, () if checkpoint.voxel_sizes is None else (checkpoint.voxel_sizes,))


def shared_terms(each: Mapping[str, Terms]) -> Terms:
    """The terms on which several models take an image: what each of their trainings allows, and sizes of all.

    Args:
        each: terms by model.

    Raises:
        ConfigError: if they would read one file in different ways.
    """
    first, *others = each
    for name in others:
        for key, option in _READ_BY.items():
            mine, theirs = (getattr(each[one].reading, key) for one in (first, name))
            if mine != theirs:
                raise ConfigError(
                    f"{name}: was trained on images that were read with {key} {theirs or 'as stored'}, {first} with "
                    f"{mine or 'as stored'}; {option}"
                )
    terms = each[first]
    allow = frozenset.intersection(*(one.allow for one in each.values()))
    sizes = tuple(dict.fromkeys(size for one in each.values() for size in one.sizes))
    return replace(terms, allow=allow, sizes=sizes)


@dataclass(frozen=True, slots=True)
class Found:
    """A doubt about a file.

    Attributes:
        file: which.
        doubt: the doubt.
        allowed: what became of it; empty: it is not allowed.
    """

    file: Path
    doubt: Doubt
    allowed: str = ""

    def __str__(self) -> str:
        return f"{escaped(str(self.file))}: {self.doubt.cause} ({self.doubt.code}); {self.fix}"

    @property
    def fix(self) -> str:
        """What can be done about it here: in the file, or by an option."""
        code, row = self.doubt.code, FAULTS[self.doubt.code]
        # NaN and Inf need a number that stands for them, too.
        choice = f", or allow it: --allow {code} ({row.allowed})" if code in OF_IMAGES and code != "nonfinite" else ""
        return f"{FIXES.get(code) or row.fix}{choice}"


class DoubtfulError(DataError):
    """An image about which something is doubtful that nobody allowed.

    Attributes:
        found: the doubts.
    """

    def __init__(self, found: Sequence[Found]) -> None:
        super().__init__("\n".join(map(str, found)))
        self.found = tuple(found)


def judged(file: Path, doubts: Iterable[Doubt], terms: Terms) -> Iterator[Found]:
    """Doubts about a file, with what the terms say of them."""
    for doubt in doubts:
        allowed = doubt.settled
        if not allowed and doubt.code in terms.allow:
            allowed = doubt.fix if doubt.code == "nonfinite" else FAULTS[doubt.code].allowed or ""
        yield Found(file, doubt, allowed)


def open_parts(one: Input, terms: Terms) -> list[Source]:
    """The files of an image, opened; NaN and Inf stay, to be counted.

    Raises:
        FormatError: if one cannot be read.
    """
    reading = replace(terms.reading.sized(one.spacing), fill=None)
    files = one.files
    if len(files) > 1:
        # As a data set with a file per channel chooses among its files.
        numbers = [c for c in reading.channels if isinstance(c, int) and c < len(files)]
        files = tuple(files[c] for c in numbers) if numbers and len(numbers) == len(reading.channels) else files
        reading = replace(reading, channels=(), names=())
    return [open_image(file, series=one.series, reading=reading) for file in files]


def grids_of(parts: Sequence[Source]) -> list[Geometry]:
    """The grids of an image's files; one that states none has that of the first."""
    first = parts[0].geometry
    return [first, *(grid_of(part, first) for part in parts[1:])]


def doubts_of_headers(parts: Sequence[Source], terms: Terms) -> list[Found]:
    """What is doubtful about an image before its voxels are looked at."""
    grids = grids_of(parts)
    found: list[Found] = []
    for part, grid in zip(parts, grids, strict=True):
        doubts = [*header_doubts(part, terms.reading.orientation)]
        if part is parts[0]:
            doubts += grid_doubts(part, grid)
            strange = (size_doubts(grid, sizes, "those of the model's training") for sizes in terms.sizes)
            # One of several models is enough.
            doubts += [*itertools.chain.from_iterable(strange)][:1]
        else:
            doubts += channel_doubts(grid, grids[0], parts[0].path.name)
        found += judged(part.path, doubts, terms)
    return found


def refuse(found: Iterable[Found]) -> None:
    """Raise ``DoubtfulError`` with all doubts that are not allowed."""
    open_ones = [one for one in found if not one.allowed]
    if open_ones:
        raise DoubtfulError(open_ones)
