"""The model server and its connections: bytes in the order in which a real server sends them."""

from __future__ import annotations

from collections.abc import Callable

from redlock_cluster.testing.model import clients, containers, generic, pubsub, scripting, session_commands, strings  # noqa: F401
from redlock_cluster.testing.model.core import Core, Session
from redlock_cluster.testing.model.keyspace import Hash, SortedSet
from redlock_cluster.testing.model.registry import Command, commands_of, find
from redlock_cluster.testing.model.replies import CommandError, Failure, Reply, encode
from redlock_cluster.testing.model.versions import VALKEY_9, ModelVersion

__all__ = ["ModelClient", "ModelServer"]

_RUN_ID = "0" * 40


def _nobody() -> None:
    """Does nothing."""


class ModelServer:
    """A server without process or socket that executes commands as the real one of that version does.

    Everything follows from the calls and the clock: no wall clock, no randomness, no threads.

    clock: the server's own seconds, from any origin; it may stand still, jump and run at its own rate
    version: which server it is
    run_id: what INFO shows, 40 hexadecimal digits; by default zeros
    password: what clients must send in AUTH; None: they need not
    """

    def __init__(
        self,
        clock: Callable[[], float],
        version: ModelVersion = VALKEY_9,
        *,
        run_id: str | None = None,
        password: str | None = None,
    ) -> None:
        self._core = Core(clock, version, run_id or _RUN_ID, password, commands_of(version))

    @property
    def version(self) -> ModelVersion:
        """Which server this is."""
        return self._core.version

    @property
    def run_id(self) -> str:
        """What INFO shows of this run."""
        return self._core.run_id

    @property
    def config(self) -> dict[bytes, bytes]:
        """What CONFIG GET answers, by name.

        With a maxmemory below 1 MiB the server is full: it refuses what may need memory. The rest only shows.
        """
        return self._core.config

    @property
    def replica(self) -> bool:
        """Whether it replicates from another server, as a failover makes it: it refuses writes with READONLY."""
        return self._core.replica

    @replica.setter
    def replica(self, replica: bool) -> None:
        self._core.replica = replica

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None] = _nobody) -> ModelClient:
        """Makes a new connection.

        push: gets what the server sends unasked because of others' commands or of time
        killed: called when CLIENT KILL or QUIT closes this connection; by its own command before `execute` returns the
            reply, which is still to be sent
        """
        core = self._core
        core.last_id += 1
        session = Session(core.last_id, push, killed, authenticated=core.password is None)
        core.sessions[session.id] = session
        return ModelClient(core, session)

    def advance(self) -> None:
        """Expires what is due now; the clients that track it get their pushes."""
        self._core.tick()
        for database in self._core.databases:
            database.expire_due()

    def next_expiry(self) -> float | None:
        """The time on the server's clock, seconds, at which the next key has expired; None while no key expires."""
        ends = [end for database in self._core.databases if (end := database.next_end()) is not None]
        return (min(ends) + 1) / 1000 if ends else None

    def crash(self) -> None:
        """Ends all connections and notifies nobody; memory stays."""
        for session in list(self._core.sessions.values()):
            self._core.drop(session)
        self._core.table.clear()

    def restart(self, keep_memory: bool, run_id: str) -> None:
        """Starts a new process: no connections, no scripts, uptime and client numbers from the start.

        keep_memory: the keys stay
        run_id: of the new process
        """
        self.crash()
        core = self._core
        core.tick()
        core.started_us = core.now_us
        core.run_id = run_id
        core.last_id = 0
        core.scripts.clear()
        if not keep_memory:
            for database in core.databases:
                database.clear()

    def keys(self, database: int = 0) -> dict[bytes, bytes]:
        """The unexpired strings of a database: a snapshot that changes nothing."""
        self._core.tick()
        return {key: value for key, value in self._core.databases[database].items() if isinstance(value, bytes)}

    def hashes(self, database: int = 0) -> dict[bytes, dict[bytes, bytes]]:
        """The unexpired hashes of a database: a snapshot that changes nothing."""
        self._core.tick()
        return {key: dict(value) for key, value in self._core.databases[database].items() if isinstance(value, Hash)}

    def sorted_sets(self, database: int = 0) -> dict[bytes, tuple[dict[bytes, float], int | None]]:
        """The unexpired sorted sets of a database: scores by member, and when the key expires, milliseconds.

        A snapshot that changes nothing.
        """
        self._core.tick()
        keyspace = self._core.databases[database]
        found = {key: value for key, value in keyspace.items() if isinstance(value, SortedSet)}
        return {key: (dict(value.scores), keyspace.end(key)) for key, value in found.items()}


class ModelClient:
    """One connection to a model server.

    id: its CLIENT ID
    """

    def __init__(self, core: Core, session: Session) -> None:
        self._core = core
        self._session = session
        self.id = session.id

    @property
    def closed(self) -> bool:
        """Whether the connection was closed, by either side."""
        return self._session.closed

    def execute(self, words: list[bytes]) -> bytes:
        """Executes one command.

        words: the command and its arguments

        Returns all that the server then sends on this connection: the reply in RESP 2 or 3, as HELLO chose, and before
        or after it the pushes that this command caused here, in the order in which the real server sends them. On a
        closed connection nothing is executed and the answer is b"".

        Raises NotImplementedError for an option that the model lacks (a command that it lacks is an unknown one),
        ImportError for a script when `lupa` is not installed.
        """
        core, session = self._core, self._session
        if session.closed or not words:
            return b""
        core.tick()
        outer, core.current = core.current, session
        try:
            reply = self._reply(self._found(words), words)
        except CommandError as error:
            reply = Failure(error.text)
        finally:
            core.current = outer
        if session.caching and words[0].upper() != b"CLIENT":
            session.caching = False
        written = encode(reply, session.resp, core.version.since_7_2)
        if not (session.early or session.messages or session.pending):
            return written
        written = b"".join([*session.early, written, *session.messages, *session.pending])
        for pushes in (session.early, session.messages, session.pending):
            pushes.clear()
        return written

    def close(self) -> None:
        """Closes the connection from the client's side."""
        self._core.drop(self._session)

    def _reply(self, found: Command, words: list[bytes]) -> Reply:
        core, session = self._core, self._session
        refusal = core.refusal(found)
        if refusal is not None:
            raise CommandError(refusal)
        pubsub.check_context(core, session, found)
        try:
            return found.run(core, session, words)
        finally:
            if found.reads and session.tracking:
                core.remember(session, found.keys(words))

    def _found(self, words: list[bytes]) -> Command:
        """The command, if this client may use it. Valkey reports a missing AUTH before any other mistake."""
        core = self._core
        stranger = not (self._session.authenticated or session_commands.before_auth(core.version, words[0]))
        if stranger and core.version.valkey:
            raise CommandError(session_commands.NO_AUTH)
        found = find(core, words)
        if stranger:
            raise CommandError(session_commands.NO_AUTH)
        return found
