"""The exponential mean of the weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medseg.image.labels import LabelTable
from medseg.train import advance, saving
from medseg.train.average import Average
from medseg.train.checkpoint import network_tensors, pack_tensors
from medseg.train.loop import train
from medseg.train.state import FoldCases

LABELS = LabelTable.create({"ball": 1, "rod": 3})


def bits(network: nn.Module) -> str:
    return hashlib.sha256(pack_tensors(network_tensors(network))).hexdigest()


def test_the_mean_is_the_recursion_written_out() -> None:
    network = nn.Linear(2, 1, bias=False)
    average, expected = Average(network, 0.9), network.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            network.weight += torch.tensor([[1.0, -2.0]]) * (step + 1)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    assert torch.allclose(average.mean["weight"], expected, rtol=1e-5)


def test_in_place_gives_the_weights_back_and_keep_does_not() -> None:
    network = nn.Conv2d(1, 2, 3)
    average, before = Average(network, 0.5), bits(network)
    with torch.no_grad():
        network.weight.add_(1.0)
    moved = bits(network)
    with average.in_place():
        assert bits(network) == before
    assert bits(network) == moved
    with pytest.raises(ValueError, match="ends"), average.in_place():
        raise ValueError("ends")
    assert bits(network) == moved
    average.keep()
    assert bits(network) == before


def test_frozen_parameters_are_left_alone() -> None:
    network = nn.Linear(2, 1)
    network.bias.requires_grad_(False)
    assert list(Average(network, 0.5).mean) == ["weight"]


def test_training_ends_with_the_mean_killed_or_not(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    cases = tiny_cases(2)
    fold = FoldCases(cases, cases[:1], LABELS)
    plan = tiny_plan(steps=8, average=0.99, validate_every=3)
    whole = train(plan, fold, 0, tmp_path / "whole", "whole")
    assert bits(whole) != bits(train(tiny_plan(steps=8, validate_every=3), fold, 0, tmp_path / "last", "last"))
    made = advance.augment_batch

    def dies(raw: Any, *rest: Any) -> Any:
        if raw.step == 5:
            raise KeyboardInterrupt
        return made(raw, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(advance, "augment_batch", dies)
        train(plan, fold, 0, tmp_path / "killed", "killed")
    assert bits(train(plan, fold, 0, tmp_path / "killed", "killed")) == bits(whole)
    assert bits(train(plan, fold, 0, tmp_path / "killed", "finished")) == bits(whole)
