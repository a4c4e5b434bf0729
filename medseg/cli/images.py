"""What ``medseg predict IMAGES`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.measure.predicted import PredictedObjects
    from medseg.predict.batch import Batch

NOT_MEASURED = "fast, at a price that nobody measured on its validation cases: medseg price"


def begin() -> None:
    """Take one GPU, if there is any, before torch is imported, and keep the memory that tensors give back."""
    from medseg.engine.heap import keep_freed_memory
    from medseg.machine import reserve_gpu

    reserve_gpu()
    keep_freed_memory()


def predict_images(
    images: list[Path], models: list[str], tracking_uri: str | None, out: Path, kinds: list[str], how: Mapping[str, Any]
) -> None:
    """Predict image files, write ``kinds`` of files for their objects, and print the names of all.

    Of a dry run, what each takes is printed, and nothing is written.

    Raises:
        ImagesFailed: if some could not be predicted; the names of the others are printed before.
    """
    begin()
    from medseg.tracking import resolve_models

    # Before torch is imported: a store that does not answer is said at once.
    folders = [folder for model in models for folder in resolve_models(model, tracking_uri)]
    from medseg.postprocess.of_model import steps_of_models
    from medseg.predict import files as stage
    from medseg.predict.code import code_of
    from medseg.predict.first import lines_of, rows_of, write_rows
    from medseg.predict.planned import plan_batch
    from medseg.predict.quality import read_quality
    from medseg.progress import say
    from medseg.text import escaped

    if how["fast"]:
        from medseg.predict.fast import fast

        how = fast(how, folders)
    options = {name: value for name, value in how.items() if name not in ("raw", "dry_run", "fast")}
    named = named_model(models, folders)
    finish, note = (None, "") if how["raw"] else steps_of_models(named, folders)
    if note:
        say(f"predict: {note}")
    options |= {"code": code_of(folders), "finish": finish}
    batch = stage.open_batch(images, folders, out, stage.options_of(options))
    stage.say_members(batch, folders)
    if how["dry_run"]:
        for line in plan_batch(batch):
            print(escaped(line))
        stage.raise_failed(batch)
        return
    objects = _objects(batch, kinds)
    if how["fast"]:
        _say_prices(folders)
    stage.predict_batch(batch)
    written = [*batch.written, *([] if objects is None else objects.writer.finish())]
    # It was learnt on predictions as the study makes them.
    if named is not None and not how["fast"] and (quality := read_quality(named)) is not None:
        rows = rows_of(batch, quality)
        written.append(write_rows(out, rows, quality))
        for line in lines_of(rows, quality):
            say(f"predict: {line}")
    for path in written:
        print(escaped(str(path)))
    stage.raise_failed(batch)


def _objects(batch: Batch, kinds: list[str]) -> PredictedObjects | None:
    """What writes ``kinds`` of files for the objects of each label map, once it is there; None: no kind is wanted."""
    from medseg.measure.predicted import PredictedObjects

    if not kinds:
        return None
    out, inputs = batch.out, batch.inputs
    objects = PredictedObjects.create(out, kinds, batch.checkpoint.labels, batch.checkpoint.channels)
    objects.check([one.labels(out) for one in inputs], [file for one in inputs for file in one.files])
    batch.then = objects.write
    return objects


def _say_prices(folders: Sequence[Path]) -> None:
    """Say of each model what fast predictions cost."""
    from medseg.evaluate.price import read_price
    from medseg.progress import say

    for folder in folders:
        price = read_price(folder)
        say(f"predict: {folder}: {price.line if price else NOT_MEASURED}")


def named_model(models: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The folder of the one model, or ensemble of a study, that was named; None: several were."""
    from medseg.results.folders import ModelFolder

    if len(models) == 1 and ModelFolder(Path(models[0])).members.is_file():
        return Path(models[0])
    return folders[0] if len(folders) == 1 else None
