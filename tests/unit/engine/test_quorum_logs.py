"""A group that loses its quorum of servers says so once, and once that it has one again."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from redlock_cluster import Err

from .scripted import NIL, AutomaticGroup, Group, honest, passes, turns
from .test_refusals import OOM, says

CHECKED = {"health_check_interval": "1s"}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of groups, all of it as warnings."""
    records = [record for record in caplog.records if record.name == "redlock_cluster.engine.group"]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage() for record in records]


async def test_lost_quorum_is_told_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3, **CHECKED) as group:
        assert told(caplog) == []
        group.refusing = {1, 2}
        group.now[1].break_off()
        await turns()
        assert told(caplog) == []
        group.now[2].break_off()
        await passes(5)
        assert await group.supervisor.lock("r", 10, wait=0) == Err("unavailable")
        (line,) = told(caplog)
        assert line.startswith("group 0 has lost its quorum of servers (127.0.0.1:1001: ")
        assert line.endswith("; 127.0.0.1:1002: connection broken: reset)")
        assert "127.0.0.1:1000" not in line
        group.refusing = set()
        await passes(5)
        assert told(caplog)[1:] == ["group 0 has a quorum of servers now"]


async def test_refusing_servers_are_no_quorum_and_say_why(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3, **CHECKED) as group:
        group.answers[1:] = [says(OOM, b"SET")] * 2
        for name in "rst":
            await group.supervisor.lock(name, 10, wait=0)
            await passes(2)
        oom = OOM.decode().strip()[1:]
        why = "; ".join(f"127.0.0.1:{port}: acquire: {oom}" for port in (1001, 1002))
        assert told(caplog) == [f"group 0 has lost its quorum of servers ({why})"]
        group.answers = [honest] * 3
        await passes(2)
        assert told(caplog)[1:] == ["group 0 has a quorum of servers now"]


async def test_silent_servers_are_no_quorum(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3, server_timeout="100ms") as group:
        group.answers[1:] = [lambda _: []] * 2
        assert await group.supervisor.lock("r", 10, wait=0) == Err("unavailable")
        await turns()
        (line,) = told(caplog)
        assert "127.0.0.1:1001: no answer for over 0.1 s; 127.0.0.1:1002: no answer for over 0.1 s" in line


async def test_quorum_that_comes_back_within_the_turn_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async with Group(1) as group:
        tasks = [asyncio.create_task(group.supervisor.lock(name, 10, wait=0)) for name in "rs"]
        await turns()
        group.now[0].reply(OOM + NIL)
        await turns()
        assert told(caplog) == []
        assert [bool(await task) for task in tasks] == [False, True]


async def test_quorum_that_comes_and_goes_with_every_round_is_told_once_a_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AutomaticGroup(3, **CHECKED) as group:
        refusing = says(OOM, b"SET")
        group.answers = [lambda words: refusing(words) if words[1:2] == [b"redlock:r"] else honest(words)] * 3
        for _ in range(20):
            for name in "rs":
                await group.supervisor.lock(name, 10, wait=0)
                await passes(0.1)
        assert 2 <= len(told(caplog)) <= 8


async def test_missing_quorum_at_the_start_is_told_once_and_so_is_its_coming(caplog: pytest.LogCaptureFixture) -> None:
    group = AutomaticGroup(3, **CHECKED)
    group.refusing = {0, 2}
    async with group:
        await passes(5)
        assert told(caplog) == ["group 0 has no quorum of servers (127.0.0.1:1000: refused; 127.0.0.1:1002: refused)"]
        group.refusing = set()
        await passes(5)
        assert told(caplog)[1:] == ["group 0 has a quorum of servers now"]


async def test_close_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3):
        pass
    async with Group(3) as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))  # is never answered
        await turns()
    await passes(1)
    assert await task == Err("unavailable")
    assert told(caplog) == []


def test_end_of_a_loop_without_close_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await AutomaticGroup(3).supervisor.start()

    with pytest.warns(ResourceWarning, match="dropped and not closed"):
        asyncio.run(main())
        gc.collect()
    assert told(caplog) == []
