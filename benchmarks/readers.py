"""Times of read locks, with 1, 100 and 10,000 readers of one resource; prints a table.

    python -m benchmarks.readers [readers ...]

One caller takes and gives back a lock, again and again, on three real servers. What others hold is
written to the servers directly.
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median
from typing import Any, Final, Literal

import redis

from redlock_cluster import AsyncSupervisor
from redlock_cluster.testing import EmbeddedCluster

TIMES: Final = 2000
FAR: Final = 9e15
RESOURCE: Final = "catalogue"


def _used(client: redis.Redis) -> float:
    """Seconds of CPU time that a server has taken."""
    cpu: Any = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


async def measured(
    cluster: EmbeddedCluster, mode: Literal["read", "write"], readers: int
) -> tuple[float, float, float]:
    """Microseconds of a lock with its release: the median and p99 for the caller, and of a server's time."""
    clients = [redis.Redis("127.0.0.1", server.port) for server in cluster.servers]
    key = f"redlock:{RESOURCE}"
    for client in clients:
        client.flushall()
        for start in range(0, readers - 1, 1000):
            client.zadd(key, {f"{number:022}@another": FAR for number in range(start, min(start + 1000, readers - 1))})
    async with AsyncSupervisor(cluster.options) as supervisor:
        times, before = [], [0.0]
        for turn in range(TIMES + 200):
            if turn == 200:
                before = [_used(client) for client in clients]
            began = time.perf_counter()
            lease = (await supervisor.lock(RESOURCE, 30, wait=0, mode=mode)).value  # type: ignore[union-attr]
            await supervisor.unlock(RESOURCE, lease)
            times.append(time.perf_counter() - began)
        server = sum(_used(client) - then for client, then in zip(clients, before, strict=True))
    used = sorted(times[200:])
    return median(used) * 1e6, used[-len(used) // 100] * 1e6, server / len(clients) / TIMES * 1e6


def main(numbers: list[int]) -> None:
    """Measure and print."""
    print("| lock and release | median, µs | p99, µs | of each server, µs |")
    print("| --- | --- | --- | --- |")
    with EmbeddedCluster(groups=1, servers=3) as cluster:
        kinds: list[tuple[Literal["read", "write"], int]] = [("write", 0), *(("read", number) for number in numbers)]
        for mode, number in kinds:
            middle, late, server = asyncio.run(measured(cluster, mode, number))
            what = "a mutex" if mode == "write" else f"the reader of {number:,}"
            print(f"| {what} | {middle:.0f} | {late:.0f} | {server:.1f} |", flush=True)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [1, 100, 10_000])
