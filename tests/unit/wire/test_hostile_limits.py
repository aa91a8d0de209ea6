"""What a hostile server can't make of us: endless memory, endless work, endless lists, or a teller of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from secrecy import SECRETS

from redlock_cluster import Err, Ok, ServerStatus

from ..engine.scripted import NIL, REDIS_6, AutomaticGroup, Clock, Words, bulk, honest, passes, turns
from .test_hostile_handshakes import resident, server
from .test_hostile_replies import held, mended

CHUNK = 1 << 16


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux' /proc")
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"$2147483647\r\n", b"x"),
        (b"$9223372036854775807\r\n", b"x"),
        (b"+", b"x"),
        (b"-", b"x"),
        (b"*1000000\r\n" * 4, b"$6\r\nabcdef\r\n"),
        (b"%100000000\r\n", b"+a\r\n"),
    ],
    ids=["2 GiB", "2^63", "simple string", "error", "array", "map"],
)
async def test_a_reply_without_an_end_takes_bounded_memory(head: bytes, body: bytes) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        before, sent, wire = resident(), 0, group.now[1]
        group.answers[1] = lambda _: head
        assert await group.supervisor.lock("r", 10, wait=0)
        while not wire.closed and sent < 64 << 20:
            wire.reply(body * (CHUNK // len(body)))
            sent += CHUNK
        assert wire.closed
        assert resident() - before < 32
        assert server(group, 1).last_error == "the server sent a reply without an end"
        await mended(group)


@pytest.mark.parametrize("drip", [b"x", b">1\r\n+a\r\n"], ids=["bytes", "pushes"])
async def test_a_server_that_drips_and_never_answers_is_given_up(drip: bytes) -> None:
    async with AutomaticGroup(3, health_check_interval="10ms") as group:
        wire, asked = group.now[1], []

        def begins(words: Words) -> bytes:
            asked.append(words)
            return b"" if drip.startswith(b">") else b"$2147483647\r\n"

        group.answers[1] = begins
        for _ in range(500):
            await passes(0.001)
            if wire.closed:
                break
            if asked:
                wire.reply(drip)
        assert "no answer" in server(group, 1).last_error
        await mended(group)


@pytest.mark.parametrize("how", ["release", "release by token", "extension", "pending"])
async def test_a_server_that_knows_no_script_ever_is_sent_it_once(how: str) -> None:
    async with AutomaticGroup(3, probes=REDIS_6, server_timeout="50ms") as group:
        lease = await held(group)
        group.answers[1:] = [lambda words: b"-NOSCRIPT No\r\n" if words[0].startswith(b"EVAL") else honest(words)] * 2
        calls = {
            "release": lambda: group.supervisor.unlock("r", lease),
            "release by token": lambda: group.supervisor.unlock("r", lease.token),
            "extension": lambda: group.supervisor.extend("r", lease, 10),
            "pending": lambda: group.supervisor.lock("s", 10, wait=0),
        }
        if how == "pending":
            usual = group.answers[1]
            group.answers[:2] = [lambda words: NIL if words[0] == b"SET" else usual(words)] * 2
        outcome = await calls[how]()
        assert outcome == Err("lock_failure" if how == "pending" else "unavailable")
        await turns(200)
        assert 1 <= sum(words[0] == b"EVAL" for words in group.now[2].commands) <= 2
        await mended(group)


def echoes(words: Words) -> bytes:
    """What servers since Redis 5 say of a command that they don't have."""
    arguments = b" ".join(b"'%b'" % word for word in words[1:])
    return b"-ERR unknown command '%b', with args beginning with: %b\r\n" % (words[0], arguments)


def complains(words: Words) -> bytes:
    """What some proxy may say."""
    return b"-ERR no route for " + b" ".join(words) + b"\r\n"


@pytest.mark.parametrize("says", [echoes, complains])
async def test_errors_that_repeat_a_command_are_told_without_its_token(says: object) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        lease = await held(group)
        group.answers = [says] * 3  # type: ignore[list-item]
        for call in (
            group.supervisor.lock("s", 10, wait=0),
            group.supervisor.extend("r", lease, 10),
            group.supervisor.extend("r", lease.token, 10),
            group.supervisor.unlock("r", lease.token),
            group.supervisor.unlock("r", lease),
        ):
            outcome = await call
            assert outcome == Err("unavailable")
            assert "ERR" in str(outcome.error)
            assert not SECRETS.leaks(f"{outcome!r} {outcome.error} {outcome.error!r}")
        if says is echoes:
            assert "s3cret" not in str((await group.supervisor.unlock("r", "my s3cret")).error)
        await mended(group)


async def test_predecessors_of_a_server_that_hangs_up_again_and_again_are_not_remembered_for_ever() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        group.answers[1] = lambda _: []
        for life in range(1, 301):
            wire = await group.reconnected(1, life)
            assert sum(words[1] == b"KILL" for words in wire.commands) <= 100
            wire.break_off()
        await mended(group)


def tame(status: ServerStatus) -> bool:
    said = status.last_error + status.version
    return said.isprintable() and len(said) < 400


async def test_what_servers_tell_is_printable_and_short() -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        wild = b"\x1b[2J\x07" + b"x" * 100_000
        holder = bulk(b"f" * 22 + b"@" + wild)
        group.answers = [lambda _: holder] * 3
        refused = await group.supervisor.lock("r", 10, wait=0)
        group.answers = [lambda _: b"-ERR " + wild + b"\r\n"] * 3
        failed = await group.supervisor.lock("r", 10, wait=0)
        for outcome in (refused, failed):
            assert str(outcome.error).isprintable()  # type: ignore[union-attr]
            assert len(str(outcome.error)) < 2000  # type: ignore[union-attr]
        group.handshakes[1] = lambda words, usual: bulk(b"redis_version:" + wild) if b"INFO" in words else usual
        group.now[1].break_off()
        await group.standing()
        assert tame(server(group, 1))
        group.handshakes[1] = lambda words, usual: b"-LOADING " + wild + b"\r\n" if b"NX" in words else usual
        group.now[1].break_off()
        lives = len(group.wires[1])
        await group.when(lambda: len(group.wires[1]) >= lives + 2)  # the next life has failed, and another begins
        assert tame(server(group, 1))


async def test_a_password_that_is_the_answer_to_it_stays_unsaid() -> None:
    password = "Hunter2Swordfish"
    servers = [{"port": 1000 + i, "password": password} for i in range(3)]
    group = AutomaticGroup(3, servers=servers)
    group.handshakes = [lambda words, _: b"-%b\r\n" % words[-1]] * 3
    async with group:
        assert "refused" in server(group, 1).last_error
        assert password not in server(group, 1).last_error


@pytest.mark.parametrize("said", [b"#t\r\n", b",1\r\n"])
async def test_a_pending_release_that_is_not_settled_counts_for_no_release(said: bytes) -> None:
    async with AutomaticGroup(3, clock=Clock()) as group:
        lease = await held(group)
        group.refusing = {0, 1, 2}
        for wire in group.now:
            wire.break_off()
        assert await group.supervisor.unlock("r", lease) == Err("unavailable")
        group.answers = [lambda words: b":1\r\n" if words[0] == b"CLIENT" else said] * 3
        group.refusing = set()
        for index in range(3):
            await group.reconnected(index, 2)
        group.answers = [lambda _: b":0\r\n"] * 3
        assert await group.supervisor.unlock("r", lease) != Ok(None)
