"""Batches: many resources or leases at once, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from redlock_cluster.core.names import Resource, resource_text

__all__ = ["CHUNK", "WINDOW", "chunks", "distinct"]

T = TypeVar("T")

WINDOW = 1000
"""Rounds of one batch that are under way at once: enough to keep servers busy, few enough to be answered in time."""

CHUNK = 100
"""Rounds that are sent together: servers work on one chunk while the next one is made."""


def distinct(named: Iterable[tuple[bytes, Resource]]) -> None:
    """Raises ValueError for a key that occurs twice. named: (key, resource) pairs"""
    seen = set[bytes]()
    for key, resource in named:
        if key in seen:
            raise ValueError(f"{resource_text(resource)!r} occurs twice in one batch")
        seen.add(key)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in their order, CHUNK at a time."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
