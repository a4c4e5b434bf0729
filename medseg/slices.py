"""What each rule depends on besides its input files: parts of the configuration, and digests of the user's own files.

Snakemake runs a job again if one of its parameters changed. A rule takes a slice as a parameter and not the whole
configuration, so that a changed option runs the stages that read it again, and no others.
"""

from __future__ import annotations

import os
from pathlib import Path

from medseg.config import Config, is_table
from medseg.files import canonical_json, digest_of, nearest, sha256_file
from medseg.ingest.layouts.corrections import TABLE
from medseg.places import source_of
from medseg.postprocess import operations
from medseg.results.key import ALL
from medseg.results.paths import Results


def dataset_slice(config: Config, dataset: str) -> str:
    """The parts of the configuration and the files that ingest depends on, as a workflow parameter."""
    section = config.datasets[dataset].model_dump(exclude={"postprocess", "metrics", "choices"})
    # Where nothing is validated on, cases are not split, and no key of the section counts but `run`.
    folds = config.folds.model_dump(exclude={"run"}) if config.folds.validated else ALL
    stamps = {
        "files": files_stamp(config, dataset),
        "splits": splits_stamp(config, dataset),
        "sides": sides_stamp(config, dataset),
    }
    return canonical_json({"dataset": section, "folds": folds, **stamps})


def files_stamp(config: Config, dataset: str) -> str:
    """Digest of names, sizes and times of a data set's files; empty for data that are generated or downloaded."""
    root = config.folder_of(dataset)
    # A data set that is generated or downloaded is not there yet when this is asked for the first time.
    made = config.datasets[dataset].generate is not None or source_of(config, dataset) is not None
    if made or not root.is_dir():
        return ""
    stamps = []
    for folder, _, names in os.walk(root):
        for name in names:
            facts = os.lstat(os.path.join(folder, name))
            stamps.append([os.path.relpath(os.path.join(folder, name), root), facts.st_size, facts.st_mtime_ns])
    return digest_of(sorted(stamps))


def download_slice(config: Config, dataset: str) -> str:
    """The parts of the configuration that downloading a data set depends on."""
    section = config.datasets[dataset]
    return canonical_json([section.path, section.download.model_dump() if section.download else None])


def splits_stamp(config: Config, dataset: str) -> str:
    """Digest of the user's own file of folds, wherever it lies."""
    return stamp_of(config.folder_of(dataset), config.datasets[dataset].splits or config.folds.file)


def sides_stamp(config: Config, dataset: str) -> list[str]:
    """Digests of the user's own tables of subjects, test cases and classes of objects, and of corrections."""
    section = config.datasets[dataset]
    tables = [name if is_table(name) else None for name in (section.subject, section.classes)]
    names = [*tables, section.test.file if section.test else None]
    if section.corrections or section.layout == "corrections":
        names.append(TABLE)
    return [stamp_of(config.folder_of(dataset), name) for name in names]


def stamp_of(root: Path, name: str | None) -> str:
    """Digest of a file in the data set's folder or else in the working folder; empty if there is none."""
    path = nearest(root, name) if name else None
    return sha256_file(path) if path is not None and path.is_file() else ""


def weights_slice(config: Config, model: str) -> str:
    """The part of the configuration that fetching a model's weights depends on."""
    options = config.models[model].options
    return canonical_json([options.get("weights"), options.get("sha256")])


def plan_slice(config: Config, model: str) -> str:
    """The parts of the configuration that planning a model depends on."""
    keys = ("budget", "threads", "device", "folds", "processes")
    general = config.model_dump(include=set(keys))
    general["folds"] = config.folds.parts
    # Memory of the host is none that networks train in.
    general["budget"].pop("host_gb")
    # Nor are the data sets that a model is trained on, and what may be wrong with the weights that it starts from.
    return canonical_json({"model": config.models[model].model_dump(exclude={"allow", "datasets"}), **general})


def predict_slice(config: Config, dataset: str) -> str:
    """The parts of the configuration that predicting depends on, and whether probabilities are written."""
    return canonical_json({**config.predict.model_dump(), "probabilities": wants_probabilities(config, dataset)})


def wants_probabilities(config: Config, dataset: str) -> bool:
    """Whether the data set's post-processing works on probabilities and the image."""
    return operations.wants_probabilities(config.datasets[dataset].postprocess)


def postprocess_slice(config: Config, dataset: str) -> str:
    """The part of the configuration that post-processing depends on."""
    return canonical_json(config.datasets[dataset].postprocess.model_dump())


def evaluate_slice(config: Config, dataset: str) -> str:
    """The part of the configuration that scoring depends on."""
    return canonical_json(config.datasets[dataset].metrics.model_dump())


def report_slice(config: Config) -> str:
    """What the report depends on besides its input files: the declared choices, and the record of opened test sets."""
    record = Results.of(config).test.opened
    opened = sha256_file(record) if record.is_file() else ""
    return canonical_json({"choices": {d: s.choices for d, s in config.datasets.items()}, "opened": opened})
