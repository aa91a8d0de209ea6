"""Commands on strings: SET with its options, GET, INCR, and deletion if a value is equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.registry import command, integer, string_at
from redlock_cluster.testing.model.replies import OK, SYNTAX, CommandError, Reply

__all__ = ["absolute"]

_HIGHEST: Final = 2**63 - 1
_EXPIRIES: Final = (b"EX", b"PX", b"EXAT", b"PXAT")
_OTHER_CONDITIONS: Final = (b"IFNE", b"IFDEQ", b"IFDNE")


@dataclass(slots=True)
class _Options:
    """What follows `SET key value`.

    condition: NX, XX or IFEQ
    expected: what IFEQ compares with
    """

    condition: bytes = b""
    expected: bytes = b""
    get: bool = False
    unit: bytes = b""
    amount: bytes = b""


def _options(core: Core, words: list[bytes]) -> _Options:
    options = _Options()
    rest = iter(words[3:])
    for word in rest:
        name = word.upper()
        if name in (b"NX", b"XX") and options.condition in (b"", name):
            options.condition = name
        elif name == b"GET":
            options.get = True
        elif name in (b"KEEPTTL", *_EXPIRIES) and options.unit in (b"", name):
            options.unit = name
            options.amount = b"" if name == b"KEEPTTL" else _argument(next(rest, None))
        else:
            _compare(core, options, name, next(rest, None))
    if options.get and options.condition == b"NX" and not core.version.names_holder:
        raise CommandError(SYNTAX)
    return options


def _compare(core: Core, options: _Options, name: bytes, expected: bytes | None) -> None:
    if name in _OTHER_CONDITIONS and core.version.deletes_if_equal == "DELEX":
        raise NotImplementedError(f"the model server has no SET … {name.decode()}")
    if name != b"IFEQ" or not core.version.sets_if_equal or options.condition:
        raise CommandError(SYNTAX)
    options.condition = name
    options.expected = _argument(expected)


def _argument(word: bytes | None) -> bytes:
    if word is None:
        raise CommandError(SYNTAX)
    return word


def absolute(core: Core, name: bytes, unit: bytes, amount: bytes, positive: bool) -> int:
    """When a key is to expire, milliseconds.

    name: the command, for errors
    unit: EX, PX, EXAT or PXAT
    amount: of that unit, as written
    positive: whether 0 and less are refused
    """
    number = integer(amount)
    wrong = positive and number <= 0
    if unit in (b"EX", b"EXAT"):
        number *= 1000
    wrong = wrong or not -_HIGHEST - 1 <= number <= _HIGHEST
    if unit in (b"EX", b"PX"):
        number += core.now_ms
    if wrong or number > _HIGHEST:
        quoted = b"'%b' command" % name if core.version.since_7 else name
        raise CommandError(b"ERR invalid expire time in " + quoted)
    return number


def _refused(options: _Options, old: object) -> bool:
    match options.condition:
        case b"NX":
            return old is not None
        case b"XX":
            return old is None
        case b"IFEQ":
            return old != options.expected
        case _:
            return False


@command("SET", -3, writes=True, grows=True)
def _set(core: Core, session: Session, words: list[bytes]) -> Reply:
    database = core.databases[session.database]
    key, value = words[1], words[2]
    options = _options(core, words)
    end = None
    if options.amount or options.unit in _EXPIRIES:
        end = absolute(core, b"set", options.unit, options.amount, positive=True)
    old = database.get(key)
    if options.get or options.condition == b"IFEQ":
        old = string_at(core, session, key)
    refused = _refused(options, old)
    if not refused and end is not None and end <= core.now_ms and core.version.sets_no_past:
        database.delete(key)
    elif not refused:
        database.put(key, value, database.end(key) if options.unit == b"KEEPTTL" else end)
    if options.get:
        return old if isinstance(old, bytes) else None
    return None if refused else OK


@command("GET", 2, reads=True)
def _get(core: Core, session: Session, words: list[bytes]) -> Reply:
    return string_at(core, session, words[1])


@command("MGET", -2, reads=True, all_keys=True)
def _mget(core: Core, session: Session, words: list[bytes]) -> Reply:
    values = [core.database(session).get(key) for key in words[1:]]
    return [value if isinstance(value, bytes) else None for value in values]


@command("DELIFEQ", 3, writes=True, known=lambda version: version.deletes_if_equal == "DELIFEQ")
def _delifeq(core: Core, session: Session, words: list[bytes]) -> Reply:
    if string_at(core, session, words[1]) != words[2]:
        return 0
    return int(core.database(session).delete(words[1]))


@command("DELEX", -2, writes=True, known=lambda version: version.deletes_if_equal == "DELEX")
def _delex(core: Core, session: Session, words: list[bytes]) -> Reply:
    database = core.database(session)
    if len(words) == 2:
        database.get(words[1])
        return int(database.delete(words[1]))
    if len(words) != 4:
        raise CommandError(b"ERR wrong number of arguments for 'delex' command")
    condition = words[2].upper()
    if condition in _OTHER_CONDITIONS:
        raise NotImplementedError(f"the model server has no DELEX … {condition.decode()}")
    value = database.get(words[1])
    if value is None:
        return 0
    if not isinstance(value, bytes):
        raise CommandError(b"ERR Key should be of string type if conditions are specified")
    if condition != b"IFEQ":
        raise CommandError(b"ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE")
    return int(value == words[3] and database.delete(words[1]))


@command("INCR", 2, writes=True, grows=True)
def _incr(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _increased(core, session, words[1], 1)


@command("INCRBY", 3, writes=True, grows=True)
def _incrby(core: Core, session: Session, words: list[bytes]) -> Reply:
    return _increased(core, session, words[1], integer(words[2]))


def _increased(core: Core, session: Session, key: bytes, step: int) -> int:
    database = core.database(session)
    before = string_at(core, session, key)
    number = integer(b"0" if before is None else before) + step
    if not -_HIGHEST - 1 <= number <= _HIGHEST:
        raise CommandError(b"ERR increment or decrement would overflow")
    database.put(key, b"%d" % number, database.end(key))
    return number
