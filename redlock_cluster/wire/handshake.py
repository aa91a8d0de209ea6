"""The handshake on a new connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from redlock_cluster.core.dialect import Dialect, dialect_of, probes
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.options import ServerOptions
from redlock_cluster.options.credentials import DEFAULT_USER, Login
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.ports import ConnectionFailed

__all__ = ["Facts", "Handshake"]

_NOT_YET = frozenset({"LOADING", "BUSY", "MASTERDOWN", "NOAUTH"})
_SHOWN = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "DENIED"})

_FULL = "ERR max number of clients"
_OLD_REFUSALS = ("ERR invalid password", "ERR Client sent AUTH, but no password is set")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server said of itself.

    run_id: names this run of the server process, "" where it would not say
    client_id: our connection's number there, None where it would not say
    version: such as `valkey 9.1.2`, "" where it would not say
    dialect: what it understands
    warning: what about its configuration endangers keys, "" where nothing is known
    """

    run_id: str
    client_id: int | None
    version: str
    dialect: Dialect
    warning: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """What is said on a new connection before anything else: who we are, who answers, what it understands.

    probe_key: a key that nobody uses, for the probes of the dialect
    scripts: sources of the scripts to be loaded
    """

    probe_key: str
    scripts: tuple[bytes, ...]

    async def perform(self, connection: Connection, server: ServerOptions, login: Login | None) -> Facts:
        """Authenticate, select the database, ask.

        login: who we are; None: whoever the server lets in without being told

        Raises ConnectionFailed when the server refuses, is no Redis-protocol server, can't serve now (loading,
        replica), or is a node of a Redis Cluster.
        """
        resp3, hello = await _hello(connection, login)
        if server.database:
            selected = await connection.request("SELECT", server.database)
            if isinstance(selected, ErrorReply):
                raise ConnectionFailed(f"SELECT {server.database}: {selected.text}")
        for name, value in (("LIB-NAME", "redlock-cluster"), ("LIB-VER", _own_version())):
            connection.request("CLIENT", "SETINFO", name, value)
        client_id = connection.request("CLIENT", "ID")
        about = [connection.request("INFO", section) for section in ("server", "replication", "memory")]
        probed = [connection.request(*words) for words in probes(self.probe_key)]
        for source in self.scripts:
            connection.request("SCRIPT", "LOAD", source)
        replies = await asyncio.gather(*probed)
        for reply in replies:
            if isinstance(reply, ErrorReply) and reply.code in _NOT_YET:
                raise ConnectionFailed(reply.text)
        info = hello | {name: text for reply in about for name, text in _info(await reply).items()}
        _require_independent(info)
        number = await client_id
        return Facts(
            run_id=info.get("run_id", ""),
            client_id=number if type(number) is int else None,
            version=_version_in(info),
            dialect=dialect_of(replies, resp3),
            warning=_warning(info),
        )


async def _hello(connection: Connection, login: Login | None) -> tuple[bool, dict[str, str]]:
    """`HELLO 3`; servers that don't know it (before Redis 6) get `AUTH` and stay with RESP2.

    Returns whether it is RESP3, and what the server said of itself.
    """
    password = None if login is None else login.password.get_secret_value()
    credentials = () if login is None or password is None else ("AUTH", login.username, password)
    reply = await connection.request("HELLO", 3, *credentials)
    if isinstance(reply, (dict, list)):
        return (True, _texts(reply)) if isinstance(reply, dict) else (False, {})
    if isinstance(reply, ErrorReply) and (reply.code in _SHOWN or reply.text.startswith(_FULL)):
        raise ConnectionFailed(_authentication(reply, password))
    if login is not None and password is not None:
        user = () if login.username == DEFAULT_USER else (login.username,)
        reply = await connection.request("AUTH", *user, password)
        if reply != b"OK":
            raise ConnectionFailed(_authentication(reply, password))
    reply = await connection.request("PING")
    if reply != b"PONG":
        raise ConnectionFailed(_authentication(reply, password))
    return False, {}


def _texts(reply: dict[object, object]) -> dict[str, str]:
    """The names and values of a map that are texts."""
    pairs = [(name, value) for name, value in reply.items() if isinstance(name, bytes) and isinstance(value, bytes)]
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}


def _authentication(reply: object, password: str | None) -> str:
    """Why the handshake failed, without what an error may repeat: old servers echo a command's arguments."""
    if not isinstance(reply, ErrorReply):
        return "what answers there is not a Redis-protocol server"
    if reply.code in _SHOWN or reply.text.startswith(_FULL) or (password and reply.text in _OLD_REFUSALS):
        return reply.text.replace(password, "…") if password else reply.text
    if password and password in reply.text:
        return "the server refused the handshake"
    return f"the server refused the handshake ({reply.code[:16]})"


def _info(reply: object) -> dict[str, str]:
    """The `name:value` lines of an INFO reply; none where the server would not say."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    if not isinstance(text, str):
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _require_independent(info: dict[str, str]) -> None:
    """Raises ConnectionFailed for a server that should not vote.

    info: what INFO and HELLO say; a restricted user may see the latter alone
    """
    if info.get("role", "master") != "master":
        raise ConnectionFailed("it is a replica; the servers of a group must be independent masters")
    modes = [info.get(name) for name in ("mode", "redis_mode", "server_mode")]
    if "sentinel" in modes:
        raise ConnectionFailed("it is a Sentinel, which keeps no keys")
    if "cluster" in modes:
        raise ConnectionFailed(
            "it is a node of a Redis Cluster; a group needs standalone servers, started with cluster-enabled no"
        )


def _warning(info: dict[str, str]) -> str:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return ""
    name = "".join(c for c in policy[:64] if c.isprintable())
    return f"it may evict keys before their time; set maxmemory-policy to noeviction (it is {name})"


def _version_in(info: dict[str, str]) -> str:
    if "valkey_version" in info:
        name = f"valkey {info['valkey_version']}"
    else:
        name = f"redis {info['redis_version']}" if "redis_version" in info else ""
    return "".join(c for c in name[:64] if c.isprintable())


@cache
def _own_version() -> str:
    try:
        return version("redlock-cluster")
    except PackageNotFoundError:
        return "0"
