"""Fences: numbers that grow with each acquisition of a resource, on every server version and both faces."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import pytest

from redlock_cluster import Err, Ok, WouldDeadlock
from redlock_cluster.core.queue import fence_key

from .adapter import AnyLease, Api, eventually, everywhere
from .conftest import Make
from .servers import OPTIONS, ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_kinds = pytest.mark.parametrize("servers", ["valkey-9", "model-valkey-9"], indirect=True)

SOON: Final = 2.0
"""Seconds by which a fence may be off the date."""


def numbers(servers: ServerGroup, key: bytes) -> list[int]:
    """The last number on each server."""
    return [int(client.get(fence_key(key)) or 0) for client in servers.clients]


async def fenced(api: Api, resource: str, **named: Any) -> AnyLease:
    return await api.held(resource, 30, fenced=True, **named)


async def fence_of(api: Api, resource: str, **named: Any) -> int:
    """Of an acquisition that is released at once."""
    lease = await fenced(api, resource, **named)
    assert await api.unlock(resource, lease) == Ok(None)
    assert lease.fence is not None
    return lease.fence


async def test_each_acquisition_has_a_greater_fence(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    """On every version: alone, by turns, while others wait, after a server was away, to read."""
    one, two = await make(), await make()
    fences = [await fence_of(api, resource) for api in (one, two, two, one)]
    assert abs(fences[0] / 1e6 - time.time()) < SOON
    holder = await fenced(one, resource)
    waiting = [asyncio.ensure_future(fenced(api, resource, wait=60)) for api in (two, two)]
    await two.waits(2)
    assert await one.unlock(resource, holder) == Ok(None)
    for next_one in asyncio.as_completed(waiting):  # either may have come first
        lease = await next_one
        fences.append(lease.fence or 0)
        assert await two.unlock(resource, lease) == Ok(None)
    assert fences == sorted(set(fences))
    reader = await fenced(one, resource, mode="read")
    assert reader.fence == fences[-1]
    assert await one.unlock(resource, reader) == Ok(None)
    assert await fence_of(one, resource) > fences[-1]
    assert sum([number > fences[-1] for number in numbers(servers, key)]) >= servers.quorum


@two_kinds
async def test_servers_with_other_numbers_come_to_agree(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api, ahead = await make(), round(time.time() * 1e6) + 200_000_000
    for index, client in enumerate(servers.clients):
        client.set(fence_key(key), ahead + index)
    fences = [await fence_of(api, resource) for _ in range(3)]
    assert fences == sorted(set(fences))
    assert fences[0] >= ahead + servers.size - servers.quorum + 1
    assert sum([number >= fences[-1] for number in numbers(servers, key)]) >= servers.quorum
    for client in servers.clients:
        assert 190_000 < client.pttl(fence_key(key)) - 86_400_000 < 201_000, "a day, and as long as it is ahead"


@two_kinds
async def test_who_asks_for_none_has_none(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make()
    lease = await api.held(resource)
    assert (lease.fence, numbers(servers, key)) == (None, [0] * servers.size)
    assert await api.unlock(resource, lease) == Ok(None)


@two_kinds
async def test_handles_batches_and_elections_have_fences(make: Make, resource: str) -> None:
    api = await make()
    mutex = api.supervisor.mutex(resource, 30, fenced=True)
    assert await api.run(mutex.acquire)
    assert mutex.lease is not None
    first = mutex.lease.fence or 0
    await api.run(mutex.release)
    results = await api.run(api.supervisor.lock_many, [resource, resource + "/2"], 30, fenced=True)
    assert all(result.value.fence > first for result in results)
    await api.run(api.supervisor.unlock_many, [result.value for result in results])
    many = api.supervisor.mutex_many([resource, resource + "/3"], 30, fenced=True)
    assert await api.run(many.acquire)
    assert many.lease is not None
    fences = [lease.fence or 0 for lease in many.lease.leases]
    assert min(fences) > results[0].value.fence
    await api.run(many.release)
    election = await api.election(resource, fenced=True)
    term = await api.run(election.campaign)
    assert term.fence > fences[0]
    await api.run(election.resign)


@two_kinds
async def test_the_option_gives_a_fence_to_every_lock_that_does_not_refuse_it(make: Make, resource: str) -> None:
    api = await make(fencing=True)
    for named, has in (({}, True), ({"fenced": False}, False), ({"auto_extend": True}, True)):
        lease = await api.held(resource, 30, **named)
        assert (lease.fence is not None) is has
        assert await api.unlock(resource, lease) == Ok(None)
    assert await api.transaction(resource, 30, lambda: 42) == 42


@one_version
async def test_a_lease_keeps_its_fence_when_it_is_extended_adopted_and_taken_again(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make()
    lease = await fenced(api, resource)
    fence = lease.fence
    servers.clients[0].delete(key, fence_key(key))
    await api.run(lease.extend, 60)
    await eventually(lambda: numbers(servers, key) == [fence] * servers.size)
    ticket = await api.run(lease.detach)
    adopted = await api.run(api.supervisor.adopt, ticket)
    assert isinstance(adopted, Ok)
    assert adopted.value.fence == fence
    assert await api.unlock(resource, adopted.value) == Ok(None)


@one_version
async def test_what_is_no_bool_does_not_ask_for_a_fence(make: Make, resource: str) -> None:
    api = await make()
    with pytest.raises(TypeError, match="fenced is a bool, not str"):
        await api.lock(resource, 30, fenced="no")
    with pytest.raises(TypeError, match="fenced is a bool, not int"):
        api.supervisor.mutex(resource, 30, fenced=0)  # type: ignore[arg-type]


@one_version
async def test_a_fence_can_t_be_had_from_a_body_that_has_none(make: Make, resource: str) -> None:
    api = await make()

    def inside() -> None:
        with api.supervisor.mutex(resource, 30), pytest.raises(WouldDeadlock):  # type: ignore[union-attr]
            api.supervisor.mutex(resource, 30, fenced=True, reentrant=True).acquire()

    async def inside_async() -> None:
        async with api.supervisor.mutex(resource, 30):  # type: ignore[union-attr]
            with pytest.raises(WouldDeadlock):
                await api.supervisor.mutex(resource, 30, fenced=True, reentrant=True).acquire()  # type: ignore[misc]

    await api.run(inside if api.face == "sync" else inside_async)


@one_version
async def test_a_user_who_may_not_run_scripts_gets_no_fence(make: Make, servers: ServerGroup, resource: str) -> None:
    """And says so; a lock without one can be had."""
    for client in servers.clients:
        client.acl_setuser(
            "scriptless", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-eval", "-evalsha"]
        )
    user = {"username": "scriptless", "password": "any"}
    api = await make({"servers": [{"port": server.port, **user} for server in servers.embedded], **OPTIONS})
    refused = await api.refused(resource, 30, wait=0, fenced=True)
    assert refused == Err("unavailable")
    assert "NOPERM" in str(refused.error)
    lease = await api.held(resource, 30)
    assert await api.unlock(resource, lease) == Ok(None)


@two_kinds
async def test_nothing_but_the_fence_is_left(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make()
    await fence_of(api, resource)
    await everywhere(lambda: servers.keys(resource), {fence_key(key)})
