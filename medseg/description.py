"""What the fields of ``model.json`` may be, besides its plan; free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medseg.bounds import Bound, OutOfBounds, several, shortened, table, text, whole
from medseg.files import SAFE_NAME
from medseg.limits import MAX_CHANNELS, MAX_FOLDS, MAX_PARAMETERS, MAX_SEED

_SHA256 = text(64, re.compile(r"[0-9a-f]{64}"))
_DATASET: Mapping[str, Bound] = {
    "name": text(64, SAFE_NAME),
    "dims": whole(2, 3),
    "channels": several(text(10_000), 1, MAX_CHANNELS),
}
_FIELDS: Mapping[str, Bound] = {
    "fold": whole(0, MAX_FOLDS - 1),
    "seed": whole(0, MAX_SEED),
    "parameters": whole(1, MAX_PARAMETERS),
    "fingerprint": text(128, re.compile(r"[0-9A-Za-z-]+")),
    "inputs": table(text(128), 100),
    "weights_sha256": _SHA256,
    "allowed": several(text(10_000), 0, 100),
    "provenance": table(text(1000), 100),
}


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
