"""Leases: what a successful acquisition gives, for both faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.text import quoted
from redlock_cluster.core.ticket import Ticket
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.engine.engine import INHERITED, Engine
from redlock_cluster.errors import LeaseLost, NotHeld
from redlock_cluster.handles.events import AsyncLeaseEvent, LeaseEvent, Telling, async_events, events
from redlock_cluster.handles.unique import Unique
from redlock_cluster.results import Lost, Ok, Refused, value_of

__all__ = [
    "AsyncLease",
    "AsyncLeaseKeeper",
    "HeldLease",
    "Holding",
    "Lease",
    "LeaseKeeper",
    "abandon",
    "abandon_result",
    "detach",
    "extends",
    "inherited",
    "known",
    "named",
    "records",
]


class Holding(Protocol):
    """What an acquisition gives: a lease, or several that are held together."""

    _engine: Engine

    @property
    def _parts(self) -> Sequence[HeldLease]:
        """The leases."""

    @property
    def state(self) -> LeaseState:
        """As `HeldLease.state`."""

    @property
    def valid(self) -> bool:
        """As `HeldLease.valid`."""

    @property
    def remaining(self) -> float:
        """As `HeldLease.remaining`."""

    def raise_if_lost(self) -> None:
        """As `HeldLease.raise_if_lost`."""

    def loss(self) -> LeaseLost | NotHeld:
        """As `HeldLease.loss`."""


class HeldLease(Unique):
    """A lock that was acquired.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("__weakref__", "_aliases", "_engine", "_record")

    instead = "pass lease.token, with which anybody can extend and release, or give it away by lease.detach()"

    _engine: Engine
    _record: LeaseRecord

    @property
    def _parts(self) -> Sequence[HeldLease]:
        return (self,)

    @property
    def resource(self) -> str:
        """What is locked; bytes that are not UTF-8 appear as surrogates."""
        return resource_text(self._record.resource)

    @property
    def token(self) -> str:
        """The owner value on the servers. Whoever has it can extend and release: keep it secret."""
        return self.shared().decode()

    def shared(self) -> Token:
        """The token, for others of this process: what they do with it, the lease hears of from now on.

        One that was detached hears of nothing: whoever adopts it here has a lease of their own.
        """
        if not self._engine.forked and not self._detached:
            self._aliases = self._engine.share(self._record)
        return self._record.token

    @property
    def fence(self) -> int | None:
        """The number of its acquisition, greater than those of all before it on the resource; None unless `fenced`.

        Of a lease to read: the greatest that was given to who would hold the lock alone; None if nobody would.
        """
        return self._record.fence or None

    @property
    def ttl(self) -> float:
        """Seconds that servers keep the lock, counted from the last acquisition or extension."""
        return self._record.kept_ms() / 1000

    @property
    def state(self) -> LeaseState:
        """HELD, UNKNOWN (the last extension or release has reached no quorum), LOST, RELEASED or DETACHED."""
        return LeaseState.LOST if self._engine.forked else self._record.state(self._engine.clock())

    @property
    def _detached(self) -> bool:
        return self._record.state(0.0) is LeaseState.DETACHED

    @property
    def valid(self) -> bool:
        """Whether the lock may still be relied on."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which the lock may still be relied on; 0 when it is over."""
        return 0.0 if self._engine.forked else self._record.remaining(self._engine.clock())

    @property
    def age(self) -> float:
        """Seconds since it was acquired, or adopted."""
        return self._engine.clock() - self._record.since

    @property
    def spare(self) -> int:
        """How many more of its servers may fail before no quorum has it; 0 when it is over."""
        return self._engine.spare(self._record) if self.valid else 0

    @property
    def held_on(self) -> frozenset[str]:
        """Names of the servers known to hold the lock."""
        return frozenset(vote.server for vote in self.votes if vote.vote is Vote.FOR)

    @property
    def votes(self) -> tuple[ServerVote, ...]:
        """Each server's vote in the acquisition or the last successful extension, in the group's order."""
        return self._engine.votes(self._record)

    def raise_if_lost(self) -> None:
        """Raises LeaseLost, which says why, when it is lost; NotHeld when it is the parent process's."""
        if self.state is LeaseState.LOST:
            raise self.loss()

    def loss(self) -> LeaseLost | NotHeld:
        """Of a lost lease: why it is that."""
        engine, record = self._engine, self._record
        if engine.forked:
            return NotHeld(INHERITED, self.resource)
        reason, rest = record.loss(engine.clock())
        text = f"the lease on {quoted(self.resource)} is lost: {rest}"
        return LeaseLost(text, self.resource, engine.group_of(record).name, reason=reason)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {quoted(self.resource)} {self.state.value}, {self.remaining:.3f} s left>"


class AsyncLeaseKeeper(Protocol):
    """What an asyncio lease asks of the supervisor that made it."""

    async def extend(self, resource: Resource, lease: AsyncLease | str, ttl: Seconds) -> Ok[AsyncLease] | Lost:
        """As `AsyncSupervisor.extend`."""

    async def unlock(self, resource: Resource, lease: AsyncLease | str) -> Ok[None] | Lost:
        """As `AsyncSupervisor.unlock`."""


class AsyncLease(HeldLease, Telling[AsyncLeaseEvent]):
    """A lock that was acquired. Made by supervisors and mutexes, for one event loop.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_events", "_supervisor")

    def __init__(self, supervisor: AsyncLeaseKeeper, engine: Engine, record: LeaseRecord) -> None:
        self._supervisor, self._engine, self._record = supervisor, engine, record
        engine.leases.note(self)

    def _make_events(self) -> tuple[AsyncLeaseEvent, AsyncLeaseEvent]:
        """They are asked for the first time."""
        self._events = made = async_events(self._engine, [self._record])
        return made

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

    def detach(self) -> str:
        """Gives the lease away: it is not valid here any more, and neither extended nor released from here.

        Returns a ticket, with which another process can adopt it within its ttl. Whoever has the ticket can release it.

        Raises LeaseLost when it is over, NotHeld when it was released or detached before.
        """
        return detach(self)


class LeaseKeeper(Protocol):
    """What a synchronous lease asks of the supervisor that made it."""

    def extend(self, resource: Resource, lease: Lease | str, ttl: Seconds) -> Ok[Lease] | Lost:
        """As `Supervisor.extend`."""

    def unlock(self, resource: Resource, lease: Lease | str) -> Ok[None] | Lost:
        """As `Supervisor.unlock`."""

    def _give_away(self, lease: Lease) -> str:
        """As `Lease.detach`."""

    def _later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop do something soon."""


class Lease(HeldLease, Telling[LeaseEvent]):
    """A lock that was acquired. Made by supervisors and mutexes; any thread of this process may use it.

    It is `valid` until its time has run out by this machine's clock, or it was released or found to be lost.
    """

    __slots__ = ("_events", "_supervisor")

    def __init__(self, supervisor: LeaseKeeper, engine: Engine, record: LeaseRecord) -> None:
        self._supervisor, self._engine, self._record = supervisor, engine, record
        engine.leases.note(self)

    def _make_events(self) -> tuple[LeaseEvent, LeaseEvent]:
        """They are asked for the first time."""
        self._events = made = events(self._engine, [self._record], self._supervisor._later)
        return made

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

    def detach(self) -> str:
        """Gives the lease away: it is not valid here any more, and neither extended nor released from here.

        Returns a ticket, with which another process can adopt it within its ttl. Whoever has the ticket can release it.

        Raises LeaseLost when it is over, NotHeld when it was released or detached before.
        """
        return self._supervisor._give_away(self)


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
    if isinstance(lease, HeldLease):  # one that was detached knows itself that it is nobody's here
        return lease._record if lease._engine is engine or lease._detached else lease.shared()
    if isinstance(lease, str):
        return Token(lease.encode())
    raise TypeError(f"a lease or its token, a str, not {type(lease).__name__}")


def inherited(lease: object) -> bool:
    """Whether it is a lease of the process that this one was forked from."""
    return isinstance(lease, HeldLease) and lease._engine.forked


def detach(lease: HeldLease) -> str:
    """In the engine's loop: as `AsyncLease.detach`."""
    engine, record = lease._engine, lease._record
    lease.raise_if_lost()
    name, ttl_ms = resource_bytes(record.resource), record.given_ms()
    ticket = Ticket(name, record.token, record.mode, ttl_ms, extends(lease), record.fence)
    if not engine.detach(record):
        what = "detached" if lease.state is LeaseState.DETACHED else "released"
        raise NotHeld(f"{quoted(lease.resource)} was {what} before", lease.resource, engine.group_of(record).name)
    return ticket.written()


def extends(lease: HeldLease) -> bool:
    """Whether it extends itself."""
    watch = lease._engine.group_of(lease._record).watches.get(lease._record.token)
    return watch is not None and watch.extends


def named(resources: Iterable[Resource]) -> str:
    """Resources as text, for messages."""
    return ", ".join(resource_text(resource_bytes(resource)) for resource in resources)


def abandon(held: Holding) -> None:
    """In the engine's loop: gives back what nobody holds any more."""
    for lease in held._parts:
        held._engine.abandon(lease._record)


def abandon_result(result: Ok[Lease] | Refused) -> None:
    """In the engine's loop: gives back what a result holds that nobody receives."""
    if isinstance(result, Ok):
        abandon(result.value)
