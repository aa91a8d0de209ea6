"""Health checks: how long a server takes is known, and how old that knowledge is."""

from __future__ import annotations

import asyncio

import pytest

from redlock_cluster import ServerStatus

from ..engine.scripted import NIL, ONE, AutomaticGroup, Group, passes, turns

TIME = b"*2\r\n:1\r\n:1\r\n"


def server(group: Group, index: int) -> ServerStatus:
    return group.supervisor.status().clusters[0].groups[0].servers[index]


async def test_latency_is_of_the_newest_check_and_says_how_old_it_is() -> None:
    async with Group(3, health_check_interval="1s") as group:
        await passes(0.5)
        assert server(group, 0).latency_age == pytest.approx(0.5)  # of the handshake
        for checked, late in ((1.0, 0.02), (2.0, 0.3)):
            await passes(checked + late - asyncio.get_running_loop().time())
            group.now[0].reply(TIME)
            await passes(0.2)
            assert server(group, 0).latency == pytest.approx(late)
            assert server(group, 0).latency_age == pytest.approx(0.2)


async def test_connection_that_is_never_idle_is_measured_too() -> None:
    async with Group(3, health_check_interval="1s", server_timeout="5s") as group:
        for checked in range(1, 6):
            await passes(checked - 0.1 - asyncio.get_running_loop().time())
            task = asyncio.create_task(group.supervisor.lock(f"r{checked}", 10, wait=0))
            await passes(0.15)
            assert [words[0] for words in group.now[0].commands[-2:]] == [b"SET", b"TIME"]
            for wire in group.now:
                wire.reply(NIL + TIME)
            assert (await task).value.held_on  # type: ignore[union-attr]
            assert server(group, 0).latency == pytest.approx(0.05)
            assert server(group, 0).latency_age == pytest.approx(0)


async def test_age_grows_while_a_server_answers_nothing() -> None:
    async with Group(3, health_check_interval="1s") as group:
        await passes(1.9)
        assert server(group, 0).latency_age == pytest.approx(1.9)


async def test_newest_measurement_of_a_pool_is_told() -> None:
    async with AutomaticGroup(3, pool_size=2, health_check_interval="10s") as group:
        await passes(3)
        group.wires[0][1].break_off()
        await passes(1)
        assert server(group, 0).latency_age == pytest.approx(1, abs=0.01)
        assert server(group, 1).latency_age == pytest.approx(4, abs=0.01)


async def test_before_the_first_connection_nothing_is_known() -> None:
    group = AutomaticGroup(3)
    group.refusing = {0}
    async with group:
        assert (server(group, 0).latency, server(group, 0).latency_age) == (None, None)
        await turns()


async def test_full_connection_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redlock_cluster.wire.connection.MAX_UNANSWERED", 1)
    async with Group(3, health_check_interval="1s", server_timeout="5s") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await passes(1.5)
        assert [words[0] for words in group.now[0].commands] == [b"SET"]
        for wire in group.now:
            wire.reply(NIL)
        lease = (await task).value  # type: ignore[union-attr]
        release = asyncio.ensure_future(lease.release())
        await turns()
        for wire in group.now:
            wire.reply(ONE)
        await release
