"""Many clients that wait for one lock: what they send meanwhile, and how long it takes until each has had it.

MONITOR shows what clients send; what a script executes stands there as from `lua`. The servers' own counts (INFO
commandstats) have both, and must agree with the sum.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from children import CONNECT, Board, Children
from contention import Section, overlaps
from faces import Face, run
from harness import HOST, AioLocks, Figures, Library, Request, quantile

__all__ = ["crowd"]

RESOURCE = "bench:crowd"
ROUNDS, PAUSE = 50, 0.01
"""Rounds of a free resource that are measured first, and seconds before each."""

STEP = 0.01
"""Seconds between two looks at what other processes have written."""

SETTLE = 0.5
"""Seconds from the moment when all wait until their commands are counted."""

PATIENCE = 30.0
"""Seconds until all wait, and until the others are heard of."""

HELD, RELEASE, FIRST = range(3)
"""Places on the board: when it is held; that it shall be released; for each waiter, that it waits."""

HEALTH = {"TIME", "PING", "INFO"}
"""Commands of health checks."""

BLOCKING = {b"blpop"}
"""Commands that are shown when they begin and counted when they end."""


def crowd(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """Has `processes`, each with `clients`, each of them with `waiters`, wait for one lock for `held` seconds.

    All must then be served within `seconds`.
    """
    processes, each = request["processes"], request["clients"] * request["waiters"]
    clients, waiters = processes * request["clients"], processes * each
    board = Board(FIRST + waiters)
    patience = request["held"] + request["seconds"]

    def work(number: int, line_up: Callable[[], None]) -> Figures:
        if number == 0:
            return run(library, request, lambda face: _holder(face, request, board, line_up))
        begin = FIRST + (number - 1) * each
        return run(library, request, lambda face: _waiters(face, request, board, begin, line_up))

    with Children(processes + 1, work, patience + CONNECT) as children:
        children.line_up()
        ready()
        children.start()
        _until(lambda: all(board.part(FIRST, FIRST + waiters)))
        time.sleep(SETTLE)
        with monitored(request["groups"][0]) as sent:
            began = time.monotonic()
            time.sleep(request["held"] - SETTLE)
            elapsed = time.monotonic() - began
        board[RELEASE] = 1
        holder, *others = children.all_answers(patience)
    served = sorted(Section(*times, number, 0.0) for number, other in enumerate(others) for times in other["served"])
    early = sum(section.enter < holder["released"] for section in served)
    if len(served) != waiters or early or overlaps(served):
        raise RuntimeError(
            f"{len(served)} of {waiters} were served, {early} while it was held, with {overlaps(served)} overlaps"
        )
    lost = holder["lost"] + sum(other["lost"] for other in others)
    rounds = sorted(holder["rounds"])
    round_ms, served_ms = quantile(rounds, 0.5) * 1e3, (served[-1].enter - holder["released"]) * 1e3
    health = sum(sent[name] for name in HEALTH)
    commands = sum(sent.values()) - health
    return {
        "served_ms": served_ms,
        "round_p50_ms": round_ms,
        "in_rounds": served_ms / round_ms,
        "rounds_each": served_ms / round_ms / waiters,
        "commands": commands / elapsed,
        "commands_client": commands / elapsed / clients,
        "health_client": health / elapsed / (clients + 1),  # the holder too is a client
        "sent": dict(sent),
        "cycles": waiters,
        "failures": lost,
        "first_failure": "a lock was lost while it was held, or refused while it was free" if lost else "",
    }


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all waited within {PATIENCE:.0f} s")
        time.sleep(STEP)


async def _holder(face: Face, request: Request, board: Board, line_up: Callable[[], None]) -> Figures:
    locks = await face.connect()
    line_up()
    rounds: list[float] = []
    lost = 0
    for number in range(ROUNDS):
        await face.sleep(PAUSE)
        began = time.monotonic()
        lock = await locks.lock(f"{RESOURCE}:{number}")
        rounds.append(time.monotonic() - began)
        lost += lock is None or not await locks.unlock(f"{RESOURCE}:{number}", lock)
    held = await locks.wait(RESOURCE)
    board[HELD] = 1
    await board.until(lambda board: board[RELEASE] == 1, face.sleep, STEP, PATIENCE)
    released = time.monotonic()
    lost += not await locks.unlock(RESOURCE, held)
    return {"rounds": rounds, "released": released, "lost": lost}


async def _waiters(face: Face, request: Request, board: Board, begin: int, line_up: Callable[[], None]) -> Figures:
    clients = [await face.connect() for _ in range(request["clients"])]
    served: list[tuple[float, float]] = []
    lost: list[int] = []

    async def one(place: int, locks: AioLocks) -> None:
        board[place] = 1
        lock = await locks.wait(RESOURCE)
        enter = time.monotonic()
        await face.sleep(0)
        served.append((enter, time.monotonic()))
        if not await locks.unlock(RESOURCE, lock):
            lost.append(place)

    for number, locks in enumerate(clients):  # some libraries connect when they first lock
        own = f"{RESOURCE}:own:{begin}:{number}"
        await locks.unlock(own, await locks.wait(own))
    line_up()
    await board.until(lambda board: board[HELD] == 1, face.sleep, STEP, PATIENCE)
    everyone = [locks for locks in clients for _ in range(request["waiters"])]
    await face.together([one(begin + number, locks) for number, locks in enumerate(everyone)])
    return {"served": served, "lost": len(lost)}


@contextmanager
def monitored(ports: Iterable[int]) -> Iterator[Counter[str]]:
    """Counts what clients send to servers while the block runs: the counter is filled at its end, by command.

    Raises RuntimeError when the servers have counted other commands than those that MONITOR has shown.
    """
    sent: Counter[str] = Counter()
    with ExitStack() as stack:
        monitors = [stack.enter_context(_Monitor(port)) for port in ports]
        yield sent
        for monitor in monitors:
            sent.update(monitor.counted())


_SHOWN = re.compile(rb'\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"')
_CALLS = re.compile(rb"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)


class _Monitor:
    """Two connections to one server: one that monitors, one that asks for its counts."""

    def __init__(self, port: int) -> None:
        self._asks = socket.create_connection((HOST, port), 10)
        self._monitors = socket.create_connection((HOST, port), 10)
        self._answers = self._asks.makefile("rb")
        self._monitors.sendall(b"MONITOR\r\n")
        if self._monitors.recv(5) != b"+OK\r\n":
            raise RuntimeError("MONITOR was refused")
        host, own = self._asks.getsockname()
        self._own = f"{host}:{own}".encode()
        self._text = bytearray()
        self._before = self._calls()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def counted(self) -> Counter[str]:
        """Commands of clients, by name, and no more from now on."""
        calls = self._calls()
        self._thread.join(10)
        shown = [found.groups() for found in _SHOWN.finditer(self._text)]
        first, *between = [place for place, (address, _) in enumerate(shown) if address == self._own]
        executed = shown[first + 1 : between[-1]]
        expected = calls - self._before - 1  # the first INFO itself
        compared = sum(name.lower() not in BLOCKING for _, name in executed)
        if compared != expected:
            raise RuntimeError(f"MONITOR showed {compared} commands, the server counted {expected}")
        return Counter(name.decode().upper() for address, name in executed if address != b"lua")

    def _calls(self) -> int:
        self._asks.sendall(b"INFO commandstats\r\n")
        length = int(self._answers.readline()[1:])
        found = _CALLS.findall(self._answers.read(length + 2))
        return sum(int(calls) for name, calls in found if name not in BLOCKING)

    def _read(self) -> None:
        """Reads until the second INFO of this monitor is shown."""
        seen = 0
        line = b" " + self._own + b"] "
        while seen < 2:
            part = self._monitors.recv(1 << 16)
            if not part:
                return
            self._text += part
            seen = self._text.count(line)

    def __enter__(self) -> _Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._asks.close()
        self._monitors.close()
