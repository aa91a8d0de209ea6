"""The benchmark still runs: every row once, tiny, on this library alone. Nothing is said about speed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from redlock_cluster.testing import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = ROOT / "benchmarks" / "contestants"
ROWS = {
    "aio-uvloop",
    "aio-loop",
    "aio-sequential",
    "sync-sequential",
    "sync-threads",
    "many",
    "many-on-one",
    "outage",
    "keys",
    "groups",
    "handover-8",
    "handover-16",
    "handover-64",
    "wakeup",
    "crowd",
    "queue",
    "queue-memory",
    "fences",
    "readers",
    "read-write-8",
    "semaphore-8",
    "keeping",
    "imports",
    "memory",
}


@pytest.fixture
def contestants(monkeypatch):
    """Imports modules as the contestants' scripts import them."""
    monkeypatch.syspath_prepend(CONTESTANTS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(CONTESTANTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def contention(contestants):
    """The module that finds who held a contended lock and when."""
    return contestants("contention")


def test_smoke_run_every_row_locks_and_writes_results(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows.keys() == ROWS
    for name, row in rows.items():
        assert row["sound"], (name, row)
        assert row["entrants"], name
        for label, series in row["entrants"].items():
            assert (series["failures"], series["left"], series["error"]) == (0, 0, ""), (label, series)
            assert all(figures[row["figure"]] > 0 or name == "memory" for figures in series["rounds"]), (label, series)
    for name in ("handover-8", "handover-16", "handover-64", "read-write-8", "semaphore-8"):
        contended = [figures for series in rows[name]["entrants"].values() for figures in series["rounds"]]
        assert {figures["overlaps"] for figures in contended} == {0}
        assert all(sum(figures["shares"]) > 0 for figures in contended)
    text = (tmp_path / "RESULTS.md").read_text()
    assert all(f"### {row['title']}" in text for row in rows.values())


def test_a_contestant_that_can_not_be_built_is_named_with_the_reason(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import measuring, peers

    monkeypatch.setattr(peers.shutil, "which", lambda *_, **__: None)
    bench = measuring.Bench(measuring.Settings(peers=("redlock_batched",)))
    bench.install_peers()
    assert bench.missing == {"redlock_batched (Rust)": "there is no cargo on PATH"}


def test_layers_are_named_for_files_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.layers import _FILES

    assert [name for name in _FILES if not (ROOT / "redlock_cluster" / name).is_file()] == []


def test_sections_that_overlap_are_counted(contention):
    separate = "wait 0\nheld 1 2\nwait 2\nheld 3 4\n"
    inside = "wait 0\nheld 3.5 3.6\n"

    assert contention.summary([separate], began=0, seconds=10)["overlaps"] == 0
    touching = contention.summary([separate, "wait 0\nheld 2 3\n"], began=0, seconds=10)
    assert (touching["overlaps"], touching["handovers"]) == (0, 0.2)
    assert contention.summary([separate, inside], began=0, seconds=10)["overlaps"] == 1


@pytest.mark.parametrize(
    ("capacity", "share", "overlaps"),
    [
        (2, 1, 0),  # the second of two permits
        (2, 2, 1),  # a writer beside a reader
        (1, 1, 1),
    ],
)
def test_shares_that_exceed_the_lock_are_overlaps(contention, capacity, share, overlaps):
    notes = ["wait 0 1\nheld 1 4 1\n", f"wait 0 {share}\nheld 2 3 {share}\n"]
    assert contention.summary(notes, began=0, seconds=10, capacity=capacity)["overlaps"] == overlaps


def test_a_third_beside_two_holders_is_an_overlap_until_one_of_them_has_left(contention):
    first, second = "wait 0 1\nheld 1 4 1\n", "wait 0 1\nheld 2 8 1\n"

    for enter, overlaps in ((3, 1), (4, 0), (5, 0)):
        notes = [first, second, f"wait 0 1\nheld {enter} 9 1\n"]
        assert contention.summary(notes, began=0, seconds=10, capacity=2)["overlaps"] == overlaps


def test_waits_to_hold_it_alone_stand_apart_and_one_that_has_not_ended_counts(contention):
    reader, writer = "wait 0 1\nheld 8 9 1\n", "wait 0 2\nheld 3 4 2\n"

    assert contention.summary([reader, writer], began=0, seconds=10, capacity=2)["alone_p99_ms"] == 3000
    starved = contention.summary([reader, writer, "wait 4 2\n"], began=0, seconds=10, capacity=2)
    assert starved["alone_p99_ms"] == 6000


def test_a_process_that_starves_shows_in_waits_and_fairness(contention):
    figures = contention.summary(["wait 0\nheld 1 2\nwait 2\nheld 2 3\n", "wait 0\n"], began=0, seconds=10)

    assert figures["shares"] == [2, 0]
    assert figures["handovers"] == 0
    assert figures["jain"] == 0.5
    assert figures["wait_max_ms"] == 10_000


def test_a_lock_lost_while_held_is_a_failure(contention):
    figures = contention.summary(["wait 0\nheld 1 2\nlost\n"], began=0, seconds=10)

    assert (figures["failures"], figures["cycles"]) == (1, 1)


def test_only_waits_that_end_in_a_handover_count_as_its_wait(contention):
    first = "wait 0\nheld 1 2\nwait 2\nheld 2.5 3\n"
    second = "wait 1\nheld 4 5\nwait 5\nheld 11 12\n"
    figures = contention.summary([first, second], began=0, seconds=10)

    assert (figures["handovers"], figures["cycles"], figures["shares"]) == (0.1, 3, [2, 1])  # one came after the end
    assert figures["handover_p50_ms"] == figures["handover_p99_ms"] == figures["wait_max_ms"] == 3000
    assert figures["hold_p50_ms"] == 1000


def test_a_process_that_took_no_part_is_an_error(contention):
    with pytest.raises(RuntimeError, match="process 1 took no part"):
        contention.summary(["wait 0\nheld 1 2\n", ""], began=0, seconds=10)


def test_wake_ups_stand_beside_rounds(contestants):
    figures = contestants("wakeup").summary([0.004, 0.002, 0.002], [0.002, 0.001, 0.001], 3, 0)

    assert (figures["wakeup_p50_ms"], figures["wakeup_p99_ms"]) == (2, 4)
    assert (figures["in_rounds"], figures["in_rounds_p99"]) == (2, 2)
    assert figures["failures"] == 0


def test_wake_ups_that_are_missing_or_come_before_the_release_are_errors(contestants):
    summary = contestants("wakeup").summary

    with pytest.raises(RuntimeError, match="2 wake-ups and 3 rounds were measured, not 3"):
        summary([0.1, 0.1], [0.1] * 3, 3, 0)
    with pytest.raises(RuntimeError, match="while the other process held it"):
        summary([0.1, -0.1], [0.1] * 2, 2, 0)
    assert summary([0.1], [0.1], 1, 2)["failures"] == 2


def test_what_scripts_execute_is_not_counted_as_sent_by_clients(contestants):
    crowd = contestants("crowd")
    with EmbeddedServer() as server, Redis(port=server.port) as client:
        with crowd.monitored([server.port]) as sent:
            client.eval("redis.call('set', 'a', 1) return redis.call('get', 'a')", 0)
            client.get("a")
            client.get("b")
        assert {name: sent[name] for name in ("EVAL", "GET", "SET")} == {"EVAL": 1, "GET": 2, "SET": 0}
        with (
            pytest.raises(RuntimeError, match="MONITOR showed 1 commands, the server counted 2"),
            crowd.monitored([server.port]),
        ):
            client.get("a")
            client.config_get("port")  # which MONITOR does not show


LOOSE = """
import asyncio, json, sys
from harness import Library
from {module} import {operation}

class Loose:  # locks that exclude nobody
    async def lock(self, resource): return object()
    wait = lock
    async def unlock(self, resource, held): return True
    async def close(self): pass

class Late(Loose):  # the first lock excludes others, from its release on nobody
    held, released = False, asyncio.Event()
    async def wait(self, resource):
        if Late.held and resource == "bench:queueing":
            await self.released.wait()
        Late.held = Late.held or resource == "bench:queueing"
        return object()
    async def unlock(self, resource, held):
        if resource == "bench:queueing":
            self.released.set()
        return True

class Blocking:
    def lock(self, resource): return object()
    wait = lock
    def wait_for(self, kind, resource, permits): return object()
    def unlock(self, resource, held): return True
    def close(self): pass

async def connect(groups): return {locks}()

try:
    library = Library((), sync=lambda groups: Blocking(), aio=connect)
    how = (lambda groups: Blocking()) if "{module}" == "kinds" else library
    figures = {operation}(how, json.loads(sys.argv[1]), lambda: None)
except RuntimeError as error:
    figures = {{"error": str(error)}}
print(json.dumps(figures))
"""


def measured_with_loose_locks(module, operation, locks="Loose", **request):
    program = [sys.executable, "-c", LOOSE.format(module=module, operation=operation, locks=locks), json.dumps(request)]
    done = subprocess.run(program, cwd=CONTESTANTS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_locks_that_exclude_nobody_are_found_in_every_row(face):
    request = {"groups": [[]], "face": face, "seconds": 0.2, "hold": 0.005, "think": 0}
    contended = measured_with_loose_locks("contention", "contend", processes=3, **request)
    assert contended["overlaps"] > 0

    woken = measured_with_loose_locks("wakeup", "wakeup", asleep=0.01, at_once=2, batches=1, **request)
    assert woken == {"error": "a lock was acquired while the other process held it"}

    served = measured_with_loose_locks("crowd", "crowd", processes=2, clients=1, waiters=2, held=0.6, **request)
    assert served["error"].startswith("4 of 4 were served, 4 while it was held")


@pytest.mark.parametrize("kind", ["write", "read-write", "permit"])
def test_kinds_of_locks_that_exclude_nobody_are_found(kind):
    request = {"groups": [[]], "seconds": 0.3, "hold": 0.005, "processes": 4, "permits": 2, "kind": kind}
    figures = measured_with_loose_locks("kinds", "kinds", **request)
    assert figures["overlaps"] > 0
    assert all(figures["shares"])


def test_tasks_with_locks_that_exclude_nobody_are_found():
    queued = measured_with_loose_locks("queueing", "queueing", groups=[[]], tasks=3, seconds=1)
    assert queued == {"error": "3 of 3 wait, 3 were served while it was held"}

    queued = measured_with_loose_locks("queueing", "queueing", "Late", groups=[[]], tasks=3, seconds=1)
    assert queued == {"error": "2 tasks had the lock while another had it"}

    waiting = measured_with_loose_locks("queueing", "waiters", groups=[[]], tasks=3, traced=True, bare=False)
    assert waiting == {"error": "not all of 3 waited until they were cancelled"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("raise ValueError('no server')", "process 0: ValueError: no server"),
        ("os._exit(3)", "process 0 ended without an answer"),
        ("line_up(); raise ValueError('late')", "process 0: ValueError: late"),
        ("line_up(); time.sleep(60)", "2 processes had not finished after 0 s"),
    ],
)
def test_children_that_fail_are_errors_with_their_reason(fault, error):
    program = f"""
import os, time
from children import Children

def work(number, line_up):
    {fault}

with Children(2, work, 10) as children:
    try:
        children.line_up()
        children.start()
        children.all_answers(0.3)
    except RuntimeError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CONTESTANTS, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, error), done.stderr
