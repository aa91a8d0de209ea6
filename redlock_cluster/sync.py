"""The synchronous face: the engine, through the portal. Safe from many threads; decides nothing about locks itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import NoReturn, Self, TypeVar

from redlock_cluster.calls import Acquiring, Making, Releasing, finished
from redlock_cluster.core.batches import WINDOW
from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.cluster import Cluster, Source
from redlock_cluster.engine.locks import PARENTS
from redlock_cluster.engine.supervisor import Engine, Status
from redlock_cluster.engine.waiting import RETRY, Wait
from redlock_cluster.errors import ClosedError, LockNotAcquired, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.home import Home
from redlock_cluster.leases import Lease, abandon, elsewhere, give_up, known, records, unlocked
from redlock_cluster.mutexes import Mutex
from redlock_cluster.options import DeploymentOptions
from redlock_cluster.options.file import load_options
from redlock_cluster.portal import PortalStuck
from redlock_cluster.results import Lost, Ok, Refused, lost, refused, value_of

__all__ = ["Supervisor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PLAIN = "a synchronous transaction can't await a coroutine; use AsyncRedlock"


class Supervisor:
    """Locks over the groups of an options file, for every thread of a process, and for its forks.

    options: path of a YAML file, or a mapping of the same shape. Raises OptionsError with every problem in it.

    Started by `with`, by `start`, or by the first call, also in a forked child. Reconnects lost servers for ever; a
    server that is down is an absent vote, never an exception.
    """

    def __init__(self, options: Source) -> None:
        self._own: Home | None = Home(load_options(options))
        self._deployment: str | None = None

    @property
    def _home(self) -> Home:
        if self._own is None:
            raise ClosedError("the supervisor has no options yet")
        return self._own

    @property
    def _name(self) -> str | None:
        return self._deployment or self._home.options.default

    def start(self) -> Self:
        """Connects; returns when each server has connected or failed once, at most `connect_timeout`.

        Raises RuntimeError where the process doesn't let threads run.
        """
        self._home.closed = False
        here, cluster = self._home.enter()
        try:
            here.call(cluster.start, self._patience(cluster))
        except PortalStuck as stuck:
            raise RuntimeError(str(stuck)) from None
        return self

    def close(self) -> None:
        """Closes every connection once what was sent is answered. Leases still held stay until their ttl."""
        self._home.close()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deployment(self, name: str) -> Supervisor:
        """The locks of another deployment of the same options. Raises OptionsError when there is none of that name."""
        other = Supervisor.__new__(Supervisor)
        other._own, other._deployment = self._home, self._home.map.require(name)
        return other

    def lock(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Ok[Lease] | Refused:
        """Acquires an exclusive lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Raises ValueError or TypeError for misuse, ClosedError.
        """
        budget = self._home.longest(self._name, wait)
        return self._call(lambda engine: Acquiring(engine, resource, ttl, wait, self._locked), budget, refused, give_up)

    def unlock(self, resource: Resource, lease: Lease | str) -> Ok[None] | Lost:
        """Releases a lock by its lease, or by its token alone.

        Returns Ok(None), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered to know. Raises ValueError for a lease on another resource.
        """
        over = False
        try:
            outcome = self._finish(lease, lambda e: Releasing(e, resource, known(e, lease), unlocked), kept=True)
            over = True
            return outcome
        except (TypeError, ValueError, ClosedError):
            over = True
            raise
        finally:
            if not over and isinstance(lease, Lease):  # interrupted: it goes all the same
                self.let_go(lease)

    def extend(self, resource: Resource, lease: Lease | str, ttl: Seconds) -> Ok[Lease] | Lost:
        """Gives a lock a new ttl (seconds from now) by its lease, or by its token alone.

        Returns Ok(lease), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered: the lease then stays valid as long as it was.
        """

        async def extend(engine: Engine) -> Ok[Lease] | Lost:
            outcome = await engine.extend(resource, known(engine, lease), ttl, elsewhere(engine, lease))
            if isinstance(outcome, RedlockError):
                return lost(outcome)
            if isinstance(lease, Lease) and lease._record is outcome:
                return Ok(lease)
            return Ok(Lease(self, engine, outcome))

        return self._finish(lease, extend)

    def transaction(self, resource: Resource, ttl: Seconds, fn: Callable[[], T], *, wait: Wait = RETRY) -> T | Refused:
        """Runs a function under a lock, and unlocks whatever it does.

        Returns what it returns, or the Err of `lock` without having called it. What it raises passes through. A lease
        that ran out meanwhile is logged as a warning. Raises TypeError for a coroutine function, before locking.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError(_PLAIN)
        outcome: Ok[Lease] | Refused | None = None
        guard = self.mutex(resource, ttl, wait=wait)
        try:
            outcome = self.lock(resource, ttl, wait=wait)
            if not isinstance(outcome, Ok):
                return outcome
            guard.keep(outcome.value)
            result = fn()
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(_PLAIN)
            return result
        finally:
            if isinstance(outcome, Ok):
                self._end_transaction(resource, outcome.value)
            guard.keep(None)

    def mutex(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Mutex:
        """A handle for `with`; arguments as for `lock`."""
        return Mutex(self, resource, ttl, wait)

    def lock_many(self, resources: Iterable[Resource], ttl: Seconds) -> list[Ok[Lease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        wanted = list(resources)

        async def lock_many(engine: Engine) -> list[Ok[Lease] | Refused]:
            return [self._locked(engine, outcome) for outcome in await engine.acquire_many(wanted, ttl)]

        def stuck(error: QuorumUnavailable) -> list[Ok[Lease] | Refused]:
            return [refused(error) for _ in wanted]

        return self._call(lock_many, self._patience_for(wanted), stuck, lambda results: [*map(give_up, results)])

    def extend_many(self, leases: Iterable[Lease], ttl: Seconds | None = None) -> list[Ok[Lease] | Lost]:
        """Gives leases of this supervisor a new ttl, all together; left out, each the one it has. As `extend`."""
        held = list(leases)

        async def extend_many(engine: Engine) -> list[Ok[Lease] | Lost]:
            outcomes = await engine.extend_many(records(engine, held), ttl)
            return [Ok(lease) if error is None else lost(error) for lease, error in zip(held, outcomes, strict=True)]

        return self._finish_many(held, extend_many)

    def unlock_many(self, leases: Iterable[Lease]) -> list[Ok[None] | Lost]:
        """Releases leases of this supervisor, all together: the results in the order given. As `unlock`."""
        held = list(leases)

        async def unlock_many(engine: Engine) -> list[Ok[None] | Lost]:
            return [unlocked(error) for error in await engine.release_many(records(engine, held))]

        return self._finish_many(held, unlock_many, kept=True)

    def is_locked(self, resource: Resource) -> bool:
        """Whether anybody holds the resource, on a quorum of servers. Raises QuorumUnavailable if too few answer."""
        return self._call(lambda engine: engine.is_locked(resource), self._timing.server_timeout, _fail)

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._home.map.group_for(self._name, resource)

    def status(self) -> Status:
        """An immutable snapshot: clusters, groups, servers with state, version, latency, errors, reconnects."""
        return self._home.enter()[1].status()

    def _end_transaction(self, resource: Resource, lease: Lease) -> None:
        try:
            value_of(self.unlock(resource, lease))
        except RedlockError as error:
            _log.warning("%s", error)

    def let_go(self, lease: Lease) -> None:
        """Releases without waiting to hear of it; nothing happens to a lease that is over."""
        self._home.later(abandon, lease)

    def _acquire(self, resource: Resource, ttl: Seconds, wait: Wait) -> Lease:
        """For handles: the lease, or the exception."""
        budget = self._home.longest(self._name, wait)
        return self._call(lambda engine: Acquiring(engine, resource, ttl, wait, self._granted), budget, _fail, abandon)

    def _granted(self, engine: Engine, outcome: LeaseRecord | LockNotAcquired) -> Lease:
        if isinstance(outcome, LockNotAcquired):
            raise outcome
        return Lease(self, engine, outcome)

    def _locked(self, engine: Engine, outcome: LeaseRecord | LockNotAcquired) -> Ok[Lease] | Refused:
        return refused(outcome) if isinstance(outcome, LockNotAcquired) else Ok(Lease(self, engine, outcome))

    def _finish(
        self, lease: Lease | str, make: Callable[[Engine], Making[Ok[T] | Lost]], kept: bool = False
    ) -> Ok[T] | Lost:
        """For a lease or token: the call, unless the lease belongs to the process this one was forked from."""
        if isinstance(lease, Lease) and lease._engine.forked:
            return lost(NotHeld(PARENTS))
        return self._call(make, 2 * self._timing.server_timeout, lost, kept=kept)

    def _finish_many(
        self, leases: Sequence[Lease], make: Callable[[Engine], Making[list[Ok[T] | Lost]]], kept: bool = False
    ) -> list[Ok[T] | Lost]:
        """The same for many leases."""

        def all_lost(error: RedlockError) -> list[Ok[T] | Lost]:
            return [lost(error) for _ in leases]

        if any(lease._engine.forked for lease in leases if isinstance(lease, Lease)):
            return all_lost(NotHeld(PARENTS))
        return self._call(make, 2 * self._patience_for(leases), all_lost, kept=kept)

    @property
    def _timing(self) -> DeploymentOptions:
        return self._home.deployment(self._name)

    def _patience_for(self, batch: Sequence[object]) -> float:
        """Seconds that a batch may take: a round for each window, and 0.1 ms for each of its parts."""
        return self._timing.server_timeout * (1 + len(batch) // WINDOW) + len(batch) / 10_000

    def _patience(self, cluster: Cluster) -> float:
        """Seconds that starting adds to a call."""
        return 0.0 if cluster.started else max(d.connect_timeout for d in self._home.options.deployments.values())

    def _call(
        self,
        make: Callable[[Engine], Making[T]],
        budget: float,
        stuck: Callable[[QuorumUnavailable], T],
        undo: Callable[[T], object] | None = None,
        kept: bool = False,
    ) -> T:
        """Runs something on the engine in the portal. stuck: what it comes to when the portal's thread is stuck"""
        (here, cluster), name = self._home.enter(), self._name

        def call() -> Making[T]:
            engine = cluster.ready(name)
            return _first(cluster, name, make) if engine is None else make(engine)

        try:
            return here.call(call, budget + self._patience(cluster), undo, kept)
        except PortalStuck as error:
            return stuck(QuorumUnavailable(str(error)))


async def _first(cluster: Cluster, name: str | None, make: Callable[[Engine], Making[T]]) -> T:
    """A call that has to wait for the start."""
    return await finished(make(await cluster.engine(name)))


def _fail(error: RedlockError) -> NoReturn:
    raise error
