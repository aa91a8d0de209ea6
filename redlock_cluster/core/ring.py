"""Which group a resource belongs to: consistent hashing with the ketama continuum (md5).

Source: libketama, as `uhashring` builds it: 40 points of 4 hashes for each group of average weight. The look-up
hashes the resource's bytes themselves, which is what `uhashring` does with text and other ketama libraries with any
bytes (`uhashring` itself would hash the repr of bytes).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from hashlib import md5

from uhashring import HashRing

from redlock_cluster.core.resource import Resource, resource_bytes

__all__ = ["Ring"]


class Ring:
    """A consistent-hashing ring of group names.

    weights: group name -> weight (>= 1), in any order; a group's share of the resources follows its weight
    """

    __slots__ = ("_hashes", "_names")

    def __init__(self, weights: Mapping[str, int]) -> None:
        points = HashRing({name: {"weight": weight} for name, weight in weights.items()}, hash_fn="ketama").get_points()
        self._hashes = [position for position, _ in points]
        self._names = [name for _, name in points]

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on this resource. Raises TypeError or ValueError as `resource_bytes`."""
        return self.route(resource_bytes(resource))

    def route(self, resource: bytes) -> str:
        """The same for a resource already in its normal form."""
        digest = md5(resource, usedforsecurity=False).digest()
        index = bisect(self._hashes, int.from_bytes(digest[:4], "little"))
        return self._names[index if index < len(self._names) else 0]
