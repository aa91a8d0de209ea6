"""One way to call both faces, so that each test is written once."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Literal

from redlock_cluster import (
    RETRY,
    AsyncLease,
    AsyncLeaseEvent,
    AsyncMutex,
    AsyncSupervisor,
    Err,
    Lease,
    LeaseEvent,
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
Mode = Literal["write", "read"]
THREADS: Final = 40
PATIENCE: Final = 3.0
"""Seconds in which servers that are well have answered, however busy the machine is."""


class Api:
    """A supervisor of either face. Synchronous calls run in threads of their own, where no loop runs.

    mode: which kind of lock is meant where a call does not say
    """

    def __init__(self, supervisor: Supervisor | AsyncSupervisor, mode: Mode = "write") -> None:
        self.supervisor, self._mode = supervisor, mode
        self.face: Face = "asyncio" if isinstance(supervisor, AsyncSupervisor) else "sync"
        self._threads = ThreadPoolExecutor(THREADS) if self.face == "sync" else None

    @property
    def _kind(self) -> dict[str, Mode]:
        return {} if self._mode == "write" else {"mode": self._mode}

    def use_threads(self, number: int) -> None:
        """So many synchronous calls may be under way at once."""
        self.end_threads()
        self._threads = ThreadPoolExecutor(number)

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

    async def lock(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY, **named: Any) -> Ok[AnyLease] | Err[str]:
        result: Ok[AnyLease] | Err[str] = await self.run(
            self.supervisor.lock, resource, ttl, wait=wait, **{**self._kind, **named}
        )
        return result

    async def held(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY, **named: Any) -> AnyLease:
        """The lease; the test fails without one. Where servers may be late, a busy machine gets some more tries."""
        give_up = time.monotonic() + PATIENCE
        while True:
            result = await self.lock(resource, ttl, wait=wait, **named)
            if isinstance(result, Ok):
                return result.value
            assert result.reason == "unavailable", result
            assert time.monotonic() < give_up, result

    async def refused(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY, **named: Any) -> Err[str]:
        """The refusal; the test fails without one."""
        result = await self.lock(resource, ttl, wait=wait, **named)
        assert isinstance(result, Err), result
        return result

    async def unlock(self, resource: Any, lease: Any) -> Ok[None] | Err[str]:
        result: Ok[None] | Err[str] = await self.run(self.supervisor.unlock, resource, lease)
        return result

    async def extend(self, resource: Any, lease: Any, ttl: Any) -> Ok[AnyLease] | Err[str]:
        result: Ok[AnyLease] | Err[str] = await self.run(self.supervisor.extend, resource, lease, ttl)
        return result

    async def transaction(self, resource: Any, ttl: Any, fn: Any, *, wait: Any = RETRY, **named: Any) -> Any:
        return await self.run(self.supervisor.transaction, resource, ttl, fn, wait=wait, **{**self._kind, **named})

    async def is_locked(self, resource: Any, **named: Any) -> bool:
        result: bool = await self.run(self.supervisor.is_locked, resource, **named)
        return result

    async def group_for(self, resource: Any) -> str:
        result: str = await self.run(self.supervisor.group_for, resource)
        return result

    async def status(self) -> Status:
        result: Status = await self.run(self.supervisor.status)
        return result

    async def mutex(self, resource: Any, ttl: Any = 30, *, wait: Any = RETRY, **named: Any) -> Any:
        return await self.run(self.supervisor.mutex, resource, ttl, wait=wait, **{**self._kind, **named})

    async def many(self, resources: Any, ttl: Any = 30, *, wait: Any = RETRY, **named: Any) -> Any:
        return await self.run(self.supervisor.mutex_many, resources, ttl, wait=wait, **named)

    async def election(self, name: Any, ttl: Any = None, **named: Any) -> Any:
        return await self.run(self.supervisor.election, name, ttl, **named)

    async def adopt(self, ticket: Any, **named: Any) -> Ok[AnyLease] | Err[str]:
        result: Ok[AnyLease] | Err[str] = await self.run(self.supervisor.adopt, ticket, **named)
        return result

    async def detach(self, lease: AnyLease) -> str:
        ticket: str = await self.run(lease.detach)
        return ticket

    async def adopted(self, ticket: str, **named: Any) -> AnyLease:
        """The lease; the test fails without one."""
        result = await self.adopt(ticket, **named)
        assert isinstance(result, Ok), result
        return result.value

    async def leases(self) -> list[AnyLease]:
        held: list[AnyLease] = await self.run(self.supervisor.leases)
        return held

    async def event(self, event: LeaseEvent | AsyncLeaseEvent, seconds: float = 8.0) -> bool:
        """What waiting for a lease's event gives; the test fails when that takes longer."""
        waiting = self.run(event.wait)
        result: bool = await within(seconds, waiting)
        return result

    async def cancel_waiting(self, *resource: Any, **named: Any) -> int:
        ended: int = await self.run(self.supervisor.cancel_waiting, *resource, **named)
        return ended

    async def waiting(self) -> int:
        """How many calls wait, in the first group."""
        return (await self.status()).clusters[0].groups[0].waiting

    async def waits(self, calls: int = 1) -> None:
        """Returns when so many calls wait."""

        async def as_many() -> bool:
            return await self.waiting() == calls

        await eventually(as_many)

    async def deployment(self, name: str) -> Api:
        return Api(await self.run(self.supervisor.deployment, name))

    @asynccontextmanager
    async def entered(self, handle: Any, apart: bool = False) -> AsyncIterator[Any]:
        """`async with handle`, or `with handle` whose ends run in threads.

        apart: as if these were threads that nobody else uses, who would be taken for the same owner
        """
        if self.face == "asyncio":
            async with handle as lease:
                yield lease
            return
        do = copy_context().run if apart else _call
        lease = await self.run(do, handle.__enter__)
        try:
            yield lease
        except BaseException as error:
            if not await self.run(do, handle.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.run(do, handle.__exit__, None, None, None)


def _call(do: Callable[..., Any], *arguments: Any) -> Any:
    return do(*arguments)


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


async def take_turns(apis: Sequence[Api], resource: str, callers: int, times: int = 1) -> None:
    """Callers of every one, so many each, wait for one lock so often: it is never held twice."""
    inside = 0

    async def use(api: Api) -> None:
        nonlocal inside
        for _ in range(times):
            lease = await api.held(resource, 30, wait=None)
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1
            assert await api.unlock(resource, lease) == Ok(None)

    await within(30, asyncio.gather(*(use(api) for api in apis for _ in range(callers))))
