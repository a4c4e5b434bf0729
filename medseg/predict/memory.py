"""How much main memory predicting an image takes, known before its network runs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from medseg.engine.build import build_network
from medseg.engine.memory import LiveBytes, no_workspace
from medseg.errors import DataError
from medseg.formats.pieces import pieces_of
from medseg.formats.raw import SPAN
from medseg.formats.source import Source
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.spline import BLOCK, REACH
from medseg.machine import own_memory, pick_device
from medseg.patches.blending import PIECE_VALUES
from medseg.patches.tiling import slab_axis
from medseg.plan.plan import Plan
from medseg.predict.disk import disk_bytes, free_disk, unpacked_bytes
from medseg.predict.native import SLAB_VALUES
from medseg.predict.objects import IN_MEMORY
from medseg.predict.scale import held_bytes, is_large, prepared_shape, streamed_axis
from medseg.preprocess.rows import rows_at_once

# Bytes per voxel that decoding objects takes for a moment, within the tiles that it works on at once.
DECODED = 60
# What libraries take for themselves while a network runs: kernels and buffers; and, where a GPU computes, its runtime.
LIBRARIES, RUNTIME = 30_000_000, 300_000_000
# Bytes per voxel that scaling a channel takes for a moment; of other rules, 4 and those of a number.
_SCALED = {"zscore": 12, "zscore_nonzero": 30}
# What a plan says of the memory of a training step, as ``medseg.plan.planner`` writes it.
_STEP = re.compile(r"(\d+\.\d+) GB for a training step")


class Need(NamedTuple):
    """What predicting an image takes, in bytes.

    Attributes:
        host: of main memory, beside what the process has before.
        device: of a GPU's memory; 0 on a processor.
        disk: for a while, where the label map will be.
        unpacked: of disk for temporary files, where a compressed file is unpacked.
        by_slabs: whether it is never whole in memory.
    """

    host: int
    device: int
    disk: int
    unpacked: int
    by_slabs: bool

    def said(self, shape: Sequence[int], device: str) -> str:
        """In words, of an image of ``shape``."""
        size, here = " x ".join(map(str, shape)), own_memory()
        parts = [f"{(self.host + here) / 1e9:.2f} GB of memory at most ({here / 1e9:.2f} GB of it taken already)"]
        parts += [f"{self.device / 1e9:.2f} GB on {device}"] if self.device else []
        parts += [f"{self.disk / 1e9:.2f} GB of disk for a while"] if self.disk else []
        parts += [f"{self.unpacked / 1e9:.2f} GB of disk for temporary files"] if self.unpacked else []
        return f"{size} voxels, {'slab by slab' if self.by_slabs else 'in memory'}: {', '.join(parts)}"


class Memory:
    """What predicting may take, and what it needs.

    Args:
        plan: of the model.
        device: as asked for; None: as planned.
        budget: bytes of main memory.
        together: whether several trainings predict each image, and their probabilities are summed.
    """

    def __init__(self, plan: Plan, device: str | None, budget: int, *, together: bool = False) -> None:
        self._plan, self._budget, self._together = plan, budget, together
        self.device = pick_device(device or ("cpu" if plan.machine.device == "cpu" else "auto"))

    def need(self, channels: int, source: Source, maps: int = 0, *, one_grid: bool = True) -> Need:
        """What predicting an image takes.

        Args:
            channels: of all its files.
            source: its first file.
            maps: of uncertainty that are written beside its label map.
            one_grid: whether all its files have one grid; if not, it is read whole.
        """
        return self._need(channels, source, maps, one_grid, self._network)

    def _need(self, channels: int, source: Source, maps: int, one_grid: bool, network: int) -> Need:
        plan, on_host = self._plan, self.device == "cpu"
        if source.unit != plan.grid.unit and source.affine is not None:
            source = source.measured_in(plan.grid.unit)
        by_slabs = one_grid and is_large(source, channels, plan)
        if by_slabs:
            host, image = streamed_bytes(channels, source, plan)
        else:
            scaled = (source.slope, source.intercept) != (1.0, 0.0)
            host = image_bytes(channels, source.geometry, source.stored.dtype, plan, scaled=scaled)
            image = 4 * channels * math.prod(prepared_shape(source.geometry, plan))
        host += uncertainty_bytes(maps, source.geometry, plan) + (LIBRARIES + network if on_host else RUNTIME)
        sums = 4 * plan.network.out_channels * math.prod(source.shape[1:]) if self._together else 0
        disk = disk_bytes(source, plan) + (sums if sums > IN_MEMORY else 0)
        return Need(host, 0 if on_host else network + image, disk, unpacked_bytes(source), by_slabs)

    def require(
        self,
        name: str,
        channels: int,
        source: Source,
        maps: int = 0,
        out: Path | None = None,
        *,
        one_grid: bool = True,
    ) -> None:
        """Raise ``DataError`` if predicting an image needs more memory, or disk, than there is.

        Args:
            name: what messages call the image.
            channels, source, maps, one_grid: as for ``need``.
            out: folder of the label map; None: its disk is not looked at.
        """
        size = " x ".join(str(n) for n in source.geometry.shape)
        # Counting takes seconds. A training step, which the plan has counted, takes more than prediction does.
        need = self._need(channels, source, maps, one_grid, self._step or 0)
        if self._step is None or need.host > self._budget:
            need = self.need(channels, source, maps, one_grid=one_grid)
        if need.host > self._budget:
            raise DataError(
                f"{name}: predicting its {size} voxels needs about {need.host / 1e9:.1f} GB of memory, and "
                f"{self._budget / 1e9:.1f} GB are available (too-large); crop the image or split it into parts, end "
                "other programs, predict it on a machine with more memory, or say how much it may take: --max-gb NUMBER"
            )
        if out is not None and need.disk > (free := free_disk(out)):
            raise DataError(
                f"{name}: predicting its {size} voxels needs about {need.disk / 1e9:.1f} GB of disk for a while, and "
                f"{out} has {free / 1e9:.1f} GB left (too-large); free some, or choose another folder with -o"
            )

    @functools.cached_property
    def _step(self) -> int | None:
        """Bytes of a training step, where the plan has counted them."""
        found = _STEP.match(self._plan.reasons.get("memory", ""))
        return int(float(found[1]) * 1e9) if found else None

    @functools.cached_property
    def _network(self) -> int:
        return network_bytes(self._plan, self._step or 0)


def network_bytes(plan: Plan, step: int) -> int:
    """Most bytes that a plan's network holds while it maps one batch of windows, weights included.

    It runs on tensors that have shapes and no content, as in ``medseg.engine.memory``.

    Args:
        plan: of the model.
        step: bytes of a training step, which stand for those networks whose shapes depend on content.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(no_workspace) as count, torch.inference_mode():
            network = build_network(plan.changed(device="cpu", precision="fp32", compile=False)).eval()
            network(torch.empty(plan.training.batch, plan.network.in_channels, *plan.network.patch))
    except (DataDependentOutputException, DynamicOutputShapeException):
        return step
    peak: int = count.peak
    return peak


def streamed_bytes(channels: int, source: Source, plan: Plan) -> tuple[int, int]:
    """Estimated peak of host memory while a large image is predicted slab by slab, and what of it a GPU would hold.

    In bytes, without network and libraries. With v native and p prepared voxels per channel in what is read at once, C
    channels, b bytes per number and K maps of the network, what the reader holds (nothing, if it reads boxes), and the
    larger of

    - learning what scaling asks for: b C v (24 C v more where a header scales the numbers) + 16 v, of floats 32 v;
    - predicting: rows of the prepared image for one row of windows, while more are read and prepared; sums of maps and
      weights for these rows; pieces of maps on native voxels.
    """
    geometry, dtype = source.geometry, source.dtype
    shape = prepared_shape(geometry, plan)
    axis, window = streamed_axis(source, shape, plan), plan.window
    turned = geometry.reoriented(*canonical_axes(geometry))
    native_axis = canonical_axes(geometry)[0][axis]
    scaled = 24 * channels if (source.slope, source.intercept) != (1.0, 0.0) else 0
    held = source.stored.nbytes if isinstance(source.stored, np.ndarray) else 0

    def at_once(along: int) -> int:
        plane = math.prod(source.shape[1:]) // source.shape[along + 1]
        return min(rows_at_once(source, along), source.shape[along + 1]) * plane

    looked = at_once(pieces_of(source.stored).axis)
    learning = (
        dtype.itemsize * channels + scaled + (16 if dtype.itemsize <= 2 and dtype.kind in "iu" else 32)
    ) * looked
    read = at_once(native_axis)
    plane = math.prod(shape) // shape[axis]
    kept = read * turned.shape[axis] // math.prod(turned.shape) * plane
    # Along the axis splines take blocks of rows, and hold what they reach while more is joined to it.
    splined = turned.shape[axis] != shape[axis]
    joined = 2 * (kept + 2 * REACH * plane) + BLOCK * plane if splined else 0
    resampled = 2 * 4 * max(read, kept) if tuple(turned.shape) != tuple(shape) else 0
    # As it is read and in the order of its axes; a channel scaled, and likewise.
    preparing = (2 * dtype.itemsize * channels + scaled + 8) * read + SPAN
    preparing += resampled + 4 * channels * (kept + joined)
    rows = 4 * channels * ((window[axis] + (BLOCK if splined else 0)) * plane + (0 if splined else kept))
    objects = plan.network.head is not None and plan.network.head != ""
    voxels = math.prod(turned.shape)
    decoded = 16 * voxels + DECODED * IN_MEMORY // 2 if objects else 0
    predicting = preparing + rows + _maps_bytes(shape, turned.shape, plan, axis)
    return held + max(learning, predicting, decoded), rows


def image_bytes(channels: int, geometry: Geometry, stored: np.dtype[Any], plan: Plan, *, scaled: bool = False) -> int:
    """Estimated peak of host memory while an image is predicted, in bytes, without network and libraries.

    With V native voxels per channel, P voxels on the model's grid, C channels, b bytes per number as stored and K maps
    of the network, the largest of

    - reading: 2 b C V, or 26 C V where a header scales the numbers;
    - preparing: b C V (8 C V scaled) + 4 C P + a channel while it is scaled (4 V, more for means and
      deviations in double precision and for objects) or resampled (4 V + 8 max(V, P));
    - predicting: b C V + 4 C P (twice where it is smaller than a window) + what windows still change, K + 1 maps of a
      window's thickness, + pieces of maps on prepared and on native voxels + the label map;
    - writing: b C V + 4 C P + the label map three times and as bytes of a file; of objects 60 bytes per voxel more, of
      one tile where there are many.

    Args:
        channels, geometry, stored: of the image; the type is that of the file's numbers.
        plan: of the model.
        scaled: whether a header scales the numbers.
    """
    turned, shape = geometry.reoriented(*canonical_axes(geometry)), prepared_shape(geometry, plan)
    native, prepared = math.prod(turned.shape), math.prod(shape)
    objects = plan.network.head is not None and plan.network.head != ""
    held = stored.itemsize * channels * native
    given = (8 if scaled else 0) * channels * native
    result = 4 * channels * prepared
    labels = (4 if objects else 1) * native
    window = [max(n, w) for n, w in zip(shape, plan.window, strict=True)]
    padded = 4 * channels * math.prod(window) if tuple(window) != tuple(shape) else 0
    scaling = max(_SCALED.get(rule, 4 + stored.itemsize) for rule in plan.grid.normalization) * native
    decoding = DECODED * min(native, IN_MEMORY // 2) if objects else 0
    return max(
        26 * channels * native if scaled else 2 * held,
        held + given + result + max(scaling, 4 * native + 8 * max(native, prepared) * (turned.shape != shape)),
        held + result + padded + _maps_bytes(shape, turned.shape, plan, slab_axis(shape, plan.window)) + labels,
        held + result + 4 * labels + decoding,
    )


def _maps_bytes(shape: Sequence[int], native: Sequence[int], plan: Plan, axis: int) -> int:
    """What blending windows over an image of ``shape`` voxels takes, and bringing maps to ``native`` ones.

    That is sums of maps and weights, a piece of maps that is made of them and joined to what is left of the last one,
    and a slab on native voxels: copied, or three times where it is interpolated; its probabilities and its labels.
    """
    maps = plan.network.out_channels
    padded = [max(n, w) for n, w in zip(shape, plan.window, strict=True)]
    plane, row = maps * math.prod(padded) // padded[axis], maps * math.prod(native) // native[axis]
    piece = min(max(PIECE_VALUES, plane), plane * plan.window[axis])
    slab = min(max(SLAB_VALUES, row), maps * math.prod(native))
    copies = 2 if tuple(shape) == tuple(native) else 3
    return held_bytes(shape, plan, axis) + 4 * (2 * piece + copies * slab) + 20 * slab // maps


def uncertainty_bytes(maps: int, geometry: Geometry, plan: Plan) -> int:
    """Bytes that maps of uncertainty take beyond ``image_bytes``: each on the box and on the image, and as bytes of a
    file; and the probabilities and the entropy that are blended beside the logits, counted as if whole."""
    if not maps:
        return 0
    return math.prod(geometry.shape) * (4 * maps + 12 + 2 * 4 * (plan.network.out_channels + 1))
