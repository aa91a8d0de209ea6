"""Servers that begin with rubbish, hang up, or say what nobody asked: that one is away, and the others go on."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redlock_cluster import Err, ServerState, ServerStatus

from ..engine.scripted import NIL, AutomaticGroup, Clock, Words, bulk, honest, turns
from .rubbish import RUBBISH, WORDS, pieces
from .test_hostile_replies import held, mended

COMMANDS = ("HELLO", "SETINFO", "ID", "server", "replication", "IFEQ", "NX", "DELIFEQ", "DELEX", "LOAD")
"""A word of each command of the handshake."""

Handshake = Callable[[Words, bytes], bytes | list[bytes]]


def says_to(word: str, rubbish: bytes) -> Handshake:
    return lambda words, usual: rubbish if word.encode() in words else usual


async def served_by(group: AutomaticGroup, handshake: Handshake) -> None:
    """Servers 1 and 2 begin new lives with this handshake; what they leave open breaks off."""
    group.handshakes[1:] = [handshake, handshake]
    for lives in group.wires[1:]:
        if not lives[-1].closed:
            lives[-1].break_off()
    before = [len(lives) for lives in group.wires]
    await group.when(lambda: all(len(group.wires[i]) > before[i] for i in (1, 2)))
    await turns(20)
    group.handshakes[1:] = [lambda _, usual: usual] * 2
    await mended(group)


def server(group: AutomaticGroup, index: int) -> ServerStatus:
    return group.supervisor.status().clusters[0].groups[0].servers[index]


@pytest.mark.parametrize("case", list(RUBBISH))
async def test_rubbish_anywhere_in_a_handshake_leaves_the_others_and_the_next_handshake_alone(case: str) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        for word in COMMANDS:
            await served_by(group, says_to(word, RUBBISH[case]))
        await served_by(group, lambda words, usual: RUBBISH[case])
        assert len((await held(group)).held_on) == 3


@given(said=st.lists(pieces(), min_size=1, max_size=8), usual_before=st.integers(0, 8))
@settings(max_examples=60)
async def test_any_words_in_a_handshake_leave_the_others_and_the_next_handshake_alone(
    said: list[list[bytes]], usual_before: int
) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        asked = 0

        def handshake(_: Words, usual: bytes) -> bytes | list[bytes]:
            nonlocal asked
            asked += 1
            return usual if asked <= usual_before else said[asked % len(said)]

        await served_by(group, handshake)
        assert len((await held(group)).held_on) == 3


@given(info=WORDS)
@settings(max_examples=100)
async def test_any_text_that_a_server_tells_of_itself_is_taken(info: bytes) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        told = bulk(info + b"\r\n:\r\nrole:master")
        group.handshakes[1:] = [lambda words, usual: told if b"INFO" in words else usual] * 2
        for wire in group.now[1:]:
            wire.break_off()
        await group.standing()
        assert [len(lives) for lives in group.wires] == [1, 2, 2]
        assert len((await held(group)).held_on) == 3


async def test_a_handshake_of_single_bytes_with_pushes_between_them_is_understood() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:

        def slow(_: Words, usual: bytes) -> list[bytes]:
            return [b">1\r\n+hello\r\n", *(usual[i : i + 1] for i in range(len(usual))), b">0\r\n"]

        group.handshakes[1:] = [slow, slow]
        for wire in group.now[1:]:
            wire.break_off()
        await group.standing()
        assert [server(group, i).state for i in range(3)] == [ServerState.UP] * 3
        group.answers[1:] = [lambda words: slow(words, honest(words))] * 2
        assert len((await held(group)).held_on) == 3


@pytest.mark.parametrize(
    "said",
    [b"-LOADING Redis is loading the dataset in memory\r\n", b"-MASTERDOWN no\r\n", b"-NOAUTH no\r\n"],
    ids=lambda said: said.split()[0].decode()[1:],
)
async def test_a_server_that_is_never_ready_never_votes(said: bytes) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        group.handshakes[1:] = [says_to("NX", said)] * 2
        for wire in group.now[1:]:
            wire.break_off()
        for life in range(2, 32):
            await group.when(lambda life=life: all(len(lives) >= life for lives in group.wires[1:]))
            assert await group.supervisor.lock("r", 10, wait=0) == Err("unavailable")
        assert said.decode().strip()[1:] == server(group, 1).last_error
        assert group.whole(), group.mishaps
        assert not any(wire.commands for lives in group.wires[1:] for wire in lives)


async def test_a_server_that_hangs_up_after_every_handshake_is_dialled_at_the_reconnection_interval() -> None:
    interval, loop = 0.02, asyncio.get_running_loop()
    async with AutomaticGroup(3, reconnection_interval=f"{interval * 1000:g}ms") as group:

        def hangs_up(words: Words, usual: bytes) -> bytes:
            if b"DELEX" in words:
                loop.call_soon(group.now[1].close)
            return usual

        group.handshakes[1] = hangs_up
        began = loop.time()
        group.now[1].break_off()
        await group.when(lambda: len(group.wires[1]) == 8)
        assert loop.time() - began == pytest.approx(7 * interval / 2)  # the entropy of these tests is the smallest
        assert len((await held(group)).held_on) >= 2
        assert group.whole(), group.mishaps


async def test_a_holder_with_our_own_token_is_a_holder_all_the_same() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        group.answers[1:] = [lambda words: bulk(words[2]) if words[0] == b"SET" else honest(words)] * 2
        assert await group.supervisor.lock("r", 10, wait=0) == Err("lock_failure")
        assert group.whole(), group.mishaps


async def test_replies_of_an_older_life_count_nothing() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        group.answers[1:] = [lambda _: []] * 2
        task = asyncio.create_task(group.supervisor.lock("r", 10, wait=0))
        await turns()
        old = group.now[1:]
        for wire in old:
            wire.break_off()
        assert await task == Err("unavailable")
        group.answers[1:] = [honest] * 2
        await group.standing()
        late = asyncio.create_task(group.supervisor.lock("s", 10, wait=0))
        await turns(1)
        for wire in old:
            wire.reply(NIL * 5)
        group.answers[1:] = [lambda _: bulk(b"somebody's")] * 2
        assert await late == Err("lock_failure")
        assert group.whole(), group.mishaps


SMALL_PROCESS = """
import asyncio, resource
from unit.engine.scripted import AutomaticGroup

async def main():
    async with AutomaticGroup(3) as group:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        for kind in b"*", b"~", b">":
            group.now[1].reply(kind + b"2147483647\\r\\n")
            assert group.now[1].closed
            await group.standing()
        assert len(group.wires[1]) == 4 and len(group.wires[0]) == 1 and group.whole()
        assert await group.supervisor.lock("r", 10, wait=0)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process' address space")
def test_an_array_that_no_memory_can_hold_closes_that_connection_only() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the same package and helpers as here
    ended = subprocess.run(
        [sys.executable, "-c", SMALL_PROCESS], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def resident() -> float:
    """This process's resident memory, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux' /proc")
@pytest.mark.parametrize(
    "flood",
    [
        b">2\r\n+invalidate\r\n*1\r\n$4\r\nlock\r\n",
        b">1\r\n$60000\r\n" + b"x" * 60000 + b"\r\n",
        b":7\r\n",
        b"\x00",
        b"-ERR x\r\n",
    ],
    ids=["pushes", "large pushes", "replies", "zeros", "errors"],
)
async def test_a_flood_takes_no_memory_and_the_others_go_on(flood: bytes) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        chunk = flood * max(1, 262_144 // len(flood))
        await held(group)
        before, sent = resident(), 0
        while sent < 24 << 20:
            wire = group.now[1]
            if not wire.closed and wire.ready:
                wire.reply(chunk)
            sent += len(chunk)
            if sent % (8 << 20) < len(chunk):
                assert (await group.supervisor.is_locked("r")) is False
        assert resident() - before < 8
        assert group.wires[1][0].closed is not flood.startswith(b">")  # pushes may come at any time
        await mended(group)
        assert len((await held(group)).held_on) == 3
