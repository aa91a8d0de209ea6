"""The engine's tests run in virtual time: what comes after 20 ms comes after exactly 20 ms, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redlock_cluster.testing.simulation import VirtualLoop

LONGEST = 3600.0
"""Seconds of virtual time that no test needs: health checks go on for ever, so without it nothing would end one that
waits for what can't come."""


class ImpatientLoop(VirtualLoop):
    def __init__(self) -> None:
        super().__init__()
        self.call_later(LONGEST, self._give_up)

    def _give_up(self) -> None:
        for task in asyncio.all_tasks(self):
            task.cancel(f"nothing came of it within {LONGEST:g} s of virtual time")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": ImpatientLoop}
