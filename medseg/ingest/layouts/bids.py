"""Layout ``bids``: ``sub-XX[/ses-YY]/anat/*_T2w.nii.gz`` with label maps in ``derivatives/NAME/sub-XX/…``.

Gorgolewski et al. 2016, The brain imaging data structure, Scientific Data 3:160044.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from medseg.config import BidsConfig, DatasetConfig
from medseg.errors import DataError
from medseg.formats.table import FORMATS, stem_of, suffix_of
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, outside, required_table, visible, walk
from medseg.ingest.tables import read_table

# Entities that distinguish derivatives of one image; any other that the image's name lacks means another image.
DERIVED = {"space", "label", "desc", "res", "den", "seg", "atlas", "hemi", "model", "subset"}
PARTICIPANTS = "participants.tsv"


def bids_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Group images by all of their name but the suffix, and give each its label map.

    Raises:
        ConfigError: if the configuration names no classes.
    """
    what = config.bids or BidsConfig()
    wanted = [what.image] if isinstance(what.image, str) else list(what.image)
    found = Found(labels=required_table(dataset, config), channels=tuple(wanted), evidence="the folders sub-…")
    labels_in = f"derivatives/{what.derivative}"
    if not (root / labels_in).is_dir():
        there = ", ".join(Path(name).name for name in visible(root, "derivatives")) or "none"
        fix = f"name the derivative that holds the labels: `bids: {{derivative: NAME}}`; there are: {there}"
        found.faults.append(fault("missing", "-", labels_in, "no such folder", fix))
        return found
    images, labels = images_of(root, wanted), _labels(root, labels_in, what.label)
    sites = _sites(root, found)
    masks: dict[str, list[str]] = defaultdict(list)
    for file in labels:
        masks[_image_of(file, what.label, images, wanted)].append(file)
    for case, channels in images.items():
        _pair(root, case, channels, masks.get(case, []), what, sites, found)
    for file in masks.get("", []):
        cause = f"no image *_{wanted[0]}.* has this name's beginning"
        found.faults.append(fault("label-without-image", stem_of(Path(file)), file, cause))
    return found


def images_of(root: Path, wanted: list[str]) -> dict[str, dict[str, str]]:
    """Case (the name without its ending) -> ending -> file, of the images whose names have one of the endings."""
    cases: dict[str, dict[str, str]] = defaultdict(dict)
    for subject in visible(root, "."):
        for file in walk(root, subject) if subject.startswith("sub-") else []:
            path = Path(file)
            endings = [w for w in wanted if stem_of(path).endswith(f"_{w}") and suffix_of(path) in FORMATS]
            if endings:
                ending = max(endings, key=len)
                cases[stem_of(path).removesuffix(f"_{ending}")][ending] = file
    return dict(sorted(cases.items()))


def _labels(root: Path, folder: str, label: str) -> list[str]:
    names = [f for f in walk(root, folder) if suffix_of(Path(f)) in FORMATS]
    return [f for f in names if stem_of(Path(f)).endswith(f"_{label}")]


def _image_of(file: str, label: str, cases: dict[str, dict[str, str]], wanted: list[str]) -> str:
    """The case with the longest name that the label's begins with and that lacks nothing but what derivatives add."""
    name = stem_of(Path(file)).removesuffix(label)
    for case in sorted(cases, key=len, reverse=True):
        if name.startswith(f"{case}_"):
            rest = name.removeprefix(f"{case}_").strip("_")
            known = {part for suffix in wanted for part in suffix.split("_")}
            parts = [part for part in rest.split("_") if part and part not in known]
            return case if all(part.split("-")[0] in DERIVED for part in parts) else ""
    return ""


def _pair(
    root: Path,
    case: str,
    channels: dict[str, str],
    labels: list[str],
    what: BidsConfig,
    sites: dict[str, str],
    found: Found,
) -> None:
    """Add one case to what was found, or why it cannot be."""
    first = next(iter(channels.values()))
    subject = first.split("/")[0]
    lacks = [name for name in found.channels or () if name not in channels]
    if escapes := outside(root, [*channels.values(), *labels]):
        found.faults += escapes
    elif not labels:
        cause = f"no file derivatives/{what.derivative}/{subject}/…/{case}_*_{what.label}.*"
        found.faults.append(fault("image-without-label", case, first, cause))
    elif len(labels) > 1:
        cause = f"{len(labels)} label maps for one image: {', '.join(Path(f).name for f in labels[:3])}"
        fix = "say which in `bids: {label: …}` with more of its name, e.g. label-lesion_dseg"
        found.faults.append(fault("duplicate-id", case, labels[1], cause, fix))
    elif lacks:
        cause = f"no file {case}_{lacks[0]}.* beside it"
        found.faults.append(fault("channels", case, first, cause, "add the file or leave the suffix out of `bids`"))
    else:
        files = tuple(channels[name] for name in found.channels or ())
        found.candidates.append(Candidate(case, subject, files, tuple(labels), sites.get(subject, "")))


def _sites(root: Path, found: Found) -> dict[str, str]:
    """Subject -> the column ``site`` of participants.tsv, where there is one."""
    path = root / PARTICIPANTS
    if not path.is_file():
        return {}
    try:
        _, rows = read_table(path)
    except DataError as error:
        fix = "correct the table, or remove it: only its columns participant_id and site are read"
        found.faults.append(fault("table", "-", PARTICIPANTS, str(error).removeprefix(f"{path}: "), fix))
        return {}
    named = [row for row in rows if row.get("participant_id") and row.get("site") not in (None, "", "n/a")]
    return {row["participant_id"]: row["site"] for row in named}
