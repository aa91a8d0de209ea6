"""What one process has: its portal, also after a fork, and a way that remains while the interpreter exits.

Functions registered with `atexit` run in reverse order, so some run after the portal has ended. They may still lock and
release: each of their calls gets a loop of its own, which runs in the calling thread and ends with the call.

A forked child gets a portal of its own. That of its parent is kept aside untouched, because closing what the child
inherited would disturb the parent (both share the kernel's epoll set).
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakSet

from redlock_cluster.threads.calls import Call
from redlock_cluster.threads.portal import CLOSING, Portal, PortalStuck, Resident, halt_daemon, new_loop

__all__ = ["ExitPortal", "interrupt", "portal", "process_lock"]

T = TypeVar("T")

_OWN: Final = "own"


class _Process:
    """What this process has: its portal, and those of its ancestors, which must neither run nor be collected here."""

    lock = threading.RLock()
    portals: dict[str, Portal] = {}  # noqa: RUF012  process-wide on purpose
    inherited: list[Portal] = []  # noqa: RUF012


class ExitPortal:
    """What a call goes through once the interpreter exits: a loop in the calling thread, for this call alone.

    residents: what is closed after the call
    """

    ended = False
    inside = False

    def __init__(self) -> None:
        self.residents: WeakSet[Resident] = WeakSet()

    def call(self, call: Call[T], budget: float = float("inf")) -> T:
        """As `Portal.call`. Raises RuntimeError in a running loop, where there is no thread left to wait for."""
        halt_daemon()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("at exit, no synchronous lock call can be made in a running event loop; await one there")
        loop = new_loop()
        try:
            return loop.run_until_complete(self._run(call, budget))
        except TimeoutError:
            raise PortalStuck("the call was not answered in time") from None
        finally:
            loop.close()

    async def _run(self, call: Call[T], budget: float) -> T:
        ended = asyncio.Event()
        call.sleeper, call.wake = threading.Lock(), lambda _: ended.set()
        try:
            async with asyncio.timeout(budget if budget < threading.TIMEOUT_MAX else None):
                call.begin()
                await ended.wait()
            if call.error is not None:
                raise call.error
            result: T = call.result
            return result
        except BaseException:
            call.abandoned = True
            call.cancel(asyncio.get_running_loop())
            raise
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await asyncio.gather(*(resident.close() for resident in list(self.residents)))

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """Nothing is done later any more."""

    def send(self, call: Call[Any]) -> None:
        """Nothing is done later any more."""


def portal() -> Portal | ExitPortal:
    """This process's portal, started if need be."""
    here = _Process.portals.get(_OWN) or _made()
    return ExitPortal() if here.ended else here


def _made() -> Portal:
    made = Portal()
    here = _Process.portals.setdefault(_OWN, made)  # in one step: another thread, or a finalizer, may do the same
    if here is not made:
        made.stop()
    return here


def process_lock() -> threading.RLock:
    """A lock for changes of process-wide state; a forked child has a fresh one."""
    return _Process.lock


def interrupt() -> None:
    """Have the main thread get SIGINT as by Ctrl-C, even if it sleeps."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _after_fork() -> None:
    _Process.lock = threading.RLock()
    for parents in _Process.portals.values():
        parents.ended = True
        _Process.inherited.append(parents)
    _Process.portals = {}


def _at_exit() -> None:
    here = _Process.portals.get(_OWN)
    if here is not None:
        here.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
