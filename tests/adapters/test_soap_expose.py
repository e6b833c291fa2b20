"""`expose:`: what it expands to, what it documents, what is wrong with it."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from lxml import etree
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.bus import load_text, running, url
from support.fake_build import FakeBuild
from support.peers import HERE
from support.soap import S12
from support.web import backend, read_request
from support.wsdl import around

from esb.adapter import BuildFailed, Expanded
from esb_soap.expose import ExposeOptions, expand
from esb_web import Site
from esb_web.openapi import document

OPERATIONS = {"getPartner": "GET /:id", "createPartner": "POST /", "findPartners": "GET /"}
WSDLS = Path(__file__).parents[2].parent / "shared" / "wsdl"


def expanded(build: Any = None, **options: Any) -> dict[str, Expanded]:
    raw = {"wsdl": "partner.wsdl", "at": "/partners", **options}
    routes = expand(ExposeOptions.model_validate({"partners": raw}), build or FakeBuild(HERE))
    return {route.name: route for route in routes}


def http(route: Expanded) -> dict[str, Any]:
    return route.route["from"]["http"]  # type: ignore[no-any-return]


def soap(route: Expanded) -> dict[str, Any]:
    return route.route["steps"][0]["call"]["soap"]  # type: ignore[no-any-return]


async def _nothing(request: Any) -> Any:
    raise AssertionError


def documented(routes: dict[str, Expanded]) -> dict[str, Any]:
    """The OpenAPI document of the routes."""
    sites = [
        Site(
            path=http(route)["path"], methods=(http(route)["method"],), handler=_nothing,
            operation=http(route)["operation"],
        )
        for route in routes.values()
    ]  # fmt: skip
    return document(sites, url="/", title="t")


def test_what_is_said_for_all_operations_changes_each(tmp_path: Path) -> None:
    shutil.copy(HERE / "partner.wsdl", tmp_path)

    def fingerprints(url: str) -> dict[str, str]:
        text = f"""
            expose:
              partners:
                wsdl: partner.wsdl
                url: {url}
                at: /partners
                operations: {{getPartner: "GET /:id"}}
        """
        return {route.name: route.fingerprint for route in load_text(text, tmp_path).routes}

    before, after = fingerprints("http://old.example/"), fingerprints("http://new.example/")
    assert len(before) == 4
    assert not set(before.values()) & set(after.values())
    assert fingerprints("http://old.example/") == before


def test_every_operation_is_a_route() -> None:
    routes = expanded(operations=OPERATIONS)
    assert {name: (http(r)["method"], http(r)["path"]) for name, r in routes.items()} == {
        "partners.getPartner": ("GET", "/partners/:id"),
        "partners.createPartner": ("POST", "/partners"),
        "partners.findPartners": ("GET", "/partners"),
        "partners.dropPartner": ("POST", "/partners/dropPartner"),
    }
    assert {name: soap(r).get("bind") for name, r in routes.items()} == {
        "partners.getPartner": True,
        "partners.createPartner": None,
        "partners.findPartners": True,
        "partners.dropPartner": None,
    }
    assert routes["partners.getPartner"].at == ("partners", "operations", "getPartner")
    assert routes["partners.dropPartner"].at == ("partners",)


def test_a_method_that_is_idempotent_makes_the_call_so() -> None:
    routes = expanded(operations=OPERATIONS)
    assert soap(routes["partners.getPartner"])["idempotent"] is True
    assert "idempotent" not in soap(routes["partners.createPartner"])
    said = expanded(operations=OPERATIONS, idempotent=False)["partners.getPartner"]
    assert soap(said)["idempotent"] is False


def test_soap_headers_are_header_parameters() -> None:
    folder = Path(__file__).parents[1] / "soap" / "messages"
    raw = {"api": {"wsdl": "headers.wsdl", "at": "/api", "operations": {"get": "GET /"}}}
    [route] = expand(ExposeOptions.model_validate(raw), FakeBuild(folder))
    assert soap(route)["bind_headers"] is True
    described = documented({"get": route})["paths"]["/api"]["get"]
    assert [(p["name"], p["in"], p["required"]) for p in described["parameters"]] == [
        ("SOAP-session-id", "header", False),
        ("SOAP-trace", "header", False),
    ]
    assert described["parameters"][0]["schema"]["type"] == "integer"


def test_only_what_is_listed() -> None:
    assert list(expanded(operations=OPERATIONS, only_listed=True)) == [
        "partners.getPartner",
        "partners.createPartner",
        "partners.findPartners",
    ]


def test_client_options_are_passed_on() -> None:
    routes = expanded(
        url="http://127.0.0.1:1/x", timeout="3s", auth={"bearer": "s3cret"}, soap="1.2",
        connection="legacy", soap_headers="h.xml",
    )  # fmt: skip
    options = soap(routes["partners.getPartner"])
    assert options["url"] == "http://127.0.0.1:1/x"
    assert options["timeout"] == 3.0
    assert options["port"] == "PartnerPort12"
    assert options["connection"] == "legacy"
    assert options["soap_headers"] == "h.xml"
    assert "s3cret" not in repr(routes)


def test_faults_go_to_the_operations_that_declare_them() -> None:
    routes = expanded(faults={"PartnerNotFound": 404})
    assert http(routes["partners.getPartner"])["faults"] == {"PartnerNotFound": 404}
    assert http(routes["partners.createPartner"])["faults"] == {}


class TestDocuments:
    def test_they_are_valid(self) -> None:
        made = documented(expanded(operations=OPERATIONS, faults={"PartnerNotFound": 404}))
        OpenAPIV31SpecValidator(made).validate()

    def test_parameters(self) -> None:
        paths = documented(expanded(operations=OPERATIONS))["paths"]
        (parameter,) = paths["/partners/{id}"]["get"]["parameters"]
        assert parameter["in"] == "path"
        assert parameter["schema"]["type"] == "integer"
        find = {p["name"]: p for p in paths["/partners"]["get"]["parameters"]}
        assert {name: p["in"] for name, p in find.items()} == {
            "name": "query", "active": "query", "limit": "query", "tag": "query"
        }  # fmt: skip
        assert find["tag"]["schema"]["type"] == "array"
        assert not find["name"]["required"]

    def test_bodies_and_answers(self) -> None:
        made = documented(expanded(operations=OPERATIONS, faults={"PartnerNotFound": 404}))
        paths, components = made["paths"], made["components"]
        create = paths["/partners"]["post"]
        schema = create["requestBody"]["content"]["application/json"]["schema"]
        check = jsonschema.Draft202012Validator({**schema, "components": components})
        check.validate({"partner": {"name": "A", "kind": "person"}})
        assert not check.is_valid({"partner": {"name": "A", "kind": "dog"}})
        assert not check.is_valid({})
        get = paths["/partners/{id}"]["get"]
        assert get["summary"] == "One partner by its id."
        assert "requestBody" not in get
        answer = get["responses"]["200"]["content"]["application/json"]["schema"]
        check = jsonschema.Draft202012Validator({**answer, "components": components})
        assert not check.is_valid({"partner": {}})
        problem = get["responses"]["404"]["content"]["application/problem+json"]["schema"]
        check = jsonschema.Draft202012Validator({**problem, "components": components})
        told = {"type": "urn:x", "title": "PartnerNotFound", "status": 404}
        check.validate({**told, "fault": {"id": 7}})
        assert not check.is_valid({**told, "fault": {"id": "x"}})
        assert set(paths["/partners/dropPartner"]["post"]["responses"]) == {"202", "default"}

    def test_examples_are_what_is_taken_and_what_is_answered(self) -> None:
        made = documented(expanded(operations={"getPartner": "POST /:id/read"}))
        for item in made["paths"].values():
            sent = item["post"]["requestBody"]["content"]["application/json"]
            check = {**sent["schema"], "components": made["components"]}
            jsonschema.Draft202012Validator(check).validate(sent["example"])
            answer = item["post"]["responses"].get("200")
            if answer is not None:
                told = answer["content"]["application/json"]
                check = {**told["schema"], "components": made["components"]}
                jsonschema.Draft202012Validator(check).validate(told["example"])
        body = made["paths"]["/partners/createPartner"]["post"]["requestBody"]
        assert body["content"]["application/json"]["example"]["partner"]["kind"] == "person"
        body = made["paths"]["/partners/{id}/read"]["post"]["requestBody"]
        assert body["content"]["application/json"]["example"] == {}

    def test_as_xml_it_is_the_element_of_the_wsdl(self) -> None:
        made = documented(expanded(operations=OPERATIONS))
        OpenAPIV31SpecValidator(made).validate()
        get, create = made["paths"]["/partners/{id}"]["get"], made["paths"]["/partners"]["post"]
        for content, name in (
            (get["responses"]["200"]["content"], "getPartnerResponse"),
            (create["requestBody"]["content"], "createPartner"),
        ):
            told = content["application/xml"]
            assert told["schema"]["xml"] == {"name": name, "namespace": "urn:example:partner"}
            assert etree.fromstring(told["example"]).tag == f"{{urn:example:partner}}{name}"

    def test_an_example_is_of_the_declared_type(self, tmp_path: Path) -> None:
        schema = """
            <xs:element name="it" type="t:Data"/>
            <xs:complexType name="Data">
              <xs:sequence><xs:element name="name" type="xs:string"/></xs:sequence>
            </xs:complexType>
            <xs:complexType name="Kept"><xs:complexContent><xs:extension base="t:Data">
              <xs:sequence><xs:element name="id" type="xs:int"/></xs:sequence>
            </xs:extension></xs:complexContent></xs:complexType>"""
        file = around(schema, tmp_path)
        made = documented(expanded(FakeBuild(tmp_path), wsdl=file.name))
        body = made["paths"]["/partners/echo"]["post"]["requestBody"]["content"]
        assert body["application/json"]["example"] == {"name": "text"}

    def test_examples_of_faults(self) -> None:
        made = documented(expanded(faults={"PartnerNotFound": 404}))
        answers = made["paths"]["/partners/getPartner"]["post"]["responses"]
        told = answers["404"]["content"]["application/problem+json"]
        assert told["examples"] == {
            "PartnerNotFound": {
                "value": {
                    "type": "urn:example:partner#PartnerNotFound",
                    "title": "PartnerNotFound",
                    "status": 404,
                    "fault": {"id": 1, "hint": "text"},
                }
            }
        }
        check = {**told["schema"], "components": made["components"]}
        example = told["examples"]["PartnerNotFound"]["value"]
        jsonschema.Draft202012Validator(check).validate(example)

    def test_an_example_that_nobody_would_read_has_only_what_must_be(self, tmp_path: Path) -> None:
        optional = "".join(
            f'<xs:element name="{"long" * 20}{n}" type="xs:int" minOccurs="0"/>' for n in range(90)
        )
        schema = f"""
            <xs:element name="it"><xs:complexType><xs:sequence>
              <xs:element name="id" type="xs:int"/>{optional}
            </xs:sequence></xs:complexType></xs:element>"""
        file = around(schema, tmp_path)
        made = documented(expanded(FakeBuild(tmp_path), wsdl=file.name))
        body = made["paths"]["/partners/echo"]["post"]["requestBody"]["content"]
        assert body["application/json"]["example"] == {"id": 1}

    def test_operations_are_under_the_name_of_their_service(self) -> None:
        paths = documented(expanded(operations=OPERATIONS))["paths"]
        assert {tuple(o["tags"]) for item in paths.values() for o in item.values()} == {
            ("PartnerService",)
        }

    def test_what_the_path_carries_is_not_asked_for_again(self) -> None:
        made = documented(expanded(operations={"getPartner": "POST /:id/read"}))
        body = made["paths"]["/partners/{id}/read"]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        assert schema["properties"] == {}
        assert schema["required"] == []
        assert not body["required"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"operations": {"getPartnr": "GET /"}},
             r"partners.operations.getPartnr: .*did you mean 'getPartner'"),
            ({"operations": {"getPartner": "FETCH /:id"}}, "'FETCH' is no method"),
            ({"operations": {"getPartner": "GET"}}, "starts with a slash"),
            ({"operations": {"getPartner": "GET /{id}"}}, r"spelled :name.*GET /:id"),
            ({"operations": {"getPartner": "GET /:idd"}}, "no field 'idd'.*did you mean 'id'"),
            ({"operations": {"createPartner": "GET /x"}}, "needs 'partner'.*use POST"),
            ({"faults": {"NotFound": 404}}, "partners.faults.NotFound: .*'PartnerNotFound'"),
            ({"service": "X"}, "partners.service: .*there are: PartnerService"),
            ({"port": "X"}, "partners.port: "),
            ({"wsdl": "none.wsdl"}, "partners.wsdl: no file"),
            ({"wsdl": "server.php"}, "partners.wsdl: "),
        ],
    )  # fmt: skip
    def test_found_at_their_place(self, options: dict[str, Any], says: str) -> None:
        build = Recording(HERE)
        expanded(build, **options)
        assert len(build.found) == 1
        assert re.search(says, build.found[0]), build.found

    @pytest.mark.parametrize(
        "options",
        [{"at": "partners"}, {"at": "/:x"}, {"faults": {"X": 200}}, {"tls": {"cert": "x"}}],
    )
    def test_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            ExposeOptions.model_validate(
                {"p": {"wsdl": "partner.wsdl", "at": "/partners", **options}}
            )


class Recording(FakeBuild):
    """Keeps problems and goes on, as the real build does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.found: list[str] = []

    def problem(
        self, message: str, *path: str | int, code: str = "value", hint: str = "", key: bool = False
    ) -> BuildFailed:
        self.found.append(f"{'.'.join(map(str, path))}: {message} ({hint})")
        return BuildFailed(message)


def test_mistakes_are_told_with_line_and_column(tmp_path: Path) -> None:
    shutil.copy(HERE / "partner.wsdl", tmp_path)
    text = """\
    expose:
      partners:
        wsdl: partner.wsdl
        at: /partners
        operations:
          getPartner: GET /:idd
          getPartners: GET /
        faults: {NotFound: 404}
        timout: 5s
    routes:
      one:
        from: {http: {path: /one}}
        steps:
          - call: {soap: {wsdl: partner.wsdl, operation: getPartnr}}
      two:
        from: {soap: {wsdl: partner.wsdl, path: /two, port: Nope}}
    """
    found = load_text(text, tmp_path).diagnostics
    assert [(d.line, d.column) for d in found] == [(9, 5), (14, 54), (16, 57)]
    found = load_text(text.replace("timout: 5s", ""), tmp_path).diagnostics
    assert [d.line for d in found] == [6, 7, 8, 14, 16]
    assert all(d.hint for d in found)


@pytest.mark.skipif(not WSDLS.is_dir(), reason="the collection of real WSDLs is not here")
class TestRealWsdls:
    def test_three_thousand_operations(self) -> None:
        file = WSDLS / "savonrb+wasabi/spec/fixtures/economic.wsdl"
        start = time.process_time()
        routes = expanded(FakeBuild(file.parent), wsdl=file.name)
        assert len(routes) == 1511
        assert time.process_time() - start < 10

    @pytest.mark.parametrize(
        "line", (WSDLS / "INDEX.tsv").read_text().splitlines()[1:] if WSDLS.is_dir() else []
    )
    def test_documents(self, line: str) -> None:
        name, path, _, kind, *_ = line.split("\t")
        if kind == "GET POST":
            pytest.skip("no SOAP in it")
        routes = expanded(FakeBuild(WSDLS), wsdl=path)
        assert routes, name
        few = dict(list(routes.items())[:5])
        OpenAPIV31SpecValidator(documented(few)).validate()


class TestOptionsOfOneOperation:
    def test_they_count_instead_of_those_of_the_api(self) -> None:
        routes = expanded(
            timeout="3s", headers={"X-Api": "a", "X-Both": "a"}, auth={"bearer": "general"},
            operations={
                "getPartner": {"at": "GET /:id", "timeout": "60s", "headers": {"x-both": "o"}},
                "createPartner": {
                    "security": {"username": "ada", "password": "s3cret"},
                    "tls": {"cert": "bus.pem", "key": "bus.key"},
                },
            },
        )  # fmt: skip
        get, create, find = (
            soap(routes[f"partners.{name}"])
            for name in ("getPartner", "createPartner", "findPartners")
        )
        assert (get["timeout"], create["timeout"], find["timeout"]) == (60.0, 3.0, 3.0)
        assert get["headers"] == {"X-Api": "a", "x-both": "o"}
        assert create["headers"] == find["headers"] == {"X-Api": "a", "X-Both": "a"}
        assert create["security"].username == "ada"
        assert create["tls"].cert == "bus.pem"
        assert not {"security", "tls"} & find.keys()
        assert http(routes["partners.getPartner"])["path"] == "/partners/:id"
        assert http(routes["partners.createPartner"])["path"] == "/partners/createPartner"
        assert "s3cret" not in repr(routes)

    def test_listed_without_a_path_is_listed(self) -> None:
        routes = expanded(operations={"dropPartner": {"timeout": "1s"}}, only_listed=True)
        assert list(routes) == ["partners.dropPartner"]

    def test_they_load(self, tmp_path: Path) -> None:
        shutil.copy(HERE / "partner.wsdl", tmp_path)
        text = """\
            connections:
              legacy: {soap: {url: "http://127.0.0.1:1", headers: {X-A: a}}}
            expose:
              partners:
                wsdl: partner.wsdl
                at: /partners
                connection: legacy
                timeout: 3s
                soap: "1.2"
                operations:
                  getPartner: GET /:id
                  createPartner:
                    at: POST /
                    timeout: 60s
                    headers: {X-B: "{{ body.partner.name }}"}
                    auth: {basic: {username: ada, password: "${PASSWORD}"}}
                    security: {username: ada, password: "${PASSWORD}", type: digest, timestamp: 5m}
            """
        assert load_text(text, tmp_path, environ={"PASSWORD": "s3cret"}).diagnostics == []

    def test_mistakes_are_told_at_their_line(self, tmp_path: Path) -> None:
        shutil.copy(HERE / "partner.wsdl", tmp_path)
        text = """\
            expose:
              partners:
                wsdl: partner.wsdl
                at: /partners
                operations:
                  getPartner: {at: GTE /:id}
                  createPartner: {at: POST /, timeout: 60}
                  dropPartner:
                    headers: {Host: x}
                  findPartners: {tiemout: 3s}
            """
        wrong = "\n".join(
            line for line in text.splitlines() if "find" not in line and "60" not in line
        )
        project = load_text(wrong, tmp_path)
        assert [(d.line, d.message) for d in project.diagnostics] == [
            (6, "'GTE' is no method"), (7, "Host cannot be set here")
        ]  # fmt: skip
        project = load_text(text, tmp_path)
        assert [(d.line, d.code) for d in project.diagnostics] == [
            (7, "value"),
            (10, "unknown-key"),
        ]


class TestAnotherVersion:
    ONLY_11 = re.compile(r'<wsdl:port name="PartnerPort12".*?</wsdl:port>', re.DOTALL)

    def test_a_version_that_the_wsdl_does_not_mention(self, tmp_path: Path) -> None:
        wsdl = self.ONLY_11.sub("", (HERE / "partner.wsdl").read_text())
        (tmp_path / "partner.wsdl").write_text(wsdl)
        routes = expanded(FakeBuild(tmp_path), soap="1.2", url="http://127.0.0.1:1/x")
        options = soap(routes["partners.getPartner"])
        assert (options["port"], options["soap"]) == ("PartnerPort11", "1.2")
        described = documented(routes)["paths"]["/partners/getPartner"]["post"]
        assert described["x-soap"]["version"] == "1.2"

    def test_one_that_it_mentions_is_taken_at_its_port(self) -> None:
        options = soap(expanded(soap="1.2")["partners.getPartner"])
        assert options["port"] == "PartnerPort12"
        assert "soap" not in options


class TestSeveralServices:
    @pytest.fixture
    def build(self, tmp_path: Path) -> FakeBuild:
        """With a second service, at an address of its own, that has the operations of the first."""
        second = (
            '<wsdl:service name="Archive"><wsdl:port name="ArchivePort" binding="tns:Partners11">'
            '<soap:address location="http://archive.invalid/"/></wsdl:port></wsdl:service>'
        )
        text = (HERE / "partner.wsdl").read_text()
        (tmp_path / "partner.wsdl").write_text(
            text.replace("</wsdl:definitions>", second + "</wsdl:definitions>")
        )
        return FakeBuild(tmp_path)

    def test_each_is_there_under_its_name(self, build: FakeBuild) -> None:
        own = {"Archive.getPartner": {"at": "GET /archive/:id", "url": "http://archive.example/"}}
        routes = expanded(build, operations=own)
        paths = {name: http(route)["path"] for name, route in routes.items()}
        assert paths["partners.Archive.getPartner"] == "/partners/archive/:id"
        assert paths["partners.PartnerService.getPartner"] == "/partners/PartnerService/getPartner"
        options = soap(routes["partners.Archive.getPartner"])
        assert (options["service"], options["url"]) == ("Archive", "http://archive.example/")
        assert "url" not in soap(routes["partners.PartnerService.getPartner"])

    def test_one_of_them(self, build: FakeBuild) -> None:
        routes = expanded(build, service="Archive")
        assert set(routes) == {
            f"partners.{name}"
            for name in ("getPartner", "createPartner", "findPartners", "dropPartner")
        }
        assert soap(routes["partners.getPartner"])["port"] == "ArchivePort"


async def test_the_service_sees_what_one_operation_says(tmp_path: Path) -> None:
    shutil.copy(HERE / "partner.wsdl", tmp_path)
    got: list[tuple[str, Any, bytes]] = []

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await read_request(reader))
        partner = "<partner><name>A</name><kind>person</kind></partner>"
        content = f'<getPartnerResponse xmlns="urn:example:partner">{partner}</getPartnerResponse>'
        answer = f'<s:Envelope xmlns:s="{S12}"><s:Body>{content}</s:Body></s:Envelope>'.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + answer)
        await writer.drain()

    text = """
    expose:
      partners:
        wsdl: partner.wsdl
        at: /partners
        url: ${BACKEND}
        soap: "1.2"
        headers: {X-Api: every}
        operations:
          getPartner:
            at: GET /:id
            headers: {X-Own: "{{ path.id }}"}
            auth: {basic: {username: ada, password: s3cret}}
            security: {username: ada, password: s3cret}
            addressing: 2005/08
          findPartners: GET /
    """
    async with (
        backend(service) as where,
        running(text, tmp_path, environ={"BACKEND": where}) as bus,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(url(bus) + "/partners/7") as answer:
            assert answer.status == 200
        _, headers, raw = got[-1]
        assert headers.get("authorization") == "Basic " + base64.b64encode(b"ada:s3cret").decode()
        assert (headers.get("x-api"), headers.get("x-own")) == ("every", "7")
        assert S12.encode() in raw
        assert b"UsernameToken" in raw
        assert b'<a:Action xmlns:a="http://www.w3.org/2005/08/addressing">' in raw
        async with session.get(url(bus) + "/partners") as answer:
            assert answer.status == 502, "this service knows getPartner only"
        _, headers, raw = got[-1]
        assert headers.get("authorization") is None
        assert headers.get("x-api") == "every"
        assert b"Header" not in raw
