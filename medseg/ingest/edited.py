"""Which label maps somebody has edited, of which predictions they are, and where the images of these are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError
from medseg.files import sha256_file
from medseg.formats.read import open_content
from medseg.formats.table import FORMATS, stem_of, suffix_of
from medseg.ingest.layouts.found import walk
from medseg.ingest.predicted import Prediction, read_prediction

# What programs and people put behind the name of an image whose labels they save.
ENDINGS = ("", "_corrected", "-corrected", "_labels", "-labels", "_seg", "-seg", "_segmentation", "-segmentation")
# Names in one message.
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Edited:
    """A label map that was edited, and all that is known of it.

    Attributes:
        prediction: what it began as.
        labels: the edited file.
        images: files of its image, in the order of the prediction's.
    """

    prediction: Prediction
    labels: Path
    images: tuple[Path, ...]


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions in a folder and below it by the names of their images.

    Raises:
        DataError: if there is none, or a stamp cannot be read.
    """
    found: dict[str, Prediction] = {}
    for stamp in sorted(folder.rglob(".*.json")):
        name = stamp.with_name(stamp.name.removeprefix(".").removesuffix(".json")).relative_to(folder)
        name = name.with_name(stem_of(name))
        if (one := read_prediction(stamp, folder, name.as_posix())) is not None:
            found[one.name] = one
    if not found:
        raise DataError(
            f"{folder}: no predictions there; name the folder that `medseg predict` wrote into (-o), with its hidden "
            "files .NAME.json, which say what each label map was made from: --predictions FOLDER"
        )
    return found


def find_edited(
    folder: Path, predictions: Mapping[str, Prediction], searched: Sequence[Path]
) -> tuple[list[Edited], int]:
    """The edited label maps in a folder, each with its prediction and its image.

    Args:
        folder: of edited label maps; it may be that of the predictions, whose own files are left out where they are
            as they were written.
        predictions: by name.
        searched: files, and folders in which images are looked for, by their digests.

    Returns:
        The edited label maps, in the order of their names, and how many are predictions that nobody touched.

    Raises:
        DataError: with a line for everything that is wrong.
    """
    files = [folder / file.removeprefix("./") for file in walk(folder, ".")]
    files = [file for file in files if suffix_of(file) in FORMATS and not stem_of(file).endswith(".classes")]
    own = {one.labels.resolve(): one for one in predictions.values()}
    untouched = {file for file in files if _is_untouched(file, own)}
    wrong: list[str] = []
    of: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if file in untouched:
            continue
        names = _names(file.relative_to(folder), predictions)
        if len(names) == 1:
            of[names[0]].append(file)
        else:
            wrong.append(_unknown(file, names, predictions))
    for name, several in of.items():
        if len(several) > 1:
            shown = ", ".join(file.name for file in several)
            wrong.append(f"{several[0].parent}: {shown}: several label maps of the prediction {name}; keep one of them")
    there = _by_name(searched)
    found = []
    for name, (labels, *_) in sorted(of.items()):
        images, lacking = _images(predictions[name], there)
        wrong += lacking
        found.append(Edited(predictions[name], labels, images))
    if wrong:
        raise DataError("\n".join(wrong))
    return found, len(untouched)


def _is_untouched(file: Path, own: Mapping[Path, Prediction]) -> bool:
    one = own.get(file.resolve())
    return one is not None and sha256_file(file) == one.sha256


def _names(file: Path, predictions: Mapping[str, Prediction]) -> list[str]:
    """Names of the predictions that a file can be of: in the same sub-folder, or else of that name in any."""
    stem = stem_of(file)
    stems = [stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)]
    # The longest name first: `scan_seg` is of the image `scan_seg`, if there is one.
    for base in sorted(stems, key=len, reverse=True):
        name = file.with_name(base).as_posix()
        if name in predictions:
            return [name]
        if found := sorted(name for name in predictions if name.rpartition("/")[2] == base):
            return found
    return []


def _unknown(file: Path, names: Sequence[str], predictions: Mapping[str, Prediction]) -> str:
    if names:
        return (
            f"{file}: may be of {', '.join(names[:SHOWN])}; put it into a sub-folder of this name, as it was predicted"
        )
    more = f" and {len(predictions) - SHOWN} more" if len(predictions) > SHOWN else ""
    there = f"{', '.join(sorted(predictions)[:SHOWN])}{more}"
    return f"{file}: no prediction is called so; there are {there}; call it as its image, with any suffix of a format"


def _by_name(searched: Sequence[Path]) -> dict[str, list[Path]]:
    """Files and folders by their names: those that were given and all below them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in searched:
        for one in (path, *(sorted(path.rglob("*")) if path.is_dir() else ())):
            found[one.name].append(one)
    return found


def _images(prediction: Prediction, there: Mapping[str, Sequence[Path]]) -> tuple[tuple[Path, ...], list[str]]:
    """The files that were predicted, found by name and digest, and what is missing."""
    found, lacking = [], []
    for name, sha256 in prediction.facts.images:
        same = list(there.get(name, ()))
        match = next((path for path in same if _digest(path, prediction.facts.series) == sha256), None)
        if match is not None:
            found.append(match)
            continue
        where = f"{len(same)} files of this name hold something else" if same else "no file of this name is there"
        fix = "name the folder that holds the image as it was predicted: --images FOLDER"
        lacking.append(f"{prediction.name}: its image {name}: {where}; {fix}")
    return tuple(found), lacking


def _digest(path: Path, series: str) -> str:
    """The digest of an image file or folder; empty for what is none."""
    try:
        return open_content(path, series).sha256
    except DataError:
        return ""


def companions(path: Path, series: str = "") -> Iterator[tuple[Path, Path]]:
    """The files of an image: where each is, and its path in another folder that holds the image under its name."""
    inside = path.is_dir()
    for name in open_content(path, series).files:
        yield ((path if inside else path.parent) / name, Path(path.name) / name if inside else Path(name))
