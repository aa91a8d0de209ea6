"""In which order threads go on whose calls have ended: one wakes the next ("passing the baton", G. R. Andrews).

Only one thread runs Python at a time. If the loop woke all callers at once, they would queue for the interpreter's
lock: the loop gives that up several times in a turn, and each time one of them would wake, find it taken again and
sleep on. And the first that calls again would have the loop begin with a single call, where the calls of all of them
can leave together. So the loop wakes the first alone; each caller, once awake, wakes the next; the last has the loop
begin all calls that have come meanwhile.

    loop: give(a), give(b), give(c)    line: a b c     the loop's turn ends: a is woken
    a: go_on()                         line: c         b is woken
    b: go_on()                         line: -         c is woken
    c: go_on()                                         the loop resumes
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from operator import methodcaller
from typing import Final

from redlock_cluster.threads.calls import Sleeper

__all__ = ["Baton"]

_OVERDUE: Final = 0.005  # seconds in which a line of a hundred threads has passed long ago
_OPEN: Final = 40  # checks, so 0.2 s


class Baton:
    """Has sleepers woken in line, each by the one before.

    loop: the portal's
    resume: has the loop begin the calls that have come; done by the last in line, for all before it

    passing: somebody is on the way who will wake the next, or resume

    Whoever has the baton may be held up or gone, or get the interpreter's lock late, as beside threads that compute all
    the time. Then, within some 10 ms, the loop wakes all who are in line, sees what has come, and for a while has
    nobody wait for anybody.
    """

    __slots__ = ("_given", "_line", "_loop", "_open", "_resume", "_seen", "_wakes", "_watching", "passing")

    def __init__(self, loop: asyncio.AbstractEventLoop, resume: Callable[[], None]) -> None:
        self._loop, self._resume = loop, resume
        self._line: deque[Sleeper] = deque()
        # One step takes out the first and wakes it: no exception from outside can come between.
        self._wakes = map(methodcaller("release"), iter(self._line.popleft, None))
        self._given = self._seen = self._open = 0
        self.passing = self._watching = False

    def give(self, sleeper: Sleeper) -> None:
        """In the loop: somebody may go on, the first in line once the loop has seen what else came in this turn."""
        if self._open:
            sleeper.release()
            return
        self._line.append(sleeper)
        self._given += 1
        if not self.passing:
            self.passing = True
            self._loop.call_soon(self.go_on)
        if not self._watching:
            self._watch()

    def go_on(self) -> None:
        """By everybody who is awake again, also by those who gave up: it is the next one's turn."""
        if not self._wake_next():
            self._finish()

    def _finish(self) -> None:
        self.passing = False
        while self._wake_next():  # who came while the baton seemed to be on its way
            pass
        self._resume()

    def _wake_next(self) -> bool:
        if not self._line:
            return False
        try:
            next(self._wakes)
        except IndexError:  # another thread was faster
            return False
        return True

    def _watch(self) -> None:
        self._watching = True
        self._loop.call_later(_OVERDUE, self._check)

    def _check(self) -> None:
        """In the loop, every few milliseconds while somebody is in line: whether they wait longer than that."""
        self._watching = False
        waiting = len(self._line)
        late = self._given - waiting < self._seen
        self._seen = self._given if waiting else 0
        if self._open:
            self._open -= 1
        elif late:
            self._open = _OPEN
        if self._open or waiting:
            self._watch()
        if late or not waiting:
            self._finish()
        else:
            self._resume()
