"""Many resources or leases at once: operations begin in chunks, one after the other, and are waited for together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.retry import ONCE
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.acquire import Acquisition
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.extend import Extension
from redlock_cluster.engine.operation import Operation
from redlock_cluster.engine.release import begin_release
from redlock_cluster.errors import ClosedError, LockNotAcquired, RedlockError

__all__ = ["CHUNK", "CHUNK_BYTES", "WINDOW", "acquire_many", "extend_many", "release_many", "windows"]

WINDOW = 2000
"""Operations of one batch that are under way at once: enough to keep servers busy, few enough to end in time."""

CHUNK = 200
"""Operations that are sent together: servers work on one chunk while the next one is made."""

CHUNK_BYTES = 128 << 10
"""What the names of a chunk may take, if they are more than one. WINDOW // CHUNK chunks, 1.25 MiB, are under way: five
servers get them over a line of 1 Gbit/s in 50 ms, a quarter of the default time-out. Short names never come near."""


async def acquire_many(
    engine: Engine, resources: Sequence[Resource], ttl: Seconds
) -> list[LeaseRecord | LockNotAcquired]:
    """Make one attempt for each resource. Cancelling it gives everything back.

    resources: what to lock, each once
    ttl: seconds

    Returns the outcomes in the order given. Raises ValueError for duplicates, ClosedError.
    """
    terms = engine.terms(ttl)
    engine.check_place()
    names = [resource_bytes(resource) for resource in resources]
    _require_distinct(names, resources)
    begun: list[Acquisition] = []
    flow = _Flow(engine)
    try:
        for part in _chunks(names):
            if engine.closed:
                raise ClosedError("the supervisor was closed while this call waited")
            chunk = [
                engine.acquire_by(engine.group_for(name), resource, engine.key(name), terms, ONCE, EXCLUSIVE)
                for resource, name in zip(resources[part], names[part], strict=True)
            ]
            begun += chunk
            await flow.sent(chunk)
        await flow.ended()
    except (asyncio.CancelledError, ClosedError):
        for acquisition in begun:
            acquisition.abandon()
        raise
    return [acquisition.result() for acquisition in begun]


async def release_many(engine: Engine, records: Sequence[LeaseRecord]) -> list[RedlockError | None]:
    """Release leases of this engine. Cancelling it does not stop it short.

    Returns for each, in order, None or why that can't be said. Raises ValueError for duplicates.
    """
    _require_distinct_leases(engine, records)
    begun: list[Operation[RedlockError | None]] = []
    flow = _Flow(engine)
    try:
        for part in _chunks([record.key for record in records]):
            chunk = [begin_release(engine.group_of(record), record.resource, record) for record in records[part]]
            begun += chunk
            await flow.sent(chunk)
        await flow.ended()
    except asyncio.CancelledError:
        for record in records[len(begun) :]:
            begin_release(engine.group_of(record), record.resource, record)
        raise
    return [release.result() for release in begun]


async def extend_many(
    engine: Engine, records: Sequence[LeaseRecord], ttl: Seconds | None
) -> list[LeaseRecord | RedlockError]:
    """Extend leases of this engine. Cancelling it begins no more of them.

    ttl: seconds; None: each lease by the one that it has

    Returns for each, in order, the lease or why not. Raises ValueError for duplicates.
    """
    ttl_ms = None if ttl is None else engine.terms(ttl).ttl_ms
    _require_distinct_leases(engine, records)
    begun: list[Extension] = []
    flow = _Flow(engine)
    try:
        for part in _chunks([record.key for record in records]):
            chunk = [engine.extend_by(record, ttl_ms or record.kept_ms()) for record in records[part]]
            begun += chunk
            await flow.sent(chunk)
        await flow.ended()
    except asyncio.CancelledError:
        for extension in begun:
            extension.abandon()
        raise
    return [extension.result() for extension in begun]


class _Countdown:
    """Waits for many operations as if it were one waiter of each."""

    __slots__ = ("_left", "finished")

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._left = number
        self.finished: asyncio.Future[None] = loop.create_future()

    def done(self) -> bool:
        """Whether the one who waits has gone."""
        return self.finished.done()

    def set_result(self, _: None) -> None:
        """One more operation is decided."""
        self._left -= 1
        if not self._left:
            self.finished.set_result(None)


class _Flow:
    """Chunks of operations on their way: each is written at once, and WINDOW of them are under way at most."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: deque[asyncio.Future[None]] = deque()

    async def sent(self, chunk: Sequence[Operation[Any]]) -> None:
        """A chunk has begun. Returns when another may, and lets others have a turn.

        At once when the supervisor closes: what is to be sent still must not wait for the next window.
        """
        self._engine.flusher.flush()
        undecided = [operation for operation in chunk if not operation.decided]
        if undecided:
            countdown = _Countdown(self._engine.loop, len(undecided))
            for operation in undecided:
                operation.add_waiter(countdown)
            self._under_way.append(countdown.finished)
        if not self._engine.closed:
            await (self._wait(WINDOW // CHUNK - 1) if self._under_way else asyncio.sleep(0))

    async def ended(self) -> None:
        """Returns when everything is decided; others get their turn even if nothing was asked for."""
        await (self._wait(0) if self._under_way else asyncio.sleep(0))

    async def _wait(self, most: int) -> None:
        while len(self._under_way) > most:
            await self._under_way[0]
            self._under_way.popleft()


def _chunks(names: Sequence[bytes]) -> Iterator[slice]:
    """Parts of a batch with CHUNK operations or CHUNK_BYTES at most, and one operation at least."""
    start = 0
    while start < len(names):
        end = min(start + CHUNK, len(names))
        if sum(map(len, names[start:end])) > CHUNK_BYTES:
            totals = accumulate(map(len, names[start:end]))
            end = start + max(1, sum(1 for total in totals if total <= CHUNK_BYTES))
        yield slice(start, end)
        start = end


def windows(number: int, size: int) -> int:
    """How many windows follow one another at most in a batch of so many operations, whose names have `size` bytes."""
    chunks = number // CHUNK + 2 * size // CHUNK_BYTES + 1  # two that follow one another exceed CHUNK_BYTES
    return -(-chunks // (WINDOW // CHUNK))


def _require_distinct_leases(engine: Engine, records: Sequence[LeaseRecord]) -> None:
    engine.check_place()
    _require_distinct([record.key for record in records], [record.resource for record in records])


def _require_distinct(keys: Sequence[bytes], resources: Sequence[Resource]) -> None:
    """Raises ValueError, which names the resource, for a key that occurs twice."""
    if len(set(keys)) < len(keys):
        seen = set[bytes]()
        for key, resource in zip(keys, resources, strict=True):
            if key in seen:
                raise ValueError(f"{quoted(resource_text(resource))} occurs twice in one batch")
            seen.add(key)
