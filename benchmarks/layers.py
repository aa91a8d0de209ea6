"""Where the time of a lock+unlock cycle is spent, layer by layer: `python -m benchmarks.layers`.

A timer of this process's processor time interrupts it every millisecond and notes which function of which file runs.
Time in C code (system calls, the parser, the loop) counts for the function that called it. Each share, times the
processor time of a cycle, gives µs per cycle.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import uvloop

import redlock_cluster
from redlock_cluster import AsyncSupervisor
from redlock_cluster.testing import EmbeddedCluster

_PACKAGE = Path(redlock_cluster.__file__).parent
_TASKS, _CYCLES, _BATCH = 200, 300_000, 10_000

_COMMANDS, _ROUNDS, _VOTES = "tokens, keys, commands", "rounds", "counting votes"
_LEASES, _REPLIES, _WRITES = "leases and results", "parsing and matching replies", "system calls: writes"

_FUNCTIONS = {"write": _WRITES, "write_series": _WRITES, "flush": _WRITES}
_FILES = {
    "core/dialect.py": _COMMANDS,
    "core/exclusive.py": _COMMANDS,
    "core/resource.py": _COMMANDS,
    "core/ring.py": _COMMANDS,
    "core/token.py": _COMMANDS,
    "core/mode.py": _VOTES,
    "core/tally.py": _VOTES,
    "wire/flight.py": _VOTES,
    "engine/acquire.py": _ROUNDS,
    "engine/bulk.py": _ROUNDS,
    "engine/chunk.py": _ROUNDS,
    "engine/comparison.py": _ROUNDS,
    "engine/group.py": _ROUNDS,
    "engine/release.py": _ROUNDS,
    "engine/round.py": _ROUNDS,
    "wire/pipeline.py": _ROUNDS,
    "wire/connection.py": _REPLIES,
    "wire/deadlines.py": "deadlines",
    "core/lease_record.py": _LEASES,
    "handles/lease.py": _LEASES,
    "results.py": _LEASES,
}


class _Sampler:
    """Counts, by layer, where the timer finds the process."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __call__(self, _: int, frame: FrameType | None) -> None:
        self.found[_layer(frame)] += 1

    def report(self, title: str, cycles: int, seconds: float) -> None:
        total = sum(self.found.values())
        print(f"\n{title}: {seconds / cycles * 1e6:.1f} µs of processor time a cycle\n\n| layer | µs |\n| --- | --- |")
        for layer, number in self.found.most_common():
            print(f"| {layer} | {number / total * seconds / cycles * 1e6:.1f} |")


def _layer(frame: FrameType | None) -> str:
    if frame is None:
        return "loop and tasks"
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(_PACKAGE):
        # the caller's own code, where no frame of ours or of the loop is on top
        return "the benchmark itself" if path == Path(__file__) else "loop and tasks, reads"
    name = path.relative_to(_PACKAGE).as_posix()
    return _FUNCTIONS.get(frame.f_code.co_name) or _FILES.get(name, "calls: supervisor, routing, waiting")


async def _tasks(redlock: AsyncSupervisor) -> int:
    async def work(number: int) -> None:
        for cycle in range(_CYCLES // _TASKS):
            name = f"r{number}:{cycle}"
            result = await redlock.lock(name, 10)
            assert result
            await redlock.unlock(name, result.value)

    await asyncio.gather(*(work(number) for number in range(_TASKS)))
    return _CYCLES


async def _batches(redlock: AsyncSupervisor) -> int:
    names = [f"b{number}" for number in range(_BATCH)]
    for _ in range(_CYCLES // _BATCH):
        results = await redlock.lock_many(names, 10)
        assert all(await redlock.unlock_many(result.value for result in results if result))
    return _CYCLES


async def _measure() -> None:
    with EmbeddedCluster(1, 5) as cluster:
        async with AsyncSupervisor(cluster.options) as redlock:
            for title, run in (("200 tasks", _tasks), ("batches of 10,000", _batches)):
                sampler = _Sampler()
                signal.signal(signal.SIGPROF, sampler)
                began = time.process_time()
                signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
                cycles = await run(redlock)
                signal.setitimer(signal.ITIMER_PROF, 0)
                sampler.report(title, cycles, time.process_time() - began)


if __name__ == "__main__":
    uvloop.run(_measure())
