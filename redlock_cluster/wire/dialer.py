"""Opens connections: TCP, Unix sockets and TLS.

A name is looked up for every connection and may have several addresses, of which some lead nowhere; they are tried as
RFC 8305 ("Happy Eyeballs") says.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from functools import partial
from typing import Final, cast

from aiohappyeyeballs import start_connection

from redlock_cluster.options import ServerOptions
from redlock_cluster.wire import blocking
from redlock_cluster.wire.names import addresses

__all__ = ["SocketDialer"]

NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address is tried too; RFC 8305 recommends them."""


class SocketDialer:
    """Connects as the server's options say."""

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects the protocol to the server."""
        loop = asyncio.get_running_loop()
        if server.socket is not None:
            with blocking.doing("connecting to the Unix socket"):
                await loop.create_unix_connection(lambda: protocol, server.socket)
            return
        context = await _tls_of(server) if server.ssl else None
        if _numeric(server.host):
            with blocking.doing("connecting"):
                await loop.create_connection(lambda: protocol, server.host, server.port, ssl=context)
            return
        connected = await _connect(server)
        name = None if context is None else server.host
        try:
            with blocking.doing("waiting for its TLS handshake"):
                await loop.create_connection(lambda: protocol, sock=connected, ssl=context, server_hostname=name)
        except BaseException:
            connected.close()
            raise


def _numeric(host: str) -> bool:
    """Whether it is an address that loops take as it is. With a scope (`fe80::1%eth0`) they look it up."""
    try:
        return ipaddress.ip_address(host) is not None and "%" not in host
    except ValueError:
        return False


async def _connect(server: ServerOptions) -> socket.socket:
    """A socket that is connected to one of the addresses of the server's name."""
    found = await addresses(server.host, server.port)
    where = f"{server.host} ({', '.join(dict.fromkeys(str(address[4][0]) for address in found))})"
    try:
        with blocking.doing(f"connecting to {where}"):
            return await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS, loop=_connecting_loop())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"can't connect to {where}: {reason}") from error


def _connecting_loop() -> asyncio.AbstractEventLoop | None:
    """Whose `sock_connect` is used; None: the running loop's.

    That of uvloop looks even numbers up in the threads of libuv, where they wait for all names that hang.
    """
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        return None
    return cast(asyncio.AbstractEventLoop, _Connecting())


class _Connecting:
    """`sock_connect` of loops that watch file descriptors."""

    async def sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Connects a socket to a numeric address."""
        error = sock.connect_ex(address)
        if error in (errno.EINPROGRESS, errno.EINTR):
            await self._writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def _writable(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _set, writable)
        try:
            await writable
        finally:
            loop.remove_writer(sock)


def _set(writable: asyncio.Future[None]) -> None:
    if not writable.done():
        writable.set_result(None)


async def _tls_of(server: ServerOptions) -> ssl.SSLContext:
    files = (server.ssl_ca_certs, server.ssl_certfile, server.ssl_keyfile)
    return await blocking.call(
        ("TLS", *files, server.ssl_check_hostname), partial(_tls_context, server), "reading its TLS files"
    )


def _tls_context(server: ServerOptions) -> ssl.SSLContext:
    """Made anew for each connection, so that renewed certificates are taken up."""
    context = ssl.create_default_context(cafile=server.ssl_ca_certs)
    context.check_hostname = server.ssl_check_hostname
    if server.ssl_certfile is not None:
        context.load_cert_chain(server.ssl_certfile, server.ssl_keyfile)
    return context
