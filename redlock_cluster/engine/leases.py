"""Which leases an engine holds."""

from __future__ import annotations

from typing import Final, Protocol
from weakref import ref

from redlock_cluster.core.lease_record import LeaseRecord

__all__ = ["Holder", "LiveLeases"]

_LEAST: Final = 512  # so many are noted before those that are over are thrown out


class Holder(Protocol):
    """What users have of a lease."""

    _record: LeaseRecord


class LiveLeases:
    """The leases of one engine that users have and that are not over, and some that are.

    To note one costs an append. Those that are over are thrown out when as many have come as were left the last time.
    """

    __slots__ = ("_next", "_noted")

    def __init__(self) -> None:
        self._noted: list[ref[Holder]] = []
        self._next = _LEAST

    def note(self, holder: Holder) -> None:
        """Somebody has one."""
        noted = self._noted
        noted.append(ref(holder))
        if len(noted) >= self._next:
            self._noted = [each for each in noted if (there := each()) is not None and there._record.live]
            self._next = 2 * len(self._noted) + _LEAST

    def noted(self) -> list[ref[Holder]]:
        """References to all of them, in the order in which they were acquired. In any thread; takes no time."""
        return [*self._noted]

    def at(self, now: float) -> list[Holder]:
        """Those that are valid at a moment, in the order in which they were acquired. In any thread."""
        noted = self.noted()
        return [holder for each in noted if (holder := each()) is not None and holder._record.remaining(now) > 0]
