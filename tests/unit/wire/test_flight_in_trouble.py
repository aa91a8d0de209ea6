"""Flights whose rounds, servers or connections don't go the usual way at an awkward moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Any

import pytest

import redlock_cluster.wire.connection as connection_module
from redlock_cluster import AsyncLease, Contended, Err, Vote
from redlock_cluster.threads.calls import OperationCall

from ..engine.scripted import NIL, OK, REDIS_6, ZERO, Group, turns
from ..engine.test_release_and_extend import held
from .test_pipeline import engine_of

Ask = Callable[[Group, AsyncLease], Awaitable[object]]
ASKS: dict[str, Ask] = {
    "release": lambda group, lease: group.supervisor.unlock("r", lease),
    "release by token": lambda group, lease: group.supervisor.unlock("r", lease.token),
    "extension": lambda group, lease: group.supervisor.extend("r", lease, 10),
}


@pytest.mark.parametrize("asked", ASKS)
async def test_a_script_sent_in_full_is_waited_for_until_the_deadline(asked: str) -> None:
    async with Group(3, probes=REDIS_6, server_timeout="20ms") as group:
        lease = await held(group, OK)
        task = asyncio.ensure_future(ASKS[asked](group, lease))
        await turns()
        for wire in group.now:
            wire.reply(b"-NOSCRIPT No matching script.\r\n")
        await turns()
        assert [wire.commands[-1][0] for wire in group.now] == [b"EVAL"] * 3
        async with asyncio.timeout(5):
            assert await task == Err("unavailable")


async def fill_two_connections(group: Group, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Task[object]]:
    """Leaves an open flight of another patience that will fill two of three connections when it is closed."""
    monkeypatch.setattr(connection_module, "MAX_UNANSWERED", 3)
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(group.supervisor.lock("a", 10, wait=0))]
    await turns()
    group.now[2].reply(NIL)
    tasks += [asyncio.create_task(group.supervisor.lock(name, 0.05, wait=0)) for name in ("b", "c")]
    return tasks


async def test_an_attempt_that_finds_no_quorum_after_closing_a_flight_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Group(3, server_timeout="20s") as group:
        tasks = await fill_two_connections(group, monkeypatch)
        last = asyncio.create_task(group.supervisor.lock("d", 10, wait=0))
        await turns()
        assert last.done()
        assert last.result() == Err("unavailable")
        for wire in group.now:
            wire.reply(NIL * (len(wire.commands) - (wire is group.now[2])))
        await asyncio.gather(*tasks)


async def test_a_release_after_closing_a_flight_forgets_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Group(3, server_timeout="20s") as group:
        lease = await held(group)
        tasks = await fill_two_connections(group, monkeypatch)
        last = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        group.now[2].reply(NIL * 2 + ZERO)
        assert await last == Err("unavailable")  # the others hold it; that only one does not is no news of a loss
        servers = group.supervisor.status().clusters[0].groups[0].servers
        assert [server.pending_releases for server in servers] == [1, 1, 0]
        for wire in group.now[:2]:
            wire.reply(NIL * 3)
        await asyncio.gather(*tasks)


async def test_a_deadline_counts_for_all_servers_at_once_before_anybody_concludes() -> None:
    async with Group(3, server_timeout="20ms") as group:
        supervisor = group.supervisor
        call: OperationCall[Any] = OperationCall(
            supervisor._deployments,
            supervisor._name or "",
            lambda engine: engine.acquire("r", 10, 0),
            lambda _, refusal: refusal,
        )
        ended = asyncio.Event()
        call.sleeper, call.wake = Lock(), lambda sleeper: ended.set()
        call.begin()
        async with asyncio.timeout(5):
            await ended.wait()
        assert [vote.vote for vote in call.result.votes] == [Vote.ABSENT] * 3


async def test_many_rounds_that_detach_take_time_in_proportion(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redlock_cluster")  # 20,000 refusals would be told at DEBUG
    async with Group(1) as group:
        (wire,) = group.now
        acquisitions = [engine_of(group).acquire(f"r{i}", 10, 0) for i in range(20_000)]
        await turns()
        began = time.process_time()
        wire.reply(b"$4\r\nmine\r\n" * len(acquisitions))
        assert time.process_time() - began < 1  # it takes 0.2 s; with a look at all rounds for each, 3 s
        assert all(acquisition.decided for acquisition in acquisitions)
        assert all(isinstance(acquisition.result(), Contended) for acquisition in acquisitions)
