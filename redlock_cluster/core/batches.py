"""Batches: many resources or leases at once, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redlock_cluster.core.resource import Resource, resource_text

__all__ = ["CHUNK", "WINDOW", "chunks", "distinct"]

WINDOW = 2000
"""Rounds of one batch that are under way at once: enough to keep servers busy, few enough to be answered in time."""

CHUNK = 200
"""Rounds that are sent together: servers work on one chunk while the next one is made."""


def distinct(keys: Sequence[bytes], resources: Sequence[Resource]) -> None:
    """Raises ValueError, which names the resource, for a key that occurs twice."""
    if len(set(keys)) < len(keys):
        seen = set[bytes]()
        for key, resource in zip(keys, resources, strict=True):
            if key in seen:
                raise ValueError(f"{resource_text(resource)!r} occurs twice in one batch")
            seen.add(key)


def chunks(length: int) -> Iterator[slice]:
    """The slices of a sequence of that length, CHUNK at a time."""
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))
