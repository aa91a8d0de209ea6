"""Thousands of leases that one process keeps: none is lost, what that costs, and what others feel of it."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import uvloop
from harness import HOST, TTL, Figures, Request, quantile

from redlock_cluster import AsyncLease, AsyncSupervisor, Ok

__all__ = ["keeping"]

FIRST, AT_ONCE = 1000, 1000
"""Leases acquired and released before anything is measured, and how many are asked for at once after that."""

PAUSE = 0.01
"""Seconds between two cycles of the task beside."""


def keeping(request: Request, ready: Callable[[], None]) -> Figures:
    """Has `leases` leases extend themselves for `ttls` times their `ttl`.

    A task beside locks and unlocks other resources, for a ttl before them, while they are held, and for a ttl after
    them. When `traced`, memory is what Python counts, which costs time, so that nothing else is worth looking at.
    """
    return uvloop.run(_keeping(request, ready))


async def _keeping(request: Request, ready: Callable[[], None]) -> Figures:
    count, ttl, measure = request["leases"], request["ttl"], _traced if request["traced"] else _resident
    cluster = [{"name": "five", "servers": [{"host": HOST, "port": port} for port in request["groups"][0]]}]
    async with AsyncSupervisor({"cluster": cluster}) as redlock:
        await redlock.unlock_many(await _acquired(redlock, "warm", min(FIRST, count), ttl))
        await asyncio.get_running_loop().run_in_executor(None, ready)
        beside = _Beside(redlock)
        alone = await beside.measured(ttl, "before")
        if request["traced"]:
            tracemalloc.start()
        before = measure()
        leases = await _acquired(redlock, request["name"], count, ttl)
        with_them = await beside.measured(ttl * request["ttls"], "beside")
        kept = measure()
        tracemalloc.stop()
        lost = sum(not released for released in await redlock.unlock_many(leases))
        alone.more(await beside.measured(ttl, "after"))
    failures = lost + beside.failures
    return {
        "cpu": with_them.cpu / with_them.elapsed * 100,
        "bytes": (kept - before) / count,
        "writes": with_them.writes / with_them.elapsed,
        "alone_p50_us": alone.quantile(0.5),
        "beside_p50_us": with_them.quantile(0.5),
        "alone_p99_us": alone.quantile(0.99),
        "beside_p99_us": with_them.quantile(0.99),
        "lost": lost,
        "cycles": count,
        "failures": failures,
        "first_failure": "a lease was lost, or a lock beside it was refused" if failures else "",
    }


async def _acquired(redlock: AsyncSupervisor, name: str, count: int, ttl: float) -> list[AsyncLease]:
    leases: list[AsyncLease] = []
    for start in range(0, count, AT_ONCE):
        wanted = [f"bench:{name}:{number}" for number in range(start, min(start + AT_ONCE, count))]
        outcomes = await asyncio.gather(*(redlock.lock(resource, ttl, auto_extend=True) for resource in wanted))
        leases += [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]
    if len(leases) != count:
        raise RuntimeError(f"{len(leases)} of {count} leases were acquired")
    return leases


class _Phase:
    """What was measured while a task locked and unlocked: seconds, of the processor too; writes; times of cycles."""

    def __init__(self, elapsed: float, cpu: float, writes: int, times: array[float]) -> None:
        self.elapsed, self.cpu, self.writes, self.times = elapsed, cpu, writes, times

    def more(self, other: _Phase) -> None:
        """Adds the times of another one."""
        self.times.extend(other.times)

    def quantile(self, share: float) -> float:
        """Of the cycles, µs."""
        return quantile(sorted(self.times), share) * 1e6


class _Beside:
    """A task that locks and unlocks free resources, one at a time."""

    def __init__(self, redlock: AsyncSupervisor) -> None:
        self._redlock = redlock
        self.failures = 0

    async def measured(self, seconds: float, name: str) -> _Phase:
        """Cycles for so many seconds."""
        redlock, times, number = self._redlock, array("d"), 0
        began, cpu, writes = time.perf_counter(), time.process_time(), _writes()
        while (now := time.perf_counter()) < began + seconds:
            number += 1
            resource = f"bench:{name}:{number}"
            outcome = await redlock.lock(resource, TTL)
            if isinstance(outcome, Ok) and await redlock.unlock(resource, outcome.value):
                times.append(time.perf_counter() - now)
            else:
                self.failures += 1
            await asyncio.sleep(PAUSE)
        return _Phase(time.perf_counter() - began, time.process_time() - cpu, _writes() - writes, times)


def _writes() -> int:
    """System calls by which this process has written; asyncio's own loop sends instead, which is not counted."""
    text = Path("/proc/self/io").read_text()
    return int(text.partition("syscw:")[2].split()[0])


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
