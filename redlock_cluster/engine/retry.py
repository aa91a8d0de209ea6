"""Trying again: how often and when an acquisition that was refused is attempted once more.

Every attempt has a token of its own: a retry with the old one would be refused by its own leftovers.
"""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Literal

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.timing import Interval, Seconds, seconds
from redlock_cluster.engine.acquire import Attempt
from redlock_cluster.errors import ClosedError, LockNotAcquired
from redlock_cluster.options import DeploymentOptions
from redlock_cluster.wire.ports import Ports

__all__ = ["RETRY", "Limits", "Policy", "Wait", "Waiting", "longest", "wait_seconds"]


class Policy(enum.Enum):
    """RETRY: the retry policy of the options, `max_retry` attempts after the first one."""

    RETRY = "retry"


RETRY = Policy.RETRY

_OVERTIME = 0.5

Wait = Seconds | None | Literal[Policy.RETRY]
"""How long to wait for a lock: RETRY (the options' policy), 0 (one attempt), seconds, or None (for ever)."""


Limits = tuple[float, float]
"""Number of attempts, and the engine time after which none begins."""

_ONCE: Limits = (1, math.inf)


class Waiting:
    """The retry intervals of one deployment, and what waiting by them comes to.

    closing: set when the supervisor closes, which ends every wait
    """

    __slots__ = ("_clock", "_entropy", "_interval", "_policy", "closing")

    def __init__(self, options: DeploymentOptions, ports: Ports) -> None:
        self.closing = asyncio.Event()
        self._clock, self._entropy = ports.clock, ports.entropy
        self._policy: Limits = (options.max_retry + 1, math.inf)
        self._interval = Interval(options.retry_interval_base, options.retry_interval_max)

    async def again(
        self, attempt: Attempt, limits: Limits, outcome: LeaseRecord | LockNotAcquired
    ) -> LeaseRecord | LockNotAcquired:
        """Attempts after a first one that was refused, until one wins or the limits are reached.

        With a deadline the last attempt is made when it is reached. Cancelling it gives back what was granted.
        """
        made, (attempts, deadline), group = 1, limits, attempt.group
        while made < attempts and not isinstance(outcome, LeaseRecord) and (left := deadline - self._clock()) > 0:
            await self._pause(min(left, self._interval.after(made - 1, self._entropy.fraction())))
            attempt = Attempt(group, attempt.resource, attempt.key, attempt.terms, self.longest_round(limits)).begin()
            try:
                await attempt
            except asyncio.CancelledError:
                attempt.abandon()
                raise
            outcome = group.outcome(attempt)
            made += 1
        return outcome

    def longest_round(self, limits: Limits) -> float:
        """Seconds that an attempt may take: it outlives the deadline by half a second at most."""
        deadline = limits[1]
        return math.inf if deadline == math.inf else max(0.0, deadline - self._clock()) + _OVERTIME

    async def _pause(self, duration: float) -> None:
        try:
            async with asyncio.timeout(duration):
                await self.closing.wait()
        except TimeoutError:
            return
        raise ClosedError("the supervisor was closed while this call waited")

    def limits(self, wait: Wait) -> Limits:
        """What a `wait` argument means from now on. Raises TypeError or ValueError for what is none."""
        if wait is RETRY:
            return self._policy
        if wait is None:
            return math.inf, math.inf
        patience = wait_seconds(wait)
        return _ONCE if patience == 0 else (math.inf, self._clock() + patience)


def longest(options: DeploymentOptions, wait: Wait) -> float:
    """Seconds after which an acquisition with this policy has ended in any case; infinite for None."""
    if wait is RETRY:
        pauses, pause = 0.0, options.retry_interval_base
        for left in range(options.max_retry, 0, -1):
            if pause >= options.retry_interval_max:
                pauses += left * options.retry_interval_max
                break
            pauses, pause = pauses + pause, 2 * pause
        return (options.max_retry + 1) * options.server_timeout + pauses
    if wait is None:
        return math.inf
    return wait_seconds(wait) + min(_OVERTIME, options.server_timeout) if wait else options.server_timeout


def wait_seconds(wait: Seconds) -> float:
    """A wait argument in seconds. Raises TypeError or ValueError for what is no duration, or negative."""
    patience = seconds(wait, "wait")
    if patience < 0:
        raise ValueError("wait must not be negative; None waits for ever")
    return patience
