"""The `redlock-cluster` command as its users run it: a process with arguments, output, signals and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from resolver import swallowing

import redlock_cluster
from redlock_cluster import Supervisor
from redlock_cluster.core.ring import Ring
from redlock_cluster.options import json_schema
from redlock_cluster.testing import EmbeddedCluster, EmbeddedServer

COMMAND = [sys.executable, "-m", "redlock_cluster.cli"]
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}


def run(*arguments: str | bytes | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT, input=answer
    )


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"
    except OSError:
        return False


def said(server: EmbeddedServer, command: str) -> bytes:
    """What a server says to a command: of texts the text."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection, connection.makefile("rb") as replies:
        connection.sendall(command.encode() + b"\r\n")
        line = replies.readline().strip()
        return replies.read(int(line[1:])) if line.startswith(b"$") else line


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A file of two deployments without a default, on ports where nothing listens."""
    path = tmp_path / "several.yaml"
    deployments = {
        name: {"cluster": [{"name": f"{name}-{i}", "servers": [{"port": first + i}]} for i in range(3)]}
        for name, first in (("one", 1), ("two", 4))
    }
    path.write_text(yaml.safe_dump({"deployments": deployments}))
    return path


# help


def test_help_asked_for_imports_nothing_heavy() -> None:
    code = (
        "import sys; from redlock_cluster.cli.main import main; sys.argv = ['redlock-cluster', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*{'pydantic', 'yaml', 'redis', 'hiredis', 'uvloop', 'asyncio', 'multiprocessing'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_lines, imported = done.stdout.splitlines()
    assert imported == ""
    for command in ("route", "schema", "check", "inspect", "locks", "force-release", "up", "demo"):
        assert any(command in line for line in help_lines)


def test_library_imported_does_not_import_the_command_or_its_servers(cluster: EmbeddedCluster) -> None:
    code = (
        f"import sys; from redlock_cluster import Supervisor; Supervisor({str(cluster.options_path)!r})\n"
        "print([name for name in sys.modules if name.startswith(('redlock_cluster.cli', 'redlock_cluster.testing'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# route and schema


def test_route_prints_the_group_of_each_resource(cluster: EmbeddedCluster) -> None:
    resources = [f"invoice:{number}" for number in range(20)]
    ring = Ring({"0": 1, "1": 1, "2": 1})
    done = run("route", cluster.options_path, *resources)
    assert done.stdout.splitlines() == [f"{resource}\t{ring.group_for(resource)}" for resource in resources]
    assert (done.returncode, done.stderr) == (0, "")


def test_route_of_bytes_that_are_no_text_routes_the_bytes(cluster: EmbeddedCluster) -> None:
    ring = Ring({"0": 1, "1": 1, "2": 1})
    names = [b"\xff%d" % number for number in range(8)]
    done = run("route", cluster.options_path, *names)
    assert done.stdout.splitlines() == [f"\\xff{n}\t{ring.group_for(name)}" for n, name in enumerate(names)]


def test_route_with_deployment_uses_its_groups(several: Path) -> None:
    for name in ("one", "two"):
        group = Ring({f"{name}-{i}": 1 for i in range(3)}).group_for("x")
        assert run("route", several, "x", "--deployment", name).stdout == f"x\t{group}\n"


@pytest.mark.parametrize("arguments", [[], ["--deployment", "three"]])
def test_route_without_a_known_deployment_lists_them(several: Path, arguments: list[str]) -> None:
    done = run("route", several, "x", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "one, two" in done.stderr


def test_schema_is_the_json_schema_of_options() -> None:
    done = run("schema")
    assert json.loads(done.stdout) == json_schema()
    assert (done.returncode, done.stderr) == (0, "")


# check


def test_check_of_living_servers_exits_with_0(cluster: EmbeddedCluster) -> None:
    done = run("check", cluster.options_path)
    assert (done.returncode, done.stderr) == (0, "")
    for server in cluster.servers:
        (line,) = [line for line in done.stdout.splitlines() if server.name in line]
        assert " up " in line
        assert server.version in line


def test_inspect_locks_and_force_release(cluster: EmbeddedCluster) -> None:
    with Supervisor({**cluster.options, "owner": "the holder"}) as redlock:
        lease = redlock.lock("job \x1b", 600).value
        other = redlock.lock(b"\xff", 600).value
        done = run("inspect", cluster.options_path, "job \x1b")
        assert (done.returncode, done.stderr) == (0, "")
        first, *table = done.stdout.splitlines()
        group = redlock.group_for("job \x1b")
        assert first == f"job \\x1b: held by the holder (group {group})"
        assert len([line for line in table if "exclusive" in line and "the holder" in line]) == 3
        assert lease.token not in done.stdout
        found = json.loads(run("inspect", cluster.options_path, "job \x1b", "--json").stdout)
        assert (found["resource"], found["holding"], found["owner"]) == ("job \x1b", "held", "the holder")
        assert [server["kind"] for server in found["servers"]] == ["exclusive"] * 3
        lines = run("locks", cluster.options_path).stdout.splitlines()
        assert sorted(line.split("\t")[0] for line in lines) == ["\\xff", "job \\x1b"]
        (line,) = run("locks", cluster.options_path, "job*", "--json").stdout.splitlines()
        assert (json.loads(line)["resource"], json.loads(line)["servers"]) == ("job \x1b", 3)
        declined = run("force-release", cluster.options_path, "job \x1b", answer="n\n")
        assert (declined.returncode, declined.stdout.strip()) == (1, "")
        assert "held by the holder" in declined.stderr
        assert redlock.is_locked("job \x1b")
        done = run("force-release", cluster.options_path, "job \x1b", answer="y\n")
        assert (done.returncode, done.stdout.strip()) == (
            0,
            "released by force: job \\x1b, which was held by the holder",
        )
        assert not redlock.is_locked("job \x1b")
        done = run("force-release", cluster.options_path, b"\xff", "--yes", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["held"] is True
        done = run("force-release", cluster.options_path, b"\xff", "--yes")
        assert done.stdout == "nobody held \\xff\n"
        assert other.token
    for server in cluster.servers:
        said(server, "FLUSHALL")


def test_inspect_locks_and_force_release_without_a_quorum_exit_with_1() -> None:
    with EmbeddedCluster(1, 3, options={"connect_timeout": 500}) as cluster, Supervisor(cluster.options):
        for server in cluster.servers[:2]:
            server.kill()
        done = run("inspect", cluster.options_path, "job")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith("job: unknown (group 0)\n")
        assert "refused" in done.stdout
        for arguments in (("locks",), ("force-release", "job", "--yes")):
            done = run(arguments[0], cluster.options_path, *arguments[1:])
            assert (done.returncode, done.stdout) == (1, "")
            assert "refused" in done.stderr


def test_check_with_one_server_of_a_group_down_exits_with_0() -> None:
    with EmbeddedCluster(2, 3) as cluster, Supervisor(cluster.options):  # all are up, for the first time
        cluster.groups[0][1].kill()
        done = run("check", cluster.options_path)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = [line for line in done.stdout.splitlines() if cluster.groups[0][1].name in line]
        assert " down " in line
        assert "refused" in line


def test_check_waits_for_what_becomes_of_a_server_that_swallows_everything(tmp_path: Path) -> None:
    with EmbeddedCluster(1, 2) as cluster, swallowing() as hole:
        servers = [{"port": server.port} for server in cluster.servers]
        path = tmp_path / "options.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "connect_timeout": "1s",
                    "servers": [*servers, {"host": "127.0.0.9", "port": hole}],
                    "restart_guard": False,  # for the first time, with a server away
                }
            )
        )
        done = run("check", path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "127.0.0.9" in line]
    assert " down " in line
    assert "no connection within the connect timeout" in line


def test_servers_that_are_used_for_the_first_time_while_one_is_away_need_a_word() -> None:
    with EmbeddedCluster(1, 3, options={"connect_timeout": 500}) as cluster:
        path, away = cluster.options_path, cluster.servers[2]
        away.kill()
        done = run("check", path)
        assert (done.returncode, done.stderr) == (1, "")
        assert "`redlock-cluster meta init` ends that, if nobody holds a lock" in done.stdout
        assert run("meta", "show", path).returncode == 1
        done = run("meta", "init", path, "--yes")
        assert done.stdout.splitlines() == [f"{server.name} grants locks from now on" for server in cluster.servers[:2]]
        assert done.returncode == 1
        assert away.name in done.stderr
        assert run("check", path).returncode == 0
        away.start()
        done = run("check", path, "--wait-quarantine")  # it is quarantined for as long as the lock of the check lasts
        assert done.returncode == 0, done.stderr
        assert "waiting for" in done.stderr
        assert away.name in done.stderr
        assert all("up" in line for line in done.stdout.splitlines() if "127.0.0.1" in line)
        done = run("meta", "show", path, "--json")
        shown = [json.loads(line) for line in done.stdout.splitlines()]
        assert (done.returncode, done.stderr) == (0, "")
        assert [each["server"] for each in shown] == [server.name for server in cluster.servers]
        assert {(each["memory"]["group"], each["memory"]["size"]) for each in shown} == {("0", 3)}
        assert len({each["memory"]["run_id"] for each in shown}) == 3
        table = run("meta", "show", path).stdout
        assert table.count("0 of 3") == 3
        assert "8 s" in table  # the power of two of the check's 5 s


def test_meta_init_asks_first() -> None:
    with EmbeddedCluster(1, 3, options={"connect_timeout": 500}) as cluster:
        cluster.servers[2].kill()
        done = run("meta", "init", cluster.options_path)
        assert done.returncode == 1
        assert "is every lock free, and has nobody a lease?" in done.stderr
        assert "grants locks" not in done.stdout


def test_meta_init_has_nothing_to_ask_where_every_server_grants_locks(cluster: EmbeddedCluster) -> None:
    done = run("meta", "init", cluster.options_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "every server grants locks already\n", "")


def test_meta_init_says_which_servers_it_may_not_tell(tmp_path: Path) -> None:
    with EmbeddedCluster(1, 3, options={"connect_timeout": 500}) as cluster:
        cluster.servers[2].kill()
        for server in cluster.servers[:2]:
            said(server, "ACL SETUSER op on >pw ~* &* +@all -hset")
        who = {"username": "op", "password": "pw"}
        path = tmp_path / "op.yaml"
        path.write_text(yaml.safe_dump({"servers": [{"port": server.port, **who} for server in cluster.servers]}))
        done = run("meta", "init", path, "--yes")
        assert done.returncode == 1
        assert done.stdout == ""
        for server in cluster.servers[:2]:
            (line,) = [line for line in done.stderr.splitlines() if server.name in line]
            assert "can't be told that it grants locks: " in line
            assert "hset" in line


def test_servers_of_other_deployments_are_not_asked_about(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    groups = {"a": cluster.options["cluster"], "b": [{"servers": [{"port": 1}]}]}
    each = {name: {"cluster": of, "key_prefix": f"{name}:", "connect_timeout": 500} for name, of in groups.items()}
    path.write_text(yaml.safe_dump({"deployments": each}))
    for command in (["meta", "show"], ["meta", "init"], ["check"], ["check", "--wait-quarantine"]):
        assert run(*command, path, "--deployment", "a").returncode == 0
        assert (
            run(*command[:2], *(["--timeout", "0.2"] if "--wait-quarantine" in command else []), path).returncode == 1
        )
    for server in cluster.servers:
        said(server, "FLUSHALL")


def test_wait_for_quarantine_ends_with_its_timeout() -> None:
    with EmbeddedCluster(1, 3, options={"connect_timeout": 500}) as cluster, Supervisor(cluster.options):
        cluster.servers[0].kill()
        done = run("check", cluster.options_path, "--wait-quarantine", "--timeout", "0.3")
        assert done.returncode == 1
        assert f"waiting for {cluster.servers[0].name} (down: " in done.stderr
        assert "every group gave a lock" in done.stdout


def test_inspect_does_not_call_free_what_servers_have_forgotten() -> None:
    with EmbeddedCluster(1, 3) as cluster, Supervisor(cluster.options) as redlock:
        lease = redlock.lock("job", 60).value
        for server in cluster.servers[:2]:
            server.kill()
            server.start()
        deadline = time.monotonic() + 20
        while (done := run("inspect", cluster.options_path, "job")).stdout.count("nobody, but ") < 2:
            assert time.monotonic() < deadline, done.stdout
        assert done.returncode == 1
        assert done.stdout.startswith("job: unknown (group 0)\n")
        assert lease.token


def test_version_is_told() -> None:
    assert run("--version").stdout == f"redlock-cluster {redlock_cluster.__version__}\n"


@pytest.mark.parametrize("arguments", [["inspect", ""], ["route", ""], ["force-release", "", "--yes"]])
def test_what_can_be_no_resource_is_said_in_a_line(cluster: EmbeddedCluster, arguments: list[str]) -> None:
    done = run(arguments[0], cluster.options_path, *arguments[1:])
    assert done.returncode == 2
    assert done.stderr.startswith("redlock-cluster: a resource")
    assert len(done.stderr.splitlines()) == 1


def test_check_with_a_group_without_quorum_exits_with_1_and_names_it() -> None:
    with EmbeddedCluster(2, 3, options={"connect_timeout": 500}) as cluster, Supervisor(cluster.options):
        cluster.groups[1][0].kill()
        cluster.groups[1][2].pause()
        done = run("check", cluster.options_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "can't lock: 1"
    (line,) = [line for line in done.stdout.splitlines() if cluster.groups[1][1].name in line]
    assert "not asked: too few servers of its group are usable" in line


def test_check_locks_on_every_group_and_leaves_nothing(cluster: EmbeddedCluster) -> None:
    done = run("check", cluster.options_path)
    assert done.stdout.splitlines()[-1] == "every group gave a lock and took it back"
    for server in cluster.servers:
        (line,) = [line for line in done.stdout.splitlines() if server.name in line]
        assert " for " in line
        assert said(server, "DBSIZE") == b":1"  # what it remembers of itself
        assert b"cmdstat_set:calls=" in said(server, "INFO commandstats")


def test_check_of_servers_that_refuse_exits_with_1_and_shows_why() -> None:
    with EmbeddedCluster(2, 3) as cluster, Supervisor(cluster.options):
        full, evicting = cluster.groups[1][:2], cluster.groups[0][0]
        for server in full:
            assert said(server, "CONFIG SET maxmemory 1") == b"+OK"
        said(evicting, "CONFIG SET maxmemory 1000000000")
        said(evicting, "CONFIG SET maxmemory-policy volatile-lru")
        done = run("check", cluster.options_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "can't lock: 1"
    assert "too many servers of its group did not vote" in lines[-2]
    for server in full:
        (line,) = [line for line in lines if server.name in line]
        assert " refusing " in line
        assert " absent " in line
        assert "OOM command not allowed" in line
    (line,) = [line for line in lines if evicting.name in line]
    assert " up " in line
    assert "maxmemory-policy" in line
    assert "volatile-lru" in line


def test_check_of_a_lock_that_can_not_be_given_back_exits_with_1() -> None:
    with EmbeddedCluster(1, 3) as cluster:
        for server in cluster.servers:
            said(server, "ACL SETUSER default -delifeq -evalsha -eval")
        done = run("check", cluster.options_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "can't lock: 0"
    assert "NOPERM" in lines[-2]
    for server in cluster.servers:
        (line,) = [line for line in lines[:-2] if server.name in line]
        assert " refusing " in line
        assert " for " in line
        assert "release: NOPERM" in line


def test_check_of_several_deployments_names_them(several: Path) -> None:
    done = run("check", several)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "can't lock: one/one-0, one/one-1, one/one-2, two/two-0, two/two-1, two/two-2"
    )


@pytest.mark.parametrize("command", [["check"], ["route", "x"]])
def test_wrong_options_are_reported_without_traceback_and_exit_with_2(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("servers: [redis://localhost]\nno_such_option: 1\n")
    done = run(command[0], path, *command[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert "no_such_option" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_file_is_reported_and_exits_with_2(tmp_path: Path) -> None:
    done = run("check", tmp_path / "none.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


# up


@contextlib.contextmanager
def running_up(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [*COMMAND, "up", *map(str, arguments)]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        try:
            yield process
        finally:
            process.kill()


def ports_in(path: Path) -> list[int]:
    """The ports of a whole options file; none while it does not exist."""
    with contextlib.suppress(FileNotFoundError):
        options = yaml.safe_load(path.read_text()) or {}
        return [server["port"] for group in options.get("cluster", []) for server in group["servers"]]
    return []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_runs_until_asked_to_end_and_leaves_nothing(tmp_path: Path, signal_number: signal.Signals) -> None:
    path = tmp_path / "local.yaml"
    with running_up("--groups", "2", "--servers", "3", "--write", path) as process:
        assert wait_until(lambda: len(ports_in(path)) == 6)
        ports = ports_in(path)
        assert all(map(answers, ports))
        assert run("check", path).returncode == 0
        process.send_signal(signal_number)
        output, errors = process.communicate(timeout=20)
    assert f"{path} removed\n6 servers ended\n" in output
    assert (process.returncode, errors) == (0, "")
    assert all(f"127.0.0.1:{port}" in output for port in ports)
    assert f"redlock-cluster check {path}" in output
    assert not any(map(answers, ports))
    assert not path.exists()


def test_up_without_options_writes_nine_servers_into_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2]
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    with running_up() as process:
        assert wait_until(lambda: len(ports_in(tmp_path / "redlock.local.yaml")) == 9)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_up_does_not_overwrite_a_file_it_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("servers: [redis://production]\n")
    done = run("up", "--write", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--force" in done.stderr
    assert path.read_text() == "servers: [redis://production]\n"
    with running_up("--groups", "1", "--write", path, "--force") as process:
        assert wait_until(lambda: len(ports_in(path)) == 3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_up_killed_ends_its_servers_and_the_next_overwrites_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "local.yaml"
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(tmp_path))
    with running_up("--groups", "1", "--write", path) as first:
        assert wait_until(lambda: len(ports_in(path)) == 3)
        ports = ports_in(path)
        refused = run("up", "--write", path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert str(first.pid) in refused.stderr
        assert all(map(answers, ports))
        first.kill()
        first.wait()
    if sys.platform == "linux":
        assert wait_until(lambda: not any(map(answers, ports)))
    assert ports_in(path) == ports
    with running_up("--groups", "1", "--write", path) as second:
        assert wait_until(lambda: ports_in(path) not in ([], ports))
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=20)
    assert not path.exists()


def test_up_leaves_a_file_that_was_changed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    with running_up("--groups", "1", "--write", path) as process:
        assert wait_until(lambda: len(ports_in(path)) == 3)
        path.write_text("mine: now\n")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert path.read_text() == "mine: now\n"
    assert "removed" not in output


def test_up_reports_when_a_server_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    with running_up("--groups", "1", "--write", path) as process:
        assert wait_until(lambda: len(ports_in(path)) == 3)
        with socket.create_connection(("127.0.0.1", ports_in(path)[1]), 5) as connection:
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
        assert process.stderr is not None
        assert process.stderr.readline() == f"server 127.0.0.1:{ports_in(path)[1]} has ended\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.mark.parametrize("arguments", [["--servers", "2"], ["--servers", "0"], ["--groups", "0"]])
def test_up_with_a_number_that_can_not_be_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    done = run("up", "--write", tmp_path / "local.yaml", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[0] in done.stderr


def test_up_without_a_binary_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; from redlock_cluster.testing import binaries; binaries._WHEEL = 'no_such_wheel'\n"
        "from redlock_cluster.cli.main import main; sys.argv[0] = 'redlock-cluster'; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "up", "--write", tmp_path / "local.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install redlock-cluster[embedded]" in done.stderr
    assert "Traceback" not in done.stderr
