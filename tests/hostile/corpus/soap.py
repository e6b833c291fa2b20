"""SOAP 1.1 and 1.2: envelopes, attachments, the encoding, and REST in front of it."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

from hostile.case import Bytes, Case, Post

NS = "urn:example:partner"
S11 = "http://schemas.xmlsoap.org/soap/envelope/"
S12 = "http://www.w3.org/2003/05/soap-envelope"
ENC = "http://schemas.xmlsoap.org/soap/encoding/"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
GET = f'<getPartner xmlns="{NS}"><id>1</id></getPartner>'
DROP = f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
DTD = '<!DOCTYPE a [<!ENTITY x SYSTEM "file://PLANTED">]>'
MB = 1024 * 1024


def envelope(body: str, head: str = "", ns: str = S11, attributes: str = "") -> str:
    """A message."""
    header = f"<s:Header>{head}</s:Header>" if head else ""
    return f'<s:Envelope xmlns:s="{ns}"{attributes}>{header}<s:Body>{body}</s:Body></s:Envelope>'


def soap_case(
    family: str,
    name: str,
    body: Bytes,
    *,
    path: str = "/soap",
    kind: str = "text/xml",
    statuses: tuple[int, ...] = (500,),
    code: str = "Client",
    action: str | None = None,
) -> Case:
    headers = (("SOAPAction", action),) if action is not None else ()
    return Case(family, name, Post(path, body, kind, headers=headers), statuses, code)


def _messages() -> list[Case]:
    bodies: dict[str, Bytes] = {
        "no envelope": GET,
        "an envelope in the wrong case": envelope(GET).replace("Envelope", "envelope"),
        "no Body": f'<s:Envelope xmlns:s="{S11}"/>',
        "an empty Body": envelope(""),
        "two Bodies": envelope(GET).replace(
            "</s:Envelope>", f"<s:Body>{DROP}</s:Body></s:Envelope>"
        ),
        "a Body in the Header": f'<s:Envelope xmlns:s="{S11}"><s:Header><s:Body>{GET}</s:Body></s:Header></s:Envelope>',
        "a Header behind the Body": envelope(GET).replace(
            "</s:Envelope>", "<s:Header/></s:Envelope>"
        ),
        "two Headers": envelope(GET, "<a/>").replace("<s:Body>", "<s:Header/><s:Body>"),
        "two operations": envelope(GET + DROP),
        "an operation behind a comment": envelope(f"<!-- {GET} -->"),
        "an operation nobody knows": envelope(f'<eraseAll xmlns="{NS}"/>'),
        "an operation of another namespace": envelope(GET.replace(NS, "urn:other")),
        "an operation in another case": envelope(GET.replace("getPartner", "GetPartner")),
        "an answer": envelope(f'<getPartnerResponse xmlns="{NS}"/>'),
        "a fault": envelope(
            "<s:Fault><faultcode>s:Server</faultcode><faultstring>x</faultstring></s:Fault>"
        ),
        "an external entity": DTD + envelope(GET.replace(">1<", ">&x;<")),
        "a DOCTYPE": "<!DOCTYPE a>" + envelope(GET),
        "an instruction": "<?x y?>" + envelope(GET),
        "an instruction within": envelope(GET.replace(">1<", ">1<?x?><")),
        "text in the Body": envelope("getPartner"),
        "another part": envelope(GET.replace("<id>", "<no/><id>")),
        "a part twice": envelope(GET.replace("</id>", "</id><id>2</id>")),
        "no number": envelope(GET.replace(">1<", ">1 or 1=1<")),
        "a number beyond": envelope(GET.replace(">1<", ">99999999999<")),
        "a number of 100,000 digits": envelope(GET.replace(">1<", f">{'1' * 100_000}<")),
        "an exponent": envelope(GET.replace(">1<", ">1e9<")),
        "nil": envelope(
            f'<getPartner xmlns="{NS}" xmlns:i="{XSI}"><id i:nil="true"/></getPartner>'
        ),
        "another type": envelope(
            f'<getPartner xmlns="{NS}" xmlns:i="{XSI}" i:type="dropPartner"><id>1</id></getPartner>'
        ),
        "an element within a number": envelope(GET.replace(">1<", "><b>1</b><")),
        "a wrong word of a list": envelope(
            f'<createPartner xmlns="{NS}"><partner><name>a</name><kind>admin</kind></partner></createPartner>'
        ),
        "a date that is none": envelope(
            f'<createPartner xmlns="{NS}"><partner><name>a</name><kind>person</kind><since>2024-02-30</since></partner></createPartner>'
        ),
        "100,000 deep": lambda: envelope("<a>" * 100_000 + "</a>" * 100_000),
        "100,000 attributes": lambda: envelope(
            "<a " + " ".join(f'a{i}=""' for i in range(100_000)) + "/>"
        ),
        "240,000 elements": lambda: envelope("<a/>" * 240_000),
        "240,000 parts too many": lambda: envelope(
            f'<findPartners xmlns="{NS}">{"<b/>" * 240_000}</findPartners>'
        ),
        "240,000 parts and a mistake": lambda: envelope(
            f'<findPartners xmlns="{NS}">{"<tag>a</tag>" * 240_000}<b/></findPartners>'
        ),
        "10 MB of text": lambda: envelope(GET.replace(">1<", f">{'1' * 9 * MB}<")),
        "2.6 M elements": lambda: envelope("<a/>" * 2_600_000),
        "1,000,000 headers": lambda: envelope(GET, "<a/>" * 1_000_000),
        "10 MB of names": lambda: envelope("".join(f"<a{i:x}/>" for i in range(240_000))),
        "an arrayType of nothing": envelope(
            f'<getPartner xmlns="{NS}" xmlns:e="{ENC}" e:arrayType="x[999999999]"/>'
        ),
    }
    found = [
        soap_case("soap", name, body)
        if "2.6 M" not in name and "1,000,000" not in name
        else soap_case("soap", name, body, statuses=(413, 500))
        for name, body in bodies.items()
    ]
    found += [
        soap_case(
            "soap",
            f"{name}, 1.2",
            body.replace(S11, S12) if isinstance(body, str) else body,
            kind="application/soap+xml",
            statuses=(400,),
            code="Sender",
        )
        for name, body in bodies.items()
        if isinstance(body, str) and "DOCTYPE" not in name
    ]
    found += [
        soap_case("soap", f"of {name}", envelope(GET, ns=ns), code="VersionMismatch")
        for name, ns in (
            ("no version", "urn:none"),
            ("the future", "http://www.w3.org/2099/soap-envelope"),
            ("1.0", "urn:schemas-xmlsoap-org:soap.v1"),
        )
    ]
    found += [
        soap_case("soap", f"as {kind or 'nothing'}", envelope(GET), kind=kind, statuses=(415,))
        for kind in (
            "application/json",
            "text/plain",
            "text/html",
            "application/octet-stream",
            "image/svg+xml",
            "x",
            "text/xml/soap",
            "application/x-www-form-urlencoded",
        )
    ]
    found += [
        soap_case("soap", f"the action {action[:40]}", envelope(GET), action=action)
        for action in (
            f'"{NS}/dropPartner"',
            f"{NS}/dropPartner",
            '"urn:x"',
            '"../dropPartner"',
            '"http://CANARY/"',
            '"\' or 1=1"',
            '"<script>"',
            f'"{NS}/dropPartner" "{NS}/getPartner"',
            '"' + "a" * 10_000 + '"',
        )
    ]
    found.append(
        soap_case(
            "soap",
            "the action of another operation, 1.2",
            envelope(GET, ns=S12),
            kind=f'application/soap+xml; action="{NS}/dropPartner"',
            statuses=(400,),
            code="Sender",
        )
    )
    must = '<x:Pay xmlns:x="urn:x" s:mustUnderstand="1"%s/>'
    found += [
        soap_case(
            "soap",
            f"a header to be understood{name}",
            envelope(GET, must % more),
            code="MustUnderstand",
        )
        for name, more in (
            ("", ""),
            (" by who comes next", ' s:actor="http://schemas.xmlsoap.org/soap/actor/next"'),
        )
    ]
    found += [
        soap_case(
            "soap",
            "20,000 headers to be understood",
            lambda: envelope(GET, must % "" * 20_000),
            code="MustUnderstand",
        ),
        soap_case(
            "soap",
            "a header to be understood, 1.2",
            envelope(GET, must % "", ns=S12),
            kind="application/soap+xml",
            code="MustUnderstand",
        ),
    ]
    return found


def _attachments() -> list[Case]:
    xop = "http://www.w3.org/2004/08/xop/include"
    part = '--b\r\nContent-Type: application/xop+xml; type="text/xml"\r\nContent-ID: <root>\r\n\r\n%s\r\n--b--\r\n'
    found = [
        soap_case(
            "attachments", f"in {kind[:50]}", part % envelope(GET), kind=kind, statuses=(415,)
        )
        for kind in (
            'multipart/related; type="application/xop+xml"; start="<root>"; boundary=b',
            "multipart/related; type=text/xml; boundary=b",
            "multipart/related",
            "multipart/mixed; boundary=b",
            "application/dime",
        )
    ]
    found += [
        soap_case(
            "attachments",
            f"the include of {href[:40]}",
            envelope(GET.replace(">1<", f'><i:Include xmlns:i="{xop}" href="{href}"/><')),
            statuses=(415, 500),
        )
        for href in (
            "file://PLANTED",
            "http://CANARY/x",
            "cid:x",
            "ftp://CANARY/x",
            "/etc/passwd",
            "data:text/plain,1",
            "",
            "jar:file:///x!/y",
            "\\\\CANARY\\x",
        )
    ]
    return found


def _encoded() -> list[Case]:
    def total(inside: str, beside: str = "") -> str:
        return envelope(
            f'<t:total xmlns:t="urn:example:stock" xmlns:e="{ENC}" xmlns:i="{XSI}" xmlns:x="http://www.w3.org/2001/XMLSchema">{inside}</t:total>{beside}'
        )

    item = "<item><sku>a</sku><count>1</count></item>"
    refs = "".join(f'<m id="m{i}">' + f'<item href="#m{i + 1}"/>' * 10 + "</m>" for i in range(9))
    bodies: dict[str, Bytes] = {
        "an array that begins far out": total(
            f'<items e:arrayType="t:Item[2]" e:offset="[999999999]">{item}</items>'
        ),
        "an item far out": total(
            '<items e:arrayType="t:Item[2]"><item e:position="[999999999]"><sku>a</sku><count>1</count></item></items>'
        ),
        "an array of two dimensions": total(
            f'<items e:arrayType="t:Item[9999,9999]">{item}</items>'
        ),
        "a circle": total('<items href="#a"/>', '<m id="a"><item href="#a"/></m>'),
        "a reference to itself": total('<items href="#a" id="a"/>'),
        "a reference to nothing": total('<items href="#no"/>'),
        "a reference to a page": total('<items href="http://CANARY/x"/>'),
        "a reference to a file": total('<items href="file://PLANTED"/>'),
        "two things of one id": total('<items href="#a"/>', f'<m id="a">{item}</m>' * 2),
        "a bomb of references": total('<items href="#m0"/>', refs + '<m id="m9">x</m>'),
        "100,000 references to one": lambda: total(
            '<items e:arrayType="t:Item[100000]">' + '<item href="#a"/>' * 100_000 + "</items>",
            '<m id="a"><sku>' + "x" * 1000 + "</sku><count>1</count></m>",
        ),
        "a circle of 1,000": total(
            '<items href="#m0"/>',
            "".join(f'<m id="m{i}" href="#m{(i + 1) % 1000}"/>' for i in range(1000)),
        ),
        "another encoding": total(f'<items s:encodingStyle="urn:other">{item}</items>'),
        "an array of strings": total('<items e:arrayType="x:string[1]"><item>a</item></items>'),
    }
    found = [soap_case("encoded", name, body, path="/rpc") for name, body in bodies.items()]
    found += [
        Case(
            "encoded",
            f"an array that says it has {size[:20]}",
            Post("/rpc", total(f'<items e:arrayType="t:Item[{size}]">{item}</items>'), "text/xml"),
            (200, 500),
            "",
        )
        for size in ("1000000000", "2147483648", "9" * 5000, "-1", "x", "")
    ]
    return found


def _exposed() -> list[Case]:
    refused = {
        "a part too much": '{"id": 1, "x": 2}',
        "a missing part": "{}",
        "text for a number": '{"id": "1 or 1=1"}',
        "XML for a number": '{"id": "<id>1</id>"}',
        "an array": "[1]",
        "null": "null",
        "a type": '{"id": {"@type": "xs:string", "#text": "1"}}',
        "markup": '{"$any": "<x/>"}',
        "an attribute": '{"id": 1, "@xmlns": "urn:x"}',
        "a name in braces": '{"{urn:x}id": 1}',
        "a number beyond": '{"id": 1e99}',
        "half a number": '{"id": 1.5}',
        "a boolean": '{"id": true}',
    }
    found = [
        Case("exposed", name, Post("/page/getPartner", body, "application/json"))
        for name, body in refused.items()
    ]
    found += [
        Case(
            "exposed",
            f"in a text: {name}",
            Post(
                "/page/createPartner",
                b'{"partner": {"name": %b, "kind": "person"}}' % text,
                "application/json",
            ),
            statuses,
        )
        for name, text, statuses in (
            ("an escape", rb'"\u001b"', (400,)),
            ("a NUL", rb'"\u0000"', (400,)),
            ("U+FFFF", rb'"\uffff"', (400,)),
            ("a closing tag", b'"</name><kind>admin</kind>"', (502,)),
            ("a CDATA end", b'"]]>"', (502,)),
            ("an entity", b'"&x;"', (502,)),
            ("a DOCTYPE", b'"<!DOCTYPE a>"', (502,)),
        )
    ]
    found.append(
        Case(
            "exposed",
            "400,000 tags",
            Post(
                "/page/findPartners",
                lambda: '{"tag": [' + '"a",' * 400_000 + '"a"]}',
                "application/json",
            ),
            (502, 413),
        )
    )
    return found


def cases() -> list[Case]:
    """All."""
    return [*_messages(), *_attachments(), *_encoded(), *_exposed()]
