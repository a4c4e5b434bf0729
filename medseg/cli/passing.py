"""An error on its way past typer."""

from __future__ import annotations


class PassedError(Exception):
    """Carries its cause from a command to ``main``."""
