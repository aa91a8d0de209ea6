"""Leases that look after themselves: which ones do, for how long, and what ends it."""

from __future__ import annotations

import gc
import time
from typing import Any, Final

import pytest

from redlock_cluster import Err, LeaseLost, LeaseState, LossReason, Ok

from .adapter import eventually, everywhere, passes
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup, in_each_mode

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)

TTL: Final = 0.6
SHORT: Final[dict[str, Any]] = {"ttl": 600}
# A ttl of 10 s of which this client believes 0.1 s, so that what is not extended ends soon.
SHORT_LIVED: Final[dict[str, Any]] = {"ttl": "10s", "drift_factor": 0.99}
EXTENSIONS: Final = {"EVALSHA", "EVAL", "SET"}


@in_each_mode("redis-6", "mixed-of-five", "model-valkey-9", "valkey-9")
async def test_lease_without_a_ttl_is_held_until_it_is_released(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api, other = await make(**SHORT), await make()
    lease = await api.held(resource, None)
    assert lease.ttl == TTL
    begun = time.monotonic()
    while time.monotonic() < begun + 4 * TTL:
        assert (lease.valid, lease.state) == (True, LeaseState.HELD)
        assert await other.lock(resource, wait=0, mode="write") == Err("lock_failure")
        await passes(0.1)
    assert lease.age >= 4 * TTL
    assert 0 < lease.remaining < TTL
    assert await api.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.keys(resource), set())


@in_each_mode("valkey-9", "redis-6")
@pytest.mark.parametrize("how", ["mutex", "transaction"])
async def test_body_longer_than_the_ttl_keeps_its_lock(
    make: Make, servers: ServerGroup, resource: str, how: str
) -> None:
    api, other = await make(**SHORT), await make()
    if how == "mutex":
        async with api.entered(await api.mutex(resource, None)) as lease:
            await passes(2 * TTL)
            assert lease.valid
            assert await other.lock(resource, wait=0, mode="write") == Err("lock_failure")
    elif api.face == "asyncio":

        async def work() -> str:
            await passes(2 * TTL)
            assert await other.lock(resource, wait=0, mode="write") == Err("lock_failure")
            return "done"

        assert await api.transaction(resource, None, work) == "done"
    else:

        def blocking() -> object:
            time.sleep(2 * TTL)
            return other.supervisor.lock(resource, 10, wait=0)

        assert await api.transaction(resource, None, blocking) == Err("lock_failure")
    await everywhere(lambda: servers.keys(resource), set())


@one_version
@pytest.mark.parametrize("face", ["sync"], indirect=True)
async def test_busy_caller_keeps_its_lock(make: Make, resource: str) -> None:
    """In asyncio a busy caller blocks the loop, which then extends nothing."""
    api = await make(**SHORT)

    def busy() -> bool:
        with api.supervisor.mutex(resource) as lease:
            end = time.monotonic() + 3 * TTL
            while time.monotonic() < end:
                sum(range(1000))
            return lease.valid

    assert await api.run(busy) is True


@one_version
async def test_ttl_that_is_given_is_not_extended_unless_asked_for(make: Make, resource: str) -> None:
    api = await make(**SHORT_LIVED)
    for ttl, named in ((10, {}), (None, {"auto_extend": False}), (10, {"auto_extend": False})):
        lease = await api.held(f"{resource}-{ttl}-{named}", ttl, **named)
        assert lease.ttl == 10
        assert (await api.status()).clusters[0].groups[0].extending == 0
        await eventually(lambda lease=lease: lease.state is LeaseState.LOST)
    api = await make(drift_factor=0)
    lease = await api.held(resource, TTL, auto_extend=True)
    await passes(2 * TTL)
    assert lease.valid
    await api.run(lease.release)


@in_each_mode("valkey-9", "redis-6")
async def test_release_ends_the_extensions(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(**SHORT)
    lease = await api.held(resource, None)
    await eventually(lambda: lease.age > TTL and lease.remaining > 0.9 * TTL)  # and so none is due at once
    with recorded(servers) as record:
        await api.run(lease.release)
        await passes(2 * TTL)
    for server in servers.everyone:
        sent = [command for command in record.about(key) if command.server == server]
        assert sent, "the release"
        assert sent[-1].name in ("DELIFEQ", "EVALSHA", "EVAL")
        assert len(sent) <= 2  # NOSCRIPT is answered with the script in full
    assert lease.state is LeaseState.RELEASED


@one_version
async def test_extensions_are_a_third_of_a_ttl_apart(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(**SHORT)
    with recorded(servers) as record:
        lease = await api.held(resource, None)
        await passes(3 * TTL)
        await api.run(lease.release)
    extensions = [c for c in record.about(key) if c.server == 0 and c.name in EXTENSIONS and not c.attempt]
    assert 4 <= len(extensions) <= 10


@in_each_mode("valkey-9", "redis-6")
@pytest.mark.parametrize("by", ["argument", "option"])
async def test_max_hold_ends_the_lease(make: Make, servers: ServerGroup, resource: str, by: str) -> None:
    api = await make(**SHORT, **({"max_hold": 1000} if by == "option" else {}))
    lease = await api.held(resource, None, **({"max_hold": 1.0} if by == "argument" else {}))
    await eventually(lambda: lease.age > 0.8)
    assert lease.valid
    assert await api.event(lease.lost) is True
    assert 1.0 <= lease.age < 3
    with pytest.raises(LeaseLost, match="max_hold") as caught:
        lease.raise_if_lost()
    assert caught.value.reason is LossReason.MAX_HOLD
    with pytest.raises(LeaseLost) as caught:
        await api.run(lease.release)
    assert caught.value.reason is LossReason.MAX_HOLD
    await everywhere(lambda: servers.keys(resource), set())


@one_version
async def test_max_hold_of_a_call_goes_before_the_option(make: Make, resource: str) -> None:
    api = await make(**SHORT, max_hold=300)
    lease = await api.held(resource, None, max_hold=60)
    await eventually(lambda: lease.age > 0.6)
    assert lease.valid
    await api.run(lease.release)


@in_each_mode("valkey-9", "redis-6")
async def test_lease_that_nobody_refers_to_is_released_with_a_warning(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    api = await make()
    with pytest.warns(ResourceWarning, match="dropped without being released"):
        lease: Any = await api.held(resource, None, on_lost=lambda *_: None)
        lost = lease.lost
        del lease
        gc.collect()
        await everywhere(lambda: servers.keys(resource), set())
    assert not lost
    assert await api.leases() == []


@one_version
async def test_lease_that_is_not_extended_may_be_dropped(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make()
    lease: Any = await api.held(resource, 30)
    token = lease.token.encode()
    await everywhere(lambda: servers.values(key), token)
    del lease
    gc.collect()
    await api.status()
    assert servers.values(key) == [token] * servers.size
    servers.delete(key)


@in_each_mode("valkey-9", "redis-6")
async def test_close_releases_what_extends_itself(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(**SHORT)
    kept, given = await api.held(resource, None), await api.held(f"{resource}-given", 30)
    token = given.token.encode()
    await everywhere(lambda: servers.values(key), kept.token.encode())
    await everywhere(lambda: servers.values(key + b"-given"), token)
    await api.close()
    assert not kept.valid
    assert given.valid
    assert servers.values(key) == [None] * servers.size
    assert servers.values(key + b"-given") == [token] * servers.size
    servers.delete(key + b"-given")


@one_version
async def test_extension_by_hand_changes_the_ttl_that_is_kept(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make(**SHORT)
    lease = await api.held(resource, None)
    await api.run(lease.extend, 5)
    assert lease.remaining > 4
    await api.run(lease.extend, TTL)
    await passes(2 * TTL)
    assert (lease.valid, lease.ttl) == (True, TTL)
    await api.run(lease.release)


class TestHeld:
    """What a supervisor says that it holds."""

    @one_version
    async def test_leases_are_listed_with_their_age_the_oldest_first(self, make: Make, resource: str) -> None:
        api = await make()
        assert await api.leases() == []
        first = await api.held(f"{resource}-1", 30)
        second = await api.held(f"{resource}-2", None)
        third = await api.held(f"{resource}-3", 30)
        held = await api.leases()
        assert held == [first, second, third]
        assert first.age > second.age > third.age >= 0
        assert all(lease.age + lease.remaining < 31 for lease in held)
        await api.run(first.release)
        assert await api.leases() == [second, third]
        await api.detach(second)
        assert await api.leases() == [third]
        await api.run(third.release)
        assert await api.leases() == []
        del held

    @one_version
    async def test_another_supervisor_lists_its_own(self, make: Make, resource: str) -> None:
        api, other = await make(), await make()
        lease = await api.held(resource, 30)
        assert await other.leases() == []
        assert await api.leases() == [lease]
        await api.run(lease.release)

    @one_version
    async def test_status_counts_leases_and_those_that_extend_themselves(self, make: Make, resource: str) -> None:
        api = await make()

        async def counts() -> tuple[int, int]:
            group = (await api.status()).clusters[0].groups[0]
            return group.leases, group.extending

        assert await counts() == (0, 0)
        leases = [await api.held(f"{resource}-{index}", ttl) for index, ttl in enumerate([30, None, None, 30, 30])]
        assert await counts() == (5, 2)
        leases.append(await api.held(f"{resource}-told", 30, on_lost=lambda *_: None))
        assert await counts() == (6, 2)
        await api.run(leases[0].release)
        await api.run(leases[1].release)
        assert await counts() == (4, 1)
        for lease in leases[2:]:
            await api.run(lease.release)
        assert await counts() == (0, 0)

    @in_each_mode("valkey-9", "redis-6")
    async def test_spare_is_how_many_servers_more_may_fail(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make()
        with servers.paused(servers.minority):
            lease = await api.held(resource, 30)
            assert lease.spare == 0
        await eventually(lambda: lease.spare == servers.size - servers.quorum)
        await api.run(lease.release)
        assert lease.spare == 0
