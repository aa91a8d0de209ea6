"""Handles that `with` and `async with` acquire and release, for both faces: mutexes, and what all kinds share.

A handle that is entered is noted among the bodies of its owner, the running task or else the thread (`bodies.py`). One
that is used inside the body of another one for the same lock would wait for its own owner:

    its lease is over       it acquires as any other
    not reentrant           WouldDeadlock, at once
    reentrant               it shares the lease, and whoever leaves last releases that
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar
from weakref import ref

from redlock_cluster.core.kinds import Mode, mode_of
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.retry import RETRY, Wait, wait_seconds
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.errors import Contended, NotHeld, QuorumUnavailable, RedlockError, WouldDeadlock
from redlock_cluster.handles.bodies import Bodies, bodies_of, inside_none, running_task
from redlock_cluster.handles.lease import AsyncLease, HeldLease, Holding, Lease, abandon, named
from redlock_cluster.handles.unique import Unique
from redlock_cluster.handles.upkeep import BodyGuard, Held, Upkeep
from redlock_cluster.results import Ok, Refused, value_of

__all__ = ["GIVEN", "AsyncHandle", "AsyncMutex", "Handle", "LockHandle", "Maker", "Mutex", "Releaser"]

_log = logging.getLogger(__name__)

GIVEN: Final = (LeaseState.RELEASED, LeaseState.DETACHED)
"""States in which there is nothing to release."""

_NO_UPGRADE: Final = (
    "a read lock can't become a write lock while others may read: release it first, or begin with a write lock"
)
_NO_DOWNGRADE: Final = "whoever holds it alone may read: use the lease of that one, or release it first"

_FRESH: Final = 2 / 3  # of a handle's validity is left at least of the lease that it shares, as if that extended itself


class Maker(Protocol):
    """What every handle asks of the supervisor that made it."""

    def _locks_on(self) -> object:
        """The options of its deployment: equal for supervisors whose locks are the same."""

    def _fences(self) -> bool:
        """Whether a lock has a fence if the call does not say."""


class LockHandle(Unique, ABC, Generic[Held]):
    """A lock to be, or the one that was acquired with it: one handle for each use.

    resources: what is to be locked, one or more
    terms: the ttl, or how the lease is to be kept
    reentrant: whether it shares the lease of the body that its user is inside of
    mode: "write", or "read" for one of any number of readers
    fenced: whether its leases have a fence; None: as the options say

    lease: what the last acquisition gave, None before
    """

    instead = "make one for each use, in each process"

    _kind: type[Held]  # which leases it can share
    _mend: ClassVar[str] = "use the lease of that one, or make this one with reentrant=True"
    _bodies: Bodies | None = None  # what its user was inside of when it was last entered, itself included

    def __init__(
        self,
        maker: Maker,
        resources: Sequence[Resource],
        terms: Seconds | Upkeep[Held],
        wait: Wait,
        cancel_id: str | None,
        reentrant: bool = False,
        mode: Mode = "write",
        fenced: bool | None = None,
    ) -> None:
        if not isinstance(reentrant, bool):
            raise TypeError(f"reentrant is a bool, not {type(reentrant).__name__}")
        self._maker, self._resources, self._terms, self._wait = maker, resources, terms, wait
        self._cancel_id, self._reentrant = cancel_id, reentrant
        mode_of(mode, fenced)  # raises here what is wrong with it
        self.mode, self._fenced = mode, fenced
        self._acquiring = False
        self.lease: Held | None = None

    @property
    def _mode(self) -> LockMode:
        """Which kind of lock it acquires."""
        return mode_of(self.mode, self._fenced, self._maker._fences())

    def locked(self) -> bool:
        """Whether this handle holds a valid lease; asks no server."""
        return self.lease is not None and self.lease.valid

    def _begin(self) -> None:
        if self._acquiring or self.locked():
            raise RuntimeError("this handle holds or is acquiring already: one handle for each use")
        lease = self.lease
        if lease is not None and lease.state is LeaseState.LOST and self._own():
            self._let_go(lease)  # else it would wait for what servers have of that still
        self._acquiring = True

    @abstractmethod
    def _let_go(self, lease: Held) -> None:
        """Releases without waiting to hear of it; nothing happens to a lease that is over."""

    def _held(self) -> Held:
        if self.lease is None:
            names = named(self._resources)
            raise NotHeld(f"this handle for {quoted(names)} has not acquired anything", names)
        return self.lease

    # --- bodies ----------------------------------------------------------------------------------------------------

    def _outer(self) -> Held | None:
        """The lease to be shared: that of the body for the same lock which its user is inside of, if there is one.

        Raises WouldDeadlock when it may not be shared.
        """
        if inside_none():
            return None
        for resource in self._resources:
            resource_bytes(resource)  # raises what is raised elsewhere, too
        task = running_task()
        bodies = self._bodies = bodies_of(task)
        for name in map(resource_text, self._resources):
            for each in bodies.get(name, ()):
                outer: LockHandle[Any] | None = each()
                lease = None if outer is None else outer._part(name)
                if outer is None or lease is None or not lease.valid:
                    continue
                if outer._maker._locks_on() == self._maker._locks_on():
                    record, mode = lease._record, self._mode
                    same = record.mode is mode.plain and (record.fence is not None or not mode.fenced)
                    if self._reentrant and same and isinstance(lease, self._kind):
                        return lease
                    raise self._would_deadlock(lease, "thread" if task is None else "task")
        return None

    def _part(self, name: str) -> HeldLease | None:
        """The lease on one of its resources."""
        parts = () if self.lease is None else self.lease._parts
        return next((part for part in parts if part.resource == name), None)

    def _would_deadlock(self, lease: HeldLease, owner: str) -> WouldDeadlock:
        name, mend, held, mode = lease.resource, self._mend, lease._record.mode, self._mode
        if held is not mode.plain:
            mend = _NO_UPGRADE if held.shared else _NO_DOWNGRADE
        elif self._reentrant and mode.fenced and lease._record.fence is None:
            mend = "make that one with fenced=True, too: it has no fence that could be shared"
        elif self._reentrant:
            mend = "use the lease of that one, which is asyncio's if this one is not, and can't be shared with it"
        text = f"{quoted(name)} is not locked: this {owner} is inside a `with` for it and would wait for itself; {mend}"
        return WouldDeadlock(text, name, lease._engine.group_of(lease._record).name)

    def _lacking(self, lease: Held) -> Seconds | None:
        """The ttl to which a lease is to be extended before it is shared; None if it is long enough.

        Raises TypeError or ValueError for a ttl that can't be.
        """
        terms, engine = self._terms, lease._engine
        ttl = terms.wanted(engine) if isinstance(terms, Upkeep) else terms
        return None if lease.remaining >= engine.terms(ttl).validity * _FRESH else ttl

    def _enter(self, task: asyncio.Task[Any] | None) -> None:
        """Its user, the running task or else the thread, is inside its body."""
        bodies = self._bodies = bodies_of(task)
        for resource in self._resources:
            name = resource_text(resource)
            inside = bodies.get(name)
            if inside is None:
                bodies[name] = [ref(self)]
            else:
                inside.append(ref(self))

    def _leave(self) -> bool:
        """Its user is not inside its body any more. Returns whether the lease is its own: nobody else shares it.

        Other threads, finalizers and interrupts may come between any two lines, so this may be done again.
        """
        bodies = self._bodies
        if bodies is None:
            return True
        own = True
        for resource in self._resources:
            name = resource_text(resource)
            inside = bodies.get(name)
            if inside is None:
                continue
            if len(inside) == 1 and inside[0]() is self:  # as nearly always
                bodies.pop(name, None)
                continue
            others = [each for each in inside if (handle := each()) is not None and handle is not self]
            if others:
                bodies[name] = others
            else:
                bodies.pop(name, None)
            if self._shared(others, name):
                own = False
        return own

    def _own(self) -> bool:
        """Whether its lease is its own: nobody else shares it."""
        bodies = {} if self._bodies is None else self._bodies
        return not any(self._shared(bodies.get(name, ()), name) for name in map(resource_text, self._resources))

    def _shared(self, inside: Sequence[ref[LockHandle[Any]]], name: str) -> bool:
        """Whether one of these has its lease, and is another one."""
        handles = (handle for each in inside if (handle := each()) is not None and handle is not self)
        return any(self._shares(handle, name) for handle in handles)

    def _shares(self, other: LockHandle[Any], name: str) -> bool:
        """Whether its lease is another handle's, or one of those that the other one has."""
        return other.lease is self.lease or (self.lease is not None and other._part(name) is self.lease)

    def _give_share(self, lease: Held, error: BaseException | None) -> None:
        """Its body has ended, and others share its lease. Raises LeaseLost if it was lost, unless the body raised."""
        self.lease = None
        if error is None:
            lease.raise_if_lost()

    def _gave_share(self) -> bool:
        """Whether it has shared a lease, and given its share back."""
        return self.lease is None and self._bodies is not None


def _tries_once(wait: Wait) -> bool:
    """Whether it is one attempt, and no wait."""
    return wait is not RETRY and wait is not None and wait_seconds(wait) == 0


class AsyncHolding(Holding, Protocol):
    """What an asyncio acquisition gives."""

    async def extend(self, ttl: Seconds | None = None) -> None:
        """As `AsyncLease.extend`."""

    async def release(self) -> None:
        """As `AsyncLease.release`."""


AsyncHeld = TypeVar("AsyncHeld", bound=AsyncHolding)


class AsyncHandle(LockHandle[AsyncHeld]):
    """What `async with` acquires and releases, whatever kind of lock it is."""

    _guard: BodyGuard | None = None
    _cancel_on_loss: bool | None = None

    @abstractmethod
    def _lock(self, wait: Wait) -> Awaitable[Ok[AsyncHeld] | Refused]:
        """Acquires."""

    async def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Acquires as `threading.Lock` does: false when somebody else kept it all the time.

        timeout: seconds; -1 for ever; None what the handle was made with. Not blocking: one attempt.

        Raises QuorumUnavailable for an outage, WaitCancelled, WouldDeadlock instead of waiting for its own task,
        RuntimeError when this handle holds already.
        """
        wait = _acquire_wait(self._wait, blocking, timeout)
        try:
            await self._acquire(wait)
        except Contended as refusal:
            if isinstance(refusal, WouldDeadlock) and not _tries_once(wait):
                raise
            return False
        if self._reentrant:
            self._enter(running_task())
        return True

    async def _acquire(self, wait: Wait) -> AsyncHeld:
        self._begin()
        try:
            shared = self._outer()
            if shared is not None:
                lacking = self._lacking(shared)
                if lacking is not None:
                    await shared.extend(lacking)
                self.lease = shared
                return shared
            self.lease = lease = value_of(await self._lock(wait))
            return lease
        except WouldDeadlock:
            await asyncio.sleep(0)  # whoever tries again and again lets others go on
            raise
        finally:
            self._acquiring = False

    async def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now; left out, the one it has. Raises as `AsyncLease.extend`."""
        await (await self._taken()).extend(ttl)

    async def release(self) -> None:
        """Gives the lock back, or its share. Raises as `AsyncLease.release`, NotHeld when nothing was acquired."""
        lease = await self._taken()
        if self._leave():
            await lease.release()
        else:
            self.lease = None

    def _let_go(self, lease: AsyncHeld) -> None:
        abandon(lease)

    async def _taken(self) -> AsyncHeld:
        if self.lease is None:
            await asyncio.sleep(0)  # whoever tries again and again lets others go on
        return self._held()

    async def __aenter__(self) -> AsyncHeld:
        """Acquires. Raises Contended, WaitCancelled or QuorumUnavailable when that fails.

        WouldDeadlock, a Contended, in the body of another handle for the same lock, unless this one is reentrant.
        """
        lease, terms = await self._acquire(self._wait), self._terms
        task = asyncio.current_task(lease._engine.loop)  # to name the loop saves asyncio a system call
        if self._cancel_on_loss or (self._cancel_on_loss is None and isinstance(terms, Upkeep) and terms.extends):
            self._guard = BodyGuard(lease, task)
        self._enter(task)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases, unless the body did, or gave the lease away.

        Raises LeaseLost when the lease was lost, also when the body was cancelled for that; or logs it if the body
        raised.
        """
        own, guard = self._leave(), self._guard
        if guard is not None:
            self._guard = None
            try:
                guard.__exit__(kind, error, trace)
            except RedlockError:
                if own:
                    abandon(self._held())  # also of what was lost: nobody is inside any more
                raise
        if self._gave_share():
            return
        lease = self._held()
        if not own:
            self._give_share(lease, error)
        if not own or lease.state in GIVEN:
            return
        try:
            await lease.release()
        except RedlockError as problem:
            _complain(problem, error)

    def __del__(self) -> None:
        """Nobody will leave its body any more."""
        self._leave()


class AsyncLocker(Maker, Protocol):
    """What an asyncio handle asks of the supervisor that made it."""

    async def lock(
        self, resource: Resource, ttl: Seconds, *, wait: Wait, mode: Mode, fenced: bool | None, cancel_id: str | None
    ) -> Ok[AsyncLease] | Refused:
        """As `AsyncSupervisor.lock`."""

    async def _lock(
        self,
        resource: Resource,
        terms: Seconds | Upkeep[AsyncLease],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
    ) -> Ok[AsyncLease] | Refused:
        """The same for every kind of lock; terms: the ttl, or how the lease is to be kept."""


class AsyncMutex(AsyncHandle[AsyncLease]):
    """A lock to be: `async with` acquires and releases it. One handle for each use; makers are supervisors."""

    _kind = AsyncLease

    def __init__(
        self,
        supervisor: AsyncLocker,
        resource: Resource,
        terms: Seconds | Upkeep[AsyncLease],
        wait: Wait,
        cancel_id: str | None = None,
        reentrant: bool = False,
        cancel_on_loss: bool | None = None,
        mode: Mode = "write",
        fenced: bool | None = None,
    ) -> None:
        super().__init__(supervisor, (resource,), terms, wait, cancel_id, reentrant, mode, fenced)
        self._supervisor, self._cancel_on_loss = supervisor, cancel_on_loss

    def _lock(self, wait: Wait) -> Awaitable[Ok[AsyncLease] | Refused]:
        terms, supervisor = self._terms, self._supervisor
        if isinstance(terms, Upkeep):
            return supervisor._lock(self._resources[0], terms, wait, self._mode, self._cancel_id)
        return supervisor.lock(
            self._resources[0], terms, wait=wait, mode=self.mode, fenced=self._fenced, cancel_id=self._cancel_id
        )


class SyncHolding(Holding, Protocol):
    """What a synchronous acquisition gives."""

    def extend(self, ttl: Seconds | None = None) -> None:
        """As `Lease.extend`."""

    def release(self) -> None:
        """As `Lease.release`."""


SyncHeld = TypeVar("SyncHeld", bound=SyncHolding)


class Releaser(Maker, Protocol):
    """What every synchronous handle asks of the supervisor that made it."""

    def let_go(self, held: Holding) -> None:
        """Release without waiting to hear of it; nothing happens to a lease that is over."""

    def _interrupt_soon(self) -> None:
        """Have KeyboardInterrupt reach the main thread once more, a little later."""


class Handle(LockHandle[SyncHeld]):
    """What `with` acquires and releases, whatever kind of lock it is."""

    _maker: Releaser
    _inside = False
    lease: SyncHeld | None = None

    @abstractmethod
    def _lock(self, wait: Wait) -> SyncHeld:
        """Acquires; `_receive` gets what that gives. A refusal is raised."""

    def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Acquires as `threading.Lock` does: false when somebody else kept it all the time.

        timeout: seconds; -1 for ever; None what the handle was made with. Not blocking: one attempt.

        Raises QuorumUnavailable for an outage, WaitCancelled, WouldDeadlock instead of waiting for its own thread,
        RuntimeError when this handle holds already.
        """
        wait = _acquire_wait(self._wait, blocking, timeout)
        try:
            self._acquire(wait)
        except Contended as refusal:
            if isinstance(refusal, WouldDeadlock) and not _tries_once(wait):
                raise
            return False
        if self._reentrant:
            self._enter(running_task())
        return True

    def _acquire(self, wait: Wait) -> SyncHeld:
        self._begin()
        before = self.lease
        try:
            shared = self._outer()
            if shared is not None:
                lacking = self._lacking(shared)
                if lacking is not None:
                    shared.extend(lacking)
                self.lease = shared
                return shared
            return self._lock(wait)
        except BaseException:  # KeyboardInterrupt among them: nobody is told that it was acquired nevertheless
            self._acquiring = False
            if self.lease is not None and self.lease is not before and self._leave():
                self._let_go(self.lease)
            self.lease = before
            raise
        finally:
            self._acquiring = False

    def _let_go(self, lease: SyncHeld) -> None:
        self._maker.let_go(lease)

    def _receive(self, lease: SyncHeld) -> None:
        if self._acquiring:
            self.lease = lease
        else:  # the caller has gone, and a second interrupt may have kept it from telling that
            self._let_go(lease)

    def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now; left out, the one it has. Raises as `Lease.extend`."""
        self._held().extend(ttl)

    def release(self) -> None:
        """Gives the lock back, or its share. Raises as `Lease.release`, NotHeld when nothing was acquired."""
        lease = self._held()
        if self._leave():
            lease.release()
        else:
            self.lease = None

    def __enter__(self) -> SyncHeld:
        """Acquires. Raises Contended, WaitCancelled or QuorumUnavailable when that fails.

        WouldDeadlock, a Contended, in the body of another handle for the same lock, unless this one is reentrant.
        """
        self._inside = True
        lease = self._acquire(self._wait)
        self._enter(running_task())
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases, unless the body did, or gave the lease away.

        Raises LeaseLost when the lease was lost, or logs it if the body raised.
        """
        own = self._leave()
        if self._gave_share():
            self._inside = False
            return
        lease = self._held()
        if not own:
            self._inside = False
            self._give_share(lease, error)
            return
        if lease.state not in GIVEN:
            try:
                lease.release()
            except RedlockError as problem:
                self._inside = False
                _complain(problem, error)
        self._inside = False

    def __del__(self) -> None:
        """An interrupt can hit between the body and the release, where no code can catch it."""
        try:
            self._drop()
        except KeyboardInterrupt:  # raised in a finalizer, it would be printed and forgotten
            self._drop()
            self._maker._interrupt_soon()

    def _drop(self) -> None:
        if self._leave() and self._inside and self.lease is not None:
            self._let_go(self.lease)


class Locker(Releaser, Protocol):
    """What a synchronous mutex asks of the supervisor that made it."""

    def _acquire(
        self,
        resource: Resource,
        terms: Seconds | Upkeep[Lease],
        wait: Wait,
        mode: LockMode,
        cancel_id: str | None,
        receive: Callable[[Lease], None],
    ) -> Lease:
        """As `Supervisor.lock`, but a refusal is raised.

        terms: the ttl, or how the lease is to be kept
        receive: gets the lease before the caller wakes, so that no interrupt can come in between
        """


class Mutex(Handle[Lease]):
    """A lock to be: `with` acquires and releases it. One handle for each use; makers are supervisors."""

    _kind = Lease

    def __init__(
        self,
        supervisor: Locker,
        resource: Resource,
        terms: Seconds | Upkeep[Lease],
        wait: Wait,
        cancel_id: str | None = None,
        reentrant: bool = False,
        mode: Mode = "write",
        fenced: bool | None = None,
    ) -> None:
        super().__init__(supervisor, (resource,), terms, wait, cancel_id, reentrant, mode, fenced)
        self._supervisor = supervisor

    def _lock(self, wait: Wait) -> Lease:
        resource, terms = self._resources[0], self._terms
        return self._supervisor._acquire(resource, terms, wait, self._mode, self._cancel_id, self._receive)


def _acquire_wait(wait: Wait, blocking: bool, timeout: Seconds | None) -> Wait:
    """The wait that a mutex's `acquire(blocking, timeout)` stands for. Raises ValueError as `threading.Lock`."""
    if not blocking:
        if timeout is not None and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return 0
    if timeout is None:
        return wait
    return None if timeout == -1 else wait_seconds(timeout)


def _complain(problem: RedlockError, body: BaseException | None) -> None:
    """What leaving a `with` does about a failed release: raises a lost lease unless the body raised; logs the rest."""
    if body is None and not isinstance(problem, QuorumUnavailable):
        raise problem
    _log.warning("%s", problem)
