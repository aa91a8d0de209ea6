"""From the plain tree of a file to `Options`: every form a file may use, and every problem it may have.

The tree is dicts, lists and scalars. It is read from the leaves up, one model at a time, so that one problem hides no
other.
"""

from __future__ import annotations

import re
from pathlib import Path as File
from typing import Final, TypeVar, cast

from pydantic import BaseModel, SecretStr

from redlock_cluster.options.credentials import (
    CredentialProvider,
    Credentials,
    CredentialsMissing,
    InUrl,
    Provided,
    Written,
    password_in,
)
from redlock_cluster.options.kinds import Duration, server_from_url
from redlock_cluster.options.model import (
    EXCLUSIVE,
    NAME_PATTERN,
    TLS_NAMES,
    DeploymentEntry,
    DeploymentOptions,
    GroupOptions,
    Options,
    ServerEntry,
    ServerOptions,
)
from redlock_cluster.options.problems import BROKEN, Path, Problems, spelled
from redlock_cluster.options.variables import Expanded, escaped

__all__ = ["Builder"]

Model = TypeVar("Model", bound=BaseModel)
Addresses = dict[tuple[str, int], Path]

RING_POINTS: Final = 40  # uhashring's vnodes of a ketama node of average weight
DEPLOYMENT_NAMES: Final = (*(name for name in DeploymentEntry.model_fields if name != "groups"), "servers", "cluster")
CHECKED: Final[dict[str, object]] = {
    name: Duration().written(DeploymentEntry.model_fields[name].default)
    for name in ("ttl", "retry_interval_max", "reconnection_interval_max")
}
"""Written as in a file, so that they are checked against other options even when they are left out."""


class Builder:
    """Builds `Options` from a tree and reports all its problems.

    problems: where they are reported
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def options(self, tree: object) -> Options | None:
        """Build the options of a whole file.

        tree: what the file contains

        Returns the options, or None; then the problems say why.
        """
        if tree is None or tree == {}:
            self.problems.report((), "empty; give servers, cluster or deployments")
            return None
        fields = self.problems.expect_map(tree, (), "options")
        if fields is None:
            return None
        if "deployments" in fields:
            return self._several(fields)
        if "default" in fields:
            self.problems.report(("default",), "only together with deployments; remove it")
        deployment = self._deployment({name: node for name, node in fields.items() if name != "default"}, ())
        if deployment is None:
            return None
        return Options.model_construct(deployments={"default": deployment}, default="default")

    def _several(self, fields: dict[str, object]) -> Options | None:
        for name in fields.keys() & set(DEPLOYMENT_NAMES):
            self.problems.report((name,), "stands beside deployments; move it into the deployments it is for")
        self.problems.unknown(fields, ("deployments", "default", *DEPLOYMENT_NAMES), ())
        nodes = self.problems.expect_map(fields["deployments"], ("deployments",), "names to options")
        if nodes is None:
            return None
        if not nodes:
            self.problems.report(("deployments",), "no deployments; give at least one")
        deployments = {}
        for name, node in nodes.items():
            if not re.fullmatch(NAME_PATTERN, name):
                text = "a name begins with a letter, a digit or _, and continues with these, space, point, +, / or -"
                self.problems.report(("deployments",), text)
            elif deployment := self._deployment(node, ("deployments", name)):
                deployments[name] = deployment
        return Options.model_construct(deployments=deployments, default=self._default(fields.get("default"), nodes))

    def _default(self, chosen: object, nodes: dict[str, object]) -> str | None:
        if chosen is None:
            return "default" if "default" in nodes else None
        if isinstance(chosen, str) and chosen in nodes:
            return chosen
        if chosen is not BROKEN:
            names = [name for name in nodes if re.fullmatch(NAME_PATTERN, name)]
            self.problems.report(("default",), f"no such deployment; there are {', '.join(names)}")
        return None

    def _deployment(self, node: object, path: Path) -> DeploymentOptions | None:
        fields = self.problems.expect_map(node, path, "options")
        if fields is None:
            return None
        guesses = self.problems.unknown(fields, DEPLOYMENT_NAMES if path else (*DEPLOYMENT_NAMES, "deployments"), path)
        self._exclusive(fields, path)
        if {"servers", "cluster"} <= fields.keys():
            self.problems.report(
                (*path, "cluster"), "given beside servers; keep servers (one group) or cluster (several)"
            )
        elif not (fields.keys() | guesses) & {"servers", "cluster", "deployments"}:
            self.problems.report(path, f"no servers; give servers or cluster{'' if path else ' or deployments'}")
        groups: tuple[GroupOptions, ...] | None = None
        if "cluster" in fields:
            groups = self._cluster(fields["cluster"], (*path, "cluster"))
        if "servers" in fields:
            servers = self._servers(fields["servers"], (*path, "servers"), {})
            groups = (GroupOptions.model_construct(name="0", weight=1, servers=servers),) if servers else None
        entry, _ = self.problems.model(DeploymentEntry, CHECKED | fields | {"groups": ()}, path)
        return _narrowed(DeploymentOptions, entry, groups=groups, **_both_ends(entry)) if entry and groups else None

    def _cluster(self, node: object, path: Path) -> tuple[GroupOptions, ...] | None:
        nodes = self.problems.expect_list(node, path, "groups")
        if nodes is None:
            return None
        if not nodes:
            self.problems.report(path, "no groups; give at least one")
        addresses: Addresses = {}
        names: dict[str, Path] = {}
        built: list[GroupOptions] = []
        for index, item in enumerate(nodes):
            at = (*path, index)
            if group := self._group(item, at, addresses):
                built.append(group)
            name = item.get("name") if isinstance(item, dict) else None
            first = names.setdefault(name if isinstance(name, str) else str(index), at)
            if first != at:
                self.problems.report(at, f"the same name as {spelled(first)}; every group needs its own")
        if len(built) < len(nodes):
            return None
        self._every_group_on_ring([group.weight for group in built], path)
        return tuple(built)

    def _every_group_on_ring(self, weights: list[int], path: Path) -> None:
        for index, weight in enumerate(weights):
            if RING_POINTS * len(weights) * weight < sum(weights):
                text = "so little beside the other groups that this one would get no resource; raise it or lower theirs"
                self.problems.report((*path, index, "weight"), text)

    def _group(self, node: object, path: Path, addresses: Addresses) -> GroupOptions | None:
        name = str(path[-1])
        if isinstance(node, list):
            servers = self._servers(node, path, addresses)
            return GroupOptions.model_construct(name=name, weight=1, servers=servers) if servers else None
        fields = self.problems.expect_map(node, path, "name, weight and servers, or a list of servers")
        if fields is None:
            return None
        guesses = self.problems.unknown(fields, GroupOptions.model_fields, path)
        servers = None
        if "servers" in fields:
            servers = self._servers(fields["servers"], (*path, "servers"), addresses)
        elif "servers" not in guesses:
            self.problems.report(path, "no servers; give servers")
        group, _ = self.problems.model(GroupOptions, {"name": name, **fields, "servers": ()}, path)
        return _narrowed(GroupOptions, group, servers=servers) if group and servers else None

    def _servers(self, node: object, path: Path, addresses: Addresses) -> tuple[ServerOptions, ...] | None:
        nodes = self.problems.expect_list(node, path, "servers")
        if nodes is None:
            return None
        if not nodes:
            self.problems.report(path, "no servers; a group needs an odd number, add one")
        elif len(nodes) % 2 == 0:
            self.problems.report(path, f"{len(nodes)} servers; a group needs an odd number, add or remove one")
        servers = [self._server(item, (*path, index), addresses) for index, item in enumerate(nodes)]
        return tuple(server for server in servers if server) if nodes and None not in servers else None

    def _server(self, node: object, path: Path, addresses: Addresses) -> ServerOptions | None:
        fields = server_from_url(node) if isinstance(node, str) else node
        if isinstance(fields, str):
            self.problems.report(path, fields)
            return None
        fields = self.problems.expect_map(fields, path, "host, port and so on, or a URL")
        if fields is None:
            return None
        url = isinstance(node, str)
        before = len(self.problems.found)
        self.problems.unknown(fields, tuple(ServerEntry.model_fields), path)
        self._exclusive(fields, path)
        entry, wrong = self.problems.model(ServerEntry, fields, path, url)
        # The right fields are checked even if others are wrong.
        sound, _ = Problems().model(ServerEntry, {name: v for name, v in fields.items() if name not in wrong}, path)
        assert sound is not None
        if not wrong & {"host", "port", "socket"}:
            first = addresses.setdefault(sound.process, path)
            if first != path:
                self.problems.report(path, f"the same server as {spelled(first)}; it can vote only once, remove one")
        for name, text in _tls_problems(sound, wrong):
            self.problems.report_part(path, name, text, url)
        password = self._password(sound, path)
        if entry is None or len(self.problems.found) > before:
            return None
        if isinstance(node, Expanded):
            credentials: Credentials | None = InUrl(SecretStr(node.template))
        else:
            credentials = _credentials(entry, fields, password)
        return _narrowed(ServerOptions, entry, credentials=credentials)

    def _password(self, entry: ServerEntry, path: Path) -> str | None:
        """The content of the password file, if there is one and it is right."""
        if entry.password_file is not None:
            try:
                return password_in(entry.password_file)
            except CredentialsMissing as missing:
                self.problems.report((*path, "password_file"), str(missing))
        return None

    def _exclusive(self, fields: dict[str, object], path: Path) -> None:
        for one, other in EXCLUSIVE:
            if fields.get(one) is not None and fields.get(other) is not None:
                self.problems.report((*path, one), f"given beside {other}; keep one of the two")


def _narrowed(model: type[Model], entry: BaseModel, **changes: object) -> Model:
    kept = {name: getattr(entry, name) for name in model.model_fields if name not in changes}
    return model.model_construct(**kept | changes)


def _credentials(entry: ServerEntry, fields: dict[str, object], content: str | None) -> Credentials | None:
    """Where a server's user name and password come from, None when it is told neither.

    entry, fields: the server, checked and as it is written
    content: of the password file
    """
    if entry.credential_provider is not None:
        return Provided(cast(CredentialProvider, entry.credential_provider))
    username = _template(fields.get("username"))
    password = _template(fields.get("password") or fields.get("auth"))
    file = entry.password_file
    if file is not None and not File(file).is_file():
        file, password = None, _template(content)  # a pipe can be read only once
    if username is password is file is None:
        return None
    return Written(username, None if password is None else SecretStr(password), file)


def _template(value: object) -> str | None:
    match value:
        case Expanded():
            return value.template
        case SecretStr():
            return escaped(value.get_secret_value())
        case str():
            return escaped(value)
    return None


def _both_ends(entry: DeploymentEntry) -> dict[str, object]:
    ends: dict[str, object] = {}
    for name in ("retry_interval", "reconnection_interval"):
        if (interval := getattr(entry, name)) is not None:
            ends |= {f"{name}_base": interval, f"{name}_max": interval}
    return ends


def _tls_problems(server: ServerEntry, wrong: set[str]) -> list[tuple[str, str]]:
    if "ssl" in wrong:
        return []
    given = [name for name in TLS_NAMES if name in server.model_fields_set]
    if not server.ssl:
        return [(name, "has no effect without ssl: true; turn ssl on or remove it") for name in given]
    problems = [("ssl", "a Unix socket has no TLS; remove one of the two")] if server.socket is not None else []
    for name in given:
        file = getattr(server, name)
        if isinstance(file, str) and not File(file).is_file():
            problems.append((name, "no such file"))
    if server.ssl_keyfile is not None and server.ssl_certfile is None and "ssl_certfile" not in wrong:
        problems.append(("ssl_keyfile", "a key without its certificate; give ssl_certfile too"))
    return problems
