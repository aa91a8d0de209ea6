"""Trying again: how often and when an acquisition that was refused is attempted once more.

Every attempt has a token of its own: a retry with the old one would be refused by its own leftovers.
"""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Literal

from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.timing import Interval, Seconds, seconds
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.ports import Ports
from redlock_cluster.errors import ClosedError, LockNotAcquired
from redlock_cluster.options import DeploymentOptions

__all__ = ["RETRY", "Policy", "Wait", "Waiting", "longest", "wait_seconds"]


class Policy(enum.Enum):
    """RETRY: the retry policy of the options, `max_retry` attempts after the first one."""

    RETRY = "retry"


RETRY = Policy.RETRY

_OVERTIME = 0.5

Wait = Seconds | None | Literal[Policy.RETRY]
"""How long to wait for a lock: RETRY (the options' policy), 0 (one attempt), seconds, or None (for ever)."""


class Waiting:
    """The retry intervals of one deployment, and what waiting by them comes to.

    closing: set when the supervisor closes, which ends every wait
    """

    __slots__ = ("_attempts", "_clock", "_entropy", "_interval", "closing")

    def __init__(self, options: DeploymentOptions, ports: Ports) -> None:
        self.closing = asyncio.Event()
        self._clock, self._entropy = ports.clock, ports.entropy
        self._attempts = options.max_retry + 1
        self._interval = Interval(options.retry_interval_base, options.retry_interval_max)

    async def acquire(
        self, group: Group, resource: Resource, key: bytes, ttl_ms: int, wait: Wait
    ) -> LeaseRecord | LockNotAcquired:
        """Attempts until one wins or the policy is used up: the lease, or why the last attempt failed.

        With a deadline the last attempt is made when it is reached.
        """
        attempts, deadline = self._limits(wait)
        outcome = await group.attempt(resource, key, ttl_ms, self._longest_round(deadline))
        made = 1
        while made < attempts and not isinstance(outcome, LeaseRecord) and (left := deadline - self._clock()) > 0:
            await self._pause(min(left, self._interval.after(made - 1, self._entropy.fraction())))
            outcome = await group.attempt(resource, key, ttl_ms, self._longest_round(deadline))
            made += 1
        return outcome

    def _longest_round(self, deadline: float) -> float:
        """Seconds that an attempt may take: it outlives the deadline by half a second at most."""
        return math.inf if deadline == math.inf else max(0.0, deadline - self._clock()) + _OVERTIME

    async def _pause(self, duration: float) -> None:
        try:
            async with asyncio.timeout(duration):
                await self.closing.wait()
        except TimeoutError:
            return
        raise ClosedError("the supervisor was closed while this call waited")

    def _limits(self, wait: Wait) -> tuple[float, float]:
        """Number of attempts, and the engine time after which none begins."""
        if wait is RETRY:
            return self._attempts, math.inf
        if wait is None:
            return math.inf, math.inf
        patience = wait_seconds(wait)
        return (1, math.inf) if patience == 0 else (math.inf, self._clock() + patience)


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
