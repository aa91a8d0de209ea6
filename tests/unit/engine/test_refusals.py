"""Servers that answer commands with errors: refusing until they vote again, left when they have become replicas."""

from __future__ import annotations

import logging

import pytest

from redlock_cluster import Err, Ok, QuorumUnavailable, ServerState, ServerStatus, Vote

from .scripted import NIL, REDIS_6, ZERO, Answer, AutomaticGroup, Words, bulk, honest, passes, turns

OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
WRAPPED = b"-ERR Error running script (call to f_0): @user_script:1: @user_script: 1: " + READONLY
PROBE = b"redlock:"


def says(error: bytes, *names: bytes) -> Answer:
    """An honest server, but for these commands."""
    return lambda words: error if words[0] in names else honest(words)


def servers(group: AutomaticGroup) -> tuple[ServerStatus, ...]:
    return group.supervisor.status().clusters[0].groups[0].servers


def states(group: AutomaticGroup) -> list[ServerState]:
    return [server.state for server in servers(group)]


def probes(group: AutomaticGroup, index: int) -> list[Words]:
    """The commands that a server was sent on the probes' key, after the handshakes."""
    return [words for wire in group.wires[index] for words in wire.commands if PROBE in words]


@pytest.mark.parametrize(
    "words",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOPERM User locker has no permissions to run the 'set' command",
        "CLUSTERDOWN Hash slot not served",
        "MOVED 3999 127.0.0.1:6381",
        "ERR unknown command 'SET'",
    ],
    ids=lambda words: words.split()[0],
)
async def test_server_that_refuses_to_vote_is_refusing_in_its_own_words(words: str) -> None:
    async with AutomaticGroup(3) as group:
        group.answers[1:] = [says(f"-{words}\r\n".encode(), b"SET")] * 2
        assert await group.supervisor.lock("r", 10, wait=0) == Err("unavailable")
        await turns()
        assert states(group) == [ServerState.UP, ServerState.REFUSING, ServerState.REFUSING]
        assert servers(group)[1].last_error == f"acquire: {words}"
        assert not group.supervisor.status().available


async def test_quorum_that_votes_is_available_whoever_else_refuses() -> None:
    async with AutomaticGroup(3) as group:
        group.answers[0] = says(OOM, b"SET")
        assert await group.supervisor.lock("r", 10, wait=0)
        await turns()
        assert states(group) == [ServerState.REFUSING, ServerState.UP, ServerState.UP]
        assert group.supervisor.status().available


async def test_refusing_server_is_still_asked_and_up_again_with_its_first_vote() -> None:
    async with AutomaticGroup(3) as group:
        group.answers[1:] = [says(b"-NOREPLICAS too few\r\n", b"SET")] * 2
        await group.supervisor.lock("r", 10, wait=0)
        group.answers[1:] = [honest, lambda words: bulk(b"x") if words[0] == b"SET" else honest(words)]
        assert await group.supervisor.lock("s", 10, wait=0)
        await turns()
        assert states(group) == [ServerState.UP] * 3  # also by a vote against
        assert group.supervisor.status().available
        assert servers(group)[1].last_error == "acquire: NOREPLICAS too few"  # what happened stays told
        assert probes(group, 1) == []


async def test_health_check_takes_and_gives_back_a_probe_while_a_server_refuses() -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        group.answers[1] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        await passes(2.5)
        assert states(group)[1] is ServerState.REFUSING
        group.answers[1] = honest
        await passes(1)
        assert states(group)[1] is ServerState.UP
        *refused, acquire, extend, release = probes(group, 1)
        assert [words[0] for words in refused] == [b"SET", b"SET", b"DELIFEQ", b"EVAL"] * 2
        token = acquire[2]
        assert acquire == [b"SET", PROBE, token, b"NX", b"GET", b"PX", b"200"]
        assert extend == [b"SET", PROBE, token, b"IFEQ", token, b"PX", b"200"]
        assert release == [b"DELIFEQ", PROBE, token]


async def test_full_server_extends_so_only_acquisitions_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        lease = (await group.supervisor.lock("r", 60, wait=0)).value  # type: ignore[union-attr]
        group.answers[1] = says(OOM, b"SET")
        with caplog.at_level(logging.INFO):
            await group.supervisor.lock("s", 10, wait=0)
            for _ in range(4):
                await passes(0.7)
                assert await lease.extend(60) is None
                assert servers(group)[1].last_error == f"acquire: {OOM.decode().strip()[1:]}"
        assert len([record for record in caplog.records if "refuses commands" in record.getMessage()]) == 1


async def test_probe_costs_nothing_while_nobody_refuses() -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        group.answers[1] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        await passes(1.5)
        assert probes(group, 1)
        group.answers[1] = honest
        await passes(1)
        known = len(probes(group, 1))
        await passes(5)
        assert (len(probes(group, 1)), probes(group, 0)) == (known, [])


async def test_somebody_elses_probe_is_a_vote() -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        group.answers[1] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        others = {b"SET": bulk(b"another's"), b"DELIFEQ": ZERO}
        group.answers[1] = lambda words: others.get(words[0], honest(words))
        await passes(1.5)
        assert states(group)[1] is ServerState.UP


async def test_probe_by_scripts_that_a_server_has_forgotten_is_sent_in_full() -> None:
    async with AutomaticGroup(3, probes=REDIS_6, health_check_interval="1s") as group:
        group.answers[1] = says(b"-NOPERM no 'evalsha' for you\r\n", b"EVALSHA", b"EVAL")
        group.answers[0] = group.answers[2] = says(b"-NOSCRIPT No matching script.\r\n", b"EVALSHA")
        lease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        assert await group.supervisor.unlock("r", lease) == Ok(None)
        await turns()
        assert states(group) == [ServerState.UP, ServerState.REFUSING, ServerState.UP]  # NOSCRIPT refuses nothing
        assert servers(group)[1].last_error == "release: NOPERM no 'evalsha' for you"
        group.answers[1] = says(b"-NOSCRIPT No matching script.\r\n", b"EVALSHA")
        await passes(1.5)
        assert states(group)[1] is ServerState.UP
        assert [words[0] for words in probes(group, 1)[-4:]] == [b"EVALSHA", b"EVALSHA", b"EVAL", b"EVAL"]


async def test_release_that_gives_back_by_a_forgotten_script_is_no_refusal() -> None:
    async with AutomaticGroup(3, probes=REDIS_6) as group:
        forgetful = says(b"-NOSCRIPT No matching script.\r\n", b"EVALSHA")
        held = says(NIL, b"SET")
        group.answers = [forgetful, *[lambda words: held(words) if words[0] == b"SET" else forgetful(words)] * 2]
        assert await group.supervisor.lock("r", 10, wait=0) == Err("lock_failure")
        await turns(5)
        assert [words[0] for words in group.now[0].commands] == [b"SET", b"EVALSHA", b"EVAL"]
        assert [server.last_error for server in servers(group)] == [""] * 3


async def test_refusal_of_one_kind_of_command_ends_with_that_kind() -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        group.answers = [says(b"-NOPERM no 'delifeq' for you\r\n", b"DELIFEQ")] * 3
        lease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        assert await group.supervisor.unlock("r", lease) == Err("unavailable")
        assert await group.supervisor.lock("s", 10, wait=0)  # it votes, and can't be given back all the same
        await turns()
        assert states(group) == [ServerState.REFUSING] * 3
        assert servers(group)[0].last_error == "release: NOPERM no 'delifeq' for you"
        await passes(1.5)
        assert states(group) == [ServerState.REFUSING] * 3
        group.answers = [honest] * 3
        await passes(1)
        assert states(group) == [ServerState.UP] * 3


async def test_every_kind_of_refusal_is_told() -> None:
    async with AutomaticGroup(3) as group:
        lease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        group.answers[0] = says(b"-MISCONF can't persist\r\n", b"SET")
        await group.supervisor.extend("r", lease, 20)
        await group.supervisor.lock("s", 10, wait=0)
        await turns()
        assert servers(group)[0].last_error == "extend: MISCONF can't persist; acquire: MISCONF can't persist"


async def test_holders_and_inspections_are_no_refusals() -> None:
    async with AutomaticGroup(3) as group:
        wrong = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        group.answers = [says(wrong, b"SET")] * 3
        assert await group.supervisor.lock("r", 10, wait=0) == Err("lock_failure")
        group.answers = [says(b"-NOPERM no 'get' for you\r\n", b"GET")] * 3
        with pytest.raises(QuorumUnavailable, match="NOPERM"):
            await group.supervisor.is_locked("r")
        await turns()
        assert states(group) == [ServerState.UP] * 3


async def test_refusal_says_since_when() -> None:
    async with AutomaticGroup(3) as group:
        await passes(5)
        group.answers[0] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        await passes(2)
        await group.supervisor.lock("s", 10, wait=0)
        await passes(1)
        assert servers(group)[0].since == pytest.approx(3)
        assert servers(group)[1].since == pytest.approx(8)


async def test_refusing_server_is_probed_on_its_next_connection() -> None:
    async with AutomaticGroup(3) as group:
        group.answers[1] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        await turns()
        group.now[1].break_off()
        await group.reconnected(1, 2)
        assert states(group)[1] is ServerState.REFUSING
        group.answers[1] = honest
        group.now[1].break_off()
        await group.reconnected(1, 3)
        assert states(group)[1] is ServerState.UP


@pytest.mark.parametrize("error", [READONLY, WRAPPED], ids=["itself", "in a script"])
async def test_server_that_has_become_a_replica_is_left_and_dialled_again(error: bytes) -> None:
    async with AutomaticGroup(3) as group:
        lease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        group.answers[1:] = [says(error, b"SET", b"DELIFEQ")] * 2
        refused = await group.supervisor.extend("r", lease, 20)
        assert refused == Err("unavailable")
        votes = refused.error.votes[1:]  # type: ignore[union-attr]
        assert [vote.vote for vote in votes] == [Vote.ABSENT] * 2
        assert states(group)[1:] == [ServerState.DOWN] * 2
        assert "READONLY You can't write against a read only replica." in servers(group)[1].last_error
        group.answers[1:] = [honest] * 2
        await group.standing()
        assert [len(lives) for lives in group.wires] == [1, 2, 2]
        assert states(group) == [ServerState.UP] * 3
        assert await group.supervisor.lock("s", 10, wait=0)


async def test_every_connection_of_its_pool_to_a_server_that_has_become_a_replica_is_left() -> None:
    async with AutomaticGroup(3, pool_size=3) as group:
        group.answers[1] = says(READONLY, b"SET")
        assert await group.supervisor.lock("r", 10, wait=0)
        await turns()
        assert [wire.closed for wire in group.wires[1]] == [True] * 3
        group.answers[1] = honest
        await passes(1)
        assert servers(group)[1].connections == 3
        assert not any(wire.closed for wire in group.wires[0] + group.wires[2])


async def test_pending_release_that_is_refused_leaves_a_replica_too() -> None:
    async with AutomaticGroup(3) as group:
        lease = (await group.supervisor.lock("r", 10, wait=0)).value  # type: ignore[union-attr]
        group.answers[1] = lambda words: [] if words[0] == b"DELIFEQ" else honest(words)
        assert await group.supervisor.unlock("r", lease) == Ok(None)
        group.answers[1] = says(READONLY, b"DELIFEQ")
        group.now[1].break_off()
        await group.when(lambda: len(group.wires[1]) > 2)
        assert servers(group)[1].last_error == READONLY.decode().strip()[1:]


async def test_replies_are_matched_unparsed_again_once_nobody_refuses() -> None:
    async with AutomaticGroup(3) as group:
        group.answers[1] = says(OOM, b"SET")
        await group.supervisor.lock("r", 10, wait=0)
        await turns()
        (pipeline,) = group.supervisor._deployments.engines["default"].group_for(b"r").pipelines
        assert pipeline.refused
        group.answers[1] = lambda words: NIL if words[0] == b"SET" else honest(words)
        await group.supervisor.lock("s", 10, wait=0)
        await turns()
        assert not pipeline.refused
