"""The study that is tortured, and the changes of its configuration."""

from __future__ import annotations

from pathlib import Path

from tests.workflow.study import TINY

PLAN = "{patch: [64, 64], widths: [8, 16, 16], strides: [[1, 1], [2, 2], [2, 2]]}"
BASE = "base"
# Name of a variant -> what of the text is replaced by what.
CHANGES = {
    "fewer steps": ("budget: {steps: 300}", "budget: {steps: 200}"),
    "second model": ("models:\n", f"models:\n  wide: {{network: unet, plan: {PLAN}}}\n"),
    "other model": ("  unet: {", f"  wide: {{network: unet, plan: {PLAN}}}\n#"),
    "second fold": ("run: [0]", "run: [0, 1]"),
    "other fold": ("run: [0]", "run: [1]"),
    "second seed": ("threads: 1", "threads: 1\nseeds: [0, 1]"),
    "other rate": ("{network: unet, plan", "{network: unet, lr: 0.004, plan"),
    "larger objects": ("min_size: 5", "min_size: 60"),
    "other data": ("cases: 4, seed: 3", "cases: 5, seed: 4"),
}


def text_of(variant: str, uri: str | None = None) -> str:
    """The configuration of a variant, tracked at ``uri`` (none: in the study's own database)."""
    text = TINY
    if variant != BASE:
        old, new = CHANGES[variant]
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text if uri is None else f"{text}tracking: {{uri: '{uri}'}}\n"


def save_often(folder: Path) -> None:
    """Let the study's copy of the package save the state of a training several times a second.

    Its trainings take seconds, so that otherwise none would ever resume after a SIGKILL.
    """
    path = folder / "medseg" / "train" / "saving.py"
    text = path.read_text()
    for old, new in (
        ("SAVE_INTERVAL_S = 5.0", "SAVE_INTERVAL_S = 0.3"),
        ("SAVE_PATIENCE = 40.0", "SAVE_PATIENCE = 1.0"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
