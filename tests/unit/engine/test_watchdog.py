"""Leases that look after themselves: extended, told of, healed; in a simulated world."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections import Counter
from typing import Any

import pytest

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.tally import Outcome
from redlock_cluster.engine.operation import outcome
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import Connection, SimulatedClient

from .simulated import KEY, TTL, Scene, Told, engine_of, played

STRANGER = (b"SET", KEY, b"a stranger's", b"PX", b"60000")


def is_heal(words: list[bytes]) -> bool:
    """Whether a command takes a vote again: of scripts the one with two keys."""
    return words[0] == b"EVALSHA" and words[2] == b"2"


async def release(client: SimulatedClient, lease: AsyncLease) -> Any:
    return await client.spawn(client.supervisor.unlock("r", lease))


versions = pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])


@versions
def test_it_is_held_as_long_as_it_is_kept_and_extended_three_times_in_a_ttl(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client)
        scene.changed.clear()
        for _ in range(100):
            await asyncio.sleep(TTL / 10)
            assert lease.remaining > TTL / 2
            assert scene.holding(lease) == 5
        assert 140 <= len(scene.changed) <= 165
        assert await release(client, lease)
        assert told.events == []
        await asyncio.sleep(1)
        assert scene.holding(lease) == 0
        assert engine_of(client)._watchdog.watches == {}

    played(play, version)


def test_nothing_follows_a_release_that_comes_while_it_is_extended() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        for delay in (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003):
            lease, told = await scene.kept(client)
            while not any(words[0] == b"SET" and b"IFEQ" in words for _, _, words in scene.changed):
                await asyncio.sleep(0.0001)
            await asyncio.sleep(delay)
            scene.changed.clear()
            await release(client, lease)
            await asyncio.sleep(2 * TTL)
            last = {server: words for _, server, words in scene.changed}
            assert [words[0] for words in last.values()] == [b"DELIFEQ"] * 5
            assert told.events == []
            scene.changed.clear()

    played(play)


@pytest.mark.parametrize("way", ["delete", "take over", "flush"])
@pytest.mark.parametrize("kept", [True, False])
def test_what_a_quorum_of_servers_lost_is_told_at_once(way: str, kept: bool) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await (scene.kept(client, 60) if kept else scene.listened(client, 60))
        await asyncio.sleep(25)  # it was extended meanwhile
        words = {"delete": (b"DEL", KEY), "take over": STRANGER, "flush": (b"FLUSHALL",)}[way]
        scene.command(*words, on=range(3))
        since = scene.now()
        await asyncio.sleep(1)
        assert told.events == [LossReason.GONE]
        assert told.at[0] - since < 0.1
        assert lease.state is LeaseState.LOST
        assert scene.holding(lease) == 2  # who has not heard of it yet is still in the critical section
        assert not await release(client, lease)
        await asyncio.sleep(60)
        assert scene.holding(lease) == 0
        assert told.events == [LossReason.GONE]

    played(play)


def test_where_servers_do_not_push_a_loss_is_told_by_the_next_extension() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        for server in scene.servers:
            for connection in server.host.connections:
                connection.session.execute([b"CLIENT", b"TRACKING", b"OFF"])
        _, told = await scene.kept(client)
        scene.command(b"DEL", KEY)
        await asyncio.sleep(TTL / 2)
        assert told.events == [LossReason.GONE]

    played(play)


def test_lease_that_is_not_extended_is_told_lost_at_its_end() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.listened(client)
        end = scene.now() + lease.remaining
        await asyncio.sleep(TTL + 1)
        assert told.events == [LossReason.EXPIRED]
        assert 0 <= told.at[0] - end < 0.01

    played(play)


def test_lease_that_is_not_extended_is_left_alone_at_its_end_for_others_may_have_its_token() -> None:
    async def play(scene: Scene) -> None:
        client, other = await scene.client(), await scene.client("other")
        lease, told = await scene.listened(client)
        extended = (await other.spawn(other.supervisor.extend("r", lease.token, 60))).value
        await asyncio.sleep(TTL + 1)
        assert told.events == [LossReason.EXPIRED]
        assert extended.valid
        assert scene.holding(lease) == 5

    played(play)


def test_outage_is_told_as_doubt_and_the_end_of_validity_as_loss() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client)
        for server in scene.servers[:3]:
            server.freeze()
        await asyncio.sleep(TTL / 2)
        assert told.events == ["doubtful"]
        end = scene.now() + lease.remaining
        await asyncio.sleep(TTL)
        assert told.events == ["doubtful", LossReason.EXPIRED]
        assert 0 <= told.at[1] - end < 0.01
        assert lease.remaining == 0

    played(play)


def test_loss_is_told_at_the_end_of_validity_though_an_extension_is_under_way() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, ttl=0.05)
        for server in scene.servers:
            server.freeze()
        extensions = engine_of(client).group_of(lease._record).extensions
        end = scene.now() + lease.remaining
        while scene.now() < end - 0.0005:
            end = scene.now() + lease.remaining
            await asyncio.sleep(0.0001)
        assert extensions
        await asyncio.sleep(0.001)
        assert extensions
        assert told.events[-1:] == [LossReason.EXPIRED]
        assert told.at[-1] == pytest.approx(end, abs=1e-6)
        await asyncio.sleep(0.1)
        assert told.events.count(LossReason.EXPIRED) == 1

    played(play)


@pytest.mark.parametrize("sibling", [False, True], ids=["by itself", "by another engine of the process"])
@pytest.mark.parametrize("kept", [False, True])
def test_loss_is_told_when_a_shorter_ttl_is_over_whose_extension_is_under_way(kept: bool, sibling: bool) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await (scene.kept(client, 60) if kept else scene.listened(client, 60))
        supervisor = await scene.sibling(client) if sibling else client.supervisor
        await asyncio.sleep(0.6)  # servers have been asked to push: nothing is due before a third of the ttl
        for server in scene.servers:
            server.freeze()
        extension = client.spawn(supervisor.extend("r", lease.token, 0.8))
        await asyncio.sleep(0.001)
        end = scene.now() + lease.remaining
        assert end - scene.now() < 0.8
        client.pause()
        await asyncio.sleep(0.6)  # so that the extension is waited for longer than it could be valid
        client.resume()
        await asyncio.sleep(end - scene.now() - 0.001)
        assert LossReason.EXPIRED not in told.events
        assert not extension.done()
        await asyncio.sleep(0.002)
        assert told.events[-1:] == [LossReason.EXPIRED]
        assert not extension.done()
        for server in scene.servers:
            server.thaw()
        await extension
        if sibling:
            await client.spawn(supervisor.close())

    played(play)


def test_extension_whose_script_is_unknown_is_not_sent_again_after_the_loss() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, ttl=0.05)
        for server in scene.servers:
            server.freeze()
        scene.command(b"SCRIPT", b"FLUSH")
        extensions = engine_of(client).group_of(lease._record).extensions
        while not told.events or told.events[-1] is not LossReason.EXPIRED:
            await asyncio.sleep(0.0001)
        assert extensions
        for server in scene.servers:
            server.thaw()
        await asyncio.sleep(0.1)
        assert not [words for _, _, words in scene.changed if words[0] == b"EVAL" and words[2] == b"1"]
        assert scene.holding(lease) == 0

    played(play, REDIS_6_2)


def test_vote_whose_script_is_unknown_is_not_taken_again_after_the_end() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.listened(client, 2.0)
        await asyncio.sleep(1)
        scene.command(b"SCRIPT", b"FLUSH", on=range(1))
        scene.command(b"DEL", KEY, on=range(1))

        def healing(word: bytes) -> list[list[bytes]]:
            return [words for _, _, words in scene.changed if words[0] == word and words[2] == b"2"]

        while not healing(b"EVALSHA"):
            await asyncio.sleep(0.0001)
        client.pause()  # it hears that the server does not know the script when the lease is over
        await asyncio.sleep(2)
        client.resume()
        await asyncio.sleep(0.1)
        assert told.events == [LossReason.EXPIRED]
        assert healing(b"EVAL") == []
        assert scene.holding(lease) == 0

    played(play)


def test_majority_that_is_back_within_the_validity_holds_it_again() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client)
        for server in scene.servers[:3]:
            server.freeze()
        await asyncio.sleep(TTL * 0.6)
        for server in scene.servers[:3]:
            server.thaw()
        await asyncio.sleep(3 * TTL)
        assert told.events == ["doubtful", "held"]
        assert lease.valid
        assert scene.holding(lease) == 5

    played(play)


def test_process_that_stood_still_longer_than_the_ttl_tells_the_loss_and_extends_nothing() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        _, told = await scene.kept(client)
        await asyncio.sleep(1)
        client.pause()
        await asyncio.sleep(TTL + 1)
        scene.command(*STRANGER)
        scene.changed.clear()
        since = scene.now()
        client.resume()
        await asyncio.sleep(TTL)
        assert told.events == [LossReason.EXPIRED]
        assert told.at[0] - since < 0.001
        assert {words[0] for _, _, words in scene.changed} == {b"DELIFEQ"}
        assert scene.command(b"GET", KEY) == [b"$12\r\na stranger's\r\n"] * 5

    played(play)


@pytest.mark.parametrize("slept", [30.0, 90.0])
def test_after_the_machine_was_suspended_it_is_seen_to_by_the_next_health_check(slept: float) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 60)
        await asyncio.sleep(21)
        while lease.remaining < 59:  # it was extended, and will be in twenty seconds
            await asyncio.sleep(0.1)
        since = scene.now()
        scene.changed.clear()
        client.clock.offset += slept  # which the loop's timers know nothing of
        await asyncio.sleep(1.1)
        if slept < 60:
            assert lease.remaining > 58
            assert told.events == []
        else:
            assert told.events == [LossReason.EXPIRED]
            assert told.at[0] - since < 1.01
            assert {words[0] for _, _, words in scene.changed} == {b"DELIFEQ"}

    played(play)


def test_it_ends_with_max_hold() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, max_hold=10.0)
        await asyncio.sleep(9.9)
        assert lease.valid
        assert lease.remaining <= 0.1
        await asyncio.sleep(0.2)
        assert told.events == [LossReason.MAX_HOLD]
        assert scene.holding(lease) == 0
        (error,) = [outcome.error for outcome in [await release(client, lease)]]
        assert error.reason is LossReason.MAX_HOLD
        assert "max_hold" in str(error)

    played(play)


@pytest.mark.parametrize("ttl", [3.0, 30.0, 3600.0])
def test_it_is_not_extended_any_more_once_it_is_valid_as_long_as_it_may_be_held(ttl: float) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        hold = 0.9 * ttl
        _, told = await scene.kept(client, ttl, max_hold=hold)
        scene.changed.clear()
        await asyncio.sleep(hold + 1)
        assert told.events == [LossReason.MAX_HOLD]
        assert [words[0] for _, _, words in scene.changed] == [b"DELIFEQ"] * 5

    played(play)


def test_listener_may_release_it_within_its_call() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        engine = engine_of(client)
        lease, told = await scene.kept(client, 60)

        class Releases(Told):
            def doubtful(self) -> None:
                engine.abandon(lease._record)

        async def listen() -> None:
            engine.listen(lease._record, Releases(scene.now))

        await client.spawn(listen())
        await asyncio.sleep(0.6)
        for server in scene.servers[:3]:
            server.freeze()
        assert not await client.spawn(client.supervisor.extend("r", lease, 60))
        for server in scene.servers[:3]:
            server.thaw()
        await asyncio.sleep(0.1)
        assert lease.state is LeaseState.RELEASED
        assert told.events == ["doubtful"]
        again, heard = await scene.kept(client, 60)
        await asyncio.sleep(0.6)
        since = scene.now()
        scene.command(b"DEL", KEY)
        await asyncio.sleep(1)
        assert heard.events == [LossReason.GONE]  # servers were asked to push for this one
        assert heard.at[0] - since < 0.1
        assert not again.valid

    played(play)


@pytest.mark.parametrize("hold", [1e-6, 0.0005, 0.9])
def test_it_may_be_held_for_less_than_a_round_or_a_third_of_its_ttl(hold: float) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, max_hold=hold)
        await asyncio.sleep(1)
        assert told.events == [LossReason.MAX_HOLD]
        assert scene.holding(lease) == 0
        assert lease.loss().reason is LossReason.MAX_HOLD

    played(play)


@pytest.mark.parametrize(
    ("how", "heard"),
    [("lost", [LossReason.GONE]), ("expired", [LossReason.EXPIRED]), ("released", []), ("detached", [])],
)
def test_who_listens_late_or_keeps_what_is_over_hears_only_of_a_loss(how: str, heard: list[LossReason]) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        engine = engine_of(client)
        lease, early = await scene.listened(client)
        match how:
            case "lost":
                await asyncio.sleep(1)
                scene.command(b"DEL", KEY)
            case "released":
                await release(client, lease)
            case "detached":
                assert lease.detach()
        await asyncio.sleep(0.5 if how == "lost" else TTL)
        late = [Told(scene.now), Told(scene.now)]

        async def listen() -> None:
            engine.listen(lease._record, late[0])
            engine.keep(lease._record, lease, None)
            engine.listen(lease._record, late[1])

        scene.changed.clear()
        await client.spawn(listen())
        await asyncio.sleep(2 * TTL)
        assert [told.events for told in (early, *late)] == [heard] * 3
        assert [words for _, _, words in scene.changed if words[0] == b"SET"] == []
        assert engine._watchdog.watches == {}

    played(play)


def test_it_is_released_with_a_warning_when_nobody_refers_to_it() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, _ = await scene.kept(client)
        await asyncio.sleep(TTL)
        assert scene.holding(lease) == 5
        with pytest.warns(ResourceWarning, match="dropped without being released"):
            del lease, scene.owned[:]
            gc.collect()
            await asyncio.sleep(0.1)
        assert scene.command(b"EXISTS", KEY) == [b":0\r\n"] * 5

    played(play)


@pytest.mark.parametrize("lost", [False, True])
def test_nothing_is_told_once_nobody_refers_to_it(lost: bool) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client)
        record, group = lease._record, engine_of(client).group_of(lease._record)

        async def dropped() -> None:
            nonlocal lease
            del lease, scene.owned[:]
            now, terms = group.clock(), group.timing.terms_ms(record.ttl_ms)
            assert record.begin_extension(now, now + terms.validity, terms.ttl_ms)
            ballot = record.acquired
            assert ballot is not None
            record.extended(ballot, Outcome.GONE if lost else Outcome.UNKNOWN, now, now, terms.ttl_ms)
            group.note_changed(record.token)  # before the loop hears that nobody refers to it

        warned = warnings.catch_warnings() if lost else pytest.warns(ResourceWarning, match="dropped")
        with warned:
            await client.spawn(dropped())
            await asyncio.sleep(0.1)
        assert told.events == []
        left = 1 if lost else 0  # as its user may still be in the critical section
        assert scene.command(b"EXISTS", KEY) == [b":%d\r\n" % left] * 5

    played(play)


def test_it_is_kept_as_long_as_anybody_refers_to_a_lease_that_its_token_gave() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, _ = await scene.kept(client)
        others = [(await client.spawn(client.supervisor.extend("r", lease.token, TTL))).value for _ in range(2)]
        del lease, scene.owned[:]
        gc.collect()
        await asyncio.sleep(2 * TTL)
        others.pop()
        gc.collect()
        await asyncio.sleep(2 * TTL)
        assert scene.holding(others[0]) == 5
        with pytest.warns(ResourceWarning, match="dropped without being released"):
            del others
            gc.collect()
            await asyncio.sleep(0.1)
        assert scene.command(b"EXISTS", KEY) == [b":0\r\n"] * 5

    played(play)


def test_lease_that_is_not_extended_is_not_released_when_nobody_refers_to_it() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, _ = await scene.listened(client, 60)
        assert await client.spawn(client.supervisor.extend("r", lease.token, 60))
        del lease, scene.owned[:]
        gc.collect()
        await asyncio.sleep(1)
        assert scene.command(b"EXISTS", KEY) == [b":1\r\n"] * 5

    played(play)


def test_it_is_released_though_warnings_are_errors() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, _ = await scene.kept(client)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del lease, scene.owned[:]
            gc.collect()
            await asyncio.sleep(0.1)
        assert scene.command(b"EXISTS", KEY) == [b":0\r\n"] * 5

    with pytest.raises(RuntimeError, match="a call-back raised"):
        played(play)


def test_what_is_released_soon_costs_no_more_than_the_lock() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        scene.asked.clear()
        for _ in range(10):
            lease, _ = await scene.kept(client, 60)
            await asyncio.sleep(0.3)
            await release(client, lease)
        await asyncio.sleep(2)
        asked = {word: number for (_, word), number in scene.asked.items() if word != b"TIME"}
        assert asked == {b"SET": 50, b"DELIFEQ": 50}

    played(play)


def test_servers_are_asked_to_push_before_the_first_extension() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        leases = await scene.many(client, 900, 30)
        scene.asked.clear()
        await asyncio.sleep(0.75)
        assert scene.asked["holder", b"GET"] == 5 * len(leases)
        assert scene.asked["holder", b"SET"] == 0

    played(play)


def test_closing_releases_it() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client)
        other = (await client.spawn(client.supervisor.lock("not kept", 60))).value
        await client.spawn(client.supervisor.close())
        assert scene.holding(lease) == 0
        assert other.token
        assert scene.command(b"EXISTS", b"redlock:not kept") == [b":1\r\n"] * 5
        assert told.events == []
        await asyncio.sleep(2 * TTL)
        assert scene.holding(lease) == 0

    played(play)


def test_what_is_acquired_while_the_supervisor_closes_is_released() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        engine, closing = engine_of(client), list[asyncio.Task[None]]()

        class Closes:
            def done(self) -> bool:
                return False

            def set_result(self, result: None) -> None:
                closing.append(asyncio.ensure_future(client.supervisor.close()))

        async def lock() -> AsyncLease:
            acquisition = engine.acquire("r", TTL, 0)
            acquisition.add_waiter(Closes())
            record = await outcome(acquisition, engine.loop)
            await asyncio.sleep(0)
            assert engine.closed
            assert isinstance(record, LeaseRecord)
            lease = AsyncLease(client.supervisor, engine, record)
            engine.keep(record, lease, None)
            engine.listen(record, told)
            return lease

        told = Told(scene.now)
        lease = await client.spawn(lock())
        await asyncio.sleep(0.1)
        assert scene.holding(lease) == 0
        assert lease.state is LeaseState.RELEASED
        await asyncio.sleep(2 * TTL)
        assert told.events == []
        assert engine._watchdog.watches == {}

    played(play)


def test_detached_it_is_nobodys_here() -> None:
    async def play(scene: Scene) -> None:
        client, other = await scene.client(), await scene.client("other")
        lease, told = await scene.kept(client, 9.0)
        token = lease.token
        await asyncio.sleep(5)
        assert engine_of(client).detach(lease._record)
        assert not engine_of(client).detach(lease._record)
        assert lease.state is LeaseState.DETACHED
        assert not lease.valid
        adopted = (await other.spawn(other.supervisor.extend("r", token, 9.0))).value
        await asyncio.sleep(0.1)  # the last servers hear of it
        scene.changed.clear()
        assert "detached" in str((await release(client, lease)).error)
        assert "detached" in str((await client.spawn(client.supervisor.extend("r", lease, 9.0))).error)
        await asyncio.sleep(5)
        assert scene.changed == []
        assert told.events == []
        assert adopted.valid
        assert await release(other, adopted)

    played(play)


def test_adoption_is_right_though_servers_execute_an_extension_of_before_after_it() -> None:
    async def play(scene: Scene) -> None:
        client, other = await scene.client(), await scene.client("other")
        lease, _ = await scene.listened(client, 60)
        network = scene.servers[0].host.network
        for server in scene.servers:
            network.block("holder", server.name)
        assert not await client.spawn(client.supervisor.extend("r", lease, 5))
        ticket = lease.detach()
        adopted = (await other.spawn(other.supervisor.adopt(ticket))).value
        network.heal()
        await asyncio.sleep(0.1)
        ttls = [int(reply[1:]) / 1000 for reply in scene.command(b"PTTL", KEY)]
        assert adopted.valid
        assert all(adopted.remaining < ttl for ttl in ttls)

    played(play)


@pytest.mark.parametrize("kept", [True, False])
def test_lease_on_a_bare_quorum_stands_on_all_servers_soon_after_they_are_back(kept: bool) -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers[:2]:
            server.crash()
        client = await scene.client()
        lease, told = await (scene.kept(client, 60) if kept else scene.listened(client, 60))
        assert scene.holding(lease) == 3
        assert engine_of(client).spare(lease._record) == 0
        for server in scene.servers[:2]:
            server.restart()
        await asyncio.sleep(3)
        assert scene.holding(lease) == 5
        assert len(lease.held_on) == 5
        assert engine_of(client).spare(lease._record) == 2
        assert told.events == []
        ttls = [int(reply[1:]) for reply in scene.command(b"PTTL", KEY)]
        assert all(-0.001 < ttl / 1000 - lease.remaining < 0.7 for ttl in ttls)  # servers count whole milliseconds
        assert await release(client, lease)
        await asyncio.sleep(1)
        assert scene.holding(lease) == 0

    played(play)


@pytest.mark.parametrize("loss", ["forgot", "deleted", "flushed"])
def test_minority_that_lost_it_gets_it_again(loss: str) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 60)
        await asyncio.sleep(5)
        if loss == "forgot":
            scene.servers[0].crash()
            await asyncio.sleep(0.5)
            scene.servers[0].restart(keep_memory=False)
        else:
            scene.command(*((b"DEL", KEY) if loss == "deleted" else (b"FLUSHALL",)), on=range(1))
        await asyncio.sleep(3)
        assert scene.holding(lease) == 5
        assert told.events == []

    played(play)


def test_what_was_taken_again_and_is_lost_is_released_once() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 60)
        scene.command(b"DEL", KEY, on=range(1))
        await asyncio.sleep(3)
        assert scene.holding(lease) == 5
        scene.changed.clear()
        scene.command(b"DEL", KEY, on=range(3))
        await asyncio.sleep(3)
        assert told.events == [LossReason.GONE]
        assert scene.changed == []
        for _ in range(2):
            assert not await release(client, lease)
        await asyncio.sleep(1)
        assert sorted(server for _, server, _ in scene.changed) == [server.name for server in scene.servers]

    played(play)


def test_look_that_finds_a_lease_gone_that_was_detached_meanwhile_releases_nothing() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 60)
        scene.command(b"DEL", KEY, on=range(3))
        while not scene.asked["holder", b"GET"] > 5:  # the answer is on its way
            await asyncio.sleep(0.00001)
        scene.changed.clear()
        assert lease.detach()
        await asyncio.sleep(3)
        assert scene.changed == []
        assert told.events == []

    played(play)


def test_what_a_server_lacks_because_one_connection_of_its_pool_was_down_it_gets_soon() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        (pipeline,) = {pipeline_of(group, KEY) for group in engine_of(client)._groups.values()}
        connection = pipeline.keepers[0].connection
        assert connection is not None
        connection.abort("a test")
        lease = (await client.spawn(client.supervisor.lock("r", 60))).value
        assert scene.holding(lease) == 4
        await asyncio.sleep(5)
        assert scene.holding(lease) == 5

    played(play, pool_size=2)


def test_server_that_was_full_gets_what_it_lacks_when_it_is_not() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        scene.command(b"CONFIG", b"SET", b"maxmemory", b"1", on=range(1))
        lease = (await client.spawn(client.supervisor.lock("r", 600))).value
        await asyncio.sleep(100)
        assert scene.holding(lease) == 4
        scene.command(b"CONFIG", b"SET", b"maxmemory", b"0", on=range(1))
        await asyncio.sleep(3)
        assert scene.holding(lease) == 5

    played(play)


@pytest.mark.parametrize("slow", [0, 4])
def test_server_that_refused_what_a_quorum_granted_gets_it_when_it_is_free(slow: int) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        scene.command(b"SET", KEY, b"a stranger's", b"PX", b"1500", on=range(1))
        scene.servers[slow].host.slow = 0.01  # before the quorum, or after it
        lease = (await client.spawn(client.supervisor.lock("r", 60))).value
        await asyncio.sleep(5)
        assert scene.holding(lease) == 5

    played(play)


def test_healing_is_not_put_off_by_what_is_refused_meanwhile() -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers[:2]:
            server.crash()
        client = await scene.client()
        lease = (await client.spawn(client.supervisor.lock("r", 60))).value
        for server in scene.servers[:2]:
            server.restart()
        scene.command(b"SET", b"redlock:other", b"a stranger's", on=range(4, 5))
        for _ in range(500):
            other = (await client.spawn(client.supervisor.lock("other", 60))).value
            await client.spawn(client.supervisor.unlock("other", other))
        assert scene.holding(lease) == 5

    played(play)


def test_what_is_refused_for_long_is_tried_less_and_less_often_although_it_is_extended() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        scene.command(b"CONFIG", b"SET", b"maxmemory", b"1", on=range(1))
        for i in range(5):
            lease = (await client.spawn(client.supervisor.lock(f"kept {i}", TTL))).value
            scene.owned.append(lease)
            await client.spawn(_kept(client, lease))
        other = (await client.spawn(client.supervisor.lock("r", 600))).value
        await asyncio.sleep(100)
        assert scene.holding(other) == 4
        scene.asked.clear()
        scene.changed.clear()
        await asyncio.sleep(100)
        tried = [words for _, _, words in scene.changed if is_heal(words)]
        assert 3 <= len(tried) <= 4  # once in thirty seconds
        assert all(each.valid for each in scene.owned)

    played(play)


async def _kept(client: SimulatedClient, lease: AsyncLease) -> None:
    engine_of(client).keep(lease._record, lease, None)


def test_many_are_healed_in_many_turns_and_those_that_are_over_by_then_are_not() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        names = [f"m{i}" for i in range(2000)]
        leases = [o.value for o in await client.spawn(client.supervisor.lock_many(names, 60))]
        released, dropped, kept = leases[::4], leases[1::4], leases[2::4] + leases[3::4]
        scene.command(b"FLUSHALL", on=range(1))
        while not scene.asked["holder", b"GET"]:
            await asyncio.sleep(0.001)
        assert scene.asked["holder", b"SET"] < 2000 * 5 + 300
        assert all(await client.spawn(client.supervisor.unlock_many(released)))
        del leases, dropped[:]
        await asyncio.sleep(5)
        (size,) = {int(reply[1:]) for reply in scene.command(b"DBSIZE", on=range(1))}
        assert 1000 <= size <= 1300  # some of those that were dropped had had their turn
        assert all(len(lease.held_on) == 5 for lease in kept)

    played(play)


def test_healing_takes_nothing_from_others() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 9)
        await asyncio.sleep(1)
        scene.command(*STRANGER, on=range(2))
        await asyncio.sleep(30)
        assert scene.holding(lease) == 3
        assert scene.command(b"GET", KEY, on=range(2)) == [b"$12\r\na stranger's\r\n"] * 2
        assert told.events == []
        assert engine_of(client).spare(lease._record) == 0
        scene.command(b"DEL", KEY, on=range(2))
        await asyncio.sleep(31)
        assert scene.holding(lease) == 5

    played(play)


@pytest.mark.parametrize("pushes", [True, False])
def test_it_is_kept_though_another_engine_of_the_process_shortens_its_ttl(pushes: bool) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        sibling = await scene.sibling(client)
        for server in () if pushes else scene.servers:
            for connection in server.host.connections:
                connection.session.execute([b"CLIENT", b"TRACKING", b"OFF"])
        lease, told = await scene.kept(client, 60)
        await asyncio.sleep(1)
        shorter = (await client.spawn(sibling.extend("r", lease.token, TTL))).value
        await asyncio.sleep(30)
        assert lease.valid
        assert shorter.valid
        assert told.events == []
        await client.spawn(sibling.close())

    played(play)


def test_server_that_took_it_from_another_engine_of_the_process_is_released_too() -> None:
    async def play(scene: Scene) -> None:
        scene.servers[0].crash()
        client = await scene.client()
        sibling = await scene.sibling(client)
        lease, _ = await scene.listened(client, 60)
        other = (await client.spawn(sibling.extend("r", lease.token, 60))).value
        network = scene.servers[0].host.network
        network.block("holder", scene.servers[0].name)
        scene.servers[0].restart()
        await asyncio.sleep(5)
        assert scene.holding(lease) == 5
        network.heal()
        await asyncio.sleep(5)
        assert len(lease.held_on) == 5
        assert await release(client, lease)
        assert not other.valid
        await asyncio.sleep(0.1)
        assert scene.holding(lease) == 0
        await client.spawn(sibling.close())

    played(play)


def test_what_another_engine_took_again_after_the_release_is_released_too() -> None:
    async def play(scene: Scene) -> None:
        scene.servers[0].crash()
        client = await scene.client()
        sibling = await scene.sibling(client)
        lease, _ = await scene.listened(client, 60)
        assert await client.spawn(sibling.extend("r", lease.token, 60))
        other = (await client.spawn(sibling.extend("r", lease.token, 60))).value
        network, name = scene.servers[0].host.network, scene.servers[0].name

        def block(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if words[0] == b"GET" and (connection.client, connection.host.name) == ("sibling", name):
                network.block("sibling", name)  # so that it is taken again there, but late
                network.on_command = None

        network.on_command = block
        network.block("holder", name)
        scene.servers[0].restart()
        while not network.blocked("sibling", name):
            await asyncio.sleep(0.01)
        network.unblock("holder", name)
        while scene.holding(lease) < 5:
            await asyncio.sleep(0.01)
        assert await release(client, lease)
        network.heal()
        await asyncio.sleep(0.1)
        assert scene.command(b"EXISTS", KEY) == [b":0\r\n"] * 5
        assert not other.valid
        await client.spawn(sibling.close())

    played(play, server_timeout="2s", health_check_interval="5s")


def test_nothing_is_taken_again_after_a_release() -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers[:2]:
            server.crash()
        client = await scene.client()
        lease, _ = await scene.listened(client, 60)
        for server in scene.servers[:2]:
            server.restart()
        while not any(is_heal(words) and server == "server0:6379" for _, server, words in scene.changed):
            await asyncio.sleep(0.0005)
        await release(client, lease)
        await asyncio.sleep(5)
        assert scene.command(b"EXISTS", KEY) == [b":0\r\n"] * 5

    played(play)


def test_own_extensions_cause_no_look() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        await scene.kept(client)
        await asyncio.sleep(0.6)
        scene.asked.clear()
        await asyncio.sleep(10 * TTL)
        sets, gets = scene.asked["holder", b"SET"], scene.asked["holder", b"GET"]
        assert sets >= 145
        assert gets == sets  # one behind each extension, which asks for a push

    played(play)


def test_loop_that_stood_still_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, _ = await scene.kept(client)
        with caplog.at_level(logging.WARNING, "redlock_cluster"):
            await asyncio.sleep(0.5)
            client.pause()
            await asyncio.sleep(1.5)
            client.resume()
            await asyncio.sleep(0.1)
        assert "this process, or its event loop, has stood still: leases are extended 1" in caplog.text
        assert lease.valid

    played(play)


def test_extension_that_took_long_is_no_loop_that_stood_still(caplog: pytest.LogCaptureFixture) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        lease, told = await scene.kept(client, 6)
        for server in scene.servers:
            server.host.slow = 1.4  # one way: when the answer is there, the next extension is due
        with caplog.at_level(logging.WARNING, "redlock_cluster"):
            await asyncio.sleep(20)
        assert lease.valid
        assert told.events == []
        assert "stood still" not in caplog.text

    played(play, server_timeout="5s", health_check_interval="20s")


def test_listener_may_have_another_lease_kept_that_is_due_already() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        engine = engine_of(client)
        other = (await client.spawn(client.supervisor.lock("other", 5))).value
        lease, _ = await scene.listened(client)

        class Keeps(Told):
            def lost(self, reason: LossReason) -> None:
                engine.keep(other._record, other, None)

        async def listen() -> None:
            engine.listen(lease._record, Keeps(scene.now))

        await client.spawn(listen())
        await asyncio.sleep(TTL)
        assert other.remaining > 4
        last, _ = await scene.kept(client)
        await asyncio.sleep(20)
        assert other.valid
        assert last.valid

    played(play)


def test_many_that_are_late_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        leases = await scene.many(client, 2000, TTL)
        await asyncio.sleep(TTL / 3)
        client.pause()
        await asyncio.sleep(TTL / 2)
        client.resume()
        await asyncio.sleep(TTL)
        assert all(lease.valid for lease in leases)
        assert caplog.text.count("has stood still") == 1

    played(play)


@pytest.mark.parametrize("count", [300, 3000])
def test_what_was_acquired_together_is_not_extended_together(count: int) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        await scene.many(client, count, 30)
        for _ in range(3):
            times: Counter[int] = Counter()
            for part in range(20):
                before = scene.asked["holder", b"SET"]
                await asyncio.sleep(0.5)
                times[part] = scene.asked["holder", b"SET"] - before
            assert times.total() >= 0.9 * 5 * count
            assert max(times.values()) <= 2 * times.total() / 20 + 50

    played(play)


def test_others_are_served_between_many_that_are_late() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        await scene.many(client, 1000, TTL)
        await asyncio.sleep(TTL / 3)
        client.pause()
        await asyncio.sleep(TTL / 3)
        scene.extended.clear()
        client.resume()
        before: list[int] = []
        server, note = scene.servers[0].host, scene._note

        def watched(connection: Connection, words: list[bytes], reply: bytes) -> None:
            note(connection, words, reply)
            if connection.host is server and words[0] == b"SET" and KEY in words:
                before.append(scene.extended.total())

        scene.network.on_command = watched
        assert await client.spawn(client.supervisor.lock("r", 5, wait=0))
        await asyncio.sleep(0.1)
        assert scene.extended.total() > 500
        assert len(before) == 1
        assert before[0] <= 2 * 64

    played(play)


def test_what_was_late_together_is_not_extended_together_for_ever() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        leases = await scene.many(client, 600, TTL)
        for _ in range(3):
            await asyncio.sleep(TTL / 3)
            client.pause()
            await asyncio.sleep(TTL / 2)
            client.resume()
        await asyncio.sleep(0.1)
        scene.extended.clear()
        await asyncio.sleep(TTL)
        assert all(lease.valid for lease in leases)
        assert scene.extended.total() >= 1500
        assert max(scene.extended.values()) <= 30

    played(play)


@pytest.mark.parametrize(("count", "least", "most"), [(2000, 4, 16), (8192, 16, 40)])
def test_many_are_extended_in_few_writes(count: int, least: int, most: int) -> None:
    """And not in so few that everybody else waits long behind them."""

    async def play(scene: Scene) -> None:
        client = await scene.client()
        leases = await scene.many(client, count, 30)
        await asyncio.sleep(10)
        scene.extended.clear()
        await asyncio.sleep(10)
        assert all(lease.remaining > 15 for lease in leases)
        assert 0.95 * count <= scene.extended.total() <= 1.05 * count
        assert least <= scene.extended.total() / len(scene.extended) <= most

    played(play)
