"""Charts of more models than there is room for boxes and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from medseg.report.figures import DPI, MODEL_COLOURS, WIDTH, BoxRow, Theme, shortened, style


def strip_plot(rows: Sequence[BoxRow], limits: tuple[float, float], axis: str, theme: Theme) -> Figure:
    """Of many models, a narrow row each: quartiles as a bar, the median, and the tenth of the cases below as a line."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.155 * len(rows)), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        values = row.values[np.isfinite(row.values)]
        if values.size:
            low, first, middle, third = np.quantile(values, [0.1, 0.25, 0.5, 0.75])
            axes.plot([low, first], [place, place], color=theme.faint, linewidth=0.8)
            axes.plot([first, third], [place, place], color=row.look.colour, linewidth=5, alpha=0.35)
            axes.plot(
                [middle],
                [place],
                linestyle="none",
                marker=row.look.marker,
                markersize=4,
                markerfacecolor=row.look.face,
                markeredgecolor=row.look.colour,
            )
    names = [shortened(row.name) for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=6.5)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlim(limits)
    axes.set_xlabel(axis)
    style(axes, theme)
    axes.grid(axis="y", visible=False)
    return figure


def verdict_map(names: Sequence[str], verdicts: Mapping[tuple[int, int], str], theme: Theme) -> Figure:
    """Who is better than whom, of many models in ranked order: a square for every pair.

    Args:
        names: of the models, best ranked first.
        verdicts: places of a better and a worse ranked model -> ``better`` or ``equivalent``; all others are not shown.
        theme: colours.
    """
    count, side = len(names), 1.2 + min(7.2, 0.155 * len(names))
    figure = Figure(figsize=(side + 1.2, side + 0.4), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    for kind, colour, marker, label in (
        ("better", MODEL_COLOURS[0], "s", "row is better than column"),
        ("equivalent", MODEL_COLOURS[2], "d", "equivalent"),
    ):
        places = [(j, i) for (i, j), found in verdicts.items() if found == kind]
        if places:
            size = (side * 60 / count) ** 2 * 0.8
            columns, rows = zip(*places, strict=True)
            axes.scatter(columns, rows, s=size, marker=marker, color=colour, linewidths=0, label=label)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=theme.faint, linewidth=0.8)
    small = max(5.5, min(8.0, 560 / count))
    axes.set_yticks(range(count), [f"{shortened(name)}  {k + 1}" for k, name in enumerate(names)], fontsize=small)
    every = max(1, count // 25)
    axes.set_xticks(range(0, count, every), [str(k + 1) for k in range(0, count, every)], fontsize=7)
    axes.set_xlim(-0.7, count - 0.3)
    axes.set_ylim(count - 0.3, -0.7)
    axes.set_xlabel("place of the other model")
    style(axes, theme)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(frameon=False, labelcolor=theme.ink, loc="lower left", fontsize=8)
        for handle in legend.legend_handles:
            handle.set_sizes([36])  # type: ignore[union-attr]
    return figure
