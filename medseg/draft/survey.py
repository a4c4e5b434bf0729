"""What a sample of a data set's files holds, read within a bound on time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import MedsegError
from medseg.formats.drawn import drawn, is_drawn
from medseg.formats.read import open_image
from medseg.ingest.counting import count_values
from medseg.ingest.layouts.found import Candidate
from medseg.reading import Reading

# Images that are read: what they have in common is seen in few.
IMAGES = 24
# Voxels along each axis of the part of an image that is read for its intensities.
SIDE = 512
# Label maps whose values are looked at one by one, and the most values and voxels of one.
CLOSE_LOOKS, LOOKED_AT, CLOSE_VOXELS = 12, 60, 1 << 26

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one image file says.

    Attributes:
        shape: of the grid (S).
        spacing: size of a voxel per axis, in ``unit``.
        unit: ``mm``, ``um``, or ``px`` where the file states no size.
        channels: number of them.
        channel_names: the file's own; empty: none.
        low: smallest finite intensity, in the middle of a large image.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    channels: int
    channel_names: tuple[str, ...]
    low: float


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """What one label map holds.

    Attributes:
        case: id of its case.
        counts: value -> voxels, 0 left out; of a picture in colour, the colours as numbers (#00ff00 is 0x00ff00).
        parts: value -> separate parts of it, of at most ``LOOKED_AT`` values; None where nobody counted them.
        places: of the same values, the middle of its box as a share of the map along each axis.
        names: value -> name, of a file that lists its segments.
        zeros: voxels of value 0, or black.
        colours: whether it is a picture in colour.
        dims: axes of the map; 0 if nobody looked.
    """

    case: str
    counts: dict[int, int]
    parts: dict[int, int] | None = None
    places: dict[int, tuple[float, ...]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    zeros: int = 0
    colours: bool = False
    dims: int = 0


@dataclass(slots=True)
class Survey:
    """What was read of a data set.

    Attributes:
        cases: how many there are.
        images, labels: of those that could be read.
        unread: what went wrong with others: (file, cause).
        labels_asked: label maps that there are; fewer in ``labels`` means that time ran out, or that some are damaged.
        seconds: what reading one image and one label map takes, on average.
    """

    cases: int
    images: list[ImageFacts] = field(default_factory=list)
    labels: list[LabelFacts] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    labels_asked: int = 0
    seconds: float = 0.0


def survey(root: Path, candidates: Sequence[Candidate], workers: int, seconds: float) -> Survey:
    """Read evenly spread images and, in what is left of the time, all label maps that number classes or objects.

    Args:
        root: the data set's folder.
        candidates: its cases.
        workers: threads.
        seconds: for all of it; what has begun is finished.
    """
    found = Survey(len(candidates))
    until = time.monotonic() + seconds
    sample = spread_out(candidates, IMAGES)
    # A file per object or per class has no values to look at.
    maps = spread_out([case for case in candidates if len(case.labels) == 1], len(candidates))
    found.labels_asked = len(maps)
    begun = time.monotonic()
    for images in _within(lambda case: _images(root, case), sample, workers, until, found):
        found.images += images
    each = (time.monotonic() - begun) / max(1, len(sample))
    begun = time.monotonic()
    close = {case.id for case in spread_out(maps, CLOSE_LOOKS)}
    for facts in _within(lambda case: _labels(root, case, case.id in close), maps, workers, until, found):
        found.labels.append(facts)
    found.seconds = each + (time.monotonic() - begun) / max(1, len(maps))
    return found


def spread_out(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of some items, the first and the last among them, the others evenly between.

    In an order in which any beginning is spread as well, since time may end it early.
    """
    count = min(count, len(items))
    places = sorted({round(k * (len(items) - 1) / max(1, count - 1)) for k in range(count)})
    # Bits of the place in reverse: 0, 1/2, 1/4, 3/4, ...
    order = sorted(range(len(places)), key=lambda k: int(f"{k:032b}"[::-1], 2))
    return [items[places[k]] for k in order]


def _within(
    work: Callable[[Candidate], R], cases: Iterable[Candidate], workers: int, until: float, found: Survey
) -> Iterator[R]:
    """Results of some work on cases, in their order, until the time is over; errors are noted in ``found``."""

    def attempt(case: Candidate) -> R | MedsegError | OSError | None:
        if time.monotonic() > until:
            return None
        try:
            return work(case)
        except (MedsegError, OSError) as error:
            return error

    cases = list(cases)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for case, done in zip(cases, pool.map(attempt, cases), strict=True):
            if isinstance(done, MedsegError | OSError):
                found.unread.append((case.images[0], str(done)))
            elif done is not None:
                yield done


def _images(root: Path, case: Candidate) -> list[ImageFacts]:
    """What each file of a case's image says."""
    facts = []
    for file in case.images:
        source = open_image(root / file, series=case.series)
        grid = source.geometry
        facts.append(
            ImageFacts(
                grid.shape,
                grid.spacing,
                grid.unit,
                source.shape[0],
                tuple(source.channel_names),
                _low(source.read(_middle(grid.shape))),
            )
        )
    return facts


def _middle(shape: Sequence[int]) -> list[slice]:
    """The middle of a grid (S), at most ``SIDE`` voxels along each axis: large images stay on disk."""
    starts = [max(0, (n - SIDE) // 2) for n in shape]
    return [slice(start, min(start + SIDE, n)) for start, n in zip(starts, shape, strict=True)]


def _low(image: NDArray[Any]) -> float:
    """The smallest finite intensity; NaN without any."""
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    return float(finite.min()) if finite.size else float("nan")


def _labels(root: Path, case: Candidate, closely: bool) -> LabelFacts:
    """The values of a case's label map, and, if asked, of how many parts each is."""
    source = open_image(root / case.labels[0], reading=Reading().of_labels)
    if is_drawn(source):
        source = drawn(source, open_image(root / case.images[0], series=case.series).geometry, {})
    planes = source.voxels
    colours = len(planes) == 3 and not all(np.array_equal(planes[0], plane) for plane in planes[1:])
    values, names = source.labels(colours=colours), dict(source.segments)
    counts = count_values(values)
    zeros = counts.pop(0, 0)
    if not closely or colours or values.size > CLOSE_VOXELS:
        return LabelFacts(case.id, counts, names=names, zeros=zeros, colours=colours, dims=values.ndim)
    return LabelFacts(case.id, counts, *_parts(values, sorted(counts)), names, zeros, colours, values.ndim)


def _parts(values: NDArray[Any], present: Sequence[int]) -> tuple[dict[int, int], dict[int, tuple[float, ...]]]:
    """Separate parts (diagonal neighbours are joined) and places of evenly spread values of a label map (S)."""
    if not present:
        return {}, {}
    numbers = np.searchsorted(np.asarray(present, dtype=values.dtype), values) + 1
    numbers = np.where(values == 0, 0, numbers).astype(np.int32)
    boxes = ndimage.find_objects(numbers, max_label=len(present))
    neighbours = np.ones((3,) * values.ndim, dtype=bool)
    chosen = sorted({int(k) for k in np.linspace(0, len(present) - 1, min(LOOKED_AT, len(present)))})
    parts = {present[k]: int(ndimage.label(numbers[boxes[k]] == k + 1, neighbours)[1]) for k in chosen}
    places = {
        present[k]: tuple((s.start + s.stop) / 2 / n for s, n in zip(boxes[k], values.shape, strict=True))
        for k in chosen
    }
    return parts, places
