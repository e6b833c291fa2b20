#!/usr/bin/env python3
"""A stand-in for the systems around a bus: an old SOAP service, and a REST one for orders.

    python3 examples/legacy/server.py [--host 127.0.0.1] [--port 8090]

    POST /partners       the SOAP 1.1 service that partner.wsdl describes
    GET  /partners?wsdl  its WSDL
    POST /orders         takes an order as JSON;  GET /orders lists what came

It knows nothing of the bus, on purpose: the standard library and lxml, data in memory only.
LEGACY_HOST and LEGACY_PORT stand for the options.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

from lxml import etree
from lxml.builder import ElementMaker

WSDL = Path(__file__).with_name("partner.wsdl")
MAX_BODY = 1024 * 1024

NS = "urn:example:partners:v1"
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
XSD = "{http://www.w3.org/2001/XMLSchema}schema"

soap = ElementMaker(namespace=SOAP, nsmap={"soap": SOAP})
partner = ElementMaker(namespace=NS, nsmap={None: NS})
plain = ElementMaker()  # the parts of a SOAP 1.1 fault are in no namespace

PARTNERS = """
<partners xmlns="urn:example:partners:v1">
  <partner>
    <name>Meridian Shipping</name><status>active</status><vatId>NL004495445B01</vatId>
    <creditLimit>250000.00</creditLimit><since>2009-04-01</since>
    <address>
      <street>Maaskade 12</street><city>Rotterdam</city><postalCode>3071 ND</postalCode>
      <country>NL</country>
    </address>
    <contact>
      <name>Anke de Wit</name><email>anke@meridian.example</email>
      <phone>+31 10 555 0142</phone><phone>+31 6 555 0143</phone>
    </contact>
    <contact><name>Joost Bakker</name></contact>
    <id>1</id>
  </partner>
  <partner>
    <name>Hollis &amp; Sons</name><status>blocked</status>
    <creditLimit>0</creditLimit><since>1987-10-19</since>
    <address><city>Leeds</city><country>GB</country></address>
    <id>2</id>
  </partner>
  <partner>
    <name>Nordwind Energie</name><status>prospect</status><vatId>DE136695976</vatId>
    <creditLimit>12500.50</creditLimit>
    <address><city>Kiel</city><postalCode>24103</postalCode><country>DE</country></address>
    <id>3</id>
  </partner>
</partners>
"""


class Fault(Exception):
    """A SOAP 1.1 fault: `code` is Client, Server, VersionMismatch or MustUnderstand."""

    def __init__(self, code: str, text: str, detail: etree._Element | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.detail = detail

    def element(self) -> etree._Element:
        """The fault as it stands in the Body (SOAP 1.1, section 4.4)."""
        parts = [plain.faultcode(f"soap:{self.code}"), plain.faultstring(str(self))]
        if self.detail is not None:
            parts.append(plain.detail(self.detail))
        return soap.Fault(*parts)


class Partners:
    """The operations of the service. Partners are kept as their XML, whose last child is the id."""

    def __init__(self) -> None:
        parser = etree.XMLParser(remove_blank_text=True)
        self._partners = {int(p[-1].text or 0): p for p in etree.fromstring(PARTNERS, parser)}
        self._lock = threading.Lock()
        self.operations: dict[str, Callable[[etree._Element], etree._Element]] = {
            f"{{{NS}}}{method.__name__}": method
            for method in (self.getPartner, self.createPartner, self.findPartners)
        }

    def getPartner(self, request: etree._Element) -> etree._Element:  # noqa: N802 - WSDL's name
        number = int(_text(request, "id"))
        with self._lock:
            found = self._partners.get(number)
            if found is None:
                detail = partner.PartnerNotFound(partner.id(str(number)))
                raise Fault("Client", f"There is no partner {number}", detail)
            return partner.getPartnerResponse(*deepcopy(found))

    def createPartner(self, request: etree._Element) -> etree._Element:  # noqa: N802
        vat = _text(request, "vatId")
        with self._lock:
            for number, known in self._partners.items():
                if vat and vat == _text(known, "vatId"):
                    detail = partner.PartnerExists(partner.id(str(number)), partner.vatId(vat))
                    raise Fault("Client", f"Partner {number} has this VAT id already", detail)
            number = max(self._partners) + 1
            # A Partner is a PartnerData, too (xsi:type), but the id it brings is none of ours.
            given = [one for one in request if etree.QName(one).localname != "id"]
            self._partners[number] = partner.partner(*given, partner.id(str(number)))
        return partner.createPartnerResponse(partner.id(str(number)))

    def findPartners(self, request: etree._Element) -> etree._Element:  # noqa: N802
        name = _text(request, "name").lower()
        wanted = [status.text for status in request.findall(f"{{{NS}}}status")]
        limit = int(_text(request, "limit") or 100)
        with self._lock:
            matching = (
                deepcopy(found)
                for _, found in sorted(self._partners.items())
                if name in _text(found, "name").lower()
                and (not wanted or _text(found, "status") in wanted)
            )
            return partner.findPartnersResponse(*islice(matching, min(limit, sys.maxsize)))


def _text(element: etree._Element, name: str) -> str:
    return element.findtext(f"{{{NS}}}{name}") or ""


class SoapService:
    """SOAP 1.1 over the operations: reads an envelope, checks it against the WSDL's schema."""

    def __init__(self) -> None:
        self._partners = Partners()
        self._validating = threading.Lock()  # a compiled schema keeps the errors of its last use
        schema = etree.parse(WSDL).find(f".//{XSD}")
        assert schema is not None
        # Written and read again, it has the namespaces that the WSDL declares around it.
        self._schema = etree.XMLSchema(etree.fromstring(etree.tostring(schema)))

    def answer(self, raw: bytes) -> tuple[int, bytes]:
        """Status and envelope for a request's body; a fault has the status 500 (section 6.2)."""
        try:
            content, status = self._answer(raw), 200
        except Fault as fault:
            content, status = fault.element(), 500
        envelope = soap.Envelope(soap.Body(content))
        return status, etree.tostring(envelope, xml_declaration=True, encoding="UTF-8")

    def _answer(self, raw: bytes) -> etree._Element:
        request = self._payload(_parse(raw))
        operation = self._partners.operations.get(str(request.tag))
        if operation is None:
            raise Fault("Client", f"There is no operation {etree.QName(request).localname}")
        with self._validating:
            if not self._schema.validate(request):
                raise Fault("Client", str(self._schema.error_log[0].message))
        return operation(request)

    def _payload(self, envelope: etree._Element) -> etree._Element:
        if envelope.tag != f"{{{SOAP}}}Envelope":
            raise Fault("VersionMismatch", "A SOAP 1.1 envelope was expected")
        for header in envelope.iterfind(f"{{{SOAP}}}Header/*"):
            if header.get(f"{{{SOAP}}}mustUnderstand") == "1":
                raise Fault("MustUnderstand", f"{header.tag} is not understood")
        children = envelope.findall(f"{{{SOAP}}}Body/*")
        if len(children) != 1:
            raise Fault("Client", "The Body must hold one element")
        return children[0]


def _parse(raw: bytes) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as e:
        raise Fault("Client", f"This is no well-formed XML: {e.msg}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise Fault("Client", "A SOAP message has no DOCTYPE")
    return root


class Handler(BaseHTTPRequestHandler):
    """The paths of both services."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer leave together
    timeout = 75
    server: LegacyServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/partners" and query.lower() == "wsdl":
            here = f"http://{self.headers.get('Host', '127.0.0.1:8090')}/partners"
            wsdl = WSDL.read_bytes().replace(b"http://127.0.0.1:8090/partners", here.encode())
            self._send(200, wsdl, "text/xml; charset=utf-8")
        elif path == "/orders":
            self._send_json(200, list(self.server.orders.values()))
        elif path == "/health":
            self._send_json(200, {"status": "ok"})
        else:
            self._send_json(404, {"title": "Not found"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send_json(413 if length.isdigit() else 411, {"title": "Bad Content-Length"})
            return
        raw = self.rfile.read(int(length))
        if self.path == "/partners":
            if self.headers.get_content_type() != "text/xml":
                self._send_json(415, {"title": "SOAP 1.1 is text/xml"})
            else:
                status, envelope = self.server.soap.answer(raw)
                self._send(status, envelope, "text/xml; charset=utf-8")
        elif self.path == "/orders":
            self._take_order(raw)
        else:
            self._send_json(404, {"title": "Not found"})

    def _take_order(self, raw: bytes) -> None:
        try:
            order = json.loads(raw)
            number = str(order["orderNumber"])
        except (ValueError, KeyError, TypeError):
            self._send_json(422, {"title": "An order is an object with an orderNumber"})
            return
        # The same order again is the same order: whoever is unsure may send it twice.
        known = number in self.server.orders
        self.server.orders[number] = order
        self._send_json(200 if known else 201, {"orderNumber": number})

    def _send_json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.verbose:
            super().log_message(format, *args)


class LegacyServer(ThreadingHTTPServer):
    """Both services on one port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, *, verbose: bool = False) -> None:
        self.soap = SoapService()
        self.orders: dict[str, Any] = {}
        self.verbose = verbose
        super().__init__((host, port), Handler)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="A stand-in for the systems around a bus.")
    parser.add_argument("--host", default=os.environ.get("LEGACY_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("LEGACY_PORT", "8090")))
    parser.add_argument("--verbose", action="store_true", help="log every request")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server = LegacyServer(args.host, args.port, verbose=args.verbose)
    except OSError as e:
        sys.exit(
            f"the legacy service cannot listen on {args.host}:{args.port}: {e.strerror}; "
            "choose another port with LEGACY_PORT"
        )
    with server:
        print(f"the legacy service is on http://{args.host}:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
