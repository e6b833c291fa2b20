"""What is measured. A scenario says what a client asks, what the backend answers, which routes the
bus runs for it (routes/<routes>.yaml), and how its messages are counted.

The kinds `direct` to `secure` are the classic ones of benchmarks of service buses. To compare with,
nginx gets the same request, passes it to the same backend and hands the answer back, whatever the
kind: it is the least that a hop with messages of this size costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import messages
import orders
from load import Request
from lxml import etree

Way = Literal["http", "stored", "queued", "consumed"]
"""http: request and answer. stored: answered at once, delivered to the backend later; counted when
delivered. queued: answered when the broker has it; counted in the queue. consumed: taken from a
queue; counted at the backend."""

Answers = dict[str, tuple[str, bytes]]
"""Content type and body by path; no body is a 204."""

SIZES = {"500 B": 500, "1 KB": 1024, "10 KB": 10 * 1024, "100 KB": 100 * 1024}

JSON, XML, SOAP = "application/json", "application/xml", "text/xml; charset=utf-8"


@dataclass(frozen=True)
class Scenario:
    """One measure.

    kind: what a contestant has to do; a contestant says which kinds it does. size: of the request
    in bytes. good: whether an answer is what it should be. arrives: whether what comes to the
    backend, path and body, is what should; looked at once before anything is counted.
    """

    name: str
    title: str
    kind: str
    size: int
    routes: str
    request: Request
    answers: Answers
    way: Way = "http"
    good: Callable[[int, bytes], bool] = lambda status, body: status in (200, 204)
    arrives: Callable[[str, bytes], bool] = lambda path, body: True
    uses_broker: bool = False
    tls: bool = False


def _sized(make: Callable[[str, str, int], Scenario], kind: str) -> list[Scenario]:
    return [
        make(f"{kind}-{label.replace(' ', '').replace('KB', 'k').replace('B', '')}", label, size)
        for label, size in SIZES.items()
    ]


def _direct(name: str, label: str, size: int) -> Scenario:
    body = orders.json_of(size)
    return Scenario(
        name, f"DirectProxy, {label}", "direct", size, "direct",
        Request("/echo", body), {"/echo": (JSON, body)},
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: (path, came) == ("/echo", body),
    )  # fmt: skip


def _tls(name: str, label: str, size: int) -> Scenario:
    body = orders.json_of(size)
    return Scenario(
        name, f"DirectProxy over TLS, {label}", "tls", size, "direct",
        Request("/echo", body), {"/echo": (JSON, body)},
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: (path, came) == ("/echo", body), tls=True,
    )  # fmt: skip


def _header(name: str, label: str, size: int) -> Scenario:
    body = orders.json_of(size)
    return Scenario(
        name, f"TransportHeaderProxy, {label}", "header", size, "header",
        Request("/header", body, headers={"X-Route": "orders"}),
        {"/orders": (JSON, body), "/header": (JSON, body), "/other": (JSON, b"{}")},
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: (path, came) == ("/orders", body),
    )  # fmt: skip


def _header_soap(name: str, label: str, size: int) -> Scenario:
    body = messages.soap_request(size)
    answers = {"/orders": (SOAP, body), "/header-soap": (SOAP, body), "/other": (SOAP, b"<no/>")}
    return Scenario(
        name, f"SOAPHeaderProxy, {label}", "header-soap", size, "header-soap",
        Request("/header-soap", body, SOAP), answers,
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: (path, came) == ("/orders", body),
    )  # fmt: skip


def _cbr(name: str, label: str, size: int) -> Scenario:
    body = messages.soap_request(size)
    answers = {"/orders": (SOAP, body), "/cbr": (SOAP, body), "/other": (SOAP, b"<no/>")}
    return Scenario(
        name, f"ContentBasedProxy (body), {label}", "cbr", size, "cbr",
        Request("/cbr", body, SOAP), answers,
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: (path, came) == ("/orders", body),
    )  # fmt: skip


def _xslt(name: str, label: str, size: int) -> Scenario:
    body = messages.soap_request(size)
    wanted = canonical(messages.transformed(size))
    return Scenario(
        name, f"XSLTProxy (request), {label}", "xslt", size, "xslt",
        Request("/xslt", body, SOAP), {"/orders": (SOAP, body), "/xslt": (SOAP, body)},
        good=lambda status, answer: status == 200 and answer == body,
        arrives=lambda path, came: path == "/orders" and canonical(came) == wanted,
    )  # fmt: skip


def canonical(document: bytes) -> bytes:
    """XML in a form in which documents that say the same are the same; b"" if it is none."""
    try:
        return etree.tostring(etree.fromstring(document), method="c14n2", strip_text=True)
    except etree.XMLSyntaxError:
        return b""


def _soap_as_rest(name: str, title: str, lines: int) -> Scenario:
    data = orders.order(lines)
    body = orders.as_json(data)
    reply = orders.soap_reply(lines)
    return Scenario(
        name, title, "soap-as-rest", len(body), "soap-as-rest",
        Request("/orders/placeOrder", body),
        {
            "/soap": (SOAP, reply),
            # What nginx asks for: the path of its own request.
            "/orders/placeOrder": (SOAP, reply),
        },
        good=lambda status, answer: status == 200 and _is_order(answer, data),
        arrives=lambda path, came: path == "/soap" and b"2030-000123" in came,
    )  # fmt: skip


def _rest_as_soap(name: str, title: str, lines: int) -> Scenario:
    request, reply = orders.soap_request(lines), orders.as_json(orders.order(lines))
    return Scenario(
        name, title, "rest-as-soap", len(request), "rest-as-soap",
        Request("/rest-as-soap", request, SOAP, {"SOAPAction": f'"{orders.ACTION}"'}),
        {"/rest": (JSON, reply), "/rest-as-soap": (JSON, reply)},
        good=lambda status, answer: status == 200 and b"2030-000123" in answer
        and canonical(answer) != b"",
        arrives=lambda path, came: path == "/rest" and _is_order(came, orders.order(lines)),
    )  # fmt: skip


def _secure(name: str, title: str, lines: int) -> Scenario:
    envelope, reply = orders.soap_request(lines), orders.soap_reply(lines)
    request = messages.secured(envelope, "acme", "bench")
    return Scenario(
        name, title, "secure", len(request), "secure",
        Request("/secure", request, SOAP, {"SOAPAction": f'"{orders.ACTION}"'}),
        {"/soap": (SOAP, reply), "/secure": (SOAP, reply)},
        good=lambda status, answer: status == 200 and canonical(answer) == canonical(reply),
        arrives=lambda path, came: path == "/soap"
        # The header that is left is empty.
        and canonical(came.replace(b"<soap:Header/>", b"")) == canonical(envelope),
    )  # fmt: skip


def _is_order(text: bytes, wanted: dict[str, object]) -> bool:
    """Whether JSON holds the order: as its number and its lines say, since products spell numbers
    and attributes in their own ways."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    lines = found.get("line") if isinstance(found, dict) else None
    named = isinstance(found, dict) and found.get("number") == wanted["number"]
    return named and isinstance(lines, list) and len(lines) == len(wanted["line"])  # type: ignore[arg-type]


def _taking(name: str, title: str, way: Way, *, uses_broker: bool = False) -> Scenario:
    body = orders.json_of(500)
    return Scenario(
        name, title, name, 500, name, Request("/taken", body), {"/taken": ("", b"")}, way,
        good=lambda status, answer: status in (200, 202, 204),
        arrives=lambda path, came: (path, came) == ("/taken", body), uses_broker=uses_broker,
    )  # fmt: skip


def all_scenarios() -> list[Scenario]:
    """Every one, in the order in which they are shown."""
    return [
        *_sized(_direct, "direct"),
        *_sized(_header, "header"),
        *_sized(_header_soap, "header-soap"),
        *_sized(_cbr, "cbr"),
        *_sized(_xslt, "xslt"),
        *_sized(_tls, "tls"),
        _secure("secure", "SecureProxy (WS-Security, checked), 32 elements each way", 2),
        _soap_as_rest("soap-as-rest", "SOAP as REST, 32 elements each way", 2),
        _soap_as_rest("soap-as-rest-large", "SOAP as REST, 718 elements each way", 100),
        _rest_as_soap("rest-as-soap", "REST as SOAP, 32 elements each way", 2),
        _taking("amqp-to-http", "AMQP to HTTP, 500 B", "consumed", uses_broker=True),
        _taking("http-to-amqp", "HTTP to AMQP, 500 B", "queued", uses_broker=True),
        _taking("durable-accept", "Durable accept, then HTTP, 500 B", "stored"),
        _taking("queue-to-queue", "Queue to queue of the bus, then HTTP, 500 B", "stored"),
    ]


SELDOM = {"direct-1k", "header-1k", "header-soap-1k", "cbr-1k", "xslt-1k", "tls-1k",
          "direct-100k", "header-100k", "header-soap-100k", "cbr-100k", "xslt-100k",
          "tls-100k"}  # fmt: skip
"""Sizes that a full run takes in its first round only: they show a shape, they decide nothing."""
