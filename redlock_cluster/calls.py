"""Calls from threads, as the portal's loop runs them.

Most calls wait for one round of the engine. Those need neither a task nor a future: the round tells the call, the call
tells its thread.
"""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.rounds import Waiter
from redlock_cluster.engine.supervisor import Engine
from redlock_cluster.engine.waiting import Wait
from redlock_cluster.errors import LockNotAcquired, RedlockError

__all__ = ["Begun", "Call", "Making", "Operation", "acquiring", "finished", "releasing"]

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
    conclude: called in the loop once the operation is decided; returns the result, or a coroutine that will
    """

    __slots__ = ("conclude", "operation")

    def __init__(self, operation: Operation | None, conclude: Callable[[], T | Coroutine[object, object, T]]) -> None:
        self.operation, self.conclude = operation, conclude


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

    undo: takes back a result that its caller will not receive
    kept: it runs to its end even if its caller has gone, as a release must
    """

    __slots__ = ("_make", "_running", "_undo", "abandoned", "ended", "error", "kept", "ready", "result")

    def __init__(self, make: Callable[[], Making[T]], undo: Callable[[T], object] | None, kept: bool) -> None:
        self._make: Callable[[], Making[T]] | None = make
        self._undo, self.kept = undo, kept
        self.ready = _thread.allocate_lock()
        self.ready.acquire()
        self._running: asyncio.Task[None] | Begun[T] | None = None
        self.abandoned = self.ended = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: starts, once, unless the caller has gone."""
        make, self._make = self._make, None
        if make is not None and (self.kept or not self.abandoned):
            self._guard(lambda: self._follow(make(), loop))

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)

    def _follow(self, making: Making[T], loop: asyncio.AbstractEventLoop) -> None:
        if isinstance(making, Begun):
            operation = making.operation
            if operation is not None and not operation.decided:
                self._running = making
                operation.add_waiter(self)
                return
            result = making.conclude()
            if not isinstance(result, CoroutineType):
                self.result = cast("T", result)
                self._end(None)
                return
            making = result
        self._running = loop.create_task(self._run(making))

    def done(self) -> bool:
        """Whether the call has ended."""
        return self.ended

    def set_result(self, result: None, /) -> None:
        """In the loop: the operation has ended."""
        begun, self._running = self._running, None
        if isinstance(begun, Begun):
            self._guard(lambda: self._follow(begun, asyncio.get_running_loop()))

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
        self.ready.release()

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: the caller has gone."""
        if self.kept:
            self.begin(loop)
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


def acquiring(
    engine: Engine,
    resource: Resource,
    ttl: Seconds,
    wait: Wait,
    told: Callable[[LeaseRecord | LockNotAcquired], T],
) -> Begun[T]:
    """An acquisition whose first attempt was sent. told: makes of the outcome what the caller gets"""
    attempt, limits = engine.begin_acquire(resource, ttl, wait)

    def conclude() -> T | Coroutine[object, object, T]:
        outcome = engine.acquired(attempt, limits)
        return told(outcome) if isinstance(outcome, (LeaseRecord, LockNotAcquired)) else retried(outcome)

    async def retried(later: Coroutine[object, object, LeaseRecord | LockNotAcquired]) -> T:
        return told(await later)

    return Begun(attempt, conclude)


def releasing(
    engine: Engine, resource: Resource, lease: LeaseRecord | Token, told: Callable[[RedlockError | None], T]
) -> Begun[T]:
    """A release that was sent, or why there is nothing to release. told: makes of it what the caller gets"""
    release = engine.begin_release(resource, lease)
    if isinstance(release, RedlockError):
        return Begun(None, lambda: told(release))
    return Begun(release, lambda: told(engine.released(release, resource)))
