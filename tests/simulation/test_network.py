"""The simulated network: order, partitions, connections that break or go silent."""

from __future__ import annotations

import asyncio

import pytest
from hiredis import pack_command

from redlock_cluster.testing.simulation import Process

from .lab import Lab, run


@pytest.mark.parametrize("fragments", [0.0, 1.0])
def test_nothing_is_overtaken_inside_a_connection(fragments: float) -> None:
    words = [b"%d" % i for i in range(50)]

    async def test(lab: Lab) -> None:
        client = await lab.dial()
        for word in words:
            client.say(word)
            await asyncio.sleep(0.002)
        await asyncio.sleep(1)
        assert lab.echo.sessions[0].seen == words
        assert client.heard == b"".join(word + b";" for word in words)
        assert client.times == sorted(client.times)

    run(test, fragments)


@pytest.mark.parametrize("fragments", [0.0, 1.0])
def test_pushes_stand_among_replies_in_the_order_in_which_the_server_sent_them(fragments: float) -> None:
    sent: list[bytes] = []

    async def test(lab: Lab) -> None:
        client, other = await lab.dial(), await lab.dial()
        lab.network.on_command = lambda connection, words, reply: sent.append(
            words[-1] + b"!" if words[0] == b"PUSH" else reply
        )
        for i in range(50):
            client.say(b"reply%d" % i)
            other.send(b"PUSH", b"push%d" % i)
            await asyncio.sleep(0.002)
        await asyncio.sleep(1)
        assert client.heard == b"".join(sent)
        assert sent != sorted(sent, key=lambda data: data[-1:])
        assert other.heard == b"".join(b"push%d;" % i for i in range(50))

    run(test, fragments)


def test_pushes_wait_with_replies_where_a_partition_holds_them_up_and_are_lost_with_the_connection() -> None:
    async def test(lab: Lab) -> None:
        client, other = await lab.dial(), await lab.dial("c1")
        lab.network.block("s0:1", "c0")
        client.say(b"a")
        await asyncio.sleep(1)
        other.send(b"PUSH", b"b")
        await asyncio.sleep(1)
        client.say(b"c")
        await asyncio.sleep(1)
        assert client.heard == b""
        lab.network.unblock("s0:1", "c0")
        await asyncio.sleep(1)
        assert client.heard == b"a;b!c;"
        client.connection.vanish()
        other.send(b"PUSH", b"d")
        await asyncio.sleep(1)
        assert client.heard == b"a;b!c;"
        assert other.heard == b"b;d;"

    run(test)


def test_a_push_may_arrive_in_parts() -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        lab.echo.sessions[0].push(b"push!")
        await asyncio.sleep(1)
        assert client.heard == b"push!"
        assert len(client.times) == 2

    run(test, fragments=1.0)


def test_different_connections_overtake_each_other() -> None:
    async def test(lab: Lab) -> None:
        clients = [await lab.dial() for _ in range(10)]
        for client in clients:
            client.say(b"x")
        await asyncio.sleep(1)
        times = [client.times[0] for client in clients]
        assert times != sorted(times)

    run(test)


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_partition_holds_one_direction_up_and_what_waited_arrives_in_order(way: str) -> None:
    async def test(lab: Lab) -> None:
        client, other = await lab.dial(), await lab.dial("c1")
        ends = ("c0", "s0:1") if way == "there" else ("s0:1", "c0")
        client.say(b"a")
        lab.network.block(*ends)
        client.say(b"b")
        other.say(b"o")
        await asyncio.sleep(10)
        assert lab.echo.sessions[0].seen == ([] if way == "there" else [b"a", b"b"])
        assert client.heard == b""
        assert other.heard == b"o;"
        client.say(b"c")  # on its way when the partition ends, and not to arrive before what waited
        lab.network.unblock(*ends)
        client.say(b"d")
        await asyncio.sleep(1)
        assert client.heard == b"a;b;c;d;"
        assert client.times[0] > 10
        assert client.ended is None

    run(test)


def test_dialing_through_a_partition_waits_for_ever_and_to_a_host_that_is_down_is_refused() -> None:
    async def test(lab: Lab) -> None:
        lab.network.block("s0:1", "c0")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lab.dial(), 60)
        lab.network.heal()
        lab.host.crash()
        with pytest.raises(ConnectionRefusedError):
            await lab.dial()
        lab.host.start()
        (await lab.dial()).say(b"x")

    run(test)


def test_a_connection_that_is_made_while_a_partition_begins_is_held_up_by_it() -> None:
    async def test(lab: Lab) -> None:
        lab.network.fastest = lab.network.slowest = 0.1
        dialing = asyncio.ensure_future(lab.dial())
        await asyncio.sleep(0.15)  # the server's answer is on its way
        lab.network.block("c0", "s0:1")
        client = await dialing
        client.say(b"x")
        await asyncio.sleep(5)
        assert client.heard == b""
        lab.network.unblock("c0", "s0:1")
        await asyncio.sleep(1)
        assert client.heard == b"x;"

    run(test)


@pytest.mark.parametrize(("to_server", "to_client"), [(True, False), (False, True), (True, True)])
def test_half_open_bytes_vanish_and_nobody_is_told(to_server: bool, to_client: bool) -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        client.connection.vanish(to_server, to_client)
        client.say(b"x")
        await asyncio.sleep(1000)
        assert lab.echo.sessions[0].seen == ([] if to_server else [b"x"])
        assert client.heard == b""
        assert client.ended is None
        assert not lab.echo.sessions[0].closed

    run(test)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_cut_connection_loses_what_is_on_its_way(unnoticed: bool) -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        client.say(b"kept")
        await asyncio.sleep(1)
        client.say(b"lost")
        client.connection.cut(to_server=True, unnoticed=unnoticed)
        await asyncio.sleep(1)
        assert lab.echo.sessions[0].seen == [b"kept"]
        assert lab.echo.sessions[0].closed is not unnoticed
        assert client.ended is not None
        assert client.ended[0] is ConnectionResetError

    run(test)


def test_after_a_cut_nothing_more_gets_through_even_before_the_client_hears_of_it() -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        lab.network.block("s0:1", "c0")
        client.say(b"kept")
        client.connection.cut(unnoticed=True)
        client.say(b"too late")
        await asyncio.sleep(1)
        assert client.ended is None
        assert lab.echo.sessions[0].seen == [b"kept"]

    run(test)


def test_a_cut_that_loses_nothing_still_delivers_what_was_sent() -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        client.say(b"x")
        client.connection.cut()
        await asyncio.sleep(1)
        assert lab.echo.sessions[0].seen == [b"x"]

    run(test)


def test_a_command_on_its_way_may_land_after_its_client_has_given_up() -> None:
    fates = set()
    for seed in range(20):

        async def test(lab: Lab) -> None:
            client = await lab.dial()
            client.say(b"x")
            client.connection.abort()
            await asyncio.sleep(1)
            assert client.ended is not None
            assert client.ended[0] is None
            fates.add((tuple(lab.echo.sessions[0].seen), lab.echo.sessions[0].closed))

        run(test, seed=seed)
    assert fates == {((), True), ((b"x",), True), ((b"x",), False)}


def test_a_frozen_server_answers_late_and_keeps_each_connections_order() -> None:
    async def test(lab: Lab) -> None:
        clients = [await lab.dial() for _ in range(4)]
        lab.host.freeze()
        for client in clients:
            client.say(b"a", b"b")
        await asyncio.sleep(10)
        assert all(client.heard == b"" for client in clients)
        lab.host.thaw()
        await asyncio.sleep(1)
        assert all(client.heard == b"a;b;" for client in clients)

    run(test)


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_crash_breaks_connections_or_leaves_them_half_open(unnoticed: bool) -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        lab.host.crash(unnoticed)
        client.say(b"x")
        await asyncio.sleep(10)
        assert (client.ended is None) is unnoticed
        assert lab.echo.sessions[0].seen == []

    run(test)


def test_a_killed_session_executes_nothing_more() -> None:
    async def test(lab: Lab) -> None:
        victim, killer = await lab.dial(), await lab.dial()
        lab.network.block("c0", "s0:1")
        victim.say(b"late")
        lab.network.unblock("c0", "s0:1")
        killer.connection.host.arrived(killer.connection, pack_command((b"KILL", b"x")))
        await asyncio.sleep(1)
        assert lab.echo.sessions[0].seen == []
        assert victim.ended is not None

    run(test)


def test_who_ends_its_own_session_gets_the_reply_first() -> None:
    async def test(lab: Lab) -> None:
        client = await lab.dial()
        client.say(b"a")
        client.send(b"KILL", b"me")
        client.say(b"late")
        await asyncio.sleep(1)
        assert client.heard == b"a;me;"
        assert client.ended is not None
        assert lab.echo.sessions[0].seen == [b"a", b"me"]

    run(test)


def test_replies_for_a_paused_process_wait_unread() -> None:
    async def test(lab: Lab) -> None:
        process = Process(lab.loop, "c0")
        client = await process.spawn(lab.dial())
        client.say(b"x")
        process.pause()
        await asyncio.sleep(10)
        assert lab.echo.sessions[0].seen == [b"x"]
        assert client.heard == b""
        process.resume()
        await asyncio.sleep(0)
        assert client.heard == b"x;"

    run(test)


def test_connections_of_which_both_ends_are_closed_are_forgotten() -> None:
    async def test(lab: Lab) -> None:
        clients = [await lab.dial() for _ in range(3)]
        clients[0].connection.close()
        clients[1].connection.cut()
        await asyncio.sleep(1)
        assert list(lab.network.connections.values()) == [clients[2].connection]

    run(test)
