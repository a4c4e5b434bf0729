"""The predict stage: the validation cases of a fold, those of the test set, or any image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.errors import DataError, PredictionError
from medseg.files import read_json, sha256_file, write_json, writer_lock
from medseg.formats.errors import FormatError
from medseg.formats.read import read_content, read_image
from medseg.formats.table import label_suffix, stem_of
from medseg.formats.write import write_labels
from medseg.ingest.cases import read_case_image
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.ingest.splits import read_split
from medseg.predict.predictor import Predictor, is_mirrored
from medseg.progress import Progress, say
from medseg.train.checkpoint import Checkpoint, read_description
from medseg.train.lineage import OVERLAP

PROBABILITIES = ".probabilities.b2nd"


def run(config: Config, manifest_path: Path, splits: Path, fold: int, model: Path, out: Path) -> None:
    """Predict the validation cases of ``fold`` with the model folder ``model`` into ``out``; see ``predict_cases``."""
    _, case_ids = read_split(splits, fold)
    predict_cases(config, manifest_path, case_ids, model, out, split="val", fold=fold)


def predict_cases(
    config: Config, manifest_path: Path, case_ids: Sequence[str], model: Path, out: Path, *, split: str, fold: int
) -> None:
    """Predict cases of a manifest with the model folder ``model`` into ``out``.

    ``predictions.json`` comes last. A prediction already there, from the same weights and image and made the same way,
    is kept. A case for which the network gives no usable output is recorded as ``failed``, with the reason.
    Probabilities are written too where the data set's post-processing needs them.

    Args:
        config: the experiment.
        manifest_path: ``manifest.tsv``, or ``test.tsv`` of the test set.
        case_ids: which of its cases.
        model: model folder.
        out: folder for label maps.
        split: ``val`` or ``test``: what the scores of these cases are scores of.
        fold: that of the training.
    """
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    folder = Path(config.data_root) / dataset.path
    checkpoint, weights = read_description(model)
    if split == "val":
        _refuse_seen(checkpoint, manifest, case_ids, fold, model)
    what = "" if split == "val" else f" {split}"
    label = f"predict{what} {manifest.dataset}/{checkpoint.plan.model} fold {fold} seed {checkpoint.seed}"
    bar = Progress(label, len(case_ids))
    entries: dict[str, dict[str, Any]] = {}
    crf = dataset.postprocess.crf is not None
    mirror = is_mirrored(checkpoint.plan, config.predict.mirror)
    predictor: Predictor | None = None
    with writer_lock(out):
        for done, case_id in enumerate(case_ids, start=1):
            case = manifest.case(case_id)
            stamp = out / f".{case.id}.json"
            soft = out / f"{case.id}{PROBABILITIES}"
            made_of = {"weights_sha256": weights, "images_sha256": list(case.images_sha256), "mirror": mirror}
            entry = _kept(out, stamp, made_of, crf)
            if entry is None:
                predictor = predictor or Predictor(model, mirror=mirror)
                try:
                    entry = _predicted(predictor, case, folder, out, crf)
                    write_json(stamp, {**entry, **made_of})
                except PredictionError as error:
                    entry = {"failed": str(error)}
                    say(f"{label}: case failed and will be scored as the worst: {error}")
            entries[case.id] = entry
            if not crf:
                soft.unlink(missing_ok=True)
            bar.update(done)
        which = {"dataset": manifest.dataset, "split": split, "model": checkpoint.plan.model, "fold": fold}
        how = {"seed": checkpoint.seed, "weights_sha256": weights, "mirror": mirror}
        write_json(out / "predictions.json", {**which, **how, "cases": entries})


def predict_files(
    images: Sequence[Path],
    model: Path,
    out: Path,
    *,
    spacing: Sequence[float] | None = None,
    series: str = "",
    device: str | None = None,
    threads: int | None = None,
    mirror: bool | None = None,
) -> list[Path]:
    """Predict image files (or DICOM folders); each label map gets its image's name and format, in ``out``.

    Args:
        images: files of the model's dimensions and channels (all channels in one file).
        model: model folder.
        out: folder, made if absent.
        spacing: pixel size in micrometres per axis, for formats without a header.
        series: which series of DICOM folders is wanted, if they hold several.
        device, threads, mirror: see ``Predictor``.

    Returns:
        The label maps written, in the order of ``images``.

    Raises:
        DataError: if an image is missing, two images would give one output, or an output would replace its input.
    """
    missing = [str(p) for p in images if not p.exists()]
    if missing:
        raise DataError(f"no such image: {', '.join(missing)}")
    targets = [out / f"{p.name if p.is_dir() else stem_of(p)}{label_suffix(p)}" for p in images]
    twice = sorted(str(t) for t, n in Counter(targets).items() if n > 1)
    if twice:
        raise DataError(f"several images would be written to {', '.join(twice)}; predict them into separate folders")
    same = [str(p) for p, t in zip(images, targets, strict=True) if t.exists() and t.samefile(p)]
    if same:
        raise DataError(f"the prediction would replace its input {', '.join(same)}; choose another output folder")
    predictor = Predictor(model, device, threads, mirror)
    bar = Progress("predict", len(images))
    for done, (path, target) in enumerate(zip(images, targets, strict=True), start=1):
        image, geometry = read_image(path, read_content(path, series), spacing=spacing)
        write_labels(target, predictor.predict(image, geometry, str(path)), geometry)
        bar.update(done, str(target))
    return targets


def _refuse_seen(checkpoint: Checkpoint, manifest: Manifest, case_ids: Sequence[str], fold: int, model: Path) -> None:
    """Raise ``DataError`` if a model has seen a subject of these validation cases, unless its start was allowed to."""
    if checkpoint.trained_on is None or any(line.startswith(OVERLAP) for line in checkpoint.allowed):
        return
    seen = checkpoint.trained_on.meets(manifest.dataset, [manifest.case(case) for case in case_ids])
    if seen:
        subject, evidence = next(iter(seen.items()))
        raise DataError(
            f"{model}: a model of fold {checkpoint.fold} was trained on {len(seen)} subjects of the validation cases "
            f"of fold {fold}, first {subject} ({evidence}); predict its own fold, or new images as files"
        )


def _predicted(predictor: Predictor, case: Case, folder: Path, out: Path, crf: bool) -> dict[str, Any]:
    """Predict one case of a manifest into ``out``, with its probabilities if ``crf``; its entry of the record."""
    soft = out / f"{case.id}{PROBABILITIES}"
    labels = predictor.predict(read_case_image(case, folder), case.geometry, case.id, soft if crf else None)
    target = out / f"{case.id}{label_suffix(folder / case.images[0])}"
    write_labels(target, labels, case.geometry)
    entry: dict[str, Any] = {"file": target.name, "sha256": read_content(target).sha256}
    if crf:
        entry["probabilities"] = {"file": soft.name, "sha256": sha256_file(soft)}
    return entry


def _kept(out: Path, stamp: Path, made_of: Mapping[str, Any], crf: bool) -> dict[str, Any] | None:
    """The entry of a prediction that is there, whole, and made of this; else None."""
    if not stamp.is_file():
        return None
    facts = read_json(stamp)
    target = out / facts["file"]
    same = all(facts.get(name) == value for name, value in made_of.items())
    if not same or not _whole(target, facts["sha256"]):
        return None
    entry = {"file": facts["file"], "sha256": facts["sha256"]}
    if not crf:
        return entry
    soft = facts.get("probabilities")
    there = soft is not None and (out / soft["file"]).is_file() and sha256_file(out / soft["file"]) == soft["sha256"]
    return {**entry, "probabilities": soft} if there else None


def _whole(target: Path, sha256: str) -> bool:
    """Whether a label map is there as it was written; one that cannot be read any more is made anew."""
    try:
        return target.exists() and read_content(target).sha256 == sha256
    except FormatError:
        return False
