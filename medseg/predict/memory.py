"""How much main memory predicting an image takes, known before its network runs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

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
from medseg.formats.source import Source
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.resample import resampled_shape
from medseg.machine import pick_device
from medseg.plan.plan import Plan
from medseg.predict.native import SLAB_VALUES
from medseg.predict.objects import IN_MEMORY
from medseg.preprocess.prepare import own_spacing

# Bytes per voxel that decoding objects takes for a moment, within the tiles that it works on at once.
DECODED = 60
# What libraries take for themselves while a network runs, on a processor: threads, kernels, buffers of compression.
LIBRARIES = 300_000_000
# What a plan says of the memory of a training step, as ``medseg.plan.planner`` writes it.
_STEP = re.compile(r"(\d+\.\d+) GB for a training step")


class Memory:
    """What predicting may take, and what it needs.

    Args:
        plan: of the model.
        device: as asked for; None: as planned.
        budget: bytes of main memory.
    """

    def __init__(self, plan: Plan, device: str | None, budget: int) -> None:
        self._plan, self._budget = plan, budget
        self._device = pick_device(device or ("cpu" if plan.machine.device == "cpu" else "auto"))

    def require(self, name: str, channels: int, source: Source, maps: int = 0) -> None:
        """Raise ``DataError`` if predicting an image needs more memory than there is.

        Args:
            name: what messages call the image.
            channels: of all its files.
            source: its first file.
            maps: of uncertainty that are written beside its label map.
        """
        geometry = source.geometry.in_unit(self._plan.grid.unit)
        scaled = (source.slope, source.intercept) != (1.0, 0.0)
        need = image_bytes(channels, geometry, source.stored.dtype, self._plan, scaled=scaled)
        need += uncertainty_bytes(maps, geometry, self._plan)
        on_host = self._device == "cpu"
        # Counting takes seconds. A training step, which the plan has counted, takes more than prediction does.
        if on_host and need + LIBRARIES + (self._step or 0) <= self._budget and self._step is not None:
            return
        need += LIBRARIES + (self._network if on_host else 0)
        if need > self._budget:
            size = " x ".join(str(n) for n in geometry.shape)
            raise DataError(
                f"{name}: predicting its {size} voxels needs about {need / 1e9:.1f} GB of memory, and "
                f"{self._budget / 1e9:.1f} GB are available (too-large); crop the image or split it into parts, end "
                "other programs, predict it on a machine with more memory, or say how much it may take: --max-gb NUMBER"
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


def image_bytes(channels: int, geometry: Geometry, stored: np.dtype[Any], plan: Plan, *, scaled: bool = False) -> int:
    """Estimated peak of host memory while an image is predicted, in bytes, without network and libraries.

    With V native voxels per channel, P voxels on the model's grid, C channels, b bytes per number as stored and K maps
    of the network, the largest of

    - reading: 2 b C V, or 26 C V where a header scales the numbers;
    - preparing: b C V (8 C V scaled) + 4 C P + a channel while it is scaled (20 V) or resampled (4 V + 8 max(V, P));
    - predicting: b C V + 4 C P (twice where it is smaller than a window) + what windows still change, K + 1 maps of
      twice a window's thickness, twice while it grows, + slabs of maps on native voxels + the label map;
    - writing: b C V + 4 C P + the label map three times and as bytes of a file; of objects 60 bytes per voxel more, of
      one tile where there are many.

    Args:
        channels, geometry, stored: of the image; the type is that of the file's numbers.
        plan: of the model.
        scaled: whether a header scales the numbers.
    """
    axes, flips = canonical_axes(geometry)
    turned = geometry.reoriented(axes, flips)
    shape = resampled_shape(turned.shape, turned.spacing, own_spacing(plan.grid.spacing, turned.spacing))
    native, prepared = math.prod(turned.shape), math.prod(shape)
    objects = plan.network.head is not None and plan.network.head != ""
    held = stored.itemsize * channels * native
    given = (8 if scaled else 0) * channels * native
    result = 4 * channels * prepared
    labels = (4 if objects else 1) * native
    decoding = DECODED * min(native, IN_MEMORY // 2) if objects else 0
    return max(
        26 * channels * native if scaled else 2 * held,
        held + given + result + max(20 * native, 4 * native + 8 * max(native, prepared)),
        held + result + _blended_bytes(channels, shape, turned.shape, plan) + labels,
        held + result + 4 * labels + decoding,
    )


def uncertainty_bytes(maps: int, geometry: Geometry, plan: Plan) -> int:
    """Bytes that maps of uncertainty take beyond ``image_bytes``: each on the box and on the image, and as bytes of a
    file; and the probabilities and the entropy that are blended beside the logits, counted as if whole."""
    if not maps:
        return 0
    return math.prod(geometry.shape) * (4 * maps + 12 + 2 * 4 * (plan.network.out_channels + 1))


def _blended_bytes(channels: int, shape: Sequence[int], native: Sequence[int], plan: Plan) -> int:
    """What blending windows over an image of ``shape`` voxels takes, and bringing maps to ``native`` ones."""
    maps, window = plan.network.out_channels, plan.window
    padded = [max(n, w) for n, w in zip(shape, window, strict=True)]
    copied = 4 * channels * math.prod(padded) if padded != list(shape) else 0
    axis = min(range(len(shape)), key=lambda a: window[a] / shape[a])
    plane = math.prod(padded) // padded[axis]
    rows = min(2 * window[axis] + plan.training.batch - 1, padded[axis])
    row = math.prod(native) // native[axis]
    slabs = 3 * 4 * max(SLAB_VALUES, maps * row)
    return copied + 2 * 4 * (maps + 1) * rows * plane + min(slabs, 3 * 4 * maps * math.prod(native))
