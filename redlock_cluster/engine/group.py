"""One group of servers that vote together, and what its rounds share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.meta import ServerMemory
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.tally import quorum_of
from redlock_cluster.core.text import cut
from redlock_cluster.core.timing import Timing
from redlock_cluster.core.token import Token, Tokens
from redlock_cluster.engine.pending import PendingReleases
from redlock_cluster.engine.status import GroupStatus, ServerStatus
from redlock_cluster.options import DeploymentOptions, GroupOptions
from redlock_cluster.wire.connection import Connection, Flusher
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.handshake import Facts, Handshake
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.pipeline import Pipeline
from redlock_cluster.wire.pool import Pool
from redlock_cluster.wire.ports import Entropy, Ports, SystemEntropy

__all__ = ["Group", "Locks"]

Locks = tuple[Entropy | None, frozenset[tuple[str, int]]]
"""Where tokens come from, None in the real world, and the servers' names and databases."""

_UNLIMITED: Final = 1 << 62

_log = logging.getLogger(__name__)


class Line(Protocol):
    """Those of this client who wait for one lock; `engine.line` has it.

    joined: mask of the servers in whose queues this client may stand
    """

    joined: int

    @property
    def latest(self) -> object:
        """Its attempt that was begun last for whoever is first now."""

    @property
    def group(self) -> Group:
        """The servers that vote on the lock."""

    def begun(self) -> list[float]:
        """Engine times when each of them began to wait. In any thread."""

    def released(self, shared: bool) -> None:
        """As `Group.note_released`."""

    def others_came(self) -> None:
        """Others than this client wait, too."""


class Guard(Protocol):
    """Sees to servers that may have forgotten locks; `engine.quarantine` has it."""

    def met(self, keeper: Keeper, facts: Facts) -> None:
        """A new connection is about to serve."""

    def flushed(self, keeper: Keeper) -> None:
        """All its keys were deleted, or those of another database of the same server."""

    def changed(self) -> None:
        """Connections came or went, or other things changed about the servers."""

    def check(self) -> None:
        """Called at each health check."""

    def longer(self, keepers: tuple[Keeper, ...], ttl_ms: int) -> tuple[int, float]:
        """Locks are about to be asked for, over these connections, that last longer than servers were told.

        Returns for how long they may last from now on, milliseconds, and until when, engine time.
        """

    def covers(self, index: int, ttl_ms: int) -> bool:
        """Whether a server was told that locks last so long, milliseconds."""

    def left(self, index: int) -> float | None:
        """Seconds until a server's grants count, infinite if nobody knows; None if they do."""

    def memory(self, index: int) -> ServerMemory | None:
        """What a server remembered when it was asked last."""

    def unguarded(self, index: int) -> str:
        """Why nobody can tell whether a server has forgotten, "" if that can be told."""


class Watch(Protocol):
    """Who sees to one lease; `engine.watchdog` has it.

    extends: whether the lease extends itself
    """

    extends: bool

    def own(self, owner: object) -> None:
        """Whoever refers to this refers to the lease, too."""

    def extending(self) -> None:
        """An extension of the lease is about to be sent."""

    def changed(self) -> None:
        """Something new is known of the lease."""

    def stop(self) -> None:
        """The lease is about to be released, or is somebody else's: nothing is done for it any more."""


class Newcomer(Protocol):
    """Who makes a first attempt, and waits if that is refused."""

    def released(self) -> None:
        """This client has sent a release of the lock."""


class Group:
    """An odd number of servers, more than half of which decide.

    group, options: as the file says
    timing, ports, flusher, deadlines, pending, tokens: the engine's
    handshake: what is said on each new connection
    on_connected: prepares it
    lines: those of this client who wait, by key and kind of lock
    on_push: hears what a server sends of its own accord
    watches: who sees to leases, by token
    on_lacking: called when leases may lack votes, with the arguments of `note_lacking`

    guard: sees to servers that may have forgotten locks; None where nobody does
    size: how many servers
    quorum: how many of them decide
    names: the servers', in voting order
    locks: what the tokens here are unique in: other engines' groups that have an equal one know the same locks
    pipelines: one for each index of the pools; all commands for one key use one
    queue_ttl: seconds after which a server has forgotten a queue in which nobody stands again
    extensions: those under way, by the lease's token: extensions of one lease never overlap
    trying: acquisitions that make their first attempt and would wait, by key
    trying_together: the same of locks that several may hold
    crowded: keys for which others are known to wait, and until when that is believed, engine time
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
        on_connected: Callable[[Group, Keeper, Connection, Facts], Awaitable[None]],
        lines: Mapping[bytes, Mapping[LockMode, Line]],
        on_push: Callable[[Group, Keeper, list[object]], None],
        watches: Mapping[Token, Watch],
        on_lacking: Callable[[Group, bool, int], None],
    ) -> None:
        self.name, self.weight, self.size = group.name, group.weight, len(group.servers)
        self.quorum = quorum_of(self.size)
        self.timing, self.clock = timing, ports.clock
        self.flusher, self.deadlines, self.pending, self.tokens = flusher, deadlines, pending, tokens
        prepare, pushed = partial(on_connected, self), partial(on_push, self)
        self.pools = tuple(
            Pool(server, index, options, ports, flusher, handshake, prepare, pushed)
            for index, server in enumerate(group.servers)
        )
        self.guard: Guard | None = None
        self._loop = asyncio.get_running_loop()
        self._watched = self._looking = self._told = False
        self.names = tuple(pool.name for pool in self.pools)
        # Tokens of two machines that are simulated in one process, or of their histories, may be the same.
        world = None if isinstance(ports.entropy, SystemEntropy) else ports.entropy
        self.locks: Locks = world, frozenset((server.name, server.database) for server in group.servers)
        self.pipelines = tuple(
            Pipeline(keepers, self.quorum, self.clock, flusher, deadlines, self._changed, self._longer)
            for keepers in zip(*(pool.keepers for pool in self.pools), strict=True)
        )
        self.extensions: dict[Token, Decision] = {}
        self.lines = lines
        self.watches, self._on_lacking = watches, on_lacking
        self._runs: dict[int, str] = {}
        self._able = [0] * len(self.pipelines)
        self.queue_ttl = 2 * options.waiter_ttl
        self.crowded: dict[bytes, float] = {}
        # Others are believed to wait so long after this was last heard of: the first of them comes again earlier.
        self._crowded_for = options.waiter_ttl / 2
        self.trying: dict[bytes, Newcomer] = {}
        self.trying_together: dict[Newcomer, None] = {}
        self._keepers = tuple(keeper for pool in self.pools for keeper in pool.keepers)
        for keeper in self._keepers:
            keeper.meet(self._keepers)

    # --- who waits -------------------------------------------------------------------------------------------------

    def crowds(self, key: bytes) -> bool:
        """Whether others than this client are known to wait for a lock: whoever releases it tells them."""
        return bool(self.crowded) and self.crowded.get(key, 0.0) > self.clock()

    def others_wait(self, key: bytes) -> bool:
        """Whether a newcomer would pass somebody who is known to wait, here or elsewhere."""
        return key in self.lines or self.crowds(key)

    def note_others(self, key: bytes) -> None:
        """Others than this client wait for a lock: who waits here hears it."""
        self.crowded[key] = self.clock() + self._crowded_for
        if self.lines:
            for line in [*self.lines.get(key, {}).values()]:
                line.others_came()

    def forget_others(self) -> None:
        """At each health check: forget those of whom nothing was heard for long."""
        now = self.clock()
        for key in [key for key, until in self.crowded.items() if until < now]:
            del self.crowded[key]

    def line_of(self, key: bytes, mode: LockMode) -> Line | None:
        """Those of this client who wait for one kind of lock."""
        return self.lines.get(key, {}).get(mode.plain)

    def note_released(self, key: bytes, mode: LockMode) -> None:
        """This client has sent a release, or a first attempt came to nothing: who waits, or is about to, hears it."""
        if self.trying and key in self.trying:
            self.trying[key].released()
        if self.lines:
            for line in [*self.lines.get(mode.waits_at(key), {}).values()]:
                line.released(mode.shared)

    # --- leases ----------------------------------------------------------------------------------------------------

    def note_lacking(self, news: bool = False, forgot: int = 0) -> None:
        """Leases may lack votes that could be had.

        news: because servers can be asked again or may have lost what they knew; else one has refused a lease
        forgot: mask of the servers that may have lost what they knew
        """
        self._on_lacking(self, news, forgot)

    def _look_for_servers_that_are_back(self) -> None:
        """Servers that can be asked again may lack leases, and one that was started anew has none of those it had.

        So does one that refuses nothing any more, or that only some of the connections of its pool had lost.
        """
        back, forgot = 0, 0
        for number, pipeline in enumerate(self.pipelines):
            able = pipeline.usable & ~sum([1 << keeper.index for keeper in pipeline.keepers if keeper.refusals])
            back, self._able[number] = back | able & ~self._able[number], able
        for index, pool in enumerate(self.pools):
            run_id = pool.run_id
            if run_id is not None and run_id != self._runs.setdefault(index, run_id):
                self._runs[index] = run_id
                forgot |= 1 << index
            elif not run_id:
                forgot |= back & 1 << index  # it does not say whether it was started anew
        if back or forgot:
            self.note_lacking(True, forgot)

    def extended_elsewhere(self, token: Token) -> None:
        """In any thread: another engine of this process has tried to extend a lease of this group."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.note_changed, token)

    def note_changed(self, token: Token) -> None:
        """Something new is known of a lease: whoever sees to it hears that."""
        watch = self.watches.get(token)
        if watch is not None:
            watch.changed()

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
        if self.guard is not None:
            self.guard.check()
        if self._told and self.available:
            self._told = False
            _log.warning("group %s has a quorum of servers now", cut(self.name))

    def _changed(self) -> None:
        """Something about the servers has changed: look at the end of the turn, when what belongs to it has, too."""
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _longer(self, pipeline: Pipeline, ttl_ms: int) -> tuple[int, float]:
        """Locks are about to be asked for that last longer than servers were told."""
        return (_UNLIMITED, float("inf")) if self.guard is None else self.guard.longer(pipeline.keepers, ttl_ms)

    def _look(self) -> None:
        self._looking = False
        if self.guard is not None:
            self.guard.changed()
        self._look_for_servers_that_are_back()
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

    def status(self, leases: int, extending: int) -> GroupStatus:
        """A snapshot.

        leases, extending: as in `GroupStatus`
        """
        now, guard = self.clock(), self.guard
        lines = [line for here in [*self.lines.values()] for line in [*here.values()] if line.group is self]
        begun = [at for line in lines for at in line.begun()]
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
                queues=pool.queues,
                wakes=pool.wakes,
                quarantine=None if guard is None else guard.left(index),
                unguarded="restart_guard is off" if guard is None else guard.unguarded(index),
                memory=None if guard is None else guard.memory(index),
            )
            for index, pool in enumerate(self.pools)
        )
        longest = max(0.0, now - min(begun)) if begun else None
        return GroupStatus(self.name, self.weight, servers, self.available, len(begun), longest, leases, extending)
