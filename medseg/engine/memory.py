"""Memory that a training step takes on its device, found by running one step without computing anything."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from medseg.engine.build import build_network, build_step
from medseg.models.memory_layout import memory_format
from medseg.plan.plan import Plan

# The first step makes the optimiser's state; the second is like all that follow.
STEPS = 2


# Made for real: losses read lists of axes from tiny tensors of these, networks rates of their layers. What is computed
# from such tensors alone is real as well.
VALUES = {
    torch.ops.aten.arange.default,
    torch.ops.aten.arange.start,
    torch.ops.aten.arange.start_step,
    torch.ops.aten.linspace.default,
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are alive, while tensors are made and dropped.

    Attributes:
        workspace: bytes that the backward pass of a convolution takes for a moment, from its arguments.
        live: bytes now.
        peak: most bytes so far.
    """

    def __init__(self, workspace: Callable[[Any], int]) -> None:
        self.workspace = workspace
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            # Nothing was computed; code that reads a value (a loss, an optimiser's count of steps) gets 1.
            return 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten.convolution_backward.default:
            self.peak = max(self.peak, self.live + self.workspace(args))
        if func in VALUES or _all_real(args, kwargs):
            with unset_fake_temporarily():
                out = func(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._see(value)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _all_real(args: Any, kwargs: Any) -> bool:
    """Whether an operation takes tensors, and each with its content."""
    tensors = [value for value in tree_iter((args, kwargs or {})) if isinstance(value, Tensor)]
    return bool(tensors) and not any(isinstance(t, FakeTensor) for t in tensors)


def onednn_workspace(args: Any) -> int:
    """Bytes that oneDNN takes for a moment to go backward through a convolution, its results included.

    Found by measuring where they are more than what a step holds anyway:

    - grouped, 16-bit, 3-D, not dilated: it lays out every patch under the kernel, borders included, for all channels of
      one image (on a processor with avx512_bf16, which are the only ones that train in 16 bits; within 2 % for images
      of 8 to 24 voxels);
    - dilated: it has the kernel four times over in 32 bits, beside its gradient, and if the numbers are of 32 bits and
      the kernel is wider than 3, lays out every patch under it of one image.
    """
    gradient, image, weight, dilation, groups = args[0], args[1], args[2], args[6], args[9]
    under = math.prod(weight.shape[2:])
    if groups > 1 and gradient.ndim == 5 and gradient.dtype == torch.bfloat16 and max(dilation) == 1:
        voxels = math.prod(n + 2 for n in gradient.shape[2:])
        return int(gradient.shape[1] * voxels * under * 2)
    if max(dilation) > 1:
        wide = gradient.dtype == torch.float32 and max(weight.shape[2:]) > 3
        columns = image.shape[1] * math.prod(gradient.shape[2:]) * under if wide else 0
        return int((4 * 4 + gradient.element_size()) * weight.numel() + 4 * (columns + image.numel()))
    return 0


def no_workspace(args: Any) -> int:
    """Nothing that torch's allocator would count."""
    return 0


def estimate_memory(plan: Plan) -> int:
    """Most bytes that a training step holds on its device: weights, gradients, optimiser, activations, batch.

    The step of ``engine/step.py`` runs on tensors that have shapes and no content, and the bytes of all storages alive
    are counted, so this holds for every network, loss and optimiser without a formula for any. Not counted is what
    libraries take for themselves: a CUDA context, workspaces of convolutions, memory that an allocator keeps.

    Args:
        plan: complete; fp16 is counted as bf16, which has the same size.
    """
    workspace = onednn_workspace if plan.machine.device == "cpu" else no_workspace
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(workspace) as count:
        _go_through(plan, STEPS)
    peak: int = count.peak
    return peak


def estimate_work(plan: Plan) -> float:
    """Arithmetic operations of a training step, forward and backward: of matrix products and convolutions, which are
    nearly all of them. Counted as ``estimate_memory`` counts bytes.

    Args:
        plan: complete.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(no_workspace), FlopCounterMode(display=False) as count:
        _go_through(plan, 1)
    return float(count.get_total_flops())


def _go_through(plan: Plan, steps: int) -> None:
    """Run training steps on tensors without content."""
    precision = "bf16" if plan.machine.precision in ("bf16", "fp16") else "fp32"
    shapes = plan.changed(device="cpu", precision=precision, compile=False)
    step = build_step(build_network(shapes), shapes, blank=True)
    layout, samples = (
        memory_format(plan.network.dims, plan.machine.channels_last),
        plan.training.batch // plan.machine.processes,
    )
    for _ in range(steps):
        images = torch.empty(samples, plan.network.in_channels, *plan.network.patch).contiguous(memory_format=layout)
        labels = torch.zeros(samples, *plan.network.patch, dtype=torch.int64)
        step(images, labels)
