"""From threads to the engine: one background thread per process that runs an event loop, and a way in and out.

Calls of many threads that arrive together wake the loop once. A call that is interrupted (KeyboardInterrupt) or given
up is cancelled in the loop, and what it acquired nevertheless is undone there. After a fork the child gets a portal of
its own; the parent's is kept aside untouched, because closing what the child inherited would disturb the parent
(both share the kernel's epoll set).
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import logging
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from operator import methodcaller
from typing import Any, TypeVar

from redlock_cluster.errors import ClosedError
from redlock_cluster.threads.baton import Baton
from redlock_cluster.threads.calls import Call, CoroutineCall, Sleeper

__all__ = ["CLOSING", "Portal", "PortalStuck", "inherit", "portal", "process_lock"]

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


class Portal:
    """The loop thread of this process. Made by `portal()`."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._calls: deque[Call[Any]] = deque()
        self._woken = False
        self._baton = Baton(self.loop, self._wake)
        self._in_line: Callable[[Sleeper], object] = self._baton.give
        self._running, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._running.acquire()
        self._ended.acquire()
        self._thread: int | None = None
        self._main = threading.main_thread().ident
        self._exiting = False
        self._closers: dict[object, Callable[[], Coroutine[object, object, None]]] = {}
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

        Raises PortalStuck when the budget and half a second have passed.
        """
        caller = _thread.get_ident()
        if self._exiting or self._thread is None or self._thread == caller:
            self._admit(caller)
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
        if self._exiting:
            self._freeze()
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
        if self._exiting:
            self._freeze()
        if self._thread is None and not self._begun():
            raise PortalStuck("the lock library's thread does not run (under uWSGI set enable-threads)")
        if self._thread == caller:
            raise RuntimeError("a synchronous lock call inside the lock library's own thread would wait for itself")

    def _freeze(self) -> None:
        """The interpreter exits: daemon threads stand still, as it has them do itself a moment later."""
        if _thread.get_ident() == self._main:
            raise ClosedError("the interpreter is exiting")
        while True:
            time.sleep(3600)

    def _begun(self) -> bool:
        """Whether the thread has begun to run; waits for it shortly."""
        if self._running.acquire(True, _STARTING):
            self._running.release()
            return True
        return False

    def _abandon(self, call: Call[T]) -> None:
        call.abandoned = True
        self.later(self._cancel, call)
        self._baton.go_on()  # its turn may have come as it gave up

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Have the loop do something soon, from any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(do, *arguments)

    def _cancel(self, call: Call[T]) -> None:
        self._drain()  # the interrupt may have come before the loop was woken
        call.cancel(self.loop)

    def _wake(self) -> None:
        """Have the loop begin the calls that have come."""
        if self._calls and not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        calls = self._calls
        while calls:
            calls.popleft().begin()

    def on_close(self, owner: object, close: Callable[[], Coroutine[object, object, None]] | None) -> None:
        """Have an owner's coroutine run before the loop ends; None takes that back."""
        if close is None:
            self._closers.pop(owner, None)
        else:
            self._closers[owner] = close

    def close(self) -> None:
        """At exit: closes what runs in the loop, then ends the thread; waits a few seconds at most."""
        if self._thread is None:
            return

        async def close_all() -> None:
            self._exiting = True
            await asyncio.gather(*(close() for close in list(self._closers.values())))

        try:
            self.call(CoroutineCall(close_all), CLOSING)
        except PortalStuck as stuck:
            _log.warning("%s; left behind at exit", stuck)
        else:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._ended.acquire(True, CLOSING)


def _asleep() -> _thread.LockType:
    """Something to sleep on. It is not used again: a caller that gave up may still be woken."""
    asleep = _thread.allocate_lock()
    asleep.acquire()
    return asleep


def _sleep(asleep: _thread.LockType, patience: float) -> None:
    """Sleep until woken. Raises PortalStuck after so many seconds; -1 is for ever."""
    if not (asleep.acquire(True, patience) or asleep.acquire(True, _RESUMED)):
        raise PortalStuck("the lock library's thread did not answer in time")


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists; asyncio's where greenlets stand in for threads, which uvloop's C loop would block."""
    if not _green():
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _green() -> bool:
    """Whether gevent or eventlet has replaced threads."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


class _Process:
    """What this process has: its portal, and those of its ancestors, which must neither run nor be collected here."""

    lock = threading.Lock()
    portal: Portal | None = None
    inherited: list[object] = []  # noqa: RUF012  process-wide on purpose
    warned = False


def portal() -> Portal:
    """This process's portal, started if need be. Warns once when called inside a running loop."""
    here = _Process.portal
    if here is None:
        with _Process.lock:
            here = _Process.portal = _Process.portal or Portal()
    running = asyncio._get_running_loop()
    if running is not None and running is not here.loop and not _Process.warned:
        _Process.warned = True
        warnings.warn(
            "a synchronous lock call blocks the running event loop; use AsyncRedlock or AsyncSupervisor there",
            RuntimeWarning,
            stacklevel=_caller(),
        )
    return here


def _caller() -> int:
    """The stack level, as `warnings.warn` counts in the calling function, of the code that called this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("redlock_cluster."):
        level, frame = level + 1, frame.f_back
    return level


def process_lock() -> threading.Lock:
    """A lock for changes of process-wide state; a forked child has a fresh one."""
    return _Process.lock


def inherit(thing: object) -> None:
    """Keeps something that belongs to the parent process from being collected, and so closed, in a forked child."""
    _Process.inherited.append(thing)


def _after_fork() -> None:
    _Process.lock = threading.Lock()
    if _Process.portal is not None:
        _Process.inherited.append(_Process.portal)
        _Process.portal = None


def _at_exit() -> None:
    if _Process.portal is not None:
        _Process.portal.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
