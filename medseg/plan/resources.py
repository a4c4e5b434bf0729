"""What a plan is allowed to use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """Where a training will run and what it may use there.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: arithmetic that is fastest in its hardware: bf16, fp16 or fp32.
        memory_bytes: what a training may use of the device's memory.
        threads: of each process of a training on the processor.
        processes: that share each batch of a training, each on a GPU of its own if there are any.
    """

    device: str
    precision: str
    memory_bytes: float
    threads: int
    processes: int = 1
