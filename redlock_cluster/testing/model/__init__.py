"""A model of a Redis or Valkey server for tests: the commands that locks need, the same bytes, no process, no socket.

    now = 1000.0
    server = ModelServer(lambda: now, VALKEY_9)
    client = server.connect(push=print)
    assert client.execute([b"SET", b"k", b"v", b"NX", b"PX", b"100"]) == b"+OK\\r\\n"
    now = server.next_expiry()
    assert client.execute([b"GET", b"k"]) == b"$-1\\r\\n"

It is trusted because one file of vectors holds for it and for real servers, byte for byte (tests/conformance).
"""

from redlock_cluster.testing.model.server import ModelClient, ModelServer
from redlock_cluster.testing.model.versions import (
    REDIS_6_2,
    REDIS_7_0,
    REDIS_8_2,
    REDIS_8_4,
    VALKEY_9,
    VERSIONS,
    ModelVersion,
)

__all__ = [
    "REDIS_6_2",
    "REDIS_7_0",
    "REDIS_8_2",
    "REDIS_8_4",
    "VALKEY_9",
    "VERSIONS",
    "ModelClient",
    "ModelServer",
    "ModelVersion",
]
