"""What a training may use of this machine, for the planner."""

from __future__ import annotations

from medseg.machine import device_memory, fast_precision, host_memory, pick_device
from medseg.plan.resources import Resources

# Share of a GPU's memory, and of the memory that this process can have, that a training may use.
GPU_SHARE = 0.8
HOST_SHARE = 0.5


def available_resources(device: str, memory_gb: float | None, threads: int, processes: int) -> Resources:
    """The resources that a training gets on this machine.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        memory_gb: memory of the device that a training may use; None: 80 % of a GPU, half of the host.
        threads: of all processes of a training together.
        processes: that share each batch.

    Raises:
        MachineError: if this machine has no such device.
    """
    device = pick_device(device)
    if memory_gb is not None:
        memory = memory_gb * 1e9
    elif device == "cuda":
        memory = GPU_SHARE * device_memory()
    else:
        memory = HOST_SHARE * host_memory()
    return Resources(device, fast_precision(device), memory, max(1, threads // processes), processes)
