"""Mutexes: handles that `with` and `async with` acquire and release, for both faces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.retry import Wait, wait_seconds
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Seconds
from redlock_cluster.errors import Contended, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.handles.lease import AsyncLease, HeldLease, Lease
from redlock_cluster.handles.unique import Unique
from redlock_cluster.results import Ok, Refused, value_of

__all__ = ["AsyncMutex", "LockHandle", "Mutex"]

_log = logging.getLogger(__name__)

Held = TypeVar("Held", bound=HeldLease)


class LockHandle(Unique, Generic[Held]):
    """A lock to be, or the one that was acquired with it: one handle for each use.

    lease: what the last acquisition gave, None before
    """

    instead = "make one for each use, in each process"

    def __init__(self, resource: Resource, ttl: Seconds, wait: Wait) -> None:
        self._resource, self._ttl, self._wait = resource, ttl, wait
        self._acquiring = False
        self.lease: Held | None = None

    def locked(self) -> bool:
        """Whether this handle holds a valid lease; asks no server."""
        return self.lease is not None and self.lease.valid

    def _begin(self) -> None:
        if self._acquiring or self.locked():
            raise RuntimeError("this handle holds or is acquiring already: one handle for each use")
        self._acquiring = True

    def _held(self) -> Held:
        if self.lease is None:
            resource = resource_text(resource_bytes(self._resource))
            raise NotHeld(f"this handle for {quoted(resource)} has not acquired anything", resource)
        return self.lease


class AsyncLocker(Protocol):
    """What an asyncio handle asks of the supervisor that made it."""

    async def lock(self, resource: Resource, ttl: Seconds, *, wait: Wait) -> Ok[AsyncLease] | Refused:
        """As `AsyncSupervisor.lock`."""


class AsyncMutex(LockHandle[AsyncLease]):
    """A lock to be: `async with` acquires and releases it. One handle for each use; makers are supervisors."""

    def __init__(self, supervisor: AsyncLocker, resource: Resource, ttl: Seconds, wait: Wait) -> None:
        super().__init__(resource, ttl, wait)
        self._supervisor = supervisor

    async def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Acquires as `threading.Lock` does: false when somebody else kept it all the time.

        timeout: seconds; -1 for ever; None what the handle was made with. Not blocking: one attempt.

        Raises QuorumUnavailable for an outage, RuntimeError when this handle holds already.
        """
        try:
            await self._acquire(_acquire_wait(self._wait, blocking, timeout))
        except Contended:
            return False
        return True

    async def _acquire(self, wait: Wait) -> AsyncLease:
        self._begin()
        try:
            self.lease = lease = value_of(await self._supervisor.lock(self._resource, self._ttl, wait=wait))
            return lease
        finally:
            self._acquiring = False

    async def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now; left out, the one it has. Raises as `AsyncLease.extend`."""
        await (await self._taken()).extend(ttl)

    async def release(self) -> None:
        """Gives the lock back. Raises as `AsyncLease.release`, NotHeld when nothing was acquired."""
        await (await self._taken()).release()

    async def _taken(self) -> AsyncLease:
        if self.lease is None:
            await asyncio.sleep(0)  # whoever tries again and again lets others go on
        return self._held()

    async def __aenter__(self) -> AsyncLease:
        """Acquires. Raises Contended or QuorumUnavailable when that fails."""
        return await self._acquire(self._wait)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases, unless the body did. Raises LeaseLost when the lease had run out, or logs it if the body raised."""
        lease = self._held()
        if lease.state is LeaseState.RELEASED:
            return
        try:
            await lease.release()
        except RedlockError as problem:
            _complain(problem, error)


class Locker(Protocol):
    """What a synchronous handle asks of the supervisor that made it."""

    def _acquire(self, resource: Resource, ttl: Seconds, wait: Wait, receive: Callable[[Lease], None]) -> Lease:
        """As `Supervisor.lock`, but a refusal is raised.

        receive: gets the lease before the caller wakes, so that no interrupt can come in between
        """

    def let_go(self, lease: Lease) -> None:
        """Release without waiting to hear of it; nothing happens to a lease that is over."""

    def _interrupt_soon(self) -> None:
        """Have KeyboardInterrupt reach the main thread once more, a little later."""


class Mutex(LockHandle[Lease]):
    """A lock to be: `with` acquires and releases it. One handle for each use; makers are supervisors."""

    _inside = False
    lease: Lease | None = None

    def __init__(self, supervisor: Locker, resource: Resource, ttl: Seconds, wait: Wait) -> None:
        super().__init__(resource, ttl, wait)
        self._supervisor = supervisor

    def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Acquires as `threading.Lock` does: false when somebody else kept it all the time.

        timeout: seconds; -1 for ever; None what the handle was made with. Not blocking: one attempt.

        Raises QuorumUnavailable for an outage, RuntimeError when this handle holds already.
        """
        try:
            self._acquire(_acquire_wait(self._wait, blocking, timeout))
        except Contended:
            return False
        return True

    def _acquire(self, wait: Wait) -> Lease:
        self._begin()
        before = self.lease
        try:
            return self._supervisor._acquire(self._resource, self._ttl, wait, self._receive)
        except BaseException:  # KeyboardInterrupt among them: nobody is told that it was acquired nevertheless
            self._acquiring = False
            if self.lease is not None and self.lease is not before:
                self._supervisor.let_go(self.lease)
            self.lease = before
            raise
        finally:
            self._acquiring = False

    def _receive(self, lease: Lease) -> None:
        if self._acquiring:  # else the caller has gone, and the lease is given back
            self.lease = lease

    def extend(self, ttl: Seconds | None = None) -> None:
        """Gives the lease a new ttl from now; left out, the one it has. Raises as `Lease.extend`."""
        self._held().extend(ttl)

    def release(self) -> None:
        """Gives the lock back. Raises as `Lease.release`, NotHeld when nothing was acquired."""
        self._held().release()

    def __enter__(self) -> Lease:
        """Acquires. Raises Contended or QuorumUnavailable when that fails."""
        self._inside = True
        return self._acquire(self._wait)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases, unless the body did. Raises LeaseLost when the lease had run out, or logs it if the body raised."""
        lease = self._held()
        if lease.state is not LeaseState.RELEASED:
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
            self._supervisor._interrupt_soon()

    def _drop(self) -> None:
        if self._inside and self.lease is not None:
            self._supervisor.let_go(self.lease)


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
