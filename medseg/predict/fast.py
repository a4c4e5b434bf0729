"""Predictions at a fraction of the time, at a price in Dice that is measured on the model's own validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.engine import openvino
from medseg.machine import pick_device
from medseg.predict.predictor import OPENVINO, TORCH
from medseg.progress import say
from medseg.trained import read_facts

# Share of a window that its neighbour covers too: a quarter of the windows of half an overlap, at most, in a volume.
OVERLAP = 0.25


def fast(options: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """As ``fast_options``, and a line that says them."""
    chosen = fast_options(options, folders)
    how = [] if chosen["mirror"] else ["no mirror images"]
    how += [f"windows overlap by {chosen['overlap']:.0%}", f"networks run in {chosen['runtime']}"]
    missing = _on_processor(options, folders) and not openvino.is_installed() and options.get("runtime") is None
    say("predict: fast: " + ", ".join(how) + (" (faster: pip install 'medseg[fast]')" if missing else ""))
    return chosen


def fast_options(options: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Options of a prediction (``How``) with the fast ones where none is given.

    Args:
        options: as given.
        folders: of the models.
    """
    runtime = OPENVINO if _on_processor(options, folders) and openvino.is_installed() else TORCH
    quick = {"mirror": False, "overlap": OVERLAP, "runtime": runtime}
    return {**options, **{name: value for name, value in quick.items() if options.get(name) is None}}


def _on_processor(options: Mapping[str, Any], folders: Sequence[Path]) -> bool:
    return all(_device(options.get("device"), folder) == "cpu" for folder in folders)


def _device(asked: str | None, folder: Path) -> str:
    """Where a model runs, as ``Predictor`` decides it."""
    return pick_device(asked or ("cpu" if read_facts(folder)["plan"]["machine"]["device"] == "cpu" else "auto"))
