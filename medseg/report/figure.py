"""A picture of the page with its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.results.folders import ReportFolder


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the page.

    Attributes:
        names: in its file's name.
        caption, note: above it.
        alt: for those who do not see it.
        light, dark: PNG bytes; no dark one where one serves both.
        model: that it is about.
    """

    names: tuple[str, ...]
    caption: str
    alt: str
    light: bytes
    dark: bytes | None = None
    model: str = ""
    note: str = ""

    @property
    def file(self) -> str:
        """Name of its file."""
        return ReportFolder(Path()).figure(*self.names).name

    @property
    def inline_bytes(self) -> int:
        """What it takes on the page, in base 64."""
        return sum(4 * (len(data) + 2) // 3 for data in self.files.values())

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> bytes."""
        files = {self.file: self.light}
        if self.dark is not None:
            files[ReportFolder(Path()).figure(*self.names, "dark").name] = self.dark
        return files


def figure_of(names: tuple[str, ...], caption: str, alt: str, images: Mapping[str, bytes], model: str = "") -> Figure:
    """A chart that was drawn in themes."""
    return Figure(names, caption, alt, images["light"], images.get("dark"), model)
