"""Elections, in a simulated world."""

from __future__ import annotations

import asyncio

import pytest

from redlock_cluster import AsyncTerm, WaitCancelled
from redlock_cluster.testing.simulation import Simulation


@pytest.mark.parametrize("timers_first", [True, False])
def test_resignation_ends_a_campaign_that_was_won_too_late(timers_first: bool) -> None:
    """The candidate stands still when its votes arrive, for longer than they are valid, and then resigns at once."""
    with Simulation(seed=1) as world:
        for number in range(3):
            world.server(f"server{number}:6379")
        candidate = world.client("candidate", {"servers": [{"host": f"server{number}"} for number in range(3)]})
        election = candidate.supervisor.election("leader", 1)

        async def resign_soon() -> asyncio.TimerHandle:
            loop = asyncio.get_running_loop()
            return loop.call_later(0.5, lambda: loop.create_task(election.resign()))

        async def main() -> AsyncTerm:
            await candidate.spawn(candidate.supervisor.start())
            await candidate.spawn(resign_soon())
            campaign = candidate.spawn(election.campaign())
            await asyncio.sleep(0.0001)  # it has asked for votes, and none has arrived
            candidate.pause()
            await asyncio.sleep(2)
            candidate.resume(timers_first)
            return await asyncio.wait_for(campaign, 30)

        with pytest.raises(WaitCancelled):
            world.run(main)
