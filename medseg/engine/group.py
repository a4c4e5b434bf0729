"""Processes that train one network together: each takes a part of every batch, all take the same step.

Started by ``torchrun`` (``train/launch.py`` does), which sets the variables read here. The loss is that of the whole
batch, whatever the loss: each process puts the others' outputs beside its own, and gradients flow into its own only, so
that their sum over processes is the gradient of the whole batch, to rounding.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medseg.engine.parent import end_with_parent
from medseg.errors import PlanError
from medseg.progress import say


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a training.

    Attributes:
        rank: number of this one; 0 writes files and messages.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def part(self, batch: int) -> range | None:
        """Positions of a batch that this process takes; None: all."""
        each = batch // self.size
        return None if self.size == 1 else range(self.rank * each, (self.rank + 1) * each)

    def share(self, network: nn.Module, device: str) -> nn.Module:
        """The network with gradients that become the mean over all processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[0] if device == "cuda" else None)

    def gather(self, part: Tensor) -> Tensor:
        """The batch (N, ...) of all parts (N / size, ...), in the order of ranks; only the own part has gradients."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, part.detach().contiguous())
        parts[self.rank] = part
        return torch.cat(parts)

    def add(self, numbers: Sequence[int]) -> list[int]:
        """Sums over all processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64, device=_device())
        dist.all_reduce(total)
        return total.tolist()

    def any_rank(self, value: bool) -> bool:
        """Whether ``value`` is true in any process."""
        return (self.size > 1 and self.add([int(value)])[0] > 0) or value

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """What happens within is done by the leader first, then by the others."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.add([0])


ALONE = Group()


@contextlib.contextmanager
def joined(device: str, processes: int) -> Iterator[Group]:
    """The group that this process was started in by ``torchrun``; ``ALONE`` if it was not.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: how many there must be.

    Raises:
        PlanError: if there is another number, since batches would not be shared as planned.
        SystemExit: with status 1, where another process has ended within: that one has said why, or who started both
            (``medseg.train.torchrun``) says it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        raise PlanError(
            f"the plan is for {processes} processes, and WORLD_SIZE is {size}; set processes: {size} in the "
            "configuration and plan again, or let `medseg train` start them itself (unset WORLD_SIZE)"
        )
    if size == 1:
        yield ALONE
        return
    end_with_parent()
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size)
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        say(f"another process of this training has ended ({' '.join(str(error).split())[:200]})")
        sys.exit(1)
    finally:
        dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether an error is the end of a connection to another process: gloo has no class of its own for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
