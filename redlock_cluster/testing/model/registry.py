"""The table of commands: the name of each, how many words it has, what it may be used for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from redlock_cluster.testing.model.core import Command, Core, Run, Session, Words
from redlock_cluster.testing.model.keyspace import Hash, SortedSet
from redlock_cluster.testing.model.replies import WRONG_TYPE, CommandError, Reply
from redlock_cluster.testing.model.versions import ModelVersion

__all__ = ["Command", "Run", "command", "commands_of", "find", "hash_at", "integer", "sorted_set_at", "string_at"]

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_CONTAINERS = frozenset((b"CLIENT", b"CONFIG", b"SCRIPT"))
_SHOWN = 128  # bytes of an unknown command that the error repeats


_COMMANDS: list[Command] = []


def command(
    name: str,
    arity: int,
    *,
    reads: bool = False,
    writes: bool = False,
    grows: bool = False,
    all_keys: bool = False,
    scriptable: bool = True,
    subscribed: bool = False,
    known: Callable[[ModelVersion], bool] = lambda version: True,
) -> Callable[[Run], Run]:
    """Adds a function to the table under that name; the arguments are those of `Command`."""

    def register(run: Run) -> Run:
        _COMMANDS.append(
            Command(name.lower().encode(), run, arity, reads, writes, grows, all_keys, scriptable, subscribed, known)
        )
        return run

    return register


@cache
def commands_of(version: ModelVersion) -> dict[tuple[bytes, ...], Command]:
    """The commands that a version has, by upper-case name: one word, or two for a subcommand."""
    return {tuple(item.name.upper().split(b"|")): item for item in _COMMANDS if item.known(version)}


def find(core: Core, words: Words) -> Command:
    """The command of these words. Raises CommandError when the version has none or their number is wrong."""
    found = core.commands.get((words[0],)) or core.commands.get((words[0].upper(),))
    if found is not None:
        if len(words) == found.arity or (found.arity < 0 and len(words) >= -found.arity):
            return found
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % found.name)
    if words[0].upper() in _CONTAINERS:
        return _subcommand(core, words)
    name, quoted = b"'%b', " % words[0][:_SHOWN], b"'%b' "
    if not core.version.since_7:
        name, quoted = b"`%b`, " % words[0], b"`%b`, "
    arguments = b""
    for word in words[1:]:
        if len(arguments) >= _SHOWN:
            break
        arguments += quoted % word[: _SHOWN - len(arguments)]
    raise CommandError(b"ERR unknown command %bwith args beginning with: %b" % (name, arguments))


def _subcommand(core: Core, words: Words) -> Command:
    if len(words) == 1:
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % words[0].lower())
    container = words[0].upper()
    found = core.commands.get((container, words[1].upper()))
    fits = found is not None and (len(words) == found.arity or (found.arity < 0 and len(words) >= -found.arity))
    if found is not None and fits:
        return found
    if not core.version.since_7:
        return Command(container.lower(), _no_subcommand, -2, scriptable=False)
    if found is not None:
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % found.name)
    raise CommandError(b"ERR unknown subcommand '%b'. Try %b HELP." % (words[1][:_SHOWN], container))


def _no_subcommand(core: Core, session: Session, words: Words) -> Reply:
    """What a container answers before Redis 7, where it is one command that looks at its second word itself."""
    text = b"ERR Unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
    raise CommandError(text % (words[1][:_SHOWN], words[0].upper()))


def integer(word: bytes) -> int:
    """A whole number of 64 bits, written as servers write it. Raises CommandError for anything else."""
    try:
        number = int(word)
    except ValueError:
        number = _HIGHEST + 1
    if not _LOWEST <= number <= _HIGHEST or b"%d" % number != word:
        raise CommandError(b"ERR value is not an integer or out of range")
    return number


def string_at(core: Core, session: Session, key: bytes) -> bytes | None:
    """The string at a key. Raises CommandError for a value of another type."""
    value = core.databases[session.database].get(key)
    if value is not None and not isinstance(value, bytes):
        raise CommandError(WRONG_TYPE)
    return value


def sorted_set_at(core: Core, session: Session, key: bytes) -> SortedSet | None:
    """The sorted set at a key. Raises CommandError for a value of another type."""
    value = core.databases[session.database].get(key)
    if value is not None and not isinstance(value, SortedSet):
        raise CommandError(WRONG_TYPE)
    return value


def hash_at(core: Core, session: Session, key: bytes) -> Hash | None:
    """The hash at a key. Raises CommandError for a value of another type."""
    value = core.databases[session.database].get(key)
    if value is not None and not isinstance(value, Hash):
        raise CommandError(WRONG_TYPE)
    return value
