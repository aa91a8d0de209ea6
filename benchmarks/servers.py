"""The servers that everybody is measured on, and what the C benchmark program gets out of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from redis import Redis

from benchmarks.runners import Failed, Figures
from redlock_cluster.testing import EmbeddedCluster, EmbeddedServer

__all__ = ["Servers", "limit_version", "servers"]

_TOKEN: Final = "0123456789abcdefghijkl@benchmark:12345"
_KEY: Final = "redlock:bench:limit:__rand_int__"
_FILL: Final = """
for number = ARGV[1], ARGV[2] do
    redis.call('set', 'filler:' .. string.format('%.0f', number), ARGV[3], 'px', 3600000)
end
"""
_CHUNK: Final = 50_000


class Servers:
    """Groups of running servers, without persistence.

    cluster: started
    """

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self.groups = [[server.port for server in group] for group in cluster.groups]
        self.version = cluster.servers[0].version

    @property
    def first(self) -> EmbeddedServer:
        """One of the first group's servers, to be paused or killed."""
        return self._cluster.groups[0][0]

    def flush(self) -> None:
        """Empties every server, and returns when the memory is free too."""
        self._everywhere(lambda client: client.flushall(asynchronous=False))

    def left(self) -> int:
        """How many of the contestants' keys are held on a quorum of the first group: unlocks that did nothing."""
        found = Counter[bytes]()
        for port in self.groups[0]:
            with Redis(port=port) as client:
                found.update(set(client.scan_iter(match="*bench:*", count=1000)))
        quorum = len(self.groups[0]) // 2 + 1
        return sum(count >= quorum and not key.startswith(b"lock-signal:") for key, count in found.items())

    def fill(self, keys: int) -> None:
        """Lets every server hold that many keys besides, each with a ttl of an hour."""

        def fill(client: Redis) -> None:
            for start in range(1, keys + 1, _CHUNK):
                client.eval(_FILL, 0, start, min(start + _CHUNK - 1, keys), _TOKEN)

        self._everywhere(fill)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Holds one server still meanwhile: connected, and silent."""
        self.first.pause()
        try:
            yield
        finally:
            self.first.resume()

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Kills one server; it comes back empty afterwards."""
        self.first.kill()
        try:
            yield
        finally:
            self.first.start()

    def limit(self, cycles: int) -> Figures:
        """What redis-benchmark reaches with the commands of a cycle: SET on all servers at once, then DELIFEQ.

        cycles: how many on each server. Raises Failed when the program is missing or fails.

        Its keys are random: a third of its SETs find the key held, three fifths of its DELIFEQ find it gone. These
        cost a server less, which makes the limit a little too high, and shares of it too low.
        """
        program = _program()
        acquire = self._flood(program, cycles, "SET", _KEY, _TOKEN, "NX", "GET", "PX", "10000")
        release = self._flood(program, cycles, "DELIFEQ", _KEY, _TOKEN)
        elapsed = acquire + release
        return {"cycles": cycles, "elapsed": elapsed, "rate": cycles / elapsed, "failures": 0, "first_failure": ""}

    def _flood(self, program: str, count: int, *command: str) -> float:
        """Seconds until the last of the servers has answered all."""
        began = time.perf_counter()
        processes = [
            subprocess.Popen(
                [program, "-p", str(port), "-P", "64", "-n", str(count), "-r", str(count), "-q", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for port in self.groups[0]
        ]
        outputs = [process.communicate()[0] for process in processes]
        elapsed = time.perf_counter() - began
        if any(process.returncode for process in processes) or any(b"rror" in output for output in outputs):
            raise Failed(f"redis-benchmark: {outputs[0][-200:]!r}")
        return elapsed

    def _everywhere(self, act: Callable[[Redis], object]) -> None:
        def one(port: int) -> None:
            with Redis(port=port, socket_timeout=60) as client:
                act(client)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(one, [port for ports in self.groups for port in ports]))


def _program() -> str:
    if program := shutil.which("redis-benchmark") or shutil.which("valkey-benchmark"):
        return program
    raise Failed("there is no redis-benchmark on PATH")


def limit_version() -> str:
    """The version of the C program. Raises Failed when there is none."""
    done = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().rpartition(" ")[2]


@contextmanager
def servers(groups: int = 1, size: int = 5) -> Iterator[Servers]:
    """Running servers in groups, gone afterwards; `save ""`, `appendonly no`."""
    with EmbeddedCluster(groups=groups, servers=size, config={"save": "", "appendonly": "no"}) as cluster:
        yield Servers(cluster)
