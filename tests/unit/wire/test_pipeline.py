"""What is queued for all servers at once, and what is sent to one of them alone, in the order it was asked for."""

from __future__ import annotations

import asyncio

from redlock_cluster import Ok
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.retry import RETRY
from redlock_cluster.engine.engine import Engine
from redlock_cluster.wire.connection import HEAD_START

from ..engine.scripted import NIL, ONE, REDIS_6, Group, turns
from ..engine.test_acquire import release, set_command


def engine_of(group: Group) -> Engine:
    engine = group.supervisor._deployments.engines.get("default")
    assert engine is not None
    return engine


async def test_a_release_in_the_same_turn_follows_its_set() -> None:
    async with Group(3) as group:
        acquisition = engine_of(group).acquire("r", 10, RETRY)
        acquisition.abandon()
        await turns()
        assert [wire.writes for wire in group.now] == [[[set_command(1), release(1)]]] * 3


async def test_what_follows_a_release_in_the_same_turn_stays_behind_it() -> None:
    async with Group(3) as group:
        acquisition = engine_of(group).acquire("r", 10, RETRY)
        acquisition.abandon()
        engine_of(group).acquire("r", 10, RETRY)
        await turns()
        assert group.commands() == [[set_command(1), release(1), set_command(2)]] * 3


async def test_servers_begin_with_the_first_rounds_of_a_turn_while_many_more_are_made() -> None:
    async with Group(3) as group:
        for number in range(1, 451):
            engine_of(group).acquire(f"r{number}", 10, RETRY)
            begun = {HEAD_START: 1, 2 * HEAD_START: 2, 4 * HEAD_START: 3}.get(number)
            if begun is not None:
                assert [[len(write) for write in wire.writes] for wire in group.now] == [[100, 100, 200][:begun]] * 3
        await turns()
        assert [[len(write) for write in wire.writes] for wire in group.now] == [[100, 100, 200, 50]] * 3
        engine_of(group).acquire("r", 10, RETRY)
        assert [len(wire.writes) for wire in group.now] == [4] * 3


async def test_after_a_turn_with_one_round_the_next_leaves_at_once() -> None:
    async with Group(3) as group:
        for number, written in ((1, 0), (2, 2), (3, 2)):
            engine_of(group).acquire(f"r{number}", 10, RETRY)
            assert [len(wire.writes) for wire in group.now] == [written] * 3
            if number == 1:
                await turns()
        await turns()
        assert [[len(write) for write in wire.writes] for wire in group.now] == [[1, 1, 1]] * 3


async def test_a_connection_that_breaks_before_the_turn_ends_is_heard_of_once() -> None:
    async with Group(3) as group:
        group.refusing = {0}
        acquisition = engine_of(group).acquire("r", 10, RETRY)
        group.now[0].break_off()
        await turns()
        attempt = acquisition._attempt
        assert attempt is not None
        assert attempt.tally.absent == 0b001
        assert group.commands() == [[], [set_command(1)], [set_command(1)]]
        for wire in group.now[1:]:
            wire.reply(NIL)
        assert isinstance(acquisition.result(), LeaseRecord)
        group.refusing = set()
        successor = await group.reconnected(0, 2)
        assert [words[0] for words in successor.commands] == [b"CLIENT"]  # the KILL; the lease is held: no release


async def test_each_server_hears_its_own_dialect() -> None:
    async with Group(3) as group:
        group.refusing = {0}
        group.probes = REDIS_6
        group.now[0].break_off()
        group.refusing = set()
        await group.reconnected(0, 2)
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        await turns()
        old, *new = group.now
        assert old.commands[-1] == [word for word in set_command(1) if word != b"GET"]
        assert [wire.commands for wire in new] == [[set_command(1)]] * 2
        old.reply(b":1\r\n")  # CLIENT KILL
        old.reply(b"+OK\r\n")
        for wire in new:
            wire.reply(NIL)
        lease = (await task).value
        assert len(lease.held_on) == 3
        done = asyncio.create_task(group.supervisor.unlock("r", lease))
        await turns()
        assert old.commands[-1][0] == b"EVALSHA"
        assert [wire.commands[-1] for wire in new] == [release(1)] * 2
        for wire in group.now:
            wire.reply(ONE)
        assert await done == Ok(None)


async def test_what_is_queued_for_all_is_sent_before_a_connection_is_finished() -> None:
    async with Group(3) as group:
        engine_of(group).acquire("r", 10, RETRY)
        for keeper in next(iter(engine_of(group)._groups.values())).pipelines[0].keepers:
            assert keeper.connection is not None
            keeper.connection.finish()
        assert [wire.commands[0] for wire in group.now] == [set_command(1)] * 3


async def test_closing_waits_for_what_was_asked_in_the_same_turn() -> None:
    async with Group(1) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        await turns()
        group.now[0].reply(NIL)
        lease = (await task).value
        both = asyncio.gather(lease.release(), group.supervisor.close())
        await turns()
        assert [words[0] for words in group.now[0].commands] == [b"SET", b"DELIFEQ", b"TIME"]
        group.now[0].reply(ONE + b"*2\r\n:1\r\n:1\r\n")
        await both
