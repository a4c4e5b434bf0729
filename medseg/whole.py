"""Whether a study is whole: whether all that its jobs made is still there as they made it."""

from __future__ import annotations

from pathlib import Path

from medseg.config import Config, ensemble_runs
from medseg.config.grids import grid_name
from medseg.ingest.download import is_there
from medseg.outputs import Damage, damaged, list_of
from medseg.progress import say
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.tracking import needs_sync


def look(config: Config, *, verify: bool = False, since: float | None = None) -> dict[Path, Damage]:
    """Results of a configuration that their jobs have to make again, and why.

    Args:
        config: the experiment.
        verify: read every file, and not only those whose size or time differ.
        since: what was made after this moment (seconds, of the files' clock) is of something else; None: nothing is.
    """
    results = Results.of(config)
    found = damaged(results.root, made_by(config), verify=verify, say=say)
    if since is not None:
        for result in made_by(config):
            made = list_of(results.root, result)
            if made.is_file() and made.stat().st_mtime >= since:
                found.setdefault(result, Damage("was made by a run of something else", unfinished=True))
    for name, dataset in config.datasets.items():
        folder, record = config.folder_of(name), results.download(name)
        if dataset.download is not None and record.is_file() and not is_there(folder):
            found[record] = Damage(f"{folder}, which was downloaded, is missing")
    if needs_sync(results.root):
        found[results.tracking.synced] = Damage("is not what the store has", unfinished=True)
    return found


def clear(config: Config, *, verify: bool = False, since: float | None = None) -> list[Path]:
    """Remove the results that have to be made again, as far as they are there; says which and why.

    Snakemake makes a file that is missing if it is asked for it: so the workflow asks for these. It looks by itself at
    nothing that lies between two files that are there, and its notes of an earlier run may be lost. Only the file that
    comes last of a job is removed: what else it made is kept where it is whole. The list of a result stays until its
    job begins, so that a kill loses nothing.

    Args:
        config, verify, since: as for ``look``.

    Returns:
        Those results, to be asked for.
    """
    found = look(config, verify=verify, since=since)
    for result, damage in found.items():
        if not damage.unfinished:
            say(f"{damage.why}: it is made again")
        result.unlink(missing_ok=True)
    for key in [*keys(config), *ensemble_keys(config)]:
        if not config.datasets[key.dataset].postprocess.applies:
            # A model has no operations that its study does not have any more.
            Results.of(config).model(key).postprocess.unlink(missing_ok=True)
    return list(found)


def keys(config: Config) -> list[RunKey]:
    """All trainings of the experiment."""
    return [RunKey(*run) for run in config.runs()]


def scored_keys(config: Config) -> list[RunKey]:
    """The trainings that have cases to be scored on; none if all are trained on all cases."""
    return [key for key in keys(config) if key.validates]


def ensemble_keys(config: Config) -> list[RunKey]:
    """What the ensembles of the experiment are scored as."""
    return [RunKey(*run) for run in ensemble_runs(config)]


def judged_keys(config: Config) -> list[RunKey]:
    """All that is scored: trainings, and ensembles of them."""
    return [*scored_keys(config), *ensemble_keys(config)]


def shards(config: Config) -> list[str]:
    """Parts that the cases of a stage are divided into: ``0-of-4``, …; none if one job works on all."""
    return [f"{index}-of-{config.shards}" for index in range(config.shards)] if config.shards > 1 else []


def phantoms_marker(config: Config, dataset: str) -> Path:
    """The file that says that a data set is generated; in the data set's folder, since it is no result."""
    return config.folder_of(dataset) / "phantoms.json"


def made_by(config: Config) -> list[Path]:
    """The file that comes last of each job of a configuration, in the order of the stages."""
    results = Results.of(config)
    runs, scored, parts = keys(config), judged_keys(config), shards(config)
    stores = {results.store(key.dataset, grid_name(config, key.model)) for key in runs}
    predictions = [results.predict(key) for key in scored]
    named = [*runs, *ensemble_keys(config)]
    settled = [results.model(key).postprocess for key in named if config.datasets[key.dataset].postprocess.applies]
    refined = [results.postprocess(key) for key in scored if config.datasets[key.dataset].postprocess.applies]
    weighted = [name for name, model in config.models.items() if model.options.get("weights")]
    return [
        *(phantoms_marker(config, name) for name, data in config.datasets.items() if data.generate),
        *(results.ingest(name).splits for name in config.datasets),
        *(results.plan(name).fingerprint for name in config.datasets),
        *dict.fromkeys(results.plan(key.dataset).plan(key.model) for key in runs),
        *(results.weights(name) for name in weighted),
        *(folder.shard(shard) for folder in (*stores, *predictions) for shard in parts),
        *(store.index for store in stores),
        *(results.model(key).description for key in runs),
        *(results.model(key).members for key in ensemble_keys(config)),
        *(folder.record for folder in predictions),
        *settled,
        *(folder.record for folder in refined),
        *(results.scores_shard(key, shard) for key in scored for shard in parts),
        *(path for key in scored for path in (results.scores(key), results.model(key).quality)),
        *([results.compare.summary, results.report.page] if scored else []),
    ]
