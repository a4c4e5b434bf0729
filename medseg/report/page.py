"""The page: what the templates are given, and one HTML file from them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from medseg.compare.text import bare, signed, value
from medseg.files import digest_of
from medseg.report import experiment_tables, filters, score_tables
from medseg.report.figure import Figure
from medseg.report.figures import model_colours
from medseg.report.object_contours import COLOUR_OF, LEGEND, MARKS
from medseg.report.object_section import ObjectSection
from medseg.report.overlays import class_colour
from medseg.report.sources import Experiment


@dataclass(frozen=True, slots=True)
class OverlayRow:
    """One case with the overlays of all models."""

    standing: str
    case: str
    score: float
    figures: tuple[Figure, ...]


def render(
    experiment: Experiment,
    boxes: Mapping[str, Sequence[Figure]],
    curves: Mapping[str, Sequence[Figure]],
    overlays: Mapping[str, Sequence[OverlayRow]],
    objects: Mapping[str, ObjectSection],
) -> str:
    """The page as HTML; every value from data passes through autoescape.

    Args:
        experiment: everything but pictures.
        boxes, curves, overlays: of each data set.
        objects: of each data set whose objects were scored.
    """
    datasets = experiment.datasets
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            experiment=experiment,
            missing=experiment.missing,
            config=experiment.config,
            colours=model_colours(list(experiment.config.models)),
            class_colours={
                d: {n: class_colour(k) for k, n in enumerate(m.labels.class_names, start=1)}
                for d, m in experiment.manifests.items()
            },
            ranked={d: experiment.ranked(d).title for d in datasets},
            objects=objects,
            legend=[(text, COLOUR_OF[what]) for what, text in LEGEND.items()],
            marks=MARKS,
            boards={d: score_tables.board(experiment, d) for d in datasets},
            classes={d: score_tables.classes(experiment, d) for d in datasets},
            families={d: score_tables.family_tables(experiment, d) for d in datasets},
            pairs={d: score_tables.of_dataset(experiment, "pairs", d) for d in datasets},
            secondary={d: score_tables.secondary(experiment, d) for d in datasets},
            winners={d: score_tables.of_dataset(experiment, "winners", d) for d in datasets},
            tails={d: score_tables.tails(experiment, d) for d in datasets},
            statements=experiment.statements,
            boxes=boxes,
            curves=curves,
            overlays=overlays,
            budget=experiment_tables.budget(experiment),
            times={
                d: [experiment_tables.times(experiment, d, m) for m in experiment_tables.in_order(experiment, d)]
                for d in datasets
            },
            stages=experiment_tables.stages(experiment),
            plans={d: experiment_tables.plans(experiment, d) for d in datasets},
            orders={d: experiment_tables.in_order(experiment, d) for d in datasets},
            data=[experiment_tables.data(experiment, d) for d in datasets],
            definitions=experiment.summary["definitions"],
            provenance=experiment_tables.provenance(experiment.runs),
            digests=[
                *experiment.digests.items(),
                ("configuration", digest_of(experiment.config.model_dump(mode="json"))),
            ],
            config_text=experiment_tables.config_text(experiment),
        )
    )


def data_uri(image: bytes) -> str:
    """PNG bytes as a ``data:`` address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


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
    }
    return environment
