"""Any image size through a network that takes only multiples: padded inside, cropped back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.spec import NetworkSpec, total_stride


class AnySize(nn.Module):
    """Pads images with zeros on both sides to what ``network`` takes and crops its outputs.

    Attributes:
        network: maps (N, C, S) to logits (N, K, S), or while training to several, finest first, whose sizes are
            shares of S (deep supervision).
        multiple: each axis must be a multiple of this.
        least: and no shorter than this.
    """

    def __init__(self, network: nn.Module, multiple: Sequence[int], least: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.multiple = tuple(multiple)
        self.least = tuple(least or multiple)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(N, C, S) to what the network gives for S."""
        # Numbers, also while a program that compiles networks for one size follows this.
        shape = [int(n) for n in x.shape[2:]]
        padded = [
            math.ceil(max(n, low) / m) * m for n, low, m in zip(shape, self.least, self.multiple, strict=True)
        ]  # fmt: skip
        missing = [p - n for p, n in zip(padded, shape, strict=True)]
        if not any(missing):
            return self.network(x)  # type: ignore[no-any-return]
        before = [m // 2 for m in missing]
        flat = [v for b, m in zip(reversed(before), reversed(missing), strict=True) for v in (b, m - b)]
        outputs = self.network(F.pad(x, flat))
        if isinstance(outputs, Tensor):
            return _crop(outputs, before, shape, padded)
        return [_crop(o, before, shape, padded) for o in outputs]


def any_size(spec: NetworkSpec, network: nn.Module) -> AnySize:
    """The network behind padding to multiples of the plan's total stride.

    Two voxels remain along strided axes in the coarsest stage, so that its norm has something to average.
    """
    total = total_stride(spec.strides)
    return AnySize(network, total, [2 * t if t > 1 else 1 for t in total])


def _crop(logits: Tensor, before: Sequence[int], shape: Sequence[int], padded: Sequence[int]) -> Tensor:
    """The part of ``logits`` (N, K, share of padded) over the image."""
    for axis, (begin, size, full) in enumerate(zip(before, shape, padded, strict=True), start=2):
        share = int(logits.shape[axis]) / full
        logits = logits.narrow(axis, round(begin * share), max(1, round(size * share)))
    return logits
