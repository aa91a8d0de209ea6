"""The asyncio face: supervisors, leases and mutexes whose calls are awaited. Decides nothing about locks itself."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Final, ParamSpec, Self, TypeVar, overload

from redlock_cluster.core.kinds import Mode, mode_of
from redlock_cluster.core.lease_record import LeaseRecord, LossReason
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.core.snapshot import ForcedRelease, ListedLock, LockSnapshot
from redlock_cluster.core.ticket import Ticket
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine import bulk
from redlock_cluster.engine.acquire_all import acquire_all
from redlock_cluster.engine.deployments import Deployments, Source
from redlock_cluster.engine.engine import INHERITED, Engine, require_choice
from redlock_cluster.engine.force import force_release
from redlock_cluster.engine.listing import Listing
from redlock_cluster.engine.operation import outcome
from redlock_cluster.engine.quarantine import end_quarantine
from redlock_cluster.engine.snapshot import snapshot
from redlock_cluster.engine.status import Status
from redlock_cluster.errors import LockNotAcquired, NotHeld, RedlockError
from redlock_cluster.handles import decorator
from redlock_cluster.handles.decorator import NO_DEFAULT
from redlock_cluster.handles.election import AsyncElection, AsyncTerm, Candidacy
from redlock_cluster.handles.lease import AsyncLease, inherited, known, records
from redlock_cluster.handles.many import AsyncLeaseGroup, AsyncMutexMany, listed
from redlock_cluster.handles.mutex import AsyncMutex
from redlock_cluster.handles.rwlock import AsyncReadWriteLock
from redlock_cluster.handles.semaphore import AsyncSemaphore
from redlock_cluster.handles.unique import Unique
from redlock_cluster.handles.upkeep import OnLost, Upkeep, terms_of
from redlock_cluster.results import (
    Lost,
    Ok,
    Refused,
    Unavailable,
    extended,
    forced,
    lost,
    refused,
    released,
    value_of,
)

__all__ = ["AsyncSupervisor"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")

_log = logging.getLogger(__name__)

_UNGUARDED: Final = nullcontext()


class AsyncSupervisor(Unique):
    """Locks over the groups of an options file, for one event loop.

    options: path of a YAML file, or a mapping of the same shape. Raises OptionsError with every problem in it.

    Started by `async with`, by `start`, or by the first call. Reconnects lost servers for ever; a server that is down
    is an absent vote, never an exception.
    """

    instead = "make one in each process"
    _scope: str | None = None  # which deployment `start` and `close` concern, None for all

    def __init__(self, options: Source) -> None:
        self._own = Deployments(options)
        self._deployment = self._own.options.default

    @classmethod
    def over(cls, deployments: Deployments, deployment: str | None) -> AsyncSupervisor:
        """The locks of one deployment, of deployments that may have other ports than the real ones."""
        supervisor = AsyncSupervisor.__new__(AsyncSupervisor)
        supervisor._own, supervisor._deployment, supervisor._scope = deployments, deployment, deployment
        return supervisor

    @property
    def _deployments(self) -> Deployments:
        return self._own

    @property
    def _name(self) -> str | None:
        return self._deployment

    async def start(self) -> Self:
        """Connects; returns when each server has connected or failed once (at most `connect_timeout`).

        When every group has its quorum, the other servers are waited for a moment only, and connect in the background.
        """
        await self._deployments.start(self._scope)
        return self

    async def close(self) -> None:
        """Closes every connection once what was sent is answered. Leases still held stay until their ttl.

        What `deployment` gave closes that deployment alone.
        """
        await self._deployments.close(self._scope)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self.start()
            undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def deployment(self, name: str) -> AsyncSupervisor:
        """The locks of another deployment of the same options. Raises OptionsError when there is none of that name.

        It shares the connections of this supervisor; its `start` and `close` concern that deployment alone.
        """
        self._deployments.routing.require(name)
        return AsyncSupervisor.over(self._deployments, name)

    def _locks_on(self) -> object:
        """For handles: the options of the deployment."""
        return self._deployments.routing.options_of(self._name)

    def _fences(self) -> bool:
        """For handles: whether a lock has a fence if the call does not say."""
        return self._deployments.routing.options_of(self._name).fencing

    def _ready(self) -> Engine | None:
        """The engine, None before the start and in a fork."""
        engine = self._own.engines.get(self._deployment)
        return None if engine is None or engine.forked else engine

    async def lock(
        self,
        resource: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
    ) -> Ok[AsyncLease] | Refused:
        """Acquires a lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves; None: as the options say
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever
        mode: "write" to hold it alone, "read" as one of any number of readers. Readers that come let those go first who
            wait to hold it alone
        fenced: whether the lease gets a `fence`, a number by which a store can refuse late writes; None: as the options
            say
        cancel_id: by which `cancel_waiting` can end the wait; many calls may have the same
        auto_extend: whether the lease extends itself until it is released, or nobody refers to it; None: if no ttl is
            given
        max_hold: seconds from the acquisition for which it extends itself at most; None: as the options say
        on_lost: called by the loop with the lease and the LossReason when it is lost

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Err("cancelled") when the wait was ended. Raises
        ValueError or TypeError for misuse, ClosedError.
        """
        if ttl is None or auto_extend is not None or max_hold is not None or on_lost is not None:
            upkeep = Upkeep(ttl, auto_extend, max_hold, on_lost, _soon)
            kind = mode_of(mode, fenced, self._fences())
            return await self._lock(resource, upkeep, wait, kind, cancel_id)
        engine = self._ready() or await self._deployments.engine(self._name)
        acquisition = engine.acquire(resource, ttl, wait, mode_of(mode, fenced, engine.fencing), cancel_id)
        try:  # as `outcome` does, which costs a coroutine more
            while True:
                await acquisition.future(engine.loop)
                acquired = acquisition.result()
                if acquisition.decided:
                    break
        except asyncio.CancelledError:
            acquisition.abandon()
            raise
        return Ok(AsyncLease(self, engine, acquired)) if isinstance(acquired, LeaseRecord) else refused(acquired)

    async def _lock(
        self,
        resource: Resource,
        terms: Seconds | Upkeep[AsyncLease],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
    ) -> Ok[AsyncLease] | Refused:
        """As `lock`, for every kind of lock.

        terms: the ttl, or how the lease is to be kept
        """
        engine = self._ready() or await self._deployments.engine(self._name)
        ttl = terms.begin(engine) if isinstance(terms, Upkeep) else terms
        acquired = await outcome(engine.acquire(resource, ttl, wait, mode, cancel_id), engine.loop)
        if not isinstance(acquired, LeaseRecord):
            return refused(acquired)
        lease = AsyncLease(self, engine, acquired)
        return Ok(terms.granted(lease) if isinstance(terms, Upkeep) else lease)

    async def unlock(self, resource: Resource, lease: AsyncLease | str) -> Ok[None] | Lost:
        """Releases a lock by its lease, or by its token alone.

        Returns Ok(None), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered to know. Raises ValueError for a lease on another resource.
        """
        if inherited(lease):
            return await _not_ours()
        engine = self._ready() or await self._deployments.engine(self._name)
        release = engine.release(resource, known(engine, lease))
        await release.future(engine.loop)  # a release goes on whoever waits for it
        return released(release.result())

    async def extend(self, resource: Resource, lease: AsyncLease | str, ttl: Seconds) -> Ok[AsyncLease] | Lost:
        """Gives a lock a new ttl (seconds from now) by its lease, or by its token alone.

        Returns Ok(lease), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered: the lease then stays valid as long as it was.
        """
        if inherited(lease):
            return await _not_ours()
        engine = self._ready() or await self._deployments.engine(self._name)
        extension = engine.extend(resource, known(engine, lease), ttl)
        found = await outcome(extension, engine.loop)
        if isinstance(found, RedlockError):
            return lost(found)
        if isinstance(lease, AsyncLease) and lease._record is found:
            return Ok(lease)
        other = AsyncLease(self, engine, found)
        other.shared()
        engine.own(found, other)
        return Ok(other)

    @overload
    async def transaction(
        self,
        resource: Resource,
        ttl: Seconds | None,
        fn: Callable[[], Awaitable[T]],
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
    ) -> T | Refused:
        """With an async function."""

    @overload
    async def transaction(
        self,
        resource: Resource,
        ttl: Seconds | None,
        fn: Callable[[], T],
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
    ) -> T | Refused:
        """With a plain function."""

    async def transaction(
        self,
        resource: Resource,
        ttl: Seconds | None,
        fn: Callable[[], T | Awaitable[T]],
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
    ) -> T | Refused:
        """Runs a function, plain or async, under a lock, and unlocks whatever it does; arguments as for `lock`.

        Returns what it returns, or the Err of `lock` without having called it. What it raises passes through. If the
        lease extends itself and is lost, an async function is cancelled, and LeaseLost raised. Otherwise a lease that
        was lost meanwhile is logged as a warning.
        """
        mutex = self.mutex(
            resource,
            ttl,
            wait=wait,
            mode=mode,
            cancel_id=cancel_id,
            auto_extend=auto_extend,
            max_hold=max_hold,
        )
        try:
            lease = await mutex.__aenter__()
        except LockNotAcquired as refusal:
            return refused(refusal.with_traceback(None))
        guard = mutex._guard
        try:
            with guard or _UNGUARDED:
                result = fn()
                return await result if inspect.isawaitable(result) else result
        finally:
            mutex._leave()
            try:
                value_of(await self.unlock(resource, lease))
            except RedlockError as error:
                if guard is None or not guard.raised:
                    _log.warning("%s", error)

    def mutex(
        self,
        resource: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
        cancel_on_loss: bool | None = None,
        reentrant: bool = False,
    ) -> AsyncMutex:
        """A handle for `async with`; arguments as for `lock`.

        cancel_on_loss: whether the body is cancelled when the lease is lost; `async with` then raises LeaseLost. None:
            if the lease extends itself
        reentrant: inside an `async with` of the same task for the same lock, it shares the lease of that, which is
            extended to this one's ttl if less than two thirds of that are left; the other arguments are not used, but
            `cancel_on_loss=True`. Otherwise it is refused there, with WouldDeadlock
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, _soon)
        return AsyncMutex(self, resource, terms, wait, cancel_id, reentrant, cancel_on_loss, mode, fenced)

    def semaphore(
        self,
        resource: Resource,
        permits: int = 5,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
        cancel_on_loss: bool | None = None,
    ) -> AsyncSemaphore:
        """A handle for `async with` that acquires one of so many permits; other arguments as for `mutex`.

        resource: of its own: a mutex of that name has nothing to do with it
        permits: 1 to 64; all processes must name the same number, else PermitsDiffer is raised
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, _soon)
        return AsyncSemaphore(self, resource, permits, terms, wait, cancel_id, cancel_on_loss)

    def rwlock(self, resource: Resource) -> AsyncReadWriteLock:
        """What many may read or one may write: gives handles for `async with`."""
        return AsyncReadWriteLock(self, resource)

    @overload
    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
        cancel_on_loss: bool | None = None,
        reentrant: bool = False,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
        """Contended is raised when somebody else keeps the lock."""

    @overload
    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
        cancel_on_loss: bool | None = None,
        reentrant: bool = False,
        default: D,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R | D]]]:
        """The default is returned then."""

    def synchronized(
        self,
        resource: str,
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        mode: Mode = "write",
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
        cancel_on_loss: bool | None = None,
        reentrant: bool = False,
        default: Any = NO_DEFAULT,
    ) -> Any:
        """Decorates an async function: each call of it runs under a lock of its own.

        resource: a template as for `str.format`, filled from the arguments of the call: "order:{order.id}"
        default: what a call returns, without having run, when somebody else keeps the lock; left out, Contended is
            raised. Outages, cancelled waits and WouldDeadlock are raised in any case
        reentrant: whether the function may call itself, or others that lock the same, while it holds the lock

        The other arguments are those of `mutex`. Raises TypeError or ValueError, when the function is decorated, for a
        template that does not fit it, for plain functions, and for generators.
        """

        def make(named: str) -> AsyncMutex:
            return self.mutex(
                named,
                ttl,
                wait=wait,
                mode=mode,
                cancel_id=cancel_id,
                auto_extend=auto_extend,
                max_hold=max_hold,
                on_lost=on_lost,
                cancel_on_loss=cancel_on_loss,
                reentrant=reentrant,
            )

        return decorator.synchronized_async(resource, make, default)

    def mutex_many(
        self,
        resources: Iterable[Resource],
        ttl: Seconds | None = None,
        *,
        wait: Wait = RETRY,
        fenced: bool | None = None,
        cancel_id: str | None = None,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLeaseGroup] | None = None,
        cancel_on_loss: bool | None = None,
    ) -> AsyncMutexMany:
        """A handle for `async with` that acquires all of these resources or none; other arguments as for `mutex`.

        resources: each once, in any groups and in any order: who waits for others never holds what they wait for
        wait: for all of them together
        on_lost: called with the AsyncLeaseGroup and the LossReason when the first of them is lost
        """
        terms = terms_of(ttl, auto_extend, max_hold, on_lost, _soon)
        return AsyncMutexMany(self, resources, terms, wait, cancel_id, cancel_on_loss, fenced)

    async def _lock_all(
        self,
        resources: Sequence[Resource],
        terms: Seconds | Upkeep[AsyncLeaseGroup],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
    ) -> Ok[AsyncLeaseGroup] | Refused:
        """For handles: all or none."""
        engine = self._ready() or await self._deployments.engine(self._name)
        ttl = terms.begin(engine) if isinstance(terms, Upkeep) else terms
        acquired = await acquire_all(engine, resources, ttl, wait, cancel_id, mode)
        if isinstance(acquired, LockNotAcquired):
            return refused(acquired)
        group = AsyncLeaseGroup(self, engine, [AsyncLease(self, engine, record) for record in acquired])
        return Ok(terms.granted(group) if isinstance(terms, Upkeep) else group)

    def election(
        self,
        name: Resource,
        ttl: Seconds | None = None,
        *,
        wait: Wait = None,
        fenced: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: Callable[[AsyncTerm, LossReason], object] | None = None,
        cancel_on_loss: bool | None = None,
    ) -> AsyncElection:
        """An election of one leader; the leader has the lock of that name, which extends itself.

        name: of the election, and of its lock
        ttl: seconds after which another candidate leads when this one dies; None: as the options say
        wait: of a campaign; None for ever
        fenced: whether each term has a `fence`, as for `lock`
        max_hold: seconds for which a term lasts at most; None: as the options say
        on_lost: called by the loop with the AsyncTerm and the LossReason when a term is lost
        cancel_on_loss: as for `mutex`, of `async with`
        """
        candidacy = Candidacy(name, ttl, max_hold, on_lost, AsyncTerm, _soon)
        return AsyncElection(self, name, candidacy, wait, cancel_on_loss, fenced)

    async def adopt(
        self,
        ticket: str,
        *,
        auto_extend: bool | None = None,
        max_hold: Seconds | None = None,
        on_lost: OnLost[AsyncLease] | None = None,
    ) -> Ok[AsyncLease] | Lost:
        """Takes over a lease that was detached, in this process or in another one. Extends it first.

        ticket: what `detach` gave
        auto_extend: whether it extends itself from now on; None: if it did before
        max_hold, on_lost: as for `lock`, from now on

        Returns Ok(lease), Err("not_held") when its time is over, or Err("unavailable") when too few servers answered:
        it may then be tried again. Raises ValueError for what is no ticket.
        """
        given = Ticket.read(ticket)
        extends = given.extends if auto_extend is None else auto_extend
        upkeep = Upkeep(given.ttl_ms / 1000, extends, max_hold, on_lost, _soon)
        engine = self._ready() or await self._deployments.engine(self._name)
        extension = engine.extend(given.resource, given.token, upkeep.begin(engine), given.mode, given.fence)
        found = await outcome(extension, engine.loop)
        if isinstance(found, RedlockError):
            return lost(found)
        lease = AsyncLease(self, engine, found)
        lease.shared()
        return Ok(upkeep.granted(lease))

    def leases(self) -> list[AsyncLease]:
        """The leases that are held with this supervisor, the oldest first. Asks no server."""
        engine = self._ready()
        held = [] if engine is None else engine.leases.at(engine.clock())
        return [lease for lease in held if isinstance(lease, AsyncLease)]

    def cancel_waiting(self, resource: Resource | None = None, *, cancel_id: str | None = None) -> int:
        """Ends waits of this supervisor's calls: Err("cancelled"), in handles WaitCancelled. Asks no server.

        resource: those for this one; None: for any
        cancel_id: those that were begun with this one; None: all

        What their attempts under way may still get is given back. Calls with `wait=0` and batches do not wait.

        Returns how many waits it ended. Raises TypeError when neither is given.
        """
        require_choice(resource, cancel_id)
        engine = self._ready()
        return 0 if engine is None else engine.cancel_waiting(resource, cancel_id)

    async def lock_many(
        self, resources: Iterable[Resource], ttl: Seconds, *, fenced: bool | None = None
    ) -> list[Ok[AsyncLease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        fenced: as for `lock`

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        wanted, engine = listed(resources, "lock_many"), await self._deployments.engine(self._name)

        def locked(outcomes: list[LeaseRecord | LockNotAcquired]) -> list[Ok[AsyncLease] | Refused]:
            return [Ok(AsyncLease(self, engine, o)) if isinstance(o, LeaseRecord) else refused(o) for o in outcomes]

        return await bulk.acquire_many(engine, wanted, ttl, locked, mode_of("write", fenced, engine.fencing))

    async def extend_many(
        self, leases: Iterable[AsyncLease], ttl: Seconds | None = None
    ) -> list[Ok[AsyncLease] | Lost]:
        """Gives leases a new ttl, all together; left out, each the one it has. As `extend`."""
        engine, leases = await self._deployments.engine(self._name), list(leases)
        outcomes = await bulk.extend_many(engine, records(engine, leases), ttl)
        return [extended(lease, outcome) for lease, outcome in zip(leases, outcomes, strict=True)]

    async def unlock_many(self, leases: Iterable[AsyncLease]) -> list[Ok[None] | Lost]:
        """Releases leases, all together: the results in the order given. As `unlock`."""
        engine = await self._deployments.engine(self._name)
        return [released(error) for error in await bulk.release_many(engine, records(engine, leases))]

    async def is_locked(self, resource: Resource, mode: Mode = "write") -> bool:
        """Whether anybody holds the resource, on a quorum of servers, readers among them.

        mode: "read": whether anybody holds it alone, so that a reader would be refused

        Raises QuorumUnavailable if too few answer.
        """
        engine = await self._deployments.engine(self._name)
        locked = await outcome(engine.inspect(resource, mode_of(mode)), engine.loop)
        if isinstance(locked, bool):
            return locked
        raise locked

    async def inspect(self, resource: Resource, *, permit: int | None = None) -> LockSnapshot:
        """Who holds a resource and who waits for it, as each server of its group says. Changes nothing.

        permit: which one of the semaphore of that name, from 0 on; None: the lock

        Where too few servers answer, it says so itself. It is a moving picture: the lock may change hands between the
        answers of two servers.
        """
        return await snapshot(await self._deployments.engine(self._name), resource, permit)

    async def locks(self, pattern: Resource = "*") -> AsyncIterator[ListedLock]:
        """Goes through the locks of all groups, for `async for`.

        pattern: of resources, as `SCAN … MATCH` takes it

        Each is shown once. Those that are held all the time are shown; those that come or go meanwhile may be or not.
        With `key_prefix: ""` every key of the database counts as a lock.

        Raises QuorumUnavailable when too few servers of a group can be gone through, TypeError for a wrong pattern.
        """
        listing = Listing(pattern)
        engine = await self._deployments.engine(self._name)
        while (page := await listing.page(engine)) is not None:
            for lock in page:
                yield lock

    async def force_release(self, resource: Resource, *, permit: int | None = None) -> Ok[ForcedRelease] | Unavailable:
        """Takes a lock from whoever holds it: for operators. Logged as a warning.

        permit: which one of the semaphore of that name, from 0 on; None: the lock

        Its holder is told that the lease is lost, LossReason.FORCED, and can't take it again; but until it hears that
        it goes on, and excludes nobody. Who waits is told that the lock is free.

        Returns Ok(what was removed), also if nobody held it, or Err("unavailable") when too few servers answered: the
        lock may then be held or not. Call it again.
        """
        engine = await self._deployments.engine(self._name)
        return forced(await force_release(engine, resource, permit))

    async def end_quarantine(self) -> tuple[str, ...]:
        """Has servers grant locks that may have forgotten some: for operators who know that nobody holds any.

        That is so when the servers are used for the first time, while one of them can't be reached, and after all
        clients were stopped. Logged as a warning.

        Returns the names of the servers whose grants count from now on and did not before.
        """
        return await end_quarantine(await self._deployments.engine(self._name))

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._deployments.routing.ring(self._name).group_for(resource)

    def status(self) -> Status:
        """An immutable snapshot: clusters, groups, servers with state, version, latency, errors, reconnects."""
        return self._deployments.status()


def _soon(function: Callable[..., object], *arguments: object) -> None:
    asyncio.get_running_loop().call_soon(function, *arguments)


async def _not_ours() -> Lost:
    """Refuses a lease of the process that this one was forked from; whoever asks again and again lets others go on."""
    await asyncio.sleep(0)
    return lost(NotHeld(INHERITED))
