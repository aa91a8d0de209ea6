"""The life of a supervisor in one event loop: options, start (also lazy), close, and which engine serves a call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from enum import Enum

from redlock_cluster.core.resource import Resource
from redlock_cluster.core.ring import Ring
from redlock_cluster.engine.deployment import Engine, Status
from redlock_cluster.errors import ClosedError, OptionsError
from redlock_cluster.options import Options
from redlock_cluster.options.file import load_options
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.ports import Ports

__all__ = ["Cluster", "Source"]

Source = str | os.PathLike[str] | Mapping[str, object]
"""Where options come from: the path of a YAML file, or a mapping of the same shape."""


class _Phase(Enum):
    """NEW starts by itself at the first call; CLOSED only when told to."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class Cluster:
    """The engines of all deployments of one options file."""

    def __init__(self, source: Source | Options, ports: Ports | None = None) -> None:
        self.options = source if isinstance(source, Options) else load_options(source)
        self._rings = {
            name: Ring({group.name: group.weight for group in deployment.groups})
            for name, deployment in self.options.deployments.items()
        }
        self._ports = ports
        self._engines: dict[str | None, Engine] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._phase = _Phase.NEW
        self._generation = Generation.number

    @property
    def started(self) -> bool:
        """Whether it is open, and a call need not start it."""
        return self._phase is _Phase.OPEN

    @property
    def inherited(self) -> bool:
        """Whether it was made before a fork that led to this process."""
        return self._generation != Generation.number

    def require(self, name: str | None) -> str:
        """The name, if it is a deployment's. Raises OptionsError that lists those there are."""
        if name in self.options.deployments and name is not None:
            return name
        names = ", ".join(sorted(self.options.deployments))
        if name is None:
            raise OptionsError([("default", f"several deployments and no default: name one of {names}")])
        raise OptionsError([(f"deployments.{name}", f"no such deployment; there are {names}")])

    def group_for(self, name: str | None, resource: Resource) -> str:
        """The name of the group that votes on a resource."""
        return self._rings[self.require(name)].group_for(resource)

    async def start(self) -> None:
        """Starts every deployment; once, however many callers wait for it."""
        self._check_place()
        if self._phase is _Phase.OPEN:
            return
        if self._starting is None:
            self._loop = asyncio.get_running_loop()
            self._starting = self._loop.create_task(self._start(), name="redlock start")
        starting = self._starting
        await asyncio.wait({starting})
        if starting.cancelled():
            raise ClosedError("the supervisor was closed while it started")
        starting.result()

    async def _start(self) -> None:
        engines: dict[str | None, Engine] = {
            name: Engine(name, deployment, self._rings[name], self._ports)
            for name, deployment in self.options.deployments.items()
        }
        try:
            await asyncio.gather(*(engine.start() for engine in engines.values()))
            self._engines, self._phase = engines, _Phase.OPEN
        finally:
            self._starting = None
            if self._phase is not _Phase.OPEN:
                await asyncio.gather(*(engine.close() for engine in engines.values()))

    async def close(self) -> None:
        """Closes every deployment; the supervisor can be started again."""
        self._check_place()
        starting = self._starting
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
            if self._starting is starting:  # cancelled before its first step, it could not say so itself
                self._starting = None
        engines, self._engines = self._engines, {}
        self._phase, self._loop = _Phase.CLOSED, None
        await asyncio.gather(*(engine.close() for engine in engines.values()))

    def ready(self, name: str | None) -> Engine | None:
        """The engine of a deployment, None before the start and in a fork."""
        return self._engines.get(name) if self._generation == Generation.number else None

    async def engine(self, name: str | None) -> Engine:
        """The engine of a deployment, started if need be. Raises ClosedError once the supervisor was closed."""
        name = self.require(name)
        self._check_place()
        if self._phase is _Phase.NEW:
            await self.start()
        engine = self.ready(name)
        if engine is None:
            raise ClosedError("the supervisor is closed")
        return engine

    def status(self) -> Status:
        """A snapshot; without clusters before the start and after the close."""
        return Status(tuple(engine.status() for engine in self._engines.values()))

    def _check_place(self) -> None:
        if self.inherited:
            raise RuntimeError("this supervisor was made before a fork; make another one in this process")
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this supervisor belongs to another event loop; make one for each loop")
