"""Generated data sets with known truth, for the demonstration and for tests.

Each case is drawn from a generator keyed by (seed, kind, case), so it does not depend on how many others
there are. Nothing here imitates a particular scanner or microscope; it has the difficulties that matter:
touching objects, uneven light, noise and debris for cells; anisotropic voxels, oblique grids and look-alike
neighbours for organs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg.errors import ConfigError, DataError
from medseg.files import write_json
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.outputs import writing
from medseg.progress import Progress
from medseg.records import write_record

if TYPE_CHECKING:
    from medseg.config import Config

Kind = Literal["cells", "organs"]
Phantom = tuple[NDArray[Any], NDArray[Any], Geometry]
Field = NDArray[np.float64]

DONE = "phantoms.json"
ORGANS = {"liver": 1, "kidney": 2}
# Axis order and flips of the stored grid, in turn; the body is drawn in RAS+, so the second is LPS+.
ORIENTATIONS: tuple[tuple[tuple[int, int, int], tuple[bool, bool, bool]], ...] = (
    ((0, 1, 2), (False, False, False)),
    ((0, 1, 2), (True, True, False)),
    ((0, 1, 2), (True, False, False)),
    ((1, 2, 0), (True, True, False)),
)


def run_phantoms(config: Config, dataset: str) -> Path:
    """Generate the data set that ``generate:`` describes; returns its folder (``phantoms.json`` comes last).

    Raises:
        ConfigError: if the data set has no ``generate:``.
        DataError: if its folder holds other data.
    """
    section = config.dataset(dataset)
    if section.generate is None:
        raise ConfigError(f"datasets.{dataset}: has no `generate`, so there is nothing to generate")
    folder = config.folder_of(dataset)
    generate(section.generate.kind, section.generate.cases, section.generate.seed, folder)
    return folder


def generate(kind: Kind, cases: int, seed: int, folder: Path) -> None:
    """Write a data set of ``cases`` phantoms into ``folder``; ``phantoms.json`` appears last.

    Args:
        kind: ``cells`` (2-D, layout pairs, object numbers) or ``organs`` (3-D, decathlon, two classes).
        cases: number of cases.
        seed: random seed; equal arguments give equal bytes.
        folder: the data set's folder; surplus phantoms of an earlier call are removed from it.

    Raises:
        DataError: if the folder holds files that are not phantoms; they are left alone.
    """
    with writing(folder / DONE, folder):
        _draw_all(kind, cases, seed, folder)


def _draw_all(kind: str, cases: int, seed: int, folder: Path) -> None:
    images, labels, suffix = PLACES[kind]
    wanted = {f"{kind}_{case:03d}{suffix}" for case in range(cases)}
    surplus = _surplus(folder / images, wanted) + _surplus(folder / labels, wanted)
    for path in (folder / DONE, *surplus):
        path.unlink(missing_ok=True)
    progress = Progress(f"phantoms {kind}", cases)
    for case in range(cases):
        rng = np.random.Generator(np.random.PCG64([seed, list(PLACES).index(kind), case]))
        image, truth, geometry = DRAW[kind](rng, case)
        name = f"{kind}_{case:03d}{suffix}"
        write_labels(folder / images / name, image, geometry)  # grey values are integers, too
        write_labels(folder / labels / name, truth, geometry)
        progress.update(case + 1)
    if kind == "organs":
        write_json(folder / "dataset.json", _decathlon_index(sorted(wanted)))
    write_record(folder / DONE, {"kind": kind, "cases": cases, "seed": seed})


def _surplus(folder: Path, wanted: set[str]) -> list[Path]:
    """Phantoms of an earlier call that this one will not make; other files are an error."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.name in wanted:
            continue
        if not re.fullmatch(r"(cells|organs)_\d{3,}(\.png|\.nii\.gz)", path.name):
            raise DataError(
                f"{path}: not a phantom, so this folder holds other data; "
                "give `generate` a folder of its own, or remove `generate` from the configuration"
            )
        found.append(path)
    return found


def _decathlon_index(names: list[str]) -> dict[str, Any]:
    return {
        "name": "organs",
        "description": "generated CT-like volumes with two organs",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(value): name for name, value in ORGANS.items()}},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
    }


def _smooth_noise(rng: Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> Field:
    """Gaussian noise with correlation length ``sigma`` (voxels), mean 0 and standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    field: Field = gaussian_filter(rng.standard_normal(shape), sigma)
    field -= field.mean()
    field /= field.std()
    return field


# Cells

# No nucleus reaches further than this from its centre, in pixels.
REACH = 16


def _draw_cells(rng: Generator, case: int) -> Phantom:
    """A fluorescence-like picture (rows, columns) and its object numbers; every fourth case has 16 bits."""
    from scipy.ndimage import gaussian_filter

    shape = (int(rng.integers(120, 145)), int(rng.integers(120, 145)))
    truth, depth = _place_nuclei(rng, shape)
    count = int(truth.max())
    brightness = np.append(0.0, np.clip(rng.lognormal(0.0, 0.5, count), 0.3, 3.0))
    texture = 1.0 + 0.2 * _smooth_noise(rng, shape, 2.0)
    light = brightness[truth] * np.sqrt(1.0 - 0.7 * np.minimum(depth, 1.0) ** 2) * texture
    light += _debris(rng, shape)
    light += 0.1 + 0.35 * gaussian_filter(light, 12.0)  # light from out of focus
    rows, columns = np.meshgrid(*[np.linspace(-1.0, 1.0, n) for n in shape], indexing="ij")
    angle = rng.uniform(0.0, 2 * np.pi)
    slope = np.cos(angle) * rows + np.sin(angle) * columns
    shading = np.clip(1.0 + 0.4 * slope - 0.2 * (rows**2 + columns**2), 0.25, None)
    sharpness = rng.uniform(0.9, 1.5)
    expected = np.clip(gaussian_filter(light * shading, sharpness), 0.0, None)
    photons = rng.uniform(25.0, 60.0)
    counts = rng.poisson(expected * photons) / photons + rng.normal(0.0, 0.05, shape)
    gain, offset, top = (60.0, 12.0, 255) if case % 4 != 3 else (8000.0, 900.0, 65535)
    image = np.clip(np.round(counts * gain + offset), 0, top).astype(np.uint8 if top == 255 else np.uint16)
    return image, truth.astype(np.uint16), Geometry.from_spacing(shape, (1.0, 1.0))


def _place_nuclei(rng: Generator, shape: tuple[int, int]) -> tuple[NDArray[np.int64], Field]:
    """Object numbers 1..n of wobbly ellipses, many touching; and each pixel's depth (0 centre, 1 rim)."""
    truth = np.zeros(shape, dtype=np.int64)
    depth = np.full(shape, np.inf)
    centres: list[tuple[float, float]] = []
    wanted = int(rng.integers(36, 54))
    for _ in range(wanted * 8):
        if len(centres) == wanted:
            break
        if centres and rng.random() < 0.8:
            row, column = centres[int(rng.integers(len(centres)))]
            angle, distance = rng.uniform(0.0, 2 * np.pi), rng.uniform(14.0, 19.0)
            row, column = row + distance * np.sin(angle), column + distance * np.cos(angle)
        else:
            row, column = rng.uniform(0.0, shape[0]), rng.uniform(0.0, shape[1])
        window = tuple(
            slice(max(0, int(c) - REACH), min(n, max(0, int(c) + REACH + 1)))
            for c, n in zip((row, column), shape, strict=True)
        )
        rows, columns = np.ogrid[window]
        radius = _nucleus(rng, rows - row, columns - column)
        inside = radius < 1.0
        if inside.sum() < 60 or (truth[window][inside] > 0).mean() > 0.1:
            continue
        centres.append((row, column))
        mine = inside & (radius < depth[window])
        truth[window][mine] = len(centres)
        depth[window][mine] = radius[mine]
    return truth, depth


def _nucleus(rng: Generator, rows: Field, columns: Field) -> Field:
    """Distance from a nucleus' centre relative to its rim, which is an ellipse with a little wobble."""
    turn = rng.uniform(0.0, np.pi)
    along = np.cos(turn) * rows + np.sin(turn) * columns
    across = -np.sin(turn) * rows + np.cos(turn) * columns
    u, v = along / rng.uniform(8.0, 11.5), across / rng.uniform(6.0, 8.5)
    theta = np.arctan2(v, u)
    phases = rng.uniform(0.0, 2 * np.pi, 2)
    rim = 1.0 + 0.06 * np.cos(2 * theta + phases[0]) + 0.05 * np.cos(3 * theta + phases[1])
    radius: Field = np.hypot(u, v) / rim
    return radius


def _debris(rng: Generator, shape: tuple[int, int]) -> Field:
    """A few bright specks that are no nuclei."""
    from scipy.ndimage import gaussian_filter

    specks = np.zeros(shape)
    for _ in range(int(rng.integers(3, 8))):
        specks[int(rng.integers(shape[0])), int(rng.integers(shape[1]))] += rng.uniform(10.0, 25.0)
    blurred: Field = gaussian_filter(specks, 1.3)
    return blurred


# Organs

# (tissue, mean HU, centre mm, radii mm), painted in this order in RAS+ millimetres from the middle of the
# body; an infinite radius makes a cylinder. Spleen and vessel look like liver and kidney; only their place differs.
_INF = np.inf
TISSUES: tuple[tuple[str, float, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("stomach", 25.0, (-13.0, 11.0, 12.0), (13.0, 12.0, 19.0)),
    ("liver", 105.0, (17.0, 4.0, 9.0), (21.0, 22.0, 27.0)),
    ("spleen", 125.0, (-27.0, -8.0, 13.0), (11.0, 14.0, 17.0)),
    ("muscle", 62.0, (11.0, -17.0, 0.0), (6.0, 6.0, _INF)),
    ("muscle", 62.0, (-11.0, -17.0, 0.0), (6.0, 6.0, _INF)),
    ("kidney", 190.0, (20.0, -15.0, -13.0), (10.0, 10.0, 19.0)),
    ("kidney", 190.0, (-21.0, -15.0, -11.0), (10.0, 10.0, 19.0)),
    ("fat", -85.0, (14.0, -15.0, -13.0), (4.0, 4.0, 8.0)),
    ("fat", -85.0, (-15.0, -15.0, -11.0), (4.0, 4.0, 8.0)),
    ("bone", 380.0, (0.0, -21.0, 0.0), (8.0, 7.0, _INF)),
    ("vessel", 230.0, (2.0, -9.0, 0.0), (5.0, 5.0, _INF)),
)


def _draw_organs(rng: Generator, case: int) -> Phantom:
    """A CT-like volume in HU (int16), its two organs (uint8), on an oblique grid of anisotropic voxels."""
    from scipy.ndimage import gaussian_filter

    shape = (int(rng.integers(44, 49)), int(rng.integers(44, 49)), int(rng.integers(16, 20)))
    plane, thickness = 2.1 * rng.uniform(0.92, 1.08), 5.4 * rng.uniform(0.88, 1.08)
    spacing = (plane, plane, thickness)
    hu, truth = _anatomy(rng, shape, spacing)
    noise = _smooth_noise(rng, shape, (0.6, 0.6, 0.0))
    image = gaussian_filter(hu, (0.7, 0.7, 0.4)) + rng.uniform(18.0, 28.0) * noise
    geometry = Geometry.create(shape, _oblique_affine(rng, shape, spacing), "mm")
    axes, flips = ORIENTATIONS[case % len(ORIENTATIONS)]
    turned = tuple(a for a, flip in enumerate(flips) if flip)
    rounded = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    stored = (np.flip(rounded.transpose(axes), turned), np.flip(truth.transpose(axes), turned))
    return *stored, geometry.reoriented(axes, flips)


def _anatomy(rng: Generator, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Field, NDArray[np.uint8]]:
    """HU without noise, and the label map, both (X,Y,Z) in RAS+ order."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    # The whole body is warped by a smooth field, so that no outline is an exact ellipse.
    reach = tuple(10.0 / s for s in spacing)
    place = [g + 1.8 * _smooth_noise(rng, shape, reach) for g in np.meshgrid(*axes, indexing="ij")]
    body = np.hypot(place[0] / (43.0 * rng.uniform(0.94, 1.04)), place[1] / (33.0 * rng.uniform(0.94, 1.04)))
    hu = np.where(body < 1.0, np.where(body < 0.92, 45.0, -95.0), -1000.0)
    truth = np.zeros(shape, dtype=np.uint8)
    for name, mean, centre, radii in TISSUES:
        middle = np.asarray(centre) + rng.normal(0.0, 1.5, 3)
        size = np.asarray(radii) * rng.uniform(0.88, 1.1, 3)
        distance = sum(((p - m) / r) ** 2 for p, m, r in zip(place, middle, size, strict=True))
        inside = (distance < 1.0) & (body < 0.9)
        hu[inside] = mean + rng.normal(0.0, 7.0)
        truth[inside] = ORGANS.get(name, 0)
    return hu, truth


def _oblique_affine(rng: Generator, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Field:
    """Voxel-to-world matrix of a grid tilted by 3 to 9 degrees about two axes, its centre near the origin."""
    a, b = np.deg2rad(rng.uniform(3.0, 9.0, 2) * rng.choice([-1.0, 1.0], 2))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing)
    affine[:3, 3] = rng.uniform(-20.0, 20.0, 3) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


# Kind -> folder of images, folder of labels, suffix; and the function that draws a case.
PLACES: dict[str, tuple[str, str, str]] = {
    "cells": ("images", "masks", ".png"),
    "organs": ("imagesTr", "labelsTr", ".nii.gz"),
}
DRAW: dict[str, Callable[[Generator, int], Phantom]] = {"cells": _draw_cells, "organs": _draw_organs}
