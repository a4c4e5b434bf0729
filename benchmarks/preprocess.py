"""Preprocessing side by side with nnU-Net: the same cases, the same target grid, the same number of workers, one run.

    python benchmarks/preprocess.py --data-root FOLDER

nnU-Net is installed from the package index into an environment of its own. Two data sets: a part of the hippocampus
(FOLDER/hippocampus, decathlon layout) and generated anisotropic CT-like volumes. Ingest, fingerprint and plan are made
before; overrides give both systems one target spacing, at which every case must be resampled. Then both prepare all
cases, alternately, several times:

    command: the whole command, `medseg preprocess` against `nnUNetv2_preprocess`, start-up included;
    loop: all cases one after the other in one warm process, which leaves out start-up and worker pools.

The result says whether the shapes agree and how well the prepared images correlate.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEER = ("nnunetv2>=2.8,<2.9", "torch==2.13.0")
# Data set -> (nnU-Net's number, target spacing in mm along x, y, z).
TARGETS = {"hippocampus": (1, (0.8, 0.8, 0.8)), "ct": (2, (0.9, 0.9, 3.0))}
# Spacings of the generated volumes, in turn: one anisotropic, one not.
CT_SPACINGS = ((0.8, 0.8, 3.0), (0.95, 0.95, 2.5))

# Run by nnU-Net's interpreter: prepare every case in this one process, as its workers do.
PEER_LOOP = """
import json, os, sys, time
from batchgenerators.utilities.file_and_folder_operations import join, load_json, maybe_mkdir_p
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
name, out = sys.argv[1], sys.argv[2]
plans = PlansManager(load_json(join(nnUNet_preprocessed, name, "nnUNetPlans.json")))
configuration = plans.get_configuration("3d_fullres")
facts = load_json(join(nnUNet_preprocessed, name, "dataset.json"))
cases = get_filenames_of_train_images_and_targets(join(nnUNet_raw, name), facts)
preprocessor = configuration.preprocessor_class(verbose=False)
maybe_mkdir_p(out)
def prepare(case, name):
    files = cases[case]
    preprocessor.run_case_save(join(out, name), files["images"], files["label"], plans, configuration, facts)
prepare(sorted(cases)[0], "warm")
begun = time.perf_counter()
for case in sorted(cases):
    prepare(case, case)
print("seconds", time.perf_counter() - begun)
"""


def make_environment(folder: Path) -> Path:
    """Install nnU-Net into an environment of its own; its ``bin``."""
    binaries = folder / "bin"
    if not (binaries / "nnUNetv2_preprocess").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([str(binaries / "python"), "-m", "pip", "install", "--quiet", *PEER], check=True)
    return binaries


def make_volumes(folder: Path, count: int, edge: int) -> None:
    """Write CT-like volumes of edge^3 voxels in the decathlon layout: noise of 15 HU, a body, three organs."""
    import nibabel

    axis = np.linspace(-1, 1, edge, dtype=np.float32)
    place = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        volume = np.full((edge,) * 3, -1000, dtype=np.float32)
        labels = np.zeros((edge,) * 3, dtype=np.uint8)
        body = sum(((p - c) / r) ** 2 for p, c, r in zip(place, (0, 0, 0), (0.85, 0.7, 1.2), strict=True)) < 1
        volume[body] = 40
        for value, intensity in ((1, 110), (2, 160), (3, -30)):
            centre, radius = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.12, 0.3, 3)
            organ = sum(((p - c) / r) ** 2 for p, c, r in zip(place, centre, radius, strict=True)) < 1
            volume[organ], labels[organ] = intensity, value
        volume += 15 * rng.standard_normal(volume.shape, dtype=np.float32)
        x, y, z = CT_SPACINGS[index % len(CT_SPACINGS)]
        affine = np.diag([-x, -y, z, 1.0])
        for kind, array in (("imagesTr", np.clip(volume, -1024, 3000).astype(np.int16)), ("labelsTr", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / kind / f"ct{index}.nii.gz")
    names = {"0": "background", "1": "liver", "2": "kidney", "3": "fat"}
    write_decathlon(folder, "CT", names, [f"ct{index}" for index in range(count)])


def write_decathlon(folder: Path, modality: str, names: dict[str, str], cases: list[str]) -> None:
    training = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    facts = {"modality": {"0": modality}, "labels": names, "numTraining": len(cases), "training": training}
    (folder / "dataset.json").write_text(json.dumps(facts))


def copy_hippocampus(source: Path, folder: Path, count: int) -> None:
    """The first cases of the public hippocampus set."""
    facts = json.loads((source / "dataset.json").read_text())
    cases = sorted(Path(row["image"]).name.removesuffix(".nii.gz") for row in facts["training"])[:count]
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for case in cases:
            shutil.copy(source / kind / f"{case}.nii.gz", folder / kind)
    write_decathlon(folder, "MRI", facts["labels"], cases)


def write_peer_raw(source: Path, folder: Path) -> None:
    """The same files in nnU-Net's raw layout."""
    facts = json.loads((source / "dataset.json").read_text())
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for row in facts["training"]:
        case = Path(row["image"]).name.removesuffix(".nii.gz")
        os.link(source / row["image"], folder / "imagesTr" / f"{case}_0000.nii.gz")
        os.link(source / row["label"], folder / "labelsTr" / f"{case}.nii.gz")
    labels = {name: int(value) for value, name in facts["labels"].items()}
    described = {"channel_names": facts["modality"], "labels": labels, "numTraining": len(facts["training"])}
    (folder / "dataset.json").write_text(json.dumps({**described, "file_ending": ".nii.gz"}))


class Bench:
    """One data set prepared by both systems.

    Args:
        folder: scratch folder with ``data/{name}``; binaries: nnU-Net's ``bin``; workers: for both.
    """

    def __init__(self, name: str, folder: Path, binaries: Path, workers: int) -> None:
        self.name, self.folder, self.binaries, self.workers = name, folder, binaries, workers
        self.number, self.spacing = TARGETS[name]
        self.peer_name = f"Dataset{self.number:03d}_{name}"
        self.medseg = Path(sys.executable).parent / "medseg"
        self.config = folder / f"{name}.json"
        self.stages = folder / "medseg" / name
        paths = {f"nnUNet_{k}": str(folder / "nnunet" / k) for k in ("raw", "preprocessed", "results")}
        # One thread per worker for both, so that the workers are the parallelism.
        self.environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1"}

    def call(self, *command: str | Path) -> str:
        done = subprocess.run(
            [str(c) for c in command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-3000:]}{done.stdout[-2000:]}")
        return done.stdout

    def plan(self) -> None:
        """Everything that comes before preprocessing, untimed."""
        experiment = {
            "experiment": "benchmark",
            "data_root": str(self.folder / "data"),
            "datasets": {self.name: {"layout": "decathlon", "path": self.name}},
            "models": {"unet": {"network": "unet", "plan": {"spacing": list(self.spacing)}}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
        }
        self.config.write_text(json.dumps(experiment))
        general = ("--config", self.config, "--workers", str(self.workers))
        manifest = self.stages / "ingest/manifest.tsv"
        self.call(self.medseg, "ingest", *general, "--dataset", self.name, "--out", manifest.parent)
        out = self.stages / "fingerprint.json"
        self.call(self.medseg, "fingerprint", *general, "--manifest", manifest, "--out", out)
        write_peer_raw(self.folder / "data" / self.name, self.folder / "nnunet/raw" / self.peer_name)
        number = ("-d", str(self.number))
        self.call(self.binaries / "nnUNetv2_extract_fingerprint", *number, "-np", str(self.workers))
        spacing = [str(s) for s in reversed(self.spacing)]
        self.call(self.binaries / "nnUNetv2_plan_experiment", *number, "-overwrite_target_spacing", *spacing)

    def ours_command(self) -> float:
        shutil.rmtree(self.stages / "store", ignore_errors=True)
        begun = time.perf_counter()
        self.call(
            *(self.medseg, "preprocess", "--config", self.config, "--model", "unet"),
            *("--manifest", self.stages / "ingest/manifest.tsv", "--fingerprint", self.stages / "fingerprint.json"),
            *("--workers", str(self.workers), "--out", self.stages / "store"),
        )
        return time.perf_counter() - begun

    def peer_command(self) -> float:
        begun = time.perf_counter()
        number, workers = ("-d", str(self.number)), ("-np", str(self.workers))
        self.call(self.binaries / "nnUNetv2_preprocess", *number, "-c", "3d_fullres", *workers)
        return time.perf_counter() - begun

    def ours_loop(self) -> float:
        shutil.rmtree(self.stages / "loop", ignore_errors=True)
        inputs = [self.config, self.stages / "ingest/manifest.tsv", self.stages / "fingerprint.json"]
        return _seconds(self.call(sys.executable, __file__, "--loop", *inputs, self.stages / "loop"))

    def peer_loop(self) -> float:
        out = self.folder / "nnunet/loop" / self.name
        shutil.rmtree(out, ignore_errors=True)
        return _seconds(self.call(self.binaries / "python", "-c", PEER_LOOP, self.peer_name, out))

    def agreement(self) -> dict[str, Any]:
        """Whether both made the same grids, and how alike the images are (smallest correlation over cases)."""
        import blosc2

        from medseg.preprocess.store import open_store

        _, cases, _ = open_store(self.stages / "store/index.json")
        peer = self.folder / "nnunet/preprocessed" / self.peer_name
        plans = json.loads((peer / "nnUNetPlans.json").read_text())
        shapes, correlations, overlaps, resampled = [], [], [], 0
        for name, case in cases.items():
            stored = peer / plans["configurations"]["3d_fullres"]["data_identifier"] / name
            with open(f"{stored}.pkl", "rb") as file:
                # Written by the nnU-Net that this script has just installed and run.
                before = pickle.load(file)["shape_after_cropping_and_before_resampling"]
            image, labels = (np.asarray(blosc2.open(f"{stored}{k}.b2nd", mode="r")[0]) for k in ("", "_seg"))
            resampled += tuple(before) != image.shape
            image, labels = (np.transpose(a, plans["transpose_backward"]).T for a in (image, labels))
            flips = tuple(a for a, flip in enumerate(case.record.flips) if flip)
            # SimpleITK's grid is the file's; ours is turned to RAS+.
            image, labels = np.flip(image, flips), np.flip(labels, flips)
            shapes.append(image.shape == case.shape)
            if shapes[-1]:
                ours, mine = case.read_image()[0], case.read_labels()
                correlations.append(float(np.corrcoef(ours.ravel(), image.ravel())[0, 1]))
                both = np.count_nonzero((mine > 0) & (mine == labels))
                overlaps.append(2 * both / (np.count_nonzero(mine > 0) + np.count_nonzero(labels > 0)))
        return {
            "cases": len(cases),
            "resampled": resampled,
            "equal_shapes": sum(shapes),
            "least_correlation_of_images": round(min(correlations), 5),
            "least_overlap_of_labels": round(min(overlaps), 5),
            "shapes": sorted({str(c.shape) for c in cases.values()})[:4],
        }


def _seconds(output: str) -> float:
    return float(output.split("seconds ")[-1])


def loop(config: Path, manifest: Path, fingerprint: Path, out: Path) -> None:
    """Prepare all cases in this process, one after the other; print the seconds. The first is prepared once before."""
    from medseg.config import load_config
    from medseg.preprocess import run as stage

    preparation = stage.read_preparation(load_config([config]), "unet", manifest, fingerprint, "code")
    for case in preparation.manifest.cases[:1]:
        stage.prepare_case(case, preparation, out / "warm")
    begun = time.perf_counter()
    for case in preparation.manifest.cases:
        stage.prepare_case(case, preparation, out)
    print("seconds", time.perf_counter() - begun)


def measure(bench: Bench, repeat: int) -> dict[str, Any]:
    """Alternate the two systems ``repeat`` times; seconds of each, the machine's load, the ratio of the medians."""
    found: dict[str, Any] = {}
    pairs = {"command": (bench.ours_command, bench.peer_command), "loop": (bench.ours_loop, bench.peer_loop)}
    for kind, (ours, peer) in pairs.items():
        times: dict[str, list[float]] = {"medseg_s": [], "nnunet_s": [], "load": []}
        for _ in range(repeat):
            times["medseg_s"].append(round(ours(), 3))
            times["nnunet_s"].append(round(peer(), 3))
            times["load"].append(round(os.getloadavg()[0], 1))
            print(bench.name, kind, {k: v[-1] for k, v in times.items()}, flush=True)
        ratio = float(np.median(times["nnunet_s"]) / np.median(times["medseg_s"]))
        found[kind] = {**times, "ratio": round(ratio, 2)}
    return found


def versions(binaries: Path) -> dict[str, str]:
    from medseg.provenance import environment

    ours = environment()
    listed = subprocess.run(
        [str(binaries / "python"), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    theirs = {row["name"].lower(): row["version"] for row in json.loads(listed.stdout)}
    wanted = ("nnunetv2", "torch", "numpy", "scipy", "scikit-image", "simpleitk", "blosc2")
    mine = {k: ours[k] for k in ("medseg", "git", "python", "numpy", "scipy", "nibabel", "blosc2")}
    return {**mine, **{f"nnunet/{k}": theirs.get(k, "absent") for k in wanted}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cases", type=int, default=60, help="hippocampus cases")
    parser.add_argument("--volumes", type=int, default=6, help="generated CT volumes")
    parser.add_argument("--edge", type=int, default=256, help="voxels along each axis of a generated volume")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--environment", type=Path, help="keep nnU-Net's environment here, or use the one there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/preprocess.json")
    parser.add_argument("--loop", type=Path, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        loop(*options.loop)
        return
    if options.data_root is None:
        parser.error("--data-root: folder that holds hippocampus/ (decathlon layout)")
    with tempfile.TemporaryDirectory(prefix="medseg-preprocess-") as scratch:
        folder = Path(scratch)
        binaries = make_environment((options.environment or folder / "environment").resolve())
        copy_hippocampus(options.data_root / "hippocampus", folder / "data/hippocampus", options.cases)
        make_volumes(folder / "data/ct", options.volumes, options.edge)
        found: dict[str, Any] = {}
        for name, (_, spacing) in TARGETS.items():
            bench = Bench(name, folder, binaries, options.workers)
            bench.plan()
            times = measure(bench, options.repeat)
            found[name] = {"target_spacing_mm": spacing, **bench.agreement(), **times}
            made = {"datasets": found, "workers": options.workers, "did": DID, "hardware": hardware()}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({**made, "versions": versions(binaries)}, indent=2) + "\n")
        print(options.out.read_text())


DID = {
    "medseg": "read and check digests, orient, crop, normalise, cubic spline (nearest along the coarse axis of an "
    "anisotropic grid), labels by nearest neighbour, 1000 locations per class, float16 image and uint8 labels as "
    "blosc2 zstd, digests of all files, flushed to disk",
    "nnunet": "read, transpose, crop, normalise, cubic spline (nearest along the coarse axis of an anisotropic grid), "
    "labels linear per class, at least 10000 locations per class, float32 image and int16 labels as blosc2 lz4hc",
}


def hardware() -> dict[str, Any]:
    from medseg.provenance import environment

    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    return {"processor": environment()["processor"], "cores": os.cpu_count(), "memory_gb": memory}


if __name__ == "__main__":
    main()
