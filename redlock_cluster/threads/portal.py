"""From threads to the engine: one background thread that runs an event loop, and a way in and out.

Calls of many threads that arrive together wake the loop once. A call that is interrupted (KeyboardInterrupt) or given
up is cancelled in the loop, and what it acquired nevertheless is undone there.

Python may run other code between any two lines here: a finalizer that the collector calls, a signal handler, a trace
function. That code may lock in turn, in this thread, and must not wait for something that this thread does only
afterwards. So nobody promises to wake the loop and then does it: that it was woken is noted when it was.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from operator import methodcaller
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from redlock_cluster.errors import ClosedError
from redlock_cluster.threads.baton import Baton
from redlock_cluster.threads.calls import Call, CoroutineCall, Sleeper

__all__ = ["CLOSING", "InsidePortal", "Portal", "PortalStuck", "Resident", "halt_daemon", "new_loop"]

T = TypeVar("T")

_at_once = methodcaller("release")

_log = logging.getLogger(__name__)

_STARTING = 0.5  # seconds; a thread that does not run by then never will
_SPARE = 0.25  # seconds that a call may take beyond what its policy says
_LONGEST = threading.TIMEOUT_MAX - _SPARE
_RESUMED = 0.25  # seconds more for the loop's thread, if the whole process stood still meanwhile
CLOSING = 5.0
"""Seconds that closing may take at most."""


class PortalStuck(Exception):
    """The loop thread did not answer in time."""


class InsidePortal(RuntimeError):
    """The call came from the loop thread itself, which can't wait for it."""


class Resident(Protocol):
    """What lives in the portal's loop."""

    def close(self) -> Coroutine[object, object, None]:
        """Closes it."""


class _Errand:
    """What is done in its turn among the calls, and nobody waits for.

    loop: hears of what it raises
    """

    __slots__ = ("_arguments", "_do", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, do: Callable[..., object], *arguments: object) -> None:
        self._loop, self._do, self._arguments = loop, do, arguments

    def begin(self) -> None:
        """In the loop: do it."""
        try:
            self._do(*self._arguments)
        except Exception as error:  # noqa: BLE001  the calls behind it must begin all the same
            self._loop.call_exception_handler({"message": f"{self._do!r} failed", "exception": error})


class Portal:
    """A loop and its thread. The one of a process is `process.portal()`.

    loop: runs in the thread
    residents: what is closed before the loop ends
    ended: nothing is begun any more, because the interpreter exits, or it is the parent's of a forked child
    """

    def __init__(self) -> None:
        self.loop = new_loop()
        self.residents: WeakSet[Resident] = WeakSet()
        self.ended = self._warned = False
        self._calls: deque[Call[Any] | _Errand] = deque()
        self._drained, self._woken_after = 0, -1  # how often calls were begun; and how often when it was last woken
        self._baton = Baton(self.loop, self._wake)
        self._in_line: Callable[[Sleeper], object] = self._baton.give
        self._running, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._running.acquire()
        self._ended.acquire()
        self._thread: int | None = None
        self._main = threading.main_thread().ident
        # Not threading.Thread: its start() waits without limit for a thread that may never run (uWSGI).
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self._thread = _thread.get_ident()
        threading.current_thread().name = "redlock-cluster"
        asyncio.set_event_loop(self.loop)
        self._running.release()
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()
            self._ended.release()

    def call(self, call: Call[T], budget: float = float("inf")) -> T:
        """Run a call in the loop; return its result or raise its exception.

        call: what is to be done; when its caller is interrupted, it is cancelled, or its result taken back
        budget: seconds that it may take; infinite by default

        Raises PortalStuck when the budget and half a second have passed, InsidePortal in the portal's own thread.
        """
        caller = _thread.get_ident()
        if self.ended or self._thread is None or self._thread == caller:
            self._admit(caller)
        if not self._warned:
            self._warn_in_coroutine()
        patience = budget + _SPARE if budget < _LONGEST else -1
        try:
            if caller == self._main:
                self._sleep_alone(call, patience)
            else:
                self._sleep_in_line(call, patience)
            if call.error is None:
                result: T = call.result
                return result
        except BaseException:  # KeyboardInterrupt among them: whoever leaves without the result leaves nothing behind
            self._abandon(call)
            raise
        if self.ended:
            halt_daemon()
        try:
            raise call.error
        finally:
            del call  # its error's traceback holds this frame

    def _sleep_alone(self, call: Call[T], patience: float) -> None:
        """For the main thread: its signal handlers may call in turn, so neither it nor the line waits for the other."""
        asleep = _asleep()
        call.sleeper, call.wake = asleep, _at_once
        self._calls.append(call)
        self.loop.call_soon_threadsafe(self._drain)
        _sleep(asleep, patience)

    def _sleep_in_line(self, call: Call[T], patience: float) -> None:
        """For all other threads: they go on one after the other."""
        baton, asleep = self._baton, _asleep()
        call.sleeper, call.wake = asleep, self._in_line
        self._calls.append(call)
        if not baton.passing:  # else the last in line wakes the loop
            self._wake()
        _sleep(asleep, patience)
        if baton.passing:
            baton.go_on()

    def _admit(self, caller: int) -> None:
        """Before a call: raise unless the loop's thread runs, and is another."""
        if self.ended:
            halt_daemon()
            raise ClosedError("the interpreter is exiting")
        if self._thread is None and not self._begun():
            raise PortalStuck("the lock library's thread does not run (under uWSGI set enable-threads)")
        if self._thread == caller:
            raise InsidePortal("a synchronous lock call inside the lock library's own thread would wait for itself")

    def _warn_in_coroutine(self) -> None:
        """Warn once when a coroutine calls, whose loop stands still meanwhile."""
        if asyncio._get_running_loop() is not None:
            self._warned = True
            text = "a synchronous lock call blocks the running event loop; use AsyncRedlock or AsyncSupervisor there"
            warnings.warn(text, RuntimeWarning, stacklevel=_caller())

    def _begun(self) -> bool:
        """Whether the thread has begun to run; waits for it shortly."""
        if self._running.acquire(True, _STARTING):
            self._running.release()
            return True
        return False

    def _abandon(self, call: Call[T]) -> None:
        call.abandoned = True
        self.later(call.cancel, self.loop)
        self._baton.go_on()  # its turn may have come as it gave up

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop do something soon, from any thread; after the calls before it, and before those after it.

        What a caller gives back must leave before what it asks for next: the lock may be the same.
        """
        if not self.loop.is_closed():
            self._calls.append(_Errand(self.loop, do, *arguments))
            self.loop.call_soon_threadsafe(self._drain)

    def _wake(self) -> None:
        """Have the loop begin the calls that have come, unless it was woken since it last did.

        Whoever calls while this is under way finds that it was not woken yet, and wakes it once more.
        """
        drained = self._drained
        if self._calls and self._woken_after != drained:
            self.loop.call_soon_threadsafe(self._drain)
            self._woken_after = drained

    def _drain(self) -> None:
        self._drained += 1
        calls = self._calls
        while calls:
            calls.popleft().begin()

    @property
    def inside(self) -> bool:
        """Whether this is the portal's own thread, which can't wait for a call."""
        return self._thread == _thread.get_ident()

    def send(self, call: Call[Any]) -> None:
        """Have a call begin soon, from any thread; nobody waits for what it comes to."""
        call.abandoned = True
        self.later(call.begin)

    def close(self) -> None:
        """Close what lives in the loop, then end the thread; waits `CLOSING` at most."""
        if self._thread is None:
            return
        end = time.monotonic() + CLOSING

        async def close_all() -> None:
            self.ended = True
            await asyncio.gather(*(resident.close() for resident in list(self.residents)))

        try:
            self.call(CoroutineCall(close_all), CLOSING)
        except PortalStuck as stuck:
            _log.warning("%s; left behind at exit", stuck)
        else:
            self.stop()
            self._ended.acquire(True, max(0.0, end - time.monotonic()))

    def stop(self) -> None:
        """End the thread as it is."""
        self.later(self.loop.stop)


def _asleep() -> _thread.LockType:
    """Something to sleep on. It is not used again: a caller that gave up may still be woken."""
    asleep = _thread.allocate_lock()
    asleep.acquire()
    return asleep


def _sleep(asleep: _thread.LockType, patience: float) -> None:
    """Sleep until woken. Raises PortalStuck after so many seconds; -1 is for ever."""
    if not (asleep.acquire(True, patience) or asleep.acquire(True, _RESUMED)):
        raise PortalStuck("the lock library's thread did not answer in time")


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it exists; asyncio's where greenlets stand in for threads, which uvloop's C loop would block."""
    if not _green():
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def halt_daemon() -> None:
    """The interpreter exits: daemon threads go no further, as it has them do itself a moment later."""
    while threading.current_thread().daemon:
        time.sleep(3600)


def _caller() -> int:
    """The stack level, as `warnings.warn` counts in the calling function, of the code that called this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("redlock_cluster."):
        level, frame = level + 1, frame.f_back
    return level


def _green() -> bool:
    """Whether gevent or eventlet has replaced threads."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )
