"""Batches on the wire: rounds are sent in chunks, one after the other, and waited for together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redlock_cluster.core import batches as plan
from redlock_cluster.core.batches import chunks
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.timing import Terms
from redlock_cluster.engine.acquire import Attempt
from redlock_cluster.engine.release import Extension, Release
from redlock_cluster.engine.round import Round
from redlock_cluster.errors import ClosedError, LockNotAcquired, RedlockError
from redlock_cluster.wire.flusher import Outbox

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group

__all__ = ["Flow", "acquire_many", "extend_many", "release_many"]


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


class Flow:
    """Chunks of rounds on their way: what was sent is written at once, and a window of rounds is under way at most.

    closing: set when the supervisor closes
    """

    def __init__(self, outbox: Outbox, closing: asyncio.Event) -> None:
        self._outbox, self.closing = outbox, closing
        self._under_way: deque[asyncio.Future[None]] = deque()

    def sent(self, rounds: Sequence[Round[Any]]) -> None:
        """A chunk has been queued."""
        self._outbox.flush()
        undecided = [wired for wired in rounds if not wired.decided]
        if undecided:
            countdown = _Countdown(undecided[0].group.loop, len(undecided))
            for wired in undecided:
                wired.add_waiter(countdown)
            self._under_way.append(countdown.finished)

    async def room(self) -> None:
        """Returns when another chunk may be sent, and lets others have a turn. At once when the supervisor closes: what
        is to be sent still must not wait for the next window.
        """
        if not self.closing.is_set():
            await (self._wait(plan.WINDOW // plan.CHUNK - 1) if self._under_way else asyncio.sleep(0))

    async def ended(self) -> None:
        """Returns when everything is decided."""
        await self._wait(0)

    async def _wait(self, most: int) -> None:
        while len(self._under_way) > most:
            await self._under_way[0]
            self._under_way.popleft()


async def acquire_many(
    flow: Flow, groups: Sequence[Group], resources: Sequence[Resource], keys: Sequence[bytes], terms: Terms
) -> list[LeaseRecord | LockNotAcquired]:
    """One attempt for each resource in its group: outcomes in that order. Cancelling it gives everything back."""
    attempts: list[Attempt] = []
    try:
        for part in chunks(len(keys)):
            if flow.closing.is_set():
                raise ClosedError("the supervisor was closed while this call waited")
            wanted = zip(groups[part], resources[part], keys[part], strict=True)
            begun = [Attempt(group, resource, key, terms).begin() for group, resource, key in wanted]
            attempts += begun
            flow.sent(begun)
            await flow.room()
        await flow.ended()
    except (asyncio.CancelledError, ClosedError):
        for attempt in attempts:
            attempt.abandon()
        raise
    return [attempt.group.outcome(attempt) for attempt in attempts]


async def release_many(
    flow: Flow, groups: Sequence[Group], records: Sequence[LeaseRecord]
) -> list[RedlockError | None]:
    """Releases leases: for each, in order, None or why that can't be said. Cancelling it does not stop it short."""
    begun: list[Release | RedlockError] = []
    try:
        for part in chunks(len(records)):
            leases = zip(groups[part], records[part], strict=True)
            begun += (sent := [group.begin_release(record) for group, record in leases])
            flow.sent([release for release in sent if isinstance(release, Release)])
            await flow.room()
        await flow.ended()
    except asyncio.CancelledError:
        for group, record in zip(groups[len(begun) :], records[len(begun) :], strict=True):
            group.begin_release(record)
        raise
    return [
        group.released(release, record.resource) if isinstance(release, Release) else release
        for release, group, record in zip(begun, groups, records, strict=True)
    ]


async def extend_many(
    flow: Flow, groups: Sequence[Group], records: Sequence[LeaseRecord], ttls_ms: Sequence[int]
) -> list[RedlockError | None]:
    """Extends leases by their ttls: for each, in order, None or why not."""
    begun: list[Extension] = []
    for part in chunks(len(records)):
        leases = [*zip(groups[part], records[part], strict=True)]
        while under_way := [running for group, r in leases if (running := group.extensions.get(r.token)) is not None]:
            await under_way[0]  # and look again at all of them: meanwhile others may have begun
        wanted = zip(groups[part], records[part], ttls_ms[part], strict=True)
        sent = [Extension(group, r.key, r.token, group.timing.terms(ttl_ms), r) for group, r, ttl_ms in wanted]
        begun += sent
        flow.sent([extension for extension in sent if extension.begin()])
        await flow.room()
    await flow.ended()
    return [group.extended(extension, record) for group, extension, record in zip(groups, begun, records, strict=True)]
