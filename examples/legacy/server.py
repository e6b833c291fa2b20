"""A stand-in for the SOAP service that nobody dares to touch; it shares no code with the bus.

Standard library and lxml only. `python server.py [PORT]` serves partner.wsdl at /partner, with a
few partners in memory; GET /partner?wsdl gives the WSDL.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lxml import etree

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
NS = "urn:example:partner"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
WSDL = Path(__file__).with_name("partner.wsdl")
FIELDS = ("name", "kind", "country", "creditLimit", "since", "email", "note", "id")

Partner = dict[str, "str | list[str] | None"]


class Refused(Exception):
    """A SOAP fault: its code, its text, and the detail's element if it is a declared one."""

    def __init__(self, code: str, text: str, detail: etree._Element | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.detail = detail


class Partners:
    """What the old system knows."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[int, Partner] = {}
        self.add(
            name="Ziegler & Söhne",
            kind="SUPPLIER",
            country="DE",
            creditLimit="25000.00",
            since="1998-04-01",
            email=["post@ziegler.example", "einkauf@ziegler.example"],
        )
        self.add(
            name="Aalto Oy",
            kind="CUSTOMER",
            country="FI",
            creditLimit="1200.50",
            since="2011-10-17",
            email=["aalto@aalto.example"],
        )
        self.add(name="Bianchi S.p.A.", kind="BOTH", country="IT", email=[], note=None)

    def add(self, **fields: str | list[str] | None) -> int:
        with self.lock:
            number = len(self.known) + 1
            self.known[number] = {**fields, "id": str(number)}
            return number


class Handler(BaseHTTPRequestHandler):
    """One request: the WSDL, or a SOAP call."""

    protocol_version = "HTTP/1.1"
    partners = Partners()

    def do_GET(self) -> None:
        if self.path.lower() == "/partner?wsdl":
            host = self.headers.get("Host", "127.0.0.1:8090").encode()
            self.answer(200, WSDL.read_bytes().replace(b"127.0.0.1:8090", host))
        else:
            self.answer(404, b"<p>Try /partner?wsdl</p>", "text/html")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            self.answer(200, envelope(self.call(raw)))
        except Refused as e:
            fault = etree.Element(f"{{{SOAP}}}Fault", nsmap={"soap": SOAP})
            etree.SubElement(fault, "faultcode").text = f"soap:{e.code}"
            etree.SubElement(fault, "faultstring").text = str(e)
            if e.detail is not None:
                etree.SubElement(fault, "detail").append(e.detail)
            self.answer(500, envelope(fault))

    def call(self, raw: bytes) -> etree._Element:
        try:
            parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
            body = etree.fromstring(raw, parser).find(f"{{{SOAP}}}Body")
        except etree.XMLSyntaxError as e:
            raise Refused("Client", f"not XML: {e.msg}") from e
        if body is None or len(body) != 1:
            raise Refused("Client", "one element in the Body is expected")
        asked = body[0]
        name = etree.QName(asked).localname
        if etree.QName(asked).namespace != NS or name not in OPERATIONS:
            raise Refused("Client", f"there is no operation {name}")
        return OPERATIONS[name](self.partners, asked)

    def answer(self, status: int, content: bytes, kind: str = "text/xml; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the bus in front of it logs."""


def get_partner(partners: Partners, asked: etree._Element) -> etree._Element:
    number = integer(asked, "id")
    if number not in partners.known:
        detail = element("PartnerNotFound")
        child(detail, "id", str(number))
        raise Refused("Client", f"there is no partner {number}", detail)
    response = element("getPartnerResponse")
    write(response, partners.known[number])
    return response


def create_partner(partners: Partners, asked: etree._Element) -> etree._Element:
    given = asked.find(f"{{{NS}}}partner")
    if given is None:
        raise Refused("Client", "the partner is missing")
    fields: Partner = {"email": [e.text or "" for e in given.findall(f"{{{NS}}}email")]}
    for name in ("name", "kind", "country", "creditLimit", "since", "note"):
        found = given.find(f"{{{NS}}}{name}")
        if found is not None:
            fields[name] = None if found.get(f"{{{XSI}}}nil") in ("true", "1") else found.text or ""
    if not fields.get("name"):
        raise Refused("Client", "a partner needs a name")
    response = element("createPartnerResponse")
    child(response, "id", str(partners.add(**fields)))
    return response


def find_partners(partners: Partners, asked: etree._Element) -> etree._Element:
    name = (asked.findtext(f"{{{NS}}}name") or "").lower()
    country = asked.findtext(f"{{{NS}}}country")
    response = element("findPartnersResponse")
    for partner in partners.known.values():
        if name in str(partner["name"]).lower() and country in (None, partner.get("country")):
            write(response, partner)
    return response


OPERATIONS = {
    "getPartner": get_partner,
    "createPartner": create_partner,
    "findPartners": find_partners,
}


def element(name: str) -> etree._Element:
    return etree.Element(f"{{{NS}}}{name}", nsmap={None: NS, "xsi": XSI})


def child(parent: etree._Element, name: str, text: str | None) -> None:
    made = etree.SubElement(parent, f"{{{NS}}}{name}")
    if text is None:
        made.set(f"{{{XSI}}}nil", "true")
    else:
        made.text = text


def write(parent: etree._Element, partner: Partner) -> None:
    made = etree.SubElement(parent, f"{{{NS}}}partner")
    for name in FIELDS:
        if name in partner:
            value = partner[name]
            for one in value if isinstance(value, list) else [value]:
                child(made, name, one)


def integer(asked: etree._Element, name: str) -> int:
    text = asked.findtext(f"{{{NS}}}{name}")
    try:
        return int(text or "")
    except ValueError as e:
        raise Refused("Client", f"{name} must be a whole number") from e


def envelope(content: etree._Element) -> bytes:
    root = etree.Element(f"{{{SOAP}}}Envelope", nsmap={"soap": SOAP})
    etree.SubElement(root, f"{{{SOAP}}}Body").append(content)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def main() -> None:
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LEGACY_PORT", "8090"))
    host = os.environ.get("LEGACY_HOST", "127.0.0.1")
    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"legacy partner service on http://{host}:{server.server_port}/partner?wsdl", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
