"""The asyncio face: supervisors, leases and mutexes whose calls are awaited. Decides nothing about locks itself."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Self, TypeVar, overload

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine.deployment import Engine, Status
from redlock_cluster.engine.deployments import Cluster, Source
from redlock_cluster.engine.release import Release
from redlock_cluster.engine.retry import RETRY, Wait
from redlock_cluster.errors import ClosedError, LockNotAcquired, RedlockError
from redlock_cluster.handles.lease import AsyncLease, elsewhere, known, records, unlocked
from redlock_cluster.handles.mutex import AsyncMutex
from redlock_cluster.results import Err, Lost, Ok, Refused, lost, refused

__all__ = ["AsyncSupervisor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class AsyncSupervisor:
    """Locks over the groups of an options file, for one event loop.

    options: path of a YAML file, or a mapping of the same shape. Raises OptionsError with every problem in it.

    Started by `async with`, by `start`, or by the first call. Reconnects lost servers for ever; a server that is down
    is an absent vote, never an exception.
    """

    def __init__(self, options: Source) -> None:
        self._own = Cluster(options)
        self._deployment = self._own.options.default

    @classmethod
    def over(cls, cluster: Cluster, deployment: str | None) -> AsyncSupervisor:
        """The locks of one deployment of a cluster that may have other ports than the real ones."""
        supervisor = AsyncSupervisor.__new__(AsyncSupervisor)
        supervisor._own, supervisor._deployment = cluster, deployment
        return supervisor

    @property
    def _cluster(self) -> Cluster:
        return self._own

    @property
    def _name(self) -> str | None:
        return self._deployment

    async def start(self) -> Self:
        """Connects; returns when each server has connected or failed once, at most `connect_timeout`."""
        await self._cluster.start()
        return self

    async def close(self) -> None:
        """Closes every connection once what was sent is answered. Leases still held stay until their ttl."""
        await self._cluster.close()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self.start()
            undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def deployment(self, name: str) -> AsyncSupervisor:
        """The locks of another deployment of the same options. Raises OptionsError when there is none of that name."""
        self._cluster.require(name)
        return AsyncSupervisor.over(self._cluster, name)

    def _ready(self) -> Engine | None:
        return self._own.ready(self._deployment)

    async def lock(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Ok[AsyncLease] | Refused:
        """Acquires an exclusive lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Raises ValueError or TypeError for misuse, ClosedError.
        """
        engine = self._ready() or await self._cluster.engine(self._name)
        attempt, limits = engine.begin_acquire(resource, ttl, wait)
        try:
            await attempt
        except asyncio.CancelledError:
            attempt.abandon()
            raise
        outcome = engine.acquired(attempt, limits)
        if not isinstance(outcome, LeaseRecord) and not isinstance(outcome, LockNotAcquired):
            outcome = await outcome
        return Ok(AsyncLease(engine, outcome)) if isinstance(outcome, LeaseRecord) else refused(outcome)

    async def unlock(self, resource: Resource, lease: AsyncLease | str) -> Ok[None] | Lost:
        """Releases a lock by its lease, or by its token alone.

        Returns Ok(None), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered to know. Raises ValueError for a lease on another resource.
        """
        engine = self._ready() or await self._cluster.engine(self._name)
        release = engine.begin_release(resource, known(engine, lease))
        if not isinstance(release, Release):
            return unlocked(release)
        await release
        return unlocked(engine.released(release, resource))

    async def extend(self, resource: Resource, lease: AsyncLease | str, ttl: Seconds) -> Ok[AsyncLease] | Lost:
        """Gives a lock a new ttl (seconds from now) by its lease, or by its token alone.

        Returns Ok(lease), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered: the lease then stays valid as long as it was.
        """
        engine = await self._cluster.engine(self._name)
        outcome = await engine.extend(resource, known(engine, lease), ttl, elsewhere(engine, lease))
        if isinstance(outcome, RedlockError):
            return lost(outcome)
        if isinstance(lease, AsyncLease) and lease._record is outcome:
            return Ok(lease)
        return Ok(AsyncLease(engine, outcome))

    @overload
    async def transaction(
        self, resource: Resource, ttl: Seconds, fn: Callable[[], Awaitable[T]], *, wait: Wait = RETRY
    ) -> T | Refused:
        """With an async function."""

    @overload
    async def transaction(
        self, resource: Resource, ttl: Seconds, fn: Callable[[], T], *, wait: Wait = RETRY
    ) -> T | Refused:
        """With a plain function."""

    async def transaction(
        self, resource: Resource, ttl: Seconds, fn: Callable[[], T | Awaitable[T]], *, wait: Wait = RETRY
    ) -> T | Refused:
        """Runs a function, plain or async, under a lock, and unlocks whatever it does.

        Returns what it returns, or the Err of `lock` without having called it. What it raises passes through. A lease
        that ran out meanwhile is logged as a warning.
        """
        locked = await self.lock(resource, ttl, wait=wait)
        if isinstance(locked, Err):
            return locked
        lease = locked.value
        try:
            result = fn()
            return await result if inspect.isawaitable(result) else result
        finally:
            try:
                error = await lease._engine.release(resource, lease._record)
            except ClosedError as closed:
                error = closed
            if error is not None:
                _log.warning("%s", error)

    def mutex(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> AsyncMutex:
        """A handle for `async with`; arguments as for `lock`."""
        return AsyncMutex(self, resource, ttl, wait)

    async def lock_many(self, resources: Iterable[Resource], ttl: Seconds) -> list[Ok[AsyncLease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        engine = await self._cluster.engine(self._name)
        outcomes = await engine.acquire_many(list(resources), ttl)
        return [Ok(AsyncLease(engine, o)) if isinstance(o, LeaseRecord) else refused(o) for o in outcomes]

    async def extend_many(
        self, leases: Iterable[AsyncLease], ttl: Seconds | None = None
    ) -> list[Ok[AsyncLease] | Lost]:
        """Gives leases of this supervisor a new ttl, all together; left out, each the one it has. As `extend`."""
        engine, leases = await self._cluster.engine(self._name), list(leases)
        outcomes = await engine.extend_many(records(engine, leases), ttl)
        return [Ok(lease) if error is None else lost(error) for lease, error in zip(leases, outcomes, strict=True)]

    async def unlock_many(self, leases: Iterable[AsyncLease]) -> list[Ok[None] | Lost]:
        """Releases leases of this supervisor, all together: the results in the order given. As `unlock`."""
        engine = await self._cluster.engine(self._name)
        return [unlocked(error) for error in await engine.release_many(records(engine, leases))]

    async def is_locked(self, resource: Resource) -> bool:
        """Whether anybody holds the resource, on a quorum of servers. Raises QuorumUnavailable if too few answer."""
        engine = await self._cluster.engine(self._name)
        return await engine.is_locked(resource)

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._cluster.group_for(self._name, resource)

    def status(self) -> Status:
        """An immutable snapshot: clusters, groups, servers with state, version, latency, errors, reconnects."""
        return self._cluster.status()
