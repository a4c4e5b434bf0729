"""Files of runs and models: uploaded to the place that MLflow gave a run or a model when it was made."""

from __future__ import annotations

from pathlib import Path

from medseg.tracking.library import of_store
from medseg.tracking.store import Store


def upload(store: Store, place: str, folder: Path) -> None:
    """Upload all files of a folder.

    ``MlflowClient.log_artifact`` would ask the store for the place of every run and model once more.

    Args:
        store: that gave the place.
        place: URI of the artifacts of a run or model.
        folder: its files get the same relative paths there.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with of_store():
        get_artifact_repository(place, tracking_uri=store.uri).log_artifacts(str(folder))
