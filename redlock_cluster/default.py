"""The process-wide default supervisors: `Redlock` for threads, `AsyncRedlock` for event loops.

Both use the options given to `start`; without a start, the file that the environment variable `REDLOCK_OPTIONS` names.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final, Self, SupportsIndex

from redlock_cluster.aio import AsyncSupervisor
from redlock_cluster.engine.deployments import Deployments, Source
from redlock_cluster.engine.engine import Engine
from redlock_cluster.errors import OptionsError
from redlock_cluster.options import Options
from redlock_cluster.options.file import load_options
from redlock_cluster.sync import Supervisor
from redlock_cluster.threads.process import process_lock
from redlock_cluster.threads.runtime import Runtime

__all__ = ["AsyncDefaultSupervisor", "AsyncRedlock", "DefaultSupervisor", "Redlock"]

VARIABLE: Final = "REDLOCK_OPTIONS"


class _Shared:
    """The options that both defaults use, and which of the two use them now."""

    options: Options | None = None
    users: set[object] = set()  # noqa: RUF012  process-wide on purpose

    @classmethod
    def use(cls, user: object, source: Source | None) -> Options:
        """Return the options for a default supervisor, and note that it uses them.

        user: the default supervisor
        source: path or mapping; None: the options in use, or else the file that REDLOCK_OPTIONS names

        Raises OptionsError for wrong options, or when others are in use.
        """
        given = None if source is None else load_options(source)
        if cls.options is None:
            cls.options = given or _from_environment()
        elif given is not None and given != cls.options:
            if cls.users:
                raise OptionsError([("", "started before with other options; close it first")])
            cls.options = given
        cls.users.add(user)
        return cls.options

    @classmethod
    def drop(cls, user: object) -> None:
        """Note that a default supervisor was closed."""
        cls.users.discard(user)
        if not cls.users:
            cls.options = None


def _from_environment() -> Options:
    path = os.environ.get(VARIABLE)
    if not path:
        raise OptionsError([("", f"no options: call start(path), or set {VARIABLE} to the path of an options file")])
    return load_options(path)


class DefaultSupervisor(Supervisor):
    """The process's own supervisor, `Redlock`: as `Supervisor`, with options from `start` or the environment."""

    def __init__(self) -> None:
        self._own = self._deployment = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        """`Redlock` is pickled by its name: in another process it is that one's own."""
        return "Redlock" if self is Redlock else super().__reduce_ex__(protocol)

    @property
    def _runtime(self) -> Runtime:
        runtime = self._own
        if runtime is None:
            with process_lock():
                runtime = self._own = self._own or Runtime(_Shared.use(self, None))
        return runtime

    def start(self, options: Source | None = None) -> Self:
        """Connects; returns when each server has connected or failed once (at most `connect_timeout`).

        When every group has its quorum, the other servers are waited for a moment only, and connect in the background.

        options: path or mapping; None for the file that REDLOCK_OPTIONS names

        Raises OptionsError for wrong options, or when it runs with other ones.
        """
        with process_lock():
            chosen = _Shared.use(self, options)
            if self._own is None or self._own.options != chosen:
                self._own = Runtime(chosen)
        return super().start()

    def close(self) -> None:
        """Closes every connection; `start` may then be called with any options."""
        if self._own is not None:
            super().close()
            _Shared.drop(self)


class AsyncDefaultSupervisor(AsyncSupervisor):
    """The asyncio default, `AsyncRedlock`: one set of connections for each running loop, made when first used there.

    Those of a loop that was closed are dropped, so repeated `asyncio.run` and a loop for each test work.
    """

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop | None, Deployments] = {}

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        """`AsyncRedlock` is pickled by its name, as `Redlock` is."""
        return "AsyncRedlock" if self is AsyncRedlock else super().__reduce_ex__(protocol)

    @property
    def _deployments(self) -> Deployments:
        loop = asyncio._get_running_loop()
        deployments = self._by_loop.get(loop)
        if deployments is None or deployments.inherited:
            for old in [old for old in self._by_loop if old is not None and old.is_closed()]:
                self._by_loop.pop(old).abandon()
            deployments = self._by_loop[loop] = Deployments(_Shared.use(self, None))
        return deployments

    @property
    def _name(self) -> str | None:
        return self._deployments.options.default

    def _ready(self) -> Engine | None:
        deployments = self._deployments
        return deployments.engines.get(deployments.options.default)

    async def start(self, options: Source | None = None) -> Self:
        """Connects in the running loop; returns when each server has connected or failed once, as `AsyncSupervisor`'s.

        options: path or mapping; None for the file that REDLOCK_OPTIONS names

        Raises OptionsError for wrong options, or when it runs with other ones.
        """
        _Shared.use(self, options)
        return await super().start()

    async def close(self) -> None:
        """Closes the running loop's connections; `start` may then be called with any options."""
        deployments = self._by_loop.pop(asyncio.get_running_loop(), None)
        if deployments is not None:
            await deployments.close()
        if not any(loop is not None and not loop.is_closed() for loop in self._by_loop):
            while self._by_loop:
                self._by_loop.popitem()[1].abandon()
            _Shared.drop(self)


Redlock: Final = DefaultSupervisor()
"""The process-wide default supervisor for synchronous code."""

AsyncRedlock: Final = AsyncDefaultSupervisor()
"""The process-wide default supervisor for asyncio code."""
