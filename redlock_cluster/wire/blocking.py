"""Calls that block (looking up names, reading files, asking for credentials) in threads of their own.

Not in an executor: a loop's default one belongs to the application, uvloop looks names up in the four threads of libuv,
and threads of `concurrent.futures` are joined at exit, however long they hang. These threads are daemons. Of the calls
with one key only one is under way in the whole process, whoever asks ("singleflight"), so what hangs for ever costs one
thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

__all__ = ["call", "doing"]

T = TypeVar("T")
Outcome = tuple[object, Exception | None]
Waiter = asyncio.Future[Any]


async def call(key: Hashable, function: Callable[[], T], what: str) -> T:
    """Run a function in a thread, or wait for the call with this key that is under way.

    key: equal for calls that may share their outcome
    function: raises only what its callers expect
    what: is being done, for a time-out's text and the thread's name

    Returns or raises what the function does. A caller that gives up leaves it running.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    if _process.join(key, future):
        name = f"redlock-cluster: {what}"
        try:
            threading.Thread(target=_process.run, args=(key, function, what), name=name, daemon=True).start()
        except RuntimeError:  # the interpreter exits, or there are too many threads
            _process.run(key, function, what)
    try:
        with doing(what):
            return await future
    finally:
        _process.leave(key, future)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Give a cancellation a note of what it interrupts, such as "looking up its name"."""
    try:
        yield
    except asyncio.CancelledError as cancelled:
        cancelled.add_note(what)
        raise


class _Process:
    """The calls under way in this process, and who waits for each."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A forked child has none: threads stay behind in the parent."""
        self._guard = threading.RLock()
        self._waiters: dict[Hashable, list[Waiter]] = {}

    def join(self, key: Hashable, waiter: Waiter) -> bool:
        """Add somebody who waits for a call. Returns whether it is still to be made."""
        with self._guard:
            new = key not in self._waiters
            self._waiters.setdefault(key, []).append(waiter)
            return new

    def leave(self, key: Hashable, waiter: Waiter) -> None:
        """Somebody does not wait any more: what hangs for ever must not remember all who ever waited for it."""
        with self._guard:
            waiters = self._waiters.get(key, [])
            if waiter in waiters:
                waiters.remove(waiter)

    def run(self, key: Hashable, function: Callable[[], object], what: str) -> None:
        """Make a call, and tell everybody who waits for it."""
        outcome: Outcome
        try:
            outcome = function(), None
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            outcome = None, _raisable(error, what)
        with self._guard:
            waiters = self._waiters.pop(key)
        for waiter in waiters:
            with suppress(RuntimeError):  # a loop that was closed
                waiter.get_loop().call_soon_threadsafe(_tell, waiter, outcome)


def _raisable(error: BaseException, what: str) -> Exception:
    """The error itself, if it neither ends a loop (SystemExit, greenlets' time-outs) nor is refused by futures."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{what} ended by {type(error).__name__}")


def _tell(waiter: Waiter, outcome: Outcome) -> None:
    value, error = outcome
    if waiter.done():  # it was given up
        return
    if error is None:
        waiter.set_result(value)
    else:
        waiter.set_exception(error)


_process: Final = _Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)
