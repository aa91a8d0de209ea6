"""Every await lets other tasks go on, also where nothing has to be waited for: in an outage, or at once refused."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from proxied_servers import FAST, LONG, soon

from redlock_cluster import AsyncLease, AsyncLeaseEvent, AsyncMutex, AsyncSupervisor, ClosedError, RedlockError
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.ticket import Ticket
from redlock_cluster.core.token import Token
from redlock_cluster.testing import EmbeddedCluster

pytestmark = pytest.mark.usefixtures("clean_log")


NOT_AGAIN = {
    **FAST,
    "connect_timeout": 5000,  # a busy machine may stand still for a while
    "reconnection_interval_base": 60_000,
    "reconnection_interval_max": 60_000,
}


class Held:
    """A supervisor whose servers are gone, and what it held when they went."""

    def __init__(self, redlock: AsyncSupervisor, leases: list[AsyncLease], mutex: AsyncMutex) -> None:
        self.redlock, self.leases, self.mutex = redlock, leases, mutex
        self.name = leases[0].resource


async def hold(trio: EmbeddedCluster, label: str) -> Held:
    redlock = AsyncSupervisor({**trio.options, **NOT_AGAIN})
    leases = [(await redlock.lock(f"{label} {i}", LONG, wait=0)).value for i in range(4)]  # type: ignore[union-attr]
    mutex = redlock.mutex(f"{label} mutex", LONG, wait=0)
    assert await mutex.acquire()
    return Held(redlock, leases, mutex)


@pytest.fixture
async def outage(trio: EmbeddedCluster) -> AsyncIterator[dict[str, Held]]:
    """A supervisor for each call, and one more."""
    everybody = {name: await hold(trio, name) for name in (*CALLS, "")}
    for server in trio.servers:
        server.kill()
    for held in everybody.values():
        await soon(lambda held=held: not held.redlock.status().available)
    yield everybody
    for held in everybody.values():
        await held.redlock.close()


async def leave(mutex: AsyncMutex) -> None:
    await mutex.__aexit__(None, None, None)


TICKET = Ticket(b"a", Token(b"t"), EXCLUSIVE, 30_000, False).written()


async def wait_for_loss(lease: AsyncLease) -> None:
    with contextlib.suppress(RedlockError):
        lease.detach()
    assert await lease.lost.wait() is False


CALLS: dict[str, Callable[[Held], Awaitable[object]]] = {
    "AsyncSupervisor.start": lambda held: held.redlock.start(),
    "AsyncSupervisor.lock": lambda held: held.redlock.lock("c", LONG, wait=0),
    "AsyncSupervisor.unlock": lambda held: held.redlock.unlock(held.name, held.leases[0]),
    "AsyncSupervisor.unlock token": lambda held: held.redlock.unlock(held.name, held.leases[0].token),
    "AsyncSupervisor.extend": lambda held: held.redlock.extend(held.name, held.leases[0], LONG),
    "AsyncSupervisor.extend token": lambda held: held.redlock.extend(held.name, held.leases[0].token, LONG),
    "AsyncSupervisor.adopt": lambda held: held.redlock.adopt(TICKET),
    "AsyncSupervisor.transaction": lambda held: held.redlock.transaction("c", LONG, int, wait=0),
    "AsyncSupervisor.lock_many": lambda held: held.redlock.lock_many(["c", "d"], LONG),
    "AsyncSupervisor.lock_many nothing": lambda held: held.redlock.lock_many([], LONG),
    "AsyncSupervisor.extend_many": lambda held: held.redlock.extend_many(held.leases),
    "AsyncSupervisor.unlock_many": lambda held: held.redlock.unlock_many(held.leases),
    "AsyncSupervisor.is_locked": lambda held: held.redlock.is_locked(held.name),
    "AsyncSupervisor.inspect": lambda held: held.redlock.inspect(held.name),
    "AsyncSupervisor.force_release": lambda held: held.redlock.force_release("nobody's"),
    "AsyncSupervisor.end_quarantine": lambda held: held.redlock.end_quarantine(),
    "AsyncMutex.acquire": lambda held: held.redlock.mutex("c", LONG, wait=0).acquire(False),
    "AsyncMutex.__aenter__": lambda held: held.redlock.mutex("c", LONG, wait=0).__aenter__(),
    "AsyncMutex.extend": lambda held: held.mutex.extend(),
    "AsyncMutex.extend nothing": lambda held: held.redlock.mutex("c", LONG).extend(),
    "AsyncMutex.release": lambda held: held.mutex.release(),
    "AsyncMutex.release nothing": lambda held: held.redlock.mutex("c", LONG).release(),
    "AsyncMutex.__aexit__": lambda held: leave(held.mutex),
    "AsyncLease.extend": lambda held: held.leases[1].extend(),
    "AsyncLease.release": lambda held: held.leases[1].release(),
    "AsyncLeaseEvent.wait": lambda held: wait_for_loss(held.leases[1]),
    "AsyncSupervisor.close": lambda held: held.redlock.close(),
    "AsyncSupervisor.__aexit__": lambda held: held.redlock.__aexit__(None, None, None),
    "AsyncSupervisor.__aenter__": lambda held: held.redlock.__aenter__(),
}


def coroutines(kind: type) -> set[str]:
    return {
        f"{kind.__name__}.{name}"
        for name, member in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_") or name.startswith("__")
    }


def test_every_public_coroutine_is_among_them() -> None:
    named = {name.split()[0] for name in CALLS}
    kinds = (AsyncSupervisor, AsyncMutex, AsyncLease, AsyncLeaseEvent)
    assert named == {name for kind in kinds for name in coroutines(kind)}


async def test_other_tasks_go_on(outage: dict[str, Held], caplog: pytest.LogCaptureFixture) -> None:
    gave_way: dict[str, list[int]] = {}
    for name, call in CALLS.items():
        for time in (1, 2):  # again, when it is over or unknown
            asyncio.get_running_loop().call_soon(gave_way.setdefault(name, []).append, time)
            with contextlib.suppress(RedlockError):
                await call(outage[name])
            if gave_way[name][-1:] != [time]:
                break
    assert gave_way == {name: [1, 2] for name in CALLS}
    caplog.clear()  # what could not be released is logged


async def test_other_tasks_go_on_when_the_supervisor_is_closed(outage: dict[str, Held]) -> None:
    redlock = outage[""].redlock
    await redlock.close()
    for _ in range(3):
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        with pytest.raises(ClosedError):
            await redlock.lock("c", LONG, wait=0)
        assert turns == [1]


async def test_task_that_polls_sees_the_servers_come_back(trio: EmbeddedCluster) -> None:
    beats = attempts = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    for server in trio.servers:
        server.kill()
    async with AsyncSupervisor(trio.options) as redlock:
        beating = asyncio.create_task(heart())
        assert not await redlock.lock("a", LONG, wait=0)
        for server in trio.servers:
            server.start()
        async with asyncio.timeout(20):
            while not await redlock.lock("a", LONG, wait=0):
                attempts += 1
        assert beats >= attempts > 0
        beating.cancel()
