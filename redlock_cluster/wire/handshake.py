"""The handshake on a new connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from redlock_cluster.core.dialect import Dialect, dialect_of, probes
from redlock_cluster.core.meta import ServerMemory, read_meta
from redlock_cluster.core.replies import ErrorReply, texts_in
from redlock_cluster.options import ServerOptions
from redlock_cluster.options.credentials import DEFAULT_USER, Login
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.ports import ConnectionFailed, IsReplica

__all__ = ["Facts", "Handshake", "forgets"]

_NOT_YET = frozenset({"LOADING", "BUSY", "MASTERDOWN", "NOAUTH"})
_SHOWN = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "DENIED"})

_LOOK = "return redis.call('ZRANGE', KEYS[1], 0, 0)"  # what every script of the queue does

_KEEPING = ("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")
"""What a server is configured with that keeps what it has answered."""

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
    meta: what it remembers of itself, None if nothing
    unguarded: why nobody can tell whether it has forgotten its locks, "" if that can be told
    durable: no restart takes from it what it has answered; only asked for where that matters
    """

    run_id: str
    client_id: int | None
    version: str
    dialect: Dialect
    warning: str
    meta: ServerMemory | None
    unguarded: str
    durable: bool


@dataclass(frozen=True, slots=True)
class Handshake:
    """What is said on a new connection before anything else: who we are, who answers, what it understands.

    probe_key: a key that nobody uses, for the probes of the dialect
    scripts: sources of the scripts to be loaded
    channel: where others tell us that a lock is free
    queue: one that nobody uses, to learn whether we may use queues; empty for one who stands in none
    meta_key: where servers remember themselves; empty where nobody looks whether they have forgotten locks
    durable: whether servers must keep what they have answered over a restart
    """

    probe_key: str
    scripts: tuple[bytes, ...]
    channel: bytes
    queue: bytes
    meta_key: bytes
    durable: bool

    async def perform(
        self,
        connection: Connection,
        server: ServerOptions,
        login: Login | None,
        ask_time: Callable[[Connection], None],
    ) -> Facts:
        """Authenticate, select the database, ask.

        login: who we are; None: whoever the server lets in without being told
        ask_time: queues a command, which is answered when this returns

        Raises ConnectionFailed when the server refuses, is no Redis-protocol server, can't serve now (loading,
        replica), is a node of a Redis Cluster, or would lose what it must keep.
        """
        resp3, hello = await _hello(connection, login)
        if server.database:
            await _select(connection, server.database)
        for name, value in (("LIB-NAME", "redlock-cluster"), ("LIB-VER", _own_version())):
            connection.request("CLIENT", "SETINFO", name, value)
        client_id = connection.request("CLIENT", "ID")
        about = [connection.request("INFO", section) for section in ("server", "replication", "memory")]
        ask_time(connection)
        probed = [connection.request(*words) for words in probes(self.probe_key)]
        for source in self.scripts:
            connection.request("SCRIPT", "LOAD", source)
        # Before its memory is read, so that no flush goes unnoticed between.
        tracked = [connection.request("CLIENT", "TRACKING", "ON", "OPTIN")] if resp3 else []
        remembered = [connection.request("HGETALL", self.meta_key)] if self.meta_key else []
        looked = [connection.request("EVAL", _LOOK, 1, self.queue)] if self.queue else []
        woken = tracked + ([connection.request(*words) for words in self._to_be_woken()] if resp3 else [])
        replies = await asyncio.gather(*probed)
        _require_ready(replies)
        info = hello | {name: text for reply in about for name, text in _info(await reply).items()}
        _require_independent(info)
        number = await client_id
        queues, wakes = await _granted(looked, _never), await _granted(woken, _is_error)
        run_id = info.get("run_id", "")
        meta, unguarded = await _memory(remembered, run_id)
        return Facts(
            run_id=run_id,
            client_id=number if type(number) is int else None,
            version=_version_in(info),
            dialect=dialect_of(replies, resp3, queues, wakes),
            warning=_warning(info),
            meta=meta,
            unguarded=unguarded,
            durable=await self._keeps(connection, meta, run_id),
        )

    async def _keeps(self, connection: Connection, meta: ServerMemory | None, run_id: str) -> bool:
        """Whether a server keeps what it has answered over a restart; asked where that matters.

        Raises ConnectionFailed for one that does not, though it must.
        """
        if not self.durable and (meta is None or not run_id or meta.run_id == run_id):
            return False
        forgetful = await forgets(connection)
        if self.durable and forgetful:
            raise ConnectionFailed(f"durability: fsync needs a server that keeps what it has answered; {forgetful}")
        return not forgetful

    def _to_be_woken(self) -> tuple[tuple[str | bytes, ...], ...]:
        """What has a server push when a key changes that we asked for, and pass on what others tell us."""
        asking = ("CLIENT", "CACHING", "YES"), ("PTTL", self.probe_key)
        return *asking, ("SUBSCRIBE", self.channel)


async def _select(connection: Connection, database: int) -> None:
    """Raises ConnectionFailed for a database that is not there."""
    selected = await connection.request("SELECT", database)
    if isinstance(selected, ErrorReply):
        raise ConnectionFailed(f"SELECT {database}: {selected.text}")


async def _granted(asked: Sequence[Awaitable[object]], refuses: Callable[[object], bool]) -> bool:
    """Whether a server was asked for something, and answered no refusal."""
    return bool(asked) and not any([refuses(await reply) for reply in asked])


async def _memory(asked: Sequence[Awaitable[object]], run_id: str) -> tuple[ServerMemory | None, str]:
    """What a server remembers of itself, and why nobody can tell whether it has forgotten, "" if that can be told.

    Raises ConnectionFailed for one that can't say it now.
    """
    for reply in asked:
        found = read_meta(await reply)
        if not isinstance(found, ErrorReply):
            return found, "" if run_id else "it does not say its run_id (INFO server)"
        if not _never(found) and not found.wrong_type:
            raise ConnectionFailed(found.text)
        return None, found.text
    return None, ""


def _require_ready(replies: list[object]) -> None:
    """Raises ConnectionFailed for a server that answers like one that will serve later."""
    for reply in replies:
        if isinstance(reply, ErrorReply) and reply.code in _NOT_YET:
            raise ConnectionFailed(reply.text)


def _is_error(reply: object) -> bool:
    return isinstance(reply, ErrorReply)


def _never(reply: object) -> bool:
    """Whether a server will never do that for us. One that is full refuses even what needs no memory, for now."""
    return isinstance(reply, ErrorReply) and (reply.forbidden or reply.code == "ERR")


async def _hello(connection: Connection, login: Login | None) -> tuple[bool, dict[str, str]]:
    """`HELLO 3`; servers that don't know it (before Redis 6) get `AUTH` and stay with RESP2.

    Returns whether it is RESP3, and what the server said of itself.
    """
    password = None if login is None else login.password.get_secret_value()
    credentials = () if login is None or password is None else ("AUTH", login.username, password)
    reply = await connection.request("HELLO", 3, *credentials)
    if isinstance(reply, (dict, list)):
        return (True, texts_in(reply)) if isinstance(reply, dict) else (False, {})
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
        raise IsReplica("it is a replica; the servers of a group must be independent masters")
    modes = [info.get(name) for name in ("mode", "redis_mode", "server_mode")]
    if "sentinel" in modes:
        raise ConnectionFailed("it is a Sentinel, which keeps no keys")
    if "cluster" in modes:
        raise ConnectionFailed(
            "it is a node of a Redis Cluster; a group needs standalone servers, started with cluster-enabled no"
        )


async def forgets(connection: Connection) -> str:
    """What to set on a server that may lose in a restart what it has answered; "" for one that keeps it.

    `WAITAOF` would not help: it writes nothing, waits up to a second under `everysec`, and adds nothing to `always`.
    """
    asked = [connection.request("CONFIG", "GET", name) for name, _ in _KEEPING]
    found = {name: text for reply in asked for name, text in texts_in(await reply).items()}
    wrong = [f"{name} {value}" for name, value in _KEEPING if found.get(name) != value]
    return f"set {', '.join(wrong)} there, and let this user run CONFIG GET" if wrong else ""


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
