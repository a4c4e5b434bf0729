"""Several things at once, where a store takes that: requests to a server wait for one another most of the time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from medseg.tracking.store import Store

# Below what one MLflow server of four workers takes at once; each thread has one request on its way.
AT_ONCE = 8
In = TypeVar("In")
Out = TypeVar("Out")


class Map(Protocol):
    """Calls a function with each item and gives the results in their order; the first error ends it."""

    def __call__(self, function: Callable[[In], Out], items: Iterable[In], /) -> list[Out]:
        """As ``list(map(function, items))``."""


@contextlib.contextmanager
def workers(store: Store) -> Iterator[Map]:
    """A ``map`` that works on several items at once for a server, one by one for a SQLite file.

    Of an error, items that nobody began are left; those at work are waited for.
    """
    if store.database is not None:
        yield lambda function, items: list(map(function, items))
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="medseg-replay") as pool:
        yield lambda function, items: list(pool.map(function, items))
