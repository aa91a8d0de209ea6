"""What hostile servers say: named cases, and words that are made up."""

from __future__ import annotations

import hiredis
from hypothesis import strategies as st

from redlock_cluster.core.replies import ErrorReply

TOKEN = b"f" * 22 + b"@other:1"

RUBBISH: dict[str, bytes] = {
    # wrong types
    "integer": b":7\r\n",
    "negative integer": b":-1\r\n",
    "simple string": b"+QUEUED\r\n",
    "empty string": b"$0\r\n\r\n",
    "true": b"#t\r\n",
    "false": b"#f\r\n",
    "double of one": b",1\r\n",
    "not a number": b",nan\r\n",
    "infinite": b",-inf\r\n",
    "big number": b"(" + b"9" * 5000 + b"\r\n",
    "verbatim string": b"=8\r\ntxt:what\r\n",
    "blob error": b"!5\r\nERR x\r\n",
    "empty error": b"-\r\n",
    "error not utf-8": b"-ERR \xff\xfe\r\n",
    "long error": b"-ERR " + b"x" * 100_000 + b"\r\n",
    "array": b"*2\r\n$1\r\na\r\n:1\r\n",
    "array of nil": b"*1\r\n_\r\n",
    "array of errors": b"*2\r\n-ERR a\r\n-ERR b\r\n",
    "empty array": b"*0\r\n",
    "map": b"%2\r\n+a\r\n:1\r\n+b\r\n_\r\n",
    "map with a list as key": b"%1\r\n*1\r\n:1\r\n:2\r\n",
    "map with an error as key": b"%1\r\n-ERR x\r\n:1\r\n",
    "set": b"~3\r\n:1\r\n:1\r\n_\r\n",
    "set of maps": b"~1\r\n%1\r\n+a\r\n+b\r\n",
    "attribute": b"|1\r\n+ttl\r\n:5\r\n",
    "attribute before a value": b"|1\r\n+ttl\r\n:5\r\n:7\r\n",
    "streamed string": b"$?\r\n;2\r\nOK\r\n;0\r\n",
    "streamed array": b"*?\r\n:1\r\n.\r\n",
    "unknown type": b"@1\r\n",
    # lengths
    "bulk of 2 GiB": b"$2147483647\r\nOK\r\n",
    "bulk of 2^63": b"$9223372036854775807\r\nOK\r\n",
    "bulk beyond 2^63": b"$99999999999999999999\r\nOK\r\n",
    "negative bulk": b"$-2\r\n",
    "bulk without a length": b"$\r\n",
    "bulk longer than told": b"$2\r\nabcdef\r\n",
    "array of a million": b"*1000000\r\n" * 5,
    "array beyond 2^63": b"*99999999999999999999\r\n",
    "negative array": b"*-2\r\n",
    "negative map": b"%-2\r\n",
    "map of 2^63": b"%9223372036854775807\r\n",
    "integer beyond 2^63": b":9223372036854775808\r\n",
    "100,000 levels deep": b"*1\r\n" * 100_000 + b":1\r\n",
    "as deep as is allowed": b"*1\r\n" * 8 + b":1\r\n",
    # pushes out of place
    "push": b">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n",
    "push of nothing": b">0\r\n",
    "push of an unknown kind": b">3\r\n+weather\r\n:1\r\n%1\r\n+a\r\n_\r\n",
    "push in an array": b"*2\r\n>1\r\n+a\r\n:1\r\n",
    "pushes around a value": b">1\r\n+a\r\n:7\r\n>1\r\n+b\r\n",
    "push of nil": b">1\r\n_\r\n" * 100,
    # too few, too many
    "nothing": b"",
    "half a line": b"$3",
    "half a string": b"$3\r\nab",
    "half an array": b"*3\r\n:1\r\n",
    "three values": b":7\r\n:7\r\n:7\r\n",
    "a value and rubbish": b":7\r\n\x00\x01\x02",
    "a thousand errors": b"-ERR x\r\n" * 1000,
    # not the protocol
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html></html>",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": b"\x00" * 4096,
    "every byte": bytes(range(256)) * 16,
    "line feeds": b"+OK\n:1\n_\n",
    "carriage returns": b"+OK\r:1\r_\r",
    # what a proxy or a broken server says
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "moved": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "unknown command": b"-ERR unknown command 'SET'\r\n",
    "somebody's token": b"$%d\r\n%b\r\n" % (len(TOKEN), TOKEN),
    "a key of another type": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
}


def heard(data: bytes) -> list[object]:
    """The replies that a stream of bytes holds, as a client reads them up to the first it can't read."""
    reader, found = hiredis.Reader(notEnoughData=..., replyError=ErrorReply), list[object]()
    reader.feed(data)
    try:
        while (value := reader.gets()) is not ...:
            if not isinstance(value, hiredis.PushNotification):
                found.append(value)
    except (hiredis.ProtocolError, TypeError, MemoryError):
        pass
    return found


def line(kind: bytes, text: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return text.map(lambda content: kind + content + b"\r\n")


NUMBERS = st.integers(-(2**65), 2**65).map(lambda number: b"%d" % number)
COUNTS = (st.integers(-3, 6) | st.sampled_from([10**6, 2**63, 10**20])).map(lambda number: b"%d" % number)
TEXT = st.sampled_from([b"OK", b"", b"ERR x", b"NOSCRIPT x", b"WRONGTYPE x", b"MOVED 1 a:1", TOKEN]) | st.binary(
    max_size=12
)
SCALARS = st.one_of(
    *(line(kind, TEXT) for kind in (b"+", b"-", b"_", b"#", b",", b"(", b"!", b"?", b".", b";")),
    *(line(kind, NUMBERS) for kind in (b":", b"$", b"=", b"(", b",")),
    *(line(kind, COUNTS) for kind in (b"*", b"%", b"~", b">", b"|")),
    st.sampled_from([b":0\r\n", b"#t\r\n", b"#f\r\n", b",1\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b":1\r\n"]),
    TEXT.map(lambda text: b"$%d\r\n%b\r\n" % (len(text), text)),
)


def nested(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from([b"*", b"~", b">", b"%", b"|"])
    return st.builds(
        lambda kind, items, more: kind + b"%d\r\n" % (len(items) + more) + b"".join(items),
        kinds,
        st.lists(values, max_size=4),
        st.integers(-1, 2),
    )


VALUES = st.recursive(SCALARS, nested, max_leaves=8)
WORDS = st.one_of(VALUES, st.lists(VALUES, max_size=4).map(b"".join), st.binary(max_size=40))


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """What is said to one command: cut anywhere, perhaps short of its end."""
    data = draw(WORDS)
    ends = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)][: len(ends) + 1], strict=True)]
