"""The life of a supervisor in one event loop: options, start (also lazy), close, and which engine serves a call."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.keeping import KeepingPolicy
from redlock_cluster.core.meta import meta_key
from redlock_cluster.core.queue import CHANNEL, side_keys
from redlock_cluster.core.retry import RetryPolicy
from redlock_cluster.core.ring import Ring
from redlock_cluster.core.timing import Interval, Timing
from redlock_cluster.core.token import Tokens
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.heal import Healing
from redlock_cluster.engine.pace import Pace
from redlock_cluster.engine.pending import PendingReleases
from redlock_cluster.engine.probe import probe
from redlock_cluster.engine.quarantine import Quarantine
from redlock_cluster.engine.status import ClusterStatus, Status
from redlock_cluster.engine.waiting import Waiting
from redlock_cluster.engine.watchdog import Watchdog
from redlock_cluster.errors import ClosedError, OptionsError
from redlock_cluster.lua import SCRIPTS
from redlock_cluster.options import DeploymentOptions, Options
from redlock_cluster.options.file import load_options
from redlock_cluster.wire.connection import Connection, Flusher
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.handshake import Facts, Handshake
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Ports

__all__ = ["Deployments", "Routing", "Source", "retry_policy"]

_log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Mapping[str, object]
"""Where options come from: the path of a YAML file, or a mapping of the same shape."""

START_GRACE: Final = 0.1
"""Seconds that the start waits for the other servers once every group has a quorum: those that are well have connected
by then, and one that is away does not hold up the first call."""


def retry_policy(options: DeploymentOptions) -> RetryPolicy:
    """How a deployment tries again, as its options say."""
    pauses = Interval(options.retry_interval_base, options.retry_interval_max)
    return RetryPolicy(options.max_retry, pauses, options.server_timeout)


class _Upkeep(asyncio.Task[Any]):
    """A task that may be left behind in a loop that somebody closed."""

    def __del__(self) -> None:
        """A task complains here if it had not ended."""


def _report(task: asyncio.Task[Any]) -> None:
    """Log what ended a keeper, which nothing should."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("%s has ended", task.get_name(), exc_info=fault)


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


class _Deployment:
    """One deployment in the running loop: its engine, its connections and their upkeep.

    name, options: as the file says
    ring: chooses among its groups
    ports: the world around it
    """

    def __init__(self, name: str, options: DeploymentOptions, ring: Ring, ports: Ports) -> None:
        self.name, self._options = name, options
        self._loop, self._clock = asyncio.get_running_loop(), ports.clock
        timing = Timing(options.drift_factor, options.server_timeout, options.max_ttl)
        flusher, self._deadlines = Flusher(self._loop), Deadlines(self._loop, ports.clock)
        self._pending = PendingReleases(ports.clock)
        owner = options.owner or f"{socket.gethostname()}:{os.getpid()}"
        tokens = self._tokens = Tokens(ports.entropy.texts, owner.encode())
        prefix = self._probe_key = options.key_prefix.encode()  # no resource is empty: none has the prefix as its key
        self._probe_ttl_ms = max(1, round(options.server_timeout * 1000))
        policy = retry_policy(options)
        pace = Pace(self._loop, ports.clock, policy, ports.entropy.fraction, options.waiter_ttl)
        waiting = self._waiting = Waiting(pace, options.max_waiting)
        self._watchdog = Watchdog(self._loop, ports.clock, ports.entropy.fraction)
        queue = side_keys(prefix)[1] if options.fair else b""
        handshake = Handshake(
            options.key_prefix,
            tuple(script.source for script in SCRIPTS),
            CHANNEL + tokens.client,
            queue,
            meta_key(prefix) if options.restart_guard else b"",
            options.durability == "fsync",
        )
        self._groups = {
            group.name: Group(
                group,
                options,
                timing,
                ports,
                flusher,
                self._deadlines,
                self._pending,
                tokens,
                handshake,
                self._prepare,
                waiting.lines,
                self._pushed,
                self._watchdog.watches,
                self._lacking,
            )
            for group in options.groups
        }
        waiting.serve(self._groups.values())
        self._guards: list[Quarantine] = []
        if options.restart_guard:
            for group in self._groups.values():
                guard = Quarantine(group, meta_key(prefix), options.max_ttl, ports.entropy, self._spawn)
                group.guard = guard
                self._guards.append(guard)
        self.engine = Engine(
            self._loop,
            ports.clock,
            flusher,
            self._groups,
            ring,
            prefix,
            timing,
            policy,
            waiting,
            self._watchdog,
            KeepingPolicy(options.ttl, options.max_hold),
            options.fencing,
        )
        self._healing = Healing(self.engine)
        self._keepers = [keeper for group in self._groups.values() for pool in group.pools for keeper in pool.keepers]
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._health: asyncio.TimerHandle | None = None

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task that may be left behind."""
        return _Upkeep(work, loop=self._loop, name=name)

    async def _prepare(self, group: Group, keeper: Keeper, connection: Connection, facts: Facts) -> None:
        """Before a new connection serves: what was not released on earlier ones is, and one that refused is probed.

        The releases go a part in each turn of the loop. Whether the server's grants count is known before that.
        """
        if group.guard is not None:
            group.guard.met(keeper, facts)
        left = self._pending.count((keeper,))
        while connection.alive:
            left -= self._pending.settle(keeper, connection)
            if left <= 0:
                break
            await asyncio.sleep(0)
        self._probe(keeper, connection)

    def _pushed(self, group: Group, keeper: Keeper, push: list[object]) -> None:
        """A server says something of its own accord."""
        self._waiting.pushed(group, keeper, push)
        match push:
            case [b"invalidate", list(keys)]:
                for key in keys:
                    if isinstance(key, bytes):
                        self._watchdog.pushed(group, keeper, key)
            case [b"invalidate", None]:
                self._watchdog.flushed(group, keeper)
                group.note_lacking(True, 1 << keeper.index)
                if group.guard is not None:
                    group.guard.flushed(keeper)
            case [b"message", bytes(), bytes(text)] if text[:1] == b"x":
                self._watchdog.forced(text[1:])

    def _lacking(self, group: Group, news: bool, forgot: int) -> None:
        """Leases of a group may lack votes; arguments as for `Group.note_lacking`."""
        self._healing.wanted(group, news, forgot)
        if news:
            self._watchdog.servers_are_back(group)

    def _probe(self, keeper: Keeper, connection: Connection | None) -> None:
        """Whether a server that refuses something still does."""
        if keeper.refusals and connection is not None and connection.alive and not connection.impaired:
            probe(keeper, connection, EXCLUSIVE, self._probe_key, self._tokens.new(), self._probe_ttl_ms)

    async def start(self) -> None:
        """Connect to every server; return when each has connected or failed once, or soon after each group's quorum.

        Never fails for want of servers.
        """
        self._tasks = [
            _Upkeep(keeper.keep(), loop=self._loop, name=f"redlock {keeper.name}") for keeper in self._keepers
        ]
        for task in self._tasks:
            task.add_done_callback(_report)
        self._health = self._loop.call_later(self._options.health_check_interval, self._check)
        await self._attempted()
        for group in self._groups.values():
            group.watch()

    async def _attempted(self) -> None:
        """Returns when each connection was attempted; once every group has a quorum, START_GRACE later at most."""
        waiting = {_Upkeep(keeper.attempted.wait(), loop=self._loop) for keeper in self._keepers}
        try:
            while waiting and not all(group.quorate for group in self._groups.values()):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=START_GRACE)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.server_timeout):
                    for guard in self._guards:
                        await guard.settled()
        except asyncio.CancelledError:
            _cancel(waiting)
            raise
        _cancel(waiting)

    async def close(self) -> None:
        """Let what was sent be answered (for a server timeout at most), then close every connection."""
        if self.engine.closed:
            return
        self.engine.close()
        self._healing.close()
        for group in self._groups.values():
            group.unwatch()
        for guard in self._guards:
            guard.close()
        if self._health is not None:
            self._health.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.server_timeout):
                    while answers := self._drain():
                        await asyncio.wait(answers)  # meanwhile calls under way may have sent more
        finally:
            self._deadlines.close()
            for keeper in self._keepers:
                keeper.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_soon(self) -> None:
        """In the loop: close; nobody waits for it."""
        self._closing = _Upkeep(self.close(), loop=self._loop, name=f"redlock close of {self.name}")

    def _drain(self) -> list[asyncio.Future[object]]:
        """Send what is pending. Done when what was sent so far is answered, server by server."""
        answers = []
        for keeper in self._keepers:
            keeper.queue_open()
            self._pending.settle(keeper, keeper.connection)
            answer = keeper.drain()
            if answer is not None:
                answers.append(answer)
        return answers

    def _check(self) -> None:
        """One health check of all connections."""
        now = self._clock()
        for keeper in self._keepers:
            keeper.check(now)
            self._probe(keeper, keeper.connection)
            self._pending.settle(keeper, keeper.connection)
        self._watchdog.check()
        for group in self._groups.values():
            group.check()
            group.forget_others()
        self._health = self._loop.call_later(self._options.health_check_interval, self._check)

    def status(self) -> ClusterStatus:
        """A snapshot of every group and server. In any thread."""
        engine = self.engine
        held = Counter(engine.group_of(lease._record) for lease in engine.leases.at(self._clock()))
        extending = Counter(watch.group for watch in [*self._watchdog.watches.values()] if watch.extends)
        groups = self._groups.values()
        return ClusterStatus(self.name, tuple(group.status(held[group], extending[group]) for group in groups))


class Routing:
    """Which deployments there are, and which group has a resource.

    options: a file's
    """

    def __init__(self, options: Options) -> None:
        self._deployments = options.deployments
        self._rings = {
            name: Ring({group.name: group.weight for group in deployment.groups})
            for name, deployment in options.deployments.items()
        }

    def require(self, name: str | None) -> str:
        """The name, if it is a deployment's. Raises OptionsError that lists those there are."""
        if name in self._rings and name is not None:
            return name
        names = ", ".join(sorted(self._rings))
        if name is None:
            raise OptionsError([("default", f"several deployments and no default: name one of {names}")])
        raise OptionsError([(f"deployments.{name}", f"no such deployment; there are {names}")])

    def options_of(self, name: str | None) -> DeploymentOptions:
        """The options of a deployment. Raises OptionsError as `require`."""
        return self._deployments[self.require(name)]

    def ring(self, name: str | None) -> Ring:
        """The ring of a deployment. Raises OptionsError as `require`."""
        return self._rings[self.require(name)]


class Deployments:
    """All deployments of one options file, in one event loop. Each is started and closed alone, or with all others.

    source: path, mapping or options
    ports: the world around them; left out, the real one
    closed: names of those that no call starts

    options: the file's
    routing: which group has a resource
    engines: by the deployment's name, of those that are started

    The first call starts those that were not closed. One that is dropped without `close` is closed all the same.
    """

    def __init__(self, source: Source | Options, ports: Ports | None = None, closed: Iterable[str] = ()) -> None:
        self._running: dict[str, _Deployment] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._closed = set(closed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = Generation.number
        self._ports = ports
        self.engines: dict[str | None, Engine] = {}
        self.options = source if isinstance(source, Options) else load_options(source)
        self.routing = Routing(self.options)

    @property
    def started(self) -> bool:
        """Whether a call need not start any of them."""
        return len(self.engines) + len(self._closed) == len(self.options.deployments)

    @property
    def inherited(self) -> bool:
        """Whether it was made before a fork that led to this process."""
        return self._generation != Generation.number

    async def start(self, name: str | None = None) -> None:
        """Start a deployment, None: all of them; once, however many callers wait for it."""
        names = self._names(name)
        self._check_place()
        self._closed.difference_update(names)
        await self._open(names)

    async def _open(self, names: Iterable[str]) -> None:
        self._loop = asyncio.get_running_loop()
        starting = {self._task(self._loop, name) for name in names if name not in self.engines}
        if not starting:
            await asyncio.sleep(0)
            return
        await asyncio.wait(starting)
        if any(task.cancelled() for task in starting):
            raise ClosedError("the supervisor was closed while it started")
        for task in starting:
            task.result()

    def _task(self, loop: asyncio.AbstractEventLoop, name: str) -> asyncio.Task[None]:
        """The task that starts a deployment."""
        task = self._starting.get(name)
        if task is None or task.done():
            task = self._starting[name] = _Upkeep(self._start(name), loop=loop, name=f"redlock start of {name}")
        return task

    async def _start(self, name: str) -> None:
        this, options = asyncio.current_task(), self.options.deployments[name]
        deployment = _Deployment(name, options, self.routing.ring(name), self._ports or Ports())
        try:
            await deployment.start()
        except (Exception, asyncio.CancelledError):
            await deployment.close()
            raise
        else:
            self._running[name], self.engines[name] = deployment, deployment.engine
        finally:
            if self._starting.get(name) is this:
                del self._starting[name]

    async def close(self, name: str | None = None) -> None:
        """Close a deployment, None: all of them. It can be started again."""
        names = self._names(name)
        self._check_place()
        self._closed.update(names)
        starting = [self._starting.pop(each) for each in names if each in self._starting]
        closing = [self._running.pop(each) for each in names if each in self._running]
        for each in names:
            self.engines.pop(each, None)
        for task in starting:
            task.cancel()
        if not (self._running or self._starting):
            self._loop = None
        await asyncio.gather(*(deployment.close() for deployment in closing))
        await (asyncio.wait(starting) if starting else asyncio.sleep(0))

    async def engine(self, name: str | None) -> Engine:
        """The engine of a deployment, started if need be. Raises ClosedError once it was closed."""
        name = self.routing.require(name)
        self._check_place()
        if name not in self.engines and name not in self._closed:
            await self._open([name for name in self.options.deployments if name not in self._closed])
        engine = self.engines.get(name)
        if engine is None:
            await asyncio.sleep(0)  # who asks again and again lets others go on
            others = len(self._closed) < len(self.options.deployments)
            raise ClosedError(f"the deployment {name} is closed" if others else "the supervisor is closed")
        return engine

    def status(self) -> Status:
        """A snapshot; without clusters before the start and after the close."""
        return Status(tuple(self._running[name].status() for name in self.options.deployments if name in self._running))

    def abandon(self) -> None:
        """Have everything closed soon, in its loop; nobody waits for that."""
        running, self._running, self.engines = self._running, {}, {}
        if self._loop is not None and not self._loop.is_closed():
            for deployment in running.values():
                self._loop.call_soon_threadsafe(deployment.close_soon)

    def __del__(self) -> None:
        if not self._running or sys.is_finalizing():
            return
        if self.inherited:
            _inherited.append(self)
            return
        self.abandon()
        text = f"{self!r} was dropped and not closed"
        warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<supervisor of {', '.join(self.options.deployments)}>"

    def _names(self, name: str | None) -> list[str]:
        return list(self.options.deployments) if name is None else [self.routing.require(name)]

    def _check_place(self) -> None:
        if self.inherited:
            raise RuntimeError("this supervisor was made before a fork; make another one in this process")
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this supervisor belongs to another event loop; make one for each loop")


_inherited: Final[list[Deployments]] = []
"""What the parent process runs must not be collected in a forked child, which shares its sockets and its epoll set."""
