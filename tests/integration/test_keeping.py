"""Leases that look after themselves in processes as they are: handed over, forked, killed, and ending."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from subprocess import CompletedProcess

import pytest
from proxied_servers import left_on, run_script, until
from proxy import ask

from redlock_cluster import AsyncSupervisor, Err, LeaseState, Supervisor
from redlock_cluster.testing import EmbeddedCluster

pytestmark = [
    pytest.mark.usefixtures("clean_log"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes here are forked"),
]

TTL = 2.0  # a busy machine may hold up a process for a second
TO_START = 8.0  # the ttl of what another process adopts, which has to start first

PRELUDE = """
import asyncio, gc, os, signal, sys, threading, time
from redlock_cluster import *
"""

DETACH = {
    "sync": """
        with Supervisor(sys.argv[1]) as redlock, redlock.mutex("a", FOR, auto_extend=True) as lease:
            print(lease.detach(), flush=True)
            END
        """,
    "asyncio": """
        async def main():
            async with AsyncSupervisor(sys.argv[1]) as redlock, redlock.mutex("a", FOR, auto_extend=True) as lease:
                print(lease.detach(), flush=True)
                END
        asyncio.run(main())
        """,
}

ADOPT = {
    "sync": """
        with Supervisor(sys.argv[1]) as redlock:
            lease = redlock.adopt(sys.argv[2]).value
            END
            lease.release()
            print("done")
        """,
    "asyncio": """
        async def main():
            async with AsyncSupervisor(sys.argv[1]) as redlock:
                lease = (await redlock.adopt(sys.argv[2])).value
                END
                await lease.release()
                print("done")
        asyncio.run(main())
        """,
}

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def trio_options() -> Mapping[str, object]:
    return {"ttl": f"{TTL * 1000:.0f}ms"}


def run(
    trio: EmbeddedCluster, body: str, *arguments: str, end: str = "pass", ttl: float = TO_START
) -> CompletedProcess[str]:
    code = PRELUDE + textwrap.dedent(body).replace("END", end).replace("FOR", str(ttl))
    return run_script(code, str(trio.options_path), *arguments)


def check(trio: EmbeddedCluster, body: str, *arguments: str) -> str:
    """What a script says that must end well, without warnings but those of a busy machine."""
    done = run(trio, body, *arguments)
    warned = [line for line in done.stderr.splitlines() if "stood still" not in line]
    assert (done.returncode, warned) == (0, []), done.stderr[-4000:]
    return done.stdout


def gone(trio: EmbeddedCluster) -> bool:
    return not any(ask(server.port, "EXISTS", "redlock:a") for server in trio.servers)


@pytest.mark.parametrize("first", ["sync", "asyncio"])
@pytest.mark.parametrize("end", ["pass", KILLED])
def test_lease_goes_to_another_process_and_back(trio: EmbeddedCluster, first: str, end: str) -> None:
    """Also if the process that has detached it crashes then."""
    ticket = run(trio, DETACH[first], end=end).stdout.strip()
    with Supervisor(trio.options) as redlock:
        lease = redlock.adopt(ticket).value
        assert (lease.ttl, lease.valid) == (TO_START, True)
        assert check(trio, ADOPT["asyncio" if first == "sync" else "sync"], lease.detach()) == "done\n"
        assert lease.state is LeaseState.DETACHED
    assert left_on(trio.servers) == {}


async def test_asyncio_adopts_what_a_synchronous_process_detached(trio: EmbeddedCluster) -> None:
    ticket = run(trio, DETACH["sync"], end=KILLED).stdout.strip()
    async with AsyncSupervisor(trio.options) as redlock:
        lease = (await redlock.adopt(ticket)).value
        assert await redlock.lock("a", 10, wait=0) == Err("lock_failure")
        await lease.release()
    assert left_on(trio.servers) == {}


def test_lease_that_nobody_adopts_ends_with_its_ttl(trio: EmbeddedCluster) -> None:
    ticket = run(trio, DETACH["sync"], ttl=0.5).stdout.strip()
    until(lambda: gone(trio), 5)
    with Supervisor(trio.options) as redlock:
        assert redlock.adopt(ticket) == Err("not_held")


@pytest.mark.parametrize("face", ["sync", "asyncio"])
def test_lease_of_a_process_that_crashes_after_adopting_ends_with_its_ttl(trio: EmbeddedCluster, face: str) -> None:
    ticket = run(trio, DETACH[face]).stdout.strip()
    assert run(trio, ADOPT[face], ticket, end=KILLED).returncode < 0
    left = [ask(server.port, "PTTL", "redlock:a") for server in trio.servers]
    assert [0 < left_ms <= TO_START * 1000 for left_ms in left if isinstance(left_ms, int)] == [True] * 3


def test_ticket_goes_through_a_fork(trio: EmbeddedCluster) -> None:
    check(
        trio,
        """
        with Supervisor(sys.argv[1]) as redlock:
            ticket = redlock.lock("a").value.detach()
            pid = os.fork()
            if pid == 0:
                lease = redlock.adopt(ticket).value
                time.sleep(2.5)
                lease.release()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert redlock.adopt(ticket) == Err("not_held")
        """,
    )
    assert left_on(trio.servers) == {}


def test_forked_child_is_not_inside_of_what_its_parent_is(trio: EmbeddedCluster) -> None:
    """It has the same thread and context, but waits for the parent as any other, reentrant or not."""
    check(
        trio,
        """
        redlock = Supervisor(sys.argv[1]).start()
        with redlock.mutex("a", 30) as lease:
            pid = os.fork()
            if pid == 0:
                for reentrant in (False, True):
                    try:
                        with redlock.mutex("a", 30, wait=0, reentrant=reentrant):
                            os._exit(2)
                    except Contended as refusal:
                        if type(refusal) is not Contended:
                            os._exit(3)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert lease.valid
            with redlock.mutex("a", 30, reentrant=True) as same:
                assert same is lease
        redlock.close()
        """,
    )
    assert gone(trio)


def test_forked_child_neither_extends_nor_releases_the_parents_lease(trio: EmbeddedCluster) -> None:
    check(
        trio,
        """
        called = []
        redlock = Supervisor(sys.argv[1]).start()
        lease = redlock.lock("a", on_lost=lambda *told: called.append(told)).value
        pid = os.fork()
        if pid == 0:
            assert not lease.valid and lease.lost and lease.lost.wait(1)
            try:
                lease.raise_if_lost()
            except NotHeld:
                pass
            else:
                os._exit(2)
            assert redlock.leases() == []
            assert redlock.lock("b", 10, wait=0).value.release() is None
            for call in (lease.release, lease.detach):
                try:
                    call()
                except NotHeld:
                    pass
                else:
                    os._exit(3)
            del lease
            gc.collect()
            time.sleep(0.1)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        time.sleep(2.5)
        assert lease.valid and called == []
        lease.release()
        redlock.close()
        """,
    )
    assert left_on(trio.servers) == {}


def test_lease_of_a_parent_that_is_killed_ends_though_its_child_lives(trio: EmbeddedCluster) -> None:
    done = run(
        trio,
        """
        redlock = Supervisor(sys.argv[1]).start()
        lease = redlock.lock("a").value
        if os.fork() == 0:
            assert redlock.lock("b", 10, wait=0)
            end = time.monotonic() + 10
            while not redlock.lock("a", 10, wait=0) and time.monotonic() < end:
                time.sleep(0.05)
            print("free" if time.monotonic() < end else "still held", flush=True)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.stdout == "free\n", done.stderr


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "raise SystemExit", "signal.raise_signal(signal.SIGINT)"])
def test_interpreter_that_exits_releases_what_it_holds(trio: EmbeddedCluster, end: str) -> None:
    done = run(
        trio,
        """
        redlock = Supervisor(sys.argv[1]).start()
        lease = redlock.lock("a", 60, auto_extend=True).value
        time.sleep(0.05)
        END
        """,
        end=end,
    )
    assert "ResourceWarning" not in done.stderr
    assert gone(trio)


def test_loop_that_ends_with_its_supervisor_releases_what_it_holds(trio: EmbeddedCluster) -> None:
    check(
        trio,
        """
        async def main():
            async with AsyncSupervisor(sys.argv[1]) as redlock:
                global lease
                lease = (await redlock.lock("a", 60, auto_extend=True)).value
        asyncio.run(main())
        assert not lease.valid and not lease.lost
        """,
    )
    assert gone(trio)


def test_child_has_a_thread_of_its_own_that_calls_on_lost(trio: EmbeddedCluster) -> None:
    check(
        trio,
        """
        def lose(redlock, name):
            called, ended = [], threading.Event()
            lease = redlock.lock(name, 0.1, on_lost=lambda *told: (called.append(told), ended.set())).value
            assert ended.wait(10)
            assert called == [(lease, LossReason.EXPIRED)]

        redlock = Supervisor(sys.argv[1]).start()
        lose(redlock, "parent")
        pid = os.fork()
        if pid == 0:
            lose(redlock, "child")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        lose(redlock, "parent again")
        redlock.close()
        """,
    )


def test_lease_is_kept_while_every_other_thread_computes(trio: EmbeddedCluster) -> None:
    check(
        trio,
        """
        with Supervisor(sys.argv[1]) as redlock, redlock.mutex("a") as lease:
            end = time.monotonic() + 4
            def compute():
                while time.monotonic() < end:
                    sum(range(10000))
            threads = [threading.Thread(target=compute) for _ in range(3)]
            for thread in threads:
                thread.start()
            compute()
            for thread in threads:
                thread.join()
            assert lease.valid
        """,
    )


def test_stopped_process_knows_of_the_loss_before_it_extends(trio: EmbeddedCluster) -> None:
    """The first thing after SIGCONT: the lease is not valid, and nobody has it again."""
    done = run(
        trio,
        """
        import subprocess
        with Supervisor(sys.argv[1]) as redlock:
            lease = redlock.lock("a").value
            lost = lease.lost
            me = os.getpid()
            stopper = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.1; kill -STOP {me}; sleep 3; kill -CONT {me}"])
            end = time.monotonic() + 10
            while lease.valid and time.monotonic() < end:
                time.sleep(0.001)
            assert lost and lost.wait(1)
            assert lease.state is LeaseState.LOST
            assert redlock.lock("a", 10, wait=0).value.release() is None
            stopper.wait()
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "the lease on 'a' is lost: it expired" in done.stderr
    assert "stood still" in done.stderr
    assert left_on(trio.servers) == {}
