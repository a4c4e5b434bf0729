"""What a reader must know to judge the numbers, in one plain sentence each; for the report and the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.config import Config, DatasetConfig, PostprocessConfig, load_config
from medseg.config.ensemble import datasets_of
from medseg.heads import HEADS
from medseg.ingest.label_source import sources_in_words
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.recorded import read_test
from medseg.results.folders import CompareFolder, IngestFolder
from medseg.results.key import ALL
from medseg.results.paths import Results
from medseg.testset.openings import read_openings, times_opened
from medseg.trained import read_facts

# Names shown in one sentence; the data section has all.
NAMES_SHOWN = 5
WIDTH = 100


def statements(
    config: Config,
    manifest: Manifest,
    test_cases: int,
    opened: str,
    allowed_starts: Iterable[str],
    models: Iterable[Mapping[str, Any]] = (),
) -> list[tuple[str, str]]:
    """Headings and sentences about one data set of a study.

    Args:
        config: the configuration.
        manifest: of the data set; test cases are not in it.
        test_cases: cases of its test set; 0: none was declared.
        opened: how often the test set was opened, in words.
        allowed_starts: what trainings recorded about weights that they started from and that were allowed by name.
        models: the ``model.json`` files of trainings on it.
    """
    section = config.dataset(manifest.dataset)
    starts = list(allowed_starts)
    return [
        ("Unit of independence", _sentence(manifest.independence)),
        *([("References", found)] if (found := _references(manifest)) else []),
        *([("Objects", found)] if (found := _objects(config, models)) else []),
        ("Post-processing", _postprocessing(section.postprocess)),
        ("Planning", _planning(manifest, test_cases, starts)),
        ("Left out or allowed", _left_out(manifest, starts)),
        ("Chosen by these scores", _choices(section)),
        ("Test set", _test(test_cases, opened)),
        *([("Trained on all cases", _on_all_cases(config))] if ALL in config.folds.run else []),
        *([("Ensembles", found)] if (found := _ensembles(config, manifest.dataset)) else []),
    ]


def read_statements(results: Path) -> dict[str, list[tuple[str, str]]]:
    """Statements of every data set of ``results/<experiment>`` that was ingested; empty without a configuration."""
    layout = Results(results)
    if not layout.config.is_file():
        return {}
    config = load_config([layout.config])
    found = {}
    for name in config.datasets:
        path = layout.ingest(name).manifest
        if path.is_file():
            models = [read_facts(model.folder) for model in layout.models(name)]
            found[name] = dataset_statements(results, config, read_manifest(path), models)
    return found


def dataset_statements(
    results: Path, config: Config, manifest: Manifest, models: Iterable[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Statements about one data set of ``results/<experiment>``; ``models`` are its ``model.json`` files, read."""
    path, models = Results(results).ingest(manifest.dataset).manifest, list(models)
    allowed = [*allowed_starts(models), *allowed_in_test(path)]
    return statements(config, manifest, test_cases(path), opened(results, manifest.dataset), allowed, models)


def require_scores(compare: Path) -> None:
    """Raise ``ConfigError`` if there is no comparison, since no training of the study beside it has scores."""
    config = Results(compare.parent).config
    if not CompareFolder(compare).summary.is_file() and config.is_file():
        load_config([config]).folds.require_validation("compare")


def terminal_statements(results: Path) -> str:
    """The statements of a study as text, at most 100 columns wide; empty without a configuration in ``results``."""
    lines = []
    for dataset, found in read_statements(results).items():
        lines.append(dataset)
        for heading, sentence in found:
            lines += textwrap.wrap(f"  {heading}: {sentence}", WIDTH, subsequent_indent="    ")
    return "\n".join(lines)


def test_cases(manifest: Path) -> int:
    """Cases of the test set beside a manifest."""
    path = IngestFolder(manifest.parent).test_manifest
    return len(read_manifest(path).cases) if path.is_file() else 0


def allowed_in_test(manifest: Path) -> list[str]:
    """Faults of test cases that were allowed by name, as text."""
    path = IngestFolder(manifest.parent).test_declaration
    return [f"{line} (test set)" for line in read_test(manifest)["allowed"]] if path.is_file() else []


def opened(results: Path, dataset: str) -> str:
    """How often the test set of a data set was opened, in words."""
    return times_opened(read_openings(results), dataset)


def allowed_starts(models: Iterable[Mapping[str, Any]]) -> list[str]:
    """What ``model.json`` files say was allowed of the weights that trainings started from."""
    return list(dict.fromkeys(str(line) for facts in models for line in facts.get("allowed", ())))


def _ensembles(config: Config, dataset: str) -> str:
    """Which models predict together, and on what they are scored; empty without ensembles."""
    seeds = f" with seeds {', '.join(map(str, config.seeds))}" if len(config.seeds) > 1 else ""
    named = [
        f"{name}, the mean of the probabilities of {', '.join(one.of)}{seeds}"
        for name, one in config.ensembles.items()
        if dataset in datasets_of(config, name)
    ]
    if not named:
        return ""
    return (
        f"{'; '.join(named)}. Of a fold its trainings predict together, none of which was trained on its validation "
        "cases. An ensemble counts as one training: its interval and its verdicts hold no variance of training."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _references(manifest: Manifest) -> str:
    """Who or what made the references; empty if all are as the data set has them."""
    found = sources_in_words(case.source for case in manifest.cases)
    drawn = "A reference that began as a prediction resembles it: scores on it favour the model that predicted."
    return f"{_sentence(found)} {drawn}" if found else ""


def _objects(config: Config, models: Iterable[Mapping[str, Any]]) -> str:
    """How objects are read off what networks give, for each head; empty for networks of classes."""
    of_head: dict[str, dict[str, None]] = {}
    tuned: dict[str, None] = {}
    for facts in models:
        name, head = str(facts["plan"]["model"]), facts["plan"]["network"]["head"]
        # Folders of models that the configuration no longer has may lie there, too.
        if name in config.models and head in HEADS:
            of_head.setdefault(head, {})[name] = None
            tuned |= {name: None} if facts.get("decoding") else {}
    parts = []
    for head, names in of_head.items():
        row = HEADS[head]
        paper = f" ({row.paper})" if row.paper else ""
        parts.append(f"{', '.join(names)}: by the head {head}, {row.about}{paper}")
    how = (
        f" Thresholds and smallest sizes of {', '.join(tuned)} were tuned after training, on some of each network's "
        "own training cases, by mean AP of their objects; the cases that are scored had no part in it."
    )
    return f"{'. '.join(parts)}.{how if tuned else ''}" if parts else ""


def _postprocessing(steps: PostprocessConfig) -> str:
    given = {k: v for k, v in steps.model_dump(exclude_none=True, exclude={"choose"}).items() if v}
    chosen = (
        f"Of {', '.join(steps.choose)}, what helps was chosen for each training on cases of the other folds, which its "
        "results are not about; what was adopted stands in the report."
    )
    if not given:
        return chosen if steps.choose else "None: the network's own label maps are scored."
    named = ", ".join(k if v is True or isinstance(v, dict) else f"{k} {_shown(v)}" for k, v in given.items())
    by_user = f"{named}; chosen by the user in the configuration"
    return f"{by_user}. {chosen}" if steps.choose else f"{by_user}, none by medseg from data."


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _planning(manifest: Manifest, test: int, starts: Iterable[str]) -> str:
    cases = len(manifest.cases)
    more = f"; not over the {test} test cases" if test else ""
    text = (
        "Sizes, spacings, intensities and object sizes that plans rest on were taken over all "
        f"{cases} cases, those of validation folds included{more}."
    )
    # Weights that trainings started from may have seen some, if that was allowed.
    return (
        text if any("start-" in line for line in starts) else f"{text} No network was trained on its validation cases."
    )


def _left_out(manifest: Manifest, starts: Iterable[str]) -> str:
    parts = []
    if manifest.excluded:
        parts.append(f"excluded by name: {_names(manifest.excluded)}")
    codes = dict.fromkeys(line.partition(" · ")[0] for line in manifest.allowed)
    if codes:
        number = len(manifest.allowed)
        parts.append(f"{number} fault{'s' if number != 1 else ''} allowed by name ({', '.join(codes)})")
    parts += [f"allowed by name: {line}" for line in starts]
    return _sentence("; ".join(parts)) if parts else "Nothing."


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} case{'s' if len(names) != 1 else ''} ({', '.join(names[:NAMES_SHOWN])}{more})"


def _choices(section: DatasetConfig) -> str:
    if not section.choices:
        return "Nobody declared that anything was chosen by looking at scores of these cases (`choices`)."
    return (
        f"Chosen by looking at scores of these cases, which are therefore a little too high: {_shown(section.choices)}."
    )


def _test(cases: int, opened: str) -> str:
    return f"{cases} cases, {opened}." if cases else "None was declared; all numbers are of validation folds."


def _on_all_cases(config: Config) -> str:
    """What can be said of networks that were trained on all cases."""
    if not config.folds.validated:
        return "All networks: no case is left to validate on, so nothing was evaluated, compared or reported."
    return (
        f"One more network of each model and seed (fold {ALL}): no case is left to validate on, so no number here is "
        "of it; those of the folds are of networks that saw fewer cases."
    )
