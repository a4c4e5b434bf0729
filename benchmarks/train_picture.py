"""The picture of what benchmarks/train.py found: ratios as bars, targets as dashed lines, a row per device."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from medseg.files import write_bytes

# Minutes: at most; everything else: at least.
TARGETS: dict[str, dict[str, list[float]]] = {
    "cpu": {"loop": [0.97], "peer": [2.5], "augment": [3.0], "reach": [6.0]},
    "cuda": {"loop": [0.97], "peer": [1.5, 3.0], "augment": [20.0], "reach": []},
}
KINDS = {"cpu": "CPU with bf16", "cpu_fp32": "CPU without bf16", "cuda": "GPU"}
SYSTEMS = {
    "medseg_same": "same network",
    "medseg_same_fp32": "same, 32 bits",
    "medseg_same_size": "same size",
    "medseg_own": "own plan",
}
Bars = dict[str, float]
LEAST_ROOM = 4


def loop_bars(found: Mapping[str, Any]) -> tuple[str, Bars]:
    return "efficiency of the loop", {k: v["efficiency"] for k, v in found["datasets"].items()}


def peer_bars(found: Mapping[str, Any]) -> tuple[str, Bars]:
    bars = {}
    once = found["systems"]["medseg_same"]["precision"] == "fp32"
    for system, told in SYSTEMS.items():
        if system == "medseg_same_fp32" and once:
            # The same system, a second time.
            continue
        for peer in (k for k in found["samples_per_s"] if k.startswith("nnunet")):
            workers, pair = found["systems"][peer]["workers"], f"{system}/{peer}"
            if pair in found["ratios"]:
                bars[f"{told} / {workers} workers"] = found["ratios"][pair]
    return "samples/s, ratio to nnU-Net", bars


def augment_bars(found: Mapping[str, Any], device: str) -> tuple[str, Bars]:
    ratio = f"{'medseg_gpu' if device == 'cuda' else 'medseg'}/batchgeneratorsv2"
    bars = {k.replace("_", " "): v["ratios"][ratio] for k, v in found["scenes"].items() if ratio in v["ratios"]}
    return "augmentation, ratio to batchgeneratorsv2", bars


def reach_bars(found: Mapping[str, Any]) -> tuple[str, Bars]:
    last = found["budgets"][-1]
    spent = {"curve": last["curve_first_s"], "training": last["train_job_s"], "whole study": last["wall_s"]}
    reached = found["minutes"] is not None
    return f"minutes to Dice {found['dice']:g}", {k: v / 60 for k, v in spent.items() if reached and v is not None}


def panels(device: str, parts: Mapping[str, Any], augment: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Bars]]:
    """Per part: title and bars; parts without any are left out. Augmentation is what was measured on this processor."""
    made = {}
    for part, bars_of in (("loop", loop_bars), ("peer", peer_bars), ("reach", reach_bars)):
        if part in parts:
            made[part] = bars_of(parts[part])
    processors = {part["hardware"]["processor"] for part in parts.values()}
    for found in augment:
        if found["hardware"]["processor"] in processors:
            made["augment"] = augment_bars(found, device)
    return {part: drawn for part, drawn in made.items() if drawn[1]}


def draw_panel(ax: Axes, title: str, bars: Bars, targets: list[float]) -> None:
    drawn = ax.barh(range(len(bars)), list(bars.values()), color="#8fb4d9")
    # Targets do not strike numbers out.
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    ax.bar_label(drawn, fmt="%.2f", fontsize=7, padding=2, bbox=box)
    ax.set_yticks(range(len(bars)), list(bars), fontsize=7)
    # Few bars are no thicker than many.
    ax.set_ylim(max(len(bars), LEAST_ROOM) - 0.5, -0.5)
    for target in targets:
        ax.axvline(target, color="#b03030", linestyle="--", linewidth=1, zorder=0.5)
    ax.set_xlim(0, 1.25 * max([*bars.values(), *targets]))
    ax.set_title(title, fontsize=8, loc="left")
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def draw(found: Mapping[str, Any], augment: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw results (device -> part -> what was found) and those of augment.py; equal results give equal bytes."""
    rows = {device: panels(device, parts, augment) for device, parts in found.items()}
    columns = [part for part in TARGETS["cpu"] if any(part in made for made in rows.values())]
    if not columns:
        return
    size = (3.6 * len(columns), 2.4 * len(rows))
    fig, axes = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained", squeeze=False)
    for line, (device, made) in zip(axes, rows.items(), strict=True):
        for ax, part in zip(line, columns, strict=True):
            if part in made:
                title, bars = made[part]
                draw_panel(ax, f"{KINDS[device]}: {title}", bars, TARGETS[device.split("_")[0]][part])
            else:
                ax.set_axis_off()
    buffer = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "train"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    write_bytes(out, buffer.getvalue())
