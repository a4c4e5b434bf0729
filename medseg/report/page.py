"""The page: what the templates are given, and one HTML file from them."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from medseg.compare.text import bare, signed, value
from medseg.files import digest_of
from medseg.report import experiment_tables, filters, score_tables
from medseg.report.chosen_table import chosen_table
from medseg.report.figure import Figure
from medseg.report.figures import model_looks
from medseg.report.object_contours import COLOUR_OF, LEGEND, MARKS
from medseg.report.object_section import ObjectSection
from medseg.report.overlays import class_colour
from medseg.report.sources import Experiment
from medseg.results.folders import ReportFolder

# The page is at most so large, whatever the study: pictures that have no room lie beside it, in ``figures/``.
MOST_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class OverlayRow:
    """One case with the overlays of all models, best ranked first."""

    standing: str
    case: str
    score: float
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a page, each by the name of its data set.

    Attributes:
        boxes, curves, overlays: of each data set.
        objects: of each data set whose objects were scored.
        maps: who is better than whom, of each data set with many models.
    """

    boxes: Mapping[str, Sequence[Figure]]
    curves: Mapping[str, Sequence[Figure]]
    overlays: Mapping[str, Sequence[OverlayRow]]
    objects: Mapping[str, ObjectSection]
    maps: Mapping[str, Figure]


def render(experiment: Experiment, pictures: Pictures) -> str:
    """The page as HTML; every value from data passes through autoescape.

    Pictures are on the page as long as it stays below ``MOST_BYTES``, those that matter most first; the others are
    named where they would be, with the address of their file beside the page.

    Args:
        experiment: everything but pictures.
        pictures: of its data sets.
    """
    template, found = _environment().get_template("report.html.j2"), _facts(experiment, pictures)
    room = MOST_BYTES - len(template.render(**found, inlined=frozenset()).encode())
    inlined = set()
    for figure in _by_importance(experiment, pictures):
        # An address of the other kind is shorter than what surrounds a picture.
        needed = figure.inline_bytes + 300
        if needed <= room:
            inlined.add(figure.file)
            room -= needed
    return template.render(**found, inlined=frozenset(inlined))


def _by_importance(experiment: Experiment, pictures: Pictures) -> Iterator[Figure]:
    """Pictures in the order in which they get room: charts, then cases, by the rank of their model in its data set."""
    datasets = experiment.datasets
    for name in datasets:
        yield from [
            *([pictures.maps[name]] if name in pictures.maps else []),
            *pictures.boxes[name],
            *pictures.curves[name],
        ]
        yield from pictures.objects[name].charts if name in pictures.objects else ()
    for place in range(max((len(experiment.first_models(name)) for name in datasets), default=0)):
        for name in datasets:
            models = experiment.first_models(name)[place : place + 1]
            yield from (figure for row in pictures.overlays[name] for figure in row.figures if figure.model in models)
            if name in pictures.objects:
                yield from (figure for model in models for figure in pictures.objects[name].sheets.get(model, ()))


def _facts(experiment: Experiment, pictures: Pictures) -> dict[str, Any]:
    """What the templates are given."""
    datasets, trained = experiment.datasets, experiment.plans
    return {
        "experiment": experiment,
        "missing": experiment.missing,
        "config": experiment.config,
        "looks": model_looks(experiment.rows),
        "first": {d: experiment.first_models(d) for d in datasets},
        "listed": {d: experiment.listed_models(d) for d in datasets},
        "ranks": {d: experiment.models(d) for d in datasets},
        "class_colours": {
            d: {n: class_colour(k) for k, n in enumerate(m.labels.class_names, start=1)}
            for d, m in experiment.manifests.items()
        },
        "ranked": {d: experiment.ranked(d).title for d in datasets},
        "objects": pictures.objects,
        "maps": pictures.maps,
        "legend": [(text, COLOUR_OF[what]) for what, text in LEGEND.items()],
        "marks": MARKS,
        "boards": {d: score_tables.board(experiment, d) for d in datasets},
        "classes": {d: score_tables.classes(experiment, d) for d in datasets},
        "families": {d: score_tables.family_tables(experiment, d) for d in datasets},
        "pairs": {d: score_tables.pairs(experiment, d) for d in datasets},
        "secondary": {d: score_tables.secondary(experiment, d) for d in datasets},
        "winners": {d: score_tables.of_dataset(experiment, "winners", d) for d in datasets},
        "best": {d: score_tables.of_dataset(experiment, "best", d) for d in datasets},
        "tails": {d: score_tables.tails(experiment, d) for d in datasets},
        "chosen": {d: chosen_table(experiment, d) for d in datasets},
        "statements": experiment.statements,
        "boxes": pictures.boxes,
        "curves": pictures.curves,
        "overlays": pictures.overlays,
        "budget": experiment_tables.budget(experiment),
        "times": {
            d: [experiment_tables.times(experiment, d, m) for m in experiment.listed_models(d) if (d, m) in trained]
            for d in datasets
        },
        "stages": experiment_tables.stages(experiment),
        "plans": {d: experiment_tables.plans(experiment, d) for d in datasets},
        "orders": {d: experiment_tables.in_order(experiment, d) for d in datasets},
        "data": [experiment_tables.data(experiment, d) for d in datasets],
        "definitions": experiment.summary["definitions"],
        "provenance": experiment_tables.provenance([run for run in experiment.runs if not run.members]),
        "digests": [
            *experiment.digests.items(),
            ("configuration", digest_of(experiment.config.model_dump(mode="json"))),
        ],
        "config_text": experiment_tables.config_text(experiment),
    }


def data_uri(image: bytes) -> str:
    """PNG bytes as a ``data:`` address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def beside(file: str) -> str:
    """Address of a figure's file, relative to the page."""
    return f"{ReportFolder(Path()).figures.name}/{urllib.parse.quote(file)}"


def _environment() -> jinja2.Environment:
    """The templates of this package, with the filters that print numbers."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medseg.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": value, "bare": bare, "signed": signed, "p": filters.p_value}
    environment.filters |= {
        "amount": filters.amount,
        "sentence": filters.sentence,
        "span": filters.duration,
        "count": filters.count,
        "difference": filters.difference,
        "uri": data_uri,
        "beside": beside,
    }
    return environment
