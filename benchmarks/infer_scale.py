"""What predicting one image costs by its size: planned and found memory, processor seconds, and the law they follow.

    python benchmarks/infer_scale.py 64 128 256 512 1024 1024.nii.gz 50000.tif [--laws 64 128 256 512]
                                     [--folder FOLDER] [--out benchmarks/results/infer_scale.json]

A number is a cube of 16-bit integers (NIfTI, with a suffix in that format), with ``.tif`` a square of 8 bits in tiles,
with ``.ome.zarr`` one in chunks. Files are made slab by slab in FOLDER and removed. Each is predicted by ``medseg
predict`` in a process of its own, with a convolution of one voxel (five classes) for the network: what is measured is
everything around a network. Kept are processor seconds, the largest resident memory (and that of it which no file
backs), looked at ten times a second, beside what ``--dry-run`` said before. The law is least squares of processor
seconds over voxels.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ingest import hardware

from medseg.files import write_json
from medseg.provenance import environment

CLASSES = 5
WINDOW = {2: (512, 512), 3: (64, 64, 64)}
TILE = 256


def make(name: str, folder: Path) -> Path:
    """An image of this name, whose numbers vary smoothly with some noise; never whole in memory."""
    size, _, suffix = name.partition(".")
    count, path = int(size), folder / f"image{size}.{suffix or 'nii'}"
    if suffix == "tif":
        import tifffile

        grid = -(-count // TILE)
        tiles = (_tile(row, column) for row in range(grid) for column in range(grid))
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            file.write(
                tiles, shape=(count, count), dtype=np.uint8, tile=(TILE, TILE), compression="zlib", metadata=None
            )
    elif suffix == "ome.zarr":
        _make_zarr(path, count)
    else:
        _make_nifti(path, count)
    return path


def _tile(row: int, column: int, size: int = TILE) -> np.ndarray:
    noise = np.random.default_rng([row, column]).integers(0, 8, (size, size), dtype=np.uint8)
    return noise + np.uint8(20 + (row * 7 + column * 13) % 200)


def _make_zarr(path: Path, count: int, chunk: int = 1024) -> None:
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array("0", shape=(count, count), chunks=(chunk, chunk), dtype="u1")
    for row in range(0, count, chunk):
        for column in range(0, count, chunk):
            part = _tile(row // chunk, column // chunk, chunk)[: count - row, : count - column]
            array[row : row + chunk, column : column + chunk] = part
    scales = [{"type": "scale", "scale": [1.0, 1.0]}]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scales}]}
    ]


def _make_nifti(path: Path, count: int) -> None:
    import gzip

    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_data_shape((count,) * 3)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(header.binaryblock.ljust(352, b"\0"))
        for plane in range(count):
            noise = np.random.default_rng(plane).integers(0, 64, (count, count), dtype=np.uint16)
            file.write((noise + np.uint16(100 + 2 * plane)).tobytes())


def predict(image: Path, out: Path, words: list[str]) -> None:
    """In a process of its own: ``medseg predict`` with a network of one voxel."""
    import torch

    from medseg.cli import main
    from medseg.image.labels import LabelTable
    from medseg.models.spec import NetworkSpec
    from medseg.plan.plan import Grid, Machine, Plan, Training
    from medseg.predict import memory, predictor
    from medseg.train.checkpoint import Checkpoint, write_checkpoint

    dims = 2 if "tif" in image.name or "zarr" in image.name else 3
    unit, rule = ("px", "percentile") if dims == 2 else ("mm", "zscore")
    spec = NetworkSpec(
        dims,
        1,
        CLASSES + 1,
        (8, 16),
        ((1,) * dims, (2,) * dims),
        ((3,) * dims,) * 2,
        WINDOW[dims],
        name="unet",
    )
    training = Training("dice_ce", "adamw", 0.005, 1e-4, "default", 0.33, batch=2, steps=1, validate_every=1)
    grid = Grid(unit, dims == 3, (1.0,) * dims, (rule,), ({},))
    plan = Plan("stub", grid, spec, training, Machine("cpu", "fp32", threads=1), {})
    table = LabelTable.create({f"class{k}": k for k in range(1, CLASSES + 1)})
    checkpoint = Checkpoint("made-up", ("grey",), table, plan, 0, 0, "stub", {})
    torch.manual_seed(0)
    if "--real" in sys.argv:
        from medseg.engine.build import build_network

        write_checkpoint(out / "model", checkpoint, build_network(plan))
        sys.argv = ["medseg", "predict", str(image), "--model", str(out / "model"), "-o", str(out / "labels"), *words]
        main()
        return
    network = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(1, CLASSES + 1, 1)
    write_checkpoint(out / "model", checkpoint, network)
    # Two windows, and the six maps that are made of them.
    memory.network_bytes = lambda plan, step: 4 * 2 * (1 + CLASSES + 1) * math.prod(WINDOW[dims])
    predictor.read_checkpoint = lambda folder: (checkpoint, network.eval())  # type: ignore[assignment]
    sys.argv = ["medseg", "predict", str(image), "--model", str(out / "model"), "-o", str(out / "labels"), *words]
    main()


def run(image: Path, out: Path, *words: str) -> tuple[str, dict[str, float]]:
    """What a prediction prints, and what it took."""
    command = [sys.executable, __file__, "--predict", str(image), str(out), *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peaks: dict[str, int] = {}
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks))
        watcher.start()
        printed = process.communicate()[0]
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{image}: {printed}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return printed, {"cpu_s": cpu, **{name: kb / 1e6 for name, kb in peaks.items()}}


def _watch(pid: int, peaks: dict[str, int]) -> None:
    """Most kB that a process has had, in all (``rss_gb``) and of its own (``anonymous_gb``), until it ends."""
    names = {"VmHWM": "rss_gb", "RssAnon": "anonymous_gb"}
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = {names[name]: int(kb) for name, kb in re.findall(r"^(VmHWM|RssAnon):\s*(\d+) kB", status, re.MULTILINE)}
        if not found:
            return
        for name, kb in found.items():
            peaks[name] = max(peaks.get(name, 0), kb * 1024 // 1000)
        time.sleep(0.1)


def measured(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """One image: planned, and predicted."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        image = make(name, Path(place))
        said, _ = run(image, Path(place), "--dry-run")
        planned = re.search(r": ([\d.]+) GB of memory at most", said)
        disk = re.search(r", ([\d.]+) GB of disk", said)
        size, _, suffix = name.partition(".")
        _, found = run(image, Path(place))
        yield {
            "name": name,
            "voxels": int(size) ** (2 if suffix in ("tif", "ome.zarr") else 3),
            "path": "slabs" if "slab by slab" in said else "memory",
            "planned_gb": float(planned[1]) if planned else None,
            "planned_disk_gb": float(disk[1]) if disk else 0.0,
            **{key: round(value, 3) for key, value in found.items()},
        }


def law(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares of processor seconds over voxels, and how much of their variance it explains."""
    voxels, seconds = (np.array([row[key] for row in rows], dtype=float) for key in ("voxels", "cpu_s"))
    each, start = np.polyfit(voxels, seconds, 1)
    rest = ((seconds - start - each * voxels) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return {"start_s": round(start, 2), "ns_per_voxel": round(each * 1e9, 2), "r_squared": round(1 - rest, 5)}


def main() -> None:
    if sys.argv[1:2] == ["--predict"]:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), [word for word in sys.argv[4:] if word != "--real"])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--laws", nargs="*", default=[])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/infer_scale.json"))
    given = parser.parse_args()
    rows = []
    for name in given.images:
        rows += list(measured(name, given.folder or Path(tempfile.gettempdir())))
        print(json.dumps(rows[-1]), flush=True)
    fitted = [row for row in rows if row["name"] in given.laws]
    laws = {"law": law(fitted)} if len(fitted) > 2 else {}
    write_json(given.out, {"hardware": hardware(), "environment": environment(), "images": rows, **laws})


if __name__ == "__main__":
    main()
