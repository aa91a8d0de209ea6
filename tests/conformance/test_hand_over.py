"""Hand-over: one supervisor detaches a lease, another one adopts it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from redlock_cluster import Err, LeaseLost, LeaseState, LossReason, NotHeld, Ok, QuorumUnavailable

from .adapter import Api, eventually, everywhere, passes
from .conftest import Make
from .monitor import recorded
from .servers import PREFIX, USUAL, ServerGroup, in_each_mode

two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)


@in_each_mode(*USUAL)
async def test_lease_goes_from_one_supervisor_to_another(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, other = await make(ttl=600), await make(ttl=600)
    lease = await one.held(resource, None)
    token = lease.token.encode()
    await everywhere(lambda: servers.values(key), token)
    ticket = await one.detach(lease)
    assert (lease.state, lease.valid, lease.remaining, lease.spare) == (LeaseState.DETACHED, False, 0, 0)
    adopted = await other.adopted(ticket)
    assert (adopted.resource, adopted.state, adopted.ttl) == (resource, LeaseState.HELD, 0.6)
    await passes(1.2)
    assert adopted.valid, "it extends itself here, too"
    assert servers.values(key) == [token] * servers.size
    assert lease.state is LeaseState.DETACHED
    await other.run(adopted.release)
    await everywhere(lambda: servers.keys(resource), set())


@in_each_mode("valkey-9", "redis-6")
@pytest.mark.parametrize("token_was_read", [False, True])
async def test_same_supervisor_may_adopt_it(
    api: Api, servers: ServerGroup, resource: str, key: bytes, token_was_read: bool
) -> None:
    lease = await api.held(resource, 30)
    if token_was_read:
        assert lease.token
    adopted = await api.adopted(await api.detach(lease))
    assert adopted is not lease
    assert (adopted.state, lease.state) == (LeaseState.HELD, LeaseState.DETACHED)
    assert await api.leases() == [adopted]
    assert await api.unlock(resource, adopted) == Ok(None)
    assert lease.state is LeaseState.DETACHED
    await everywhere(lambda: servers.keys(resource), set())


@one_version
async def test_detached_lease_is_neither_extended_nor_released_here(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(ttl=600)
    mutex = await api.mutex(resource, None)
    with recorded(servers) as record:
        async with api.entered(mutex) as lease:
            ticket = await api.detach(lease)
            assert not mutex.locked()
            for call in (lease.release, lease.extend, mutex.release, mutex.extend):
                with pytest.raises(NotHeld, match="was detached"):
                    await api.run(call)
            assert await api.extend(resource, lease, 10) == Err("not_held")
            assert await api.unlock(resource, lease) == Err("not_held")
            with pytest.raises(NotHeld, match="was detached before"):
                await api.detach(lease)
        await passes(0.3)
    assert {c.name for c in record.about(key) if c.name in ("DELIFEQ", "EVALSHA", "EVAL")} == set()
    assert ticket.isascii()
    await everywhere(lambda: servers.keys(resource), set())  # nobody has adopted it


@one_version
@pytest.mark.parametrize("how", ["lost", "released"])
async def test_lease_that_is_over_is_not_detached(make: Make, resource: str, how: str) -> None:
    api = await make(drift_factor=0.99)
    lease = await api.held(resource, 10)
    if how == "released":
        await api.run(lease.release)
        with pytest.raises(NotHeld, match="was released before"):
            await api.detach(lease)
    else:
        await eventually(lambda: lease.lost)
        with pytest.raises(LeaseLost) as caught:
            await api.detach(lease)
        assert caught.value.reason is LossReason.EXPIRED


@in_each_mode("valkey-9", "redis-6")
@pytest.mark.parametrize(
    ("ttl", "named", "extends"),
    [
        (None, {}, True),
        (10, {}, False),
        (None, {"auto_extend": False}, False),
        (10, {"auto_extend": True}, True),
        (None, {"max_hold": 60}, True),
    ],
)
async def test_it_extends_itself_if_it_did_before_or_that_is_asked_for(
    make: Make, resource: str, ttl: Any, named: dict[str, Any], extends: bool
) -> None:
    one, other = await make(), await make()
    lease = await one.held(resource, ttl)
    adopted = await other.adopted(await one.detach(lease), **named)
    assert (await other.status()).clusters[0].groups[0].extending == int(extends)
    assert adopted.ttl == (30 if ttl is None else ttl)
    await other.run(adopted.release)


@one_version
async def test_its_time_counts_from_the_adoption(make: Make, resource: str) -> None:
    one, other = await make(), await make()
    lease = await one.held(resource, 10)
    await passes(0.5)
    begun = time.monotonic()
    adopted = await other.adopted(await one.detach(lease))
    assert 9 < adopted.remaining < 10 * 0.99
    assert adopted.age <= time.monotonic() - begun < 5
    await other.run(adopted.release)


@one_version
async def test_loss_of_an_adopted_lease_is_told(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    one, other = await make(), await make()
    calls: list[Any] = []
    adopted = await other.adopted(
        await one.detach(await one.held(resource, None)), on_lost=lambda *told: calls.append(told)
    )
    servers.put(key, b"thief", servers.majority)
    assert await other.event(adopted.lost) is True
    await eventually(lambda: calls == [(adopted, LossReason.GONE)])
    servers.delete(key)


@in_each_mode("valkey-9")
async def test_ticket_whose_lease_is_over_is_not_held(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, other = await make(), await make()
    ticket = await one.detach(await one.held(resource, 30))
    servers.delete(key)
    result = await other.adopt(ticket)
    assert result == Err("not_held")
    assert type(result.error) is LeaseLost
    assert await other.leases() == []
    assert await other.is_locked(resource) is False


@one_version
async def test_ticket_of_others_is_not_held(make: Make, resource: str) -> None:
    one, other = await make(), await make(key_prefix="else:")
    ticket = await one.detach(await one.held(resource, 30))
    assert await other.adopt(ticket) == Err("not_held")
    await one.run((await one.adopted(ticket)).release)


@one_version
async def test_ticket_may_be_tried_again_after_an_outage(make: Make, servers: ServerGroup, resource: str) -> None:
    one, other = await make(), await make(server_timeout=80)
    ticket = await one.detach(await one.held(resource, 30))
    with servers.paused(servers.majority):
        result = await other.adopt(ticket)
        assert result == Err("unavailable")
        assert type(result.error) is QuorumUnavailable
    adopted: list[Any] = []

    async def again() -> bool:
        result = await other.adopt(ticket)
        adopted.extend([result.value] if isinstance(result, Ok) else [])
        return bool(result)

    await eventually(again)
    assert await other.unlock(resource, adopted[0]) == Ok(None)


@one_version
async def test_what_is_no_ticket_is_refused_and_sends_nothing(api: Api, servers: ServerGroup, resource: str) -> None:
    lease = await api.held(resource, 30)
    ticket = await api.detach(lease)
    with recorded(servers) as record:
        for wrong in ("", "x", ticket[:-1], ticket + "0", lease.token):
            with pytest.raises(ValueError, match="this is no ticket") as caught:
                await api.adopt(wrong)
            assert lease.token not in str(caught.value)
        for none in (None, 5, ticket.encode()):
            with pytest.raises(TypeError, match="a ticket is a str"):
                await api.adopt(none)
        with pytest.raises(ValueError, match="max_hold"):
            await api.adopt(ticket, max_hold=60)
    assert not [c for c in record.commands if PREFIX in b" ".join(c.words)]
    await api.run((await api.adopted(ticket)).release)


@one_version
async def test_bytes_that_are_no_text_are_handed_over(make: Make, resource: str) -> None:
    one, other = await make(), await make()
    name = resource.encode() + b"\xff\x00"
    adopted = await other.adopted(await one.detach(await one.held(name, 30)))
    assert await other.unlock(name, adopted) == Ok(None)


@one_version
@pytest.mark.parametrize("face", ["asyncio"], indirect=True)
async def test_caller_that_is_cancelled_while_it_adopts_keeps_nothing(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    one, other = await make(), await make(server_timeout=80)
    ticket = await one.detach(await one.held(resource, 30))
    with servers.paused(servers.majority):
        adopting = asyncio.ensure_future(other.adopt(ticket))
        await asyncio.sleep(0)
        adopting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adopting
    assert await other.leases() == []
    await eventually(lambda: one.adopt(ticket))
