"""A service made up from its WSDL: asked by a client that is not ours, over HTTP."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
import zeep
from lxml import etree
from support.examples import BIN
from support.peers import HERE, PARTNER_WSDL, with_session_header
from support.processes import Answer, Process, free_ports, request
from support.wsdl import around
from typer.testing import CliRunner

from esb.cli import app
from esb.errors import BadMessage, ConfigError
from esb.testing import Running, running
from esb_soap.envelope import content_type, read_envelope, read_fault, write_envelope
from esb_soap.mock import Mock, covers, default_path, layout, mock_routes
from esb_soap.samples import Sampler
from esb_soap.wsdl import Operation, Version, Wsdl, WsdlError, load_wsdl

NS = "urn:example:partner"
S11 = "http://schemas.xmlsoap.org/soap/envelope/"
S12 = "http://www.w3.org/2003/05/soap-envelope"
GET = f'<getPartner xmlns="{NS}"><id>1</id></getPartner>'
NEW = (
    f'<createPartner xmlns="{NS}"><partner><name>A</name><kind>person</kind></partner>'
    "</createPartner>"
)
WSDLS = Path(__file__).parents[2].parent / "shared" / "wsdl"

HEAD = """<wsdl:definitions targetNamespace="urn:t" xmlns:tns="urn:t" xmlns:x="http://www.w3.org/2001/XMLSchema"
  xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/">"""


@contextmanager
def mocked(wsdl: Path = PARTNER_WSDL, at: str = "", **options: Any) -> Iterator[Running]:
    """A mock of a WSDL, running. A folder of its own keeps files in: the WSDL's."""
    routes = mock_routes(wsdl, at, **options)
    with running({"routes": routes}, root=wsdl.parent) as bus:
        yield bus


def client(url: str, port: str | None = None) -> Any:
    """A zeep client made from the WSDL that the mock serves."""
    made = zeep.Client(f"{url}?wsdl")
    return made.bind(None, port) if port else made.service


def post(url: str, body: str, ns: str = S11, **headers: str) -> Answer:
    kind = "text/xml" if ns == S11 else "application/soap+xml"
    text = f'<s:Envelope xmlns:s="{ns}"><s:Body>{body}</s:Body></s:Envelope>'
    head = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST", url, text.encode(), {"Content-Type": kind, **head})


def fault_of(answer: Answer) -> Any:
    message = read_envelope(answer.body)
    assert message.fault is not None, answer.body
    return read_fault(message.fault)


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """Where the partner service is mocked with nothing said about it."""
    with mocked() as bus:
        yield f"{bus.url}/partner"


class TestSamples:
    @pytest.mark.parametrize("port", ["PartnerPort11", "PartnerPort12"])
    def test_each_operation_answers_what_a_client_can_read(self, plain: str, port: str) -> None:
        service = client(plain, port)
        found = service.getPartner(id=1)
        assert found.name
        assert found.kind in ("person", "company")
        assert isinstance(found.balance, Decimal)
        assert isinstance(service.createPartner(partner={"name": "A", "kind": "person"}), int)
        assert len(service.findPartners(tag=["a"])) == 2
        assert service.dropPartner(id=1) is None

    def test_the_wsdl_has_the_address_of_the_mock(self, plain: str) -> None:
        wsdl = request("GET", f"{plain}?wsdl").body.decode()
        assert re.findall(r'address location="([^"]*)"', wsdl) == [plain, plain]

    def test_samples_are_the_same_each_time_and_others_with_a_seed(self, plain: str) -> None:
        answers = {post(plain, GET).body for _ in range(3)}
        with mocked() as again:
            answers.add(post(f"{again.url}/partner", GET).body)
        assert len(answers) == 1
        seeded = []
        for seed in (1, 2, 1):
            with mocked(seed=seed) as bus:
                seeded.append(post(f"{bus.url}/partner", GET).body)
        assert seeded[0] == seeded[2] != seeded[1]
        assert seeded[0] not in answers

    def test_many_seeds_give_valid_instances(self) -> None:
        wsdl = load_wsdl(PARTNER_WSDL)
        [service] = wsdl.services.values()
        operation = service.ports["PartnerPort11"].operations["findPartners"]
        assert operation.output is not None
        assert wsdl.validator is not None
        seen = set()
        for seed in range(50):
            data = Mock(wsdl, seed).reply(operation)
            written = operation.output.write(data).body
            assert wsdl.validator.validate(etree.fromstring(written))
            seen.add(written)
        assert len(seen) > 25

    def test_headers_that_the_wsdl_declares_are_answered(self, tmp_path: Path) -> None:
        # The helper declares it for what goes in; here it comes out.
        wsdl = with_session_header(PARTNER_WSDL.read_text())
        header = '<soap:header message="tns:session" part="session" use="literal"/>'
        before, _, after = wsdl.partition(header)
        wsdl = before + after.replace("<wsdl:output>", f"<wsdl:output>{header}", 1)
        (tmp_path / "s.wsdl").write_text(wsdl)
        with mocked(tmp_path / "s.wsdl") as bus:
            message = read_envelope(post(f"{bus.url}/s", GET).body)
            assert message.header is not None
            assert [block.tag for block in message.header] == [f"{{{NS}}}Session"]

    def test_what_cannot_be_made_up_is_said_and_can_be_given(self, tmp_path: Path) -> None:
        wsdl = PARTNER_WSDL.read_text().replace(
            '<xsd:element name="name" type="xsd:string"/>',
            '<xsd:element name="name"><xsd:simpleType><xsd:restriction base="xsd:string">'
            '<xsd:pattern value="a+"/><xsd:pattern value="b"/><xsd:maxLength value="0"/>'
            "</xsd:restriction></xsd:simpleType></xsd:element>",
            1,
        )
        (tmp_path / "p.wsdl").write_text(wsdl)
        with mocked(tmp_path / "p.wsdl") as bus:
            answer = post(f"{bus.url}/p", GET)
            assert answer.status == 500
            fault = fault_of(answer)
            assert (fault.code, fault.party) == ("Server", "receiver")
            assert re.search("no sample can be made up for 'getPartner' .*give it a reply",
                             fault.reason)  # fmt: skip
            assert post(f"{bus.url}/p", f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
                        ).status == 202  # fmt: skip


class TestChecks:
    """The hosted service checks requests; here only that the mock stands behind it."""

    def test_bad_requests_get_the_faults_of_a_hosted_service(self, plain: str) -> None:
        wrong = GET.replace("<id>1", "<id>one")
        for ns, status, code in ((S11, 500, "Client"), (S12, 400, "Sender")):
            answer = post(plain, wrong, ns)
            assert (answer.status, fault_of(answer).code) == (status, code)
            assert b"pointer=" in answer.body
        spoofed = post(plain, GET, SOAPAction=f'"{NS}/dropPartner"')
        assert "means 'dropPartner'" in fault_of(spoofed).reason
        unknown = post(plain, f'<getPartners xmlns="{NS}"/>')
        assert "did you mean 'getPartner'?" in fault_of(unknown).reason
        text = (
            f'<s:Envelope xmlns:s="{S11}"><s:Header><a:Auth xmlns:a="urn:a" s:mustUnderstand="1"/>'
            f"</s:Header><s:Body>{GET}</s:Body></s:Envelope>"
        ).encode()
        header = {"Content-Type": "text/xml"}
        assert fault_of(request("POST", plain, text, header)).code == "MustUnderstand"
        with mocked(understood=["urn:a"]) as bus:
            assert request("POST", f"{bus.url}/partner", text, header).status == 200


class TestFaults:
    @pytest.mark.parametrize(
        ("port", "code"), [("PartnerPort11", "Client"), ("PartnerPort12", "Sender")]
    )
    def test_a_declared_fault(self, port: str, code: str) -> None:
        with mocked(operations={"getPartner": {"fault": "PartnerNotFound"}}) as bus:
            service = client(f"{bus.url}/partner", port)
            with pytest.raises(zeep.exceptions.Fault) as told:
                service.getPartner(id=1)
            assert told.value.code.endswith(f":{code}")
            detail = told.value.detail
            assert detail.find(f"{{{NS}}}PartnerNotFound/{{{NS}}}id").text.isdigit()
            assert len(service.findPartners()) == 2

    def test_a_fault_as_it_is_told(self) -> None:
        told = {"fault": "PartnerNotFound", "data": {"id": 99, "hint": "x"}, "detail": "nobody",
                "party": "receiver"}  # fmt: skip
        with mocked(operations={"getPartner": told}) as bus:
            fault = fault_of(post(f"{bus.url}/partner", GET))
        assert (fault.code, fault.reason) == ("Server", "nobody")
        assert [child.text for child in fault.detail[0]] == ["99", "x"]

    def test_a_caller_asks_for_one(self, plain: str) -> None:
        for name, code in (("PartnerNotFound", "Client"), ("Server", "Server")):
            answer = post(plain, GET, X_Mock_Fault=name)
            assert (answer.status, fault_of(answer).code) == (500, code)
        assert post(plain, GET).status == 200
        none = fault_of(post(plain, GET, X_Mock_Fault="PartnerNotFund"))
        assert none.code == "Client"
        assert none.reason.endswith("no fault 'PartnerNotFund'; did you mean 'PartnerNotFound'?")

    def test_one_way_operations_fail_too(self) -> None:
        with mocked(operations={"dropPartner": {"fault": "Server"}}) as bus:
            answer = post(
                f"{bus.url}/partner", f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
            )
            assert (answer.status, fault_of(answer).code) == (500, "Server")

    def test_some_requests_fail(self) -> None:
        seen = []
        for _ in range(2):
            with mocked(seed=7, fail="30%", operations={"createPartner": {"fail": "0%"}}) as bus:
                seen.append([post(f"{bus.url}/partner", GET).status for _ in range(100)])
                assert {post(f"{bus.url}/partner", NEW).status for _ in range(20)} == {200}
        assert 15 < seen[0].count(500) < 45
        assert seen[0] == seen[1]  # the seed decides this too


class TestDelays:
    def test_answers_take_as_long_as_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr("esb_soap.mock.asyncio.sleep", sleep)
        options = {"delay": "200ms..2s", "operations": {"dropPartner": {"delay": "5s"}}}
        with mocked(**options) as bus:
            for _ in range(30):
                assert post(f"{bus.url}/partner", GET).status == 200
            drop = f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
            assert post(f"{bus.url}/partner", drop).status == 202
        *waits, last = [seconds for seconds in slept if seconds]
        assert len(waits) == 30
        assert all(0.2 <= seconds <= 2 for seconds in waits)
        assert max(waits) - min(waits) > 0.5
        assert last == 5

    def test_a_slow_answer_holds_up_nobody_else(self) -> None:
        slow = {"getPartner": {"delay": "1s"}}
        with mocked(operations=slow) as bus:
            begun = time.monotonic()
            assert post(f"{bus.url}/partner", GET).status == 200
            assert time.monotonic() - begun >= 1


REPLIES = """replies:
- {operation: getPartner, request: {id: 99}, fault: PartnerNotFound, data: {id: 99}}
- {operation: getPartner, request: {id: 2}, reply: two.json}
- operation: getPartner
  when: body.id > 1000
  reply: {partner: {name: "big", kind: company, balance: 1.10}}
- {operation: getPartner, request: {id: 3}, reply: three.xml}
- {operation: getPartner, request: {id: 4}, reply: four.xml}
- {operation: createPartner, request: asked.json, reply: {id: 5}}
"""


def written(folder: Path, replies: str = REPLIES) -> Path:
    (folder / "partner.wsdl").write_bytes(PARTNER_WSDL.read_bytes())
    (folder / "replies.yaml").write_text(replies)
    (folder / "two.json").write_text(
        '{"partner": {"name": "two", "kind": "person", "balance": 1.10}}'
    )
    partner = f"<name xmlns='{NS}'>three</name><kind xmlns='{NS}'>person</kind>"
    three = f'<getPartnerResponse xmlns="{NS}"><partner>{partner}</partner></getPartnerResponse>'
    (folder / "three.xml").write_text(three)
    (folder / "four.xml").write_text(
        f'<e:Envelope xmlns:e="{S11}"><e:Body><e:Fault><faultcode>e:Server</faultcode>'
        "<faultstring>four</faultstring></e:Fault></e:Body></e:Envelope>"
    )
    (folder / "asked.json").write_text('{"partner": {"balance": 1.1}}')
    return folder / "partner.wsdl"


class TestReplies:
    def test_the_first_rule_that_matches_answers(self, tmp_path: Path) -> None:
        with mocked(written(tmp_path), replies="replies.yaml") as bus:
            url = f"{bus.url}/partner"
            service = client(url, "PartnerPort11")
            assert service.getPartner(id=2).name == "two"
            assert service.getPartner(id=2).balance == Decimal("1.10")
            assert service.getPartner(id=3).name == "three"
            assert service.getPartner(id=1001).name == "big"
            assert service.getPartner(id=5).name == "text"
            with pytest.raises(zeep.exceptions.Fault, match="PartnerNotFound"):
                service.getPartner(id=99)
            with pytest.raises(zeep.exceptions.Fault, match="four"):
                service.getPartner(id=4)
            new = {"name": "A", "kind": "person", "balance": Decimal("1.10")}
            assert service.createPartner(partner=new) == 5
            assert service.createPartner(partner={**new, "balance": 2}) == 1
            other = client(url, "PartnerPort12")
            assert other.getPartner(id=3).name == "three"

    def test_mistakes_are_told_at_their_line(self, tmp_path: Path) -> None:
        wsdl = written(
            tmp_path,
            """\
replies:
- {operation: getPartnr, reply: {}}
- {operation: getPartner, reply: {partner: {name: A, kind: wrong}}}
- {operation: getPartner, when: body.id >, reply: two.json}
- {operation: getPartner, reply: tow.json}
- {operation: getPartner, fault: NotFound}
- {operation: getPartner, fault: PartnerNotFound, data: {id: x}}
- {operation: getPartner, fault: Server, reply: two.json}
- {operation: dropPartner, reply: {}}
- {operation: createPartner, reply: three.xml}
- {operation: getPartner, replies: two.json}
- {operation: getPartner, delay: 2}
- {operation: getPartner, fail: 120%}
- {operation: getPartner, reply: broken.json}
""",
        )
        (tmp_path / "broken.json").write_text("{")

        def problems() -> dict[int, str]:
            with pytest.raises(ConfigError) as told, mocked(wsdl, replies="replies.yaml"):
                pass
            return {d.line: f"{d.code} {d.message} {d.hint}" for d in told.value.diagnostics}

        found = problems()
        assert set(found) == {11, 12, 13}  # what is no rule at all comes first
        lines = (tmp_path / "replies.yaml").read_text().splitlines()
        (tmp_path / "replies.yaml").write_text("\n".join([*lines[:10], lines[13]]))
        found = problems()
        for line, text in {
            2: "no operation 'getPartnr'.*did you mean 'getPartner'",
            3: "/partner/kind",
            4: "expression",
            5: "did you mean 'two.json'",
            6: "declares no fault 'NotFound'.*PartnerNotFound",
            7: "/id",
            8: "only one",
            9: "one-way",
            10: "root element",
            11: "broken.json",
        }.items():
            assert re.search(text, found.pop(line)), line
        assert not found

    def test_covers(self) -> None:
        asked = {"a": 1, "b": [{"c": Decimal("1.10"), "d": None}], "e": "x"}
        for wanted in ({}, {"a": 1.0}, {"b": [{"c": 1.1}]}, {"b": [{"d": None}]}, asked):
            assert covers(wanted, asked), wanted
        assert not covers({"a": True}, {"a": "True"})
        for wanted in ({"a": True}, {"a": "1"}, {"b": []}, {"b": [{"c": 1.2}]}, {"z": 1}, [asked]):
            assert not covers(wanted, asked), wanted


class TestRecording:
    def test_what_was_recorded_is_answered_again(self, tmp_path: Path) -> None:
        folder = tmp_path / "kept"
        real_rules = written(tmp_path)
        secret = "hunter2-is-secret"
        with mocked(real_rules, replies="replies.yaml") as real:
            record = {"folder": str(folder), "url": f"{real.url}/partner"}
            with mocked(real_rules, record=record) as bus:
                url = f"{bus.url}/partner"
                service = client(url, "PartnerPort11")
                assert service.getPartner(id=2).name == "two"
                assert service.getPartner(id=2).name == "two"
                for asked in (99, 4):
                    with pytest.raises(zeep.exceptions.Fault):
                        service.getPartner(id=asked)
                service.dropPartner(id=1)
                wsse = (
                    "http://docs.oasis-open.org/wss/2004/01/"
                    "oasis-200401-wss-wssecurity-secext-1.0.xsd"
                )
                text = (
                    f'<s:Envelope xmlns:s="{S12}"><s:Header><w:Security xmlns:w="{wsse}">{secret}'
                    f"</w:Security></s:Header><s:Body>{GET}</s:Body></s:Envelope>"
                )
                head = {"Content-Type": "application/soap+xml", "Authorization": f"Bearer {secret}"}
                answer = request("POST", url, text.encode(), head)
                assert answer.status == 200
                assert read_envelope(answer.body).version == "1.2"
        files = {path.name: path.read_text() for path in folder.iterdir()}
        assert set(files) == {
            "replies.yaml",
            "getPartner.1.request.json", "getPartner.1.reply.json",
            "getPartner.2.request.json", "getPartner.2.data.json",
            "getPartner.3.request.json",
            "getPartner.4.request.json", "getPartner.4.reply.json",
        }  # fmt: skip
        assert secret not in "".join(files.values())
        assert "1.10" in files["getPartner.1.reply.json"]
        again = tmp_path / "again"
        again.mkdir()
        for name, text in files.items():
            (again / name).write_text(text)
        (again / "partner.wsdl").write_bytes(PARTNER_WSDL.read_bytes())
        with mocked(again / "partner.wsdl", replies="replies.yaml") as bus:
            service = client(f"{bus.url}/partner", "PartnerPort11")
            assert service.getPartner(id=2).balance == Decimal("1.10")
            with pytest.raises(zeep.exceptions.Fault, match="PartnerNotFound") as told:
                service.getPartner(id=99)
            assert told.value.detail.find(f"{{{NS}}}PartnerNotFound/{{{NS}}}id").text == "99"
            with pytest.raises(zeep.exceptions.Fault, match="four"):
                service.getPartner(id=4)

    def test_a_folder_with_recordings_is_not_mixed(self, tmp_path: Path) -> None:
        record = {"folder": str(tmp_path), "url": "http://127.0.0.1:9/"}
        wsdl = written(tmp_path)
        with (
            pytest.raises(ConfigError, match=r"replies.yaml already.*another folder"),
            mocked(wsdl, record=record),
        ):
            pass

    def test_a_service_that_is_away_is_a_fault(self, tmp_path: Path) -> None:
        (port,) = free_ports(1)
        record = {"folder": str(tmp_path / "kept"), "url": f"http://127.0.0.1:{port}/"}
        with mocked(record=record) as bus:
            answer = post(f"{bus.url}/partner", GET)
            assert (answer.status, fault_of(answer).party) == (500, "receiver")
        assert not (tmp_path / "kept").exists()


class TestForTests:
    def test_what_was_asked(self) -> None:
        heard: list[tuple[str, Any]] = []
        with mocked(heard=lambda *one: heard.append(one)) as bus:
            client(f"{bus.url}/partner").getPartner(id=7)
        assert heard == [("getPartner", {"id": 7})]

    def test_samples_without_a_server(self) -> None:
        wsdl = load_wsdl(HERE / "rpc.wsdl")
        mock = Mock(wsdl)
        for _, _, operation in wsdl.operations():
            assert operation.output is not None
            assert operation.output.write(mock.reply(operation)).body
        wsdl = load_wsdl(PARTNER_WSDL)
        operation = wsdl.services["PartnerService"].ports["PartnerPort11"].operations["getPartner"]
        fault = Mock(wsdl).fault(operation, "PartnerNotFound")
        assert fault.name == "PartnerNotFound"
        assert operation.faults["PartnerNotFound"].write(fault.data)
        with pytest.raises(BadMessage):
            Mock(wsdl).fault(operation, "Nothing")

    def test_it_stands_in_for_a_call(self, tmp_path: Path) -> None:
        routes = {
            "partner": {
                "from": {"http": {"path": "/p", "method": "POST"}},
                "steps": [
                    {"call": {"mock": {"wsdl": str(PARTNER_WSDL), "operation": "getPartner"}}}
                ],
            },
            "nothing": {
                "from": {"http": {"path": "/n", "method": "POST"}},
                "steps": [{"call": {"mock": {"wsdl": str(PARTNER_WSDL)}}}],
            },
        }
        with running({"routes": routes}, root=HERE) as bus:
            assert request("POST", f"{bus.url}/p", {"id": 1}).json["partner"]["kind"] == "person"
            assert request("POST", f"{bus.url}/n", {"id": 1}).status == 500

    def test_expose_in_front_of_it(self) -> None:
        (port,) = free_ports(1)
        document = {
            "listen": {"port": port},
            "routes": mock_routes(PARTNER_WSDL, "/soap"),
            "expose": {
                "partners": {
                    "wsdl": str(PARTNER_WSDL), "at": "/partners", "service": "PartnerService",
                    "url": f"http://127.0.0.1:{port}/soap", "forward_headers": ["x-mock-fault"],
                    "operations": {"getPartner": "GET /:id"}, "faults": {"PartnerNotFound": 404},
                }
            },
        }  # fmt: skip
        with running(document, root=HERE) as bus:
            found = request("GET", f"{bus.url}/partners/1")
            assert (found.status, found.json["partner"]["kind"]) == (200, "person")
            missing = request(
                "GET", f"{bus.url}/partners/1", headers={"X-Mock-Fault": "PartnerNotFound"}
            )
            assert (missing.status, missing.json["title"]) == (404, "PartnerNotFound")
            assert request("POST", f"{bus.url}/partners/dropPartner", {"id": 1}).status == 202


def two_ports(other: str) -> str:
    """Two ports of SOAP 1.1 with an operation `get` each, whose input is `one` and `other`."""
    messages = "".join(
        f'<wsdl:message name="{name}"><wsdl:part name="p" element="tns:{name}"/></wsdl:message>'
        for name in ("one", "two")
    )
    parts = "".join(
        f'<wsdl:portType name="T{i}"><wsdl:operation name="get">'
        f'<wsdl:input message="tns:{element}"/><wsdl:output message="tns:{element}"/>'
        "</wsdl:operation></wsdl:portType>"
        f'<wsdl:binding name="B{i}" type="tns:T{i}">'
        '<soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>'
        '<wsdl:operation name="get"><soap:operation soapAction=""/><wsdl:input>'
        '<soap:body use="literal"/></wsdl:input><wsdl:output><soap:body use="literal"/>'
        "</wsdl:output></wsdl:operation></wsdl:binding>"
        for i, element in enumerate(("one", other))
    )
    bindings = re.findall("<wsdl:binding.*?</wsdl:binding>", parts)
    types = re.findall("<wsdl:portType.*?</wsdl:portType>", parts)
    return (
        f'{HEAD}<wsdl:types><x:schema targetNamespace="urn:t"><x:element name="one" type="x:int"/>'
        f'<x:element name="two" type="x:string"/></x:schema></wsdl:types>{messages}'
        f"{''.join(types)}{''.join(bindings)}"
        '<wsdl:service name="S"><wsdl:port name="P0" binding="tns:B0"><soap:address location="http://x/"/>'
        '</wsdl:port><wsdl:port name="P1" binding="tns:B1"><soap:address location="http://x/"/></wsdl:port>'
        "</wsdl:service></wsdl:definitions>"
    )


class TestLayout:
    def test_ports_that_contradict_each_other_are_served_apart(self, tmp_path: Path) -> None:
        file = tmp_path / "t.wsdl"
        file.write_text(two_ports("two"))
        assert [one.path for one in layout(load_wsdl(file), "/t")] == ["/t/P0", "/t/P1"]
        with mocked(file) as bus:
            for port, name in (("P0", "one"), ("P1", "two")):
                answer = post(f"{bus.url}/t/{port}", f'<{name} xmlns="urn:t">1</{name}>')
                assert answer.status == 200, answer.body
        file.write_text(two_ports("one"))
        assert [one.path for one in layout(load_wsdl(file), "/t")] == ["/t"]

    def test_a_wsdl_without_operations(self, tmp_path: Path) -> None:
        (tmp_path / "none.wsdl").write_text(f"{HEAD}</wsdl:definitions>")
        with pytest.raises(WsdlError):
            mock_routes(tmp_path / "none.wsdl")

    def test_default_path(self) -> None:
        assert default_path(Path("My Service_v2.wsdl")) == "/my-service-v2"


class TestCommand:
    def test_it_serves_until_it_is_told_to_end(self, tmp_path: Path) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            (port,) = free_ports(1)
            command = [
                BIN / "esb", "mock", PARTNER_WSDL, "--port", str(port), "--seed", "3",
                "--fault", "getPartner=PartnerNotFound", "--delay", "1ms..2ms",
            ]  # fmt: skip
            with Process(command, cwd=tmp_path) as process:
                url = f"http://127.0.0.1:{port}/partner"
                process.wait_for(f"{url}?wsdl")
                assert f"PartnerService  {url}  (SOAP 1.1 and 1.2, ?wsdl)" in process.output
                assert "  getPartner, createPartner, findPartners, dropPartner" in process.output
                with pytest.raises(zeep.exceptions.Fault, match="PartnerNotFound"):
                    client(url).getPartner(id=1)
                process.signal(number)
                assert process.wait() == 0

    def test_schemas_above_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "wsdl").mkdir()
        (tmp_path / "types.xsd").write_text(
            '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:t">'
            '<xs:element name="it" type="xs:int"/></xs:schema>'
        )
        include = '<xs:include schemaLocation="../types.xsd"/>'
        file = around(
            f'<xs:schema targetNamespace="urn:t">{include}</xs:schema>', tmp_path / "wsdl"
        )
        (port,) = free_ports(1)
        command = [BIN / "esb", "mock", file, "--port", str(port), "--at", "/p"]
        with Process(command, cwd=tmp_path) as process:
            url = f"http://127.0.0.1:{port}/p"
            process.wait_for(f"{url}?wsdl")
            assert client(url).echo(5) == 1
            assert process.stop() == 0

    def test_a_folder_of_replies(self, tmp_path: Path) -> None:
        folder = tmp_path / "replies"
        folder.mkdir()
        written(folder).unlink()
        (folder / "two.json").rename(folder / "getPartner.json")
        rules = (folder / "replies.yaml").read_text().replace("two.json", "getPartner.json")
        (folder / "replies.yaml").write_text(rules)
        (port,) = free_ports(1)
        command = [BIN / "esb", "mock", PARTNER_WSDL, "--port", str(port), "--at", "/p",
                   "--replies", folder]  # fmt: skip
        with Process(command, cwd=tmp_path) as process:
            url = f"http://127.0.0.1:{port}/p"
            process.wait_for(f"{url}?wsdl")
            service = client(url)
            assert service.getPartner(id=50).name == "two"
            assert service.getPartner(id=5000).name == "big"
            assert service.getPartner(id=3).name == "three"
            assert "three.xml has the name of no operation" in process.output
            assert process.stop() == 0

    def test_recording(self, tmp_path: Path) -> None:
        (port,) = free_ports(1)
        with mocked() as real:
            record = ["--record", "kept", f"{real.url}/partner"]
            command = [BIN / "esb", "mock", PARTNER_WSDL, "--port", str(port), *record]
            with Process(command, cwd=tmp_path) as process:
                url = f"http://127.0.0.1:{port}/partner"
                process.wait_for(f"{url}?wsdl")
                name = client(url).getPartner(id=1).name
                assert process.stop() == 0
        assert (tmp_path / "kept" / "getPartner.1.request.json").read_text() == '{"id":1}'
        command = [BIN / "esb", "mock", PARTNER_WSDL, "--port", str(port), "--seed", "1",
                   "--replies", "kept"]  # fmt: skip
        with Process(command, cwd=tmp_path) as process:
            process.wait_for(f"{url}?wsdl")
            assert client(url).getPartner(id=1).name == name
            assert process.stop() == 0

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--fault", "getPartner=NotFound"], "did you mean 'PartnerNotFound'"),
            (["--fault", "getPartnr=Server"], "did you mean 'getPartner'"),
            (["--fault", "Server"], "is not OP=FAULT"),
            (["--delay", "5"], "a duration is a number with its unit"),
            (["--fail", "getPartner=ten"], "a rate is a percentage"),
            (["--record", "kept", "nowhere"], "pattern"),
            (["--repair", "everything"], "there is no repair 'everything'"),
        ],
    )
    def test_mistakes(self, options: list[str], told: str) -> None:
        got = CliRunner().invoke(app, ["mock", str(PARTNER_WSDL), *options])
        assert got.exit_code in (1, 2)
        assert re.search(told, got.output)

    def test_print(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("p.wsdl").write_bytes(PARTNER_WSDL.read_bytes())
        got = CliRunner().invoke(app, ["mock", "p.wsdl", "--print", "--fail", "1%"])
        Path("routes.yaml").write_text(got.stdout)
        assert CliRunner().invoke(app, ["check", "routes.yaml"]).exit_code == 0


REAL = {
    "gitterHQ+vies/checkVatService.wsdl": 2,
    "postmanlabs+wsdl-to-postman/test/data/validWSDLs11/calculator-soap11and12.wsdl": 4,
    "postmanlabs+wsdl-to-postman/test/data/validWSDLs11/countryInformation.wsdl": 21,
    "fedex-pypi/fedex-2.4.1/fedex/wsdl/TrackService_v16.wsdl": 3,
    "ralcorta+afip.ts/src/soap/wsdl/wsfe.wsdl": 20,
    "hooklift+gowsdl/fixtures/mnb-exchange.wsdl": 6,
    "dnebing+sharepoint-wsdl/WSDL/Webs.asmx.xml": 20,
}


@pytest.mark.skipif(not WSDLS.is_dir(), reason="the collection of real WSDLs is not here")
class TestRealWsdls:
    @pytest.mark.parametrize("path", REAL)
    def test_each_operation_answers_what_zeep_reads(self, path: str) -> None:
        wsdl = load_wsdl(WSDLS / path)
        asked = set()
        with running({"routes": mock_routes(WSDLS / path, "/m")}, root=WSDLS) as bus:
            for one in layout(wsdl, "/m"):
                url = bus.url + one.path
                peer = zeep.Client(f"{url}?wsdl")
                for port in one.ports:
                    service = peer.bind(one.service.name, port.name)
                    for operation in port.operations.values():
                        ask(url, port.soap_version, operation, wsdl, service)
                        asked.add(operation.name)
        assert len(asked) == REAL[path]

    @pytest.mark.parametrize(
        "line", (WSDLS / "INDEX.tsv").read_text().splitlines()[1:] if WSDLS.is_dir() else []
    )
    def test_each_operation_has_samples_that_are_valid(self, line: str) -> None:
        _, path, _, kind, *_ = line.split("\t")
        if kind == "GET POST":
            pytest.skip("no SOAP in it")
        wsdl = load_wsdl(WSDLS / path)
        for seed in (None, 1):
            mock = Mock(wsdl, seed)
            for _, _, operation in wsdl.operations():
                assert operation.output is None or mock.reply(operation) is not None
                for name, declared in operation.faults.items():
                    assert declared.write(mock.fault(operation, name).data)


def ask(url: str, version: Version, operation: Operation, wsdl: Wsdl, service: Any) -> None:
    """Ask with a sample; zeep, with its own model of the WSDL, reads what is answered."""
    sampler = Sampler(wsdl.mapping)
    parts = {name: sampler.element(element) for name, element in operation.input.parts.items()}
    sample = next(iter(parts.values())) if operation.input.single else parts
    action = operation.soap_action
    head = {"Content-Type": content_type(version, action), "SOAPAction": f'"{action}"'}
    body = write_envelope(version, operation.input.write(sample).body)
    answer = request("POST", url, body, head)
    assert answer.status == (202 if operation.output is None else 200), answer.body[:500]
    if operation.output is not None:
        got = requests.Response()
        got.status_code, got._content = answer.status, answer.body
        got.headers.update(answer.headers)
        found = service._binding.get(operation.name)
        service._binding.process_reply(service._client, found, got)
