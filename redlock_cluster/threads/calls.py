"""Calls from threads, as the portal's loop runs them.

Most calls wait for one round of the engine. Those need neither a task nor a future: the round tells the call, the call
tells its thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.acquire import Attempt
from redlock_cluster.engine.deployment import Engine
from redlock_cluster.engine.deployments import Cluster
from redlock_cluster.engine.release import Release
from redlock_cluster.engine.retry import Limits, Wait
from redlock_cluster.engine.round import Waiter
from redlock_cluster.errors import LockNotAcquired, RedlockError
from redlock_cluster.handles.lease import Lease, known, unlocked
from redlock_cluster.results import Lost, Ok
from redlock_cluster.threads.parking import Space

__all__ = ["Acquiring", "Call", "Operation", "Releasing", "Rounds", "Working"]

R = TypeVar("R")
T = TypeVar("T")


class Operation(Protocol):
    """Something under way in the loop; `decided` once it has ended."""

    decided: bool

    def add_waiter(self, waiter: Waiter, /) -> None:
        """Has somebody told when it, which is not decided yet, is."""

    def abandon(self) -> None:
        """Nobody wants its outcome any more."""


class Call(ABC, Generic[T]):
    """One call on its way: waits in the queue, runs in the loop, ends with a result or an exception.

    undo: takes back a result that its caller will not receive
    kept: it runs to its end even if its caller has gone, as a release must
    space: where the caller sleeps; give: asked in the loop, once, to have it woken there soon
    """

    __slots__ = ("_begun", "_running", "_undo", "abandoned", "ended", "error", "give", "kept", "result", "space")

    space: Space
    give: Callable[[Space], object]

    def __init__(self, undo: Callable[[T], object] | None = None, kept: bool = False) -> None:
        self._undo, self.kept = undo, kept
        self._begun = self.abandoned = self.ended = False
        self._running: asyncio.Task[Any] | Operation | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """In the loop: starts, once, unless the caller has gone."""
        if self._begun or (self.abandoned and not self.kept):
            return
        self._begun = True
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)

    @abstractmethod
    def _start(self) -> None:
        """Begins something that leads to the end."""

    def _follow(self, coroutine: Coroutine[object, object, R], then: Callable[[R], None]) -> None:
        """Goes on with what the coroutine returns, or ends with what it raises."""
        if self.abandoned and not self.kept:
            coroutine.close()
            self._end(asyncio.CancelledError())
            return
        task = self._running = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(partial(self._came, then))

    def _came(self, then: Callable[[R], None], task: asyncio.Task[R]) -> None:
        self._running = None
        failure: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is not None:
            self._end(failure)
            return
        try:
            then(task.result())
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)

    def _succeed(self, result: T) -> None:
        self.result = result
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.error, self.ended = error, True
        if self.abandoned:
            self._take_back()
        else:
            self.give(self.space)

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: the caller has gone."""
        running = self._running
        if self.kept:
            self.begin()
        elif self.ended:
            self._take_back()
        elif isinstance(running, asyncio.Task):
            loop.call_soon(running.cancel)  # after its first step: a coroutine must not end unawaited
        elif running is not None:
            self.ended = True
            running.abandon()

    def _take_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.error is None:
            undo(cast("T", self.result))


class Working(Call[T]):
    """What a coroutine does. make: starts it, in the loop"""

    __slots__ = ("_make",)

    def __init__(
        self,
        make: Callable[[], Coroutine[object, object, T]],
        undo: Callable[[T], object] | None = None,
        kept: bool = False,
    ) -> None:
        Call.__init__(self, undo, kept)
        self._make = make

    def _start(self) -> None:
        self._follow(self._make(), self._succeed)


class Rounds(Call[T]):
    """What a round of an engine does, that of a cluster's deployment of this name."""

    __slots__ = ("_cluster", "_name")

    _cluster: Cluster
    _name: str

    @abstractmethod
    def _begin(self, engine: Engine) -> Operation | None:
        """Begins the round, if one is needed."""

    @abstractmethod
    def _conclude(self) -> None:
        """The round is decided: what it came to is the result, or something leads on from there."""

    def _start(self) -> None:
        engine = self._cluster.ready(self._name)
        if engine is None:
            self._follow(self._cluster.engine(self._name), self._go)
        else:
            self._go(engine)

    def _go(self, engine: Engine) -> None:
        if self.abandoned and not self.kept:  # while it waited for the engine
            self._end(asyncio.CancelledError())
            return
        operation = self._begin(engine)
        if operation is None or operation.decided:
            self._conclude()
        else:
            self._running = operation
            operation.add_waiter(self)

    def done(self) -> bool:
        """Whether the call has ended."""
        return self.ended

    def set_result(self, result: None, /) -> None:
        """In the loop: the round has ended."""
        self._running = None
        try:
            self._conclude()
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)


class Acquiring(Rounds[T]):
    """An acquisition. told: makes of the outcome what the caller gets"""

    __slots__ = ("_attempt", "_engine", "_limits", "_resource", "_told", "_ttl", "_wait")

    _attempt: Attempt
    _engine: Engine
    _limits: Limits

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        resource: Resource,
        ttl: Seconds,
        wait: Wait,
        told: Callable[[Engine, LeaseRecord | LockNotAcquired], T],
        undo: Callable[[T], object],
    ) -> None:
        Call.__init__(self, undo)
        self._cluster, self._name = cluster, name
        self._resource, self._ttl, self._wait, self._told = resource, ttl, wait, told

    def _begin(self, engine: Engine) -> Operation:
        self._engine = engine
        attempt, self._limits = engine.begin_acquire(self._resource, self._ttl, self._wait)
        self._attempt = attempt
        return attempt

    def _conclude(self) -> None:
        outcome = self._engine.acquired(self._attempt, self._limits)
        if isinstance(outcome, LeaseRecord) or isinstance(outcome, LockNotAcquired):  # noqa: SIM101  a call less
            self._tell(outcome)
        else:
            self._follow(outcome, self._tell)

    def _tell(self, outcome: LeaseRecord | LockNotAcquired) -> None:
        self._succeed(self._told(self._engine, outcome))


class Releasing(Rounds[Ok[None] | Lost]):
    """A release."""

    __slots__ = ("_engine", "_lease", "_release", "_resource")

    _engine: Engine
    _release: Release | RedlockError

    def __init__(self, cluster: Cluster, name: str, resource: Resource, lease: Lease | str) -> None:
        Call.__init__(self, None, True)
        self._cluster, self._name = cluster, name
        self._resource, self._lease = resource, lease

    def _begin(self, engine: Engine) -> Operation | None:
        self._engine = engine
        release = self._release = engine.begin_release(self._resource, known(engine, self._lease))
        return None if isinstance(release, RedlockError) else release

    def _conclude(self) -> None:
        release = self._release
        if isinstance(release, RedlockError):
            self._succeed(unlocked(release))
        else:
            self._succeed(unlocked(self._engine.released(release, self._resource)))
