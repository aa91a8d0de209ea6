"""The synchronous face in processes as they are: threads, forks, exits, stuck loops, greenlets."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import textwrap
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from proxied_servers import (
    FAST,
    LONG,
    keys,
    left_on,
    put_foreign,
    run_script,
)

from redlock_cluster import (
    Contended,
    Err,
    LeaseLost,
    LockNotAcquired,
    NotHeld,
    Ok,
    OptionsError,
    QuorumUnavailable,
    RedlockError,
    ServerVote,
    Supervisor,
    Vote,
)
from redlock_cluster.testing import EmbeddedCluster

pytestmark = [
    pytest.mark.usefixtures("clean_log"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes here are forked"),
]


def check_script(code: str, trio: EmbeddedCluster, *arguments: str, seconds: float = 15.0, logs: bool = False) -> str:
    """Runs a script that must end well; what it says on stdout. On stderr nothing, with `logs` warnings of the log."""
    done = run_script(code, str(trio.options_path), *arguments, timeout=seconds)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Traceback" not in done.stderr if logs else done.stderr == "", done.stderr[-4000:]
    return done.stdout


PRELUDE = """
import os, sys, threading, time
from redlock_cluster import *

def child(body):
    '''Runs a function in a forked child, which must return in time and raise nothing.'''
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return pid

def join(pid):
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"

def check(redlock, resource):
    lease = redlock.lock(resource, 30, wait=0)
    assert lease, lease.error
    assert redlock.lock(resource, 30, wait=0) == Err("lock_failure")
    assert redlock.extend(resource, lease.value, 30)
    assert redlock.unlock(resource, lease.value) == Ok(None)
    with redlock.mutex(resource, ttl=30, wait=0) as lease:
        assert lease.valid
"""


def script(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


# Threads


def test_sixteen_threads_share_one_supervisor_and_exclude_each_other(trio: EmbeddedCluster) -> None:
    holders, told = Counter[str](), Counter[str]()
    stop = time.monotonic() + 0.8
    start = threading.Barrier(16)

    def work(number: int) -> None:
        start.wait()
        while time.monotonic() < stop:
            resource = f"a{number % 3}"
            match redlock.lock(resource, LONG, wait=0.2):
                case Ok(lease):
                    holders[resource] += 1
                    assert holders[resource] == 1
                    assert lease.valid
                    assert holders[resource] == 1
                    holders[resource] -= 1
                    assert redlock.unlock(resource, lease) == Ok(None)
                    told["locked"] += 1
                case Err(reason):
                    assert reason == "lock_failure"

    redlock = Supervisor(trio.options)  # started by whichever thread comes first
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, number) for number in range(16)]:
            done.result()
    assert told["locked"] > 100
    redlock.close()
    assert left_on(trio.servers) == {}


HELD_UP = """
import signal

counts, over = [0] * 6, threading.Event()

def work(number):
    while not over.is_set():
        lease = redlock.lock(f"a{number}", 30, wait=None).value
        assert redlock.unlock(f"a{number}", lease)
        counts[number] += 1

def dawdle(*_):
    before = list(counts)
    assert redlock.unlock("c", redlock.lock("c", 30, wait=0).value)
    time.sleep(0.3)
    others.append(min(now - then for now, then in zip(counts, before)))

others = []
with Supervisor(sys.argv[1]) as redlock:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGALRM, dawdle)
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        told = len(others)
        while len(others) == told:
            assert redlock.unlock("b", redlock.lock("b", 30, wait=0).value)
    over.set()
    for thread in threads:
        thread.join()
print(min(others) > 5)
"""


def test_signal_handler_that_locks_and_dawdles_while_a_call_ends_holds_up_no_thread(trio: EmbeddedCluster) -> None:
    assert check_script(PRELUDE + HELD_UP, trio) == "True\n"


def test_lease_may_be_released_by_another_thread(trio: EmbeddedCluster) -> None:
    with Supervisor(trio.options) as redlock, ThreadPoolExecutor(2) as pool:
        outcome = pool.submit(redlock.lock, "a", LONG, wait=0).result()
        assert isinstance(outcome, Ok)
        assert pool.submit(redlock.extend, "a", outcome.value, LONG).result() == outcome
        assert redlock.unlock("a", outcome.value) == Ok(None)


def test_threads_waiting_while_the_supervisor_closes_are_told(trio: EmbeddedCluster) -> None:
    redlock = Supervisor(trio.options).start()
    assert redlock.lock("a", LONG, wait=0)
    raised: list[BaseException | object] = []

    def wait() -> None:
        try:
            raised.append(redlock.lock("a", LONG, wait=None))
        except RedlockError as error:
            raised.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    redlock.close()
    for thread in threads:
        thread.join(2)
    assert not any(thread.is_alive() for thread in threads)
    assert [type(it).__name__ for it in raised] == ["ClosedError"] * 4


def test_two_supervisors_and_a_second_life_share_the_thread(trio: EmbeddedCluster) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    with Supervisor(trio.options) as first, Supervisor(trio.options) as second:
        outcome = first.lock("a", LONG, wait=0)
        assert isinstance(outcome, Ok)
        assert second.lock("a", LONG, wait=0) == Err("lock_failure")
        assert second.unlock("a", outcome.value) == Ok(None)  # by its token
    for _ in range(3):
        with first:
            assert first.transaction("a", LONG, lambda: 7) == 7
    assert len({thread.ident for thread in threading.enumerate()} - before) <= 1


# Forks


def test_forked_child_locks_and_parent_is_unaffected(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        redlock = Supervisor(sys.argv[1]).start()
        held = redlock.lock("parent", 30, wait=0).value
        check(redlock, "a")

        def body():
            check(redlock, f"child {os.getpid()}")
            assert redlock.lock("parent", 30, wait=0) == Err("lock_failure")
            assert redlock.status().available

        pids = [child(body), child(body)]
        for i in range(20):
            check(redlock, "b")  # while the child runs
        for pid in pids:
            join(pid)
        check(redlock, "c")
        assert held.valid
        assert redlock.extend("parent", held, 30)
        assert redlock.unlock("parent", held) == Ok(None)
        assert sum(s.reconnects for c in redlock.status().clusters for g in c.groups for s in g.servers) == 0
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


def test_child_refuses_leases_of_its_parent_and_takes_their_tokens(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        import asyncio
        redlock = Supervisor(sys.argv[1]).start()
        held, given = (redlock.lock(name, 30, wait=0).value for name in ("held", "given"))
        token = given.token

        async def by_asyncio():
            async with AsyncSupervisor(sys.argv[1]) as other:
                assert await other.unlock("held", held) == Err("not_held")
                assert await other.extend("held", held, 10) == Err("not_held")
                assert await other.extend("given", token, 20)

        def body():
            asyncio.run(by_asyncio())
            assert redlock.unlock("held", held) == Err("not_held")
            assert redlock.unlock("given", given.token) == Ok(None)

        join(child(body))
        assert redlock.unlock("held", held) == Ok(None)
        assert redlock.unlock("given", given) == Err("not_held")
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


def test_child_that_ends_leaves_the_parent_its_connections(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        import gc
        redlock = Supervisor(sys.argv[1]).start()
        held = redlock.lock("parent", 30, wait=0).value
        endings = {
            "exit": sys.exit,
            "hard exit": lambda: os._exit(0),
            "collect": gc.collect,
            "close": redlock.close,
            "close twice": lambda: (redlock.close(), redlock.close()),
        }
        for name, end in endings.items():
            for used in (False, True) if name == "exit" else (True,):
                pid = os.fork()
                if pid == 0:
                    if used:
                        check(redlock, "child")
                    end()
                    sys.exit()
                join(pid)
                for i in range(3):
                    check(redlock, "a")
                    time.sleep(0.01)
        time.sleep(0.3)  # over a health check
        assert held.valid
        assert redlock.unlock("parent", held) == Ok(None)
        assert sum(s.reconnects for c in redlock.status().clusters for g in c.groups for s in g.servers) == 0
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


CARRIED = """
from proxy import ask

ports = [int(port) for port in sys.argv[2].split(",")]

def executed():
    '''How often each command was executed by all servers; questions and health checks don't count.'''
    calls = {}
    for port in ports:
        for line in ask(port, "INFO", "commandstats").decode().splitlines():
            name, found, numbers = line.partition(":calls=")
            if found and name not in ("cmdstat_info", "cmdstat_time"):
                calls[name] = calls.get(name, 0) + int(numbers.partition(",")[0])
    return calls

def raises(call):
    try:
        call()
    except NotHeld:
        return True
    return False

redlock = Supervisor(sys.argv[1]).start()
held = redlock.lock("a", 30, wait=0).value
mutex = redlock.mutex("b", ttl=30, wait=0)
assert mutex.acquire()
"""


def check_carried(code: str, trio: EmbeddedCluster, logs: bool = False) -> None:
    check_script(script(CARRIED) + textwrap.dedent(code), trio, ports(trio), logs=logs)


def ports(trio: EmbeddedCluster) -> str:
    return ",".join(str(server.port) for server in trio.servers)


def test_lease_carried_into_a_child_is_not_held_there_and_sends_nothing(trio: EmbeddedCluster) -> None:
    check_carried(
        """
        def body():
            assert not held.valid and held.remaining == 0 and not mutex.locked()
            assert held.token and held.resource == "a"
            assert raises(held.extend) and raises(held.release)
            assert raises(mutex.extend) and raises(mutex.release)
            assert redlock.unlock("a", held) == Err("not_held")
            assert redlock.extend("a", held, 30) == Err("not_held")
            assert isinstance(redlock.unlock("a", held).error, NotHeld)
            assert redlock.unlock_many([held]) == redlock.extend_many([held], 30) == [Err("not_held")]

        time.sleep(0.1)  # stragglers of the acquisitions
        before = executed()
        join(child(body))
        assert executed() == before, (before, executed())
        assert held.valid and mutex.locked()
        mutex.release()
        held.release()
        redlock.close()
        """,
        trio,
    )
    assert left_on(trio.servers) == {}


@pytest.mark.parametrize("raising", [False, True])
def test_with_that_ends_in_a_child_raises_not_held_and_sends_nothing(trio: EmbeddedCluster, raising: bool) -> None:
    check_carried(
        f"""
        raising = {raising}
        pid = None
        try:
            with redlock.mutex("c", ttl=30, wait=0):
                time.sleep(0.1)
                before = executed()
                pid = os.fork()
                if pid == 0 and raising:
                    raise ZeroDivisionError
                if pid:
                    join(pid)
                    assert executed() == before, (before, executed())
        except (NotHeld, ZeroDivisionError) as error:
            os._exit(0 if pid == 0 and isinstance(error, ZeroDivisionError) is raising else 1)
        if pid == 0:
            os._exit(2)
        assert not redlock.is_locked("c")
        mutex.release()
        held.release()
        redlock.close()
        """,
        trio,
        logs=raising,  # an exception of the body goes before, so this one is logged
    )
    assert left_on(trio.servers) == {}


def test_token_of_a_carried_lease_still_works_in_the_child(trio: EmbeddedCluster) -> None:
    check_carried(
        """
        def body():
            assert redlock.extend("a", held.token, 30)
            assert redlock.unlock("a", held.token) == Ok(None)

        join(child(body))
        assert redlock.unlock("a", held) == Err("not_held")
        mutex.release()
        redlock.close()
        """,
        trio,
    )


def test_asyncio_lease_carried_into_a_child_is_not_held_there(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        import asyncio

        loop = asyncio.new_event_loop()
        redlock = AsyncSupervisor(sys.argv[1])
        held = loop.run_until_complete(redlock.lock("a", 30, wait=0)).value

        def body():
            async def main():
                for call in (held.extend, held.release):
                    try:
                        await call()
                    except NotHeld:
                        continue
                    raise AssertionError(call)
                async with AsyncSupervisor(sys.argv[1]) as mine:
                    assert await mine.lock("a", 30, wait=0) == Err("lock_failure")
            asyncio.set_event_loop(None)
            asyncio.run(main())

        join(child(body))
        assert held.valid
        assert loop.run_until_complete(redlock.unlock("a", held)) == Ok(None)
        loop.run_until_complete(redlock.close())
        loop.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


def test_fork_before_the_first_use_gives_both_a_supervisor(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        redlock = Supervisor(sys.argv[1])
        pid = child(lambda: check(redlock, "child"))
        check(redlock, "parent")
        join(pid)
        redlock.close()

        Redlock.start(sys.argv[1])
        pid = child(lambda: check(Redlock, "child"))
        check(Redlock, "parent")
        join(pid)
        """),
        trio,
    )


def test_fork_of_a_fork_locks(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        redlock = Supervisor(sys.argv[1]).start()
        check(redlock, "a")

        def body():
            check(redlock, "a")
            join(child(lambda: check(redlock, "a")))
            check(redlock, "a")

        join(child(body))
        check(redlock, "a")
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


def test_fork_while_threads_lock_gives_a_child_that_locks(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        redlock = Supervisor(sys.argv[1]).start()
        stop, failed = threading.Event(), []

        def work(i):
            while not stop.is_set():
                outcome = redlock.lock(f"t{i}", 30, wait=0)
                if not outcome or not redlock.unlock(f"t{i}", outcome.value):
                    failed.append(outcome)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for i in range(8):
            join(child(lambda: check(redlock, "child")))
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed, failed
        check(redlock, "a")
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


def test_fork_while_a_call_waits_leaves_the_wait_to_the_parent(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        redlock = Supervisor(sys.argv[1]).start()
        held = redlock.lock("a", 30, wait=0).value
        got = []
        waiter = threading.Thread(target=lambda: got.append(redlock.lock("a", 30, wait=None)))
        waiter.start()
        time.sleep(0.1)

        def body():
            check(redlock, "b")
            time.sleep(0.2)
            assert redlock.is_locked("a")
            assert redlock.lock("a", 30, wait=0) == Err("lock_failure")

        pid = child(body)
        join(pid)
        held.release()
        waiter.join(5)
        assert redlock.unlock("a", got[0].value) == Ok(None)
        time.sleep(0.1)
        assert not redlock.is_locked("a")
        redlock.close()
        """),
        trio,
    )
    assert left_on(trio.servers) == {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_lock_and_count_without_a_race(trio: EmbeddedCluster, method: str) -> None:
    path = trio.servers[0].directory / f"count-{method}"
    path.write_text("0")
    check_script(
        script("""
        import multiprocessing
        from children import count_up

        redlock = Supervisor(sys.argv[1]).start()
        check(redlock, "a")
        context = multiprocessing.get_context(sys.argv[3])
        children = [context.Process(target=count_up, args=(sys.argv[1], sys.argv[2], 15)) for _ in range(2)]
        for process in children:
            process.start()
        while any(process.is_alive() for process in children):
            check(redlock, "a")
        for process in children:
            process.join()
            assert process.exitcode == 0
        check(redlock, "a")
        redlock.close()
        """),
        trio,
        str(path),
        method,
        seconds=25,
    )
    assert path.read_text() == "30"
    assert left_on(trio.servers) == {}


# The end of the process


ENDINGS = {
    "locks held": """
        leases = [redlock.lock(f"a{i}", 30, wait=0) for i in range(20)]
        mutex = redlock.mutex("b", ttl=30)
        mutex.acquire()
        entered = redlock.mutex("c", ttl=30)
        entered.__enter__()
    """,
    "daemon threads waiting": """
        held = redlock.lock("a", 30, wait=0)
        def wait():
            with redlock.mutex("a", ttl=30, wait=None):
                pass
        for i in range(3):
            threading.Thread(target=redlock.lock, args=("a", 30), kwargs={"wait": None}, daemon=True).start()
            threading.Thread(target=wait, daemon=True).start()
        time.sleep(0.1)
    """,
    "daemon threads busy": """
        def work(i):
            while True:
                outcome = redlock.lock(f"a{i}", 30, wait=0)
                if outcome:
                    redlock.unlock(f"a{i}", outcome.value)
        for i in range(4):
            threading.Thread(target=work, args=(i,), daemon=True).start()
        time.sleep(0.1)
    """,
    "thread that outlives the main one": """
        def work():
            time.sleep(0.2)
            check(redlock, "a")
        threading.Thread(target=work).start()
    """,
    "closed twice and called at exit": """
        import atexit
        with Supervisor(sys.argv[1]) as other:
            check(other, "a")
        other.close()
        other.close()
        atexit.register(lambda: print(redlock.lock("z", 30, wait=0)))
    """,
    "exit from a with": """
        with redlock.mutex("a", ttl=30):
            sys.exit(0)
    """,
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_process_ends_soon_and_silently(trio: EmbeddedCluster, ending: str) -> None:
    code = script("redlock = Supervisor(sys.argv[1]).start()\n" + textwrap.dedent(ENDINGS[ending]).strip())
    took = check_ends(code, trio)
    assert took < 3
    if ending == "exit from a with":
        assert left_on(trio.servers) == {}


def check_ends(code: str, trio: EmbeddedCluster, *arguments: str, logs: bool = False) -> float:
    """Runs a script as `check_script` does; seconds from its end to the end of its process."""
    output = check_script(code + "\nprint('DONE', time.time(), flush=True)\n", trio, *arguments, logs=logs)
    ended = time.time()
    told = [line for line in output.splitlines() if line.startswith("DONE")]
    return ended - float(told[0].split()[1]) if told else 0.0


def test_process_ends_soon_while_servers_are_paused(trio: EmbeddedCluster) -> None:
    code = script("""
    redlock = Supervisor(sys.argv[1]).start()
    held = redlock.lock("a", 30, wait=0)
    time.sleep(0.5)
    """)
    pausing = threading.Timer(0.6, lambda: [server.pause() for server in trio.servers])
    pausing.start()
    try:
        assert check_ends(code, trio, logs=True) < 3
    finally:
        pausing.join()
        for server in trio.servers:
            server.resume()


def test_process_ends_soon_while_it_starts(trio: EmbeddedCluster) -> None:
    for server in trio.servers:
        server.pause()
    try:
        code = script("""
        redlock = Supervisor(sys.argv[1])
        def start():
            try:
                redlock.start()
            except RedlockError:
                pass
        threading.Thread(target=start, daemon=True).start()
        time.sleep(0.05)
        """)
        assert check_ends(code, trio, logs=True) < 3
    finally:
        for server in trio.servers:
            server.resume()


AT_EXIT = """
import atexit, sys, threading, time

def clean_up():
    lease.release()
    mutex.release()
    assert not lease.valid and not mutex.locked()
    assert Redlock.unlock("c", token) and not Redlock.is_locked("a")
    with Redlock.mutex("d", ttl=30, wait=0) as other:
        assert other.valid
    assert not other.valid
    assert Redlock.transaction("d", 30, lambda: 7) == 7
    assert Redlock.unlock_many([result.value for result in Redlock.lock_many(["e", "f"], 30)]) == [Ok(None)] * 2
    print("cleaned up")

def at_exit():
    if sys.version_info < (3, 12):  # later ones start no threads there
        thread = threading.Thread(target=clean_up)
        thread.start()
        thread.join()
    else:
        clean_up()

def register(when):
    if when == sys.argv[2]:
        atexit.register(at_exit if sys.argv[3] == "in a thread" else clean_up)

register("before the import")
import redlock_cluster
register("between import and names")
from redlock_cluster import Ok, Redlock
Redlock.start(sys.argv[1])
register("after the start")
lease = Redlock.lock("a", 30, wait=0).value
mutex = Redlock.mutex("b", ttl=30, wait=0)
mutex.acquire()
token = Redlock.lock("c", 30, wait=0).value.token
"""


@pytest.mark.parametrize("when", ["before the import", "between import and names", "after the start"])
@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_function_at_exit_locks_and_releases_whenever_it_was_registered(
    trio: EmbeddedCluster, when: str, where: str
) -> None:
    assert check_script(AT_EXIT, trio, when, where) == "cleaned up\n"
    assert left_on(trio.servers) == {}


def test_function_at_exit_may_not_block_a_running_loop_and_is_told(trio: EmbeddedCluster) -> None:
    output = check_script(
        textwrap.dedent("""
        import asyncio, atexit, sys

        async def main():
            try:
                Redlock.lock("a", 30, wait=0)
            except RuntimeError as error:
                print(error)
            print(bool(await AsyncRedlock.unlock("b", lease.token)))
            await AsyncRedlock.close()

        atexit.register(lambda: asyncio.run(main()))
        from redlock_cluster import AsyncRedlock, Redlock
        Redlock.start(sys.argv[1])
        lease = Redlock.lock("b", 30, wait=0).value
        """),
        trio,
    )
    assert output == ("at exit, no synchronous lock call can be made in a running event loop; await one there\nTrue\n")
    assert left_on(trio.servers) == {}


def test_function_at_exit_hears_of_an_outage_in_time(trio: EmbeddedCluster) -> None:
    output = check_script(
        textwrap.dedent("""
        import atexit, sys, time

        def clean_up():
            began = time.monotonic()
            print(Redlock.lock("b", 30, wait=0).reason, Redlock.unlock("a", "token").reason)
            assert time.monotonic() - began < 5

        atexit.register(clean_up)
        from redlock_cluster import Redlock
        Redlock.start({"servers": ["redis://127.0.0.1:1"], "connect_timeout": "500ms"})
        """),
        trio,
        logs=True,
    )
    assert output == "unavailable unavailable\n"


# A loop that does not run

STUCK = """
import _thread
from concurrent.futures import ThreadPoolExecutor, wait

outcomes = []

def timed(name, most, call):
    began = time.monotonic()
    try:
        outcome = call()
    except Exception as error:
        outcome = error
    took = time.monotonic() - began
    outcomes.append((name, took, outcome))
    assert took < most + 1, f"{name} took {took:.2f} s, its policy {most} s: {outcome!r}"
    return outcome

TIMEOUT, REFUSAL, CONNECT = map(float, sys.argv[2:5])
"""


def stuck_arguments() -> tuple[str, str, str]:
    from proxied_servers import longest_refusal, milliseconds

    return (
        str(milliseconds(FAST, "server_timeout")),
        str(longest_refusal()),
        str(milliseconds(FAST, "connect_timeout")),
    )


def test_calls_end_by_their_policy_when_the_loop_thread_never_runs(trio: EmbeddedCluster) -> None:
    took = check_ends(
        script(STUCK)
        + textwrap.dedent("""
        pool = ThreadPoolExecutor(16)
        _thread.start_new_thread = lambda *_: 0  # as a server that lets no threads of others run
        redlock = Supervisor(sys.argv[1])
        first = timed("first", CONNECT + TIMEOUT, lambda: redlock.lock("a", 30, wait=0))
        assert first == Err("unavailable"), first
        calls = (
            ("lock", CONNECT + TIMEOUT, lambda: redlock.lock("a", 30, wait=0)),
            ("retry", CONNECT + REFUSAL, lambda: redlock.lock("a", 30)),
            ("unlock", CONNECT + TIMEOUT, lambda: redlock.unlock("a", "token")),
            ("extend", CONNECT + TIMEOUT, lambda: redlock.extend("a", "token", 30)),
            ("transaction", CONNECT + TIMEOUT, lambda: redlock.transaction("a", 30, int, wait=0)),
            ("lock_many", CONNECT + TIMEOUT, lambda: redlock.lock_many(["a", "b"], 30)),
            ("is_locked", CONNECT + TIMEOUT, lambda: redlock.is_locked("a")),
            ("mutex", CONNECT + TIMEOUT, lambda: redlock.mutex("a", ttl=30, wait=0).acquire()),
            ("with", CONNECT + TIMEOUT, lambda: redlock.mutex("a", ttl=30, wait=0).__enter__()),
            ("start", CONNECT, redlock.start),
            ("status", 0.5, redlock.status),
        )
        running = {name: pool.submit(timed, name, *rest) for name, *rest in calls}
        got = {name: future.result() for name, future in running.items()}
        refused = ("lock", "retry", "unlock", "extend", "transaction")
        assert all(got[name] == Err("unavailable") for name in refused), got
        assert got["lock_many"] == [Err("unavailable")] * 2, got
        assert all(isinstance(got[name], QuorumUnavailable) for name in ("is_locked", "mutex", "with")), got
        assert isinstance(got["start"], RuntimeError) and "thread" in str(got["start"]), got
        got["close"] = timed("close", 0.5, redlock.close)
        for name in ("status", "close"):
            # A result, or an exception that the documentation knows.
            outcome = got[name]
            known = not isinstance(outcome, BaseException) or isinstance(outcome, (RedlockError, RuntimeError))
            assert known, (name, repr(outcome))
        """),
        trio,
        *stuck_arguments(),
        logs=True,
    )
    assert took < 3


def test_calls_end_by_their_policy_when_the_loop_is_blocked_and_leave_nothing(trio: EmbeddedCluster) -> None:
    check_script(
        script(STUCK)
        + textwrap.dedent("""
        from redlock_cluster.threads.process import portal

        redlock = Supervisor(sys.argv[1]).start()
        held = {name: redlock.lock(name, 30, wait=0).value for name in ("unlock", "extend", "release", "with")}
        many = [result.value for result in redlock.lock_many(["g", "h"], 30)]
        entered = redlock.mutex("entered", ttl=30, wait=0)
        entered.__enter__()
        gate = threading.Event()
        portal().loop.call_soon_threadsafe(gate.wait)
        calls = (
            ("lock", TIMEOUT, lambda: redlock.lock("a", 30, wait=0)),
            ("retry", REFUSAL, lambda: redlock.lock("b", 30)),
            ("wait", 0.3 + TIMEOUT, lambda: redlock.lock("c", 30, wait=0.3)),
            ("unlock", TIMEOUT, lambda: redlock.unlock("unlock", held["unlock"])),
            ("extend", TIMEOUT, lambda: redlock.extend("extend", held["extend"], 30)),
            ("release", TIMEOUT, lambda: held["release"].release()),
            ("lock_many", TIMEOUT, lambda: redlock.lock_many(["i", "j"], 30)),
            ("extend_many", 2 * TIMEOUT, lambda: redlock.extend_many(many[:1])),
            ("unlock_many", 2 * TIMEOUT, lambda: redlock.unlock_many(many)),
            ("transaction", TIMEOUT, lambda: redlock.transaction("d", 30, int, wait=0)),
            ("mutex", TIMEOUT, lambda: redlock.mutex("e", ttl=30, wait=0).acquire()),
            ("with", TIMEOUT, lambda: redlock.mutex("f", ttl=30, wait=0).__enter__()),
            ("exit", TIMEOUT, lambda: entered.__exit__(None, None, None)),
            ("is_locked", TIMEOUT, lambda: redlock.is_locked("a")),
            ("start", CONNECT, redlock.start),
            ("status", 0.5, redlock.status),
        )
        with ThreadPoolExecutor(len(calls)) as pool:
            running = [pool.submit(timed, *call) for call in calls]
            wait(running, timeout=max(most for _, most, _ in calls) + 1.2)
            late = [name for (name, *_), future in zip(calls, running) if not future.done()]
            gate.set()
            got = {name: future.exception() or future.result() for (name, *_), future in zip(calls, running)}
        assert not late, late
        assert got["lock"] == got["retry"] == got["wait"] == got["transaction"] == Err("unavailable"), got
        assert got["unlock"] == got["extend"] == Err("unavailable"), got
        assert got["lock_many"] == got["unlock_many"] == [Err("unavailable")] * 2, got
        assert got["extend_many"] == [Err("unavailable")], got
        assert all(isinstance(got[name], QuorumUnavailable) for name in ("release", "mutex", "with", "is_locked")), got
        time.sleep(0.2)
        # What was asked for while the loop stood still was given up: nothing was acquired late, and a release given
        # up may be asked for again.
        for name in ("unlock", "extend", "release"):
            assert redlock.unlock(name, held[name]) or held[name].state.value == "released", (name, held[name])
        held["with"].release()
        for name in "abcdefghij":
            check(redlock, name)
        redlock.close()
        """),
        trio,
        *stuck_arguments(),
        logs=True,
    )
    time.sleep(0.05)
    left = {key for server in trio.servers for key in keys(server)}
    assert left <= {"redlock:entered"}, left
    assert left == set(), "leaving a with while the loop stood still did not release"


def test_close_ends_in_time_when_the_loop_is_blocked(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        from redlock_cluster.threads.process import portal
        redlock = Supervisor(sys.argv[1]).start()
        portal().loop.call_soon_threadsafe(time.sleep, 0.6)
        redlock.close()
        """),
        trio,
        logs=True,
    )


# Greenlets

GREEN = """
    from gevent import monkey
    {patch}
    import gevent
    import os, sys, threading, time
    from redlock_cluster import *

    try:
        redlock = Supervisor(sys.argv[1]).start()
    except (RuntimeError, RedlockError) as refusal:
        assert "gevent" in str(refusal), refusal
        print("refused")
        sys.exit()

    holders, turns, ticks = {}, [0], [0]

    def tick():
        while True:
            ticks[0] += 1
            gevent.sleep(0.01)

    def work(i):
        for _ in range(5):
            with redlock.mutex({resource}, ttl=30, wait=10):
                holders[{resource}] = holders.get({resource}, 0) + 1
                assert holders[{resource}] == 1
                gevent.sleep(0.002)
                assert holders[{resource}] == 1
                holders[{resource}] -= 1
                turns[0] += 1

    ticking = gevent.spawn(tick)
    began = time.monotonic()
    gevent.joinall([gevent.spawn(work, i) for i in range(5)], raise_error=True, timeout=12)
    assert turns[0] == 25, turns
    assert time.monotonic() - began < 10
    {others}
    ticking.kill()
    redlock.close()
    print("works")
"""


@pytest.mark.parametrize("patched", ["all", "all but threads", "after the import"])
def test_gevent_process_locks_or_refuses_clearly(trio: EmbeddedCluster, patched: str) -> None:
    pytest.importorskip("gevent")
    patch = {
        "all": "monkey.patch_all()",
        "all but threads": "monkey.patch_all(thread=False)",
        "after the import": "import redlock_cluster.sync; monkey.patch_all()",
    }[patched]
    others = "assert ticks[0] > 5, 'other greenlets starved'" if patched == "all" else ""
    # Where threads are as they were, a call blocks all greenlets, so they must not wait for each other.
    resource = "f'a{i}'" if patched == "all but threads" else "'a'"
    done = run_script(
        GREEN.replace("{patch}", patch).replace("{others}", others).replace("{resource}", resource),
        str(trio.options_path),
        timeout=20,
        warnings="default",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() in ("works", "refused")
    assert "Traceback" not in done.stderr
    assert left_on(trio.servers) == {}


# Calls from a coroutine


def test_call_from_a_coroutine_warns_once_at_the_callers_line(trio: EmbeddedCluster) -> None:
    check_script(
        script("""
        import asyncio, warnings

        async def main():
            for i in range(3):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    lease = redlock.lock("a", 30, wait=0).value
                    redlock.unlock("a", lease)
                    with redlock.mutex("a", ttl=30):
                        pass
                    caught_at.append([(w.category, w.filename) for w in caught])

        caught_at = []
        redlock = Supervisor(sys.argv[1]).start()
        asyncio.run(main())
        redlock.close()
        ((category, where),), second, third = caught_at
        assert issubclass(category, RuntimeWarning) and where == "<string>", caught_at
        assert second == third == []
        """),
        trio,
    )


def test_call_from_a_thread_of_a_running_loop_does_not_warn(trio: EmbeddedCluster) -> None:
    async def main() -> object:
        return await asyncio.to_thread(redlock.lock, "a", LONG, wait=0)

    with Supervisor(trio.options) as redlock, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(asyncio.run(main()), Ok)


# Exceptions that travel


VOTES = (
    ServerVote("127.0.0.1:1", Vote.FOR),
    ServerVote("127.0.0.1:2", Vote.ABSENT, "no answer in time"),
    ServerVote("127.0.0.1:3", None),
)


@pytest.mark.parametrize("kind", [Contended, QuorumUnavailable, LeaseLost, NotHeld, LockNotAcquired])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_quorum_error_pickled_keeps_its_votes(kind: type[LockNotAcquired], protocol: int) -> None:
    error = kind("'a' is not locked", "a", "group", VOTES, 0.25)
    error.__cause__ = OSError(111, "refused")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.resource, copy.group, copy.votes, copy.elapsed) == ("a", "group", VOTES, 0.25)
    result = pickle.loads(pickle.dumps(Err("unavailable", error=error), protocol))
    assert result == Err("unavailable")
    assert result.error.votes == VOTES
    assert pickle.loads(pickle.dumps(Ok("value"), protocol)) == Ok("value")


@pytest.mark.parametrize("problems", [[("servers", "even")], [("a", "b"), ("", "c")]])
def test_options_error_pickled_keeps_its_problems(problems: list[tuple[str, str]]) -> None:
    error = OptionsError(problems, "redlock.yaml")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.problems, copy.source) == (
        OptionsError,
        str(error),
        tuple(problems),
        "redlock.yaml",
    )


def test_exceptions_of_a_worker_process_arrive_with_their_votes(trio: EmbeddedCluster) -> None:
    import children

    for server in trio.servers:
        put_foreign(server, "a")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        with pytest.raises(Contended) as held:
            pool.apply(children.enter, (str(trio.options_path), "a"))
        assert [vote.vote for vote in held.value.votes].count(Vote.AGAINST) >= 2
        assert held.value.resource == "a"
        for server in trio.servers[:2]:
            server.kill()
        try:
            with pytest.raises(QuorumUnavailable) as away:
                pool.apply(children.enter, (str(trio.options_path), "b"))
        finally:
            for server in trio.servers[:2]:
                server.start()
        assert [vote.vote for vote in away.value.votes].count(Vote.ABSENT) == 2
        put_foreign(trio.servers[0], "c")
        put_foreign(trio.servers[1], "c")
        refusal = pool.apply(children.refused, (str(trio.options_path), "c"))
        assert refusal == Err("lock_failure")
        assert [vote.vote for vote in refusal.error.votes].count(Vote.AGAINST) == 2
