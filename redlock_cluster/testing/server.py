"""One real server process on a loopback port, which can be killed, stopped, paused and started again.

    state      start      pause      resume     kill, stop   close
    new        running    -          -          new          closed
    running    running    paused     running    down         closed
    paused     -          paused     running    down         closed
    down       running    -          -          down         closed
    closed     -          -          -          closed       closed

A dash is an EmbeddedError. A running server may also end by itself; then it is down.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from redlock_cluster.testing import processes
from redlock_cluster.testing.binaries import EmbeddedError, ServerFailed, binary_version, find_binary
from redlock_cluster.testing.config import Setting, merged
from redlock_cluster.testing.home import ServerHome
from redlock_cluster.testing.ports import LOOPBACK

__all__ = ["EmbeddedServer"]

_READY: Final = b"Ready to accept connections"
_PORT_TAKEN: Final = re.compile(rb"Address already in use|Failed listening on port")
_POLL: Final = 0.003
_MOVES: Final = 10


class EmbeddedServer:
    """A Valkey or Redis server process that belongs to this process and ends with it.

    binary: path or name of the server; None uses the extra `embedded`, else what is on PATH
    config: settings for the server's configuration file, such as `{"requirepass": "x"}`; a sequence is
        several words; `{port}` and `{directory}` inside a value are filled in, so TLS is
        `{"port": 0, "tls-port": "{port}", …}` and a socket is `{"unixsocket": "{directory}/server.sock"}`
    directory: of its data and its log; None makes a temporary folder that `close()` removes
    port: TCP port on 127.0.0.1; None chooses one outside the kernel's ephemeral range
    args: command-line arguments after the configuration file; the list `args` may be changed between starts
    persistence: keep every write in an append-only file, synced before the reply; otherwise a server
        restarts empty
    start_timeout: seconds to wait for a start or a stop

    A server that restarts empty has forgotten the locks that it granted: clients quarantine it for as long as those may
    last. With `restart_guard: false` it must stay away for so long. One that keeps an append-only file
    (`persistence=True`) forgets nothing.

    On Linux the server is killed even when a signal kills this process, SIGKILL included (a temporary folder then
    stays); elsewhere it is ended when the interpreter exits. A forked child can't end or control the servers of its
    parent.

    Raises BinaryNotFound, and ValueError for a setting that the server must choose itself.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        config: Mapping[str, Setting] | None = None,
        directory: str | os.PathLike[str] | None = None,
        port: int | None = None,
        *,
        args: Sequence[str] = (),
        persistence: bool = False,
        start_timeout: float = 15.0,
    ) -> None:
        self.binary = find_binary(binary)
        self.args = list(args)
        self.start_timeout = start_timeout
        folder = Path(directory).absolute() if directory is not None else None
        self._home = ServerHome(merged(config or {}, persistence), folder, port)
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ready = self._paused = self._closed = False
        self._owner = os.getpid()
        self._lock = threading.RLock()

    @property
    def port(self) -> int:
        """The TCP port that clients connect to, plain or TLS, for all starts; EmbeddedError before the first."""
        return self._home.port

    @property
    def name(self) -> str:
        """`host:port`, as an options file names it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def directory(self) -> Path:
        """The folder of its data, `server.conf` and `server.log`; EmbeddedError before the first start."""
        return self._home.directory

    @property
    def unixsocket(self) -> str | None:
        """The path of its unix socket, where `config` asks for one."""
        return self._home.setting("unixsocket")

    @property
    def pid(self) -> int:
        """The process id of a living server; EmbeddedError otherwise."""
        return self._living().pid

    @property
    def alive(self) -> bool:
        """Whether the process exists; true for a paused one."""
        if self._process is None:
            return False
        if self._owner == os.getpid():
            return self._process.poll() is None
        try:
            os.kill(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def paused(self) -> bool:
        """Whether `pause()` has stopped it."""
        return self._paused and self.alive

    @property
    def version(self) -> str:
        """The version of the binary, such as "9.1.2"."""
        return binary_version(self.binary)

    @property
    def log(self) -> str:
        """Everything it has written to its log, over all starts."""
        return self._home.log_path.read_text(encoding="utf-8", errors="replace")

    def start(self) -> Self:
        """Start it, on the port and the data it had before, and return when it accepts connections.

        Does nothing while it runs.

        Raises ServerFailed, with the end of its log, when it does not start.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """The first half of `start()`: returns while the server is still starting."""
        with self._controlled():
            if self._closed:
                raise EmbeddedError("this server was closed")
            if self.paused:
                raise EmbeddedError(f"{self.name} is paused: resume() it")
            if not self.alive:
                processes.at_exit(self, self.close)
                self._spawn()

    def wait_ready(self) -> None:
        """The second half of `start()`: returns when the server accepts connections."""
        with self._controlled():
            if self._process is None:
                raise EmbeddedError("this server was not launched")
            deadline = time.monotonic() + self.start_timeout
            moves = 0
            while _READY not in self._home.new_log():
                if time.monotonic() > deadline:
                    self.kill()
                    raise ServerFailed(self._home.explain(f"was not ready after {self.start_timeout:g} s"))
                if self.alive:
                    time.sleep(_POLL)
                elif self._may_move() and moves < _MOVES:
                    moves += 1
                    self._home.move()
                    self._spawn()
                else:
                    raise ServerFailed(self._home.explain(f"ended with status {self._process.returncode}"))
            self._was_ready = True

    def kill(self) -> None:
        """End it with SIGKILL, paused or not, and wait for its end."""
        with self._controlled():
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._paused = False

    def stop(self) -> None:
        """End it with SIGTERM (a paused one is resumed for that), and wait for its end.

        Raises EmbeddedError, after killing it, when that takes longer than `start_timeout`.
        """
        with self._controlled():
            if self._process is None:
                return
            self._process.terminate()
            if self.paused:
                self.resume()
            try:
                self._process.wait(self.start_timeout)
            except subprocess.TimeoutExpired as error:
                self.kill()
                raise EmbeddedError(self._home.explain(f"did not stop within {self.start_timeout:g} s")) from error

    def pause(self) -> None:
        """Stop it with SIGSTOP: its connections stay open, nothing is answered until `resume()`."""
        with self._controlled():
            process = self._living()
            process.send_signal(signal.SIGSTOP)
            if hasattr(os, "waitid"):
                # A signal takes effect a moment after it was sent. WNOWAIT leaves an exit status to Popen.
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._paused = True

    def resume(self) -> None:
        """Let a paused server continue."""
        with self._controlled():
            self._living().send_signal(signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """End it for good and remove its temporary folder; one with `directory=` ends with SIGTERM and keeps it.

        May be called again. In a forked child it does nothing.
        """
        if self._owner != os.getpid():
            return
        with self._controlled():
            self._closed = True
            processes.not_at_exit(self)
            try:
                if self._home.temporary:
                    self.kill()
                else:
                    self.stop()
            finally:
                self._home.close()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._process is None:
            return "<EmbeddedServer new>"
        state = "closed" if self._closed else "paused" if self.paused else "running" if self.alive else "down"
        return f"<EmbeddedServer {self.name} {state}>"

    @contextlib.contextmanager
    def _controlled(self) -> Iterator[None]:
        if self._owner != os.getpid():
            raise EmbeddedError("this server belongs to the process that started it, not to a forked child")
        with self._lock:
            yield

    def _spawn(self) -> None:
        configuration = self._home.prepare()
        command = [str(self.binary), str(configuration), *self.args]
        try:
            self._process = processes.spawn(command, self._home.log_path)
        except OSError as error:
            raise ServerFailed(f"{self.binary} can't be started: {error}") from error

    def _living(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.alive:
            raise EmbeddedError(f"{self!r} is not running")
        return self._process

    def _may_move(self) -> bool:
        unsettled = not self._was_ready and not self._home.port_is_given
        return unsettled and _PORT_TAKEN.search(self._home.new_log()) is not None
