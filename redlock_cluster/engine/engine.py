"""The engine of one deployment: begins every operation, in the group that the ring chooses.

No coroutines here, so that it can be compiled: operations begin, end and try again by themselves in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Final

from redlock_cluster.core.decision import Settled
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.keeping import KeepingPolicy
from redlock_cluster.core.lease_record import Aliases, LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.permit import Semaphore
from redlock_cluster.core.resource import Resource, resource_bytes
from redlock_cluster.core.retry import NEVER, RETRY, RetryPolicy, Wait, wait_seconds
from redlock_cluster.core.ring import Ring
from redlock_cluster.core.timing import Seconds, Terms, Timing
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.engine.acquire import Acquisition, Attempt
from redlock_cluster.engine.aliases import alias_of, forget, share
from redlock_cluster.engine.extend import Extension, unknown_lease
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.inspect import Inspection
from redlock_cluster.engine.leases import LiveLeases
from redlock_cluster.engine.operation import Operation
from redlock_cluster.engine.release import Release, begin_release, give_back
from redlock_cluster.engine.semaphore import PermitAcquisition
from redlock_cluster.engine.waiting import Waiting
from redlock_cluster.engine.watchdog import Listener, Watchdog
from redlock_cluster.errors import ClosedError, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.ports import Clock

__all__ = ["INHERITED", "Engine", "require_choice"]

INHERITED: Final = "this lease belongs to the process that this one was forked from"


class Engine:
    """The locks of one deployment, in one event loop and one thread.

    loop, clock, flusher: what it runs on
    groups: by name
    ring: chooses among them
    prefix: before every resource, on the servers
    timing: what a ttl means
    policy: how an acquisition tries again
    waiting: what acquisitions do between their attempts
    watchdog: sees to leases
    keeping: how long they are held
    fencing: whether locks are fenced unless the call says otherwise

    leases: those that users have
    closed: nothing begins any more
    on_close: called when it closes, while it may still send; gives back what is held for calls under way
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
        waiting: Waiting,
        watchdog: Watchdog,
        keeping: KeepingPolicy,
        fencing: bool,
    ) -> None:
        self.closed = False
        self.loop, self.clock, self.flusher = loop, clock, flusher
        self._groups, self._ring, self._prefix = groups, ring, prefix
        self._only = next(iter(groups.values())) if len(groups) == 1 else None
        self._timing, self._policy, self.waiting = timing, policy, waiting
        self._watchdog, self.keeping, self.leases = watchdog, keeping, LiveLeases()
        self.fencing = fencing
        self.on_close: set[Callable[[], object]] = set()
        self._generation, self._thread_id = Generation.number, get_ident()

    # --- operations ------------------------------------------------------------------------------------------------

    def acquire(
        self,
        resource: Resource,
        ttl: Seconds,
        wait: Wait,
        mode: LockMode = EXCLUSIVE,
        cancel_id: str | None = None,
    ) -> Acquisition:
        """Begin to acquire; the result is the lease, or why there is none.

        resource, ttl, wait, cancel_id: as for `AsyncSupervisor.lock`
        mode: which kind of lock

        Raises ValueError or TypeError for misuse, ClosedError, RuntimeError outside the engine's loop.
        """
        if cancel_id is not None:
            _require_text(cancel_id)
        group, key = self.route(resource)
        terms, limit = self._timing.terms(ttl), self._policy.limit(wait, self.clock)
        kind = PermitAcquisition if isinstance(mode, Semaphore) else Acquisition
        return kind(self.waiting, group, resource, key, mode, terms, limit, cancel_id).begin()

    def cancel_waiting(self, resource: Resource | None, cancel_id: str | None) -> int:
        """End waits, as `AsyncSupervisor.cancel_waiting`."""
        self.check_place()
        return self.waiting.cancel(None if resource is None else self.route(resource)[1], cancel_id)

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
            return begin_release(self.group_of(lease), resource, lease, self.clock())
        group, key = self.route(resource)
        known = _known(group, resource, key, lease, mode)
        if isinstance(known, LeaseRecord):
            return begin_release(group, resource, known, self.clock())
        return Release(group, resource, mode.place(key), known, mode, self._timing.server_timeout, None).begin()

    def extend(
        self,
        resource: Resource,
        lease: LeaseRecord | Token,
        ttl: Seconds,
        mode: LockMode = EXCLUSIVE,
        fence: int | None = None,
    ) -> Operation[LeaseRecord | RedlockError]:
        """Begin to extend by lease or token; the result is the lease when a quorum extended it in time, else why not.

        mode, fence: which kind of lock a token is for, and its number; a lease knows
        """
        if self.forked:
            return Settled(NotHeld(INHERITED))
        terms = self._timing.terms(ttl)
        group, key = self.route(resource)
        known = _known(group, resource, key, lease, mode)
        if isinstance(known, LeaseRecord):
            known.note_fence(fence)
            return Extension(group, known, terms).begin()
        record = unknown_lease(group, resource, mode.place(key), known, mode, fence)
        extension = Extension(group, record, terms, foreign=True).begin()
        extension.keep(share(group, record))
        return extension

    def extend_by(self, lease: LeaseRecord, ttl_ms: int) -> Extension:
        """Begin to extend a lease of this engine; ttl_ms: milliseconds, checked. For batches."""
        return Extension(self.group_of(lease), lease, self._timing.terms_ms(ttl_ms)).begin()

    def inspect(self, resource: Resource, mode: LockMode = EXCLUSIVE) -> Operation[bool | QuorumUnavailable]:
        """Begin to look; the result is whether anybody holds the resource, or why that can't be said."""
        group, key = self.route(resource)
        return Inspection(group, resource, key, mode, self._timing.server_timeout).begin()

    def abandon(self, record: LeaseRecord) -> None:
        """Give a lease back without waiting to hear of it; nothing happens to one that is over."""
        if not self.forked and not self.closed:
            give_back(self.group_of(record), record)

    # --- leases ----------------------------------------------------------------------------------------------------

    def keep(self, record: LeaseRecord, owner: object, max_hold: float | None) -> None:
        """From now on a lease extends itself, as long as somebody refers to its owner.

        max_hold: seconds after its acquisition when it ends all the same
        """
        group, until = self.group_of(record), NEVER if max_hold is None else record.since + max_hold
        if self.closed:
            give_back(group, record)  # as closing did with those that were kept by then
        else:
            self._watchdog.watch(group, record).extend_while(owner, until)

    def own(self, record: LeaseRecord, owner: object) -> None:
        """Whoever refers to this refers to the lease, too: if it extends itself, it does so as long."""
        watch = self.group_of(record).watches.get(record.token)
        if watch is not None and watch.extends:
            watch.own(owner)

    def listen(self, record: LeaseRecord, listener: Listener) -> None:
        """Tell what becomes of a lease; at once if it is lost or doubtful already. Not once it is closed."""
        if not self.closed:
            self._watchdog.watch(self.group_of(record), record).listen(listener)

    def detach(self, record: LeaseRecord) -> bool:
        """A lease is somebody else's from now on. Returns False when it was over."""
        group = self.group_of(record)
        if self.forked or not record.detach(self.clock()):
            return False
        watch = group.watches.get(record.token)
        if watch is not None:
            watch.stop()
        forget(group, record)
        return True

    def spare(self, record: LeaseRecord) -> int:
        """How many more servers may fail before a lease has no quorum."""
        return max(0, record.holders().bit_count() - self.group_of(record).quorum)

    # --- where they go ---------------------------------------------------------------------------------------------

    def route(self, resource: Resource) -> tuple[Group, bytes]:
        """The group that votes on a resource, and the resource's key."""
        self.check_place()
        data = resource_bytes(resource)
        return self.group_for(data), self._prefix + data

    @property
    def groups(self) -> Mapping[str, Group]:
        """Every group, by name, in the order of the options."""
        return self._groups

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
        return won.group if isinstance(won, Attempt) else self.group_for(resource_bytes(record.resource))

    def alias(self, record: LeaseRecord) -> LeaseRecord | None:
        """What this engine knows a lease of another one by, which was shared; None if that asks other servers."""
        group, key = self.route(record.resource)
        return alias_of(group, record.resource, record.mode.place(key), record.token)

    def share(self, record: LeaseRecord) -> Aliases:
        """Have a lease of this engine hear of what others of this process do with its token; in any thread.

        Returns what whoever has the lease is to keep.
        """
        return share(self.group_of(record), record)

    def votes(self, record: LeaseRecord) -> tuple[ServerVote, ...]:
        """Each server's vote in the round that won the lease, or last extended it or looked where it is.

        Servers that have taken it again since are FOR, those that may have forgotten it have not voted.
        """
        if record.ballot is None:
            return ()
        votes, healed, missing = record.ballot.votes(self.group_of(record).names), record.healed, record.missing
        if not healed and not missing:
            return votes
        return tuple(
            ServerVote(vote.server, Vote.FOR if healed >> i & 1 else None if missing >> i & 1 else vote.vote)
            for i, vote in enumerate(votes)
        )

    def terms(self, ttl: Seconds) -> Terms:
        """What a ttl means. Raises TypeError or ValueError for one that can't be."""
        return self._timing.terms(ttl)

    def until(self, wait: Wait) -> float:
        """Engine time when a wait that begins now is over. Raises TypeError or ValueError for what is no `wait`."""
        if wait is None:
            return NEVER
        return self.clock() + (self._policy.longest(wait) if wait is RETRY else wait_seconds(wait))

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
        for give_back_all in [*self.on_close]:
            give_back_all()
        self.closed = True
        self.waiting.close()
        self._watchdog.close()


def _known(
    group: Group, resource: Resource, key: bytes, lease: LeaseRecord | Token, mode: LockMode
) -> LeaseRecord | Token:
    """The record of a lease, or of a token where this process has one; else the token.

    Raises ValueError for a lease on another resource.
    """
    if not isinstance(lease, LeaseRecord):
        return alias_of(group, resource, mode.place(key), lease) or lease
    if lease.key != lease.mode.place(key):
        raise ValueError("this lease is for another resource")
    return lease


def require_choice(resource: object, cancel_id: object) -> None:
    """Raises TypeError for a choice of waits that names none: a name that is None by mistake must not end all."""
    if resource is None and cancel_id is None:
        raise TypeError("name the resource or the cancel_id whose waits are to end")
    if cancel_id is not None:
        _require_text(cancel_id)


def _require_text(cancel_id: object) -> None:
    if not isinstance(cancel_id, str):
        raise TypeError(f"a cancel_id is a str, not {type(cancel_id).__name__}")
