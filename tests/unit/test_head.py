"""Outputs start near the share of an image that foreground may fill, whatever the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.image.labels import LabelTable
from medseg.models.head import PRIOR, expect_rare
from medseg.models.zoo import MODELS, build_model
from medseg.train.loop import Fold, train


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("regions", [((1, 2), (2,)), tuple((1,) for _ in range(8))])
def test_sigmoids_start_near_the_prior(name: str, dims: int, regions: Any, tiny_plan: Any) -> None:
    torch.manual_seed(0)
    # Eight regions: as many outputs as the network has features.
    plan = tiny_plan(name, dims, regions=regions)
    network = build_model(name, plan.network_spec)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    expect_rare(network, plan.outputs, regions=True)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert {network.state_dict()[k].shape for k in changed} == {(plan.outputs,)}
    with torch.inference_mode():
        images = torch.randn(2, 1, *plan.patch)
        logits = network.eval()(images)
        network.load_state_dict(before)
        plain = network(images)
    assert logits.shape[1] == plan.outputs
    # Nothing but a constant was added, to the outputs themselves.
    torch.testing.assert_close(
        logits - plain,
        (logits - plain).mean(dim=(0, *range(2, dims + 2)), keepdim=True).expand_as(plain),
        atol=1e-4,
        rtol=0,
    )
    assert float(logits.mean().sigmoid()) == pytest.approx(PRIOR, abs=0.05)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_classes_share_the_prior(name: str, dims: int, tiny_plan: Any) -> None:
    torch.manual_seed(0)
    plan = tiny_plan(name, dims)
    network = build_model(name, plan.network_spec)
    expect_rare(network, plan.outputs, regions=False)
    with torch.inference_mode():
        shares = network.eval()(torch.randn(2, 1, *plan.patch)).softmax(dim=1)
    # Untrained outputs scatter, which lifts the mean; from equal biases it would be two thirds.
    assert PRIOR / 2 < float(shares[:, 1:].sum(dim=1).mean()) < 4 * PRIOR


def test_training_starts_there(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    table = LabelTable.create({"ball": 1, "rod": 3}, regions={"both": ["ball", "rod"], "rod": ["rod"]})
    cases = tiny_cases(2)
    started = {}
    for name, regions in (("regions", table.members), ("classes", ())):
        plan = tiny_plan(steps=1, lr=1e-12, regions=regions)
        labels = table if regions else LabelTable.create({"ball": 1, "rod": 3})
        network = train(plan, Fold(cases, [], labels), 0, tmp_path / name, name)
        with torch.inference_mode():
            started[name] = network.eval()(torch.from_numpy(cases[0].read_image()[None, :, :32, :24]))
    assert float(started["regions"].mean().sigmoid()) == pytest.approx(PRIOR, abs=0.05)
    assert PRIOR / 2 < float(started["classes"].softmax(dim=1)[:, 1:].sum(dim=1).mean()) < 4 * PRIOR
