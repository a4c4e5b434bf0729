"""Training side by side with nnU-Net: efficiency of the loop, samples per second, minutes to a useful score.

    python benchmarks/train.py --data-root FOLDER [--parts loop peer reach augment] [--environment FOLDER]

Parts, each of which replaces its own section of the result, so that they can be run one at a time:

    loop: time of forward, backward and update on a batch that is already there, over the time of a step as the loop
        takes it (patches read from prepared cases, augmented, trained on). Both in turn, in one process, with the plan
        that `medseg plan` makes for the shipped studies. Journal, validation and saving come on top; the shares of the
        last two are stated.
    peer: samples per second of nnU-Net's own loop (its plan, trainer and loaders, with its number of augmentation
        workers and with others) and of this one: with the same network, patch, batch and recipe, in the arithmetic and
        layout that planning measures and chooses, and in 32 bits; with a network of as many parameters, patch, batch
        and recipe the same, whose finest stages are narrower; and with what is planned here. In turn, each in
        processes of its own, after a warm-up.
    reach: the plain study by its command with growing budgets, until the mean Dice over all cases of the validation
        fold, whole images on their native grid, is reached.
    augment: benchmarks/augment.py with its defaults, which the picture shows as well.

No part: only the picture is drawn. nnU-Net is installed from the package index into an environment of its own. Where
FOLDER has no hippocampus/ or nuclei_fluo/, generated phantoms stand in. Everything runs on the planned device; results
of GPUs, of processors and of processors without 16-bit arithmetic lie side by side in the JSON. Only ratios taken in
one run on a quiet machine count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from augment import hardware
from preprocess import copy_hippocampus, make_environment, write_peer_raw
from preprocess import versions as versions_of

from medseg.files import read_json, write_json, write_text
from medseg.plan.plan import Plan
from medseg.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
# Shipped study -> generated data set that stands in where its data are absent.
STUDIES = {"hippocampus": "organs", "nuclei": "cells"}
# Steps before the clock starts: choice of algorithms, compilation, caches, and nnU-Net's queue of ready batches.
WARM = {"cpu": 2, "cuda": 40}
LEAST_STEPS = 3
LOOK_S = 2.0
# Processes that read ahead: what the configuration gives where it does not say.
READERS = {"cpu": 0, "cuda": 2}
# nnU-Net's augmentation workers; none: its own choice.
PEER_WORKERS: dict[str, tuple[int | None, ...]] = {"cpu": (None, 0), "cuda": (None, 0, 2)}
PEER_NUMBER, PEER_NAME = "4", "Dataset004_benchmark"
PEER_EPOCH = 250
# Its convolutions have biases that the norm behind them takes away; ours have none.
SAME_NETWORK = 0.002
# The coarsest stage takes back the parameters that the finest ones lost, in whole registers.
SAME_SIZE, REGISTER = 0.02, 16
DID = {
    "loop": "efficiency: seconds on the resident batch over seconds of the loop's step, sums over a round's steps, "
    "after a first pass over the cases",
    "peer": "nnunet: nnUNetTrainer.train_step(next(dataloader_train)), threads as nnUNetv2_train sets them; medseg: "
    "the step of the loop; validation, journal and saving are left out of both",
    "reach": "curve: seconds since the start of the training job, eight watched cases, pooled; dice: all cases of the "
    "fold; nnU-Net first scores after an epoch of 250 iterations, which bounds its time from below",
}


def call(
    command: Sequence[str | Path],
    threads: int | None = None,
    folder: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return what it printed; without ``threads`` it chooses their number by itself."""
    set_here = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "nnUNet_n_proc_DA")
    environment = {k: v for k, v in os.environ.items() if k not in set_here} | dict(more or {})
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads)}
    words = [str(c) for c in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[:3]}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout


def found_in(output: str) -> dict[str, Any]:
    """The JSON that a child printed last."""
    found: dict[str, Any] = json.loads(output.split("found ")[-1])
    return found


def rounded(value: Any) -> Any:
    """Numbers with four digits, at any depth."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def child(kind: str, facts: Mapping[str, Any]) -> list[str | Path]:
    """The command of a process that takes steps of the loop."""
    return [sys.executable, ROOT / "benchmarks/train_steps.py", kind, json.dumps(facts)]


def this_device() -> str:
    from medseg.machine import pick_device

    return pick_device("auto")


def this_kind() -> str:
    """Whose results these are: a device's, or those of a processor that computes in 32 bits only."""
    from medseg.machine import fast_precision

    device = this_device()
    return f"{device}_fp32" if device == "cpu" and fast_precision(device) == "fp32" else device


class Study:
    """The data set of a shipped study, brought to plans and a store by the plain commands.

    Args:
        name: of the study.
        folder: for everything that is made.
        data_root: folder of the real data; phantoms are made where they are not there.
        changes: of the study's configuration.
    """

    def __init__(self, name: str, folder: Path, data_root: Path | None, **changes: Any) -> None:
        settings = read_settings(ROOT / f"config/{name}.yaml")
        self.dataset, section = next(iter(settings["datasets"].items()))
        self.generated = data_root is None or not (data_root / section["path"]).is_dir()
        root = folder / "data" if data_root is None or self.generated else data_root
        if self.generated:
            self.dataset = STUDIES[name]
            section = read_settings(ROOT / "config/config.yaml")["datasets"][self.dataset]
            settings["datasets"] = {self.dataset: section}
        self.folder, self.data = folder, root / section["path"]
        self.config, self.fingerprint = folder / "study.json", folder / "fingerprint.json"
        self.manifest, self.splits = folder / "ingest/manifest.tsv", folder / "ingest/splits.json"
        self.index = folder / "store/index.json"
        self.settings = {**settings, "data_root": str(root.resolve())}
        self.configure(**changes)

    def configure(self, **changes: Any) -> None:
        """Write the configuration, with other values."""
        self.settings |= changes
        write_json(self.config, self.settings)

    def medseg(self, command: str, *words: str | Path, threads: int | None = 1) -> None:
        call([Path(sys.executable).parent / "medseg", command, "--config", self.config, *words], threads)

    def ingest(self) -> None:
        """Make phantoms where there are no data; check the files, split them, summarise them."""
        if self.generated:
            self.medseg("phantoms", "--dataset", self.dataset)
        self.medseg("ingest", "--dataset", self.dataset, "--out", self.manifest.parent)
        self.medseg("fingerprint", "--manifest", self.manifest, "--out", self.fingerprint)

    def prepare(self, model: str) -> None:
        """Preprocess for a model; all models here share its grid."""
        inputs = ("--manifest", self.manifest, "--fingerprint", self.fingerprint)
        workers = ("--workers", str(os.cpu_count()))
        self.medseg("preprocess", "--model", model, *inputs, *workers, "--out", self.index.parent)

    def plan(self, model: str) -> dict[str, str]:
        """Plan a model; the files that a training of it reads."""
        path = self.folder / f"{model}.json"
        # A budget in minutes is measured: with as many threads as the training will have.
        self.medseg("plan", "--model", model, "--fingerprint", self.fingerprint, "--out", path, threads=None)
        return {"plan": str(path), "index": str(self.index), "splits": str(self.splits)}


def budget_of(options: argparse.Namespace) -> dict[str, Any]:
    """What to plan for, where it is not what the study says."""
    return {"budget": {"minutes": options.budget}} if options.budget else {}


def measure_loop(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The part ``loop``."""
    made, device = {}, this_device()
    for name in options.studies:
        study = Study(name, folder / name, options.data_root, threads=options.threads, **budget_of(options))
        study.ingest()
        study.prepare("unet")
        facts = {"files": study.plan("unet"), "warm": WARM[device], "look_s": LOOK_S, "workers": READERS[device]}
        found = found_in(call(child("loop", {**facts, "steps": options.steps, "rounds": options.rounds})))
        efficiency = float(np.median([r["efficiency"] for r in found["rounds"]]))
        made[study.dataset] = {"efficiency": efficiency, **found}
        print("loop", study.dataset, rounded(made[study.dataset]), flush=True)
    return {"datasets": made}


def plan_peer(study: Study, binaries: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Let nnU-Net plan and prepare the study's data; its environment variables, and its plan as overrides of ours."""
    folder = study.folder / "nnunet"
    paths = {f"nnUNet_{k}": str(folder / k) for k in ("raw", "preprocessed", "results")}
    write_peer_raw(study.data, folder / "raw" / PEER_NAME)
    number, workers = ("-d", PEER_NUMBER), ("-np", str(os.cpu_count()))
    call([binaries / "nnUNetv2_extract_fingerprint", *number, *workers], 1, more=paths)
    call([binaries / "nnUNetv2_plan_experiment", *number], 1, more=paths)
    call([binaries / "nnUNetv2_preprocess", *number, "-c", "3d_fullres", *workers], 1, more=paths)
    plans = read_json(folder / "preprocessed" / PEER_NAME / "nnUNetPlans.json")
    chosen = plans["configurations"]["3d_fullres"]
    network = chosen["architecture"]["arch_kwargs"]

    def ours(values: Sequence[int]) -> list[int]:
        # Its axes are SimpleITK's, which are reversed, and then transposed.
        return [values[axis] for axis in plans["transpose_backward"]][::-1]

    overrides = {
        "patch": ours(chosen["patch_size"]),
        "batch": chosen["batch_size"],
        "widths": network["features_per_stage"],
        "strides": [ours(stride) for stride in network["strides"]],
    }
    return paths, overrides


def peer_study(folder: Path, options: argparse.Namespace) -> Study:
    """The data of both systems in a folder of their own, split as nnU-Net does."""
    source = options.data_root / "hippocampus" if options.data_root else None
    if source is not None and source.is_dir():
        copy_hippocampus(source, folder / "copy/hippocampus", options.cases)
    folds = {"scheme": "nnunet", "count": 5, "run": [0]}
    changes = {"threads": options.threads, "folds": folds, **budget_of(options)}
    study = Study("hippocampus", folder, folder / "copy", **changes)
    study.ingest()
    return study


def narrowed(widths: Sequence[int]) -> list[int]:
    """Widths of a U-Net of as many parameters, half as wide in its two finest stages, where most of the time goes."""

    def size(widths: Sequence[int]) -> int:
        # Kernels of 3^3 voxels, strides of 2: two convolutions a stage down, one transposed and two up.
        down = sum(27 * (a * b + b * b) for a, b in pairwise((1, *widths)))
        return down + sum(8 * fine * coarse + 27 * 3 * fine**2 for fine, coarse in pairwise(widths))

    finer = [width // 2 for width in widths[:2]] + list(widths[2:-1])
    options = ([*finer, last] for last in range(REGISTER, 4 * widths[-1], REGISTER))
    return min(options, key=lambda option: abs(size(option) - size(widths)))


def check_same(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise unless what is compared as the same network, and as one of the same size, is."""
    theirs = systems["nnunet"]
    for name, most in (("medseg_same", SAME_NETWORK), ("medseg_same_size", SAME_SIZE)):
        ours = systems[name]
        if ours["batch"] != theirs["batch"] or abs(ours["parameters"] / theirs["parameters"] - 1) > most:
            raise RuntimeError(f"{name} is not the same: {ours} and {theirs}")


def measure_peer(folder: Path, options: argparse.Namespace, binaries: Path) -> dict[str, Any]:
    """The part ``peer``: rounds of all systems in turn; samples per second, and ratios of the medians."""
    study, device = peer_study(folder, options), this_device()
    paths, overrides = plan_peer(study, binaries)
    same = {"network": "unet", "recipe": "nnunet", "plan": overrides}
    exact = {**same, "plan": {**overrides, "precision": "fp32"}}
    narrow = {**same, "plan": {**overrides, "widths": narrowed(overrides["widths"])}}
    study.configure(models={"own": {"network": "unet"}, "same": same, "same_fp32": exact, "same_size": narrow})
    study.prepare("own")
    clock = {"warm": WARM[device], "least": LEAST_STEPS, "seconds": options.seconds}
    runs: dict[str, tuple[list[str | Path], dict[str, str]]] = {}
    theirs = json.dumps({"name": PEER_NAME, "device": device, **clock})
    for workers in PEER_WORKERS[device]:
        name = "nnunet" if workers is None else f"nnunet_{workers}_workers"
        more = {} if workers is None else {"nnUNet_n_proc_DA": str(workers)}
        runs[name] = ([binaries / "python", ROOT / "benchmarks/train_peer.py", theirs], {**paths, **more})
    for model in study.settings["models"]:
        facts = {**clock, "workers": READERS[device], "files": study.plan(model)}
        runs[f"medseg_{model}"] = (child("steps", facts), {})
    rates: dict[str, list[float]] = {name: [] for name in runs}
    systems: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name, (command, more) in runs.items():
            systems[name] = found_in(call(command, more=more))
            rates[name].append(systems[name].pop("samples_per_s"))
            print("peer", name, rounded(rates[name][-1]), "samples/s", rounded(systems[name]), flush=True)
        check_same(systems)
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    pairs = [(a, b) for a in middle for b in middle if a.startswith("medseg") and b.startswith("nnunet")]
    ratios = {f"{a}/{b}": middle[a] / middle[b] for a, b in pairs}
    cases = len(read_json(study.index)["cases"])
    return {"dataset": study.dataset, "cases": cases, "ratios": ratios, "samples_per_s": rates, "systems": systems}


def run_study(minutes: float, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The whole study by its command, trained for ``minutes``: its curve, and its score on the validation fold."""
    budget = {"minutes": minutes}
    study = Study("hippocampus", folder, options.data_root, threads=options.threads, budget=budget)
    snakemake = (Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile")
    how = ("--workflow-profile", ROOT / "profiles/default", "--cores", str(os.cpu_count()))
    begun = time.monotonic()
    call([*snakemake, *how, "--configfile", study.config], folder=folder)
    wall_s = time.monotonic() - begun
    results = folder / "results" / study.settings["experiment"]
    trained, jobs = results / study.dataset / "train/unet/fold0-seed0", results / "benchmarks" / study.dataset
    train_s, plan_s = (
        float((jobs / name).read_text().splitlines()[1].split("\t")[0])
        for name in ("train/unet-fold0-seed0.tsv", "plan/unet.tsv")
    )
    records = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    # Records carry the time of day. The last one stands for the end of the job, so all seem a moment later than they
    # were.
    start_s = records[-1]["time_ms"] / 1000 - train_s
    scored = [(r["time_ms"] / 1000 - start_s, r["metrics"].get("val/dice/mean")) for r in records]
    curve = [(second, dice) for second, dice in scored if dice is not None]
    rows = read_json(results / "compare/summary.json")["rows"]
    score = next(r for r in rows if (r["metric"], r["label"]) == ("dice_subject", "mean"))
    plan = Plan.from_json(read_json(trained / "model.json")["plan"])
    return {
        "minutes": minutes,
        "dice": {k: score[k] for k in ("mean", "low", "high", "n")},
        "curve_first_s": next((second for second, dice in curve if dice >= options.dice), None),
        "train_job_s": train_s,
        "plan_job_s": plan_s,
        "wall_s": wall_s,
        "curve": curve,
        "plan": {k: plan.value(k) for k in ("patch", "batch", "widths", "precision", "steps", "threads", "device")},
    }


def measure_reach(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The part ``reach``: the smallest of the budgets that is enough."""
    tried: list[dict[str, Any]] = []
    for minutes in sorted(options.minutes):
        tried.append(run_study(minutes, folder / f"{minutes:g}", options))
        print("reach", rounded(tried[-1]), flush=True)
        if tried[-1]["dice"]["mean"] >= options.dice:
            break
    reached = tried[-1]["dice"]["mean"] >= options.dice
    return {"dice": options.dice, "minutes": tried[-1]["minutes"] if reached else None, "budgets": tried}


def bound(parts: Mapping[str, Any]) -> dict[str, float] | None:
    """How long nnU-Net takes to its first score at least, from the parts ``peer`` and ``reach`` of one device."""
    peer, reach = parts.get("peer"), parts.get("reach")
    if peer is None or reach is None or reach["minutes"] is None:
        return None
    epoch_s = PEER_EPOCH * peer["systems"]["nnunet"]["batch"] / float(np.median(peer["samples_per_s"]["nnunet"]))
    return {"first_epoch_s": epoch_s, "ratio": epoch_s / reach["budgets"][-1]["train_job_s"]}


def saved(out: Path) -> dict[str, Any]:
    """What earlier runs found: device -> part -> result."""
    return read_json(out) if out.is_file() else {}


def keep(out: Path, part: str, found: Mapping[str, Any], load: float, peer: Path | None = None) -> None:
    """Put a part into the JSON, with the machine and the versions that it was measured on."""
    from medseg.provenance import environment

    mine = environment()
    versions = {k: mine[k] for k in ("medseg", "git", "python", "torch", "monai")}
    if peer is not None:
        versions |= {k: v for k, v in versions_of(peer).items() if k.startswith("nnunet/")}
    about = {"did": DID[part], "load_before": load, "hardware": hardware(), "versions": versions}
    everything = saved(out)
    parts = everything.setdefault(this_kind(), {})
    parts[part] = {**rounded(found), **about}
    if "reach" in parts:
        parts["reach"]["nnunet_at_least"] = rounded(bound(parts))
    write_text(out, json.dumps(everything, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder with hippocampus/ and nuclei_fluo/")
    parts = ("loop", "peer", "reach", "augment")
    parser.add_argument("--parts", nargs="*", choices=parts, default=["loop", "peer", "reach"])
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES), help="of the part loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a training on the processor")
    parser.add_argument("--budget", type=float, help="minutes that loop and peer plan for; none: as the study says")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="steps of either kind per round of the part loop")
    parser.add_argument("--seconds", type=float, default=40.0, help="per system and round of the part peer")
    parser.add_argument("--cases", type=int, default=200, help="hippocampus cases of the part peer")
    parser.add_argument("--dice", type=float, default=0.85, help="what the part reach is after")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 3, 4, 6], help="budgets that it tries")
    parser.add_argument("--environment", type=Path, help="keep nnU-Net's environment here, or use the one there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/train.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medseg-train-") as scratch:
        folder = Path(scratch).resolve()
        load = os.getloadavg()[0]
        if "loop" in options.parts:
            keep(options.out, "loop", measure_loop(folder / "loop", options), load)
        if "peer" in options.parts:
            binaries = make_environment((options.environment or folder / "environment").resolve())
            keep(options.out, "peer", measure_peer(folder / "peer", options, binaries), load, binaries)
        if "reach" in options.parts:
            keep(options.out, "reach", measure_reach(folder / "reach", options), load)
    if "augment" in options.parts:
        subprocess.run([sys.executable, str(ROOT / "benchmarks/augment.py")], check=True)
    from train_picture import draw

    augment = [read_json(path) for path in sorted((ROOT / "benchmarks/results").glob("augment*.json"))]
    draw(saved(options.out), augment, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
