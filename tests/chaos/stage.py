"""Who takes part in a run: real servers, the network before them, worker processes, and the folder they write to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self, cast

from hiredis import Reader, pack_command

from redlock_cluster.core.queue import META
from redlock_cluster.testing import EmbeddedServer, processes

from .contender import TIMING
from .event_log import clock
from .gates import Network
from .schedule import LIFE, MAX_TTL, Plan
from .tickets import Tickets
from .worker import HISTORIES, SECTIONS, SLOTS, STOP, TICKETS

__all__ = ["Stage", "Worker"]

ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[1]); from tests.chaos.worker import main; main(sys.argv[2])"
_ENDS_WITHIN: Final = 20.0
_GONE_WITHIN: Final = max(MAX_TTL, 2 * LIFE) + 0.3
"""Seconds after which no key is left: locks live for their ttl, queues twice as long as those count who wait."""
_POLL: Final = 0.1

# Durations are milliseconds. Short, so that detection and reconnection take little of a run.
_OPTIONS: Final = {
    "server_timeout": round(TIMING.server_timeout * 1000),
    "drift_factor": TIMING.drift_factor,
    "connect_timeout": 800,
    "health_check_interval": 200,
    "reconnection_interval_base": 20,
    "reconnection_interval_max": 100,
    "max_retry": 6,
    "retry_interval_base": 20,
    "retry_interval_max": 120,
    "waiter_ttl": round(LIFE * 1000),
    "max_ttl": round(MAX_TTL * 1000),
    "ttl": round(MAX_TTL * 1000),
}


class Worker:
    """A place for worker processes, one after the other.

    exits: how processes ended that nobody killed: (which, exit code)
    """

    def __init__(self, folder: Path, options: dict[str, object], seed: int, slot: int) -> None:
        self._told = {"folder": str(folder), "options": options, "seed": seed, "slot": slot}
        self._slot, self._incarnation = slot, -1
        self.log = folder / f"worker-{slot}.log"
        self.exits: list[tuple[str, int]] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Its histories' name for the newest process."""
        return f"{self._slot}.{self._incarnation}"

    @property
    def alive(self) -> bool:
        """Whether its process runs or is paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts a process, which ends with this one."""
        self._incarnation += 1
        told = json.dumps({**self._told, "incarnation": self._incarnation})
        self._process = processes.spawn(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", _PROGRAM, str(ROOT), told], self.log
        )

    def halt(self) -> None:
        """Holds the process still with SIGSTOP."""
        if self.alive:
            self._send(signal.SIGSTOP)
            if hasattr(os, "waitid"):
                # A signal takes effect a moment after it was sent. WNOWAIT leaves an exit status to Popen.
                os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Lets it go on."""
        if self.alive:
            self._send(signal.SIGCONT)

    def slay(self) -> None:
        """Ends it with SIGKILL; one that had ended before is found out."""
        if self._process is not None:
            if not self.alive:
                self._note()
            self._process.kill()
            self._process.wait()
            self._process = None

    def join(self) -> None:
        """Waits until it has ended by itself; one that hangs is made to say where, and is ended."""
        if self._process is None:
            return
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
        if not self.alive:
            self._note()
        self.slay()

    def _note(self) -> None:
        code = None if self._process is None else self._process.returncode
        if code is not None and (self.name, code) not in self.exits:
            self.exits.append((self.name, code))

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def _pid(self) -> int:
        return 0 if self._process is None else self._process.pid


class Stage:
    """Everything of one run; leaving the block ends every process and removes the folder."""

    def __init__(self, plan: Plan) -> None:
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix="redlock-chaos-"))
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            for name in (HISTORIES, SECTIONS, TICKETS):
                (self.folder / name).mkdir()
            self.tickets = Tickets(self.folder / TICKETS)
            self.servers = tuple(EmbeddedServer(persistence=keeps) for keeps in plan.keeps)
            for server in self.servers:
                undo.callback(server.close)
                server.launch()
            for server in self.servers:
                server.wait_ready()
            self.network = undo.enter_context(Network([server.port for server in self.servers]))
            servers = [{"host": "127.0.0.1", "port": gate.port} for gate in self.network.gates]
            options: dict[str, object] = {"servers": servers, **_OPTIONS}
            self.workers = tuple(Worker(self.folder, options, plan.seed, slot) for slot in range(len(SLOTS)))
            for worker in self.workers:
                undo.callback(worker.slay)
                worker.start()
            self._undo = undo.pop_all()

    @property
    def histories(self) -> Path:
        """The folder of the histories."""
        return self.folder / HISTORIES

    def stop_workers(self, slots: Iterable[int]) -> None:
        """Tells these workers to end, and waits for them."""
        slots = [*slots]
        for slot in slots:
            (self.folder / f"{STOP}-{slot}").touch()
        for slot in slots:
            self.workers[slot].join()

    def keys_left(self) -> dict[int, list[str]]:
        """For each server that still has keys when none should be left any more, which: of locks, and of queues.

        What it remembers of itself stays.
        """
        deadline = clock() + _GONE_WITHIN
        while True:
            found = {index: self._keys(index) for index in range(len(self.servers))}
            if not any(found.values()) or clock() > deadline:
                return {index: keys for index, keys in found.items() if keys}
            time.sleep(_POLL)

    def _keys(self, index: int) -> list[str]:
        return [key.decode() for key in cast(list[bytes], self.ask(index, "KEYS", "*")) if not key.endswith(META)]

    def ask(self, index: int, *words: str) -> object:
        """Sends a server a command, past its gate, and returns what it answers."""
        reader = Reader()
        with socket.create_connection(("127.0.0.1", self.servers[index].port), 10) as connection:
            connection.sendall(pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
        return reply

    def said(self) -> dict[str, str]:
        """The end of what workers wrote to their error output: tracebacks, warnings of Python, logged errors."""
        return {worker.log.stem: text for worker in self.workers if (text := _end_of(worker.log))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
