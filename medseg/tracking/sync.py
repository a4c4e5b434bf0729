"""Sends the results of an experiment to MLflow: complete, repeatable, and nothing twice."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import BusyError
from medseg.fence import SupersededError
from medseg.files import writer_lock
from medseg.results.paths import Results
from medseg.tracking.current import read_study
from medseg.tracking.failures import StoreError, as_store_error
from medseg.tracking.library import load_mlflow, store_errors
from medseg.tracking.store import read_store, replay_lock, require_answer
from medseg.tracking.synced import write_synced, write_unsent


def sync(results: Path, config: Path | None = None, out: Path | None = None) -> str:
    """Send everything of the study that the store lacks, and mark all that is not of the study any more.

    Args:
        results: ``results/<experiment>``.
        config: the study's configuration; none: ``config.json`` in ``results``.
        out: file that says what was sent.

    Returns:
        A summary line.

    Raises:
        AwayError: if the store cannot be reached or used now.
        StoreError: if it cannot be used as it is, or refuses what is sent.
        TrackingError: if ``results`` has none.
        ConfigError, DataError: if the configuration or a result is wrong or damaged.
        BusyError: if another process is doing the same.
    """
    store = read_store(Results(results).tracking.store)
    study = read_study(results, config or Results(results).config, store.experiment)
    load_mlflow()
    from medseg.tracking.replay import Replay

    sent = 0
    try:
        require_answer(store)
        with writer_lock(store.folder), replay_lock(store):
            replay = Replay(store, results, study)
            try:
                summary = replay.run()
            finally:
                sent = len(replay.sent)
    except store_errors(StoreError) as error:
        told = as_store_error(error, store.uri, store.experiment)
        left = sum(len(model.trained) for model in study.models) - sent
        rest = f"{left} training{'s' * (left != 1)}, and the scores of the models"
        raise type(told)(
            f"{told}; not sent: {rest}; all results are complete on disk; "
            f"`medseg track sync {results}` sends what is missing and can be repeated at any time"
        ) from error
    if out is not None:
        write_synced(out, summary, study.digest())
    return summary


def sync_or_note(results: Path, config: Path | None, out: Path) -> str:
    """As ``sync``; but what is wrong with the store is noted in ``out`` and is no error.

    Returns:
        The summary line, or the line that says what is unsent.
    """
    try:
        return sync(results, config, out)
    except SupersededError:
        raise
    except (StoreError, BusyError) as error:
        line = str(error)
        write_unsent(out, line)
        return f"tracking: unsent: {line}"
