"""Predicting image files: all are checked first, then one after the other is predicted, and what fails is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import DataError, GeometryError, ImagesFailed
from medseg.files import write_text
from medseg.formats.limits import file_limit, spooling
from medseg.formats.source import Source
from medseg.kept import kept, write_stamp
from medseg.machine import available_memory
from medseg.predict.batch import Batch, How, Then, options_of, terms_of
from medseg.predict.ensemble import bytes_beside, predicting
from medseg.predict.expected import EXPECTED, ExpectedDice
from medseg.predict.failures import SHOWN, failures_of, is_of_memory, listed
from medseg.predict.finish import FinishedFile
from medseg.predict.input import Input
from medseg.predict.inputs import find_inputs
from medseg.predict.memory import Memory
from medseg.predict.predictor import Predicting, require_fit
from medseg.predict.record import label_map_digest
from medseg.predict.scale import LARGE, is_large
from medseg.predict.sinks import LabelFile, Sink
from medseg.predict.terms import Found, doubts_of_headers, open_parts, refuse
from medseg.predict.trainings import read_trainings
from medseg.predict.uncertainty import UncertaintyFiles
from medseg.predict.voxels import on_one_grid, read_by_slabs, read_whole
from medseg.progress import Progress, say
from medseg.records import read_record

# In the folder of predictions, all images that failed, where their list is too long for a terminal.
LIST = "not-predicted.txt"

__all__ = ["How", "open_batch", "options_of", "predict_batch", "predict_files", "raise_failed", "say_members"]


def predict_files(
    images: Sequence[Path], model: Path | Sequence[Path], out: Path, how: How | None = None, then: Then | None = None
) -> list[Path]:
    """Predict images; each label map gets its image's name and format, in ``out``.

    Of objects of several classes, the class map lies beside the map of their numbers (``formats.table.class_map``).
    All images are checked before the first is predicted: whether they can be read and fit the model, and what is
    doubtful about their headers. One that fails, then or later, is named, and the others are predicted. A label map
    that is there already, of the same image by the same model with the same options, is kept.

    Args:
        images: see ``find_inputs``.
        model: model folder, or several, of whose probabilities the mean is taken (``medseg.predict.ensemble``).
        out: folder, made if absent.
        how: options.
        then: called with each image whose label map is there.

    Returns:
        The label maps, in the order of the images.

    Raises:
        DataError: if an image is missing, two images would give one output, or an output would replace its input.
        ConfigError: for options that mean nothing.
        CheckpointError: if a folder holds no model, or models do not fit each other.
        ImagesFailed: if some images could not be predicted; the others are.
    """
    batch = open_batch(images, model, out, how or How(), then)
    predict_batch(batch)
    raise_failed(batch)
    return batch.written


def open_batch(
    words: Sequence[Path], model: Path | Sequence[Path], out: Path, how: How, then: Then | None = None
) -> Batch:
    """The images that a user means, and where their predictions go; arguments and errors as for ``predict_files``."""
    trainings = read_trainings([model] if isinstance(model, Path) else model)
    inputs = find_inputs(words, trainings[0].checkpoint.channels, out, layout=how.layout, series=how.series)
    batch = Batch(inputs, out, how, trainings, terms_of(trainings, how), then)
    _refuse_overwriting(inputs, [path for one in inputs for path in (*batch.outputs(one), *batch.maps(one))])
    return batch


def predict_batch(batch: Batch) -> None:
    """Check all images of a batch, and predict those that can be; what fails is noted in it, and said.

    Raises:
        ImagesFailed: if none can be predicted.
    """
    with reading(batch):
        keys = check(batch, memories(batch))
        if len(batch.failed) == len(batch.inputs):
            raise_failed(batch)
        _predict(batch, keys)


@contextmanager
def reading(batch: Batch) -> Iterator[None]:
    """Within the block, files are read as a batch allows it, and what is large is unpacked on disk."""
    with file_limit(_limit(batch)), spooling(LARGE):
        yield


def memories(batch: Batch) -> list[Memory]:
    """What each training of a batch may take, and needs."""
    budget = max(0, (_limit(batch) or available_memory()) - bytes_beside(batch.trainings))
    together = len(batch.trainings) > 1
    return [Memory(one.checkpoint.plan, batch.how.device, budget, together=together) for one in batch.trainings]


def _limit(batch: Batch) -> int | None:
    return None if batch.how.max_gb is None else int(batch.how.max_gb * 1e9)


def raise_failed(batch: Batch) -> None:
    """Raise ``ImagesFailed`` if images of a batch failed, with all of them and why."""
    if batch.failed:
        failures = [failure for found in batch.failed.values() for failure in found]
        lines, cut = listed(failures)
        if cut:
            write_text(batch.out / LIST, "".join(f"{failure.text}\n" for failure in failures))
            lines.append(f"all are listed in {batch.out / LIST}")
        raise ImagesFailed(len(batch.failed), lines, batch.written)


def check(batch: Batch, memory: Sequence[Memory]) -> dict[Input, str]:
    """Check every image that has no prediction yet, and say what was found; the keys of all that could be read."""
    bar = Progress("predict: check", len(batch.inputs))
    keys: dict[Input, str] = {}
    for done, one in enumerate(batch.inputs, start=1):
        with _noting_failure(batch, one):
            keys[one] = batch.key(one)
            names = [path.name for path in (*batch.outputs(one), *batch.maps(one))]
            found = kept(batch.stamp(one), keys[one], names, label_map_digest)
            if found is not None and _allowed_in(batch.stamp(one)) <= batch.terms.allow:
                batch.kept.add(one)
                batch.expected[one] = read_record(batch.stamp(one), "medseg predict").get(EXPECTED, {})
            else:
                batch.require_unedited(one)
                _check_one(batch, one, memory)
        bar.update(done)
    _say_checked(batch)
    return keys


def _allowed_in(stamp: Path) -> set[str]:
    """Codes of doubts about an image that were allowed when it was predicted."""
    return set(read_record(stamp, "medseg predict").get("allowed", ()))


def _check_one(batch: Batch, one: Input, memory: Sequence[Memory]) -> None:
    """Raise ``DataError`` if an image cannot be read, does not fit the model, is doubtful, or is too large."""
    parts = open_parts(one, batch.terms)
    channels = sum(part.shape[0] for part in parts)
    world = parts[0].affine is not None
    for training in batch.trainings:
        require_fit(parts[0].geometry, channels, one.shown, training.checkpoint, one.files, world=world)
    if not (parts[0].states_grid or batch.how.spacing or one.spacing) and batch.terms.reading.spacing is not None:
        batch.unsized.append(one)
    found = doubts_of_headers(parts, batch.terms)
    batch.allowed += [doubt for doubt in found if doubt.allowed]
    refuse(found)
    for of_one in memory:
        whole = on_one_grid(parts)
        of_one.require(one.shown, channels, parts[0], len(batch.maps(one)), batch.out, one_grid=whole)


def say_members(batch: Batch, named: Sequence[Path]) -> None:
    """Say which trainings predict together, if there are several, and which were named twice."""
    folders = [one.folder for one in batch.trainings]
    if len(folders) > 1:
        say(f"predict: the mean of {len(folders)} models: {', '.join(map(str, folders))}")
    if again := [str(path) for path in named if path not in folders or list(named).count(path) > 1]:
        say(f"predict: {', '.join(dict.fromkeys(again))}: named more than once, or a copy; counts once")


def _say_checked(batch: Batch) -> None:
    """Say what the check found, each thing once."""
    if batch.kept:
        count = f"{len(batch.kept)} of {len(batch.inputs)}"
        say(f"predict: kept {count} label maps that are there: of the same images, by the same model and options")
    if batch.unsized:
        size = " x ".join(f"{v:g}" for v in batch.terms.reading.spacing or ())
        more = f" and {len(batch.unsized) - 1} more" if len(batch.unsized) > 1 else ""
        say(
            f"predict: {batch.unsized[0].shown}{more}: states no pixel size; taken to be {size} "
            f"{batch.terms.reading.unit}, as in the training (--spacing gives another)"
        )
    for code in sorted({found.doubt.code for found in batch.allowed}):
        same = [found for found in batch.allowed if found.doubt.code == code]
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        say(f"predict: allowed {code}: {same[0].file}{more}: {same[0].doubt.cause}; {same[0].allowed}")
    if batch.failed:
        count = f"{len(batch.failed)} of {len(batch.inputs)} images"
        rest = ", the others are" if len(batch.failed) < len(batch.inputs) else ""
        say(f"predict: {count} cannot be predicted{rest}")


def _predict(batch: Batch, keys: Mapping[Input, str]) -> None:
    """Predict what was found sound and is not there; the network is built for the first of them."""
    todo = [one for one in batch.inputs if one not in batch.failed]
    bar = Progress("predict", len(todo))
    for done, one in enumerate(todo, start=1):
        with _noting_failure(batch, one):
            if one in batch.kept:
                _follow(batch, one, None)
            else:
                if batch.predictor is None:
                    batch.predictor = predicting(batch.trainings, *batch.how.running)
                _predict_one(batch, one, batch.predictor, keys[one])
        bar.update(done, "" if one in batch.failed else str(one.labels(batch.out)))


def _predict_one(batch: Batch, one: Input, predictor: Predicting, key: str) -> None:
    """Predict an image and write its files, the stamp last."""
    source, found = _read(batch, one)
    for doubt in found:
        say(f"predict: allowed {doubt.doubt.code}: {doubt.file}: {doubt.doubt.cause}; {doubt.allowed}")
    labels, *classes = batch.outputs(one)
    file = LabelFile(labels, classes[0] if classes else None, batch.how.references, key)
    expected = ExpectedDice()
    sinks: list[Sink] = [FinishedFile(file, batch.how.finish, source) if batch.how.finish else file, expected]
    maps = batch.maps(one)
    predictor.uncertain = bool(maps)
    _into(predictor, source, one, [*sinks, *([UncertaintyFiles(*maps)] if maps else []), *batch.watchers])
    batch.expected[one] = expected.values
    about = [doubt for doubt in batch.allowed if doubt.file in one.files]
    allowed = sorted({doubt.doubt.code for doubt in (*about, *found)} & batch.terms.allow)
    facts = {"allowed": allowed, EXPECTED: expected.values, **batch.predicted(one)}
    write_stamp(batch.stamp(one), key, [labels, *classes, *maps], label_map_digest, facts)
    _follow(batch, one, source)


def _read(batch: Batch, one: Input) -> tuple[Source, list[Found]]:
    """An image, to be read slab by slab if it is large, and what is doubtful about its voxels."""
    parts = open_parts(one, batch.terms)
    channels = sum(part.shape[0] for part in parts)
    large = any(is_large(parts[0], channels, training.checkpoint.plan) for training in batch.trainings)
    return (read_by_slabs if large and on_one_grid(parts) else read_whole)(parts, batch.terms)


def _into(predictor: Predicting, source: Source, one: Input, sinks: Sequence[Sink]) -> None:
    """Predict an image into sinks; if a GPU's memory runs out, a second time with one window at once."""
    try:
        predictor.predict(source, one.shown, sinks)
        return
    except RuntimeError as error:
        if not is_of_memory(error) or not predictor.spare_memory():
            raise
    # Out of the handler, which holds what the first attempt had in memory.
    say(f"predict: {one.shown}: out of memory on {predictor.device}; again, one window at a time from now on")
    predictor.predict(source, one.shown, sinks)


def _follow(batch: Batch, one: Input, source: Source | None) -> None:
    """Call what follows a label map; the image is read again if it was not predicted now."""
    if batch.then is None:
        return
    if source is None:
        source, _ = read_whole(open_parts(one, batch.terms), batch.terms)
    batch.then(one.files[0], source, one.labels(batch.out))


@contextmanager
def _noting_failure(batch: Batch, one: Input) -> Iterator[None]:
    """Note and say what is wrong with one image; whatever else happens ends the command, a full disk, say."""
    try:
        yield
    except (DataError, GeometryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, DataError | GeometryError) and not is_of_memory(error):
            raise
        batch.failed[one] = failures_of(error, one.shown)
    for failure in batch.failed.get(one, ()):
        same = sum(other.kind == failure.kind for found in batch.failed.values() for other in found)
        if same <= SHOWN:
            say(f"predict: failed: {failure.text}")


def _refuse_overwriting(inputs: Iterable[Input], targets: Sequence[Path]) -> None:
    """Raise ``DataError`` if two predictions would be written to one file, or one would replace an image."""
    twice = sorted(str(t) for t, n in Counter(targets).items() if n > 1)
    if twice:
        raise DataError(
            f"several images would be written to {', '.join(twice)}; predict them into separate folders, or name the "
            "folder that holds theirs, or a pattern in quotes: sub-folders are kept"
        )
    there = {_identity(target) for target in targets if target.exists()}
    same = [str(file) for one in inputs for file in one.files if _identity(file) in there]
    if same:
        raise DataError(f"the prediction would replace its input {', '.join(same)}; choose another output folder")


def _identity(path: Path) -> tuple[int, int]:
    """What two names of one file have in common."""
    found = path.stat()
    return found.st_dev, found.st_ino
