"""The model folder: ``medseg predict --model FOLDER`` takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.export.handover import Handover


def write(model: Handover, folder: Path) -> None:
    """Write what belongs to the model; the card is written with every export."""
    shutil.copytree(model.folder, folder, dirs_exist_ok=True)
