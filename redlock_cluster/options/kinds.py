"""The kinds of values that options have: how each is read, and what the schema for editors says about it.

Every message here says what to write and never repeats what was written: it may be a password in the wrong place.
"""

from __future__ import annotations

import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import GetCoreSchemaHandler, SecretStr, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from redlock_cluster.core.timing import as_float

FROM_FILE: Final = "from file"
"""The validation context in which a bare number for a duration is milliseconds."""

URL_PARAMETERS: Final = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
BAD_URL: Final = "not a valid redis://, rediss:// or unix:// URL (percent-encode special characters of a password)"
VARIABLE: Final = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
UNLIMITED: Final = 2**31 - 1
FLAGS: Final = {
    form: flag
    for words, flag in ((("true", "yes", "on"), True), (("false", "no", "off"), False))
    for word in words
    for form in (word, word.title(), word.upper())
}


def wrong(text: str) -> PydanticCustomError:
    """Return the exception that a validator raises: it says what to write, never what was written."""
    return PydanticCustomError("option", text)


def number_of(value: object) -> float | None:
    """Return a real number as a float; None for anything else and for one that no float can hold."""
    try:
        return as_float(value)
    except (TypeError, ValueError, OverflowError):
        return None


class Kind(ABC):
    """One kind of value: how it is read, and how the schema for editors describes it."""

    unit = ""

    @abstractmethod
    def read(self, value: object, from_file: bool) -> object:
        """Read a written value.

        value: as the file or the caller wrote it
        from_file: it is from a file, so a bare number for a duration is milliseconds

        Returns what the model stores. Raises what `wrong` returns.
        """

    @abstractmethod
    def forms(self) -> list[dict[str, object]]:
        """Return the JSON schemas of what may be written."""

    def written(self, value: object) -> object:
        """Return a stored value as a file would write it."""
        return value

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        optional = type(None) in get_args(source)

        def read(value: object, info: ValidationInfo) -> object:
            if value is None and not optional:
                raise wrong("no value; write one, or leave the option out for its default")
            return None if value is None else self.read(value, info.context == FROM_FILE)

        return core_schema.with_info_before_validator_function(read, handler(source))


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from low to high, also as text of digits; never a bool."""

    low: int
    high: int = UNLIMITED

    def read(self, value: object, from_file: bool) -> int:
        """Return the number."""
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            limits = f"of at least {self.low}" if self.high == UNLIMITED else f"from {self.low} to {self.high}"
            raise wrong(f"write a whole number {limits}")
        return value

    def forms(self) -> list[dict[str, object]]:
        """Return a bounded integer, or text of digits or with a variable."""
        return [
            {"type": "integer", "minimum": self.low, "maximum": self.high},
            {"type": "string", "pattern": rf"^\s*[0-9]{{1,18}}\s*$|{VARIABLE}"},
        ]


class OneOf(Kind):
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def read(self, value: object, from_file: bool) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.words:
            raise wrong(f"write {' or '.join(self.words)}")
        return value

    def forms(self) -> list[dict[str, object]]:
        """Return the words, or text with a variable."""
        return [{"enum": [*self.words]}, {"type": "string", "pattern": VARIABLE}]


class Flag(Kind):
    """True or false, also as one of YAML's words."""

    def read(self, value: object, from_file: bool) -> bool:
        """Return the flag."""
        flag = FLAGS.get(value) if isinstance(value, str) else value
        if not isinstance(flag, bool):
            raise wrong("write true or false")
        return flag

    def forms(self) -> list[dict[str, object]]:
        """Return a boolean, or text that means one or has a variable."""
        return [{"type": "boolean"}, {"enum": list(FLAGS)}, {"type": "string", "pattern": VARIABLE}]


class Share(Kind):
    """A number of at least 0 and less than 1."""

    def read(self, value: object, from_file: bool) -> float:
        """Return the number."""
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]*\.?[0-9]+\s*", value):
            value = float(value)
        number = number_of(value)
        if number is None or not 0 <= number < 1:
            raise wrong("write a number of at least 0 and less than 1")
        return number

    def forms(self) -> list[dict[str, object]]:
        """Return a bounded number, or text of one or with a variable."""
        return [
            {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            {"type": "string", "pattern": rf"^\s*0*\.[0-9]+\s*$|^\s*0+\s*$|{VARIABLE}"},
        ]


@dataclass(frozen=True)
class Duration(Kind):
    """A time above zero: seconds in Python; in a file milliseconds, or text with ms, s, m or h; or a timedelta.

    least: seconds
    """

    least: float = 0.0

    unit = " Unit: milliseconds for a bare number, or text with ms, s, m or h (300ms, 2s, 1.5m)."
    pattern = r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(ms|s|m|h)?\s*"

    def read(self, value: object, from_file: bool) -> float:
        """Return seconds."""
        unit = "ms" if from_file else "s"
        if isinstance(value, str) and (match := re.fullmatch(self.pattern, value)):
            value, unit = float(match[1]), match[2] or unit
        if isinstance(value, timedelta):
            value, unit = value.total_seconds(), "s"
        number = number_of(value)
        if number is None or not 0 < number < 1e12:
            raise wrong("write a duration above zero: milliseconds as a number, or text such as 300ms, 2s or 1.5m")
        read = {"ms": number / 1000, "s": number, "m": number * 60, "h": number * 3600}[unit]
        if read < self.least:
            raise wrong(f"write at least {self.written(self.least)}")
        return read

    def forms(self) -> list[dict[str, object]]:
        """Return a positive number, or text of one with or without unit or with a variable."""
        least = {"minimum": self.least * 1000} if self.least else {"exclusiveMinimum": 0}
        return [
            {"type": "number", **least, "exclusiveMaximum": 1e12},
            {"type": "string", "pattern": rf"^(?=.*[1-9]){self.pattern}$|{VARIABLE}"},
        ]

    def written(self, value: object) -> object:
        """Return the seconds as text with the unit that suits them."""
        assert isinstance(value, float)
        return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


@dataclass(frozen=True)
class Text(Kind):
    """Text that is not empty; `problem` may find something else wrong with it."""

    problem: Callable[[str], str] | None = None
    empty: bool = False

    def read(self, value: object, from_file: bool) -> object:
        """Return the text."""
        if not isinstance(value, str):
            raise wrong("text is expected; put it in quotes if it is a number, true or false")
        if not value and not self.empty:
            raise wrong("empty; write something, or leave the option out")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise wrong("contains bytes that are not UTF-8")
        if self.problem and (found := self.problem(value)):
            raise wrong(found)
        return value

    def forms(self) -> list[dict[str, object]]:
        """Return any text, or any that is not empty."""
        return [{"type": "string"} if self.empty else {"type": "string", "minLength": 1}]


class Secret(Text):
    """Text that is never shown."""

    def read(self, value: object, from_file: bool) -> object:
        """Return the text, wrapped."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return SecretStr(str(super().read(text, from_file)))


class Provider(Kind):
    """An object with a method `get_credentials`; no file can hold one."""

    def read(self, value: object, from_file: bool) -> object:
        """Return the object."""
        if not callable(getattr(value, "get_credentials", None)):
            raise wrong(
                "a credential provider is an object with get_credentials(), which only options given as a mapping can"
                " hold; in a file, write password_file or ${VARIABLE}"
            )
        return value

    def forms(self) -> list[dict[str, object]]:
        """Return nothing: it can't be written."""
        return []


def no_control(value: str) -> str:
    """Return what is wrong with text that must not have control characters; "" if nothing is."""
    control = any(character < " " or "\x7f" <= character <= "\x9f" for character in value)
    return "must not contain control characters" if control else ""


def host_problem(value: str) -> str:
    """Return what is wrong with a host name or IP address; "" if nothing is."""
    if re.fullmatch(r"[^\s:/@?#,\[\]\\\x00-\x20\x7f]+", value):
        return ""
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return "write a host name or an IP address alone: write the port as port, and IPv6 without brackets"
    return ""


def server_from_url(url: str) -> dict[str, object] | str:
    """Read the options that a URL stands for.

    `redis.connection.parse_url` silently ignores some mistakes. Here they are wrong: the rest of a password that was
    not escaped may look like a path, a parameter or a fragment.

    url: redis://, rediss:// or unix://

    Returns the options, unchecked; or what is wrong with the URL, without repeating any of it.
    """
    import redis.connection  # slow, and most files have no URL

    parse_url: Callable[[str], dict[str, object]] = redis.connection.parse_url
    try:
        unquote(url, errors="strict")
        parts = urlsplit(url)
        if (port := re.search(r":([0-9]+)$", parts.netloc)) and not 1 <= int(port[1]) <= 65535:
            return "the port of the URL must be from 1 to 65535"
        found = parse_url(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return BAD_URL
    rest = url.partition("://")[2][len(parts.netloc) :]
    if any(character <= " " for character in url) or "@" in rest or "#" in rest:
        return BAD_URL
    fields: dict[str, object] = {name: found[name] for name in ("host", "username", "password") if name in found}
    problem = _add_address(parts, fields) or _add_parameters(parameters, fields)
    return problem or fields


def _add_address(parts: SplitResult, fields: dict[str, object]) -> str:
    """Add the server's address to the fields. Returns what is wrong, "" if nothing is."""
    address, path = parts.netloc.rpartition("@")[2], unquote(parts.path)
    if parts.scheme == "unix":
        fields["socket"] = path
        return "" if path and not address else "write the path of a Unix socket as unix:///path (three slashes)"
    if not fields.get("host"):
        return "the URL names no host; write redis://host:port"
    if port := re.search(r":([0-9]*)$", address):
        fields["port"] = port[1]
    if path not in ("", "/"):
        if not re.fullmatch(r"/[0-9]+/?", path):
            return "what follows the host must be the number of a database, as in redis://host:6379/0"
        fields["database"] = path.strip("/")
    if parts.scheme == "rediss":
        fields["ssl"] = True
    return ""


def _add_parameters(parameters: list[tuple[str, str]], fields: dict[str, object]) -> str:
    """Add what follows the question mark to the fields. Returns what is wrong, "" if nothing is."""
    for name, value in parameters:
        option = "database" if name == "db" else name
        if name not in URL_PARAMETERS:
            return f"the URL has an unknown parameter; there are {', '.join(URL_PARAMETERS)}"
        if option in fields:
            return f"the URL gives {option} twice; remove one of the two"
        fields[option] = value
    return ""
