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
from medseg.results.layout import reserved_names
from medseg.results.paths import Results

# Names that Windows keeps for devices, with any suffix; folders of results are copied there.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# The file of the local MLflow store, in the working folder.
STORE = "mlflow.db"
# Lines of one kind that are printed.
SHOWN = 20


def read_study(files: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a study, whose names and folders have places of their own.

    Raises:
        ConfigError: with one line per problem.
    """
    config = load_config(files, overrides)
    check_places(config)
    return config


def check_places(config: Config) -> None:
    """Raise ``ConfigError`` where a name or folder takes the place of another; a line for each, with the reason."""
    reserved = reserved_names()
    kinds: tuple[Iterator[str], ...] = (
        _unusable("experiment", [config.experiment]),
        _unusable("datasets", config.datasets, reserved["dataset"]),
        _unusable("models", config.models, reserved["model"]),
        _shared_folders(config),
        _folders_among_results(config),
        _results_over_files(config),
    )
    lines = [line for found in kinds for line in itertools.islice(found, SHOWN)]
    if lines:
        raise ConfigError("\n".join(lines))


def _unusable(section: str, names: Collection[str], reserved: re.Pattern[str] | None = None) -> Iterator[str]:
    """Names that results use themselves, that not every disk has, or that are equal on some disks."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if reserved is not None and reserved.fullmatch(name):
            yield f"{section}: {name} is a name that the folder of results uses itself; choose another name"
        elif DEVICES.fullmatch(name) or name.endswith("."):
            yield f"{section}: {name} is no name of a folder on every system (Windows); choose another name"
        elif other != name:
            yield f"{section}: {other} and {name} are one folder where upper and lower case are; rename one of them"


def _shared_folders(config: Config) -> Iterator[str]:
    """Data sets that are generated or downloaded into, around or over the folder of another one."""
    folders = {name: _resolved(config.folder_of(name)) for name in config.datasets}
    made = {name for name, section in config.datasets.items() if section.generate or section.download}
    # Sorted by their parts, a folder is followed by all that lie inside it. Kept are those around the present one.
    around: list[str] = []
    made_around: list[str] = []
    for name in sorted(folders, key=lambda name: folders[name].parts):
        for kept in (around, made_around):
            while kept and not folders[name].is_relative_to(folders[kept[-1]]):
                kept.pop()
        if found := around if name in made else made_around:
            yield _shared(config, found[-1], name, made)
        around.append(name)
        if name in made:
            made_around.append(name)


def _shared(config: Config, outer: str, inner: str, made: Collection[str]) -> str:
    maker = outer if outer in made else inner
    how = "generated" if config.datasets[maker].generate else "downloaded"
    return (
        f"datasets: {outer} (path {config.datasets[outer].path}) and {inner} (path {config.datasets[inner].path}) are "
        f"one folder, or one is inside the other, and {maker} is {how} into its own; give it another path"
    )


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
