"""Resources as bytes: one normal form for routing, for keys and for comparing."""

from __future__ import annotations

from typing import Final

from redlock_cluster.core.queue import HELD, SIDE_KEYS, semaphore_in

__all__ = ["MAX_RESOURCE_BYTES", "Resource", "resource_bytes", "resource_text"]

Resource = str | bytes

MAX_RESOURCE_BYTES = 65536

_LAST: Final = frozenset(end[-1] for end in (*SIDE_KEYS, HELD))


def resource_bytes(resource: object) -> bytes:
    """The bytes that a resource stands for: itself, or its UTF-8 encoding, so "x" and b"x" are the same resource.

    A `str` made by decoding foreign bytes with `surrogateescape` gives those bytes back.

    Raises TypeError for anything but `str` and `bytes`, ValueError for an empty resource, one over 64 KiB, or one that
    ends as the keys do that stand beside a lock.
    """
    if isinstance(resource, str):
        try:
            data = resource.encode()
        except UnicodeEncodeError:
            data = _encode_surrogates(resource)
    elif isinstance(resource, bytes):
        data = resource
    else:
        raise TypeError(f"a resource is a str or bytes, not {type(resource).__name__}")
    if not data:
        raise ValueError("a resource must not be empty")
    if len(data) > MAX_RESOURCE_BYTES:
        raise ValueError(f"a resource is at most {MAX_RESOURCE_BYTES} bytes long, this one has {len(data)}")
    if data[-1] in _LAST:  # `endswith` alone takes some times as long
        if data.endswith(SIDE_KEYS):
            raise ValueError(f"a resource must not end in {data[data.rindex(b':redlock:') :].decode()!r}")
        if semaphore_in(data) is not data:
            raise ValueError("a resource must not be named as a semaphore's permit is")
    return data


def resource_text(resource: Resource) -> str:
    """The resource as `str`; bytes that are not UTF-8 become surrogates, which `resource_bytes` turns back."""
    return resource if isinstance(resource, str) else resource.decode("utf-8", "surrogateescape")


def _encode_surrogates(resource: str) -> bytes:
    try:
        return resource.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return resource.encode("utf-8", "surrogatepass")
