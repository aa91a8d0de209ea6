"""Leader elections, for both faces: who has a lock that extends itself leads, and whoever waits for it stands by.

    bystander --campaign--> candidate --elected--> leader
    leader --resign, the end of the body--> bystander
    leader --the term is lost--> bystander, who may campaign again
    candidate --resign--> bystander: the campaign ends with WaitCancelled

A loop over an election campaigns anew for each turn, until its body breaks out of it or `resign` is called.

What users of others have tripped over is done otherwise here. A campaign is no session that ends unnoticed: a candidate
comes again by itself (etcd's `Campaign` waits on as nobody). Leading ends with the body, and after a lost term comes
the next campaign (Kubernetes' elector leads on, and gives up for good). A campaign can be ended from outside, and what
it may still get is given back. A resignation that servers do not hear stays pending there (etcd's forgets its key).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from weakref import ref

from redlock_cluster.core.lease_record import LossReason
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.retry import Wait
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.engine import Engine
from redlock_cluster.errors import LeaseLost, RedlockError, WaitCancelled
from redlock_cluster.handles.events import AsyncLeaseEvent, LeaseEvent
from redlock_cluster.handles.lease import AsyncLease, HeldLease, Lease, abandon
from redlock_cluster.handles.mutex import AsyncLocker, AsyncMutex, Locker, Mutex
from redlock_cluster.handles.unique import Unique
from redlock_cluster.handles.upkeep import BodyGuard, Upkeep

__all__ = ["AsyncElection", "AsyncTerm", "Candidacy", "Election", "Term"]

_log = logging.getLogger(__name__)

Part = TypeVar("Part", bound=HeldLease)


class HeldTerm(Unique, Generic[Part]):
    """The time for which somebody leads, from an election on. Terms of one lease are equal.

    lease: by which it is led
    """

    __slots__ = ("lease",)

    instead = "a term belongs to its process; campaign there"

    def __init__(self, lease: Part) -> None:
        self.lease = lease

    @property
    def valid(self) -> bool:
        """Whether it goes on."""
        return self.lease.valid

    @property
    def remaining(self) -> float:
        """Seconds for which it goes on even if no server can be reached any more."""
        return self.lease.remaining

    @property
    def fence(self) -> int | None:
        """Its number, greater than those of all terms before it: a store can refuse who led before. Or None."""
        return self.lease.fence

    @property
    def age(self) -> float:
        """Seconds since the election."""
        return self.lease.age

    def raise_if_lost(self) -> None:
        """Raises LeaseLost, which says why, when it is lost."""
        self.lease.raise_if_lost()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeldTerm) and self.lease is other.lease

    def __hash__(self) -> int:
        return hash(self.lease)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} by {self.lease!r}>"


class AsyncTerm(HeldTerm[AsyncLease]):
    """The time for which somebody leads, from an election on. Terms of one lease are equal.

    `async with term` cancels its body when the term is lost; behind the `with` the code then goes on.

    lease: by which it is led
    """

    __slots__ = ("_guard",)

    def __init__(self, lease: AsyncLease) -> None:
        super().__init__(lease)
        self._guard: BodyGuard | None = None

    @property
    def lost(self) -> AsyncLeaseEvent:
        """Whether it is lost: an event, with `is_set()`, `await wait()`, and a truth value."""
        return self.lease.lost

    @property
    def doubtful(self) -> AsyncLeaseEvent:
        """The same, set earlier: as soon as an extension has reached no quorum, until one reaches it again."""
        return self.lease.doubtful

    async def __aenter__(self) -> AsyncTerm:
        """Raises RuntimeError inside of its body."""
        if self._guard is not None:
            raise RuntimeError("this term guards a body already")
        self._guard = BodyGuard(self.lease, asyncio.current_task())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Takes the cancellation back that it has caused; anything else passes."""
        guard, self._guard = self._guard, None
        assert guard is not None
        try:
            guard.__exit__(kind, error, trace)
        except LeaseLost:
            return True
        return False


class Term(HeldTerm[Lease]):
    """The time for which somebody leads, from an election on. Terms of one lease are equal.

    lease: by which it is led
    """

    __slots__ = ()

    @property
    def lost(self) -> LeaseEvent:
        """Whether it is lost: an event, with `is_set()`, `wait(timeout)`, and a truth value."""
        return self.lease.lost

    @property
    def doubtful(self) -> LeaseEvent:
        """The same, set earlier: as soon as an extension has reached no quorum, until one reaches it again."""
        return self.lease.doubtful


class Candidacy(Upkeep[Part]):
    """How the leases are kept by which somebody leads: they extend themselves.

    name: of the election
    ttl, max_hold, on_lost: as for `AsyncSupervisor.election`
    term: makes one of a lease, for `on_lost`
    soon: as for `Upkeep`

    id: by which the waits of this candidate can be ended, and no others
    stands: whether it may campaign
    """

    __slots__ = ("_name", "id", "stands")

    def __init__(
        self,
        name: Resource,
        ttl: Seconds | None,
        max_hold: Seconds | None,
        on_lost: Callable[[Any, LossReason], object] | None,
        term: Callable[[Part], HeldTerm[Part]],
        soon: Callable[..., object],
    ) -> None:
        super().__init__(ttl, True, max_hold, on_lost, soon)
        if on_lost is not None:
            self._on_lost = partial(_call, on_lost, term)
        self._name, self.id, self.stands = name, f"election-{token_hex(8)}", True

    def begin(self, engine: Engine) -> Seconds:
        """As `Upkeep.begin`. Here, in the loop, a campaign and a resignation meet in some order."""
        if not self.stands:
            name = resource_text(resource_bytes(self._name))
            raise WaitCancelled(f"the campaign for {quoted(name)} was ended", name)
        return super().begin(engine)


def _call(
    on_lost: Callable[[Any, LossReason], object],
    term: Callable[[Part], HeldTerm[Part]],
    lease: Part,
    reason: LossReason,
) -> None:
    on_lost(term(lease), reason)


class AsyncElector(AsyncLocker, Protocol):
    """What an asyncio election asks of the supervisor that made it."""

    def cancel_waiting(self, resource: Resource | None = None, *, cancel_id: str | None = None) -> int:
        """As `AsyncSupervisor.cancel_waiting`."""


class AsyncElection(Unique):
    """An election: at most one candidate leads. One object for each candidate; makers are supervisors.

    `async with election as term` campaigns, and resigns at the end of its body. `async for term in election` does so
    again and again.
    """

    instead = "make one for each candidate, in each process"
    _loop: ref[AsyncGenerator[AsyncTerm, None]] | None = None  # the last one over its terms

    def __init__(
        self,
        supervisor: AsyncElector,
        name: Resource,
        candidacy: Candidacy[AsyncLease],
        wait: Wait,
        cancel_on_loss: bool | None = None,
        fenced: bool | None = None,
    ) -> None:
        self._supervisor, self._candidacy, self._wait = supervisor, candidacy, wait
        self._mutex = AsyncMutex(
            supervisor, name, candidacy, wait, candidacy.id, cancel_on_loss=cancel_on_loss, fenced=fenced
        )

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads; asks no server."""
        return self._mutex.locked()

    @property
    def term(self) -> AsyncTerm | None:
        """The term, while this candidate leads."""
        lease = self._mutex.lease
        return AsyncTerm(lease) if lease is not None and lease.valid else None

    async def campaign(self) -> AsyncTerm:
        """Waits until this candidate leads. Returns the term.

        Raises WaitCancelled when `resign` or `cancel_waiting` ended it, Contended or QuorumUnavailable when the `wait`
        is over, RuntimeError when this candidate leads or campaigns already.
        """
        await self._stand_alone()
        return AsyncTerm(await self._mutex._acquire(self._wait))

    async def resign(self) -> None:
        """Gives the leadership back, or ends the campaign; a loop over the election ends. Without either, does nothing.

        Raises LeaseLost when the term was lost before, QuorumUnavailable when too few servers answered to know.
        """
        mutex, candidacy = self._mutex, self._candidacy
        candidacy.stands = False
        # A campaign that was won in this turn has its lease in the next one; or, if it was won too late, goes on.
        for _ in range(2):
            if mutex._acquiring:
                self._supervisor.cancel_waiting(cancel_id=candidacy.id)
            await asyncio.sleep(0)
        lease = mutex.lease
        if lease is not None and (lease.valid or lease.lost):
            await lease.release()

    async def __aenter__(self) -> AsyncTerm:
        """Campaigns. Raises as `campaign`."""
        await self._stand_alone()
        return AsyncTerm(await self._mutex.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Resigns, unless the body did.

        Raises LeaseLost when the term was lost, also when the body was cancelled for that; or logs it if the body
        raised.
        """
        await self._mutex.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[AsyncTerm]:
        """Terms, one after another, each by a campaign of its own; resigns before the next one, and at the end.

        Ends when `resign` is called. Raises as `campaign`.
        """
        terms = self._terms(self._stand())
        self._loop = ref(terms)
        return terms

    async def _terms(self, before: AsyncLease | None) -> AsyncGenerator[AsyncTerm, None]:
        """before: what `_stand` has given"""
        candidacy, lease = self._candidacy, before
        try:
            if lease is not None:
                await _end_term(lease)
            while candidacy.stands:
                try:
                    lease = await self._mutex._acquire(self._wait)
                except WaitCancelled:
                    if candidacy.stands:
                        raise  # others have ended it
                    return
                if candidacy.stands:
                    yield AsyncTerm(lease)
                await _end_term(lease)
        finally:
            if lease is not None:
                await _end_term(lease)

    def _stand(self) -> AsyncLease | None:
        """From now on it may campaign.

        Returns the lease of a loop that was left, and which asyncio ends a few turns later; to be ended before.
        """
        self._candidacy.stands = True
        left = self._loop is not None and self._loop() is None
        self._loop = None if left else self._loop
        return self._mutex.lease if left else None

    async def _stand_alone(self) -> None:
        """The same, and ends what a loop has left."""
        before = self._stand()
        if before is not None:
            await _end_term(before)


async def _end_term(lease: AsyncLease) -> None:
    """Resign. A term that was lost is over, its loop begins the next one; what servers have of it still goes, too."""
    if not lease.valid:
        abandon(lease)
        return
    try:
        await lease.release()
    except RedlockError as problem:
        _log.warning("%s", problem)


class Elector(Locker, Protocol):
    """What a synchronous election asks of the supervisor that made it."""

    def cancel_waiting(self, resource: Resource | None = None, *, cancel_id: str | None = None) -> int:
        """As `Supervisor.cancel_waiting`."""


class Election(Unique):
    """An election: at most one candidate leads. One object for each candidate; makers are supervisors.

    `with election as term` campaigns, and resigns at the end of its body. `for term in election` does so again and
    again. Other threads may ask it, and resign.
    """

    instead = "make one for each candidate, in each process"

    def __init__(
        self,
        supervisor: Elector,
        name: Resource,
        candidacy: Candidacy[Lease],
        wait: Wait,
        fenced: bool | None = None,
    ) -> None:
        self._supervisor, self._candidacy, self._wait = supervisor, candidacy, wait
        self._mutex = Mutex(supervisor, name, candidacy, wait, candidacy.id, fenced=fenced)

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads; asks no server."""
        return self._mutex.locked()

    @property
    def term(self) -> Term | None:
        """The term, while this candidate leads."""
        lease = self._mutex.lease
        return Term(lease) if lease is not None and lease.valid else None

    def campaign(self) -> Term:
        """Waits until this candidate leads. Returns the term.

        Raises WaitCancelled when `resign` or `cancel_waiting` ended it, Contended or QuorumUnavailable when the `wait`
        is over, RuntimeError when this candidate leads or campaigns already.
        """
        self._candidacy.stands = True
        return Term(self._mutex._acquire(self._wait))

    def resign(self) -> None:
        """Gives the leadership back, or ends the campaign; a loop over the election ends. Without either, does nothing.

        Raises LeaseLost when the term was lost before, QuorumUnavailable when too few servers answered to know.
        """
        mutex, candidacy = self._mutex, self._candidacy
        candidacy.stands = False
        if mutex._acquiring:
            self._supervisor.cancel_waiting(cancel_id=candidacy.id)
        lease = mutex.lease
        if lease is not None and (lease.valid or lease.lost):
            lease.release()

    def __enter__(self) -> Term:
        """Campaigns. Raises as `campaign`."""
        self._candidacy.stands = True
        return Term(self._mutex.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Resigns, unless the body did. Raises LeaseLost when the term was lost, or logs it if the body raised."""
        self._mutex.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Term]:
        """Terms, one after another, each by a campaign of its own; resigns before the next one, and at the end.

        Ends when `resign` is called. Raises as `campaign`.
        """
        self._candidacy.stands = True
        return self._terms()

    def _terms(self) -> Iterator[Term]:
        candidacy = self._candidacy
        try:
            while candidacy.stands:
                try:
                    lease = self._mutex._acquire(self._wait)
                except WaitCancelled:
                    if candidacy.stands:
                        raise  # others have ended it
                    return
                if candidacy.stands:
                    yield Term(lease)
                self._end_term()
        finally:
            self._end_term()

    def _end_term(self) -> None:
        """Resign. A term that was lost is over; what servers have of it still goes, too."""
        lease = self._mutex.lease
        if lease is None:
            return
        try:
            if lease.valid:
                lease.release()
            else:
                self._supervisor.let_go(lease)
        except RedlockError as problem:
            _log.warning("%s", problem)
        except KeyboardInterrupt:  # raised where a loop is left, it would be printed and forgotten
            self._supervisor.let_go(lease)
            self._supervisor._interrupt_soon()
