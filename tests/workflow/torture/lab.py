"""Undisturbed studies: what every configuration ends with, and places to begin episodes from."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import defaultdict
from pathlib import Path

from tests.workflow.study import ROOT, digests, make_study, run
from tests.workflow.torture import injection
from tests.workflow.torture.configurations import BASE, save_often, text_of
from tests.workflow.torture.mirror import mirror_problems
from tests.workflow.torture.outcome import different, digests_of, temporary
from tests.workflow.torture.processes import STAGES

NOTHING, FINISHED = "nothing", "finished"
# Rung -> the options that lead to it from the one before, and the first stage that is not done on it.
RUNGS: dict[str, tuple[tuple[str, ...], str | None]] = {
    NOTHING: ((), "phantoms"),
    "prepared": (("--until", "plan", "preprocess", "tracking_init"), "train"),
    "trained": (("--until", "train"), "predict"),
    "scored": (("--until", "evaluate"), "compare"),
    FINISHED: ((), None),
}
# Seconds of a stage and points of durability before the end, where nobody measured them.
SECONDS = {"train": 12.0, "plan": 6.0, "predict": 6.0, "track sync": 2.5, "report": 1.7, "track init": 1.3}
POINTS = {NOTHING: 160, "prepared": 90, "trained": 40, "scored": 20, FINISHED: 1}


class Lab:
    """A folder with the undisturbed studies of one version of the code.

    Attributes:
        scratch: the folder.
        seconds: how long each stage takes.
        points: points of durability (see ``injection``) from each rung to the end.
        patience: how many times longer than on a quiet machine to wait for what may never come.
    """

    def __init__(self, scratch: Path, *, often: bool = True, patience: float = 1.0) -> None:
        """Take a folder to work in, and whether trainings save their state so often that they resume in seconds."""
        self._often, self.patience = often, patience
        self.scratch = scratch / code_digest()
        self.seconds = dict.fromkeys(STAGES, 0.8) | SECONDS
        self.points = dict(POINTS)
        self._rungs: dict[str, Path] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._references: dict[str, dict[str, str]] = {}

    def adopt(self, finished: Path) -> None:
        """Take a finished study of the base configuration as its reference and as a rung."""
        self._references[BASE] = digests_of(finished)
        self._rungs = {FINISHED: finished}

    def climb(self) -> None:
        """Make the rungs: one study, stopped between its stages, that ends as the reference does."""
        notes = self.scratch / "rungs.json"
        if not notes.is_file():
            shutil.rmtree(self.scratch / "rungs", ignore_errors=True)
            folder, counted = self.study(self.scratch / "climbing", BASE), {}
            counter = self.scratch / "points"
            counter.unlink(missing_ok=True)
            for name, (options, _) in RUNGS.items():
                if name != NOTHING:
                    _calm(folder, *options, variables=injection.variables(0, counter, folder))
                counted[name] = int(counter.read_text()) if counter.is_file() else 0
                shutil.copytree(folder, self.scratch / "rungs" / name, symlinks=True)
            if lines := different(self.reference(BASE), digests_of(folder)):
                raise SystemExit(f"two undisturbed studies differ: {lines}")
            points = {name: counted[FINISHED] - n for name, n in counted.items()}
            notes.write_text(json.dumps({"points": points, "seconds": _measured(folder)}))
            shutil.rmtree(folder)
        known = json.loads(notes.read_text())
        self.points, self.seconds = known["points"], self.seconds | known["seconds"]
        self._rungs = {name: self.scratch / "rungs" / name for name in RUNGS}

    def rungs(self) -> list[str]:
        """Names of the rungs that there are, in order."""
        return [name for name in RUNGS if name in self._rungs or name == NOTHING]

    def study(self, folder: Path, variant: str, rung: str = NOTHING) -> Path:
        """A study on a rung, with the configuration of ``variant``, in ``folder``."""
        shutil.rmtree(folder, ignore_errors=True)
        if rung in self._rungs:
            shutil.copytree(self._rungs[rung], folder, symlinks=True, dirs_exist_ok=True)
        else:
            make_study(folder)
            if self._often:
                save_often(folder)
        (folder / "config" / "config.yaml").write_text(text_of(variant))
        return folder

    def reference(self, variant: str) -> dict[str, str]:
        """Digests of what an undisturbed study of ``variant`` ends with, run from nothing once."""
        with self._locks[variant]:
            file = self.scratch / "references" / f"{variant}.json"
            if variant not in self._references and file.is_file():
                self._references[variant] = json.loads(file.read_text())
            if variant not in self._references:
                folder = self.study(self.scratch / "calm" / variant, variant)
                _calm(folder)
                problems = temporary(folder) + mirror_problems(folder, folder / "mlflow.db", folder)
                if problems or not digests(folder).keys() <= digests_of(folder).keys():
                    raise SystemExit(f"undisturbed study '{variant}': {problems}")
                self._references[variant] = digests_of(folder)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(self._references[variant], indent=1))
                shutil.rmtree(folder)
        return self._references[variant]


def code_digest() -> str:
    """Digest of all that a study is a copy of."""
    digest = hashlib.sha256(text_of(BASE).encode())
    for name in ("medseg", "workflow", "profiles", "Snakefile"):
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _calm(folder: Path, *options: str, variables: dict[str, str] | None = None) -> None:
    done = run(folder, *options, variables=variables)
    if done.returncode != 0:
        raise SystemExit(f"undisturbed study in {folder}: exit code {done.returncode}\n{done.stdout[-4000:]}")


def _measured(folder: Path) -> dict[str, float]:
    """Seconds of each stage, as Snakemake measured them."""
    found = {}
    for path in (folder / "results").glob("*/benchmarks/**/*.tsv"):
        parts = path.relative_to(folder / "results").parts[2:]
        names = [Path(part).stem for part in parts]
        stage = next((s for s in STAGES if s in names), "track sync" if names == ["track"] else None)
        if stage:
            found[stage] = float(path.read_text().splitlines()[1].split("\t")[0])
    return found
