"""Connected components: what belongs together because pairs of it do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def connected(pairs: Iterable[tuple[T, T]]) -> list[list[T]]:
    """The groups (of two or more) that pairs connect, each in the order in which its members were first named."""
    parent: dict[T, T] = {}

    def root(one: T) -> T:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for one, other in pairs:
        parent.setdefault(one, one)
        parent.setdefault(other, other)
        parent[root(other)] = root(one)
    groups: dict[T, list[T]] = {}
    for one in parent:
        groups.setdefault(root(one), []).append(one)
    return [group for group in groups.values() if len(group) > 1]
