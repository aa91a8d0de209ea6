"""Others who use the servers: by hand, or a client that knows of no queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation import SimulatedServer, stream

if TYPE_CHECKING:
    from .scene import Scene

LEGACY_TTL = 0.3


class Legacy:
    """A client that knows of no queue, one of the last version: SET, and DELIFEQ, to each server in its own time."""

    def __init__(self, scene: Scene, resource: str) -> None:
        self._scene, self._resource = scene, resource
        self._random = stream(scene.plan.seed, f"legacy {resource}")
        self._number = 0

    async def live(self, until: Callable[[], bool], freed: Callable[[], None]) -> None:
        """Locks and unlocks until it is told to end."""
        while not until():
            await asyncio.sleep(0.02 * self._random.random())
            if await self._acquire(freed):
                self._scene.history.count("locks of clients that know of no queue")

    async def _acquire(self, freed: Callable[[], None]) -> bool:
        scene, resource = self._scene, self._resource
        self._number += 1
        token = b"legacy%016d@legacy" % self._number
        until = scene.world.loop.time() + LEGACY_TTL * 0.9
        words = [b"SET", resource.encode(), token, b"NX", b"PX", b"%d" % (LEGACY_TTL * 1000)]
        granted = [await self._say(server, words) == b"+OK\r\n" for server in self._shuffled()]
        won = sum(granted) >= scene.plan.quorum
        if won:
            section = scene.section("legacy", resource, until)
            await asyncio.sleep(0.01 * self._random.random())
            section.over = True
            freed()
        for server in self._shuffled():
            await asyncio.sleep(0.001 * self._random.random())
            delete(server, resource, token)
        return won

    def _shuffled(self) -> list[SimulatedServer]:
        return self._random.sample(self._scene.world.servers, self._scene.plan.size)

    async def _say(self, server: SimulatedServer, words: list[bytes]) -> bytes:
        await asyncio.sleep(0.001 * self._random.random())
        return tell(server, words)


def tell(server: SimulatedServer, *commands: list[bytes]) -> bytes:
    """Has a server execute commands of somebody outside, if it can; the last reply, b"" if it can't."""
    if not server.host.up or server.host.frozen:
        return b""
    session = server.model.connect(lambda _: None, lambda: None)
    reply = b""
    for words in commands:
        reply = session.execute(words)
    session.close()
    if server.host.on_served is not None:
        server.host.on_served()
    return reply


def delete(server: SimulatedServer, resource: str, token: bytes) -> None:
    """Deletes a lock by hand if it is somebody's."""
    if server.model.keys().get(resource.encode()) == token:
        tell(server, [b"DEL", resource.encode()])


def limit_memory(servers: Sequence[SimulatedServer], size: bytes) -> None:
    """With b"1" they are full, with b"0" they are not."""
    for server in servers:
        server.model.config[b"maxmemory"] = size
