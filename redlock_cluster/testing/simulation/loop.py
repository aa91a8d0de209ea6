"""An event loop whose time is virtual, and simulated processes that run in it.

When nothing is ready the loop jumps to the next timer. Models: trio's `MockClock` with autojump, FoundationDB's
simulator. What would leave the simulation (sockets, threads, subprocesses, signals) is not implemented: it raises
NotImplementedError. The order of everything follows from what the program schedules: calls run first in, first out,
timers by their time and then first in, first out.

A process is a context variable: what is scheduled from inside it belongs to it, tasks of tasks and timers too. While it
stands still its timers fire late and what arrives for it waits unread, as for a process that was stopped (SIGSTOP),
starved or swapped out. A dead process never runs again, not even its `finally`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

if TYPE_CHECKING:  # for typeshed the methods that asyncio's abstract loop answers with NotImplementedError are missing
    _Base = asyncio.SelectorEventLoop
else:
    _Base = asyncio.AbstractEventLoop

__all__ = ["OWNER", "Process", "Stalled", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Report = dict[str, Any]

OWNER: ContextVar[Process | None] = ContextVar("OWNER", default=None)
"""The process that the running code belongs to; None outside of all."""


class Process:
    """One simulated process of a loop.

    loop: where it runs
    name: for messages

    running: neither paused nor dead
    dead: it was killed
    context: what runs in it belongs to the process
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.running = True
        self.dead = False
        self.context: Context = copy_context()
        self.context.run(OWNER.set, self)
        self._loop = loop
        self._postponed: list[asyncio.Handle] = []

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Runs a coroutine as a task of this process.

        name: of the task, for messages
        """
        context = self.context.run(copy_context)
        return self._loop.create_task(coroutine, name=name, context=context)

    def postpone(self, call: asyncio.Handle) -> None:
        """Keeps a call until the process runs again; for the loop."""
        self._postponed.append(call)

    def pause(self) -> None:
        """From now on it stands still."""
        self.running = False

    def resume(self, timers_first: bool = False) -> None:
        """It runs again.

        timers_first: timers that are due run before what has arrived is read; else after that
        """
        if not self.dead:
            self._run(timers_first)

    def _run(self, timers_first: bool) -> None:
        self.running = True
        calls, self._postponed = self._postponed, []
        timers: list[asyncio.Handle] = [call for call in calls if isinstance(call, asyncio.TimerHandle)]
        others = [call for call in calls if not isinstance(call, asyncio.TimerHandle)]
        self._loop.resume(timers + others if timers_first else others + timers)

    def kill(self) -> None:
        """It ends: nothing of it ever runs again. The network ends its connections."""
        self.running, self.dead = False, True

    def bury(self) -> None:
        """Lets what is left of it run to its end, after the simulation."""
        self._run(timers_first=False)


class Stalled(RuntimeError):
    """Nothing is ready and no timer is set, so the program waits for ever."""


class _Soon(asyncio.Handle):
    """A call that is ready.

    process: to which it belongs
    """

    __slots__ = ("process",)
    process: Process | None


class _Later(asyncio.TimerHandle):
    """A call at a time.

    process: to which it belongs
    """

    __slots__ = ("process",)
    process: Process | None


class VirtualLoop(_Base):
    """An event loop in virtual time. `run_until_complete`, or `asyncio.Runner(loop_factory=VirtualLoop)`, runs it.

    start: seconds at which its time begins
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._ready: deque[_Soon | _Later] = deque()
        self._timers: list[tuple[float, int, _Later]] = []
        self._numbers = count()
        self._running = self._stopping = self._closed = False
        self._handler: Callable[[asyncio.AbstractEventLoop, Report], object] | None = None
        self.faults: list[Report] = []
        """What call-backs raised and nobody handled, in order, while no exception handler is set."""

    # --- time ------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Runs a call-back in the next turn."""
        call = _Soon(callback, args, self, context)
        call.process = OWNER.get() if context is None else context.get(OWNER)
        self._ready.append(call)
        return call

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """The same: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs a call-back after so many virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Runs a call-back at a virtual time."""
        call = _Later(when, callback, args, self, context)
        call.process = OWNER.get() if context is None else context.get(OWNER)
        heappush(self._timers, (when, next(self._numbers), call))
        return call

    # --- running ---------------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Runs until `stop`. Raises Stalled when nothing can happen any more."""
        if self._running or self._closed:
            raise RuntimeError("this loop is closed" if self._closed else "this loop is running already")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("another loop is running in this thread")
        self._running = True
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._left)
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._running = self._stopping = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _left(self, generator: AsyncGenerator[Any, None]) -> None:
        """Nobody refers any more to a generator that has not ended: ends it, as asyncio does."""
        self.call_soon(self.create_task, generator.aclose())

    def _turn(self) -> None:
        """Runs what is ready or due; if nothing is ready, time first jumps to the next timer."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not ready:
            if not timers:
                raise Stalled("nothing is scheduled, so what is waited for can never come")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            call = ready.popleft()
            if call._cancelled:
                continue
            process = call.process
            if process is None or process.running:
                call._run()
            else:
                process.postpone(call)

    def resume(self, calls: list[asyncio.Handle]) -> None:
        """Makes ready what a process could not run while it stood still. For `Process`."""
        self._ready.extend(calls)  # type: ignore[arg-type]  # they are this loop's

    def run_until_complete(self, future: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:  # type: ignore[override]
        """Runs until a coroutine or future is done.

        Returns its result. Raises Stalled when it can never be done.
        """
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._finished)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(self._finished)
        return task.result()

    def _finished(self, _: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends `run_forever` after this turn."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether it runs."""
        return self._running

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Forgets everything that is scheduled."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        """Does nothing: asynchronous generators end when nobody refers to them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Does nothing: there are no threads."""

    # --- tasks and futures -----------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """A task of this loop."""
        return asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)

    def get_task_factory(self) -> None:
        """There is none."""

    def get_debug(self) -> bool:
        """False: asyncio's debug mode reads the real clock."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Does nothing."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is skipped at its time."""

    # --- errors ----------------------------------------------------------------------------------------------------

    def set_exception_handler(self, handler: Callable[[asyncio.AbstractEventLoop, Report], object] | None) -> None:
        """Sets who gets what call-backs raise; None: it is kept in `faults`."""
        self._handler = handler

    def get_exception_handler(self) -> Callable[[asyncio.AbstractEventLoop, Report], object] | None:
        """Who gets what call-backs raise."""
        return self._handler

    def default_exception_handler(self, context: Report) -> None:
        """Keeps what a call-back raised in `faults`."""
        self.faults.append(context)

    def call_exception_handler(self, context: Report) -> None:
        """Reports what a call-back raised."""
        if self._handler is None:
            self.default_exception_handler(context)
        else:
            self._handler(self, context)
