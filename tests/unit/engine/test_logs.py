"""What the engine logs: each refused attempt, failed extension and lost lease with its votes; nothing on success."""

from __future__ import annotations

import asyncio
import logging

import pytest

from redlock_cluster import Err, LeaseLost, LossReason

from .scripted import NIL, OK, ONE, Clock, Group, bulk, turns
from .test_acquire import OTHER
from .test_release_and_extend import held


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redlock_cluster")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about locks."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("redlock_cluster.engine")]


async def test_nothing_is_logged_on_success(caplog: pytest.LogCaptureFixture) -> None:
    async with Group(3) as group:
        lease = await held(group)
        for call, reply in ((lease.extend(), OK), (lease.release(), ONE)):
            task = asyncio.ensure_future(call)
            await turns()
            for wire in group.now:
                wire.reply(reply)
            await task
        assert said(caplog) == []


async def test_each_refused_attempt_is_logged_with_its_votes(caplog: pytest.LogCaptureFixture) -> None:
    async with Group(3, max_retry=1, retry_interval="2s") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10))
        await turns()
        for attempt in range(3):  # by SET; by the script that joins the queue; when the policy's pause has passed
            for wire in group.now:
                wire.reply(b"*5\r\n%b:60000\r\n:1\r\n$1\r\n1\r\n$1\r\n1\r\n" % bulk(OTHER) if attempt else bulk(OTHER))
            await turns()
            if attempt == 1:
                await group.when(lambda: all(len(wire.commands) == 3 for wire in group.now))
        assert await task == Err("lock_failure")
    first, second, last = said(caplog)
    assert first.startswith("attempt 1: 'r' is not locked")
    assert second.startswith("attempt 2: 'r' is not locked")
    assert last.startswith("attempt 3, the last: 'r' is not locked")
    assert "127.0.0.1:1000 against (held by other:1)" in first
    assert OTHER.decode() not in first + second + last


async def test_failed_extension_and_lost_lease_are_logged_with_their_votes(caplog: pytest.LogCaptureFixture) -> None:
    async with Group(3) as group:
        lease = await held(group)
        task = asyncio.ensure_future(lease.extend())
        await turns()
        for wire in group.now:
            wire.reply(NIL)
        await turns()
        for wire in group.now:
            wire.reply(NIL + NIL)  # not removed by force, and not there
        with pytest.raises(LeaseLost) as lost:
            await task
    assert lost.value.reason is LossReason.GONE
    (line,) = said(caplog)
    assert line == str(lost.value)
    assert "127.0.0.1:1002" in line


async def test_lease_that_expired_says_when(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    async with Group(3, clock=clock) as group:
        lease = await held(group)
        clock.now += 12
        with pytest.raises(LeaseLost, match=r"it expired 2\.\d+ s ago") as lost:
            await lease.release()
    assert lost.value.reason is LossReason.EXPIRED
    assert said(caplog) == [str(lost.value)]
