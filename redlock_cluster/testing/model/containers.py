"""Commands on sorted sets and hashes, as far as locks need them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.keyspace import Hash, SortedSet
from redlock_cluster.testing.model.registry import command, hash_at, integer, sorted_set_at
from redlock_cluster.testing.model.replies import SYNTAX, CommandError, Pairs, Reply

__all__: list[str] = []

_FLAGS = (b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR")


def _number(word: bytes, complaint: bytes) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if math.isnan(number) or b"_" in word or word != word.strip():
        raise CommandError(complaint)
    return number


def _flagged(words: list[bytes]) -> tuple[set[bytes], list[bytes]]:
    """ZADD's flags, and the scores and members behind them."""
    flags, rest = set[bytes](), list(words)
    while rest and rest[0].upper() in _FLAGS:
        flags.add(rest.pop(0).upper())
    if not rest or len(rest) % 2:
        raise CommandError(SYNTAX)
    if {b"NX", b"XX"} <= flags:
        raise CommandError(b"ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"NX", b"GT", b"LT"}) > 1:
        raise CommandError(b"ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in flags:
        raise NotImplementedError("the model server has no ZADD … INCR")
    return flags, rest


@command("ZADD", -4, writes=True, grows=True)
def _zadd(core: Core, session: Session, words: list[bytes]) -> Reply:
    flags, rest = _flagged(words[2:])
    scores = [_number(word, b"ERR value is not a valid float") for word in rest[::2]]
    database = core.database(session)
    members = sorted_set_at(core, session, words[1])
    found = members is not None
    members = members or SortedSet()
    added, moved = _merge(members, zip(rest[1::2], scores, strict=True), flags)
    if found and (added or moved):
        database.changed(words[1])
    elif added:
        database.put(words[1], members)
    return added + moved if b"CH" in flags else added


def _merge(members: SortedSet, pairs: Iterable[tuple[bytes, float]], flags: set[bytes]) -> tuple[int, int]:
    """Adds and moves members as the flags allow; how many were added and how many moved."""
    added = moved = 0
    for member, score in pairs:
        before = members.scores.get(member)
        if before is None:
            if b"XX" not in flags:
                members.set(member, score)
                added += 1
        elif before != score and b"NX" not in flags:
            if (b"GT" in flags and score < before) or (b"LT" in flags and score > before):
                continue
            members.set(member, score)
            moved += 1
    return added, moved


@command("ZREM", -3, writes=True)
def _zrem(core: Core, session: Session, words: list[bytes]) -> Reply:
    members = sorted_set_at(core, session, words[1])
    if members is None:
        return 0
    removed = sum(members.discard(member) for member in words[2:])
    if removed:
        core.database(session).changed(words[1])
    return removed


@command("ZSCORE", 3, reads=True)
def _zscore(core: Core, session: Session, words: list[bytes]) -> Reply:
    members = sorted_set_at(core, session, words[1])
    return None if members is None else members.scores.get(words[2])


@command("ZCARD", 2, reads=True)
def _zcard(core: Core, session: Session, words: list[bytes]) -> Reply:
    return len(sorted_set_at(core, session, words[1]) or ())


@command("ZRANK", 3, reads=True)
def _zrank(core: Core, session: Session, words: list[bytes]) -> Reply:
    members = sorted_set_at(core, session, words[1])
    score = None if members is None else members.scores.get(words[2])
    return None if members is None or score is None else members.rank(score, words[2])


@command("ZRANGE", -4, reads=True)
def _zrange(core: Core, session: Session, words: list[bytes]) -> Reply:
    if [word.upper() for word in words[4:]] not in ([], [b"WITHSCORES"]):
        raise NotImplementedError("of the options of ZRANGE the model server has WITHSCORES only")
    start, stop = integer(words[2]), integer(words[3])
    members = sorted_set_at(core, session, words[1])
    if members is None:
        return []
    size = len(members)
    start = max(start + size, 0) if start < 0 else start
    stop = stop + size if stop < 0 else stop
    return _written(session, members.ordered[start : max(stop + 1, 0)], len(words) > 4)


@command("ZRANGEBYSCORE", -4, reads=True)
def _zrangebyscore(core: Core, session: Session, words: list[bytes]) -> Reply:
    low, high = _bounds(words)
    with_scores, offset, count = _options(words[4:])
    members = sorted_set_at(core, session, words[1])
    if members is None or offset < 0:
        return []
    found = members.ordered[members.between(*low, *high)][offset:]
    return _written(session, found if count < 0 else found[:count], with_scores)


def _options(words: list[bytes]) -> tuple[bool, int, int]:
    """Of `[WITHSCORES] [LIMIT offset count]`: whether scores are wanted, the offset, the count (-1: all)."""
    with_scores, offset, count = False, 0, -1
    rest = list(words)
    while rest:
        name = rest.pop(0).upper()
        if name == b"WITHSCORES":
            with_scores = True
        elif name == b"LIMIT" and len(rest) >= 2:
            offset, count = integer(rest.pop(0)), integer(rest.pop(0))
        else:
            raise CommandError(SYNTAX)
    return with_scores, offset, count


@command("ZCOUNT", 4, reads=True)
def _zcount(core: Core, session: Session, words: list[bytes]) -> Reply:
    low, high = _bounds(words)
    members = sorted_set_at(core, session, words[1])
    return 0 if members is None else len(members.ordered[members.between(*low, *high)])


@command("ZREMRANGEBYSCORE", 4, writes=True)
def _zremrangebyscore(core: Core, session: Session, words: list[bytes]) -> Reply:
    low, high = _bounds(words)
    members = sorted_set_at(core, session, words[1])
    if members is None:
        return 0
    removed = members.ordered[members.between(*low, *high)]
    for _, member in removed:
        members.discard(member)
    if removed:
        core.database(session).changed(words[1])
    return len(removed)


def _bounds(words: list[bytes]) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """Two scores such as `1`, `(1` or `-inf`, and whether each itself is left out."""
    complaint = b"ERR min or max is not a float"
    low, high = ((_number(word.removeprefix(b"("), complaint), word.startswith(b"(")) for word in words[2:4])
    return low, high


def _written(session: Session, found: list[tuple[float, bytes]], with_scores: bool) -> Reply:
    """Members, or members and scores: in RESP3 as pairs, in RESP2 one after the other."""
    if not with_scores:
        return [member for _, member in found]
    if session.resp == 3 and session.declared is None:
        return [[member, score] for score, member in found]
    return [part for score, member in found for part in (member, score)]


@command("HSET", -4, writes=True, grows=True)
def _hset(core: Core, session: Session, words: list[bytes]) -> Reply:
    if len(words) % 2:
        raise CommandError(b"ERR wrong number of arguments for 'hset' command")
    fields = hash_at(core, session, words[1])
    found = fields is not None
    fields = Hash() if fields is None else fields
    before = len(fields)
    fields.update(zip(words[2::2], words[3::2], strict=True))
    if found:
        core.database(session).changed(words[1])
    else:
        core.database(session).put(words[1], fields)
    return len(fields) - before


@command("HGET", 3, reads=True)
def _hget(core: Core, session: Session, words: list[bytes]) -> Reply:
    return (hash_at(core, session, words[1]) or Hash()).get(words[2])


@command("HGETALL", 2, reads=True)
def _hgetall(core: Core, session: Session, words: list[bytes]) -> Reply:
    fields = hash_at(core, session, words[1]) or Hash()
    return Pairs(part for item in fields.items() for part in item)


@command("HDEL", -3, writes=True)
def _hdel(core: Core, session: Session, words: list[bytes]) -> Reply:
    fields = hash_at(core, session, words[1])
    if fields is None:
        return 0
    removed = sum(fields.pop(field, None) is not None for field in words[2:])
    if removed:
        core.database(session).changed(words[1])
    return removed


@command("HLEN", 2, reads=True)
def _hlen(core: Core, session: Session, words: list[bytes]) -> Reply:
    return len(hash_at(core, session, words[1]) or ())
