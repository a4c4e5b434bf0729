"""Charts as PNG bytes, in a light and a dark version; equal input gives equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from medseg.image.labels import COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping

DPI = 110
# Blue and vermilion first: the two of the palette that stand out best as lines on white.
MODEL_COLOURS = tuple(COLOURS[k] for k in (5, 3, 2, 0, 4, 1, 6))
# Shapes of points, with the sign that stands for each in text. Neither colour nor shape repeats before both have.
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("p", "⬟"), ("*", "★"))
HOLLOW = {"●": "○", "■": "□", "▲": "△", "◆": "◇", "▼": "▽", "⬟": "⬠", "★": "☆"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)), (0, (1, 2)))
MAX_NAME = 22
# Width of charts, in inches.
WIDTH = 4.9


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a chart that are not data."""

    name: str
    paper: str
    ink: str
    faint: str
    grid: str


THEMES = (
    Theme("light", "#ffffff", "#1c2430", "#5b6675", "#e3e7ec"),
    Theme("dark", "#171c24", "#e6eaf0", "#9aa5b4", "#2c3440"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """How a model is drawn, wherever it is: by colour, shape, and whether the shape is filled.

    Attributes:
        colour: of the palette.
        marker: matplotlib's name of the shape.
        sign: the shape in text.
        filled: whether it is.
        dash: of lines.
    """

    colour: str
    marker: str
    sign: str
    filled: bool
    dash: Any = "-"

    @property
    def face(self) -> str:
        """Colour of the inside of a shape."""
        return self.colour if self.filled else "none"


@dataclass(frozen=True, slots=True)
class BoxRow:
    """One row of a box plot: a model's scores, one per case; NaN where undefined."""

    name: str
    look: Look
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: (steps, values); lines of one name share a legend entry. None: one of those in grey."""

    name: str
    look: Look | None
    steps: Sequence[float]
    values: Sequence[float]


def in_themes(draw: Callable[[Theme], Figure]) -> Mapping[str, bytes]:
    """Draw a chart once per theme: theme name -> PNG."""
    # Names come from data: a dollar sign must not start a formula.
    with mpl.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9}):
        return {theme.name: png(draw(theme)) for theme in THEMES}


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes without the writer's version."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def model_looks(models: Sequence[str]) -> dict[str, Look]:
    """A look per model, by its place in the configuration; the first 98 all differ, the first seven in every way."""
    return {name: _look(place) for place, name in enumerate(models)}


def _look(place: int) -> Look:
    colours, shapes = len(MODEL_COLOURS), len(MARKERS)
    again = place // colours
    marker, sign = MARKERS[(place + again) % shapes]
    filled = (place // (colours * shapes)) % 2 == 0
    dash = DASHES[again % len(DASHES)]
    return Look(MODEL_COLOURS[place % colours], marker, sign if filled else HOLLOW[sign], filled, dash)


def score_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Axis limits for scores in 0..1: up to 1, down to the tenth below the smallest value."""
    defined = values[np.isfinite(values)]
    low = float(defined.min()) if defined.size else 0.0
    floor = max(0.0, np.floor(low * 10 - 0.25) / 10)
    margin = 0.025 * (1 - floor)
    return min(floor, 0.8) - margin, 1 + margin


def box_plot(rows: Sequence[BoxRow], limits: tuple[float, float], axis: str, theme: Theme) -> Figure:
    """Horizontal box plots with every point on top; n, and how many are undefined, in the tick labels."""
    figure = Figure(figsize=(WIDTH, 0.85 + 0.62 * len(rows)), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        values = np.sort(row.values[np.isfinite(row.values)])
        if values.size:
            axes.boxplot(
                values,
                positions=[place],
                widths=0.52,
                orientation="horizontal",
                showfliers=False,
                manage_ticks=False,
                patch_artist=True,
                boxprops={"facecolor": row.look.colour, "alpha": 0.22, "edgecolor": row.look.colour},
                medianprops={"color": theme.ink, "linewidth": 1.4},
                whiskerprops={"color": theme.faint, "linewidth": 0.9},
                capprops={"color": theme.faint, "linewidth": 0.9},
            )
        axes.scatter(
            values,
            place + _swarm(values, limits),
            s=13,
            marker=row.look.marker,
            facecolors=row.look.face,
            edgecolors=theme.paper if row.look.filled else row.look.colour,
            linewidths=0.4 if row.look.filled else 0.8,
            zorder=3,
        )
    axes.set_yticks(range(len(rows)), [_tick(row) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(limits)
    axes.set_xlabel(axis)
    style(axes, theme)
    axes.grid(axis="y", visible=False)
    return figure


def shortened(name: str) -> str:
    """A name that has room beside an axis."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _tick(row: BoxRow) -> str:
    undefined = int(np.isnan(row.values).sum())
    note = f", {undefined} undefined" if undefined else ""
    return f"{shortened(row.name)}\nn = {row.values.size - undefined}{note}"


def _swarm(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Vertical offsets that keep sorted neighbouring points apart: nearest free lane, middle first."""
    gap = (limits[1] - limits[0]) / 75
    lanes = [0.09 * k for k in (0, 1, -1, 2, -2)]
    last = [-np.inf] * len(lanes)
    offsets = np.zeros(len(values))
    for k, value in enumerate(values):
        free = [lane for lane in range(len(lanes)) if value - last[lane] >= gap]
        lane = free[0] if free else int(np.argmin(last))
        last[lane] = value
        offsets[k] = lanes[lane]
    return offsets


def line_chart(lines: Sequence[Line], ylabel: str, limits: tuple[float, float] | None, theme: Theme) -> Figure:
    """Lines over training steps, long noisy ones faint with their running mean on top; grey if they have no look."""
    figure = Figure(figsize=(WIDTH, 2.9), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    named: set[str] = set()
    for line in sorted(lines, key=lambda line: line.look is not None):
        steps, values = np.asarray(line.steps, dtype=float), np.asarray(line.values, dtype=float)
        label = line.name if line.name not in named else None
        named.add(line.name)
        window = len(values) // 25
        if line.look is None:
            steps, values = _running_mean(steps, max(window, 1)), _running_mean(values, max(window, 1))
            axes.plot(steps, values, color=theme.faint, alpha=0.25, linewidth=0.6, label=label)
            continue
        if window > 1:
            axes.plot(steps, values, color=line.look.colour, alpha=0.18, linewidth=0.7)
            steps, values = _running_mean(steps, window), _running_mean(values, window)
        axes.plot(
            steps,
            values,
            color=line.look.colour,
            alpha=0.9,
            linewidth=1.4,
            linestyle=line.look.dash,
            marker=line.look.marker,
            markersize=3.4,
            markerfacecolor=line.look.face,
            markevery=max(1, len(values) // 8),
            label=label,
        )
    axes.set_xlabel("training step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if limits:
        axes.set_ylim(limits)
    style(axes, theme)
    if named:
        axes.legend(frameon=False, labelcolor=theme.ink, handlelength=1.4, loc="best")
    return figure


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def style(axes: Axes, theme: Theme) -> None:
    """Grid, ticks and text of a chart in the colours of a theme."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.tick_params(length=0, colors=theme.ink, labelcolor=theme.ink)
    axes.xaxis.label.set_color(theme.faint)
    axes.yaxis.label.set_color(theme.faint)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=theme.grid)
