"""The demo from beginning to end: servers, worker processes, an outage, and the verdict."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from typing import Final

from rich.console import Console

from redlock_cluster import Supervisor
from redlock_cluster.cli.demo.board import Board, GroupView, LinesBoard, LiveBoard, View
from redlock_cluster.cli.demo.figures import Figures
from redlock_cluster.cli.demo.outage import Outage
from redlock_cluster.cli.demo.verdict import Verdict, judged
from redlock_cluster.cli.demo.worker import work
from redlock_cluster.cli.signals import asked_to_end, ctrl_c_ignored
from redlock_cluster.testing import EmbeddedCluster, EmbeddedError

__all__ = ["INTERRUPTED", "run_demo", "spread"]

INTERRUPTED: Final = 130
_GROUPS: Final = 3
_SERVERS: Final = 3
_WORKERS: Final = 4
_RESOURCES: Final = 12
_STEP: Final = 0.125
_RATE_OVER: Final = 1.0
_READY_WITHIN: Final = 60.0
_END_WITHIN: Final = 10.0
# Milliseconds. Short, so that a wait shows the servers' speed and not the pause between two attempts.
_OPTIONS: Final = {
    "retry_interval_base": 2,
    "retry_interval_max": 20,
    "reconnection_interval_base": 50,
    "reconnection_interval_max": 300,
}


def run_demo(seconds: float) -> int:
    """Run the demo and print the verdict.

    seconds: how long the workers run

    Returns the exit code of the command.
    """
    console = Console(highlight=False)
    console.print(f"starting {_GROUPS * _SERVERS} servers and {_WORKERS} processes")
    with asked_to_end() as end, contextlib.ExitStack() as stack:
        cluster = stack.enter_context(EmbeddedCluster(_GROUPS, _SERVERS, options=_OPTIONS))
        supervisor = stack.enter_context(Supervisor(cluster.options))
        stage = _Stage(cluster, supervisor)
        with stage.workers() as workers:
            _await_ready(stage.figures, workers, end)
            board: Board = LiveBoard(console) if console.is_terminal else LinesBoard(console)
            outage = Outage(cluster, seconds, stage.sections)
            with board:
                elapsed = _watch(stage, outage, board, seconds, end=end, workers=workers)
        verdict = judged(stage.figures, stage.groups, outage, elapsed, [worker.exitcode for worker in workers])
    if end.is_set():
        console.print("ended early, so this is no verdict:", style="bold yellow")
    _print(console, verdict)
    return INTERRUPTED if end.is_set() else 0 if verdict.passed else 1


def spread(group_for: Callable[[str], str], count: int, groups: int) -> dict[str, list[str]]:
    """Choose resource names so that every group has as many.

    group_for: returns the group of a resource
    count: how many names, a multiple of `groups`
    groups: how many groups

    Returns the names by group.
    """
    found: dict[str, list[str]] = {}
    number = 0
    while sum(map(len, found.values())) < count:
        number += 1
        names = found.setdefault(group_for(f"account:{number}"), [])
        if len(names) < count // groups:
            names.append(f"account:{number}")
    return dict(sorted(found.items()))


class _Stage:
    """Servers, resources and figures of one run.

    groups: group -> indices of its resources
    """

    def __init__(self, cluster: EmbeddedCluster, supervisor: Supervisor) -> None:
        self.cluster, self.supervisor = cluster, supervisor
        names = spread(supervisor.group_for, _RESOURCES, _GROUPS)
        self.resources = [name for group in names.values() for name in group]
        self.groups = {group: [self.resources.index(name) for name in names[group]] for group in names}
        self._context = multiprocessing.get_context("spawn")
        self.figures = Figures(self._context, _WORKERS, _RESOURCES)
        self._history: deque[tuple[float, list[int]]] = deque()

    @contextlib.contextmanager
    def workers(self) -> Iterator[list[SpawnProcess]]:
        """Run the worker processes; they have ended when the block is left."""
        processes: list[SpawnProcess] = []
        try:
            with ctrl_c_ignored():
                for number in range(_WORKERS):
                    arguments = (self.figures, number, self.cluster.options, self.resources, os.getpid())
                    process = self._context.Process(target=work, args=arguments, name=f"worker {number}")
                    process.start()
                    processes.append(process)
            yield processes
        finally:
            self.figures.stop[0] = 1
            for process in processes:
                process.join(_END_WITHIN)
                if process.is_alive():
                    process.kill()
                    process.join()

    def sections(self) -> list[int]:
        """Finished critical sections, by group."""
        return [sum(map(self.figures.sections_of, indices)) for indices in self.groups.values()]

    def view(self, elapsed: float, seconds: float) -> View:
        """The demo now."""
        sections, figures = self.sections(), self.figures
        self._history.append((elapsed, sections))
        while elapsed - self._history[0][0] > _RATE_OVER:
            self._history.popleft()
        then, before = self._history[0]
        span = max(elapsed - then, _STEP)
        (status,) = self.supervisor.status().clusters
        groups = tuple(
            GroupView(
                group.name,
                tuple((server.name.rpartition(":")[2], server.state.value) for server in group.servers),
                now,
                (now - earlier) / span,
            )
            for group, now, earlier in zip(status.groups, sections, before, strict=True)
        )
        return View(elapsed, seconds, groups, figures.wait(0.5), figures.wait(0.99), figures.met)


def _await_ready(figures: Figures, workers: Sequence[SpawnProcess], end: threading.Event) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not all(figures.ready) and not end.wait(0.01):
        if time.monotonic() > deadline or not all(worker.is_alive() for worker in workers):
            raise EmbeddedError("the demo's worker processes did not start")


def _watch(
    stage: _Stage,
    outage: Outage,
    board: Board,
    seconds: float,
    *,
    end: threading.Event,
    workers: Sequence[SpawnProcess],
) -> float:
    """Show the demo and do the outage until the time is over. Returns how many seconds they ran."""
    begun = time.monotonic()
    elapsed = 0.0
    board.show(stage.view(0.0, seconds))
    while elapsed < seconds and not end.wait(_STEP) and all(worker.is_alive() for worker in workers):
        elapsed = time.monotonic() - begun
        if event := outage.advance(elapsed):
            board.report(elapsed, event)
        board.show(stage.view(elapsed, seconds))
    return elapsed


def _print(console: Console, verdict: Verdict) -> None:
    console.print()
    for line in verdict.figures:
        console.print(line, soft_wrap=True)
    for good, line in verdict.findings:
        console.print(
            ("passed  " if good else "FAILED  ") + line, style="green" if good else "bold red", soft_wrap=True
        )
