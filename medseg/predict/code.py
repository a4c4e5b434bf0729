"""The digest of the code that predicts with models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.files import digest_of
from medseg.stages import rows_of_plan, stage_digest
from medseg.trained import read_facts


def code_of(models: Sequence[Path]) -> str:
    """Digest of the code that predicts with the models in folders: what other code predicted is predicted again."""
    stage = "predict_case" if len(models) == 1 else "ensemble_case"
    digests = {stage_digest(stage, rows_of_plan(read_facts(model)["plan"])) for model in models}
    return digest_of(sorted(digests)) if len(digests) > 1 else digests.pop()
