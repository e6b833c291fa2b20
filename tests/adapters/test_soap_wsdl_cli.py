"""`esb wsdl`: each command as its users call it, on bare files; and the page that tells of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import structlog
import yaml
from click.testing import Result
from lxml import etree
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.bus import load_text, running, url
from support.peers import HERE
from support.wsdl import around
from typer.testing import CliRunner

from esb.cli import app
from esb_soap.certify import Report
from esb_soap.envelope import read_envelope, read_fault
from esb_soap.wsdl import load_wsdl
from esb_web.client import ClientOptions, WebClient
from esb_web.transport import Pool

PARTNER = HERE / "partner.wsdl"
RPC = HERE / "rpc.wsdl"
WSDLS = Path(__file__).parents[2].parent / "shared" / "wsdl"
PAGE = Path(__file__).parents[2] / "docs" / "wsdl.md"


def esb(*args: object) -> Result:
    try:
        return CliRunner().invoke(app, ["wsdl", *map(str, args)])
    finally:
        structlog.reset_defaults()  # the command logs to the runner's standard error


def output(*args: object) -> str:
    """What a command writes that ends well."""
    result = esb(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(folder: Path, name: str, *replacements: tuple[str, str]) -> Path:
    """The partner WSDL with changes."""
    text = PARTNER.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


class TestInspect:
    def test_for_people(self) -> None:
        lines = output("inspect", PARTNER).splitlines()
        assert lines[:2] == ["partner.wsdl  urn:example:partner", "  Business partners."]
        assert "  port PartnerPort12  SOAP 1.2  http://partners.invalid/soap12" in lines
        assert (
            "    getPartner  (document)  getPartner -> getPartnerResponse, or the fault "
            "PartnerNotFound" in lines
        )
        assert "    dropPartner  (document)  dropPartner -> nothing, it is one-way" in lines
        assert lines[-1] == "  urn:example:partner: 1 complex type, 8 elements, 1 simple type"

    def test_for_programs(self) -> None:
        told = json.loads(output("inspect", PARTNER, "--json"))
        assert told.keys() == {
            "file", "target_namespace", "documentation", "files", "services", "types", "missing",
            "skipped", "not_validated",
        }  # fmt: skip
        [service] = told["services"]
        assert [(p["name"], p["soap"]) for p in service["ports"]] == [
            ("PartnerPort11", "1.1"), ("PartnerPort12", "1.2")
        ]  # fmt: skip
        assert service["ports"][0]["operations"][0] == {
            "name": "getPartner",
            "documentation": "One partner by its id.",
            "style": "document",
            "use": "literal",
            "soap_action": "urn:example:partner/getPartner",
            "one_way": False,
            "input": {"elements": ["{urn:example:partner}getPartner"], "headers": []},
            "output": {"elements": ["{urn:example:partner}getPartnerResponse"], "headers": []},
            "faults": {"PartnerNotFound": "{urn:example:partner}PartnerNotFound"},
        }
        assert service["ports"][0]["operations"][3]["output"] is None

    def test_what_is_not_used_and_why(self, folder: Path) -> None:
        file = copied(folder, "p.wsdl", ('element="tns:dropPartner"', 'element="tns:drop"'))
        text = output("inspect", file)
        assert "not used" in text
        assert "there is no element 'drop'" in text
        [reason, *_] = json.loads(output("inspect", file, "--json"))["skipped"]
        assert reason.startswith("operation 'dropPartner': p.wsdl:")

    def test_what_is_missing_and_what_is_not_validated(self, folder: Path) -> None:
        file = copied(
            folder, "p.wsdl",
            ('<xsd:simpleType name="Kind">', '<xsd:include schemaLocation="gone.xsd"/>'
             '<xsd:complexType name="Twice"><xsd:sequence>'
             '<xsd:element name="a" type="xsd:int" minOccurs="0"/>'
             '<xsd:element name="a" type="xsd:int"/></xsd:sequence></xsd:complexType>'
             '<xsd:simpleType name="Kind">'),
        )  # fmt: skip
        text = output("inspect", file)
        assert "not used\n  'gone.xsd' is imported and not there\n" in text
        assert "not validated\n  libxml2 refuses the schemas: " in text
        told = json.loads(output("inspect", file, "--json"))
        assert told["missing"] == ["gone.xsd"]
        assert "not determinist" in told["not_validated"]


class TestOpenApi:
    def test_json_and_yaml_are_the_same(self, folder: Path) -> None:
        made = json.loads(output("openapi", PARTNER))
        OpenAPIV31SpecValidator(made).validate()
        assert output("openapi", PARTNER, "-o", "api.json") == ""
        assert json.loads((folder / "api.json").read_text()) == made
        text = output("openapi", PARTNER, "--yaml")
        assert yaml.safe_load(text) == made
        assert "&id" not in text

    @pytest.mark.parametrize("file", [PARTNER, RPC], ids=lambda path: path.name)
    async def test_it_is_what_the_bus_serves(self, file: Path, folder: Path) -> None:
        (folder / file.name).write_text(file.read_text())
        api = f"{{wsdl: {file.name}, at: /some/api, url: 'http://x.invalid'}}"
        text = f"expose: {{{file.stem}: {api}}}"
        pool = Pool(None, None, 1)
        async with running(text, folder) as bus:
            reply = await WebClient(pool, ClientOptions()).request(
                "GET", f"{url(bus)}/some/api/openapi.json"
            )
        await pool.close()
        assert reply.status == 200
        assert json.loads(output("openapi", file, "--at", "/some/api")) == json.loads(reply.body)

    def test_imports_above_the_file(self, folder: Path) -> None:
        """A file of a larger folder needs no project that says where that begins."""
        (folder / "deep").mkdir()
        schema = re.search(r"<xsd:schema.*?</xsd:schema>", PARTNER.read_text(), re.DOTALL)
        assert schema
        plain = schema[0].replace(
            "<xsd:schema", '<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
            'xmlns:tns="urn:example:partner"', 1,
        )  # fmt: skip
        (folder / "types.xsd").write_text(plain)
        file = copied(
            folder, "deep/p.wsdl",
            (schema[0], '<xsd:schema targetNamespace="urn:example:partner">'
             '<xsd:include schemaLocation="../types.xsd"/></xsd:schema>'),
        )  # fmt: skip
        made = json.loads(output("openapi", file, "--at", "/partner"))
        assert made == json.loads(output("openapi", PARTNER, "--at", "/partner"))

    def test_no_operation_that_can_be_exposed(self, folder: Path) -> None:
        groups = "".join(
            f'<xs:group name="g{n}"><xs:sequence><xs:group ref="t:g{n + 1}"/></xs:sequence>'
            "</xs:group>"
            for n in range(200)
        )
        file = around(
            f'{groups}<xs:group name="g200"><xs:sequence/></xs:group>'
            '<xs:element name="it"><xs:complexType><xs:group ref="t:g0"/></xs:complexType>'
            "</xs:element>",
            folder,
        )
        told = "no operation can be exposed: feature.wsdl: groups are nested too deep"
        for command, status in ((["openapi", file], 1), (["diff", file, PARTNER], 2)):
            result = esb(*command)
            assert result.exit_code == status
            assert told in result.stderr
        result = CliRunner().invoke(app, ["expose", str(file), "--port", "0"])
        assert result.exit_code == 1
        assert told in result.stderr

    def test_a_path_that_is_none(self) -> None:
        result = esb("openapi", PARTNER, "--at", "x")
        assert result.exit_code == 2
        assert "a path starts with a slash" in result.output
        assert "validation error" not in result.output


def test_expose_prints_what_loads_from_here(folder: Path) -> None:
    (folder / "wsdl").mkdir()
    copied(folder, "wsdl/p.wsdl")
    (folder / "wsdl" / "p.wsdl").write_text("\n" + PARTNER.read_text())
    args = ["expose", "wsdl/p.wsdl", "--print", "--repair", "before-xml"]
    printed = CliRunner().invoke(app, args)
    assert printed.exit_code == 0, printed.output
    project = load_text(printed.stdout, folder)
    assert project.diagnostics == []
    assert len(project.routes) == 4


class TestSample:
    def test_all_of_an_operation(self) -> None:
        text = output("sample", PARTNER, "getPartner")
        assert re.findall(r"^# (.*)$", text, re.MULTILINE) == [
            "request as JSON", "request as SOAP 1.1", "response as JSON", "response as SOAP 1.1",
            "fault PartnerNotFound as JSON", "fault PartnerNotFound as SOAP 1.1",
        ]  # fmt: skip

    @pytest.mark.parametrize("direction", ["request", "response"])
    @pytest.mark.parametrize(("file", "operation"), [(PARTNER, "createPartner"), (RPC, None)])
    def test_json_and_xml_are_one_message(
        self, direction: str, file: Path, operation: str | None
    ) -> None:
        wsdl = load_wsdl(file)
        found = {one.name: one for _, _, one in wsdl.operations()}
        name = operation or next(iter(found))
        message = found[name].input if direction == "request" else found[name].output
        assert message is not None
        data = json.loads(
            output("sample", file, name, "--direction", direction, "--format", "json"),
            parse_float=Decimal,
        )
        envelope = read_envelope(
            output("sample", file, name, "--direction", direction, "--format", "xml").encode()
        )
        assert message.read(envelope.body, envelope.header) == data

    def test_faults(self) -> None:
        args = ("sample", PARTNER, "PartnerPort12.getPartner", "--direction", "fault", "--format")
        problem = json.loads(output(*args, "json"))
        assert problem["title"] == "PartnerNotFound"
        assert problem["status"] == 422
        fault = read_envelope(output(*args, "xml").encode()).fault
        assert fault is not None
        told = read_fault(fault)
        assert told.code == "Sender"
        declared = load_wsdl(PARTNER).services["PartnerService"].ports["PartnerPort12"]
        data = declared.operations["getPartner"].faults["PartnerNotFound"].read(told.detail[0])
        assert data == problem["fault"]

    def test_a_type_that_holds_itself_is_shown_within_itself_once(self, folder: Path) -> None:
        """With Axis, all that an object refers to is required and may be null."""
        schema = """
            <xs:element name="it" type="t:Bean"/>
            <xs:complexType name="Bean">
              <xs:sequence>
                <xs:element name="name" type="xs:string"/>
                <xs:element name="owner" type="t:Bean" nillable="true"/>
                <xs:element name="part" type="t:Bean" minOccurs="0" maxOccurs="unbounded"/>
                <xs:element name="twin" type="t:Bean" minOccurs="0"/>
                <xs:choice>
                  <xs:element name="not" type="t:Bean"/><xs:element name="is" type="xs:int"/>
                </xs:choice>
              </xs:sequence>
            </xs:complexType>"""
        file = around(schema, folder)
        text = output("sample", file, "echo", "--direction", "request", "--format", "json")
        inner = {"name": "text", "owner": None, "is": 1}
        assert json.loads(text) == {
            "name": "text", "owner": inner, "part": [inner, inner], "twin": inner, "not": inner
        }  # fmt: skip

    def test_what_is_not_there(self) -> None:
        result = esb("sample", PARTNER, "getPartners")
        assert result.exit_code == 1
        assert "no operation 'getPartners'" in result.stderr
        assert "did you mean 'getPartner'?" in result.stderr
        result = esb("sample", PARTNER, "dropPartner", "--direction", "response")
        assert result.exit_code == 1
        assert "'dropPartner' has no response" in result.stderr


class TestCertify:
    def test_people_get_a_line_a_file(self) -> None:
        result = esb("certify", PARTNER, RPC)
        assert result.exit_code == 0, result.output
        partner, rpc = result.stdout.splitlines()
        assert re.fullmatch(r".*partner\.wsdl: 8/8 lossless \(\d+ ms to load\)", partner)
        assert re.fullmatch(r".*rpc\.wsdl: (\d+)/\1 lossless \(\d+ ms to load\)", rpc)

    def test_programs_get_an_object_a_file(self, folder: Path) -> None:
        (folder / "page.html").write_text("<html><body/></html>")
        result = esb("certify", PARTNER, "page.html", "gone.wsdl", "--json")
        assert result.exit_code == 1
        good, page, gone = map(json.loads, result.stdout.splitlines())
        assert list(good) == [
            "file", "loaded", "error", "operations", "certified", "exceptions", "load_ms"
        ]  # fmt: skip
        assert good["load_ms"] > 0
        good["load_ms"] = 0
        assert good == {
            "file": str(PARTNER), "loaded": True, "error": None, "operations": 8, "certified": 8,
            "exceptions": [], "load_ms": 0,
        }  # fmt: skip
        assert not page["loaded"]
        assert "web page" in page["error"]
        assert gone["file"] == "gone.wsdl"
        assert gone["error"] == "gone.wsdl: there is no such file"

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("gone.wsdl", "gone.wsdl: there is no such file"),
            (".", "it is a folder, not a file"),
            ("http://x.invalid/y?wsdl", "`esb wsdl fetch URL`"),
        ],
    )
    def test_what_is_no_file(self, name: str, told: str, folder: Path) -> None:
        for command in (["certify"], ["inspect"], ["openapi"]):
            result = esb(*command, name)
            assert result.exit_code == 1
            assert told in result.output
        for other in ("expose", "mock"):
            result = CliRunner().invoke(app, [other, name])
            assert result.exit_code == 1
            assert told in result.output

    def test_exceptions_are_told_with_their_node(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No WSDL here is lossy, so one operation's codec is broken."""
        from esb_soap.message import Message

        read = Message.read

        def forgetful(self: Message, *args: Any) -> Any:
            data = read(self, *args)
            if isinstance(data, dict) and isinstance(data.get("partner"), dict):
                data["partner"].pop("name", None)
            return data

        monkeypatch.setattr(Message, "read", forgetful)
        result = esb("certify", PARTNER)
        assert result.exit_code == 1
        assert "partner.wsdl: 4/8 lossless" in result.stdout
        line = "  PartnerPort11.getPartner output /partner/name: is lost"
        assert line in result.stdout.splitlines()
        told = json.loads(esb("certify", PARTNER, "--json").stdout)
        assert {
            "operation": "PartnerPort11.getPartner", "direction": "output",
            "pointer": "/partner/name", "problem": "is lost",
        } in told["exceptions"]  # fmt: skip

    def test_a_bug_of_ours_does_not_hide_the_other_files(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import esb_soap.certify as module

        real = module.certify

        def failing(path: Path, repairs: Any = ()) -> Report:
            if path == RPC:
                raise RecursionError
            return real(path, repairs)

        monkeypatch.setattr(module, "certify", failing)
        result = esb("certify", RPC, PARTNER, "--json")
        assert result.exit_code == 1
        bad, good = map(json.loads, result.stdout.splitlines())
        assert "RecursionError" in bad["error"]
        assert good["certified"] == 8


class TestDiff:
    def test_nothing(self, folder: Path) -> None:
        file = copied(folder, "other-name.wsdl")
        assert output("diff", PARTNER, file) == "0 breaking, 0 compatible\n"
        assert json.loads(output("diff", PARTNER, file, "--json")) == {
            "breaking": [],
            "compatible": [],
        }

    def test_compatible(self, folder: Path) -> None:
        file = copied(
            folder, "p.wsdl",
            ('"hint" type="xsd:string"', '"why" type="xsd:string" minOccurs="0"/>'
             '<xsd:element name="hint" type="xsd:string"'),
        )  # fmt: skip
        text = output("diff", PARTNER, file)
        assert "getPartner fault PartnerNotFound why: the field is new" in text
        assert text.endswith("0 breaking, 1 compatible\n")

    def test_breaking(self, folder: Path) -> None:
        file = copied(
            folder, "p.wsdl",
            ('<xsd:element name="since"', '<xsd:element name="country" type="xsd:string"/>'
             '<xsd:element name="since"'),
        )  # fmt: skip
        result = esb("diff", PARTNER, file)
        assert result.exit_code == 1
        assert (
            "  createPartner request partner.country: the field is new and required\n"
            "    /components/schemas/Partner/properties/country" in result.stdout
        )
        # Answers that tell more break nobody; both operations are told of once.
        assert (
            "  findPartners response partner[].country: the field is new and required  "
            "(and in 1 other operation)" in result.stdout
        )
        told = json.loads(esb("diff", PARTNER, file, "--json").stdout)
        assert told["breaking"] == [
            {
                "operation": "createPartner",
                "direction": "request",
                "pointer": "/components/schemas/Partner/properties/country",
                "field": "partner.country",
                "what": "the field is new and required",
            }
        ]
        assert len(told["compatible"]) == 2

    def test_what_does_not_load(self, folder: Path) -> None:
        (folder / "bad.wsdl").write_text("<definitions/>")
        for pair in ((PARTNER, "bad.wsdl"), ("bad.wsdl", PARTNER)):
            result = esb("diff", *pair)
            assert result.exit_code == 2
            assert result.stdout == ""
            assert "bad.wsdl" in result.stderr


class TestRepair:
    def test_every_command_takes_it(self, folder: Path) -> None:
        file = folder / "p.wsdl"
        file.write_text("\n" + PARTNER.read_text())
        for command in (("inspect", file), ("openapi", file), ("sample", file, "getPartner"),
                        ("certify", file), ("diff", file, file)):  # fmt: skip
            result = esb(*command)
            assert result.exit_code != 0
            assert "the repair 'before-xml'" in result.output
            assert esb(*command, "--repair", "before-xml").exit_code == 0

    def test_an_unknown_one(self) -> None:
        result = esb("inspect", PARTNER, "--repair", "before_xml")
        assert result.exit_code == 2
        assert "did you mean" in result.output


@pytest.fixture
def served() -> Iterator[str]:
    """Where the partner WSDL is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = PARTNER.read_bytes() if self.path == "/partner?wsdl" else b"<html></html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestFetch:
    def test_it_can_be_inspected(self, served: str, folder: Path) -> None:
        result = esb("fetch", f"{served}/partner?wsdl")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"partner/partner.wsdl  {served}/partner?wsdl\n"
        assert "8 operations; next: esb wsdl inspect partner/partner.wsdl" in result.stderr
        assert output("inspect", folder / "partner" / "partner.wsdl")

    def test_what_is_there_is_kept(self, served: str, folder: Path) -> None:
        assert esb("fetch", f"{served}/partner?wsdl", "-o", "x").exit_code == 0
        result = esb("fetch", f"{served}/partner?wsdl", "-o", "x")
        assert result.exit_code == 1
        assert "is there already" in result.stderr
        assert "--force" in result.stderr
        assert esb("fetch", f"{served}/partner?wsdl", "-o", "x", "--force").exit_code == 0

    def test_a_web_page(self, served: str, folder: Path) -> None:
        result = esb("fetch", f"{served}/partner")
        assert result.exit_code == 1
        assert "a web page" in result.stderr
        assert "?wsdl" in result.stderr
        assert not list(folder.iterdir())


class TestThePage:
    """docs/wsdl.md: each block that begins with $ is a command and what it writes."""

    BLOCKS = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)

    def test_it_has_all_commands(self) -> None:
        told = {block.split()[3] for block in self.BLOCKS if block.startswith("$ esb wsdl")}
        assert told == {"inspect", "openapi", "sample", "certify", "diff", "fetch"}

    @pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
    def test_what_it_shows_is_so(self, block: str, folder: Path, served: str) -> None:
        copied(folder, "partner.wsdl")
        copied(
            folder, "partner-2.wsdl",
            ('<xsd:enumeration value="company"/>', '<xsd:enumeration value="firm"/>'),
            ('name="tag" type="xsd:string" minOccurs="0" maxOccurs="unbounded"',
             'name="tag" type="xsd:string" minOccurs="0"'),
            ('<xsd:element name="hint"', '<xsd:element name="since" type="xsd:date" minOccurs="0"/>'
             '<xsd:element name="hint"'),
        )  # fmt: skip
        first, _, shown = block.partition("\n")
        command = shlex.split(first.removeprefix("$ esb wsdl ").replace("http://host", served))
        written = esb(*command).output.replace(served, "http://host")
        told = [line.rstrip() for line in written.splitlines()]
        expected = [line.rstrip() for line in shown.splitlines()]
        if "..." in expected:
            expected = expected[: expected.index("...")]
            told = told[: len(expected)]
        assert _timeless(told) == _timeless(expected)

    def test_its_routes_load(self, folder: Path) -> None:
        copied(folder, "partner.wsdl")
        blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert blocks
        for block in blocks:
            assert load_text(block, folder).diagnostics == []

    def test_repairs_are_all_told_of(self) -> None:
        from esb_soap.repairs import REPAIRS

        rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE))
        assert list(rows) == list(REPAIRS)


def _timeless(lines: list[str]) -> list[str]:
    return [re.sub(r'\d+ ms|"load_ms": [\d.]+', "some ms", line) for line in lines]


@pytest.mark.skipif(not WSDLS.is_dir(), reason="the collection of real WSDLs is not here")
class TestRealWsdls:
    @pytest.mark.parametrize(
        "line", (WSDLS / "INDEX.tsv").read_text().splitlines()[1:] if WSDLS.is_dir() else []
    )
    def test_looked_into(self, line: str) -> None:
        _, path, _, kind, *_ = line.split("\t")
        if kind == "GET POST":
            result = esb("inspect", WSDLS / path)
            assert result.exit_code == 1
            assert "bound to something other than SOAP" in result.stderr
            return
        told = json.loads(output("inspect", WSDLS / path, "--json"))
        ports = [port for service in told["services"] for port in service["ports"]]
        operations = [one["name"] for port in ports for one in port["operations"]]
        assert operations
        made = json.loads(output("openapi", WSDLS / path))
        assert made["paths"]
        text = output("sample", WSDLS / path, operations[0], "--format", "xml",
                      "--direction", "request")  # fmt: skip
        assert etree.fromstring(text.encode()).tag.endswith("Envelope")
        assert output("diff", WSDLS / path, WSDLS / path) == "0 breaking, 0 compatible\n"
