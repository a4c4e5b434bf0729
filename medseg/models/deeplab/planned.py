"""A residual encoder at the widths and strides of a plan, as a small base for DeepLab v3+.

It goes down to one eighth (2-D) or one quarter (3-D) of the resolution; from there dilation replaces stride.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.atrous import dilate
from medseg.models.blocks import conv, make_act
from medseg.models.spec import NetworkSpec, total_stride
from medseg.networks import Norm

# Strided stages before dilation takes over: output stride 8 in 2-D (as in the paper's finer setting), 4 in 3-D, where
# organs of a few voxels would vanish at 8.
STRIDED_STAGES = {2: 3, 3: 2}


class Residual(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016); stride or dilation in the first."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int], rate: int, norm: Norm) -> None:
        super().__init__()
        body = nn.Sequential(
            conv(dims, inputs, outputs, 3, stride, norm=norm, act="leakyrelu"),
            conv(dims, outputs, outputs, 3, norm=norm, act=None),
        )
        self.body = dilate(body, (rate,) * dims)
        same = inputs == outputs and all(s == 1 for s in stride)
        self.shortcut = nn.Identity() if same else conv(dims, inputs, outputs, 1, stride, norm=norm, act=None)
        self.act = make_act("leakyrelu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S / stride)."""
        out: Tensor = self.act(self.body(x) + self.shortcut(x))
        return out


class PlannedEncoder(nn.Module):
    """A stem, strided residual stages and two dilated ones.

    Attributes:
        channels: of the features that it gives, finest first.
        total: stride of the coarsest of them, per axis.
    """

    def __init__(self, spec: NetworkSpec, norm: Norm) -> None:
        super().__init__()
        dims = spec.dims
        strided = min(STRIDED_STAGES[dims], len(spec.strides) - 1)
        widths = (*spec.widths, *[spec.widths[-1]] * 2)
        self.stem = conv(dims, spec.in_channels, widths[0], 3, norm=norm, act="leakyrelu")
        self.strided = nn.ModuleList(
            Residual(dims, widths[i], widths[i + 1], spec.strides[i + 1], 1, norm) for i in range(strided)
        )
        deep, wide, one = widths[strided], widths[strided + 1], (1,) * dims
        self.dilated = nn.Sequential(
            Residual(dims, deep, wide, one, 2, norm), Residual(dims, wide, wide, one, 4, norm)
        )  # fmt: skip
        self.channels = (*widths[1 : strided + 1], wide)
        self.total = total_stride(spec.strides[: strided + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to the features of the strided stages, and last the dilated ones."""
        features, levels = self.stem(x), []
        for stage in self.strided:
            features = stage(features)
            levels.append(features)
        return [*levels, self.dilated(features)]
