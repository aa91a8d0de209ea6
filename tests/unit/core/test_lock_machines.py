"""Locks on one server against models of a few lines: random interleavings of readers, writers, permits and expiry.

What is sent is what the modes make; the server is the model server, whose time stands still between two steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hiredis
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.mode import AGAINST, FOR, LockMode
from redlock_cluster.core.permit import PERMITS, permit_key, semaphore_key, semaphore_of
from redlock_cluster.core.queue import NOBODY, Member
from redlock_cluster.core.read import READER
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.token import Token
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelServer

KEY = b"redlock:r"
MODERN = Dialect(set_nx_get=True, set_ifeq=True, compare_and_delete="DELIFEQ", wakes=True)
MODES = st.sampled_from([EXCLUSIVE, READER])
TTLS = st.integers(10, 200)
LIFE_MS = 6000


class Server:
    """A model server, and one client of it. now: milliseconds."""

    def __init__(self, modern: bool) -> None:
        self.now = 1_700_000_000_000
        self.dialect = MODERN if modern else SCRIPTED
        self._server = ModelServer(lambda: self.now / 1000, VALKEY_9 if modern else REDIS_6_2)
        self._client = self._server.connect(lambda _: None)
        if modern:
            self._client.execute([b"HELLO", b"3"])

    def execute(self, *words: bytes) -> Any:
        return parsed(self._client.execute(list(words)))

    def send(self, packed: bytes) -> Any:
        """What it replies to a packed command."""
        reader = hiredis.Reader()
        reader.feed(packed)
        return self.execute(*reader.gets())


def parsed(reply: bytes) -> Any:
    reader = hiredis.Reader(replyError=ErrorReply)
    reader.feed(reply)
    return reader.gets()


@dataclass
class Waiting:
    """Who stands in a queue. order: milliseconds; until: when it does not count any more."""

    name: bytes
    mode: LockMode
    order: int
    until: int

    def same(self, mode: LockMode, name: bytes | None) -> bool:
        return self.mode is mode and self.name == name


@dataclass(eq=False)
class Holder:
    """A token, its kind, and until when it holds, milliseconds; 0: not any more."""

    token: Token = field(repr=False)
    mode: LockMode
    until: int = 0


@dataclass
class Model:
    """Who holds and who waits. readers and who holds alone exclude each other; both let those go first who wait longer
    and would be excluded."""

    holders: list[Holder] = field(default_factory=list)
    queue: list[Waiting] = field(default_factory=list)

    def excluded(self, mode: LockMode, now: int) -> bool:
        live = [each for each in self.holders if each.until >= now]
        return any(not (each.mode is READER and mode is READER) for each in live)

    def ahead(self, mode: LockMode, order: int, name: bytes | None, now: int) -> list[Waiting]:
        """Those who may stand before it, or came at the same moment. name: its own in the queue."""
        others = [each for each in self.queue if each.until > now and not each.same(mode, name)]
        return [each for each in others if each.order <= order and not (each.mode is READER and mode is READER)]


class ReadersAndWriters(RuleBasedStateMachine):
    """One lock on one server."""

    tokens = Bundle("tokens")

    @initialize(modern=st.booleans())
    def begin(self, modern: bool) -> None:
        self.server, self.model, self._tokens = Server(modern), Model(), 0

    def _token(self) -> Token:
        self._tokens += 1
        return Token(b"%022d@test" % self._tokens)

    def _granted(self, mode: LockMode, ttl: int, holder: Holder) -> None:
        holder.until = self.server.now + ttl
        self.model.holders.append(holder)

    @rule(target=tokens, mode=MODES, ttl=TTLS)
    def acquire(self, mode: Any, ttl: int) -> Holder:
        """By who does not wait: a reader stands behind everybody, who wants it alone may come first."""
        self._forget_who_left()
        server, holder = self.server, Holder(self._token(), mode)
        reply = server.send(mode.acquire(server.dialect, KEY, holder.token, ttl, 0, True)[0])
        granted = mode.acquired(server.dialect, reply).vote is FOR
        first = mode is READER and self.model.ahead(mode, server.now + 1, None, server.now)
        assert granted is not bool(self.model.excluded(mode, server.now) or first)
        if granted:
            self._granted(mode, ttl, holder)
        return holder

    @rule(target=tokens, mode=MODES, ttl=TTLS, client=st.integers(0, 1), ago=st.integers(0, 15))
    def take(self, mode: Any, ttl: int, client: int, ago: int) -> Holder:
        """By who waits: nobody is passed, and who is refused stands in the queue."""
        self._forget_who_left()
        server, now, name = self.server, self.server.now, b"client%02d" % client
        holder, waits = Holder(self._token(), mode), self._waiting(name, mode)
        order = now - ago if waits is None else waits.order
        member = Member(name, order * 1000, waits is not None, LIFE_MS)
        ahead = self.model.ahead(mode, order, name, now)
        answer = mode.taken(
            server.dialect,
            server.send(mode.take(server.dialect, KEY, holder.token, ttl, 0, member, True)[0]),
        )
        excluded = self.model.excluded(mode, now)
        # What is refused for others that are dead, or do not hear, has them leave: then nobody is ahead any more.
        assert (answer.vote is FOR) <= (not excluded)
        if not excluded and not ahead:
            assert answer.vote is FOR
        if answer.vote is FOR:
            self._granted(mode, ttl, holder)
            if waits is not None:
                self.model.queue.remove(waits)
        else:
            assert answer.vote is AGAINST
            assert answer.position is not None
            if waits is None:
                waits = Waiting(name, mode, order, 0)
                self.model.queue.append(waits)
            waits.until = now + LIFE_MS
            standing = self._standing(mode)
            assert standing[name] == waits.order * 1000
        return holder

    def _forget_who_left(self) -> None:
        """Nobody here hears that it is told: whoever is leaves the queue."""
        standing = {mode: self._standing(mode) for mode in (EXCLUSIVE, READER)}
        self.model.queue = [each for each in self.model.queue if each.name in standing[each.mode]]

    def _waiting(self, name: bytes, mode: LockMode) -> Waiting | None:
        return next((each for each in self.model.queue if each.same(mode, name)), None)

    def _standing(self, mode: LockMode) -> dict[bytes, float]:
        end = b":redlock:readerqueue" if mode is READER else b":redlock:queue"
        reply = self.server.execute(b"ZRANGE", KEY + end, b"0", b"-1", b"WITHSCORES")
        pairs = reply if not reply or isinstance(reply[0], (list, tuple)) else zip(reply[::2], reply[1::2], strict=True)
        return {bytes(member)[1:]: float(score) for member, score in pairs}

    @rule(holder=tokens, ttl=TTLS)
    def extend(self, holder: Holder, ttl: int) -> None:
        server, holds = self.server, self._holds(holder)
        reply = server.send(holder.mode.extend(server.dialect, KEY, holder.token, ttl, True)[0])
        assert holder.mode.extended(reply).vote is (FOR if holds else AGAINST)
        if holds:
            holder.until = server.now + ttl

    @rule(holder=tokens, ttl=TTLS)
    def extend_by_token_alone(self, holder: Holder, ttl: int) -> None:
        holds = self._holds(holder)
        answer = EXCLUSIVE.extended(self.server.send(EXCLUSIVE.extend(SCRIPTED, KEY, holder.token, ttl, True)[0]))
        assert answer.vote is (FOR if holds else AGAINST)
        if holds:
            assert answer.shared is (holder.mode is READER)
            holder.until = self.server.now + ttl

    @rule(holder=consumes(tokens), alone=st.booleans())
    def release(self, holder: Holder, alone: bool) -> None:
        """alone: by the token alone, as an exclusive lock whose release tells."""
        server, holds = self.server, self._holds(holder)
        if holder.mode is READER and not alone:  # also a while after its end, as long as others read
            holds = isinstance(server.execute(b"ZSCORE", KEY, holder.token), (bytes, float))
        mode = EXCLUSIVE if alone else holder.mode
        reply = server.send(mode.release(server.dialect, KEY, holder.token, alone, True)[0])
        assert mode.released(reply).vote is (FOR if holds else AGAINST)
        holder.until = 0

    @rule(holder=tokens)
    def find(self, holder: Holder) -> None:
        reply = self.server.send(holder.mode.find(self.server.dialect, KEY, holder.token, True)[0])
        found = holder.mode.found(reply, holder.token)
        assert found.vote is (FOR if self._holds(holder) else AGAINST)
        if found.vote is AGAINST:
            assert found.free is not self.model.excluded(holder.mode, self.server.now)

    @rule(holder=tokens, ttl=TTLS)
    def heal(self, holder: Holder, ttl: int) -> None:
        assume(holder.until)
        holds = self._holds(holder)
        reply = self.server.send(holder.mode.heal(self.server.dialect, KEY, holder.token, ttl, 0, True)[0])
        taken = holder.mode.healed(reply).vote is FOR
        assert taken is (holds or not self.model.excluded(holder.mode, self.server.now))
        if taken and not holds:
            self.model.holders = [each for each in self.model.holders if each is not holder]
            self._granted(holder.mode, ttl, holder)
        elif taken and holder.mode is READER:
            holder.until = max(holder.until, self.server.now + ttl)

    @rule(ms=st.integers(1, 40))
    def time_passes(self, ms: int) -> None:
        self.server.now += ms

    @precondition(lambda self: self.model.queue and not self.model.excluded(EXCLUSIVE, self.server.now))
    @rule()
    def so_much_time_passes_that_nobody_waits(self) -> None:
        self.server.now += 2 * LIFE_MS + 1

    def _holds(self, holder: Holder) -> bool:
        return holder in self.model.holders and holder.until >= self.server.now

    @invariant()
    def key_ends_with_the_last_holder(self) -> None:
        if hasattr(self, "server"):
            left = [each.until - self.server.now for each in self.model.holders if each.until >= self.server.now]
            ttl = self.server.execute(b"PTTL", KEY)
            assert ttl == (max(left) if left else -2)


class Permits(RuleBasedStateMachine):
    """One semaphore on one server."""

    tokens = Bundle("tokens")

    @initialize(modern=st.booleans(), permits=st.integers(1, 4))
    def begin(self, modern: bool, permits: int) -> None:
        self.server, self.semaphore, self.at = Server(modern), semaphore_of(permits), semaphore_key(KEY)
        self.held: dict[int, tuple[Token, int]] = {}
        self._tokens = 0

    @rule(target=tokens, ttl=TTLS, number=st.integers(0, 3))
    def take(self, ttl: int, number: int) -> tuple[int, Token]:
        number %= self.semaphore.permits
        self._tokens += 1
        token, server = Token(b"%022d@test" % self._tokens), self.server
        words = self.semaphore.take_one(server.dialect, self.at, number, token, ttl, NOBODY, True)[0]
        reply, live = server.send(words), self._live()
        if number in live:
            holder, left, rank, _, _, free = reply
            assert (holder, rank) == (live[number][0], -1)
            assert free == b"".join(b"0" if each in live else b"1" for each in range(self.semaphore.permits))
            assert (left == -2) is (len(live) < self.semaphore.permits)
        else:
            assert reply == 1
            self.held[number] = token, server.now + ttl
        return number, token

    @rule(permits=st.integers(1, 4))
    def another_number_is_said(self, permits: int) -> None:
        assume(permits != self.semaphore.permits and self._live())
        other = semaphore_of(permits)
        words = other.take_one(self.server.dialect, self.at, 0, Token(b"x"), 5, NOBODY, True)[0]
        assert self.server.send(words) == [b"%d" % self.semaphore.permits]

    @rule(taken=tokens, ttl=TTLS)
    def extend(self, taken: tuple[int, Token], ttl: int) -> None:
        number, token = taken
        mode, key, holds = PERMITS[number], permit_key(self.at, number), self._holds(taken)
        reply = self.server.send(mode.extend(self.server.dialect, key, token, ttl, True)[0])
        assert mode.extended(reply).vote is (FOR if holds else AGAINST)
        if holds:
            # The number of permits is remembered for the ttl of the last one that was taken: as long as this here.
            self.held[number] = token, self.server.now + ttl
            self.server.execute(b"PEXPIRE", self.at + b":redlock:size", b"%d" % max(ttl, 200))

    @rule(taken=consumes(tokens))
    def release(self, taken: tuple[int, Token]) -> None:
        number, token = taken
        mode, key, holds = PERMITS[number], permit_key(self.at, number), self._holds(taken)
        reply = self.server.send(mode.release(self.server.dialect, key, token, False, True)[0])
        assert mode.released(reply).vote is (FOR if holds else AGAINST)
        if holds:
            del self.held[number]

    @rule(ms=st.integers(1, 40))
    def time_passes(self, ms: int) -> None:
        self.server.now += ms

    def _live(self) -> dict[int, tuple[Token, int]]:
        return {number: held for number, held in self.held.items() if held[1] >= self.server.now}

    def _holds(self, taken: tuple[int, Token]) -> bool:
        number, token = taken
        return self._live().get(number, (b"", 0))[0] == token


TestReadersAndWriters = ReadersAndWriters.TestCase
TestPermits = Permits.TestCase
TestReadersAndWriters.settings = TestPermits.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
