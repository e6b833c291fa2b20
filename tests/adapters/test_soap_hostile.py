"""Hostile input against hosted services of a bus in a process of its own.

Each is refused with the right status and a fault of the right version that blames the sender, tells
no secret and asks nobody; the next good request is answered, and memory stays bounded.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import os
import re
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

import pytest
from support.backend import Backend, backend
from support.examples import BIN
from support.peers import PARTNER_WSDL, RPC_WSDL
from support.processes import Answer, Process, free_ports, request

from esb_soap.envelope import read_envelope, read_fault

NS = "urn:example:partner"
S11 = "http://schemas.xmlsoap.org/soap/envelope/"
S12 = "http://www.w3.org/2003/05/soap-envelope"
ENC = "http://schemas.xmlsoap.org/soap/encoding/"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
XSD = "http://www.w3.org/2001/XMLSchema"
WSA = "http://www.w3.org/2005/08/addressing"
XOP = "http://www.w3.org/2004/08/xop/include"
WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"

MEMORY = 200 * 1024 * 1024
"""The most that one request may add to what the process holds, at its peak."""

ROUTES = """
listen: {{port: {port}, request_timeout: 20s}}
admin: {{enabled: false}}
routes:
  partners:
    from: {{soap: {{wsdl: partner.wsdl, path: /soap}}}}
    steps: [{{call: {{mock: {{wsdl: partner.wsdl}}}}}}]
  large:
    from: {{soap: {{wsdl: partner.wsdl, path: /large, max_body: 64MB}}}}
    steps: [{{call: {{mock: {{wsdl: partner.wsdl}}}}}}]
  only12:
    from: {{soap: {{wsdl: partner.wsdl, path: /only12, soap: "1.2"}}}}
    steps: [{{call: {{mock: {{wsdl: partner.wsdl, soap: "1.2"}}}}}}]
  stock:
    from: {{soap: {{wsdl: rpc.wsdl, path: /stock}}}}
    steps: [{{call: {{mock: {{wsdl: rpc.wsdl}}}}}}]
  anything:
    from: {{soap: {{wsdl: any.wsdl, path: /anything}}}}
    steps: [{{call: {{mock: {{wsdl: any.wsdl}}}}}}]
  shapes:
    from: {{soap: {{wsdl: shapes.wsdl, path: /shapes}}}}
    steps: [{{call: {{mock: {{wsdl: shapes.wsdl}}}}}}]
"""

SHAPES = """<wsdl:definitions targetNamespace="urn:s" xmlns:s="urn:s"
  xmlns:x="http://www.w3.org/2001/XMLSchema" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
  xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/">
<wsdl:types><x:schema targetNamespace="urn:s" elementFormDefault="qualified">
  <x:complexType name="Shape" abstract="true"><x:sequence>
    <x:element name="name" type="x:string"/></x:sequence></x:complexType>
  <x:complexType name="Circle"><x:complexContent><x:extension base="s:Shape"><x:sequence>
    <x:element name="radius" type="x:decimal"/></x:sequence></x:extension></x:complexContent>
  </x:complexType>
  <x:complexType name="Other"><x:sequence><x:element name="o" type="x:string"/></x:sequence>
  </x:complexType>
  <x:element name="draw"><x:complexType><x:sequence>
    <x:element name="shape" type="s:Shape"/>
    <x:element name="data" type="x:base64Binary" minOccurs="0"/>
    <x:element name="part" minOccurs="0" maxOccurs="unbounded"><x:complexType>
      <x:attribute name="id" type="x:ID"/><x:attribute name="of" type="x:IDREF"/>
    </x:complexType></x:element>
    <x:element name="tree" type="s:Tree" minOccurs="0"/>
    <x:any namespace="##other" processContents="lax" minOccurs="0"/>
  </x:sequence></x:complexType></x:element>
  <x:complexType name="Tree"><x:sequence>
    <x:element name="tree" type="s:Tree" minOccurs="0" maxOccurs="unbounded"/></x:sequence>
  </x:complexType>
  <x:element name="drawn" type="x:string"/>
</x:schema></wsdl:types>
<wsdl:message name="draw"><wsdl:part name="p" element="s:draw"/></wsdl:message>
<wsdl:message name="drawn"><wsdl:part name="p" element="s:drawn"/></wsdl:message>
<wsdl:portType name="T"><wsdl:operation name="draw"><wsdl:input message="s:draw"/>
  <wsdl:output message="s:drawn"/></wsdl:operation></wsdl:portType>
<wsdl:binding name="B" type="s:T">
  <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
  <wsdl:operation name="draw"><soap:operation soapAction="urn:s/draw"/>
  <wsdl:input><soap:body use="literal"/></wsdl:input>
  <wsdl:output><soap:body use="literal"/></wsdl:output></wsdl:operation></wsdl:binding>
<wsdl:service name="S"><wsdl:port name="P" binding="s:B"><soap:address location="http://x/"/>
</wsdl:port></wsdl:service></wsdl:definitions>"""


# --- the bus -------------------------------------------------------------------------------------


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured in Linux's /proc"
)


class Bus:
    """The process under attack, and a server that nobody must ask."""

    def __init__(self, process: Process, url: str, pid: int, canary: Backend) -> None:
        self.process = process
        self.url = url
        self.pid = pid
        self.canary = canary

    def memory(self, name: str) -> int:
        """VmRSS or VmHWM, in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{name}:\s*(\d+) kB", text)[1]) * 1024  # type: ignore[index]

    def worked(self) -> float:
        """Seconds of CPU time so far: other than on the clock, nobody else's work counts."""
        times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def count(self, what: str) -> int:
        """How many threads ("task") or open files ("fd") it has."""
        return len(list(Path(f"/proc/{self.pid}/{what}").iterdir()))

    def forget_the_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    folder = tmp_path_factory.mktemp("hostile")
    (port,) = free_ports(1)
    (folder / "partner.wsdl").write_bytes(PARTNER_WSDL.read_bytes())
    (folder / "rpc.wsdl").write_bytes(RPC_WSDL.read_bytes())
    (folder / "any.wsdl").write_text(RPC_WSDL.read_text().replace("tns:Items", "xsd:anyType"))
    (folder / "shapes.wsdl").write_text(SHAPES)
    (folder / "routes.yaml").write_text(ROUTES.format(port=port))
    command = [BIN / "esb", "run", "routes.yaml", "--json"]
    with backend() as canary, Process(command, cwd=folder) as process:
        process.wait_for(f"http://127.0.0.1:{port}/readyz")
        running = Bus(process, f"http://127.0.0.1:{port}", process._process.pid, canary)
        for path, body in GOOD.items():  # what is loaded lazily is loaded before it is measured
            assert post(running, path, body, S12 if path == "/only12" else S11).status == 200
        yield running
        assert process.stop() == 0
        assert "Traceback" not in process.output


def envelope(body: str, ns: str = S11, head: str = "", attributes: str = "") -> str:
    header = f"<s:Header>{head}</s:Header>" if head else ""
    return f'<s:Envelope xmlns:s="{ns}"{attributes}>{header}<s:Body>{body}</s:Body></s:Envelope>'


def send(bus: Bus, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """As a client does that listens while it sends: what is too much is refused before its end."""
    host, port = bus.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        view = memoryview(body)
        while view and not select.select([connection.sock], [], [], 0)[0]:
            view = view[connection.sock.send(view[: 64 * 1024]) :]
        got = connection.getresponse()
        return Answer(got.status, got.headers, got.read())


def post(bus: Bus, path: str, body: str, ns: str = S11) -> Answer:
    kind = "text/xml" if ns == S11 else "application/soap+xml"
    return request("POST", bus.url + path, envelope(body, ns).encode(), {"Content-Type": kind})


GET = f'<getPartner xmlns="{NS}"><id>1</id></getPartner>'
SHAPE = '<shape xsi:type="Circle"><name>a</name><radius>1</radius></shape>'


def draw(inside: str) -> str:
    return f'<draw xmlns="urn:s" xmlns:xsi="{XSI}">{inside}</draw>'


def total(inside: str, beside: str = "") -> str:
    return (
        f'<t:total xmlns:t="urn:example:stock" xmlns:e="{ENC}" xmlns:xsi="{XSI}" xmlns:x="{XSD}">'
        f"{inside}</t:total>{beside}"
    )


def items(said: str, inside: str = "", more: str = "") -> str:
    return f'<items e:arrayType="{said}"{more}>{inside or ITEM}</items>'


ITEM = "<item><sku>a</sku><count>1</count></item>"
GOOD = {
    "/soap": GET,
    "/large": GET,
    "/only12": GET,
    "/stock": total(items("t:Item[1]")),
    "/anything": total("<items><a>1</a></items>"),
    "/shapes": draw(SHAPE),
}


# --- the attacks ---------------------------------------------------------------------------------

CANARY = "CANARY"
"""Stands for the address of a server that must not be asked."""


@dataclass(frozen=True)
class Attack:
    """What is sent, and what must come back: status, code of the fault, and a pattern of its reason
    with its details."""

    name: str
    body: str | bytes | Callable[[], str | bytes]
    says: str
    path: str = "/soap"
    kind: str = "text/xml"
    status: int = 500
    code: str = "Client"
    version: str = "1.1"
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self, canary: str) -> bytes:
        body = self.body() if callable(self.body) else self.body
        raw = body.encode() if isinstance(body, str) else body
        return raw.replace(CANARY.encode(), canary.encode())


def in12(
    name: str, body: str | bytes | Callable[[], str | bytes], says: str, **more: object
) -> Attack:
    """As SOAP 1.2."""
    told = {"kind": "application/soap+xml", "status": 400, "code": "Sender", "version": "1.2"}
    return Attack(name, body, says, **{**told, **more})  # type: ignore[arg-type]


XXE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
NAMED = GET.replace("<id>1", "<id>&x;")


def declared(charset: str, text: str) -> bytes:
    """A document that declares its charset; where that hides `<`, the declaration is ASCII."""
    head = f'<?xml version="1.0" encoding="{charset}"?>'
    if charset == "utf-7":
        return head.encode() + text.encode("utf-7")
    return (head + text).encode(charset)


def laughs() -> str:
    lines = ['<!ENTITY l0 "ha">']
    lines += [f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)]
    return f"<!DOCTYPE a [{''.join(lines)}]>{envelope(GET.replace('<id>1', '<id>&l9;'))}"


def quadratic() -> str:
    entity = f'<!DOCTYPE a [<!ENTITY x "{"a" * 100_000}">]>'
    return entity + envelope(GET.replace("<id>1", f"<id>{'&x;' * 2000}"))


def many_attributes(spelled: str, count: int) -> str:
    return envelope(f"<a {' '.join(spelled.format(i) for i in range(count))}/>")


def multipart(content: str) -> bytes:
    return (
        b'--b\r\nContent-Type: application/xop+xml; type="text/xml"\r\nContent-ID: <root>\r\n\r\n'
        + content.encode()
        + b"\r\n--b--\r\n"
    )


@functools.cache
def bomb() -> bytes:
    """200 MB in 200 KB."""
    return gzip.compress(bytes(200 * 2**20))


DOCTYPE = "DOCTYPE"
MALFORMED = "not well-formed"

ENTITIES = [
    *(
        Attack(f"an entity in {charset}", declared(charset, XXE + envelope(NAMED)), DOCTYPE)
        for charset in ("utf-8", "utf-16", "utf-32", "utf-7", "iso-8859-1")
    ),
    Attack("an external entity in EBCDIC", declared("cp037", XXE + envelope(NAMED)), MALFORMED),
    in12("an external entity, 1.2", XXE + envelope(NAMED, S12), DOCTYPE),
    Attack("an external entity nobody uses", XXE + envelope(GET), DOCTYPE),
    Attack("a parameter entity",
           f'<!DOCTYPE a [<!ENTITY % d SYSTEM "{CANARY}/e.dtd"> %d;]>{envelope(GET)}', DOCTYPE),
    Attack("an external subset", f'<!DOCTYPE a SYSTEM "{CANARY}/e.dtd">{envelope(GET)}', DOCTYPE),
    Attack("a public subset",
           f'<!DOCTYPE a PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "{CANARY}/x">{envelope(GET)}',
           DOCTYPE),
    Attack("an empty DOCTYPE", f"<!DOCTYPE a>{envelope(GET)}", DOCTYPE),
    Attack("billion laughs", laughs, f"{DOCTYPE}|{MALFORMED}"),
    Attack("quadratic blow-up", quadratic, f"{DOCTYPE}|{MALFORMED}"),
    Attack("an entity nobody declared", envelope(NAMED), MALFORMED),
    Attack("a schema of the sender's",
           envelope(f'<getPartner xmlns="{NS}" xmlns:xsi="{XSI}" '
                    f'xsi:schemaLocation="{NS} {CANARY}/s.xsd"><id>one</id></getPartner>'), "/id"),
    Attack("an XInclude",
           envelope(f'<getPartner xmlns="{NS}"><id><i:include parse="text" href="/etc/passwd" '
                    'xmlns:i="http://www.w3.org/2001/XInclude"/></id></getPartner>'), "/id"),
]  # fmt: skip

SIZES = [
    Attack("100,000 deep", lambda: envelope("<a>" * 100_000 + "</a>" * 100_000), MALFORMED),
    Attack("300 deep where a type may hold itself",
           lambda: envelope(draw(SHAPE + "<tree>" * 300 + "</tree>" * 300)), MALFORMED,
           path="/shapes"),
    Attack("100,000 attributes",
           lambda: many_attributes("a{}=''", 100_000),
           "more than 1000 attributes"),
    Attack("20,000 namespaces",
           lambda: many_attributes("xmlns:n{}='u'", 20_000),
           "more than 1000 attributes"),
    Attack("100,000 attributes in UTF-16",
           lambda: declared("utf-16", many_attributes("a{}=''", 100_000)),
           "more than 1000 attributes"),
    Attack("11 MB of text", lambda: envelope(GET.replace("<id>1", f"<id>{'1' * 11 * 2**20}")),
           "larger than", status=413),
    in12("11 MB of text, 1.2",
         lambda: envelope(GET.replace("<id>1", f"<id>{'1' * 11 * 2**20}"), S12),
         "larger than", status=413),
    Attack("11 MB of text where so much may come",
           lambda: envelope(GET.replace("<id>1", f"<id>{'1' * 11 * 2**20}")), MALFORMED,
           path="/large"),
    Attack("50 MB of elements", lambda: envelope("<a/>" * (50 * 2**18)), "larger than",
           status=413),
    Attack("50 MB of elements where so much may come",
           lambda: envelope("<a/>" * (50 * 2**18)), "more than 250000 elements", path="/large"),
    Attack("240,000 elements", lambda: envelope("<a/>" * 240_000), "no operation takes",
           path="/large"),
    Attack("240,000 mistakes",
           lambda: envelope(f'<findPartners xmlns="{NS}">{"<b/>" * 240_000}</findPartners>'),
           "/b: is not known",
           path="/large"),
    Attack("an integer of 100,000 digits",
           lambda: envelope(GET.replace("<id>1", f"<id>{'1' * 100_000}")), "/id"),
    Attack("an element's name of 1 MB", lambda: envelope(f"<{'a' * 2**20}/>"),
           f"{MALFORMED}|no operation takes"),
    Attack("a namespace of 1 MB", lambda: envelope(f'<a xmlns="urn:{"a" * 2**20}"/>'),
           "no operation takes"),
    Attack("a prefix for each element",
           lambda: envelope("".join(f'<n{i}:a xmlns:n{i}="urn:{i}"/>' for i in range(50_000))),
           "no operation takes", path="/large"),
]  # fmt: skip

SOAP = [
    Attack("no envelope", GET, "no SOAP envelope but an element 'getPartner'"),
    Attack("an envelope without a namespace", "<Envelope><Body/></Envelope>", "neither",
           code="VersionMismatch"),
    Attack("an envelope of the future",
           envelope(GET, "http://www.w3.org/2099/soap-envelope"), "neither",
           code="VersionMismatch"),
    Attack("a version that is not served", envelope(GET), "speaks SOAP 1.2", path="/only12",
           code="VersionMismatch"),
    Attack("1.2 that says it is 1.1", envelope(GET.replace(">1<", ">x<"), S12), "/id",
           status=400, code="Sender", version="1.2"),
    Attack("1.1 that says it is 1.2", envelope(GET.replace(">1<", ">x<")), "/id",
           kind="application/soap+xml"),
    Attack("nothing", b"", "is empty"),
    Attack("white space", b" \r\n\t", "is empty"),
    Attack("not XML", b"GIF89a\x00\x01\xff", MALFORMED),
    Attack("JSON", b'{"id": 1}', MALFORMED),
    Attack("no Body", f'<s:Envelope xmlns:s="{S11}"/>', "no Body"),
    Attack("an empty Body", envelope(""), "Body is empty"),
    Attack("a Body of text", envelope("getPartner"), "Body is empty"),
    Attack("two Bodies",
           f'<s:Envelope xmlns:s="{S11}"><s:Body>{GET}</s:Body><s:Body>{GET}</s:Body>'
           "</s:Envelope>", "out of place"),
    in12("two Bodies, 1.2",
         f'<s:Envelope xmlns:s="{S12}"><s:Body>{GET}</s:Body><s:Body>{GET}</s:Body>'
         "</s:Envelope>", "out of place"),
    Attack("a Body in the Header",
           f'<s:Envelope xmlns:s="{S11}"><s:Header><s:Body>{GET}</s:Body></s:Header>'
           "</s:Envelope>", "no Body"),
    Attack("a Header behind the Body",
           f'<s:Envelope xmlns:s="{S11}"><s:Body>{GET}</s:Body><s:Header/></s:Envelope>',
           "out of place"),
    Attack("two Headers",
           f'<s:Envelope xmlns:s="{S11}"><s:Header/><s:Header/><s:Body>{GET}</s:Body>'
           "</s:Envelope>", "out of place"),
    Attack("a Body with two operations", envelope(GET + GET.replace("getPartner", "dropPartner")),
           "2 elements instead of one"),
    Attack("a Body with one operation twice", envelope(GET + GET), "2 elements instead of one"),
    Attack("an operation as an independent element beside another",
           envelope(GET + f'<dropPartner xmlns="{NS}" xmlns:e="{ENC}" e:root="0" id="a"><id>2</id>'
                    "</dropPartner>"), "not expected|elements instead of one"),
    Attack("a fault as request",
           envelope("<s:Fault><faultcode>s:Client</faultcode><faultstring>x</faultstring>"
                    "</s:Fault>"), "no operation takes"),
    Attack("an answer as request", envelope(f'<getPartnerResponse xmlns="{NS}"/>'),
           "no operation takes"),
    Attack("another namespace", envelope(GET.replace(NS, "urn:other")), "it must be"),
    Attack("another operation's action", envelope(GET), "means 'dropPartner'",
           headers={"SOAPAction": f'"{NS}/dropPartner"'}),
    Attack("an action that nobody knows", envelope(GET), "not known",
           headers={"SOAPAction": '"urn:x\\"><script>"'}),
    in12("another operation's action, 1.2", envelope(GET, S12), "means 'dropPartner'",
         kind=f'application/soap+xml; action="{NS}/dropPartner"'),
    Attack("a header that must be understood",
           envelope(GET, head='<x:Pay xmlns:x="urn:x" s:mustUnderstand="1"/>'), "urn:x.Pay",
           code="MustUnderstand"),
    in12("a header that must be understood, 1.2",
         envelope(GET, S12, head='<x:Pay xmlns:x="urn:x" s:mustUnderstand="true"/>'),
         "urn:x.Pay", code="MustUnderstand", status=500),
    in12("a header for whoever comes next",
         envelope(GET, S12, head='<x:Pay xmlns:x="urn:x" s:mustUnderstand="1" '
                  f's:role="{S12}/role/next"/>'), "urn:x.Pay", code="MustUnderstand", status=500),
    Attack("10,000 headers that must be understood",
           lambda: envelope(GET, head='<x:Pay xmlns:x="urn:x" s:mustUnderstand="1"/>' * 10_000),
           "must be understood", code="MustUnderstand"),
]  # fmt: skip

MEDIA = [
    *(
        Attack(f"the content type {kind}", envelope(GET), "SOAP is text/xml", kind=kind, status=415)
        for kind in ("application/json", "text/plain", "application/octet-stream", "text/html",
                     "application/x-www-form-urlencoded", "image/svg+xml", "x", "text/xml/soap")
    ),
    Attack("MTOM", multipart(envelope(GET)), "attachments", status=415,
           kind='multipart/related; type="application/xop+xml"; start="<root>"; boundary=b'),
    Attack("SOAP with attachments", multipart(envelope(GET)), "attachments", status=415,
           kind="multipart/related; type=text/xml; boundary=b"),
    Attack("a multipart without a boundary", b"", "attachments", status=415,
           kind="multipart/related"),
    Attack("a charset that is another one", declared("utf-8", envelope(GET)), MALFORMED,
           kind="text/xml; charset=utf-16"),
    Attack("a charset that nobody knows", envelope(GET), "charset", kind="text/xml; charset=x-no"),
    Attack("a charset of the codec's own", envelope(GET), "charset|not well-formed",
           kind="text/xml; charset=base64"),
    Attack("bytes that are no UTF-8", envelope(GET.replace(">1<", ">\udcff<")).encode(
           errors="surrogateescape"), MALFORMED),
    Attack("an overlong UTF-8 <", envelope("~").encode().replace(b"~", b"\xc0\xbca/>"), MALFORMED),
    Attack("a declaration that lies",
           b'<?xml version="1.0" encoding="utf-16"?>' + envelope(GET).encode(), MALFORMED),
    Attack("a body that is packed", gzip.compress(envelope(GET).encode()), "packed", status=415,
           headers={"Content-Encoding": "gzip"}),
    Attack("a bomb that is packed", bomb, "packed",
           status=415, headers={"Content-Encoding": "gzip"}),
    Attack("a bomb that does not say so", bomb, MALFORMED),
]  # fmt: skip

XML = [
    Attack("a character that XML lacks", envelope(GET.replace(">1<", ">&#0;<")), MALFORMED),
    Attack("a surrogate", envelope(GET.replace(">1<", ">&#xD800;<")), MALFORMED),
    Attack("two roots", envelope(GET) * 2, MALFORMED),
    Attack("an end that never comes", envelope(GET)[:-5], MALFORMED),
    Attack("an attribute twice", envelope('<a b="" b=""/>'), MALFORMED),
    Attack("a prefix nobody declared", envelope("<no:a/>"), f"{MALFORMED}|no operation"),
    Attack("the prefix xml for something else", envelope('<a xmlns:xml="urn:x"/>'), MALFORMED),
    Attack("a processing instruction before the root", "<?php x?>" + envelope(GET),
           "processing instruction"),
    Attack("a stylesheet", f'<?xml-stylesheet href="{CANARY}/x.xsl"?>{envelope(GET)}',
           "processing instruction"),
    Attack("a processing instruction behind the root", envelope(GET) + "<?x?>",
           "processing instruction"),
    Attack("a processing instruction in a value",
           envelope(GET.replace(">1<", ">1<?x 2?>2<")), "processing instruction"),
    in12("a processing instruction in UTF-16",
         declared("utf-16", envelope(GET.replace(">1<", ">1<?x 2?>2<"), S12)),
         "processing instruction"),
]  # fmt: skip


def included(href: str) -> str:
    return f'<data><i:Include xmlns:i="{XOP}" href="{href}"/></data>'


TYPES = [
    Attack("nil where nothing may be nil",
           envelope(f'<getPartner xmlns="{NS}" xmlns:xsi="{XSI}"><id xsi:nil="true"/>'
                    "</getPartner>"),
           "/id"),
    Attack("nil for the whole",
           envelope(f'<getPartner xmlns="{NS}" xmlns:xsi="{XSI}" xsi:nil="1"/>'),
           "must not be nil"),
    Attack("a type that is abstract",
           envelope(draw('<shape xsi:type="Shape"><name>a</name></shape>')), "must say by xsi:type",
           path="/shapes"),
    Attack("no type where one must be said", envelope(draw("<shape><name>a</name></shape>")),
           "must say by xsi:type", path="/shapes"),
    Attack("a type that is none of these",
           envelope(draw('<shape xsi:type="Other"><o>a</o></shape>')),
           "cannot stand here", path="/shapes"),
    Attack("a type that is not there", envelope(draw('<shape xsi:type="Nothing"/>')),
           "cannot stand here",
           path="/shapes"),
    Attack("a type of a prefix nobody declared", envelope(draw('<shape xsi:type="q:Circle"/>')),
           "not declared", path="/shapes"),
    Attack("a built-in type for an object",
           envelope(draw(f'<shape xmlns:x="{XSD}" xsi:type="x:string">a</shape>')),
           "cannot stand here",
           path="/shapes"),
    Attack("another type for a value",
           envelope(f'<getPartner xmlns="{NS}" xmlns:xsi="{XSI}" xmlns:x="{XSD}">'
                    '<id xsi:type="x:string">1</id></getPartner>'), "/id"),
    Attack("an ID twice", envelope(draw(SHAPE + '<part id="a"/><part id="a"/>')), "xs:ID",
           path="/shapes"),
    Attack("a file as content",
           envelope(draw(SHAPE + included("file:///etc/passwd"))),
           "attachments", path="/shapes", status=415),
    Attack("a page as content",
           envelope(draw(SHAPE + included(f"{CANARY}/x"))),
           "attachments", path="/shapes", status=415),
    Attack("an attachment that is not there",
           envelope(draw(SHAPE + included("cid:x"))),
           "attachments", path="/shapes", status=415),
    Attack("content that is no base64", envelope(draw(f"{SHAPE}<data>!!!</data>")), "/data",
           path="/shapes"),
    Attack("what stands for anything, of the schema's own namespace",
           envelope(draw(f"{SHAPE}<secret/>")), "secret", path="/shapes"),
    Attack("text between elements", envelope(draw(f"{SHAPE}text")), "character content",
           path="/shapes"),
]  # fmt: skip


def fan_out(levels: int, said: str = "") -> str:
    """Multirefs of which each is referred to ten times by the one before."""
    beside = "".join(
        f'<multiRef id="m{i}"{said}>' + f'<item href="#m{i + 1}"/>' * 10 + "</multiRef>"
        for i in range(levels)
    )
    return envelope(total('<items href="#m0"/>', f"{beside}<multiRef id='m{levels}'>x</multiRef>"))


def wide(times: int) -> str:
    """A struct that an array refers to again and again."""
    items = '<item href="#a"/>' * times
    beside = '<multiRef id="a"><sku href="#b"/><count>1</count></multiRef>'
    text = f'<multiRef id="b">{"x" * 1000}</multiRef>'
    return envelope(total(f'<items e:arrayType="t:Item[{times}]">{items}</items>', beside + text))


ENCODED = [
    Attack("an array that begins far out",
           envelope(total(items("t:Item[2]", more=' e:offset="[999999999]"'))),
           "array in part", path="/stock"),
    Attack("an item far out",
           envelope(total('<items e:arrayType="t:Item[2]"><item e:position="[999999999]">'
                          "<sku>a</sku><count>1</count></item></items>")),
           "array in part", path="/stock"),
    Attack("a circle of references",
           envelope(total('<items href="#a"/>', '<multiRef id="a"><item href="#a"/></multiRef>')),
           "contains itself", path="/stock"),
    Attack("a reference to itself",
           envelope(total('<items href="#a" id="a"/>')), "and so on", path="/stock"),
    Attack("a long circle of references",
           lambda: envelope(total('<items href="#m0"/>', "".join(
               f'<multiRef id="m{i}" href="#m{(i + 1) % 1000}"/>' for i in range(1000)))),
           "and so on",
           path="/stock"),
    Attack("a reference to what holds it",
           envelope('<t:total xmlns:t="urn:example:stock" id="t"><items href="#t"/></t:total>'),
           "contains itself", path="/stock"),
    Attack("a bomb of references", lambda: fan_out(9), "more than 200000 values",
           path="/anything"),
    Attack("a bomb of references in arrays",
           lambda: fan_out(9, f' xmlns:e="{ENC}" e:arrayType="x:anyType[10]" xmlns:x="{XSD}"'),
           "more than 200000 values",
           path="/anything"),
    Attack("a circle where anything may be",
           envelope(total('<items href="#a"/>', '<multiRef id="a"><item href="#a"/></multiRef>')),
           "contains itself", path="/anything"),
    Attack("a chain of references where anything may be",
           lambda: envelope(total('<items href="#m0"/>', "".join(
               f'<multiRef id="m{i}"><i href="#m{i + 1}"/></multiRef>' for i in range(20_000))
               + '<multiRef id="m20000">x</multiRef>')), "deep|contains itself",
           path="/anything"),
    Attack("a wide bomb of references", lambda: wide(100_000),
           "more than 200000 values", path="/stock"),
    Attack("a reference to nothing", envelope(total('<items href="#no"/>')), "not there",
           path="/stock"),
    Attack("a reference to a page", envelope(total(f'<items href="{CANARY}/x"/>')), "outside",
           path="/stock"),
    Attack("a reference to a file", envelope(total('<items href="file:///etc/passwd"/>')),
           "outside",
           path="/stock"),
    Attack("a reference to an attachment", envelope(total('<items href="cid:a"/>')), "outside",
           path="/stock"),
    Attack("two things of one id",
           envelope(total('<items href="#a"/>', f'<multiRef id="a">{ITEM}</multiRef>'
                          f'<multiRef id="a">{ITEM}</multiRef>')), "more than once", path="/stock"),
    Attack("an array of two dimensions",
           envelope(total(f'<items e:arrayType="t:Item[1,1]">{ITEM}</items>')),
           "several dimensions",
           path="/stock"),
    Attack("text for an item",
           envelope(total(items("t:Item[1]", '<item xsi:type="x:int">1</item>'))),
           "not text", path="/stock"),
    Attack("an encoding of somebody else's",
           envelope(total(items("t:Item[1]")).replace(
               "<t:total ", '<t:total s:encodingStyle="urn:other:encoding" ')), "encodingStyle",
           path="/stock"),
    Attack("an encoding of somebody else's further in",
           envelope(total(f'<items s:encodingStyle="urn:other">{ITEM}</items>')), "encodingStyle",
           path="/stock"),
    in12("an encoding of somebody else's, 1.2",
         envelope(GET.replace("<getPartner ", '<getPartner s:encodingStyle="urn:other" '), S12),
         "encodingStyle", code="DataEncodingUnknown", status=500),
]  # fmt: skip


def addressed(where: str, address: str) -> str:
    """A request whose answer, fault or receiver is to be somewhere else."""
    blocks = f"<w:Action>{NS}/getPartner</w:Action><w:MessageID>urn:1</w:MessageID>"
    blocks += f"<w:{where}><w:Address>{address}</w:Address></w:{where}>"
    return envelope(GET, head=blocks, attributes=f' xmlns:w="{WSA}"')


ADDRESSES = [
    Attack(f"{where} {address}", addressed(where, address), "anonymous or none",
           code=f"{{{WSA}}}OnlyAnonymousAddressSupported")
    for where in ("ReplyTo", "FaultTo")
    for address in (f"{CANARY}/x", "http://169.254.169.254/", "file:///etc/passwd", "jms:queue")
]  # fmt: skip

ATTACKS = [*ENTITIES, *SIZES, *SOAP, *MEDIA, *XML, *TYPES, *ENCODED, *ADDRESSES]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_it_is_refused(bus: Bus, attack: Attack) -> None:
    before = bus.memory("VmRSS")
    bus.forget_the_peak()
    asked = len(bus.canary.asked)
    headers = {"Content-Type": attack.kind, **attack.headers}
    begun = bus.worked()
    answer = send(bus, attack.path, attack.raw(bus.canary.url), headers)
    worked = bus.worked() - begun
    assert answer.status == attack.status, answer.body[:1000]
    message = read_envelope(answer.body)
    assert message.version == attack.version
    kind = "text/xml" if attack.version == "1.1" else "application/soap+xml"
    assert answer.headers["content-type"].startswith(kind)
    assert message.fault is not None
    fault = read_fault(message.fault)
    assert fault.code == attack.code, fault
    text = unescape(answer.body.decode())
    assert re.search(attack.says, text), text[:1000]
    assert len(text) < 20_000, "the answer repeats what was sent"
    for secret in ("root:", "Traceback", "site-packages", "lxml", str(Path.cwd())):
        assert secret not in text
    assert len(bus.canary.asked) == asked, "somebody was asked"
    assert worked < 5
    assert bus.memory("VmHWM") - before < MEMORY
    good = post(bus, attack.path, GOOD[attack.path], S12 if attack.path == "/only12" else S11)
    assert good.status == 200, good.body[:1000]


ODD = {
    "a comment in a value": envelope(GET.replace(">1<", ">1<!-- 2 -->2<")),
    "a comment before the root": f"<!-- a -->{envelope(GET)}<!-- b -->",
    "CDATA": envelope(GET.replace(">1<", "><![CDATA[1]]><")),
    "a comment of 4 MB": envelope(GET + f"<!--{'a' * 4 * 2**20}-->"),
    "4 MB of white space": envelope(" " * 4 * 2**20 + GET),
    "a header that nobody needs": envelope(GET, head='<x:Pay xmlns:x="urn:x"/>'),
    "a header for somebody else": envelope(
        GET, head='<x:Pay xmlns:x="urn:x" s:mustUnderstand="1" s:actor="urn:other"/>'
    ),
    "an Id of WS-Security": envelope(
        GET, attributes=f' xmlns:u="{WSU}"').replace("<s:Body>", '<s:Body u:Id="a">'),
    "a standalone declaration": '<?xml version="1.0" standalone="yes"?>' + envelope(GET),
}  # fmt: skip

ODD_ARRAYS = {
    "an array that says it is huge": total(items("t:Item[1000000000]")),
    "an array that says it is huger": total(items(f"t:Item[{'9' * 5000}]")),
    "an array of strings, it says": total(items("x:string[1000000000]")),
    "an array of arrays of arrays": total(items(f"t:Item{'[]' * 500}[1]")),
}
ODD_AT = [("/soap", name, body) for name, body in ODD.items()]
ODD_AT += [("/stock", name, envelope(body)) for name, body in ODD_ARRAYS.items()]


@pytest.mark.parametrize(("path", "name", "body"), ODD_AT, ids=[name for _, name, _ in ODD_AT])
def test_it_is_odd_and_harms_nobody(bus: Bus, path: str, name: str, body: str) -> None:
    before = bus.memory("VmRSS")
    bus.forget_the_peak()
    answer = request("POST", bus.url + path, body.encode(), {"Content-Type": "text/xml"})
    assert answer.status == 200, answer.body[:500]
    assert bus.memory("VmHWM") - before < MEMORY


# --- what needs a socket -------------------------------------------------------------------------


def exchange(bus: Bus, *parts: bytes) -> bytes:
    """Send bytes and read until the bus closes the connection, or for a second."""
    host, port = bus.url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=10) as s:
        for part in parts:
            s.sendall(part)
        s.settimeout(1)
        try:
            while data := s.recv(65536):
                got += data
        except TimeoutError:
            pass
    return got


def head(length: object = None, *lines: str) -> bytes:
    sized = [] if length is None else [f"Content-Length: {length}"]
    rows = ["POST /soap HTTP/1.1", "Host: x", "Content-Type: text/xml", *sized, *lines, "", ""]
    return "\r\n".join(rows).encode()


RAW = {
    "two lengths": head(10, "Content-Length: 11") + b"a" * 11,
    "a length and chunks": head(4, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "a negative length": head(-1),
    "a length in words": head("ten"),
    "a header that goes on in the next line": head(1, "X-A: a\r\n b") + b"a",
    "a SOAPAction with a line break": head(1, "SOAPAction: a\rb") + b"a",
    "a SOAPAction with a NUL": head(1, "SOAPAction: a\0b") + b"a",
    "chunks of no size": head(None, "Transfer-Encoding: chunked") + b"zz\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_http_is_refused_before_it_is_soap(bus: Bus, name: str) -> None:
    got = exchange(bus, RAW[name])
    assert got.startswith(b"HTTP/1.1 400 "), got[:300]
    assert got.count(b"HTTP/1.1 ") == 1  # nothing was read as a second request
    assert post(bus, "/soap", GET).status == 200


def test_chunks_without_end_are_cut(bus: Bus) -> None:
    before = bus.memory("VmRSS")
    bus.forget_the_peak()
    host, port = bus.url.removeprefix("http://").split(":")
    sent, got = 0, b""
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(head(None, "Transfer-Encoding: chunked"))
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        try:
            while sent < 200:
                s.sendall(chunk)
                sent += 1
        except OSError:
            pass
        try:
            while data := s.recv(65536):
                got += data
        except OSError:
            pass
    assert sent < 100
    assert not got or got.startswith(b"HTTP/1.1 413 "), got[:300]
    assert bus.memory("VmHWM") - before < MEMORY
    assert post(bus, "/soap", GET).status == 200


def test_many_at_once_hold_up_nobody(bus: Bus) -> None:
    """A dozen of the dearest, while others are answered."""
    from concurrent.futures import ThreadPoolExecutor

    heavy = [a for a in ATTACKS if a.name in (
        "billion laughs", "240,000 elements", "100,000 deep",
        "a wide bomb of references")]  # fmt: skip
    assert len(heavy) == 4
    bus.forget_the_peak()
    before = bus.memory("VmRSS")

    def attacked(attack: Attack) -> int:
        return send(bus, attack.path, attack.raw(""), {"Content-Type": attack.kind}).status

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(attacked, attack) for attack in heavy * 3]
        while not all(one.done() for one in running):
            assert post(bus, "/soap", GET).status == 200
        assert {one.result() for one in running} == {500}
    assert bus.memory("VmHWM") - before < 4 * MEMORY  # six threads parse what is large


def test_the_canary_sings(bus: Bus) -> None:
    asked = len(bus.canary.asked)
    request("GET", f"{bus.canary.url}/x")
    assert len(bus.canary.asked) == asked + 1


def test_nothing_was_left_behind(bus: Bus) -> None:
    """Neither threads nor open files, whatever came before."""
    threads = bus.count("task")
    files = bus.count("fd")
    for attack in (ENTITIES[0], SOAP[0], ENCODED[0]) * 20:
        send(bus, attack.path, attack.raw(""), {"Content-Type": attack.kind})
    assert bus.count("task") <= threads + 2
    assert bus.count("fd") <= files + 4
