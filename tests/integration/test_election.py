"""Leader election among processes as they are: one resigns, is killed, stands still, forks, or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping

import pytest
from proxied_servers import left_on, run_script, start_script, until
from proxy import ask

from redlock_cluster import Err, Supervisor
from redlock_cluster.testing import EmbeddedCluster

pytestmark = [
    pytest.mark.usefixtures("clean_log"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes here are forked"),
]

TTL = 2.0  # a busy machine may hold up a process for a second

PRELUDE = """
import asyncio, os, signal, sys, time
from redlock_cluster import *
"""

LEAD = {
    "sync": """
        with Supervisor(sys.argv[1]) as redlock:
            for term in redlock.election("a", FOR):
                print("leads", time.monotonic(), flush=True)
                sys.stdin.readline()
                break
            print("resigned", time.monotonic(), flush=True)
            sys.stdin.readline()
        """,
    "asyncio": """
        async def main():
            async with AsyncSupervisor(sys.argv[1]) as redlock:
                async with redlock.election("a", FOR) as term:
                    print("leads", time.monotonic(), flush=True)
                    await asyncio.to_thread(sys.stdin.readline)
                print("resigned", time.monotonic(), flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        asyncio.run(main())
        """,
}


@pytest.fixture(scope="module")
def trio_options() -> Mapping[str, object]:
    return {"ttl": f"{TTL * 1000:.0f}ms"}


class Candidate:
    """A process that campaigns, leads until it is told to go on, and resigns."""

    def __init__(self, trio: EmbeddedCluster, face: str) -> None:
        code = PRELUDE + textwrap.dedent(LEAD[face]).replace("FOR", str(TTL))
        self.process: subprocess.Popen[str] = start_script(code, str(trio.options_path))

    def says(self, word: str) -> float:
        """Reads that it leads, or has resigned, and returns when that was."""
        assert self.process.stdout is not None
        said, at = self.process.stdout.readline().split()
        assert said == word
        return float(at)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def pair(trio: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[tuple[Candidate, Candidate]]:
    """A leader and one who stands by."""
    leader = Candidate(trio, request.param)
    try:
        leader.says("leads")
        standby = Candidate(trio, request.param)
        try:
            until(lambda: waited_for(trio), 20)
            yield leader, standby
        finally:
            standby.end()
    finally:
        leader.end()


def waited_for(trio: EmbeddedCluster) -> bool:
    return all(ask(server.port, "EXISTS", "redlock:a:redlock:queue") for server in trio.servers)


both_faces = pytest.mark.parametrize("pair", ["sync", "asyncio"], indirect=True)


@both_faces
def test_standby_takes_over_within_a_second_of_a_resignation(
    trio: EmbeddedCluster, pair: tuple[Candidate, Candidate]
) -> None:
    leader, standby = pair
    leader.go_on()
    resigned = leader.says("resigned")
    assert standby.says("leads") - resigned < 1
    standby.go_on()
    standby.says("resigned")
    until(lambda: left_on(trio.servers) == {})


@both_faces
def test_standby_takes_over_within_the_ttl_of_a_death(trio: EmbeddedCluster, pair: tuple[Candidate, Candidate]) -> None:
    leader, standby = pair
    time.sleep(TTL)  # it has extended its lease
    assert leader.process.poll() is None
    killed = time.monotonic()
    leader.process.send_signal(signal.SIGKILL)
    taken = standby.says("leads") - killed
    assert TTL / 3 < taken < TTL + 1


@both_faces
def test_leader_that_stood_still_finds_its_term_lost(trio: EmbeddedCluster, pair: tuple[Candidate, Candidate]) -> None:
    leader, standby = pair
    leader.process.send_signal(signal.SIGSTOP)
    standby.says("leads")
    leader.process.send_signal(signal.SIGCONT)
    leader.go_on()
    with Supervisor(trio.options) as redlock:
        until(lambda: redlock.lock("a", 1, wait=0) == Err("lock_failure"))
        standby.go_on()
        standby.says("resigned")
        assert redlock.lock("a", 1, wait=1).value.release() is None


@pytest.mark.parametrize("how", ["for term in election:", "with election as term:"])
def test_interrupt_of_a_leader_resigns(trio: EmbeddedCluster, how: str) -> None:
    code = f"""
        try:
            with Supervisor(sys.argv[1]) as redlock:
                election = redlock.election("a")
                try:
                    {how}
                        assert election.is_leader
                        signal.raise_signal(signal.SIGINT)
                finally:
                    assert not election.is_leader
                    assert not redlock.is_locked("a")
        except KeyboardInterrupt:
            print("interrupted")
        """
    done = run_script(PRELUDE + textwrap.dedent(code), str(trio.options_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert left_on(trio.servers) == {}


def test_forked_child_does_not_lead_and_may_campaign(trio: EmbeddedCluster) -> None:
    code = """
        redlock = Supervisor(sys.argv[1]).start()
        election, many = redlock.election("a", 30), redlock.mutex_many(["b", "c"])
        term, group = election.campaign(), many.acquire() and many.lease
        pid = os.fork()
        if pid == 0:
            assert not election.is_leader and election.term is None and term.lost and not term.valid
            assert not group.valid and group.lost and group.state is LeaseState.LOST
            for call in (group.release, group.extend, group.raise_if_lost, election.resign):
                try:
                    call()
                except NotHeld:
                    pass
                else:
                    os._exit(3)
            try:
                redlock.election("a", wait=0).campaign()
            except Contended:
                pass
            else:
                os._exit(2)
            with redlock.election("d") as mine, redlock.mutex_many(["e", "f"]) as mine_too:
                assert mine.valid and mine_too.valid
            redlock.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert election.is_leader and term.valid and group.valid
        election.resign()
        group.release()
        redlock.close()
        """
    done = run_script(PRELUDE + textwrap.dedent(code), str(trio.options_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert left_on(trio.servers) == {}


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "signal.raise_signal(signal.SIGINT)"])
def test_exit_of_a_process_ends_its_terms_and_groups(trio: EmbeddedCluster, end: str) -> None:
    code = f"""
        redlock = Supervisor(sys.argv[1]).start()
        election, many = redlock.election("a"), redlock.mutex_many(["b", "c"])
        assert election.campaign().valid and many.acquire()
        {end}
        """
    run_script(PRELUDE + textwrap.dedent(code), str(trio.options_path))
    assert left_on(trio.servers) == {}
