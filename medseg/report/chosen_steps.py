"""Post-processing that was chosen for each model: what was adopted, what it gained where, and its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.config import Config
from medseg.postprocess.effect import read_effect
from medseg.postprocess.settled import require_settled
from medseg.results.key import RunKey
from medseg.results.paths import Results


@dataclass(frozen=True, slots=True)
class ChosenSteps:
    """How the post-processing of one training was chosen.

    Attributes:
        choice: as ``postprocess.json`` has it.
        effect: on the cases that results are about (``postprocess.effect.read_effect``).
    """

    choice: Mapping[str, Any]
    effect: Mapping[str, Any]


def read_chosen(config: Config, results: Results, key: RunKey, fingerprint: str) -> ChosenSteps | None:
    """How the post-processing of a training was chosen; None: nothing was to be chosen.

    Raises:
        DataError: if a record is missing or damaged, or of another training or configuration.
    """
    section = config.dataset(key.dataset).postprocess
    if not section.choose:
        return None
    settled = require_settled(results.model(key).folder, section)
    return ChosenSteps(settled.choice or {}, read_effect(results.postprocess(key), fingerprint))
