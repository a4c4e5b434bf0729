"""The last layer of a segmenter, one score per class, and how scores are enlarged to the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.layers import CONV

# Of the spread that a hidden layer starts with. Scores start close to zero, as with the Gaussians of deviation 0.01 of
# the FCN and DeepLab papers, so that what is known about the classes (their priors, in the biases) comes first.
SPREAD = 0.1


def score_layer(dims: int, inputs: int, classes: int, kernel: int = 1) -> nn.Module:
    """A convolution (N, C, S) to scores (N, K, S), drawn small, biases zero."""
    layer: nn.Module = CONV[dims](inputs, classes, kernel, padding=kernel // 2)
    draw_small(layer)
    return layer


def draw_small(layer: nn.Module) -> None:
    """Draw the weights of a convolution a tenth as wide as for rectifiers (He et al. 2015), biases zero; in place."""
    weight = layer.get_parameter("weight")
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    with torch.no_grad():
        weight.mul_(SPREAD)
    nn.init.zeros_(layer.get_parameter("bias"))


def enlarge(x: Tensor, size: Sequence[int], *, middle: bool = True) -> Tensor:
    """(N, C, S) to (N, C, size), bilinear or trilinear.

    Args:
        x: features or scores.
        size: voxels per axis; without ``middle`` multiples of S.
        middle: a feature belongs to the middle of the voxels that it covers (features of pooling by two), and
            not to the first of them (those that strided odd kernels make). The papers have images of k * stride + 1
            voxels for the latter; here what lies beyond the last feature is its copy.
    """
    if x.shape[2:] == tuple(size):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    if middle:
        return F.interpolate(x, size=list(size), mode=mode, align_corners=False)
    factors = [s // n for s, n in zip(size, x.shape[2:], strict=True)]
    between = [(n - 1) * f + 1 for n, f in zip(x.shape[2:], factors, strict=True)]
    x = F.interpolate(x, size=between, mode=mode, align_corners=True)
    return F.pad(x, [v for f in reversed(factors) for v in (0, f - 1)], mode="replicate")
