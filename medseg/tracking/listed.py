"""What a store lists: runs by their tags, stored models by their runs; whole lists, of which MLflow gives pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.errors import TrackingError

KEY = "medseg.key"
PARENT = "mlflow.parentRunId"
# Ids that one query names.
LONGEST_QUERY = 100


def search(client: Any, experiment: str, query: str) -> list[Any]:
    """All runs that a query finds; MLflow gives them in pages."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def runs_of(client: Any, experiment: str, key: str) -> list[Any]:
    """All runs with a key, outdated ones too."""
    return search(client, experiment, f"tags.`{KEY}` = '{key}'")


def children_of(client: Any, experiment: str, parent: str) -> list[Any]:
    """All runs whose parent this is, as they are now."""
    return search(client, experiment, f"tags.`{PARENT}` = '{parent}'")


def our_runs(client: Any, experiment: str) -> list[Any]:
    """All runs that this package made."""
    return search(client, experiment, f"tags.`{KEY}` != ''")


def models_of(client: Any, experiment: str, run_id: str) -> list[Any]:
    """The models that are stored with a run."""
    return search_models(client, experiment, f"source_run_id = '{run_id}'")


def models_of_all(client: Any, experiment: str, run_ids: Sequence[str]) -> dict[str, list[Any]]:
    """The models that are stored with runs, by run."""
    found: dict[str, list[Any]] = {run_id: [] for run_id in run_ids}
    for start in range(0, len(run_ids), LONGEST_QUERY):
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + LONGEST_QUERY])
        for model in search_models(client, experiment, f"source_run_id IN ({listed})"):
            found[model.source_run_id].append(model)
    return found


def search_models(client: Any, experiment: str, query: str) -> list[Any]:
    """All stored models that a query finds; MLflow gives them in pages."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_logged_models([experiment], filter_string=query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def require_run(client: Any, run_id: str) -> Any:
    """The run with an id; raises ``TrackingError`` if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise TrackingError(f"no run {run_id} in the tracking store") from error
        raise
