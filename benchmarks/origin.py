"""What the search for cases of one origin costs, beyond reading: processor time and bytes, by number of cases.

    python benchmarks/origin.py [--cases 1000 10000] [--out benchmarks/results/origin.json]

Pictures of 256 x 256 are generated in memory: fields of blobs on a textured ground. One in ten fields is cut into four
tiles, one in ten pictures comes a second time, brighter and compressed by JPEG at quality 75; all others are
independent. Measured on one thread: the sketches (taken while files are read) and the search among them. What is found
is compared with what was put in, by pairs of cases; the groups that tiles make are what counts for subjects.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from scipy.ndimage import gaussian_filter

from medseg.files import write_json
from medseg.image.geometry import Geometry
from medseg.ingest.origin.components import connected
from medseg.ingest.origin.links import find_links
from medseg.ingest.origin.sketch import Sketch, take_sketch

ROOT = Path(__file__).resolve().parents[1]
SIZE = 256


def field(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blobs on a textured ground (size, size), 8-bit."""
    blobs = np.zeros((size, size))
    count = size * size // 700
    blobs[tuple(rng.integers(0, size, (2, count)))] = rng.uniform(0.3, 1.5, count)
    light = 14_000 * gaussian_filter(blobs, 4.0) + 60 * gaussian_filter(rng.standard_normal((size, size)), 2.0)
    return np.clip(30 + light + rng.standard_normal((size, size)), 0, 255).astype(np.uint8)


def pictures(count: int, seed: int) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """At least ``count`` pictures by name, and the pairs that are related."""
    drawn: list[tuple[str, np.ndarray]] = []
    related: list[tuple[str, str]] = []
    number = 0
    while len(drawn) < count:
        rng = np.random.default_rng([seed, number])
        if number % 10 == 0:
            large = field(rng, 2 * SIZE)
            tiles = [large[r : r + SIZE, c : c + SIZE] for r in (0, SIZE) for c in (0, SIZE)]
            names = [f"f{rng.integers(1 << 40):010x}" for _ in tiles]
            related += [(names[a], names[b]) for a, b in ((0, 1), (0, 2), (1, 3), (2, 3))]
            drawn += zip(names, tiles, strict=True)
        else:
            one = field(rng, SIZE)
            drawn.append((f"p{number:06d}", one))
            if number % 10 == 1:
                again = imagecodecs.jpeg_decode(imagecodecs.jpeg_encode((0.8 * one + 40).astype(np.uint8), 75))
                related.append((f"p{number:06d}", f"q{number:06d}"))
                drawn.append((f"q{number:06d}", again))
        number += 1
    return dict(drawn), related


def measure(count: int) -> dict[str, Any]:
    images, related = pictures(count, 0)
    grid = Geometry.from_spacing((SIZE, SIZE), (1.0, 1.0))
    begun = time.process_time()
    sketches: dict[str, Sketch | None] = {name: take_sketch(image[None], grid) for name, image in images.items()}
    taken = time.process_time() - begun
    begun = time.process_time()
    links = find_links(sketches)
    searched = time.process_time() - begun
    found = {(link.one, link.other) for link in links}
    wanted = {(min(pair), max(pair)) for pair in related}
    together = {frozenset(group) for group in connected(sorted(wanted))}
    return {
        "pictures": len(images),
        "sketch_cpu_ms_per_picture": round(1000 * taken / len(images), 2),
        "search_cpu_s": round(searched, 2),
        "sketch_bytes": max(_size(s) for s in sketches.values() if s is not None),
        "pairs_put_in": len(wanted),
        "pairs_found": len(found & wanted),
        "pairs_found_besides": len(found - wanted),
        "groups_put_in": len(together),
        "groups_found_exactly": len(together & {frozenset(group) for group in connected(sorted(found))}),
    }


def _size(sketch: Sketch) -> int:
    """Bytes of the arrays of a sketch."""
    arrays = [*(b.strips for b in sketch.borders), *(t for t in (sketch.whole, sketch.native) if t is not None)]
    return sum(array.nbytes for array in arrays)


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "load_average": round(os.getloadavg()[0], 1),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads_used": 1,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/origin.json")
    given = parser.parse_args()
    found = {
        "runs": [measure(count) for count in given.cases],
        "hardware": hardware(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    write_json(given.out, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
