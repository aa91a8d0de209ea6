"""Replies as values, and how RESP2 and RESP3 write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, TypeAlias

__all__ = [
    "OK",
    "OUT_OF_MEMORY",
    "PONG",
    "SYNTAX",
    "WRONG_TYPE",
    "CommandError",
    "Failure",
    "Pairs",
    "Push",
    "Replies",
    "Reply",
    "Status",
    "Verbatim",
    "encode",
    "float_text",
    "invalidation",
]


class Status(bytes):
    """A simple string, such as OK."""

    __slots__ = ()


class Failure(bytes):
    """An error with its code, such as `ERR syntax error`."""

    __slots__ = ()


class Verbatim(bytes):
    """A text: marked as such in RESP3, an ordinary string in RESP2."""

    __slots__ = ()


class Pairs(list["Reply"]):
    """Names and values in turn: a map in RESP3, a flat array in RESP2."""

    __slots__ = ()


class Push(list["Reply"]):
    """What a server sends beside its replies: marked as such in RESP3, an ordinary array in RESP2."""

    __slots__ = ()


class Replies(list["Reply"]):
    """Several replies to one command, one after the other."""

    __slots__ = ()


Reply: TypeAlias = bytes | int | float | Sequence["Reply"] | None
"""bytes of no class above: a bulk string; float: a double in RESP3, a string in RESP2; None: null."""

OK: Final = Status(b"OK")
PONG: Final = Status(b"PONG")
SYNTAX: Final = b"ERR syntax error"
OUT_OF_MEMORY: Final = b"OOM command not allowed when used memory > 'maxmemory'."
WRONG_TYPE: Final = b"WRONGTYPE Operation against a key holding the wrong kind of value"

_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class CommandError(Exception):
    """Ends a command with an error reply.

    text: the error with its code
    """

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def encode(reply: Reply, resp: int, short_floats: bool = True) -> bytes:
    """The bytes of a reply.

    resp: version of the protocol, 2 or 3
    short_floats: as `short` in `float_text`
    """
    if type(reply) is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if reply is None:
        return b"_\r\n" if resp == 3 else b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return _text(reply, resp)
    if isinstance(reply, float):
        digits = float_text(reply, short_floats)
        return b",%b\r\n" % digits if resp == 3 else b"$%d\r\n%b\r\n" % (len(digits), digits)
    return _head(reply, resp) + b"".join(encode(item, resp, short_floats) for item in reply)


def _head(reply: Sequence[Reply], resp: int) -> bytes:
    """What stands before the items of a reply."""
    if isinstance(reply, Replies):
        return b""
    if isinstance(reply, Pairs) and resp == 3:
        return b"%%%d\r\n" % (len(reply) // 2)
    return (b">%d\r\n" if isinstance(reply, Push) and resp == 3 else b"*%d\r\n") % len(reply)


def _text(reply: bytes, resp: int) -> bytes:
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, Failure):
        return b"-%b\r\n" % reply.translate(_LINE_ENDS)
    if resp == 3:
        return b"=%d\r\ntxt:%b\r\n" % (len(reply) + 4, reply)
    return b"$%d\r\n%b\r\n" % (len(reply), reply)


def invalidation(key: bytes | None) -> bytes:
    """The push that a key, or with None every key, may have changed; in RESP3."""
    return encode(Push([b"invalidate", None if key is None else [key]]), 3)


def float_text(number: float, short: bool) -> bytes:
    """A number as servers write it.

    short: with the fewest digits that identify it, else with 17 digits; where two such numbers are equally near (a
        quarter beside 1.7e15), a server may choose the other one
    """
    if math.isinf(number):
        return b"inf" if number > 0 else b"-inf"
    if not short:
        return b"%.17g" % number
    if abs(number) <= 2**62 and number == int(number):
        return b"%d" % number
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    return (("-" if sign else "") + _pointed(text, exponent)).encode()


def _pointed(digits: str, exponent: int) -> str:
    """Digits with a point or an exponent, whichever Redis chooses (its fpconv, after Grisu2)."""
    power = exponent + len(digits) - 1
    if exponent >= 0 and abs(power) < len(digits) + 7:
        return digits + "0" * exponent
    if exponent < 0 and (exponent > -7 or abs(power) < 4):
        whole = len(digits) + exponent
        return digits[:whole] + "." + digits[whole:] if whole > 0 else "0." + "0" * -whole + digits
    point = "." if len(digits) > 1 else ""
    return f"{digits[0]}{point}{digits[1:]}e{power:+d}"
