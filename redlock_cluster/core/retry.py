"""How long to wait for a lock: how many attempts are made, when, and until when."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Literal

from redlock_cluster.core.timing import Interval, Seconds, seconds

__all__ = ["NEVER", "ONCE", "RETRY", "Limit", "Policy", "RetryPolicy", "Wait", "wait_seconds"]


class Policy(enum.Enum):
    """RETRY: the retry policy of the options, `max_retry` attempts after the first one."""

    RETRY = "retry"


RETRY: Final = Policy.RETRY

Wait = Seconds | None | Literal[Policy.RETRY]
"""How long to wait for a lock: RETRY (the options' policy), 0 (one attempt), seconds, or None (for ever)."""

NEVER: Final = float("inf")
"""A deadline that does not come."""

_OVERTIME: Final = 0.5


class Limit:
    """When trying ends.

    attempts: how many are made at most; may be infinite
    deadline: engine time after which none begins; may be infinite
    """

    __slots__ = ("attempts", "deadline")

    def __init__(self, attempts: float, deadline: float) -> None:
        self.attempts, self.deadline = attempts, deadline

    def allows(self, made: int, now: float) -> bool:
        """Whether another attempt may be made after so many."""
        return made < self.attempts and now < self.deadline

    def longest_round(self, now: float) -> float:
        """Seconds that an attempt may take: it outlives the deadline by half a second at most."""
        return NEVER if self.deadline == NEVER else max(0.0, self.deadline - now) + _OVERTIME


ONCE: Final = Limit(1, NEVER)
"""One attempt."""

_FOR_EVER: Final = Limit(NEVER, NEVER)


class RetryPolicy:
    """How one deployment tries again.

    max_retry: attempts after the first one, where the caller says no other limit
    interval: pauses between attempts
    server_timeout: seconds that an attempt waits for a vote
    """

    def __init__(self, max_retry: int, interval: Interval, server_timeout: float) -> None:
        self._max_retry, self._interval, self._server_timeout = max_retry, interval, server_timeout
        self._standard = Limit(max_retry + 1, NEVER)

    def limit(self, wait: Wait, clock: Callable[[], float]) -> Limit:
        """What a `wait` argument means from now on.

        clock: the engine's

        Raises TypeError or ValueError for what is no such argument.
        """
        if wait is RETRY:
            return self._standard
        if wait is None:
            return _FOR_EVER
        patience = wait_seconds(wait)
        return ONCE if patience == 0 else Limit(NEVER, clock() + patience)

    def pause(self, made: int, limit: Limit, now: float, fraction: float) -> float:
        """Seconds until the next attempt; with a deadline the last attempt is made when that is reached.

        made: attempts so far, at least 1
        fraction: random, in [0, 1)
        """
        return min(limit.deadline - now, self.between(made, fraction))

    def between(self, failures: int, fraction: float) -> float:
        """Seconds between attempts after so many failures, at least 1; fraction: random, in [0, 1)."""
        return self._interval.after(failures - 1, fraction)

    def deadline(self, made: int, limit: Limit, now: float, fraction: float) -> float:
        """Engine time when waiting ends that begins after so many attempts; may be infinite.

        Where the number of attempts is limited: when all the pauses that would follow have passed.

        fraction: random, in [0, 1)
        """
        if limit.attempts == NEVER:
            return limit.deadline
        longest, gone = (self._interval.longest_total(max(0, int(n) - 1)) for n in (limit.attempts, made))
        return now + (longest - gone) * (0.5 + fraction / 2)

    def longest(self, wait: Wait) -> float:
        """Seconds after which an acquisition has ended in any case; infinite for None."""
        if wait is RETRY:
            return (self._max_retry + 1) * self._server_timeout + self._interval.longest_total(self._max_retry)
        if wait is None:
            return NEVER
        patience = wait_seconds(wait)
        return patience + min(_OVERTIME, self._server_timeout) if patience else self._server_timeout


def wait_seconds(wait: Seconds) -> float:
    """A wait argument in seconds. Raises TypeError or ValueError for what is no duration, or negative."""
    patience = seconds(wait, "wait")
    if patience < 0:
        raise ValueError("wait must not be negative; None waits for ever")
    return patience
