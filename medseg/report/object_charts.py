"""Charts of objects: AP over the IoU, numbers against the reference, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from medseg.report.figures import DPI, WIDTH, Look, Theme, style
from medseg.report.filters import difference


@dataclass(frozen=True, slots=True)
class Curve:
    """AP of a model at each IoU, with its interval; NaN where there is none."""

    name: str
    look: Look
    iou: Sequence[float]
    ap: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Numbers of objects of a model.

    Attributes:
        look: of its points.
        reference, predicted: (N,) numbers in each case.
        bias, low, high: mean difference and its limits of agreement; NaN where there are none.
    """

    look: Look
    reference: NDArray[np.float64]
    predicted: NDArray[np.float64]
    bias: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many objects have which size.

    Attributes:
        name: of the model; empty: the reference.
        look: of its line; None: the reference.
        counts: bin -> objects, bins of equal width on a logarithmic axis.
    """

    name: str
    look: Look | None
    counts: Mapping[int, int]


def ap_chart(curves: Sequence[Curve], theme: Theme) -> Figure:
    """AP over the IoU from which objects match, a line per model with the interval as a band."""
    figure, axes = _figure(3.2, theme)
    for curve in curves:
        low, high = np.array(curve.low, dtype=float), np.array(curve.high, dtype=float)
        look = curve.look
        axes.fill_between(curve.iou, low, high, color=look.colour, alpha=0.14, linewidth=0)
        axes.plot(
            curve.iou,
            curve.ap,
            color=look.colour,
            linewidth=1.5,
            linestyle=look.dash,
            marker=look.marker,
            markersize=4,
            markerfacecolor=look.face,
            label=curve.name,
        )
    axes.set_xlim(0.485, 0.965)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9])
    axes.set_xlabel("IoU from which objects match")
    axes.set_ylabel("AP of all cases' objects")
    style(axes, theme)
    axes.legend(frameon=False, labelcolor=theme.ink, handlelength=1.4, loc="best")
    return figure


def agreement_chart(points: Agreement, limits: tuple[float, float], theme: Theme) -> Figure:
    """Difference of the numbers of objects over their mean, a point per case (Bland & Altman 1986).

    Args:
        points: of one model.
        limits: of the differences' axis, common to all models.
        theme: colours.
    """
    figure, axes = _figure(2.9, theme)
    means = (points.reference + points.predicted) / 2
    axes.axhline(0, color=theme.faint, linewidth=0.8)
    axes.scatter(
        means,
        points.predicted - points.reference,
        s=15,
        marker=points.look.marker,
        facecolors=points.look.face,
        edgecolors=points.look.colour,
        alpha=0.75,
        linewidths=0 if points.look.filled else 0.8,
        zorder=3,
    )
    axes.set_ylim(limits)
    for value, line in ((points.bias, "-"), (points.low, "--"), (points.high, "--")):
        if np.isfinite(value):
            axes.axhline(value, color=theme.ink, linewidth=1.1, linestyle=line)
            axes.annotate(
                f"{'bias ' if line == '-' else ''}{difference(value)}",
                (1.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=theme.ink,
                fontsize=8,
                annotation_clip=False,
            )
    axes.set_xlabel("objects in a case, mean of reference and prediction")
    axes.set_ylabel("predicted − reference")
    style(axes, theme)
    return figure


def size_chart(sizes: Sequence[Sizes], per_decade: int, axis: str, theme: Theme) -> Figure:
    """How many objects have which size: the reference as an area, a line per model."""
    figure, axes = _figure(2.9, theme)
    bins = [place for one in sizes for place in one.counts]
    if bins:
        places = np.arange(min(bins) - 1, max(bins) + 2)
        edges = 10.0 ** (np.append(places, places[-1] + 1) / per_decade)
        for one in sizes:
            counts = [one.counts.get(int(place), 0) for place in places]
            if one.look is not None:
                axes.stairs(
                    counts, edges, color=one.look.colour, linewidth=1.4, linestyle=one.look.dash, label=one.name
                )
                axes.plot(
                    np.sqrt(edges[:-1] * edges[1:]),
                    counts,
                    linestyle="none",
                    marker=one.look.marker,
                    markersize=3.4,
                    color=one.look.colour,
                    markerfacecolor=one.look.face,
                )
            else:
                axes.stairs(counts, edges, color=theme.faint, fill=True, alpha=0.35, label="reference")
        axes.set_xlim(edges[0], edges[-1])
        axes.legend(frameon=False, labelcolor=theme.ink, handlelength=1.4, loc="best")
    axes.set_xscale("log")
    # Plain numbers: the page's text is never read as mathematics.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(axis)
    axes.set_ylabel("objects")
    style(axes, theme)
    return figure


def _figure(height: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.paper, layout="constrained")
    return figure, figure.add_subplot()
