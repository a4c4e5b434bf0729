"""Outputs start near the share of an image that foreground may fill, whatever the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.image.labels import LabelTable
from medseg.models.head import PRIOR, init_foreground_prior, output_biases
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS
from medseg.train.loop import train
from medseg.train.state import FoldCases


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", [name for name, row in NETWORKS.items() if not row.objective])
@pytest.mark.parametrize(
    "regions",
    [
        (),
        pytest.param(((1, 2), (2,)), marks=pytest.mark.exhaustive, id="two regions"),
        pytest.param(tuple((1,) for _ in range(8)), marks=pytest.mark.exhaustive, id="eight regions"),
    ],
)
def test_outputs_are_shifted_to_the_prior(name: str, dims: int, regions: Any, tiny_plan: Any) -> None:
    """How far the logits of untrained features scatter about that is each network's own."""
    torch.manual_seed(0)
    # Eight regions: as many outputs as the network has features.
    plan = tiny_plan(name, dims, regions=regions)
    network = build_model(name, plan.network).eval()
    images = torch.randn(2, 1, *plan.network.patch)
    with torch.no_grad():
        for bias in output_biases(network, plan.network.out_channels):
            assert bias.shape == (plan.network.out_channels,)
            bias.zero_()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.inference_mode():
        plain = network(images)
        init_foreground_prior(network, plan.network.out_channels, sigmoids=plan.network.sigmoids)
        shift = network(images) - plain
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert {network.state_dict()[k].shape for k in changed} == {(plan.network.out_channels,)}
    # Nothing but a constant was added, to the outputs themselves.
    constant = shift.mean(dim=(0, *range(2, dims + 2)))
    torch.testing.assert_close(shift, constant.reshape(1, -1, *[1] * dims).expand_as(shift), atol=1e-3, rtol=0)
    shares = constant.sigmoid() if regions else constant.softmax(dim=0)[1:].sum()[None]
    torch.testing.assert_close(shares, torch.full_like(shares, PRIOR), atol=1e-3, rtol=0)


def test_training_starts_there(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    table = LabelTable.create({"ball": 1, "rod": 3}, regions={"both": ["ball", "rod"], "rod": ["rod"]})
    cases = tiny_cases(2)
    started = {}
    for name, regions in (("regions", table.members), ("classes", ())):
        plan = tiny_plan(steps=1, lr=1e-12, regions=regions)
        labels = table if regions else LabelTable.create({"ball": 1, "rod": 3})
        network = train(plan, FoldCases(cases, [], labels), 0, tmp_path / name, name)
        with torch.inference_mode():
            started[name] = network.eval()(torch.from_numpy(cases[0].read_image()[None, :, :32, :24]))
    assert float(started["regions"].mean().sigmoid()) == pytest.approx(PRIOR, abs=0.05)
    assert PRIOR / 2 < float(started["classes"].softmax(dim=1)[:, 1:].sum(dim=1).mean()) < 4 * PRIOR
