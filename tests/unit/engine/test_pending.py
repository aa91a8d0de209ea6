"""Releases that servers have not heard: how many wait, which are dropped, and in which parts they are sent."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from redlock_cluster import Err
from redlock_cluster.engine import pending

from .scripted import NIL, ONE, Group, passes, turns
from .test_acquire import token

SHORT = len(b"redlock:r00") + len(token(1)) + pending._OVERHEAD


async def owe(group: Group, *numbers: int) -> None:
    """Releases bare tokens while the only server is away."""
    for number in numbers:
        assert await group.supervisor.unlock(f"r{number:02d}", token(number).decode()) == Err("unavailable")


def away(group: Group) -> None:
    group.refusing = {0}
    group.now[0].break_off()


def waiting(group: Group) -> tuple[int, int]:
    (server,) = group.supervisor.status().clusters[0].groups[0].servers
    return server.pending_releases, server.dropped_releases


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == pending.__name__]


def released(commands: list[list[bytes]]) -> list[bytes]:
    return [words[1] for words in commands if words[0] == b"DELIFEQ"]


async def test_the_oldest_bare_tokens_make_room_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pending, "MOST_BYTES", 3 * SHORT)
    async with Group(1) as group:
        for _ in range(2):
            away(group)
            await owe(group, 1, 2, 3)
            assert told(caplog) == []
            await owe(group, 3, 4, 5)
            (text,) = told(caplog)
            assert "more releases by token wait for 127.0.0.1:1000 than are kept" in text
            caplog.clear()
            assert waiting(group)[0] == 3
            group.refusing = set()
            wire = await group.reconnected(0, len(group.wires[0]) + group.now[0].closed)
            assert released(wire.commands) == [b"redlock:r03", b"redlock:r04", b"redlock:r05"]
            wire.reply(ONE * len(wire.commands))
            assert waiting(group)[0] == 0
        assert waiting(group) == (0, 4)


async def test_a_long_name_takes_the_room_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MOST_BYTES", 200 * SHORT)
    async with Group(1) as group:
        away(group)
        await owe(group, *range(1, 21))
        for number in range(3):
            await group.supervisor.unlock(f"{number}" * 50_000, token(7).decode())
        assert waiting(group) == (1, 22)  # of the long ones one fits, which came last


async def test_what_leases_owe_is_never_dropped_and_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MOST_BYTES", 2 * SHORT)
    async with Group(1) as group:
        batch = asyncio.create_task(group.supervisor.lock_many([f"lease{number}" for number in range(4)], 10))
        await turns(4)
        group.now[0].reply(NIL * 4)
        leases = [result.value for result in await batch if result]
        away(group)
        await owe(group, 1, 2, 3)
        assert set(await group.supervisor.unlock_many(leases)) == {Err("unavailable")}
        assert waiting(group) == (6, 1)
        group.refusing = set()
        wire = await group.reconnected(0, 2)
        owed = [b"redlock:lease%d" % number for number in range(4)]
        assert released(wire.commands) == [*owed, b"redlock:r02", b"redlock:r03"]


async def test_a_new_connection_serves_once_every_part_has_been_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "AT_ONCE", 2)
    async with Group(1) as group:
        batch = asyncio.create_task(group.supervisor.lock_many([f"lease{number}" for number in range(5)], 10))
        await turns(4)
        group.now[0].reply(NIL * 5)
        leases = [result.value for result in await batch if result]
        away(group)
        await group.supervisor.unlock_many(leases)
        group.refusing = set()
        trying = asyncio.create_task(group.supervisor.lock("new", 10, wait=1))
        wire = await group.reconnected(0, 2)
        await passes(0.1)
        assert [len(released(write)) for write in wire.writes[:3]] == [2, 2, 1]
        first_set = next(place for place, words in enumerate(wire.commands) if words[0] == b"SET")
        assert len(released(wire.commands[:first_set])) == 5
        wire.reply(b":0\r\n" * first_set + NIL)
        assert await trying


async def test_long_names_are_sent_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "BYTES_AT_ONCE", 100_000)
    async with Group(1) as group:
        away(group)
        for number in range(5):
            await group.supervisor.unlock(f"{number}" * 60_000, token(7).decode())
        group.refusing = set()
        wire = await group.reconnected(0, 2)
        await turns(8)
        assert [len(released(write)) for write in wire.writes] == [2, 2, 1]


async def test_a_server_that_refuses_every_release_serves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "AT_ONCE", 2)
    async with Group(1, health_check_interval="1s") as group:
        away(group)
        await owe(group, 1, 2, 3, 4, 5)
        group.refusing = set()
        wire = await group.reconnected(0, 2)
        for _ in range(20):
            await turns(1)
            wire.reply(b"-BUSY a script runs\r\n" * wire.protocol.unanswered)  # type: ignore[attr-defined]
        assert len(released(wire.commands)) <= 6
        task = asyncio.create_task(group.supervisor.lock("new", 10, wait=0))
        await turns()
        wire.reply(NIL)
        assert await task


async def test_what_has_expired_is_forgotten_part_by_part_while_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "AT_ONCE", 2)
    async with Group(1, health_check_interval="1s") as group:
        (wire,) = group.now
        leases = []
        for number, ttl in enumerate((60, 60, 60, 5, 5)):
            task = asyncio.create_task(group.supervisor.lock(f"lease{number}", ttl, wait=0))
            await turns()
            wire.reply(NIL)
            leases.append((await task).value)
        away(group)
        await group.supervisor.unlock_many(leases)
        assert waiting(group)[0] == 5
        await passes(5.5)
        left = [waiting(group)[0]]
        for _ in range(3):
            await passes(1)
            left.append(waiting(group)[0])
        assert left[-1] == 3
        assert all(before - after <= 2 for before, after in pairwise(left))
