"""A supervisor and an engine that play a lease, whose loss tests decide on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from redlock_cluster.aio import _soon
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.keeping import KeepingPolicy
from redlock_cluster.core.lease_record import LeaseRecord, LossReason
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.errors import LeaseLost
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.handles.mutex import AsyncMutex
from redlock_cluster.handles.upkeep import Upkeep
from redlock_cluster.results import Lost, Ok, lost, released


class PlayedEngine:
    """Keeps nothing; tells listeners what tests say."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.forked = self.closed = False
        self.leases = SimpleNamespace(note=lambda _: None)
        self.keeping = KeepingPolicy(30.0, None)
        self.listeners: list[Any] = []

    def keep(self, record: LeaseRecord, owner: object, max_hold: float | None) -> None: ...

    def listen(self, record: LeaseRecord, listener: Any) -> None:
        self.listeners.append(listener)

    def abandon(self, record: LeaseRecord) -> None:
        if record.begin_release(self.clock()):
            record.released(Outcome.DONE, None)

    def group_of(self, record: LeaseRecord) -> Any:
        return SimpleNamespace(name="0")


class Played:
    """Whoever locks has a lease of an engine of their own. To lose it, or to release it, takes a turn of the loop."""

    def __init__(self) -> None:
        self.engines: list[PlayedEngine] = []
        self.leases: list[AsyncLease] = []

    def mutex(self, resource: str = "r", **named: Any) -> AsyncMutex:
        upkeep: Upkeep[AsyncLease] = Upkeep(None, None, None, named.pop("on_lost", None), _soon)
        return AsyncMutex(self, resource, upkeep, 0, None, **named)

    def _fences(self) -> bool:
        return False

    def _locks_on(self) -> object:
        return self

    async def lock(self, *_: Any, **__: Any) -> Ok[AsyncLease]:
        return await self._lock("r", Upkeep(None, None, None, None, _soon), 0, "write", None)

    async def _lock(
        self, resource: Any, upkeep: Upkeep[AsyncLease], wait: Any, mode: Any, cancel_id: Any
    ) -> Ok[AsyncLease]:
        await asyncio.sleep(0)
        engine: Any = PlayedEngine()
        upkeep.begin(engine)
        now = engine.clock()
        record = LeaseRecord("r", b"k", Token(b"t"), EXCLUSIVE, 30_000, now + 29, now, 0b111, None)
        lease = AsyncLease(self, engine, record)
        self.engines.append(engine)
        self.leases.append(lease)
        return Ok(upkeep.granted(lease))

    async def unlock(self, resource: Any, lease: Any) -> Ok[None] | Lost:
        record, now = lease._record, lease._engine.clock()
        error = None
        if record.begin_release(now):
            record.released(Outcome.DONE, None)
        else:
            error = LeaseLost("lost before its release", reason=record.loss(now)[0])
        await asyncio.sleep(0)
        return lost(error) if error else released(None)

    async def extend(self, resource: Any, lease: Any, ttl: Any) -> Any:
        raise AssertionError("nobody asks for that")

    def lose(self, index: int = -1) -> None:
        """A quorum has lost the lease, and whoever listens is told."""
        lease, engine = self.leases[index], self.engines[index]
        lease._record.looked(_NO_VOTES, Outcome.GONE, engine.clock())
        listeners, engine.listeners = engine.listeners, []
        for listener in listeners:
            listener.lost(LossReason.GONE)


_NO_VOTES: Any = SimpleNamespace(granted=0)
