"""The engine: every group of one deployment, the ring that chooses among them, and their upkeep."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from redlock_cluster.core.batches import distinct
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource, resource_bytes, resource_text
from redlock_cluster.core.ring import Ring
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.timing import Seconds
from redlock_cluster.core.votes import ServerVote, Token
from redlock_cluster.engine.acquire import Inspection
from redlock_cluster.engine.bulk import Flow, acquire_many, extend_many, release_many
from redlock_cluster.engine.engine import PARENTS, Locks, same
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.release import Extension, Release, give_back
from redlock_cluster.engine.retry import Waiting
from redlock_cluster.errors import LeaseLost, LockNotAcquired, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.options import DeploymentOptions
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.flusher import Outbox
from redlock_cluster.wire.keeper import Link
from redlock_cluster.wire.pool import GroupStatus
from redlock_cluster.wire.ports import Ports

__all__ = ["ClusterStatus", "Engine", "Status"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One deployment at the moment of `status()`: its groups, in file order."""

    name: str
    groups: tuple[GroupStatus, ...]

    @property
    def available(self) -> bool:
        """Every group has a quorum of servers that can vote."""
        return all(group.available for group in self.groups)


@dataclass(frozen=True, slots=True)
class Status:
    """An immutable snapshot of a supervisor: its clusters, one for each deployment of the options."""

    clusters: tuple[ClusterStatus, ...]

    @property
    def available(self) -> bool:
        """Every group of every cluster has a quorum of servers that can vote; false before the start."""
        return bool(self.clusters) and all(cluster.available for cluster in self.clusters)


class Engine:
    """The locks of one deployment, in the running loop. Made and closed in the same loop.

    begin_acquire, acquired, begin_release, released: as in `Locks`
    """

    def __init__(self, name: str, options: DeploymentOptions, ring: Ring, ports: Ports | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.name, self._options = name, options
        ports = ports or Ports()
        self._outbox, deadlines = Outbox(self.loop), Deadlines(self.loop, ports.clock)
        owner = (options.owner or f"{socket.gethostname()}:{os.getpid()}").encode()
        self._groups = {g.name: Group(g, options, ports, self._outbox, deadlines, owner) for g in options.groups}
        self.clock, self._deadlines = ports.clock, deadlines
        self._timing = next(iter(self._groups.values())).timing
        self._waiting = Waiting(options, ports)
        prefix = options.key_prefix.encode()
        self._locks = locks = Locks(self.loop, self._groups, ring, prefix, self._timing, self._waiting)
        self.begin_acquire, self.acquired = locks.begin_acquire, locks.acquired
        self.begin_release, self.released = locks.begin_release, locks.released
        self._links: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._health: asyncio.TimerHandle | None = None

    # --- its life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects to every server; returns when each has connected or failed once. Never fails for want of servers."""
        servers = [server for group in self._groups.values() for server in group.servers]
        self._links = [link for server in servers for link in server.links]
        self._tasks = [self.loop.create_task(link.keep(), name=f"redlock {link.name}") for link in self._links]
        self._health = self.loop.call_later(self._options.health_check_interval, self._check)
        for link in self._links:
            await link.attempted.wait()
        for group in self._groups.values():
            if not group.status().available:
                down = ", ".join(
                    f"{link.name}: {link.error}" for lane in group.lanes[:1] for link in lane.links if link.error
                )
                _log.warning("group %s has no quorum of servers (%s); reconnecting", group.name, down)

    async def close(self) -> None:
        """Lets what was sent be answered (for a server timeout at most), then closes every connection."""
        if self.closed:
            return
        self._locks.closed = True
        self._waiting.closing.set()
        if self._health is not None:
            self._health.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.server_timeout):
                    while answers := [answer for link in self._links if (answer := link.flush()) is not None]:
                        await asyncio.wait(answers)  # meanwhile calls under way may have sent more
        finally:
            self._deadlines.close()
            for link in self._links:
                link.closing = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check(self) -> None:
        now = self.clock()
        for link in self._links:
            link.check(now)
        self._health = self.loop.call_later(self._options.health_check_interval, self._check)

    # --- locks -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._locks.closed

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that made the engine: its connections and leases are not ours."""
        return self._locks.forked

    async def release(self, resource: Resource, lease: LeaseRecord | Token) -> RedlockError | None:
        """Releases by lease or token: None when a quorum deleted it, else why that can't be said."""
        release = self.begin_release(resource, lease)
        if not isinstance(release, Release):
            return release
        await release
        return self.released(release, resource)

    async def extend(
        self, resource: Resource, lease: LeaseRecord | Token, ttl: Seconds, elsewhere: LeaseRecord | None = None
    ) -> LeaseRecord | RedlockError:
        """Extends by lease or token: the lease when a quorum extended it in time, else why not.

        elsewhere: the lease that another engine keeps for the token; it is believed no longer than servers keep it now
        """
        if self.forked:
            return NotHeld(PARENTS)
        ttl_ms = self._timing.ttl_ms(ttl)
        group, key = self._locks.route(resource)
        if isinstance(lease, LeaseRecord):
            return await self._extend(group, same(lease, key), ttl_ms) or lease
        now = self.clock()
        if elsewhere and not elsewhere.begin_extension(now, now + self._timing.validity(ttl_ms), ttl_ms):
            return LeaseLost(f"the lease on {resource_text(resource)!r} had ended", resource_text(resource), group.name)
        extension = Extension(group, key, lease, self._timing.terms(ttl_ms), None)
        extension.begin()
        await extension
        return group.extended_token(extension, resource)

    async def _extend(self, group: Group, record: LeaseRecord, ttl_ms: int) -> RedlockError | None:
        while (running := group.extensions.get(record.token)) is not None:
            await running
        extension = Extension(group, record.key, record.token, self._timing.terms(ttl_ms), record)
        if extension.begin():
            await extension
        return group.extended(extension, record)

    async def acquire_many(self, resources: Sequence[Resource], ttl: Seconds) -> list[LeaseRecord | LockNotAcquired]:
        """One attempt for each resource: the outcomes in the order given. Raises ValueError for duplicates."""
        terms = self._timing.terms(self._timing.ttl_ms(ttl))
        self._locks.check_place()
        names = [resource_bytes(resource) for resource in resources]
        distinct(names, resources)
        groups, keys = [self._locks.group_for(name) for name in names], [self._locks.key(name) for name in names]
        return await acquire_many(self._flow(), groups, resources, keys, terms)

    async def release_many(self, records: Sequence[LeaseRecord]) -> list[RedlockError | None]:
        """Releases leases of this engine, in order. Raises ValueError for duplicates."""
        return await release_many(self._flow(), self._homes(records), records)

    async def extend_many(self, records: Sequence[LeaseRecord], ttl: Seconds | None) -> list[RedlockError | None]:
        """Extends leases of this engine, in order; by the ttl that each has if none is given."""
        ttl_ms = None if ttl is None else self._timing.ttl_ms(ttl)
        ttls = [ttl_ms or record.ttl_ms for record in records]
        return await extend_many(self._flow(), self._homes(records), records, ttls)

    def _flow(self) -> Flow:
        return Flow(self._outbox, self._waiting.closing)

    def _homes(self, records: Sequence[LeaseRecord]) -> list[Group]:
        """The groups that vote on leases, in their order. Raises ValueError for duplicates."""
        self._locks.check_place()
        distinct([record.key for record in records], [record.resource for record in records])
        return [self._locks.home(record) for record in records]

    def abandon(self, record: LeaseRecord) -> None:
        """Gives a lease back without waiting to hear of it."""
        if not self.forked and not self.closed and record.begin_release(self.clock()):
            give_back(self._locks.home(record), record)
            record.released(Outcome.DONE)

    def votes(self, record: LeaseRecord) -> tuple[ServerVote, ...]:
        """Each server's vote in the round that won the lease or last extended it."""
        return () if record.round is None else record.round.votes(self._locks.home(record).names)

    async def is_locked(self, resource: Resource) -> bool:
        """Whether anybody holds the resource. Raises QuorumUnavailable if that can't be said."""
        group, key = self._locks.route(resource)
        inspection = Inspection(group, key, self._timing.server_timeout).begin()
        await inspection
        answer = group.is_locked(inspection, resource)
        if isinstance(answer, QuorumUnavailable):
            raise answer
        return answer

    def status(self) -> ClusterStatus:
        """A snapshot of every group and server."""
        return ClusterStatus(self.name, tuple(group.status() for group in self._groups.values()))
