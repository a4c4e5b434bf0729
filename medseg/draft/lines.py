"""The lines of a configuration that is being drafted: keys with the reasons for their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """A key of a section.

    Attributes:
        key: its name.
        value: plain value.
        why: what it rests on, for a comment above it.
        off: whether it is only offered, as a comment.
    """

    key: str
    value: Any
    why: str = ""
    off: bool = False


@dataclass(slots=True)
class Draft:
    """A configuration in the making.

    Attributes:
        name: of the data set and of the experiment.
        data_root, path: where the data set lies.
        dataset: lines of its section, after ``path``.
        study: lines after the data sets.
        open: what could not be decided, for the user.
    """

    name: str
    data_root: str
    path: str
    dataset: list[Line] = field(default_factory=list)
    study: list[Line] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def put(self, line: Line) -> None:
        """Add a line to the data set's section, in place of one with this key."""
        self.dataset = [one for one in self.dataset if one.key != line.key] + [line]

    def put_study(self, line: Line) -> None:
        """Put a line in place of that of the study with this key, or behind the others."""
        keys = [one.key for one in self.study]
        if line.key in keys:
            self.study[keys.index(line.key)] = line
        else:
            self.study.append(line)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain values."""
        section = {line.key: line.value for line in self.dataset if not line.off}
        study = {line.key: line.value for line in self.study if not line.off}
        datasets = {self.name: {"path": self.path, **section}}
        return {"experiment": self.name, "data_root": self.data_root, "datasets": datasets, **study}
