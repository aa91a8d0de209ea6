"""Many locks at once: all or none, in any order and over any groups; what becomes of a group of leases."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any, Final

import pytest

from redlock_cluster import (
    ClosedError,
    Contended,
    Err,
    LeaseLost,
    LeaseState,
    LossReason,
    NotHeld,
    Ok,
    QuorumUnavailable,
    WaitCancelled,
    WouldDeadlock,
)
from redlock_cluster.handles.bodies import inside_none

from .adapter import Api, eventually, everywhere, passes, within
from .conftest import Make
from .servers import OPTIONS, PREFIX, UNGUARDED, ServerGroup

two_kinds = pytest.mark.parametrize("servers", ["valkey-9", "model-valkey-9"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
in_asyncio = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
in_sync = pytest.mark.parametrize("face", ["sync"], indirect=True)

# A ttl of 10 s of which this client believes 0.1 s.
SHORT_LIVED: Final[dict[str, Any]] = {"ttl": "10s", "drift_factor": 0.99}
TTL: Final = 1.5  # a busy machine may stand still for a while


def groups(servers: ServerGroup, **more: object) -> dict[str, object]:
    """Options by which each server is a group of its own."""
    ports = [server.port for server in servers.embedded]
    cluster = [{"name": f"g{port}", "servers": [{"host": "127.0.0.1", "port": port}]} for port in ports]
    return {"cluster": cluster, **OPTIONS, **UNGUARDED, **more}


def three(resource: str) -> list[str]:
    return [f"{resource}-{part}" for part in "zma"]


def sixty(resource: str) -> list[str]:
    """So many that each of three groups has several."""
    return [f"{resource}-{number}" for number in range(60)]


def key_of(resource: str) -> bytes:
    return PREFIX + resource.encode()


class TestTaken:
    @two_kinds
    @pytest.mark.parametrize("grouped", [False, True])
    async def test_all_are_held_in_the_order_named_and_released_together(
        self, make: Make, servers: ServerGroup, resource: str, grouped: bool
    ) -> None:
        options = groups(servers) if grouped else servers.options()
        api, other = await make(options), await make(options)
        names = [f"{resource}-{number}" for number in (3, 1, 2, 5, 4)]
        handle = await api.many(names, 30)
        assert (handle.lease, handle.locked()) == (None, False)
        async with api.entered(handle) as group:
            assert group is handle.lease
            assert group.resources == tuple(lease.resource for lease in group.leases) == tuple(names)
            assert (group.valid, group.state, handle.locked()) == (True, LeaseState.HELD, True)
            assert 0 < group.remaining == pytest.approx(min(lease.remaining for lease in group.leases), abs=1)
            assert (bool(group.lost), bool(group.doubtful)) == (False, False)
            group.raise_if_lost()
            assert await api.leases() == list(group.leases)
            for name in names:
                assert await other.lock(name, wait=0) == Err("lock_failure")
            assert names[0] in repr(group)
        assert (group.state, group.valid, handle.locked()) == (LeaseState.RELEASED, False, False)
        await everywhere(lambda: servers.keys(resource), set())
        with pytest.raises(NotHeld, match="released before"):
            await api.run(group.release)

    @two_kinds
    async def test_none_are_held_when_one_is_somebodys(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api, names = await make(), three(resource)
        servers.put(key_of(names[1]), b"somebody", servers.everyone)
        handle = await api.many(names, 30, wait=0)
        with pytest.raises(Contended, match=names[1]):
            async with api.entered(handle):
                pass
        assert await api.run(handle.acquire) is False
        assert await api.run(handle.acquire, False) is False
        assert await api.run(handle.acquire, True, 0.05) is False
        assert (handle.lease, handle.locked()) == (None, False)
        await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        servers.delete(key_of(names[1]))
        assert await api.run(handle.acquire) is True
        await api.run(handle.extend, 60)
        assert 30 < handle.lease.remaining < 60
        await api.run(handle.release)
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    async def test_who_waits_holds_what_comes_before_and_no_more(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, other, (last, middle, first) = await make(ttl=TTL * 1000), await make(), three(resource)
        held = await other.held(middle)
        handle = await api.many([last, middle, first], None, wait=None)
        entering = asyncio.ensure_future(api.run(handle.acquire))
        await api.waits()
        await passes(2 * TTL)
        assert await other.lock(first, wait=0) == Err("lock_failure"), "it is extended meanwhile"
        assert await other.unlock(last, await other.held(last, wait=0)) == Ok(None)
        await other.unlock(middle, held)
        assert await within(5, entering) is True
        assert handle.lease.valid
        await api.run(handle.release)
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    async def test_callers_that_name_them_in_other_orders_all_get_them(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Over several groups, without a deadlock, and nobody gets one that another has."""
        apis = [await make(groups(servers)) for _ in range(3)]
        names, inside = [f"{resource}-{number}" for number in range(4)], set[str]()

        async def use(api: Api, seed: int) -> int:
            chance, times = random.Random(seed), 0
            for _ in range(6):
                wanted = chance.sample(names, chance.randint(2, 4))
                async with api.entered(await api.many(wanted, 30, wait=None), apart=True):
                    assert not inside & set(wanted)
                    inside.update(wanted)
                    await asyncio.sleep(0.001)
                    inside.difference_update(wanted)
                    times += 1
            return times

        done = await within(40, asyncio.gather(*(use(api, seed) for seed, api in enumerate([*apis, *apis]))))
        assert done == [6] * 6
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    async def test_it_stands_in_line_with_those_who_want_one(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, first, second = await make(), await make(), await make()
        names, order = three(resource), list[str]()
        held = await holder.held(names[2])

        async def many() -> None:
            async with first.entered(await first.many(names, 30, wait=None)):
                order.append("many")

        async def one() -> None:
            async with second.entered(await second.mutex(names[2], 30, wait=None)):
                order.append("one")

        waiting = [asyncio.ensure_future(many())]
        await first.waits()
        await passes(0.1)
        waiting.append(asyncio.ensure_future(one()))
        await second.waits()
        await holder.unlock(names[2], held)
        await within(10, asyncio.gather(*waiting))
        assert order == ["many", "one"]

    @two_kinds
    async def test_misuse_is_refused_before_anything_is_sent(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        for one in (resource, resource.encode()):
            with pytest.raises(TypeError, match="takes a list of resources"):
                await api.many(one)
        for resources, error in (([], ValueError), ([resource, resource.encode()], ValueError), ([""], ValueError)):
            with pytest.raises(error):
                await api.run((await api.many(resources, 30)).acquire)
        with pytest.raises(TypeError):
            await api.run((await api.many([resource, 5], 30)).acquire)
        handle = await api.many([resource, "b"], 30)
        for call in (handle.release, handle.extend):
            with pytest.raises(NotHeld, match=f"{resource}, b"):
                await api.run(call)
        async with api.entered(handle):
            with pytest.raises(RuntimeError, match="one handle for each use"):
                await api.run(handle.acquire)
        await everywhere(lambda: servers.keys(resource), set())


class TestKept:
    @two_kinds
    async def test_without_a_ttl_all_are_extended_until_the_body_ends(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, other, names = await make(ttl=TTL * 1000), await make(), three(resource)
        async with api.entered(await api.many(names, None)) as group:
            await passes(2 * TTL)
            assert (group.valid, group.state) == (True, LeaseState.HELD)
            for name in names:
                assert await other.lock(name, wait=0) == Err("lock_failure")
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    async def test_group_that_nobody_refers_to_is_released_with_a_warning(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names = await make(), three(resource)
        handle = await api.many(names, None, on_lost=lambda *_: None)
        assert await api.run(handle.acquire)
        with pytest.warns(ResourceWarning, match="dropped without being released"):
            del handle
            gc.collect()
            await everywhere(lambda: servers.keys(resource), set())
        assert await api.leases() == []

    @two_kinds
    async def test_close_releases_what_extends_itself(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api, names = await make(), three(resource)
        handle = await api.many(names, None)
        assert await api.run(handle.acquire)
        await api.close()
        assert not handle.lease.valid
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    @pytest.mark.parametrize("fair", [True, False])
    async def test_close_ends_a_wait_and_gives_back_what_it_held(
        self, make: Make, servers: ServerGroup, resource: str, fair: bool
    ) -> None:
        api, names = await make(fair=fair), three(resource)
        servers.put(key_of(names[1]), b"somebody", servers.everyone)
        entering = asyncio.ensure_future(api.run((await api.many(names, 30, wait=None)).acquire))
        await api.waits()
        await api.close()
        with pytest.raises(ClosedError):
            await entering
        await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        servers.delete(key_of(names[1]))

    @two_kinds
    async def test_one_may_be_given_back_early(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api, names = await make(), three(resource)
        async with api.entered(await api.many(names, None)) as group:
            await api.run(group.leases[1].release)
            assert (group.valid, group.state, bool(group.lost)) == (False, LeaseState.HELD, False)
            assert await api.event(group.lost) is False
            assert await api.lock(names[1], wait=0)
        assert group.state is LeaseState.RELEASED
        await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        servers.delete(key_of(names[1]))


class TestLost:
    @two_kinds
    async def test_loss_of_one_is_told_once_and_the_others_are_held_until_the_body_ends(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, other, names, calls = await make(), await make(), three(resource), []
        handle = await api.many(names, None, on_lost=lambda *told: calls.append(told), **NOT_CANCELLED[api.face])
        with pytest.raises(LeaseLost, match=names[1]) as caught:
            async with api.entered(handle) as group:
                servers.put(key_of(names[1]), b"thief", servers.everyone)
                assert await api.event(group.lost) is True
                assert (bool(group.lost), bool(group.doubtful), group.valid) == (True, True, False)
                assert (group.state, group.remaining) == (LeaseState.LOST, 0)
                with pytest.raises(LeaseLost, match=names[1]):
                    group.raise_if_lost()
                servers.put(key_of(names[2]), b"thief", servers.everyone)
                await eventually(lambda: group.leases[2].lost)
                assert await other.lock(names[0], wait=0) == Err("lock_failure")
                await eventually(lambda: calls)
        assert caught.value.reason is LossReason.GONE
        assert [note for note in caught.value.__notes__ if names[2] in note]
        assert calls == [(group, LossReason.GONE)]
        await everywhere(lambda: servers.keys(resource), {key_of(names[1]), key_of(names[2])})
        servers.delete(key_of(names[1]))
        servers.delete(key_of(names[2]))

    @two_kinds
    @in_asyncio
    async def test_body_is_cancelled_once_though_two_are_lost(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names, told = await make(), three(resource), []
        with pytest.raises(LeaseLost):
            async with api.supervisor.mutex_many(names):
                for name in names:
                    servers.put(key_of(name), b"thief", servers.everyone)
                try:
                    await passes(8)
                except asyncio.CancelledError:
                    told.append(True)
                    await passes(0.5)  # meanwhile the others are lost, too
                    raise
        assert told == [True]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        for name in names:
            servers.delete(key_of(name))

    @two_kinds
    @in_asyncio
    async def test_others_are_given_back_when_the_body_is_cancelled_for_the_loss_of_one(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names = await make(), three(resource)
        handle = api.supervisor.mutex_many(names)
        with pytest.raises(LeaseLost, match=names[1]):
            async with handle:
                servers.put(key_of(names[1]), b"thief", servers.everyone)
                await passes(8)
        await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        assert handle.lease is not None  # whoever keeps the handle keeps no lock
        assert [lease.state for lease in handle.lease.leases] == [
            LeaseState.RELEASED,
            LeaseState.LOST,
            LeaseState.RELEASED,
        ]
        servers.delete(key_of(names[1]))

    @one_version
    async def test_doubt_about_one_is_told(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(groups(servers, ttl=3000, server_timeout=80))
        names = sixty(resource)
        handle = await api.many(names, None)
        assert await api.run(handle.acquire)
        with servers.paused([0]):
            assert await api.event(handle.lease.doubtful) is True
            assert (handle.lease.state, handle.lease.valid, bool(handle.lease.lost)) == (
                LeaseState.UNKNOWN,
                True,
                False,
            )
        await eventually(lambda: not handle.lease.doubtful)
        assert handle.lease.state is LeaseState.HELD
        await api.run(handle.release)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_release_that_one_group_does_not_answer_is_reported_and_the_others_are_released(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(groups(servers, server_timeout=80))
        names = sixty(resource)
        handle = await api.many(names, 30)
        assert await api.run(handle.acquire)
        with servers.paused([0]):
            with pytest.raises(QuorumUnavailable, match="is unknown") as caught:
                await api.run(handle.release)
            assert handle.lease.state is LeaseState.UNKNOWN
            assert servers.clients[1].keys(f"*{resource}*") == servers.clients[2].keys(f"*{resource}*") == []
        assert len(caught.value.__notes__) > 1 and all("is unknown" in note for note in caught.value.__notes__)
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    async def test_lease_that_is_not_extended_tells_its_end(self, make: Make, resource: str) -> None:
        api, calls = await make(**SHORT_LIVED), []
        handle = await api.many(three(resource), 10, on_lost=lambda *told: calls.append(told))
        assert await api.run(handle.acquire)
        group = handle.lease
        assert await api.event(group.lost) is True
        await eventually(lambda: calls == [(group, LossReason.EXPIRED)])


NOT_CANCELLED: Final[dict[str, dict[str, Any]]] = {"asyncio": {"cancel_on_loss": False}, "sync": {}}


class TestWithinOthers:
    """In bodies of the same task or thread."""

    @in_sync
    @two_kinds
    async def test_it_is_refused_where_it_would_wait_for_its_own_thread(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names = await make(), three(resource)
        redlock = api.supervisor

        def nest() -> str:
            with redlock.mutex(names[1]), pytest.raises(WouldDeadlock, match="leave it out here") as caught:
                redlock.mutex_many(names, wait=None).__enter__()
            with redlock.mutex_many(names) as group:
                for inner in (redlock.mutex(names[2], wait=None), redlock.mutex_many([names[2], "other"], wait=None)):
                    with pytest.raises(WouldDeadlock, match=names[2]):
                        inner.__enter__()
                with redlock.mutex(names[2], reentrant=True) as lease:
                    assert lease is group.leases[2]
                assert group.valid
                group.leases[0].release()
                with redlock.mutex(names[0], wait=0) as again:
                    assert again.valid
            assert inside_none()
            return caught.value.resource

        assert await api.run(nest) == names[1]
        await everywhere(lambda: servers.keys(resource), set())

    @in_asyncio
    @two_kinds
    async def test_it_is_refused_where_it_would_wait_for_its_own_task(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        redlock, names = (await make()).supervisor, three(resource)
        async with redlock.mutex(names[1]):
            with pytest.raises(WouldDeadlock, match="leave it out here"):
                await redlock.mutex_many(names, wait=None).__aenter__()
        async with redlock.mutex_many(names) as group:
            for inner in (redlock.mutex(names[2], wait=None), redlock.mutex_many([names[2], "other"], wait=None)):
                with pytest.raises(WouldDeadlock, match=names[2]):
                    await inner.__aenter__()
            async with redlock.mutex(names[2], reentrant=True) as lease:
                assert lease is group.leases[2]
            assert group.valid
        assert inside_none()
        async with redlock.mutex_many(names) as group:
            assert group.valid
        await everywhere(lambda: servers.keys(resource), set())


class TestGivenUp:
    @two_kinds
    @in_asyncio
    async def test_cancelled_at_any_turn_leaves_nothing(self, api: Api, servers: ServerGroup, resource: str) -> None:
        for turns in range(40):
            names = [f"{resource}-{turns}-{part}" for part in "cab"]
            handle = await api.many(names, 30, wait=0)
            attempt = asyncio.ensure_future(handle.acquire())
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            attempt.cancel()
            try:
                assert await attempt is True
            except asyncio.CancelledError:
                assert not handle.locked()
                continue
            await handle.release()
        await everywhere(lambda: servers.keys(resource), set())

    @two_kinds
    @in_asyncio
    async def test_cancelled_while_it_waits_leaves_nothing(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names = await make(ttl=600), three(resource)
        servers.put(key_of(names[1]), b"somebody", servers.everyone)
        for after in (0.0, 0.1, 0.25, 0.5):
            waiting = asyncio.ensure_future((await api.many(names, None, wait=None)).acquire())
            await api.waits()
            await passes(after)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        servers.delete(key_of(names[1]))

    @two_kinds
    async def test_wait_is_ended_by_its_cancel_id_or_by_what_it_waits_for(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, names = await make(), three(resource)
        servers.put(key_of(names[1]), b"somebody", servers.everyone)
        for args, named in (((), {"cancel_id": "mine"}), ((names[1],), {})):
            handle = await api.many(names, 30, wait=None, cancel_id="mine")
            waiting = asyncio.ensure_future(api.run(handle.acquire))
            await api.waits()
            assert await api.cancel_waiting(*args, **named) == 1
            with pytest.raises(WaitCancelled):
                await waiting
            await everywhere(lambda: servers.keys(resource), {key_of(names[1])})
        servers.delete(key_of(names[1]))


@two_kinds
@in_asyncio
async def test_transaction_of_others_goes_between(make: Make, servers: ServerGroup, resource: str) -> None:
    """Who waits for many does not keep those out who want what it does not hold yet."""
    api, other, (last, middle, first) = await make(), await make(), three(resource)
    held = await other.held(middle)
    waiting = asyncio.ensure_future((await api.many([first, middle, last], 30, wait=None)).acquire())
    await api.waits()
    assert await other.transaction(last, 10, lambda: 5, wait=1) == 5
    assert await other.unlock(middle, held) == Ok(None)
    assert await within(5, waiting) is True
