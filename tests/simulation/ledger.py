"""The truth about every token, told by the commands that servers executed, not by what clients believe."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from redlock_cluster.testing.simulation import Connection, VirtualLoop

from .history import History

NIL = (b"_\r\n", b"$-1\r\n")
YES = (b":1\r\n", b"+OK\r\n")
WRITES = {b"SET", b"DELIFEQ", b"DELEX", b"EVALSHA", b"EVAL"}


@dataclass
class Token:
    """What happened to one token. By server name: when it was asked for, on which connection it was granted, when it
    was deleted; released: where a release was executed, whatever it found
    """

    client: str
    key: bytes
    first: float
    asked: dict[str, float] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    given_up: bool = False


class Ledger:
    """Follows every token on every server."""

    def __init__(self, loop: VirtualLoop, history: History) -> None:
        self._loop, self._history = loop, history
        self.tokens: dict[bytes, Token] = {}
        self._by_place: defaultdict[tuple[str, bytes], list[Token]] = defaultdict(list)

    def executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        self._history.command(connection, words, reply)
        if reply.startswith(b"-NOSCRIPT"):
            self._history.count("NOSCRIPT answered")
        if words[0] not in WRITES and words[0] != b"CLIENT":
            return
        if reply.startswith(b"-OOM") and b"IFEQ" in words:
            self._history.count("extensions refused for want of memory")
        match words:
            case [b"SET", key, token, b"NX", *options] if key and token:  # without a key it is a probe
                self._asked(connection, key, token, reply in NIL if b"GET" in options else reply == YES[1])
            case [b"DELIFEQ", key, token] | [b"DELEX", key, b"IFEQ", token] if token:
                self._release(connection, key, token, reply)
            case [b"EVALSHA" | b"EVAL", _, b"1", key, token] if not reply.startswith(b"-NOSCRIPT"):
                self._release(connection, key, token, reply)
            case [b"CLIENT", b"KILL", *_] if reply == YES[0]:
                self._history.count("predecessors killed (CLIENT KILL)")

    def _asked(self, connection: Connection, key: bytes, token: bytes, granted: bool) -> None:
        server = connection.host.name
        known = self.tokens.get(token)
        if known is None:
            known = self.tokens[token] = Token(connection.client, key, self._loop.time())
            self._by_place[connection.client, key].append(known)
        if server in known.asked:
            self._history.problem("token used twice", f"{server} got it again", key.decode())
        known.asked[server] = self._loop.time()
        if granted:
            if server in known.released:
                text = f"{server} granted it on #{connection.number} after its release had been executed there"
                self._history.problem("a SET landed after its release", text, key.decode())
            known.granted[server] = connection.number
            if known.given_up:
                self._history.count("late grants after the decision")

    def _release(self, connection: Connection, key: bytes, token: bytes, reply: bytes) -> None:
        known = self.tokens.get(token)
        if known is None:
            return
        server = connection.host.name
        known.given_up = True
        known.released.add(server)
        if reply in YES:
            known.deleted[server] = self._loop.time()
            if known.granted.get(server) != connection.number:
                self._history.count("pending releases that deleted")
                self._same_connection(connection, known, server)

    def _same_connection(self, connection: Connection, token: Token, server: str) -> None:
        """A release on another connection than its SET must come on a successor: the SET's connection is closed."""
        older = connection.network.connections.get(token.granted.get(server, 0))
        if older is not None and not older.closed and older.client == connection.client:
            text = f"released on #{connection.number} while #{older.number}, which carried its SET, serves"
            self._history.problem("release on another connection", text, token.key.decode())

    # --- questions -------------------------------------------------------------------------------------------------

    def decided(self, token: str) -> None:
        """A lease with this token was returned: what is granted from now on comes late."""
        known = self.tokens.get(token.encode())
        if known is not None:
            known.given_up = True

    def asked_by(self, client: str, key: str, since: float) -> set[str]:
        """The servers that executed some SET of a client on a key since a time."""
        tokens = self._by_place.get((client, key.encode()), [])
        return {server for token in tokens for server, at in token.asked.items() if at >= since}

    def undecided(self, client: str, key: str, size: int) -> bool:
        """Whether the client's newest SET on a key was executed by some servers and not by all."""
        tokens = self._by_place.get((client, key.encode()))
        return bool(tokens) and 0 < len(tokens[-1].asked) < size

    def deletions(self, token: str) -> set[str]:
        """The servers on which a release found the token and deleted it."""
        known = self.tokens.get(token.encode())
        return set() if known is None else set(known.deleted)

    def ever_on(self, key: str, quorum: int) -> bool:
        """Whether any token of a key was ever granted by a quorum."""
        return any(t.key == key.encode() and len(t.granted) >= quorum for t in self.tokens.values())
