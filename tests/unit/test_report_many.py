"""The report of many models: small, readable, nothing lost, and no two series alike."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.compare.run import run as compare
from medseg.files import read_json, write_json
from medseg.image.labels import LabelTable
from medseg.report import page as page_module
from medseg.report import sources
from medseg.report.figures import THEMES, BoxRow, Line, line_chart, model_looks
from medseg.report.many_charts import strip_plot, verdict_map
from tests.unit.test_report import Page, add_dataset, configuration, draw_cells, report

MODELS = tuple(f"m{k:02d}" for k in range(7))


def worse(labels: NDArray[Any], model: int, case: int) -> NDArray[Any]:
    """A prediction that loses more columns of the reference the later its model stands in the configuration."""
    out = labels.copy()
    out[:, : 14 + 2 * model + case % 3] = 0
    return out


def build(root: Path, models: Sequence[str] = MODELS) -> Path:
    """One data set of cells; results folder."""
    results = root / "results" / "first-light"
    config = configuration(root, {"cells": {"layout": "pairs", "path": "cells", "labels": {"nucleus": 1}}}, models)
    write_json(results / "config.json", config.model_dump(mode="json"))
    table, cells = LabelTable.create({"nucleus": 1}, instances=True), draw_cells(root / "data" / "cells", 6)
    files = add_dataset(config, results, "cells", cells, table, worse)
    compare(files, results / "compare")
    return results


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models are drawn and five have rows, not 8 and 24; pictures are blank, and as large as real ones."""
    monkeypatch.setattr(sources, "DRAWN", 3)
    monkeypatch.setattr(sources, "LISTED", 5)
    monkeypatch.setattr(Figure, "savefig", lambda _, out, **__: out.write(b"\x89PNG" + bytes(50_000)))


def addresses(page: Page) -> set[str]:
    """Files beside the page that it names."""
    links = {str(a["href"]) for tag, a in page.elements if tag == "a"}
    return {urllib.parse.unquote(link.removeprefix("figures/")) for link in links if link.startswith("figures/")}


def inlined(text: str) -> int:
    return text.count("data:image/png;base64,")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Root and results of a study of seven models."""
    root = tmp_path_factory.mktemp("many")
    return root, build(root)


@pytest.mark.usefixtures("few")
def test_the_first_models_are_on_the_page_and_the_others_beside_it(study: tuple[Path, Path]) -> None:
    results = study[1]
    text = report(*study)
    page = Page(text)
    assert page.open == []
    # Every model has its place in the leaderboard; long tables have the first ones.
    board = page.words[page.words.index("Rank Model") : page.words.index("By class")]
    assert all(f" {model} " in board for model in MODELS)
    assert "The 5 models that are ranked first, of 7" in page.words
    by_class = page.words[page.words.index("By class") : page.words.index("Surface metrics")]
    assert [m for m in MODELS if f"nucleus {m} " in by_class] == list(MODELS[:5])
    # Pictures of cases: of the first on the page, of all others an address of a file that is there.
    there = {path.name for path in (results / "report" / "figures").iterdir()}
    linked = addresses(page)
    assert linked <= there
    overlays = {name for name in there if name.startswith("overlay,")}
    assert {name for name in overlays if name.removesuffix(".png").rpartition(",")[2] not in MODELS[:3]} == linked
    # Verdicts: all in one picture, those of the first model and among the first ones in words.
    assert "verdicts,cells.png" not in there
    assert "Of none of them a difference was shown." in page.words
    assert "21 comparisons of 7 models" in page.words
    assert page.words.count("cannot be shown") == 6 + 3
    # What is fetched: nothing.
    assert all(str(a.get("src", "data:")).startswith("data:") for _, a in page.elements)


@pytest.mark.usefixtures("few")
def test_the_page_is_never_larger_than_its_bound(study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    results = study[1]
    whole = report(*study)
    assert len(whole.encode()) <= page_module.MOST_BYTES
    bound = 1_000_000
    monkeypatch.setattr(page_module, "MOST_BYTES", bound)
    text = report(*study)
    page = Page(text)
    assert len(text.encode()) <= bound
    assert 0 < inlined(text) < inlined(whole)
    there = {path.name for path in (results / "report" / "figures").iterdir()}
    assert addresses(page) <= there
    # Charts come first; what has no room is named where it would be.
    assert not any(name.startswith(("dice,", "curve-", "verdicts,")) for name in addresses(page))
    assert any(name.startswith("overlay,") and name.endswith(f"{MODELS[2]}.png") for name in addresses(page))
    # Every picture is on the page or has an address on it.
    assert inlined(text) + len(addresses(page)) >= inlined(whole)


def test_no_two_of_many_models_look_alike() -> None:
    looks = list(model_looks([f"m{k}" for k in range(98)]).values())
    assert len({(look.colour, look.marker, look.filled) for look in looks}) == 98
    assert len({(look.colour, look.sign) for look in looks}) == 98
    # Without colours, seven models in a row differ by shape; and the first seven without shapes.
    for start in range(0, 98, 7):
        assert len({look.marker for look in looks[start : start + 7]}) == 7
    assert len({look.colour for look in looks[:7]}) == 7


def test_charts_of_many_models_name_them_all_or_say_how_many() -> None:
    names = [f"model-{k}" for k in range(60)]
    looks = model_looks(names)
    rows = [BoxRow(name, looks[name], np.linspace(0.5, 0.9, 30) - k / 200) for k, name in enumerate(names)]
    drawn = strip_plot(rows, (0.0, 1.0), "Dice", THEMES[0])
    assert [t.get_text() for t in drawn.axes[0].get_yticklabels()] == names[::-1]
    mapped = verdict_map(names, {(0, 59): "better", (1, 2): "equivalent"}, THEMES[1])
    assert [t.get_text() for t in mapped.axes[0].get_yticklabels()][:2] == ["model-0  1", "model-1  2"]
    lines = [Line(name, looks[name], [0, 1], [1.0, 0.5]) for name in names[:3]]
    lines += [Line("57 others", None, [0, 1], [1.0, 0.6]) for _ in names[3:]]
    chart = line_chart(lines, "loss", None, THEMES[0])
    texts = [text.get_text() for text in chart.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert sorted(texts) == sorted(["57 others", *names[:3]])


@pytest.mark.usefixtures("few")
def test_few_models_have_all_on_the_page(tmp_path: Path) -> None:
    results = build(tmp_path, MODELS[:3])
    page = Page(report(tmp_path, results))
    assert addresses(page) == set()
    assert not re.search(r"models that are ranked first, of", page.words)
    pairs = read_json(results / "compare" / "summary.json")["pairs"]
    assert len(pairs) == 3
    assert page.words.count("cannot be shown with 4 subjects") == 3
