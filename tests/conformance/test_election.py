"""Leader election: one leads, others stand by; terms end by a resignation, by their loss, or with the leader."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any, Final

import pytest

from redlock_cluster import (
    ClosedError,
    Contended,
    Err,
    LeaseLost,
    LeaseState,
    LossReason,
    WaitCancelled,
)

from .adapter import Api, eventually, everywhere, passes, within
from .conftest import Make
from .servers import ServerGroup

two_kinds = pytest.mark.parametrize("servers", ["valkey-9", "model-valkey-9"], indirect=True)
in_asyncio = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
in_sync = pytest.mark.parametrize("face", ["sync"], indirect=True)

pytestmark = two_kinds

TTL: Final = 1.5  # a busy machine may stand still for a while


async def resign(api: Api, election: Any) -> None:
    await api.run(election.resign)


async def test_one_leads_and_the_other_takes_over_within_a_second_of_its_resignation(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    api, other = await make(), await make()
    leader, standby = await api.election(resource), await other.election(resource)
    assert (leader.is_leader, leader.term) == (False, None)
    term = await api.run(leader.campaign)
    assert (leader.is_leader, leader.term, term.valid) == (True, term, True)
    assert (bool(term.lost), bool(term.doubtful), term.lease.resource) == (False, False, resource)
    assert 0 < term.remaining < 30
    assert 0 <= term.age < 5
    campaign = asyncio.ensure_future(other.run(standby.campaign))
    await other.waits()
    assert (standby.is_leader, standby.term) == (False, None)
    await resign(api, leader)
    begun = time.monotonic()
    next_term = await within(5, campaign)
    assert time.monotonic() - begun < 1
    assert (leader.is_leader, standby.is_leader, next_term.valid) == (False, True, True)
    assert next_term != term
    assert (term.lease.state, bool(term.lost)) == (LeaseState.RELEASED, False)
    await resign(other, standby)
    await resign(other, standby)  # of a bystander, nothing happens
    await everywhere(lambda: servers.keys(resource), set())


async def test_with_campaigns_and_resigns(api: Api, servers: ServerGroup, resource: str) -> None:
    election = await api.election(resource, 30)
    for _ in range(2):
        async with api.entered(election) as term:
            assert election.is_leader
            assert term.valid
            assert await api.lock(resource, wait=0) == Err("lock_failure")
            with pytest.raises(RuntimeError, match="holds or is acquiring already"):
                await api.run(election.campaign)
        assert not election.is_leader
        assert not term.valid
    async with api.entered(election):
        await resign(api, election)
    await everywhere(lambda: servers.keys(resource), set())


async def test_term_lasts_longer_than_its_ttl(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    async with api.entered(await api.election(resource, TTL)) as term:
        await passes(2 * TTL)
        assert term.valid
        assert await other.lock(resource, wait=0) == Err("lock_failure")


async def test_wait_of_a_campaign_may_be_limited(make: Make, resource: str) -> None:
    api, other = await make(), await make()
    async with api.entered(await api.election(resource)):
        for wait in (0, 0.05):
            with pytest.raises(Contended):
                await other.run((await other.election(resource, wait=wait)).campaign)


async def test_lost_term_is_told_and_the_next_campaign_wins_another(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api, calls = await make(), []
    election = await api.election(resource, on_lost=lambda *told: calls.append(told))
    term = await api.run(election.campaign)
    servers.put(key, b"thief", servers.everyone)
    assert await api.event(term.lost) is True
    assert (bool(term.lost), bool(term.doubtful), term.valid) == (True, True, False)
    assert (election.is_leader, election.term) == (False, None)
    with pytest.raises(LeaseLost):
        term.raise_if_lost()
    await eventually(lambda: calls == [(term, LossReason.GONE)])
    with pytest.raises(LeaseLost):
        await resign(api, election)
    campaign = asyncio.ensure_future(api.run(election.campaign))
    await api.waits()
    servers.delete(key)
    assert (await within(5, campaign)).valid
    await resign(api, election)
    await everywhere(lambda: servers.keys(resource), set())


async def test_max_hold_ends_a_term(make: Make, resource: str) -> None:
    api = await make(ttl=600)
    with pytest.raises(LeaseLost) as caught:
        async with api.entered(await api.election(resource, max_hold=0.2)) as term:
            await within(5, api.event(term.lost))
            await asyncio.sleep(0)
    assert caught.value.reason is LossReason.MAX_HOLD


async def test_resignation_ends_a_campaign(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    """And no other one of the same supervisor."""
    api = await make()
    servers.put(key, b"somebody", servers.everyone)
    elections = [await api.election(resource) for _ in range(2)]
    campaigns = [asyncio.ensure_future(api.run(each.campaign)) for each in elections]
    await api.waits(2)
    await resign(api, elections[0])
    with pytest.raises(WaitCancelled):
        await within(5, campaigns[0])
    assert await api.waiting() == 1
    servers.delete(key)
    assert (await within(5, campaigns[1])).valid
    await resign(api, elections[1])
    await everywhere(lambda: servers.keys(resource), set())


async def test_resignation_ends_a_campaign_that_waits_for_the_start(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(start=False)
    servers.put(key, b"somebody", servers.everyone)
    election = await api.election(resource)
    with servers.paused(servers.everyone):  # so it goes on for a while
        campaign = asyncio.ensure_future(api.run(election.campaign))
        await eventually(lambda: election._mutex._acquiring)
        await resign(api, election)
    with pytest.raises(WaitCancelled, match="was ended"):
        await within(8, campaign)
    servers.delete(key)
    assert (await api.run(election.campaign)).valid
    await resign(api, election)


async def test_close_ends_a_campaign_and_a_term(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make()
    election = await api.election(resource)
    term = await api.run(election.campaign)
    campaign = asyncio.ensure_future(api.run((await api.election(resource)).campaign))
    await api.waits()
    await api.close()
    with pytest.raises(ClosedError):
        await campaign
    assert not term.valid
    await everywhere(lambda: servers.keys(resource), set())


async def test_election_that_is_dropped_resigns_with_a_warning(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make()
    election = await api.election(resource, on_lost=lambda *_: None)
    await api.run(election.campaign)
    with pytest.warns(ResourceWarning, match="dropped without being released"):
        del election
        gc.collect()
        await everywhere(lambda: servers.keys(resource), set())


async def test_misuse_is_refused(api: Api, resource: str) -> None:
    async def hear(term: Any, reason: Any) -> None: ...

    for on_lost in (hear, 5):
        with pytest.raises(TypeError, match="on_lost is a plain function"):
            await api.election(resource, on_lost=on_lost)
    with pytest.raises(ValueError, match="max_hold must be positive"):
        await api.run((await api.election(resource, max_hold=0)).campaign)
    with pytest.raises(ValueError, match="wait"):
        await api.run((await api.election(resource, wait=-1)).campaign)


@in_asyncio
class TestAsyncTerms:
    async def test_each_turn_is_elected_anew_until_the_loop_is_left(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        election, terms = await api.election(resource), list[Any]()
        async for term in election:
            assert (election.is_leader, term.valid) == (True, True)
            terms.append(term)
            if len(terms) == 3:
                break
        assert len(set(terms)) == 3
        await everywhere(lambda: servers.keys(resource), set())
        assert not election.is_leader

    async def test_whoever_has_left_a_loop_may_campaign_at_once(self, api: Api, resource: str) -> None:
        election = await api.election(resource)
        for _ in range(2):
            async for _ in election:
                break
            async with election as term:
                assert term.valid
            async for _ in election:
                break
            assert (await election.campaign()).valid
            await election.resign()
            async for _ in election:
                break
            async for _ in election:
                await election.resign()

    async def test_campaign_inside_of_its_loop_is_a_runtime_error(self, api: Api, resource: str) -> None:
        election = await api.election(resource)
        async for term in election:
            with pytest.raises(RuntimeError):
                await election.campaign()
            assert term.valid
            break

    async def test_exception_and_cancellation_leave_the_loop(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        election = await api.election(resource)
        with pytest.raises(ZeroDivisionError):
            async for _ in election:
                _ = 1 / 0
        await everywhere(lambda: servers.keys(resource), set())

        async def lead() -> None:
            async for _ in election:
                await passes(8)

        for cancelled in (election.is_leader, False):
            task = asyncio.ensure_future(lead())
            await eventually(lambda: election.is_leader)
            assert not cancelled
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await everywhere(lambda: servers.keys(resource), set())

    async def test_lost_term_ends_its_guarded_body_and_the_next_turn_follows(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        election, told = await api.election(resource), list[str]()
        async for term in election:
            async with term:
                if told:
                    break
                servers.put(key, b"thief", servers.everyone)
                try:
                    await passes(8)
                except asyncio.CancelledError:
                    told.append("cancelled")
                    raise
            told.append("went on")
            servers.delete(key)
        assert told == ["cancelled", "went on"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await everywhere(lambda: servers.keys(resource), set())

    async def test_guard_lets_everything_else_pass(self, api: Api, resource: str) -> None:
        async with await api.election(resource) as term:
            with pytest.raises(ZeroDivisionError):
                async with term:
                    _ = 1 / 0
            async with term:
                with pytest.raises(RuntimeError):
                    async with term:
                        pass
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), term:
                    await passes(8)

    async def test_body_of_async_with_is_cancelled_when_the_term_is_lost(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        with pytest.raises(LeaseLost):
            async with await api.election(resource):
                servers.put(key, b"thief", servers.everyone)
                await passes(8)
        servers.delete(key)

    async def test_resignation_ends_the_loop_wherever_it_is(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        election, turns = await api.election(resource), 0

        async def lead() -> str:
            nonlocal turns
            async for term in election:
                turns += 1
                await term.lost.wait()
            return "ended"

        task = asyncio.ensure_future(lead())
        await eventually(lambda: election.is_leader)
        await election.resign()
        assert await within(5, task) == "ended"
        servers.put(key, b"somebody", servers.everyone)
        task = asyncio.ensure_future(lead())
        await api.waits()
        await election.resign()
        assert await within(5, task) == "ended"
        for turn in range(1, 12):
            servers.delete(key)
            task = asyncio.ensure_future(lead())
            for _ in range(turn):
                await asyncio.sleep(0)
            await election.resign()
            assert await within(5, task) == "ended"
        await everywhere(lambda: servers.keys(resource), set())

    async def test_wait_that_others_have_ended_is_raised(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"somebody", servers.everyone)
        task = asyncio.ensure_future(anext(aiter(await api.election(resource))))
        await api.waits()
        assert await api.cancel_waiting(resource) == 1
        with pytest.raises(WaitCancelled):
            await task
        servers.delete(key)

    async def test_campaign_cancelled_at_any_turn_leaves_nothing(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        for turns in range(20):
            election = await api.election(resource)
            task = asyncio.ensure_future(election.campaign())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
                await election.resign()
            except asyncio.CancelledError:
                assert not election.is_leader
        await everywhere(lambda: servers.keys(resource), set())


@in_sync
class TestTerms:
    async def test_each_turn_is_elected_anew_until_the_loop_is_left(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        election = await api.election(resource)

        def lead() -> list[Any]:
            terms = []
            for term in election:
                assert election.is_leader
                terms.append(term)
                if len(terms) == 2:
                    servers.put(key, b"thief", servers.everyone)
                    assert term.lost.wait(8)
                    servers.delete(key)
                if len(terms) == 4:
                    break
            assert not election.is_leader, "at once"
            with election as term:
                assert term.valid
            return terms

        terms = await within(20, api.run(lead))
        assert len(set(terms)) == 4
        await everywhere(lambda: servers.keys(resource), set())

    async def test_exception_leaves_the_loop(self, api: Api, servers: ServerGroup, resource: str) -> None:
        election = await api.election(resource)

        def fail() -> None:
            for _ in election:
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            await api.run(fail)
        await everywhere(lambda: servers.keys(resource), set())

    async def test_resignation_by_another_thread_ends_the_loop_wherever_it_is(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        election = await api.election(resource)

        def lead() -> str:
            for term in election:
                term.lost.wait(8)
            return "ended"

        task = asyncio.ensure_future(api.run(lead))
        await eventually(lambda: election.is_leader)
        await resign(api, election)
        assert await within(5, task) == "ended"
        servers.put(key, b"somebody", servers.everyone)
        task = asyncio.ensure_future(api.run(lead))
        await api.waits()
        await resign(api, election)
        assert await within(5, task) == "ended"
        servers.delete(key)
        for turn in range(60):
            begun = threading.Event()

            def lead_soon(begun: threading.Event = begun) -> str:
                terms = iter(election)
                begun.set()
                for _ in terms:
                    time.sleep(0.0003)
                return "ended"

            task = asyncio.ensure_future(api.run(lead_soon))
            await api.run(begun.wait)
            await passes(turn * 0.00005)
            await resign(api, election)
            assert await within(5, task) == "ended"
        await everywhere(lambda: servers.keys(resource), set())


async def test_leader_is_found_by_asking_whether_the_lock_is_held(api: Api, resource: str) -> None:
    assert await api.is_locked(resource) is False
    async with api.entered(await api.election(resource)):
        assert await api.is_locked(resource) is True
        assert (await api.leases())[0].resource == resource
    assert await api.is_locked(resource) is False
