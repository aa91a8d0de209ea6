"""Scenes of the fault tests: a group of real servers, each behind a proxy, and ways to see what is left on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from proxy import Proxy, ask, tell

import redlock_cluster
from redlock_cluster import AsyncSupervisor, GroupStatus, ServerStatus, Status, Supervisor
from redlock_cluster.core.queue import SIDE_KEYS
from redlock_cluster.testing import EmbeddedCluster, EmbeddedServer

FAST: Mapping[str, object] = {
    "server_timeout": 300,
    "connect_timeout": 800,
    "health_check_interval": 200,
    "reconnection_interval_base": 20,
    "reconnection_interval_max": 80,
    "max_retry": 2,
    "retry_interval_base": 20,
    "retry_interval_max": 60,
    "restart_guard": False,
}
"""Options with short times, so that detection and reconnection are not waited for; a bare number is milliseconds. The
servers are flushed before each test, and belong to groups of different sizes: nobody minds that they forget."""

LONG = 30.0
"""A ttl, seconds, that no test lives to see the end of: what is gone was released."""

PREFIX = "redlock:"


def milliseconds(options: Mapping[str, object], name: str) -> float:
    """An option of `FAST` or its like, in seconds."""
    value = options[name]
    assert isinstance(value, int)
    return value / 1000


def longest_refusal(options: Mapping[str, object] = FAST) -> float:
    """Seconds after which the retry policy has given up: every attempt and every interval at its longest."""
    retries = options["max_retry"]
    assert isinstance(retries, int)
    base, most = milliseconds(options, "retry_interval_base"), milliseconds(options, "retry_interval_max")
    pauses = sum(min(most, base * 2**failures) for failures in range(retries))
    return (retries + 1) * milliseconds(options, "server_timeout") + pauses


class Scene:
    """One group of servers behind proxies.

    servers, proxies: in the group's order
    options: for a supervisor that connects through the proxies
    """

    def __init__(
        self, servers: tuple[EmbeddedServer, ...], proxies: list[Proxy], options: Mapping[str, object]
    ) -> None:
        self.servers, self.proxies = servers, proxies
        self.options: dict[str, object] = {
            "cluster": [{"name": "0", "servers": [{"host": "127.0.0.1", "port": proxy.port} for proxy in proxies]}],
            **options,
        }

    def part(self, servers: int = 5, **options: object) -> Scene:
        """The first servers of it as a group of their own; `options` over `FAST`. Mends everything first."""
        self.mend()
        return Scene(self.servers[:servers], self.proxies[:servers], {**FAST, **options})

    def mend(self) -> None:
        """As it was at first: servers run and are empty, proxies have no wires and no rules."""
        for server, proxy in zip(self.servers, self.proxies, strict=True):
            if server.paused:
                server.resume()
            server.start()
            proxy.reset()
            tell(server.port, ("FLUSHALL",), ("CONFIG", "RESETSTAT"))

    def go(self) -> None:
        """Takes back all rules and lets go everything."""
        for proxy in self.proxies:
            proxy.go()

    def holding(self, *, replies: bool = False) -> int:
        """How many proxies hold something."""
        return sum(bool(proxy.holding(replies=replies)) for proxy in self.proxies)

    def left(self) -> list[set[str]]:
        """The keys on each server."""
        return [keys(server) for server in self.servers]


@contextlib.contextmanager
def scene(
    servers: int = 5,
    *,
    options: Mapping[str, object] | None = None,
    binary: str | None = None,
    persistence: bool = False,
) -> Iterator[Scene]:
    """A group of running servers, each behind a proxy; `options` over `FAST`."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(EmbeddedCluster(1, servers, binary=binary, persistence=persistence))
        proxies = [stack.enter_context(Proxy(server.port)) for server in cluster.servers]
        yield Scene(cluster.servers, proxies, {**FAST, **(options or {})})


@contextlib.contextmanager
def group_of(servers: int = 5, *, persistence: bool = False, **options: object) -> Iterator[EmbeddedCluster]:
    """A group of running servers without proxies; `options` over `FAST`."""
    with EmbeddedCluster(1, servers, options={**FAST, **options}, persistence=persistence) as cluster:
        yield cluster


# What is on the servers


def keys(server: EmbeddedServer) -> set[str]:
    """All keys of a server."""
    reply = ask(server.port, "KEYS", "*")
    assert isinstance(reply, list)
    return {key.decode() for key in reply}


def holder(server: EmbeddedServer, resource: str) -> str | None:
    """The token at a resource's key."""
    reply = ask(server.port, "GET", PREFIX + resource)
    assert reply is None or isinstance(reply, bytes)
    return None if reply is None else reply.decode()


def put_foreign(server: EmbeddedServer, resource: str, token: str = "f" * 22 + "@elsewhere:1") -> str:
    """Locks a resource on one server in the name of another client."""
    assert ask(server.port, "SET", PREFIX + resource, token, "NX", "PX", int(LONG * 1000)) == b"OK"
    return token


def field_of(info: str, name: str) -> str:
    """A value of an INFO reply."""
    return next(line.partition(":")[2] for line in info.splitlines() if line.startswith(f"{name}:"))


# Waiting


def until(condition: Callable[[], object], seconds: float = 5.0, what: str = "") -> None:
    """Polls until the condition holds; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.004)


async def soon(condition: Callable[[], object], seconds: float = 5.0, what: str = "") -> None:
    """Polls until the condition holds, and lets the loop run meanwhile; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.004)


def left_on(servers: tuple[EmbeddedServer, ...]) -> dict[str, set[str]]:
    """The servers that have keys, and which."""
    return {server.name: found for server in servers if (found := keys(server))}


def side_keys_in(found: set[str]) -> set[str]:
    """Those of queues."""
    return {key for key in found if key.encode().endswith(SIDE_KEYS)}


async def nothing_left(servers: tuple[EmbeddedServer, ...], seconds: float = 3.0) -> None:
    """Passes when no server has a lock any more; fails at the deadline, far from any ttl.

    Who could not leave a server's queue is forgotten there later.
    """
    deadline = time.monotonic() + seconds
    while left := {name: locks for name, found in left_on(servers).items() if (locks := found - side_keys_in(found))}:
        assert time.monotonic() < deadline, f"left behind after {seconds:g} s: {left}"
        await asyncio.sleep(0.01)


# What a supervisor says


def group_status(status: Status) -> GroupStatus:
    """The only group."""
    return status.clusters[0].groups[0]


def server_status(status: Status, name: str) -> ServerStatus:
    """One server of the only group."""
    return next(server for server in group_status(status).servers if server.name == name)


def states(status: Status) -> list[str]:
    """The states of the servers, in the group's order."""
    return [server.state.value for server in group_status(status).servers]


# Both faces


class Threaded:
    """The synchronous face with the methods of the asyncio one: each call blocks a thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        method = getattr(self._supervisor, name)

        async def call(*arguments: object, **named: object) -> object:
            return await asyncio.to_thread(method, *arguments, **named)

        def status() -> object:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(method).result()

        return call if name != "status" else cast(Callable[..., Awaitable[object]], status)


@contextlib.asynccontextmanager
async def supervisor_of(face: str, options: Mapping[str, object]) -> AsyncIterator[AsyncSupervisor]:
    """A started supervisor of a face, "asyncio" or "sync", whose methods are awaited (except `status`)."""
    if face == "asyncio":
        async with AsyncSupervisor(options) as supervisor:
            yield supervisor
        return
    threaded = await asyncio.to_thread(Supervisor(options).start)
    try:
        yield cast(AsyncSupervisor, Threaded(threaded))
    finally:
        await asyncio.to_thread(threaded.close)


# Logs


def assert_clean(caplog: pytest.LogCaptureFixture) -> None:
    """No task, callback or protocol of a loop has failed unheard, and nothing was logged with a traceback.

    Except for a TLS handshake that failed in the turn in which the dialing was cancelled: the loop drops its error.
    """
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    bad = [r for r in records if r.exc_info or r.levelno >= logging.ERROR]
    bad = [r for r in bad if not _dropped_handshake(r)]
    assert not bad, [(r.name, r.getMessage(), r.exc_info) for r in bad]


def _dropped_handshake(record: logging.LogRecord) -> bool:
    unheard = record.name == "asyncio" and record.getMessage().startswith("Future exception was never retrieved")
    return unheard and record.exc_info is not None and isinstance(record.exc_info[1], ssl.SSLError)


# Other processes

ROOT = Path(redlock_cluster.__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent


def start_script(code: str, *arguments: str, warnings: str = "error") -> subprocess.Popen[str]:
    """Another interpreter that runs `code`, as the leader of a process group of its own.

    arguments: `sys.argv[1:]`; warnings: what `-W` says
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    command = [sys.executable, "-X", "faulthandler", "-W", warnings, "-c", textwrap.dedent(code), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    )


def run_script(
    code: str, *arguments: str, timeout: float = 20.0, warnings: str = "error"
) -> subprocess.CompletedProcess[str]:
    """As `start_script`, and waits; one that hangs says where (in stderr), and is ended with its children."""
    with start_script(code, *arguments, warnings=warnings) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # its own group: it and its children
            out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
