"""This library, by its public API."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from pathlib import Path

import uvloop
from harness import HOST, TTL, Groups, Library, Request, aio_measured, ready, say, serve
from keeping import keeping
from kinds import kinds

from redlock_cluster import AsyncLease, AsyncSupervisor, Err, Lease, Ok, Supervisor
from redlock_cluster.wire import flight

HELD_TTL = 600
"""Seconds; for leases that are counted while they are held."""

FIRST, AT_ONCE = 1000, 10_000
"""Leases acquired and released before memory is measured, and how many are asked for in one call after that."""


def options(groups: Groups) -> dict[str, object]:
    """The options of a cluster, with every default as it is."""
    return {
        "cluster": [
            {"name": str(number), "servers": [{"host": HOST, "port": port} for port in ports]}
            for number, ports in enumerate(groups)
        ]
    }


class SyncFace:
    """`Supervisor`."""

    def __init__(self, groups: Groups) -> None:
        self._redlock = Supervisor(options(groups)).start()
        self.close = self._redlock.close

    def lock(self, resource: str) -> Lease | None:
        """The lease, or None."""
        outcome = self._redlock.lock(resource, TTL)
        return outcome.value if isinstance(outcome, Ok) else None

    def wait(self, resource: str) -> Lease:
        """The lease, at last."""
        outcome = self._redlock.lock(resource, TTL, wait=None)
        assert isinstance(outcome, Ok), outcome
        return outcome.value

    def unlock(self, resource: str, held: Lease) -> bool:
        """Whether a quorum deleted it."""
        return bool(self._redlock.unlock(resource, held))


class AioFace:
    """`AsyncSupervisor`."""

    def __init__(self, redlock: AsyncSupervisor) -> None:
        self._redlock = redlock
        self.unlock, self.close = redlock.unlock, redlock.close

    async def lock(self, resource: str) -> AsyncLease | None:
        """The lease, or None."""
        outcome = await self._redlock.lock(resource, TTL)
        return outcome.value if isinstance(outcome, Ok) else None

    async def wait(self, resource: str) -> AsyncLease:
        """The lease, at last."""
        outcome = await self._redlock.lock(resource, TTL, wait=None)
        assert isinstance(outcome, Ok), outcome
        return outcome.value


async def connect(groups: Groups) -> AioFace:
    """A supervisor in the running loop."""
    return AioFace(await AsyncSupervisor(options(groups)).start())


class ReadFace:
    """Read locks of `AsyncSupervisor`; one: all on one resource, whatever is asked for."""

    def __init__(self, redlock: AsyncSupervisor, one: bool) -> None:
        self._redlock, self._one = redlock, one
        self.close = redlock.close

    async def lock(self, resource: str) -> AsyncLease | None:
        """The lease, or None."""
        outcome = await self._redlock.lock("bench:read" if self._one else resource, TTL, mode="read")
        return outcome.value if isinstance(outcome, Ok) else None

    async def unlock(self, resource: str, held: AsyncLease) -> object:
        """True when a quorum released it."""
        return await self._redlock.unlock(held.resource, held)


def reads(request: Request) -> None:
    """As `aio` on uvloop, with read locks; `one`: all on one resource."""

    async def connected(groups: Groups) -> ReadFace:
        return ReadFace(await AsyncSupervisor(options(groups)).start(), request["one"])

    uvloop.run(aio_measured(connected, request))


class FenceFace(AioFace):
    """Fenced locks of `AsyncSupervisor`."""

    async def lock(self, resource: str) -> AsyncLease | None:
        """The lease, or None."""
        outcome = await self._redlock.lock(resource, TTL, fenced=True)
        return outcome.value if isinstance(outcome, Ok) else None


def fenced(request: Request) -> None:
    """As `aio` on uvloop, with fences."""

    async def connected(groups: Groups) -> FenceFace:
        return FenceFace(await AsyncSupervisor(options(groups)).start())

    uvloop.run(aio_measured(connected, request))


class KindsFace(SyncFace):
    """`Supervisor`, by kinds of locks."""

    def wait_for(self, kind: str, resource: str, permits: int) -> Lease:
        """The lease, at last; kind: "read", "write" or "permit"."""
        if kind == "permit":
            with_permit = self._redlock.semaphore(resource, permits, TTL, wait=None)
            with_permit.acquire()
            assert with_permit.lease is not None
            return with_permit.lease
        outcome = self._redlock.lock(resource, TTL, wait=None, mode="read" if kind == "read" else "write")
        assert isinstance(outcome, Ok), outcome
        return outcome.value


def many(request: Request) -> None:
    """`lock_many` and `unlock_many` of `batch` resources, again and again for `seconds`."""
    uvloop.run(_many(request))


async def _many(request: Request) -> None:
    async with AsyncSupervisor(options(request["groups"])) as redlock:
        await _batches(redlock, request["batch"], request["warmup"], "warm")
        await asyncio.get_running_loop().run_in_executor(None, ready)
        say(await _batches(redlock, request["batch"], request["seconds"], request["name"]))


async def _batches(redlock: AsyncSupervisor, batch: int, seconds: float, name: str) -> dict[str, object]:
    done = failures = number = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        number += 1
        resources = [f"bench:{name}:{number}:{item}" for item in range(batch)]
        leases = [outcome.value for outcome in await redlock.lock_many(resources, TTL) if isinstance(outcome, Ok)]
        released = sum(map(bool, await redlock.unlock_many(leases)))
        done, failures = done + released, failures + batch - released
    elapsed = time.perf_counter() - began
    return {
        "cycles": done,
        "elapsed": elapsed,
        "rate": done / elapsed,
        "cpu_us": (time.process_time() - cpu) / max(done, 1) * 1e6,
        "failures": failures,
        "first_failure": "of a batch, not all were locked and unlocked" if failures else "",
    }


def memory(request: Request) -> None:
    """What a held lease costs this process, in bytes: by its resident set, or as Python counts its objects."""
    uvloop.run(_memory(request))


async def _memory(request: Request) -> None:
    traced = request["traced"]
    async with AsyncSupervisor(options(request["groups"])) as redlock:
        warm, _ = await _held(redlock, "warm", min(FIRST, request["leases"]))
        await redlock.unlock_many(warm)
        warm.clear()
        await asyncio.get_running_loop().run_in_executor(None, ready)
        gc.collect()
        if traced:
            tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0] if traced else _resident()
        leases, failures = await _held(redlock, request["name"], request["leases"])
        gc.collect()
        after = tracemalloc.get_traced_memory()[0] if traced else _resident()
        tracemalloc.stop()
        say(
            {
                "bytes": (after - before) / max(len(leases), 1),
                "leases": len(leases),
                "failures": failures,
                "first_failure": failures and str(Err("a lease was refused")),
            }
        )


async def _held(redlock: AsyncSupervisor, name: str, count: int) -> tuple[list[AsyncLease], int]:
    leases: list[AsyncLease] = []
    for start in range(0, count, AT_ONCE):
        wanted = [f"bench:{name}:{number}" for number in range(start, min(start + AT_ONCE, count))]
        leases += [outcome.value for outcome in await redlock.lock_many(wanted, HELD_TTL) if isinstance(outcome, Ok)]
    return leases, count - len(leases)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    packages = ("redlock-cluster", "hiredis", "uvloop")
    about = {"engine": "interpreted" if str(flight.__file__).endswith(".py") else "compiled by mypyc"}
    more = {
        "many": many,
        "memory": memory,
        "reads": reads,
        "fenced": fenced,
        "keeping": lambda request: say(keeping(request, ready)),
        "kinds": lambda request: say(kinds(KindsFace, request, ready)),
    }
    serve(Library(packages, sync=SyncFace, aio=connect, more=more, about=about))
