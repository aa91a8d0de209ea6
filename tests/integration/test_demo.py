"""The demo: that its check notices overlaps, that its outage is a safe one, and the whole command."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from redlock_cluster.cli.demo import AWAY, BEGIN, SHORTEST, TTL
from redlock_cluster.cli.demo.board import GroupView, LinesBoard, LiveBoard, View
from redlock_cluster.cli.demo.figures import Figures, quantile
from redlock_cluster.cli.demo.outage import Outage
from redlock_cluster.cli.demo.run import spread
from redlock_cluster.cli.demo.verdict import judged
from redlock_cluster.cli.demo.worker import work
from redlock_cluster.core.ring import Ring
from redlock_cluster.testing import EmbeddedCluster

SPAWN = multiprocessing.get_context("spawn")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def workers(figures: Figures, options: Mapping[str, object] | None, resources: list[str]) -> Iterator[None]:
    """Worker processes, as many as `figures` has slots for; they have ended when the block is left."""
    processes = [
        SPAWN.Process(target=work, args=(figures, number, options, resources, os.getpid()))
        for number in range(figures.workers)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        figures.stop[0] = 1
        for process in processes:
            process.join(20)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)


# The check on critical sections


def test_workers_without_locks_overlap_and_lose_updates() -> None:
    figures = Figures(SPAWN, 3, 1)
    with workers(figures, None, ["account:1"]):
        assert wait_until(lambda: figures.met > 20)
    assert figures.lost_updates > 0
    assert not judged(figures, {"0": [0]}, no_outage(), 1.0, [0, 0, 0]).passed


def test_workers_with_locks_do_not_overlap() -> None:
    with EmbeddedCluster(1, 3, options={"retry_interval_base": 2, "retry_interval_max": 20}) as cluster:
        figures = Figures(SPAWN, 3, 1)
        with workers(figures, cluster.options, ["account:1"]):
            assert wait_until(lambda: figures.sections_of(0) > 200 and all(figures.sections))
    assert (figures.met, figures.lost_updates) == (0, 0)
    assert sum(figures.waits) == figures.sections_of(0)
    assert figures.wait(0.5) > 0


def test_worker_whose_parent_is_another_process_ends_by_itself() -> None:
    figures = Figures(SPAWN, 1, 1)
    process = SPAWN.Process(target=work, args=(figures, 0, None, ["account:1"], os.getpid() + 1))
    process.start()
    process.join(30)
    process.kill()
    assert process.exitcode == 0
    assert (figures.ready[0], figures.sections_of(0)) == (1, 0)


def test_sections_one_after_the_other_do_not_overlap() -> None:
    figures = Figures(SPAWN, 2, 2)
    for worker, resource in ((0, 0), (1, 0), (0, 1), (1, 1)):
        figures.work(worker, resource, 0.0)
    assert (figures.met, figures.lost_updates) == (0, 0)
    assert list(figures.sections) == [1, 1, 1, 1]


def test_section_entered_while_another_is_inside_is_an_overlap() -> None:
    figures = Figures(SPAWN, 2, 1)
    figures.inside[0] = 2
    figures.work(0, 0, 0.0)
    assert figures.met == 1


def test_section_that_another_one_enters_is_an_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures(SPAWN, 2, 1)
    monkeypatch.setattr(time, "sleep", lambda _: figures.inside.__setitem__(0, 2))
    figures.work(0, 0, 0.0)
    assert figures.met == 1


def test_update_that_was_overwritten_is_lost() -> None:
    figures = Figures(SPAWN, 2, 1)
    figures.work(0, 0, 0.0)
    figures.counter[0] = 0
    figures.work(1, 0, 0.0)
    assert figures.lost_updates == 1


@pytest.mark.parametrize("seconds", [0.0, 3e-5, 0.001, 0.02, 1.7])
def test_quantile_of_equal_waits_is_that_wait_within_5_percent(seconds: float) -> None:
    figures = Figures(SPAWN, 1, 1)
    for _ in range(10):
        figures.waited(0, seconds)
    for share in (0.01, 0.5, 0.99, 1.0):
        assert max(seconds, 1e-5) <= figures.wait(share) <= max(seconds, 1e-5) * 1.0501


def test_quantile_splits_at_the_share() -> None:
    assert quantile([50, 49, 1], 0.5) == quantile([1], 1)
    assert quantile([50, 49, 1], 0.51) == quantile([0, 1], 1)
    assert quantile([50, 49, 1], 1.0) == quantile([0, 0, 1], 1)
    assert quantile([0, 0, 0], 0.5) == 0.0


def test_resources_are_spread_evenly_over_the_groups() -> None:
    ring = Ring({"0": 1, "1": 1, "2": 1})
    names = spread(ring.group_for, 12, 3)
    assert [len(names[group]) for group in ("0", "1", "2")] == [4, 4, 4]
    assert all(ring.group_for(name) == group for group in names for name in names[group])


# The outage


@contextlib.contextmanager
def outage_of(seconds: float, counts: list[list[int]]) -> Iterator[tuple[EmbeddedCluster, Outage]]:
    with EmbeddedCluster(2, 3) as cluster:
        yield cluster, Outage(cluster, seconds, lambda: counts.pop(0))


def no_outage() -> Outage:
    """An outage in which no group worked."""
    with EmbeddedCluster(1, 1) as cluster:
        return Outage(cluster, 60.0, list)


@pytest.mark.parametrize("seconds", [SHORTEST, 12.0, 60.0])
def test_killed_servers_stay_away_longer_than_the_ttl(seconds: float) -> None:
    assert AWAY > TTL
    away: list[float] = []
    with outage_of(seconds, [[10, 20], [13, 24]]) as (cluster, outage):
        for step in range(round(seconds / 0.05)):
            outage.advance(step * 0.05)
            if not all(server.alive for server in cluster.servers):
                away.append(step * 0.05)
        assert all(server.alive for server in cluster.servers)
    killed, back = away[0], away[-1] + 0.05
    assert killed == pytest.approx(seconds * BEGIN, abs=0.06)
    assert back - killed >= AWAY - 0.06
    assert back <= seconds - 1.0
    assert outage.worked == [3, 4]


def test_outage_kills_one_server_of_each_group_and_restarts_it_empty() -> None:
    with outage_of(12.0, [[0, 0], [1, 1]]) as (cluster, outage):
        ports = [server.port for server in cluster.servers]
        assert outage.advance(3.5) == ""
        victims = [cluster.groups[0][0], cluster.groups[1][1]]
        event = outage.advance(3.6)
        assert [server for server in cluster.servers if not server.alive] == victims
        assert all(str(server.port) in event for server in victims)
        assert outage.advance(4.2) == ""
        assert outage.advance(7.7) == ""
        assert outage.worked is None
        assert "again" in outage.advance(7.9)
        assert all(server.alive for server in cluster.servers)
        assert [server.port for server in cluster.servers] == ports
        assert outage.advance(9.0) == ""


# The verdict


def test_verdict_needs_no_overlaps_and_work_in_every_group_and_workers_that_ended_well() -> None:
    def figures() -> Figures:
        made = Figures(SPAWN, 1, 2)
        made.work(0, 0, 0.0)
        made.work(0, 1, 0.0)
        return made

    groups = {"0": [0], "1": [1]}
    outage = no_outage()
    assert not judged(figures(), groups, outage, 1.0, [0]).passed
    outage.worked = [1, 0]
    assert not judged(figures(), groups, outage, 1.0, [0]).passed
    outage.worked = [1, 1]
    assert judged(figures(), groups, outage, 1.0, [0]).passed
    assert not judged(figures(), groups, outage, 1.0, [1]).passed
    assert not judged(Figures(SPAWN, 1, 2), groups, outage, 1.0, [0]).passed
    overlapped, lost = figures(), figures()
    overlapped.overlaps[0] = 1
    assert not judged(overlapped, groups, outage, 1.0, [0]).passed
    lost.counter[1] = 0
    assert not judged(lost, groups, outage, 1.0, [0]).passed


# What is shown


def view(elapsed: float, overlaps: int = 0) -> View:
    servers = (("7101", "up"), ("7102", "down"), ("7103", "partial"))
    groups = (GroupView("0", servers, 750, 40.0), GroupView("1", servers, 250, 20.0))
    return View(elapsed, 12.0, groups, 0.0015, 0.0102, overlaps)


def test_lines_board_writes_a_line_a_second_and_every_event() -> None:
    output = io.StringIO()
    board = LinesBoard(Console(file=output, highlight=False))
    for step in range(17):
        board.show(view(step / 8, overlaps=step))
    board.report(2.1, "killed something")
    assert output.getvalue().splitlines() == [
        "   1.0 s  1000 locks  0: 40/s  1: 20/s  wait p50 1.5 ms p99 10.2 ms  servers 2/6 up  overlaps 8",
        "   2.0 s  1000 locks  0: 40/s  1: 20/s  wait p50 1.5 ms p99 10.2 ms  servers 2/6 up  overlaps 16",
        "   2.1 s  killed something",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_live_board_shows_servers_rates_and_events_in_80_columns(encoding: str) -> None:
    buffer = io.BytesIO()
    output = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
    console = Console(file=output, force_terminal=True, width=120, height=24, color_system=None, legacy_windows=False)
    board = LiveBoard(console)
    with board:
        board.show(view(3.0))
        board.report(3.1, "killed something")
        board.show(view(3.2, overlaps=7))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", buffer.getvalue().decode(encoding))
    last = drawn[drawn.rindex("redlock-cluster demo") :]
    for text in ("3.2 of 12 s", "7102", "down", "partial", "75.0%", "25.0%", "1,000 locks", "overlaps 7"):
        assert text in last
    assert "3.1 s  killed something" in last
    assert max(map(len, drawn.splitlines())) <= 80


# The command


COMMAND = [sys.executable, "-m", "redlock_cluster.cli", "demo", "--seconds"]


@contextlib.contextmanager
def demo(seconds: float, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running demo in a process group of its own."""
    pipe = subprocess.PIPE
    command = [*COMMAND, str(seconds)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Living descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            children = [int(child) for child in (task / "children").read_text().split()]
            found += children + [below for child in children for below in descendants(child)]
    return found


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux_only
def test_demo_runs_through_an_outage_without_overlaps(tmp_path: Path) -> None:
    with demo(SHORTEST, tmp_path) as process:
        assert process.stdout is not None
        assert "starting 9 servers and 4 processes" in process.stdout.readline()
        assert re.match(r" +1\.\d s  \d+ locks", process.stdout.readline())
        below = descendants(process.pid)
        assert len(below) >= 13
        output, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, ""), output
    assert "one server of each group" in output
    assert "again, empty" in output
    assert "overlaps         0 seen inside, 0 updates lost" in output
    assert output.count("passed  ") == 3
    assert wait_until(lambda: not any(map(exists, below)), 5)  # the helper of multiprocessing ends by itself
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_demo_interrupted_on_the_terminal_ends_without_a_traceback_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(60, tmp_path) as process:
        assert process.stdout is not None
        assert "starting" in process.stdout.readline()
        assert re.match(r" +1\.\d s  \d+ locks", process.stdout.readline())
        below = descendants(process.pid)
        # As a terminal does: to the command and to its workers.
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    assert "ended early" in output
    assert "overlaps         0 seen inside" in output
    assert wait_until(lambda: not any(map(exists, below)), 5)  # the helper of multiprocessing ends by itself
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_demo_killed_ends_servers_and_workers(tmp_path: Path) -> None:
    with demo(60, tmp_path) as process:
        assert process.stdout is not None
        assert "starting" in process.stdout.readline()
        assert re.match(r" +1\.\d s  \d+ locks", process.stdout.readline())
        below = descendants(process.pid)
        process.kill()
        assert wait_until(lambda: not any(map(exists, below)))


def test_demo_shorter_than_its_outage_is_refused(tmp_path: Path) -> None:
    with demo(SHORTEST - 0.1, tmp_path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "--seconds" in errors
