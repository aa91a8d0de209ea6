"""One group of servers that vote together, and what its rounds share."""

from __future__ import annotations

import asyncio
import logging

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.tally import quorum_of
from redlock_cluster.core.text import cut
from redlock_cluster.core.timing import Timing
from redlock_cluster.core.token import Token, Tokens
from redlock_cluster.engine.pending import PendingReleases
from redlock_cluster.engine.status import GroupStatus, ServerStatus
from redlock_cluster.options import DeploymentOptions, GroupOptions
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.handshake import Handshake
from redlock_cluster.wire.keeper import OnConnected
from redlock_cluster.wire.pipeline import Pipeline
from redlock_cluster.wire.pool import Pool
from redlock_cluster.wire.ports import Entropy, Ports, SystemEntropy

__all__ = ["Group", "Locks"]

Locks = tuple[Entropy | None, frozenset[tuple[str, int]]]
"""Where tokens come from, None in the real world, and the servers' names and databases."""

_log = logging.getLogger(__name__)


class Group:
    """An odd number of servers, more than half of which decide.

    group, options: as the file says
    timing, ports, flusher, deadlines, pending, tokens: the engine's
    handshake: what is said on each new connection
    on_connected: prepares it

    size: how many servers
    quorum: how many of them decide
    names: the servers', in voting order
    locks: what the tokens here are unique in: other engines' groups that have an equal one know the same locks
    pipelines: one for each index of the pools; all commands for one key use one
    extensions: those under way, by the lease's token: extensions of one lease never overlap
    """

    def __init__(
        self,
        group: GroupOptions,
        options: DeploymentOptions,
        timing: Timing,
        ports: Ports,
        flusher: Flusher,
        deadlines: Deadlines,
        pending: PendingReleases,
        tokens: Tokens,
        handshake: Handshake,
        on_connected: OnConnected,
    ) -> None:
        self.name, self.weight, self.size = group.name, group.weight, len(group.servers)
        self.quorum = quorum_of(self.size)
        self.timing, self.clock = timing, ports.clock
        self.flusher, self.deadlines, self.pending, self.tokens = flusher, deadlines, pending, tokens
        self.pools = tuple(
            Pool(server, index, options, ports, flusher, handshake, on_connected)
            for index, server in enumerate(group.servers)
        )
        self._loop = asyncio.get_running_loop()
        self._watched = self._looking = self._told = False
        self.names = tuple(pool.name for pool in self.pools)
        # Tokens of two machines that are simulated in one process, or of their histories, may be the same.
        world = None if isinstance(ports.entropy, SystemEntropy) else ports.entropy
        self.locks: Locks = world, frozenset((server.name, server.database) for server in group.servers)
        self.pipelines = tuple(
            Pipeline(keepers, self.quorum, self.clock, flusher, deadlines, self._changed)
            for keepers in zip(*(pool.keepers for pool in self.pools), strict=True)
        )
        self.extensions: dict[Token, Decision] = {}
        self._keepers = tuple(keeper for pool in self.pools for keeper in pool.keepers)
        for keeper in self._keepers:
            keeper.meet(self._keepers)

    # --- what the operator is told ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on, log that the servers are no quorum, if it is so now or comes to that."""
        self._watched = True
        if not self.available:
            self._tell("has no quorum of servers")

    def unwatch(self) -> None:
        """The connections are about to be closed: that is no news."""
        self._watched = False

    def check(self) -> None:
        """At each health check: log that there is a quorum again. Not earlier, so that one that comes and goes with
        every round fills no log."""
        if self._told and self.available:
            self._told = False
            _log.warning("group %s has a quorum of servers now", cut(self.name))

    def _changed(self) -> None:
        """Something about the servers has changed: look at the end of the turn, when what belongs to it has, too."""
        if self._watched and not self._told and not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        # `asyncio.run` cancels every task at its end, keepers among them.
        leaving = any(keeper.leaving for keeper in self._keepers)
        if self._watched and not self._told and not leaving and not self.available:
            self._tell("has lost its quorum of servers")

    def _tell(self, what: str) -> None:
        self._told = True
        why = "; ".join(f"{cut(pool.name)}: {pool.why}" for pool in self.pools if not pool.able)
        _log.warning("group %s %s (%s)", cut(self.name), what, why)

    @property
    def available(self) -> bool:
        """Whether a quorum of its servers would vote."""
        return sum(pool.able for pool in self.pools) >= self.quorum

    @property
    def quorate(self) -> bool:
        """Whether every key finds a quorum of servers that can be asked."""
        return all(pipeline.enough for pipeline in self.pipelines)

    def status(self) -> GroupStatus:
        """A snapshot."""
        now = self.clock()
        servers = tuple(
            ServerStatus(
                name=pool.name,
                state=pool.state,
                since=max(0.0, now - pool.since),
                last_error=pool.last_error,
                version=pool.version,
                warning=pool.warning,
                latency=pool.latency,
                latency_age=None if pool.latency is None else max(0.0, now - pool.measured_at),
                connections=pool.connections,
                reconnects=pool.reconnects,
                pending_releases=self.pending.count(pool.keepers),
                dropped_releases=self.pending.dropped(pool.keepers),
            )
            for pool in self.pools
        )
        return GroupStatus(self.name, self.weight, servers, self.available)
