"""What every actor does whatever it acquires: it writes down what it believes at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from redlock_cluster import RETRY, NotHeld, Ok, QuorumUnavailable, WaitCancelled
from redlock_cluster.core.timing import Timing

from .event_log import History, clock, end_of
from .faces import Face, Script
from .sections import Sections

__all__ = ["CROWDED", "LONGEST_WORK", "TIMING", "Contender", "Held", "validity_of", "why_of"]

TIMING: Final = Timing(drift_factor=0.01, server_timeout=0.25)
CROWDED: Final = ("crowded-1", "crowded-2")
"""Many wait for these, as long as it takes."""
LONGEST_WORK: Final = 0.4
"""Seconds that a crowded one is held, unless its owner forgets it or is damaged."""
_CANCEL_IDS: Final = ("left", "right")
_STUCK: Final = "thread did not answer"


@dataclass
class Held:
    """A lease as its actor sees it; a transaction's has no handle, so its validity is counted from the call."""

    name: str
    resource: str
    ttl: float
    valid: Callable[[], bool]
    lease: Any = None

    def forget(self) -> None:
        """Nobody refers to the lease any more."""
        self.lease, self.valid = None, lambda: False


class Contender:
    """A thread or task of a worker.

    who: its name in the histories
    face: carries its scripts out
    chance: decides what it does
    """

    def __init__(self, who: str, face: Face, history: History, sections: Sections, chance: Random) -> None:
        self.who, self.face, self.chance = who, face, chance
        self._redlock: Any = face.redlock
        self._history, self._sections = history, sections
        self._leases = 0

    def _write(self, do: str, t: float | None = None, **about: object) -> float:
        return self._history.write(self.who, do, t, **about)

    def _next(self) -> str:
        self._leases += 1
        return f"{self.who}#{self._leases}"

    def _cancel_id(self) -> str:
        return self.chance.choice(_CANCEL_IDS)

    def _asks(self, resource: str, wait: Any) -> float:
        return self._write("waiting", resource=resource, patience=None if wait is RETRY else wait)

    def _acquired(
        self,
        resource: str,
        asked: float,
        lease: Any,
        name: str = "",
        show_token: bool = True,
        **about: object,
    ) -> Held:
        """Writes down what the lease is believed to be.

        name: if it has one already; show_token: whether its token is read
        """
        t = clock()
        until, most = validity_of(lease)
        name = name or self._next()
        token = end_of(lease.token) if show_token else "hidden"
        self._write(
            "acquired", t, lease=name, resource=resource, asked=asked, until=until, most=most, token=token, **about
        )
        return Held(name, resource, lease.ttl, lambda: lease.valid, lease)

    def _refused(self, resource: str, asked: float, outcome: Any) -> None:
        error = outcome.error
        if isinstance(error, WaitCancelled):
            why = "ended"
        elif isinstance(error, QuorumUnavailable):
            why = "unavailable"
        else:
            why = "split" if "split" in str(error) else "held"
        self._write("refused", resource=resource, asked=asked, why=why)

    def _enter(self, held: Held) -> None:
        """Into the critical section of a valid lease."""
        other = self._sections.enter(held.resource, held.name)
        if other is not None:
            self._write("met", lease=held.name, other=other, valid=held.valid())

    def _leave(self, held: Held) -> None:
        """Out of it."""
        self._sections.leave(held.resource, held.name)
        self._write("left", lease=held.name, valid=held.valid())

    def _release(self, held: Held, by_token: bool) -> Script:
        lease, resource = held.lease, held.resource
        asked = self._write("releasing", lease=held.name, by="token" if by_token else "lease")
        outcome = yield lambda: self._redlock.unlock(resource, lease.token if by_token else lease)
        self._write("released", lease=held.name, asked=asked, why=why_of(outcome))


def why_of(outcome: Any) -> str:
    """Empty for success, else the reason.

    A lease that is over is `not_held` for whatever cause; `stuck` says that the library's thread had no time.
    """
    if isinstance(outcome, Ok):
        return ""
    if _STUCK in str(outcome.error):
        return "stuck"
    return "again" if isinstance(outcome.error, NotHeld) else str(outcome.reason)


def validity_of(lease: Any) -> tuple[float, float]:
    """The least and the most that `valid_until` can be: the process may be held up between two readings.

    The least of a lease that is over, which does not tell since when, is 0.
    """
    before, left, after = clock(), lease.remaining, clock()
    return before + left if left else 0.0, after + left
