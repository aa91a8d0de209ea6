"""How long an acquisition goes on: once, by the retry policy, up to a deadline, for ever."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from redlock_cluster import RETRY, Err, Ok, Policy

from .adapter import Api, eventually, everywhere, take_turns, within
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)


@two_versions
@pytest.mark.parametrize("wait", [0, 0.0, timedelta(0)], ids=repr)
async def test_wait_of_nothing_is_one_attempt(
    api: Api, servers: ServerGroup, resource: str, key: bytes, wait: Any
) -> None:
    servers.put(key, b"somebody", servers.everyone)
    with recorded(servers) as record:
        assert await api.lock(resource, 30, wait=wait) == Err("lock_failure")
    assert sorted(c.server for c in record.attempts(key)) == list(servers.everyone)


@pytest.mark.parametrize("retries", [0, 1, 5])
@two_versions
@pytest.mark.parametrize("named", [{}, {"wait": RETRY}, {"wait": Policy.RETRY}], ids=["left out", "RETRY", "Policy"])
async def test_retry_policy_joins_the_queue_and_tries_once_more_when_its_pauses_have_passed(
    make: Make, servers: ServerGroup, resource: str, key: bytes, retries: int, named: Any
) -> None:
    """Between the two it is woken, so it need not ask again and again."""
    api = await make(max_retry=retries, retry_interval=3)
    servers.put(key, b"somebody", servers.everyone)
    with recorded(servers) as record:
        assert await api.run(api.supervisor.lock, resource, 30, **named) == Err("lock_failure")
    for index in servers.everyone:
        attempts = [c for c in record.attempts(key) if c.server == index]
        assert len(attempts) in ((2, 3) if retries else (1,))  # two where the pauses have passed before it has joined
    assert servers.keys(resource) == [{key}] * servers.size


@one_version
async def test_retry_policy_waits_between_attempts(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    options = servers.options(max_retry=3, retry_interval_base=40, retry_interval_max=80)
    del options["retry_interval"]
    api = await make(options)
    servers.put(key, b"somebody", servers.everyone)
    begun = time.monotonic()
    assert await api.lock(resource, 30) == Err("lock_failure")
    # d = 40, 80, 80 ms, each wait random in [d/2, d]
    assert 0.1 - 0.003 <= time.monotonic() - begun < 1.2


@two_versions
async def test_retry_policy_over_an_outage_tries_as_often(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(max_retry=2, retry_interval=3)
    with servers.out_of_memory(servers.everyone), recorded(servers) as record:
        assert await api.lock(resource, 30) == Err("unavailable")
    # A server that refuses a command for its memory does not show it to monitors; what it shows are the releases.
    assert {c.name for c in record.about(key)} - {"SET"} <= {"DELIFEQ", "EVALSHA", "EVAL"}


@one_version
@pytest.mark.parametrize("wait", [0.15, timedelta(milliseconds=150)], ids=repr)
async def test_deadline_passes_while_somebody_holds(
    make: Make, servers: ServerGroup, resource: str, key: bytes, wait: Any
) -> None:
    api = await make(max_retry=0, retry_interval=10)
    servers.put(key, b"somebody", servers.everyone)
    begun = time.monotonic()
    with recorded(servers) as record:
        assert await api.lock(resource, 30, wait=wait) == Err("lock_failure")
    assert 0.1 <= time.monotonic() - begun < 1.15
    assert record.attempts(key)
    assert servers.values(key) == [b"somebody"] * servers.size


@one_version
async def test_deadline_passes_while_servers_are_silent(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(server_timeout=300)
    with servers.paused(servers.majority):
        begun = time.monotonic()
        assert await api.lock(resource, 30, wait=0.4) == Err("unavailable")
        assert 0.35 < time.monotonic() - begun < 1.4
    await everywhere(lambda: servers.values(key), None)


@one_version
async def test_deadline_is_not_outlived_by_more_than_a_second_however_patient_rounds_are(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(server_timeout=5000)
    with servers.paused(servers.majority):
        begun = time.monotonic()
        assert await api.lock(resource, 30, wait=0.2) == Err("unavailable")
        assert time.monotonic() - begun < 1.2
    await everywhere(lambda: servers.values(key), None)


@two_versions
@pytest.mark.parametrize("wait", [5, None], ids=["deadline", "for ever"])
async def test_waiter_gets_what_is_released(
    make: Make, servers: ServerGroup, resource: str, key: bytes, wait: Any
) -> None:
    holder, waiter = await make(), await make(max_retry=0)
    lease = await holder.held(resource)
    waiting = asyncio.ensure_future(waiter.held(resource, 30, wait=wait))
    await waiter.waits()
    assert not waiting.done()
    await holder.unlock(resource, lease)
    second = await within(5, waiting)
    assert second.valid
    assert second.token != lease.token
    assert await waiter.unlock(resource, second) == Ok(None)
    await everywhere(lambda: servers.keys(resource), set())


@two_versions
async def test_waiter_in_the_same_supervisor_gets_what_is_released(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    waiting = asyncio.ensure_future(api.held(resource, 30, wait=None))
    await api.waits()
    assert not waiting.done()
    await api.unlock(resource, lease)
    assert (await within(5, waiting)).valid


@two_versions
async def test_waiter_gets_what_expires(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(max_retry=0)
    servers.put(key, b"dead", servers.everyone, px=200)
    begun = time.monotonic()
    lease = await within(5, api.held(resource, 30, wait=None))
    assert time.monotonic() - begun >= 0.15
    assert lease.valid


@two_versions
async def test_waiter_gets_what_is_deleted_by_anybody(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(max_retry=0)
    servers.put(key, b"stuck", servers.everyone, px=None)
    with recorded(servers) as record:
        waiting = asyncio.ensure_future(api.held(resource, 30, wait=None))
        await record.attempted(key, 2)
    assert not waiting.done()
    servers.delete(key)
    assert (await within(5, waiting)).valid


@one_version
async def test_waiter_gets_a_quorum_that_comes_back(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(server_timeout=50, max_retry=3)
    with servers.paused(servers.majority):
        waiting = asyncio.ensure_future(api.held(resource, 30, wait=None))
        assert await api.lock(resource + "-2", 30) == Err("unavailable")  # it began later and tried four times
        assert not waiting.done()
    lease = await within(8, waiting)
    assert await api.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(key), None)


@one_version
async def test_last_attempt_decides_what_is_told(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(max_retry=1000)
    servers.put(key, b"somebody", servers.everyone)
    waiting = asyncio.ensure_future(api.lock(resource, 30, wait=0.3))
    await api.waits()
    with servers.out_of_memory(servers.everyone):
        assert await waiting == Err("unavailable")
    with servers.out_of_memory(servers.everyone):
        waiting = asyncio.ensure_future(api.lock(resource, 30, wait=0.3))
        assert await api.lock(resource + "-2", 30, wait=0.1) == Err("unavailable")  # it began later and tried often
    assert await waiting == Err("lock_failure")


@one_version
async def test_waiters_share_one_lock_in_turn(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    apis = [await make(retry_interval=5) for _ in range(2)]
    await take_turns(apis, resource, callers=6)
    await everywhere(lambda: servers.keys(resource), set())


@one_version
async def test_wait_zero_beside_waiters_does_not_queue(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    waiting = asyncio.ensure_future(api.held(resource, 30, wait=None))
    await api.waits()
    begun = time.monotonic()
    assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
    assert time.monotonic() - begun < 1
    assert not waiting.done()
    await api.unlock(resource, lease)
    await within(5, waiting)


@one_version
async def test_waiter_holds_nothing_while_it_waits(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(retry_interval=4)
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index], px=300)
    waiting = asyncio.ensure_future(api.held(resource, 30, wait=None))
    free_at_times = 0
    while not waiting.done():
        free_at_times += servers.values(key)[-1] is None
        await asyncio.sleep(0)
    assert free_at_times
    lease = await waiting
    await eventually(lambda: servers.values(key).count(lease.token.encode()) >= servers.quorum)
