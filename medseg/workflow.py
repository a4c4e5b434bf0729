"""What the Snakefile needs when it is parsed: configuration, paths, digests, and the lock on the working folder.

Free of torch, monai and mlflow, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from medseg.config import Config, is_elsewhere, is_table, load_config
from medseg.errors import BusyError, MedsegError
from medseg.files import canonical_json, digest_of, nearest, sha256_file, write_json
from medseg.provenance import closure_digest

_held: list[IO[str]] = []


def read_config(files: Sequence[Path], overrides: Mapping[str, Any]) -> Config:
    """The configuration of a workflow run; a bad one ends the process with exit code 2 and one line per problem."""
    try:
        return load_config(files, {key: _typed(value) for key, value in overrides.items()})
    except MedsegError as error:
        raise stop(error) from None


def _typed(value: Any) -> Any:
    """An override from the command line; Snakemake leaves numbers inside ``--config 'budget={steps: 8}'`` as text."""
    if isinstance(value, Mapping):
        return {key: _scalar(inner) for key, inner in value.items()}
    return [_scalar(inner) for inner in value] if isinstance(value, list) else value


def _scalar(value: Any) -> Any:
    return yaml.safe_load(value) if isinstance(value, str) else _typed(value)


def stop(error: MedsegError) -> SystemExit:
    """Print a user's error without a traceback; raise what comes back to leave with exit code 2 (Snakemake's is 1)."""
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    return SystemExit(2)


def prefer_this_environment() -> str:
    """Let rules find this environment's ``medseg``, also when it was not activated; return how the user can call it."""
    folder = Path(sys.executable).parent
    found = shutil.which("medseg")
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    if found is not None and Path(found).parent == folder:
        return "medseg"
    inside = folder.is_relative_to(Path.cwd())
    return str((folder.relative_to(Path.cwd()) if inside else folder) / "medseg")


def hold_folder(folder: Path) -> None:
    """Take the working folder for this process, or end with exit code 2 naming the process that has it.

    The kernel holds the lock and frees it however the process ends. Whoever gets it knows that no other workflow runs
    here, so Snakemake's own lock files, which a killed run leaves behind, are stale and are removed: nobody has to
    unlock by hand.
    """
    inner = folder / ".snakemake"
    inner.mkdir(parents=True, exist_ok=True)
    file = open(inner / "medseg.lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until the process ends)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        first = file.read().strip() or "an unknown process"
        where = folder.resolve().name
        raise stop(BusyError(f"{where}/: {first} is already running a workflow here; wait for it or stop it")) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])})\n")
    file.flush()
    _held.append(file)
    shutil.rmtree(inner / "locks", ignore_errors=True)
    (inner / "locks").mkdir()


def write_config(config: Config, path: Path) -> None:
    """Leave the checked configuration where the stages read it, if it changed."""
    value = json.loads(config.model_dump_json())
    if not path.is_file() or canonical_json(json.loads(path.read_bytes())) != canonical_json(value):
        write_json(path, value)


def grid_name(config: Config, model: str) -> str:
    """Name of the store of prepared cases that a model uses; models without overrides of the grid share ``default``."""
    fixed = config.models[model].plan
    # A 2-D model may be one on slices of volumes, which have a grid of their own.
    slices = config.models[model].dims == 2 or None
    low = fixed.resolution if fixed.resolution != "full" else None
    overrides = {"spacing": fixed.spacing, "normalization": fixed.normalization, "slices": slices, "resolution": low}
    return "default" if not any(overrides.values()) else f"grid-{digest_of(overrides)[:8]}"


def grid_model(config: Config, grid: str) -> str:
    """The first model that uses a grid."""
    return next(name for name in config.models if grid_name(config, name) == grid)


def dataset_slice(config: Config, dataset: str) -> str:
    """What checking and splitting a data set depend on, as a stable parameter."""
    section = config.datasets[dataset].model_dump(exclude={"postprocess", "choices"})
    folds = config.folds.model_dump(exclude={"run"})
    stamps = {
        "files": files_stamp(config, dataset),
        "splits": splits_stamp(config, dataset),
        "sides": sides_stamp(config, dataset),
    }
    return canonical_json({"dataset": section, "folds": folds, **stamps})


def files_stamp(config: Config, dataset: str) -> str:
    """Digest of names, sizes and times of a data set's files, so that a change is seen; none for generated ones."""
    section = config.datasets[dataset]
    root = Path(config.data_root) / section.path
    # A data set that is generated or downloaded is not there yet when this is asked for the first time.
    if section.generate is not None or section.download is not None or not root.is_dir():
        return ""
    stamps = []
    for folder, _, names in os.walk(root):
        for name in names:
            facts = os.lstat(os.path.join(folder, name))
            stamps.append([os.path.relpath(os.path.join(folder, name), root), facts.st_size, facts.st_mtime_ns])
    return digest_of(sorted(stamps))


def download_slice(config: Config, dataset: str) -> str:
    """What fetching a data set depends on."""
    section = config.datasets[dataset]
    return canonical_json([section.path, section.download.model_dump() if section.download else None])


def splits_stamp(config: Config, dataset: str) -> str:
    """Digest of the user's own file of folds in the working folder; one in the data set's folder is among its files."""
    name = config.datasets[dataset].splits or config.folds.file
    return sha256_file(Path(name)) if name and Path(name).is_file() else ""


def sides_stamp(config: Config, dataset: str) -> list[str]:
    """Digests of the user's own tables of subjects and of test cases, wherever they lie."""
    section = config.datasets[dataset]
    names = [section.subject if is_table(section.subject) else None, section.test.file if section.test else None]
    return [stamp_of(Path(config.data_root) / section.path, name) for name in names]


def stamp_of(root: Path, name: str | None) -> str:
    """Digest of a file in the data set's folder or else in the working folder; empty if there is none."""
    path = nearest(root, name) if name else None
    return sha256_file(path) if path is not None and path.is_file() else ""


def start_of(config: Config, dataset: str, model: str, fold: str, seed: str) -> tuple[str | None, str | None]:
    """What a training starts from: the file that it waits for, and the model as `medseg train --start` wants it."""
    start = config.models[model].start
    if start is None:
        return None, None
    if not is_elsewhere(start):
        folder = f"{config.results}/{config.experiment}/{dataset}/train/{start}/fold{fold}-seed{seed}"
        return f"{folder}/model.json", folder
    # Runs of MLflow never change; a folder may.
    file = Path(start) / "model.json"
    return str(file) if file.is_file() else None, start


def plan_slice(config: Config, model: str) -> str:
    """What planning a model depends on, besides the fingerprint."""
    keys = ("budget", "threads", "device", "folds", "processes")
    general = config.model_dump(include=set(keys))
    general["folds"] = general["folds"]["count"]
    # What may be wrong with the weights that a model starts from is asked where it is trained.
    return canonical_json({"model": config.models[model].model_dump(exclude={"allow"}), **general})


def predict_slice(config: Config, dataset: str) -> str:
    """What predicting depends on, besides model and images: how it is done, whether probabilities are wanted."""
    return canonical_json({**config.predict.model_dump(), "probabilities": wants_probabilities(config, dataset)})


def wants_probabilities(config: Config, dataset: str) -> bool:
    """Whether the data set's post-processing works on probabilities and the image."""
    return config.datasets[dataset].postprocess.crf is not None


def postprocess_slice(config: Config, dataset: str) -> str:
    """What post-processing depends on."""
    return canonical_json(config.datasets[dataset].postprocess.model_dump())


def report_slice(config: Config, results: Path) -> str:
    """What the report tells besides results: what was chosen by scores, and the record of opened test sets."""
    record = results / "test" / "opened.json"
    opened = sha256_file(record) if record.is_file() else ""
    return canonical_json({"choices": {d: s.choices for d, s in config.datasets.items()}, "opened": opened})


def has_postprocess(config: Config, dataset: str) -> bool:
    """Whether the data set names any operation."""
    return config.datasets[dataset].postprocess.applies


def wants_gpu(config: Config) -> int:
    """1 if networks will ask for a GPU: by configuration, or ``auto`` where an NVIDIA device file exists."""
    return int(config.device == "cuda" or (config.device == "auto" and any(Path("/dev").glob("nvidia[0-9]*"))))


def training_gpus(config: Config) -> int:
    """GPUs of one training."""
    return wants_gpu(config) * config.processes


def reading_seconds(config: Config) -> int:
    """How long a batch may take them, in whole seconds, as Snakemake's resources are."""
    return math.ceil(config.loader.timeout_s)


def reading_workers(config: Config) -> int:
    """Processes that read a training's batches ahead."""
    if config.loader.workers is not None:
        return config.loader.workers
    return 2 if wants_gpu(config) else 0


__all__ = [
    "canonical_json",
    "closure_digest",
    "dataset_slice",
]
