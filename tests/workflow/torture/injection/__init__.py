"""Code that the processes of a study load: its folder stands first on their ``PYTHONPATH``."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def variables(at: int, counter: Path, study: Path) -> dict[str, str]:
    """Environment that cuts the power at point ``at`` (0: never) and counts points in the file ``counter``."""
    return {
        "MEDSEG_TORTURE_POINTS": f"{at}:{counter}:{study}",
        "PYTHONPATH": os.pathsep.join([str(FOLDER), str(study)]),
    }
