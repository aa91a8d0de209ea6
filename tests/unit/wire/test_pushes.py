"""What servers send of their own accord."""

from __future__ import annotations

import asyncio

import pytest

from redlock_cluster.wire.connection import Connection, Flusher


class Sink:
    """Notes what it is told."""

    def __init__(self, heard: list[object]) -> None:
        self._heard = heard

    def reply(self, connection: Connection, value: object) -> None:
        self._heard.append(value)

    def lost(self, connection: Connection) -> None:
        self._heard.append("lost")


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_replies_and_pushes_are_heard_in_the_order_in_which_they_came(size: int) -> None:
    heard: list[object] = []
    flusher = Flusher(asyncio.get_running_loop())
    connection = Connection(flusher, 0, lambda _: None, lambda _, push: heard.append(push[0]))
    connection.connection_made(asyncio.Transport())
    for _ in range(3):
        connection.send(b"", Sink(heard))
    stream = b">1\r\n+a\r\n:1\r\n>1\r\n+b\r\n>1\r\n+c\r\n:2\r\n:3\r\n>1\r\n+d\r\n"
    for start in range(0, len(stream), size):
        connection.data_received(stream[start : start + size])
    assert heard == [b"a", 1, b"b", b"c", 2, 3, b"d"]
