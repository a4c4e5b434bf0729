"""Predicts by an ONNX folder from what its README and chain.json say, with other arithmetic than its own reader.

``python onnx_reader.py EXPORT FOLDER``: of each ``NAME.npz`` (image, affine) in the folder, it makes
``NAME.npy``. Classes of volumes and pictures whose axes are all resampled alike; normalisation ``zscore``.
"""

from __future__ import annotations

import itertools
import json
import sys
from math import ceil
from pathlib import Path

import nibabel.orientations as turns
import numpy as np
import onnxruntime
from scipy import ndimage, signal


def coordinates(new: tuple, old: tuple) -> np.ndarray:
    """Centres of new voxels over one extent, in old voxels: (axes, new)."""
    return np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(new, old, strict=True)], indexing="ij")
    )


def resampled(values: np.ndarray, shape: tuple, order: int) -> np.ndarray:
    """Splines; beyond the outer voxel's centre its value stays, which a border of repeated voxels gives."""
    if values.shape == shape:
        return values
    pad = 20
    wide = np.pad(values.astype(np.float64), pad, mode="edge")
    return ndimage.map_coordinates(wide, coordinates(shape, values.shape) + pad, order=order, mode="nearest")


def main(export: Path, folder: Path) -> None:
    chain = json.loads((export / "chain.json").read_text())
    session = onnxruntime.InferenceSession(str(export / chain["network"]["file"]), providers=["CPUExecutionProvider"])
    names = chain["network"]
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            labels = predict(case["image"], case["affine"], chain, lambda x: session.run(None, {names["input"]: x})[0])
        np.save(path.with_suffix(".npy"), labels)


def predict(image: np.ndarray, affine: np.ndarray, chain: dict, network) -> np.ndarray:
    dims, rule, windows = chain["input"]["dims"], chain["resampling"], chain["windows"]
    turn = turns.io_orientation(affine) if dims == 3 else np.array([[0, 1], [1, 1]])
    turned = np.stack([turns.apply_orientation(channel, turn) if dims == 3 else channel for channel in image])
    hit = np.argwhere((turned != 0).any(axis=0))
    low, high = hit.min(axis=0), hit.max(axis=0) + 1
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    sizes = np.linalg.norm(affine[:-1, :-1], axis=0)
    sizes = sizes[np.argsort(turn[:, 0])]
    spacing = [t or s for t, s in zip(rule["spacing"], sizes, strict=True)]
    assert max(sizes) <= 3 * min(sizes) and max(spacing) <= 3 * min(spacing)
    assert {one["name"] for one in chain["normalization"]} == {"zscore"}
    box = turned[(slice(None), *inside)].astype(np.float64)
    scaled = [(channel - channel.mean()) / channel.std() for channel in box]
    shape = tuple(max(1, round(n * s / t)) for n, s, t in zip(box.shape[1:], sizes, spacing, strict=True))
    x = np.stack([resampled(channel, shape, rule["order"]) for channel in scaled]).astype(np.float32)
    maps = blend(x, windows, network)
    fine = np.stack([resampled(one, box.shape[1:], chain["back"]["order"]) for one in maps])
    values = np.array(chain["decoder"]["values"])
    full = np.full(turned.shape[1:], chain["back"]["outside"])
    full[inside] = values[fine.argmax(axis=0)]
    return turns.apply_orientation(full, turns.ornt_transform([[0, 1], [1, 1], [2, 1]], turn)) if dims == 3 else full


def blend(x: np.ndarray, windows: dict, network) -> np.ndarray:
    size = windows["shape"]
    missing = [max(0, w - n) for w, n in zip(size, x.shape[1:], strict=True)]
    padded = np.pad(x, [(0, 0), *[(m // 2, m - m // 2) for m in missing]])
    bells = [signal.windows.gaussian(w, w * windows["sigma"]) for w in size]
    weights = np.maximum(np.prod(np.meshgrid(*bells, indexing="ij"), axis=0), windows["least"])
    places = []
    for n, w in zip(padded.shape[1:], size, strict=True):
        count = ceil((n - w) / int(w * (1 - windows["overlap"]))) + 1
        places.append([round(k * (n - w) / max(count - 1, 1)) for k in range(count)])
    total, norm = 0, np.zeros(padded.shape[1:])
    for begin in itertools.product(*places):
        part = tuple(slice(b, b + w) for b, w in zip(begin, size, strict=True))
        here = np.zeros((1, *padded.shape[1:]))
        axes = range(x.ndim - 1)
        flips = [f for k in range(x.ndim) for f in itertools.combinations(axes, k)] if windows["mirror"] else [()]
        window, made = padded[(slice(None), *part)], 0
        for flip in flips:
            where = tuple(a + 1 for a in flip)
            made = made + np.flip(network(np.ascontiguousarray(np.flip(window, where))[None])[0], where)
        here = np.zeros((len(made), *padded.shape[1:]))
        here[(slice(None), *part)] = made / len(flips) * weights
        total = total + here
        norm[part] += weights
    return (total / norm)[
        (slice(None), *[slice(m // 2, m // 2 + n) for m, n in zip(missing, x.shape[1:], strict=True)])
    ]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
