"""A network compiled by OpenVINO for this machine's processor: the same weights, several times as fast as torch.

OpenVINO fuses convolutions with what follows them and chooses layouts for the whole network. In fp32 its numbers are
torch's up to rounding. In bf16 activations stay 16 bits wide between layers, where torch's autocast goes back and
forth; in int8 weights and activations are 8-bit integers whose ranges are taken from windows of the image
(post-training quantization, Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

OpenVINO and nncf report their use over the network unless somebody forbade it. They do so through a module of its own,
which is made impossible to import here: then they go without.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError, MachineError

# What networks may compute in.
PRECISIONS = ("fp32", "bf16", "int8")
# Windows of which activations' ranges are taken.
CALIBRATION = 16
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Through which OpenVINO and nncf report what they are used for.
REPORTER = "openvino_telemetry"

Compiled = Callable[[Tensor], Tensor]


def is_installed() -> bool:
    """Whether OpenVINO is there; nothing is imported."""
    return importlib.util.find_spec("openvino") is not None


def has_bf16() -> bool:
    """Whether the processor computes in bf16 itself."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def compile_network(
    network: nn.Module,
    channels: int,
    window: Sequence[int],
    *,
    precision: str = "fp32",
    threads: int = 1,
    examples: Sequence[Tensor] = (),
) -> Compiled:
    """The network as a function of windows (N, channels, window) on the processor, any N, to its output, 32-bit.

    Args:
        network: in evaluation mode, on the processor.
        channels, window: of its input.
        precision: one of ``PRECISIONS``.
        threads: on which it runs; with the same number it repeats its bits.
        examples: for int8, windows (n, channels, window) like those that it will see.

    Raises:
        ConfigError: if OpenVINO is not installed, or for int8 nncf; it says how to install them.
        MachineError: if the network cannot be traced for this window, or holds what OpenVINO does not have.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    model = _converted(network, channels, window)
    if precision == "int8":
        model = _quantized(model, examples)
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }
    with _or_say():
        compiled = _core().compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()

    def run(windows: Tensor) -> Tensor:
        found = request.infer([windows.float().contiguous().numpy()], share_inputs=True)
        # The request writes the next result to the same place.
        return torch.from_numpy(found[0].copy())

    return run


def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    # A module that is None cannot be imported; both programs can do without this one.
    sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ConfigError(
            "OpenVINO is not installed; run `pip install 'medseg[fast]'`, or predict with --runtime torch"
        ) from None
    return openvino


def _converted(network: nn.Module, channels: int, window: Sequence[int]) -> Any:
    """The network as OpenVINO's model, of any number of windows."""
    openvino = _openvino()
    example = torch.zeros(2, channels, *window)
    with torch.inference_mode(), warnings.catch_warnings(), _or_say():
        # A window's size is a constant of the trace, and is meant to be.
        warnings.simplefilter("ignore")
        return openvino.convert_model(network, example_input=example, input=[[-1, channels, *window]])


@contextlib.contextmanager
def _or_say() -> Iterator[None]:
    """Whatever a network's own code, or OpenVINO, raises under a trace becomes an error that says what to do."""
    try:
        yield
    except Exception as error:
        why = str(error).strip().splitlines()[-1]
        raise MachineError(f"OpenVINO cannot compile this network ({why}); predict with --runtime torch") from error


def _quantized(model: Any, examples: Sequence[Tensor]) -> Any:
    """The model with 8-bit weights and activations."""
    if not examples:
        raise ValueError("int8 needs windows of which ranges are taken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import nncf
        except ImportError:
            raise ConfigError(
                "nncf is not installed, which int8 needs; run `pip install 'medseg[fast]'`, or predict with "
                "--runtime openvino"
            ) from None
        data = nncf.Dataset([window.unsqueeze(0).float().numpy() for window in examples])
        return nncf.quantize(model, data, subset_size=len(examples))
