"""The demo's failure: one server of each group is killed, and restarted empty when that is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redlock_cluster.cli.demo import AWAY, BEGIN
from redlock_cluster.testing import EmbeddedCluster

__all__ = ["Outage"]

_LENGTH: Final = 0.35
_SETTLE: Final = 0.5


class Outage:
    """Kills and restarts servers at their times, and counts what each group did meanwhile.

    cluster: the servers
    seconds: length of the demo
    count: returns the critical sections so far, by group

    worked: sections by group while the server was away, None before its restart; without the first moments, because
        sections that end then may have begun before
    """

    def __init__(self, cluster: EmbeddedCluster, seconds: float, count: Callable[[], list[int]]) -> None:
        self._count = count
        self._victims = [group[index % len(group)] for index, group in enumerate(cluster.groups)]
        self._kill_at = seconds * BEGIN
        self._back_at = self._kill_at + max(AWAY, seconds * _LENGTH)
        self._before: list[int] | None = None
        self._killed = False
        self.worked: list[int] | None = None

    def advance(self, elapsed: float) -> str:
        """Do what is due after `elapsed` seconds. Returns what was done, in words, or ""."""
        if not self._killed and elapsed >= self._kill_at:
            return self._kill()
        if self._killed and self._before is None and elapsed >= self._kill_at + _SETTLE:
            self._before = self._count()
        if self._before is not None and self.worked is None and elapsed >= self._back_at:
            self.worked = [now - then for now, then in zip(self._count(), self._before, strict=True)]
            return self._restart()
        return ""

    def _kill(self) -> str:
        self._killed = True
        for server in self._victims:
            server.kill()
        return f"killed {self._names()}, one server of each group"

    def _restart(self) -> str:
        for server in self._victims:
            server.launch()
        for server in self._victims:
            server.wait_ready()
        forgot = "they grant no lock until those are over that they forgot"
        return f"started {self._names()} again, empty: {forgot}"

    def _names(self) -> str:
        return ", ".join(str(server.port) for server in self._victims)
