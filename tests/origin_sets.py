"""Generated images for the search for cases of one origin: independent ones of many kinds, and related ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

from medseg.image.geometry import Geometry
from medseg.ingest.origin.links import Link, find_links
from medseg.ingest.origin.sketch import Sketch, take_sketch
from medseg.ingest.phantoms import DRAW

Draw = Callable[[Generator, int], np.ndarray]


def sketch(image: np.ndarray, spacing: float = 1.0) -> Sketch:
    """The sketch of a grey image (*S)."""
    return take_sketch(image[None], Geometry.from_spacing(image.shape, (spacing,) * image.ndim))


def links(images: dict[str, np.ndarray]) -> list[Link]:
    return find_links({name: sketch(image) for name, image in images.items()})


def smooth(rng: Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal(shape), sigma)
    return (field - field.mean()) / field.std()


def blobs(rng: Generator, shape: tuple[int, ...], count: int, radius: float) -> np.ndarray:
    """Bright round objects of varied size, 0 to about 1."""
    field = np.zeros(shape)
    places = tuple(rng.integers(0, n, count) for n in shape)
    field[places] = rng.uniform(0.5, 1.5, count)
    return np.clip(gaussian_filter(field, radius) * radius**2 * 6, 0, 1)


def shading(shape: tuple[int, ...]) -> np.ndarray:
    """A vignette, the same in every image."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return 1 - 0.5 * sum(a**2 for a in axes) / len(shape)


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


FLAT = (192, 224)


def cells(rng: Generator, _: int) -> np.ndarray:
    image = 12 + 160 * blobs(rng, FLAT, 60, 4.0) + 3 * rng.standard_normal(FLAT)
    return bytes_of(image)


def texture(rng: Generator, _: int) -> np.ndarray:
    return bytes_of(128 + 40 * smooth(rng, FLAT, 1.5))


def soft(rng: Generator, _: int) -> np.ndarray:
    """Nothing but smooth light: its borders resemble many others."""
    return (30000 + 6000 * smooth(rng, FLAT, 25.0)).astype(np.uint16)


def soft_noisy(rng: Generator, _: int) -> np.ndarray:
    return bytes_of(120 * shading(FLAT) + 4 * smooth(rng, FLAT, 30.0) + 2 * rng.standard_normal(FLAT))


def shaded(rng: Generator, _: int) -> np.ndarray:
    """The same illumination and noise of its own: all that it shares is a convention."""
    return bytes_of(200 * shading(FLAT) + rng.standard_normal(FLAT))


def low_contrast(rng: Generator, _: int) -> np.ndarray:
    return bytes_of(100 + 1.5 * smooth(rng, FLAT, 6.0) + rng.standard_normal(FLAT))


def saturated(rng: Generator, _: int) -> np.ndarray:
    return bytes_of(255 + 80 * smooth(rng, FLAT, 5.0))


def nearly_empty(rng: Generator, _: int) -> np.ndarray:
    return bytes_of(2 + 120 * blobs(rng, FLAT, 2, 4.0) + 0.4 * rng.standard_normal(FLAT))


def masked(rng: Generator, _: int) -> np.ndarray:
    """A round field of view, as of an endoscope or a fundus camera, cut off above and below."""
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, n) for n in FLAT], indexing="ij")
    inside = np.hypot(0.8 * rows, columns) < 0.95
    return bytes_of(inside * (110 + 25 * smooth(rng, FLAT, 3.0)))


def body(rng: Generator, _: int) -> np.ndarray:
    """One organ seen from one side, always in the same place: an outline, ribs, and a texture of its own."""
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, n) for n in FLAT], indexing="ij")
    size = rng.uniform(0.95, 1.05, 2)
    outline = np.hypot(rows / (0.9 * size[0]), columns / (0.75 * size[1])) < 1
    ribs = np.sin(2 * np.pi * (3.5 * rows * size[0] + 0.6 * columns**2 + rng.normal(0, 0.05)))
    image = outline * (110 + 30 * ribs) + 12 * smooth(rng, FLAT, 4.0) + 3 * rng.standard_normal(FLAT)
    return bytes_of(image)


PICTURES: dict[str, Draw] = {
    d.__name__: d
    for d in (cells, texture, soft, soft_noisy, shaded, low_contrast, saturated, nearly_empty, masked, body)
} | {"phantom": lambda rng, case: DRAW["cells"](rng, case)[0]}


SOLID = (40, 36, 30)


def scan(rng: Generator) -> np.ndarray:
    """Integers as a scanner stores them: one organ, always in the same place, with a texture of its own."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SOLID], indexing="ij")
    size = rng.uniform(0.9, 1.1, 3)
    inside = sum((a / (0.8 * s)) ** 2 for a, s in zip(axes, size, strict=True)) < 1
    level = rng.uniform(300, 900)
    return np.round(40 + level * inside + 60 * smooth(rng, SOLID, 2.0) + 20 * rng.standard_normal(SOLID)).clip(0)


def ct(rng: Generator, _: int) -> np.ndarray:
    return (scan(rng) - 1024).astype(np.int16)


def parts_of_255(rng: Generator, _: int) -> np.ndarray:
    return ((scan(rng) / 6).clip(0, 255).round() / 255).astype(np.float32)


def from_0_to_1(rng: Generator, _: int) -> np.ndarray:
    values = scan(rng)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def z_scored(rng: Generator, _: int) -> np.ndarray:
    values = scan(rng)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def percentiles(rng: Generator, _: int) -> np.ndarray:
    values = scan(rng)
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def one_scale(rng: Generator, _: int) -> np.ndarray:
    """Standardised with the mean and deviation of the whole set: a convention."""
    return ((scan(rng) - 431.7) / 123.4567).astype(np.float32)


def floats(rng: Generator, _: int) -> np.ndarray:
    return (scan(rng) + 0.2 * rng.standard_normal(SOLID)).astype(np.float32)


VOLUMES: dict[str, Draw] = {
    d.__name__: d for d in (ct, parts_of_255, from_0_to_1, z_scored, percentiles, one_scale, floats)
} | {"organs": lambda rng, case: DRAW["organs"](rng, case - case % 4)[0]}  # all turned alike


@cache
def independent(kind: str, draw: Draw, count: int, seed: int) -> Mapping[str, Sketch]:
    """Sketches of images that share nothing but their kind; drawn once."""
    kinds = [*PICTURES, *VOLUMES]
    return {
        f"{kind}{case:05d}": sketch(draw(np.random.default_rng([seed, kinds.index(kind), case]), case))
        for case in range(count)
    }
