"""Files of the stages from train on, for ``test_flips.py``."""

from __future__ import annotations

from tests.faults.flips import FileKind

DOWNSTREAM: dict[str, FileKind] = {}
