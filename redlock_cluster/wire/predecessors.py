"""Connections that are over here but perhaps not on the server.

What was in flight on a broken connection may still be executed, even after what is sent on its successor. So the
successor first has the server kill the old connection, by its client id; the server executes one connection's commands
in order. A client id means something only together with the run id of the server process that gave it.
"""

from __future__ import annotations

import logging
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.text import cut
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.handshake import Facts

__all__ = ["Predecessors"]

_log = logging.getLogger(__name__)

_MOST: Final = 100  # of a server that hangs up again and again; older ones count as not killable


class Predecessors:
    """The earlier connections of one keeper that the server may still know.

    may_still_land: whether what was in flight on one of them can't be excluded to be executed even now: the server
    refused to kill it, or its id is not known
    """

    __slots__ = ("_alive", "_name", "_unknown", "may_still_land")

    def __init__(self, name: str) -> None:
        self._name = name
        self._alive: dict[int, str] = {}  # client id -> run id
        self._unknown = self.may_still_land = False

    def add(self, facts: Facts | None) -> None:
        """A connection of which this was known has broken."""
        if facts is None or facts.client_id is None or not facts.run_id:
            self._unknown = True
            return
        self._alive[facts.client_id] = facts.run_id
        if len(self._alive) > _MOST:
            del self._alive[next(iter(self._alive))]
            self._unknown = True

    def kill(self, connection: Connection, facts: Facts) -> None:
        """Queue the kills on a new connection, before anything else."""
        self.may_still_land = self._unknown
        for client_id, run_id in list(self._alive.items()):
            if run_id == facts.run_id:
                connection.send(pack_command((b"CLIENT", b"KILL", b"ID", client_id)), _Kill(self, client_id))
            elif facts.run_id:
                del self._alive[client_id]  # it died with that run, and the id may be somebody else's now

    def killed(self, client_id: int, refusal: str | None) -> None:
        """The server killed one, did not find it, or refuses to."""
        self._alive.pop(client_id, None)
        if refusal is not None:
            self.may_still_land = True
            _log.warning(
                "%s refused CLIENT KILL (%s): what is in flight there is released once more",
                cut(self._name),
                refusal,
            )


class _Kill:
    """Hears whether one was killed; until then every successor tries again."""

    __slots__ = ("_client_id", "_predecessors")

    def __init__(self, predecessors: Predecessors, client_id: int) -> None:
        self._predecessors, self._client_id = predecessors, client_id

    def reply(self, connection: Connection, value: object) -> None:
        self._predecessors.killed(self._client_id, value.text if isinstance(value, ErrorReply) else None)

    def lost(self, connection: Connection) -> None:
        pass
