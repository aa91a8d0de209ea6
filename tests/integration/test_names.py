"""Servers by name: names that hang, move or have several addresses hurt nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from proxied_servers import (
    FAST,
    LONG,
    Scene,
    group_of,
    group_status,
    run_script,
    scene,
    server_status,
    soon,
    states,
    supervisor_of,
)
from resolver import AGAIN, LOOPS, Resolver, resolver, swallowing

from redlock_cluster import AsyncSupervisor, Ok

pytestmark = pytest.mark.usefixtures("clean_debug_log")

FACES = ("asyncio", "sync")


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene(3) as stage:
        yield stage


@pytest.fixture
def three(stage: Scene) -> Scene:
    return stage.part(3, pool_size=1)


@pytest.fixture
def names() -> Iterator[Resolver]:
    with resolver() as made:
        yield made


def named(names: Resolver, title: str, scene: Scene) -> list[dict[str, object]]:
    """The servers of a scene by names of their own, which lead to their proxies."""
    hosts = [f"{title}-{i}.test" for i in range(len(scene.proxies))]
    names.table.update({host: ["127.0.0.1"] for host in hosts})
    return [{"host": host, "port": proxy.port} for host, proxy in zip(hosts, scene.proxies, strict=True)]


async def locks(redlock: AsyncSupervisor, resource: str = "a") -> None:
    outcome = await redlock.lock(resource, LONG, wait=2)
    assert isinstance(outcome, Ok), outcome
    assert await redlock.unlock(resource, outcome.value) == Ok(None)


def reconnects(redlock: AsyncSupervisor) -> list[int]:
    return [server.reconnects for server in group_status(redlock.status()).servers]


@pytest.mark.parametrize("face", FACES)
async def test_names_that_hang_hold_up_neither_the_start_nor_reconnections_of_others(
    three: Scene, names: Resolver, face: str
) -> None:
    servers = named(names, f"well-{face}", three)
    dead = [f"dead-{face}-{i}.test" for i in range(2)]
    names.hang(*dead)
    options = {**FAST, "pool_size": 4, "connect_timeout": 10_000, "servers": [*servers, *({"host": h} for h in dead)]}
    async with supervisor_of(face, options) as redlock:
        assert states(redlock.status()) == ["up"] * 3 + ["connecting"] * 2
        await locks(redlock)
        for cut in range(1, 4):
            for proxy in three.proxies:
                proxy.cut()
            await soon(lambda cut=cut: reconnects(redlock)[:3] == [4 * cut] * 3)  # type: ignore[misc]
            await locks(redlock)
        assert [names.asked.count(host) for host in dead] == [1, 1]
        assert await asyncio.wait_for(asyncio.to_thread(int), 5) == 0


@pytest.mark.parametrize("face", FACES)
async def test_name_that_hangs_is_told_and_used_when_it_is_found(three: Scene, names: Resolver, face: str) -> None:
    servers = named(names, f"late-{face}", three)
    late = str(servers[2]["host"])
    names.hang(late)
    async with supervisor_of(face, {**FAST, "connect_timeout": 100, "servers": servers}) as redlock:
        name = f"{late}:{three.proxies[2].port}"
        await soon(lambda: server_status(redlock.status(), name).last_error)
        telling = f"no connection within the connect timeout: still looking up the name {late}"
        assert server_status(redlock.status(), name).last_error == telling
        names.let_go(late)
        await soon(lambda: states(redlock.status()) == ["up"] * 3)


@pytest.mark.parametrize("face", FACES)
async def test_server_is_reached_again_by_its_addresses_of_before_while_names_hang_or_fail(
    three: Scene, names: Resolver, face: str
) -> None:
    servers = named(names, f"before-{face}", three)
    async with supervisor_of(face, {**FAST, "servers": servers}) as redlock:
        for server in servers[:2]:
            names.hang(str(server["host"]))
        names.table[str(servers[2]["host"])] = AGAIN
        for proxy in three.proxies:
            proxy.cut()
        await soon(lambda: reconnects(redlock) == [1] * 3)
        await locks(redlock)


@pytest.mark.parametrize("face", FACES)
async def test_name_that_moved_is_followed_at_the_next_connection(three: Scene, names: Resolver, face: str) -> None:
    servers, moving = named(names, f"moved-{face}", three), f"moved-{face}-0.test"
    with swallowing(three.proxies[0].port):
        async with supervisor_of(face, {**FAST, "servers": servers}) as redlock:
            await locks(redlock)
            names.table[moving] = ["127.0.0.9"]  # where nobody answers
            three.proxies[0].cut()
            await soon(lambda: states(redlock.status())[0] == "down")
            name = f"{moving}:{three.proxies[0].port}"
            await soon(lambda: "127.0.0.9" in server_status(redlock.status(), name).last_error)
            assert server_status(redlock.status(), name).last_error == (
                f"no connection within the connect timeout: still connecting to {moving} (127.0.0.9)"
            )
            names.table[moving] = ["127.0.0.9", "127.0.0.1"]
            await soon(lambda: states(redlock.status()) == ["up"] * 3)
            await locks(redlock)


@pytest.mark.parametrize("face", FACES)
async def test_server_that_swallows_everything_does_not_hold_up_the_first_call(face: str) -> None:
    with group_of(4) as cluster, swallowing() as hole:
        servers = [{"port": server.port} for server in cluster.servers]
        options = {**FAST, "servers": [*servers, {"host": "127.0.0.9", "port": hole}], "connect_timeout": "60s"}
        async with asyncio.timeout(30):  # far from both the grace and the connect timeout
            async with supervisor_of(face, options) as redlock:
                await locks(redlock)
                assert states(redlock.status()) == ["up"] * 4 + ["connecting"]


EXITS = """
    import asyncio, socket, sys, threading
    from redlock_cluster import AsyncSupervisor, Supervisor

    real = socket.getaddrinfo

    def look_up(host, *more, **named):
        if host.endswith(".test"):
            threading.Event().wait()
        return real(host, *more, **named)

    socket.getaddrinfo = look_up
    servers = [{"port": int(port)} for port in sys.argv[2:]] + [{"host": "a.test"}, {"host": "b.test"}]
    options = {"servers": servers, "restart_guard": False}  # for the first time, with servers that can't be reached

    async def main():
        async with AsyncSupervisor(options) as redlock:
            assert await redlock.lock("a", 10, wait=0)

    if sys.argv[1] == "asyncio":
        asyncio.run(main())
    elif sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        redlock = Supervisor(options).start()
        assert redlock.lock("a", 10, wait=0)
        if sys.argv[1] == "fork":
            import os
            child = os.fork()
            if not child:
                assert redlock.lock("b", 10, wait=0)
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("kind", [*LOOPS, "sync", "fork"])
def test_process_whose_names_hang_exits(three: Scene, kind: str) -> None:
    done = run_script(EXITS, kind, *(str(server.port) for server in three.servers), timeout=20, warnings="default")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("patch", ["all()", "all(thread=False)"])
def test_gevent_process_reaches_servers_by_name_and_keeps_nothing_of_a_look_up(three: Scene, patch: str) -> None:
    pytest.importorskip("gevent")
    done = run_script(
        f"""
        from gevent import monkey
        monkey.patch_{patch}
        import gc, os, socket, sys, time
        from redlock_cluster import Supervisor

        def open_files():
            gc.collect()
            return len(os.listdir("/dev/fd"))

        servers = [{{"host": "localhost", "port": int(port)}} for port in sys.argv[1:]]
        with Supervisor({{"servers": servers, "reconnection_interval": 5}}) as redlock:
            before = open_files()
            for reconnects in range(1, 9):
                for server in servers:
                    with socket.create_connection(("127.0.0.1", server["port"])) as admin:
                        admin.sendall(b"CLIENT KILL TYPE pubsub SKIPME yes\\r\\n")
                        admin.recv(99)
                while any(s.reconnects < reconnects for s in redlock.status().clusters[0].groups[0].servers):
                    time.sleep(0.005)
            assert redlock.lock("a", 10, wait=0)
            assert open_files() < before + 8, (before, open_files())
        """,
        *(str(server.port) for server in three.servers),
        warnings="default",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
