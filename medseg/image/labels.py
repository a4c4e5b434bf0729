"""What the integers of a label map mean: classes, overlapping regions of them, and voxels without annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bounds import Bound, OutOfBounds, flag, perhaps, several, shortened, table, text, whole
from medseg.errors import ConfigError, DataError
from medseg.image.object_classes import looked_up
from medseg.limits import MAX_CLASSES, MAX_LABEL
from medseg.text import escaped, is_printable

# Colour-blind-safe qualitative colours (Okabe & Ito 2008), without black.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
# The channel index of "not annotated"; classes go up to 254, so that both fit into eight bits.
IGNORE = 255


@dataclass(frozen=True, slots=True)
class LabelTable:
    """What a data set's label values mean and what is to be predicted; made by ``create``, which checks it.

    Attributes:
        names: class name -> value in the files, background (0) left out. Prepared label maps hold channel indices: k
            for the k-th smallest value, 0 for background, ``IGNORE`` for voxels without annotation.
        instances: if true, files hold object numbers. Every value above 0 is an object; of several ``names``, the class
            of each object is known from elsewhere (``Case.object_classes``).
        regions: region name -> values whose union it is. If there are any, a network predicts these, each for itself
            and possibly overlapping, in place of the classes that exclude one another.
        order: value that each region paints; later regions paint over earlier ones (nnU-Net's
            ``regions_class_order``).
        ignore: value of voxels without annotation: legal in files, but neither trained on nor scored; or None.
    """

    names: tuple[tuple[str, int], ...]
    instances: bool = False
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    order: tuple[int, ...] = ()
    ignore: int | None = None

    @classmethod
    def create(
        cls,
        names: Mapping[str, int],
        *,
        instances: bool = False,
        regions: Mapping[str, Sequence[str | int]] | None = None,
        order: Sequence[int] | None = None,
        ignore: int | None = None,
    ) -> LabelTable:
        """Build and check a label table.

        Args:
            names: class name -> value; background (0) may be among them.
            instances: whether files hold object numbers.
            regions: region name -> its classes, by name or value, listed in painting order, larger ones first.
            order: value that each region paints; none: the one class that no later region holds.
            ignore: value of voxels without annotation.

        Raises:
            ConfigError: if values, regions, order or ``ignore`` contradict one another.
        """
        _check_names([*map(str, names), *map(str, regions or {})])
        kept = tuple(sorted(((str(n), int(v)) for n, v in names.items() if int(v) != 0), key=lambda item: item[1]))
        values = [v for _, v in kept]
        if not kept or min(values) < 0 or len(set(values)) != len(values):
            raise ConfigError(f"labels {dict(names)}: expected distinct values above 0, one per class")
        if len(kept) >= IGNORE:
            raise ConfigError(f"labels: {len(kept)} classes; at most {IGNORE - 1} are possible")
        if max(values) > MAX_LABEL:
            raise ConfigError(f"labels {dict(kept[-1:])}: expected values up to {MAX_LABEL}, the largest of 32 bits")
        if len(regions or {}) >= IGNORE:
            raise ConfigError(f"regions: {len(regions or {})} of them; at most {IGNORE - 1} are possible")
        if instances and regions:
            raise ConfigError("regions: object numbers (instances: true) have one class each; nothing to unite")
        _check_ignore(ignore, kept)
        unions = _unions(regions or {}, kept)
        painted = tuple(order) if order is not None else _painting_order(unions)
        _check_order(unions, painted)
        return cls(kept, instances, unions, painted, ignore)

    @classmethod
    def of_regions(
        cls, regions: Mapping[str, Sequence[int]], order: Sequence[int], *, ignore: int | None = None
    ) -> LabelTable:
        """The table of a data set that names only regions, as nnU-Net's do (Isensee et al. 2021).

        A class takes the name of the region that is this class alone, or else ``label <value>``.

        Args:
            regions: region name -> values, in the order of the network's outputs.
            order: value that each region paints (``regions_class_order``).
            ignore: value of voxels without annotation.

        Raises:
            ConfigError: see ``create``.
        """
        alone = {next(iter(values)): name for name, values in regions.items() if len(values) == 1}
        values = sorted({v for members in regions.values() for v in members})
        names = {alone.get(v, f"label {v}"): v for v in values}
        return cls.create(names, regions=regions, order=order, ignore=ignore)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground class names in channel order 1..K-1."""
        return tuple(n for n, _ in self.names)

    @property
    def values(self) -> tuple[int, ...]:
        """Foreground values in channel order 1..K-1."""
        return tuple(v for _, v in self.names)

    @property
    def classes(self) -> int:
        """Classes K of the prepared label maps, background included."""
        return len(self.names) + 1

    @property
    def channels(self) -> int:
        """Network output channels: regions if there are any, else classes, background included."""
        return len(self.regions) or self.classes

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of what is predicted and scored: regions if there are any, else foreground classes."""
        return tuple(n for n, _ in self.regions) or self.class_names

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Channel indices that make up each of ``target_names``: one for a class, one or more for a region."""
        if not self.regions:
            return tuple((k,) for k in range(1, self.classes))
        return tuple(tuple(self.values.index(v) + 1 for v in values) for _, values in self.regions)

    @property
    def painted(self) -> tuple[int, ...]:
        """Channel index that each region paints, in painting order; empty without regions."""
        return tuple(self.values.index(v) + 1 for v in self.order)

    @property
    def objects_have_classes(self) -> bool:
        """Whether files hold object numbers, and each object has one of several classes."""
        return self.instances and len(self.names) > 1

    @property
    def colours(self) -> dict[str, str]:
        """Target name -> colour in figures."""
        return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(self.target_names)}

    def foreground(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a map (S) of file values shows a class or an object; not where annotation is missing."""
        mask: NDArray[np.bool_] = labels > 0
        return mask if self.ignore is None else mask & (labels != self.ignore)

    def to_channels(self, labels: NDArray[Any], object_classes: Mapping[int, int] | None = None) -> NDArray[np.uint8]:
        """Map file values (S) to channel indices 0..K-1 or ``IGNORE`` (S, uint8), in integers from end to end.

        Args:
            labels: file values.
            object_classes: of object numbers of several classes: the class (a value of ``names``) of each.

        Raises:
            DataError: for a value that is no class, or an object without a class.
        """
        if self.instances:
            out = (labels > 0).astype(np.uint8)
            if self.objects_have_classes:
                inside = self.foreground(labels)
                channels = {number: self.values.index(value) + 1 for number, value in (object_classes or {}).items()}
                out[inside] = looked_up(labels[inside], channels)
        else:
            out = np.zeros(labels.shape, dtype=np.uint8)
            for channel, value in enumerate(self.values, start=1):
                out[labels == value] = channel
        if self.ignore is not None:
            out[labels == self.ignore] = IGNORE
        strange = np.setdiff1d(labels[out == 0], [0]) if not self.instances else np.array([])
        if strange.size:
            raise DataError(f"label values {strange[:5].tolist()} are no class; there are {dict(self.names)}")
        return out

    def to_values(self, channels: NDArray[Any]) -> NDArray[Any]:
        """Map channel indices 0..K-1 (S) back to file values (S), in the smallest unsigned type that holds them."""
        table = np.array([0, *self.values], dtype=np.min_scalar_type(max(self.values)))
        values: NDArray[Any] = table[channels]
        return values

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "names": dict(self.names),
            "instances": self.instances,
            "regions": [[name, list(values)] for name, values in self.regions],
            "order": list(self.order),
            "ignore": self.ignore,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelTable:
        """The inverse of ``to_json``.

        Raises:
            OutOfBounds: if a field is missing, or has another type or range.
            ConfigError: as ``create``.
        """
        if not isinstance(value, Mapping) or (odd := value.keys() ^ _FIELDS.keys()):
            found = value if not isinstance(value, Mapping) else sorted(map(str, odd))
            raise OutOfBounds(f"labels: found {shortened(found)}; expected the fields {', '.join(_FIELDS)}")
        read = {name: bound.read(f"labels.{name}", value[name]) for name, bound in _FIELDS.items()}
        return cls.create(read.pop("names"), regions=dict(read.pop("regions")), **read)


Unions = tuple[tuple[str, tuple[int, ...]], ...]
_NAME, _VALUES = text(10_000), several(whole(1, MAX_LABEL), 1, MAX_CLASSES)
_FIELDS: Mapping[str, Bound] = {
    "names": table(whole(0, MAX_LABEL), MAX_CLASSES, keys=_NAME),
    "instances": flag(),
    "regions": several(
        Bound(
            "a name and its values",
            lambda v: isinstance(v, list | tuple) and len(v) == 2 and _NAME.fits(v[0]) and _VALUES.fits(v[1]),
        ),
        0,
        MAX_CLASSES,
    ),
    "order": several(whole(1, MAX_LABEL), 0, MAX_CLASSES),
    "ignore": perhaps(whole(-MAX_LABEL, MAX_LABEL)),
}


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not is_printable(name):
            raise ConfigError(f"labels: class '{escaped(name)}' has a character that cannot be printed; rename it")


def _check_ignore(ignore: int | None, names: Sequence[tuple[str, int]]) -> None:
    if ignore == 0:
        raise ConfigError("ignore: 0 is background; give voxels without annotation a value of their own, e.g. 255")
    for name, value in names:
        if value == ignore:
            raise ConfigError(
                f"ignore: {ignore} is also the value of class '{name}'; take that name out of `labels`, or give voxels "
                "without annotation another value"
            )


def _unions(regions: Mapping[str, Sequence[str | int]], names: Sequence[tuple[str, int]]) -> Unions:
    """The regions by values, checked for themselves."""
    known = dict(names)
    unions = []
    for region, members in regions.items():
        unknown = [m for m in members if m not in known and m not in known.values()]
        if unknown:
            raise ConfigError(f"regions.{region}: no class {unknown}; there are {list(known)} (background is none)")
        values = [known[m] if isinstance(m, str) else int(m) for m in members]
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"regions.{region}: {list(members)}; expected one or more classes, each once")
        if region in known and values != [known[region]]:
            raise ConfigError(f"regions.{region}: a class has this name, but the region is more; name it otherwise")
        unions.append((str(region), tuple(values)))
    homeless = [name for name, value in names if unions and not any(value in v for _, v in unions)]
    if homeless:
        raise ConfigError(f"regions: classes {homeless} are in none, so nothing would be learnt of them; add a region")
    return tuple(unions)


def _painting_order(unions: Unions) -> tuple[int, ...]:
    """For each region its first class that no later region paints over; its first class if all are painted over."""
    order = []
    for place, (_, values) in enumerate(unions):
        later = {v for _, others in unions[place + 1 :] for v in others}
        order.append(next((v for v in values if v not in later), values[0]))
    return tuple(order)


def _check_order(unions: Unions, order: Sequence[int]) -> None:
    """Raise ``ConfigError`` unless every class, split into its regions and painted, is in the same regions again."""
    if len(order) != len(unions):
        raise ConfigError(f"regions: {len(unions)} of them, but {len(order)} values to paint {list(order)}")
    for (region, values), painted in zip(unions, order, strict=True):
        if painted not in values:
            raise ConfigError(f"regions.{region}: paints {painted}, which is not among its values {list(values)}")
    for value in sorted({v for _, values in unions for v in values}):
        mine = [name for name, values in unions if value in values]
        back = [painted for (_, values), painted in zip(unions, order, strict=True) if value in values][-1]
        theirs = [name for name, values in unions if back in values]
        if mine != theirs:
            raise ConfigError(
                f"regions: value {value} is in {mine}, but painted in this order it would become {back}, which is "
                f"in {theirs}; list larger regions before the smaller ones inside them, and give every class that must "
                "be distinguished a region that is the last one for it"
            )
