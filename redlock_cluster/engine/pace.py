"""How long those who wait sleep, and in which order they came: what is the same for all of an engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from redlock_cluster.core.retry import RetryPolicy
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.round import pipeline_of, servers_time
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.ports import Clock

__all__ = ["Pace"]

_LIVES: Final = 3  # a member comes again so often before servers forget it
_GRACES: Final = 16  # rounds that are known before the grace follows from them
_ROUNDS: Final = 64  # rounds that are remembered
_LEAST_GRACE: Final = 0.002
_FIRST_GRACE: Final = 0.02


class Pace:
    """What those share who wait in one engine.

    loop, clock: the engine's
    policy: how it tries again after an outage
    fraction: gives random numbers in [0, 1)
    life: seconds that servers count a member of a queue unless it comes again

    life_ms: the same in milliseconds
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        policy: RetryPolicy,
        fraction: Callable[[], float],
        life: float,
    ) -> None:
        self.loop, self.clock, self.policy, self.fraction = loop, clock, policy, fraction
        self.life_ms = round(life * 1000)
        self._rounds: deque[float] = deque(maxlen=_ROUNDS)
        self._generation = Generation.number

    @property
    def inherited(self) -> bool:
        """Whether this is a fork's copy, which has nobody's connections."""
        return Generation.number != self._generation

    @property
    def refresh(self) -> float:
        """Seconds after which a line comes again; not all at once."""
        return self.life_ms / 1000 / _LIVES * (0.9 + self.fraction() / 10)

    @property
    def poll(self) -> float:
        """Seconds between attempts where servers can't wake us."""
        return self.pause_after(1)

    def pause_after(self, failures: int) -> float:
        """Seconds between attempts during an outage."""
        return self.policy.between(failures, self.fraction())

    @property
    def grace(self) -> float:
        """Seconds that somebody who goes first is given: twice a long round."""
        if len(self._rounds) < _GRACES:
            return _FIRST_GRACE
        return max(_LEAST_GRACE, 2 * sorted(self._rounds)[-1 - len(self._rounds) // 50])

    def note_round(self, seconds: float) -> None:
        """So long an attempt of a line has taken."""
        self._rounds.append(seconds)

    def order(self, group: Group, key: bytes, at: float) -> int:
        """An engine time as queues are ordered: by the servers' clocks, if any is known."""
        shown = servers_time(pipeline_of(group, key), at)
        return round(at * 1e6) if shown is None else shown
