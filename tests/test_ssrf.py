"""No message has the bus connect to an address of its own choice: each address of `ssrf` by each
way, with somebody listening there."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from hostile.ssrf import ADDRESSES, NAMES, Canary, canary
from support.bus import load_text, running, url
from support.peers import HERE
from support.soap import GET, soap
from support.web import ask, backend, read_request

from esb_web.reach import Reach

WSA: Final = "http://www.w3.org/2005/08/addressing"
ROUTES: Final = """\
connections:
  far: {{http: {{url: "{far}"}}}}
routes:
  url:
    from: {{http: {{path: /url}}}}
    steps: [{{call: {{http: {{url: "{{{{ body.url }}}}", allow_hosts: ["*"], timeout: 2s}}}}}}]
  host:
    from: {{http: {{path: /host}}}}
    steps:
      - call: {{http: {{url: "http://{{{{ body.host }}}}/x", allow_hosts: ["*"], timeout: 2s}}}}
  listed:
    from: {{http: {{path: /listed}}}}
    steps:
      - call:
          http:
            url: "{{{{ body.url }}}}"
            allow_hosts: ["*.test", allowed.test, localhost, "127.1", "0"]
            timeout: 2s
  far:
    from: {{http: {{path: /far}}}}
    steps: [{{call: {{http: {{connection: far, path: /far, headers: {{x-to: body.to}}}}}}}}]
  soap:
    from: {{soap: {{wsdl: partner.wsdl, path: /soap, reply_to: ["http://allowed.test/answers"]}}}}
    steps: [{{set: {{body: {{partner: {{name: "'A'", kind: "'person'"}}}}}}}}]
  xml:
    from: {{http: {{path: /xml}}}}
    steps: [{{validate: {{xsd: any.xsd}}}}, {{transform: {{xslt: read.xsl}}}}]
  event:
    from: {{http: {{path: /event, cloudevents: true}}}}
    steps: [{{set: {{body: {{id: message.id}}}}}}]
"""
XSD: Final = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{}
  <xs:element name="a"><xs:complexType><xs:simpleContent><xs:extension base="xs:string">
    <xs:anyAttribute processContents="lax"/></xs:extension></xs:simpleContent></xs:complexType>
  </xs:element></xs:schema>"""
XSL: Final = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">{}
  <xsl:output omit-xml-declaration="yes"/>
  <xsl:template match="/"><b><xsl:copy-of select="document(string(/a))"/></b></xsl:template>
</xsl:stylesheet>"""


class Attack:
    """A bus, its backend, and the one that must not be asked."""

    def __init__(self, base: str, watched: Canary, folder: Path) -> None:
        self.base = base
        self.watched = watched
        self.folder = folder
        self.redirect = ""
        self.told = False
        """Whether a caller was told what lies there."""

    async def post(self, path: str, body: str | bytes, kind: str, *headers: str) -> int:
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Type: {kind}",
                 f"Content-Length: {len(raw)}", *headers, "", ""]  # fmt: skip
        status, _, told = await ask(self.base, "\r\n".join(lines).encode() + raw)
        self.told |= b"secret" in told or b"root:x:0" in told
        return status


def xml(value: str) -> str:
    return escape(value.translate({0: "", 10: "", 13: ""}))


async def whole_url(at: Attack, address: str) -> set[int]:
    return {await at.post("/url", json.dumps({"url": address}), "application/json")}


async def host_alone(at: Attack, address: str) -> set[int]:
    host = address.partition("://")[2].split("/")[0] or address
    return {await at.post("/host", json.dumps({"host": host}), "application/json")}


async def among_names(at: Attack, address: str) -> set[int]:
    return {await at.post("/listed", json.dumps({"url": address}), "application/json")}


async def redirected(at: Attack, address: str) -> set[int]:
    at.redirect = address.split("\r")[0]
    return {await at.post("/far", json.dumps({"to": address}), "application/json")}


def _addressed(name: str, address: str) -> str:
    inner = xml(address) if name == "To" else f"<w:Address>{xml(address)}</w:Address>"
    return (
        f'<s:Header xmlns:w="{WSA}"><w:Action>urn:example:partner/getPartner</w:Action>'
        f"<w:MessageID>urn:uuid:1</w:MessageID><w:{name}>{inner}</w:{name}></s:Header>"
    )


async def reply_to(at: Attack, address: str) -> set[int]:
    return {
        await at.post("/soap", soap(GET, header=_addressed(name, address)), "text/xml")
        for name in ("ReplyTo", "FaultTo", "From", "To")
    } - {200}  # where it is said who sent it, and to whom, that is no place to send anything to


async def xop(at: Attack, address: str) -> set[int]:
    include = '<i:Include xmlns:i="http://www.w3.org/2004/08/xop/include" href="{}"/>'
    text = soap(GET.replace(">1<", f">{include.format(xml(address))}<"))
    return {await at.post("/soap", text, "text/xml")}


async def documents(at: Attack, address: str) -> set[int]:
    quoted, xsi = xml(address), 'xmlns:x="http://www.w3.org/2001/XMLSchema-instance"'
    return {
        await at.post("/xml", text, "application/xml")
        for text in (
            f"<a>{quoted}</a>",  # read by document()
            f'<a {xsi} x:noNamespaceSchemaLocation="{quoted}">x</a>',
            f'<a {xsi} x:schemaLocation="urn:x {quoted}" xml:base="{quoted}">x</a>',
            f'<!DOCTYPE a SYSTEM "{quoted}"><a/>',
            f'<!DOCTYPE a [<!ENTITY e SYSTEM "{quoted}">]><a>&e;</a>',
            f'<!DOCTYPE a [<!ENTITY % e SYSTEM "{quoted}">%e;]><a/>',
            f'<?xml-stylesheet href="{quoted}" type="text/xsl"?><a>x</a>',
            f'<a><i:include xmlns:i="http://www.w3.org/2001/XInclude" href="{quoted}"/></a>',
        )
    } - {200}


async def events(at: Attack, address: str) -> set[int]:
    plain = address.encode("ascii", "ignore").decode().translate({9: "", 10: "", 13: "", 0: ""})
    event = {"specversion": "1.0", "id": "1", "type": "a", "source": address, "data": {},
             "dataschema": address, "datacontenttype": "application/json"}  # fmt: skip
    return {
        await at.post("/event", json.dumps(event), "application/cloudevents+json"),
        await at.post("/event", "{}", "application/json", "ce-specversion: 1.0", "ce-id: 1",
                      "ce-type: a", f"ce-source: {plain}", f"ce-dataschema: {plain}"),
    } - {200}  # fmt: skip


async def request_headers(at: Attack, address: str) -> set[int]:
    """Of an open proxy, and what frameworks go by."""
    plain = address.encode("ascii", "ignore").decode().translate({9: "", 10: "", 13: "", 0: ""})
    host = plain.partition("://")[2].split("/")[0] or plain
    found = {
        await at.post("/far", "{}", "application/json", *(f"{name}: {plain}" for name in (
            "X-Forwarded-Host", "X-Original-URL", "X-Rewrite-URL", "Forwarded", "Location",
            "Referer", "Origin", "Link", "SOAPAction", "Destination", "Callback", "X-Wap-Profile",
            "Content-Location", "CamelHttpUri", "esb-url", "url", "reply_to")))
    }  # fmt: skip
    for lines in (f"GET {plain} HTTP/1.1\r\nHost: {host}", f"CONNECT {host} HTTP/1.1\r\nHost: a",
                  f"POST /far HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0"):  # fmt: skip
        found.add((await ask(at.base, f"{lines}\r\n\r\n".encode()))[0])
    return found - {200, 201, 502}


async def loaded(at: Attack, address: str) -> set[int]:
    """What files of a project refer to is not fetched either."""
    folder = at.folder / "loaded"
    folder.mkdir(exist_ok=True)
    quoted, base = xml(address), "http://www.w3.org/2001/XMLSchema"
    (folder / "include.xsl").write_text(XSL.format(f'<xsl:import href="{quoted}"/>'))
    (folder / "include.xsd").write_text(XSD.format(f'<xs:include schemaLocation="{quoted}"/>'))
    (folder / "import.xsd").write_text(
        XSD.format(f'<xs:import namespace="urn:x" schemaLocation="{quoted}"/>')
    )
    imported = f'<xs:import xmlns:xs="{base}" namespace="urn:x" schemaLocation="{quoted}"/>'
    first = '<xsd:simpleType name="Kind">'
    wsdl = (HERE / "partner.wsdl").read_text().replace(first, imported + first)
    assert imported in wsdl
    (folder / "import.wsdl").write_text(wsdl)
    steps = ["transform: {xslt: include.xsl}", "validate: {xsd: include.xsd}",
             "validate: {xsd: import.xsd}",
             "call: {soap: {wsdl: import.wsdl, operation: getPartner}}",
             f"validate: {{json_schema: {json.dumps({'$ref': address})}}}"]  # fmt: skip
    for step in steps:
        text = f"routes:\n  a:\n    from: {{http: {{path: /a}}}}\n    steps: [{{{step}}}]\n"
        # What is imported and never referred to may be missing.
        assert load_text(text, folder).diagnostics or "import." in step, step
    return set()


Way = Callable[[Attack, str], Awaitable[set[int]]]
WAYS: Final[dict[str, Way]] = {
    "the URL of a call": whole_url,
    "the host of a URL": host_alone,
    "a host among those that are listed": among_names,
    "a redirect of the far side": redirected,
    "ReplyTo, FaultTo, From, To": reply_to,
    "an attachment elsewhere": xop,
    "document(), entities, locations of schemas": documents,
    "attributes of an event": events,
    "headers and targets of requests": request_headers,
    "imports of a project's files": loaded,
}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Attack]:
    for name in ("partner.wsdl", "partner.xsd"):
        if (HERE / name).exists():
            shutil.copy(HERE / name, tmp_path)
    (tmp_path / "any.xsd").write_text(XSD.format(""))
    (tmp_path / "read.xsl").write_text(XSL.format(""))

    async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        head = f"HTTP/1.1 302 Found\r\nLocation: {found.redirect}\r\nRefresh: 0; {found.redirect}"
        writer.write(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())

    async with (
        canary() as watched,
        backend(redirects) as far,
        running(ROUTES.format(far=far), tmp_path) as bus,
    ):
        watched.known |= {urlsplit(one).port or 0 for one in (far, url(bus))}
        found = Attack(url(bus), watched, tmp_path)
        yield found


def test_there_are_enough() -> None:
    assert len(ADDRESSES) >= 40
    assert len(WAYS) >= 8


@pytest.mark.parametrize("way", WAYS)
async def test_no_address_is_reached(at: Attack, way: str) -> None:
    for name, address in ADDRESSES.items():
        statuses = await WAYS[way](at, address.format(port=at.watched.port))
        assert at.watched.quiet, (name, at.watched.came, at.watched.connected)
        assert not at.told, name
        assert not {0, 200} & statuses, (name, statuses)
        if way in ("the URL of a call", "the host of a URL"):
            assert statuses <= {400, 503}, (name, statuses)  # 503: there is no such name
        at.watched.forget()


async def test_without_the_check_they_are_reached(
    at: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary sings: what keeps it quiet above is the check, not the setting of the test."""
    monkeypatch.setattr(Reach, "check", lambda *args: None)
    reached = set()
    for name in ("dotted", "two parts", "one number", "octal", "localhost", "IPv6", "mapped",
                 "zero", "a name for it", "a name with IPv6"):  # fmt: skip
        at.watched.forget()
        await whole_url(at, ADDRESSES[name].format(port=at.watched.port))
        if at.watched.came and at.watched.connected:
            reached.add(name)
    assert at.told
    assert len(reached) >= 9, reached  # without IPv6 on the machine, one less


ALLOWED: Final = """\
routes:
  url:
    from: {http: {path: /url}}
    steps:
      - call:
          http:
            url: "{{ body.url }}"
            allow_hosts: ["*.test", "127.0.0.3"]
            allow_networks: [127.0.0.2/32]
            method: GET
            timeout: 2s
"""


async def test_what_is_allowed_is_reached_at_the_address_that_was_checked(tmp_path: Path) -> None:
    async with canary() as watched, running(ALLOWED, tmp_path) as bus:
        watched.known |= {urlsplit(url(bus)).port or 0}
        at = Attack(url(bus), watched, tmp_path)

        async def reached(host: str) -> list[str]:
            watched.forget()
            raw = json.dumps({"url": f"http://{host}:{watched.port}/"}).encode()
            head = f"POST /url HTTP/1.1\r\nHost: a\r\nContent-Length: {len(raw)}\r\n"
            await ask(at.base, f"{head}Content-Type: application/json\r\n\r\n".encode() + raw)
            return [address.rpartition(":")[2] for address in watched.came]

        assert await reached("127.0.0.3") == ["127.0.0.3"]  # stands there as it is
        assert await reached("127.0.0.2") == []  # no host that is listed
        watched.names["rebinding.test"] = ["127.0.0.2"]
        changed = watched.looked_up

        class Once(list[str]):
            """Public at the first look, inside from then on."""

            def __iter__(self) -> Any:
                first = changed.count("rebinding.test") == 1
                return iter(["127.0.0.2"] if first else ["127.0.0.1"])

        watched.names["rebinding.test"] = Once()
        assert await reached("rebinding.test") == ["127.0.0.2"]
        assert watched.looked_up == ["rebinding.test"]
        assert [address[0] for address in watched.connected] == ["127.0.0.2"]
        assert set(NAMES) & set(watched.looked_up) == set()
