"""Servers that answer rubbish: the engine stands, believes none of it, and closes no connection but theirs.

Two of three servers are hostile. What they say is believed only where it is, by chance, word for word what an honest
server would have said; everywhere else there must be no lock, no release and no extension.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redlock_cluster import AsyncLease, LeaseState, QuorumUnavailable
from redlock_cluster.core.replies import ErrorReply

from ..engine.scripted import REDIS_6, VALKEY_9, Answer, AutomaticGroup, Clock, Wire, Words, honest, passes, turns
from .rubbish import RUBBISH, heard, pieces

HOSTILE = (1, 2)


def grants(value: object) -> bool:
    return value is None or value == b"OK"


def did(value: object) -> bool:
    return value == b"OK" or (type(value) is int and value == 1)


def names(value: object) -> bool:
    """Whether it says that somebody holds the key, or that nobody does."""
    return value is None or type(value) is bytes or (isinstance(value, ErrorReply) and value.wrong_type)


async def decided(group: AutomaticGroup, call: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of a call; servers that leave it waiting break off."""
    task = asyncio.ensure_future(call)
    await turns(12)
    for index in HOSTILE:
        if not task.done() and not group.now[index].closed:
            group.now[index].break_off()
    return await asyncio.wait_for(task, 5)


async def mended(group: AutomaticGroup) -> None:
    """Everybody is honest again, on new connections where hostile words may be under way."""
    group.answers = [honest] * group.size
    for index in HOSTILE:
        if not group.now[index].closed:
            group.now[index].break_off()
    await group.standing()
    assert group.whole(), group.mishaps
    assert len(group.wires[0]) == 1  # the honest server's connection stood all the time
    assert not group.now[0].closed


async def lock(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    turn()
    outcome = await decided(group, group.supervisor.lock("r", 10, wait=0))
    assert not outcome
    assert sum(vote.vote is not None and vote.vote.value == "for" for vote in outcome.error.votes) <= 1


async def lock_many(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    turn()
    assert not any(await decided(group, group.supervisor.lock_many(["a", "b", "c"], 10)))


async def held(group: AutomaticGroup) -> AsyncLease:
    lease: AsyncLease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
    await turns(4)
    return lease


async def unlock(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    lease = await held(group)
    turn()
    assert not await decided(group, group.supervisor.unlock("r", lease))
    assert lease.state is not LeaseState.RELEASED


async def unlock_by_token(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    turn()
    assert not await decided(group, group.supervisor.unlock("r", "somebody's"))


async def extend(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    lease = await held(group)
    left = lease.remaining
    turn()
    assert not await decided(group, group.supervisor.extend("r", lease, 60))
    assert lease.remaining in (left, 0.0)


async def extend_by_token(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    turn()
    assert not await decided(group, group.supervisor.extend("r", "somebody's", 60))


async def is_locked(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    turn()
    with pytest.raises(QuorumUnavailable):
        await decided(group, group.supervisor.is_locked("r"))


async def end_of_predecessors(group: AutomaticGroup, turn: Callable[[], None]) -> None:
    """What is said to `CLIENT KILL` and to the releases that are pending."""
    group.answers = [honest, lambda _: [], lambda _: []]
    assert not await decided(group, group.supervisor.lock("r", 10, wait=0))
    turn()
    await passes(0.02)  # some lives, each with an end


Operation = Callable[[AutomaticGroup, Callable[[], None]], Awaitable[None]]
OPERATIONS: tuple[tuple[Operation, Callable[[object], bool]], ...] = (
    (lock, grants),
    (lock_many, grants),
    (unlock, did),
    (unlock_by_token, did),
    (extend, did),
    (extend_by_token, did),
    (is_locked, names),
)
DIALECTS = pytest.mark.parametrize("probes", [VALKEY_9, REDIS_6], ids=["native", "scripts"])


@DIALECTS
@pytest.mark.parametrize("case", list(RUBBISH))
async def test_rubbish_from_two_of_three_servers_is_no_lock_no_release_and_no_extension(
    case: str, probes: tuple[bytes, ...]
) -> None:
    rubbish = RUBBISH[case]
    pieces = [rubbish[i : i + 1] for i in range(len(rubbish))] if len(rubbish) < 5000 else [rubbish]
    async with AutomaticGroup(3, probes=probes, clock=Clock()) as group:

        def turn() -> None:
            group.answers[1:] = [lambda _: rubbish, lambda _: pieces]

        for operation, true in OPERATIONS:
            if not any(map(true, heard(rubbish))):
                await operation(group, turn)
                await mended(group)
        await end_of_predecessors(group, turn)
        await mended(group)
        lease = await held(group)
        assert len(lease.held_on) == 3


def health_checks(lives: list[Wire]) -> int:
    return sum(words == [b"TIME"] for wire in lives for words in wire.commands)


@pytest.mark.parametrize("case", list(RUBBISH))
async def test_rubbish_to_a_health_check_closes_that_connection_at_most(case: str) -> None:
    async with AutomaticGroup(3, health_check_interval="2ms") as group:
        group.answers[1:] = [lambda words: RUBBISH[case] if words == [b"TIME"] else honest(words)] * 2
        await group.when(lambda: all(health_checks(lives) > 1 for lives in group.wires))
        await mended(group)
        assert len((await held(group)).held_on) == 3


@DIALECTS
@given(said=st.tuples(*[st.lists(pieces(), min_size=1, max_size=4)] * 2))
@settings(max_examples=60)
async def test_any_words_from_two_of_three_servers_are_believed_only_if_they_are_true(
    probes: tuple[bytes, ...], said: tuple[list[list[bytes]], ...]
) -> None:
    async with AutomaticGroup(3, probes=probes, clock=Clock()) as group:
        for operation, true in OPERATIONS:
            spoken: list[bytes] = []

            def turn(spoken: list[bytes] = spoken) -> None:
                group.answers[1:] = [_repeating(words, spoken) for words in said]

            try:
                await operation(group, turn)
            except AssertionError:
                everything = [*heard(b"".join(spoken)), *(value for words in spoken for value in heard(words))]
                assert any(map(true, everything)), spoken
            except pytest.fail.Exception:  # is_locked knew an answer
                assert any(names(value) for words in spoken for value in heard(words)), spoken
            await mended(group)
        assert len((await held(group)).held_on) == 3


def _repeating(script: list[list[bytes]], spoken: list[bytes]) -> Answer:
    """Says the next of these at each command, from the first again after the last."""
    told = 0

    def say(_: Words) -> list[bytes]:
        nonlocal told
        told += 1
        said = script[(told - 1) % len(script)]
        spoken.append(b"".join(said))
        return said

    return say
