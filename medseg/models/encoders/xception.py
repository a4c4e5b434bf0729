"""Modified aligned Xception-65 (Chollet 2017; Chen et al. 2018, section 3.2 and figure 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Subsample, conv, he_normal
from medseg.models.encoders.encoder import Encoder, EncoderSpec, Strides, check_spec
from medseg.models.encoders.resnet import soften

ENTRY = (128, 256, 728)
MIDDLE = 16
EXIT_STRIDED = (728, 1024, 1024)
EXIT = (1536, 1536, 2048)


class Separable(nn.Module):
    """ReLU; depthwise convolution, norm and the ReLU that Chen et al. added; pointwise convolution and norm."""

    def __init__(self, spec: EncoderSpec, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = conv(spec.dims, inputs, inputs, 3, stride, dilation, groups=inputs, norm=spec.norm)
        self.pointwise = conv(spec.dims, inputs, outputs, 1, norm=spec.norm, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', ceil(S / stride))."""
        # Not in place: the input is also the shortcut's.
        out: Tensor = self.pointwise(self.depthwise(F.relu(x)))
        return out


class Module(nn.Module):
    """Three separable convolutions, the last strided, around a shortcut."""

    def __init__(self, spec: EncoderSpec, inputs: int, channels: tuple[int, ...], stride: int, dilation: int) -> None:
        super().__init__()
        first, second, last = channels
        self.body = nn.Sequential(
            Separable(spec, inputs, first, 1, dilation),
            Separable(spec, first, second, 1, dilation),
            Separable(spec, second, last, stride, dilation),
        )
        changed = stride > 1 or inputs != last
        mix = conv(spec.dims, inputs, last, 1, norm=spec.norm, act=None)
        self.shortcut = nn.Sequential(Subsample(stride), mix) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', ceil(S / stride))."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Xception(Encoder):
    """Features: the first two convolutions (stride 2), entry modules (4, 8), middle flow (16), exit flow (32).

    Strided separable convolutions replace all pools, so that any of them can be dilated. Multi-grid applies to the
    three last ones.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        check_spec("xception", spec, 4, multi_grid=True)
        dims, norm, grid = spec.dims, spec.norm, Strides(spec.output_stride)
        narrow, inputs = spec.scaled(32), spec.scaled(64)
        stem = conv(dims, spec.in_channels, narrow, 3, *grid.down(), norm=norm)
        self.stem = nn.Sequential(stem, conv(dims, narrow, inputs, 3, norm=norm, act=None))
        grid.mark()
        self.entry, channels = nn.ModuleList(), [inputs]
        for paper in ENTRY:
            outputs = spec.scaled(paper)
            self.entry.append(Module(spec, inputs, (outputs,) * 3, *grid.down()))
            channels.append(outputs)
            grid.mark()
            inputs = outputs
        same = (inputs,) * 3
        self.middle_flow = nn.Sequential(*[Module(spec, inputs, same, 1, grid.dilation) for _ in range(MIDDLE)])
        first, second, inputs = (spec.scaled(c) for c in EXIT_STRIDED)
        strided = Module(spec, channels[-1], (first, second, inputs), *grid.down())
        units: list[nn.Module] = [strided]
        for index, paper in enumerate(EXIT):
            factor = spec.multi_grid[index % len(spec.multi_grid)] if spec.multi_grid else 1
            units.append(Separable(spec, inputs, spec.scaled(paper), 1, grid.dilation * factor))
            inputs = spec.scaled(paper)
        self.exit_flow = nn.Sequential(*units)
        grid.mark()
        self.channels, self.strides = (*channels, inputs), tuple(grid.passed)
        he_normal(self)
        if norm in ("none", "frozen_batch"):
            soften([m.get_submodule("body.2.pointwise.conv") for m in self.modules() if isinstance(m, Module)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to five features."""
        x = self.stem(x)
        found = [F.relu(x)]
        for module in self.entry:
            x = module(x)
            found.append(F.relu(x))
        x = self.middle_flow(x)
        found[-1] = F.relu(x)
        return [*found, F.relu(self.exit_flow(x))]
