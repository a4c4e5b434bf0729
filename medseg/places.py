"""Where the names and folders of a configuration come to lie: no two at one place, and none where results need it.

Every command reads the configuration by way of ``read_study``. The checks are not among those of ``medseg.config``:
that is code which stages execute, and the layout of results is in no stage's code digest.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Config, load_config
from medseg.errors import ConfigError
from medseg.results.layout import reserved_places
from medseg.results.paths import Results

# Names that Windows keeps for devices, with any suffix; folders of results are copied there.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# The file of the local MLflow store, in the working folder.
STORE = "mlflow.db"
# Lines of one kind that are printed.
SHOWN = 20


# What stands for the budget where nothing is trained.
NO_TRAINING: Mapping[str, Any] = {"budget": {"steps": 1}}


def read_study(
    files: Sequence[Path], overrides: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a study, whose names and folders have places of their own.

    Args:
        files: read and merged, later ones win.
        overrides: comes before all of them.
        defaults: sections that are needed, where no file has them.

    Raises:
        ConfigError: with one line per problem.
    """
    config = load_config(files, overrides, defaults)
    check_places(config)
    return config


def check_places(config: Config) -> None:
    """Raise ``ConfigError`` where a name or folder takes the place of another; a line for each, with the reason."""
    reserved = reserved_places()
    kinds: tuple[Iterator[str], ...] = (
        _unusable("experiment", [config.experiment]),
        _unusable("datasets", config.datasets, reserved["dataset"]),
        _unusable("models", [*config.models, *config.ensembles], reserved["model"]),
        _shared_folders(config),
        _folders_among_results(config),
        _results_over_files(config),
    )
    lines = [line for found in kinds for line in itertools.islice(found, SHOWN)]
    if lines:
        raise ConfigError("\n".join(lines))


def _unusable(section: str, names: Collection[str], reserved: Mapping[str, Path] | None = None) -> Iterator[str]:
    """Names that results use themselves, that not every disk has, or that are equal on some disks."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        places = (path for names, path in (reserved or {}).items() if re.fullmatch(names, name, re.IGNORECASE))
        if place := next(places, None):
            yield (
                f"{section}: {name} is a name that the folder of results uses itself ({place}); choose another name "
                "(docs/data.md has a list)"
            )
        elif DEVICES.fullmatch(name) or name.endswith("."):
            yield (
                f"{section}: {name} is no name of a folder on every system (Windows), and results are copied to "
                "others; choose another name"
            )
        elif other != name:
            yield (
                f"{section}: {other} and {name} are one folder where upper and lower case are (macOS, Windows), and "
                "results are copied there; rename one of them"
            )


def source_of(config: Config, dataset: str) -> str | None:
    """The data set whose download fills the folder of a data set: itself, or one on the same folder or around it.

    None where the folder is filled by no download.
    """
    sections = config.datasets
    if sections[dataset].generate or sections[dataset].download:
        return dataset if sections[dataset].download else None
    folder = _resolved(config.folder_of(dataset))
    loaded = (name for name, section in sections.items() if section.download)
    return next((name for name in loaded if folder.is_relative_to(_resolved(config.folder_of(name)))), None)


def _shared_folders(config: Config) -> Iterator[str]:
    """Data sets that are generated or downloaded into, around or over the folder of another one.

    Several may be read from one download: with other labels, or from a folder inside it.
    """
    folders = {name: _resolved(config.folder_of(name)) for name in config.datasets}
    # Sorted by their parts, a folder is followed by all that lie inside it; of one folder, those that are only read
    # come last. Kept are, by what fills them, the data sets on and around the present folder, the innermost last.
    order = sorted(folders, key=lambda name: (folders[name].parts, _filled_by(config, name) == "reading"))
    around: dict[str, list[str]] = {}
    for name in order:
        for kept in around.values():
            while kept and not folders[name].is_relative_to(folders[kept[-1]]):
                kept.pop()
        outer = (kept[-1] for kept in around.values() if kept)
        reasons = ((other, _clash(config, other, name, folders[other] == folders[name])) for other in outer)
        if found := next(((other, why) for other, why in reasons if why), None):
            yield (
                f"datasets: {found[0]} (path {config.datasets[found[0]].path}) and {name} (path "
                f"{config.datasets[name].path}) are one folder, or one is inside the other, and {found[1]}"
            )
        around.setdefault(_filled_by(config, name), []).append(name)


def _filled_by(config: Config, name: str) -> str:
    section = config.datasets[name]
    return "generate" if section.generate else "download" if section.download else "reading"


def _clash(config: Config, outer: str, inner: str, same: bool) -> str:
    """Why two data sets cannot have one folder (``same``), or the second's inside the first's; empty if they can."""
    one, two = config.datasets[outer], config.datasets[inner]
    if one.generate or two.generate:
        return f"{outer if one.generate else inner} is generated into its own; give it another path"
    if two.download is None or (same and one.download in (None, two.download)):
        return ""
    if same:
        return "another archive is downloaded for each; give both the same `download`, or one of them another path"
    if one.download is not None:
        return (
            f"each is downloaded into its own; give {inner} another path, or, if it is a part of the other's archive, "
            "no `download`"
        )
    return f"{inner} is downloaded into its own; give it another path"


def _folders_among_results(config: Config) -> Iterator[str]:
    """Data sets whose folder is that of the results, or inside it; what is made must not lie around it, either."""
    root = _resolved(Results.of(config).root)
    for name, section in config.datasets.items():
        folder = _resolved(config.folder_of(name))
        inside = folder.is_relative_to(root)
        around = root.is_relative_to(folder) and (section.generate or section.download)
        if inside or around:
            where = "is among" if inside else "lies around"
            yield (
                f"datasets.{name}.path: {config.folder_of(name)} {where} the results of this experiment "
                f"({Results.of(config).root}); choose another path, or another folder for results"
            )


def _results_over_files(config: Config) -> Iterator[str]:
    """A folder of results where a file is, or will be."""
    root = Results.of(config).root
    if root.is_file() or Path(config.results).is_file() or _resolved(root) == _resolved(Path(STORE)):
        yield f"experiment: {root} is the place of a file; choose another name, or another folder for results"


def _resolved(path: Path) -> Path:
    """The path without links, ``.`` and ``..``, whether or not it exists."""
    return Path(os.path.realpath(path))
