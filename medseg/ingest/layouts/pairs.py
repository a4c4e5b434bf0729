"""Layout ``pairs``: ``images/NAME.*`` and ``masks/NAME.*``, paired by name; a folder is one image (a DICOM series)."""

from __future__ import annotations

from pathlib import Path

from medseg.config import DatasetConfig
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, by_stem, outside, required_table, visible


def pairs_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Pair the entries of two folders.

    Raises:
        ConfigError: if the configuration names no classes.
    """
    found = Found(labels=required_table(dataset, config))
    found.faults = [
        fault("missing", "-", name, "no such folder", "the pairs layout has folders images and masks")
        for name in ("images", "masks")
        if not (root / name).is_dir()
    ]
    if found.faults:
        return found
    images, masks = (by_stem(root, visible(root, name)) for name in ("images", "masks"))
    for case in sorted(images.keys() | masks.keys()):
        pictures, labels = images.get(case, []), masks.get(case, [])
        escapes = outside(root, pictures + labels)
        found.faults += escapes
        if not labels:
            found.faults += [fault("image-without-label", case, p, f"no file masks/{case}.*") for p in pictures]
        elif not pictures:
            found.faults += [fault("label-without-image", case, m, f"no file images/{case}.*") for m in labels]
        else:
            found.faults += [fault("duplicate-id", case, m, f"the same id as {labels[0]}") for m in labels[1:]]
            bad = {escape.file for escape in escapes}
            pairs = [(picture, labels[0]) for picture in pictures if not bad & {picture, labels[0]}]
            found.candidates += [Candidate(case, "", (picture,), (label,)) for picture, label in pairs]
    return found
