"""Bad input at the doors of one running bus: each caller is told what is wrong with a status that
fits, nothing that was accepted is lost, and the next good request is served.

Framing and floods are in adapters/test_web_listener.py: they never become a request.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.backend import Backend, backend
from support.processes import free_ports, request
from support.waiting import until

from esb.testing import running

WSDL = Path(__file__).parent / "support" / "calculator.wsdl"

ROUTES = """
routes:
  order:
    from:
      http:
        path: /orders/:id
        method: PUT
        max_body: 10KB
        schema:
          type: object
          required: [lines]
          properties: {lines: {type: array}}
          additionalProperties: false
    steps: [{set: {body: {order: path.id, lines: body.lines | length}}}]
  amount:
    from: {http: {path: /amounts}}
    steps: [{set: {body: {amount: "xpath('/order/amount') | decimal"}}}]
  sum:
    from: {soap: {wsdl: calculator.wsdl, path: /soap}}
    steps: [{set: {body: {result: body.a + body.b}}}]
  taken:
    from: {http: {path: /taken}}
    accept: durable
    steps: [{send: {http: {url: "${FAR}/taken", method: POST}}}]
    retry: {attempts: 100, backoff: 10ms..100ms}
  closed:
    from: {http: {path: /closed}}
    steps: [{call: {http: {url: "${CLOSED}/", method: POST}}}]
  read:
    from: {http: {path: /read}}
    steps:
      - call: {http: {url: "${PAGE}/", method: POST}}
      - set: {body: {answer: body.answer}}
expose:
  page: {wsdl: calculator.wsdl, at: /page, url: "${PAGE}/"}
  gone: {wsdl: calculator.wsdl, at: /gone, url: "${CLOSED}/"}
"""

S11 = "http://schemas.xmlsoap.org/soap/envelope/"
NS = "urn:esb:test:calculator"
XXE = '<!DOCTYPE order [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
LAUGHS = '<!DOCTYPE order [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


def soap(content: str, before: str = "") -> bytes:
    """A SOAP 1.1 envelope around the content of its body."""
    return f'{before}<e:Envelope xmlns:e="{S11}"><e:Body>{content}</e:Body></e:Envelope>'.encode()


JSON, XML, SOAP = "application/json", "application/xml", "text/xml"

# what is wrong: (method, path, content type, body, status, code in problem+json or of the fault,
# what the detail must say)
BAD: dict[str, tuple[str, str, str, bytes, int, str, str]] = {
    # JSON
    "broken JSON": ("PUT", "/orders/1", JSON, b'{"lines": [', 400, "bad-message", "line 1"),
    "no body": ("PUT", "/orders/1", JSON, b"", 400, "bad-message", "empty"),
    "two JSON documents": ("PUT", "/orders/1", JSON, b"{} {}", 400, "bad-message", "line 1"),
    "a duplicate key": (
        "PUT", "/orders/1", JSON, b'{"lines": [], "lines": [1]}', 400, "bad-message", "lines"),
    "NaN": ("PUT", "/orders/1", JSON, b'{"lines": [NaN]}', 400, "bad-message", "line 1"),
    "bytes that are no UTF-8": (
        "PUT", "/orders/1", JSON, b'{"lines": ["\xff"]}', 400, "bad-message", "UTF-8"),
    "nested 5000 deep": (
        "PUT", "/orders/1", JSON, b'{"lines": ' + b"[" * 5000 + b"]" * 5000 + b"}", 413,
        "too-large", "deeper than 200"),
    "a missing part": ("PUT", "/orders/1", JSON, b"{}", 400, "bad-message", "lines"),
    "a part nobody knows": (
        "PUT", "/orders/1", JSON, b'{"lines": [], "x": 1}', 400, "bad-message", "x"),
    "a wrong type": ("PUT", "/orders/1", JSON, b'{"lines": 1}', 400, "bad-message", "array"),
    "a wrong media type": (
        "PUT", "/orders/1", XML, b"<a/>", 415, "unsupported-media-type", "application/json"),
    "an oversized body": (
        "PUT", "/orders/1", JSON, b" " * 10_241, 413, "too-large", "larger than 10240 bytes"),
    # where
    "an unknown path": ("PUT", "/ordres/1", JSON, b"{}", 404, "no-such-operation", "path"),
    "a path climbing out": (
        "PUT", "/orders/..%2f..%2fetc", JSON, b"{}", 400, "bad-message", "path"),
    "a wrong method": ("POST", "/orders/1", JSON, b"{}", 405, "no-such-operation", "POST"),
    # XML
    "broken XML": ("POST", "/amounts", XML, b"<order><amount>1</order>", 400, "bad-message",
                   "not well-formed"),
    "an external entity": (
        "POST", "/amounts", XML, f"{XXE}<order><amount>&x;</amount></order>".encode(), 400,
        "bad-message", "DOCTYPE"),
    "entities that grow": (
        "POST", "/amounts", XML, f"{LAUGHS}<order>&b;</order>".encode(), 400, "bad-message",
        "DOCTYPE"),
    # SOAP
    "broken XML in SOAP": ("POST", "/soap", SOAP, b"<e:Envelope", 500, "Client", "well-formed"),
    "no envelope": ("POST", "/soap", SOAP, b"<a/>", 500, "Client", "Envelope"),
    "an external entity in SOAP": (
        "POST", "/soap", SOAP, soap(f'<Add xmlns="{NS}"><a>&x;</a><b>1</b></Add>', XXE), 500,
        "Client", "DOCTYPE"),
    "a wrong SOAP operation": (
        "POST", "/soap", SOAP, soap(f'<Substract xmlns="{NS}"/>'), 500, "Client", "Substract"),
    "a SOAP operation of nowhere": ("POST", "/soap", SOAP, soap("<Add/>"), 500, "Client", "Add"),
    "a missing part in SOAP": (
        "POST", "/soap", SOAP, soap(f'<Add xmlns="{NS}"><a>1</a></Add>'), 500, "Client", "b"),
    "a wrong value in SOAP": (
        "POST", "/soap", SOAP, soap(f'<Add xmlns="{NS}"><a>x</a><b>1</b></Add>'), 500, "Client",
        "a"),
    "JSON for SOAP": ("POST", "/soap", JSON, b'{"a": 1}', 415, "Client", "text/xml"),
    "SOAP with the wrong method": ("PUT", "/soap", SOAP, soap(""), 405, "no-such-operation", "PUT"),
    # SOAP as REST
    "a missing part of an operation": (
        "POST", "/page/Add", JSON, b'{"a": 1}', 400, "bad-message", "b"),
    "a part of an operation too much": (
        "POST", "/page/Add", JSON, b'{"a": 1, "b": 2, "c": 3}', 400, "bad-message", "c"),
    "an operation that is none": (
        "POST", "/page/Ad", JSON, b"{}", 404, "no-such-operation", "path"),
    # far sides
    "an unreachable backend": ("POST", "/closed", JSON, b"{}", 503, "unreachable", "reached"),
    "an unreachable SOAP backend": (
        "POST", "/gone/Add", JSON, b'{"a": 1, "b": 2}', 503, "unreachable", "reached"),
    "a backend that answers a page": ("POST", "/read", JSON, b"{}", 502, "bad-reply", "web page"),
    "a SOAP backend that answers a page": (
        "POST", "/page/Add", JSON, b'{"a": 1, "b": 2}', 502, "bad-reply", "web page"),
}  # fmt: skip

GOOD: dict[str, tuple[str, str, str, bytes, bytes]] = {
    "/orders": ("PUT", "/orders/1", JSON, b'{"lines": [1]}', b'"lines":1'),
    "/amounts": ("POST", "/amounts", XML, b"<order><amount>1.10</amount></order>", b"1.10"),
    "/soap": ("POST", "/soap", SOAP, soap(f'<Add xmlns="{NS}"><a>1</a><b>2</b></Add>'),
              b"result>3</"),
}  # fmt: skip


@dataclass
class Doors:
    url: str
    far: Backend
    accepted: int = 0

    def ask(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, Any]:
        answer = request(method, self.url + path, body, {"Content-Type": content_type})
        return answer.status, answer

    def accept(self) -> None:
        """One message that is promised to arrive."""
        self.accepted += 1
        assert self.ask("POST", "/taken", JSON, b'{"n": %d}' % self.accepted)[0] == 202

    def good(self) -> None:
        """A good request at every door."""
        for method, path, content_type, body, says in GOOD.values():
            status, answer = self.ask(method, path, content_type, body)
            assert (status, says in answer.body) == (200, True), answer.body


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """The bus. When all is over, what it had accepted must have arrived, once each."""
    with backend() as far, backend() as page:
        page.content = ("text/html", b"<html><body>It works! secret-of-the-page</body></html>")
        far.statuses.extend([503] * 20)
        environ = {
            "FAR": far.url,
            "PAGE": page.url,
            "CLOSED": f"http://127.0.0.1:{free_ports(1)[0]}",
        }
        folder = tmp_path_factory.mktemp("routes")
        shutil.copy(WSDL, folder)
        (folder / "routes.yaml").write_text(ROUTES)
        with running({}, [folder / "routes.yaml"], root=folder, environ=environ) as bus:
            found = Doors(bus.url, far)
            yield found
            found.good()
            wanted = list(range(1, found.accepted + 1))
            asyncio.run(until(lambda: len(far.asked) >= found.accepted + 20))
            assert sorted({one.json["n"] for one in far.asked}) == wanted


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_and_hurts_nobody(name: str, doors: Doors) -> None:
    method, path, content_type, body, status, code, says = BAD[name]
    doors.accept()
    got, answer = doors.ask(method, path, content_type, body)
    text = answer.body.decode()
    assert got == status, text
    if status != 405 and path == "/soap":
        assert re.search(rf"<faultcode>\w+:{code}</faultcode>", text), text
        detail = text
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json
        assert problem["status"] == status
        assert problem["type"] == f"urn:esb:problem:{code}", text
        detail = problem["detail"] + str(problem.get("errors", ""))
    assert says in detail, text
    for inside in ("passwd", "root:", "secret-of-the-page", "Traceback", ".py", str(Path.cwd())):
        assert inside not in text
    doors.good()
