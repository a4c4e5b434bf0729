"""Names in tables that are imported when they are used: ``"package.module:name"``.

A table of such names is cheap to import, and the digest of a stage's code follows the row that is used alone.
"""

from __future__ import annotations

import importlib
from typing import Any


def resolve(where: str) -> Any:
    """The object called ``"package.module:name"``; imports its module.

    Raises:
        ImportError, AttributeError: if there is no such module or name.
    """
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)
