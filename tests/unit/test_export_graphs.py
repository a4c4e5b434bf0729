"""Networks as graphs: each is written with equal logits, or refused by a sentence that says what to do instead."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.errors import DataError
from medseg.export import graph
from medseg.export.handover import Handover, kinds_of
from medseg.export.table import EXPORTS, PROPOSALS
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS
from medseg.train.checkpoint import Checkpoint

TABLE = LabelTable.create({"a": 1, "b": 2})
ONNX = all(importlib.util.find_spec(name) is not None for name in EXPORTS["onnx"].needs)
EVERY = [(name, dims) for name, row in NETWORKS.items() if not row.objective for dims in row.dims]
FEW = [("unet", 3), ("fcn8s", 2)]


def model_of(name: str, dims: int, tiny_plan: Any) -> Handover:
    plan = tiny_plan(name, dims)
    torch.manual_seed(0)
    model = Handover(Path(), Checkpoint("d", ("x",), TABLE, plan, 0, 0, "f", {}), "name", {})
    # As if it had been read from the folder.
    vars(model)["network"] = build_model(name, plan.network).eval()
    return model


@pytest.mark.parametrize(
    ("name", "dims"),
    [*FEW, *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in EVERY if one not in FEW and one[0] != "rcnn")],
)
def test_a_network_becomes_a_graph_with_equal_logits(name: str, dims: int, tiny_plan: Any, tmp_path: Path) -> None:
    model = model_of(name, dims, tiny_plan)
    graph.traced(model)
    if ONNX:
        graph.write_onnx(model, tmp_path / "model.onnx")


def test_a_network_of_region_proposals_is_refused(tiny_plan: Any) -> None:
    with pytest.raises(DataError, match=r"network 'rcnn' computes by code of medseg \(medseg.regions.*`--to folder`"):
        graph.traced(model_of("rcnn", 2, tiny_plan))
    for name in ("mask_rcnn", "sds"):
        plan = tiny_plan(name, 2)
        assert PROPOSALS in kinds_of(Checkpoint("d", ("x",), TABLE, plan, 0, 0, "f", {}))


def test_a_graph_that_computes_something_else_is_refused(tiny_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("unet", 2, tiny_plan)
    program = torch.export.export(torch.nn.Conv2d(1, 3, 3, padding=1), (graph.example(model, 0),))
    monkeypatch.setattr(graph, "program_of", lambda model: program)
    with pytest.raises(DataError, match="its TorchScript graph gives logits that differ by"):
        graph.traced(model)
