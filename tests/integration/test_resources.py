"""Resources of any bytes on a real server, through both faces: alone, by token, and in batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redlock_cluster import AsyncSupervisor, Err, Ok, Supervisor
from redlock_cluster.testing import EmbeddedCluster

PREFIX = b"redlock:"
MOST = 65_536
NASTY = (b"\r\n", b"\0", b"*3\r\n", b"$-1\r\n", b"_\r\n", b"{a}", b"{}{", b"\xff\xfe", b"\xed\xa0\x80", b"%s %d", b"@")
LONG = st.builds(
    lambda part, length: (part * MOST)[:length],
    st.binary(min_size=1, max_size=8),
    st.sampled_from([255, 256, 16_383, 16_384, 32_767, 65_535, MOST]),
)
BYTES = st.binary(min_size=1, max_size=64) | st.lists(st.sampled_from(NASTY), min_size=1).map(b"".join) | LONG
TEXT = st.text(st.characters(), min_size=1, max_size=32) | st.sampled_from(
    ["🔒", "\ud800", "a\udc80", "\ud800\udc80", "👩‍👩‍👧", "\x85\u2028", "é", "e\u0301", "{x}", "\\u0000"]
)
RESOURCES = st.lists(BYTES | TEXT, min_size=1, max_size=8)


def in_bytes(resource: str | bytes) -> bytes:
    """What stands behind the prefix: text is UTF-8, where there are surrogates what Python makes of them."""
    if isinstance(resource, bytes):
        return resource
    try:
        return resource.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return resource.encode("utf-8", "surrogatepass")


def distinct(resources: list[str | bytes]) -> list[str | bytes]:
    return list({in_bytes(resource): resource for resource in resources}.values())


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(groups=1, servers=1, options={"server_timeout": 2000, "restart_guard": False}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(cluster: EmbeddedCluster) -> Iterator[redis.Redis]:
    with redis.Redis("127.0.0.1", cluster.servers[0].port) as client:
        yield client


@pytest.fixture(scope="module")
def supervisor(cluster: EmbeddedCluster) -> Iterator[Supervisor]:
    with Supervisor(cluster.options) as redlock:
        yield redlock


@given(resources=RESOURCES)
@example(resources=[*NASTY])
@settings(max_examples=40)
def test_resources_of_any_bytes_are_locked_extended_and_released(
    supervisor: Supervisor, server: redis.Redis, resources: list[str | bytes]
) -> None:
    for resource in distinct(resources):
        key = PREFIX + in_bytes(resource)
        lease = supervisor.lock(resource, 10, wait=0).value  # type: ignore[union-attr]
        assert server.keys() == [key]
        assert server.get(key) == lease.token.encode()
        assert supervisor.is_locked(resource)
        assert supervisor.is_locked(in_bytes(resource))
        assert supervisor.lock(in_bytes(resource), 10, wait=0) == Err("lock_failure")
        assert supervisor.extend(resource, lease, 20) == Ok(lease)
        assert supervisor.extend(lease.resource, lease.token, 30)
        assert supervisor.unlock(in_bytes(lease.resource), lease) == Ok(None)
        second = supervisor.lock(resource, 10, wait=0).value  # type: ignore[union-attr]
        assert supervisor.unlock(resource, second.token + "x") == Err("not_held")
        assert supervisor.unlock(resource, second.token) == Ok(None)
        assert not supervisor.is_locked(resource)
        assert server.keys() == []


@given(resources=RESOURCES)
@example(resources=[*NASTY])
@settings(max_examples=40)
async def test_resources_of_any_bytes_are_locked_extended_and_released_in_batches(
    cluster: EmbeddedCluster, server: redis.Redis, resources: list[str | bytes]
) -> None:
    wanted = distinct(resources)
    keys = {PREFIX + in_bytes(resource) for resource in wanted}
    async with AsyncSupervisor(cluster.options) as redlock:
        leases = [outcome.value for outcome in await redlock.lock_many(wanted, 10)]  # type: ignore[union-attr]
        assert set(server.keys()) == keys
        assert [server.get(PREFIX + in_bytes(r)) for r in wanted] == [lease.token.encode() for lease in leases]
        assert all(await redlock.extend_many(leases, 20))
        for resource, lease in zip(wanted, leases, strict=True):
            if len(in_bytes(resource)) % 2:
                assert await redlock.unlock(resource, lease.token) == Ok(None)
        rest = [lease for lease in leases if not len(in_bytes(lease.resource)) % 2]
        assert all(await redlock.unlock_many(rest))
        assert server.keys() == []


TOO_MUCH = [b"x" * (MOST + 1), "x" * (MOST + 1), "é" * (MOST // 2 + 1), "\udc80" * (MOST + 1), "🔒" * (MOST // 4 + 1)]


wrong_ones = pytest.mark.parametrize("wrong", ["", b"", *TOO_MUCH], ids=lambda wrong: ascii(wrong)[:9])


def told(wrong: str | bytes) -> str:
    return f"at most {MOST} bytes" if wrong else "empty"


def sent(server: redis.Redis) -> object:
    """How often the server was asked for what locks are made of."""
    stats = server.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls") for name in ("set", "get", "delifeq", "evalsha")}


@wrong_ones
async def test_resources_that_can_not_be_are_refused_before_anything_is_sent(
    cluster: EmbeddedCluster, server: redis.Redis, wrong: str | bytes
) -> None:
    async with AsyncSupervisor(cluster.options) as redlock:
        before = sent(server)
        for call in (
            lambda: redlock.lock(wrong, 10),
            lambda: redlock.lock_many(["fine", wrong], 10),
            lambda: redlock.transaction(wrong, 10, lambda: None),
            lambda: redlock.mutex(wrong, 10).acquire(),
            lambda: redlock.unlock(wrong, "token"),
            lambda: redlock.extend(wrong, "token", 10),
            lambda: redlock.is_locked(wrong),
        ):
            with pytest.raises(ValueError, match=told(wrong)) as caught:
                await call()
            assert len(str(caught.value)) < 200
        assert sent(server) == before
    assert server.keys() == []


@wrong_ones
def test_resources_that_can_not_be_are_refused_by_the_synchronous_face_before_anything_is_sent(
    supervisor: Supervisor, server: redis.Redis, wrong: str | bytes
) -> None:
    before = sent(server)
    for call in (
        lambda: supervisor.lock(wrong, 10),
        lambda: supervisor.lock_many([wrong, "fine"], 10),
        lambda: supervisor.transaction(wrong, 10, lambda: None),
        lambda: supervisor.mutex(wrong, 10).acquire(),
        lambda: supervisor.unlock(wrong, "token"),
        lambda: supervisor.extend(wrong, "token", 10),
        lambda: supervisor.is_locked(wrong),
        lambda: supervisor.group_for(wrong),
    ):
        with pytest.raises(ValueError, match=told(wrong)) as caught:
            call()
        assert len(str(caught.value)) < 200
    assert sent(server) == before
    assert server.keys() == []
