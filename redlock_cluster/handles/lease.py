"""Leases: what a successful acquisition gives, for both faces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.engine.engine import INHERITED, Engine
from redlock_cluster.errors import NotHeld
from redlock_cluster.handles.unique import Unique
from redlock_cluster.results import Lost, Ok, Refused, value_of

__all__ = [
    "AsyncLease",
    "AsyncLeaseKeeper",
    "HeldLease",
    "Lease",
    "LeaseKeeper",
    "abandon",
    "abandon_result",
    "inherited",
    "known",
    "records",
]


class HeldLease(Unique):
    """A lock that was acquired.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_aliases", "_engine", "_record")

    instead = "pass lease.token: whoever has it can extend and release"

    _engine: Engine
    _record: LeaseRecord

    @property
    def resource(self) -> str:
        """What is locked; bytes that are not UTF-8 appear as surrogates."""
        return resource_text(self._record.resource)

    @property
    def token(self) -> str:
        """The owner value on the servers. Whoever has it can extend and release: keep it secret."""
        return self.shared().decode()

    def shared(self) -> Token:
        """The token, for others of this process: what they do with it, the lease hears of from now on."""
        if not self._engine.forked:
            self._aliases = self._engine.share(self._record)
        return self._record.token

    @property
    def ttl(self) -> float:
        """Seconds that servers keep the lock, counted from the last acquisition or extension."""
        return self._record.kept_ms() / 1000

    @property
    def state(self) -> LeaseState:
        """HELD, UNKNOWN (the last extension or release has reached no quorum), LOST or RELEASED."""
        return LeaseState.LOST if self._engine.forked else self._record.state(self._engine.clock())

    @property
    def valid(self) -> bool:
        """Whether the lock may still be relied on."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which the lock may still be relied on; 0 when it is over."""
        return 0.0 if self._engine.forked else self._record.remaining(self._engine.clock())

    @property
    def held_on(self) -> frozenset[str]:
        """Names of the servers known to hold the lock."""
        return frozenset(vote.server for vote in self.votes if vote.vote is Vote.FOR)

    @property
    def votes(self) -> tuple[ServerVote, ...]:
        """Each server's vote in the acquisition or the last successful extension, in the group's order."""
        return self._engine.votes(self._record)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {quoted(self.resource)} {self.state.value}, {self.remaining:.3f} s left>"


class AsyncLeaseKeeper(Protocol):
    """What an asyncio lease asks of the supervisor that made it."""

    async def extend(self, resource: Resource, lease: AsyncLease | str, ttl: Seconds) -> Ok[AsyncLease] | Lost:
        """As `AsyncSupervisor.extend`."""

    async def unlock(self, resource: Resource, lease: AsyncLease | str) -> Ok[None] | Lost:
        """As `AsyncSupervisor.unlock`."""


class AsyncLease(HeldLease):
    """A lock that was acquired. Made by supervisors and mutexes, for one event loop.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_supervisor",)

    def __init__(self, supervisor: AsyncLeaseKeeper, engine: Engine, record: LeaseRecord) -> None:
        self._supervisor, self._engine, self._record = supervisor, engine, record

    async def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now.

        ttl: seconds; left out, the one it has

        Raises LeaseLost when it is over, NotHeld when it was released, QuorumUnavailable when too few servers
        answered (it then stays valid as long as it was), ValueError or TypeError for a ttl that can't be.
        """
        value_of(await self._supervisor.extend(self._record.resource, self, self.ttl if ttl is None else ttl))

    async def release(self) -> None:
        """Gives the lock back.

        Raises LeaseLost when it was over before, NotHeld when it was released before, QuorumUnavailable when too few
        servers answered to know (it is released on those that are away when they return).
        """
        value_of(await self._supervisor.unlock(self._record.resource, self))


class LeaseKeeper(Protocol):
    """What a synchronous lease asks of the supervisor that made it."""

    def extend(self, resource: Resource, lease: Lease | str, ttl: Seconds) -> Ok[Lease] | Lost:
        """As `Supervisor.extend`."""

    def unlock(self, resource: Resource, lease: Lease | str) -> Ok[None] | Lost:
        """As `Supervisor.unlock`."""


class Lease(HeldLease):
    """A lock that was acquired. Made by supervisors and mutexes; any thread of this process may use it.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_supervisor",)

    def __init__(self, supervisor: LeaseKeeper, engine: Engine, record: LeaseRecord) -> None:
        self._supervisor, self._engine, self._record = supervisor, engine, record

    def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now.

        ttl: seconds; left out, the one it has

        Raises LeaseLost when it is over, NotHeld when it was released, QuorumUnavailable when too few servers
        answered (it then stays valid as long as it was), ValueError or TypeError for a ttl that can't be.
        """
        value_of(self._supervisor.extend(self._record.resource, self, self.ttl if ttl is None else ttl))

    def release(self) -> None:
        """Gives the lock back.

        Raises LeaseLost when it was over before, NotHeld when it was released before, QuorumUnavailable when too few
        servers answered to know (it is released on those that are away when they return).
        """
        value_of(self._supervisor.unlock(self._record.resource, self))


def records(engine: Engine, leases: Iterable[HeldLease]) -> list[LeaseRecord]:
    """What an engine knows a batch of leases by.

    Raises TypeError for other things, ValueError for leases on other servers, NotHeld for those of the process that
    this one was forked from.
    """
    found = []
    for lease in leases:
        if not isinstance(lease, HeldLease):
            raise TypeError(f"a batch takes leases, not {type(lease).__name__}")
        record: LeaseRecord | None = lease._record
        if lease._engine is not engine:
            if lease._engine.forked:
                raise NotHeld(INHERITED)
            lease.shared()
            record = engine.alias(lease._record)
        if record is None:
            raise ValueError(f"the lease on {quoted(lease.resource)} was made by a supervisor of other servers")
        found.append(record)
    return found


def known(engine: Engine, lease: HeldLease | str) -> LeaseRecord | Token:
    """What an engine knows a lease by; one of another engine by its token."""
    if isinstance(lease, HeldLease):
        return lease._record if lease._engine is engine else lease.shared()
    if isinstance(lease, str):
        return Token(lease.encode())
    raise TypeError(f"a lease or its token, a str, not {type(lease).__name__}")


def inherited(lease: object) -> bool:
    """Whether it is a lease of the process that this one was forked from."""
    return isinstance(lease, HeldLease) and lease._engine.forked


def abandon(lease: HeldLease) -> None:
    """In the engine's loop: gives a lease back that nobody holds any more."""
    lease._engine.abandon(lease._record)


def abandon_result(result: Ok[Lease] | Refused) -> None:
    """In the engine's loop: gives back what a result holds that nobody receives."""
    if isinstance(result, Ok):
        abandon(result.value)
