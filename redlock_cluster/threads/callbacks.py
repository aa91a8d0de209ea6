"""Functions of users that the library calls: in a thread of their own, because they may block or lock in turn.

One thread for the whole process, begun when it is first needed. It is a daemon: it ends with the process, and a forked
child begins one of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

__all__ = ["call_soon"]

_log = logging.getLogger(__name__)

_Due = tuple[Callable[..., object], tuple[object, ...]]


class _Process:
    """The thread of this process, and what it has still to call."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A forked child has neither: they are the parent's."""
        self._guard = threading.Lock()
        self._due: SimpleQueue[_Due] = SimpleQueue()
        self._begun = False

    def put(self, due: _Due) -> None:
        """Have it called."""
        self._due.put(due)
        with self._guard:
            if not self._begun:
                thread = threading.Thread(target=_run, args=(self._due,), name="redlock-cluster: calls", daemon=True)
                with suppress(RuntimeError):  # too many threads: the next call tries again; or the interpreter exits
                    thread.start()
                    self._begun = True


def _run(due: SimpleQueue[_Due]) -> None:
    while True:
        function, arguments = due.get()
        try:
            function(*arguments)
        except BaseException:  # noqa: BLE001  the next one is to be called all the same
            _log.exception("%r failed", function)
        del function, arguments  # a lease among them is over when its user drops it


_process: Final = _Process()


def call_soon(function: Callable[..., object], *arguments: object) -> None:
    """Have a function called soon, after those before it. What it raises is logged."""
    _process.put((function, arguments))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)
