"""Somebody else is there: who wins, what is told, and that nothing of the loser stays."""

from __future__ import annotations

from typing import Any, Final

import pytest

from redlock_cluster import Contended, Err, Ok, QuorumUnavailable, RedlockError, Vote

from .adapter import Api, eventually, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
holder_is_told_or_not = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)

# Values that a careless reading of replies takes for "granted" or for "nobody".
MISLEADING: Final = [b"", b"OK", b"+OK", b"None", b"0", b"1", b"nil", b"-1", b"\xff\x00\r\n\xfe", b"x" * 200_000]


async def test_second_lock_is_refused_and_the_first_untouched(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource, 30)
    assert await api.lock(resource, 3000, wait=0) == Err("lock_failure")
    await everywhere(lambda: servers.values(key), lease.token.encode())
    assert all(0 < ttl <= 30_000 for ttl in servers.ttls_ms(key))
    assert lease.valid
    assert await api.unlock(resource, lease) == Ok(None)


async def test_value_of_a_refusal_is_its_error(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    lease = (await api.lock(resource, 30)).value
    refusal = await other.lock(resource, 30, wait=0)
    with pytest.raises(Contended) as caught:
        _ = refusal.value
    assert caught.value is refusal.error
    with pytest.raises(RedlockError, match="not_held"):
        _ = Err("not_held").value
    assert await api.unlock(resource, lease) == Ok(None)


async def test_lock_of_another_supervisor_refuses(make: Make, resource: str) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource)
    assert await two.lock(resource, wait=0) == Err("lock_failure")
    await one.unlock(resource, lease)
    assert await two.lock(resource, wait=0)


async def test_lock_released_is_free_at_once(api: Api, resource: str) -> None:
    tokens = set()
    for _ in range(10):
        lease = await api.held(resource, wait=0)
        tokens.add(lease.token)
        assert await api.unlock(resource, lease) == Ok(None)
    assert len(tokens) == 10


@holder_is_told_or_not
@pytest.mark.parametrize("value", MISLEADING, ids=lambda value: repr(value[:12]))
async def test_any_value_at_the_key_of_a_quorum_refuses(
    api: Api, servers: ServerGroup, resource: str, key: bytes, value: bytes
) -> None:
    servers.put(key, value, servers.majority)
    refusal = await api.refused(resource, 30, wait=0)
    assert refusal == Err("lock_failure")
    assert type(refusal.error) is Contended
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)
    assert servers.values(key)[: servers.quorum] == [value] * servers.quorum


async def test_foreign_lock_without_a_ttl_refuses_and_stays(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put(key, b"for ever", servers.everyone, px=None)
    assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
    assert servers.ttls_ms(key) == [-1] * servers.size


async def test_split_votes_refuse_and_nothing_of_ours_stays(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index])
    refusal = await api.refused(resource, 30, wait=0)
    assert refusal == Err("lock_failure")
    assert type(refusal.error) is Contended
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)
    assert servers.values(key)[: servers.quorum] == [f"holder {index}".encode() for index in servers.majority]


async def test_votes_of_a_split_name_each_server_that_refused(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index])
    error: Any = (await api.refused(resource, 30, wait=0)).error
    assert [vote.vote for vote in error.votes[: servers.quorum]] == [Vote.AGAINST] * servers.quorum
    assert {vote.vote for vote in error.votes[servers.quorum :]} <= {Vote.FOR, None}


async def test_retries_over_a_split_leave_nothing(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(max_retry=6, retry_interval=3)
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index])
    assert await api.lock(resource, 30) == Err("lock_failure")
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)


async def test_foreign_minority_does_not_prevent_a_lock(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put(key, b"ghost", servers.minority)
    lease = await api.held(resource, 30, wait=0)
    await everywhere(lambda: servers.values(key)[len(servers.minority) :], lease.token.encode())
    assert {servers.names[index] for index in servers.minority}.isdisjoint(lease.held_on)
    assert len(lease.held_on) >= servers.quorum
    assert await api.extend(resource, lease, 20)
    assert await api.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(key)[len(servers.minority) :], None)
    assert servers.values(key)[: len(servers.minority)] == [b"ghost"] * len(servers.minority)
    assert all(30_000 < servers.ttls_ms(key)[index] <= 60_000 for index in servers.minority)


async def test_readers_on_a_quorum_refuse_and_stay(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    servers.put_readers(key, servers.majority)
    refusal = await api.refused(resource, 30, wait=0)
    assert refusal == Err("lock_failure")
    assert type(refusal.error) is Contended
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)
    assert servers.values(key)[: servers.quorum] == ["zset"] * servers.quorum
    assert all(servers.clients[i].zrange(key, 0, -1) == [b"reader"] for i in servers.majority)


async def test_readers_on_a_minority_do_not_prevent_a_lock(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put_readers(key, servers.minority)
    lease = await api.held(resource, 30, wait=0)
    assert await api.extend(resource, lease, 20)
    assert await api.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(key)[len(servers.minority) :], None)
    assert servers.values(key)[: len(servers.minority)] == ["zset"] * len(servers.minority)


@holder_is_told_or_not
@pytest.mark.parametrize("kind", ["list", "hash", "set", "stream"])
async def test_key_of_any_other_type_on_a_quorum_refuses(
    api: Api, servers: ServerGroup, resource: str, key: bytes, kind: str
) -> None:
    for index in servers.majority:
        client = servers.clients[index]
        fill = {
            "list": lambda c=client: c.rpush(key, "x"),
            "hash": lambda c=client: c.hset(key, "f", "x"),
            "set": lambda c=client: c.sadd(key, "x"),
            "stream": lambda c=client: c.xadd(key, {"f": "x"}),
        }
        fill[kind]()
    assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
    assert await api.unlock(resource, "0" * 22) == Err("not_held")
    assert await api.extend(resource, "0" * 22, 5) == Err("not_held")
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)
    assert servers.values(key)[: servers.quorum] == [kind] * servers.quorum
    assert servers.ttls_ms(key)[: servers.quorum] == [-1] * servers.quorum
    servers.delete(key)


async def test_readers_and_strangers_together_refuse(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    servers.put_readers(key, servers.majority[:1])
    servers.put(key, b"stranger", servers.majority[1:])
    assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)
    assert servers.values(key)[: servers.quorum] == ["zset"] + [b"stranger"] * (servers.quorum - 1)


async def test_every_attempt_has_a_fresh_token(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(max_retry=4, retry_interval=3)
    servers.put(key, b"somebody", servers.everyone)
    with recorded(servers) as record:
        assert await api.lock(resource, 30) == Err("lock_failure")
    for index in servers.everyone:
        tokens = [c.attempt[1] for c in record.attempts(key) if c.server == index and c.attempt]
        assert len(tokens) == len(set(tokens)) > 1
    assert len(set(record.tokens(key))) == len(record.tokens(key)) // servers.size


async def test_every_server_is_asked_for_the_same_token(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    servers.put(key, b"somebody", servers.everyone)
    with recorded(servers) as record:
        assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
        await api.run(lambda: None)
    assert len(set(record.tokens(key))) == 1


async def test_lock_won_in_a_retry_is_held_by_its_own_token(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    """A retry that met its own earlier token would refuse itself."""
    api = await make(max_retry=200, retry_interval=5)
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index], px=80)
    lease = await api.held(resource, 30)
    assert servers.values(key).count(lease.token.encode()) >= servers.quorum
    await eventually(lambda: set(servers.values(key)) <= {lease.token.encode(), None})


class TestOutageOrContention:
    """An outage is never told as contention, nor contention as an outage."""

    @holder_is_told_or_not
    @pytest.mark.parametrize(
        ("failing", "taken", "wanted"),
        [
            ((0, 1), (), "unavailable"),
            ((0, 1), (2,), "unavailable"),
            ((1, 2), (0,), "unavailable"),
            ((0, 1, 2), (), "unavailable"),
            ((0,), (1, 2), "lock_failure"),
            ((2,), (0, 1), "lock_failure"),
            ((0,), (1,), "lock_failure"),
            ((2,), (1,), "lock_failure"),
            ((0,), (), None),
        ],
    )
    async def test_errors_and_refusals_are_told_apart(
        self,
        api: Api,
        servers: ServerGroup,
        resource: str,
        key: bytes,
        failing: tuple[int, ...],
        taken: tuple[int, ...],
        wanted: str | None,
    ) -> None:
        servers.put(key, b"somebody", taken)
        with servers.out_of_memory(failing):
            for _ in range(5):
                result: Any = await api.lock(resource, 30, wait=0)
                if wanted is None:
                    assert await api.unlock(resource, result.value) == Ok(None)
                else:
                    assert result == Err(wanted)
                    kind = QuorumUnavailable if wanted == "unavailable" else Contended
                    assert type(result.error) is kind
        untouched = [b"somebody" if index in taken else None for index in servers.everyone]
        await everywhere(lambda: [servers.values(key)], untouched)

    async def test_error_of_a_server_stands_in_its_vote(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        with servers.out_of_memory(servers.everyone):
            refusal = await api.refused(resource, 30, wait=0)
        error: Any = refusal.error
        assert refusal == Err("unavailable")
        absent = [vote for vote in error.votes if vote.vote is Vote.ABSENT]
        assert len(absent) >= servers.quorum
        assert all("OOM" in vote.detail for vote in absent)
        assert "OOM" in str(error)
