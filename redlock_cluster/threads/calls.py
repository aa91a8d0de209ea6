"""Calls from threads, as the portal's loop runs them.

Most calls wait for one operation of an engine. Those need neither a task nor a future: the operation notifies the call,
the call wakes its thread.

    queued --begin--> running --result or error--> ended
    queued, running --cancel--> ended, with what it acquired given back; a `kept` call runs on all the same
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.operation import Operation

__all__ = ["Call", "CoroutineCall", "OperationCall", "Sleeper"]

R = TypeVar("R")
T = TypeVar("T")


class Sleeper(Protocol):
    """What a caller sleeps on: a lock of `_thread` that is held until the caller may go on."""

    def release(self) -> None:
        """Wake the caller; once."""


class Call(ABC, Generic[T]):
    """One call on its way: waits in the queue, runs in the loop, ends with a result or an exception.

    undo: takes back a result that its caller will not receive
    kept: it runs to its end even if its caller has gone, as a release must

    sleeper: what the caller sleeps on
    wake: called in the loop, once, with the sleeper: the caller is to be woken soon
    abandoned: the caller has gone
    ended: there is a result or an error
    """

    __slots__ = ("_begun", "_running", "_undo", "abandoned", "ended", "error", "kept", "result", "sleeper", "wake")

    sleeper: Sleeper
    wake: Callable[[Sleeper], object]

    def __init__(self, undo: Callable[[T], object] | None = None, kept: bool = False) -> None:
        self._undo, self.kept = undo, kept
        self._begun = self.abandoned = self.ended = False
        self._running: asyncio.Task[Any] | Operation[Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """In the loop: start, once, unless the caller has gone."""
        if self._begun or (self.abandoned and not self.kept):
            return
        self._begun = True
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)

    @abstractmethod
    def _start(self) -> None:
        """Begin something that leads to the end."""

    def _follow(self, coroutine: Coroutine[object, object, R], then: Callable[[R], None]) -> None:
        """Go on with what the coroutine returns, or end with what it raises."""
        if self.abandoned and not self.kept:
            coroutine.close()
            self._end(asyncio.CancelledError())
            return
        task = self._running = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(partial(self._task_ended, then))

    def _task_ended(self, then: Callable[[R], None], task: asyncio.Task[R]) -> None:
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
            self.wake(self.sleeper)

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


class CoroutineCall(Call[T]):
    """What a coroutine does.

    make: makes it, in the loop
    """

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


class OperationCall(Call[T]):
    """What an operation of an engine does.

    deployments, name: whose engine; it is started if need be
    start: begins the operation
    then: makes of the operation's result what the caller gets
    """

    __slots__ = ("_deployments", "_engine", "_name", "_operation", "_start_operation", "_then")

    _deployments: Any  # compiled code would insist on the very classes, and tests play them
    _engine: Any
    _operation: Operation[Any]

    def __init__(
        self,
        deployments: Deployments,
        name: str,
        start: Callable[[Engine], Operation[Any]],
        then: Callable[[Engine, Any], T],
        undo: Callable[[T], object] | None = None,
        kept: bool = False,
    ) -> None:
        Call.__init__(self, undo, kept)
        self._deployments, self._name, self._start_operation, self._then = deployments, name, start, then

    def _start(self) -> None:
        engine = self._deployments.engines.get(self._name)
        if engine is None:
            self._follow(self._deployments.engine(self._name), self._go)
        else:
            self._go(engine)

    def _go(self, engine: Any) -> None:
        if self.abandoned and not self.kept:  # while it waited for the engine
            self._end(asyncio.CancelledError())
            return
        self._engine = engine
        self._operation = operation = self._start_operation(engine)
        if operation.decided:
            self._conclude()
        else:
            self._running = operation
            operation.add_waiter(self)

    def _conclude(self) -> None:
        result = self._operation.result()
        if self._operation.decided:
            self._succeed(self._then(self._engine, result))
        else:  # it goes on
            self._running = self._operation
            self._operation.add_waiter(self)

    def done(self) -> bool:
        """As the operation's waiter: whether it waits no more."""
        return self.ended

    def set_result(self, result: None, /) -> None:
        """As the operation's waiter: that is decided."""
        self._running = None
        try:
            self._conclude()
        except BaseException as error:  # noqa: BLE001  it is the caller's, whatever it is
            self._end(error)
