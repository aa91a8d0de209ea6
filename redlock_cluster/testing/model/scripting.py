"""EVAL, EVALSHA and SCRIPT: what is done before and after a script runs."""

from __future__ import annotations

import hashlib

from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.lua import CompileError, ScriptFailed, ScriptFault, interpreter
from redlock_cluster.testing.model.registry import command, find, integer
from redlock_cluster.testing.model.replies import OK, CommandError, Failure, Reply
from redlock_cluster.testing.model.wording import ARITY, FORBIDDEN, NO_WORDS, UNKNOWN

__all__: list[str] = []


@command("EVAL", -3, scriptable=False)
def _eval(core: Core, session: Session, words: list[bytes]) -> Reply:
    source = words[1]
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    keys, arguments = _split(words)
    _load(core, sha, source)
    return _run(core, session, sha, keys, arguments)


@command("EVALSHA", -3, scriptable=False)
def _evalsha(core: Core, session: Session, words: list[bytes]) -> Reply:
    keys, arguments = _split(words)
    sha = words[1] if words[1] in core.scripts else words[1].lower()
    if sha not in core.scripts:
        advice = b"" if core.version.valkey else b" Please use EVAL."
        raise CommandError(b"NOSCRIPT No matching script." + advice)
    return _run(core, session, sha, keys, arguments)


@command("SCRIPT|LOAD", 3, scriptable=False)
def _script_load(core: Core, session: Session, words: list[bytes]) -> Reply:
    sha = hashlib.sha1(words[2], usedforsecurity=False).hexdigest().encode()
    _load(core, sha, words[2])
    return sha


@command("SCRIPT|EXISTS", -3, scriptable=False, known=lambda version: version.since_7)
@command("SCRIPT|EXISTS", -2, scriptable=False, known=lambda version: not version.since_7)
def _script_exists(core: Core, session: Session, words: list[bytes]) -> Reply:
    return [int(word.lower() in core.scripts) for word in words[2:]]


@command("SCRIPT|FLUSH", -2, scriptable=False)
def _script_flush(core: Core, session: Session, words: list[bytes]) -> Reply:
    if len(words) > 3 or (len(words) == 3 and words[2].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError(b"ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    core.scripts.clear()
    return OK


def _split(words: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """KEYS and ARGV of `EVAL script numkeys key … argument …`."""
    number = integer(words[2])
    if number > len(words) - 3:
        raise CommandError(b"ERR Number of keys can't be greater than number of args")
    if number < 0:
        raise CommandError(b"ERR Number of keys can't be negative")
    return words[3 : 3 + number], words[3 + number :]


def _load(core: Core, sha: bytes, source: bytes) -> None:
    if sha in core.scripts:
        return
    try:
        interpreter(core.version).compile(sha, source)
    except CompileError as error:
        raise CommandError(b"ERR Error compiling script (new function): " + error.text) from None
    core.scripts[sha] = source


def _run(core: Core, session: Session, sha: bytes, keys: list[bytes], arguments: list[bytes]) -> Reply:
    database = session.database
    session.declared, session.wrote = keys, False
    try:
        return interpreter(core.version).run(sha, keys, arguments, lambda words: _perform(core, session, words))
    except ScriptFailed as failed:
        raise CommandError(_failure(core, sha, failed)) from None
    finally:
        session.declared = None
        session.database = database


def _failure(core: Core, sha: bytes, failed: ScriptFailed) -> bytes:
    """The error that ended a script, in the words of the version."""
    if not core.version.since_7:
        return b"ERR Error running script (call to f_%b): %b" % (sha, failed.text)
    where = b"" if core.version.valkey else b"%b, " % sha
    return b"%b script: %bon @user_script:%d." % (failed.text, where, failed.line)


def _perform(core: Core, session: Session, words: list[bytes]) -> Reply:
    """Runs a command for a script."""
    if not words:
        raise ScriptFault(NO_WORDS.of(core.version))
    try:
        found = find(core, words)
    except CommandError as error:
        if core.version.valkey and error.text.startswith(b"ERR unknown subcommand"):
            raise ScriptFault(error.text) from None
        wording = ARITY if b"wrong number" in error.text else UNKNOWN
        raise ScriptFault(wording.of(core.version)) from None
    if not found.scriptable:
        raise ScriptFault(FORBIDDEN.of(core.version))
    refusal = core.refusal(found, session.wrote)
    if refusal is not None:
        raise ScriptFault(refusal if core.version.since_7 else b"-" + refusal)
    session.wrote = session.wrote or found.writes
    try:
        return found.run(core, session, words)
    except CommandError as error:
        return Failure(error.text)
    finally:
        if found.reads and session.tracking:
            declared = session.declared or []
            core.remember(session, found.keys(words) if core.version.since_7_2 else declared)
