"""Batches on the wire: the rounds of a window are sent in one turn of the loop, and waited for together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redlock_cluster.core.batches import windows
from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.engine.comparisons import Extension, Release
from redlock_cluster.engine.rounds import Attempt, Round, Votes
from redlock_cluster.errors import LockNotAcquired, RedlockError

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group

__all__ = ["acquire_many", "extend_many", "release_many"]


class _Countdown:
    """Waits for many rounds as if it were one waiter of each."""

    __slots__ = ("_left", "finished")

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._left = number
        self.finished: asyncio.Future[None] = loop.create_future()

    def done(self) -> bool:
        """Whether the one who waits has gone."""
        return self.finished.done()

    def set_result(self, _: None) -> None:
        """One more round has ended."""
        self._left -= 1
        if not self._left:
            self.finished.set_result(None)


async def _ended(rounds: Sequence[Round[Votes]]) -> None:
    undecided = [wired for wired in rounds if not wired.decided]
    if undecided:
        countdown = _Countdown(undecided[0].group.loop, len(undecided))
        for wired in undecided:
            wired.add_waiter(countdown)
        await countdown.finished


async def acquire_many(
    wanted: Sequence[tuple[Group, Resource, bytes]], ttl_ms: int
) -> list[LeaseRecord | LockNotAcquired]:
    """One attempt for each (group, resource, key): outcomes in that order. Cancelling it gives everything back."""
    attempts: list[Attempt] = []
    try:
        for window in windows(wanted):
            begun = [Attempt(group, resource, key, ttl_ms).begin() for group, resource, key in window]
            attempts += begun
            await _ended(begun)
    except asyncio.CancelledError:
        for attempt in attempts:
            attempt.abandon()
        raise
    return [attempt.group.outcome(attempt) for attempt in attempts]


async def release_many(leases: Sequence[tuple[Group, LeaseRecord]]) -> list[RedlockError | None]:
    """Releases leases: for each, in order, None or why that can't be said. Cancelling it does not stop it short.

    All windows are sent before the first is waited for: a release that was asked for is not left out.
    """
    begun = [group.begin_release(record) for group, record in leases]
    await _ended([release for release in begun if isinstance(release, Release)])
    return [
        release.group.released(release, record.resource) if isinstance(release, Release) else release
        for release, (_, record) in zip(begun, leases, strict=True)
    ]


async def extend_many(leases: Sequence[tuple[Group, LeaseRecord, int]]) -> list[RedlockError | None]:
    """Extends leases by their ttls: for each, in order, None or why not."""
    outcomes: list[RedlockError | None] = []
    for window in windows(leases):
        for group, record, _ in window:
            await group.extension_ended(record)
        begun = [Extension(group, record.key, record.token, ttl_ms, record) for group, record, ttl_ms in window]
        await _ended([extension for extension in begun if extension.begin()])
        outcomes += [
            group.extended(extension, record) for extension, (group, record, _) in zip(begun, window, strict=True)
        ]
    return outcomes
