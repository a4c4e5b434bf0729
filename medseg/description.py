"""What the fields of ``model.json`` may be, besides its plan; free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medseg.bounds import LARGEST, Bound, OutOfBounds, number, positive, several, shortened, table, text, whole, word
from medseg.files import SAFE_NAME
from medseg.limits import MAX_CHANNELS, MAX_FOLDS, MAX_PARAMETERS, MAX_SEED
from medseg.results.key import ALL

_SHA256 = text(64, re.compile(r"[0-9a-f]{64}"))
_NUMBER = whole(0, MAX_FOLDS - 1)
_DATASET: Mapping[str, Bound] = {
    "name": text(64, SAFE_NAME),
    "dims": whole(2, 3),
    "channels": several(text(10_000), 1, MAX_CHANNELS),
}
_FIELDS: Mapping[str, Bound] = {
    "fold": Bound(f"{_NUMBER.expected}, or {ALL}", lambda v: v == ALL or _NUMBER.fits(v)),
    "seed": whole(0, MAX_SEED),
    "parameters": whole(1, MAX_PARAMETERS),
    "fingerprint": text(128, re.compile(r"[0-9A-Za-z-]+")),
    "inputs": table(text(128), 100),
    "weights_sha256": _SHA256,
    "allowed": several(text(10_000), 0, 100),
    "provenance": table(text(1000), 100),
}
# Fields that models of earlier versions lack.
_ADDED: Mapping[str, Bound] = {"accepts": several(text(64, re.compile(r"[a-z0-9-]+")), 0, 100)}
_CHANNEL = Bound("a name or a number", lambda v: text(10_000).fits(v) or whole(0, MAX_CHANNELS).fits(v))
# Every value is looked at once more, by its reader (``medseg.reading``).
_READING: Mapping[str, Bound] = {
    "axes": text(32),
    "channels": several(_CHANNEL, 0, MAX_CHANNELS),
    "names": several(text(10_000), 0, MAX_CHANNELS),
    "colour": text(16),
    "spacing": several(positive(LARGEST), 2, 3),
    "unit": text(16),
    "sizes": text(16),
    "orientation": text(16),
    "fill": number(-LARGEST, LARGEST),
}
_SIZES = several(positive(LARGEST), 2, 3)
_VOXEL_SIZES: Mapping[str, Bound] = {"unit": word("mm", "um", "px"), "low": _SIZES, "median": _SIZES, "high": _SIZES}


def require_description(facts: Mapping[str, Any]) -> None:
    """Raise ``OutOfBounds`` unless the fields of ``model.json`` have their types and ranges.

    Its plan, labels and record of subjects have readers of their own.
    """
    dataset = facts.get("dataset")
    if not isinstance(dataset, Mapping):
        raise OutOfBounds(f"dataset: found {shortened(dataset)}; expected name, dims, channels and labels")
    for section, bounds, prefix in ((dataset, _DATASET, "dataset."), (facts, _FIELDS, "")):
        for name, bound in bounds.items():
            if name not in section:
                raise OutOfBounds(f"{prefix}{name}: is missing; expected {bound.expected}")
            bound.read(f"{prefix}{name}", section[name])
    for name, bound in _ADDED.items():
        if name in facts:
            bound.read(name, facts[name])
    _require_section("reading", facts.get("reading", {}), _READING, whole_section=False)
    if "voxel_sizes" in facts:
        _require_section("voxel_sizes", facts["voxel_sizes"], _VOXEL_SIZES, whole_section=True)


def _require_section(where: str, value: Any, bounds: Mapping[str, Bound], *, whole_section: bool) -> None:
    """Raise ``OutOfBounds`` unless a section has no other fields than these, each within its bound, or all of them."""
    if not isinstance(value, Mapping) or not set(value) <= set(bounds) or (whole_section and len(value) < len(bounds)):
        raise OutOfBounds(f"{where}: found {shortened(value)}; expected {', '.join(bounds)}")
    for name in value:
        bounds[name].read(f"{where}.{name}", value[name])
