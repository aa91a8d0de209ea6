"""Batches: many resources or leases at once, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from redlock_cluster.core.names import Resource, resource_bytes, resource_text

__all__ = ["WINDOW", "distinct", "windows"]

T = TypeVar("T")

WINDOW = 1000
"""Rounds of one batch that are under way at once: enough to keep servers busy, few enough to be answered in time."""


def distinct(resources: Sequence[Resource]) -> None:
    """Raises ValueError for a resource that occurs twice, TypeError or ValueError for what is none."""
    seen = set[bytes]()
    for resource in resources:
        data = resource_bytes(resource)
        if data in seen:
            raise ValueError(f"{resource_text(resource)!r} occurs twice in one batch")
        seen.add(data)


def windows(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in their order, WINDOW at a time."""
    for start in range(0, len(items), WINDOW):
        yield items[start : start + WINDOW]
