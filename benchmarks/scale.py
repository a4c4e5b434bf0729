"""What a study costs by its numbers of cases and trainings: scaling laws of every stage, counted and not timed.

    python benchmarks/scale.py [--parts cases starts trainings] [--pictures 200 400 …] [--volumes 50 100 …]
                               [--trainings 1 2 3] [--folder FOLDER] [--out benchmarks/results/scale.json]

Every stage runs by its command, in a process of its own and on one thread, on the made-up cases of ``many.py``. Kept
are processor seconds, the largest resident memory, read and write calls, and the files and bytes that it leaves: these
are nearly the same on a busy machine. ``wall_s`` stands beside them, and means something where the machine has nothing
else to do. Laws are least squares, ``start + each * n``.

* ``cases``: stages from ``ingest`` to ``evaluate`` by the number of cases, one fold of five; ``… again`` is the same
  command once more, which keeps what is there.
* ``trainings``: whole studies of 30 pictures by the workflow, by the number of trainings, two steps each; the finished
  study is asked once more. ``snakemake`` alone is a workflow of one rule that is done.
* ``starts``: a dry run by the number of trainings, and the look at files that were made, by their number.

``walls`` computes from these laws what a study of so many cases and trainings takes on so many nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ingest import hardware
from many import PICTURE, VOLUME, write_pictures, write_volumes

from medseg.files import read_json, write_json, write_text
from medseg.outputs import FileFacts, damaged, write_list
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
# What the walls are computed for.
STUDY: Mapping[str, float] = {"cases": 10_000, "trainings": 1_000, "nodes": 100, "folds": 5}
PARTS = ("cases", "starts", "trainings")
FEW = 30
# Of commands: on one thread.
SURROUNDINGS = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "OMP_NUM_THREADS": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}
DATA: Mapping[str, Mapping[str, Any]] = {
    "pictures": {"path": "pictures", "layout": "pairs", "labels": {"disc": 1}, "subject": "case"},
    "volumes": {"path": "volumes", "layout": "decathlon", "subject": "case"},
}
# Part of the results -> what its laws are over.
OVER = {**dict.fromkeys(DATA, "cases"), "trainings": "trainings", "planned": "trainings", "listed": "files"}
COUNTED = ("cpu_s", "rss_mb", "calls", "files", "mb")


def study(folder: Path, name: str, runs: int, seeds: int = 1) -> Path:
    """Write the configuration of a study: one network, ``runs`` of five folds, ``seeds`` trainings of each."""
    value = {
        "experiment": "scale",
        "data_root": "data",
        "datasets": {name: DATA[name]},
        "models": {"unet": {"network": "unet"}},
        "folds": {"count": int(STUDY["folds"]), "run": list(range(runs))},
        "seeds": list(range(seeds)),
        "budget": {"steps": 2},
        "threads": 1,
        "device": "cpu",
    }
    # JSON is YAML.
    write_text(folder / "study.yaml", json.dumps(value))
    return folder / "study.yaml"


def install(folder: Path) -> Path:
    """A copy of the package and its workflow whose modules are compiled, as those of an installed one are."""
    for name in ("medseg", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder / name)
    SURROUNDINGS["PYTHONPATH"] = str(folder)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder / "medseg")], env=SURROUNDINGS, check=True)
    return folder


def counted(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command in ``folder``; what it took, its children included, and what it left there."""
    before, begun = left_in(folder), time.perf_counter()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(command[0], list(command), SURROUNDINGS)
    # Before it is waited for, so that its counters can still be read.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    io = {key: int(value) for key, value in (line.split(": ") for line in lines)}
    _, status, used = os.wait4(pid, 0)
    wall, after = time.perf_counter() - begun, left_in(folder)
    os.close(log)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "rss_mb": round(used.ru_maxrss / 1024),
        "calls": io["syscr"] + io["syscw"],
        "files": after[0] - before[0],
        "mb": round((after[1] - before[1]) / 1e6, 3),
        "wall_s": round(wall, 1),
    }


def left_in(folder: Path) -> tuple[int, int]:
    """Files and folders below a folder, and the bytes that they take on the disk; of the data none."""
    found = [p.lstat() for p in folder.rglob("*") if "data" not in p.relative_to(folder).parts[:1]]
    return len(found), sum(one.st_blocks * 512 for one in found)


def stages(name: str) -> dict[str, list[str]]:
    """The commands of one training, in their order; digests of code are given to them, as the workflow does."""
    here = Path("results/scale") / name
    manifest, splits = here / "ingest/manifest.tsv", here / "ingest/splits.json"
    fingerprint, plan, store = here / "plan/fingerprint.json", here / "plan/unet.json", here / "preprocess/default"
    model, predicted = here / "train/unet/fold0-seed0", here / "predict/unet/fold0-seed0"
    config, of_manifest = ["--config", "study.yaml"], ["--manifest", str(manifest)]
    fold = [*of_manifest, "--splits", str(splits), "--fold", "0"]
    training = ["--plan", str(plan), "--index", str(store / "index.json"), "--seed", "0"]
    preprocess = ["preprocess", *config, "--model", "unet", *of_manifest, "--fingerprint", str(fingerprint)]
    preprocess += ["--out", str(store), "--code", "0"]
    predict = ["predict", *config, *fold, *training, "--model", str(model), "--out", str(predicted)]
    predict += ["--code", "0", "--train-code", "0"]
    scored = ["--predictions", str(predicted / "predictions.json"), "--model", str(model)]
    score = ["evaluate", *config, *of_manifest, *scored, "--out", str(here / "evaluate/unet/fold0-seed0.parquet")]
    return {
        "ingest": ["ingest", *config, "--dataset", name, "--out", str(here / "ingest")],
        "fingerprint": ["fingerprint", *config, *of_manifest, "--out", str(fingerprint)],
        "plan": ["plan", *config, "--model", "unet", "--fingerprint", str(fingerprint), "--out", str(plan)],
        "preprocess": preprocess,
        "preprocess again": preprocess,
        "train": ["train", *fold, *training, "--state", "results/.state", "--code", "0", "--out", str(model)],
        "predict": predict,
        "predict again": predict,
        "evaluate": score,
    }


def by_cases(root: Path, name: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Every stage at every number of cases, and the law of each."""
    rows: dict[str, list[dict[str, float]]] = {}
    for size in sizes:
        folder = root / f"{name}-{size}"
        write = write_pictures if name == "pictures" else write_volumes
        write(folder / "data" / name, range(size))
        study(folder, name, 1)
        for stage, words in stages(name).items():
            found = counted([sys.executable, "-m", "medseg", *words], folder)
            rows.setdefault(stage, []).append({"cases": size, **found})
            print(f"{name} {size} {stage}: {found}", file=sys.stderr)
        shutil.rmtree(folder)
    return {stage: {"measured": some} for stage, some in rows.items()}


def by_planned(root: Path, package: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """What Snakemake's main process takes to find out what is to run, by the number of trainings; nothing is run."""
    rows = []
    for number in numbers:
        folder = root / f"planned-{number}"
        write_pictures(folder / "data/pictures", range(FEW))
        config = study(folder, "pictures", 5, number // 5)
        found = counted([*workflow(package, config), "--dry-run", "--quiet", "all"], folder)
        rows.append({"trainings": number, **found})
        print(f"dry run of {number} trainings: {found}", file=sys.stderr)
        shutil.rmtree(folder)
    return {"dry run": {"measured": rows}}


def by_listed(root: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """What a start takes to look whether files are as their job made them, by the number of files in its list."""
    rows = []
    for number in numbers:
        results = root / f"listed-{number}"
        files = {f"predict/case{k:06d}.png": FileFacts(0, 0, "0" * 64) for k in range(number)}
        for name in files:
            write = results / name
            write.parent.mkdir(parents=True, exist_ok=True)
            write.touch()
            os.utime(write, ns=(0, 0))
        write_list(results, results / "predict/predictions.json", files)
        calls, begun = _calls(), time.process_time()
        if damaged(results, [results / "predict/predictions.json"]):
            raise SystemExit("files that are as they were listed count as damaged")
        used = time.process_time() - begun
        rows.append({"files": number, "cpu_s": round(used, 4), "calls": _calls() - calls})
        shutil.rmtree(results)
    return {"measured": rows}


def _calls() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return sum(int(line.split(": ")[1]) for line in lines if line.startswith(("syscr", "syscw")))


def workflow(package: Path, config: Path) -> list[str]:
    """The command that runs a study."""
    options = ["--snakefile", str(package / "Snakefile"), "--workflow-profile", str(package / "profiles/default")]
    return [sys.executable, "-m", "snakemake", *options, "--cores", "1", "--configfile", str(config)]


def by_trainings(root: Path, package: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """Whole studies by the workflow; the finished ones once more."""
    rows: dict[str, list[dict[str, float]]] = {"study": [], "finished study": []}
    for number in numbers:
        folder = root / f"trainings-{number}"
        write_pictures(folder / "data/pictures", range(FEW))
        config = study(folder, "pictures", number)
        command = workflow(package, config)
        for kind, some in rows.items():
            some.append({"trainings": number, **counted(command, folder)})
            print(f"{kind} of {number} trainings: {some[-1]}", file=sys.stderr)
        shutil.rmtree(folder)
    found = {kind: {"measured": some} for kind, some in rows.items()}
    write_text(root / "alone/Snakefile", 'rule all:\n    output: "a"\n    shell: "touch a"\n')
    write_text(root / "alone/a", "")
    return {**found, "snakemake alone": counted([sys.executable, "-m", "snakemake", "--cores", "1"], root / "alone")}


def add_laws(found: Mapping[str, Any]) -> None:
    """Add to every stage and study that was measured the laws of everything that was counted; in place."""
    for name, over in OVER.items():
        for about in found.get(name, {}).values():
            if rows := about.get("measured"):
                sizes = [row[over] for row in rows]
                counts = [kind for kind in COUNTED if kind in rows[0] and kind != over]
                about["laws"] = {kind: fit(sizes, [row[kind] for row in rows]) for kind in counts}


def fit(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Least squares of ``start + each * n``.

    Returns:
        The coefficients, and ``r2``: the share of the variance that the law explains, 1 where there is none.
    """
    n, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    each, start = np.polyfit(n, y, 1)
    rest, spread = float(((y - start - each * n) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    nothing = 1e-9 * float(np.abs(y).max(initial=1.0))
    r2 = 1.0 if spread <= nothing**2 else 1 - rest / spread
    numbers = {"start": start, "each": each if abs(each) * n.max() > nothing else 0.0}
    return {**{name: float(f"{value:.4g}") for name, value in numbers.items()}, "r2": round(r2, 4)}


def at(law: Mapping[str, float], n: float) -> float:
    """What a law says of ``n``."""
    return law["start"] + law["each"] * n


def walls(found: Mapping[str, Any], plan: Mapping[str, float] = STUDY) -> dict[str, float]:
    """What a study of pictures takes by the laws, besides the steps of the trainings and the windows of predictions.

    Args:
        found: the results of both parts.
        plan: cases, trainings, nodes and folds; each training is scored on one fold.
    """
    stage, whole = found["pictures"], found["trainings"]
    n, trainings, nodes = plan["cases"], plan["trainings"], plan["nodes"]
    validated = n / plan["folds"]

    def law(name: str, kind: str) -> Mapping[str, float]:
        one: Mapping[str, float] = stage[name]["laws"][kind]
        return one

    # Laws of predict and evaluate are over all cases, of which they see those of one fold.
    once = sum(at(law(name, "cpu_s"), n) for name in ("ingest", "fingerprint", "preprocess"))
    small = whole["study"]["laws"]["cpu_s"]["each"]
    reading = sum(law(name, "cpu_s")["each"] * n for name in ("train", "evaluate"))
    planned, listed = found["planned"]["dry run"]["laws"]["cpu_s"], found["listed"]["start"]["laws"]["cpu_s"]
    files = whole["study"]["laws"]["files"]["each"] + 2 * (validated - FEW / plan["folds"])
    return {
        "data_set_cpu_s": round(once),
        "training_overhead_cpu_s": round(small + reading, 1),
        "trainings_overhead_cpu_h": round(trainings * (small + reading) / 3600, 1),
        "trainings_overhead_min_per_node": round(trainings * (small + reading) / nodes / 60, 1),
        "store_files": round(at(law("preprocess", "files"), n)),
        "files_per_training": round(files),
        "files": round(at(law("preprocess", "files"), n) + trainings * files),
        "dry_run_cpu_s": round(at(planned, trainings)),
        "looking_cpu_s": round(listed["each"] * trainings * files),
    }


def tables(found: Mapping[str, Any]) -> list[str]:
    """The lines of the tables in ``docs/scale.md``."""
    lines = []
    for name in DATA:
        lines += ["| stage | CPU s = | R² | MB = | calls = | files = |", "|---|---|---|---|---|---|"]
        for stage, about in found[name].items():
            cells = [_shown(about["laws"][kind]) for kind in ("cpu_s", "rss_mb", "calls", "files")]
            cells.insert(1, f"{about['laws']['cpu_s']['r2']:.3f}")
            lines.append(f"| {stage} | {' | '.join(cells)} |")
    lines += ["| of 30 pictures | CPU s = | R² | MB = | calls = | files = |", "|---|---|---|---|---|---|"]
    for kind, laws_of in (
        ("study", found["trainings"]["study"]["laws"]),
        ("dry run", found["planned"]["dry run"]["laws"]),
    ):
        cells = [_shown(laws_of[one], "t") for one in ("cpu_s", "rss_mb", "calls", "files")]
        cells.insert(1, f"{laws_of['cpu_s']['r2']:.3f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _shown(law: Mapping[str, float], size: str = "n") -> str:
    """A law as text: ``1.2 + 0.0034 n``; what is nothing is left out."""
    terms = [f"{law['start']:.4g}"] if abs(law["start"]) >= 1e-6 else []
    terms += [f"{law['each']:.3g} {size}"] if law["each"] else []
    return " + ".join(terms).replace("+ -", "- ") or "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS, "walls"])
    parser.add_argument("--pictures", type=int, nargs="*", default=[200, 400, 800, 1600])
    parser.add_argument("--volumes", type=int, nargs="*", default=[50, 100, 200, 400])
    parser.add_argument("--trainings", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, help="where studies run; none: a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scale.json")
    given = parser.parse_args()
    found: dict[str, Any] = read_json(given.out) if given.out.is_file() else {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        package = install(Path(folder) / "package")
        for name in ("pictures", "volumes") if "cases" in given.parts else ():
            if sizes := getattr(given, name):
                found[name] = by_cases(Path(folder), name, sizes)
        if "starts" in given.parts:
            found["planned"] = by_planned(Path(folder), package, (50, 100, 200, 400))
            found["listed"] = {"start": by_listed(Path(folder), (4_000, 8_000, 16_000, 32_000))}
        if "trainings" in given.parts:
            found["trainings"] = by_trainings(Path(folder), package, given.trainings)
    add_laws(found)
    if found.keys() >= {*OVER} - {"volumes"}:
        found["walls"] = {"of": dict(STUDY), **walls(found)}
    found |= {"shapes": {"pictures": PICTURE, "volumes": VOLUME}, "hardware": hardware(), "versions": environment()}
    write_json(given.out, found)
    if "walls" in found and "volumes" in found:
        print("\n".join(tables(found)))
    print(json.dumps(found.get("walls"), indent=2))


if __name__ == "__main__":
    main()
