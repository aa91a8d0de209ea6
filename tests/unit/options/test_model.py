"""The options models and the schema for editors."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from redlock_cluster.errors import OptionsError
from redlock_cluster.options.file import load_options
from redlock_cluster.options.model import (
    DeploymentEntry,
    DeploymentOptions,
    GroupOptions,
    Options,
    ServerEntry,
    ServerOptions,
    json_schema,
)

CONFIG = Path(__file__).parents[3] / "config"
SERVERS = ["redis://a", "redis://b", "redis://c"]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize(
    ("server", "name"),
    [
        (ServerOptions(), "127.0.0.1:6379"),
        (ServerOptions(host="redis.example", port=7101), "redis.example:7101"),
        (ServerOptions(host="::1"), "[::1]:6379"),
        (ServerOptions(socket="/run/valkey.sock"), "unix:/run/valkey.sock"),
    ],
)
def test_server_name_is_its_address(server: ServerOptions, name: str) -> None:
    assert server.name == name


def test_server_with_socket_has_no_host() -> None:
    assert ServerOptions(socket="/run/valkey.sock").host == ""


@pytest.mark.parametrize(
    "other",
    ["localhost", "LOCALHOST", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost."],
)
def test_loopback_addresses_are_one_process(other: str) -> None:
    assert ServerOptions(host=other).process == ServerOptions().process


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ServerOptions(host="Redis-1"), ServerOptions(host="redis-1"), True),
        (ServerOptions(database=1), ServerOptions(database=2), True),
        (ServerOptions(host="2001:db8::1"), ServerOptions(host="2001:0db8:0::1"), True),
        (ServerOptions(socket="/run/a.sock"), ServerOptions(socket="/run//./a.sock"), True),
        (ServerOptions(port=1), ServerOptions(port=2), False),
        (ServerOptions(host="a"), ServerOptions(host="b"), False),
        (ServerOptions(host="127.0.0.2"), ServerOptions(), False),
        (ServerOptions(socket="/run/a.sock"), ServerOptions(socket="/run/b.sock"), False),
    ],
)
def test_process_identifies_a_server(one: ServerOptions, other: ServerOptions, same: bool) -> None:
    assert (one.process == other.process) is same


def test_options_are_frozen() -> None:
    options = load_options({"servers": SERVERS})
    with pytest.raises(ValidationError):
        options.default = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        options.deployments["default"].groups[0].servers[0].port = 1  # type: ignore[misc]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda options: pickle.loads(pickle.dumps(options))])
def test_copied_options_are_equal(copied) -> None:
    options = load_options({"servers": [{"password": "secret"}]})
    assert copied(options) == options


def test_same_options_in_other_forms_are_equal() -> None:
    flat = {"servers": [{"host": "a", "auth": "pw", "database": 1}], "server_timeout": 300, "retry_interval": "1s"}
    url = {
        "cluster": [["redis://:pw@a:6379/1"]],
        "server_timeout": "0.3s",
        "retry_interval_base": 1000,
        "retry_interval_max": "1000",
    }
    deployments = {"deployments": {"default": url}}
    assert load_options(flat) == load_options(url) == load_options(deployments)


@pytest.mark.parametrize(
    "change",
    [{"pool_size": 3}, {"servers": ["redis://a", "redis://b", "redis://:pw@c"]}, {"key_prefix": ""}, {"owner": "me"}],
)
def test_other_options_are_not_equal(change: dict[str, object]) -> None:
    assert load_options({"servers": SERVERS}) != load_options({"servers": SERVERS, **change})


def test_models_accept_seconds_in_python() -> None:
    group = GroupOptions(name="0", servers=(ServerOptions(),))
    deployment = DeploymentOptions(server_timeout=0.5, retry_interval_max=90, groups=(group,))
    written = {"servers": [{}], "server_timeout": "500ms", "retry_interval_max": "1.5m"}
    assert load_options(written).deployments["default"] == deployment


def test_model_with_maximum_below_base_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than retry_interval_base"):
        DeploymentOptions(retry_interval_base=4, groups=())


def test_model_errors_do_not_show_input() -> None:
    with pytest.raises(ValidationError) as caught:
        ServerEntry(password=123456789)  # type: ignore[arg-type]
    assert "123456789" not in str(caught.value)


def test_importing_options_imports_no_redis() -> None:
    code = (
        "import sys; from redlock_cluster.options.file import load_options;"
        "load_options({'servers': [{}]}); assert 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONFIG.parent)


def test_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_schema_says_unit_and_default_of_every_option() -> None:
    definitions = json_schema()["$defs"]
    assert isinstance(definitions, dict)
    deployment = definitions["deployment"]["properties"]
    server = definitions["server"]["anyOf"][1]["properties"]
    assert set(deployment) == {*DeploymentEntry.model_fields, "servers", "cluster"} - {"groups"}
    assert set(server) == set(ServerEntry.model_fields) - {"credential_provider"}  # no file can hold one
    for name, option in {**deployment, **server}.items():
        assert option["description"]
        assert name in ("servers", "cluster") or "Default: " in option["description"]
    durations = [option for name, option in deployment.items() if "interval" in name or "timeout" in name]
    assert len(durations) > 5
    assert all("milliseconds" in option["description"] for option in durations)


def test_schema_defaults_are_the_defaults() -> None:
    definitions = json_schema()["$defs"]
    assert isinstance(definitions, dict)
    written = {
        name: option["default"]
        for name, option in definitions["deployment"]["properties"].items()
        if option.get("default") is not None
    }
    assert load_options({"servers": SERVERS, **written}) == load_options({"servers": SERVERS})


GOOD: list[object] = [
    {"servers": SERVERS},
    {"servers": [{}]},
    {"servers": [{"host": "a", "port": "7101", "database": 0, "auth": "x", "username": None}]},
    {"servers": [{"host": "a", "password": "x", "auth": None}]},
    {"servers": [{"socket": "/run/a.sock", "ssl": False}]},
    {"servers": [{"ssl": "yes", "ssl_check_hostname": "NO"}]},
    {"cluster": [SERVERS, {"servers": ["redis://d"]}, {"name": "g", "weight": 2, "servers": ["redis://e"]}]},
    {"servers": SERVERS, "server_timeout": 1.5, "connect_timeout": "300 ms", "health_check_interval": "1.5m"},
    {"servers": SERVERS, "retry_interval": "300", "reconnection_interval_base": ".5s", "drift_factor": "0.5"},
    {"servers": SERVERS, "key_prefix": "", "owner": None, "max_retry": 0, "drift_factor": 0, "pool_size": 1000},
    {"deployments": {"orders": {"servers": SERVERS}, "a b.c/d": {"cluster": [SERVERS]}}, "default": "orders"},
    {"servers": SERVERS, "fair": "no", "max_waiting": 1, "waiter_ttl": 100},
    {"servers": SERVERS, "ttl": "5m", "max_hold": 100},
    {"servers": SERVERS, "ttl": 3.5, "max_hold": None},
    {"servers": SERVERS, "x-": 5, "x-common": {"anything": [None, {"pool_sise": 2}]}},
    {"deployments": {"a": {"servers": SERVERS}}, "x-common": {"pool_size": 2}},
]
BAD: list[object] = [
    None,
    [],
    {},
    "servers",
    {"servers": []},
    {"servers": "redis://a"},
    {"servers": SERVERS[:2]},
    {"servers": ["a:6379"]},
    {"servers": SERVERS, "cluster": [SERVERS]},
    {"servers": SERVERS, "default": "default"},
    {"cluster": []},
    {"cluster": [[]]},
    {"cluster": [{"name": "a"}]},
    {"cluster": [{"weight": 0, "servers": SERVERS}]},
    {"cluster": ["redis://a"]},
    {"deployments": {}},
    {"deployments": {"a": {"servers": SERVERS}}, "pool_size": 2},
    {"deployments": {"a": {}}},
    {"deployments": {"a@b": {"servers": SERVERS}}},
    {"servers": SERVERS, "pool_sise": 2},
    {"x-common": {"servers": SERVERS}},
    {"servers": SERVERS, "X-common": {}},
    {"deployments": {"a": {"servers": SERVERS, "x-common": {}}}},
    {"cluster": [{"servers": SERVERS, "x-common": {}}]},
    {"servers": [{"x-common": {}}]},
    {"servers": SERVERS, "pool_size": 0},
    {"servers": SERVERS, "pool_size": None},
    {"servers": SERVERS, "pool_size": 2.5},
    {"servers": SERVERS, "pool_size": True},
    {"servers": SERVERS, "drift_factor": 1},
    {"servers": SERVERS, "drift_factor": "1.0"},
    {"servers": SERVERS, "server_timeout": 0},
    {"servers": SERVERS, "server_timeout": "0 ms"},
    {"servers": SERVERS, "server_timeout": "1d"},
    {"servers": SERVERS, "server_timeout": "-1s"},
    {"servers": SERVERS, "fair": 1},
    {"servers": SERVERS, "max_waiting": 0},
    {"servers": SERVERS, "waiter_ttl": 99},
    {"servers": SERVERS, "ttl": 0.5},
    {"servers": SERVERS, "ttl": None},
    {"servers": SERVERS, "max_hold": 0},
    {"servers": SERVERS, "max_hold": "none"},
    {"servers": SERVERS, "owner": ""},
    {"servers": SERVERS, "key_prefix": 5},
    {"servers": SERVERS, "retry_interval": 5, "retry_interval_max": 5},
    {"servers": [{"port": 65536}]},
    {"servers": [{"password": 123}]},
    {"servers": [{"password": ""}]},
    {"servers": [{"password": "a", "auth": "a"}]},
    {"servers": [{"password": "a", "password_file": "a"}]},
    {"servers": [{"socket": "/a", "port": 1}]},
    {"servers": [{"socket": "/a", "ssl": True}]},
    {"servers": [{"ssl_check_hostname": True}]},
    {"servers": [{"ssl": "off", "ssl_ca_certs": "ca.pem"}]},
    {"servers": [{"ssl": True, "ssl_keyfile": "key.pem"}]},
    {"servers": [{"ssl": 1}]},
    {"servers": [{"name": "a"}]},
]


@pytest.mark.parametrize("document", GOOD, ids=str)
def test_good_document_passes_schema_and_loader(document: dict[str, object]) -> None:
    VALIDATOR.validate(document)
    assert isinstance(load_options(document), Options)


@pytest.mark.parametrize("document", BAD, ids=str)
def test_bad_document_fails_schema_and_loader(document: object, tmp_path: Path) -> None:
    assert not VALIDATOR.is_valid(document)
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(OptionsError):
        load_options(file)


@pytest.mark.parametrize("name", ["redlock.yaml", "single.yaml"])
def test_shipped_files_pass_schema(name: str) -> None:
    VALIDATOR.validate(yaml.safe_load((CONFIG / name).read_text()))


@pytest.mark.parametrize("value", ["${A}", "x${A}", "${A}0"])
def test_variables_pass_schema_where_other_text_does_not(value: str) -> None:
    for document in (
        {"servers": [value]},
        {"servers": [{"port": value, "ssl": value, "ssl_ca_certs": "ca.pem"}]},
        {"servers": SERVERS, "server_timeout": value, "drift_factor": value, "pool_size": value},
    ):
        VALIDATOR.validate(document)


def test_duration_below_its_least_says_what_is_least() -> None:
    with pytest.raises(OptionsError) as caught:
        load_options({"servers": SERVERS, "waiter_ttl": "0.09s"})
    assert caught.value.problems == (("waiter_ttl", "write at least 100ms"),)


def test_waiting_is_fair_and_bounded_if_nothing_is_said() -> None:
    (deployment,) = load_options({"servers": SERVERS}).deployments.values()
    assert (deployment.fair, deployment.max_waiting, deployment.waiter_ttl) == (True, 100_000, 6.0)


def test_leases_without_a_ttl_have_half_a_minute_and_no_end_if_nothing_is_said() -> None:
    (deployment,) = load_options({"servers": SERVERS}).deployments.values()
    assert (deployment.ttl, deployment.max_hold) == (30.0, None)
    written = {"servers": SERVERS, "ttl": timedelta(seconds=10), "max_hold": "2m", "max_ttl": "1.5h"}
    (deployment,) = load_options(written).deployments.values()
    assert deployment.max_ttl == 5400
    assert (deployment.ttl, deployment.max_hold) == (10.0, 120.0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ttl": 0.9}, "write at least 1ms"),
        (
            {"ttl": "60000000m"},
            "longer than max_ttl; lower ttl, or raise max_ttl (when left out, they are 30s and 3600s)",
        ),
        ({"ttl": "2m", "max_ttl": "1m"}, "longer than max_ttl"),
        ({"ttl": 2}, "drift leaves no validity (ttl is 30s when left out); raise it, or lower drift_factor"),
        ({"ttl": 20, "drift_factor": 0.9}, "drift leaves no validity"),
        ({"drift_factor": 0.99999}, "drift leaves no validity"),
    ],
)
def test_ttl_that_no_lock_can_have_is_a_problem(options: dict[str, object], problem: str) -> None:
    with pytest.raises(OptionsError) as caught:
        load_options({"servers": SERVERS, **options})
    ((path, text),) = caught.value.problems
    assert path == "ttl"
    assert text.startswith(problem)
