"""Thousands of tasks of one process that wait for one lock: how fast they are served, what the loop and memory bear."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import uvloop
from harness import AioLocks, Figures, Library, Request

__all__ = ["queueing", "waiters"]

RESOURCE = "bench:queueing"
ALONE = 200
"""Cycles of a free resource, one after the other, that are measured first."""

SETTLE = 1.0
"""Seconds that all wait before the lock is released, or memory is measured."""

TICK = 0.001


def queueing(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """Has `tasks` tasks wait, then serves them, within `seconds`."""
    return uvloop.run(_queueing(library, request, ready))


def waiters(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """What one of `tasks` tasks costs this process while they wait, in bytes: by its resident set, or `traced`.

    They wait for a lock, or, when `bare`, for a future.
    """
    return uvloop.run(_waiters(library, request, ready))


async def _queueing(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    assert library.aio is not None
    locks = await library.aio(request["groups"])
    try:
        began = time.perf_counter()
        for number in range(ALONE):
            assert await locks.unlock(f"{RESOURCE}:{number}", await locks.wait(f"{RESOURCE}:{number}"))
        alone = ALONE / (time.perf_counter() - began)
        await asyncio.get_running_loop().run_in_executor(None, ready)
        return {**await _served(locks, request["tasks"], request["seconds"]), "alone": alone}
    finally:
        await locks.close()


class _Ticker:
    """A task that sleeps again and again: the longest time between two of its turns is the loop's longest stall."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._tick())

    def stop(self) -> float:
        """Seconds by which the longest stall exceeded a tick."""
        self._task.cancel()
        return max(self.longest - TICK, 0.0)

    async def _tick(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.longest, before = max(self.longest, now - before), now


class _Crowd:
    """The tasks, and what they count."""

    def __init__(self, locks: AioLocks) -> None:
        self._locks = locks
        self.waiting = self.served = self.lost = self.overlaps = self._inside = 0

    async def one(self) -> None:
        """Waits, has the lock for a turn of the loop, gives it back."""
        self.waiting += 1
        lock = await self._locks.wait(RESOURCE)
        self.overlaps += self._inside > 0
        self._inside += 1
        await asyncio.sleep(0)
        self._inside -= 1
        self.served += 1
        self.lost += not await self._locks.unlock(RESOURCE, lock)


async def _served(locks: AioLocks, count: int, seconds: float) -> Figures:
    crowd = _Crowd(locks)
    held = await locks.wait(RESOURCE)
    ticker = _Ticker()
    tasks = [asyncio.create_task(crowd.one()) for _ in range(count)]
    await asyncio.sleep(SETTLE)
    if crowd.waiting != count or crowd.served:
        raise RuntimeError(f"{crowd.waiting} of {count} wait, {crowd.served} were served while it was held")
    coming = ticker.stop()
    ticker = _Ticker()
    began = time.perf_counter()
    lost = not await locks.unlock(RESOURCE, held)
    _, late = await asyncio.wait(tasks, timeout=seconds)
    elapsed = time.perf_counter() - began
    going = ticker.stop()
    served = crowd.served
    for task in late:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    if crowd.overlaps:
        raise RuntimeError(f"{crowd.overlaps} tasks had the lock while another had it")
    if late:
        raise RuntimeError(
            f"{served} of {count} tasks were served within {seconds:.0f} s, the longest stall {going:.3f} s"
        )
    return {
        "rate": count / elapsed,
        "stall_begin_ms": coming * 1e3,
        "stall_ms": going * 1e3,
        "cycles": count,
        "failures": crowd.lost + lost,
        "first_failure": "a lock was lost while it was held" if crowd.lost + lost else "",
    }


async def _waiters(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    assert library.aio is not None
    count, measure = request["tasks"], _traced if request["traced"] else _resident
    locks = await library.aio(request["groups"])
    loop = asyncio.get_running_loop()
    waiting = 0

    async def one(number: int) -> None:
        nonlocal waiting
        waiting += 1
        if request["bare"]:
            await futures[number]
        else:
            await locks.wait(RESOURCE)
            raise RuntimeError("the lock was acquired while it was held")

    try:
        held = await locks.wait(RESOURCE)
        await loop.run_in_executor(None, ready)
        if request["traced"]:
            tracemalloc.start()
        before = measure()
        futures = [loop.create_future() for _ in range(count if request["bare"] else 0)]
        tasks = [loop.create_task(one(number)) for number in range(count)]
        await asyncio.sleep(SETTLE)
        cost = (measure() - before) / count
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if waiting != count or not all(isinstance(each, asyncio.CancelledError) for each in ended):
            raise RuntimeError(f"not all of {count} waited until they were cancelled")
        again = await locks.unlock(RESOURCE, held) and await locks.wait(RESOURCE)
        failures = not (again and await locks.unlock(RESOURCE, again))
        return {
            "bytes": cost,
            "cycles": count,
            "failures": int(failures),
            "first_failure": "the lock was lost, or the cancelled tasks kept it" if failures else "",
        }
    finally:
        await locks.close()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
