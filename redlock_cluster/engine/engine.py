"""What every acquisition and release of one deployment runs through; without coroutines, so that it can be compiled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from threading import get_ident
from typing import Final

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource, resource_bytes
from redlock_cluster.core.ring import Ring
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.timing import Seconds, Terms, Timing
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.acquire import Attempt
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.release import Release
from redlock_cluster.engine.retry import RETRY, Limits, Wait, Waiting
from redlock_cluster.errors import ClosedError, LockNotAcquired, NotHeld, RedlockError
from redlock_cluster.wire.forks import Generation

__all__ = ["PARENTS", "Locks", "same"]

_DONE: Final = Outcome.DONE
PARENTS: Final = "this lease belongs to the process that this one was forked from"


class Locks:
    """Routes resources to groups, and begins and ends rounds there. For one event loop, in one thread.

    closed: nothing begins any more
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        groups: Mapping[str, Group],
        ring: Ring,
        prefix: bytes,
        timing: Timing,
        waiting: Waiting,
    ) -> None:
        self.closed = False
        self._loop, self._groups, self._ring, self._prefix = loop, groups, ring, prefix
        self._only = next(iter(groups.values())) if len(groups) == 1 else None
        self._timing, self._waiting = timing, waiting
        self._policy: Limits = waiting.limits(RETRY)
        self._asked: object = object()
        self._terms: Terms = timing.terms(1000)
        self._generation, self._place = Generation.number, get_ident()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that made it: its connections and leases are not ours."""
        return self._generation != Generation.number

    def check_place(self) -> None:
        """Raises ClosedError when it is closed, RuntimeError outside its event loop."""
        if self.closed:
            raise ClosedError("the supervisor is closed")
        # In the thread where it was made, a loop that runs is the running one; asking asyncio costs a system call.
        here = get_ident() == self._place and self._loop.is_running()
        if not here and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this supervisor belongs to another event loop; make one for each loop")

    def route(self, resource: Resource) -> tuple[Group, bytes]:
        """The group that votes on a resource, and the resource's key."""
        self.check_place()
        data = resource_bytes(resource)
        return self.group_for(data), self._prefix + data

    def key(self, data: bytes) -> bytes:
        """The key of a resource."""
        return self._prefix + data

    def group_for(self, data: bytes) -> Group:
        """The group that votes on a resource's bytes."""
        only = self._only
        return self._groups[self._ring.route(data)] if only is None else only

    def home(self, record: LeaseRecord) -> Group:
        """The group that votes on a lease."""
        won = record.acquired
        return won.group if isinstance(won, Attempt) else self.group_for(record.key[len(self._prefix) :])

    def begin_acquire(self, resource: Resource, ttl: Seconds, wait: Wait) -> tuple[Attempt, Limits]:
        """Sends the first attempt to acquire. It is to be awaited, abandoned if that is cancelled, else `acquired`."""
        group, key = self.route(resource)
        if ttl is not self._asked:  # mostly it is the very object that was checked last
            self._terms = self._timing.terms(self._timing.ttl_ms(ttl))
            self._asked = ttl
        limits = self._policy if wait is RETRY else self._waiting.limits(wait)
        longest = math.inf if limits[1] == math.inf else self._waiting.longest_round(limits)
        return Attempt(group, resource, key, self._terms, longest).begin(), limits

    def acquired(
        self, attempt: Attempt, limits: Limits
    ) -> LeaseRecord | LockNotAcquired | Coroutine[object, object, LeaseRecord | LockNotAcquired]:
        """What a decided first attempt came to, or the coroutine that tries again."""
        outcome = attempt.group.outcome(attempt)
        if isinstance(outcome, LeaseRecord) or limits[0] == 1:
            return outcome
        return self._waiting.again(attempt, limits, outcome)

    def begin_release(self, resource: Resource, lease: LeaseRecord | Token) -> Release | RedlockError:
        """Sends the release of a lease or token, or says why there is nothing to release."""
        if self._generation != Generation.number:
            return NotHeld(PARENTS)
        if isinstance(lease, LeaseRecord) and lease.resource is resource:
            self.check_place()
            return self.home(lease).begin_release(lease)
        group, key = self.route(resource)
        if isinstance(lease, LeaseRecord):
            return group.begin_release(same(lease, key))
        return group.begin_release_token(key, lease)

    def released(self, release: Release, resource: Resource) -> RedlockError | None:
        """What a decided release came to: None when a quorum deleted it, else why that can't be said."""
        return None if release.outcome is _DONE else release.group.released(release, resource)


def same(record: LeaseRecord, key: bytes) -> LeaseRecord:
    """The lease, if it is for this key. Raises ValueError."""
    if record.key != key:
        raise ValueError("this lease is for another resource")
    return record
