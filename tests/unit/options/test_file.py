"""Options files and mappings: what they may contain, every problem they may have, and that no password is shown."""

from __future__ import annotations

import os
import re
import traceback
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy
import pytest
from pydantic import SecretStr

from redlock_cluster.core.ring import Ring
from redlock_cluster.errors import OptionsError, RedlockError
from redlock_cluster.options.credentials import Credentials, CredentialsMissing, Written
from redlock_cluster.options.file import load_options
from redlock_cluster.options.model import DeploymentEntry, DeploymentOptions, Options, ServerEntry, ServerOptions

CONFIG = Path(__file__).parents[3] / "config"
SERVERS = ["redis://a", "redis://b", "redis://c"]
BAD_URL = "not a valid redis://, rediss:// or unix:// URL (percent-encode special characters of a password)"
BAD_DURATIONS = [
    *(0, -1, 0.0, "0ms", "-5s", "5 d", "", "s", True, [], float("nan"), float("inf"), 10**400),
    *(numpy.bool_(True), Decimal("sNaN"), Fraction(-1, 2)),
]
SECRET = "Hunter2Swordfish"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        file = tmp_path / "options.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


def problems(source: object) -> list[tuple[str, str]]:
    with pytest.raises(OptionsError) as caught:
        load_options(source)  # type: ignore[arg-type]
    return list(caught.value.problems)


def only_problem(source: object) -> tuple[str, str]:
    (problem,) = problems(source)
    return problem


def flat(**options: object) -> DeploymentOptions:
    return load_options({"servers": SERVERS, **options}).deployments["default"]


def server(node: object) -> ServerOptions:
    return load_options({"servers": [node]}).deployments["default"].groups[0].servers[0]


def known(password: str | None, username: str | None = None) -> Written:
    return Written(username, None if password is None else SecretStr(password))


def login(node: object) -> tuple[str, str] | None:
    """Who logs in at a server now."""
    credentials = server(node).credentials
    return None if credentials is None else said_by(credentials)


def said_by(credentials: Credentials) -> tuple[str, str] | None:
    found = credentials.read()
    return None if found is None else (found.username, found.password.get_secret_value())


# Shipped files


@pytest.mark.parametrize("name", ["redlock.yaml", "single.yaml"])
def test_shipped_file_has_every_option(name: str) -> None:
    text = (CONFIG / name).read_text()
    for option in {*DeploymentEntry.model_fields, *ServerEntry.model_fields} - {"groups", "credential_provider"}:
        assert re.search(rf"\b{option}: ", text), option


@pytest.mark.parametrize("name", ["redlock.yaml", "single.yaml"])
def test_commented_options_of_shipped_file_are_the_defaults(name: str, write) -> None:
    text = (CONFIG / name).read_text()
    live = re.sub(r"(?m)^# (?!owner|max_hold|default:|deployments:)([a-z_]+: )", r"\1", text)
    live = re.sub(r"(?m)^( *)# ((database|ssl|ssl_check_hostname|weight): )", r"\1\2", live)
    live = live.replace("ssl_check_hostname", "# ssl_check_hostname")  # only with ssl
    assert len(re.findall(r"(?m)^[a-z_]+: ", live)) >= 11
    assert load_options(write(live)) == load_options(CONFIG / name)


# Forms


def test_servers_make_one_group_named_0() -> None:
    (group,) = flat().groups
    assert (group.name, group.weight, len(group.servers)) == ("0", 1, 3)


def test_cluster_may_be_lists_and_maps() -> None:
    cluster = [["redis://a"], {"servers": ["redis://b"]}, {"name": "third", "weight": "2", "servers": ["redis://c"]}]
    groups = load_options({"cluster": cluster}).deployments["default"].groups
    assert [(group.name, group.weight) for group in groups] == [("0", 1), ("1", 1), ("third", 2)]


@pytest.mark.parametrize(
    ("names", "chosen", "default"),
    [(["a", "b"], None, None), (["a", "default"], None, "default"), (["a", "default"], "a", "a"), (["a"], None, None)],
)
def test_deployments_have_a_default_by_name_or_by_choice(
    names: list[str], chosen: str | None, default: str | None
) -> None:
    source: dict[str, object] = {"deployments": {name: {"servers": SERVERS} for name in names}}
    options = load_options(source if chosen is None else {**source, "default": chosen})
    assert options.default == default
    assert list(options.deployments) == names


def test_same_server_in_two_deployments_is_allowed() -> None:
    load_options({"deployments": {"a": {"servers": SERVERS}, "b": {"servers": SERVERS}}})


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({}, ServerOptions()),
        ({"host": "::1", "port": "7101", "database": "2"}, ServerOptions(host="::1", port=7101, database=2)),
        ({"auth": SecretStr("pw")}, ServerOptions(credentials=known("pw"))),
        ({"auth": "pw"}, ServerOptions(credentials=known("pw"))),
        ({"username": "me", "password": "pw"}, ServerOptions(credentials=known("pw", "me"))),
        ({"username": "me"}, ServerOptions(credentials=known(None, "me"))),
        ({"password": None, "socket": None, "auth": "pw"}, ServerOptions(credentials=known("pw"))),
        ({"ssl_ca_certs": None, "ssl_keyfile": None}, ServerOptions()),
        ({"socket": "/run/a.sock"}, ServerOptions(socket="/run/a.sock")),
        ({"ssl": "yes", "ssl_check_hostname": "off"}, ServerOptions(ssl=True, ssl_check_hostname=False)),
        ("redis://a", ServerOptions(host="a")),
        ("redis://a/", ServerOptions(host="a")),
        ("redis://a:7101/3", ServerOptions(host="a", port=7101, database=3)),
        ("redis://a?db=3", ServerOptions(host="a", database=3)),
        ("redis://[::1]:7101", ServerOptions(host="::1", port=7101)),
        ("redis://me:p%40%23%2F%3Fw@a", ServerOptions(host="a", credentials=known("p@#/?w", "me"))),
        ("redis://me@a", ServerOptions(host="a", credentials=known(None, "me"))),
        ("redis://me:@a", ServerOptions(host="a", credentials=known(None, "me"))),
        ("redis://:p@w@a", ServerOptions(host="a", credentials=known("p@w"))),
        ("rediss://a?ssl_check_hostname=no", ServerOptions(host="a", ssl=True, ssl_check_hostname=False)),
        ("unix:///run/a%20b.sock?db=1", ServerOptions(socket="/run/a b.sock", database=1)),
        ("unix://me:pw@/run/a.sock", ServerOptions(socket="/run/a.sock", credentials=known("pw", "me"))),
    ],
    ids=str,
)
def test_server_is_read_from_map_or_url(node: object, expected: ServerOptions) -> None:
    assert server(node) == expected


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (300, 0.3), (0.5, 0.0005), ("300", 0.3), ("300ms", 0.3), ("300 ms", 0.3), (" 2s ", 2.0), ("1.5 m", 90.0),
        (".5s", 0.5), ("0.25", 0.00025),
        (Decimal("0.5"), 0.0005), (Fraction(1, 2), 0.0005), (numpy.int64(300), 0.3), (numpy.float32(0.5), 0.0005),
    ],
)  # fmt: skip
def test_duration_is_read_as_seconds(written: object, seconds: float) -> None:
    assert flat(server_timeout=written).server_timeout == seconds


@pytest.mark.parametrize("share", [Decimal("0.25"), Fraction(1, 4), numpy.float64(0.25), "0.25"], ids=repr)
def test_share_is_any_number(share: object) -> None:
    assert flat(drift_factor=share).drift_factor == 0.25


@pytest.mark.parametrize("name", ["retry_interval", "reconnection_interval"])
def test_interval_sets_base_and_max(name: str) -> None:
    options = flat(**{name: "7s"})
    assert (getattr(options, f"{name}_base"), getattr(options, f"{name}_max")) == (7.0, 7.0)


def test_any_mapping_is_accepted_and_not_changed() -> None:
    source = MappingProxyType({"servers": ({"host": "a", "ssl": False},), "owner": "$${x}"})
    assert load_options(source).deployments["default"].owner == "${x}"
    assert source == {"servers": ({"host": "a", "ssl": False},), "owner": "$${x}"}


def test_merge_keys_work_and_can_be_overridden(write) -> None:
    text = (
        "deployments:\n  a: &a\n    pool_size: 3\n    owner: me\n    servers: [redis://a]\n"
        "  b:\n    <<: *a\n    pool_size: 4\n"
    )
    options = load_options(write(text)).deployments["b"]
    assert (options.pool_size, options.owner, len(options.groups)) == (4, "me", 1)


EXTENDED = """
x-login: &login {username: locker, password: "${REDLOCK_TEST_PASSWORD}"}
x-common: &common
  pool_size: 2
  server_timeout: 1s
deployments:
  orders:
    <<: *common
    servers: [{host: a, <<: *login}]
  bills:
    <<: *common
    pool_size: 3
    servers: [{host: b, <<: *login, password: other}]
"""


def test_parts_below_x_count_where_they_are_merged(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TEST_PASSWORD", "tr0ub4dor-and-3")
    deployments = load_options(write(EXTENDED)).deployments
    assert deployments.keys() == {"orders", "bills"}
    assert [(one.pool_size, one.server_timeout) for one in deployments.values()] == [(2, 1.0), (3, 1.0)]
    logins = [said_by(one.groups[0].servers[0].credentials) for one in deployments.values()]  # type: ignore[arg-type]
    assert logins == [("locker", "tr0ub4dor-and-3"), ("locker", "other")]


def test_unset_variable_below_x_is_a_problem_where_it_is_used_only(write) -> None:
    """The second server overrides it."""
    assert only_problem(write(EXTENDED)) == (
        "deployments.orders.servers[0].password",
        "the environment variable REDLOCK_TEST_PASSWORD is not set",
    )
    assert flat(**{"x-login": {"password": "${REDLOCK_TEST_PASSWORD}", "owner": "${"}}) == flat()


def test_mistakes_below_x_are_problems_of_the_yaml_only(write) -> None:
    text = "servers: [redis://a]\nx-a: {5: {pool_size: 0}}\nx-b: {auth: Hunter2Swordfish, auth: Hunter2Swordfish}\n"
    assert only_problem(write(text)) == ("x-b.auth", "given twice, in lines 3 and 3; keep one")
    text = "servers: [{password: *Hunter2Swordfish}]\nx-a: &a {password: Hunter2Swordfish}\n"
    assert only_problem(write(text))[1].startswith("not valid YAML: nothing defines the alias")


def test_part_below_x_that_contains_itself_is_a_problem_where_it_is_used_only(write) -> None:
    assert load_options(write("x-a: &a [*a]\nservers: [redis://a]\n")) == load_options({"servers": ["redis://a"]})
    assert only_problem(write("x-a: &a [*a]\nservers: *a\n"))[1].startswith("nested too deeply")


def test_bad_value_below_x_shows_no_password(write) -> None:
    text = "x-login: &login {password: Hunter2Swordfish, port: Hunter2Swordfish}\nservers: [*login]\n"
    path, problem = only_problem(write(text))
    assert path == "servers[0].port"
    assert SECRET not in problem


def test_two_merge_keys_in_one_map_work(write) -> None:
    text = (
        "deployments:\n  a: &a {pool_size: 3, servers: [redis://a]}\n  b: &b {owner: me, servers: [redis://b]}\n"
        "  c: {<<: *a, <<: *b}\n"
    )
    options = load_options(write(text)).deployments["c"]
    assert (options.pool_size, options.owner) == (3, "me")


@pytest.mark.parametrize("text", ["0777", "71:01", "2024-01-31", "yes", "1_000", "=", "0x1F", "!!str 123"])
def test_text_that_yaml_1_1_would_change_stays_text(text: str, write) -> None:
    options = load_options(write(f"servers: [{{}}]\nowner: {text}\n")).deployments["default"]
    assert options.owner == text.removeprefix("!!str ")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfservers: [{}]", "servers: [{}]".encode("utf-16")])
def test_file_may_begin_with_a_byte_order_mark(content: bytes, write) -> None:
    assert isinstance(load_options(write(content)), Options)


# Environment and password files


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${NAME}", "value"), ("a${NAME}b${NAME}", "avaluebvalue"), ("$${NAME}", "${NAME}"), ("$NAME $$", "$NAME $$"),
        ("$$${NAME}", "$${NAME}"), ("${NESTED}", "${NAME}"),
    ],
)  # fmt: skip
def test_variables_are_expanded_once(written: str, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "value")
    monkeypatch.setenv("NESTED", "${NAME}")
    assert flat(key_prefix=written).key_prefix == read


def test_variables_give_numbers_flags_and_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "7101", "TLS": "true", "WAIT": "300", "UNIT": "s", "DRIFT": "0.5"}.items():
        monkeypatch.setenv(name, value)
    node = {"host": "a", "port": "${PORT}", "ssl": "${TLS}"}
    options = load_options(
        {"servers": [node], "server_timeout": "${WAIT}", "connect_timeout": "2${UNIT}", "drift_factor": "${DRIFT}"}
    ).deployments["default"]
    assert options.groups[0].servers[0] == ServerOptions(host="a", port=7101, ssl=True)
    assert (options.server_timeout, options.connect_timeout, options.drift_factor) == (0.3, 2.0, 0.5)


def test_variables_are_expanded_in_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "p%40w")
    assert login("redis://:${PASSWORD}@a") == ("default", "p@w")
    assert server("redis://:${PASSWORD}@a").host == "a"


@pytest.mark.parametrize("option", ["port", "ssl", "password", "host", "socket", "auth"])
def test_unset_variable_is_one_problem(option: str) -> None:
    assert only_problem({"servers": [{option: "${REDLOCK_TEST_UNSET}"}]}) == (
        f"servers[0].{option}",
        "the environment variable REDLOCK_TEST_UNSET is not set",
    )


@pytest.mark.parametrize("path", ["servers", "servers[0]", "retry_interval_base", "retry_interval_max"])
def test_unset_variable_has_no_follow_up(path: str) -> None:
    source: dict[str, object] = {"servers": SERVERS, "retry_interval_max": "300ms"}
    source.update({"servers": ["${NO}"]} if path == "servers[0]" else {path: "${NO}"})
    assert [found for found, _ in problems(source)] == [path]


def test_unset_variable_for_ssl_has_no_follow_up() -> None:
    source = {"servers": [{"ssl": "${NO}", "ssl_ca_certs": "/nowhere"}]}
    assert [path for path, _ in problems(source)] == ["servers[0].ssl"]


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A-b}", "a${b c}"])
def test_malformed_variable_is_a_problem(text: str) -> None:
    path, problem = only_problem({"servers": SERVERS, "owner": text})
    assert (path, problem) == ("owner", "write a variable as ${NAME}, and ${ that is no variable as $${")


@pytest.mark.parametrize(("content", "password"), [("pw\n", "pw"), ("pw\r\n", "pw"), (" p w ", " p w "), ("é", "é")])
def test_password_file_is_read_without_its_newline(content: str, password: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    assert login({"password_file": file}) == ("default", password)


def test_password_file_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("pw")
    monkeypatch.setenv("SECRETS", str(tmp_path))
    assert login({"password_file": "${SECRETS}/password", "username": "me"}) == ("me", "pw")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file can't be read: No such file or directory"),
        (b"", "the file is empty or too long for a password"),
        (b"\n", "the file is empty or too long for a password"),
        (b"x" * 70_000, "the file is empty or too long for a password"),
        (b"\xff\xfe", "the file is not UTF-8 text"),
    ],
)
def test_bad_password_file_is_a_problem(content: bytes | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    assert only_problem({"servers": [{"password_file": str(file)}]}) == ("servers[0].password_file", problem)


@pytest.mark.parametrize(
    "node",
    [
        {"username": "${WHO}", "password": "${HOW}"},
        {"username": "${WHO}", "auth": "${HOW}"},
        "redis://${WHO}:${HOW}@a",
        "redis://${LOGIN}@a",
        "${URL}",
    ],
    ids=str,
)
def test_credentials_are_read_from_the_environment_each_time(node: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def environment(who: str, how: str) -> None:
        values = {"WHO": who, "HOW": how, "LOGIN": f"{who}:{how}", "URL": f"redis://{who}:{how}@a"}
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    environment("me", "pw")
    credentials = server(node).credentials
    assert credentials is not None
    assert said_by(credentials) == ("me", "pw")
    environment("you", "new")
    assert said_by(credentials) == ("you", "new")
    environment("you", "")
    if isinstance(node, str):
        assert said_by(credentials) == ("you", "")  # as a URL without a password
    else:
        with pytest.raises(CredentialsMissing, match=r"^password: empty"):
            credentials.read()


@pytest.mark.parametrize(
    ("node", "read"),
    [
        ({"password": "a$${b}"}, "a${b}"),
        ({"password": SecretStr("a${b}$${c}")}, "a${b}$${c}"),
        ("redis://:a%24%7Bb%7D@a", "a${b}"),
    ],
    ids=["escaped", "not to be expanded", "in a URL"],
)
def test_passwords_that_look_like_variables_stay_as_they_are(node: object, read: str) -> None:
    assert login(node) == ("default", read)


def test_url_with_a_variable_may_name_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "a")
    assert login("redis://${HOST}") is None


def test_options_do_not_change_with_what_their_credentials_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    source = {"servers": [{"password_file": file}, "redis://:${HOW}@b", {"host": "c", "password": "${HOW}"}]}
    read = []
    for password in ("old", "new"):
        file.write_text(password)
        monkeypatch.setenv("HOW", password)
        read.append(load_options(source))
    assert read[0] == read[1]


class Vault:
    def get_credentials(self) -> tuple[str, str]:
        return "me", SECRET


def test_credential_provider_is_asked_each_time_and_not_before() -> None:
    vault = Vault()
    options = [load_options({"servers": [{"credential_provider": vault}]}) for _ in range(2)]
    assert options[0] == options[1] != load_options({"servers": [{"credential_provider": Vault()}]})
    credentials = options[0].deployments["default"].groups[0].servers[0].credentials
    assert credentials is not None
    assert said_by(credentials) == ("me", SECRET)
    assert SECRET not in repr(credentials.read())
    assert "Vault" not in repr(options)


@pytest.mark.parametrize("value", ["vault", 5, {"get_credentials": "x"}, object(), True])
def test_credential_provider_without_its_method_is_a_problem(value: object) -> None:
    assert only_problem({"servers": [{"credential_provider": value}]}) == (
        "servers[0].credential_provider",
        "a credential provider is an object with get_credentials(), which only options given as a mapping can hold; "
        "in a file, write password_file or ${VARIABLE}",
    )


def test_credential_provider_in_a_file_is_a_problem(write) -> None:
    path, problem = only_problem(write("servers: [{credential_provider: my.module.Provider}]"))
    assert path == "servers[0].credential_provider"
    assert "only options given as a mapping can hold" in problem


@pytest.mark.parametrize("name", ["username", "password", "auth", "password_file"])
def test_credential_provider_beside_other_credentials_is_a_problem(name: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pw")
    node = {"credential_provider": Vault(), name: str(tmp_path / "password")}
    assert only_problem({"servers": [node]}) == (
        "servers[0].credential_provider",
        f"given beside {name}; keep one of the two",
    )


# Problems of single options


@pytest.mark.parametrize(
    ("option", "values", "text"),
    [
        ("pool_size", [0, -1, 1001, 2.5, True, "two", "2.5", [], None, 10**30, "9" * 5000], "from 1 to 1000"),
        ("max_retry", [-1, 0.5, False, "-1"], "of at least 0"),
        ("drift_factor", [-0.01, 1, 1.5, True, "1", "x", float("nan"), float("inf"), [], 10**400], "less than 1"),
        *(
            (name, BAD_DURATIONS, "above zero")
            for name in DeploymentEntry.model_fields
            if "interval" in name or "timeout" in name or name in ("ttl", "max_hold")
        ),
        ("key_prefix", [5, True, ["a"], None], ""),
        ("owner", ["", "a\nb", "a\x7f", 5], ""),
    ],
)  # fmt: skip
def test_value_out_of_range_is_a_problem(option: str, values: list[object], text: str) -> None:
    for value in values:
        path, problem = only_problem({"servers": SERVERS, option: value})
        assert path == option
        assert text in problem or (value is None and problem.startswith("no value"))


@pytest.mark.parametrize(
    ("option", "values", "text"),
    [
        ("port", [0, 65536, -1, True, 6379.0, "x"], "write a whole number from 1 to 65535"),
        ("database", [-1, 1.5], "write a whole number of at least 0"),
        (
            "host",
            ["a:7101", "redis://a", "[::1]", "a b", "a/b", "u@a", "1::2::3"],
            "write a host name or an IP address",
        ),
        ("host", [5, 127.1], "text is expected; put it in quotes"),
        ("password", [123456, 1.5, True, ["a"]], "text is expected; put it in quotes"),
        ("auth", [123456], "text is expected; put it in quotes"),
        ("password", [""], "empty"),
        ("ssl", [1, "maybe", "tRUE", []], "write true or false"),
        ("username", ["\udcff"], "contains bytes that are not UTF-8"),
    ],
)
def test_bad_value_of_a_server_is_a_problem(option: str, values: list[object], text: str) -> None:
    for value in values:
        path, problem = only_problem({"servers": [{option: value}]})
        assert path == f"servers[0].{option}"
        assert problem.startswith(text)


@pytest.mark.parametrize(
    ("node", "path", "text"),
    [
        ({"socket": "/a", "host": "b"}, ".socket", "given beside host"),
        ({"socket": "/a", "port": 1}, ".socket", "given beside port"),
        ({"auth": "a", "password": "a"}, ".auth", "given beside password"),
        ({"socket": "/a", "ssl": True}, ".ssl", "a Unix socket has no TLS"),
        ({"ssl_ca_certs": "ca.pem"}, ".ssl_ca_certs", "has no effect without ssl: true"),
        ({"ssl": False, "ssl_check_hostname": True}, ".ssl_check_hostname", "has no effect without ssl: true"),
        ({"ssl": True, "ssl_ca_certs": "/nowhere/ca.pem"}, ".ssl_ca_certs", "no such file"),
        ({"ssl": True, "ssl_keyfile": __file__}, ".ssl_keyfile", "a key without its certificate"),
        ("rediss://a?ssl_ca_certs=/nowhere/ca.pem", "", "ssl_ca_certs: no such file"),
        ("redis://a?ssl_check_hostname=no", "", "ssl_check_hostname: has no effect without ssl: true"),
    ],
    ids=str,
)
def test_options_of_a_server_that_clash_are_a_problem(node: object, path: str, text: str) -> None:
    found, problem = only_problem({"servers": [node]})
    assert found == f"servers[0]{path}"
    assert problem.startswith(text)


def test_password_beside_password_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pw")
    node = {"password": "a", "password_file": str(tmp_path / "password")}
    assert only_problem({"servers": [node]}) == (
        "servers[0].password",
        "given beside password_file; keep one of the two",
    )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:6379", BAD_URL),
        ("http://a", BAD_URL),
        ("REDIS://a", BAD_URL),
        ("", BAD_URL),
        ("redis://:p#ss@a:1", BAD_URL),
        ("redis://:p/ss@a:1", BAD_URL),
        ("redis://:p?ss@a:1", BAD_URL),
        ("redis://u:12#ss@a:1", BAD_URL),
        ("redis://u:12/3@a:1", BAD_URL),
        ("redis://u:12?db=3&x=y@a:1", BAD_URL),
        ("redis://a#1", BAD_URL),
        ("redis://a b", BAD_URL),
        ("redis://a\nb", BAD_URL),
        ("redis://:%ff@a", BAD_URL),
        ("redis://[::1", BAD_URL),
        ("redis://a?db", BAD_URL),
        ("redis://a:99999", "the port of the URL must be from 1 to 65535"),
        ("redis://a:0", "the port of the URL must be from 1 to 65535"),
        ("redis://a:", "port: write a whole number from 1 to 65535"),
        ("redis://", "the URL names no host"),
        ("redis:///1", "the URL names no host"),
        ("redis://:pw@:7101", "the URL names no host"),
        ("redis://a/abc", "what follows the host must be the number of a database"),
        ("redis://a/1/2", "what follows the host must be the number of a database"),
        ("redis://a?db=", "database: write a whole number"),
        ("redis://a/1?db=2", "the URL gives database twice"),
        ("redis://a?db=1&db=2", "the URL gives database twice"),
        ("redis://a?socket_timeout=5", "the URL has an unknown parameter; there are db, ssl_ca_certs"),
        ("rediss://a?ssl_check_hostname=maybe", "ssl_check_hostname: write true or false"),
        ("redis://a,b", "host: write a host name"),
        ("unix://", "write the path of a Unix socket as unix:///path"),
        ("unix://run/a.sock", "write the path of a Unix socket as unix:///path"),
        ("unix://:1/2@/run/a.sock", BAD_URL),
        ("unix:///a.sock?ssl_check_hostname=no", "ssl_check_hostname: has no effect"),
    ],
)
def test_bad_url_is_a_problem(url: str, text: str) -> None:
    path, problem = only_problem({"servers": [url]})
    assert path == "servers[0]"
    assert problem.startswith(text)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"retry_interval_base": "2s", "retry_interval_max": "1s"}, "retry_interval_max"),
        ({"retry_interval_base": "4s"}, "retry_interval_max"),
        ({"retry_interval_max": 299}, "retry_interval_max"),
        ({"reconnection_interval_base": "6s"}, "reconnection_interval_max"),
    ],
)
def test_interval_max_below_base_is_a_problem(options: dict[str, object], path: str) -> None:
    found, problem = only_problem({"servers": SERVERS, **options})
    assert found == path
    default = {"retry_interval_max": "3s", "reconnection_interval_max": "5s"}[path]
    base = path.replace("max", "base")
    assert problem == f"less than {base} ({path} is {default} when left out); raise it, or lower {base}"


def test_interval_max_equal_to_base_is_allowed() -> None:
    assert flat(retry_interval_base="3s").retry_interval_base == 3.0


@pytest.mark.parametrize("end", ["base", "max"])
def test_interval_beside_one_of_its_ends_is_a_problem(end: str) -> None:
    problem = only_problem({"servers": SERVERS, "retry_interval": "1s", f"retry_interval_{end}": "1s"})
    assert problem == ("retry_interval", f"given beside retry_interval_{end}; keep one of the two")


# Problems of structure


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"servers": SERVERS, "pool_sise": 3}, ("pool_sise", "unknown option, did you mean pool_size?")),
        ({"servers": SERVERS, "Owner": 3}, ("Owner", "unknown option, did you mean owner?")),
        ({"servers": SERVERS, "zzz": 3}, ("zzz", "unknown option; remove it, or correct its name or its place")),
        ({"servers": SERVERS, "groups": []}, ("groups", "unknown option; remove it, or correct its name or its place")),
        ({"servers": [{"prot": 1}]}, ("servers[0].prot", "unknown option, did you mean port?")),
        (
            {"cluster": [{"servers": SERVERS, "wait": 1}]},
            ("cluster[0].wait", "unknown option, did you mean weight?"),
        ),
        ({"server": SERVERS}, ("server", "unknown option, did you mean servers?")),
        ({"deployment": {}}, ("deployment", "unknown option, did you mean deployments?")),
        (
            {"servers": SERVERS, "two words": 1},
            ("", "an unknown option that may be a value gone astray; write `name: value`"),
        ),
        (
            {"servers": SERVERS, 5: 1},
            ("", "a name is not text; put names that look like numbers, true or null in quotes"),
        ),
        ({"servers": SERVERS, "default": "default"}, ("default", "only together with deployments; remove it")),
        (
            {"deployments": {"a": {"servers": SERVERS}}, "pool_size": 1},
            ("pool_size", "stands beside deployments; move it into the deployments it is for"),
        ),
        (
            {"deployments": {"a": {"servers": SERVERS}}, "cluster": [SERVERS]},
            ("cluster", "stands beside deployments; move it into the deployments it is for"),
        ),
        (
            {"deployments": {"a": {"servers": SERVERS}}, "default": "b"},
            ("default", "no such deployment; there are a"),
        ),
        (
            {"deployments": {"a": {"servers": SERVERS}}, "default": ["a"]},
            ("default", "no such deployment; there are a"),
        ),
        (
            {"deployments": {"a": {"servers": SERVERS, "pool_size": 0}}},
            ("deployments.a.pool_size", "write a whole number from 1 to 1000"),
        ),
        ({"deployments": {"a": {"pool_size": 1}}}, ("deployments.a", "no servers; give servers or cluster")),
        ({"deployments": {}}, ("deployments", "no deployments; give at least one")),
        ({"deployments": []}, ("deployments", "write a map of names to options")),
        ({"deployments": {"a": None}}, ("deployments.a", "write a map of options")),
        ({"pool_size": 2}, ("", "no servers; give servers or cluster or deployments")),
        ({}, ("", "empty; give servers, cluster or deployments")),
        (
            {"servers": SERVERS, "cluster": [["redis://d"]]},
            ("cluster", "given beside servers; keep servers (one group) or cluster (several)"),
        ),
    ],
    ids=str,
)
def test_misplaced_option_is_a_problem(source: object, problem: tuple[str, str]) -> None:
    assert only_problem(source) == problem


def test_bad_name_of_a_deployment_is_a_problem_without_the_name() -> None:
    path, problem = only_problem({"deployments": {"redis://a": {"servers": SERVERS}}})
    assert path == "deployments"
    assert problem.startswith("a name begins with a letter")


FOUR = "4 servers; a group needs an odd number, add or remove one"
NONE = "no servers; a group needs an odd number, add one"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"servers": [*SERVERS, "redis://d"]}, ("servers", FOUR)),
        ({"cluster": [["redis://e"], [*SERVERS, "redis://d"]]}, ("cluster[1]", FOUR)),
        ({"cluster": [["redis://e"], {"servers": [*SERVERS, "redis://d"]}]}, ("cluster[1].servers", FOUR)),
        ({"servers": []}, ("servers", NONE)),
        ({"cluster": [[]]}, ("cluster[0]", NONE)),
        ({"cluster": [{"servers": []}]}, ("cluster[0].servers", NONE)),
        ({"cluster": [{"name": "a"}]}, ("cluster[0]", "no servers; give servers")),
        ({"cluster": []}, ("cluster", "no groups; give at least one")),
        ({"servers": "redis://a"}, ("servers", "write a list of servers")),
        ({"servers": None}, ("servers", "write a list of servers")),
        ({"servers": [5]}, ("servers[0]", "write a map of host, port and so on, or a URL")),
        ({"cluster": {"a": SERVERS}}, ("cluster", "write a list of groups")),
        (
            {"cluster": ["redis://a"]},
            ("cluster[0]", "write a map of name, weight and servers, or a list of servers"),
        ),
        (
            {"cluster": [{"weight": 0, "servers": SERVERS}]},
            ("cluster[0].weight", "write a whole number of at least 1"),
        ),
        (
            {"cluster": [{"name": 5, "servers": SERVERS}]},
            ("cluster[0].name", "text is expected; put it in quotes if it is a number, true or false"),
        ),
        (
            {"cluster": [{"name": "a", "servers": ["redis://a"]}, {"name": "a", "servers": ["redis://b"]}]},
            ("cluster[1]", "the same name as cluster[0]; every group needs its own"),
        ),
        (
            {"cluster": [{"name": "1", "servers": ["redis://a"]}, ["redis://b"]]},
            ("cluster[1]", "the same name as cluster[0]; every group needs its own"),
        ),
    ],
    ids=str,
)
def test_bad_group_is_a_problem(source: object, problem: tuple[str, str]) -> None:
    assert only_problem(source) == problem


@pytest.mark.parametrize(
    ("source", "second", "first"),
    [
        ({"servers": ["redis://a", "redis://b", {"host": "A", "database": 3}]}, "servers[2]", "servers[0]"),
        ({"servers": ["redis://localhost", "redis://b", "redis://[::1]:6379"]}, "servers[2]", "servers[0]"),
        ({"cluster": [["redis://a"], {"servers": ["redis://a"]}]}, "cluster[1].servers[0]", "cluster[0][0]"),
        ({"cluster": [["unix:///a.sock"], [{"socket": "/./a.sock"}]]}, "cluster[1][0]", "cluster[0][0]"),
        (
            {"deployments": {"x": {"servers": ["redis://a", "redis://a", "redis://b"]}}},
            "deployments.x.servers[1]",
            "deployments.x.servers[0]",
        ),
    ],
    ids=str,
)
def test_same_server_twice_is_a_problem(source: object, second: str, first: str) -> None:
    assert only_problem(source) == (second, f"the same server as {first}; it can vote only once, remove one")


def test_same_server_twice_is_reported_although_one_is_wrong() -> None:
    source = {"servers": [{"host": "a", "database": -1}, "redis://b", {"host": "a"}]}
    assert [path for path, _ in problems(source)] == ["servers[0].database", "servers[2]"]


@pytest.mark.parametrize(("heavy", "found"), [(79, []), (80, ["cluster[0].weight"])])
def test_group_without_a_point_on_the_ring_is_a_problem(heavy: int, found: list[str]) -> None:
    source = {"cluster": [["redis://a"], {"weight": heavy, "servers": ["redis://b"]}]}
    if not found:
        load_options(source)
    else:
        assert [path for path, _ in problems(source)] == found


def test_ring_has_a_place_for_the_lightest_group_that_is_allowed() -> None:
    for heavy, reached in ((79, {"a", "b"}), (80, {"b"})):
        ring = Ring({"a": 1, "b": heavy})
        assert {ring.group_for(f"resource:{number}") for number in range(2000)} == reached


def test_all_problems_are_listed_in_file_order(write) -> None:
    text = """\
pool_sise: 3
server_timeout: 0
cluster:
  - [redis://a, {host: b, port: 0, pasword: x}]
  - name: ""
    weight: -1
    servers: ["redis://${REDLOCK_TEST_UNSET}", redis://a, {auth: a, password: b}, redis://h/x]
drift_factor: 1
"""
    file = write(text)
    with pytest.raises(OptionsError) as caught:
        load_options(file)
    assert [path for path, _ in caught.value.problems] == [
        "pool_sise",
        "server_timeout",
        "cluster[0]",
        "cluster[0][1].port",
        "cluster[0][1].pasword",
        "cluster[1].name",
        "cluster[1].weight",
        "cluster[1].servers",
        "cluster[1].servers[0]",
        "cluster[1].servers[1]",
        "cluster[1].servers[2].auth",
        "cluster[1].servers[3]",
        "drift_factor",
    ]
    assert caught.value.source == str(file)
    assert str(caught.value).startswith(f"{file}: 13 problems\n")
    assert isinstance(caught.value, RedlockError)


# Files that can't be read


def test_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert only_problem(tmp_path / "no.yaml") == ("", "the options file can't be read: No such file or directory")


def test_directory_is_a_problem(tmp_path: Path) -> None:
    path, problem = only_problem(tmp_path)
    assert path == ""
    assert problem.startswith("the options file can't be read")


@pytest.mark.parametrize("source", [None, 5, b"file.yaml", ["redis://a"], "redis://a", "servers: []\n", "a\0b"])
def test_what_is_neither_path_nor_mapping_is_a_problem(source: object) -> None:
    path, problem = only_problem(source)
    assert path == ""
    assert problem.startswith(("options are the path of a YAML file, or a mapping", "the options file can't be read"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty; give servers"),
        ("# nothing\n", "empty; give servers"),
        ("---\n...\n", "empty; give servers"),
        ("[]", "write a map of options"),
        ("text", "write a map of options"),
        ("servers: [a", "not valid YAML in line 1, column 12; look for"),
        ("servers: [{}]\n  owner: x", "not valid YAML in line 2, column 3; look for"),
        ("owner: 'x", "not valid YAML in line 1, column 10; look for"),
        ("\towner: x", "not valid YAML in line 1, column 1; look for"),
        ("? [a]\n: b", "not valid YAML in line 1, column 3; look for"),
        ("owner: *x", "not valid YAML: nothing defines the alias (*...) in line 1, column 8; quote"),
        ("a: 1\n---\nb: 1", "not valid YAML: a second document (---) begins in line 2, column 1; keep one"),
        (b"owner: \xff", "not valid YAML: there are bytes that are not UTF-8"),
        (b"owner: \x00", "not valid YAML: there are bytes that are not UTF-8"),
        ("owner: !x y", "only plain YAML is allowed: a tag (!...) in line 1, column 8; quote"),
        ("owner: ! x", "only plain YAML is allowed"),
        ("owner: !!int 5", "only plain YAML is allowed"),
        ("owner: !!timestamp x", "only plain YAML is allowed"),
        ("!!python/object/apply:os.getcwd []", "only plain YAML is allowed"),
        ("owner: !!python/object/apply:os.system ['touch x']", "only plain YAML is allowed"),
        ("servers: &a [*a]", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_bad_yaml_is_a_problem(text: str | bytes, problem: str, write) -> None:
    path, found = only_problem(write(text))
    assert path == ""
    assert found.startswith(problem)


def test_yaml_that_builds_objects_runs_nothing(write, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    file = write(f"owner: !!python/object/apply:os.mkdir ['{victim}']\nservers: [redis://a]\n")
    assert only_problem(file)[1].startswith("only plain YAML is allowed")
    assert not victim.exists()


def test_mapping_that_contains_itself_is_a_problem() -> None:
    source: dict[str, object] = {}
    source["deployments"] = source
    assert only_problem(source)[1].startswith("nested too deeply")


def test_aliases_of_aliases_are_a_problem(write) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert only_problem(write("\n".join(lines)))[1].startswith("nested too deeply or too large")


@pytest.mark.parametrize(
    ("text", "path", "lines"),
    [
        ("pool_size: 1\nservers: [{}]\npool_size: 2\n", "pool_size", "1 and 3"),
        ("servers: [{port: 1, port: 2}]", "servers[0].port", "1 and 1"),
        ("servers: [{}]\nservers: [{}]", "servers", "1 and 2"),
        ("deployments:\n  a: {servers: [{}]}\n  'a': {servers: [{}]}", "deployments.a", "2 and 3"),
    ],
)
def test_key_given_twice_is_a_problem(text: str, path: str, lines: str, write) -> None:
    assert only_problem(write(text)) == (path, f"given twice, in lines {lines}; keep one")


# Passwords


LEAKS: dict[str, str] = {
    "password too": f"servers: [{{password: {SECRET}, auth: {SECRET}, port: 0}}]",
    "auth beside file": f"servers: [{{auth: {SECRET}, password_file: /nowhere}}]",
    "file name": f"servers: [{{password_file: {SECRET}}}]",
    "tls file name": f"servers: [{{ssl: true, ssl_ca_certs: {SECRET}}}]",
    "misspelt option": f"servers: [{{pasword: {SECRET}}}]",
    "unknown option": f"zzz: {SECRET}\nservers: [{{}}]",
    "unknown map": f"zzz: {{a: {SECRET}}}\nservers: [{{}}]",
    "no space after colon": f"servers: [{{host: a, password:{SECRET}}}]",
    "key alone": f"servers: [{{host: a, {SECRET}}}]",
    "url as key": f"servers:\n  - redis://:{SECRET}@a:1:\n      x: 1",
    "url as deployment": f"deployments: {{'redis://:{SECRET}@a': {{pool_size: 0}}}}",
    "url as default": f"deployments: {{a: {{servers: [redis://a]}}}}\ndefault: redis://:{SECRET}@a",
    "url as host": f"servers: [{{host: 'redis://:{SECRET}@a'}}]",
    "url as group name": f"cluster: [[redis://a], {{name: 'redis://:{SECRET}@a', weight: 0, servers: [redis://b]}}]",
    "url as group": f"cluster: ['redis://:{SECRET}@a']",
    "url as servers": f"servers: 'redis://:{SECRET}@a'",
    "url with hash": f"servers: ['redis://:x#{SECRET}@a:1']",
    "url with slash": f"servers: ['redis://:x/{SECRET}@a:1']",
    "url with question mark": f"servers: ['redis://:x?{SECRET}@a:1', 'redis://:1?{SECRET}=1@a', 'redis://a?{SECRET}=1']",
    "url with digits and hash": f"servers: ['redis://u:1#{SECRET}@a']",
    "url with bracket": f"servers: ['redis://:[{SECRET}@a']",
    "url with wide character": f"servers: ['redis://:{SECRET}\u2100@a']",
    "url with port": f"servers: ['redis://:{SECRET}@a:99999', 'redis://a:{SECRET}', 'redis://a/{SECRET}']",
    "url with control": f'servers: ["redis://:{SECRET}\\n@a"]',
    "unix url": f"servers: ['unix://:1/{SECRET}@/a', 'unix://{SECRET}/a']",
    "scheme": f"servers: ['{SECRET}://a', '{SECRET}']",
    "same server twice": f"servers: ['redis://:{SECRET}@a', 'redis://:{SECRET}@a', 'redis://:{SECRET}@b']",
    "user instead of password": f"servers: ['redis://{SECRET}@a', 'redis://{SECRET}@a', 'redis://b']",
    "owner": f'owner: "{SECRET}\\n"\nservers: [redis://a]',
    "duration": f"server_timeout: {SECRET}\npool_size: {SECRET}\ndrift_factor: {SECRET}\nservers: [{{ssl: {SECRET}}}]",
    "top": SECRET,
    "alias": f"password: *{SECRET}",
    "tag": f"password: !{SECRET} x",
    "tag prefix": f"password: !a!{SECRET} x",
    "int tag": f"password: !!int {SECRET}",
    "verbatim tag": f"password: !<{SECRET}> x",
    "directive": f"%{SECRET} x\n---\n",
    "open quote": f"password: '{SECRET}",
    "open bracket": f"password: [{SECRET}",
    "bad escape": f'password: "\\q{SECRET}"',
    "bad indentation": f"servers: []\n  password: {SECRET}",
    "at sign": f"password: @{SECRET}",
    "percent": f"password: %{SECRET}",
    "anchor": f"password: &{SECRET}! x",
    "merge": f"<<: {SECRET}",
    "complex key": f"? [{SECRET}]\n: 1",
    "repeated": f"servers: [{{password: {SECRET}, password: {SECRET}}}]",
    "repeated key": f"servers: [{{{SECRET} x: 1, {SECRET} x: 1}}]",
    "in variable": f"password: a${{{SECRET}!}}\nservers: [redis://a]",
    "from environment": "servers: ['redis://:x#${REDLOCK_TEST_SECRET}@a', {host: '${REDLOCK_TEST_SECRET} x'}, {port: "
    "'${REDLOCK_TEST_SECRET}'}]\nowner: ${REDLOCK_TEST_SECRET}${REDLOCK_TEST_UNSET}",
    "invalid text": f'servers: [{{password: "{SECRET}\\ud800"}}]',
}


def shown(error: BaseException) -> str:
    text, seen = "", []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            text += f"{one!s} {one!r} {one.args!r} {vars(one)!r}"
            todo += [one.__cause__, one.__context__]
    return text + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("text", LEAKS.values(), ids=LEAKS)
def test_problem_shows_no_password(text: str, write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TEST_SECRET", SECRET)
    with pytest.raises(OptionsError) as caught:
        load_options(write(text))
    assert SECRET.lower() not in shown(caught.value).lower()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("digits", ["123454321", "1234.54321", "12345e4321"])
def test_problem_shows_no_password_of_digits(digits: str, write) -> None:
    with pytest.raises(OptionsError, match="put it in quotes") as caught:
        load_options(write(f"servers: [{{password: {digits}}}]"))
    assert "1234" not in shown(caught.value)


@pytest.mark.parametrize("source", [f"redis://:{SECRET}@a", f"servers:\n- {{password: {SECRET}}}"])
def test_problem_shows_no_password_of_a_source_that_is_no_path(source: str) -> None:
    with pytest.raises(OptionsError) as caught:
        load_options(source)
    assert SECRET not in shown(caught.value)


def test_problem_shows_no_password_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(OptionsError) as caught:
        load_options({"servers": [{"password_file": tmp_path / "password"}]})
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    "node",
    [
        {"password": SECRET},
        {"auth": SECRET},
        {"auth": "${REDLOCK_TEST_SECRET}"},
        f"redis://:{SECRET}@a",
        f"redis://{SECRET}@a",
        f"unix://:{SECRET}@/run/a.sock",
        "file",
    ],
    ids=str,
)
def test_options_show_no_password(node: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TEST_SECRET", SECRET)
    (tmp_path / "password").write_text(f"{SECRET}\n")
    if node == "file":
        node = {"password_file": str(tmp_path / "password")}
    options = load_options({"servers": [node]})
    parts = (options, options.deployments, options.deployments["default"].groups[0].servers[0])
    for part in parts:
        assert SECRET not in f"{part!r} {part!s}"
    found = parts[-1]
    assert isinstance(found, ServerOptions)
    assert found.credentials is not None
    assert SECRET in (said_by(found.credentials) or ())
    assert SECRET not in found.name


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_password_file_may_be_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"pw\n")
    os.close(writer)
    try:
        credentials = server({"password_file": f"/proc/self/fd/{reader}"}).credentials
        assert credentials is not None
        assert [said_by(credentials), said_by(credentials)] == [("default", "pw")] * 2
    finally:
        os.close(reader)
