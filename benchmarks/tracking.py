"""What tracking costs: a study's replay, and a training while it runs; into a SQLite file and to a team's server.

    python -m benchmarks.tracking --trainings 1000
    python -m benchmarks.tracking --parts live --minutes 5

The server is that of docs/team.md on this machine: PostgreSQL, a stand-in for the bucket (moto), four workers of
MLflow. Studies are made up, with the files of real ones (tests/fake_study.py). Processor seconds of every program
stand beside the wall-clock, since all of them share this machine's cores: divided by the cores of a server of its
own, the server's are what bounds a team.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from medseg.tracking import LiveTracking, init_store, sync, training_spec
from medseg.tracking.library import load_mlflow
from tests.fake_study import START_MS, FakeStudy, Record, journal_of
from tests.team import Team, lacking, team

ROOT = Path(__file__).resolve().parents[1]
STEPS = 100  # of a training in the replayed study: two curves
EVERY_S = 0.2  # a step of a live training, of which three curves have a value
SETTLED_S = 60  # by then MLflow is imported, and the run made
FOLDS, SEEDS = 5, 5
CURVES = ("train/loss", "train/lr", "time/step_s", "val/dice/Anterior", "val/dice/Posterior")
# Parts of addresses that differ from request to request.
NUMBERS = re.compile(r"/(?:m-)?[0-9a-f]{32}|/\d+(?=/)")
FILES = re.compile(r"(?<=/ID).*/[^/]+\.\w+$|(?<=/ID)/artifacts/.*")


@dataclass
class Use:
    """Wall-clock and processor seconds of a block, by program."""

    wall_s: float = 0.0
    cpu_s: dict[str, float] | None = None


def seconds_of(pid: int) -> float:
    """Processor seconds of a process and all that it started, those that ended included."""
    total = 0.0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


@contextmanager
def measured(served: Team | None) -> Iterator[Use]:
    """Measures a block: this process, and the programs of a server."""
    programs: dict[str, int] = {}
    if served is not None and served.server is not None:
        database = int((served.folder / "database" / "postmaster.pid").read_text().split()[0])
        programs = {"server": served.server.pid, "database": database, "bucket": served.bucket.process.pid}
    before = {name: seconds_of(pid) for name, pid in programs.items()}
    use, wall, own = Use(), time.monotonic(), time.process_time()
    yield use
    use.wall_s = time.monotonic() - wall
    use.cpu_s = {"medseg": time.process_time() - own}
    use.cpu_s |= {name: seconds_of(pid) - before[name] for name, pid in programs.items()}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the requests of this process by kind."""
    import requests

    counts: Counter[str] = Counter()
    original = requests.Session.request

    def request(self: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        path = NUMBERS.sub("/ID", urlsplit(url).path.replace("/api/2.0/", "/"))
        counts[f"{method} {FILES.sub('/…', path)}"] += 1
        return original(self, method, url, *arguments, **named)

    requests.Session.request = request  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        requests.Session.request = original  # type: ignore[method-assign]


def made(folder: Path, trainings: int) -> FakeStudy:
    """A study of so many trainings; in a folder that has it, as it is."""
    models = max(1, trainings // (FOLDS * SEEDS))
    study = FakeStudy(folder / "results" / "replayed", dict.fromkeys((f"m{i:02d}" for i in range(models)), STEPS))
    study.folds, study.seeds = tuple(range(FOLDS)), tuple(range(SEEDS))
    if not study.files.compare.summary.is_file():
        study.finish()
    return study


def replay(uri: str, served: Team | None, study: FakeStudy) -> dict[str, Any]:
    """The first replay of a study, which sends all, and a second, which finds all there."""
    init_store(uri, "replayed", study.files.tracking.store)
    number = len(study.trainings())
    found: dict[str, Any] = {"trainings": number, "models": len(study.models)}
    for name in ("first", "again"):
        with measured(served) as use, counted() as requests:
            sync(study.results)
        cpu = use.cpu_s or {}
        found[name] = {
            "wall_s": round(use.wall_s, 1),
            "trainings_per_s": round(number / use.wall_s, 1),
            "cpu_ms_per_training": {who: round(1e3 * spent / number, 1) for who, spent in cpu.items()},
            "requests_per_training": round(sum(requests.values()) / number, 2),
            "requests": dict(requests.most_common()),
        }
    return found


# One training: its loop writes the journal, MLflow's part is a thread of the same process.
LIVE = """
import json, sys, time
from pathlib import Path
from benchmarks.tracking import lived
print(json.dumps(lived(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
"""


def lived(results: Path, number: int, minutes: float) -> dict[str, float]:
    """One training of a study: writes its journal in the pace of a training, computes nothing, and is tracked."""
    study = FakeStudy(results, {"unet": 6}, seeds=tuple(range(number + 1)), folds=(0,))
    key = study.trainings()[number]
    manifest, plan = study.files.ingest(key.dataset).manifest, study.files.plan(key.dataset).plan(key.model)
    spec = training_spec(manifest, plan, key.fold, key.seed, study.fingerprint(key))
    journal = results / "state" / key.name / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    begun, before = time.monotonic(), time.process_time()
    settled, ends = before, time.monotonic() + 60 * minutes
    with LiveTracking(study.files.tracking.store, spec, journal):
        step, loop = 0, time.thread_time()
        while time.monotonic() < ends:
            values = {name: (step + 1) / 7 for n, name in enumerate(CURVES) if step % 50 == 49 or n < 3}
            record: Record = (step, START_MS + 200 * step, values)
            with open(journal, "ab") as file:
                file.write(journal_of([record]))
            if settled == before and time.monotonic() - begun > SETTLED_S:
                settled, at, loop, points = time.process_time(), time.monotonic(), time.thread_time(), -step
            time.sleep(EVERY_S)
            step += 1
        spent = time.process_time() - settled - (time.thread_time() - loop)
        lasted, ended = time.monotonic() - at, time.monotonic()
    return {
        "begin_cpu_s": settled - before,
        "cpu_s_per_minute": 60 * spent / lasted,
        "points_per_s": 3.04 * (points + step) / lasted,
        "end_wall_s": time.monotonic() - ended,
    }


def live(uri: str, served: Team | None, minutes: float, writers: int, folder: Path) -> dict[str, Any]:
    """Trainings side by side."""
    results = folder / "results" / "live"
    study = FakeStudy(results, {"unet": 6}, folds=(0,), seeds=tuple(range(writers)))
    study.configure()
    study.plan("unet")
    init_store(uri, "live", study.files.tracking.store)
    arguments = [sys.executable, "-c", LIVE, str(results)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with measured(served) as use:
        begun = [
            subprocess.Popen([*arguments, str(n), str(minutes)], stdout=subprocess.PIPE, env=environment)
            for n in range(writers)
        ]
        found = [json.loads(one.communicate()[0]) for one in begun]
    mean = {name: sum(one[name] for one in found) / writers for name in found[0]}
    cpu = {who: spent for who, spent in (use.cpu_s or {}).items() if who != "medseg"}
    an_hour = mean["begin_cpu_s"] + 60 * mean["cpu_s_per_minute"]
    return {
        "trainings": writers,
        "minutes": minutes,
        **{name: round(value, 3) for name, value in mean.items()},
        "percent_of_one_core_in_an_hour": round(100 * an_hour / 3600, 2),
        "cpu_ms_per_second_and_training": {
            who: round(1e3 * spent / use.wall_s / writers, 1) for who, spent in cpu.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("replay", "live"), default=("replay", "live"))
    parser.add_argument("--stores", nargs="+", choices=("file", "server"), default=("file", "server"))
    parser.add_argument("--trainings", type=int, default=1000, help=f"replayed; a multiple of {FOLDS * SEEDS}")
    parser.add_argument("--minutes", type=float, default=3.0, help="of the live trainings, two or more")
    parser.add_argument("--writers", type=int, default=8, help="live trainings side by side")
    parser.add_argument("--keep", type=Path, help="folder of the replayed study, made there unless it is there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tracking.json")
    options = parser.parse_args()
    if "server" in options.stores and (reason := lacking()):
        parser.error(f"{reason}: --stores file measures the file alone")
    if 60 * options.minutes < 2 * SETTLED_S:
        parser.error(f"--minutes {options.minutes}: the first {SETTLED_S} s are the beginning; give 2 or more")
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    load_mlflow()
    for store in options.stores:
        with ExitStack() as stack:
            served: Team | None = None
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medseg-tracking-")))
            uri = f"sqlite:///{folder}/mlflow.db"
            if store == "server":
                served = stack.enter_context(team())
                served.run("tables")
                served.start()
                uri = served.uri
            if "replay" in options.parts:
                study = made(options.keep or folder, options.trainings)
                found.setdefault("replay", {})[store] = replay(uri, served, study)
            if "live" in options.parts:
                found.setdefault("live", {})[store] = live(uri, served, options.minutes, options.writers, folder)
    found["hardware"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
    }
    found["versions"] = {name: version(name) for name in ("medseg", "mlflow", "snakemake")}
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
