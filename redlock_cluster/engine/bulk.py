"""Many resources or leases at once: operations begin in chunks, one after the other, and are waited for together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, Generic, TypeVar

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.chunk import Attempts, Chunk, Extensions, Releases
from redlock_cluster.engine.engine import Engine
from redlock_cluster.errors import ClosedError, LockNotAcquired, RedlockError

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "WINDOW",
    "acquire_many",
    "extend_many",
    "release_many",
    "require_distinct",
    "windows",
]

C = TypeVar("C", bound=Chunk[Any])
R = TypeVar("R")

WINDOW = 2000
"""Operations of one batch that are under way at once: enough to keep servers busy, few enough to end in time."""

CHUNK = 200
"""Operations that are sent together: servers work on one chunk while the next one is made."""

CHUNK_BYTES = 128 << 10
"""What the names of a chunk may take, if they are more than one. WINDOW // CHUNK chunks, 1.25 MiB, are under way: five
servers get them over a line of 1 Gbit/s in 50 ms, a quarter of the default time-out. Short names never come near."""


async def acquire_many(
    engine: Engine,
    resources: Sequence[Resource],
    ttl: Seconds,
    make: Callable[[list[LeaseRecord | LockNotAcquired]], list[R]],
    mode: LockMode = EXCLUSIVE,
) -> list[R]:
    """Make one attempt for each resource. Cancelling it gives everything back.

    resources: what to lock, each once
    ttl: seconds
    make: what the caller wants of some outcomes. Called while servers work on the next ones, so what it returns is
        nobody's yet and may be thrown away
    mode: which kind of lock

    Returns what was made of the outcomes in the order given. Raises ValueError for duplicates, ClosedError.
    """
    terms = engine.terms(ttl)
    engine.check_place()
    names = [*map(resource_bytes, resources)]
    require_distinct(names, resources)
    begun: list[Attempts] = []
    made: list[R] = []
    flow = _Flow[Attempts](engine, lambda chunk: made.extend(make(chunk.result())))
    try:
        for part in _chunks(names):
            if engine.closed:
                raise ClosedError("the supervisor was closed while this call waited")
            begun.append(Attempts(engine, resources[part], names[part], terms, mode))
            await flow.send(begun[-1])
        await flow.ended()
    except (asyncio.CancelledError, ClosedError):
        for chunk in begun:
            chunk.abandon()
        raise
    if begun and begun[0].late(engine.clock()):
        return [*chain.from_iterable(make(chunk.result()) for chunk in begun)]
    return made


async def release_many(engine: Engine, records: Sequence[LeaseRecord]) -> list[RedlockError | None]:
    """Release leases of this engine. Cancelling it does not stop it short.

    Returns for each, in order, None or why that can't be said. Raises ValueError for duplicates.
    """
    keys, begun = _distinct_keys(engine, records), 0
    errors: list[RedlockError | None] = []
    flow = _Flow[Releases](engine, lambda chunk: errors.extend(chunk.result()))
    try:
        for part in _chunks(keys):
            begun = part.stop
            await flow.send(Releases(engine, records[part]))
        await flow.ended()
    except asyncio.CancelledError:
        Releases(engine, records[begun:]).begin()
        raise
    return errors


async def extend_many(
    engine: Engine, records: Sequence[LeaseRecord], ttl: Seconds | None
) -> list[LeaseRecord | RedlockError]:
    """Extend leases of this engine. Cancelling it begins no more of them.

    ttl: seconds; None: each lease by the one that it has

    Returns for each, in order, the lease or why not. Raises ValueError for duplicates.
    """
    ttl_ms = None if ttl is None else engine.terms(ttl).ttl_ms
    keys = _distinct_keys(engine, records)
    begun: list[Extensions] = []
    flow = _Flow[Extensions](engine)
    try:
        for part in _chunks(keys):
            begun.append(Extensions(engine, records[part], ttl_ms))
            await flow.send(begun[-1])
        await flow.ended()
    except asyncio.CancelledError:
        for chunk in begun:
            chunk.abandon()
        raise
    return [*chain.from_iterable(chunk.result() for chunk in begun)]


class _Flow(Generic[C]):
    """Chunks of operations on their way: each is written at once, and WINDOW of them are under way at most.

    on_decided: called with each in order, as soon as it and those before it are decided
    """

    def __init__(self, engine: Engine, on_decided: Callable[[C], object] | None = None) -> None:
        self._engine, self._on_decided = engine, on_decided
        self._under_way: deque[C] = deque()

    async def send(self, chunk: C) -> None:
        """Begin a chunk. Returns when another may be begun, and lets others have a turn if it waits for nothing.

        At once when the supervisor closes: what is to be sent still must not wait for the next window.
        """
        self._under_way.append(chunk)
        chunk.begin()
        self._engine.flusher.flush()
        if not self._engine.closed:
            await (asyncio.sleep(0) if chunk.decided else self._wait(WINDOW // CHUNK - 1))

    async def ended(self) -> None:
        """Returns when everything is decided; others get their turn even if nothing was asked for."""
        await (self._wait(0) if self._under_way else asyncio.sleep(0))

    async def _wait(self, most: int) -> None:
        """Returns when so many are under way at most."""
        while len(self._under_way) > most:
            chunk = self._under_way[0]
            if not chunk.decided:
                await chunk.future(self._engine.loop)
            self._under_way.popleft()
            if self._on_decided is not None:
                self._on_decided(chunk)


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


def _distinct_keys(engine: Engine, records: Sequence[LeaseRecord]) -> list[bytes]:
    """The keys of leases, which may be of one resource: readers. Raises ValueError for a lease that occurs twice."""
    engine.check_place()
    tokens = [record.token for record in records]
    if len(set(tokens)) < len(tokens):
        require_distinct(tokens, [record.resource for record in records])
    return [record.key for record in records]


def require_distinct(keys: Sequence[bytes], resources: Sequence[Resource]) -> None:
    """Raises ValueError, which names the resource, for a key or token that occurs twice."""
    if len(set(keys)) < len(keys):
        seen = set[bytes]()
        for key, resource in zip(keys, resources, strict=True):
            if key in seen:
                raise ValueError(f"{quoted(resource_text(resource))} occurs twice in one batch")
            seen.add(key)
