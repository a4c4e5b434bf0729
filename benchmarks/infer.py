"""Sliding-window prediction beside MONAI and nnU-Net: processor seconds and memory, same network, volume and windows.

    python benchmarks/infer.py                                  # sizes and engines below
    python benchmarks/infer.py --sizes 128 256 --engines medseg monai --mirror
    python benchmarks/infer.py --sizes 256 --blank 0.5          # half of the volume is air

A planned U-Net (window 64^3, 3 classes) with random weights sees a volume of noise; windows overlap by half and are
blended by the same Gaussian. Each engine runs in a process of its own, one after the other, on one thread; what it
takes beyond the calls of the network is its own part. This package keeps memory that tensors gave back
(``engine/heap.py``); peers run as they are, and ``monai:heap`` is MONAI with that, too. nnU-Net is used if it is
installed, in its own 32 bits and with the plan's precision. ``openvino`` is the same network compiled (`pip install
'medseg[fast]'`), ``int8`` the same in 8 bits. Memory is the growth of the process's peak beyond what it holds with
network and volume in it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from medseg.engine.heap import keep_freed_memory
from medseg.files import write_json
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
WINDOW, CLASSES, BATCH = (64, 64, 64), 3, 2
WIDTHS = (16, 32, 64, 128)
AIR = -1.5
ENGINES = ("medseg", "monai", "monai:heap", "nnunet:fp32", "nnunet", "openvino", "int8")

Network = Callable[[Tensor], Any]


class Timed(nn.Module):
    """A network that counts its calls' processor seconds; a module, since nnU-Net wants one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.seconds, self.calls = network, 0.0, 0

    def forward(self, x: Tensor) -> Tensor:
        begun = time.process_time()
        out = self.network(x)
        self.seconds += time.process_time() - begun
        self.calls += 1
        return out if isinstance(out, Tensor) else out[0]


def network_of(precision: str) -> nn.Module:
    """The network, placed as predictions have it."""
    from medseg.engine.build import build_network
    from medseg.engine.placement import place, set_exact
    from medseg.models.spec import NetworkSpec
    from medseg.plan.plan import Grid, Machine, Plan, Training

    strides = ((1, 1, 1), *[(2, 2, 2)] * (len(WIDTHS) - 1))
    spec = NetworkSpec(3, 1, CLASSES, WIDTHS, strides, ((3, 3, 3),) * len(WIDTHS), WINDOW, name="unet")
    training = Training("dice_ce", "adamw", 0.005, 1e-4, "default", 0.33, batch=BATCH, steps=6, validate_every=3)
    grid = Grid("mm", True, (1.0,) * 3, ("none",), ({},))
    torch.manual_seed(0)
    network = build_network(Plan("unet", grid, spec, training, Machine("cpu", precision, threads=1), {})).eval()
    set_exact(1, precision)
    return place(network, "cpu", 3)


def by_medseg(network: Network, volume: Tensor, mirror: bool) -> Tensor:
    from medseg.patches.tiling import predict_slabs
    from medseg.predict.blank import BlankOnce
    from medseg.predict.members import Member

    out = torch.empty(CLASSES, *volume.shape[1:], dtype=torch.uint8)[0]
    row = 0
    for slab in predict_slabs(BlankOnce(Member(network, mirror)), volume, WINDOW, batch=BATCH):
        out[row : row + slab.shape[1]] = slab.argmax(0)
        row += slab.shape[1]
    return out


def by_monai(network: Network, volume: Tensor, mirror: bool) -> Tensor:
    from monai.inferers import sliding_window_inference

    from medseg.predict.members import Member

    options = {"overlap": 0.5, "mode": "gaussian", "sigma_scale": 0.125}
    found = sliding_window_inference(volume[None], WINDOW, BATCH, Member(network, mirror), **options)
    return found[0].argmax(0).to(torch.uint8)  # type: ignore[union-attr]


def by_nnunet(network: Network, volume: Tensor, mirror: bool) -> Tensor:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=list(WINDOW))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    predictor.allowed_mirroring_axes = (0, 1, 2) if mirror else None
    return predictor.predict_sliding_window_return_logits(volume).argmax(0).to(torch.uint8)


PEERS: dict[str, Callable[[Network, Tensor, bool], Tensor]] = {"monai": by_monai, "nnunet": by_nnunet}


def one(engine: str, size: int, precision: str, mirror: bool, blank: float) -> dict[str, Any]:
    """Run one engine in this process."""
    torch.set_num_threads(1)
    name, _, own = engine.partition(":")
    if name not in PEERS or own == "heap":
        keep_freed_memory()
    from medseg.engine.placement import autocast

    network: Network = network_of(precision)
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(1, size, size, size, generator=generator)
    volume[:, : int(size * blank)] = AIR
    if name in ("openvino", "int8"):
        from medseg.engine.openvino import compile_network

        windows = [volume[:, -64:, k : k + 64, :64].clone() for k in range(0, size - 63, 8)][:16]
        network = compile_network(
            network_of("fp32").to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            *(1, WINDOW),
            precision="int8" if name == "int8" else precision,
            examples=windows,
        )
    run, timed = PEERS.get(name, by_medseg), Timed(network)
    in_torch = name in ("medseg", *PEERS) and own != "fp32"
    with torch.inference_mode(), autocast("cpu", precision) if in_torch else contextlib.nullcontext():
        run(timed, volume[:, :80, :80, :80].clone(), mirror)  # what is made once
        before = reset_peak()
        timed.seconds = timed.calls = 0
        wall, cpu = time.perf_counter(), time.process_time()
        labels = run(timed, volume, mirror)
    used = time.process_time() - cpu
    return {
        "cpu_s": round(used, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "network_share": round(timed.seconds / used, 4),
        "peak_mb": round((peak() - before) / 1e6, 1),
        "calls": timed.calls,
        "labels": [int(n) for n in labels.flatten().bincount(minlength=CLASSES)],
    }


def reset_peak() -> int:
    """Begin to count the peak of this process's memory anew; bytes that it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 192, 256])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--blank", type=float, default=0.0, help="share of the volume that is air")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/infer.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        found = one(given.one, given.sizes[0], given.precision, given.mirror, given.blank)
        print(json.dumps(found))
        return
    for size in given.sizes:
        case = f"{size}^3 {given.precision}" + (" mirrored" if given.mirror else "")
        case += f" {given.blank:.0%} air" if given.blank else ""
        rows: dict[str, Any] = {}
        for engine in given.engines:
            if engine.startswith("nnunet") and importlib.util.find_spec("nnunetv2") is None:
                continue
            options = ["--precision", given.precision, "--blank", str(given.blank), "--sizes", str(size)]
            options += ["--mirror"] if given.mirror else []
            command = [sys.executable, __file__, "--one", engine, *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{engine}: {done.stderr}")
            rows[engine] = json.loads(done.stdout.splitlines()[-1])
            ours = rows.get("medseg", rows[engine])
            ratios = {key: round(rows[engine][key] / ours[key], 2) for key in ("cpu_s", "peak_mb") if ours[key]}
            print(case, engine, rows[engine], "of medseg's:", ratios, flush=True)
        known = json.loads(given.out.read_text())["cases"] if given.out.is_file() else {}
        write_json(given.out, {"cases": {**known, case: rows}, "environment": environment()})


if __name__ == "__main__":
    main()
