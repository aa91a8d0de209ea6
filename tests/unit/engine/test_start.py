"""How long the start waits: for every server while a group lacks its quorum, then for a moment only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from redlock_cluster import Ok, ServerState
from redlock_cluster.engine.deployments import START_GRACE
from redlock_cluster.options import ServerOptions
from redlock_cluster.wire.keeper import Keeper

from .scripted import AutomaticGroup, passes

TIMEOUT = 2.0
NEVER = 1e6


class SlowGroup(AutomaticGroup):
    """Servers that need time to connect.

    needs: seconds, by server; a list has those of each connection of its pool
    """

    def __init__(self, needs: Mapping[int, float | list[float]], size: int = 3, **options: object) -> None:
        super().__init__(size, connect_timeout=TIMEOUT * 1000, **options)
        self.needs = {i: list(need) if isinstance(need, list) else [need] for i, need in needs.items()}

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        needs = self.needs.get(server.port - 1000)
        if needs:
            await asyncio.sleep(needs.pop(0) if len(needs) > 1 else needs[0])
        await super()._dial(server, protocol)


async def started(group: AutomaticGroup) -> float:
    """Starts it; seconds of virtual time that this took."""
    began = asyncio.get_running_loop().time()
    await group.supervisor.start()
    return asyncio.get_running_loop().time() - began


def states(group: AutomaticGroup) -> list[str]:
    return [server.state.value for server in group.supervisor.status().clusters[0].groups[0].servers]


@pytest.mark.parametrize(
    ("needs", "seconds", "expected"),
    [
        ({}, 0, ["up"] * 3),
        ({0: 0.03, 1: 0.03, 2: 0.03}, 0.03, ["up"] * 3),
        ({2: NEVER}, START_GRACE, ["up", "up", "connecting"]),
        ({2: START_GRACE * 0.9}, START_GRACE * 0.9, ["up"] * 3),
        ({0: 0.5, 2: NEVER}, 0.5 + START_GRACE, ["up", "up", "connecting"]),
        ({0: 0.5, 2: 0.55}, 0.55, ["up"] * 3),
        ({0: NEVER, 1: NEVER}, TIMEOUT, ["down", "down", "up"]),
    ],
    ids=str,
)
async def test_start_waits_for_quorums_and_a_moment_for_the_rest(
    needs: dict[int, float | list[float]], seconds: float, expected: list[str]
) -> None:
    group = SlowGroup(needs)
    try:
        assert await started(group) == pytest.approx(seconds, abs=1e-6)
        assert states(group) == expected
    finally:
        await group.supervisor.close()


async def test_servers_that_refuse_end_the_start_without_a_moment_more() -> None:
    group = SlowGroup({})
    group.refusing = {0}
    try:
        assert await started(group) == 0
        assert states(group) == ["down", "up", "up"]
    finally:
        await group.supervisor.close()


async def test_every_connection_of_the_pools_needs_its_quorum() -> None:
    """With two connections to each server, half of the keys use the second: there two of three are missing."""
    group = SlowGroup({0: [0, NEVER], 1: [0, NEVER]}, pool_size=2)
    try:
        assert await started(group) == pytest.approx(TIMEOUT)
    finally:
        await group.supervisor.close()


async def test_first_call_does_not_wait_for_a_server_that_swallows_everything() -> None:
    group = SlowGroup({2: NEVER})
    try:
        async with asyncio.timeout(1):
            locked = await group.supervisor.lock("a", 10, wait=0)
        assert isinstance(locked, Ok)
        assert len(locked.value.held_on) == 2
    finally:
        await group.supervisor.close()


async def test_server_that_connects_after_the_start_votes() -> None:
    group = SlowGroup({2: 0.7})
    try:
        await started(group)
        assert states(group)[2] == ServerState.CONNECTING.value
        await passes(0.7)
        assert states(group) == ["up"] * 3
        locked = await group.supervisor.lock("a", 10, wait=0)
        assert isinstance(locked, Ok)
        assert len(locked.value.held_on) == 3
    finally:
        await group.supervisor.close()


async def test_start_that_is_given_up_leaves_nothing_running() -> None:
    group = SlowGroup({0: NEVER, 1: NEVER})
    starting = asyncio.create_task(group.supervisor.start())
    await passes(0.5)
    await group.supervisor.close()
    with pytest.raises(Exception, match="closed while it started"):
        await starting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_keeper_that_ends_by_a_fault_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep = Keeper.keep

    async def faulty(keeper: Keeper) -> None:
        if keeper.index == 2:
            raise ZeroDivisionError
        await keep(keeper)

    monkeypatch.setattr(Keeper, "keep", faulty)
    async with AutomaticGroup(3) as group:
        assert isinstance(await group.supervisor.lock("r", 10, wait=0), Ok)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert "1002" in record.getMessage()
