"""The model folder: ``medseg predict --model FOLDER`` takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.export.handover import Handover
from medseg.results.folders import ModelFolder


def write(model: Handover, folder: Path) -> None:
    """Write description and weights; the card is written with every export."""
    source, target = ModelFolder(model.folder), ModelFolder(folder)
    shutil.copyfile(source.weights, target.weights)
    shutil.copyfile(source.description, target.description)
