"""Where threads sleep until they are woken.

Who wakes a thread by a lock of the `threading` module has the interpreter's lock, which the woken one wants at once. On
a busy core the kernel lets it begin, find that lock taken and sleep again, twice for each time it can go on. CPython's
own locks can also be released without the interpreter's lock, through its stable ABI.
"""

from __future__ import annotations

import _thread
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

try:
    import ctypes

    # A CDLL gives the interpreter's lock up during a call, a PyDLL keeps it. With a handle, its name means nothing.
    _outside = ctypes.CDLL("python", handle=ctypes.pythonapi._handle)
    _acquire, _release_outside = _outside.PyThread_acquire_lock_timed, _outside.PyThread_release_lock
    _allocate, _release = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_release_lock
except (AttributeError, ImportError, MemoryError, OSError):
    NATIVE = False
else:
    NATIVE = True
    _acquire.argtypes, _acquire.restype = (ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int), ctypes.c_int
    _allocate.argtypes, _allocate.restype = (), ctypes.c_void_p
    _release.argtypes, _release.restype = (ctypes.c_void_p,), None
    _release_outside.argtypes, _release_outside.restype = (ctypes.c_void_p,), None

__all__ = ["NATIVE", "LockSpace", "NativeSpace", "Space"]

_ACQUIRED, _INTERRUPTED = 1, 2


class Space(Protocol):
    """A place for one thread. Each wake ends one sleep, also one that has not begun.

    wake: keeps the interpreter's lock, for who has more to do
    hand_over: gives it up meanwhile, so that the woken one may have it at once
    """

    wake: Callable[[], object]
    hand_over: Callable[[], object]

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever. Signal handlers may raise out of it."""


class LockSpace:
    """A lock of the `threading` module, on which greenlets can sleep, too."""

    __slots__ = ("_lock", "hand_over", "wake")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self.wake: Callable[[], object] = self._lock.release
        self.hand_over: Callable[[], object] = self.wake

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever. Signal handlers may raise out of it."""
        return self._lock.acquire(True, seconds)


class NativeSpace:
    """A lock of CPython's C interface, where NATIVE says that there are such.

    Its 32 bytes are never freed: whoever gave up sleeping may still be woken.
    """

    __slots__ = ("_lock", "hand_over", "wake")

    def __init__(self) -> None:
        self._lock: int | None = _allocate()
        if self._lock is None:
            raise MemoryError("no memory for a lock")
        _acquire(self._lock, 0, 0)
        self.wake: Callable[[], object] = partial(_release, self._lock)
        self.hand_over: Callable[[], object] = partial(_release_outside, self._lock)

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever. Signal handlers may raise out of it."""
        until = time.monotonic() + seconds if seconds >= 0 else math.inf
        while True:
            result = _acquire(self._lock, -1 if until == math.inf else int(seconds * 1_000_000), 1)
            if result != _INTERRUPTED:
                return bool(result == _ACQUIRED)
            seconds = max(0.0, until - time.monotonic())  # a signal came, and its handler has run by now
