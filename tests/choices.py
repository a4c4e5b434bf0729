"""A few of many parameters for the tests of every day; the others are marked ``exhaustive`` (`make test-all`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def few(rows: Iterable[Any], keep: Callable[..., bool]) -> list[Any]:
    """Parameters of a test, each a value, a tuple of values, or a ``pytest.param``.

    Args:
        rows: all parameters.
        keep: whether one, given its values, is for every day.
    """
    marked = []
    for row in rows:
        param = row if hasattr(row, "values") and hasattr(row, "marks") else None
        values = param.values if param is not None else row if isinstance(row, tuple) else (row,)
        marks = [*(param.marks if param is not None else ()), *([] if keep(*values) else [pytest.mark.exhaustive])]
        marked.append(pytest.param(*values, marks=marks, id=param.id if param is not None else None))
    return marked
