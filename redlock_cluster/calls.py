"""Calls from threads, as the portal's loop runs them.

Most calls wait for one round of the engine. Those need neither a task nor a future: the round tells the call, the call
tells its thread.
"""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.rounds import Waiter
from redlock_cluster.engine.supervisor import Engine
from redlock_cluster.engine.waiting import Wait
from redlock_cluster.errors import LockNotAcquired, RedlockError

__all__ = ["Acquiring", "Begun", "Call", "Making", "Operation", "Releasing", "finished"]

T = TypeVar("T")


class Operation(Protocol):
    """Something under way in the loop; `decided` once it has ended."""

    decided: bool

    def add_waiter(self, waiter: Waiter, /) -> None:
        """Has somebody told when it, which is not decided yet, is."""

    def __await__(self) -> Generator[object, None, None]:
        """Waits until it is decided."""

    def abandon(self) -> None:
        """Nobody wants its outcome any more."""


class Begun(Generic[T]):
    """A call whose operation is under way. Needs no task of its own, unless what comes after it does.

    operation: None when there is nothing to wait for

    Not an ABC, whose `isinstance` costs several times more.
    """

    __slots__ = ("operation",)

    operation: Operation | None

    def conclude(self) -> T | Coroutine[object, object, T]:
        """In the loop, once the operation is decided: the result, or a coroutine that leads to it."""
        raise NotImplementedError


Making: TypeAlias = Begun[T] | Coroutine[object, object, T]
"""What a call starts with in the loop."""


async def finished(making: Making[T]) -> T:
    """What it leads to, waited for in a task. Cancelling it abandons an operation."""
    if not isinstance(making, Begun):
        return await making
    operation = making.operation
    if operation is not None:
        try:
            await operation
        except asyncio.CancelledError:
            operation.abandon()
            raise
    result = making.conclude()
    return await result if isinstance(result, CoroutineType) else cast("T", result)


class Call(Generic[T]):
    """One call on its way: waits in the queue, runs in the loop, ends with a result or an exception.

    make: starts it, in the loop; None once it has been asked to
    undo: takes back a result that its caller will not receive
    kept: it runs to its end even if its caller has gone, as a release must
    wake: asked in the loop to release, soon, the lock that the caller sleeps on
    """

    __slots__ = ("_make", "_running", "_undo", "_wake", "abandoned", "ended", "error", "kept", "ready", "result")

    def __init__(
        self,
        make: Callable[[], Making[T]],
        undo: Callable[[T], object] | None,
        kept: bool,
        wake: Callable[[_thread.LockType], None],
    ) -> None:
        self._make: Callable[[], Making[T]] | None = make
        self._undo, self.kept, self._wake = undo, kept, wake
        self.ready = _thread.allocate_lock()
        self.ready.acquire()
        self._running: asyncio.Task[None] | Begun[T] | None = None
        self.abandoned = self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """In the loop: starts, once, unless the caller has gone."""
        make, self._make = self._make, None
        if make is None or (self.abandoned and not self.kept):
            return
        try:
            making = make()
            if not isinstance(making, Begun):
                self._follow(making)
            elif making.operation is None or making.operation.decided:
                self._conclude(making)
            else:
                self._running = making
                making.operation.add_waiter(self)
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)

    def done(self) -> bool:
        """Whether the call has ended."""
        return self.ended

    def set_result(self, result: None, /) -> None:
        """In the loop: the operation has ended."""
        begun, self._running = self._running, None
        if isinstance(begun, Begun):
            try:
                self._conclude(begun)
            except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
                self._end(error)

    def _conclude(self, begun: Begun[T]) -> None:
        result = begun.conclude()
        if isinstance(result, CoroutineType):
            self._follow(result)
        else:
            self.result = result
            self._end(None)

    def _follow(self, coroutine: Coroutine[object, object, T]) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run(coroutine))

    async def _run(self, coroutine: Coroutine[object, object, T]) -> None:
        try:
            self.result = await coroutine
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.error, self.ended = error, True
        if self.abandoned:
            self._take_back()
        else:
            self._wake(self.ready)

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: the caller has gone."""
        if self.kept:
            self.begin()
        elif self.ended:
            self._take_back()
        elif isinstance(self._running, Begun):
            self.ended = True
            if self._running.operation is not None:
                self._running.operation.abandon()
        elif self._running is not None:
            loop.call_soon(self._running.cancel)  # after its first step: a coroutine must not end unawaited

    def _take_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.error is None:
            undo(cast("T", self.result))


class Acquiring(Begun[T]):
    """An acquisition whose first attempt was sent. told: makes of the outcome what the caller gets"""

    __slots__ = ("_attempt", "_engine", "_limits", "_told")

    def __init__(
        self,
        engine: Engine,
        resource: Resource,
        ttl: Seconds,
        wait: Wait,
        told: Callable[[Engine, LeaseRecord | LockNotAcquired], T],
    ) -> None:
        self._engine, self._told = engine, told
        self._attempt, self._limits = engine.begin_acquire(resource, ttl, wait)
        self.operation = self._attempt

    def conclude(self) -> T | Coroutine[object, object, T]:
        """What it came to, or the attempts that follow."""
        outcome = self._engine.acquired(self._attempt, self._limits)
        if isinstance(outcome, LeaseRecord) or isinstance(outcome, LockNotAcquired):  # noqa: SIM101  a call less
            return self._told(self._engine, outcome)
        return self._again(outcome)

    async def _again(self, attempts: Coroutine[object, object, LeaseRecord | LockNotAcquired]) -> T:
        return self._told(self._engine, await attempts)


class Releasing(Begun[T]):
    """A release that was sent, or why there is nothing to release. told: makes of it what the caller gets"""

    __slots__ = ("_engine", "_release", "_resource", "_told")

    def __init__(
        self, engine: Engine, resource: Resource, lease: LeaseRecord | Token, told: Callable[[RedlockError | None], T]
    ) -> None:
        self._engine, self._resource, self._told = engine, resource, told
        release = self._release = engine.begin_release(resource, lease)
        self.operation = None if isinstance(release, RedlockError) else release

    def conclude(self) -> T:
        """What it came to."""
        release = self._release
        if isinstance(release, RedlockError):
            return self._told(release)
        return self._told(self._engine.released(release, self._resource))
