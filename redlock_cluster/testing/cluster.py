"""Groups of real servers for a test, a demo or a developer's machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import yaml

from redlock_cluster.testing import processes
from redlock_cluster.testing.binaries import EmbeddedError, find_binary
from redlock_cluster.testing.config import Setting
from redlock_cluster.testing.ports import LOOPBACK
from redlock_cluster.testing.server import EmbeddedServer

__all__ = ["EmbeddedCluster"]

_GROUP_KEYS: Final = frozenset({"cluster", "servers", "deployments"})


class EmbeddedCluster:
    """Groups "0", "1", … of embedded servers, and the options with which a supervisor uses them.

        with EmbeddedCluster(groups=3, servers=3) as cluster, Supervisor(cluster.options) as redlock:
            ...
            cluster.groups[0][1].kill()

    groups: how many groups, at least 1
    servers: how many servers each group has, at least 1; an odd number makes sense
    config: settings of every server, see EmbeddedServer
    options: merged into `options`, for example `{"server_timeout": 100}`
    server_options: merged into every server's entry in `options`, for example `{"ssl": True}`; the password
        that `config` sets as `requirepass` and a unix socket are entered by themselves
    binary: as for EmbeddedServer, for every server
    args: as for EmbeddedServer, for every server
    persistence: as for EmbeddedServer, for every server

    `groups` and `servers` can be read before `start()`, so one server's `args` can still be changed.

    A server that restarts empty has forgotten the locks that it granted: clients quarantine it for as long as those may
    last. With `restart_guard: false` it must stay away for so long. One that keeps an append-only file
    (`persistence=True`) forgets nothing.

    Raises BinaryNotFound, and ValueError for impossible arguments.
    """

    def __init__(
        self,
        groups: int = 3,
        servers: int = 3,
        *,
        config: Mapping[str, Setting] | None = None,
        options: Mapping[str, object] | None = None,
        server_options: Mapping[str, object] | None = None,
        binary: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        persistence: bool = False,
    ) -> None:
        if groups < 1 or servers < 1:
            raise ValueError("a cluster has at least one group, and a group at least one server")
        if refused := sorted(_GROUP_KEYS & (options or {}).keys()):
            raise ValueError(f"options: {', '.join(refused)} comes from the cluster itself")
        path = find_binary(binary)
        self._root = Path(tempfile.mkdtemp(prefix="redlock-cluster-"))
        self._owner = os.getpid()
        self._closed = False
        self._more_options = dict(options or {})
        self._server_options = dict(server_options or {})
        self._password = (config or {}).get("requirepass")
        self.groups: tuple[tuple[EmbeddedServer, ...], ...] = tuple(
            tuple(
                EmbeddedServer(path, config, self._root / f"{group}-{number}", args=args, persistence=persistence)
                for number in range(servers)
            )
            for group in range(groups)
        )
        processes.at_exit(self, self.close)

    @property
    def servers(self) -> tuple[EmbeddedServer, ...]:
        """All servers, group after group."""
        return tuple(server for group in self.groups for server in group)

    @property
    def options(self) -> dict[str, object]:
        """A fresh options mapping for a supervisor; EmbeddedError before the first start."""
        cluster = [
            {"name": str(index), "servers": [self._entry(server) for server in group]}
            for index, group in enumerate(self.groups)
        ]
        return {"cluster": cluster, **self._more_options}

    @property
    def options_path(self) -> Path:
        """The path of a YAML file with the same options; it exists from `start()` to `close()`."""
        return self._root / "redlock.yaml"

    def start(self) -> Self:
        """Start every server that does not run, all at once, and return when they accept connections.

        Raises ServerFailed, with the log of the server that did not start; the others run until `close()`.
        """
        if self._closed:
            raise EmbeddedError("this cluster was closed")
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready()
        text = yaml.safe_dump(self.options, sort_keys=False, allow_unicode=True)
        self.options_path.touch(mode=0o600)
        self.options_path.write_text(text, encoding="utf-8")
        return self

    def close(self) -> None:
        """End every server, also paused ones, and remove the temporary folder.

        May be called again. In a forked child it does nothing.
        """
        if self._owner != os.getpid():
            return
        self._closed = True
        processes.not_at_exit(self)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self._root, ignore_errors=True)
            for server in self.servers:
                stack.callback(server.close)
                stack.callback(server.kill)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, server: EmbeddedServer) -> dict[str, object]:
        entry: dict[str, object] = {"host": LOOPBACK, "port": server.port}
        if not server.port:
            entry = {"socket": server.unixsocket}
        if self._password:
            entry["auth"] = str(self._password).replace("${", "$${")  # as options files write it
        return entry | self._server_options
