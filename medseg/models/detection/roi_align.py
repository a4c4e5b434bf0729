"""Features of boxes, without rounding their edges to voxels (He et al. 2017, section 3, RoIAlign)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align(
    features: Tensor, boxes: Tensor, bins: int, stride: int = 1, centre: float = 0.0, samples: int = 2
) -> Tensor:
    """Means of bilinear samples in a regular grid of bins.

    Args:
        features: (N, C, h, w); a voxel of them is at ``i * stride + centre`` in voxels of the image. Beyond the
            outermost ones the features are theirs.
        boxes: (N, R, 4), in voxels of the image whose first one reaches from 0 to 1.
        bins: per axis.
        stride, centre: where the features are.
        samples: per axis and bin.

    Returns:
        (N R, C, bins, bins).
    """
    count, channels, height, width = features.shape
    points = bins * samples
    within = (torch.arange(points, device=boxes.device, dtype=boxes.dtype) + 0.5) / points
    axes = []
    for axis, length in enumerate((height, width)):
        low, high = boxes[..., axis, None], boxes[..., axis + 2, None]
        index = (low + within * (high - low) - 0.5 - centre) / stride
        axes.append((2 * index + 1) / length - 1)
    rows = axes[0][..., :, None].expand(-1, -1, points, points)
    columns = axes[1][..., None, :].expand(-1, -1, points, points)
    grid = torch.stack([columns, rows], dim=-1).flatten(1, 2)
    found = F.grid_sample(features, grid.to(features.dtype), padding_mode="border", align_corners=False)
    found = found.view(count, channels, -1, points, points).transpose(1, 2).flatten(0, 1)
    return F.avg_pool2d(found, samples) if samples > 1 else found
