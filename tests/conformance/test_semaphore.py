"""Semaphores: never more holders than permits; they wait, extend themselves and end as mutexes do."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any, Final

import pytest

from redlock_cluster import (
    Contended,
    LeaseLost,
    LeaseState,
    LossReason,
    NotHeld,
    PermitsDiffer,
    QuorumUnavailable,
    WaitCancelled,
)
from redlock_cluster.core.permit import permit_key, semaphore_key

from .adapter import Api, everywhere, within
from .conftest import Make
from .servers import PREFIX, ServerGroup

two_kinds = pytest.mark.parametrize("servers", ["valkey-9", "model-valkey-9"], indirect=True)
in_asyncio = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
in_sync = pytest.mark.parametrize("face", ["sync"], indirect=True)

TTL: Final = 1.5  # a busy machine may stand still for a while


async def semaphore(api: Api, resource: str, permits: int = 2, ttl: Any = 30, **named: Any) -> Any:
    return await api.run(api.supervisor.semaphore, resource, permits, ttl, **named)


def permits_of(resource: str, permits: int = 2) -> list[bytes]:
    at = semaphore_key(PREFIX + resource.encode())
    return [permit_key(at, number) for number in range(permits)]


async def nothing_left(servers: ServerGroup, resource: str) -> None:
    """But how many permits there are: that ends by itself."""
    at = semaphore_key(PREFIX + resource.encode()).decode()

    def left() -> list[set[bytes]]:
        return [{key for key in keys if not key.endswith(b":redlock:size")} for keys in servers.keys(at)]

    await everywhere(left, set())


async def test_so_many_hold_and_the_next_waits_until_one_releases(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    api, other = await make(), await make()
    first, second, third = [await semaphore(each, resource, wait=None) for each in (api, other, other)]
    async with api.entered(first) as lease, api.entered(second, apart=True):
        assert (lease.resource, lease.valid, first.locked()) == (resource, True, True)
        assert not await other.run(third.acquire, False)
        assert await other.is_locked(resource) is False  # a mutex of that name is another thing
        waiting = asyncio.ensure_future(other.run(third.acquire))
        await other.waits()
        await api.run(first.release)
        assert await within(5, waiting)
    assert lease.state is LeaseState.RELEASED
    await other.run(third.release)
    await nothing_left(servers, resource)


async def test_never_more_than_the_permits_and_nobody_starves(make: Make, servers: ServerGroup, resource: str) -> None:
    apis = [await make() for _ in range(3)]
    inside = most = 0
    turns = dict.fromkeys(range(9), 0)

    async def use(caller: int) -> None:
        nonlocal inside, most
        api = apis[caller % 3]
        for _ in range(6):
            async with api.entered(await semaphore(api, resource, 3, wait=None), apart=True):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.002)
                inside -= 1
            turns[caller] += 1

    await within(60, asyncio.gather(*(use(caller) for caller in turns)))
    assert most <= 3
    assert set(turns.values()) == {6}
    await nothing_left(servers, resource)


@two_kinds
async def test_another_number_of_permits_is_refused_in_plain_words(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    async with api.entered(await semaphore(api, resource, 3)):
        for wait in (0, None):
            handle = await semaphore(other, resource, 5, wait=wait)
            with pytest.raises(PermitsDiffer, match="has 3 permits, not 5: all must name the same number"):
                await other.run(handle.acquire)


@two_kinds
@pytest.mark.parametrize(("permits", "error"), [(0, ValueError), (65, ValueError), ("2", TypeError)])
async def test_numbers_that_can_not_be(api: Api, resource: str, permits: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="permits"):
        await semaphore(api, resource, permits)


@two_kinds
async def test_refusal_says_why_and_a_wait_ends_by_its_time_or_from_outside(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    async with api.entered(await semaphore(api, resource, 1)):
        handle = await semaphore(other, resource, 1, wait=0.2)
        with pytest.raises(Contended, match="all of its permits are held"):
            async with other.entered(handle):
                raise AssertionError("nobody gets in")
        handle = await semaphore(other, resource, 1, wait=None)
        waiting = asyncio.ensure_future(other.run(handle.acquire))
        await other.waits()
        assert await other.cancel_waiting(resource) == 1
        with pytest.raises(WaitCancelled):
            await within(5, waiting)


@two_kinds
async def test_permit_extends_itself_until_its_body_ends(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make(ttl=round(TTL * 1000))
    async with api.entered(await semaphore(api, resource, 1, None)) as lease:
        await asyncio.sleep(2 * TTL)
        assert (lease.state, lease.valid) == (LeaseState.HELD, True)
    await nothing_left(servers, resource)


@two_kinds
async def test_permit_of_a_dead_holder_comes_back_by_its_ttl(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    handle = await semaphore(api, resource, 1, TTL)
    assert await api.run(handle.acquire)
    begun = time.monotonic()
    next_one = await semaphore(other, resource, 1, wait=None)
    assert await within(TTL + 5, other.run(next_one.acquire))
    assert time.monotonic() - begun > TTL / 2
    assert not handle.lease.valid
    with pytest.raises(LeaseLost):
        await api.run(handle.release)


@two_kinds
async def test_loss_is_told_and_so_is_force(make: Make, servers: ServerGroup, resource: str) -> None:
    api, operator = await make(), await make()
    handle = await semaphore(api, resource, 2, None)
    assert await api.run(handle.acquire)
    lease = handle.lease
    held = [number for number, key in enumerate(permits_of(resource)) if any(servers.values(key))]
    assert len(held) == 1
    told = asyncio.ensure_future(api.event(lease.lost))
    await asyncio.sleep(0.7)  # until servers were asked to push
    assert await operator.run(operator.supervisor.force_release, resource, permit=held[0])
    assert await told is True
    with pytest.raises(LeaseLost) as caught:
        lease.raise_if_lost()
    assert caught.value.reason is LossReason.FORCED


@two_kinds
async def test_permit_is_handed_over(make: Make, servers: ServerGroup, resource: str) -> None:
    api, other = await make(), await make()
    handle = await semaphore(api, resource, 1)
    assert await api.run(handle.acquire)
    adopted = await other.adopted(await api.detach(handle.lease))
    assert (adopted.resource, adopted.valid) == (resource, True)
    refused = await semaphore(api, resource, 1, wait=0)
    assert not await api.run(refused.acquire)
    await other.run(adopted.release)
    assert await api.run(refused.acquire)
    await api.run(refused.release)
    await nothing_left(servers, resource)


@two_kinds
async def test_who_has_one_may_have_another(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make()
    async with api.entered(await semaphore(api, resource, 2)), api.entered(await semaphore(api, resource, 2)):
        assert len(await api.leases()) == 2
        third = await semaphore(api, resource, 2, wait=0)
        assert not await api.run(third.acquire)
    await nothing_left(servers, resource)


@two_kinds
async def test_handle_is_for_one_use_at_a_time(api: Api, resource: str) -> None:
    handle = await semaphore(api, resource)
    with pytest.raises(NotHeld):
        await api.run(handle.release)
    assert await api.run(handle.acquire)
    with pytest.raises(RuntimeError, match="one handle for each use"):
        await api.run(handle.acquire)
    await api.run(handle.release)


async def test_too_few_servers(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make(server_timeout=80)
    handle = await semaphore(api, resource, wait=0)
    with servers.paused(servers.majority), pytest.raises(QuorumUnavailable):
        await api.run(handle.acquire)
    await nothing_left(servers, resource)


@two_kinds
@in_asyncio
async def test_cancelled_anywhere_leaves_nothing(make: Make, servers: ServerGroup, resource: str) -> None:
    api, other = await make(), await make()
    for moment in range(25):
        holder = await semaphore(other, resource, 1)
        assert await other.run(holder.acquire)
        handle = await semaphore(api, resource, 1, wait=None)
        task = asyncio.ensure_future(handle.acquire())
        await asyncio.sleep(moment / 5000)
        release = asyncio.ensure_future(holder.release())
        await asyncio.sleep(moment / 9000)
        task.cancel()
        await asyncio.gather(task, release, return_exceptions=True)
        if handle.locked():
            await handle.release()
        await nothing_left(servers, resource)


@two_kinds
@in_sync
async def test_dropped_inside_of_its_body_it_is_given_back(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make()
    handle = await semaphore(api, resource, 1)
    await api.run(handle.__enter__)
    del handle
    gc.collect()
    await nothing_left(servers, resource)
