"""Deadlines: nobody is called absent because this process stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from redlock_cluster import Err
from redlock_cluster.wire.deadlines import Deadlines

from .scripted import NIL, Clock, Group, turns


class Waiting:
    """A round that somebody answers, or nobody."""

    def __init__(self) -> None:
        self.outstanding = 1
        self.expired = 0

    def expire(self) -> None:
        self.outstanding = 0
        self.expired += 1


async def wait_for(condition: object) -> None:
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not within a second")


async def test_a_round_expires_once_after_its_deadline_and_a_second_wait() -> None:
    loop = asyncio.get_running_loop()
    deadlines, round_, began = Deadlines(loop, time.monotonic), Waiting(), time.monotonic()
    deadlines.add(began + 0.01, round_)
    await wait_for(lambda: round_.expired)
    assert time.monotonic() - began >= 0.011
    await asyncio.sleep(0.02)
    assert round_.expired == 1


async def test_rounds_expire_in_the_order_of_their_deadlines() -> None:
    deadlines, now = Deadlines(asyncio.get_running_loop(), time.monotonic), time.monotonic()
    late, early = Waiting(), Waiting()
    deadlines.add(now + 10, late)
    deadlines.add(now + 0.01, early)
    await wait_for(lambda: early.expired)
    assert late.expired == 0
    deadlines.close()
    assert late.expired == 1


async def test_a_round_that_was_answered_does_not_expire() -> None:
    deadlines, now, answered, other = (
        Deadlines(asyncio.get_running_loop(), time.monotonic),
        time.monotonic(),
        Waiting(),
        Waiting(),
    )
    deadlines.add(now + 0.005, answered)
    answered.outstanding = 0
    deadlines.add(now + 0.01, other)
    await wait_for(lambda: other.expired)
    assert answered.expired == 0


async def test_a_timer_that_fires_early_by_the_engines_clock_waits_on() -> None:
    clock, round_ = Clock(), Waiting()
    deadlines = Deadlines(asyncio.get_running_loop(), clock)
    deadlines.add(clock.now + 0.005, round_)
    await asyncio.sleep(0.03)
    assert round_.expired == 0
    clock.now += 1
    await wait_for(lambda: round_.expired)


async def test_what_was_due_while_the_process_stood_still_waits_as_long_again() -> None:
    clock, round_ = Clock(), Waiting()
    deadlines = Deadlines(asyncio.get_running_loop(), clock)
    deadlines.add(clock.now + 0.005, round_)
    clock.now += 0.105  # the stall
    await asyncio.sleep(0.03)
    assert round_.expired == 0
    clock.now += 0.105
    await wait_for(lambda: round_.expired)


@pytest.mark.parametrize("stall", [0.03, 0.12])
async def test_replies_that_lay_unread_during_a_stall_still_count(stall: float) -> None:
    async with Group(3, server_timeout="20ms") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        time.sleep(stall)
        await asyncio.sleep(0)
        for wire in group.now:
            wire.reply(NIL)
        assert await task


async def test_a_full_server_timeout_makes_a_server_silent_until_it_answers() -> None:
    async with Group(3, server_timeout="10ms") as group:
        task = asyncio.create_task(group.supervisor.lock("a", 10, wait=0))
        await turns()
        for wire in group.now[:2]:
            wire.reply(NIL)
        assert await task
        await wait_for(lambda: group.supervisor.status().clusters[0].groups[0].servers[2].state.value == "silent")
        again = asyncio.create_task(group.supervisor.lock("b", 10, wait=0))
        await turns()
        assert [len(wire.commands) for wire in group.now] == [2, 2, 1]
        for wire in group.now[:2]:
            wire.reply(NIL)
        assert await again
        group.now[2].reply(NIL)
        assert group.supervisor.status().clusters[0].groups[0].servers[2].state.value == "up"


async def test_no_answers_in_time_are_unavailable_and_given_back() -> None:
    async with Group(3, server_timeout="10ms") as group:
        refused = await group.supervisor.lock("r", 10, wait=0)
        assert refused == Err("unavailable")
        assert "no answer in time" in str(refused.error)
        await turns()
        assert [[words[0] for words in wire.commands] for wire in group.now] == [[b"SET", b"DELIFEQ"]] * 3
