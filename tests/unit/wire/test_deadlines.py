"""Deadlines: nobody is called absent because this process stood still."""

from __future__ import annotations

import asyncio

import pytest

from redlock_cluster import Err, ServerState
from redlock_cluster.testing.simulation import Process, VirtualLoop
from redlock_cluster.wire.deadlines import Deadlines

from ..engine.scripted import NIL, Clock, Group, passes, turns


class Waiting:
    """A round that somebody answers, or nobody."""

    def __init__(self) -> None:
        self.outstanding = 1
        self.expired = 0

    def expire(self) -> None:
        self.outstanding = 0
        self.expired += 1


async def test_a_round_expires_once_after_its_deadline_and_a_second_wait() -> None:
    loop, round_ = asyncio.get_running_loop(), Waiting()
    Deadlines(loop, loop.time).add(loop.time() + 0.01, round_)
    await passes(0.0109)
    assert round_.expired == 0
    await passes(0.0002)
    assert round_.expired == 1
    await passes(1)
    assert round_.expired == 1


async def test_rounds_expire_in_the_order_of_their_deadlines() -> None:
    loop, late, early = asyncio.get_running_loop(), Waiting(), Waiting()
    deadlines = Deadlines(loop, loop.time)
    deadlines.add(loop.time() + 10, late)
    deadlines.add(loop.time() + 0.01, early)
    await passes(9.9)
    assert (early.expired, late.expired) == (1, 0)
    deadlines.close()
    assert late.expired == 1


async def test_a_round_that_was_answered_does_not_expire() -> None:
    loop, answered, other = asyncio.get_running_loop(), Waiting(), Waiting()
    deadlines = Deadlines(loop, loop.time)
    deadlines.add(loop.time() + 0.005, answered)
    answered.outstanding = 0
    deadlines.add(loop.time() + 0.01, other)
    await passes(1)
    assert (answered.expired, other.expired) == (0, 1)


async def test_a_timer_that_fires_early_by_the_engines_clock_waits_on() -> None:
    clock, round_ = Clock(), Waiting()
    Deadlines(asyncio.get_running_loop(), clock).add(clock.now + 0.005, round_)
    await passes(10)
    assert round_.expired == 0
    clock.now += 1
    await passes(2)
    assert round_.expired == 1


async def test_what_was_due_while_the_process_stood_still_waits_as_long_again() -> None:
    clock, round_ = Clock(), Waiting()
    Deadlines(asyncio.get_running_loop(), clock).add(clock.now + 0.005, round_)
    clock.now += 0.105  # the stall
    await passes(0.1)
    assert round_.expired == 0
    clock.now += 0.1
    await passes(0.1)
    assert round_.expired == 1


@pytest.mark.parametrize("stall", [0.03, 0.12])
async def test_replies_that_lay_unread_during_a_stall_still_count(stall: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    process, group = Process(loop, "client"), Group(3, server_timeout="20ms")
    await process.spawn(group.__aenter__())
    task = process.spawn(group.supervisor.lock("r", 10, wait=0))
    await turns()
    process.pause()
    await passes(stall)
    process.resume(timers_first=True)
    await passes(0)
    for wire in group.now:
        wire.reply(NIL)
    assert await task
    await process.spawn(group.__aexit__())


async def test_a_full_server_timeout_makes_a_server_silent_until_it_answers() -> None:
    async with Group(3, server_timeout="10ms") as group:
        task = asyncio.create_task(group.supervisor.lock("a", 10, wait=0))
        await turns()
        for wire in group.now[:2]:
            wire.reply(NIL)
        assert await task
        await passes(0.0109)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].state is ServerState.UP
        await passes(0.0002)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].state is ServerState.SILENT
        again = asyncio.create_task(group.supervisor.lock("b", 10, wait=0))
        await turns()
        assert [len(wire.commands) for wire in group.now] == [2, 2, 1]
        for wire in group.now[:2]:
            wire.reply(NIL)
        assert await again
        group.now[2].reply(NIL)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].state is ServerState.UP


async def test_no_answers_in_time_are_unavailable_and_given_back() -> None:
    async with Group(3, server_timeout="10ms") as group:
        refused = await group.supervisor.lock("r", 10, wait=0)
        assert refused == Err("unavailable")
        assert "no answer in time" in str(refused.error)
        await turns()
        assert [[words[0] for words in wire.commands] for wire in group.now] == [[b"SET", b"DELIFEQ"]] * 3
