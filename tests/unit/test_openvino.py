"""Networks compiled by OpenVINO: torch's numbers, every row of the zoo or a reason, and nobody is told."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from medseg.engine.build import build_network
from medseg.errors import ConfigError, MachineError
from medseg.networks import NETWORKS
from tests.plans import tiny_plan

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed (pip install 'medseg[fast]')", allow_module_level=True)
from medseg.engine import openvino as runtime

# Their shapes depend on what is in the image, or on more of the window's size than a trace sees.
NOT_COMPILED = {"rcnn", "mask_rcnn", "sds", "swin_unetr"}
ROWS = [(name, dims) for name, row in NETWORKS.items() for dims in row.dims]
EVERY_DAY = {("unet", 2), ("unet", 3), ("deeplabv3plus", 2), ("fcn8s", 2)}


def network_of(name: str, dims: int) -> tuple[nn.Module, tuple[int, ...]]:
    plan = tiny_plan(name, dims)
    torch.manual_seed(0)
    return build_network(plan).eval(), plan.network.patch


def first(outputs: Any) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(*row, marks=() if row in EVERY_DAY else pytest.mark.exhaustive) for row in ROWS],
)
def test_every_network_gives_the_numbers_of_torch_or_says_that_it_cannot(name: str, dims: int) -> None:
    network, window = network_of(name, dims)
    if name in NOT_COMPILED:
        with pytest.raises(MachineError, match="--runtime torch"):
            runtime.compile_network(network, 1, window)
        return
    compiled = runtime.compile_network(network, 1, window)
    windows = torch.randn(3, 1, *window, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = first(network(windows))
    found = compiled(windows)
    assert found.shape == expected.shape and found.dtype == torch.float32
    # Norms of the few voxels that are left at the coarsest stage magnify what was rounded otherwise.
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-3
    # The same bits again, and of each window alone; a later call leaves them alone.
    again = torch.cat([compiled(windows[n : n + 1]) for n in range(3)])
    assert torch.equal(found, again)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_fewer_bits_are_near(precision: str) -> None:
    network, window = network_of("unet", 2)
    examples = torch.randn(8, 1, *window, generator=torch.Generator().manual_seed(2))
    if precision == "bf16" and not runtime.has_bf16():
        pytest.skip("this processor has no bf16")
    if precision == "int8":
        pytest.importorskip("nncf")
    compiled = runtime.compile_network(network, 1, window, precision=precision, examples=list(examples))
    with torch.inference_mode():
        expected = first(network(examples))
    error = (compiled(examples) - expected).abs().mean() / expected.std()
    assert 0 < float(error) < 0.15


def test_nothing_can_be_reported() -> None:
    network, window = network_of("unet", 2)
    runtime.compile_network(network, 1, window)
    assert sys.modules[runtime.REPORTER] is None


def test_without_openvino_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    network, window = network_of("unet", 2)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[fast\]'"):
        runtime.compile_network(network, 1, window)


def test_warnings_of_a_trace_are_not_shown() -> None:
    network, window = network_of("unet", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.compile_network(network, 1, window)
