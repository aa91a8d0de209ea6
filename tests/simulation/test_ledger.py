"""What the harness thinks of a `SET` that is executed behind a release of its token."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from redlock_cluster import AsyncLease
from redlock_cluster.testing.simulation import Simulation

from .history import History
from .ledger import Ledger
from .plan import DRIFT

OPTIONS = {"servers": [{"host": f"s{i}"} for i in range(3)], "key_prefix": ""}
SLOW, TTL = 2, 5.0


class Scene:
    """Alice wins a lock while what she has sent to a slow server is still on its way."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.history = History(world.loop)
        self.ledger = Ledger(world.loop, self.history, quorum=2)
        world.network.on_command = self.ledger.executed
        self.servers = [world.server(f"s{i}:6379") for i in range(3)]
        self.alice, self.bob = world.client("alice", OPTIONS), world.client("bob", OPTIONS)

    async def won(self) -> AsyncLease:
        for client in (self.alice, self.bob):
            await client.supervisor.start()
        self.world.network.block("alice", "s2:6379")
        return (await self.alice.supervisor.lock("invoice", TTL)).value

    async def arrives(self) -> Counter[str]:
        """It arrives. Returns the kinds of what the harness finds, and how often."""
        self.world.network.unblock("alice", "s2:6379")
        await asyncio.sleep(0.1)
        return Counter(problem.kind for problem in self.history.problems)

    def holders(self) -> list[int]:
        return [i for i, server in enumerate(self.servers) if server.model.keys().get(b"invoice")]


def test_a_lease_that_is_adopted_and_released_at_once_may_stay_on_a_minority_for_its_ttl() -> None:
    with Simulation(seed=1) as world:
        scene = Scene(world)

        async def main() -> None:
            lease = await scene.won()
            scene.ledger.given_away(lease.token)
            adopted = (await scene.bob.supervisor.adopt(lease.detach())).value
            await adopted.release()
            assert scene.holders() == []
            assert await scene.arrives() == {}
            assert scene.history.counts["grants behind the release of whoever adopted the lease"] == 1
            assert scene.holders() == [SLOW]
            assert await scene.bob.supervisor.lock("invoice", TTL, wait=0), "a minority excludes nobody"
            await asyncio.sleep(TTL / (1 - DRIFT))
            scene.servers[SLOW].model.advance()
            assert scene.holders() == []

        world.run(main)


@pytest.mark.parametrize("given_away", [True, False])
def test_no_other_release_is_overtaken_unnoticed(given_away: bool) -> None:
    """By a client that has no ticket; and by the one that gave the lease away."""
    with Simulation(seed=1) as world:
        scene = Scene(world)

        async def main() -> None:
            lease = await scene.won()
            if given_away:
                scene.ledger.given_away(lease.token)
            releases = "alice" if given_away else "bob"
            for token in scene.ledger.tokens.values():
                token.released["s2:6379"] = releases
            assert await scene.arrives() == {"a SET landed after its release": 1}

        world.run(main)
