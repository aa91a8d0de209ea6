"""Batches: one result for each, in order, on every version and through either face."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redlock_cluster import Err, Ok

from .adapter import Api, everywhere
from .conftest import Make
from .servers import OPTIONS, UNGUARDED, ServerGroup


async def test_a_batch_locks_extends_and_unlocks_in_the_order_given(
    api: Api, servers: ServerGroup, resource: str
) -> None:
    names = [f"{resource}-{number}" for number in range(50)]
    for name in names[::5]:
        servers.put(b"redlock:" + name.encode(), b"theirs", servers.everyone)
    results: list[Any] = await api.run(api.supervisor.lock_many, names, 30)
    assert [bool(result) for result in results] == [number % 5 != 0 for number in range(50)]
    assert all(result == Err("lock_failure") for result in results[::5])
    leases = [result.value for result in results if result]
    assert [lease.resource for lease in leases] == [name for name in names if name not in names[::5]]

    extended: list[Any] = await api.run(api.supervisor.extend_many, leases, 60)
    assert [result.value for result in extended] == leases
    assert all(lease.ttl == 60 and lease.remaining > 50 for lease in leases)

    servers.delete(b"redlock:" + leases[1].resource.encode(), servers.everyone)
    released: list[Any] = await api.run(api.supervisor.unlock_many, leases)
    assert released == [Ok(None), Err("not_held"), *[Ok(None)] * (len(leases) - 2)]
    for name in names[::5]:
        servers.delete(b"redlock:" + name.encode(), servers.everyone)
    await everywhere(lambda: servers.keys(resource), set())


@pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
async def test_thousands_at_a_time_over_several_groups(make: Make, servers: ServerGroup, resource: str) -> None:
    groups = [{"name": f"g{server.port}", "servers": [{"port": server.port}]} for server in servers.embedded]
    api = await make({"cluster": groups, **OPTIONS, **UNGUARDED})
    names = [f"{resource}-{number}" for number in range(3000)]
    results: list[Any] = await api.run(api.supervisor.lock_many, names, 60)
    assert all(results)
    assert [result.value.resource for result in results] == names
    routed = [await api.group_for(name) for name in names[:60]]
    assert [set(result.value.held_on) for result in results[:60]] == [{f"127.0.0.1:{name[1:]}"} for name in routed]
    assert set(await api.run(api.supervisor.unlock_many, [result.value for result in results])) == {Ok(None)}
    await everywhere(lambda: servers.keys(resource), set())


@pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
async def test_duplicates_are_an_error_before_anything_is_sent(api: Api, servers: ServerGroup, resource: str) -> None:
    for one in (resource, resource.encode()):
        with pytest.raises(TypeError, match="lock_many takes a list of resources, not one "):
            await api.run(api.supervisor.lock_many, one, 30)
    for twice in ([resource, resource], [resource, resource.encode()]):
        with pytest.raises(ValueError, match="twice"):
            await api.run(api.supervisor.lock_many, twice, 30)
    assert servers.keys(resource) == [set()] * servers.size


@pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("face", ["asyncio"], indirect=True)
async def test_a_cancelled_batch_leaves_nothing_behind(api: Api, servers: ServerGroup, resource: str) -> None:
    names = [f"{resource}-{number}" for number in range(2500)]
    for turns in (1, 3, 10, 40):
        with servers.paused(servers.majority):
            task = asyncio.ensure_future(api.run(api.supervisor.lock_many, names, 30))
            for _ in range(turns):
                await asyncio.sleep(0)
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await everywhere(lambda: servers.keys(resource), set())


@pytest.mark.parametrize("servers", ["valkey-9", "redis-7"], indirect=True)
async def test_a_batch_of_the_longest_names_is_answered_in_time(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    """61 MiB for each server, in much less time than those take."""
    api = await make(server_timeout="300ms")
    names = [f"{resource}-{number}".ljust(64_000, "x") for number in range(1000)]
    results = await api.run(api.supervisor.lock_many, names, 60)
    assert {repr(result) for result in results if not result} == set()
    leases = [result.value for result in results]
    assert all(await api.run(api.supervisor.extend_many, leases, 90))
    assert set(await api.run(api.supervisor.unlock_many, leases)) == {Ok(None)}
    await everywhere(lambda: servers.keys(resource), set())
