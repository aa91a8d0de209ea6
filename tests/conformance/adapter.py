"""One way to call both faces, so that each test is written once."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Literal

from redlock_cluster import (
    RETRY,
    AsyncLease,
    AsyncMutex,
    AsyncSupervisor,
    Err,
    Lease,
    Mutex,
    Ok,
    ServerState,
    Status,
    Supervisor,
)

Face = Literal["asyncio", "sync"]
FACES: Final[tuple[Face, ...]] = ("asyncio", "sync")
AnyLease = Lease | AsyncLease
AnyMutex = Mutex | AsyncMutex
THREADS: Final = 40


class Api:
    """A supervisor of either face. Synchronous calls run in threads of their own, where no loop runs."""

    def __init__(self, supervisor: Supervisor | AsyncSupervisor) -> None:
        self.supervisor = supervisor
        self.face: Face = "asyncio" if isinstance(supervisor, AsyncSupervisor) else "sync"
        self._threads = ThreadPoolExecutor(THREADS) if self.face == "sync" else None

    async def run(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What the function returns: awaited, or called in a thread."""
        if self._threads:
            work = partial(function, *args, **named)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        result = function(*args, **named)
        return await result if inspect.isawaitable(result) else result

    async def start(self) -> Api:
        """Starts, and waits until each server has connected or failed: the start waits for a quorum and a moment."""
        await self.run(self.supervisor.start)
        await eventually(self._attempted)
        return self

    async def _attempted(self) -> bool:
        groups = [group for cluster in (await self.status()).clusters for group in cluster.groups]
        return not any(server.state is ServerState.CONNECTING for group in groups for server in group.servers)

    async def close(self) -> None:
        await self.run(self.supervisor.close)

    def end_threads(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def lock(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY) -> Ok[AnyLease] | Err[str]:
        result: Ok[AnyLease] | Err[str] = await self.run(self.supervisor.lock, resource, ttl, wait=wait)
        return result

    async def held(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY) -> AnyLease:
        """The lease; the test fails without one."""
        result = await self.lock(resource, ttl, wait=wait)
        assert isinstance(result, Ok), result
        return result.value

    async def refused(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY) -> Err[str]:
        """The refusal; the test fails without one."""
        result = await self.lock(resource, ttl, wait=wait)
        assert isinstance(result, Err), result
        return result

    async def unlock(self, resource: Any, lease: Any) -> Ok[None] | Err[str]:
        result: Ok[None] | Err[str] = await self.run(self.supervisor.unlock, resource, lease)
        return result

    async def extend(self, resource: Any, lease: Any, ttl: Any) -> Ok[AnyLease] | Err[str]:
        result: Ok[AnyLease] | Err[str] = await self.run(self.supervisor.extend, resource, lease, ttl)
        return result

    async def transaction(self, resource: Any, ttl: Any, fn: Any, *, wait: Any = RETRY) -> Any:
        return await self.run(self.supervisor.transaction, resource, ttl, fn, wait=wait)

    async def is_locked(self, resource: Any) -> bool:
        result: bool = await self.run(self.supervisor.is_locked, resource)
        return result

    async def group_for(self, resource: Any) -> str:
        result: str = await self.run(self.supervisor.group_for, resource)
        return result

    async def status(self) -> Status:
        result: Status = await self.run(self.supervisor.status)
        return result

    async def mutex(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY) -> Any:
        return await self.run(self.supervisor.mutex, resource, ttl, wait=wait)

    async def deployment(self, name: str) -> Api:
        return Api(await self.run(self.supervisor.deployment, name))

    @asynccontextmanager
    async def entered(self, handle: Any) -> AsyncIterator[Any]:
        """`async with handle`, or `with handle` whose ends run in threads."""
        if self.face == "asyncio":
            async with handle as lease:
                yield lease
            return
        lease = await self.run(handle.__enter__)
        try:
            yield lease
        except BaseException as error:
            if not await self.run(handle.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.run(handle.__exit__, None, None, None)


async def eventually(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Poll until the condition, plain or async, holds; the test fails when it does not in time."""

    async def met() -> object:
        return await held if inspect.isawaitable(held := condition()) else held

    await _polled(met, lambda: inspect.getsource(condition).strip(), seconds)


async def everywhere(read: Callable[[], list[Any]], wanted: object, seconds: float = 8.0) -> None:
    """Poll until the list read from the servers has the wanted value at each place."""

    async def met() -> bool:
        return (values := read()) == [wanted] * len(values)

    await _polled(met, lambda: f"everywhere {wanted!r}: {read()}", seconds)


async def _polled(met: Callable[[], Awaitable[object]], wanted: Callable[[], str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await met():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {wanted()}"
        # Real servers tell nobody when a key is gone, nor a supervisor when its state changes. Where a command is what
        # is waited for, they do: see `Record.attempted`.
        await asyncio.sleep(0.002)


async def passes(seconds: float) -> None:
    """Real time passes, for a test whose subject is that: real servers and their client have no other."""
    await asyncio.sleep(seconds)


async def within(seconds: float, awaitable: Any) -> Any:
    """The result of something that must not hang."""
    async with asyncio.timeout(seconds):
        return await awaitable
