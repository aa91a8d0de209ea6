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
from redlock_cluster.core.retry import RETRY, Wait
from redlock_cluster.core.timing import Seconds
from redlock_cluster.engine import bulk
from redlock_cluster.engine.deployments import Deployments, Source
from redlock_cluster.engine.engine import INHERITED, Engine
from redlock_cluster.engine.operation import outcome
from redlock_cluster.engine.status import Status
from redlock_cluster.errors import NotHeld, RedlockError
from redlock_cluster.handles.lease import AsyncLease, inherited, known, records
from redlock_cluster.handles.mutex import AsyncMutex
from redlock_cluster.handles.unique import Unique
from redlock_cluster.results import Err, Lost, Ok, Refused, extended, lost, refused, released, value_of

__all__ = ["AsyncSupervisor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class AsyncSupervisor(Unique):
    """Locks over the groups of an options file, for one event loop.

    options: path of a YAML file, or a mapping of the same shape. Raises OptionsError with every problem in it.

    Started by `async with`, by `start`, or by the first call. Reconnects lost servers for ever; a server that is down
    is an absent vote, never an exception.
    """

    instead = "make one in each process"
    _scope: str | None = None  # which deployment `start` and `close` concern, None for all

    def __init__(self, options: Source) -> None:
        self._own = Deployments(options)
        self._deployment = self._own.options.default

    @classmethod
    def over(cls, deployments: Deployments, deployment: str | None) -> AsyncSupervisor:
        """The locks of one deployment, of deployments that may have other ports than the real ones."""
        supervisor = AsyncSupervisor.__new__(AsyncSupervisor)
        supervisor._own, supervisor._deployment, supervisor._scope = deployments, deployment, deployment
        return supervisor

    @property
    def _deployments(self) -> Deployments:
        return self._own

    @property
    def _name(self) -> str | None:
        return self._deployment

    async def start(self) -> Self:
        """Connects; returns when each server has connected or failed once (at most `connect_timeout`).

        When every group has its quorum, the other servers are waited for a moment only, and connect in the background.
        """
        await self._deployments.start(self._scope)
        return self

    async def close(self) -> None:
        """Closes every connection once what was sent is answered. Leases still held stay until their ttl.

        What `deployment` gave closes that deployment alone.
        """
        await self._deployments.close(self._scope)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self.start()
            undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def deployment(self, name: str) -> AsyncSupervisor:
        """The locks of another deployment of the same options. Raises OptionsError when there is none of that name.

        It shares the connections of this supervisor; its `start` and `close` concern that deployment alone.
        """
        self._deployments.routing.require(name)
        return AsyncSupervisor.over(self._deployments, name)

    def _ready(self) -> Engine | None:
        """The engine, None before the start and in a fork."""
        engine = self._own.engines.get(self._deployment)
        return None if engine is None or engine.forked else engine

    async def lock(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> Ok[AsyncLease] | Refused:
        """Acquires an exclusive lock on a resource.

        resource: what to lock, str or bytes, 1 byte to 64 KiB
        ttl: seconds until servers forget the lock by themselves
        wait: RETRY the options' retry policy; 0 one attempt; seconds; None for ever

        Returns Ok(lease), Err("lock_failure") when somebody else holds it, or Err("unavailable") when too many
        servers did not vote; the last attempt decides which. Raises ValueError or TypeError for misuse, ClosedError.
        """
        engine = self._ready() or await self._deployments.engine(self._name)
        acquisition = engine.acquire(resource, ttl, wait)
        try:  # as `outcome` does, which costs a coroutine more
            while True:
                await acquisition.future(engine.loop)
                acquired = acquisition.result()
                if acquisition.decided:
                    break
        except asyncio.CancelledError:
            acquisition.abandon()
            raise
        return Ok(AsyncLease(self, engine, acquired)) if isinstance(acquired, LeaseRecord) else refused(acquired)

    async def unlock(self, resource: Resource, lease: AsyncLease | str) -> Ok[None] | Lost:
        """Releases a lock by its lease, or by its token alone.

        Returns Ok(None), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered to know. Raises ValueError for a lease on another resource.
        """
        if inherited(lease):
            return await _not_ours()
        engine = self._ready() or await self._deployments.engine(self._name)
        release = engine.release(resource, known(engine, lease))
        await release.future(engine.loop)  # a release goes on whoever waits for it
        return released(release.result())

    async def extend(self, resource: Resource, lease: AsyncLease | str, ttl: Seconds) -> Ok[AsyncLease] | Lost:
        """Gives a lock a new ttl (seconds from now) by its lease, or by its token alone.

        Returns Ok(lease), Err("not_held") when it is no longer held, or Err("unavailable") when too few servers
        answered: the lease then stays valid as long as it was.
        """
        if inherited(lease):
            return await _not_ours()
        engine = self._ready() or await self._deployments.engine(self._name)
        extension = engine.extend(resource, known(engine, lease), ttl)
        found = await outcome(extension, engine.loop)
        if isinstance(found, RedlockError):
            return lost(found)
        if isinstance(lease, AsyncLease) and lease._record is found:
            return Ok(lease)
        other = AsyncLease(self, engine, found)
        other.shared()
        return Ok(other)

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
                value_of(await self.unlock(resource, lease))
            except RedlockError as error:
                _log.warning("%s", error)

    def mutex(self, resource: Resource, ttl: Seconds, *, wait: Wait = RETRY) -> AsyncMutex:
        """A handle for `async with`; arguments as for `lock`."""
        return AsyncMutex(self, resource, ttl, wait)

    async def lock_many(self, resources: Iterable[Resource], ttl: Seconds) -> list[Ok[AsyncLease] | Refused]:
        """Makes one attempt for each resource, all together: the results in the order given.

        Raises ValueError for a resource that occurs twice, before anything is sent; otherwise as `lock`.
        """
        engine = await self._deployments.engine(self._name)
        outcomes = await bulk.acquire_many(engine, list(resources), ttl)
        return [Ok(AsyncLease(self, engine, o)) if isinstance(o, LeaseRecord) else refused(o) for o in outcomes]

    async def extend_many(
        self, leases: Iterable[AsyncLease], ttl: Seconds | None = None
    ) -> list[Ok[AsyncLease] | Lost]:
        """Gives leases a new ttl, all together; left out, each the one it has. As `extend`."""
        engine, leases = await self._deployments.engine(self._name), list(leases)
        outcomes = await bulk.extend_many(engine, records(engine, leases), ttl)
        return [extended(lease, outcome) for lease, outcome in zip(leases, outcomes, strict=True)]

    async def unlock_many(self, leases: Iterable[AsyncLease]) -> list[Ok[None] | Lost]:
        """Releases leases, all together: the results in the order given. As `unlock`."""
        engine = await self._deployments.engine(self._name)
        return [released(error) for error in await bulk.release_many(engine, records(engine, leases))]

    async def is_locked(self, resource: Resource) -> bool:
        """Whether anybody holds the resource, on a quorum of servers. Raises QuorumUnavailable if too few answer."""
        engine = await self._deployments.engine(self._name)
        locked = await outcome(engine.inspect(resource), engine.loop)
        if isinstance(locked, bool):
            return locked
        raise locked

    def group_for(self, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._deployments.routing.ring(self._name).group_for(resource)

    def status(self) -> Status:
        """An immutable snapshot: clusters, groups, servers with state, version, latency, errors, reconnects."""
        return self._deployments.status()


async def _not_ours() -> Lost:
    """Refuses a lease of the process that this one was forked from; whoever asks again and again lets others go on."""
    await asyncio.sleep(0)
    return lost(NotHeld(INHERITED))
