"""Made-up data sets of many small cases, for what depends on their number: ``benchmarks/scale.py`` and single looks.

    python benchmarks/many.py FOLDER [--pictures 10000] [--volumes 2000]

writes ``FOLDER/pictures`` (8-bit PNG and masks, pairs layout) and ``FOLDER/volumes`` (``.nii.gz``, decathlon layout).
A case is a function of its number alone: a folder of 100 cases is the beginning of one of 10,000.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
from numpy.typing import NDArray

PICTURE, VOLUME = (64, 64), (32, 32, 16)


def scene(case: int, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """One bright ellipsoid on noise of its own, so that no two cases look as if they had one origin; and its mask."""
    rng = np.random.default_rng(case)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    centre, radius = rng.uniform(-0.4, 0.4, len(shape)), rng.uniform(0.25, 0.5, len(shape))
    inside = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radius, strict=True)) < 1
    return 60 + 90 * inside + rng.normal(0, 20, shape), inside.astype(np.uint8)


def write_pictures(folder: Path, cases: range) -> None:
    """Write ``images/p00000.png`` and ``masks/p00000.png``, one pair per number of ``cases``."""
    for place in ("images", "masks"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for case in cases:
        image, mask = scene(case, PICTURE)
        for place, values in (("images", np.clip(image, 0, 255).astype(np.uint8)), ("masks", mask)):
            (folder / place / f"p{case:05d}.png").write_bytes(imagecodecs.png_encode(values, level=1))


def write_volumes(folder: Path, cases: range) -> None:
    """Write files of ``cases`` below ``imagesTr`` and ``labelsTr``, and the ``dataset.json`` of all up to the last."""
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for case in cases:
        image, mask = scene(case, VOLUME)
        for place, values in (("imagesTr", image.round().astype(np.int16)), ("labelsTr", mask)):
            volume = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0]))
            (folder / place / f"v{case:05d}.nii.gz").write_bytes(gzip.compress(volume.to_bytes(), 1, mtime=0))
    names = [f"v{case:05d}.nii.gz" for case in range(cases.stop)]
    index = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ"},
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
    }
    (folder / "dataset.json").write_text(json.dumps(index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--volumes", type=int, default=2_000)
    given = parser.parse_args()
    write_pictures(given.folder / "pictures", range(given.pictures))
    write_volumes(given.folder / "volumes", range(given.volumes))


if __name__ == "__main__":
    main()
