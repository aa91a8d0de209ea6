"""When rounds stop waiting for votes: one timer for all rounds in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from redlock_cluster.engine.ports import Clock

__all__ = ["Deadlines", "Expiring"]

_LATE = 0.005  # seconds; a timer later than this means that this process stood still, and replies may lie unread
_GRACE = 0.001


class Expiring(Protocol):
    """A round that waits for votes until its deadline."""

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""

    def expire(self) -> None:
        """The deadline has passed: who has not voted is ABSENT."""


class Deadlines:
    """Rounds in the order of their deadlines, which is the order of their starts: all wait equally long.

    A timer for each round would cost more than the round; this one fires once for all that are due, and most rounds
    are long over by then. When it fires late, the process was suspended or busy: replies may lie unread in the
    sockets' buffers, so they get one turn of the loop before anyone is called absent.
    """

    __slots__ = ("_clock", "_graced", "_loop", "_rounds", "_timeout", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, timeout: float) -> None:
        self._loop, self._clock, self._timeout = loop, clock, timeout
        self._rounds: deque[tuple[float, Expiring]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._graced = False

    def add(self, started: float, patience: float, waiting: Expiring) -> None:
        """A round started: it expires `patience` seconds later."""
        if patience < self._timeout:
            self._loop.call_later(patience, self._one, waiting)
            return
        self._rounds.append((started + patience, waiting))
        if self._timer is None:
            self._timer = self._loop.call_later(patience, self._due)

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rounds.clear()

    def _one(self, waiting: Expiring) -> None:
        if waiting.outstanding:
            self._loop.call_later(_GRACE, waiting.expire)

    def _due(self) -> None:
        self._timer = None
        now = self._clock()
        rounds = self._rounds
        while rounds:
            deadline, waiting = rounds[0]
            if not waiting.outstanding:
                rounds.popleft()
                continue
            if deadline > now:
                self._graced = False
                self._arm(deadline - now)
                return
            if now - deadline > _LATE and not self._graced:
                self._graced = True
                self._arm(_GRACE)
                return
            rounds.popleft()
            waiting.expire()
        self._graced = False

    def _arm(self, delay: float) -> None:
        self._timer = self._loop.call_later(max(delay, _GRACE), self._due)
