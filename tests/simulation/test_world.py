"""The simulated world as a user's test has it: the real supervisor over model servers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from redlock_cluster import ClosedError, Err
from redlock_cluster.options import ServerOptions
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9
from redlock_cluster.testing.simulation import Simulation

from .lab import Client

OPTIONS = {"servers": [{"host": f"s{i}"} for i in range(3)], "retry_interval": "10ms"}


def world_of_three(seed: int = 1) -> Simulation:
    world = Simulation(seed)
    for index, version in enumerate((VALKEY_9, VALKEY_9, REDIS_6_2)):
        world.server(f"s{index}:6379", version)
    return world


def test_a_lock_taken_by_one_client_is_refused_to_another_until_it_is_released() -> None:
    with world_of_three() as world:
        alice, bob = world.client("alice", OPTIONS).supervisor, world.client("bob", OPTIONS).supervisor

        async def main() -> None:
            lease = (await alice.lock("invoice", 10)).value
            assert (await bob.lock("invoice", 10, wait=0)).reason == "lock_failure"
            assert await alice.unlock("invoice", lease)
            assert await bob.lock("invoice", 10, wait=0)

        world.run(main)


def test_a_lease_of_an_hour_runs_out_at_once_in_real_time() -> None:
    patient = {**OPTIONS, "retry_interval": "30s", "health_check_interval": "10m"}
    with world_of_three() as world:
        alice, bob = world.client("alice", patient), world.client("bob", patient)

        async def main() -> float:
            lease = (await alice.supervisor.lock("invoice", 3600)).value
            alice.die(unnoticed=True)
            assert await bob.supervisor.lock("invoice", 3600, wait=None)
            assert not lease.valid
            return world.loop.time()

        assert 3600 < world.run(main) < 3640


def test_without_a_quorum_of_servers_nothing_is_locked() -> None:
    with world_of_three() as world:
        alice = world.client("alice", OPTIONS)

        async def main() -> None:
            world.servers[0].crash()
            world.servers[1].freeze()
            assert (await alice.supervisor.lock("invoice", 10, wait=0)).reason == "unavailable"
            world.servers[0].restart()
            world.servers[1].thaw()
            assert await alice.supervisor.lock("invoice", 10, wait=5)

        world.run(main)


@pytest.mark.parametrize("keep_memory", [True, False])
def test_a_restarted_server_holds_what_it_kept(keep_memory: bool) -> None:
    with world_of_three() as world:
        alice = world.client("alice", OPTIONS)

        async def main() -> None:
            lease = (await alice.supervisor.lock("invoice", 10)).value
            world.servers[0].crash()
            world.servers[0].restart(keep_memory)
            held = world.servers[0].model.keys().get(b"redlock:invoice")
            assert held == (lease.token.encode() if keep_memory else None)

        world.run(main)


class Raw:
    """A world of one server, and clients that speak RESP3 to it without a supervisor."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.server = world.server("s0:6379")

    async def client(self, *commands: str) -> Client:
        client = Client()
        await self.world.network.dialer(f"c{self.world.network.made}")(ServerOptions(host="s0", port=6379), client)
        for command in ("HELLO 3", *commands):
            client.send(*command.encode().split())
        await _pause()
        client.heard = b""
        return client


async def _pause() -> None:
    """Longer than anything is on its way."""
    await asyncio.sleep(0.01)


CHANGED = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
MESSAGE = b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\n%b\r\n"
WATCHES = ("CLIENT TRACKING ON OPTIN", "SUBSCRIBE x", "CLIENT CACHING YES", "PTTL k")


def test_a_scripts_pushes_arrive_in_its_order_and_no_later_reply_overtakes_them() -> None:
    script = b"redis.call('PUBLISH', 'x', '1') redis.call('SET', 'k', 'v') return redis.call('PUBLISH', 'x', '2')"
    with Simulation(1) as world:
        raw = Raw(world)

        async def main() -> None:
            watcher, other = await raw.client(*WATCHES), await raw.client()
            other.send(b"EVAL", script, b"0")
            await _pause()
            watcher.send(b"PING")
            await _pause()
            assert other.heard == b":1\r\n"
            assert watcher.heard == MESSAGE % b"1" + CHANGED + MESSAGE % b"2" + b"+PONG\r\n"

        world.run(main)


def test_a_server_finds_expired_keys_by_itself_a_tenth_of_a_second_later_at_most() -> None:
    with Simulation(1) as world:
        raw = Raw(world)

        async def main() -> None:
            await raw.client("SET k v PX 5000", "SET late v PX 9000", "SET k v PX 250")
            watcher = await raw.client(*WATCHES)
            began = world.loop.time()
            await asyncio.sleep(0.2)
            assert watcher.heard == b""
            await asyncio.sleep(0.17)
            assert watcher.heard == CHANGED
            assert began + 0.23 < watcher.times[-1] < began + 0.36

        world.run(main)


def test_a_frozen_server_finds_expired_keys_when_it_continues() -> None:
    with Simulation(1) as world:
        raw = Raw(world)

        async def main() -> None:
            await raw.client("SET k v PX 100")
            watcher = await raw.client(*WATCHES)
            raw.server.freeze()
            await asyncio.sleep(10)
            assert watcher.heard == b""
            raw.server.thaw()
            await asyncio.sleep(0.12)
            assert watcher.heard == CHANGED

        world.run(main)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_crash_ends_subscriptions(unnoticed: bool) -> None:
    with Simulation(1) as world:
        raw = Raw(world)

        async def main() -> None:
            watcher = await raw.client(*WATCHES)
            raw.server.crash(unnoticed)
            raw.server.restart()
            other = await raw.client()
            other.send(b"PUBLISH", b"x", b"1")
            other.send(b"SET", b"k", b"v")
            await _pause()
            assert other.heard == b":0\r\n+OK\r\n"
            assert watcher.heard == b""
            assert (watcher.ended is None) is unnoticed

        world.run(main)


def test_clocks_of_machines_differ() -> None:
    with world_of_three() as world:
        alice = world.client("alice", OPTIONS, rate=1.5, offset=100.0)

        async def main() -> None:
            lease = (await alice.supervisor.lock("invoice", 10)).value
            begun, left = world.loop.time(), lease.remaining
            while lease.valid:
                await alice.spawn(_nap())
            assert world.loop.time() - begun == pytest.approx(left / 1.5, abs=0.02)

        world.run(main)


async def _nap() -> None:
    await asyncio.sleep(0.01)


def test_what_a_call_back_raises_fails_the_run() -> None:
    with world_of_three() as world:

        async def main() -> None:
            world.loop.call_soon(lambda: 1 / 0)
            await _nap()

        with pytest.raises(RuntimeError, match="a call-back raised") as raised:
            world.run(main)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_world_closes_whatever_is_going_on_in_it() -> None:
    with world_of_three() as world:
        alice, bob = world.client("alice", OPTIONS), world.client("bob", OPTIONS)

        async def main() -> None:
            alice.spawn(alice.supervisor.lock("invoice", 10))
            bob.spawn(bob.supervisor.lock("invoice", 10, wait=None))
            await _nap()
            bob.pause(suspended=True)

        world.run(main)
    assert world.loop.is_closed()


def test_a_closed_supervisor_says_so() -> None:
    with world_of_three() as world:
        alice = world.client("alice", OPTIONS)

        async def main() -> None:
            await alice.spawn(alice.supervisor.start())
            await alice.spawn(alice.supervisor.close())
            with pytest.raises(ClosedError):
                await alice.spawn(alice.supervisor.lock("invoice", 10))

        world.run(main)


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/simulation.md", "exec"), {})


def test_the_retry_policy_ends_during_an_outage() -> None:
    with world_of_three() as world:
        alice = world.client("alice", OPTIONS)

        async def main() -> None:
            await alice.spawn(alice.supervisor.start())
            for server in world.servers:
                server.crash()
            async with asyncio.timeout(60):
                refused = await alice.spawn(alice.supervisor.lock("invoice", 10))
            assert refused == Err("unavailable")

        world.run(main)
