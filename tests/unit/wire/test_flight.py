"""Rounds that leave together, and their votes: reply by reply, in whatever pieces these arrive."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from redlock_cluster import AsyncLease, Err, LeaseState, Ok
from redlock_cluster.options import ServerOptions

from ..engine.scripted import NIL, OK, ONE, REDIS_6, VALKEY_9, ZERO, Group, Words, bulk, turns

OTHER = bulk(b"f" * 22 + b"@other:1")
PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n"
OOM = b"-OOM command not allowed\r\n"
WRONG_TYPE = b"-WRONGTYPE Operation against a key\r\n"
NO_SCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"

Locks = list["asyncio.Task[Ok[AsyncLease] | Err[str]]"]


class Patient(Group):
    """Rounds wait long for votes, and servers can be reached while the gate is open; at the end none can be."""

    def __init__(self, size: int = 3, probes: tuple[bytes, ...] = VALKEY_9, **options: object) -> None:
        super().__init__(size, probes, **{"server_timeout": "3s", **options})  # type: ignore[arg-type]
        self.gate = asyncio.Event()
        self.gate.set()

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        await self.gate.wait()
        await super()._dial(server, protocol)

    async def __aexit__(self, *_: object) -> None:
        self.refusing = set(range(self.size))
        for wire in self.now:
            if not wire.closed:
                wire.break_off()
        await super().__aexit__()


class Mixed(Patient):
    """Every other server is old."""

    async def _dial(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        self.probes = (REDIS_6, VALKEY_9)[server.port % 2]
        await super()._dial(server, protocol)


async def asked(group: Group, number: int, first: int = 0, ttl: float = 10) -> Locks:
    """Calls of one turn for as many locks, r<first> and so on; their commands have left in one write."""
    writes = [len(wire.writes) for wire in group.now]
    names = [f"r{first + i}" for i in range(number)]
    tasks = [asyncio.create_task(group.supervisor.lock(name, ttl, wait=0)) for name in names]
    await turns()
    for wire, before in zip(group.now, writes, strict=True):
        assert [[words[:2] for words in write] for write in wire.writes[before:]] == [
            [[b"SET", b"redlock:%b" % name.encode()] for name in names]
        ]
    return tasks


async def leases_of(tasks: Locks) -> list[AsyncLease]:
    async with asyncio.timeout(5):
        return [outcome.value for outcome in await asyncio.gather(*tasks) if outcome]


async def held(group: Group, number: int) -> list[AsyncLease]:
    """Leases that every server granted."""
    tasks = await asked(group, number)
    for wire in group.now:
        wire.reply(NIL * number)
    return await leases_of(tasks)


async def done(tasks: Locks) -> list[bool]:
    await turns()
    return [task.done() for task in tasks]


def voted(lease: AsyncLease) -> list[str | None]:
    return [vote.vote and vote.vote.value for vote in lease.votes]


def released(commands: list[Words]) -> list[bytes]:
    return [words[1] for words in commands if words[0] == b"DELIFEQ"]


@pytest.mark.parametrize("probes, granted", [(VALKEY_9, NIL), (REDIS_6, OK)], ids=["nil", "ok"])
@pytest.mark.parametrize("size", range(1, 31))
async def test_replies_in_pieces_of_any_size_win_their_rounds_as_they_arrive(
    size: int, probes: tuple[bytes, ...], granted: bytes
) -> None:
    async with Patient(3, probes) as group:
        tasks = await asked(group, 3)
        tasks += await asked(group, 3, first=3)
        stream = granted * 6
        if size % 3 == 0:  # one server's replies arrive merged, the other's in pieces
            group.now[0].reply(stream)
        for start in range(0, len(stream), size):
            for wire in group.now[0 if size % 3 else 1 : 2]:
                wire.reply(stream[start : start + size])
            arrived = min(start + size, len(stream)) // len(granted)
            assert await done(tasks) == [place < arrived for place in range(6)]
        group.now[2].reply(stream)
        assert [len(lease.held_on) for lease in await leases_of(tasks)] == [3] * 6


@pytest.mark.parametrize("places", list(permutations(range(5)))[::7])
async def test_only_the_rounds_that_a_quorum_has_passed_are_won(places: tuple[int, ...]) -> None:
    async with Patient(5) as group:
        tasks = await asked(group, 6)
        steps = ((6, 0), (4, 0), (2, 2), (3, 3), (6, 4), (0, 4))  # what one server answers, and how many are won then
        for place, (answered, won) in zip(places, steps, strict=False):
            group.now[place].reply(NIL * answered)
            assert await done(tasks) == [True] * won + [False] * (6 - won)
        group.now[places[2]].reply(NIL * 4)
        assert await done(tasks) == [True] * 6
        for wire, answered in ((places[1], 4), (places[3], 3)):
            group.now[wire].reply(NIL * (6 - answered))
        assert [len(lease.held_on) for lease in await leases_of(tasks)] == [5] * 6


@pytest.mark.parametrize("cut", range(1, len(ONE)))
async def test_replies_after_one_in_pieces_are_told_apart_by_flight(cut: int) -> None:
    async with Patient(3) as group:
        leases = await held(group, 6)
        flights = []
        for some in (leases[:3], leases[3:]):
            flights.append([asyncio.create_task(lease.release()) for lease in some])
            await turns()
        group.now[0].reply(ONE * 6)
        group.now[1].reply(ONE[:cut])
        group.now[1].reply(ONE[cut:])
        group.now[1].reply(ONE * 3)  # two of the first flight, one of the second
        assert [await done(calls) for calls in flights] == [[True] * 3, [True, False, False]]
        group.now[1].reply(ONE + ZERO)
        group.now[2].reply(ONE * 5 + ZERO)
        assert [type(told).__name__ for told in await asyncio.gather(*flights[1], return_exceptions=True)] == [
            "NoneType",
            "NoneType",
            "LeaseLost",
        ]


@pytest.mark.parametrize("cut", range(1, len(bulk(NIL * 2)) - 2))
async def test_a_holder_that_looks_like_replies_is_none(cut: int) -> None:
    async with Patient(3) as group:
        tasks = await asked(group, 3)
        for wire in group.now[:2]:
            said = bulk(NIL * 2)
            for piece in (said[:cut], said[cut:-2], said[-2:], NIL * 2):
                wire.reply(piece)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert [bool(outcome) for outcome in outcomes] == [False, True, True]
        assert [released(wire.commands) for wire in group.now] == [[]] * 3
        group.now[2].reply(NIL * 3)
        await turns()
        assert [released(wire.commands) for wire in group.now] == [[], [], [b"redlock:r0"]]


@pytest.mark.parametrize(
    "before, said",
    [
        ([b">2\r\n+invalidate\r\n", NIL], OTHER * 2),
        ([OTHER + b">2\r\n+invalidate\r\n", NIL], OTHER),
        ([b">", b"2\r\n+invalidate\r\n", NIL], OTHER * 2),
        ([b"*2\r\n", NIL * 2], b""),
        ([b"*2\r\n:1\r\n", NIL], b""),
        ([b"+", NIL], OTHER),
        ([b"-", NIL], OTHER),
        ([b"$", NIL], b""),
    ],
    ids=range(8),
)
async def test_what_belongs_to_a_longer_reply_is_no_grant(before: list[bytes], said: bytes) -> None:
    async with Patient(1) as group:
        tasks = await asked(group, 2)
        for piece in before:
            group.now[0].reply(piece)
        if said:
            group.now[0].reply(said)
        assert not any(await asyncio.wait_for(asyncio.gather(*tasks), 5))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "said, reason",
    [(OTHER, "lock_failure"), (WRONG_TYPE, "lock_failure"), (OOM, "unavailable"), (NO_SCRIPT, "unavailable")],
    ids=["refusal", "wrong type", "error", "noscript"],
)
async def test_an_answer_that_differs_affects_only_its_own_round(said: bytes, reason: str, at_once: bool) -> None:
    async with Patient(3) as group:
        tasks = await asked(group, 4)
        group.now[0].reply(NIL * 4)
        for wire in group.now[1:]:
            for piece in [NIL + said + NIL * 2] if at_once else [NIL, said, NIL * 2]:
                wire.reply(piece)
        first, refused, *last = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert refused == Err(reason)
        assert [voted(kept.value) for kept in (first, *last)] == [["for"] * 3] * 3
        await turns()
        given_back = [[b"redlock:r1"], *[[b"redlock:r1"] if said == NO_SCRIPT else []] * 2]
        assert [released(wire.commands) for wire in group.now] == given_back
        assert all(kept.value.valid for kept in (first, *last))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_a_push_between_the_replies_changes_nothing(place: int, size: int) -> None:
    async with Patient(3) as group:
        tasks = await asked(group, 3)
        for wire, last in ((group.now[0], NIL), (group.now[1], OTHER), (group.now[2], NIL)):
            replies = [NIL, NIL, last]
            stream = b"".join([*replies[:place], PUSH, *replies[place:]])
            for start in range(0, len(stream), size):
                wire.reply(stream[start : start + size])
        leases = await leases_of(tasks)
        assert [voted(lease) for lease in leases] == [["for"] * 3] * 2 + [["for", "against", "for"]]
        assert not any(wire.closed for wire in group.now)


@pytest.mark.parametrize("late", [True, False])
async def test_a_connection_lost_in_the_middle_is_absent_where_it_had_not_answered(late: bool) -> None:
    async with Patient(3) as group:
        tasks = await asked(group, 4)
        group.refusing = {0}
        others = group.now[1:]
        for wire in others if late else []:
            wire.reply(NIL * 4)
        group.now[0].reply(NIL * 2)
        group.now[0].break_off()
        for wire in [] if late else others:
            wire.reply(NIL * 4)
        leases = await leases_of(tasks)
        assert [voted(lease) for lease in leases] == [["for"] * 3] * 2 + [["absent", "for", "for"]] * 2
        assert "broke" in leases[3].votes[0].detail


async def test_a_deadline_that_passes_halfway_refuses_only_what_was_not_answered() -> None:
    async with Patient(3, server_timeout="30ms") as group:
        tasks = await asked(group, 4)
        for wire, answered in zip(group.now, (4, 2, 0), strict=True):
            wire.reply(NIL * answered)
        assert await done(tasks) == [True] * 2 + [False] * 2
        kept = await leases_of(tasks)
        assert [task.result() for task in tasks[2:]] == [Err("unavailable")] * 2
        assert [voted(lease) for lease in kept] == [["for", "for", "absent"]] * 2
        servers = group.supervisor.status().clusters[0].groups[0].servers
        assert [server.state.value for server in servers] == ["up", "silent", "silent"]
        assert "in time" in kept[0].votes[2].detail
        await turns()
        assert [released(wire.commands) for wire in group.now] == [[b"redlock:r2", b"redlock:r3"]] * 3
        for wire, late in zip(group.now, (0, 2, 4), strict=True):
            wire.reply(NIL * late + ONE * 2)
        assert [voted(lease) for lease in kept] == [["for"] * 3] * 2


@pytest.mark.parametrize("sizes", [(3, 3), (1, 2), (2, 1)])
async def test_late_answers_appear_in_the_votes(sizes: tuple[int, int]) -> None:
    async with Patient(5) as group:
        tasks = await asked(group, 3)
        for wire in group.now[:3]:
            wire.reply(NIL * 3)
        leases = await leases_of(tasks)
        assert [voted(lease) for lease in leases] == [["for"] * 3 + [None] * 2] * 3
        for wire, size in zip(group.now[3:], sizes, strict=True):
            wire.reply(NIL * size)
        expected = [["for"] * 3 + ["for" if place < size else None for size in sizes] for place in range(3)]
        assert [voted(lease) for lease in leases] == expected
        assert [len(lease.held_on) for lease in leases] == [votes.count("for") for votes in expected]


async def test_a_late_refusal_appears_in_the_votes_of_its_round() -> None:
    async with Patient(5) as group:
        tasks = await asked(group, 3)
        for wire in group.now[:3]:
            wire.reply(NIL * 3)
        leases = await leases_of(tasks)
        group.now[3].reply(NIL + OTHER + NIL)
        group.now[4].reply(OOM + NIL * 2)
        assert [voted(lease)[3:] for lease in leases] == [["for", "absent"], ["against", "for"], ["for", "for"]]
        assert "other:1" in leases[1].votes[3].detail
        assert all(lease.valid for lease in leases)
        await turns()
        assert [released(wire.commands) for wire in group.now] == [[]] * 5


@pytest.mark.parametrize("probes, granted", [(VALKEY_9, NIL), (REDIS_6, OK)], ids=["nil", "ok"])
@pytest.mark.parametrize("said", [b"#t\r\n", b",1\r\n", b"+1\r\n", ONE, b"*0\r\n", NIL, OK])
async def test_what_is_no_grant_is_not_counted_as_one(said: bytes, probes: tuple[bytes, ...], granted: bytes) -> None:
    async with Patient(3, probes) as group:
        said = ZERO if said == granted else said
        # What no such SET is ever answered with; nothing after it is believed.
        out_of_step = said[:1] not in (b"_", b"+" if granted == NIL else b"")
        group.refusing = {0}
        tasks = await asked(group, 3)
        group.now[0].reply(granted + said + granted)
        group.now[1].reply(granted * 3)
        assert await done(tasks) == [True, False, not out_of_step]
        assert group.now[0].closed == out_of_step
        group.now[2].reply(granted * 3)
        assert [voted(lease)[0] == "for" for lease in await leases_of(tasks)] == [True, False, not out_of_step]


@pytest.mark.parametrize("said", [b"#t\r\n", b",1\r\n", b"+1\r\n", b":3\r\n", b"*1\r\n:1\r\n"])
async def test_what_is_no_deletion_is_not_counted_as_one(said: bytes) -> None:
    async with Patient(3) as group:
        leases = await held(group, 2)
        group.refusing = {0}
        calls = asyncio.gather(*(group.supervisor.unlock(lease.resource, lease) for lease in leases))
        await turns()
        group.now[0].reply(ONE + said)
        group.now[1].reply(ONE * 2)
        await turns()
        assert [lease.state for lease in leases] == [LeaseState.RELEASED, LeaseState.HELD]
        group.now[2].reply(ONE + ZERO)
        assert await calls == [Ok(None), Err("unavailable")]


async def test_servers_of_different_versions_vote_in_one_flight() -> None:
    async with Mixed(3) as group:
        tasks = await asked(group, 3)
        old, new, ancient = group.now
        assert [b"GET" in wire.commands[0] for wire in group.now] == [False, True, False]
        new.reply(NIL + OK + NIL)  # the second one names a holder, oddly called OK
        assert await done(tasks) == [False] * 3
        old.reply(OK * 2 + NIL)
        assert await done(tasks) == [True, False, False]
        ancient.reply(OK * 3)
        leases = await leases_of(tasks)
        against = [["for"] * 3, ["for", "against", "for"], ["against", "for", "for"]]
        assert [voted(lease) for lease in leases] == against
        calls = asyncio.gather(*(lease.release() for lease in leases))
        await turns()
        assert [wire.commands[-1][0] for wire in group.now] == [b"EVALSHA", b"DELIFEQ", b"EVALSHA"]
        old.reply(ONE + NO_SCRIPT + ZERO)
        new.reply(ONE + ZERO + ONE)
        await turns()
        assert [lease.state.value for lease in leases] == ["released", "held", "held"]
        ancient.reply(ONE * 3)
        old.reply(ONE)
        await calls


async def test_rounds_of_different_patience_leave_in_one_write_and_expire_apart() -> None:
    async with Patient(3) as group:
        ttls = (10, 0.06, 10, 0.06)
        tasks = [asyncio.create_task(group.supervisor.lock(f"r{i}", ttl, wait=0)) for i, ttl in enumerate(ttls)]
        await turns()
        assert [[[words[-1] for words in write] for write in wire.writes] for wire in group.now] == [
            [[b"10000", b"60", b"10000", b"60"]]
        ] * 3
        group.now[0].reply(NIL * 4)
        assert await asyncio.gather(*tasks[1::2]) == [Err("unavailable")] * 2
        assert await done(tasks) == [False, True, False, True]
        group.now[1].reply(NIL * 3)
        assert await done(tasks) == [True] * 4
        assert [lease.resource for lease in await leases_of(tasks)] == ["r0", "r2"]
        assert [released(wire.commands) for wire in group.now] == [[b"redlock:r1", b"redlock:r3"]] * 3
