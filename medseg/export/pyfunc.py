"""An MLflow model, as tracking stores it: paths or arrays in, label maps out."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.export.handover import Handover
from medseg.tracking.library import load_mlflow
from medseg.tracking.models import write_model


def write(model: Handover, folder: Path) -> None:
    """Write the MLflow model."""
    load_mlflow()
    made = folder / "made"
    write_model(model.folder, made)
    # MLflow wants to make its folder itself.
    for path in list(made.iterdir()):
        shutil.move(path, folder / path.name)
    made.rmdir()
