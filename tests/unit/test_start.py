"""What trainings start from: other models of the configuration, and a classifier's weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medseg.config import load_config
from medseg.errors import ConfigError, PlanError
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.train.checkpoint import Checkpoint, network_tensors, write_checkpoint
from medseg.train.loop import train
from medseg.train.start import Start
from medseg.train.state import FoldCases


def config_of(**models: dict[str, Any]) -> Any:
    value = {"datasets": {"d": {"path": "p"}}, "budget": {"steps": 1}, "models": models}
    return load_config([], value)


def test_models_start_from_models_that_exist() -> None:
    config = config_of(a={"network": "unet"}, b={"network": "unet", "start": "a"})
    assert config.models["b"].start == "a"
    with pytest.raises(ConfigError, match=re.escape("models.b.start: no model 'c'; there are: a, b")):
        config_of(a={"network": "unet"}, b={"network": "unet", "start": "c"})
    for circle in ({"a": "b", "b": "a"}, {"a": "a"}):
        with pytest.raises(ConfigError, match="is a cycle"):
            config_of(**{name: {"network": "unet", "start": start} for name, start in circle.items()})


@pytest.fixture
def trained(tmp_path: Path, tiny_plan: Any) -> Path:
    plan = tiny_plan()
    torch.manual_seed(5)
    network = build_model(plan.network.name, plan.network)
    labels = LabelTable.create({"a": 1, "b": 2})
    folder = tmp_path / "trained"
    write_checkpoint(folder, Checkpoint("d", ("MRI",), labels, plan, 0, 0, "f", {}), network)
    return folder


def test_what_fits_is_copied_and_the_rest_named(trained: Path, tiny_plan: Any, capsys: Any) -> None:
    from safetensors.torch import load_file

    old = load_file(trained / "model.safetensors")
    same, other = (build_model("unet", tiny_plan(classes=k).network) for k in (3, 5))
    Start(model=trained).apply(same, "t")
    assert all(torch.equal(tensor, old[name]) for name, tensor in network_tensors(same).items())
    Start(model=trained).apply(other, "t")
    fresh = {name for name, tensor in network_tensors(other).items() if tensor.shape != old[name].shape}
    assert fresh
    assert all(torch.equal(t, old[n]) for n, t in network_tensors(other).items() if n not in fresh)
    told = capsys.readouterr().err
    for name in fresh:
        assert name in told


def test_a_model_with_nothing_in_common_is_refused(trained: Path, tiny_plan: Any) -> None:
    with pytest.raises(PlanError, match=r"no tensor of .*trained has the name and shape"):
        Start(model=trained).apply(torch.nn.Linear(3, 7), "t")


def test_digests_are_those_of_the_files(trained: Path) -> None:
    assert Start().digests() == {}
    first = Start(model=trained).digests()
    assert set(first) == {"model"}
    (trained / "model.safetensors").write_bytes(b"other")
    assert Start(model=trained).digests() != first


def test_weights_without_an_encoder_are_refused(tmp_path: Path, tiny_plan: Any) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    network = build_model("unet", tiny_plan().network)
    with pytest.raises(PlanError, match="this network has none"):
        Start(encoder=tmp_path / "w.safetensors").apply(network, "t")


def test_training_starts_there(trained: Path, tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    """At a learning rate near zero the weights stay what they were."""
    plan = tiny_plan(steps=2, lr=1e-12, weight_decay=0.0, classes=3)
    fold = FoldCases(tiny_cases(2), [], LabelTable.create({"a": 1, "b": 3}))
    network = train(plan, fold, 0, tmp_path / "state", "t", Start(model=trained))
    reference = build_model("unet", plan.network)
    Start(model=trained).apply(reference, "t")
    for name, tensor in network_tensors(network).items():
        torch.testing.assert_close(tensor, network_tensors(reference)[name], atol=1e-6, rtol=0)


class Fitted(torch.nn.Module):
    """Counts the batches that it is finished with."""

    fitted = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 3, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def finish(self, batches: Any) -> None:
        for _images, _labels in batches:
            self.seen += 1


def test_what_is_fitted_to_classes_refuses_regions(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.train import state as train_state

    monkeypatch.setattr(train_state, "build_placed", lambda *_: Fitted())
    fold = FoldCases(tiny_cases(2), [], LabelTable.create({"a": 1, "b": 3}))
    with pytest.raises(PlanError, match=re.escape("options: {svm: false}")):
        train(tiny_plan(regions=((1, 2), (2,))), fold, 0, tmp_path / "state", "t")


def test_a_part_that_is_fitted_is_finished_once(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.train import state as train_state
    from medseg.train.data import FINISHING_BATCHES

    monkeypatch.setattr(train_state, "build_placed", lambda *_: Fitted())
    fold = FoldCases(tiny_cases(2), [], LabelTable.create({"a": 1, "b": 3}))
    for _ in range(2):  # the second time from the saved state
        network = train(tiny_plan(steps=3), fold, 0, tmp_path / "state", "t")
        assert float(network.seen) == FINISHING_BATCHES
