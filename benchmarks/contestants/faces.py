"""One way to write what is measured for both kinds of library: blocking calls in threads, coroutines in tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from harness import AioLocks, Groups, Library, Request, SyncLocks

__all__ = ["Face", "run"]

T = TypeVar("T")


class Face(Protocol):
    """How a library is called."""

    async def connect(self) -> AioLocks:
        """A new client of the library, connected; closed in the end."""

    async def sleep(self, seconds: float) -> None:
        """Sleeps."""

    async def together(self, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Runs all at once, each in its thread or its task; raises the first error."""


class _Blocking:
    """Blocking calls as coroutines that never suspend."""

    def __init__(self, locks: SyncLocks) -> None:
        self._locks = locks

    async def lock(self, resource: str) -> object | None:
        return self._locks.lock(resource)

    async def wait(self, resource: str) -> object:
        return self._locks.wait(resource)

    async def unlock(self, resource: str, held: Any) -> object:
        return self._locks.unlock(resource, held)

    async def close(self) -> None:
        self._locks.close()


class _Threads:
    """A library that blocks."""

    def __init__(self, connect: Callable[[Groups], SyncLocks], groups: Groups) -> None:
        self._connect, self._groups = connect, groups
        self.opened: list[AioLocks] = []

    async def connect(self) -> AioLocks:
        self.opened.append(_Blocking(self._connect(self._groups)))
        return self.opened[-1]

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs in this thread

    async def together(self, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        errors: list[BaseException] = []

        def one(coroutine: Coroutine[Any, Any, None]) -> None:
            try:
                _finished(coroutine)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads = [threading.Thread(target=one, args=(coroutine,), daemon=True) for coroutine in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class _Tasks:
    """A library of coroutines."""

    def __init__(self, connect: Callable[[Groups], Awaitable[AioLocks]], groups: Groups) -> None:
        self._connect, self._groups = connect, groups
        self.opened: list[AioLocks] = []

    async def connect(self) -> AioLocks:
        self.opened.append(await self._connect(self._groups))
        return self.opened[-1]

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*work)


def run(library: Library, request: Request, main: Callable[[Face], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` with the face that is asked for, by default the blocking one where there is one. Closes its clients.

    request: `groups`, and `face`: "sync" or "aio" (on uvloop)
    """
    if request.get("face", "sync" if library.sync else "aio") == "sync":
        if library.sync is None:
            raise ValueError("this library has no synchronous locks")
        return _finished(_closing(_Threads(library.sync, request["groups"]), main))
    if library.aio is None:
        raise ValueError("this library has no asyncio locks")
    import uvloop

    return uvloop.run(_closing(_Tasks(library.aio, request["groups"]), main))


async def _closing(face: _Threads | _Tasks, main: Callable[[Face], Coroutine[Any, Any, T]]) -> T:
    try:
        return await main(face)
    finally:
        for locks in face.opened:
            await locks.close()


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking call suspended")
