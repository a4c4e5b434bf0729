"""Predicts with a network and the ``chain.json`` beside it; needs numpy and scipy, and nothing of medseg.

As a program (with onnxruntime and nibabel): ``python reader.py IMAGE.nii.gz LABELS.nii.gz``. In Python:
``labels = predict(image, affine, read_chain("chain.json"), network)``, where ``image`` is (C, S), ``affine`` maps its
voxels to the world in the unit of the chain, and ``network`` maps an array (1, C, window) to (1, K, window).

Whole images are held in memory. Labels are those of ``medseg predict`` but for rounding: where two maps are equal up
to single precision, either may win.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Network = Callable[[Array], Array]
Chain = Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A prepared image and how to get back.

    Attributes:
        image: (C, S') what the network sees windows of.
        axes, flips: how the image was turned: transposed, then flipped.
        start, shape: the box of the turned image that was kept.
        native: shape of the image as it came.
        coarse: axis along which slices lie far apart, resampled by nearest neighbour; None: there is none.
    """

    image: Array
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    native: tuple[int, ...]
    coarse: int | None


def read_chain(path: str | Path) -> Chain:
    """The chain of a file; raise ``ValueError`` if it is of another version."""
    chain: Chain = json.loads(Path(path).read_text(encoding="utf-8"))
    if chain.get("format") != "medseg-chain-1":
        raise ValueError(f"{path}: format {chain.get('format')!r}; this reader knows 'medseg-chain-1'")
    return chain


def predict(image: Array, affine: Array, chain: Chain, network: Network) -> Array:
    """The label map (S) of an image (C, S), on its own voxels."""
    prepared = prepare(image, affine, chain)
    return restore(blend(prepared.image, chain, network), prepared, chain)


def prepare(image: Array, affine: Array, chain: Chain) -> Prepared:
    """Turn, crop, normalise and resample an image (C, S)."""
    expected = (len(chain["input"]["channels"]), chain["input"]["dims"])
    if (len(image), image.ndim - 1) != expected:
        raise ValueError(f"an image of shape {image.shape}; expected (channels, axes) = {expected}")
    axes, flips = turn(affine) if expected[1] == 3 else (tuple(range(expected[1])), (False,) * expected[1])
    turned = image.transpose(0, *[a + 1 for a in axes])
    turned = np.flip(turned, tuple(a + 1 for a, flip in enumerate(flips) if flip))
    start, shape = nonzero_box(turned)
    box = turned[(slice(None), *[slice(s, s + n) for s, n in zip(start, shape, strict=True)])]
    sizes = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:-1, :-1], axis=0)
    spacing = [float(sizes[a]) for a in axes]
    rule = chain["resampling"]
    target = [t or s for t, s in zip(rule["spacing"], spacing, strict=True)]
    new = [max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True)]
    coarse = coarse_axis(spacing, target, rule)
    scaled = [normalise(channel, how) for channel, how in zip(box, chain["normalization"], strict=True)]
    resampled = np.stack([resample(channel, new, rule["order"], coarse) for channel in scaled])
    return Prepared(resampled.astype(np.float32), axes, flips, start, shape, image.shape[1:], coarse)


def turn(affine: Array) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Order and flips of the axes of a volume that bring it closest to right, anterior, superior.

    As ``nibabel.io_orientation``: of the nearest rotation, world axes take the image axis that points most along them.
    """
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    unit = linear / np.linalg.norm(linear, axis=0)
    left, sizes, right = np.linalg.svd(unit, full_matrices=False)
    keep = sizes > sizes.max() * 3 * np.finfo(np.float64).eps
    rotation = left[:, keep] @ right[keep]
    axes, flips, free = [0, 0, 0], [False] * 3, rotation.copy()
    for axis in np.argsort(np.min(-(rotation**2), axis=0), kind="stable"):
        world = int(np.argmax(np.abs(free[:, axis])))
        axes[world], flips[world] = int(axis), bool(free[world, axis] < 0)
        free[world] = 0
    return tuple(axes), tuple(flips)


def nonzero_box(image: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and shape of the box of voxels where some channel is not 0; the whole image if none is."""
    some = (image != 0).any(axis=0)
    if not some.any():
        return (0,) * some.ndim, some.shape
    (found,) = ndimage.find_objects(some.astype(np.uint8))
    return tuple(int(s.start) for s in found), tuple(int(s.stop - s.start) for s in found)


def coarse_axis(spacing: Sequence[float], target: Sequence[float], rule: Mapping[str, Any]) -> int | None:
    """The one axis of a volume whose voxels are far longer than the others', first before and then after resampling."""
    if len(spacing) != 3:
        return None
    for sizes in (spacing, target):
        if max(sizes) > rule["anisotropy"] * min(sizes) * (1 + rule["rounding"]):
            longest = [a for a, s in enumerate(sizes) if s >= max(sizes) * (1 - rule["rounding"])]
            return longest[0] if len(longest) == 1 else None
    return None


def normalise(x: Array, how: Mapping[str, Any]) -> Array:
    """One channel by the formula of the chain."""
    name = how["name"]
    v: Array = x.astype(np.float32)
    if name in ("zscore", "zscore_nonzero"):
        inside = np.ones(x.shape, bool) if name == "zscore" else ndimage.binary_fill_holes(x != 0)
        kept = v[inside]
        if kept.size:
            mean, std = float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64))
            v[inside] = (kept - mean) / max(std, 1e-8)
        return v
    if name == "ct":
        v = np.clip(v, how["p00_5"], how["p99_5"])
        v = (v - how["mean"]) / max(how["std"], 1e-8)
    if name == "percentile":
        low, high = np.percentile(x, (1.0, 99.8))
        least, most = float(x.min()), float(x.max())
        low, high = (least, most) if high <= low else (low, high)
        return (v - np.float32(low)) / np.float32(max(high - low, (most - least) / 1000.0) or 1.0)
    if name == "rescale":
        v -= v.min()
        v /= max(v.max(), np.float32(1e-8))
        return v
    if name == "rgb":
        if x.dtype.kind == "f" and x.max() <= 1:
            return v
        return v / np.float32(255 if x.max() <= 255 else 65535)
    if name in ("ct", "none"):
        return v
    raise ValueError(f"normalization {name!r}: not known to this reader")


def nearest(new: int, old: int) -> Array:
    """The old voxel that holds the centre of each of the new ones, over one extent."""
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


def resample(channel: Array, shape: Sequence[int], order: int, coarse: int | None) -> Array:
    """A channel (S) over the same extent in other voxels: splines, and nearest neighbour along the coarse axis."""
    if coarse is not None:
        channel = channel.take(nearest(shape[coarse], channel.shape[coarse]), axis=coarse)
    if channel.shape == tuple(shape):
        return channel
    factors: Any = [n / m for n, m in zip(shape, channel.shape, strict=True)]
    options: Any = {"order": order, "mode": "nearest", "grid_mode": True}
    resampled: Array = ndimage.zoom(channel.astype(np.float64), factors, **options)
    return resampled


def blend(image: Array, chain: Chain, network: Network) -> Array:
    """Logits (K, S') of a prepared image: the network's on overlapping windows, weighted by a Gaussian."""
    rule = chain["windows"]
    window, shape = rule["shape"], image.shape[1:]
    missing = [max(0, w - n) for w, n in zip(window, shape, strict=True)]
    before = [m // 2 for m in missing]
    padded = np.pad(image, [(0, 0), *[(b, m - b) for b, m in zip(before, missing, strict=True)]])
    weights = gaussian(window, rule)
    summed: Array | None = None
    norm: Array = np.zeros(padded.shape[1:], np.float32)
    for begin in itertools.product(*[starts(n, w, rule["overlap"]) for n, w in zip(norm.shape, window, strict=True)]):
        box = tuple(slice(b, b + w) for b, w in zip(begin, window, strict=True))
        maps = mirrored(padded[(slice(None), *box)], rule, network)
        if summed is None:
            summed = np.zeros((len(maps), *norm.shape), np.float32)
        summed[(slice(None), *box)] += maps * weights
        norm[box] += weights
    if summed is None:
        raise ValueError("an image without voxels")
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    blended: Array = summed[(slice(None), *inside)] / norm[inside]
    return blended


def starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: evenly spaced, the last one at the end."""
    if window >= size:
        return [0]
    count = math.ceil((size - window) / max(1, int(window * (1 - overlap)))) + 1
    return [round(k * (size - window) / (count - 1)) for k in range(count)]


def gaussian(window: Sequence[int], rule: Mapping[str, Any]) -> Array:
    """Weights (S) of a window: a Gaussian whose deviation is a share of it, 1 in the middle, not below a least."""
    weights = np.ones((), np.float32)
    for n in window:
        x = np.arange(n, dtype=np.float32) - (n - 1) / 2
        weights = weights[..., None] * np.exp(-0.5 * (x / (n * rule["sigma"])) ** 2)
    return np.maximum(weights, np.float32(rule["least"]))


def mirrored(window: Array, rule: Mapping[str, Any], network: Network) -> Array:
    """Maps (K, window) of a window (C, window): the network's, or their mean over all mirror images."""
    flat = rule["slice_axis"]
    x = window if flat is None else window.squeeze(flat + 1)
    total = np.zeros((), np.float32)
    turns = list(_turns(x.ndim - 1)) if rule["mirror"] else [()]
    for axes in turns:
        places = tuple(a + 1 for a in axes)
        maps = np.flip(network(np.ascontiguousarray(np.flip(x, places))[None])[0].astype(np.float32), places)
        signs = np.ones((len(maps), *[1] * (x.ndim - 1)), np.float32)
        if rule["vector"]:
            signs[[rule["vector"] + a for a in axes]] = -1  # a vector turns round where its axis does
        total = total + maps * signs
    mean: Array = total / np.float32(len(turns))
    return mean if flat is None else np.expand_dims(mean, flat + 1)


def _turns(dims: int) -> Iterator[tuple[int, ...]]:
    for count in range(dims + 1):
        yield from itertools.combinations(range(dims), count)


def restore(logits: Array, prepared: Prepared, chain: Chain) -> Array:
    """The label map on the voxels of the image as it came, from logits (K, S') on the prepared ones."""
    labels = decode(native_maps(logits, prepared), chain["decoder"])
    full = np.zeros([prepared.native[a] for a in prepared.axes], labels.dtype)
    full[tuple(slice(s, s + n) for s, n in zip(prepared.start, prepared.shape, strict=True))] = labels
    full = np.flip(full, tuple(a for a, flip in enumerate(prepared.flips) if flip))
    return np.ascontiguousarray(full.transpose(np.argsort(prepared.axes)))


def native_maps(logits: Array, prepared: Prepared) -> Array:
    """Logits (K, box) on the voxels of the box that was kept: linear, nearest neighbour along the coarse axis."""
    for axis, (fine, old) in enumerate(zip(prepared.shape, logits.shape[1:], strict=True)):
        if axis == prepared.coarse:
            logits = logits.take(nearest(fine, old), axis=axis + 1)
        elif fine != old:
            centre = np.clip((np.arange(fine) + 0.5) * old / fine - 0.5, 0, old - 1)
            low = np.floor(centre).astype(int)
            share = (centre - low).astype(np.float32).reshape(-1, *[1] * (logits.ndim - axis - 2))
            first = logits.take(low, axis=axis + 1)
            logits = first + share * (logits.take(np.minimum(low + 1, old - 1), axis=axis + 1) - first)
    return logits


def decode(maps: Array, rule: Mapping[str, Any]) -> Array:
    """Label values (S) of maps (K, S)."""
    values: Array = np.asarray(rule["values"], np.min_scalar_type(max(rule["values"])))
    if rule["kind"] == "classes":
        labels: Array = values[maps.argmax(axis=0)]
        return labels
    if rule["kind"] == "regions":
        labels = np.zeros(maps.shape[1:], values.dtype)
        for region, painted in zip(maps, rule["painted"], strict=True):
            labels[region > 0] = values[painted]
        return labels
    raise ValueError(f"objects are read off the maps by medseg alone ({rule['rule']}); take `native_maps`")


def onnx_network(path: str | Path, chain: Chain) -> Network:
    """The network of an ONNX file, on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = chain["network"]
    return lambda x: session.run([names["output"]], {names["input"]: x})[0]


def main(image: str, labels: str) -> None:
    """Predict a NIfTI file of one channel into another."""
    import nibabel

    chain = read_chain(Path(__file__).with_name("chain.json"))
    source = nibabel.load(image)
    voxels = np.asarray(source.dataobj)
    found = predict(voxels[None], source.affine, chain, onnx_network(Path(__file__).with_name("model.onnx"), chain))
    nibabel.save(nibabel.Nifti1Image(found, source.affine), labels)


if __name__ == "__main__":
    main(*sys.argv[1:3])
