"""Commands on keys of any type: existence, deletion, expiry, iteration, flushing."""

from __future__ import annotations

import re
from binascii import crc32
from functools import lru_cache

from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.keyspace import type_name
from redlock_cluster.testing.model.registry import command, integer
from redlock_cluster.testing.model.replies import OK, SYNTAX, CommandError, Reply, Status
from redlock_cluster.testing.model.strings import absolute

__all__: list[str] = []


@command("DEL", -2, writes=True, all_keys=True)
@command("UNLINK", -2, writes=True, all_keys=True)
def _del(core: Core, session: Session, words: list[bytes]) -> Reply:
    database = core.database(session)
    return sum(database.get(key) is not None and database.delete(key) for key in words[1:])


@command("EXISTS", -2, reads=True, all_keys=True)
def _exists(core: Core, session: Session, words: list[bytes]) -> Reply:
    database = core.database(session)
    return sum(database.get(key) is not None for key in words[1:])


@command("TYPE", 2, reads=True)
def _type(core: Core, session: Session, words: list[bytes]) -> Reply:
    return Status(type_name(core.database(session).get(words[1])))


def _remaining_ms(core: Core, session: Session, key: bytes) -> int:
    """What PTTL answers: -2 for no key, -1 for a key that stays."""
    database = core.database(session)
    if database.get(key) is None:
        return -2
    end = database.end(key)
    return -1 if end is None else end - core.now_ms


@command("PTTL", 2, reads=True)
def _pttl(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _remaining_ms(core, session, words[1])


@command("TTL", 2, reads=True)
def _ttl(core: Core, session: Session, words: list[bytes]) -> Reply:
    remaining = _remaining_ms(core, session, words[1])
    return remaining if remaining < 0 else (remaining + 500) // 1000


@command("PERSIST", 2, writes=True)
def _persist(core: Core, session: Session, words: list[bytes]) -> Reply:
    database = core.database(session)
    if database.get(words[1]) is None or database.end(words[1]) is None:
        return 0
    database.expire(words[1], None)
    return 1


def _expiry(core: Core, session: Session, words: list[bytes], unit: bytes) -> int:
    """Sets when a key expires; one that is past deletes it."""
    if len(words) > 3 and not core.version.since_7:
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % words[0].lower())
    flags = _flags(words[3:])
    end = absolute(core, words[0].lower(), unit, words[2], positive=False)
    database = core.database(session)
    if database.get(words[1]) is None:
        return 0
    before = database.end(words[1])
    if not _wanted(flags, before, end):
        return 0
    if end <= core.now_ms:
        database.delete(words[1])
    else:
        database.expire(words[1], end)
    return 1


def _flags(words: list[bytes]) -> set[bytes]:
    flags = set()
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(b"ERR Unsupported option " + word)
        flags.add(word.upper())
    if b"NX" in flags and len(flags) > 1:
        raise CommandError(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= flags:
        raise CommandError(b"ERR GT and LT options at the same time are not compatible")
    return flags


def _wanted(flags: set[bytes], before: int | None, end: int) -> bool:
    """Whether the flags allow the new expiry; a key that stays counts as one that expires last."""
    if (b"NX" in flags and before is not None) or (b"XX" in flags and before is None):
        return False
    if b"GT" in flags:
        return before is not None and end > before
    return not (b"LT" in flags and before is not None and end >= before)


@command("PEXPIRE", -3, writes=True)
def _pexpire(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _expiry(core, session, words, b"PX")


@command("EXPIRE", -3, writes=True)
def _expire(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _expiry(core, session, words, b"EX")


@command("PEXPIREAT", -3, writes=True)
def _pexpireat(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _expiry(core, session, words, b"PXAT")


@command("EXPIREAT", -3, writes=True)
def _expireat(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _expiry(core, session, words, b"EXAT")


@command("SCAN", -2)
def _scan(core: Core, session: Session, words: list[bytes]) -> Reply:
    """A cursor is the hash at which the next page begins, so keys that stay are seen whatever comes and goes."""
    cursor = _cursor(words[1])
    count, pattern, kind = _scan_options(words[2:])
    found = sorted((crc32(key) + 1, key, value) for key, value in core.database(session).items())
    page = [item for item in found if item[0] >= cursor]
    end = next((item[0] for item in page[count:] if item[0] > page[count - 1][0]), 0)
    taken = [item for item in page if not end or item[0] < end]
    return [b"%d" % end, [key for _, key, value in taken if pattern.fullmatch(key) and kind in (b"", type_name(value))]]


def _cursor(word: bytes) -> int:
    if not word.isdigit():
        raise CommandError(b"ERR invalid cursor")
    return int(word)


def _scan_options(words: list[bytes]) -> tuple[int, re.Pattern[bytes], bytes]:
    """Of `[MATCH pattern] [COUNT count] [TYPE type]`: the count, the pattern, the type."""
    count, pattern, kind, rest = 10, b"*", b"", list(words)
    while rest:
        name = rest.pop(0).upper()
        if name not in (b"MATCH", b"COUNT", b"TYPE") or not rest:
            raise CommandError(SYNTAX)
        word = rest.pop(0)
        if name == b"COUNT":
            count = integer(word)
            if count < 1:
                raise CommandError(SYNTAX)
        elif name == b"MATCH":
            pattern = word
        else:
            kind = word.lower()
    return count, _glob(pattern), kind


@lru_cache(maxsize=64)
def _glob(pattern: bytes) -> re.Pattern[bytes]:
    """A pattern with `*`, `?`, `[a-z]`, `[^a-z]` and backslashes before what stands for itself, as servers match it."""
    parts = re.findall(rb"\\(?s:.)|\[(?:\\(?s:.)|[^\]\\])*\]?|(?s:.)", pattern)
    return re.compile(b"".join(map(_glob_part, parts)), re.DOTALL)


def _glob_part(part: bytes) -> bytes:
    if part == b"*":
        return b".*"
    if part == b"?":
        return b"."
    if part.startswith(b"[") and len(part) > 1:
        negated, inside = part[1:2] == b"^", part[1:].removeprefix(b"^").removesuffix(b"]")
        items = re.findall(rb"((?:\\)?(?s:.))(?:-((?:\\)?(?s:.)))?", inside)
        ranges = [sorted((low[-1:], (high or low)[-1:])) for low, high in items]
        inner = b"".join(re.escape(low) + b"-" + re.escape(high) for low, high in ranges)
        return b"[" + (b"^" if negated else b"") + inner + b"]" if inner else (b"." if negated else b"(?!)")
    return re.escape(part[-1:])


@command("DBSIZE", 1)
def _dbsize(core: Core, session: Session, words: list[bytes]) -> Reply:
    return len(core.database(session))


@command("FLUSHALL", -1, writes=True)
def _flushall(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _flush(core, session, range(len(core.databases)), words[1:])


@command("FLUSHDB", -1, writes=True)
def _flushdb(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _flush(core, session, range(session.database, session.database + 1), words[1:])


def _flush(core: Core, session: Session, which: range, modes: list[bytes]) -> Reply:
    mode = modes[0].upper() if modes else b"SYNC"
    if len(modes) > 1 or mode not in (b"SYNC", b"ASYNC"):
        raise CommandError(SYNTAX)
    for index in which:
        core.databases[index].clear()
    by_script = session.declared is not None
    core.everything_changed(before_reply=core.version.flushes_first and mode == b"SYNC" and not by_script)
    return OK


@command("TIME", 1)
def _time(core: Core, session: Session, words: list[bytes]) -> Reply:
    seconds, microseconds = divmod(core.now_us, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]
