"""Matrix products that do not depend on the number of threads."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Array = NDArray[np.float64]


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def product(left: Array, right: Array) -> Array:
    """Matrix product on one thread, so that the same input gives the same bytes whatever the machine's threads are."""
    with _controller().limit(limits=1, user_api="blas"):
        found: Array = left @ right
    return found
