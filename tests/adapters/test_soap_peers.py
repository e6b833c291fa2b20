"""The whole bus against SOAP stacks that are not ours: PHP's ext-soap, spyne, zeep.

Each stack is a service behind `expose` or `call: soap`, or a client of a route that hosts one.
"""

from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zeep
import zeep.exceptions
from lxml import etree
from support.bus import running, url
from support.peers import (
    PARTNER_WSDL,
    RPC_WSDL,
    needs_php,
    php_call,
    php_service,
    spyne_application,
    wsgi_service,
)
from support.waiting import until
from support.web import backend, read_request

PARTNER = {
    "id": 1, "name": "Grün & Söhne <GmbH>", "kind": "company", "since": "2001-02-03",
    "active": True, "tag": ["a", "b"],
}  # fmt: skip

HOSTED = """
routes:
  partners:
    from: {soap: {wsdl: partner.wsdl, path: /soap}}
    steps:
      - choose:
          - when: soap.operation == 'getPartner' and body.id == 1
            steps:
              - set:
                  body:
                    partner: {id: body.id, name: "'Grün & Söhne <GmbH>'", kind: "'company'",
                              balance: "'1234567890.10'", active: "true", tag: "['a', 'b']"}
          - when: soap.operation == 'findPartners'
            steps: [{set: {body: {partner: "[]"}}}]
          - when: soap.operation == 'createPartner'
            steps: [{set: {body: {id: "body.partner.name | length"}}}]
          - when: soap.operation == 'dropPartner'
            steps: []
          - otherwise:
            steps:
              - call: {soap: {wsdl: partner.wsdl, operation: getPartner, url: "${BACKEND}"}}
"""

EXPOSED = """
expose:
  partners:
    wsdl: partner.wsdl
    at: /partners
    url: ${BACKEND}
    soap: "%s"
    operations: {getPartner: GET /:id, createPartner: POST /, findPartners: GET /}
    faults: {PartnerNotFound: 404}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for wsdl in (PARTNER_WSDL, RPC_WSDL):
        shutil.copy(wsdl, tmp_path)
    return tmp_path


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, method: str, where: str, **options: Any
) -> tuple[int, Any]:
    async with http.request(method, where, **options) as answer:
        if answer.content_type.endswith("json"):
            return answer.status, await answer.json()
        return answer.status, await answer.text()


@pytest.fixture(scope="module")
def php(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a PHP service, and the folder where it notes one-way calls."""
    folder = tmp_path_factory.mktemp("php")
    with php_service(PARTNER_WSDL, folder) as where:
        yield where, folder


@needs_php
class TestPhpBehindExpose:
    @pytest.fixture(params=["1.1", "1.2"])
    async def api(
        self, request: pytest.FixtureRequest, php: tuple[str, Path], folder: Path
    ) -> AsyncIterator[str]:
        async with running(EXPOSED % request.param, folder, environ={"BACKEND": php[0]}) as bus:
            yield url(bus) + "/partners"

    async def test_get(self, api: str, http: aiohttp.ClientSession) -> None:
        status, answer = await ask(http, "GET", f"{api}/1")
        assert status == 200
        balance = answer["partner"].pop("balance")
        assert str(balance).startswith("1234567890.1")
        assert answer == {"partner": PARTNER}

    async def test_query(self, api: str, http: aiohttp.ClientSession) -> None:
        status, answer = await ask(http, "GET", f"{api}?limit=1&name=M%C3%BCller&active=true")
        assert status == 200
        assert answer["partner"] == [{"id": 1, "name": "Müller1", "kind": "person", "active": True}]

    async def test_post(self, api: str, http: aiohttp.ClientSession) -> None:
        partner = {"name": "<&>", "kind": "person"}
        assert await ask(http, "POST", api, json={"partner": partner}) == (200, {"id": 3})

    async def test_one_way(
        self, api: str, http: aiohttp.ClientSession, php: tuple[str, Path]
    ) -> None:
        status, _ = await ask(http, "POST", f"{api}/dropPartner", json={"id": 77})
        assert status == 202
        dropped = php[1] / "dropped"
        await until(lambda: dropped.exists() and "77" in dropped.read_text())

    async def test_a_declared_fault(self, api: str, http: aiohttp.ClientSession) -> None:
        status, answer = await ask(http, "GET", f"{api}/7")
        assert status == 404
        assert answer["title"] == "PartnerNotFound"
        assert answer["detail"] == "no partner 7"
        assert answer["fault"] == {"id": 7, "hint": "there is only 1"}
        assert answer["type"].startswith("urn:example:partner")

    @pytest.mark.parametrize(("number", "status"), [(400, 400), (500, 502)])
    async def test_other_faults(
        self, api: str, http: aiohttp.ClientSession, number: int, status: int
    ) -> None:
        got, answer = await ask(http, "GET", f"{api}/{number}")
        assert got == status
        assert answer["detail"] in ("that id is reserved", "the database is away")

    async def test_an_element_and_an_envelope_as_request(
        self, api: str, http: aiohttp.ClientSession
    ) -> None:
        xml = {"content-type": "text/xml"}
        text = (
            '<createPartner xmlns="urn:example:partner"><partner><name>abcd</name>'
            "<kind>person</kind></partner></createPartner>"
        )
        assert await ask(http, "POST", api, data=text, headers=xml) == (200, {"id": 4})
        ns = "http://schemas.xmlsoap.org/soap/envelope/"
        text = f'<s:Envelope xmlns:s="{ns}"><s:Body>{text}</s:Body></s:Envelope>'
        status, answer = await ask(http, "POST", api, data=text, headers=xml)
        assert status == 200
        assert ":id>4</" in answer

    async def test_a_caller_who_wants_xml(self, api: str, http: aiohttp.ClientSession) -> None:
        status, text = await ask(http, "GET", f"{api}/1", headers={"accept": "application/xml"})
        assert status == 200
        root = etree.fromstring(text.encode())
        assert root.tag == "{urn:example:partner}getPartnerResponse"

    async def test_the_documents(self, api: str, http: aiohttp.ClientSession) -> None:
        status, made = await ask(http, "GET", f"{api}/openapi.json")
        assert status == 200
        assert made["info"]["title"] == "PartnerService"
        assert "/partners/{id}" in made["paths"]


@needs_php
class TestPhpRpcEncoded:
    async def test_numbers_and_arrays(self, folder: Path, http: aiohttp.ClientSession) -> None:
        with php_service(RPC_WSDL, folder) as where:
            text = f"expose: {{stock: {{wsdl: rpc.wsdl, at: /stock, url: '{where}'}}}}"
            async with running(text, folder) as bus:
                api = url(bus) + "/stock"
                assert await ask(http, "POST", f"{api}/add", json={"a": 1, "b": -3}) == (
                    200,
                    {"sum": -2},
                )
                items = [{"sku": "x", "count": 2}, {"sku": "ü", "count": 3}]
                status, answer = await ask(http, "POST", f"{api}/total", json={"items": items})
                assert (status, answer) == (200, {"total": {"sku": "x+ü", "count": 5}})
                assert (await ask(http, "POST", f"{api}/add", json={"a": 1}))[0] == 400


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_spyne_behind_expose(folder: Path, http: aiohttp.ClientSession, version: str) -> None:
    with wsgi_service(spyne_application(version)) as where:
        wsdl = await asyncio.to_thread(lambda: urllib.request.urlopen(where + "?wsdl").read())
        (folder / "invoice.wsdl").write_bytes(wsdl)
        text = """
        expose:
          invoices:
            wsdl: invoice.wsdl
            at: /invoices
            operations: {lines: GET /:number/lines}
            faults: {InvoiceNotFound: 404}
        """
        async with running(text, folder) as bus:
            api = url(bus) + "/invoices"
            status, answer = await ask(http, "GET", f"{api}/3/lines?texts=a&texts=%C3%A4")
            assert status == 200
            lines = answer["linesResult"]
            assert [(one["text"], str(one["price"])) for one in lines] == [
                ("a", "0.10"), ("ä", "0.10")
            ] or [float(one["price"]) for one in lines] == [0.1, 0.1]  # fmt: skip
            status, answer = await ask(http, "GET", f"{api}/100/lines?texts=a")
            assert (status, answer["title"]) == (404, "InvoiceNotFound")
            status, answer = await ask(http, "GET", f"{api}/13/lines?texts=a")
            assert status == 502
            assert "an internal error" not in str(answer)


class TestHosted:
    @pytest.fixture
    async def service(self, folder: Path) -> AsyncIterator[str]:
        """A hosted service whose unknown partners are asked for at a PHP service."""
        async with running(HOSTED, folder, environ={"BACKEND": "http://127.0.0.1:1"}) as bus:
            yield url(bus) + "/soap"

    @pytest.mark.parametrize("port", ["PartnerPort11", "PartnerPort12"])
    async def test_zeep(self, service: str, port: str) -> None:
        def use() -> None:
            client = zeep.Client(service + "?wsdl", service_name="PartnerService", port_name=port)
            partner = client.service.getPartner(1)
            assert partner.name == "Grün & Söhne <GmbH>"
            assert str(partner.balance) == "1234567890.10"
            assert partner.tag == ["a", "b"]
            assert client.service.findPartners(name="x") in ([], None)
            assert client.service.createPartner({"name": "abc", "kind": "person"}) == 3
            client.service.dropPartner(5)
            with pytest.raises(zeep.exceptions.Fault, match=r"cannot be reached|no connection"):
                client.service.getPartner(2)

        await asyncio.to_thread(use)

    @needs_php
    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    async def test_php(self, service: str, version: str) -> None:
        def call(operation: str, **data: Any) -> Any:
            return php_call(service + "?wsdl", operation, data, version=version)

        def use() -> None:
            partner = call("getPartner", id=1)["answer"]["partner"]
            assert partner["name"] == "Grün & Söhne <GmbH>"
            assert partner["tag"] == ["a", "b"]
            assert call("createPartner", partner={"name": "abc", "kind": "person"}) == {
                "answer": {"id": 3}
            }
            assert call("dropPartner", id=5) == {"answer": None}
            fault = call("getPartner", id=2)["fault"]
            assert fault["code"] in ("SOAP-ENV:Server", "env:Receiver", "soap:Server",
                                     "soap:Receiver")  # fmt: skip

        await asyncio.to_thread(use)

    @needs_php
    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    async def test_a_typed_fault_goes_through(self, folder: Path, version: str) -> None:
        """PHP asks the bus, the bus asks PHP: its declared fault arrives as a declared fault."""
        with php_service(PARTNER_WSDL, folder) as where:
            async with running(HOSTED, folder, environ={"BACKEND": where}) as bus:
                asked = url(bus) + "/soap?wsdl"
                answer = await asyncio.to_thread(
                    php_call, asked, "getPartner", {"id": 7}, version=version
                )
                fault = answer["fault"]
                assert fault["reason"] == "no partner 7"
                assert fault["detail"]["PartnerNotFound"]["hint"] == "there is only 1"
                assert str(fault["detail"]["PartnerNotFound"]["id"]) == "7"

    @needs_php
    async def test_php_rpc_encoded(self, folder: Path) -> None:
        text = """
        routes:
          stock:
            from: {soap: {wsdl: rpc.wsdl, path: /stock}}
            steps:
              - choose:
                  - when: soap.operation == 'add'
                    steps: [{set: {body: {sum: body.a + body.b}}}]
                  - otherwise:
                    steps: [{set: {body: {total: "body['items'][0]"}}}]
        """
        async with running(text, folder) as bus:
            asked = url(bus) + "/stock?wsdl"
            assert await asyncio.to_thread(php_call, asked, "add", 1, 2) == {"answer": 3}
            items = [{"sku": "x", "count": 2}]
            assert await asyncio.to_thread(php_call, asked, "total", items) == {"answer": items[0]}


async def test_bad_input(folder: Path, http: aiohttp.ClientSession) -> None:
    """What a caller may do wrong, and what he is told; what is right reaches nobody here."""
    xml, js = {"content-type": "text/xml"}, {"content-type": "application/json"}
    person = {"name": "x", "kind": "person"}
    xxe = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    create = 'xmlns="urn:example:partner"'
    table: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/x", {}, 400, "whole number"),
        ("GET", "/99999999999", {}, 400, ""),
        ("GET", "/1?x=1", {}, 400, "'x'"),
        ("GET", "?limit=x", {}, 400, "whole number"),
        ("GET", "?limit=1&limit=2", {}, 400, "more than once"),
        ("POST", "", {"json": {}}, 400, "partner"),
        ("POST", "", {"json": {"partner": {"name": "x"}}}, 400, "kind"),
        ("POST", "", {"json": {"partner": {"name": "x", "kind": "dog"}}}, 400, "kind"),
        ("POST", "", {"json": {"partner": {**person, "no": 1}}}, 400, "no"),
        ("POST", "", {"json": []}, 400, ""),
        ("POST", "", {"data": "{", "headers": js}, 400, "JSON"),
        ("POST", "", {"data": "<a><b></a>", "headers": xml}, 400, "not well-formed"),
        ("POST", "", {"data": f"{xxe}<a>&x;</a>", "headers": xml}, 400, "DOCTYPE"),
        ("POST", "", {"data": f"<getPartner {create}/>", "headers": xml}, 400, "takes"),
        ("POST", "", {"data": "x" * 6_000_000}, 413, "larger"),
        ("POST", "/no/thing", {"json": {}}, 404, "nothing is served"),
        ("DELETE", "/1", {}, 405, "DELETE"),
    ]  # fmt: skip
    text = EXPOSED % "1.1"
    async with running(text, folder, environ={"BACKEND": "http://127.0.0.1:1"}) as bus:
        api = url(bus) + "/partners"
        for method, path, options, status, says in table:
            got, answer = await ask(http, method, api + path, **options)
            assert (got, says in answer["detail"]) == (status, True), (method, path, answer)
            assert "passwd" not in str(answer)
        status, answer = await ask(http, "GET", f"{api}/1")
        assert (status, answer["title"]) == (503, "The service cannot be reached")


async def test_a_backend_that_is_no_soap_service(folder: Path, http: aiohttp.ClientSession) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        text = b"<html><body>It works!</body></html>"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(text) + text)
        await writer.drain()
        await reader.read()

    text = EXPOSED % "1.1"
    async with backend(page) as where, running(text, folder, environ={"BACKEND": where}) as bus:
        status, answer = await ask(http, "GET", url(bus) + "/partners/1")
        assert status == 502
        assert "web page" in answer["detail"]
        assert "It works" not in str(answer)


async def test_soap_headers_from_a_template(folder: Path, http: aiohttp.ClientSession) -> None:
    got: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append((await read_request(reader))[2])
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    text = """
    routes:
      drop:
        from: {http: {path: /drop}}
        steps:
          - call:
              soap:
                wsdl: partner.wsdl
                operation: dropPartner
                url: ${BACKEND}
                soap_headers: header.xml.j2
    """
    (folder / "header.xml.j2").write_text(
        '<headers xmlns:t="urn:t"><t:token>{{ headers["x-token"] }}</t:token><t:more/></headers>'
    )
    async with backend(record) as where, running(text, folder, environ={"BACKEND": where}) as bus:
        status, _ = await ask(
            http, "POST", url(bus) + "/drop", json={"id": 1}, headers={"x-token": "</a>&"}
        )
        assert status == 202
        assert b'<t:token xmlns:t="urn:t">&lt;/a&gt;&amp;</t:token>' in got[0]
        assert b"more" in got[0]
