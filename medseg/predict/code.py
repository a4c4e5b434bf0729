"""The digest of the code that predicts with a model."""

from __future__ import annotations

from pathlib import Path

from medseg.stages import rows_of_plan, stage_digest
from medseg.trained import read_facts


def code_of(model: Path) -> str:
    """Digest of the code that predicts with the model in a folder: what other code predicted is predicted again."""
    return stage_digest("predict_case", rows_of_plan(read_facts(model)["plan"]))
