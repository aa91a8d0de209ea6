"""What is said about a resource of 64 KiB, with long names of groups and owners: little; `resource` has all of it."""

from __future__ import annotations

import logging

import pytest

from redlock_cluster import AsyncLease, Contended, Err, LeaseLost, NotHeld, Ok, QuorumUnavailable
from redlock_cluster.errors import LockNotAcquired

from .scripted import NIL, ZERO, AutomaticGroup, Clock, bulk, honest

LONG = "start-" + "x" * 65_000 + "-end"
HELD = bulk(b"f" * 22 + b"@" + b"owner" * 2000)
OOM = b"-OOM no\r\n"
MOST = 2000
"""Characters: a resource, a group, and three servers with the holder or the error each."""


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redlock_cluster")


def group_with_long_names() -> AutomaticGroup:
    servers = [{"port": 1000 + index} for index in range(3)]
    return AutomaticGroup(clock=Clock(), max_retry=0, cluster=[{"name": "g" * 10_000, "servers": servers}])


def assert_brief(kind: type[LockNotAcquired | LeaseLost | NotHeld], outcome: object) -> None:
    assert isinstance(outcome, Err)
    error = outcome.error
    assert type(error) is kind
    assert error.resource == LONG
    for text in (str(error), repr(error), repr(outcome)):
        assert len(text) < MOST, text[:300]
        assert "start-" in text
        assert "-end" in text


async def test_every_refusal_is_brief(caplog: pytest.LogCaptureFixture) -> None:
    async with group_with_long_names() as group:
        redlock = group.supervisor

        async def lock() -> AsyncLease:
            group.answers = [honest] * 3
            lease = (await redlock.lock(LONG, 10)).value  # type: ignore[union-attr]
            assert isinstance(lease, AsyncLease)
            return lease

        def answer(reply: bytes) -> None:
            group.answers = [lambda _: reply] * 3

        answer(HELD)
        assert_brief(Contended, await redlock.lock(LONG, 10))
        answer(OOM)
        assert_brief(QuorumUnavailable, await redlock.lock(LONG, 10))
        assert_brief(QuorumUnavailable, await redlock.unlock(LONG, "token"))
        assert_brief(QuorumUnavailable, await redlock.extend(LONG, "token", 10))
        with pytest.raises(QuorumUnavailable) as unknown:
            await redlock.is_locked(LONG)
        assert_brief(QuorumUnavailable, Err("unavailable", error=unknown.value))

        lease = await lock()
        answer(OOM)
        assert_brief(QuorumUnavailable, await redlock.extend(LONG, lease, 10))
        answer(ZERO)
        assert_brief(LeaseLost, await redlock.unlock(LONG, lease))
        assert_brief(LeaseLost, await redlock.unlock(LONG, lease.token))
        assert_brief(LeaseLost, await redlock.extend(LONG, lease.token, 10))
        assert_brief(LeaseLost, await redlock.unlock(LONG, lease))

        lease = await lock()
        answer(NIL)
        assert_brief(LeaseLost, await redlock.extend(LONG, lease, 10))

        lease = await lock()
        assert isinstance(await redlock.unlock(LONG, lease), Ok)
        assert_brief(NotHeld, await redlock.unlock(LONG, lease))
        assert_brief(NotHeld, await redlock.extend(LONG, lease, 10))

        with pytest.raises(NotHeld) as nothing:
            await redlock.mutex(LONG, 10).release()
        assert_brief(NotHeld, Err("not_held", error=nothing.value))
    assert max(len(record.getMessage()) for record in caplog.records) < MOST
    assert any("start-" in record.getMessage() for record in caplog.records)


async def test_leases_and_batches_are_brief() -> None:
    async with group_with_long_names() as group, group_with_long_names() as other:
        lease = (await group.supervisor.lock(LONG, 10)).value  # type: ignore[union-attr]
        assert len(repr(lease)) < MOST
        assert lease.resource == LONG
        with pytest.raises(ValueError, match="twice") as twice:
            await group.supervisor.lock_many([LONG, LONG], 10)
        with pytest.raises(ValueError, match="a supervisor of other servers") as foreign:
            await other.supervisor.unlock_many([lease])
        for error in (twice, foreign):
            assert len(str(error.value)) < MOST
        await group.supervisor.unlock(LONG, lease)


async def test_what_is_logged_about_servers_and_groups_is_brief(caplog: pytest.LogCaptureFixture) -> None:
    socket = "/" + "s" * 10_000
    group = AutomaticGroup(1, cluster=[{"name": "g" * 10_000, "servers": [{"socket": socket}]}])
    group.refusing = {6379 - 1000}
    async with group:
        outcome = await group.supervisor.lock("r", 10, wait=0)
        assert isinstance(outcome, Err)
        assert len(str(outcome.error)) < MOST
        assert outcome.error.votes[0].server == f"unix:{socket}"  # type: ignore[union-attr]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("redlock_cluster")]
    assert {line.split()[0] for line in said} >= {"can't", "group"}
    assert max(map(len, said)) < MOST
