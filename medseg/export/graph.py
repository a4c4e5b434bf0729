"""The network alone as a graph that other programs run: ONNX or TorchScript, for windows of one size."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.errors import DataError, MedsegError
from medseg.export.handover import Handover
from medseg.text import escaped

# Windows (1, C, window) to logits (1, K, window).
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
INPUT, OUTPUT = "image", "logits"
# Largest difference of a graph from the network, as a share of the largest logit.
TOLERANCE = 1e-3


def window_shape(model: Handover) -> tuple[int, ...]:
    """(1, C, window) that the graph takes."""
    network = model.checkpoint.plan.network
    return (1, network.in_channels, *network.patch)


def example(model: Handover, seed: int) -> torch.Tensor:
    """A window of made-up intensities (1, C, window), 32-bit: smooth waves and noise, nobody's image."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shape = window_shape(model)
    axes = np.meshgrid(*[np.linspace(0, 3 * math.pi, n) for n in shape[2:]], indexing="ij")
    waves = np.sin(sum(axes) + rng.uniform(0, 2 * math.pi))
    return torch.from_numpy((waves + 0.5 * rng.standard_normal(shape)).astype(np.float32))


def write_onnx(model: Handover, path: Path) -> None:
    """Write the network as ONNX, and run it on another window than it was written from.

    Raises:
        DataError: if torch cannot write this network, or the graph gives something else than the network.
    """
    with _quiet(), _explaining(model, "ONNX"):
        made: Any = torch.onnx.export(
            program_of(model),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        made.save(str(path))
    _compare(model, onnx_runner(path), "ONNX")


def onnx_runner(path: Path) -> Run:
    """The graph of an ONNX file, by onnxruntime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {INPUT: x})[0]


def traced(model: Handover) -> torch.jit.ScriptModule:
    """The network as TorchScript, checked like ``write_onnx``."""
    with _quiet(), _explaining(model, "TorchScript"), torch.no_grad():
        # No function of torch.jit has types.
        trace: Any = torch.jit.trace
        # Of the network itself: sizes of tensors would be tensors, which not every layer takes.
        made: torch.jit.ScriptModule = trace(program_of(model).module(), example(model, 0), check_trace=False)
        _compare(model, lambda x: made(torch.from_numpy(x)).numpy(), "TorchScript")
    return made


def program_of(model: Handover) -> torch.export.ExportedProgram:
    """The network's operators, one after the other, for windows of its size.

    Raises:
        DataError: if one of them is medseg's own, which no other program has.
    """
    program = torch.export.export(model.network, (example(model, 0),))
    own = {str(node.target) for node in program.graph.nodes if getattr(node.target, "namespace", "") == "medseg"}
    if own:
        raise DataError(
            f"network '{model.checkpoint.plan.network.name}' computes by code of medseg ({', '.join(sorted(own))}), "
            "which other programs lack; `--to folder` and `--to pyfunc` hold every model"
        )
    return program


@contextlib.contextmanager
def _explaining(model: Handover, form: str) -> Iterator[None]:
    """Make what torch raises of a network that it cannot write an error of one line."""
    try:
        yield
    except MedsegError:
        raise
    except Exception as error:
        name = model.checkpoint.plan.network.name
        cause = error.__cause__ or error
        first = [type(cause).__name__, *str(cause).strip().splitlines()[:1]]
        raise DataError(
            f"network '{name}': torch cannot write it as {form} ({escaped(': '.join(first))}); "
            "`--to folder` and `--to pyfunc` hold every model"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of torch's exporters are about other shapes than the one that is written."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(model: Handover, run: Run, form: str) -> None:
    window = example(model, 1)
    with torch.inference_mode():
        expected = model.network(window).numpy()
    found = run(window.numpy())
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if found.shape != expected.shape or not (far := float(np.abs(found - expected).max())) <= limit:
        what = f"shape {found.shape}" if found.shape != expected.shape else f"logits that differ by {far:.2g}"
        raise DataError(
            f"network '{model.checkpoint.plan.network.name}': its {form} graph gives {what}, so what it computes "
            "depends on the image; `--to folder` and `--to pyfunc` hold every model"
        )
