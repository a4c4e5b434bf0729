"""Commands that bring a data set in: generate, download, check."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import correcting as o
from medseg.cli.options import ConfigFile, Dataset, as_file, as_folder
from medseg.machine import processors

if TYPE_CHECKING:
    from medseg.config import Config
    from medseg.image.labels import LabelTable
    from medseg.ingest.manifest import Manifest


def phantoms(config: ConfigFile, dataset: Dataset) -> None:
    """Generate a data set that the configuration describes (cells or organs)."""
    from medseg.ingest.phantoms import run_phantoms
    from medseg.places import read_study

    run_phantoms(read_study([config]), dataset)


def download(
    config: ConfigFile,
    dataset: Dataset,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="file that says what the folder came from", callback=as_file)
    ] = None,
) -> None:
    """Fetch and unpack a data set's archive, unless its folder is there; an interrupted download is resumed."""
    from medseg.ingest.download import run_download
    from medseg.places import read_study
    from medseg.records import write_record

    record = run_download(read_study([config]), dataset)
    if out is not None:
        write_record(out, record)


def ingest(
    config: ConfigFile,
    dataset: Dataset,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder for manifest and folds", callback=as_folder)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="only check, write no results")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="cases read side by side; none: one per processor")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="list every fault, also hundreds of one kind")] = False,
    propose_subjects: Annotated[
        Path | None,
        typer.Option(
            "--propose-subjects",
            help="only write FILE.csv (case,subject): cases of one origin, one subject",
            callback=as_file,
        ),
    ] = None,
    add: o.Add = None,
    predictions: o.EditedPredictions = None,
    images: o.EditedImages = None,
    by: o.By = "",
    subject: o.Subject = None,
) -> None:
    """Check every file of a data set, in one pass; write its manifest and folds."""
    from medseg.ingest import run as stage
    from medseg.places import NO_TRAINING, read_study
    from medseg.stages import stage_digest

    workers = workers or processors()
    if add is not None:
        if check or out is not None or propose_subjects is not None:
            raise typer.BadParameter("stands alone: give neither --check nor --out", param_hint="--add")
        edited = o.edited(add, predictions, images, by, subject)
        study = read_study([config], defaults=NO_TRAINING)
        with _listing(study, dataset, everything):
            o.take_back(study, dataset, edited, workers, functools.partial(_check_labels, study, dataset))
        return
    o.refuse_without_add(predictions, images, by, subject)
    if propose_subjects is not None:
        if check or out is not None:
            raise typer.BadParameter("stands alone: give neither --check nor --out", param_hint="--propose-subjects")
        study = read_study([config], defaults=NO_TRAINING)
        for line in stage.propose_subjects(study, dataset, propose_subjects, workers):
            print(line)
        return
    if not check and out is None:
        raise typer.BadParameter("needed unless --check is given", param_hint="--out")
    study = read_study([config], defaults=NO_TRAINING if check else None)
    fits = functools.partial(_check_labels, study, dataset)
    with _listing(study, dataset, everything):
        if check or out is None:
            manifest = stage.check(study, dataset, workers, fits)
        else:
            manifest = stage.run(study, dataset, out, workers, fits, stage_digest("ingest_case"))
    _warn_of_tolerances(study, manifest)


@contextmanager
def _listing(study: Config, dataset: str, everything: bool) -> Iterator[None]:
    """Where the faults of a data set are many, write all of them beside the logs; a list of an earlier try goes."""
    from medseg.errors import DatasetFaults
    from medseg.results.paths import Results

    file = Results.of(study).faults(dataset)
    try:
        yield
    except DatasetFaults as error:
        from medseg.ingest.fault_list import write_list

        write_list(error, file)
        error.everything = everything
        raise
    file.unlink(missing_ok=True)


def _check_labels(config: Config, dataset: str, labels: LabelTable) -> None:
    """Raise ``ConfigError`` if later stages are asked for classes that there are not, before anything is trained."""
    from medseg.evaluate.choice import choice_of
    from medseg.postprocess.operations import check

    choice_of(config, dataset, labels)
    check(config.dataset(dataset).postprocess, labels, dataset)


def _warn_of_tolerances(config: Config, manifest: Manifest) -> None:
    from medseg.evaluate.choice import choice_of, coarse_tolerances
    from medseg.progress import say

    choice = choice_of(config, manifest.dataset, manifest.labels)
    grids = [case.geometry for case in manifest.cases]
    for line in coarse_tolerances(choice, [grid.spacing for grid in grids], grids[0].unit):
        say(f"ingest {manifest.dataset}: {line}")
