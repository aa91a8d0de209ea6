"""Arguments that can't be: an exception, and not one byte to a server."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy
import pytest

from redlock_cluster import Err, LeaseState, Ok

from .adapter import Api, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import PREFIX, UNGUARDED, ServerGroup

pytestmark = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)

TTLS: Final[list[Any]] = [
    *(0, 0.0, -0.0, -1, -0.5, math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400)),
    *(0.0005, 0.0009, 0.002, 5e-324, timedelta(0), timedelta(seconds=-5), timedelta(microseconds=10), timedelta.max),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Fraction(10**400), Fraction(-1, 2), numpy.float32("nan")),
]
NUMBERS: Final[list[Any]] = [
    *(Decimal("1.5"), Fraction(3, 2), numpy.int64(2), numpy.uint8(2), numpy.float32(1.5), numpy.float64(1.5)),
]
"""Durations of other types than float and int."""
NO_TTLS: Final[list[Any]] = [
    True,
    False,
    "10",
    b"10",
    [10],
    1j,
    ...,
    numpy.bool_(True),
    numpy.timedelta64(5, "s"),
]
NO_RESOURCES: Final[list[Any]] = [None, 5, 1.5, True, ["a"], ("a",), ..., {"a": 1}]


def short(value: object) -> str:
    return repr(value)[:24]


async def refuse(api: Api, record: Any, kinds: Any, resource: Any, ttl: Any, **named: Any) -> None:
    """Every way to acquire refuses these arguments."""
    called = []
    with pytest.raises(kinds):
        await api.lock(resource, ttl, **named)
    with pytest.raises(kinds):
        await api.transaction(resource, ttl, lambda: called.append(1), **named)
    with pytest.raises(kinds):
        mutex = await api.mutex(resource, ttl, **named)
        await api.run(mutex.acquire)
    assert called == []


def nothing_sent(record: Any) -> bool:
    return not [c for c in record.commands if PREFIX in b" ".join(c.words)]


@pytest.mark.parametrize("ttl", TTLS, ids=short)
async def test_ttl_out_of_range_is_a_value_error_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: str, ttl: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, ValueError, resource, ttl)
    assert nothing_sent(record)


@pytest.mark.parametrize("ttl", NO_TTLS, ids=short)
async def test_ttl_of_another_type_is_refused_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: str, ttl: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, (TypeError, ValueError), resource, ttl)
    assert nothing_sent(record)


@pytest.mark.parametrize("ttl", [*TTLS, *NO_TTLS], ids=short)
async def test_extension_by_such_a_ttl_is_refused_and_the_lease_untouched(
    api: Api, servers: ServerGroup, resource: str, key: bytes, ttl: Any
) -> None:
    lease = await api.held(resource, 30)
    mutex = await api.mutex(resource + "-2", 30)
    await api.run(mutex.acquire)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    with recorded(servers) as record:
        for by in (lease, lease.token):
            with pytest.raises((TypeError, ValueError)):
                await api.extend(resource, by, ttl)
        for method in (lease.extend, mutex.extend):
            with pytest.raises((TypeError, ValueError)):
                await api.run(method, ttl)
    assert nothing_sent(record)
    assert lease.state is LeaseState.HELD
    assert (lease.ttl, lease.valid) == (30.0, True)
    assert 20 < lease.remaining < 30
    assert await api.unlock(resource, lease) == Ok(None)


async def test_extension_without_a_ttl_is_a_type_error_by_function(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    with pytest.raises((TypeError, ValueError)):
        await api.extend(resource, lease, None)
    assert lease.valid


@pytest.mark.parametrize(
    "ttl", [0.05, 0.2, 1, 10**6, timedelta(milliseconds=500), timedelta(days=30), *NUMBERS], ids=short
)
async def test_ttl_in_range_is_taken(make: Make, resource: str, ttl: Any) -> None:
    api = await make(max_ttl="60000m", **UNGUARDED)
    lease = await api.held(resource, ttl)
    assert lease.ttl == (ttl.total_seconds() if isinstance(ttl, timedelta) else ttl)


NO_KEEPING: Final[list[tuple[Any, dict[str, Any], type[Exception]]]] = [
    (None, {"auto_extend": 1}, TypeError),
    (None, {"auto_extend": "yes"}, TypeError),
    (10, {"max_hold": 60}, ValueError),
    (None, {"auto_extend": False, "max_hold": 60}, ValueError),
    (None, {"max_hold": 0}, ValueError),
    (None, {"max_hold": -1}, ValueError),
    (None, {"max_hold": "60"}, TypeError),
    (10, {"auto_extend": True, "max_hold": math.nan}, ValueError),
    (0, {"auto_extend": True}, ValueError),
]


@pytest.mark.parametrize(("ttl", "named", "kind"), NO_KEEPING, ids=short)
async def test_keeping_that_can_not_be_is_refused_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: str, ttl: Any, named: dict[str, Any], kind: type[Exception]
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, kind, resource, ttl, **named)
    assert nothing_sent(record)


async def coroutine_function(*_: object) -> None: ...


@pytest.mark.parametrize("on_lost", [5, "print", coroutine_function], ids=short)
async def test_on_lost_that_can_not_be_called_is_a_type_error(
    api: Api, servers: ServerGroup, resource: str, on_lost: Any
) -> None:
    with recorded(servers) as record:
        for call in (api.lock, api.mutex):
            with pytest.raises(TypeError, match="on_lost is a plain function"):
                await call(resource, 10, on_lost=on_lost)
    assert nothing_sent(record)


@pytest.mark.parametrize(("factor", "ttl", "more"), [(0.5, 0.004, 4), (0.9, 0.02, 40)])
async def test_ttl_that_drift_eats_up_is_a_value_error(
    make: Make, servers: ServerGroup, resource: str, factor: float, ttl: float, more: float
) -> None:
    api = await make(drift_factor=factor)
    with recorded(servers) as record:
        await refuse(api, record, ValueError, resource, ttl)
    assert nothing_sent(record)
    lease = await api.held(resource, more)
    assert 0 < lease.remaining < more * (1 - factor)


@pytest.mark.parametrize(
    "wait", [-1, -0.001, math.nan, -math.inf, timedelta(seconds=-1), -(10**400), Decimal(-1)], ids=short
)
async def test_wait_out_of_range_is_a_value_error_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: str, wait: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, ValueError, resource, 30, wait=wait)
    assert nothing_sent(record)


@pytest.mark.parametrize("wait", [True, False, "5", "retry", b"0", [1], 1j, numpy.bool_(True)], ids=short)
async def test_wait_of_another_type_is_refused_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: str, wait: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, (TypeError, ValueError), resource, 30, wait=wait)
    assert nothing_sent(record)


@pytest.mark.parametrize("wait", [0, 0.0, 0.5, 3, timedelta(0), timedelta(seconds=2), None, 1e6, *NUMBERS], ids=short)
async def test_wait_in_range_is_taken(api: Api, resource: str, wait: Any) -> None:
    assert await api.lock(resource, 30, wait=wait)


@pytest.mark.parametrize("resource", ["", b"", "x" * 65_537, b"x" * 65_537, "ü" * 32_769], ids=lambda r: ascii(r)[:20])
async def test_resource_that_cannot_be_a_key_is_a_value_error_and_sends_nothing(
    api: Api, servers: ServerGroup, resource: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, ValueError, resource, 30)
        for call in (
            lambda: api.unlock(resource, "t"),
            lambda: api.extend(resource, "t", 5),
            lambda: api.is_locked(resource),
            lambda: api.group_for(resource),
        ):
            with pytest.raises(ValueError, match=r"."):
                await call()
    assert nothing_sent(record)


@pytest.mark.parametrize("wrong", NO_RESOURCES, ids=short)
async def test_resource_of_another_type_is_a_type_error_and_sends_nothing(
    api: Api, servers: ServerGroup, wrong: Any
) -> None:
    with recorded(servers) as record:
        await refuse(api, record, TypeError, wrong, 30)
        for call in (
            lambda: api.unlock(wrong, "t"),
            lambda: api.extend(wrong, "t", 5),
            lambda: api.is_locked(wrong),
            lambda: api.group_for(wrong),
        ):
            with pytest.raises(TypeError):
                await call()
    assert nothing_sent(record)


@pytest.mark.parametrize(
    "tail",
    [
        *(b"\xff\xfe", b"\x00", b"a\r\nSET x y\r\n", b"\x80abc", "é".encode("latin-1"), bytes(range(256))),
        *("ü🎲\u2028", " ", "*?[a]", "{a}b", "\\", "\x7f\x1b[0m", "a" * 65_000, "%s {0}"),
    ],
    ids=lambda tail: ascii(tail)[:20],
)
async def test_any_other_resource_can_be_locked(
    api: Api, servers: ServerGroup, resource: str, tail: str | bytes
) -> None:
    name: Any = resource + tail if isinstance(tail, str) else resource.encode() + tail
    key = PREFIX + (name.encode() if isinstance(name, str) else name)
    lease = await api.held(name)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    assert isinstance(lease.resource, str)
    assert lease.resource.encode("utf-8", "surrogateescape") == key.removeprefix(PREFIX)
    assert await api.lock(name, 30, wait=0) == Err("lock_failure")
    assert await api.is_locked(name)
    assert await api.extend(name, lease, 20)
    assert await api.extend(lease.resource, lease.token, 20)
    assert await api.unlock(lease.resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(key), None)


@pytest.mark.parametrize("tail", ["\ud800", "a\udfffb", "\udcff\ud800", "\ud83d\ude00"], ids=ascii)
async def test_text_with_lone_surrogates_is_locked_under_its_own_name(api: Api, resource: str, tail: str) -> None:
    lease = await api.held(resource + tail)
    assert await api.lock(resource + tail, 30, wait=0) == Err("lock_failure")
    assert await api.lock(resource, 30, wait=0)
    assert await api.lock(resource + "\ud801", 30, wait=0)
    assert await api.unlock(lease.resource, lease) == Ok(None)


async def test_longest_resource_can_be_locked(api: Api, servers: ServerGroup, resource: str) -> None:
    longest = resource.ljust(65_536, "x")
    lease = await api.held(longest)
    await everywhere(lambda: servers.values(PREFIX + longest.encode()), lease.token.encode())
    assert await api.unlock(longest, lease) == Ok(None)


async def test_text_and_its_bytes_are_one_resource(api: Api, resource: str) -> None:
    name = resource + "ü"
    lease = await api.held(name)
    assert await api.lock(name.encode(), 30, wait=0) == Err("lock_failure")
    assert await api.is_locked(name.encode())
    assert await api.group_for(name) == await api.group_for(name.encode())
    assert await api.unlock(name.encode(), lease) == Ok(None)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_other_buffers_are_a_type_error(api: Api, resource: str, kind: Any) -> None:
    with pytest.raises(TypeError):
        await api.lock(kind(resource.encode()))
