"""Run by nnU-Net's interpreter, for benchmarks/train.py: its own trainer and loaders, timed.

    python benchmarks/train_peer.py FACTS

FACTS is JSON: name of its data set, device, steps before the clock starts, least steps and seconds to time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch


def trainer_of(name: str, device: str) -> Any:
    """nnU-Net's default trainer of its fold 0, ready for the first iteration, as `nnUNetv2_train` sets it up."""
    gpu = device == "cuda"
    torch.set_num_threads(1 if gpu else multiprocessing.cpu_count())
    if gpu:
        torch.set_num_interop_threads(1)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(name, "3d_fullres", 0, device=torch.device(device))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


def measure(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Iterations of its training loop for some seconds; samples per second."""
    trainer = trainer_of(facts["name"], facts["device"])
    waited = 0.0

    def once() -> None:
        nonlocal waited
        begun = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited += time.perf_counter() - begun
        trainer.train_step(batch)

    def now() -> float:
        if facts["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(facts["warm"]):
        once()
    waited, steps, begun = 0.0, 0, now()
    while steps < facts["least"] or time.perf_counter() - begun < facts["seconds"]:
        once()
        steps += 1
    spent = now() - begun
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()
    chosen = trainer.configuration_manager
    return {
        "samples_per_s": steps * trainer.batch_size / spent,
        "steps": steps,
        "batch_share": waited / spent,
        "patch": [int(n) for n in chosen.patch_size],
        "batch": int(trainer.batch_size),
        "widths": list(chosen.network_arch_init_kwargs["features_per_stage"]),
        "precision": "fp16" if facts["device"] == "cuda" else "fp32",
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "workers": getattr(trainer.dataloader_train, "num_processes", 0),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print("found " + json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
    # Its threads and queues may not want to end.
    os._exit(0)
