"""From probabilities and the image to labels on the image's own grid, by the conditional random field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.config import CrfConfig
from medseg.errors import ConfigError, DataError
from medseg.image.geometry import Geometry
from medseg.image.intensity import percentile
from medseg.image.labels import LabelTable
from medseg.image.resample import crop, reorient, reorient_back
from medseg.postprocess.crf import MeanField
from medseg.predict.probabilities import Box

# What the process holds before the first case, the chunk of points that is under way, and the places that are kept.
FIXED_BYTES = 1_200_000_000


def refine(
    probabilities: NDArray[Any],
    box: Box,
    image: NDArray[Any],
    geometry: Geometry,
    options: CrfConfig,
    table: LabelTable,
) -> NDArray[Any]:
    """Labels of one case, on one thread of the CPU.

    Args:
        probabilities: (K, box.shape) of classes, or (R, box.shape) of regions.
        box: the part of the image that they lie on.
        image: (C, S) as read; geometry: its grid.
        options: kernels and iterations.
        table: label table.

    Returns:
        (S) label values; background outside the box. Every region is refined for itself, against what is not in it,
        and those above 1/2 are painted in their order.

    Raises:
        DataError: if probabilities are not of this image. ConfigError: if the deviations are too small to be filtered.
    """
    turned = reorient(image, box.axes, box.flips)
    inside = crop(turned, box.start, box.shape)
    if inside.shape[1:] != probabilities.shape[1:] or len(probabilities) != table.channels:
        raise DataError(
            f"probabilities of shape {probabilities.shape} for {table.channels} outputs on {inside.shape[1:]} voxels; "
            "run `medseg predict` again"
        )
    scaled = torch.from_numpy(np.stack([percentile(channel, {}) for channel in inside]))
    # Bits may depend on the number of threads, and so could labels at ties.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        field = MeanField(scaled, geometry.reoriented(box.axes, box.flips).spacing, options)
        channels = _read(field, torch.from_numpy(probabilities), table.painted)
    except ValueError as error:
        raise ConfigError(f"postprocess.crf: {error}; give larger sigmas") from None
    finally:
        torch.set_num_threads(threads)
    full = np.zeros(turned.shape[1:], dtype=np.uint8)
    crop(full, box.start, box.shape)[...] = channels
    return table.to_values(np.ascontiguousarray(reorient_back(full, box.axes, box.flips)))


def _read(field: MeanField, probabilities: torch.Tensor, painted: tuple[int, ...]) -> NDArray[np.uint8]:
    """Channel indices (S) of the refined classes, or regions (see ``medseg.models.head.read_labels``)."""
    if not painted:
        classes: NDArray[np.uint8] = field.refine(probabilities).argmax(dim=0).to(torch.uint8).numpy()
        return classes
    labels = np.zeros(probabilities.shape[1:], dtype=np.uint8)
    for region, channel in zip(probabilities.float(), painted, strict=True):
        labels[(field.refine(torch.stack([1 - region, region]))[1] > 0.5).numpy()] = channel
    return labels


def require_memory(case: str, geometry: Geometry, channels: int, outputs: int, budget: int) -> None:
    """Raise ``DataError`` if refining a case would take more than ``budget`` bytes; told before anything is read.

    Per voxel: 14 K for the probabilities (read, logarithms, marginals, energies), 24 C for the image as read and
    scaled, 24 for norms, messages and labels. Corners of the lattice come on top; they are few, unless the deviations
    are about as small as a voxel.
    """
    need = FIXED_BYTES + math.prod(geometry.shape) * (14 * max(outputs, 2) + 24 * channels + 24)
    if need > budget:
        raise DataError(
            f"refining case '{case}' by postprocess.crf takes about {need / 1e9:.1f} GB, allowed are "
            f"{budget / 1e9:.1f} GB; set budget.host_gb on a machine that has them, or leave out postprocess.crf"
        )
