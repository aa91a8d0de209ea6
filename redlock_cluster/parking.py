"""Where threads sleep until they are woken.

Who wakes a thread by a lock of the `threading` module has the interpreter's lock, which the woken one wants at once. On
a busy core the kernel lets it begin, find that lock taken and sleep again, twice for each time it can go on. CPython's
own locks can also be released without the interpreter's lock, through its stable ABI.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from functools import partial
from typing import Protocol

try:
    import ctypes

    # CDLL gives the interpreter's lock up during a call, PyDLL keeps it.
    _outside = ctypes.CDLL(None, handle=ctypes.pythonapi._handle)
    _acquire, _release = _outside.PyThread_acquire_lock_timed, _outside.PyThread_release_lock
    _allocate = ctypes.pythonapi.PyThread_allocate_lock
except (ImportError, AttributeError):
    NATIVE = False
else:
    NATIVE = True

    _acquire.argtypes, _acquire.restype = (ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int), ctypes.c_int
    _release.argtypes, _release.restype = (ctypes.c_void_p,), None
    _allocate.argtypes, _allocate.restype = (), ctypes.c_void_p

__all__ = ["NATIVE", "LockSpace", "NativeSpace", "Space"]

_ACQUIRED = 1


class Space(Protocol):
    """A place for one thread. Each `wake` ends one `sleep`, also one that has not begun."""

    wake: Callable[[], object]

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever."""


class LockSpace:
    """A lock of the `threading` module; greenlets can sleep there, and signal handlers interrupt a sleep."""

    __slots__ = ("_lock", "wake")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self.wake: Callable[[], object] = self._lock.release

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever."""
        return self._lock.acquire(True, seconds)


class NativeSpace:
    """A lock of CPython's C interface, where NATIVE says that there are such. Signal handlers don't end a sleep.

    Its 32 bytes are never freed: whoever gave up sleeping may still be woken.
    """

    __slots__ = ("_lock", "wake")

    def __init__(self) -> None:
        self._lock = _allocate()
        _acquire(self._lock, 0, 0)
        self.wake: Callable[[], object] = partial(_release, self._lock)

    def sleep(self, seconds: float) -> bool:
        """Until somebody wakes it (true) or the time has passed; -1 for ever."""
        return bool(_acquire(self._lock, -1 if seconds < 0 else int(seconds * 1_000_000), 0) == _ACQUIRED)
