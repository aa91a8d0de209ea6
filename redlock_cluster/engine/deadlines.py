"""When rounds stop waiting for votes: one timer for all rounds in flight."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from redlock_cluster.engine.ports import Clock

__all__ = ["Deadlines", "Expiring"]

GRACE = 0.001
"""The least that is waited after a deadline, seconds."""


class Expiring(Protocol):
    """A round that waits for votes until its deadline."""

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""

    def expire(self) -> None:
        """The deadline has passed: who has not voted is ABSENT."""


class Deadlines:
    """Rounds by their deadlines, with one timer: most rounds are long over when it fires.

    A deadline alone condemns nobody. When the timer finds a round due, the process may have been suspended or busy:
    its commands may have left late, and replies may lie unread in the sockets. So what is due waits once more, as long
    as the timer was late and GRACE at least, and expires only when it was due before that wait.
    """

    __slots__ = ("_clock", "_condemned", "_loop", "_number", "_rounds", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock
        self._rounds: list[tuple[float, int, Expiring]] = []
        self._number = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._condemned = float("-inf")  # deadlines up to here have had their second wait

    def add(self, deadline: float, waiting: Expiring) -> None:
        """A round started that waits for votes until the deadline, engine time."""
        rounds = self._rounds
        while rounds and not rounds[0][2].outstanding:
            heappop(rounds)
        heappush(rounds, (deadline, next(self._number), waiting))
        if self._timer is None or deadline < self._timer_at:
            self._arm(deadline)

    def close(self) -> None:
        """Expires everything that waits still."""
        if self._timer is not None:
            self._timer.cancel()
        rounds, self._rounds = self._rounds, []
        for _, _, waiting in sorted(rounds):
            if waiting.outstanding:
                waiting.expire()

    def _due(self) -> None:
        self._timer = None
        now = self._clock()
        rounds = self._rounds
        while rounds:
            deadline, _, waiting = rounds[0]
            if not waiting.outstanding:
                heappop(rounds)
            elif deadline > now:
                self._arm(deadline)
                return
            elif deadline > self._condemned:
                self._condemned = now
                self._arm(now + max(now - deadline, GRACE))
                return
            else:
                heappop(rounds)
                waiting.expire()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_later(max(at - self._clock(), GRACE), self._due), at
