"""Commands on the connection and on the server itself: HELLO, AUTH, CLIENT, INFO and the like."""

from __future__ import annotations

from redlock_cluster.testing.model.clients import checked
from redlock_cluster.testing.model.core import DATABASES, Core, Session
from redlock_cluster.testing.model.registry import command, integer
from redlock_cluster.testing.model.replies import OK, PONG, SYNTAX, CommandError, Pairs, Reply, Status, Verbatim
from redlock_cluster.testing.model.versions import ModelVersion

__all__ = ["NO_AUTH", "before_auth"]

NO_AUTH = b"NOAUTH Authentication required."
_NO_AUTH_HELLO = (
    b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO %bAUTH <user> "
    b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
)
_WRONG_PASS = b"WRONGPASS invalid username-password pair or user is disabled."
_NO_PASSWORD = (
    b"ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?"
)


def before_auth(version: ModelVersion, name: bytes) -> bool:
    """Whether a client that has not authenticated may send this command."""
    name = name.upper()
    return name in (b"AUTH", b"HELLO", b"QUIT") or (name == b"RESET" and version.since_7)


def _authenticate(core: Core, session: Session, user: bytes, password: bytes) -> None:
    if user != b"default" or core.password not in (None, password):
        raise CommandError(_WRONG_PASS)
    session.authenticated = True


def _protocol(word: bytes) -> int:
    try:
        resp = integer(word)
    except CommandError:
        raise CommandError(b"ERR Protocol version is not an integer or out of range") from None
    if resp not in (2, 3):
        raise CommandError(b"NOPROTO unsupported protocol version")
    return resp


@command("HELLO", -1, scriptable=False)
def _hello(core: Core, session: Session, words: list[bytes]) -> Reply:
    resp = _protocol(words[1]) if len(words) > 1 else session.resp
    name = None
    rest = words[2:]
    while rest:
        option = rest.pop(0)
        if option.upper() == b"AUTH" and len(rest) >= 2:
            _authenticate(core, session, rest.pop(0), rest.pop(0))
        elif option.upper() == b"SETNAME" and rest:
            name = checked(b"Client names", rest.pop(0))
        else:
            raise CommandError(b"ERR Syntax error in HELLO option '%b'" % option)
    if not session.authenticated:
        raise CommandError(_NO_AUTH_HELLO % (b"<proto> " if core.version.since_7_2 else b""))
    session.name = session.name if name is None else name
    session.resp = resp
    facts: list[tuple[bytes, Reply]] = [
        (b"server", core.version.family.encode()),
        (b"version", core.version.text.encode()),
        (b"proto", resp),
        (b"id", session.id),
        (b"mode", b"standalone"),
        (b"role", b"replica" if core.replica else b"master"),
        (b"modules", []),
    ]
    return Pairs(part for fact in facts for part in fact)


@command("AUTH", -2, scriptable=False)
def _auth(core: Core, session: Session, words: list[bytes]) -> Reply:
    if len(words) > 3:
        raise CommandError(SYNTAX)
    if len(words) == 2 and core.password is None:
        raise CommandError(_NO_PASSWORD)
    _authenticate(core, session, *([b"default"] if len(words) == 2 else []), *words[1:])
    return OK


@command("SELECT", 2)
def _select(core: Core, session: Session, words: list[bytes]) -> Reply:
    index = integer(words[1])
    if not 0 <= index < DATABASES:
        raise CommandError(b"ERR DB index is out of range")
    session.database = index
    return OK


@command("RESET", 1, scriptable=False, subscribed=True)
def _reset(core: Core, session: Session, words: list[bytes]) -> Reply:
    for channel in list(session.channels):
        core.unsubscribe(session, channel)
    session.tracking = session.optin = session.optout = session.noloop = session.caching = False
    session.authenticated = core.password is None
    session.resp, session.database, session.name = 2, 0, b""
    return Status(b"RESET")


@command("QUIT", -1, scriptable=False, subscribed=True)
def _quit(core: Core, session: Session, words: list[bytes]) -> Reply:
    core.drop(session)
    session.killed()
    return OK


@command("PING", -1, subscribed=True)
def _ping(core: Core, session: Session, words: list[bytes]) -> Reply:
    if len(words) > 2:
        raise CommandError(b"ERR wrong number of arguments for 'ping' command")
    if session.resp == 2 and session.channels:
        return [b"pong", *(words[1:] or [b""])]
    return words[1] if len(words) == 2 else PONG


@command("INFO", -1)
def _info(core: Core, session: Session, words: list[bytes]) -> Reply:
    wanted = {word.lower() for word in words[1:]} or {b"default"}
    everything = bool(wanted & {b"default", b"all", b"everything"})
    sections = [
        b"# %b\r\n" % name.capitalize() + b"".join(b"%b:%b\r\n" % fact for fact in facts)
        for name, facts in _sections(core).items()
        if everything or name in wanted
    ]
    return Verbatim(b"\r\n".join(sections))


def _sections(core: Core) -> dict[bytes, list[tuple[bytes, bytes]]]:
    number = core.version.text.encode()
    if core.version.valkey:
        version = [(b"redis_version", b"7.2.4"), (b"server_name", b"valkey"), (b"valkey_version", number)]
        version.append((b"server_mode", b"standalone"))
    else:
        version = [(b"redis_version", number), (b"redis_mode", b"standalone")]
    uptime = b"%d" % ((core.now_us - core.started_us) // 1_000_000)
    return {
        b"server": [*version, (b"run_id", core.run_id.encode()), (b"uptime_in_seconds", uptime)],
        b"clients": [(b"connected_clients", b"%d" % len(core.sessions))],
        b"memory": [(name, core.config[name.replace(b"_", b"-")]) for name in (b"maxmemory", b"maxmemory_policy")],
        b"persistence": [
            (b"loading", b"0"),
            (b"aof_enabled", b"%d" % (core.config[b"appendonly"] == b"yes")),
        ],
        b"replication": [(b"role", b"slave" if core.replica else b"master"), (b"connected_slaves", b"0")],
    }


@command("CONFIG|GET", 3, scriptable=False)
def _config_get(core: Core, session: Session, words: list[bytes]) -> Reply:
    name = words[2].lower()
    shown = words[2] if core.version.since_7 else name
    return Pairs([shown, core.config[name]] if name in core.config else [])


@command("CONFIG|SET", -4, scriptable=False, known=lambda version: version.since_7)
@command("CONFIG|SET", 4, scriptable=False, known=lambda version: not version.since_7)
def _config_set(core: Core, session: Session, words: list[bytes]) -> Reply:
    name = words[2].lower()
    if len(words) != 4 or not (name == b"maxmemory-policy" or (name == b"maxmemory" and words[3].isdigit())):
        raise NotImplementedError("of CONFIG SET the model server has maxmemory in bytes, and its policy")
    core.config[name] = words[3]
    return OK
