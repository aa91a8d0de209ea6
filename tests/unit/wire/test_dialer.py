"""Connections by name: whichever of its addresses works, with TLS for the name, and nobody else's threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from resolver import LOOPS, ImpatientRunner, Resolver, resolver, swallowing

from redlock_cluster.options import ServerOptions
from redlock_cluster.wire.dialer import SocketDialer

from .test_blocking import Taken


@pytest.fixture
def names_of() -> Iterator[Resolver]:
    with resolver() as made:
        yield made


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with ImpatientRunner(loop_factory=LOOPS[request.param]) as runner:
        runner.get_loop().set_default_executor(Taken())
        yield runner


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Made(asyncio.Protocol):
    """A connection, and its end."""

    transport: asyncio.Transport | None = None

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def connected(server: ServerOptions) -> tuple[str, bool, bool]:
    """Connects and hangs up: to which address; whether small writes leave at once; whether TCP keeps it alive."""
    protocol = Made()
    await SocketDialer()(server, protocol)
    assert protocol.transport is not None
    plug = protocol.transport.get_extra_info("socket")
    peer = protocol.transport.get_extra_info("peername")[0]
    nodelay = plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    alive = plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    protocol.transport.abort()
    await protocol.lost.wait()
    return peer, bool(nodelay), bool(alive)


@pytest.mark.parametrize("host", ["127.0.0.1", "one.test", "two.test", "localhost"])
def test_connections_by_address_and_by_name_are_alike(
    runner: asyncio.Runner, names_of: Resolver, port: int, host: str
) -> None:
    names_of.table = {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.1", "127.0.0.8"]}
    assert runner.run(connected(ServerOptions(host=host, port=port))) == ("127.0.0.1", True, False)


def test_name_connects_by_its_second_address_where_the_first_swallows_everything(
    runner: asyncio.Runner, names_of: Resolver, port: int
) -> None:
    names_of.table["two.test"] = ["127.0.0.9", "127.0.0.1"]
    with swallowing(port):
        assert runner.run(connected(ServerOptions(host="two.test", port=port)))[0] == "127.0.0.1"


def test_name_connects_by_its_second_address_where_nobody_listens_at_the_first(
    runner: asyncio.Runner, names_of: Resolver, port: int
) -> None:
    names_of.table["two.test"] = ["127.0.0.7", "127.0.0.1"]
    assert runner.run(connected(ServerOptions(host="two.test", port=port)))[0] == "127.0.0.1"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.7"]], ids=["one", "two"])
def test_name_whose_addresses_all_refuse_says_so(
    runner: asyncio.Runner, names_of: Resolver, closed: int, addresses: list[str]
) -> None:
    names_of.table["down.test"] = addresses
    with pytest.raises(OSError, match=r".") as refused:
        runner.run(connected(ServerOptions(host="down.test", port=closed)))
    assert str(refused.value) == f"can't connect to down.test ({', '.join(addresses)}): Connection refused"


def test_time_out_says_which_addresses_were_tried(
    runner: asyncio.Runner, names_of: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redlock_cluster.wire.dialer.NEXT_ADDRESS", 0.01)
    names_of.table["holes.test"] = ["127.0.0.9", "127.0.0.10"]

    async def main(port: int) -> None:
        try:
            async with asyncio.timeout(0.1):
                await connected(ServerOptions(host="holes.test", port=port))
        except TimeoutError as late:
            assert late.__cause__ is not None
            assert late.__cause__.__notes__ == ["connecting to holes.test (127.0.0.9, 127.0.0.10)"]
        else:
            raise AssertionError("nobody answers there")

    with swallowing() as port, swallowing(port, "127.0.0.10"):
        runner.run(main(port))


# TLS


class Secured:
    """A server that speaks TLS in the name `tls.test`.

    asked: for which names it was asked (SNI)
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str | None]()
        self.authority = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("tls.test").configure_cert(self.context)
        self.context.sni_callback = lambda _, name, __: self.asked.append(name)

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            serving.start()
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                serving.join(10)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                with contextlib.suppress(OSError), self.context.wrap_socket(client, server_side=True) as secure:
                    secure.recv(1)


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.7", "127.0.0.1"]], ids=["one", "second"])
def test_tls_by_name_asks_for_that_name_and_checks_it(
    runner: asyncio.Runner, names_of: Resolver, secured: Secured, addresses: list[str]
) -> None:
    names_of.table = {"tls.test": addresses, "other.test": addresses}
    trust: dict[str, object] = {"ssl": True, "ssl_ca_certs": str(secured.authority)}
    with secured.listening() as port:
        right = ServerOptions.model_validate({"host": "tls.test", "port": port, **trust})
        assert runner.run(connected(right))[0] == "127.0.0.1"
        wrong = ServerOptions.model_validate({"host": "other.test", "port": port, **trust})
        with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.test"):
            runner.run(connected(wrong))
        unchecked = wrong.model_copy(update={"ssl_check_hostname": False})
        assert runner.run(connected(unchecked))[0] == "127.0.0.1"
    assert secured.asked == ["tls.test", "other.test", "other.test"]


# The threads of libuv

COUNTS = """
import asyncio, os, socket, time, uvloop
from redlock_cluster.options import ServerOptions
from redlock_cluster.wire.dialer import SocketDialer

real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **named: [
    answer for last in (7, 1) for answer in real(f"127.0.0.{last}", *more, **named)
]

def threads():
    return len(os.listdir("/proc/self/task"))

async def main():
    before = threads()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "a.test", "b.test"):
            await SocketDialer()(ServerOptions(host=host, port=port), asyncio.Protocol())
        deadline = time.monotonic() + 10
        while threads() > before and time.monotonic() < deadline:  # those that looked up the names end
            time.sleep(0.001)
        print(threads() - before)
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port)
        print(threads() - before)

uvloop.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_connections_need_no_thread_of_libuv() -> None:
    """It has four for the whole process, which names of the application may keep busy."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTS], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["0", "4"]
