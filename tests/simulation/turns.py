"""Whose turn it is: the order in which those who wait for one lock are served, and how long it lies idle."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from redlock_cluster.testing.simulation import VirtualLoop

from .history import History

LATER = 0.02 + 0.006
"""Seconds by which somebody comes later, surely: what servers believe of a newcomer's clock, and a round."""


@dataclass(eq=False)
class Turn:
    """Somebody wants the lock. Simulated time.

    judged: whether nobody may pass it: it is fair, and nothing happens to its client
    came: when it came
    front: when all of its own client who came before it were served or gone, None before
    passed: how often somebody was served who came later than that
    """

    client: str
    judged: bool
    came: float
    front: float | None = None
    passed: int = 0


class Turns:
    """Who waits for one resource, and in which order they get it.

    gaps: seconds for which the lock lay idle while somebody waited, for each acquisition
    passed: how often each was passed that was served
    """

    def __init__(self, loop: VirtualLoop, history: History, resource: str) -> None:
        self._loop, self._history, self._resource = loop, history, resource
        self._waiting: defaultdict[str, list[Turn]] = defaultdict(list)
        self._free_since = loop.time()
        self.gaps: list[float] = []
        self.passed: list[int] = []

    def begin(self, client: str, judged: bool) -> Turn:
        """Somebody begins to wait."""
        turn = Turn(client, judged, self._loop.time())
        line = self._waiting[client]
        line.append(turn)
        if line[0] is turn:
            turn.front = turn.came
        return turn

    def served(self, turn: Turn) -> None:
        """It has the lock."""
        now = self._loop.time()
        fronts = [line[0].front or 0.0 for line in self._waiting.values() if line and line[0].judged]
        self._leave(turn)
        if turn.judged and fronts:
            self.gaps.append(now - max(self._free_since, min(fronts)))
            self.passed.append(turn.passed)
        if turn.judged:
            self._passes(turn)

    def _passes(self, turn: Turn) -> None:
        """Somebody got the lock, perhaps before others who came earlier."""
        for line in self._waiting.values():
            for other in line[:1]:
                if other.client != turn.client and other.front is not None and other.front + LATER < turn.came:
                    other.passed += 1

    def gone(self, turn: Turn) -> None:
        """It waits no more."""
        self._leave(turn)

    def freed(self) -> None:
        """The holder gives the lock back now."""
        self._free_since = self._loop.time()

    def excuse(self, client: str) -> None:
        """Something happens to a client: its turns are not judged."""
        for turn in self._waiting[client]:
            turn.judged = False

    def dead(self, client: str) -> None:
        """A client has died: it waits no more."""
        self._waiting[client].clear()

    def waits(self, client: str) -> bool:
        """Whether somebody of a client waits."""
        return bool(self._waiting[client])

    def _leave(self, turn: Turn) -> None:
        line = self._waiting[turn.client]
        if turn in line:
            line.remove(turn)
        if line and line[0].front is None:
            line[0].front = self._loop.time()
