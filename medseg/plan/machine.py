"""What planning knows about the machine that trains."""

from __future__ import annotations

import os
from dataclasses import dataclass

from medseg.config import Config
from medseg.errors import PlanError


@dataclass(frozen=True, slots=True)
class Resources:
    """Where training will run.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: arithmetic that is fastest in its hardware: bf16, fp16 or fp32.
        memory_bytes: what a training may take.
        threads: of each process of a training on the processor.
        processes: that share each batch of a training, each on a GPU of its own if there are any.
    """

    device: str
    precision: str
    memory_bytes: float
    threads: int
    processes: int = 1


def this_machine(config: Config) -> Resources:
    """Device, its fast precision, and the memory a training may take (80 % of a GPU, half of the host).

    Raises:
        PlanError: if the configuration asks for a device that is not there.
    """
    import torch

    from medseg.machine import fast_precision, pick_device

    try:
        device = pick_device(config.device)
    except RuntimeError as error:
        raise PlanError(str(error)) from None
    if config.budget.memory_gb is not None:
        memory = config.budget.memory_gb * 1e9
    elif device == "cuda":
        memory = 0.8 * torch.cuda.get_device_properties(0).total_memory
    else:
        memory = 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    threads = max(1, config.threads // config.processes)
    return Resources(device, fast_precision(device), memory, threads, config.processes)
