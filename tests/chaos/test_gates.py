"""The gates: what they pass on, hold, delay and cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from .gates import Gate, Network

HOST = "127.0.0.1"


class Echo:
    """A server that sends back what it reads; `heard` is all that it read."""

    def __init__(self) -> None:
        self.heard = b""
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1000):
                self.heard += data
                connection.sendall(data)

    def hears(self, data: bytes) -> bool:
        """Whether it has read this within some seconds."""
        deadline = time.monotonic() + 5
        while self.heard != data and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.heard == data

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def gate(echo: Echo) -> Iterator[Gate]:
    with Network([echo.port]) as network:
        yield network.gates[0]


@pytest.fixture
def client(gate: Gate) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, gate.port), 5) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        yield connection


def test_stalled_gate_holds_everything_and_passes_it_on_later(gate: Gate, client: socket.socket, echo: Echo) -> None:
    gate.stall()
    client.sendall(b" there")
    with socket.create_connection((HOST, gate.port), 5):  # accepted all the same
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
    assert echo.heard == b"hello"
    gate.pass_on()
    client.settimeout(5)
    assert client.recv(100) == b" there"


def test_vanished_connection_stays_open_and_silent_and_new_ones_pass(
    gate: Gate, client: socket.socket, echo: Echo
) -> None:
    gate.vanish()
    client.sendall(b" there")
    with socket.create_connection((HOST, gate.port), 5) as successor:
        successor.sendall(b" new")
        assert successor.recv(100) == b" new"
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert echo.heard == b"hello new"


def test_delayed_gate_takes_its_time_in_both_directions(gate: Gate, client: socket.socket) -> None:
    gate.delay = 0.1
    begun = time.monotonic()
    client.sendall(b"x")
    assert client.recv(100) == b"x"
    assert time.monotonic() - begun >= 0.2


def test_cut_ends_the_client_at_once_and_what_was_in_flight_lands_later(
    gate: Gate, client: socket.socket, echo: Echo
) -> None:
    cutting = threading.Thread(target=gate.cut, args=(0.2, 0.3))
    cutting.start()
    time.sleep(0.05)
    client.sendall(b" late")
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(100) == b""
    assert echo.heard == b"hello"
    with socket.create_connection((HOST, gate.port), 5) as successor:
        successor.sendall(b" new")
        assert successor.recv(100) == b" new"
    cutting.join()
    assert echo.hears(b"hello new late")


def test_gate_before_a_port_where_nobody_listens_hangs_up() -> None:
    with socket.create_server((HOST, 0)) as unused:
        port = unused.getsockname()[1]
    with Network([port]) as network, socket.create_connection((HOST, network.gates[0].port), 5) as connection:
        assert connection.recv(100) == b""
