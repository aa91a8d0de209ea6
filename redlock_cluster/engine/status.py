"""What `status()` gives: immutable snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from redlock_cluster.core.meta import ServerMemory
from redlock_cluster.wire.pool import ServerState

__all__ = ["ClusterStatus", "GroupStatus", "ServerMemory", "ServerStatus", "Status"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server.

    name: `host:port` or `unix:path`
    state: how its connections are, and whether it refuses commands
    since: seconds since the last connect or disconnect, or since it began or ceased to refuse
    last_error: what it refuses, in its words, or why its grants don't count; else the last failure, "" when there was
        none, which stays
    version: such as `valkey 9.1.2`, "" before the first connection
    warning: what about its configuration endangers locks, "" when nothing is known
    latency: seconds of the newest health check, None before the first connection
    latency_age: seconds since that one was answered, None before
    connections: serving ones, of `pool_size`
    reconnects: connections made anew, over the whole pool
    pending_releases: tokens to be released and queues to be left there once it can be asked again
    dropped_releases: bare tokens that were too many to wait for that; their keys stay there until their ttl
    queues: whether waiting calls stand in a queue there, None without a connection
    wakes: whether it wakes them, else they poll it; None without a connection
    quarantine: seconds until its grants count, as it may have forgotten locks; infinite while nobody knows when, or if
        it is not this group's; None if they count
    unguarded: why nobody can tell whether it has forgotten locks, "" if that can be told
    memory: what it remembered of itself when it was asked last, None if nothing
    """

    name: str
    state: ServerState
    since: float
    last_error: str
    version: str
    warning: str
    latency: float | None
    latency_age: float | None
    connections: int
    reconnects: int
    pending_releases: int
    dropped_releases: int
    queues: bool | None
    wakes: bool | None
    quarantine: float | None = None
    unguarded: str = ""
    memory: ServerMemory | None = None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group.

    weight: its share of the ring
    servers: in voting order
    available: whether a quorum of them can vote
    waiting: calls of this supervisor that wait until somebody releases a lock of the group
    longest_wait: seconds that the first of those has waited, None without any
    leases: valid ones of this supervisor
    extending: how many of those extend themselves
    """

    name: str
    weight: int
    servers: tuple[ServerStatus, ...]
    available: bool
    waiting: int = 0
    longest_wait: float | None = None
    leases: int = 0
    extending: int = 0


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One deployment: its groups, in file order."""

    name: str
    groups: tuple[GroupStatus, ...]

    @property
    def available(self) -> bool:
        """Every group has a quorum of servers that can vote."""
        return all(group.available for group in self.groups)


@dataclass(frozen=True, slots=True)
class Status:
    """A supervisor: its clusters, one for each deployment of the options."""

    clusters: tuple[ClusterStatus, ...]

    @property
    def available(self) -> bool:
        """Every group of every cluster has a quorum of servers that can vote; false before the start."""
        return bool(self.clusters) and all(cluster.available for cluster in self.clusters)
