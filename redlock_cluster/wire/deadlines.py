"""Until when answers are waited for: one timer for everything that is under way."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from redlock_cluster.wire.ports import Clock

__all__ = ["Deadlines", "Expiring"]

GRACE = 0.001
"""The least that is waited after a deadline, seconds."""


_NOW_AND_THEN = 63  # what is answered is thrown out whenever 64 more have come


class Expiring(Protocol):
    """What waits for answers until its deadline."""

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not answered."""

    def expire(self) -> None:
        """The deadline has passed; nobody waits for these any more."""


class Deadlines:
    """What waits for answers, by its deadline, with one timer: most of it is long answered when that fires.

    loop, clock: the engine's

    A deadline alone condemns nobody. When the timer finds something due, the process may have been suspended or busy:
    the commands may have left late, and replies may lie unread in the sockets. So what is due waits once more, as long
    as the timer was late and GRACE at least, and expires only when it was due before that wait.
    """

    __slots__ = ("_clock", "_condemned", "_early", "_loop", "_number", "_steady", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock
        self._steady: deque[tuple[float, Expiring]] = deque()  # in the order of their deadlines
        self._early: list[tuple[float, int, Expiring]] = []  # a heap of those due before one that came earlier
        self._number = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._condemned = float("-inf")  # deadlines up to here have had their second wait

    def add(self, deadline: float, waiting: Expiring) -> None:
        """Expire `waiting` at the deadline, engine time, unless it is answered before."""
        steady = self._steady
        if not len(steady) & _NOW_AND_THEN:
            while steady and not steady[0][1].outstanding:
                steady.popleft()
        if not steady or deadline >= steady[-1][0]:
            steady.append((deadline, waiting))
        else:
            while self._early and not self._early[0][2].outstanding:
                heappop(self._early)
            heappush(self._early, (deadline, next(self._number), waiting))
        if self._timer is None or deadline < self._timer_at:
            self._arm(deadline)

    def close(self) -> None:
        """Expire everything that still waits."""
        if self._timer is not None:
            self._timer.cancel()
        while (first := self._first()) is not None:
            first[1].expire()

    def _first(self) -> tuple[float, Expiring] | None:
        """Take out what has the earliest deadline."""
        if self._early and (not self._steady or self._early[0][0] < self._steady[0][0]):
            deadline, _, waiting = heappop(self._early)
            return deadline, waiting
        return self._steady.popleft() if self._steady else None

    def _due(self) -> None:
        self._timer = None
        now = self._clock()
        while (first := self._first()) is not None:
            deadline, waiting = first
            if not waiting.outstanding:
                continue
            if deadline <= now and deadline <= self._condemned:
                waiting.expire()
                continue
            self._steady.appendleft(first)  # the earliest: it waits on
            if deadline <= now:
                self._condemned = now
                self._arm(now + max(now - deadline, GRACE))
            else:
                self._arm(deadline)
            return

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_later(max(at - self._clock(), GRACE), self._due), at
