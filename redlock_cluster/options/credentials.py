"""Who logs in: read again for every connection, so that credentials may change while the process runs.

What the options say is kept as it was written (`${NAME}`, the path of a file, a provider). Nothing here ever repeats a
user name or a password.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path as File
from typing import Final, Protocol, runtime_checkable

from pydantic import SecretStr
from pydantic_core import PydanticCustomError

from redlock_cluster.options.kinds import Text, server_from_url
from redlock_cluster.options.variables import expanded

__all__ = ["CredentialProvider", "Credentials", "CredentialsMissing", "InUrl", "Login", "Provided", "Written"]

DEFAULT_USER: Final = "default"
LONGEST_PASSWORD: Final = 65536


class CredentialsMissing(Exception):
    """There are no credentials now; says why."""


@runtime_checkable
class CredentialProvider(Protocol):
    """What gives credentials when they are asked for, as `redis.CredentialProvider` does."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return `(user name, password)` or `(password,)`. May block."""


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """A user name and a password, "" for users that need none."""

    username: str
    password: SecretStr


class Credentials(ABC):
    """Where a server's user name and password come from."""

    __slots__ = ()

    @property
    @abstractmethod
    def blocks(self) -> bool:
        """Whether reading them may take time."""

    @property
    def key(self) -> Hashable:
        """Equal for those that are read together."""
        return self

    @abstractmethod
    def read(self) -> Login | None:
        """Return what is valid now, None when there is nothing to say. Raises CredentialsMissing."""


@dataclass(frozen=True, slots=True, repr=False)
class Written(Credentials):
    """Those that the options name, with variables; a user name alone has an empty password.

    username, password: templates
    password_file: instead of the password, the path of the file that holds it
    """

    username: str | None = None
    password: SecretStr | None = None
    password_file: str | None = None

    @property
    def blocks(self) -> bool:
        """A file may be slow."""
        return self.password_file is not None

    def read(self) -> Login:
        """Return what the environment and the file hold now."""
        username = DEFAULT_USER if self.username is None else _sound("username", _filled("username", self.username))
        if self.password_file is not None:
            try:
                password = password_in(self.password_file)
            except CredentialsMissing as missing:
                raise CredentialsMissing(f"password_file: {missing}") from None
        elif self.password is not None:
            password = _sound("password", _filled("password", self.password.get_secret_value()))
        else:
            password = ""
        return Login(username, SecretStr(password))


@dataclass(frozen=True, slots=True, repr=False)
class InUrl(Credentials):
    """Those in a URL with variables.

    url: a template
    """

    url: SecretStr

    @property
    def blocks(self) -> bool:
        """The environment is never slow."""
        return False

    def read(self) -> Login | None:
        """Return what the environment puts into the URL now; None if that names nobody."""
        found = server_from_url(_filled("URL", self.url.get_secret_value()))
        if isinstance(found, str):
            raise CredentialsMissing(found)
        username, password = found.get("username"), found.get("password")
        if username is None and password is None:
            return None
        return Login(
            DEFAULT_USER if username is None else _sound("username", username),
            SecretStr("" if password is None else _sound("password", password)),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Provided(Credentials):
    """Those that a provider gives.

    provider: with `get_credentials`
    """

    provider: CredentialProvider

    @property
    def blocks(self) -> bool:
        """It may ask a service."""
        return True

    @property
    def key(self) -> Hashable:
        """One question at a time for each provider."""
        return type(self), id(self.provider)

    def read(self) -> Login:
        """Return what the provider gives now. Of what it raises only the kind is told: its text may hold a secret."""
        given: object = None
        failure = ""
        try:
            given = self.provider.get_credentials()
        except BaseException as error:  # noqa: BLE001  whatever it raises, only this attempt fails
            failure = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        if failure:
            raise CredentialsMissing(f"the credential provider raised {failure}")
        match given:
            case (username, password):
                pass
            case (password,):
                username = DEFAULT_USER
            case _:
                raise CredentialsMissing("the credential provider must give (user name, password) or (password,)")
        return Login(
            _sound("the credential provider's user name", username),
            SecretStr(_sound("the credential provider's password", password, empty=True)),
        )


def password_in(path: str) -> str:
    """Return the password that a file holds; the newline at its end doesn't count. Raises CredentialsMissing."""
    try:
        with File(path).open(encoding="utf-8") as file:
            text = file.read(LONGEST_PASSWORD).rstrip("\r\n")
    except OSError as error:
        problem = f"the file can't be read: {error.strerror}"
    except ValueError:
        problem = "the file is not UTF-8 text"
    else:
        if 0 < len(text) < LONGEST_PASSWORD:
            return text
        problem = "the file is empty or too long for a password"
    raise CredentialsMissing(problem)


def _filled(name: str, template: str) -> str:
    """The template with the variables that are set now."""
    problems: list[str] = []
    text = expanded(template, problems.append)
    if problems:
        raise CredentialsMissing(f"{name}: {problems[0]}")
    return text


def _sound(name: str, text: object, empty: bool = False) -> str:
    """The text, if it can be sent."""
    try:
        return str(Text(empty=empty).read(text, True))
    except PydanticCustomError as error:
        problem = error.message()
    raise CredentialsMissing(f"{name}: {problem}")
