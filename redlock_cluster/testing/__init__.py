"""Tools for testing code that locks: real servers, started by the test and ended with it."""

from redlock_cluster.testing.binaries import (
    BinaryNotFound,
    EmbeddedError,
    ServerFailed,
    binary_version,
    find_binary,
)
from redlock_cluster.testing.cluster import EmbeddedCluster
from redlock_cluster.testing.ports import PortReservation, reserve_port
from redlock_cluster.testing.server import EmbeddedServer

__all__ = [
    "BinaryNotFound",
    "EmbeddedCluster",
    "EmbeddedError",
    "EmbeddedServer",
    "PortReservation",
    "ServerFailed",
    "binary_version",
    "find_binary",
    "reserve_port",
]
