"""Callers who want what is not theirs: paths that are allowed as one thing and served as another,
answers that were made for somebody else, limits of which each spelling has one of its own, pages of
other origins."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

from hostile.case import Case, Raw
from hostile.corpus.callers import ANN, BOB, REACHED, asked, here, in_turn

_PAGE = ("Origin", "https://evil.example")


def _paths() -> list[Case]:
    """/in/open is for everybody, /in/shut for a role that nobody has."""
    found = []
    for path in (
        "/in/open/../shut/x", "/in/open/%2e%2e/shut/x", "/in/open/.%2e/shut/x", "/in/open/%2E%2E/shut/x", "/in/open/..%2fshut/x", "/in/open/%2e%2e%2fshut%2fx",
        "/in/open/..%5cshut/x", "/in/open/..\\shut/x", "/in/open/..;/shut/x", "/in/open/..;a=b/shut/x", "/in/open;/../shut/x", "/in/open/%252e%252e/shut/x",
        "/in/open/%25%32%65%25%32%65/shut/x", "/in/open/%c0%ae%c0%ae/shut/x", "/in/open/%uff0e%uff0e/shut/x", "/in/open/\xef\xbc\x8e\xef\xbc\x8e/shut/x", "/in/open/./../shut/x",
        "//in/shut/x", "/in//shut/x", "/./in/shut/x", "/in/./shut/x", "/in/x/../shut/x", "/in%2fshut%2fx", "/in/shut%2fx", "/in/shut;a=b/x", "/in/shut%3b/x", "/in/shut%00/x",
        "/in/shut%20/x", "/in/shut%09/x", "/in/shut./x", "/in/shut%2e/x", "/in/Shut/x", "/IN/SHUT/x", "/in/%73hut/x", "/in/sh%75t/x", "/in/shut/%2e%2e/open", "/in/shut/x?",
        "/in/shut/x?/in/open/x", "/in/shut/x%3f", "/in/shut/x%23", "/in/shut/x/", "/in/shut/x.json", "/in/shut/x;.css", "/in/shut/x%0a", "/in/shut/x%0d%0aX: y",
        "/in/open/x#/../../shut/x", "/in/open/..%ff/shut/x", "/in/open/%", "/in/open/%zz/../shut", "/in/shu\xc5\xa3/x", "/in/\xc5\xbfhut/x",
        "http://bus/in/shut/x", "http://bus//in/shut/x", "http://bus/in/open/../shut/x",
    ):  # fmt: skip
        # With a key that is known and not enough, and with none.
        for who, headers in (("nobody", ()), ("ann", (ANN,))):
            wire = in_turn(asked(path, *headers, here()))
            statuses = (400, 401, 403, 404, 405)
            if "/open" in path and path.startswith("/in/open"):
                statuses += (200,)  # what is below it, whatever it looks like
            found.append(Case("paths", f"{path!a}, {who}", wire, statuses, lacks=REACHED))
    for method, headers in {
        "GET": (), "HEAD": (), "PUT": (), "DELETE": (), "PATCH": (), "OPTIONS": (), "TRACE": (), "PROPFIND": (), "SEARCH": (), "PURGE": (),
    }.items():  # fmt: skip
        wire = in_turn(asked("/in/shut/x", *headers, here(), method=method))
        found.append(
            Case("paths", f"{method} without a key", wire, (401, 405, 204, 501, 400), lacks=REACHED)
        )
    for name in (
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Method",
    ):
        for base, headers in (("/in/open/x", ()), ("/tenant/acme", (ANN,))):
            wire = in_turn(asked(base, *headers, (name, "PUT"), here(), method="GET"))
            found.append(
                Case(
                    "paths",
                    f"{name} at {base}",
                    wire,
                    (200,),
                    lacks=rb"(?i)\n" + name.encode() + rb":",
                )
            )
    for name in (
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Path",
        "X-Forwarded-Uri",
        "X-Original-URI",
        "X-Forwarded-Prefix",
        "Destination",
        "Content-Location",
    ):
        wire = in_turn(asked("/in/open/x", (name, "/in/shut/x"), here()))
        found.append(Case("paths", f"{name} names what is shut", wire, (200,), lacks=REACHED))
    return found


def _tenants() -> list[Case]:
    """Whoever has a tenant may look at that of no other; what is compared is what is dispatched."""
    found = [
        Case("tenants", "his own", in_turn(asked("/tenant/acme", ANN, here(), method="GET")), (200,), holds=rb"POST /reached/acme "),
        Case("tenants", "his own, in escapes", in_turn(asked("/tenant/%61cme", ANN, here(), method="GET")), (200,), holds=rb"POST /reached/acme "),
        Case("tenants", "his own, with a slash behind", in_turn(asked("/tenant/acme/", ANN, here(), method="GET")), (200,), holds=rb"POST /reached/acme "),
        Case("tenants", "his own, to be changed", in_turn(asked("/tenant/acme", ANN, here(), method="PUT")), (403,), lacks=REACHED),
    ]  # fmt: skip
    for path in (
        "other", "Acme", "ACME", "acme%20", "%20acme", "acme%09", "acme;x", "acme%3bx", "acme,other", "acme%2c", "acme%00", "acme%00other", "acme/../other", "acme%2f..%2fother",
        "other%23acme", "other?acme", "acme%3fx", "acme%26", "\xd0\xb0cme", "acme\xcc\x81", "\xef\xbd\x81cme", "acme%c2%ad", "acme%e2%80%8b", "*", "%2a", "%25", "null", "true", "",
        "acme/other", "other/acme", "%7b%7b7*7%7d%7d", "principal.claims.tenant", "acme'%20or%20'1'='1", "acme%0a", "acme.", "./acme", "acme%2e",
    ):  # fmt: skip
        wire = in_turn(asked(f"/tenant/{path}", ANN, here(), method="GET"))
        found.append(Case("tenants", f"that of {path!a}", wire, (400, 403, 404), lacks=REACHED))
    for name, query in (
        ("tenant", "?tenant=acme"),
        ("path.tenant", "?path.tenant=acme"),
        ("principal", "?principal=bob&principal.claims.tenant=other"),
    ):
        wire = in_turn(asked(f"/tenant/other{query}", ANN, here(), method="GET"))
        found.append(
            Case("tenants", f"another, and {name} in the query", wire, (403,), lacks=REACHED)
        )
    return found


def _kept() -> list[Case]:
    """An answer that is kept is for whoever it was made for, and for the question it answers."""
    made = iter(range(1000, 10_000))

    def pair(
        name: str, first: bytes, second: bytes, *, holds: bytes = b"", lacks: bytes = b""
    ) -> Case:
        return Case("kept", name, in_turn(first, second), (200,), holds=holds, lacks=lacks)

    def path(of: str = "kept") -> str:
        return f"/{of}/{next(made)}"

    found = []
    for name, who in {
        "of a key for another key": (ANN, BOB),
        "of a key for the same name by a token": (
            ("X-API-Key", "key-of-bob"),
            ("Authorization", "Bearer key-of-ann"),
        ),
    }.items():
        at = path()
        wanted = rb'"for":"bob"' if who[1] == BOB else rb'"for":"ann"'
        found.append(
            pair(
                name,
                asked(at, who[0], here(), method="GET"),
                asked(at, who[1], here(), method="GET"),
                holds=wanted,
            )
        )
    at = path()
    found.append(
        Case(
            "kept",
            "of a key for nobody",
            in_turn(asked(at, ANN, here(), method="GET"), asked(at, here(), method="GET")),
            (401,),
            lacks=rb'"for"',
        )
    )
    for name, change in {
        "a Vary of his own": (("Vary", "*"),), "Cache-Control of his own": (("Cache-Control", "public, max-age=9999"),), "another principal by a header": (("X-Principal", "ann"),),
        "If-None-Match of all": (("If-None-Match", "*"),), "Only-If-Cached": (("Cache-Control", "only-if-cached"),), "a Range": (("Range", "bytes=0-1"),),
    }.items():  # fmt: skip
        at = path()
        wire = in_turn(
            asked(at, ANN, here(), method="GET"), asked(at, BOB, *change, here(), method="GET")
        )
        statuses = (200, 304) if "None" in name else (200,)
        found.append(Case("kept", f"of another, by {name}", wire, statuses, lacks=rb'"for":"ann"'))
    # What is no part of the key reaches no backend, so it is in no answer for others.
    for name in (
        "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Host", "X-Forwarded-Server", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Evil", "Referer",
        "User-Agent", "Accept-Language", "Via", "From", "X-Wap-Profile", "Accept-Encoding", "Origin", "X-Languages", "x_language",
    ):  # fmt: skip
        at = path("kept-far")
        wire = in_turn(asked(at, (name, "evil.example"), here()))
        found.append(
            Case(
                "kept",
                f"a question with {name}",
                wire,
                (200,),
                holds=rb"POST /kept/",
                lacks=rb"evil",
            )
        )
    for name, first, second, wanted in (
        ("a parameter twice", "?q=a&q=b", "?q=a", rb'"q":"a"'),
        ("a parameter twice, in another order", "?q=a&q=b", "?q=b&q=a", rb'"q":\["b","a"\]'),
        ("a list as text", "?q=a&q=b", "?q=%5B%27a%27%2C%20%27b%27%5D", rb"\"q\":\"\['a', 'b'\]\""),
        ("a semicolon", "?q=a;q=b", "?q=a", rb'"q":"a"'),
        ("an ampersand in it", "?q=a%26x=1", "?q=a&x=1", rb'"q":"a"'),
        ("an equals sign in it", "?q=a%3Db", "?q=a", rb'"q":"a"'),
        ("a plus", "?q=a+b", "?q=a%2Bb", rb'"q":"a\+b"'),
        ("capital letters", "?q=A", "?q=a", rb'"q":"a"'),
        ("a capital name", "?Q=A&q=b", "?q=a&Q=b", rb'"q":"a"'),
        ("a parameter that is empty", "?q=", "?q=a", rb'"q":"a"'),
    ):
        at = path()
        found.append(
            pair(
                f"the answer to {name}",
                asked(at + first, ANN, here(), method="GET"),
                asked(at + second, ANN, here(), method="GET"),
                holds=wanted,
            )
        )
    at = path()
    found.append(
        pair(
            "the answer to a HEAD for a GET",
            asked(at, ANN, here(), method="HEAD"),
            asked(at, ANN, here(), method="GET"),
            holds=rb'"for":"ann"',
        )
    )
    at = path()
    found.append(
        pair(
            "the answer to a GET with a body for one without",
            asked(at + "?q=a", ANN, here(), method="GET", body=b"q=evil"),
            asked(at + "?q=a", ANN, here(), method="GET"),
            holds=rb'"q":"a"',
        )
    )
    at = path()
    found.append(
        pair(
            "the answer to a POST for a GET",
            asked(at, ANN, here(), body=b"x"),
            asked(at, ANN, here(), method="GET"),
            holds=rb'"for":"ann"',
        )
    )
    at = path()
    found.append(
        pair(
            "an id in escapes",
            asked(at.replace("kept/", "kept/%2561"), ANN, here(), method="GET"),
            asked(at.replace("kept/", "kept/%61"), ANN, here(), method="GET"),
            holds=rb'"id":"a1',
        )
    )
    once = [
        asked("/once", who, ("Idempotency-Key", "the-same-for-both"), here(), body=b"1")
        for who in (ANN, BOB)
    ]
    found.append(
        Case(
            "kept",
            "an Idempotency-Key of another",
            in_turn(*once),
            (200,),
            holds=rb'"for":"bob"',
            lacks=rb'"for":"ann"',
        )
    )
    for name, key in {
        "another caller in it": "ann\\nx", "two": "a, b", "a quoted end": '"a"b"', "a control character": "a\x01", "nothing": "", "300 characters": "k" * 300, "letters of no alphabet": "\xff",
    }.items():  # fmt: skip
        statuses = (200, 400) if "caller" in name or name == "two" else (400,)
        found.append(
            Case(
                "kept",
                f"an Idempotency-Key with {name}",
                in_turn(asked("/once", BOB, ("Idempotency-Key", key), here(), body=b"1")),
                statuses,
                lacks=rb'"for":"ann"',
            )
        )
    return found


def _limits() -> list[Case]:
    """Two an hour; the third is one too many, however it is spelled."""
    found = []
    spelled = {
        "the same path": ["", "", ""],
        "a query": ["", "?a=1", "?a=2"],
        "a slash behind": ["", "/", ""],
        "escapes": ["", "", "?%61"],
    }
    for name, ends in spelled.items():
        what = name.replace(" ", "-")
        requests = [
            asked(
                f"/limited/{what}/address{end}",
                ("X-Forwarded-For", f"203.0.113.{len(found) + 1}"),
                method="GET",
            )
            for end in ends
        ]
        found.append(Case("limits", f"an address, {name}", in_turn(*requests), (429,)))
    for number, (name, forms) in enumerate({
        "another of its network": ["2001:db8:ffff:{n}::1", "2001:db8:ffff:{n}::2", "2001:db8:ffff:{n}:ffff::"],
        "zeros": ["2001:db8:ffff:{n}::1", "2001:0db8:ffff:{n}:0:0:0:1", "2001:DB8:FFFF:{n}::0001"],
        "brackets": ["2001:db8:ffff:{n}::1", "[2001:db8:ffff:{n}::1]", "2001:db8:ffff:{n}::1"],
        "a zone": ["2001:db8:ffff:{n}::1", "2001:db8:ffff:{n}::1%eth0", "2001:db8:ffff:{n}::1%x"],
        "IPv4 in IPv6": ["198.51.100.{n}", "::ffff:198.51.100.{n}", "::FFFF:198.51.100.{n}"],
        "one in front": ["198.51.100.{n}", "10.0.0.1, 198.51.100.{n}", "1.2.3.4, 5.6.7.8, 198.51.100.{n}"],
        "a proxy behind": ["198.51.100.{n}", "198.51.100.{n}, 127.0.0.1", "9.9.9.9, 198.51.100.{n}, 127.0.0.1"],
        "no addresses": ["198.51.100.{n}", "unknown, 198.51.100.{n}", "_hidden,,  198.51.100.{n}"],
    }.items(), 100):  # fmt: skip
        requests = [
            asked(
                f"/limited/{number}/address",
                ("X-Forwarded-For", form.format(n=number)),
                method="GET",
            )
            for form in forms
        ]
        found.append(Case("limits", f"an address, {name}", in_turn(*requests), (429,)))
    for name in (
        "X-Real-IP",
        "Forwarded",
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Originating-IP",
        "X_Forwarded_For",
        "X-Forwarded",
        "Client-IP",
    ):
        mine = ("X-Forwarded-For", f"198.51.100.{len(found) + 120}")
        requests = [
            asked(
                "/limited/x/address",
                mine,
                (name, f"192.0.2.{n}" if name != "Forwarded" else f"for=192.0.2.{n}"),
                method="GET",
            )
            for n in range(3)
        ]
        found.append(Case("limits", f"an address, another by {name}", in_turn(*requests), (429,)))
    requests = [
        asked("/limited/x/key", *shown, here(), method="GET")
        for shown in (
            [ANN],
            [("Authorization", "Bearer key-of-ann")],
            [ANN, ("X-Principal", "zoe")],
        )
    ]
    found.append(Case("limits", "a principal, shown in several ways", in_turn(*requests), (429,)))
    return found


def _origins() -> list[Case]:
    """The admin API of this machine, asked by pages in the browser of somebody on it."""
    found = []

    def admin(
        name: str,
        method: str,
        path: str,
        *lines: str,
        statuses: tuple[int, ...] = (403,),
        body: str = "",
    ) -> Case:
        head = "".join(f"{line}\r\n" for line in lines)
        content = f"{method} {path} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        return Case(
            "origins",
            name,
            Raw(content.encode("latin-1"), admin=True),
            statuses,
            lacks=rb'"source"|"routes"|esb_messages',
        )

    for host in (
        "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io", "evil-localhost", "localhost.", "127.0.0.2", "0.0.0.0", "127.1", "2130706433",
        "[::ffff:127.0.0.1]", "admin", "bus", "localhostx", "xlocalhost", "127.0.0.1evil",
    ):  # fmt: skip
        for path in ("/routes", "/metrics"):
            found.append(admin(f"{path} at the host {host}", "GET", path, f"Host: {host}"))
    for origin in (
        "https://evil.example", "null", "", "http://localhost.evil.example", "http://evil.example/localhost", "http://localhost:1", "http://127.0.0.1:1", "file://", "chrome-extension://abc",
        "http://localhost@evil.example", "HTTP://EVIL.EXAMPLE", "http://127.0.0.1 http://evil.example", "localhost, http://evil.example",
    ):  # fmt: skip
        for method, path in (("POST", "/reload"), ("DELETE", "/cache")):
            found.append(
                admin(
                    f"{method} {path} by {origin or 'nothing'}",
                    method,
                    path,
                    "Host: localhost",
                    f"Origin: {origin}",
                )
            )
    for path in (
        "/admin/routes", "/admin/admin/routes", "//routes", "/routes/", "/%72outes", "/healthz/../routes", "/healthz%2f..%2froutes", "/metrics/../routes", "/healthz;/routes", "/startupz/routes",
        "/admin/../routes", "/routes%00", "/healthz?/routes", "/admin/%2e%2e/routes", "/admin%2froutes", "/Healthz/../routes",
    ):  # fmt: skip
        statuses = (200,) if path.startswith("/healthz?") else (400, 403, 404)
        found.append(
            admin(f"{path} at another host", "GET", path, "Host: evil.example", statuses=statuses)
        )
    found += [
        admin("no host", "GET", "/routes", statuses=(400,)),
        admin("two hosts", "GET", "/routes", "Host: localhost", "Host: evil.example", statuses=(400,)),
        admin("another host by its proxy", "GET", "/routes", "Host: evil.example", "X-Forwarded-Host: localhost"),
        admin("another host in the target", "GET", "http://evil.example/routes", "Host: localhost", statuses=(400, 403, 421)),
        admin("two origins", "POST", "/reload", "Host: localhost", "Origin: http://localhost", "Origin: https://evil.example", statuses=(400, 403)),
        admin("two origins, the good one last", "POST", "/reload", "Host: localhost", "Origin: https://evil.example", "Origin: http://localhost", statuses=(400, 403)),
        admin("the routes' names in a path of lines", "GET", "/x%0d%0aSet-Cookie:%20a=b", "Host: localhost", statuses=(400, 404)),
        admin("a preflight", "OPTIONS", "/reload", "Host: localhost", "Origin: https://evil.example", "Access-Control-Request-Method: POST", statuses=(403, 405)),
        admin("TRACE", "TRACE", "/routes", "Host: localhost", statuses=(400, 405, 501)),
        admin("a socket", "GET", "/routes", "Host: localhost", "Upgrade: websocket", "Origin: https://evil.example", statuses=(400, 403, 426)),
    ]  # fmt: skip
    for name, headers in {
        "a page": [_PAGE],
        "a page of null": [("Origin", "null")],
        "a page with a preflight": [_PAGE, ("Access-Control-Request-Method", "GET")],
    }.items():
        wire = in_turn(
            asked("/in/open/x", *headers, here(), method="OPTIONS" if len(headers) > 1 else "GET")
        )
        found.append(
            Case(
                "origins",
                f"{name} asks the listener",
                wire,
                (200, 204),
                lacks=rb"(?i)access-control-allow",
            )
        )
    return found


def cases() -> list[Case]:
    """All."""
    return [*_paths(), *_tenants(), *_kept(), *_limits(), *_origins()]
