"""What `status()` gives: immutable snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from redlock_cluster.wire.pool import ServerState

__all__ = ["ClusterStatus", "GroupStatus", "ServerStatus", "Status"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server.

    name: `host:port` or `unix:path`
    state: how its connections are, and whether it refuses commands
    since: seconds since the last connect or disconnect, or since it began or ceased to refuse
    last_error: what it refuses, in its words; else the last failure, "" when there was none, which stays
    version: such as `valkey 9.1.2`, "" before the first connection
    warning: what about its configuration endangers locks, "" when nothing is known
    latency: seconds of the newest health check, None before the first connection
    latency_age: seconds since that one was answered, None before
    connections: serving ones, of `pool_size`
    reconnects: connections made anew, over the whole pool
    pending_releases: tokens to be released there once it can be asked again
    dropped_releases: bare tokens that were too many to wait for that; their keys stay there until their ttl
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


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group: its servers in voting order, and whether a quorum of them can vote."""

    name: str
    weight: int
    servers: tuple[ServerStatus, ...]
    available: bool


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
