"""Carries a plan out: each fault in a thread of its own, one at a time on each server and each worker."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .contender import LONGEST_WORK
from .event_log import Event, History, Tail, clock, slot_of
from .schedule import HANDOVER, SERVER_KINDS, Fault, Kind, Phase, Plan, Round
from .stage import Stage
from .waits import Waits
from .worker import SLOTS

__all__ = ["WHO", "Nemesis"]

WHO: Final = "nemesis"
_CALM_AT_MOST: Final = HANDOVER + LONGEST_WORK * sum(count for _, count in SLOTS) + 4.0
"""Seconds within which everybody must be able to go on once nothing is damaged any more: a lock is handed over, and
those who stand before the last one work, and forget a lock or two."""

_START_WITHIN: Final = 30.0
_IN_FLIGHT: Final = 0.03
_GIVES_WITHIN: Final = 0.8
_POLL: Final = 0.05


class Nemesis:
    """Damages the stage as planned, and writes down what it did.

    end: set from outside to end early; what is damaged is mended first
    """

    def __init__(self, stage: Stage, plan: Plan, resources: Sequence[str], end: threading.Event) -> None:
        self._stage, self._plan, self._resources, self._end = stage, plan, resources, end
        self._history = History(stage.histories / f"{WHO}.jsonl")
        self._servers = [threading.Lock() for _ in stage.servers]
        self._workers = [threading.Lock() for _ in stage.workers]
        self._lag = threading.Lock()
        self._tail, self._waits = Tail(stage.histories), Waits()

    def run(self) -> None:
        """All rounds, and the end of the workers; first and last every resource is acquired with nothing damaged."""
        with contextlib.closing(self._history):
            self._await_workers()
            self._calm(0.0)
            for each in self._plan.rounds:
                self._round(each)
            self._end_workers()

    def _await_workers(self) -> None:
        started, deadline = 0, clock() + _START_WITHIN
        while started < len(self._workers) and clock() < deadline and not self._end.wait(_POLL):
            started += sum(event.do == "started" for event in self._news())

    def _news(self) -> list[Event]:
        news = self._tail.new()
        for event in news:
            self._waits.hear(event)
        return news

    def _round(self, each: Round) -> None:
        phases = [(Phase.STORM, each.storm), (Phase.OUTAGE, each.outage)]
        for phase, faults in reversed(phases) if each.outage_first else phases:
            if self._end.is_set():
                return
            self._write("phase", name=phase.value)
            with ThreadPoolExecutor(len(faults)) as pool:
                done = [pool.submit(self._fault, fault) for fault in faults]
                try:
                    for future in done:
                        future.result()
                except BaseException:
                    self._end.set()
                    raise
        self._calm(each.calm)

    def _calm(self, least: float) -> None:
        """Lasts until every resource was acquired or is seen to be held, somebody in every place of a worker has
        acquired one, and nobody waits who waited when it began; `least` seconds at least.
        """
        begun = self._write("phase", name=Phase.CALM.value)
        missing = {*self._resources, *map(str, range(len(self._workers)))}
        waiting = True
        while (
            not self._end.wait(_POLL)
            and (clock() < begun + least or missing or waiting)
            and clock() < begun + _CALM_AT_MOST
        ):
            for event in self._news():
                if event.do == "acquired" and event.t > begun:
                    missing -= {event["resource"], slot_of(event.who)}
                elif event.do == "sampled" and event.t > begun and event["until"]:
                    missing.discard(event["resource"])
            waiting = any(wait.since <= begun for wait in self._waits.open.values())
        self._write("calm", begun=begun)

    def _end_workers(self) -> None:
        """Some are told to end; then the others are killed while they hold and wait, unless the run ends early."""
        slain = () if self._end.is_set() else self._plan.slain
        self._stage.stop_workers(slot for slot in range(len(self._workers)) if slot not in slain)
        for slot in slain:
            self._stage.workers[slot].slay()
            self._began(Fault(0.0, Kind.SLAY, slot, 0.0))

    def _fault(self, fault: Fault) -> None:
        if self._end.wait(fault.at):
            return
        with self._lock(fault), self._done(fault):
            self._end.wait(fault.lasts)

    def _lock(self, fault: Fault) -> threading.Lock:
        if fault.kind is Kind.LAG:
            return self._lag
        return self._servers[fault.target] if fault.kind in SERVER_KINDS else self._workers[fault.target]

    def _done(self, fault: Fault) -> contextlib.AbstractContextManager[None]:
        ways: dict[Kind, Callable[[Fault], contextlib.AbstractContextManager[None]]] = {
            Kind.KILL: self._down,
            Kind.RESTART: self._down,
            Kind.PAUSE: self._paused,
            Kind.STALL: self._stalled,
            Kind.CUT: self._cut,
            Kind.VANISH: self._vanished,
            Kind.DELAY: self._delayed,
            Kind.FLUSH: self._flushed,
            Kind.LAG: self._lagging,
            Kind.HALT: self._halted,
            Kind.SLAY: self._slain,
        }
        return ways[fault.kind](fault)

    def _write(self, do: str, **about: object) -> float:
        return self._history.write(WHO, do, None, **about)

    # --- what is done and taken back -------------------------------------------------------------------------------

    def _began(self, fault: Fault) -> None:
        self._write("fault", kind=fault.kind.value, target=fault.target, lasts=fault.lasts)

    @contextlib.contextmanager
    def _unreachable(self, fault: Fault) -> Iterator[None]:
        """From when nothing reaches the server until just before something may: less than the truth, never more."""
        self._began(fault)
        self._write("unreachable", server=fault.target)
        try:
            yield
        finally:
            self._write("reachable", server=fault.target)

    @contextlib.contextmanager
    def _down(self, fault: Fault) -> Iterator[None]:
        server = self._stage.servers[fault.target]
        if fault.kind is Kind.KILL:
            server.kill()
        else:
            server.stop()
        with self._unreachable(fault):
            yield
        server.start()

    @contextlib.contextmanager
    def _paused(self, fault: Fault) -> Iterator[None]:
        server = self._stage.servers[fault.target]
        server.pause()
        with self._unreachable(fault):
            yield
        server.resume()

    @contextlib.contextmanager
    def _stalled(self, fault: Fault) -> Iterator[None]:
        gate = self._stage.network.gates[fault.target]
        gate.stall()
        with self._unreachable(fault):
            yield
        gate.pass_on()

    @contextlib.contextmanager
    def _flushed(self, fault: Fault) -> Iterator[None]:
        """It forgets everything while connections last."""
        self._began(fault)
        self._stage.ask(fault.target, "FLUSHALL")
        yield

    @contextlib.contextmanager
    def _cut(self, fault: Fault) -> Iterator[None]:
        self._began(fault)
        self._stage.network.gates[fault.target].cut(_IN_FLIGHT, fault.amount)
        yield

    @contextlib.contextmanager
    def _vanished(self, fault: Fault) -> Iterator[None]:
        self._stage.network.gates[fault.target].vanish()
        self._began(fault)
        yield

    @contextlib.contextmanager
    def _delayed(self, fault: Fault) -> Iterator[None]:
        gate = self._stage.network.gates[fault.target]
        gate.delay = fault.amount
        self._began(fault)
        yield
        gate.delay = 0.0

    @contextlib.contextmanager
    def _lagging(self, fault: Fault) -> Iterator[None]:
        self._stage.network.lag = fault.amount
        self._began(fault)
        yield
        self._stage.network.lag = 0.0

    @contextlib.contextmanager
    def _halted(self, fault: Fault) -> Iterator[None]:
        worker = self._stage.workers[fault.target]
        worker.halt()
        self._began(fault)
        yield
        worker.resume()

    @contextlib.contextmanager
    def _slain(self, fault: Fault) -> Iterator[None]:
        """If it gives a lease away soon, it ends while that is on its way."""
        worker, deadline = self._stage.workers[fault.target], clock() + _GIVES_WITHIN
        while not self._stage.tickets.on_their_way(fault.target) and clock() < deadline:
            time.sleep(_IN_FLIGHT)
        worker.slay()
        self._began(fault)
        yield
        worker.start()
