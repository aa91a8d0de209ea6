"""In which order the threads go on whose calls have ended: one wakes the next ("passing the baton", G. R. Andrews).

Woken all at once they would queue for the interpreter's lock. The loop gives that up several times in a turn, and each
time one of them would wake, find it taken again and sleep on. And the first that calls again would have the loop begin
with a single call, where the calls of all of them can leave together.
"""

from __future__ import annotations

import asyncio
from _thread import LockType
from collections import deque
from collections.abc import Callable
from operator import methodcaller

__all__ = ["Baton"]

_OVERDUE = 0.005  # seconds


class Baton:
    """Wakes sleepers in line, each the next, by the lock that it sleeps on.

    resume: has the loop begin the calls that have come; done by the last in line, for all before it
    passing: somebody is on the way who will wake the next, or resume

    Whoever has the baton may be held up (by a signal handler, on a busy machine) or gone. Then, within 10 ms, the loop
    wakes all who are in line and sees what has come.
    """

    __slots__ = ("_first", "_line", "_loop", "_resume", "_wakes", "_watching", "passing")

    def __init__(self, loop: asyncio.AbstractEventLoop, resume: Callable[[], None]) -> None:
        self._loop, self._resume = loop, resume
        self._line: deque[LockType] = deque()
        # One step takes out the first and wakes it: no exception (KeyboardInterrupt) can come between.
        self._wakes = map(methodcaller("release"), iter(self._line.popleft, None))
        self._first: LockType | None = None
        self.passing = self._watching = False

    def give(self, ready: LockType) -> None:
        """In the loop: somebody may go on."""
        if self.passing:
            self._line.append(ready)
            return
        self.passing = True
        if not self._watching:
            self._watch()
        ready.release()

    def go_on(self) -> None:
        """By everybody who is awake again, also by those who gave up: it is the next one's turn."""
        while not self._wake_next():
            self.passing = False
            if not self._line:  # or somebody came while the baton seemed to be on its way
                self._resume()
                return
            self.passing = True

    def _wake_next(self) -> bool:
        if not self._line:
            return False
        try:
            next(self._wakes)
        except IndexError:  # another thread was faster
            return False
        return True

    def _watch(self) -> None:
        self._watching, self._first = True, self._ahead()
        self._loop.call_later(_OVERDUE, self._check)

    def _check(self) -> None:
        """In the loop, every few milliseconds while the baton is on its way: whether the line moves."""
        first, self._first, self._watching = self._first, None, False
        ahead = self._ahead()
        if ahead is first:
            while self._wake_next():
                pass
            self.passing = False
        else:
            self._watch()
        self._resume()

    def _ahead(self) -> LockType | None:
        try:
            return self._line[0]
        except IndexError:
            return None
