"""What is said on a new connection before anything else: who we are, who answers, what it understands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from redlock_cluster.core.dialect import Dialect, ErrorReply, dialect_of, probes
from redlock_cluster.lua import SCRIPTS
from redlock_cluster.options import ServerOptions
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.ports import ConnectionFailed

__all__ = ["Greeting", "greet"]

_NOT_YET = frozenset({"LOADING", "BUSY", "MASTERDOWN", "NOAUTH"})
_TELLING = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "DENIED"})

_OLD_REFUSALS = ("ERR invalid password", "ERR Client sent AUTH, but no password is set")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server told of itself.

    run_id: names this run of the server process, "" where it would not tell; client_id: our connection's number there
    version: such as `valkey 9.1.2`, "" where it would not tell
    """

    run_id: str
    client_id: int | None
    version: str
    dialect: Dialect


async def greet(connection: Connection, server: ServerOptions, key_prefix: str) -> Greeting:
    """Authenticates, selects the database and asks a server who it is and which lock commands it understands.

    Raises ConnectionFailed when the server refuses, is no Redis-protocol server, or can't vote now (loading, replica).
    """
    resp3 = await _hello(connection, server)
    if server.database:
        selected = await connection.request("SELECT", server.database)
        if isinstance(selected, ErrorReply):
            raise ConnectionFailed(f"SELECT {server.database}: {selected.text}")
    for name, value in (("LIB-NAME", "redlock-cluster"), ("LIB-VER", _own_version())):
        connection.request("CLIENT", "SETINFO", name, value)
    client_id = connection.request("CLIENT", "ID")
    about = [connection.request("INFO", section) for section in ("server", "replication")]
    probed = [connection.request(*words) for words in probes(f"{key_prefix}probe")]
    for script in SCRIPTS:
        connection.request("SCRIPT", "LOAD", script.source)
    replies = await asyncio.gather(*probed)
    for reply in replies:
        if isinstance(reply, ErrorReply) and reply.code in _NOT_YET:
            raise ConnectionFailed(reply.text)
    facts = _facts(await about[0]) | _facts(await about[1])
    _require_master(facts)
    number = await client_id
    return Greeting(
        run_id=facts.get("run_id", ""),
        client_id=number if type(number) is int else None,
        version=_version_in(facts),
        dialect=dialect_of(replies, resp3),
    )


async def _hello(connection: Connection, server: ServerOptions) -> bool:
    """`HELLO 3`; servers that don't know it (before Redis 6) get `AUTH` and stay with RESP2. Whether it is RESP3."""
    password = server.password.get_secret_value() if server.password is not None else None
    credentials = () if password is None else ("AUTH", server.username or "default", password)
    reply = await connection.request("HELLO", 3, *credentials)
    if isinstance(reply, (dict, list)):
        return isinstance(reply, dict)
    if isinstance(reply, ErrorReply) and reply.code in _TELLING:
        raise ConnectionFailed(_authentication(reply, password))
    if password is not None:
        user = (server.username,) if server.username else ()
        reply = await connection.request("AUTH", *user, password)
        if reply != b"OK":
            raise ConnectionFailed(_authentication(reply, password))
    reply = await connection.request("PING")
    if reply != b"PONG":
        raise ConnectionFailed(_authentication(reply, password))
    return False


def _authentication(reply: object, password: str | None) -> str:
    """Why the greeting failed, without what an error may repeat: old servers echo a command's arguments."""
    if not isinstance(reply, ErrorReply):
        return "what answers there is not a Redis-protocol server"
    if reply.code in _TELLING or (password and reply.text in _OLD_REFUSALS):
        return reply.text.replace(password, "…") if password else reply.text
    if password and password in reply.text:
        return "the server refused the greeting"
    return f"the server refused the greeting ({reply.code[:16]})"


def _facts(reply: object) -> dict[str, str]:
    """The `name:value` lines of an INFO reply; none where the server would not tell."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    if not isinstance(text, str):
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _require_master(facts: dict[str, str]) -> None:
    if facts.get("role", "master") != "master":
        raise ConnectionFailed("it is a replica; the servers of a group must be independent masters")
    if "sentinel" in (facts.get("redis_mode"), facts.get("server_mode")):
        raise ConnectionFailed("it is a Sentinel, which keeps no keys")


def _version_in(facts: dict[str, str]) -> str:
    if "valkey_version" in facts:
        told = f"valkey {facts['valkey_version']}"
    else:
        told = f"redis {facts['redis_version']}" if "redis_version" in facts else ""
    return "".join(c for c in told[:64] if c.isprintable())


@cache
def _own_version() -> str:
    try:
        return version("redlock-cluster")
    except PackageNotFoundError:
        return "0"
