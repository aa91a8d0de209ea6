"""Flights and what follows them: memory, releases, batches, and lives of locks at random, against a count by hand."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redlock_cluster import AsyncLease, Err, LeaseState, Ok
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.engine.acquire import Attempt

from ..engine.scripted import NIL, ONE, ZERO, Wire, Words, bulk, honest, turns
from .test_flight import OOM, OTHER, PUSH, WRONG_TYPE, Patient, asked, held, leases_of, released, voted


@pytest.mark.parametrize("said", [NIL * 4, NIL * 2, NIL + OTHER + NIL * 2, PUSH + NIL * 4], ids=range(4))
async def test_a_lease_does_not_keep_the_other_rounds_of_its_flight(said: bytes) -> None:
    async with Patient(3) as group:
        gc.collect()
        gc.disable()
        try:
            before = sum(type(thing) in (Attempt, LeaseRecord) for thing in gc.get_objects())
            tasks = await asked(group, 4)
            for wire in group.now[:2]:
                wire.reply(NIL * 4)
            group.now[2].reply(said)
            if said == NIL * 2:
                group.refusing = {2}
                group.now[2].break_off()
            kept = (await leases_of(tasks))[0]
            del tasks
            await turns()
            assert sum(type(thing) in (Attempt, LeaseRecord) for thing in gc.get_objects()) == before + 2
            assert voted(kept) == ["for"] * 3
        finally:
            gc.enable()


@pytest.mark.parametrize("answered", [None, 0, 2], ids=["in one flight", "in two", "half answered"])
async def test_of_two_releases_at_once_the_second_counts_what_the_first_deleted(answered: int | None) -> None:
    async with Patient(3) as group:
        leases = await held(group, 3)
        calls = [asyncio.create_task(lease.release()) for lease in leases]
        if answered is not None:
            await turns()
            group.now[0].reply(ONE * answered)
        again = asyncio.create_task(leases[1].release())
        await turns()
        assert [released(wire.commands).count(b"redlock:r1") for wire in group.now] == [1 if answered else 2, 2, 2]
        group.now[0].reply(ONE if answered else ONE * 3 + ZERO)
        await turns()
        assert not again.done()
        group.now[1].reply(ONE * 3 + ZERO)
        await asyncio.gather(*calls, again)
        assert {lease.state for lease in leases} == {LeaseState.RELEASED}


async def test_of_a_batch_what_servers_that_are_left_refuse_is_refused_and_given_back_alone() -> None:
    async with Patient(3) as group:
        group.gate.clear()
        group.now[0].break_off()
        task = asyncio.create_task(group.supervisor.lock_many(["r0", "r1", "r2"], 10))
        await turns(4)
        for wire in group.now[1:]:
            wire.reply(NIL + OTHER * (wire is group.now[2]) + NIL * (1 + (wire is group.now[1])))
        first, refused, last = await asyncio.wait_for(task, 1)
        assert (refused, voted(last.value)) == (Err("lock_failure"), ["absent", "for", "for"])
        assert [released(wire.commands) for wire in group.now] == [[], [b"redlock:r1"], []]
        calls = asyncio.gather(group.supervisor.lock("r3", 10, wait=0), group.supervisor.unlock("r0", first.value))
        await turns()
        for wire, deleted in zip(group.now[1:], (NIL, ONE), strict=True):
            for reply in (ONE, NIL, deleted):  # of one flight: a SET and a release, in pieces
                wire.reply(reply)
        assert (await asyncio.wait_for(calls, 1))[1] == Err("not_held")


# --- lives of locks at random -----------------------------------------------------------------------------------------

ANOTHER, ERROR = bulk(b"e" * 22 + b"@another:1"), b"-ERR no\r\n"
SAID = {"grant": NIL, "one": OTHER, "another": ANOTHER, "readers": WRONG_TYPE, "declined": OOM, "error": ERROR}


@dataclass
class Plan:
    """What happens. By round and server: `votes`, and `busy`: it refuses the release once.

    ttls: by round; lost, lost_again: by server, after how many answers to SETs, and to releases, its connection breaks
    cancelled: callers that are cancelled meanwhile; seed: of what is cut where, and of who answers when
    """

    votes: list[list[str]]
    ttls: list[float]
    lost: list[int | None]
    busy: list[list[bool]]
    lost_again: list[int | None]
    cancelled: list[bool]
    seed: int

    def unheard(self, place: int, index: int) -> bool:
        """Whether a server's answer to a round's SET was lost."""
        lost = self.lost[index]
        return lost is not None and place >= lost

    def heard(self, place: int, index: int) -> str:
        """What a server's vote on a round's SET is."""
        vote = self.votes[place][index]
        if self.unheard(place, index) or vote in ("declined", "error"):
            return "absent"
        return "for" if vote == "grant" else "against"


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    size, number = draw(st.sampled_from((1, 3, 5))), draw(st.integers(1, 7))

    def table(cell: st.SearchStrategy, columns: int = size) -> list:  # type: ignore[type-arg]
        row = st.lists(cell, min_size=columns, max_size=columns)
        return draw(st.lists(row, min_size=number, max_size=number))

    seldom = st.sampled_from((False,) * 5 + (True,))
    losses = st.lists(st.none() | st.none() | st.integers(0, number), min_size=size, max_size=size)
    return Plan(
        votes=table(st.sampled_from(("grant",) * 6 + tuple(SAID))),
        ttls=[ttl for (ttl,) in table(st.sampled_from((100.0, 4.0)), 1)],
        lost=draw(losses),
        busy=table(seldom),
        lost_again=draw(losses),
        cancelled=[gone for (gone,) in table(seldom, 1)],
        seed=draw(st.integers(0, 2**32)),
    )


@dataclass(repr=False)
class Server:
    """One server as it is played: what it holds, and the bytes that are still to arrive from it."""

    plan: Plan
    index: int
    chance: random.Random
    wire: Wire
    left: int | None
    tokens: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    answered: set[bytes] = field(default_factory=set)
    seen: int = 0
    out: bytes = b""

    def hear(self) -> None:
        """Executes what has come; of what it can't answer any more, it may or may not execute a release."""
        commands, self.seen = self.wire.commands[self.seen :], len(self.wire.commands)
        for words in commands:
            if self.left == 0:
                if words[0] == b"SET" or self.chance.random() < 0.5:
                    self.do(words)
                continue
            self.out += self.do(words) + (PUSH if self.chance.random() < 0.1 else b"")
            if self.left:
                self.left -= 1
                self.out += b"" if self.left else b"$5\r\nhal"[: self.chance.randrange(8)]

    def do(self, words: Words) -> bytes:
        if words[0] not in (b"SET", b"DELIFEQ"):
            return b"*2\r\n:1\r\n:1\r\n" if words[0] == b"TIME" else ONE
        if words[1] == b"redlock:":
            return honest(words)  # a probe
        token, place = words[2], int(words[1].removeprefix(b"redlock:r"))
        if words[0] == b"SET":
            vote = self.plan.votes[place][self.index]
            if vote == "grant":
                self.tokens.add(token)
            return SAID[vote]
        if self.plan.busy[place][self.index] and token not in self.refused:
            self.refused.add(token)
            return b"-BUSY a script runs\r\n"
        if token in self.answered:
            raise AssertionError("a release that was answered is repeated")
        if self.left != 0:
            self.answered.add(token)
        held, self.tokens = token in self.tokens, self.tokens - {token}
        return ONE if held else ZERO

    def say(self) -> bool:
        """Some bytes arrive, or the connection breaks; false if there is nothing to say."""
        self.hear()
        if self.out:
            size = self.chance.choice((1, 2, 3, 5, 7, 20, 1000))
            self.wire.reply(self.out[:size])
            self.out = self.out[size:]
        elif self.left == 0:
            self.wire.break_off()
            self.left = None
        else:
            return False
        return True


class Play:
    """All servers of a group, answering in any order."""

    def __init__(self, group: Patient, plan: Plan) -> None:
        self.group, self.chance = group, random.Random(plan.seed)
        self.servers = [Server(plan, i, self.chance, wire, plan.lost[i]) for i, wire in enumerate(group.now)]

    async def to_the_end(self, callers: list[asyncio.Task[object]] | None = None) -> None:
        """Returns when every server has a connection and has nothing more to say. callers: are cancelled meanwhile"""
        while not await self._settled():
            while self._said():
                if callers and self.chance.random() < 0.3:
                    callers.pop().cancel()
                if self.chance.random() < 0.5:
                    await turns(1)

    def _said(self) -> bool:
        """Whether some server had something to say."""
        standing = [server for server in self.servers if not server.wire.closed]
        said = any(server.say() for server in self.chance.sample(standing, len(standing)))
        if any(server.wire.closed for server in standing):
            self.group.gate.clear()
        return said

    async def _settled(self) -> bool:
        """Lets those come back that were lost; true if there was nobody and nothing is asked."""
        self.group.gate.set()
        lost = [index for index, server in enumerate(self.servers) if server.wire.closed]
        for index in lost:
            server, lives = self.servers[index], self.group.wires[index]
            server.wire = await self.group.reconnected(index, len(lives) + lives[-1].closed)
            server.seen, server.out = 0, b""
        await turns(8)
        return not lost and all(s.left != 0 and not s.out and s.seen == len(s.wire.commands) for s in self.servers)


def check_lock(plan: Plan, place: int, outcome: Ok[AsyncLease] | Err[str]) -> None:
    """By docs/protocol.md, "Acquire"."""
    size = len(plan.lost)
    quorum, votes = size // 2 + 1, [plan.heard(place, index) for index in range(size)]
    if outcome:
        assert votes.count("for") >= quorum
        assert voted(outcome.value) == votes
        return
    assert votes.count("for") < quorum
    assert outcome == Err("unavailable" if votes.count("absent") > size - quorum else "lock_failure")
    told = [vote.vote and vote.vote.value for vote in outcome.error.votes]
    assert all(known in (None, vote) for known, vote in zip(told, votes, strict=True))
    if "somebody holds it" in str(outcome.error):
        holders = Counter(plan.votes[place][index] for index in range(size) if votes[index] == "against")
        assert max(holders.values()) >= quorum


def check_release(plan: Plan, place: int, asked: Counter[int], outcome: Ok[None] | Err[str]) -> None:
    """By "Release and extend". asked: how many releases each server was sent before this one"""
    size, votes = len(plan.lost), list[str]()
    for index, lost in enumerate(plan.lost_again):
        if plan.votes[place][index] == "declined" and not plan.unheard(place, index):
            votes.append("against")  # known not to have the token: not asked
            continue
        if (lost is not None and asked[index] >= lost) or plan.busy[place][index]:
            votes.append("absent")
        else:
            votes.append("for" if plan.votes[place][index] == "grant" else "against")
        asked[index] += 1
    otherwise = Err("not_held" if votes.count("against") > size // 2 else "unavailable")
    assert outcome == (Ok(None) if votes.count("for") > size // 2 else otherwise)


@given(plan=plans())
@settings(max_examples=200)
async def test_every_outcome_is_what_a_count_of_the_votes_says_and_no_token_stays(plan: Plan) -> None:
    async with Patient(len(plan.lost)) as group:
        lock, unlock, play = group.supervisor.lock, group.supervisor.unlock, Play(group, plan)
        tasks = [asyncio.create_task(lock(f"r{place}", ttl, wait=0)) for place, ttl in enumerate(plan.ttls)]
        await turns()
        assert [[len(write) for write in wire.writes] for wire in group.now] == [[len(tasks)]] * group.size
        await play.to_the_end([task for task, gone in zip(tasks, plan.cancelled, strict=True) if gone])
        outcomes = {place: task.result() for place, task in enumerate(tasks) if not task.cancelled()}
        for place, outcome in outcomes.items():
            check_lock(plan, place, outcome)
        won = {place: outcome.value for place, outcome in outcomes.items() if outcome}
        kept = {lease.token.encode() for lease in won.values()}
        assert all(server.tokens - kept <= server.refused for server in play.servers)

        for index, server in enumerate(play.servers):
            server.left = plan.lost_again[index]
        calls = [asyncio.create_task(unlock(lease.resource, lease)) for lease in won.values()]
        await play.to_the_end()
        asked = Counter[int]()
        for place, call in zip(won, calls, strict=True):
            check_release(plan, place, asked, call.result())

        for server in play.servers:
            server.wire.break_off()
        await play.to_the_end()
        assert not any(len(server.tokens) for server in play.servers)
        assert all(server.pending_releases == 0 for server in group.supervisor.status().clusters[0].groups[0].servers)
