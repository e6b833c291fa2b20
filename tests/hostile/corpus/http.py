"""HTTP/1.1 (RFC 9110, 9112): framing that two servers read differently, and heads without end."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import gzip
import zlib
from functools import cache

from hostile.case import Bytes, Case, Post, Raw

_HEAD = b"POST /read HTTP/1.1\r\nHost: bus\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_NEXT = b"GET /good HTTP/1.1\r\nHost: bus\r\nConnection: close\r\n\r\n"
MB = 1024 * 1024


def _raw(family: str, name: str, content: Bytes, *statuses: int) -> Case:
    return Case(family, name, Raw(content), statuses or (400,))


def _framing() -> list[Case]:
    """Each with a request behind it that must never be understood as one of its own."""
    lengths = {
        "two different": b"Content-Length: 2\r\nContent-Length: 3",
        "two equal": b"Content-Length: 2\r\n" * 2,
        "a list": b"Content-Length: 2, 2",
        "a plus": b"Content-Length: +2",
        "a minus": b"Content-Length: -2",
        "hexadecimal": b"Content-Length: 0x2",
        "a dot": b"Content-Length: 2.0",
        "an exponent": b"Content-Length: 2e0",
        "spaces in it": b"Content-Length: 1 2",
        "an underscore": b"Content-Length: 1_0",
        "nothing": b"Content-Length: ",
        "quoted": b'Content-Length: "2"',
        "beyond 64 bits": b"Content-Length: 18446744073709551618",
        "a comma first": b"Content-Length: ,2",
        "a NUL behind": b"Content-Length: 2\0",
        "a vertical tab": b"Content-Length:\x0b2",
        "Arabic digits": "Content-Length: ٢".encode(),
        "a parameter": b"Content-Length: 2;a=b",
        "folded": b"Content-Length:\r\n 2",
        "a space before the colon": b"Content-Length : 2",
        "a tab before the colon": b"Content-Length\t: 2",
        "with chunked": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        "behind chunked": b"Transfer-Encoding: chunked\r\nContent-Length: 2",
        "with chunked in capitals": b"Content-Length: 2\r\nTRANSFER-ENCODING: CHUNKED",
        "with identity": b"Content-Length: 2\r\nTransfer-Encoding: identity",
    }
    found = [
        _raw("framing", f"a length: {name}", _HEAD + line + b"\r\n\r\n{}" + _NEXT)
        for name, line in lengths.items()
    ]
    codings = {
        "xchunked": b"xchunked",
        "chunkedx": b"chunkedx",
        "chunked twice": b"chunked, chunked",
        "chunked not last": b"chunked, identity",
        "gzip": b"gzip",
        "gzip and chunked": b"gzip, chunked",
        "identity": b"identity",
        "nothing": b"",
        "quoted": b'"chunked"',
        "a comma": b"chunked,",
        "a comma first": b",chunked",
        "a parameter": b"chunked;q=1",
        "a vertical tab": b"\x0bchunked",
        "a form feed behind": b"chunked\x0c",
        "a NUL behind": b"chunked\0",
        "a folded line": b"\r\n chunked",
        "a bare carriage return": b"chunked\rX: y",
        "a bare line feed": b"x\nTransfer-Encoding: chunked",
        "a no-break space": b"chunked\xa0",
        "a letter with a dot above": "chun\u212aed".encode(),
        "two words": b"chunked chunked",
    }
    found += [
        _raw(
            "framing",
            f"a coding: {name}",
            _HEAD + b"Transfer-Encoding: " + value + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + _NEXT,
        )
        for name, value in codings.items()
    ]
    found += [
        _raw(
            "framing",
            "a coding: two lines",
            _HEAD + _CHUNKED + b"Transfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + _NEXT,
        ),
        _raw(
            "framing",
            "a coding: a space before the colon",
            _HEAD + b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + _NEXT,
        ),
        _raw(
            "framing",
            "a coding in version 1.0",
            _HEAD.replace(b"1.1", b"1.0") + _CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n" + _NEXT,
        ),
    ]
    chunks = {
        "a plus": b"+2\r\n{}\r\n0\r\n\r\n",
        "a minus": b"-2\r\n{}\r\n0\r\n\r\n",
        "0x": b"0x2\r\n{}\r\n0\r\n\r\n",
        "a space first": b" 2\r\n{}\r\n0\r\n\r\n",
        "an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
        "a line feed behind the size": b"2\n{}\r\n0\r\n\r\n",
        "a line feed behind the data": b"2\r\n{}\n0\r\n\r\n",
        "a line feed in an extension": b"2;\n{}\r\n0\r\n\r\n",
        "a carriage return in an extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
        "a NUL in an extension": b"2;a=\0\r\n{}\r\n0\r\n\r\n",
        "no size": b"\r\n{}\r\n0\r\n\r\n",
        "letters": b"zz\r\n{}\r\n0\r\n\r\n",
        "longer than it says": b"1\r\n{}\r\n0\r\n\r\n",
        "shorter than it says": b"5\r\n{}\r\n0\r\n\r\n",
        "beyond 64 bits": b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        "no line end behind the data": b"2\r\n{}0\r\n\r\n",
        "a space behind the size, no more": b"2 x\r\n{}\r\n0\r\n\r\n",
        "a line feed behind the last": b"2\r\n{}\r\n0\n\n",
        "a trailer without a name": b"2\r\n{}\r\n0\r\n: x\r\n\r\n",
        "a trailer with a NUL": b"2\r\n{}\r\n0\r\nX: \0\r\n\r\n",
        "a folded trailer": b"2\r\n{}\r\n0\r\nX: a\r\n b\r\n\r\n",
    }
    found += [
        _raw("framing", f"a chunk: {name}", _HEAD + _CHUNKED + b"\r\n" + body + _NEXT)
        for name, body in chunks.items()
    ]
    return found


def _heads() -> list[Case]:
    lines = {
        "no host": (b"POST /read HTTP/1.1\r\n\r\n", 400),
        "two hosts": (b"GET /good HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        "two equal hosts": (b"GET /good HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        "an empty host": (b"GET /good HTTP/1.1\r\nHost: \r\n\r\n", 400),
        "a host with a user": (b"GET /good HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        "a host with a path": (b"GET /good HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        "a host with a space": (b"GET /good HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        "a host with a letter of no alphabet": (b"GET /good HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
        "a host of 10,000 letters": (
            b"GET /good HTTP/1.1\r\nHost: " + b"a" * 10_000 + b"\r\n\r\n",
            400,
        ),
        "a host with a port beyond": (b"GET /good HTTP/1.1\r\nHost: a:999999\r\n\r\n", 400),
        "the absolute form of another host": (
            b"GET http://b/good HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        "the absolute form with a user": (b"GET http://a@b/good HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        "the absolute form of a file": (b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "the absolute form of the canary": (b"GET http://CANARY/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "version 0.9": (b"GET /good\r\n\r\n", 505),
        "version 1.2": (b"GET /good HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        "version 2.0": (b"GET /good HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        "version 11": (b"GET /good HTTP/11\r\nHost: a\r\n\r\n", 400),
        "a version in lower case": (b"GET /good http/1.1\r\nHost: a\r\n\r\n", 400),
        "a version with a dot too much": (b"GET /good HTTP/1.1.1\r\nHost: a\r\n\r\n", 400),
        "another protocol": (b"GET /good XMPP/1.0\r\nHost: a\r\n\r\n", 400, 505),
        "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        "a ClientHello": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500, 400),
        "SMTP": (b"HELO me\r\n", 400),
        "Redis": (b"*1\r\n$4\r\nPING\r\n", 400),
        "AMQP": (b"AMQP\0\0\x09\x01", 400),
        "SSH": (b"SSH-2.0-x\r\n", 400),
        "a proxy's header": (
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /good HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        "a method nobody knows": (b"FROB /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a method in lower case": (b"get /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a method with a NUL": (b"GE\0T /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "TRACE": (b"TRACE /good HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        "TRACK": (b"TRACK /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "CONNECT": (b"CONNECT CANARY HTTP/1.1\r\nHost: CANARY\r\n\r\n", 501),
        "DEBUG": (b"DEBUG /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "PROPFIND": (b"PROPFIND /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        "a method of 10,000 letters": (b"G" * 10_000 + b" /good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "no target": (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a tab between": (b"GET\t/good HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a space in the target": (b"GET /go od HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a NUL in the target": (b"GET /good\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a fragment": (b"GET /good#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "a raw letter in the target": ("GET /gööd HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
        "a star": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        "line feeds only": (b"GET /good HTTP/1.1\nHost: a\n\n", 400),
        "carriage returns only": (b"GET /good HTTP/1.1\rHost: a\r\r", 400),
        "a header without a colon": (b"GET /good HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
        "a header without a name": (b"GET /good HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
        "a space in a name": (b"GET /good HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", 400),
        "a space before a name": (b"GET /good HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        "a folded header": (b"GET /good HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
        "a NUL in a value": (b"GET /good HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", 400),
        "a bare carriage return in a value": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
            400,
        ),
        "a bell in a value": (b"GET /good HTTP/1.1\r\nHost: a\r\nX: \x07\r\n\r\n", 400),
        "an escape in a value": (b"GET /good HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n", 400),
        "a letter of no alphabet in a name": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nX\xff: y\r\n\r\n",
            400,
        ),
        "101 headers": (b"GET /good HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        "100,000 headers": (
            b"GET /good HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
            431,
        ),
        "a header of 1 MB": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nA: " + b"b" * MB + b"\r\n\r\n",
            431,
        ),
        "a name of 1 MB": (b"GET /good HTTP/1.1\r\nHost: a\r\n" + b"A" * MB + b": b\r\n\r\n", 431),
        "a target of 9 KB": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        "a target of 10 MB": (b"GET /" + b"a" * 10 * MB, 414),
        "an expectation that is none": (
            b"POST /read HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}",
            417,
        ),
        "10 MB of empty lines": (b"\r\n" * (5 * MB), 0, 400, 431),
        "10 MB of one letter": (b"A" * 10 * MB, 400),
        "random bytes": (bytes(range(256)) * 40, 400),
        "10 MB of trailers": (
            _HEAD + _CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * MB,
            0,
            200,
            400,
            431,
        ),
        "an extension of 10 MB": (_HEAD + _CHUNKED + b"\r\n2;" + b"a" * 10 * MB, 400, 431),
        "a chunk size of 1 MB of zeros": (
            _HEAD + _CHUNKED + b"\r\n" + b"0" * MB + b"2\r\n{}\r\n0\r\n\r\n",
            200,
            400,
            431,
        ),
        "101 requests at once": (b"GET /far HTTP/1.1\r\nHost: a\r\n\r\n" * 150 + _NEXT, 400, 405),
        "a request of 100 GB": (_HEAD + b"Content-Length: 107374182400\r\n\r\n{", 413),
        "one byte a chunk": (
            _HEAD
            + _CHUNKED
            + b"Connection: close\r\n\r\n"
            + b"1\r\n \r\n" * 200_000
            + b"2\r\n{}\r\n0\r\n\r\n",
            200,
            400,
        ),
        "half a head": (b"POST /read HTTP/1.1\r\nHos", 408),
        "half a body": (_HEAD + b"Content-Length: 20\r\n\r\n{", 408),
        "half a chunk": (_HEAD + _CHUNKED + b"\r\n20\r\n{", 408),
        "an upgrade to h2c": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            200,
        ),
        "an upgrade to a WebSocket": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            200,
        ),
        "1,000 ranges": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes="
            + b"0-1," * 1_000
            + b"5-\r\n\r\n",
            200,
        ),
        "conditions that are none": (
            b'GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-Modified-Since: x\r\nIf-None-Match: "\r\nIf-Range: y\r\n\r\n',
            200,
        ),
        "an Accept of 30 KB": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: "
            + b"a/b;q=0.1," * 3_000
            + b"\r\n\r\n",
            200,
            406,
        ),
        "headers that Connection takes away": (
            b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close, host, content-length\r\n\r\n",
            200,
        ),
    }
    return [
        Case("heads", name, Raw(content, 30.0), tuple(statuses), slow=408 in statuses)
        for name, (content, *statuses) in lines.items()
    ]


def _paths() -> list[Case]:
    refused = {
        "..": 400,
        "../../etc/passwd": 400,
        "%2e%2e/%2e%2e/etc/passwd": 400,
        "..%2f..%2fetc%2fpasswd": 400,
        "%252e%252e%252fetc": 200,
        "..;/admin": 404,
        "a/../b": 400,
        "./a": 400,
        "%2e": 400,
        "a%2fb": 400,
        "a%5cb": 400,
        "..\\..\\etc": 400,
        "%00": 400,
        "a%00.txt": 400,
        "%0d%0aX:%20y": 400,
        "a%0ab": 400,
        "%ff": 400,
        "%c0%af": 400,
        "%c0%ae%c0%ae/": 400,
        "%u002e": 400,
        "%": 400,
        "%2": 400,
        "%zz": 400,
        "/a": 400,
        "%e2%80%ae": 200,
        "%ed%a0%80": 400,
    }
    found = [
        Case(
            "paths",
            f"/path/{path}",
            Post(f"/path/{path}", method="GET"),
            (status,) if status != 400 else (400, 404),
        )
        for path, status in refused.items()
    ]
    found += [
        Case("paths", f"another path: {path}", Post(path, method="GET"), (400, 404, 405))
        for path in (
            "//good",
            "/GOOD",
            "/good%2f",
            "/good/..",
            "/./good",
            "/good;a=b",
            "/good.json",
            "/goo%64x",
            "/admin",
            "/good//",
            "/%67ood%00",
            "/healthz/../good",
            "/docs/../good",
            "/docs/..%2f..%2fetc/passwd",
        )
    ]
    found += [
        Case("paths", f"a query: {name}", Post(f"/path/1?{query}", method="GET"))
        for name, query in {
            "half an escape": "q=%",
            "a NUL": "q=%00",
            "bytes that are no UTF-8": "q=%ff",
            "an overlong slash": "q=%c0%af",
            "half of a pair": "q=%ed%a0%80",
            "1,001 parameters": "&".join("a" for _ in range(1001)),
            "a broken name": "%zz=1",
        }.items()
    ]
    # What a caller says becomes part of another request: it must stay one segment, one value.
    found += [
        Case("paths", f"into a request: {path}", Post(f"/forwarded/{path}", method="GET"), statuses)
        for path, statuses in {
            "a%3fb=c": (200,),
            "a%23b": (200,),
            "a%26b": (200,),
            "a%40b": (200,),
            "a%20b": (200,),
            "a%0d%0aX:y": (400,),
            "a%0aGET%20/": (400,),
            "%2e%2e": (400, 404),
            "a%2f..%2fb": (400, 404),
            "%5c%5cCANARY": (400, 404),
            "http:%2f%2fCANARY": (400, 404),
            "%7b%7bconfig%7d%7d": (200,),
            "$%7bHOME%7d": (200,),
            "a%e2%80%a8b": (200, 400),
        }.items()
    ]
    return found


def _packed() -> list[Case]:
    bomb = cache(lambda: gzip.compress(bytes(200 * MB), 1))
    found = [
        Case(
            "packed",
            f"{name} as {coding}",
            Post("/read", body, "application/json", headers=(("Content-Encoding", coding),)),
            (415,),
        )
        for name, coding, body in (
            ("a bomb", "gzip", bomb),
            ("a bomb", "x-gzip", bomb),
            ("a bomb", "GZIP", bomb),
            ("nothing", "gzip", b""),
            (
                "a bomb in a bomb",
                "gzip, gzip",
                lambda: gzip.compress(gzip.compress(bytes(50 * MB))),
            ),
            ("a bomb", "deflate", lambda: zlib.compress(bytes(100 * MB))),
            ("a few bytes", "br", b"\x1b\x00\x00"),
            ("a few bytes", "zstd", b"\x28\xb5\x2f\xfd"),
            ("a few bytes", "compress", b"\x1f\x9d"),
            ("a few bytes", "aes128gcm", b"{}"),
            ("40,000 members", "gzip", lambda: gzip.compress(b"") * 40_000),
            ("text", "identity, gzip", b"{}"),
        )
    ]
    return [
        *found,
        Case("packed", "a bomb that does not say so", Post("/read", bomb, "application/json")),
        Case(
            "packed",
            "a bomb as a form",
            Post("/any", bomb, "application/x-www-form-urlencoded"),
            (200, 400, 413),
        ),
        Case(
            "packed",
            "a bomb as gzip's own type",
            Post("/any", bomb, "application/gzip"),
            (415, 500, 200),
        ),
    ]


def cases() -> list[Case]:
    """All."""
    return [*_framing(), *_heads(), *_paths(), *_packed()]
