"""The engine of one deployment: begins every operation, in the group that the ring chooses.

No coroutines here, so that it can be compiled: operations begin, end and try again by themselves in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from threading import get_ident
from typing import Final

from redlock_cluster.core.decision import Settled
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import Aliases, LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import Resource, resource_bytes
from redlock_cluster.core.retry import Limit, RetryPolicy, Wait
from redlock_cluster.core.ring import Ring
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.timing import Seconds, Terms, Timing
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote
from redlock_cluster.engine.acquire import Acquisition, Attempt, Retries
from redlock_cluster.engine.aliases import alias_of, share
from redlock_cluster.engine.extend import Extension, unknown_lease
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.inspect import Inspection
from redlock_cluster.engine.operation import Operation
from redlock_cluster.engine.release import Release, begin_release, release_unheard
from redlock_cluster.errors import ClosedError, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.ports import Clock

__all__ = ["INHERITED", "Engine"]

INHERITED: Final = "this lease belongs to the process that this one was forked from"


class Engine:
    """The locks of one deployment, in one event loop and one thread.

    loop, clock, flusher: what it runs on
    groups: by name
    ring: chooses among them
    prefix: before every resource, on the servers
    timing: what a ttl means
    policy: how an acquisition tries again
    retries: its pauses

    closed: nothing begins any more
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        flusher: Flusher,
        groups: Mapping[str, Group],
        ring: Ring,
        prefix: bytes,
        timing: Timing,
        policy: RetryPolicy,
        retries: Retries,
    ) -> None:
        self.closed = False
        self.loop, self.clock, self.flusher = loop, clock, flusher
        self._groups, self._ring, self._prefix = groups, ring, prefix
        self._only = next(iter(groups.values())) if len(groups) == 1 else None
        self._timing, self._policy, self._retries = timing, policy, retries
        self._generation, self._thread_id = Generation.number, get_ident()

    # --- operations ------------------------------------------------------------------------------------------------

    def acquire(self, resource: Resource, ttl: Seconds, wait: Wait, mode: LockMode = EXCLUSIVE) -> Acquisition:
        """Begin to acquire; the result is the lease, or why there is none.

        resource, ttl, wait: as for `AsyncSupervisor.lock`
        mode: which kind of lock

        Raises ValueError or TypeError for misuse, ClosedError, RuntimeError outside the engine's loop.
        """
        group, key = self._route(resource)
        terms = self._timing.terms(ttl)
        return self.acquire_by(group, resource, key, terms, self._policy.limit(wait, self.clock), mode)

    def acquire_by(
        self, group: Group, resource: Resource, key: bytes, terms: Terms, limit: Limit, mode: LockMode
    ) -> Acquisition:
        """The same with checked arguments, for batches."""
        return Acquisition(self._retries, group, resource, key, mode, terms, limit).begin()

    def release(
        self, resource: Resource, lease: LeaseRecord | Token, mode: LockMode = EXCLUSIVE
    ) -> Operation[RedlockError | None]:
        """Begin to release by lease or token; the result is None when a quorum deleted it, else why that can't be said.

        mode: which kind of lock a token is for; a lease knows
        """
        if self._generation != Generation.number:
            return Settled(NotHeld(INHERITED))
        if isinstance(lease, LeaseRecord) and lease.resource is resource:
            self.check_place()
            return begin_release(self.group_of(lease), resource, lease)
        group, key = self._route(resource)
        known = _known(group, resource, key, lease)
        if isinstance(known, LeaseRecord):
            return begin_release(group, resource, known)
        return Release(group, resource, key, known, mode, self._timing.server_timeout, None).begin()

    def extend(
        self,
        resource: Resource,
        lease: LeaseRecord | Token,
        ttl: Seconds,
        mode: LockMode = EXCLUSIVE,
    ) -> Operation[LeaseRecord | RedlockError]:
        """Begin to extend by lease or token; the result is the lease when a quorum extended it in time, else why not.

        mode: which kind of lock a token is for; a lease knows
        """
        if self.forked:
            return Settled(NotHeld(INHERITED))
        terms = self._timing.terms(ttl)
        group, key = self._route(resource)
        known = _known(group, resource, key, lease)
        if isinstance(known, LeaseRecord):
            return Extension(group, known, terms).begin()
        record = unknown_lease(group, resource, key, known, mode)
        extension = Extension(group, record, terms, foreign=True).begin()
        extension.keep(share(group, record))
        return extension

    def extend_by(self, lease: LeaseRecord, ttl_ms: int) -> Extension:
        """Begin to extend a lease of this engine; ttl_ms: milliseconds, checked. For batches."""
        return Extension(self.group_of(lease), lease, self._timing.terms_ms(ttl_ms)).begin()

    def inspect(self, resource: Resource, mode: LockMode = EXCLUSIVE) -> Operation[bool | QuorumUnavailable]:
        """Begin to look; the result is whether anybody holds the resource, or why that can't be said."""
        group, key = self._route(resource)
        return Inspection(group, resource, key, mode, self._timing.server_timeout).begin()

    def abandon(self, record: LeaseRecord) -> None:
        """Give a lease back without waiting to hear of it; nothing happens to one that is over."""
        if not self.forked and not self.closed and record.begin_release(self.clock()):
            release_unheard(self.group_of(record), record)
            record.released(Outcome.DONE, None)

    # --- where they go ---------------------------------------------------------------------------------------------

    def _route(self, resource: Resource) -> tuple[Group, bytes]:
        """The group that votes on a resource, and the resource's key."""
        self.check_place()
        data = resource_bytes(resource)
        return self.group_for(data), self._prefix + data

    def key(self, data: bytes) -> bytes:
        """The key of a resource; data: its bytes."""
        return self._prefix + data

    def group_for(self, data: bytes) -> Group:
        """The group that votes on a resource; data: its bytes."""
        only = self._only
        return self._groups[self._ring.route(data)] if only is None else only

    def group_of(self, record: LeaseRecord) -> Group:
        """The group that votes on a lease of this engine."""
        won = record.acquired
        return won.group if isinstance(won, Attempt) else self.group_for(record.key[len(self._prefix) :])

    def alias(self, record: LeaseRecord) -> LeaseRecord | None:
        """What this engine knows a lease of another one by, which was shared; None if that asks other servers."""
        group, key = self._route(record.resource)
        return alias_of(group, record.resource, key, record.token)

    def share(self, record: LeaseRecord) -> Aliases:
        """Have a lease of this engine hear of what others of this process do with its token; in any thread.

        Returns what whoever has the lease is to keep.
        """
        return share(self.group_of(record), record)

    def votes(self, record: LeaseRecord) -> tuple[ServerVote, ...]:
        """Each server's vote in the round that won the lease or last extended it."""
        return () if record.ballot is None else record.ballot.votes(self.group_of(record).names)

    def terms(self, ttl: Seconds) -> Terms:
        """What a ttl means. Raises TypeError or ValueError for one that can't be."""
        return self._timing.terms(ttl)

    # --- its life --------------------------------------------------------------------------------------------------

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that made it: its connections and leases are not ours."""
        return self._generation != Generation.number

    def check_place(self) -> None:
        """Raises ClosedError when it is closed, RuntimeError outside its event loop."""
        if self.closed:
            raise ClosedError("the supervisor is closed")
        # In the thread where it was made, a loop that runs is the running one; asking asyncio costs a system call.
        here = get_ident() == self._thread_id and self.loop.is_running()
        if not here and self.loop is not asyncio.get_running_loop():
            raise RuntimeError("this supervisor belongs to another event loop; make one for each loop")

    def close(self) -> None:
        """Nothing begins any more, and whoever pauses between attempts hears of it."""
        self.closed = True
        self._retries.close()


def _known(group: Group, resource: Resource, key: bytes, lease: LeaseRecord | Token) -> LeaseRecord | Token:
    """The record of a lease, or of a token where this process has one; else the token.

    Raises ValueError for a lease on another resource.
    """
    if not isinstance(lease, LeaseRecord):
        return alias_of(group, resource, key, lease) or lease
    if lease.key != key:
        raise ValueError("this lease is for another resource")
    return lease
