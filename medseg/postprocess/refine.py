"""The dense CRF as an operation: from probabilities and the image to labels on the image's own grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.config import CrfConfig
from medseg.decoders import largest, paint
from medseg.errors import ConfigError, DataError
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.intensity import percentile
from medseg.image.labels import LabelTable
from medseg.postprocess.crf import MeanField
from medseg.predict.probabilities import Probabilities
from medseg.preprocess.prepare import put_back, take_box

# What the process holds before the first case, the chunk of points that is under way, and the places that are kept.
FIXED_BYTES = 1_200_000_000


def apply_crf(probabilities: Probabilities, image: Source, options: CrfConfig, table: LabelTable) -> NDArray[Any]:
    """Labels of one case, refined by the conditional random field on one thread of the CPU.

    Args:
        probabilities: of the case.
        image: the whole image (C, S).
        options: kernels and iterations.
        table: label table.

    Returns:
        (S) label values; background outside the box. Every region is refined for itself, against what is not in it,
        and those above 1/2 are painted in their order.

    Raises:
        DataError: if probabilities are not of this image. ConfigError: if the deviations are too small to be filtered.
    """
    values, box = probabilities
    inside = take_box(image.image(), box)
    if inside.shape[1:] != values.shape[1:] or len(values) != table.channels:
        raise DataError(
            f"probabilities of shape {values.shape} for {table.channels} maps on {inside.shape[1:]} voxels; "
            "run `medseg predict` again"
        )
    scaled = torch.from_numpy(np.stack([percentile(channel, {}) for channel in inside]))
    # Bits may depend on the number of threads, and so could labels at ties.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        field = MeanField(scaled, image.geometry.reoriented(box.axes, box.flips).spacing, options)
        channels = _refined(field, torch.from_numpy(values), table).numpy()
    except ValueError as error:
        raise ConfigError(f"postprocess.crf: {error}; give larger sigmas") from None
    finally:
        torch.set_num_threads(threads)
    return table.to_values(put_back(channels, box, image.geometry.shape))


def _refined(field: MeanField, probabilities: torch.Tensor, table: LabelTable) -> torch.Tensor:
    """Channel indices (S) of the refined classes or regions."""
    if not table.regions:
        return largest(field.refine(probabilities))
    regions = (field.refine(torch.stack([1 - region, region]))[1] > 0.5 for region in probabilities.float())
    return paint(regions, table)


def peak_bytes(geometry: Geometry, channels: int, maps: int) -> int:
    """Memory that refining a case takes, in bytes, from its grid and the numbers of image channels and of maps.

    Per voxel: 14 K for the probabilities (read, logarithms, marginals, energies), 24 C for the image as read and
    scaled, 24 for norms, messages and labels. Corners of the lattice come on top; they are few, unless the deviations
    are about as small as a voxel.
    """
    return FIXED_BYTES + math.prod(geometry.shape) * (14 * max(maps, 2) + 24 * channels + 24)
