"""A file whose writers have fences."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import stat
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from redlock_cluster.fencing import MAX_FENCE, FencedFile, StaleFence

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


def test_what_was_written_is_read(path: Path) -> None:
    file = FencedFile(path)
    file.write(b"one\x00\xff", 1)
    assert file.read() == path.read_bytes() == b"one\x00\xff"
    assert file.seen() == 1


def test_a_smaller_fence_is_refused_and_changes_nothing(path: Path) -> None:
    FencedFile(path).write(b"seven", 7)
    before = {entry.name: entry.stat().st_mtime_ns for entry in path.parent.iterdir()}
    with pytest.raises(StaleFence) as refusal:
        FencedFile(path).write(b"six", 6)
    assert (refusal.value.resource, refusal.value.fence, refusal.value.seen) == (str(path.resolve()), 6, 7)
    assert {entry.name: entry.stat().st_mtime_ns for entry in path.parent.iterdir()} == before
    assert path.read_bytes() == b"seven"


def test_the_same_fence_writes_again(path: Path) -> None:
    file = FencedFile(path)
    for content in (b"a", b"b", b""):
        file.write(content, MAX_FENCE)
        assert (file.read(), file.seen()) == (content, MAX_FENCE)


def test_nothing_written_yet_is_no_fence_and_no_file(path: Path) -> None:
    file = FencedFile(path)
    assert file.seen() is None
    with pytest.raises(FileNotFoundError):
        file.read()
    assert [*path.parent.iterdir()] == []


def test_a_file_from_before_its_fences_is_replaced(path: Path) -> None:
    path.write_bytes(b"old")
    file = FencedFile(path)
    assert (file.read(), file.seen()) == (b"old", None)
    file.write(b"new", 1)
    assert file.read() == b"new"


def test_beside_the_file_stands_its_fence_and_nothing_else(path: Path) -> None:
    FencedFile(path).write(b"one", 1)
    assert {entry.name for entry in path.parent.iterdir()} == {"report.json", "report.json.fence"}
    assert (path.parent / "report.json.fence").read_bytes() == b"0000000000000001\n"


def test_a_new_file_has_the_permissions_of_the_umask_and_a_replaced_one_its_own(path: Path) -> None:
    file = FencedFile(path)
    before = os.umask(0o027)
    try:
        file.write(b"one", 1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        file.write(b"two", 1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_link_stands_for_its_file(path: Path, tmp_path: Path) -> None:
    FencedFile(path).write(b"seven", 7)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StaleFence):
        FencedFile(link).write(b"six", 6)
    FencedFile(link).write(b"eight", 8)
    assert link.is_symlink()
    assert path.read_bytes() == b"eight"


def test_a_path_stands_for_the_same_file_in_another_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    file = FencedFile(path.name)
    monkeypatch.chdir("/")
    file.write(b"one", 1)
    assert path.read_bytes() == b"one"


def test_content_that_is_no_bytes_is_a_type_error(path: Path) -> None:
    text: object = "text"
    with pytest.raises(TypeError, match="the content is bytes, not str"):
        FencedFile(path).write(text, 1)  # type: ignore[arg-type]
    assert [*path.parent.iterdir()] == []


def test_a_damaged_fence_refuses_everybody(path: Path) -> None:
    file = FencedFile(path)
    file.write(b"one", 1)
    for damaged in (b"1\n", b"0000000000000001", b"000000000000000x\n", b"0000000000000001\n\n"):
        path.with_name("report.json.fence").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"report\.json\.fence holds no fence"):
            file.write(b"two", 2)
        with pytest.raises(ValueError, match="holds no fence"):
            file.seen()
    assert file.read() == b"one"


def test_an_empty_fence_is_that_of_a_first_writer_that_got_no_further(path: Path) -> None:
    path.with_name("report.json.fence").touch()
    file = FencedFile(path)
    assert file.seen() is None
    file.write(b"one", 1)
    assert file.seen() == 1


def test_a_full_disk_leaves_the_content_and_the_fence_as_they_were(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FencedFile(path)
    file.write(b"one", 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.write(b"two", 2)
    assert (file.read(), file.seen()) == (b"one", 1)
    assert not path.with_name("report.json.fence-new").exists()


# -- a crash between any two steps -------------------------------------------------------------------------------------

STEPS = {  # of a write, in their order: what stands there when the process is killed at the step
    "prepare": (b"one", 1),
    "first fsync": (b"one", 1),
    "second fsync": (b"one", 2),
    "replace": (b"one", 2),
    "third fsync": (b"two", 2),
}


def killed_at(path: Path, step: str) -> None:
    """Writes, and is killed where that step would begin; in a process of its own."""
    syncs = iter(("first fsync", "second fsync", "third fsync"))

    def die_at(name: str, do: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            if (name or next(syncs)) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments)

        return instead

    os.fsync = die_at("", os.fsync)
    Path.replace = die_at("replace", Path.replace)  # type: ignore[method-assign]
    FencedFile._prepare = die_at("prepare", FencedFile._prepare)  # type: ignore[method-assign]
    FencedFile(path).write(b"two", 2)


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_that_is_killed_leaves_one_content_and_never_an_older_fence(step: str, path: Path) -> None:
    file = FencedFile(path)
    file.write(b"one", 1)
    process = SPAWN.Process(target=killed_at, args=(path, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (file.read(), file.seen()) == STEPS[step]
    if file.seen() == 2:
        with pytest.raises(StaleFence):
            file.write(b"late", 1)
    file.write(b"again", 2)
    assert (file.read(), file.seen()) == (b"again", 2)
    assert not path.with_name("report.json.fence-new").exists()


# -- several at once ---------------------------------------------------------------------------------------------------

LENGTH = 20_000


def content_of(fence: int) -> bytes:
    return b"%016d" % fence * (LENGTH // 16)


def write_all(path: Path, fences: list[int], ready: Callable[[], object]) -> list[int]:
    """Those of the fences that were taken, in order."""
    file, taken = FencedFile(path), []
    ready()
    for fence in fences:
        try:
            file.write(content_of(fence), fence)
        except StaleFence as refusal:
            assert refusal.seen > fence
        else:
            taken.append(fence)
    return taken


def write_in_process(path: Path, fences: list[int], pipe: Connection) -> None:
    """In a process of its own: says that it is ready, waits for the word, writes, says what was taken."""

    def ready() -> None:
        pipe.send("ready")
        pipe.recv()

    pipe.send(write_all(path, fences, ready))


def nearly_in_order(seed: int) -> list[int]:
    """So that many are taken, and many refused."""
    chance = random.Random(seed)
    return sorted(range(1, 201), key=lambda fence: fence + chance.uniform(0, 12))


def test_two_processes_end_with_the_greatest_fence(path: Path) -> None:
    fences = nearly_in_order(7)
    pipes, processes = [], []
    for part in range(2):
        mine, its = SPAWN.Pipe()
        processes.append(SPAWN.Process(target=write_in_process, args=(path, fences[part::2], its), daemon=True))
        pipes.append(mine)
    for process in processes:
        process.start()
    for pipe in pipes:
        assert pipe.recv() == "ready"
    for pipe in pipes:
        pipe.send("go")
    file = FencedFile(path)
    looked = look_until(file, lambda: all(pipe.poll() for pipe in pipes))
    taken = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    for pipe in pipes:
        pipe.close()
    assert all(fences == sorted(fences) for fences in taken)
    assert (file.read(), file.seen()) == (content_of(200), 200)
    assert looked == sorted(looked)


def test_threads_end_with_the_greatest_fence(path: Path) -> None:
    fences = nearly_in_order(8)
    start = threading.Barrier(4)
    threads = [
        threading.Thread(target=write_all, args=(path, fences[part::4], start.wait), daemon=True) for part in range(4)
    ]
    for thread in threads:
        thread.start()
    file = FencedFile(path)
    looked = look_until(file, lambda: not any(thread.is_alive() for thread in threads))
    assert (file.read(), file.seen()) == (content_of(200), 200)
    assert looked == sorted(looked)


def look_until(file: FencedFile, done: Callable[[], bool]) -> list[int]:
    """The fences whose content a reader sees meanwhile, all of it each time."""
    looked = []
    while not done():
        try:
            content = file.read()
        except FileNotFoundError:
            continue
        looked.append(int(content[:16]))
        assert content == content_of(looked[-1])
    return looked


def test_a_forked_child_keeps_nobody_out(path: Path) -> None:
    """It has the same opening, and with it the lock, of a write that another thread is at; as a duplicate has."""
    file = FencedFile(path)
    with file._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as record:
        inherited = os.dup(record.fileno())
    try:
        thread = threading.Thread(target=file.write, args=(b"one", 1), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        os.close(inherited)
    assert file.read() == b"one"
