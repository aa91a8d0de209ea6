"""Health checks: whom they ask and how often, how long a server takes, what time it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from redlock_cluster import AsyncLease, ServerStatus
from redlock_cluster.wire.keeper import Keeper

from ..engine.scripted import NIL, ONE, AutomaticGroup, Clock, Group, Wire, Words, bulk, honest, passes, turns

TIME = b"*2\r\n:1\r\n:1\r\n"


def server(group: Group, index: int) -> ServerStatus:
    return group.supervisor.status().clusters[0].groups[0].servers[index]


def keeper(group: Group, index: int) -> Keeper:
    engine = group.supervisor._deployments.engines["default"]
    return next(iter(engine._groups.values())).pools[index].keepers[0]


async def until(moment: float) -> None:
    await passes(moment - asyncio.get_running_loop().time())


def noted(group: AutomaticGroup, index: int) -> list[float]:
    """When a server is asked for `TIME` from now on; it answers at once."""
    times: list[float] = []

    def answer(words: Words) -> bytes:
        if words == [b"TIME"]:
            times.append(asyncio.get_running_loop().time())
        return honest(words)

    group.answers[index] = answer
    return times


def told(seconds: float) -> bytes:
    """The reply of a server whose clock says so."""
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    return b"*2\r\n" + bulk(b"%d" % whole) + bulk(b"%d" % micro)


# How often


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("100ms", [0.5, 1.0, 1.5, 2.0]),  # the faster a hang is to be found, the faster it is here, too
        ("1s", [5, 10, 15, 20]),
        ("2s", [4, 8, 12, 16, 20]),
        ("3s", [3, 6, 9, 12]),
        ("5s", [5, 10, 15, 20]),
        ("60s", [60, 120]),  # who wants few has few, and who keeps a firewall's entry alive keeps it
    ],
)
async def test_connection_that_nobody_uses_is_asked_at_every_fifth_check_or_every_5_seconds(
    interval: str, expected: list[float]
) -> None:
    async with AutomaticGroup(3, health_check_interval=interval) as group:
        times = noted(group, 0)
        await until(expected[-1] + 0.01)
        assert times == pytest.approx(expected)
        assert server(group, 0).latency_age == pytest.approx(0.01)


async def test_connection_in_use_is_asked_at_each_check_and_later_no_more() -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        times = noted(group, 0)
        for second in (6, 7, 8):  # 6 is between two checks of an unused connection
            await until(second + 0.5)
            lease = await group.supervisor.lock("r", 10, wait=0)
            await lease.value.release()  # type: ignore[union-attr]
        await until(19.5)
        assert times == pytest.approx([5, 7, 8, 9, 14, 19])


@pytest.mark.parametrize("behind", [False, True])
async def test_reply_that_comes_together_with_a_check_is_a_use(behind: bool) -> None:
    """Of both only one arrival is counted."""
    async with Group(1, health_check_interval="1s") as group:
        wire, connection = group.now[0], keeper(group, 0).connection
        assert connection is not None
        await until(5.01 if behind else 4.99)
        answer = connection.request("ECHO", "x")
        await until(5.02)
        assert [words[0] for words in wire.commands] == ([b"TIME", b"ECHO"] if behind else [b"ECHO", b"TIME"])
        wire.reply(told(1) + bulk(b"x") if behind else bulk(b"x") + told(1))
        assert await answer == b"x"
        await until(6.5)
        assert [words[0] for words in wire.commands][2:] == [b"TIME"]
        wire.reply(told(1))


async def test_handshake_counts_as_a_check() -> None:
    async with AutomaticGroup(1, health_check_interval="1s") as group:
        times = noted(group, 0)
        await until(3.4)
        group.now[0].break_off()
        await until(8.5)
        assert times == pytest.approx([8])


async def test_command_sent_just_before_a_check_does_not_make_its_unused_connection_suspect() -> None:
    async with Group(1, health_check_interval="1s", server_timeout="5s") as group:
        await until(1.99)
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await until(2.9)
        assert [words[0] for words in group.now[0].commands] == [b"SET", b"TIME"]
        group.now[0].reply(NIL + told(1))
        lease: AsyncLease = (await task).value  # type: ignore[union-attr]
        assert server(group, 0).reconnects == 0
        release = asyncio.create_task(lease.release())
        await turns()
        group.now[0].reply(ONE)
        await release


# Servers that hang


async def test_unused_connection_whose_check_is_not_answered_is_closed_at_the_next() -> None:
    async with Group(1, health_check_interval="1s") as group:
        await until(5.99)
        assert [words[0] for words in group.now[0].commands] == [b"TIME"]
        assert not group.now[0].closed
        await until(6.009)
        assert not group.now[0].closed
        await until(6.011)
        assert group.wires[0][0].closed
        assert server(group, 0).last_error == "no answer for 1 s"


async def test_hang_is_found_two_checks_after_an_unused_connection_is_used_again() -> None:
    """As that of one in use. And what is used meanwhile waits for no more than one server timeout."""
    async with AutomaticGroup(3, health_check_interval="1s", server_timeout="200ms") as group:
        await until(6.5)
        group.answers[1:] = [lambda _: b""] * 2
        for resource, takes in (("a", 0.2), ("b", 0.0)):
            began = asyncio.get_running_loop().time()
            assert not await group.supervisor.lock(resource, 10, wait=0)
            # The rest is the second wait of what is due, which the loop may have been late for.
            assert asyncio.get_running_loop().time() - began == pytest.approx(takes, abs=0.002)
        wires = [lives[0] for lives in group.wires]
        await until(8.009)
        assert [wire.closed for wire in wires] == [False] * 3
        await until(8.011)
        assert [wire.closed for wire in wires] == [False, True, True]


async def test_process_that_stood_still_gives_an_unused_connection_as_much_time_again() -> None:
    clock = Clock()
    async with Group(1, clock=clock, health_check_interval="1s") as group:
        for second in range(1, 6):
            clock.now = 1000.0 + second
            await until(second + 0.001)
        wire = group.now[0]
        assert [words[0] for words in wire.commands] == [b"TIME"]
        clock.now += 1.5  # half a second late
        await until(6.49)
        assert not wire.closed
        wire.reply(told(1))
        await until(6.6)
        assert not wire.closed


async def test_unused_connection_is_asked_at_the_first_check_after_a_suspend() -> None:
    clock = Clock()
    async with Group(1, clock=clock, health_check_interval="1s") as group:
        await until(0.5)
        clock.now += 3600
        await until(1.01)
        assert [words[0] for words in group.now[0].commands] == [b"TIME"]
        group.now[0].reply(told(1))


# What time it is there


class HonestWire(Wire):
    """Says what time it is, in the handshake too."""

    def _handshake_reply(self, words: Words) -> bytes:
        return told(1_700_000_000) if words == [b"TIME"] else super()._handshake_reply(words)


class HonestGroup(Group):
    kind = HonestWire


async def checked(group: Group, clock: Clock, at: float, takes: float, reply: bytes) -> None:
    """A health check, asked at that second and answered so much later."""
    clock.now = 1000.0 + at
    await until(at + 0.001)
    assert group.now[0].commands[-1] == [b"TIME"]
    clock.now += takes
    group.now[0].reply(reply)


async def test_offset_is_known_from_the_handshake_on() -> None:
    group = HonestGroup(3, clock=Clock())
    group.refusing = {2}
    async with group:
        assert keeper(group, 0).offset == 1_700_000_000 - 1000
        assert keeper(group, 2).offset is None
        assert group.wires[0][0].commands == []


async def test_handshake_asks_for_the_time_without_a_round_trip_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[list[bytes]] = []
    shake = Wire._shake

    def shaken(wire: Wire, commands: list[Words]) -> None:
        writes.append([words[0] for words in commands])
        shake(wire, commands)

    monkeypatch.setattr(Wire, "_shake", shaken)
    async with Group(1):
        assert writes[0] == [b"HELLO"]
        assert [b"TIME" in names for names in writes] == [False, True]


async def test_offset_is_taken_at_the_midpoint_and_from_the_smaller_round_trip() -> None:
    clock = Clock()
    async with Group(1, clock=clock, health_check_interval="5s") as group:
        assert (keeper(group, 0).offset, server(group, 0).latency) == (None, 0)  # its handshake says OK to TIME
        steps = [
            (5, 0.4, 1_700_000_005.3, 1_699_999_000.1),  # the midpoint is 1005.2
            (10, 0.2, 1_700_000_010.05, 1_699_998_999.95),  # a smaller round trip
            (15, 0.4, 1_700_000_015.2, 1_699_998_999.95),  # a greater one
            (20, 0.4, 1_700_000_020.2, 1_699_999_000.0),  # the exact one is older than 10 s
            (25, 0.6, 1_700_000_030.3, 1_699_999_005.0),  # the server's clock was set 5 s forward
        ]
        for at, takes, says, offset in steps:
            await checked(group, clock, at, takes, told(says))
            assert keeper(group, 0).offset == pytest.approx(offset, abs=1e-6)
            assert server(group, 0).latency == pytest.approx(takes)


async def test_answer_that_is_no_time_is_measured_and_makes_the_offset_unknown() -> None:
    clock = Clock()
    async with HonestGroup(1, clock=clock, health_check_interval="5s") as group:
        assert keeper(group, 0).offset is not None
        await checked(group, clock, 5, 0.3, b"-NOPERM no permissions to run the 'time' command\r\n")
        assert keeper(group, 0).offset is None
        assert server(group, 0).latency == pytest.approx(0.3)
        await until(10.5)
        assert not group.now[0].closed
        group.now[0].reply(told(1))


async def test_offset_goes_with_its_connection() -> None:
    """A name may lead to another server by then."""
    async with HonestGroup(1, reconnection_interval="1s") as group:
        assert keeper(group, 0).offset is not None
        group.now[0].break_off()
        await turns()
        assert keeper(group, 0).offset is None
        await passes(1.1)
        assert keeper(group, 0).offset == pytest.approx(1_700_000_000 - asyncio.get_running_loop().time(), abs=1.2)


# Other commands that say what time it is


class Script:
    """Hears a reply with a time in it."""

    def __init__(self, checked: Keeper, asked: float, seconds: float) -> None:
        self._keeper, self._asked, self._seconds = checked, asked, seconds

    def reply(self, connection: object, _: object) -> None:
        self._keeper.note_time(connection, self._asked, self._seconds)  # type: ignore[arg-type]

    def lost(self, _: object) -> None:
        raise AssertionError


def scripted(group: Group, at: float) -> Callable[[], None]:
    """Sends a command that is heard of as a time; it is answered by the test."""
    checked, now = keeper(group, 0), asyncio.get_running_loop().time()
    assert checked.connection is not None
    checked.connection.send(b"*1\r\n$3\r\nNOW\r\n", Script(checked, now, at))
    return lambda: group.now[0].reply(ONE)


async def test_noted_time_stands_for_a_health_check_and_is_no_use() -> None:
    async with Group(1, health_check_interval="1s") as group:
        for second in (2.4, 6.4):
            await until(second)
            answer = scripted(group, 7000 + second)
            await passes(0.1)
            answer()
            assert keeper(group, 0).offset == pytest.approx(6999.95)
            assert server(group, 0).latency == pytest.approx(0.1)
        await until(10.99)
        assert [words[0] for words in group.now[0].commands] == [b"NOW", b"NOW"]
        await until(11.5)
        assert [words[0] for words in group.now[0].commands] == [b"NOW", b"NOW", b"TIME"]
        group.now[0].reply(told(1))


async def test_noted_time_spares_a_connection_in_use_the_next_check_only() -> None:
    async with Group(1, health_check_interval="1s") as group:
        wire = group.now[0]
        for second in (0.2, 1.2):
            await until(second)
            task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
            await turns()
            wire.reply(NIL)
            release = asyncio.ensure_future((await task).value.release())  # type: ignore[union-attr]
            await turns()
            wire.reply(ONE)
            await release
            if second < 1:
                answer = scripted(group, 1)
                await turns()
                answer()
        await until(1.9)
        assert [b"TIME"] not in wire.commands
        await until(2.1)
        assert wire.commands[-1] == [b"TIME"]
        wire.reply(told(1))


# How long it takes


async def test_latency_is_of_the_newest_check_and_says_how_old_it_is() -> None:
    async with Group(3, health_check_interval="1s") as group:
        await passes(0.5)
        assert server(group, 0).latency_age == pytest.approx(0.5)  # of the handshake
        for checked, late in ((5.0, 0.02), (10.0, 0.3)):
            await until(checked + late)
            group.now[0].reply(TIME)
            await passes(0.2)
            assert server(group, 0).latency == pytest.approx(late)
            assert server(group, 0).latency_age == pytest.approx(0.2)


async def test_connection_that_is_never_idle_is_measured_too() -> None:
    async with Group(3, health_check_interval="1s", server_timeout="5s") as group:
        for checked in range(1, 6):
            await until(checked - 0.1)
            task = asyncio.create_task(group.supervisor.lock(f"r{checked}", 10, wait=0))
            await passes(0.15)
            assert [words[0] for words in group.now[0].commands[-2:]] == [b"SET", b"TIME"]
            for wire in group.now:
                wire.reply(NIL + TIME)
            assert (await task).value.held_on  # type: ignore[union-attr]
            assert server(group, 0).latency == pytest.approx(0.05)
            assert server(group, 0).latency_age == pytest.approx(0)


async def test_age_grows_while_a_server_answers_nothing() -> None:
    async with Group(3, health_check_interval="1s") as group:
        await until(5.9)
        assert server(group, 0).latency_age == pytest.approx(5.9)


async def test_newest_measurement_of_a_pool_is_told() -> None:
    async with AutomaticGroup(3, pool_size=2, health_check_interval="10s") as group:
        await passes(3)
        group.wires[0][1].break_off()
        await passes(1)
        assert server(group, 0).latency_age == pytest.approx(1, abs=0.01)
        assert server(group, 1).latency_age == pytest.approx(4, abs=0.01)


async def test_before_the_first_connection_nothing_is_known() -> None:
    group = AutomaticGroup(3)
    group.refusing = {0}
    async with group:
        assert (server(group, 0).latency, server(group, 0).latency_age) == (None, None)
        await turns()


async def test_full_connection_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redlock_cluster.wire.connection.MAX_UNANSWERED", 1)
    async with Group(3, health_check_interval="1s", server_timeout="5s") as group:
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await passes(1.5)
        assert [words[0] for words in group.now[0].commands] == [b"SET"]
        for wire in group.now:
            wire.reply(NIL)
        lease = (await task).value  # type: ignore[union-attr]
        release = asyncio.ensure_future(lease.release())
        await turns()
        for wire in group.now:
            wire.reply(ONE)
        await release
