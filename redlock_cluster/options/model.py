"""Every option with its default, its range and its meaning.

Names, defaults and descriptions are written only here; the reader of files and the schema for editors use these models.
`redlock_cluster.options.file.load_options` makes them from a file or a mapping, where a bare number for a duration is
milliseconds. Here every duration is a float of seconds.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from redlock_cluster.core.timing import MAX_TTL_MS, Timing
from redlock_cluster.options.credentials import Credentials
from redlock_cluster.options.kinds import (
    FLAGS,
    URL_PARAMETERS,
    VARIABLE,
    Duration,
    Flag,
    Kind,
    OneOf,
    Provider,
    Secret,
    Share,
    Text,
    Whole,
    host_problem,
    no_control,
    wrong,
)

__all__ = ["DeploymentOptions", "GroupOptions", "Options", "ServerOptions", "json_schema"]

TLS_NAMES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
EXCLUSIVE: Final = (
    *(("auth", "password"), ("auth", "password_file"), ("password", "password_file")),
    *(("credential_provider", name) for name in ("username", "password", "auth", "password_file")),
    *(("socket", "host"), ("socket", "port")),
    *(("retry_interval", "retry_interval_base"), ("retry_interval", "retry_interval_max")),
    ("reconnection_interval", "reconnection_interval_base"),
    ("reconnection_interval", "reconnection_interval_max"),
)
"""Options of which only one may be given."""
NOT_NULL: Final[dict[str, object]] = {"not": {"type": "null"}}
EXTENSION: Final = "x-"
"""How names at the top of a file begin that are no options, as in compose files: what is below may hold anchors."""
NAME_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9_ .+/-]*"
"""What deployments may be called: such names can stand in the paths of problems."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerAddress(_Frozen):
    """Where one server is, and how it is spoken to."""

    host: Annotated[str, Text(host_problem)] = Field("127.0.0.1", description="Host name or IP address.")
    port: Annotated[int, Whole(1, 65535)] = Field(6379, description="TCP port.")
    socket: Annotated[str | None, Text(no_control)] = Field(
        None, description="Path of a Unix socket, instead of host and port."
    )
    database: Annotated[int, Whole(0)] = Field(0, description="Number of the database.")
    ssl: Annotated[bool, Flag()] = Field(False, description="Whether to speak TLS.")
    ssl_ca_certs: Annotated[str | None, Text(no_control)] = Field(
        None, description="PEM file of the authorities that may have signed the server's certificate."
    )
    ssl_certfile: Annotated[str | None, Text(no_control)] = Field(
        None, description="PEM file of the client's certificate, with its key or beside ssl_keyfile."
    )
    ssl_keyfile: Annotated[str | None, Text(no_control)] = Field(
        None, description="PEM file of the client's key, if it is not in ssl_certfile."
    )
    ssl_check_hostname: Annotated[bool, Flag()] = Field(
        True, description="Whether the server's certificate must name the host."
    )

    @model_validator(mode="after")
    def _socket_has_no_host(self) -> Self:
        if self.socket is not None:
            self.__dict__["host"] = ""  # frozen: only the dictionary can be written
        return self

    @property
    def name(self) -> str:
        """Return the address: `host:port`, `[::1]:port` or `unix:/path`."""
        if self.socket is not None:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def process(self) -> tuple[str, int]:
        """Return what identifies the process: equal for two addresses of one process, as far as addresses show it."""
        if self.socket is not None:
            return os.path.normpath(self.socket), 0
        host = self.host.lower().rstrip(".")
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            return host, self.port
        if isinstance(address, ipaddress.IPv6Address):
            address = ipaddress.IPv4Address("127.0.0.1") if address.is_loopback else address.ipv4_mapped or address
        return str(address), self.port


class ServerOptions(ServerAddress):
    """One server: its address, and where its credentials come from. Never shows its password or user name."""

    credentials: InstanceOf[Credentials] | None = Field(None, repr=False)


class GroupOptions(_Frozen):
    """One group: an odd number of servers that vote together."""

    name: Annotated[str, Text(no_control)] = Field(description="Its name on the ring; left out: its index in the list.")
    weight: Annotated[int, Whole(1)] = Field(1, description="Its share of the resources, relative to the other groups.")
    servers: tuple[ServerOptions, ...]


class DeploymentOptions(_Frozen):
    """The groups of one deployment and how they are used; durations in seconds."""

    pool_size: Annotated[int, Whole(1, 1000)] = Field(
        1, description="Connections per server; a key always uses the same one."
    )
    drift_factor: Annotated[float, Share()] = Field(
        0.01, description="Margin for the drift of clocks, as a share of the ttl (2 ms are added)."
    )
    max_ttl: Annotated[float, Duration(0.001)] = Field(
        3600.0,
        description="The longest ttl of any lock, for all clients the same: so long a server that may have forgotten "
        "locks grants none, if too few others say how long locks last.",
    )
    ttl: Annotated[float, Duration(0.001)] = Field(
        30.0,
        description="How long servers keep a lock whose call names no ttl; it is extended until it is released.",
        validate_default=True,
    )
    max_hold: Annotated[float | None, Duration()] = Field(
        None, description="How long a lock that extends itself may be held at most."
    )
    fencing: Annotated[bool, Flag()] = Field(
        False, description="Whether every lock but semaphores has a fence, also where the call does not ask for one."
    )
    restart_guard: Annotated[bool, Flag()] = Field(
        True,
        description="Whether a server that may have forgotten locks (restarted, flushed, promoted) grants none until "
        "all of those are over.",
    )
    durability: Annotated[Literal["memory", "fsync"], OneOf("memory", "fsync")] = Field(
        "memory",
        description="memory, or fsync: only servers are used that write every lock to disk before they answer.",
    )
    max_retry: Annotated[int, Whole(0)] = Field(3, description="Attempts after the first one, for the retry policy.")
    retry_interval_base: Annotated[float, Duration()] = Field(
        0.3, description="Wait before the first retry: random in [d/2, d], d = min(max, base * 2^n), n from 0."
    )
    retry_interval_max: Annotated[float, Duration()] = Field(
        3.0, description="Longest d between retries.", validate_default=True
    )
    reconnection_interval_base: Annotated[float, Duration()] = Field(
        0.5, description="The same as retry_interval_base, for reconnecting to a lost server."
    )
    reconnection_interval_max: Annotated[float, Duration()] = Field(
        5.0, description="Longest d between reconnections.", validate_default=True
    )
    connect_timeout: Annotated[float, Duration()] = Field(
        2.0, description="How long a connection may take, with looking up its name, TLS and handshake."
    )
    server_timeout: Annotated[float, Duration()] = Field(
        0.2, description="How long a round waits for a server's vote (at most half the ttl)."
    )
    health_check_interval: Annotated[float, Duration()] = Field(
        1.0, description="Time between two health checks of a connection; while nobody uses it, some are left out."
    )
    fair: Annotated[bool, Flag()] = Field(
        True,
        description="Whether waiting calls stand in queues on the servers, which serve them in the order they came in.",
    )
    max_waiting: Annotated[int, Whole(1)] = Field(
        100_000, description="Calls of one supervisor that may wait at once; another one is refused instead."
    )
    waiter_ttl: Annotated[float, Duration(0.1)] = Field(
        6.0, description="How long servers keep a waiter's place unless it comes again, as it does after a third of it."
    )
    key_prefix: Annotated[str, Text(empty=True)] = Field(
        "redlock:", description='What stands before every resource; "" shares locks with other Redlock libraries.'
    )
    owner: Annotated[str | None, Text(no_control)] = Field(
        None, description="Readable label inside tokens; left out: host:pid of the process that locks."
    )
    groups: tuple[GroupOptions, ...]

    @field_validator("max_ttl")
    @classmethod
    def _is_no_century(cls, value: float) -> float:
        if value > MAX_TTL_MS / 1000:
            raise wrong("write at most a century")
        return value

    @field_validator("ttl")
    @classmethod
    def _is_a_ttl(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("max_ttl", MAX_TTL_MS / 1000):
            default = Duration().written(cls.model_fields["max_ttl"].default)
            own = Duration().written(cls.model_fields["ttl"].default)
            raise wrong(
                f"longer than max_ttl; lower ttl, or raise max_ttl (when left out, they are {own} and {default})"
            )
        drift = info.data.get("drift_factor")
        if drift is not None and Timing(drift, 0).terms_ms(round(value * 1000)).validity <= 0:
            default = Duration().written(cls.model_fields["ttl"].default)
            raise wrong(f"drift leaves no validity (ttl is {default} when left out); raise it, or lower drift_factor")
        return value

    @field_validator("retry_interval_max", "reconnection_interval_max")
    @classmethod
    def _at_least_base(cls, value: float, info: ValidationInfo) -> float:
        name = str(info.field_name).removesuffix("_max")
        base = info.data.get(f"{name}_base")
        if base is not None and value < base:
            default = Duration().written(cls.model_fields[f"{name}_max"].default)
            raise wrong(
                f"less than {name}_base ({name}_max is {default} when left out); raise it, or lower {name}_base"
            )
        return value


class Options(_Frozen):
    """All deployments of a file.

    deployments: by name
    default: the name of the one to use when none is named, or None
    """

    deployments: Mapping[str, DeploymentOptions]
    default: str | None = None


class ServerEntry(ServerAddress):
    """A server as a file or a mapping writes it: with every way to give the credentials."""

    username: Annotated[str | None, Text()] = Field(
        None, description="ACL user; without a password, one that needs none.", repr=False
    )
    password: Annotated[SecretStr | None, Secret()] = Field(None, description="Password.")
    auth: Annotated[SecretStr | None, Secret()] = Field(None, description="The same as password.")
    password_file: Annotated[str | None, Text(no_control)] = Field(
        None,
        description="File that holds the password, read for every connection; the newline at its end doesn't count.",
    )
    credential_provider: Annotated[object, Provider()] = Field(
        None, description="Gives user name and password for every connection.", repr=False
    )


class DeploymentEntry(DeploymentOptions):
    """A deployment as a file writes it: with the short forms of the intervals."""

    retry_interval: Annotated[float | None, Duration()] = Field(
        None, description="Sets retry_interval_base and retry_interval_max alike."
    )
    reconnection_interval: Annotated[float | None, Duration()] = Field(
        None, description="Sets reconnection_interval_base and reconnection_interval_max alike."
    )


def _properties(model: type[BaseModel]) -> dict[str, object]:
    properties: dict[str, object] = {}
    for name, field in model.model_fields.items():
        for kind in field.metadata:
            if isinstance(kind, Kind) and (forms := kind.forms()):
                about: dict[str, object] = {"description": f"{field.description}{kind.unit}"}
                if not field.is_required():
                    default = field.default if field.default is None else kind.written(field.default)
                    forms += [{"type": "null"}] if default is None else []
                    shown = json.dumps(default) if isinstance(default, bool) else "none" if default is None else default
                    about = {"description": f"{about['description']} Default: {shown}.", "default": default}
                properties[name] = {**about, **(forms[0] if len(forms) == 1 else {"anyOf": forms})}
    return properties


def _given(**schemas: object) -> dict[str, object]:
    return {"required": list(schemas), "properties": schemas}


def _map_of(properties: dict[str, object], *rules: object) -> dict[str, object]:
    exclusive = [{"not": _given(**{a: NOT_NULL, b: NOT_NULL})} for a, b in EXCLUSIVE if {a, b} <= properties.keys()]
    schema: dict[str, object] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "allOf": [*exclusive, *rules]} if exclusive or rules else schema


def _server_schema() -> dict[str, object]:
    true: dict[str, object] = {"enum": [True, *(word for word, flag in FLAGS.items() if flag)]}
    may_be_true = {"anyOf": [true, {"type": "string", "pattern": VARIABLE}]}
    server = _map_of(
        _properties(ServerEntry),
        {"not": _given(socket=NOT_NULL, ssl=true)},
        *({"anyOf": [{"not": _given(**{name: NOT_NULL})}, _given(ssl=may_be_true)]} for name in TLS_NAMES),
        {"anyOf": [{"not": _given(ssl_keyfile=NOT_NULL)}, _given(ssl_certfile=NOT_NULL)]},
    )
    description = f"redis://, rediss:// or unix:// URL. Parameters: {', '.join(URL_PARAMETERS)}. Default port: 6379."
    url = {"type": "string", "pattern": rf"^(redis|rediss|unix)://|{VARIABLE}", "description": description}
    return {"anyOf": [url, server]}


def json_schema() -> dict[str, object]:
    """Return the JSON schema of options files, for editors."""
    even = [{"minItems": size, "maxItems": size} for size in range(2, 20, 2)]  # as far as a schema can say "odd"
    servers = {
        "type": "array",
        "description": "The servers of one group: an odd number, independent of each other.",
        "items": {"$ref": "#/$defs/server"},
        "minItems": 1,
        "not": {"anyOf": even},
    }
    group = {**_map_of({**_properties(GroupOptions), "servers": servers}), "required": ["servers"]}
    cluster = {
        "type": "array",
        "description": "The groups: each a list of servers, or a map with name, weight and servers.",
        "items": {"anyOf": [servers, group]},
        "minItems": 1,
    }
    deployment = _map_of({**_properties(DeploymentEntry), "servers": servers, "cluster": cluster})
    deployment["oneOf"] = [{"required": ["servers"]}, {"required": ["cluster"]}]
    several = {
        "type": "object",
        "description": "Several deployments: name to options.",
        "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
        "additionalProperties": {"$ref": "#/$defs/deployment"},
        "minProperties": 1,
    }
    about = 'Which deployment to use when none is named. Default: the one called "default", if there is one.'
    default = {"type": ["string", "null"], "description": about}
    extensions = {f"^{EXTENSION}": {"description": "Ignored; a place for anchors."}}
    file = {**_map_of({"deployments": several, "default": default}), "required": ["deployments"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Options of redlock_cluster",
        "anyOf": [{**form, "patternProperties": extensions} for form in (deployment, file)],
        "$defs": {"server": _server_schema(), "deployment": deployment},
    }
