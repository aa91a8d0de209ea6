"""The truth about every token, told by the commands that servers executed, not by what clients believe."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hiredis import PushNotification, Reader

from redlock_cluster.core.queue import SIDE_KEYS
from redlock_cluster.testing.simulation import Connection, VirtualLoop

from .history import History
from .plan import EDGE

NIL = (b"_\r\n", b"$-1\r\n")
YES = (b":1\r\n", b"+OK\r\n")
NO = b":0\r\n"
YES_BUT_OTHERS_WAIT = b":2\r\n"
YES_A_READER = b":2\r\n"
GRANTED = (b":1\r\n", YES_BUT_OTHERS_WAIT)
SCRIPTS = (b"EVALSHA", b"EVAL")
FENCE = b":redlock:fence"
WRITES = {b"SET", b"DELIFEQ", b"DELEX", b"EVALSHA", b"EVAL"}


@dataclass
class Token:
    """What happened to one token. By server name: when it was asked for, on which connection it was granted, when it
    was deleted, and when it was lost otherwise; released: where a release was executed, whatever it found, and whose;
    forced: until when, at least, a server remembers that it was removed by force; given_away: its lease was
    """

    client: str
    key: bytes
    first: float
    asked: dict[str, float] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)
    robbed: dict[str, float] = field(default_factory=dict)
    forced: dict[str, float] = field(default_factory=dict)
    released: dict[str, str] = field(default_factory=dict)
    given_up: bool = False
    given_away: bool = False

    def stands_on(self, server: str) -> bool:
        """Whether a server was given it and nobody has taken it from there; it may have expired."""
        return server in self.granted and server not in self.deleted and server not in self.robbed


def is_take(words: list[bytes]) -> bool:
    """Whether a command is lua/take.lua or read.lua: of scripts with four keys, or a fence too, those with a ttl."""
    if words[0] not in SCRIPTS or words[2] not in (b"4", b"5"):
        return False
    keys = int(words[2])
    return len(words) in (9 + keys, 10 + keys) and words[4 + keys].isdigit() and (keys == 4 or has_fence(words))


def is_number(words: list[bytes]) -> bool:
    """Whether a command is lua/number.lua: two keys, the second of which is a fence, and three arguments."""
    return words[0] in SCRIPTS and words[2] == b"2" and len(words) == 8 and has_fence(words)


def has_fence(words: list[bytes]) -> bool:
    """Whether the last key of a script is a fence."""
    return words[2 + int(words[2])].endswith(FENCE)


def granted(reply: bytes) -> bool:
    """Whether a script that takes says that it has: by a number, or by a list of two, with a fence."""
    return reply in GRANTED or reply.startswith(b"*2\r\n")


def is_permit(words: list[bytes]) -> bool:
    """Whether a command is lua/permit.lua: five keys, and one for each permit."""
    return words[0] in SCRIPTS and words[2].isdigit() and int(words[2]) > 5 and len(words) == int(words[2]) + 10


def token_asked_for(words: list[bytes]) -> bytes:
    """The token of a script that takes: its first argument."""
    return words[3 + int(words[2])]


def ttl_asked_for(words: list[bytes]) -> bytes:
    """The ttl of a script that takes: its second argument."""
    return words[4 + int(words[2])]


def permit_asked_for(words: list[bytes]) -> bytes:
    """The key of the permit that lua/permit.lua takes."""
    return words[7 + int(words[-1])]


def resource_of(words: list[bytes]) -> bytes:
    """The key of the lock that a command is about; b"" for none. What stands beside a lock belongs to it."""
    place = 3 if words[0] in SCRIPTS else 1
    key = words[place] if len(words) > place else b""
    for end in SIDE_KEYS:
        key = key.removesuffix(end)
    return key


def without_pushes(reply: bytes) -> bytes:
    """The reply to a command among what the server pushes; of a list only that it is one."""
    reader = Reader(replyError=Exception)
    reader.feed(reply)
    while (value := reader.gets()) is not False:
        if isinstance(value, PushNotification):
            continue
        if value is None:
            return NIL[0]
        if isinstance(value, Exception):
            return b"-%b\r\n" % str(value).encode()
        if isinstance(value, int):
            return b":%d\r\n" % value
        return b"*%d\r\n" % len(value) if isinstance(value, list) else b"+OK\r\n" if value == b"OK" else b"*\r\n"
    return b""


class Ledger:
    """Follows every token on every server.

    quorum: servers that decide

    names: in queues, of each client
    commands: how many were executed, by the lock that they are about
    extensions: the same of extensions
    looks: the same of reads that do not make the server push
    read: when a client last read a lock on a server
    asked_why: when a server was asked whether a token was removed by force, by the lock
    taken_again: when a vote was last taken again, by the token
    removals: releases by force, by the lock: when, by whom, on which server, and whether it was held there
    """

    def __init__(self, loop: VirtualLoop, history: History, quorum: int) -> None:
        self._loop, self._history, self._quorum = loop, history, quorum
        self.tokens: dict[bytes, Token] = {}
        self.names: defaultdict[str, set[bytes]] = defaultdict(set)
        self.commands: Counter[bytes] = Counter()
        self.extensions: Counter[bytes] = Counter()
        self.looks: Counter[bytes] = Counter()
        self.read: dict[tuple[str, bytes, str], float] = {}
        self.asked_why: defaultdict[bytes, list[tuple[float, str]]] = defaultdict(list)
        self.taken_again: dict[bytes, float] = {}
        self.removals: defaultdict[bytes, list[tuple[float, str, str, bool]]] = defaultdict(list)
        self._ask_for_push: set[int] = set()  # numbers of the connections whose next read does
        self._by_place: defaultdict[tuple[str, bytes], list[Token]] = defaultdict(list)
        self._of_key: defaultdict[bytes, list[Token]] = defaultdict(list)

    def executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        self._history.command(connection, words, reply)
        if b">" in reply:
            reply = without_pushes(reply)
        self._read(connection, words)
        if words[0] not in WRITES and words[0] != b"CLIENT":
            return
        self.commands[resource_of(words)] += 1
        if reply.startswith(b"-NOSCRIPT"):
            self._history.count("NOSCRIPT answered")
            return
        if reply.startswith(b"-OOM") and b"IFEQ" in words:
            self._history.count("extensions refused for want of memory")
        match words:
            case [b"CLIENT", b"KILL", *_] if reply == YES[0]:
                self._history.count("predecessors killed (CLIENT KILL)")
            case [b"CLIENT", b"CACHING", *_]:
                self._ask_for_push.add(connection.number)
            case [b"SET", key, token, b"NX", *options] if key and token:  # without a key it is a probe
                self._asked(connection, key, token, reply in NIL if b"GET" in options else reply == YES[1])
            case [b"SET", key, token, b"IFEQ", _, _, _] if token:
                self._extension(connection, key, token, reply)
            case [b"DELIFEQ", key, token] | [b"DELEX", key, b"IFEQ", token] if token:
                self._release(connection, key, token, reply)
            case [b"EVALSHA" | b"EVAL", *_]:
                self._script(connection, words, reply)

    def _read(self, connection: Connection, words: list[bytes]) -> None:
        """What makes the server push is no look."""
        if words[0] == b"PTTL":
            self.commands[words[1]] += 2  # it makes the server push, with a CLIENT CACHING before it
        if words[0] == b"ZSCORE":
            self.asked_why[resource_of(words)].append((self._loop.time(), connection.host.name))
        if words[0] == b"GET" and connection.number not in self._ask_for_push:
            self.looks[words[1]] += 1
            self.read[connection.client, words[1], connection.host.name] = self._loop.time()
        self._ask_for_push.discard(connection.number)

    def _script(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server knew the script."""
        match words[2:]:
            case [b"4" | b"5", key, *_] if is_take(words):
                self._asked(connection, key, token_asked_for(words), granted(reply))
            case [b"2", key, _, token, _, _] if is_number(words):
                self._asked(connection, key, token, granted(reply))
            case [b"2", *_, _] if len(words) == 7:  # lua/raise.lua
                self._history.count("fences agreed on")
            case [b"3", key, _, _, token, _, _, _] if token and reply in YES:  # lua/heal.lua with a fence
                self._taken_again(connection, key, token)
            case [b"4", key, _, _, _, token, *_] if token:  # lua/release.lua
                self._release(connection, key, token, reply)
            case [b"2", key, _, token, _, _] if token and reply in YES:  # lua/heal.lua
                self._taken_again(connection, key, token)
            case [b"1", key, token, _] if token:
                self._extension(connection, key, token, reply)
            case [_, *_] if is_permit(words):
                self._asked(connection, permit_asked_for(words), token_asked_for(words), reply in GRANTED)
            case [b"5", key, _, _, _, _, least, _, *named] if reply in (YES[0], NO):  # lua/force.lua
                self._removed(connection, key, int(least) / 1000, named, reply == YES[0])

    def _asked(self, connection: Connection, key: bytes, token: bytes, granted: bool) -> None:
        server = connection.host.name
        known = self.tokens.get(token)
        if known is None:
            known = self.tokens[token] = Token(connection.client, key, self._loop.time())
            self._by_place[connection.client, key].append(known)
            self._of_key[key].append(known)
            self.names[connection.client].add(token[:8])
        if server in known.asked:
            self._history.problem("token used twice", f"{server} got it again", key.decode())
        known.asked[server] = self._loop.time()
        if granted:
            self._granted(connection, key, known)
            if known.given_up:
                self._history.count("late grants after the decision")

    def _granted(self, connection: Connection, key: bytes, known: Token) -> None:
        server = connection.host.name
        if server in known.released:
            if known.given_away and known.released[server] != known.client:
                self._history.count("grants behind the release of whoever adopted the lease")
            else:
                text = f"{server} granted it on #{connection.number} after its release had been executed there"
                self._history.problem("a SET landed after its release", text, key.decode())
        known.granted[server] = connection.number
        known.robbed.pop(server, None)

    def _taken_again(self, connection: Connection, key: bytes, token: bytes) -> None:
        """A server holds a lease that it lacked, or has it taken already."""
        known, server = self.tokens.get(token), connection.host.name
        if known is None:
            return
        if self._loop.time() < known.forced.get(server, 0.0):
            self._history.problem("taken again after its release by force", f"on {server}", key.decode())
        if len(known.granted) < self._quorum:
            self._history.problem("taken again, but never won", f"on {server}", key.decode())
        if server in known.robbed or server not in known.granted:
            self._history.count("votes taken again")
            self.taken_again[token] = self._loop.time()
        self._granted(connection, key, known)

    def _removed(self, connection: Connection, key: bytes, least: float, named: list[bytes], held: bool) -> None:
        """Somebody takes a lock from whoever holds it.

        named: the tokens that are to be remembered, besides those that the server holds
        """
        server, now = connection.host.name, self._loop.time()
        self.removals[key].append((now, connection.client, server, held))
        there = [token for token in self._of_key[key] if held and token.stands_on(server)]
        for token in there:
            token.robbed[server] = now
            self._history.count("votes removed by force")
        for token in [*there, *[self.tokens[name] for name in named if name in self.tokens]]:
            token.forced[server] = now + least * (1 - 2 * EDGE)

    def _release(self, connection: Connection, key: bytes, token: bytes, reply: bytes) -> None:
        known = self.tokens.get(token)
        if known is None:
            return
        server = connection.host.name
        known.given_up = True
        known.released[server] = connection.client
        if reply in YES or reply == YES_BUT_OTHERS_WAIT:
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

    def _extension(self, connection: Connection, key: bytes, token: bytes, reply: bytes) -> None:
        self.extensions[key] += 1
        known, server = self.tokens.get(token), connection.host.name
        if known is None:
            return
        if known.released.get(server) == connection.client:
            text = f"on {server}, on #{connection.number}"
            self._history.problem("an extension came after the release", text, key.decode())
        if (reply in YES or reply == YES_A_READER) and (server in known.robbed or server in known.deleted):
            self._history.problem("an extension took the lock again", f"on {server}", key.decode())

    def robbed(self, server: str, lost: Iterable[bytes]) -> None:
        """A server loses these tokens by nobody's release."""
        for token in lost:
            known = self.tokens.get(token)
            if known is not None:
                known.robbed[server] = self._loop.time()

    def given_away(self, token: str) -> None:
        """Its lease is somebody else's from now on."""
        known = self.tokens.get(token.encode())
        if known is not None:
            known.given_away = True

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

    def attempts(self, key: str) -> int:
        """How many attempts on a key reached a server."""
        return sum(len(tokens) for (_, place), tokens in self._by_place.items() if place == key.encode())

    def undecided(self, client: str, key: str, size: int) -> bool:
        """Whether the client's newest SET on a key was executed by some servers and not by all."""
        tokens = self._by_place.get((client, key.encode()))
        return bool(tokens) and 0 < len(tokens[-1].asked) < size

    def deletions(self, token: str) -> set[str]:
        """The servers on which a release found the token and deleted it."""
        known = self.tokens.get(token.encode())
        return set() if known is None else set(known.deleted)

    def robbed_of(self, token: bytes, since: float) -> set[str]:
        """The servers that have lost a token since a time, and not taken it again."""
        known = self.tokens.get(token)
        return set() if known is None else {server for server, at in known.robbed.items() if at >= since}

    def removals_by(self, client: str, key: str, since: float) -> dict[str, set[bool]]:
        """On which servers a client has removed a lock by force since a time, and whether it was held there."""
        found: defaultdict[str, set[bool]] = defaultdict(set)
        for at, who, server, held in self.removals[key.encode()]:
            if who == client and at >= since:
                found[server].add(held)
        return found

    def read_by(self, client: str, key: str, since: float) -> set[str]:
        """On which servers a client has read a lock since a time."""
        name = key.encode()
        return {
            server for (who, what, server), at in self.read.items() if (who, what) == (client, name) and at >= since
        }

    def asked_too_early(self, key: str, since: float) -> bool:
        """Whether a server was asked why a lock was lost just before it was removed there, since a time."""
        removed = {server: at for at, _, server, _ in self.removals[key.encode()] if at >= since}
        asked = self.asked_why[key.encode()]
        return any(since <= at < removed.get(server, 0.0) for at, server in asked)

    def was_forced(self, token: bytes) -> bool:
        """Whether a token was removed by force, on any server."""
        return token in self.tokens and bool(self.tokens[token].forced)

    def ever_on(self, key: str, quorum: int) -> bool:
        """Whether any token of a key was ever granted by a quorum."""
        return any(t.key == key.encode() and len(t.granted) >= quorum for t in self.tokens.values())
