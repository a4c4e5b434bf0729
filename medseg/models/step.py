"""One optimisation step, and what it needs to know about the device: precision, memory layout, optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from medseg.models.supervision import supervised

# Gradients are clipped to this norm, as nnU-Net does (Isensee et al. 2021).
CLIP_NORM = 12.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wish: str) -> str:
    """``cpu`` or ``cuda`` for the wish ``auto``, ``cpu`` or ``cuda``."""
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wish == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' was asked for, but torch sees no CUDA device; set device: cpu or auto")
    return wish


def fast_precision(device: str) -> str:
    """The reduced precision that the device computes in hardware, else ``fp32``.

    On processors without bf16 instructions autocast is slower than fp32, so the flags decide.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    probe = torch.cpu
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16" if any(getattr(probe, n)() for n in names if hasattr(probe, n)) else "fp32"


def memory_format(dims: int) -> torch.memory_format:
    """Channels-last for 2-D or 3-D, which convolutions prefer."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def place(network: nn.Module, device: str, dims: int) -> nn.Module:
    """Move a network to ``device`` in the memory layout that its convolutions prefer."""
    moved: nn.Module = network.to(device, memory_format=memory_format(dims))  # type: ignore[call-overload]
    return moved


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Run the network in ``precision`` on ``device``; weights stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, DTYPES[precision])


def set_exact(threads: int) -> None:
    """Fix what changes bits: the number of threads and the choice of algorithms."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def build_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with Nesterov momentum 0.99 (Isensee et al. 2021)."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=0.99, nesterov=True)


class Step:
    """Forward, loss, backward, clip, update.

    Attributes:
        network, optimizer: what is trained.
        scaler: loss scaling, active for fp16 only.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        device: str,
        precision: str,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.loss = loss
        self.device = device
        self.precision = precision
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Train on images (N, C, S) float and labels (N, S) integer; return the loss, possibly not finite.

        A step with a non-finite loss changes no weight.
        """
        with autocast(self.device, self.precision):
            outputs = self.network(images)
        loss = supervised(self.loss, outputs, labels)
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            return value
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value
