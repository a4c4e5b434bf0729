"""One optimisation step, and the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.engine.group import ALONE, Group
from medseg.engine.phases import Phases
from medseg.engine.placement import autocast
from medseg.errors import PlanError
from medseg.losses.supervision import OutputLoss
from medseg.models.objective import own_objective

# Gradients are clipped to this norm, as nnU-Net does (Isensee et al. 2021).
CLIP_NORM = 12.0
# The loss scale of fp16 starts at 65,536 and is halved whenever a gradient overflows. What is not finite at this scale
# was not made so by it.
LEAST_SCALE = 1.0


def build_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD, Nesterov momentum 0.99 (Isensee et al. 2021), less what is frozen."""
    trained = [p for p in parameters if p.requires_grad]
    # One kernel for all parameters instead of some per parameter.
    fused = trained[0].device.type == "cuda"
    if name == "adamw":
        return torch.optim.AdamW(trained, lr=lr, weight_decay=decay, fused=fused)
    return torch.optim.SGD(trained, lr=lr, weight_decay=decay, momentum=0.99, nesterov=True, fused=fused)


class Step:
    """Forward, loss, backward, clip, update.

    Where the device has too little memory for a batch at once, half as many samples go through the network together
    from then on (``at_once``), and half of these if need be. The step stays that of the whole batch: outputs are made
    part by part without gradients, the loss is taken of all of them, and each part goes through the network again with
    the gradients of its outputs. Networks that draw (dropout) draw the same both times.

    Attributes:
        network, optimizer: what is trained.
        scaler: loss scaling, active for fp16 only.
        at_once: samples that go through the network together; None: all.
        fault: what was not finite in the last step, the loss or its gradient, with its value; None: nothing was.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: OutputLoss,
        device: str,
        precision: str,
        *,
        clip: float | None = CLIP_NORM,
        compiled: bool = False,
        group: Group = ALONE,
        phases: Phases | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.loss = loss
        self.device = device
        self.precision = precision
        self.clip = clip
        self.group = group
        self.phases = phases or Phases(device)
        self.at_once: int | None = None
        # Of its outputs, nothing is known here: they are not gathered, and no batch is taken in parts.
        self._own = own_objective(network) is not None
        if self._own and group.size > 1:
            raise PlanError(
                "machine.processes: a network with a loss of its own takes the whole batch in one process; expected 1"
            )
        self.fault: str | None = None
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
        if compiled:
            # As ``set_exact`` has it, and for the compiler, too.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        shared = group.share(network, device)
        self._forward: Callable[[Tensor], Any] = torch.compile(shared) if compiled else shared

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Train on images (N, C, S) float and labels (N, S) integer; return the loss, possibly not finite.

        A step whose loss or gradient is not finite changes no weight, and ``fault`` says what it was. In fp16 such a
        gradient is most often one that the loss scale made too large: then it is no fault, the scale becomes less.

        Raises:
            torch.OutOfMemoryError: if not even one sample fits, or several processes share the batch.
        """
        # Whatever was drawn by an attempt that ran out of memory is drawn again.
        seed = torch.initial_seed()
        while (loss := self._gradients(images, labels)) is None:
            torch.manual_seed(seed)
        with self.phases.phase("update"):
            self.scaler.unscale_(self.optimizer)
            # Both numbers in one transfer: a GPU is waited for once in a step, here.
            value, norm = torch.stack([loss.float(), self._clipped_norm().to(loss.device, torch.float32)]).tolist()
            self.fault = self._fault(value, norm)
            if self.fault is None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                # The scale stays what it was before the step, too.
                self.scaler.update(self.scaler.get_scale())
        return float(value)

    def _clipped_norm(self) -> Tensor:
        """Clip the gradients, and return the norm (a scalar) that they had."""
        parameters = list(self.network.parameters())
        if self.clip is not None:
            return nn.utils.clip_grad_norm_(parameters, self.clip)
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss {loss}"
        if math.isfinite(norm) or (self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE):
            return None
        return f"gradient (its norm is {norm})"

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Leave the gradients of the loss in the parameters and return it, a scalar.

        None: out of memory, ``at_once`` is less.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            if self.at_once is None:
                return self._whole(images, labels)
            return self._in_parts(images, labels, self.at_once)
        except torch.OutOfMemoryError:
            together = self.at_once or len(images)
            if together == 1 or self.group.size > 1 or self._own:
                raise
            self.at_once = together // 2
        # Out of the handler, since the error holds the frames and with them what is in memory.
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return None

    def _whole(self, images: Tensor, labels: Tensor) -> Tensor:
        with self.phases.phase("forward"), autocast(self.device, self.precision):
            outputs = self._forward(images)
        with self.phases.phase("loss"):
            if self._own:
                loss = self.loss(outputs, labels)
            else:
                loss = self.loss(_each(outputs, self.group.gather), self.group.gather(labels))
        with self.phases.phase("backward"):
            # The mean over processes of their gradients is multiplied by their number here.
            self.scaler.scale(loss * self.group.size if self.group.size > 1 else loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _in_parts(self, images: Tensor, labels: Tensor, together: int) -> Tensor:
        seed, parts = torch.initial_seed(), torch.split(images, together)
        outputs = []
        with self.phases.phase("forward"), torch.no_grad(), autocast(self.device, self.precision):
            for number, part in enumerate(parts):
                torch.manual_seed(seed + number)
                outputs.append(self._forward(part))
        with self.phases.phase("loss"):
            joint = _joint(outputs)
            leaves = [joint] if isinstance(joint, Tensor) else joint
            for leaf in leaves:
                leaf.requires_grad_()
            loss = self.loss(joint, labels)
        with self.phases.phase("backward"):
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            gradients = [torch.split(leaf.grad, together) for leaf in leaves if leaf.grad is not None]
            for number, part in enumerate(parts):
                torch.manual_seed(seed + number)
                with autocast(self.device, self.precision):
                    again = self._forward(part)
                tensors = [again] if isinstance(again, Tensor) else list(again)
                torch.autograd.backward(tensors, [g[number] for g in gradients])
        return loss.detach()


def _each(outputs: Tensor | Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Tensor | list[Tensor]:
    """One output or several, changed."""
    return change(outputs) if isinstance(outputs, Tensor) else [change(o) for o in outputs]


def _joint(parts: Sequence[Any]) -> Any:
    """The outputs of the parts of a batch as those of the whole."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [torch.cat(same) for same in zip(*parts, strict=True)]
