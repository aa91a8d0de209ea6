"""A value on a Redis server, with its fence.

Both are fields of one hash, `value` and `fence`, so that they come, go, move and are replicated together, and a cluster
has them in one slot whatever the key's name is. Other programs read the value by `HGET key value`.
"""

from __future__ import annotations

import inspect
import pkgutil
from typing import TYPE_CHECKING, Any, Final

from redlock_cluster.errors import StaleFence
from redlock_cluster.fencing.fence import check_fence, check_resource

if TYPE_CHECKING:
    from redis import Redis, RedisCluster
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio import RedisCluster as AsyncRedisCluster

__all__ = ["AsyncFencedKey", "FencedKey"]


def _script() -> str:
    content = pkgutil.get_data(__package__, "set.lua")
    if content is None:
        raise ImportError("the script set.lua is missing from the package")
    return content.decode()


_SET: Final = _script()
"""It is sent in full each time: it is short, and so nobody has to load it where a server, or a new one, lacks it."""


class _Key:
    """What the two have in common.

    key: the server's name for it
    """

    __slots__ = ("_client", "key")

    def __init__(self, client: Any, key: str, asynchronous: bool) -> None:
        check_resource(key)
        if inspect.iscoroutinefunction(client.execute_command) is not asynchronous:
            other = FencedKey if asynchronous else AsyncFencedKey
            raise TypeError(f"{type(self).__name__} has no use for this client; take {other.__name__}")
        self._client = client
        self.key = key

    def _arguments(self, value: str | bytes, fence: int) -> tuple[str, int, str, str, str | bytes]:
        """What EVAL is to be called with."""
        check_fence(fence)
        if not isinstance(value, str | bytes):
            raise TypeError(f"a value is a str or bytes, not {type(value).__name__}")
        return _SET, 1, self.key, str(int(fence)), value

    def _raise_if_refused(self, fence: int, reply: Any) -> None:
        if reply is not None:
            raise StaleFence(self.key, fence, int(reply))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r}>"


class FencedKey(_Key):
    """A value on a Redis or Valkey server, with the greatest fence that wrote it.

    It is a hash with the fields `value` and `fence`. Deleting the key, or letting it expire, forgets the fence too.

    client: of the package `redis`, for one server or a cluster; its user needs `eval`, `hget` and `hset`
    key: the hash's name, a non-empty str

    Raises TypeError for an asyncio client.
    """

    __slots__ = ()

    def __init__(self, client: Redis | RedisCluster, key: str) -> None:
        super().__init__(client, key, asynchronous=False)

    def set(self, value: str | bytes, fence: int) -> None:
        """Sets the value unless a greater fence was seen.

        value: str (the client encodes it) or bytes
        fence: of the writer's lease, an int with 1 <= fence < 2**53

        Raises StaleFence when a greater fence was seen; TypeError and ValueError for arguments of other kinds; and what
        the client raises: ResponseError when the key is no such hash; after a ConnectionError or TimeoutError the value
        may be set or not, and may be set once more.
        """
        self._raise_if_refused(fence, self._client.eval(*self._arguments(value, fence)))

    def get(self) -> Any:
        """The value, None if there is none: bytes, or str from a client with `decode_responses`.

        Raises what the client raises.
        """
        return self._client.hget(self.key, "value")

    def seen(self) -> int | None:
        """The greatest fence that was seen, None if there was none.

        Raises what the client raises.
        """
        seen = self._client.hget(self.key, "fence")
        return None if seen is None else int(seen)


class AsyncFencedKey(_Key):
    """The same for asyncio: a value on a Redis or Valkey server, with the greatest fence that wrote it.

    It is a hash with the fields `value` and `fence`. Deleting the key, or letting it expire, forgets the fence too.

    client: of the package `redis.asyncio`, for one server or a cluster; its user needs `eval`, `hget` and `hset`
    key: the hash's name, a non-empty str

    Raises TypeError for a client that is not asyncio's.
    """

    __slots__ = ()

    def __init__(self, client: AsyncRedis | AsyncRedisCluster, key: str) -> None:
        super().__init__(client, key, asynchronous=True)

    async def set(self, value: str | bytes, fence: int) -> None:
        """Sets the value unless a greater fence was seen. A call that is cancelled may have set it or not.

        value: str (the client encodes it) or bytes
        fence: of the writer's lease, an int with 1 <= fence < 2**53

        Raises StaleFence when a greater fence was seen; TypeError and ValueError for arguments of other kinds; and what
        the client raises: ResponseError when the key is no such hash; after a ConnectionError or TimeoutError the value
        may be set or not, and may be set once more.
        """
        self._raise_if_refused(fence, await self._client.eval(*self._arguments(value, fence)))

    async def get(self) -> Any:
        """The value, None if there is none: bytes, or str from a client with `decode_responses`.

        Raises what the client raises.
        """
        return await self._client.hget(self.key, "value")

    async def seen(self) -> int | None:
        """The greatest fence that was seen, None if there was none.

        Raises what the client raises.
        """
        seen = await self._client.hget(self.key, "fence")
        return None if seen is None else int(seen)
