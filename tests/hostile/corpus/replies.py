"""What a backend answers that has been taken over: the bus is its client."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import gzip
import zlib

from hostile.case import Bytes, Case, Dropped, Reply
from hostile.corpus.soap import S11

MB = 1024 * 1024
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def _answer(body: bytes, more: bytes = b"") -> bytes:
    return _OK + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _chunked(body: bytes) -> bytes:
    return _OK + b"Transfer-Encoding: chunked\r\n\r\n" + body


def cases() -> list[Case]:
    """All."""
    framing: dict[str, Bytes] = {
        "half a head": b"HTTP/1.1 200 OK\r\nConte",
        "a page of version 0.9": b"<html>",
        "another protocol": b"SSH-2.0-x\r\n",
        "version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
        "no status": b"HTTP/1.1 OK\r\n\r\n",
        "status 99": b"HTTP/1.1 99 X\r\n\r\n",
        "status 1000": b"HTTP/1.1 1000 X\r\n\r\n",
        "status 200x": b"HTTP/1.1 200x X\r\n\r\n",
        "an upgrade": b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "1,000 times 100": b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000,
        "two lengths": _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "a length that is none": _OK + b"Content-Length: x\r\n\r\n{}",
        "a negative length": _OK + b"Content-Length: -1\r\n\r\n{}",
        "a length beyond 64 bits": _OK + b"Content-Length: 18446744073709551618\r\n\r\n{}",
        "length and chunked": _OK
        + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "a coding nobody knows": _OK + b"Transfer-Encoding: x\r\n\r\n{}",
        "chunked twice": _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "a chunk that is none": _chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
        "a chunk longer than it says": _chunked(b"1\r\n{}\r\n0\r\n\r\n"),
        "a chunk that ends early": _chunked(b"ff\r\n{}"),
        "a body that ends early": _OK + b"Content-Length: 20\r\n\r\n{}",
        "a folded header": _OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        "a NUL in a header": _OK + b"X: \0\r\nContent-Length: 2\r\n\r\n{}",
        "a bare carriage return": _OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        "a header without a name": _OK + b": a\r\nContent-Length: 2\r\n\r\n{}",
        "a space before the colon": _OK + b"X : a\r\nContent-Length: 2\r\n\r\n{}",
        "10,000 headers": _OK + b"X: a\r\n" * 10_000 + b"Content-Length: 2\r\n\r\n{}",
        "a header of 1 MB": _OK + b"X: " + b"a" * MB + b"\r\n\r\n",
        "a head of 10 MB": _OK + b"X: a\r\n" * (10 * MB // 6),
        "an extension of 10 MB": _chunked(b"2;" + b"a" * 10 * MB),
        "trailers of 10 MB": _chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * MB),
        "a status line of 10 MB": b"HTTP/1.1 200 " + b"a" * 10 * MB,
    }
    found = [
        Case(
            "replies",
            name,
            Reply("/far", answer),
            (502, 503, 504),
            "bad-reply|unreachable|outcome-unknown|timed-out|too-large",
        )
        for name, answer in framing.items()
        if name not in ("version 2.0", "a space before the colon")
    ]
    bodies: dict[str, Bytes] = {
        "no JSON": _answer(b"<html>secret</html>"),
        "broken JSON": _answer(b'{"a": '),
        "100,000 deep": _answer(b"[" * 100_000),
        "a key twice": _answer(b'{"a": 1, "a": 2}'),
        "NaN": _answer(b"NaN"),
        "UTF-16": _answer("{}".encode("utf-16")),
        "11 MB": lambda: _answer(b'"' + b"a" * 11 * MB + b'"'),
        "11 MB that do not say so": lambda: (
            _OK + b"Connection: close\r\n\r\n" + b'"' + b"a" * 11 * MB
        ),
        "11 MB of chunks": lambda: (
            _chunked(b"100000\r\n" + b"a" * MB + b"\r\n")
            + (b"100000\r\n" + b"a" * MB + b"\r\n") * 10
        ),
        "a bomb": lambda: _answer(gzip.compress(bytes(200 * MB)), b"Content-Encoding: gzip\r\n"),
        "a bomb in a bomb": lambda: _answer(
            gzip.compress(gzip.compress(bytes(50 * MB))), b"Content-Encoding: gzip, gzip\r\n"
        ),
        "a bomb of deflate": lambda: _answer(
            zlib.compress(bytes(100 * MB)), b"Content-Encoding: deflate\r\n"
        ),
        "gzip that is none": _answer(b"{}", b"Content-Encoding: gzip\r\n"),
        "gzip that ends early": _answer(
            gzip.compress(b"{}" * 1000)[:-9], b"Content-Encoding: gzip\r\n"
        ),
        "packed as nobody knows": _answer(b"{}", b"Content-Encoding: x\r\n"),
        "20 codings": _answer(b"{}", b"Content-Encoding: " + b"gzip, " * 20 + b"gzip\r\n"),
        "400,000 values and more": lambda: _answer(b"[" + b"1," * 1_000_000 + b"1]"),
    }
    found += [
        Case("replies", name, Reply("/far", answer), (502, 413)) for name, answer in bodies.items()
    ]
    found += [
        Case(
            "replies",
            f"a redirect by {status} to {where}",
            Reply(
                "/far",
                b"HTTP/1.1 %d X\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n"
                % (status, where.encode()),
            ),
            (502,),
        )
        for status, where in (
            (301, "http://CANARY/"),
            (302, "http://CANARY/"),
            (307, "http://CANARY/"),
            (308, "//CANARY/"),
            (302, "file:///etc/passwd"),
            (302, "gopher://CANARY/"),
            (303, "http://169.254.169.254/"),
        )
    ]
    xml = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b"
    for name, text in {
        "an external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><name>&x;</name></a>',
        "a subset of the web": '<!DOCTYPE a SYSTEM "http://CANARY/x"><a/>',
        "laughs": '<!DOCTYPE a [<!ENTITY x "ha">]><a>&x;</a>',
        "broken XML": "<a>",
        "100,000 deep": "<a>" * 100_000,
        "UTF-7": '<?xml version="1.0" encoding="utf-7"?>+ADw-a/+AD4-',
    }.items():
        found.append(
            Case(
                "replies",
                f"XML: {name}",
                Reply("/far-xml", xml % (len(text), text.encode())),
                (502,),
            )
        )
    envelope = f'<s:Envelope xmlns:s="{S11}"><s:Body>%s</s:Body></s:Envelope>'
    soap = {
        "an external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        + envelope % "&x;",
        "no envelope": "<a/>",
        "an empty Body": envelope % "",
        "another answer": envelope % '<dropPartnerResponse xmlns="urn:example:partner"/>',
        "a page": "<html><body>secret</body></html>",
        "a fault without an end": envelope % "<s:Fault><faultcode>",
        "a fault that blames nobody": envelope % "<s:Fault/>",
        "a fault with markup": envelope
        % "<s:Fault><faultcode>s:Server</faultcode><faultstring>&lt;script&gt;root:x:1</faultstring></s:Fault>",
        "the request": envelope % '<getPartner xmlns="urn:example:partner"><id>1</id></getPartner>',
    }
    found += [
        Case(
            "replies",
            f"SOAP: {name}",
            Reply(
                "/page/getPartner",
                b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%b"
                % (len(text.encode()), text.encode()),
                b'{"id": 1}',
            ),
            (502,),
        )
        for name, text in soap.items()
    ]
    found += [
        Case("replies", f"passed on: {name}", Reply("/far-proxy", answer), statuses)
        for name, answer, statuses in (
            (
                "40,000 members",
                lambda: _answer(gzip.compress(b"") * 40_000, b"Content-Encoding: gzip\r\n"),
                (200, 502),
            ),
            (
                "something behind gzip",
                _answer(gzip.compress(b"{}") + b"junk", b"Content-Encoding: gzip\r\n"),
                (200, 502),
            ),
            ("a header that splits", _answer(b"{}", b"X: a\r\nSet-Cookie: b\r\n"), (200,)),
            (
                "headers of a hop",
                _answer(b"{}", b"Connection: x\r\nX: a\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\n"),
                (200,),
            ),
            ("a header of 0xff", _answer(b"{}", b"X: \xff\r\n"), (200, 502)),
            ("a status of 600", b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n", (502, 200)),
            (
                "11 MB that break off",
                _OK + b"Content-Length: 11534336\r\n\r\n" + b"a" * 5 * MB,
                (200, 502),
            ),
        )
    ]
    # Nobody waits for what lies in a folder: it is a dead letter.
    found += [
        Case(
            "files",
            name,
            Dropped(name, content),
            (0,),
            "bad-message|too-large|unsupported-media-type",
        )
        for name, content in (
            ("broken.json", b"{"),
            ("deep.json", b"[" * 100_000),
            ("entity.xml", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file://PLANTED">]><a>&x;</a>'),
            ("laughs.yaml", b"a: &a [x]\nb: [*a, *a]"),
            ("tag.yaml", b"!!python/object/apply:os.system [id]"),
            ("half.csv", b'a,b\n"1'),
            ("bytes.txt", b"\xff\xfe\xff"),
            ("10 MB of brackets.json", lambda: b"[" * 10 * MB),
            ("many.json", lambda: b"[" + b"1," * 1_000_000 + b"1]"),
            ("names with ../ are none.json", b"{"),
            ("$(id);`id`.json", b"{"),
            ("{{7*7}}.json", b"{"),
            ("%2e%2e%2f.json", b"{"),
            ("line\nbreak.json", b"{"),
            ("-rf.json", b"{"),
            ("\x1b[2J.json", b"{"),
        )
        if "/" not in name
    ]
    return found
