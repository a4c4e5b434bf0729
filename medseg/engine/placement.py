"""Networks on a device: memory layout, precision, and what keeps their arithmetic repeatable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from medseg.models.memory_layout import memory_format

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def place(network: nn.Module, device: str, dims: int, channels_last: bool = True) -> nn.Module:
    """Move a network to ``device`` in a memory layout."""
    moved: nn.Module = network.to(device, memory_format=memory_format(dims, channels_last))  # type: ignore[call-overload]
    return moved


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Run the network in ``precision`` on ``device``; weights stay float32."""
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device, DTYPES[precision])


def set_exact(threads: int, precision: str) -> None:
    """Fix what changes bits: the number of threads, the choice of algorithms, and what 32-bit products are made of."""
    torch.set_num_threads(threads)
    # On GPUs that have it; 19 of 32 bits would be a silent change of precision unless the plan has it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # As ``use_deterministic_algorithms(True, warn_only=True)``, which imports torch's compiler besides: seconds that a
    # short job has no use for. Where a network is compiled, that is called, too (``engine/step.py``).
    torch.set_deterministic_debug_mode("warn")
    # Along with it, torch writes NaN into all memory before it is used: a quarter of a step of a 2-D network. Tests do
    # that for every network (tests/contracts/test_models.py): none may read uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Make numbers below 1e-38 zero in this thread and those it starts, until the end of the context.

    The moments of weights without a gradient decay into such numbers, and processors compute with them so slowly that a
    step of an FCN took ten times as long (docs/notebook.md). Not in ``set_exact``: a program that predicts with this
    library may need them.
    """
    # torch has no getter.
    before = float(torch.tensor(1e-20).square()) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
