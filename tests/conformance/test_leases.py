"""The life of a lease: validity, extension, loss, release; and what of it the servers keep."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, Final

import pytest

from redlock_cluster import Err, LeaseLost, LeaseState, LossReason, NotHeld, Ok, QuorumUnavailable

from .adapter import Api, eventually, everywhere, passes
from .conftest import Make
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
each_version = pytest.mark.parametrize("servers", ["valkey-9", "redis-8", "redis-7", "redis-6"], indirect=True)
native_or_script = pytest.mark.parametrize("servers", ["valkey-9", "redis-7"], indirect=True)
by_lease_or_token = pytest.mark.parametrize("by", ["lease", "token"])

# A lease that this client gives up after 0.1 s while servers keep its keys for 10 s.
SHORT_LIVED: Final[dict[str, Any]] = {"drift_factor": 0.99}


def handle(lease: Any, by: str) -> Any:
    return lease if by == "lease" else lease.token


async def stays_until_its_user_releases_it(api: Api, servers: ServerGroup, lease: Any, key: bytes) -> None:
    """A lost lease where nobody took it away: somebody who has not heard of the loss is in the critical section."""
    await asyncio.sleep(0.1)
    assert set(servers.values(key)[servers.quorum :]) <= {lease.token.encode()}
    assert await api.unlock(lease.resource, lease) == Err("not_held")
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)


class TestValidity:
    @one_version
    @pytest.mark.parametrize(("ttl", "factor"), [(10, 0.01), (1, 0.01), (10, 0.5), (100, 0.0), (0.1, 0.2)])
    async def test_remaining_is_ttl_less_drift_and_elapsed(
        self, make: Make, resource: str, ttl: float, factor: float
    ) -> None:
        api = await make(drift_factor=factor)
        begun = time.monotonic()
        lease = await api.held(resource, ttl)
        remaining, elapsed = lease.remaining, time.monotonic() - begun
        validity = ttl - ttl * factor - 0.002
        assert validity - elapsed - 0.001 <= remaining < validity

    @one_version
    async def test_remaining_counts_down_to_zero_and_the_lease_is_lost(self, make: Make, resource: str) -> None:
        api = await make(**SHORT_LIVED)
        lease = await api.held(resource, 10)
        seen = [lease.remaining]

        def over() -> bool:
            seen.append(lease.remaining)
            return not lease.valid

        await eventually(over)
        assert seen == sorted(seen, reverse=True)
        assert lease.remaining == 0
        assert lease.state is LeaseState.LOST
        assert not lease.valid

    @native_or_script
    async def test_ttl_runs_out_on_servers_without_a_release(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource, 0.25)
        await everywhere(lambda: servers.values(key), None)
        assert not lease.valid
        assert lease.remaining == 0
        assert await api.extend(resource, lease, 10) == Err("not_held")
        assert await api.unlock(resource, lease) == Err("not_held")
        assert lease.state is LeaseState.LOST
        assert servers.keys(resource) == [set()] * servers.size

    @each_version
    async def test_expired_lease_is_gone_even_where_servers_still_have_the_key(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        lease = await api.held(resource, 10)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        await eventually(lambda: not lease.valid)
        assert await api.extend(resource, lease, 100) == Err("not_held")
        with pytest.raises(LeaseLost, match=r"it expired .* s ago") as lost:
            await api.run(lease.extend, 100)
        assert lost.value.reason is LossReason.EXPIRED
        assert lease.state is LeaseState.LOST
        await everywhere(lambda: servers.values(key), None)

    @native_or_script
    async def test_release_of_an_expired_lease_is_not_held_and_cleans_up(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        lease = await api.held(resource, 10)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        await eventually(lambda: not lease.valid)
        assert await api.unlock(resource, lease) == Err("not_held")
        await everywhere(lambda: servers.values(key), None)

    @one_version
    async def test_quorum_after_the_validity_is_unavailable_and_leaves_nothing(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(drift_factor=0.995)
        with servers.paused(servers.everyone):
            attempt = asyncio.ensure_future(api.lock(resource, 10, wait=0))
            await passes(0.1)  # every byte is sent, and 10 s * 0.5 % is over
            servers.resume()
            result = await attempt
        assert result == Err("unavailable")
        assert type(result.error) is QuorumUnavailable
        await everywhere(lambda: servers.values(key), None)

    @one_version
    @pytest.mark.parametrize("face", ["asyncio"], indirect=True)
    async def test_loop_that_stalls_gets_no_lease_without_validity(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        with servers.paused(servers.everyone):
            attempt = asyncio.ensure_future(api.lock(resource, 0.1, wait=0))
            for _ in range(5):
                await asyncio.sleep(0)
            servers.resume()
            time.sleep(0.11)  # the loop's own thread: the replies are there, the ttl is over
            assert await attempt == Err("unavailable")
        await everywhere(lambda: servers.values(key), None)


class TestExtension:
    async def test_longer_ttl_lengthens_validity_and_keys(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource, 10)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        assert await api.extend(resource, lease, 60) == Ok(lease)
        assert 50 < lease.remaining < 60 * 0.99
        assert lease.ttl == 60.0
        assert lease.state is LeaseState.HELD
        await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))

    async def test_shorter_ttl_shortens_validity_and_keys(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource, 60)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        assert await api.extend(resource, lease, 5)
        assert 0 < lease.remaining < 5 * 0.99
        assert lease.ttl == 5.0
        await eventually(lambda: all(0 < ttl <= 5_000 for ttl in servers.ttls_ms(key)))

    @by_lease_or_token
    async def test_full_servers_extend_and_release_what_they_hold(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        api = await make()
        lease, kept = await api.held(resource, 10), await api.held(f"{resource}-kept", 10)
        leases = [await api.held(f"{resource}-{number}", 10) for number in range(3)]
        await everywhere(lambda: servers.values(key), lease.token.encode())
        with servers.out_of_memory(servers.everyone):
            refused = await api.refused(f"{resource}-new", 10, wait=0)
            assert "OOM" in str(refused.error)
            assert await api.extend(resource, handle(lease, by), 60)
            assert lease.remaining > 50
            assert len([ttl for ttl in servers.ttls_ms(key) if ttl > 50_000]) >= servers.quorum
            assert all(await api.run(api.supervisor.extend_many, leases, 60))
            assert min(held.remaining for held in leases) > 50
            for client in servers.clients:
                client.script_flush()
            assert await api.extend(resource, handle(lease, by), 70)
            assert await api.unlock(resource, handle(lease, by)) == Ok(None)
            assert await api.unlock(f"{resource}-kept", handle(kept, by)) == Ok(None)
            assert all(await api.run(api.supervisor.unlock_many, leases))
            await everywhere(lambda: servers.keys(resource), set())

    async def test_ttl_left_out_is_the_one_it_has(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource, 30)
        assert await api.extend(resource, lease, timedelta(seconds=20))
        await everywhere(lambda: servers.values(key), lease.token.encode())
        for client in servers.clients:
            client.pexpire(key, 4_000)
        await api.run(lease.extend)
        assert lease.ttl == 20.0
        await eventually(lambda: all(15_000 < ttl <= 20_000 for ttl in servers.ttls_ms(key)))

    @by_lease_or_token
    async def test_foreign_token_on_a_quorum_is_not_held_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put(key, b"thief", servers.majority, px=7_000)
        assert await api.extend(resource, handle(lease, by), 60) == Err("not_held")
        assert servers.values(key)[: servers.quorum] == [b"thief"] * servers.quorum
        assert all(0 < ttl <= 7_000 for ttl in servers.ttls_ms(key)[: servers.quorum])
        if by == "lease":
            assert lease.state is LeaseState.LOST
            await stays_until_its_user_releases_it(api, servers, lease, key)

    @by_lease_or_token
    async def test_readers_on_a_quorum_are_not_held_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put_readers(key, servers.majority)
        assert await api.extend(resource, handle(lease, by), 3000) == Err("not_held")
        assert servers.values(key)[: servers.quorum] == ["zset"] * servers.quorum
        assert all(0 < ttl <= 60_000 for ttl in servers.ttls_ms(key)[: servers.quorum])

    @by_lease_or_token
    async def test_key_gone_from_a_quorum_is_not_held_and_not_brought_back(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.delete(key, servers.majority)
        assert await api.extend(resource, handle(lease, by), 30) == Err("not_held")
        assert servers.values(key)[: servers.quorum] == [None] * servers.quorum
        if by == "lease":
            assert lease.state is LeaseState.LOST
            assert not lease.valid
            await stays_until_its_user_releases_it(api, servers, lease, key)

    @by_lease_or_token
    async def test_foreign_token_on_a_minority_is_survived_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put(key, b"thief", servers.minority, px=7_000)
        assert await api.extend(resource, handle(lease, by), 60)
        await eventually(lambda: all(ttl > 50_000 for ttl in servers.ttls_ms(key)[len(servers.minority) :]))
        assert servers.values(key)[: len(servers.minority)] == [b"thief"] * len(servers.minority)
        assert all(0 < ttl <= 7_000 for ttl in servers.ttls_ms(key)[: len(servers.minority)])

    async def test_key_gone_from_a_minority_is_survived(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.delete(key, servers.minority)
        assert await api.extend(resource, lease, 40)
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.values(key), None)

    async def test_extensions_at_once_all_succeed(self, api: Api, servers: ServerGroup, resource: str) -> None:
        lease = await api.held(resource, 30)
        results = await asyncio.gather(*(api.extend(resource, lease, 20 + number) for number in range(12)))
        assert all(result == Ok(lease) for result in results)
        assert lease.state is LeaseState.HELD
        assert 15 < lease.remaining < 31 * 0.99

    @native_or_script
    async def test_extension_beside_a_release_brings_nothing_back(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for number in range(15):
            lease = await api.held(resource, 30)
            calls: list[Any] = [api.extend(resource, lease, 30) for _ in range(3)]
            calls.insert(number % 4, api.unlock(resource, lease))
            results = await asyncio.gather(*calls)
            assert results.pop(number % 4) == Ok(None)
            assert all(isinstance(result, Ok) or result == Err("not_held") for result in results)
            assert lease.state is LeaseState.RELEASED
            await everywhere(lambda: servers.values(key), None)

    @one_version
    async def test_reply_too_late_for_the_old_validity_is_lost(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        lease = await api.held(resource, 10)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        with servers.paused(servers.everyone):
            round_ = asyncio.ensure_future(api.extend(resource, lease, 1000))
            await eventually(lambda: lease.remaining == 0)
            servers.resume()
            assert await round_ == Err("not_held")
        assert lease.state is LeaseState.LOST
        await everywhere(lambda: servers.values(key), None)


class TestUnknown:
    """Extensions whose replies never came."""

    @native_or_script
    async def test_extension_without_quorum_is_unknown_and_stays_valid_as_long_as_it_was(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=80)
        lease = await api.held(resource, 30)
        with servers.paused(servers.majority):
            result = await api.extend(resource, lease, 100)
            assert result == Err("unavailable")
            assert type(result.error) is QuorumUnavailable
            with pytest.raises(QuorumUnavailable):
                await api.run(lease.extend, 100)
            assert lease.state is LeaseState.UNKNOWN
            assert lease.valid
            assert 20 < lease.remaining < 30

    @native_or_script
    async def test_shorter_ttl_without_replies_shortens_validity(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=80)
        lease = await api.held(resource, 30)
        with servers.paused(servers.majority):
            assert await api.extend(resource, lease, 5) == Err("unavailable")
            assert 0 < lease.remaining < 5 * 0.99

    @native_or_script
    async def test_unknown_lease_is_held_again_after_an_extension(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=80)
        lease = await api.held(resource, 30)
        with servers.paused(servers.majority):
            assert await api.extend(resource, lease, 30) == Err("unavailable")
        await eventually(lambda: api.extend(resource, lease, 30))
        assert lease.state is LeaseState.HELD
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.values(key), None)

    @native_or_script
    async def test_release_without_quorum_is_unavailable_and_made_up_for(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=80)
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        with servers.paused(servers.majority):
            result = await api.unlock(resource, lease)
            assert result == Err("unavailable")
            assert type(result.error) is QuorumUnavailable
        await everywhere(lambda: servers.values(key), None)


class TestRelease:
    async def test_release_takes_the_key_from_every_server(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        assert await api.unlock(resource, lease) == Ok(None)
        assert (lease.state, lease.valid, lease.remaining) == (LeaseState.RELEASED, False, 0)
        await everywhere(lambda: servers.keys(resource), set())

    async def test_release_at_once_takes_the_key_from_stragglers_too(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for _ in range(20):
            lease = await api.held(resource)
            assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.values(key), None)

    @by_lease_or_token
    async def test_foreign_token_on_a_quorum_is_not_held_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put(key, b"thief", servers.majority)
        assert await api.unlock(resource, handle(lease, by)) == Err("not_held")
        await everywhere(lambda: servers.values(key)[servers.quorum :], None)
        assert servers.values(key)[: servers.quorum] == [b"thief"] * servers.quorum
        if by == "lease":
            assert lease.state is LeaseState.LOST

    @by_lease_or_token
    async def test_readers_on_a_quorum_are_not_held_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put_readers(key, servers.majority)
        assert await api.unlock(resource, handle(lease, by)) == Err("not_held")
        await everywhere(lambda: servers.values(key)[servers.quorum :], None)
        assert servers.values(key)[: servers.quorum] == ["zset"] * servers.quorum

    @by_lease_or_token
    async def test_foreign_token_on_a_minority_is_released_and_untouched(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        servers.put(key, b"thief", servers.minority)
        assert await api.unlock(resource, handle(lease, by)) == Ok(None)
        await everywhere(lambda: servers.values(key)[len(servers.minority) :], None)
        assert servers.values(key)[: len(servers.minority)] == [b"thief"] * len(servers.minority)

    @by_lease_or_token
    async def test_token_that_only_begins_alike_is_foreign(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
    ) -> None:
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        longer = lease.token.encode() + b"0"
        servers.put(key, longer, servers.everyone)
        assert await api.unlock(resource, handle(lease, by)) == Err("not_held")
        assert servers.values(key) == [longer] * servers.size

    async def test_releases_at_once_are_one_release(self, api: Api, servers: ServerGroup, resource: str) -> None:
        lease = await api.held(resource)
        results = await asyncio.gather(*(api.run(lease.release) for _ in range(8)), return_exceptions=True)
        assert None in results
        assert all(result is None or type(result) is NotHeld for result in results)
        with pytest.raises(NotHeld):
            await api.run(lease.release)
        await everywhere(lambda: servers.keys(resource), set())


class TestHeldOn:
    async def test_lock_on_all_servers_names_them_all(self, api: Api, servers: ServerGroup, resource: str) -> None:
        lease = await api.held(resource)
        assert isinstance(lease.held_on, frozenset)
        assert len(lease.held_on) >= servers.quorum
        await eventually(lambda: lease.held_on == frozenset(servers.names))

    @native_or_script
    async def test_late_grant_is_added(self, api: Api, servers: ServerGroup, resource: str) -> None:
        with servers.paused(servers.minority):
            lease = await api.held(resource)
            assert lease.held_on == {servers.names[index] for index in servers.rest}
        await eventually(lambda: lease.held_on == frozenset(servers.names))
