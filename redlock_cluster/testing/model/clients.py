"""The subcommands of CLIENT: names, tracking, and closing somebody's connection."""

from __future__ import annotations

from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.registry import command, integer
from redlock_cluster.testing.model.replies import OK, SYNTAX, CommandError, Reply

__all__ = ["checked"]

_NOT_TRACKING = (
    b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
)
_SWITCHED = (
    b"ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, "
    b"and then re-enabling it with a different mode."
)


def checked(what: bytes, text: bytes) -> bytes:
    """Returns a text that has no spaces. Raises CommandError for any other.

    what: its name in the error
    """
    if any(not 33 <= byte <= 126 for byte in text):
        raise CommandError(b"ERR %b cannot contain spaces, newlines or special characters." % what)
    return text


@command("CLIENT|ID", 2, scriptable=False)
def _id(core: Core, session: Session, words: list[bytes]) -> Reply:
    return session.id


@command("CLIENT|SETNAME", 3, scriptable=False)
def _setname(core: Core, session: Session, words: list[bytes]) -> Reply:
    session.name = checked(b"Client names", words[2])
    return OK


@command("CLIENT|GETNAME", 2, scriptable=False)
def _getname(core: Core, session: Session, words: list[bytes]) -> Reply:
    return session.name or None


@command("CLIENT|SETINFO", 4, scriptable=False, known=lambda version: version.since_7_2)
def _setinfo(core: Core, session: Session, words: list[bytes]) -> Reply:
    option = words[2].upper()
    if option not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(b"ERR Unrecognized option '%b'" % words[2])
    checked(words[2], words[3])
    return OK


@command("CLIENT|KILL", -3, scriptable=False, known=lambda version: version.since_7)
@command("CLIENT|KILL", -2, scriptable=False, known=lambda version: not version.since_7)
def _kill(core: Core, session: Session, words: list[bytes]) -> Reply:
    if len(words) == 3:
        raise CommandError(b"ERR No such client")
    if len(words) % 2 or len(words) == 2:
        raise CommandError(SYNTAX)
    number, own_too = 0, False
    for name, value in zip(words[2::2], words[3::2], strict=True):
        if name.upper() == b"ID":
            number = _client_id(core, value)
        elif name.upper() == b"SKIPME" and value.upper() in (b"YES", b"NO"):
            own_too = value.upper() == b"NO"
        else:
            raise NotImplementedError("of the filters of CLIENT KILL the model server has ID and SKIPME only")
    victim = core.sessions.get(number)
    if victim is None or (victim is session and not own_too):
        return 0
    core.drop(victim)
    victim.killed()
    return 1


def _client_id(core: Core, word: bytes) -> int:
    """A client's number for CLIENT KILL. Raises CommandError in the words of the version."""
    if not core.version.since_7:
        if integer(word) == 0:
            raise NotImplementedError("CLIENT KILL ID 0 ended every connection before Redis 7")
        return integer(word)
    try:
        number = integer(word)
    except CommandError:
        if core.version.valkey:
            raise CommandError(SYNTAX) from None
        number = 0
    if number <= 0:
        raise CommandError(b"ERR client-id should be greater than 0")
    return number


@command("CLIENT|TRACKING", -3, scriptable=False)
def _tracking(core: Core, session: Session, words: list[bytes]) -> Reply:
    options = {word.upper() for word in words[3:]}
    if options & {b"BCAST", b"PREFIX", b"REDIRECT"}:
        raise NotImplementedError(
            "of the options of CLIENT TRACKING the model server has OPTIN, OPTOUT and NOLOOP only"
        )
    mode = words[2].upper()
    if options - {b"OPTIN", b"OPTOUT", b"NOLOOP"} or mode not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    if mode == b"ON":
        if {b"OPTIN", b"OPTOUT"} <= options:
            raise CommandError(b"ERR You can't specify both OPTIN mode and OPTOUT mode")
        if (b"OPTIN" in options and session.optout) or (b"OPTOUT" in options and session.optin):
            raise CommandError(_SWITCHED)
    else:
        options.clear()
        session.caching = False
    session.tracking = mode == b"ON"
    session.optin, session.optout, session.noloop = (name in options for name in (b"OPTIN", b"OPTOUT", b"NOLOOP"))
    return OK


@command("CLIENT|CACHING", 3, scriptable=False)
def _caching(core: Core, session: Session, words: list[bytes]) -> Reply:
    if not session.tracking:
        raise CommandError(_NOT_TRACKING)
    given = words[2].upper()
    if given not in (b"YES", b"NO"):
        raise CommandError(SYNTAX)
    if given == b"YES" and not session.optin:
        raise CommandError(b"ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
    if given == b"NO" and not session.optout:
        raise CommandError(b"ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
    session.caching = True
    return OK
