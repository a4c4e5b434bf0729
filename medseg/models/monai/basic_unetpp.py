"""UNet++ (Zhou et al. 2018, arXiv 1807.10165)."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.models.monai.adapter import channels, halving
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """UNet++ (Zhou et al. 2018, arXiv 1807.10165): nested, dense skips; the last of its four outputs alone."""
    from monai.networks.nets import BasicUNetPlusPlus

    features = [spec.widths[0] * k for k in (1, 2, 4, 8, 16, 1)]
    network = BasicUNetPlusPlus(**channels(spec), features=features, bias=False)
    # MONAI computes the other three outputs without deep supervision, too.
    network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
    return halving(LastOutput(network), spec.dims, 4)


class LastOutput(nn.Module):
    """The last of several outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        out: Tensor = self.network(x)[-1]
        return out
