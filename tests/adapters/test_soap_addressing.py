"""WS-Addressing: what a WSDL says of it, what requests carry, what hosted services make of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zeep
from lxml import etree
from pydantic import ValidationError
from support.fake_build import FakeBuild
from support.peers import HERE, PARTNER_WSDL
from support.soap import GET, NS, S11, S12, hosted, soap
from support.web import backend, read_request
from zeep.wsa import WsAddressingPlugin

from esb.envelope import Body, Envelope, Outcome
from esb.errors import BadReply, Fault, Transient
from esb_soap import adapter
from esb_soap.addressing import Allowed, actions_of, asked_for
from esb_soap.envelope import read_envelope, read_fault
from esb_soap.wsdl import load_wsdl

WSA = "http://www.w3.org/2005/08/addressing"
OLD = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
ANONYMOUS = {WSA: f"{WSA}/anonymous", OLD: f"{OLD}/role/anonymous"}
ACTION = f"{NS}/getPartner"
ANSWER = f"{NS}:Partners:getPartnerResponse"
METADATA = "http://www.w3.org/2007/05/addressing/metadata"
DRAFT = "http://www.w3.org/2006/05/addressing/wsdl"
POLICY = "http://www.w3.org/ns/ws-policy"
WSDL = "http://schemas.xmlsoap.org/wsdl/"
WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
PARTNER_XML = (
    f'<getPartnerResponse xmlns="{NS}"><partner><name>A</name><kind>person</kind></partner>'
    "</getPartnerResponse>"
)


def headers(ns: str = WSA, *more: str, **values: str) -> str:
    """A Header; values by name, those of addresses in an Address."""
    blocks = []
    for name, value in values.items():
        if name in ("ReplyTo", "FaultTo", "From"):
            value = f"<a:Address>{value}</a:Address>" if value else ""
        blocks.append(f"<a:{name}>{value}</a:{name}>")
    return f'<s:Header xmlns:a="{ns}">{"".join((*blocks, *more))}</s:Header>'


def request(ns: str = WSA, **values: str) -> str:
    return headers(ns, **{"Action": ACTION, "MessageID": "urn:uuid:1", **values})


def of(raw: bytes, ns: str = WSA) -> dict[str, str]:
    """The addressing headers of an envelope."""
    header = read_envelope(raw).header
    blocks = header.iterchildren(f"{{{ns}}}*") if header is not None else ()
    return {etree.QName(b).localname: "".join(str(t) for t in b.itertext()) for b in blocks}


# --- what a WSDL says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "content", "soap_action", "input_", "output"),
    [
        ("http://x/y", '<w:input {m}="urn:i"/><w:output {m}="urn:o"/>', "s", "urn:i", "urn:o"),
        ("http://x/y", '<w:input {d}="urn:i"/><w:output {o}="urn:o"/>', "", "urn:i", "urn:o"),
        ("http://x/y", "<w:input/><w:output/>", "urn:s", "urn:s", "http://x/y/P/opResponse"),
        ("http://x/y", "<w:input/><w:output/>", "", "http://x/y/P/opRequest",
         "http://x/y/P/opResponse"),
        ("http://x/y/", '<w:input name="I"/><w:output name="O"/>', "", "http://x/y/P/I",
         "http://x/y/P/O"),
        ("urn:x:y", "<w:input/><w:output/>", "", "urn:x:y:P:opRequest", "urn:x:y:P:opResponse"),
        ("http://x/y", "<w:input/>", "", "http://x/y/P/op", ""),
    ],
)  # fmt: skip
def test_actions(namespace: str, content: str, soap_action: str, input_: str, output: str) -> None:
    content = content.format(m="m:Action", d="d:Action", o="o:Action")
    root = etree.fromstring(
        f'<w:definitions xmlns:w="{WSDL}" xmlns:m="{METADATA}" xmlns:d="{DRAFT}" xmlns:o="{OLD}" '
        f'targetNamespace="{namespace}"><w:portType name="P"><w:operation name="op">{content}'
        '<w:fault name="F"/><w:fault name="G" m:Action="urn:g"/></w:operation></w:portType>'
        "</w:definitions>"
    )
    actions = actions_of(root[0][0], soap_action)
    assert (actions.input, actions.output) == (input_, output)
    joint = ":" if namespace.startswith("urn:") else "/"
    base = namespace.removesuffix("/")
    assert actions.faults == {"F": joint.join((base, "P", "op", "Fault", "F")), "G": "urn:g"}


@pytest.mark.parametrize(
    ("content", "policy", "asked"),
    [
        ("", "", None),
        ("<d:UsingAddressing/>", "", "2005/08"),
        ('<d:UsingAddressing w:required="true"/>', "", "2005/08"),
        ("<o:UsingAddressing/>", "", "2004/08"),
        ("<p:Policy><m:Addressing><p:Policy/></m:Addressing></p:Policy>", "", "2005/08"),
        ('<p:PolicyReference URI="#x"/>', "<m:Addressing/>", "2005/08"),
        ('<p:PolicyReference URI="#x"/>', '<m:Addressing p:Optional="true"/>', None),
        ('<p:PolicyReference URI="#other"/>', "<m:Addressing/>", None),
        ("", "<m:Addressing/>", None),
    ],
)
def test_whether_it_is_asked_for(content: str, policy: str, asked: str | None) -> None:
    root = etree.fromstring(
        f'<w:definitions xmlns:w="{WSDL}" xmlns:m="{METADATA}" xmlns:d="{DRAFT}" '
        f'xmlns:p="{POLICY}" xmlns:o="{OLD}/policy" xmlns:u="{WSU}">'
        f'<p:Policy u:Id="x">{policy}</p:Policy>'
        f"<w:binding>{content}</w:binding></w:definitions>"
    )
    assert asked_for(root[1]) == asked


@pytest.fixture
def asking(tmp_path: Path) -> Path:
    """A folder with the partner WSDL, whose first port asks for addressing and gives actions."""
    text = PARTNER_WSDL.read_text()
    text = text.replace(
        '<soap:binding style="document"',
        f'<a:UsingAddressing xmlns:a="{DRAFT}"/><soap:binding style="document"',
    )
    for kind in ("In", "Out"):
        put = {"In": "input", "Out": "output"}[kind]
        text = text.replace(
            f'<wsdl:{put} message="tns:getPartner{kind}"/>',
            f'<wsdl:{put} message="tns:getPartner{kind}" xmlns:m="{METADATA}" '
            f'm:Action="urn:{put}"/>',
        )
    text = text.replace(f'soapAction="{ACTION}"', 'soapAction=""')
    (tmp_path / "partner.wsdl").write_text(text)
    return tmp_path


def test_it_is_read(asking: Path) -> None:
    ports = load_wsdl(asking / "partner.wsdl").services["PartnerService"].ports
    assert [port.addressing for port in ports.values()] == ["2005/08", None]
    actions = ports["PartnerPort11"].operations["getPartner"].actions
    assert (actions.input, actions.output) == ("urn:input", "urn:output")


# --- out -----------------------------------------------------------------------------------------


class Service:
    """A backend; `answer` may have {id}, the MessageID that it got."""

    def __init__(self, answer: str, status: int = 200) -> None:
        self.answer = answer
        self.status = status
        self.url = ""
        self.raw = b""
        self.head: Any = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, self.head, self.raw = await read_request(reader)
        found = re.search(rb"MessageID[^>]*>([^<]*)<", self.raw)
        sent = self.answer.replace("{id}", found[1].decode() if found else "").encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(sent)}\r\n"
        writer.write(head.encode() + b"Content-Type: text/xml\r\nConnection: close\r\n\r\n" + sent)
        await writer.drain()


@contextlib.asynccontextmanager
async def service(answer: str, status: int = 200) -> AsyncIterator[Service]:
    one = Service(answer, status)
    async with backend(one) as one.url:
        yield one


async def ask(one: Service, message: Envelope | None = None, **options: Any) -> Envelope:
    build = FakeBuild(options.pop("folder", HERE))
    role = adapter.caller
    assert role is not None
    raw = {"wsdl": "partner.wsdl", "operation": "getPartner", "url": one.url, **options}
    endpoint = role.make(role.options.model_validate(raw), build)
    try:
        return await endpoint.call(message or Envelope(body=Body.of({"id": 1})))
    finally:
        for resource in build.objects.values():
            if hasattr(resource, "close"):
                await resource.close()


class TestOut:
    @pytest.mark.parametrize(("version", "ns"), [("2005/08", WSA), ("2004/08", OLD)])
    async def test_what_is_sent(self, version: str, ns: str) -> None:
        async with service(soap(PARTNER_XML)) as one:
            await ask(one, addressing=version)
            sent = of(one.raw, ns)
            assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", sent.pop("MessageID"))
            assert sent == {"Action": ACTION, "To": one.url, "ReplyTo": ANONYMOUS[ns]}
            assert one.head.get("soapaction") == f'"{ACTION}"'

    async def test_each_message_has_its_own_id(self) -> None:
        async with service(soap(PARTNER_XML)) as one:
            await ask(one, addressing="2005/08")
            first = of(one.raw)["MessageID"]
            await ask(one, addressing="2005/08")
            assert of(one.raw)["MessageID"] != first

    async def test_the_wsdl_asks_for_it(self, asking: Path) -> None:
        async with service(soap(PARTNER_XML)) as one:
            await ask(one, folder=asking)
            assert of(one.raw)["Action"] == "urn:input"
            await ask(one, folder=asking, addressing="none")
            assert of(one.raw) == {}
            await ask(one, folder=asking, port="PartnerPort12")
            assert of(one.raw) == {}

    async def test_no_address_for_the_reply_that_never_comes(self) -> None:
        async with service("", 202) as one:
            reply = await ask(one, operation="dropPartner", addressing="2005/08")
            assert reply.outcome is Outcome.ACCEPTED
            assert set(of(one.raw)) == {"Action", "MessageID", "To"}

    async def test_those_of_an_envelope_are_replaced(self) -> None:
        raw = soap(GET, header=headers(To="http://169.254.169.254/", Action="urn:x"))
        async with service(soap(PARTNER_XML)) as one:
            await ask(one, Envelope(body=Body(raw.encode(), "text/xml")), addressing="2005/08")
            assert of(one.raw)["To"] == one.url
            assert one.raw.count(b"Action xmlns") == 1
            assert b"169.254" not in one.raw

    @pytest.mark.parametrize(
        "header",
        [
            "",
            headers(RelatesTo="{id}"),
            headers(RelatesTo="\n {id}\n"),
            headers(Action="urn:x", RelatesTo="{id}", To=ANONYMOUS[WSA]).replace("<a:", "<a:", 1),
            headers(WSA, '<a:RelatesTo RelationshipType="urn:other">urn:y</a:RelatesTo>'),
            headers(WSA, '<a:Action s:mustUnderstand="1">urn:x</a:Action>', RelatesTo="{id}"),
        ],
    )
    async def test_a_reply_that_is_ours(self, header: str) -> None:
        async with service(soap(PARTNER_XML, header=header)) as one:
            reply = await ask(one, addressing="2005/08")
            assert reply.body.data["partner"]["name"] == "A"

    async def test_a_reply_to_something_else(self) -> None:
        for header in (
            headers(RelatesTo="urn:uuid:other"),
            headers(OLD, '<a:RelatesTo RelationshipType="a:Reply">urn:y</a:RelatesTo>'),
        ):
            async with service(soap(PARTNER_XML, header=header)) as one:
                with pytest.raises(BadReply, match="RelatesTo"):
                    await ask(one, addressing="2005/08")

    async def test_without_addressing_its_headers_are_not_understood(self) -> None:
        header = headers(WSA, '<a:Action s:mustUnderstand="1">urn:x</a:Action>')
        async with service(soap(PARTNER_XML, header=header)) as one:
            with pytest.raises(BadReply, match="must be understood"):
                await ask(one)


# --- in ------------------------------------------------------------------------------------------

CODES = {
    WSA: {
        "invalid": "InvalidAddressingHeader",
        "required": "MessageAddressingHeaderRequired",
        "action": "ActionNotSupported",
    },
    OLD: {
        "invalid": "InvalidMessageInformationHeader",
        "required": "MessageInformationHeaderRequired",
        "action": "ActionNotSupported",
    },
}


class TestIn:
    @pytest.mark.parametrize("ns", [WSA, OLD])
    @pytest.mark.parametrize("soap_ns", [S11, S12])
    async def test_the_answer_says_what_it_answers(self, ns: str, soap_ns: str) -> None:
        async with hosted() as client:
            kind = "text/xml" if soap_ns == S11 else "application/soap+xml"
            header = request(ns, To="http://example.com/", ReplyTo=ANONYMOUS[ns])
            header = header.replace("<a:Action>", '<a:Action s:mustUnderstand="1">')
            status, raw = await client.post(soap(GET, soap_ns, header), kind=kind)
            assert status == 200
            answer = of(raw, ns)
            assert answer.pop("MessageID").startswith("urn:uuid:")
            assert answer == {"Action": ANSWER, "RelatesTo": "urn:uuid:1", "To": ANONYMOUS[ns]}
            facts = client.seen[0].params["soap"]
            assert (facts["action"], facts["message_id"]) == (ACTION, "urn:uuid:1")
            assert client.seen[0].reply_to == ""

    async def test_who_does_not_use_it_is_not_bothered(self) -> None:
        async with hosted() as client:
            _, raw = await client.post(soap(GET))
            assert of(raw) == {}

    async def test_actions_of_the_wsdl(self, asking: Path) -> None:
        async with hosted(folder=asking) as client:
            status, raw = await client.post(soap(GET, header=request(Action="urn:input")))
            assert (status, of(raw)["Action"]) == (200, "urn:output")
            for soap_action in ("", "urn:input"):
                header = request(Action="urn:input")
                assert (await client.post(soap(GET, header=header), soap_action))[0] == 200
            fault = await client.fault(soap(GET, header=request(Action="urn:input")), "urn:else")
            assert fault.code.endswith("ActionMismatch")

    @pytest.mark.parametrize("ns", [WSA, OLD])
    @pytest.mark.parametrize(
        ("values", "code", "special", "named"),
        [
            ({"ReplyTo": "http://169.254.169.254/"}, "invalid", "OnlyAnonymousAddressSupported",
             "ReplyTo"),
            ({"FaultTo": "http://[::1]:8081/"}, "invalid", "OnlyAnonymousAddressSupported",
             "FaultTo"),
            ({"ReplyTo": "file:///etc/passwd"}, "invalid", "OnlyAnonymousAddressSupported",
             "ReplyTo"),
            ({"ReplyTo": "jms:queue"}, "invalid", "OnlyAnonymousAddressSupported", "ReplyTo"),
            ({"ReplyTo": WSA + "/anonymous/../x"}, "invalid", "OnlyAnonymousAddressSupported",
             "ReplyTo"),
            ({"ReplyTo": ""}, "invalid", "MissingAddressInEPR", "ReplyTo"),
            ({"Action": f"{NS}/dropPartner"}, "action", "", ""),
            ({"Action": "urn:unknown"}, "action", "", ""),
            ({"Action": "x" * 100_000}, "invalid", "InvalidAddress", "Action"),
            ({"MessageID": "x" * 100_000}, "invalid", "InvalidAddress", "MessageID"),
            ({"Action": ""}, "required", "", "Action"),
            ({"MessageID": "", "ReplyTo": "anonymous"}, "required", "", "MessageID"),
        ],
    )  # fmt: skip
    async def test_what_is_refused(
        self, ns: str, values: dict[str, str], code: str, special: str, named: str
    ) -> None:
        values = {k: ANONYMOUS[ns] if v == "anonymous" else v for k, v in values.items()}
        async with hosted() as client:
            status, raw = await client.post(
                soap(GET, S12, request(ns, **values)), kind="application/soap+xml"
            )
            message = read_envelope(raw)
            assert message.fault is not None
            fault = read_fault(message.fault)
            expected = [CODES[ns][code], special] if special and ns == WSA else [CODES[ns][code]]
            assert (status, fault.code) == (400, "Sender")
            assert list(fault.subcodes) == [f"{{{ns}}}{name}" for name in expected]
            detail = "".join("".join(map(str, d.itertext())) for d in fault.detail)
            if ns == WSA:
                assert named in detail
            assert of(raw, ns)["Action"] == f"{ns}/fault"
            assert len(raw) < 10_000
            assert client.seen == []

            status, raw = await client.post(soap(GET, S11, request(ns, **values)))
            message = read_envelope(raw)
            assert message.fault is not None
            fault = read_fault(message.fault)
            assert (status, fault.code) == (500, f"{{{ns}}}{expected[-1]}")
            assert fault.detail == (), "a fault of headers has no detail in SOAP 1.1"
            assert named in of(raw).get("FaultDetail", "") or ns == OLD
            assert client.seen == []

    @pytest.mark.parametrize("name", ["Action", "MessageID", "To", "ReplyTo", "FaultTo"])
    async def test_twice(self, name: str) -> None:
        async with hosted() as client:
            values = {"ReplyTo": ANONYMOUS[WSA], "FaultTo": ANONYMOUS[WSA], "To": "urn:x"}
            header = request(**values)
            again = header.replace("</s:Header>", f"<a:{name}>x</a:{name}></s:Header>")
            fault = await client.fault(soap(GET, header=again))
            assert fault.code == f"{{{WSA}}}InvalidCardinality"
            for_another = again.replace(f"<a:{name}>x", f'<a:{name} s:actor="urn:o">x')
            assert (await client.post(soap(GET, header=for_another)))[0] == 200

    async def test_two_versions_at_once(self) -> None:
        header = request().replace("</s:Header>", f'<Action xmlns="{OLD}">x</Action></s:Header>')
        async with hosted() as client:
            fault = await client.fault(soap(GET, header=header))
            assert fault.code == f"{{{WSA}}}InvalidAddressingHeader"

    async def test_soap_action_says_something_else(self) -> None:
        async with hosted() as client:
            for action in (f"{NS}/dropPartner", "urn:unknown"):
                fault = await client.fault(soap(GET, header=request()), action)
                assert fault.code == f"{{{WSA}}}ActionMismatch"
            assert client.seen == []

    async def test_who_wants_an_answer_says_its_id(self) -> None:
        async with hosted() as client:
            fault = await client.fault(soap(GET, header=headers(Action=ACTION)))
            assert fault.code == f"{{{WSA}}}MessageAddressingHeaderRequired"
            drop = f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>'
            status, _ = await client.post(soap(drop, header=headers(Action=f"{NS}/dropPartner")))
            assert status == 202

    async def test_faults_relate_too(self) -> None:
        declared = Fault("no", name="PartnerNotFound", party="sender", data={"id": 1})
        for error, action in (
            (declared, f"{NS}:Partners:getPartner:Fault:PartnerNotFound"),
            (Transient("later"), f"{WSA}/soap/fault"),
            (ValueError("a bug"), f"{WSA}/soap/fault"),
        ):
            async with hosted(error) as client:
                status, raw = await client.post(soap(GET, header=request()))
                assert status == 500
                assert of(raw)["Action"] == action
                assert of(raw)["RelatesTo"] == "urn:uuid:1"

    async def test_nobody_wants_the_answer(self) -> None:
        async with hosted() as client:
            header = request(ReplyTo=f"{WSA}/none")
            assert await client.post(soap(GET, header=header)) == (202, b"")
            assert len(client.seen) == 1
        async with hosted(Transient("later")) as client:
            # It was not done: whoever asked may ask again, if he cares.
            assert await client.post(soap(GET, header=header)) == (500, b"")
            header = request(ReplyTo=f"{WSA}/none", FaultTo=ANONYMOUS[WSA])
            assert b"later" in (await client.post(soap(GET, header=header)))[1]

    async def test_it_can_be_required(self) -> None:
        async with hosted(addressing="require") as client:
            fault = await client.fault(soap(GET))
            assert fault.code == f"{{{WSA}}}MessageAddressingHeaderRequired"
            assert (await client.post(soap(GET, header=request())))[0] == 200

    async def test_it_can_be_ignored(self) -> None:
        async with hosted(addressing="ignore") as client:
            header = request(ReplyTo="http://169.254.169.254/")
            status, raw = await client.post(soap(GET, header=header))
            assert (status, of(raw)) == (200, {})
            header = header.replace("<a:Action>", '<a:Action s:mustUnderstand="1">')
            assert (await client.fault(soap(GET, header=header))).code == "MustUnderstand"

    async def test_an_answer_that_is_a_whole_envelope_gets_headers_of_our_own(self) -> None:
        more = headers(WSA, '<t xmlns="urn:t"/>', Action="urn:theirs", RelatesTo="urn:theirs")
        answer = Body(soap(PARTNER_XML, header=more).encode(), "text/xml")
        async with hosted(answer) as client:
            _, raw = await client.post(soap(GET, header=request()))
            assert of(raw)["RelatesTo"] == "urn:uuid:1"
            assert raw.count(b"RelatesTo>") == 1
            assert b"urn:t" in raw
            assert b"urn:theirs" not in raw
            _, raw = await client.post(soap(GET))
            assert b"urn:theirs" in raw

    async def test_the_action_tells_operations_of_one_element_apart(self, tmp_path: Path) -> None:
        text = PARTNER_WSDL.read_text().replace(
            '<wsdl:part name="parameters" element="tns:findPartners"/>',
            '<wsdl:part name="parameters" element="tns:getPartner"/>',
        )
        (tmp_path / "partner.wsdl").write_text(text)
        async with hosted({"partner": []}, folder=tmp_path) as client:
            header = request(Action=f"{NS}/findPartners")
            assert (await client.post(soap(GET, header=header)))[0] == 200
            assert client.seen[0].subject == "findPartners"
            fault = await client.fault(soap(GET, header=header), f"{NS}/getPartner")
            assert fault.code == f"{{{WSA}}}ActionMismatch"

    async def test_huge_and_many_headers(self) -> None:
        async with hosted() as client:
            many = "".join(f'<x:a{i} xmlns:x="urn:x">1</x:a{i}>' for i in range(50_000))
            header = request().replace("</s:Header>", many + "</s:Header>")
            assert (await client.post(soap(GET, header=header)))[0] == 200
            relates = "<a:RelatesTo>urn:x</a:RelatesTo>" * 50_000
            header = request().replace("</s:Header>", relates + "</s:Header>")
            status, raw = await client.post(soap(GET, header=header))
            assert status == 200
            assert len(raw) < 10_000


class TestAnswersElsewhere:
    @pytest.mark.parametrize(
        ("address", "taken"),
        [
            ("http://partner.example/answers", True),
            ("http://PARTNER.example:80/answers?x=1", True),
            ("http://partner.example/answers/7", True),
            ("http://partner.example/answers-of-others", False),
            ("http://partner.example/", False),
            ("https://partner.example/answers", False),
            ("http://partner.example:8080/answers", False),
            ("http://partner.example.evil.example/answers", False),
            ("http://partner.example@evil.example/answers", False),
            ("http://evil.example\\@partner.example/answers", False),
            ("http://partner.example/answers/../admin", False),
            ("http://partner.example/answers/%2e%2E/admin", False),
            ("http://partner.example/answers/..%5cadmin", False),
            ("http://partner.example/answers\n/x", False),
            ("http://partner.example/answers#x", False),
            ("http://partner.example:port/answers", False),
            ("http:///answers", False),
            ("file:///answers", False),
            ("", False),
        ],
    )
    def test_which(self, address: str, taken: bool) -> None:
        assert Allowed(["http://partner.example/answers"])(address) == taken

    @pytest.mark.parametrize("ns", [WSA, OLD])
    async def test_the_reply_is_sent_there(self, ns: str) -> None:
        async with service("", 202) as there, hosted(reply_to=[there.url]) as client:
            parameters = (
                '<a:ReferenceParameters><k:key xmlns:k="urn:k">7</k:key><a:To>urn:x</a:To>'
                "</a:ReferenceParameters>"
            )
            header = request(ns, ReplyTo=there.url + "/in").replace(
                "</a:Address>", f"</a:Address>{parameters}"
            )
            assert await client.post(soap(GET, header=header)) == (202, b"")
            sent = of(there.raw, ns)
            assert sent.pop("MessageID")
            assert sent == {"Action": ANSWER, "RelatesTo": "urn:uuid:1", "To": there.url + "/in"}
            message = read_envelope(there.raw)
            assert message.content is not None
            assert message.content.tag == f"{{{NS}}}getPartnerResponse"
            assert message.header is not None
            (key,) = message.header.iterfind("{urn:k}key")
            assert (key.get(f"{{{WSA}}}IsReferenceParameter") == "true") == (ns == WSA)
            assert there.head.get("content-type").startswith("text/xml")

    async def test_a_fault_is_sent_there(self) -> None:
        async with (
            service("", 202) as there,
            hosted(Transient("later"), reply_to=[there.url]) as client,
        ):
            header = request(ReplyTo=ANONYMOUS[WSA], FaultTo=there.url)
            assert await client.post(soap(GET, header=header)) == (202, b"")
            message = read_envelope(there.raw)
            assert message.fault is not None
            assert read_fault(message.fault).reason == "later"
            assert of(there.raw)["To"] == there.url

    async def test_what_cannot_be_sent_there_is_told_here(self) -> None:
        async with service("", 500) as there, hosted(reply_to=[there.url]) as client:
            fault = await client.fault(soap(GET, header=request(ReplyTo=there.url)))
            assert "could not be sent" in fault.reason
            assert len(client.seen) == 1

    async def test_nowhere_else(self) -> None:
        async with (
            service("", 202) as there,
            service("", 202) as other,
            hosted(reply_to=[there.url]) as client,
        ):
            for values in (
                {"ReplyTo": other.url},
                {"ReplyTo": there.url, "FaultTo": other.url},
                {"FaultTo": there.url, "ReplyTo": other.url},
            ):
                status, raw = await client.post(soap(GET, header=request(**values)))
                message = read_envelope(raw)
                assert (status, message.fault is not None) == (500, True)
                assert of(raw)["To"] == ANONYMOUS[WSA]
            assert (there.raw, other.raw, client.seen) == (b"", b"", [])

    @pytest.mark.parametrize(
        "wrong", ["partner.example", "ftp://x/", "http://a@b/", "http://x/../"]
    )
    def test_options_that_are_wrong(self, wrong: str) -> None:
        role = adapter.source
        assert role is not None
        with pytest.raises(ValidationError, match="an address is a URL"):
            role.options.model_validate({"wsdl": "x", "path": "/", "reply_to": [wrong]})


class TestZeepAsks:
    @pytest.mark.parametrize("says", ["option", "wsdl"])
    async def test_it(self, says: str, asking: Path) -> None:
        # It adds the headers by itself where the WSDL gives an action.
        plugins = [] if says == "wsdl" else [WsAddressingPlugin()]
        async with hosted(folder=asking if says == "wsdl" else HERE) as client:
            asked = await asyncio.to_thread(zeep.Client, client.url + "?wsdl", plugins=plugins)
            service = asked.bind("PartnerService", "PartnerPort11")
            assert (await asyncio.to_thread(service.getPartner, id=1))["name"] == "A & <B>"
            facts = client.seen[0].params["soap"]
            assert facts["action"] == ("urn:input" if says == "wsdl" else ACTION)
            assert facts["message_id"].startswith("urn:uuid:")
