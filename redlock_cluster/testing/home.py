"""What an embedded server keeps while its process ends and starts again: folder, port, configuration and log."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from redlock_cluster.testing.binaries import EmbeddedError
from redlock_cluster.testing.config import Setting, filled, rendered
from redlock_cluster.testing.ports import PortReservation, claim_port, reserve_port

__all__ = ["ServerHome"]

_LOG_LINES: Final = 12


class ServerHome:
    """The folder and the port of one server, from its first start until it is closed.

    settings: the configuration, as `merged` returns it
    directory: the folder; None makes a temporary one that `close()` removes
    port: the caller's choice; None chooses one
    """

    def __init__(self, settings: Mapping[str, Setting], directory: Path | None, port: int | None) -> None:
        configured = str(settings.get("port", ""))
        if port is None and configured.isdigit() and configured != "0":
            port = int(configured)
        self.settings = settings
        self.temporary = directory is None
        self.port_is_given = port is not None
        self._directory = directory
        self._port = port
        self._reservation: PortReservation | None = None
        self._log_start = 0

    @property
    def directory(self) -> Path:
        """The folder; EmbeddedError before the first start."""
        if self._directory is None:
            raise EmbeddedError("this server has no folder before its first start")
        return self._directory

    @property
    def port(self) -> int:
        """The port that clients connect to: plain, else TLS, else 0; EmbeddedError before the first start."""
        plain = int(self.setting("port") or self._chosen())
        return plain or int(self.setting("tls-port") or 0)

    @property
    def log_path(self) -> Path:
        """The file that all starts append to."""
        return self.directory / "server.log"

    def setting(self, name: str) -> str | None:
        """Return a setting of one word, filled in; None when it is not set."""
        value = self.settings.get(name)
        return None if value is None else filled(str(value), self._names())

    def prepare(self) -> Path:
        """Make the folder, reserve the port, write the configuration file and return its path."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="redlock-cluster-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._reservation is None:
            self._reserve()
        settings = {"port": self._chosen(), **self.settings}
        path = self._directory / "server.conf"
        path.write_text(rendered(settings, self._directory, self._names()), encoding="utf-8")
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        return path

    def move(self) -> None:
        """Change to another port."""
        self._give_up_port()
        self._port = None
        self._reserve()

    def new_log(self) -> bytes:
        """Return what was logged since the last `prepare()`."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read()

    def explain(self, what: str) -> str:
        """Return `what` with the end of the log, for an exception."""
        lines = self.new_log().decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
        return "\n  ".join([f"the server on port {self.port} {what}", *lines])

    def close(self) -> None:
        """Give up the port and, if it is temporary, remove the folder."""
        self._give_up_port()
        if self.temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _chosen(self) -> int:
        if self._port is None:
            raise EmbeddedError("this server has no port before its first start")
        return self._port

    def _names(self) -> dict[str, str]:
        return {"port": str(self._chosen()), "directory": str(self.directory)}

    def _reserve(self) -> None:
        if self._port is None:
            self._reservation = reserve_port()
            self._port = self._reservation.port
        else:
            # A port that was in use a moment ago can't be reserved, but the server can still have it.
            with contextlib.suppress(OSError):
                self._reservation = claim_port(self._port)

    def _give_up_port(self) -> None:
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
