"""Layout ``dsb2018``: ``ID/images/ID.png`` and one mask file per object in ``ID/masks/``.

Data Science Bowl 2018, stage 1 (Caicedo et al. 2019, Nature Methods 16:1247; BBBC038 of the Broad Bioimage Benchmark
Collection).
"""

from __future__ import annotations

from pathlib import Path

from medseg.config import DatasetConfig
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, outside, visible

STAGE = "stage1_train"
CLASSES = {"nucleus": 1}


def dsb2018_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """One case per folder, with as many label files as objects; each image is a subject of its own."""
    table = LabelTable.create(config.class_values or CLASSES, instances=True, ignore=config.ignore)
    found = Found(labels=table)
    for folder in _folders(root):
        case = Path(folder).name
        images, masks = visible(root, f"{folder}/images"), visible(root, f"{folder}/masks")
        if escapes := outside(root, [*images, *masks]):
            found.faults += escapes
        elif images and (root / folder / "masks").is_dir():
            # A folder that is there and empty says that there are no objects.
            found.faults += [fault("duplicate-id", case, more, f"the same id as {images[0]}") for more in images[1:]]
            found.candidates.append(Candidate(case, case, (images[0],), tuple(masks)))
        elif images:
            cause = f"no folder {folder}/masks"
            found.faults.append(fault("image-without-label", case, images[0], cause))
        elif masks:
            cause = f"no image in {folder}/images"
            found.faults.append(fault("label-without-image", case, masks[0], cause))
        else:
            fix = "each folder of the dsb2018 layout holds the folders images and masks"
            found.faults.append(fault("missing", case, folder, "neither image nor masks", fix))
    return found


def image_folders(root: Path) -> dict[str, list[str]]:
    """Case -> files in its folder ``images``, relative to ``root``, of the cases that have any."""
    found = {Path(folder).name: visible(root, f"{folder}/images") for folder in _folders(root)}
    return {case: files for case, files in found.items() if files}


def _folders(root: Path) -> list[str]:
    """The folders of cases, relative to the data set's."""
    place = STAGE if (root / STAGE).is_dir() else "."
    return [folder for folder in visible(root, place) if (root / folder).is_dir()]
