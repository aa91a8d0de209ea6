"""Child processes that never outlive this one, whatever ends it.

Linux can kill a child when its parent ends (PR_SET_PDEATHSIG), even if SIGKILL ended the parent. Two things need care.
"The parent" is the *thread* that started the child, so one permanent thread starts them all. And code between fork and
exec is unsafe in a threaded process, so there is no `preexec_fn`: a small launcher asks for the signal in its own
process, checks that its parent has not ended meanwhile, and becomes the server.

Elsewhere, children are ended when the interpreter exits; there a SIGKILL of this process leaves them running.

After `os.fork()` the child owns none of these servers: it begins with an empty book and a thread of its own.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Final

__all__ = ["at_exit", "not_at_exit", "spawn"]

# 1 is PR_SET_PDEATHSIG, 9 is SIGKILL: importing their names would double the time this takes.
_LAUNCHER: Final = """\
import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    sys.exit("not started: the parent process is gone or can't be watched")
os.execv(sys.argv[2], sys.argv[2:])
"""

_Job = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


class _Starter:
    """The permanent thread; runs one job after the other and never ends."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        threading.Thread(target=self._run, name="redlock-cluster-servers", daemon=True).start()

    def do(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, future))
        try:
            return future.result()
        except KeyboardInterrupt:
            future.add_done_callback(_abandon)
            raise

    def _run(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - if this thread ended, every server would be killed
                future.set_exception(error)


def _abandon(future: Future[subprocess.Popen[bytes]]) -> None:
    if future.exception() is None:
        future.result().kill()
        future.result().wait()


class _Book:
    """What this process has to end, in the order in which it began."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.starter: _Starter | None = None
        self.closers: dict[int, Callable[[], None]] = {}


_book = _Book()


def _forget() -> None:
    global _book
    _book = _Book()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _close_all() -> None:
    while _book.closers:
        _, close = _book.closers.popitem()
        close()


def at_exit(owner: object, close: Callable[[], None]) -> None:
    """Call `close` when the interpreter ends, latest owner first; not in a forked child."""
    _book.closers[id(owner)] = close


def not_at_exit(owner: object) -> None:
    """Undo `at_exit`."""
    _book.closers.pop(id(owner), None)


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one.

    It runs in a session of its own, so that Ctrl-C on a terminal reaches only this process.

    command: absolute path of the program, then its arguments
    log: file to which its output is appended

    Raises OSError.
    """
    if sys.platform == "linux" and sys.executable and not getattr(sys, "frozen", False):
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]

    def job() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    with _book.lock:
        if _book.starter is None:
            _book.starter = _Starter()
        starter = _book.starter
    return starter.do(job)
