"""What a configuration for a folder says, with reasons: from names, a sample of images, label values, the machine."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medseg.draft.classes import put_labels
from medseg.draft.lines import Draft, Line
from medseg.draft.survey import ImageFacts, Survey
from medseg.formats.table import suffix_of
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.look import Look
from medseg.ingest.subjects import CASE, FOLDER, shared_folders, subject_rule, suspect
from medseg.machine import processors

# Below that, in 3-D with a size in mm, intensities are taken for Hounsfield units: air in CT.
AIR = -500
FOLDS = 5
TIFF = (".tif", ".tiff")
# Minutes of a training, without and with a GPU.
CPU_MINUTES, GPU_MINUTES = 30, 60


def decide(draft: Draft, seen: Look, candidates: Sequence[Candidate], found: Survey, gpu: bool) -> None:
    """Add all lines to a draft.

    Args:
        draft: with name and place.
        seen: what the names in the folder say.
        candidates: its cases.
        found: what was read of them.
        gpu: whether trainings here have one.
    """
    images, labels = seen.example
    example = f"{images[0]} with {labels[0]}" if images and labels else "none whole"
    why = f"{seen.cases} cases, e.g. {example}{_pictures(found.images)}"
    for place, (key, value) in enumerate(seen.keys.items()):
        draft.put(Line(key, value, why if place == 0 else ""))
    draft.open += [f"not used: {remark}" for remark in seen.remarks]
    if seen.classes:
        named = ", ".join(f"{name} {value}" for name, value in seen.classes.items())
        draft.put(Line("labels", dict(seen.classes), f"the data set names its classes ({named})", off=True))
    elif seen.instances:
        draft.put(
            Line("labels", {"object": 1}, "one mask file per object; all are of one class, whose name you choose")
        )
    else:
        put_labels(draft, found)
    if _pages_are_channels(seen, found):
        why = "the pages of an image are channels, since label maps have one page; ZYX if they are slices"
        draft.put(Line("axes", "CYX", why))
    else:
        _put_channels(draft, seen, found.images)
        _put_sizes(draft, found.images)
    subjects = _put_subjects(draft, seen, candidates)
    _put_test(draft, seen)
    _put_study(draft, subjects, gpu)
    if found.unread:
        file, cause = found.unread[0]
        draft.open.append(f"{len(found.unread)} files could not be read, the first is {file}: {cause}")


def _pages_are_channels(seen: Look, found: Survey) -> bool:
    """Whether TIFF images of several pages, of which nothing says what they are, have label maps of one page."""
    stacks = found.images and all(len(image.shape) == 3 for image in found.images)
    flat = found.labels and all(facts.dims == 2 for facts in found.labels)
    return bool(stacks and flat and seen.example[0] and suffix_of(Path(seen.example[0][0])) in TIFF)


def _pictures(images: Sequence[ImageFacts]) -> str:
    """Size, voxels and channels of the images, in words."""
    if not images:
        return ""
    one = images[0]
    size = " x ".join(map(str, one.shape))
    voxel = " x ".join(f"{length:.4g}" for length in one.spacing)
    state = "no size stated" if one.unit == "px" else f"of {voxel} {one.unit}"
    channels = "1 channel" if one.channels == 1 else f"{one.channels} channels"
    like = " (all that were read)" if len({(i.shape, i.spacing, i.channels) for i in images}) == 1 else ""
    return f"; an image: {size} voxels, {state}, {channels}{like}"


def _put_channels(draft: Draft, seen: Look, images: Sequence[ImageFacts]) -> None:
    """Names that decide something: CT, or how grey pictures and pictures in colour are brought together."""
    counts = Counter(image.channels for image in images)
    names = {image.channel_names for image in images}
    if seen.channels:
        why = "the data set names its channels; one that is called CT is normalised as CT"
        draft.put(Line("channels", list(seen.channels), why, off=True))
    elif set(counts) == {1, 3}:
        why = f"{counts[1]} pictures in grey beside {counts[3]} in colour were read; `grey` makes all of them grey"
        draft.put(Line("channels", "rgb", why))
    elif len(counts) > 1:
        listed = ", ".join(f"{n} of {count}" for count, n in sorted(counts.items()))
        draft.open.append(f"how many channels an image has ({listed} channels): leave one kind out, or convert it")
    elif names and () not in names and max(counts, default=1) > 1:
        first = min(names)
        draft.put(
            Line("channels", list(first), "the files' own names; `{NAME: NUMBER}` chooses some of them", off=True)
        )
    elif images and all(len(image.shape) == 3 and image.unit == "mm" for image in images):
        low = statistics.median(image.low for image in images)
        if low <= AIR and set(counts) == {1}:
            why = (
                f"values down to {low:g} look like Hounsfield units: normalised as CT; if they are none, take this out"
            )
            draft.put(Line("channels", ["CT"], why))


def _put_sizes(draft: Draft, images: Sequence[ImageFacts]) -> None:
    """The size of a voxel, and what to do where files state none, or only some do."""
    stated = [image for image in images if image.unit != "px"]
    if not images:
        return
    axes = min(len(image.spacing) for image in images)
    if not stated:
        why = "no image that was read states the size of a pixel: lengths are counted in pixels; if you know it, in um"
        draft.put(Line("spacing", [0.5] * axes, why, off=True))
    elif len(stated) < len(images):
        why = f"{len(images) - len(stated)} of {len(images)} images that were read state no size of a pixel"
        draft.put(Line("spacing", [0.5] * axes, f"{why}: theirs, in um, if you know it", off=True))
        draft.put(Line("sizes", "pixels", "or count in pixels, whatever the others state", off=True))
        draft.open.append(f"{why}: write `spacing`, or `sizes: pixels`")


def _put_subjects(draft: Draft, seen: Look, candidates: Sequence[Candidate]) -> int:
    """Who belongs together, as far as names say it; the number of subjects."""
    ids = [case.id for case in candidates]
    if seen.subjects:
        subjects = {case.subject for case in candidates}
        draft.put(Line("subject", CASE, f"{len(subjects)} subjects, from {seen.subjects}", off=True))
        return len(subjects)
    if shared_folders({case.id: case for case in candidates}):
        subjects = {case.group for case in candidates}
        why = f"images of one folder are taken for one subject's: {len(subjects)} subjects; if not, `subject: {CASE}`"
        draft.put(Line("subject", FOLDER, why))
        draft.open.append(f"whether folders are subjects: {why}")
        return len(subjects)
    if (found := suspect(ids)) is not None:
        one, other, pattern = found
        rule = subject_rule(draft.name, pattern)
        subjects = {rule(case) or case for case in ids}
        why = f"{one} and {other} look like cases of one subject: {len(subjects)} subjects; if not, `subject: {CASE}`"
        draft.put(Line("subject", pattern, why))
        draft.open.append(f"whether the ids name the subjects: {why}")
        return len(subjects)
    why = "each case counts as a subject of its own; if several are of one patient or one slide, a table says which"
    draft.put(Line("subject", "subjects.csv", f"{why} (columns case,subject)", off=True))
    return len(ids)


def _put_test(draft: Draft, seen: Look) -> None:
    """Offer a published test set where its references are there."""
    if seen.layout in ("decathlon", "nnunet") and all(
        Path(draft.data_root, draft.path, name).is_dir() for name in ("imagesTs", "labelsTs")
    ):
        draft.put(Line("test", "imagesTs", "keeps these cases apart until `medseg test` scores them", off=True))


def _put_study(draft: Draft, subjects: int, gpu: bool) -> None:
    """Models, folds and a budget that fits this machine."""
    why = "everything not said is planned; `medseg models` lists what else there is, any number can be compared"
    draft.put_study(Line("models", {"unet": {"network": "unet"}}, why))
    count = max(2, min(FOLDS, subjects))
    every = ", ".join(map(str, range(count)))
    why = f"training and validation: of {count} folds the first one; run: [{every}] for a whole cross-validation"
    draft.put_study(Line("folds", {"count": count, "run": [0]}, why))
    cores = processors()
    place = "a GPU" if gpu else f"{cores} processors and no GPU"
    why = f"of each training, one per model and fold, on {place}; more minutes are a larger network and more steps"
    draft.put_study(Line("budget", {"minutes": GPU_MINUTES if gpu else CPU_MINUTES}, why))
    if not gpu:
        draft.put_study(Line("threads", cores, "processors of a training: another number gives other last digits"))
    if subjects < 2:
        draft.open.append("how to validate: there is one subject, and folds need two")
