"""What every contestant's script shares: the loops that are timed, and the protocol with the bench.

Runs in each peer's own virtual environment, so it needs only the standard library. One JSON object a line:

    contestant          bench
    hello, versions
                        what to measure
    ready                               connected and warmed up
                        go              the bench may pause a server before
    figures
    closed              (next, or end of input)

A cycle is one lock and one unlock, both of them known to have succeeded; everything else is a failure and is counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

__all__ = [
    "HOST",
    "TTL",
    "AioLocks",
    "Groups",
    "Library",
    "Request",
    "SyncLocks",
    "Tally",
    "aio_measured",
    "quantile",
    "serve",
]

HOST = "127.0.0.1"
TTL = 10
"""Seconds; the same for everybody, and far longer than any measurement keeps a lock."""

Groups = Sequence[Sequence[int]]
"""Ports of the servers, by group. Peers know one group."""

Request = Mapping[str, Any]
Figures = dict[str, Any]


class SyncLocks(Protocol):
    """One connected client of a library, shared by the threads of a measurement."""

    def lock(self, resource: str) -> object | None:
        """What the library returns for a lock, or None when it was refused; may raise."""

    def wait(self, resource: str) -> object:
        """The same, without a limit of time."""

    def unlock(self, resource: str, held: Any) -> bool:
        """Whether the library says that the lock was released; may raise."""

    def close(self) -> None:
        """Closes the connections."""


class AioLocks(Protocol):
    """The same for a library of coroutines."""

    async def lock(self, resource: str) -> object | None:
        """What the library returns for a lock, or None when it was refused; may raise."""

    async def wait(self, resource: str) -> object:
        """The same, without a limit of time."""

    async def unlock(self, resource: str, held: Any) -> object:
        """True when the library says that the lock was released; may raise."""

    async def close(self) -> None:
        """Closes the connections."""


@dataclass(frozen=True)
class Library:
    """How a library is driven.

    packages: distributions whose versions are shown
    sync, aio: connect to groups of servers
    more: operations that only this library has
    about: other facts that are shown
    """

    packages: Sequence[str]
    sync: Callable[[Groups], SyncLocks] | None = None
    aio: Callable[[Groups], Awaitable[AioLocks]] | None = None
    more: Mapping[str, Callable[[Request], None]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


class Tally:
    """Counts finished cycles, the seconds of each, and what failed."""

    def __init__(self) -> None:
        self.times = array("d")
        self.failures = 0
        self.first_failure = ""

    def failed(self, why: object) -> None:
        """Counts a lock or an unlock that did not succeed."""
        self.failures += 1
        self.first_failure = self.first_failure or str(why)[:200]

    def figures(self, elapsed: float, cpu: float) -> Figures:
        """The figures for the bench.

        elapsed: seconds on the wall
        cpu: seconds of this process's processor time
        """
        times = sorted(self.times)
        return {
            "cycles": len(times),
            "elapsed": elapsed,
            "rate": len(times) / elapsed,
            "p50_us": quantile(times, 0.5) * 1e6,
            "p99_us": quantile(times, 0.99) * 1e6,
            "cpu_us": cpu / max(len(times), 1) * 1e6,
            "failures": self.failures,
            "first_failure": self.first_failure,
        }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the ordered values do not exceed; 0 when there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


_bench = 1


def say(message: Figures) -> None:
    """Sends one line to the bench."""
    os.write(_bench, json.dumps(message).encode() + b"\n")


def ready() -> None:
    """Reports to the bench that all is warm, and waits for its answer."""
    say({"event": "ready"})
    sys.stdin.readline()


def serve(library: Library) -> None:
    """Does what the bench asks for, until it closes this process's input."""
    global _bench
    _bench = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not mix with the figures
    versions = {"python": platform.python_version(), **{name: version(name) for name in library.packages}}
    say({"packages": {**versions, **library.about}})
    while line := sys.stdin.readline():
        request = json.loads(line)
        try:
            _operation(library, request["op"])(request)
        except Exception as error:  # noqa: BLE001 - the results show whatever stops a library
            say({"error": f"{type(error).__name__}: {error}"[:300]})
        say({"event": "closed"})


_WAITING = {
    "contend": "contention",
    "wakeup": "wakeup",
    "crowd": "crowd",
    "queueing": "queueing",
    "waiters": "queueing",
}
"""Operations that have a module, whose function of the same name returns the figures."""


def _operation(library: Library, name: str) -> Callable[[Request], None]:
    if name in _WAITING:
        measure = getattr(import_module(_WAITING[name]), name)
        return lambda request: say(measure(library, request, ready))
    shared = {"sync": _sync, "aio": _aio}
    if name in shared:
        return lambda request: shared[name](library, request)
    return library.more[name]


def _sync(library: Library, request: Request) -> None:
    if library.sync is None:
        raise ValueError("this library has no synchronous locks")
    locks = library.sync(request["groups"])
    try:
        _threads(locks, request["workers"], request["warmup"], "warm")
        ready()
        say(_threads(locks, request["workers"], request["seconds"], request["name"]))
    finally:
        locks.close()


def _threads(locks: SyncLocks, workers: int, seconds: float, name: str) -> Figures:
    tallies = [Tally() for _ in range(workers)]
    began, cpu = time.perf_counter(), time.process_time()
    jobs = [(locks, f"bench:{name}:{number}", began + seconds, tally) for number, tally in enumerate(tallies)]
    if workers == 1:
        _sync_cycles(*jobs[0])
    else:
        threads = [threading.Thread(target=_sync_cycles, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return _joined(tallies).figures(time.perf_counter() - began, time.process_time() - cpu)


def _joined(tallies: Sequence[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.times.extend(tally.times)
        whole.failures += tally.failures
        whole.first_failure = whole.first_failure or tally.first_failure
    return whole


def _sync_cycles(locks: SyncLocks, name: str, deadline: float, tally: Tally) -> None:
    number = 0
    while (began := time.perf_counter()) < deadline:
        number += 1
        resource = f"{name}:{number}"
        try:
            held = locks.lock(resource)
            if held is None:
                tally.failed("a free lock was refused")
            elif locks.unlock(resource, held):
                tally.times.append(time.perf_counter() - began)
            else:
                tally.failed("an unlock was refused")
        except Exception as error:  # noqa: BLE001 - each library has its own exceptions; all of them are failures
            tally.failed(f"{type(error).__name__}: {error}")


def _aio(library: Library, request: Request) -> None:
    if library.aio is None:
        raise ValueError("this library has no asyncio locks")
    runner = asyncio.run
    if request["loop"] == "uvloop":
        import uvloop

        runner = uvloop.run
    runner(aio_measured(library.aio, request))


async def aio_measured(connect: Callable[[Groups], Awaitable[AioLocks]], request: Request) -> None:
    """Measures cycles of `workers` tasks for `seconds`, and says the figures."""
    locks = await connect(request["groups"])
    try:
        await _tasks(locks, request["workers"], request["warmup"], "warm")
        await asyncio.get_running_loop().run_in_executor(None, ready)
        say(await _tasks(locks, request["workers"], request["seconds"], request["name"]))
    finally:
        await locks.close()


async def _tasks(locks: AioLocks, workers: int, seconds: float, name: str) -> Figures:
    tally = Tally()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(
        *(_aio_cycles(locks, f"bench:{name}:{number}", began + seconds, tally) for number in range(workers))
    )
    return tally.figures(time.perf_counter() - began, time.process_time() - cpu)


async def _aio_cycles(locks: AioLocks, name: str, deadline: float, tally: Tally) -> None:
    number = 0
    while (began := time.perf_counter()) < deadline:
        number += 1
        resource = f"{name}:{number}"
        try:
            held = await locks.lock(resource)
            if held is None:
                tally.failed("a free lock was refused")
            elif await locks.unlock(resource, held):
                tally.times.append(time.perf_counter() - began)
            else:
                tally.failed("an unlock was refused")
        except Exception as error:  # noqa: BLE001 - each library has its own exceptions; all of them are failures
            tally.failed(f"{type(error).__name__}: {error}")
