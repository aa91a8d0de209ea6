"""A file whose writers have fences.

Beside `report.json` stands `report.json.fence`, with the greatest fence that was seen: 16 digits and a line feed. It is
never replaced, so that writers can lock it by `flock`. Whoever has locked it goes through these steps:

    1. the fence is compared; a smaller one is refused
    2. the content is written to `report.json.fence-new`, and forced to the disk
    3. the fence is written, and forced to the disk
    4. `report.json.fence-new` is renamed to `report.json`, and the folder is forced to the disk

A crash before 3 leaves all as it was. A crash between 3 and 4 leaves the old content with the new fence: the write did
not happen, and earlier holders are refused all the same. In the other order the new content could stand there with the
old fence, and an earlier holder could replace it.

The 17 bytes lie in one sector, which disks write as a whole.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from redlock_cluster.errors import StaleFence
from redlock_cluster.fencing.fence import check_fence

__all__ = ["FencedFile"]

_RECORD: Final = re.compile(rb"(\d{16})\n")


class FencedFile:
    """A file that is replaced as a whole, by writers with fences, in threads and processes of one machine.

    Whoever reads it sees one writer's content, all of it. Beside it stand `<name>.fence`, which must stay as long as
    the file is protected, and `<name>.fence-new` while it is written. The folder must be on a local file system.

    path: the file, in a folder that exists; a symbolic link stands for the file that it leads to
    """

    __slots__ = ("_new", "_record", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._record = self.path.with_name(f"{self.path.name}.fence")
        self._new = self.path.with_name(f"{self.path.name}.fence-new")

    def write(self, content: bytes, fence: int) -> None:
        """Replaces the content unless a greater fence was seen. It blocks, in asyncio use `asyncio.to_thread`.

        When it returns, the content is on the disk. The file keeps its permissions, not its owner.

        content: all of the file
        fence: of the writer's lease, an int with 1 <= fence < 2**53

        Raises StaleFence when a greater fence was seen; ValueError when `<name>.fence` holds something else; TypeError
        and ValueError for arguments of other kinds; OSError when the file can't be written: it has its old content
        then, or all of the new one if only the folder could not be forced to the disk.
        """
        check_fence(fence)
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(f"the content is bytes, not {type(content).__name__}")
        with self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as record:
            seen = self._fence_in(record)
            if fence < seen:
                raise StaleFence(str(self.path), fence, seen)
            try:
                self._prepare(content)
                if fence > seen:
                    record.seek(0)
                    record.write(b"%016d\n" % fence)
                    _force(record)
                if not seen:
                    self._force_folder()  # else the renamed file could outlive a power failure without its record
                self._new.replace(self.path)
            except BaseException:
                self._new.unlink(missing_ok=True)
                raise
            self._force_folder()

    def read(self) -> bytes:
        """The content. It waits for no writer.

        Raises OSError, FileNotFoundError among them when nothing was written yet.
        """
        return self.path.read_bytes()

    def seen(self) -> int | None:
        """The greatest fence that was seen, None if there was none. It waits for a write that is under way.

        Raises OSError; ValueError when `<name>.fence` holds something else.
        """
        with suppress(FileNotFoundError), self._locked(os.O_RDONLY, fcntl.LOCK_SH) as record:
            return self._fence_in(record) or None
        return None

    @contextmanager
    def _locked(self, flags: int, kind: int) -> Iterator[BinaryIO]:
        """The record, locked: each opening has a lock of its own, so threads exclude each other, too."""
        descriptor = os.open(self._record, flags, 0o666)
        with os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb") as record:
            fcntl.flock(record, kind)
            try:
                yield record
            finally:
                # Closing is not enough: a child that was forked meanwhile has the same opening.
                fcntl.flock(record, fcntl.LOCK_UN)

    def _fence_in(self, record: BinaryIO) -> int:
        """The fence, 0 for none: a record that is still empty comes from a first writer that got no further."""
        content = record.read()
        match = _RECORD.fullmatch(content)
        if content and not match:
            raise ValueError(f"{self._record} holds no fence; whether a writer is over can't be known")
        return int(match[1]) if match else 0

    def _prepare(self, content: bytes) -> None:
        self._new.unlink(missing_ok=True)  # of a writer that was killed
        with self._new.open("xb") as new:
            with suppress(FileNotFoundError):
                os.fchmod(new.fileno(), stat.S_IMODE(self.path.stat().st_mode))
            new.write(content)
            _force(new)

    def _force_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"<FencedFile {str(self.path)!r}>"


def _force(file: BinaryIO) -> None:
    """To the disk."""
    file.flush()
    os.fsync(file.fileno())
