"""Many locks at once: groups of leases that are held together, and the handles that acquire them, for both faces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import Wait
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.engine import INHERITED, Engine
from redlock_cluster.errors import LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.handles.events import (
    AsyncLeaseEvent,
    LeaseEvent,
    Telling,
    async_events,
    events,
    joint_remaining,
    joint_state,
)
from redlock_cluster.handles.lease import AsyncLease, HeldLease, Lease, named
from redlock_cluster.handles.mutex import GIVEN, AsyncHandle, Handle, Maker, Releaser
from redlock_cluster.handles.unique import Unique
from redlock_cluster.handles.upkeep import Upkeep
from redlock_cluster.results import Err, Lost, Ok, Refused

__all__ = ["AsyncLeaseGroup", "AsyncMutexMany", "LeaseGroup", "MutexMany", "listed"]

Part = TypeVar("Part", bound=HeldLease)

_WORST_FIRST: Final = (LeaseLost, NotHeld, QuorumUnavailable)
_LEAVE_OUT: Final = "use the lease of that one, and leave it out here"


class HeldGroup(Unique, Generic[Part]):
    """Locks that were acquired together.

    It is `valid` as long as all of them are.
    """

    __slots__ = ("__weakref__", "_engine", "_leases")

    instead = "pass the tokens of its leases, with which anybody can extend and release"

    def __init__(self, engine: Engine, leases: Sequence[Part]) -> None:
        self._engine, self._leases = engine, tuple(leases)

    @property
    def _parts(self) -> Sequence[Part]:
        return self._leases

    @property
    def _records(self) -> list[LeaseRecord]:
        return [lease._record for lease in self._leases]

    @property
    def leases(self) -> tuple[Part, ...]:
        """The leases, in the order in which the resources were named."""
        return self._leases

    @property
    def resources(self) -> tuple[str, ...]:
        """What is locked, in the order in which it was named; bytes that are not UTF-8 appear as surrogates."""
        return tuple(lease.resource for lease in self._leases)

    @property
    def state(self) -> LeaseState:
        """LOST or UNKNOWN if one of the leases is that, RELEASED when all of them are, else HELD."""
        return LeaseState.LOST if self._engine.forked else joint_state(self._records, self._engine.clock())

    @property
    def valid(self) -> bool:
        """Whether all of the locks may still be relied on."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which all of them may still be relied on; 0 when one of them is over."""
        return 0.0 if self._engine.forked else joint_remaining(self._records, self._engine.clock())

    def raise_if_lost(self) -> None:
        """Raises LeaseLost, which says which one and why, when one is; NotHeld when they are the parent process's."""
        if self.state is LeaseState.LOST:
            raise self.loss()

    def loss(self) -> LeaseLost | NotHeld:
        """When one is lost: which one, and why."""
        if self._engine.forked:
            return NotHeld(INHERITED, named(self.resources))
        return next(lease for lease in self._leases if lease.state is LeaseState.LOST).loss()

    def _left(self) -> Sequence[Part]:
        """The leases that were neither released nor given away one by one; all of them when none is left."""
        return [lease for lease in self._leases if lease.state not in GIVEN] or self._leases

    def __repr__(self) -> str:
        names = quoted(named(self.resources))
        return f"<{type(self).__name__} {names} {self.state.value}, {self.remaining:.3f} s left>"


class AsyncGroupKeeper(Protocol):
    """What an asyncio group asks of the supervisor that made it."""

    async def extend_many(
        self, leases: Iterable[AsyncLease], ttl: Seconds | None = None
    ) -> list[Ok[AsyncLease] | Lost]:
        """As `AsyncSupervisor.extend_many`."""

    async def unlock_many(self, leases: Iterable[AsyncLease]) -> list[Ok[None] | Lost]:
        """As `AsyncSupervisor.unlock_many`."""


class AsyncLeaseGroup(HeldGroup[AsyncLease], Telling[AsyncLeaseEvent]):
    """Locks that were acquired together by `mutex_many`, for one event loop.

    It is `valid` as long as all of them are.
    """

    __slots__ = ("_events", "_supervisor")

    def __init__(self, supervisor: AsyncGroupKeeper, engine: Engine, leases: Sequence[AsyncLease]) -> None:
        super().__init__(engine, leases)
        self._supervisor = supervisor

    def _make_events(self) -> tuple[AsyncLeaseEvent, AsyncLeaseEvent]:
        """They are asked for the first time."""
        self._events = made = async_events(self._engine, self._records)
        return made

    async def extend(self, ttl: Seconds | None = None) -> None:
        """Gives all of them a new ttl from now, as far as that goes.

        ttl: seconds; left out, each the one it has

        Raises the worst of what befell any of them, with the rest in its notes; as `AsyncLease.extend`.
        """
        _raise_worst(await self._supervisor.extend_many(self._leases, ttl))

    async def release(self) -> None:
        """Gives all of them back that were not given back before.

        Raises the worst of what befell any of them, with the rest in its notes; as `AsyncLease.release`.
        """
        _raise_worst(await self._supervisor.unlock_many(self._left()))


class GroupKeeper(Protocol):
    """What a synchronous group asks of the supervisor that made it."""

    def extend_many(self, leases: Iterable[Lease], ttl: Seconds | None = None) -> list[Ok[Lease] | Lost]:
        """As `Supervisor.extend_many`."""

    def unlock_many(self, leases: Iterable[Lease]) -> list[Ok[None] | Lost]:
        """As `Supervisor.unlock_many`."""

    def _later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop do something soon."""


class LeaseGroup(HeldGroup[Lease], Telling[LeaseEvent]):
    """Locks that were acquired together by `mutex_many`; any thread of this process may use them.

    It is `valid` as long as all of them are.
    """

    __slots__ = ("_events", "_supervisor")

    def __init__(self, supervisor: GroupKeeper, engine: Engine, leases: Sequence[Lease]) -> None:
        super().__init__(engine, leases)
        self._supervisor = supervisor

    def _make_events(self) -> tuple[LeaseEvent, LeaseEvent]:
        """They are asked for the first time."""
        self._events = made = events(self._engine, self._records, self._supervisor._later)
        return made

    def extend(self, ttl: Seconds | None = None) -> None:
        """Gives all of them a new ttl from now, as far as that goes.

        ttl: seconds; left out, each the one it has

        Raises the worst of what befell any of them, with the rest in its notes; as `Lease.extend`.
        """
        _raise_worst(self._supervisor.extend_many(self._leases, ttl))

    def release(self) -> None:
        """Gives all of them back that were not given back before.

        Raises the worst of what befell any of them, with the rest in its notes; as `Lease.release`.
        """
        _raise_worst(self._supervisor.unlock_many(self._left()))


class AsyncManyLocker(Maker, Protocol):
    """What an asyncio handle for many asks of the supervisor that made it."""

    async def _lock_all(
        self,
        resources: Sequence[Resource],
        terms: Seconds | Upkeep[AsyncLeaseGroup],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
    ) -> Ok[AsyncLeaseGroup] | Refused:
        """Acquire all or none."""


class AsyncMutexMany(AsyncHandle[AsyncLeaseGroup]):
    """Locks to be: `async with` acquires all of them or none. One handle for each use; makers are supervisors."""

    _mend = _LEAVE_OUT

    def __init__(
        self,
        supervisor: AsyncManyLocker,
        resources: Iterable[Resource],
        terms: Seconds | Upkeep[AsyncLeaseGroup],
        wait: Wait,
        cancel_id: str | None = None,
        cancel_on_loss: bool | None = None,
        fenced: bool | None = None,
    ) -> None:
        super().__init__(supervisor, listed(resources, "mutex_many"), terms, wait, cancel_id, fenced=fenced)
        self._supervisor, self._cancel_on_loss = supervisor, cancel_on_loss

    def _lock(self, wait: Wait) -> Awaitable[Ok[AsyncLeaseGroup] | Refused]:
        return self._supervisor._lock_all(self._resources, self._terms, wait, self._mode, self._cancel_id)


class ManyLocker(Releaser, Protocol):
    """What a synchronous handle for many asks of the supervisor that made it."""

    def _acquire_all(
        self,
        resources: Sequence[Resource],
        terms: Seconds | Upkeep[LeaseGroup],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
        receive: Callable[[LeaseGroup], None],
    ) -> LeaseGroup:
        """Acquire all or none; a refusal is raised.

        receive: gets the group before the caller wakes, so that no interrupt can come in between
        """


class MutexMany(Handle[LeaseGroup]):
    """Locks to be: `with` acquires all of them or none. One handle for each use; makers are supervisors."""

    _mend = _LEAVE_OUT

    def __init__(
        self,
        supervisor: ManyLocker,
        resources: Iterable[Resource],
        terms: Seconds | Upkeep[LeaseGroup],
        wait: Wait,
        cancel_id: str | None = None,
        fenced: bool | None = None,
    ) -> None:
        super().__init__(supervisor, listed(resources, "mutex_many"), terms, wait, cancel_id, fenced=fenced)
        self._supervisor = supervisor

    def _lock(self, wait: Wait) -> LeaseGroup:
        return self._supervisor._acquire_all(
            self._resources, self._terms, wait, self._mode, self._cancel_id, self._receive
        )


def listed(resources: Iterable[Resource], taker: str) -> tuple[Resource, ...]:
    """Several resources. Raises TypeError for one, whose characters are not meant.

    taker: what takes them
    """
    if isinstance(resources, (str, bytes)):
        raise TypeError(f"{taker} takes a list of resources, not one {type(resources).__name__}")
    return tuple(resources)


def _raise_worst(results: Iterable[Ok[Any] | Lost]) -> None:
    """Raises the worst error among the results; its notes are the texts of the others."""
    failures = [result.error or RedlockError(result.reason) for result in results if isinstance(result, Err)]
    if failures:
        worst = min(failures, key=_badness)
        for other in failures:
            if other is not worst:
                worst.add_note(f"besides: {other}")
        raise worst


def _badness(error: RedlockError) -> int:
    return next((rank for rank, kind in enumerate(_WORST_FIRST) if isinstance(error, kind)), len(_WORST_FIRST))
