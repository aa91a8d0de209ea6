"""Supervisors that nobody closed: their connections go, and it is said once."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings

import pytest
from proxied_servers import LONG, left_on, run_script
from proxy import ask

from redlock_cluster import AsyncSupervisor, Supervisor
from redlock_cluster.testing import EmbeddedCluster

pytestmark = pytest.mark.usefixtures("clean_log")


def connections(trio: EmbeddedCluster) -> int:
    """How many connections this library has to the servers."""
    lists = [ask(server.port, "CLIENT", "LIST") for server in trio.servers]
    return sum(listed.count(b"lib-name=redlock-cluster") for listed in lists if isinstance(listed, bytes))


def become(trio: EmbeddedCluster, number: int) -> bool:
    """Whether there are soon so many connections: the start waits a moment only for the last."""
    deadline = time.monotonic() + 5
    while connections(trio) != number and time.monotonic() < deadline:
        time.sleep(0.005)
    return connections(trio) == number


async def become_soon(trio: EmbeddedCluster, number: int) -> bool:
    deadline = time.monotonic() + 5
    while connections(trio) != number and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return connections(trio) == number


def test_supervisor_that_is_dropped_gives_its_connections_back_and_says_so_once(trio: EmbeddedCluster) -> None:
    redlock = Supervisor(trio.options).start()
    assert become(trio, 3)
    with pytest.warns(ResourceWarning, match="dropped and not closed") as caught:
        del redlock
        gc.collect()
    assert len(caught) == 1
    assert become(trio, 0)


async def test_asyncio_supervisor_that_is_dropped_gives_its_connections_back_and_says_so_once(
    trio: EmbeddedCluster,
) -> None:
    redlock = await AsyncSupervisor(trio.options).start()
    assert await become_soon(trio, 3)
    with pytest.warns(ResourceWarning, match="dropped and not closed") as caught:
        del redlock
        gc.collect()
    assert len(caught) == 1
    assert await become_soon(trio, 0)


def test_whatever_works_through_a_supervisor_keeps_it(trio: EmbeddedCluster) -> None:
    redlock = Supervisor(trio.options)
    kept = [redlock.deployment("default"), redlock.mutex("a", LONG, wait=0), redlock.lock("b", LONG, wait=0).value]  # type: ignore[union-attr]
    del redlock
    assert become(trio, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while len(kept) > 1:
            del kept[0]
            gc.collect()
            assert connections(trio) == 3
    kept[0].release()  # type: ignore[union-attr]
    assert left_on(trio.servers) == {}
    with pytest.warns(ResourceWarning):
        kept.clear()
        gc.collect()
    assert become(trio, 0)


async def test_whatever_works_through_an_asyncio_supervisor_keeps_it(trio: EmbeddedCluster) -> None:
    redlock = AsyncSupervisor(trio.options)
    lease = (await redlock.lock("b", LONG, wait=0)).value  # type: ignore[union-attr]
    kept = [redlock.deployment("default"), redlock.mutex("a", LONG, wait=0), lease]
    del redlock, lease
    assert await become_soon(trio, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while len(kept) > 1:
            del kept[0]
            gc.collect()
            assert connections(trio) == 3
    await kept[0].release()  # type: ignore[union-attr]
    assert left_on(trio.servers) == {}
    with pytest.warns(ResourceWarning):
        kept.clear()
        gc.collect()
    assert await become_soon(trio, 0)


def test_supervisors_that_were_closed_or_never_started_say_nothing(trio: EmbeddedCluster) -> None:
    async def closed() -> None:
        AsyncSupervisor(trio.options)
        async with AsyncSupervisor(trio.options) as other:
            del other

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Supervisor(trio.options)
        with Supervisor(trio.options) as redlock:
            del redlock
        asyncio.run(closed())
        gc.collect()
    assert become(trio, 0)


LOOPS = """
import asyncio, gc, socket, sys, threading
from redlock_cluster import *

kind, options = sys.argv[2], sys.argv[1]
hole = socket.socket()
hole.bind(("127.0.0.1", 0))
hole.listen(0)  # nobody accepts, and the queue is full: packets are dropped
full = [socket.socket() for _ in range(3)]
for each in full:
    each.setblocking(False)
    each.connect_ex(hole.getsockname())
refused = {"servers": ["redis://127.0.0.1:1"], "reconnection_interval": "60s"}
swallowed = {"servers": [f"redis://127.0.0.1:{hole.getsockname()[1]}"], "connect_timeout": "60s"}
given = {"serving": options, "waiting": refused, "connecting": swallowed}[kind]

async def use(redlock):
    starting = asyncio.ensure_future(redlock.start(given))
    await asyncio.wait({starting}, timeout=0.2)
    starting.cancel()  # the test's own task
    await asyncio.wait({starting})
    if kind == "serving":
        assert await redlock.unlock("a", (await redlock.lock("a", 30, wait=0)).value)

import redlock_cluster
for loops in (asyncio.new_event_loop, __import__("uvloop").new_event_loop):
    for _ in range(2):
        loop = loops()
        loop.run_until_complete(use(AsyncRedlock))
        loop.close()
        gc.collect()
    asyncio.run(use(AsyncRedlock))
gc.collect()
print("done")
"""


@pytest.mark.parametrize("kind", ["serving", "waiting", "connecting"])
def test_loops_closed_without_clean_up_make_no_noise(trio: EmbeddedCluster, kind: str) -> None:
    done = run_script(LOOPS, str(trio.options_path), kind, timeout=20, warnings="default")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # Loops say that sockets were not closed, which is true.
    noise = ("Task was destroyed", "Exception ignored", "never awaited", "redlock_cluster/")
    assert [line for line in done.stderr.splitlines() if any(text in line for text in noise)] == [], done.stderr
