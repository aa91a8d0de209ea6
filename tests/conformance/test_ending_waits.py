"""Waits that end without the lock: cancelled, timed out, turned away. Nothing of them stays on any server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from redlock_cluster import AsyncRedlock, Contended, Err, Ok, Redlock, ServerState, TooManyWaiting, WaitCancelled

from .adapter import Api, eventually, everywhere, passes, within
from .conftest import Make
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
asyncio_only = pytest.mark.parametrize("face", ["asyncio"], indirect=True)

CANCELLED: Any = Err("cancelled")


def started(api: Api, resource: str, number: int = 1, **named: Any) -> list[asyncio.Future[Any]]:
    """Calls that wait for ever, if nobody ends their waits."""
    return [asyncio.ensure_future(api.lock(resource, 30, wait=None, **named)) for _ in range(number)]


async def refused(api: Api) -> bool:
    """Whether every server has refused something."""
    (group,) = (await api.status()).clusters[0].groups
    return all(server.state is ServerState.REFUSING for server in group.servers)


class TestCancelWaiting:
    @two_versions
    async def test_by_resource_ends_all_waits_for_it_and_no_other(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for end in (b"", b"-2"):
            servers.put(key + end, b"somebody", servers.everyone)
        calls, others = started(api, resource, 5), started(api, resource + "-2", 2)
        await api.waits(7)
        assert await api.cancel_waiting(resource) == 5
        for result in await within(5, asyncio.gather(*calls)):
            assert result == CANCELLED
            assert type(result.error) is WaitCancelled
            assert (result.error.resource, result.error.elapsed >= 0) == (resource, True)
        assert await api.waiting() == 2
        assert await api.cancel_waiting(resource + "-2") == 2
        await within(5, asyncio.gather(*others))
        await everywhere(lambda: servers.keys(resource), {key, key + b"-2"})

    @two_versions
    async def test_by_id_ends_waits_that_were_begun_with_it(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        lease = await api.held(resource)
        calls = {name: started(api, resource, 3, cancel_id=name) for name in ("one", "two")}
        unnamed = started(api, resource, 3)
        await api.waits(9)
        assert await api.cancel_waiting(cancel_id="nobody's") == 0
        assert await api.cancel_waiting(resource + "-2", cancel_id="one") == 0
        assert await api.cancel_waiting(resource, cancel_id="one") == 3
        assert await api.cancel_waiting(cancel_id="two") == 3
        assert await within(5, asyncio.gather(*calls["one"], *calls["two"])) == [CANCELLED] * 6
        assert await api.waiting() == 3
        await api.unlock(resource, lease)
        for call in unnamed:  # they are not disturbed
            assert await api.unlock(resource, (await within(5, call)).value) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_ends_every_way_of_waiting(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.everyone)
        made = [await api.mutex(resource, 30, wait=None, cancel_id="it") for _ in range(2)]

        async def entered() -> None:
            async with api.entered(made[0]):
                raise AssertionError("inside")

        never = [
            api.transaction(resource, 30, lambda: pytest.fail("called"), wait=60, cancel_id="it"),
            entered(),
            api.run(made[1].acquire, timeout=60),
        ]
        calls = asyncio.gather(*never, return_exceptions=True)
        await api.waits(3)
        assert await api.cancel_waiting(cancel_id="it") == 3
        outcomes: list[Any] = await within(5, calls)
        assert outcomes[0] == CANCELLED
        assert [type(outcome) for outcome in outcomes[1:]] == [WaitCancelled] * 2
        assert [mutex.lease for mutex in made] == [None] * 2
        await everywhere(lambda: servers.keys(resource), {key})

    @one_version
    async def test_ends_the_wait_of_a_call_whose_attempt_is_under_way(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=5000)
        servers.put(key, b"somebody", servers.everyone)
        with servers.paused(servers.everyone):
            (call,) = started(api, resource, cancel_id="it")
            await passes(0.05)  # so long that it has been sent: paused servers can't say it
            assert await api.cancel_waiting(cancel_id="it") == 1
            assert await within(2, call) == CANCELLED
        servers.delete(key)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_ends_a_pause_in_an_outage(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(retry_interval=60_000)
        with servers.out_of_memory(servers.everyone):
            (call,) = started(api, resource, cancel_id="it")

            await eventually(lambda: refused(api))
            assert await api.cancel_waiting(cancel_id="it") == 1
            assert await within(5, call) == CANCELLED

    @one_version
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [((), {}), ((None,), {"cancel_id": None}), ((), {"cancel_id": 5}), ((5,), {}), (("",), {})],
        ids=repr,
    )
    async def test_a_choice_that_is_none_is_refused(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, arguments: Any, named: Any
    ) -> None:
        """A name that is None by mistake would end all waits."""
        servers.put(key, b"somebody", servers.everyone)
        (call,) = started(api, resource)
        await api.waits()
        with pytest.raises((TypeError, ValueError)):
            await api.cancel_waiting(*arguments, **named)
        assert await api.waiting() == 1
        assert await api.cancel_waiting(resource) == 1
        assert await within(5, call) == CANCELLED

    @one_version
    async def test_id_that_is_no_text_is_a_type_error(self, api: Api, servers: ServerGroup, resource: str) -> None:
        with pytest.raises(TypeError):
            await api.lock(resource, 30, cancel_id=5)
        assert servers.keys(resource) == [set()] * servers.size

    @one_version
    async def test_before_the_start_nothing_waits(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(start=False)
        assert await api.cancel_waiting(resource, cancel_id="it") == 0

    @asyncio_only
    @one_version
    async def test_thousands_at_once(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        lease = await api.held(resource)
        kept, calls = started(api, resource), started(api, resource, 5000, cancel_id="them")
        await api.waits(5001)
        assert await api.cancel_waiting(cancel_id="them") == 5000
        assert await within(10, asyncio.gather(*calls)) == [CANCELLED] * 5000
        await api.unlock(resource, lease)
        assert await api.unlock(resource, (await within(5, kept[0])).value) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @asyncio_only
    @one_version
    async def test_of_the_asyncio_default(self, face: str, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.everyone)
        await AsyncRedlock.start(servers.options())
        try:
            call = asyncio.ensure_future(AsyncRedlock.lock(resource, 30, wait=None, cancel_id="it"))
            while not AsyncRedlock.status().clusters[0].groups[0].waiting:
                await asyncio.sleep(0)
            assert AsyncRedlock.cancel_waiting(cancel_id="it") == 1
            assert await call == CANCELLED
        finally:
            await AsyncRedlock.close()

    @asyncio_only
    @one_version
    async def test_of_200_threads(self, face: str, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.everyone)
        api = Api(Redlock)
        api.use_threads(202)
        await api.run(Redlock.start, servers.options())
        try:
            calls = started(api, resource, 200, cancel_id="it")
            await api.waits(200)
            assert await within(10, asyncio.gather(*(api.cancel_waiting(cancel_id="it") for _ in range(2)))) in (
                [200, 0],
                [0, 200],
            )
            assert await within(10, asyncio.gather(*calls)) == [CANCELLED] * 200
        finally:
            await api.close()
            api.end_threads()
        await everywhere(lambda: servers.keys(resource), {key})


class TestCap:
    @two_versions
    async def test_call_beyond_it_is_refused_until_another_wait_ends(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(max_waiting=2)
        servers.put(key, b"somebody", servers.everyone)
        calls = started(api, resource, 2)
        await api.waits(2)
        refusal: Any = await within(5, api.lock(resource, 30, wait=None))
        assert refusal == Err("lock_failure")
        assert type(refusal.error) is TooManyWaiting
        assert "max_waiting" in str(refusal.error)
        mutex = await api.mutex(resource, 30, wait=None)
        assert await within(5, api.run(mutex.acquire)) is False
        with pytest.raises(TooManyWaiting):
            async with api.entered(mutex):
                pass
        assert await api.cancel_waiting(resource) == 2
        await within(5, asyncio.gather(*calls))
        calls = started(api, resource, 2)
        await api.waits(2)
        await api.cancel_waiting(resource)
        await within(5, asyncio.gather(*calls))
        await everywhere(lambda: servers.keys(resource), {key})


class TestNothingStays:
    @two_versions
    @pytest.mark.parametrize("wait", [0.001, 0.01, 0.05], ids=repr)
    async def test_of_waits_whose_time_is_over(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, wait: float
    ) -> None:
        api = await make()
        servers.put(key, b"somebody", servers.everyone)
        calls = [api.lock(resource, 30, wait=wait) for _ in range(10)]
        assert await within(10, asyncio.gather(*calls)) == [Err("lock_failure")] * 10
        await everywhere(lambda: servers.keys(resource), {key})

    @asyncio_only
    @two_versions
    async def test_of_waits_cancelled_at_any_turn(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, waiter = await make(), await make(waiter_ttl="10m")
        for turns in range(40):
            lease = await holder.held(resource)
            (call,) = started(waiter, resource)
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            if turns >= 20:  # in the middle of the hand-over
                await waiter.waits()
                await holder.unlock(resource, lease)
                for _ in range(turns % 20):
                    await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter.unlock(resource, (await call).value)
            await holder.unlock(resource, lease)
            await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_of_waits_ended_in_the_middle_of_a_hand_over(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, waiter = await make(), await make(waiter_ttl="10m")
        for _ in range(20):
            lease = await holder.held(resource, wait=5)
            calls = started(waiter, resource, 3, cancel_id="it")
            await waiter.waits(3)
            await asyncio.gather(holder.unlock(resource, lease), waiter.cancel_waiting(cancel_id="it"))
            for call in calls:
                result = await within(5, call)
                if result != CANCELLED:
                    assert await waiter.unlock(resource, result.value) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_of_a_supervisor_that_is_closed_while_calls_wait(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        servers.put(key, b"somebody", servers.everyone)
        calls = started(api, resource, 5)
        await api.waits(5)
        await api.close()
        outcomes = await within(5, asyncio.gather(*calls, return_exceptions=True))
        assert [type(outcome).__name__ for outcome in outcomes] == ["ClosedError"] * 5
        await everywhere(lambda: servers.keys(resource), {key})


class TestStatus:
    @two_versions
    async def test_says_how_many_wait_and_how_long(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        servers.put(key, b"somebody", servers.everyone)

        async def said() -> tuple[int, float | None]:
            group = (await api.status()).clusters[0].groups[0]
            return group.waiting, group.longest_wait

        assert await said() == (0, None)
        begun = time.monotonic()
        calls = started(api, resource, 3)
        await api.waits(3)
        first: Any = (await said())[1]
        second: Any = (await said())[1]
        assert 0 <= first < second <= time.monotonic() - begun
        await api.cancel_waiting(resource)
        await asyncio.gather(*calls)
        assert await said() == (0, None)

    async def test_says_whether_servers_wake(self, make: Make, servers: ServerGroup) -> None:
        api = await make()
        (group,) = (await api.status()).clusters[0].groups
        assert [(server.queues, server.wakes) for server in group.servers] == [(True, True)] * servers.size
        api = await make({"servers": [{"port": 1}]})
        (group,) = (await api.status()).clusters[0].groups
        assert [(server.queues, server.wakes) for server in group.servers] == [(None, None)]


def test_turned_away_is_contention() -> None:
    assert issubclass(TooManyWaiting, Contended)
    assert not issubclass(WaitCancelled, Contended)
