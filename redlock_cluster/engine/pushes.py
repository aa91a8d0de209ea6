"""How a server is asked to push once when a key changes: it tracks what is read behind `CLIENT CACHING YES`."""

from __future__ import annotations

from typing import Final

from hiredis import pack_command

from redlock_cluster.wire.connection import Connection, Sink

__all__ = ["push_when_changed"]

_CACHING: Final = pack_command((b"CLIENT", b"CACHING", b"YES"))


class _Ignored:
    """A reply that says nothing."""

    __slots__ = ()

    def reply(self, connection: Connection, value: object) -> None:
        pass

    def lost(self, connection: Connection) -> None:
        pass


_IGNORED: Final = _Ignored()


def push_when_changed(connection: Connection, read: bytes, sink: Sink) -> None:
    """Read a key, and have the server push once when it changes. Another command in between would lose that.

    read: the packed command
    sink: hears its reply
    """
    connection.send(_CACHING, _IGNORED)
    connection.send(read, sink)
