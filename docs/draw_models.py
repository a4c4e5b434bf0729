"""Draw every network of the zoo as the row of its feature maps: python docs/draw_models.py

Nothing is drawn by hand. Each network is built at its paper's width, the shape of an image goes through it (torch's
meta device), and every convolution that it meets becomes a bar: as tall as its feature map is fine, as wide as it has
channels, in the colour of its dilation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn

from medseg.files import write_bytes
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS

HERE = Path(__file__).parent / "models"
SIDE = 256
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
# Dilation -> colour, from fine grids of taps to coarse ones (matplotlib's viridis, dark to light).
COLOURS = plt.get_cmap("viridis")
# Regions, not feature maps of the image: its drawing would say nothing.
NOT_DRAWN = {"rcnn", "mask_rcnn", "sds"}


class Bar(NamedTuple):
    """A convolution: channels and edge of what it gives, its dilation, and whether it goes up."""

    channels: int
    edge: int
    dilation: int
    up: bool


def bars_of(name: str) -> tuple[list[Bar], int]:
    """The convolutions of a network in the order in which an image meets them, and its number of parameters."""
    stages = 6
    spec = NetworkSpec(
        dims=2,
        in_channels=1,
        out_channels=3,
        widths=tuple(min(32 * 2**i, 512) for i in range(stages)),
        strides=((1, 1), *[(2, 2)] * (stages - 1)),
        kernels=((3, 3),) * stages,
        patch=(SIDE, SIDE),
    )
    bars: list[Bar] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        bars.append(
            Bar(output.shape[1], output.shape[2], max(module.dilation), isinstance(module, nn.ConvTranspose2d))  # type: ignore[arg-type]
        )

    network = build_model(name, spec).eval().to("meta")
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(torch.empty(1, 1, SIDE, SIDE, device="meta"))
    return bars, sum(p.numel() for p in network.parameters())


def draw(name: str, out: Path) -> None:
    """Write the drawing of one network."""
    bars, parameters = bars_of(name)
    fig, ax = plt.subplots(figsize=(9, 2.4), layout="constrained")
    left = 0.0
    for bar in bars:
        width = 0.25 + math.log2(max(1, bar.channels)) / 8
        height = 1 + math.log2(max(1, bar.edge)) / math.log2(SIDE) * 8
        colour = COLOURS(min(1.0, math.log2(bar.dilation) / 5))
        ax.add_patch(Rectangle((left, -height / 2), width, height, facecolor=colour, edgecolor="white", linewidth=0.4,
                               hatch="////" if bar.up else None))  # fmt: skip
        left += width + 0.08
    ax.set_xlim(-0.5, left + 0.5)
    ax.set_ylim(-6.6, 4.8)  # the legend stands below the bars
    ax.axis("off")
    ax.set_title(
        f"{name}: {len(bars)} convolutions, {parameters / 1e6:.1f} M parameters, edges {min(b.edge for b in bars)} to "
        f"{max(b.edge for b in bars)} of an image of {SIDE}",
        fontsize=9,
        loc="left",
    )
    seen = sorted({b.dilation for b in bars})
    legend = [Patch(color=COLOURS(min(1.0, math.log2(d) / 5)), label=f"dilation {d}") for d in seen]
    if any(b.up for b in bars):
        legend.append(Patch(facecolor="grey", hatch="////", edgecolor="white", label="transposed"))
    ax.legend(handles=legend, fontsize=7, frameon=False, ncols=len(legend), loc="lower left")
    with plt.rc_context({"svg.hashsalt": name}):
        fig.savefig(path := out.with_suffix(".tmp"), format="svg", metadata={"Date": None})
    write_bytes(out, path.read_bytes())
    path.unlink()
    plt.close(fig)


def main() -> None:
    """Draw all networks that exist in 2-D."""
    HERE.mkdir(exist_ok=True)
    for name, row in NETWORKS.items():
        if 2 in row.dims and name not in NOT_DRAWN:
            draw(name, HERE / f"{name}.svg")


if __name__ == "__main__":
    main()
