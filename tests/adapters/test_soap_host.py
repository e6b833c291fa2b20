"""SOAP in: dispatch, checks, answers and faults of a hosted service, over a real listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.fake_build import FakeBuild
from support.peers import HERE, RPC_WSDL, with_session_header
from support.soap import GET, NS, S11, S12, Client, hosted, soap

import esb.codecs  # noqa: F401 - registers the codecs
from esb.adapter import BuildFailed
from esb.envelope import Body, Envelope, Outcome
from esb.errors import (
    BadMessage,
    Denied,
    EsbError,
    Fault,
    Overloaded,
    Rejected,
    RouteFailure,
    Unreachable,
)
from esb_soap import adapter
from esb_soap.envelope import read_envelope, read_fault
from esb_soap.wsdl import load_wsdl
from esb_web import ListenOptions

XXE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'

Step = Callable[[Envelope], Any]


class TestDispatch:
    async def test_a_request_becomes_data(self) -> None:
        async with hosted() as client:
            answer = await client.answer(soap(GET), f"{NS}/getPartner")
            assert answer.tag == f"{{{NS}}}getPartnerResponse"
            assert answer[0].find(f"{{{NS}}}name").text == "A & <B>"
            (message,) = client.seen
            assert message.body.data == {"id": 1}
            assert message.content_type == "application/json"
            assert message.subject == "getPartner"
            assert message.params["soap"]["operation"] == "getPartner"
            assert message.source == "soap:test"

    @pytest.mark.parametrize("action", [None, "", f"{NS}/getPartner"])
    async def test_the_action_may_be_left_out(self, action: str | None) -> None:
        async with hosted() as client:
            await client.answer(soap(GET), action)

    async def test_soap_12(self) -> None:
        async with hosted() as client:
            kind = f'application/soap+xml; charset=utf-8; action="{NS}/getPartner"'
            status, raw = await client.post(soap(GET, S12), kind=kind)
            assert status == 200
            assert read_envelope(raw).version == "1.2"
            assert client.headers["content-type"].startswith("application/soap+xml")
            fault = await client.fault(
                soap(GET, S12), kind='application/soap+xml; action="urn:evil"', status=400
            )
            assert "urn:evil" in fault.reason

    async def test_an_action_that_names_something_else(self) -> None:
        async with hosted() as client:
            fault = await client.fault(soap(GET), f"{NS}/dropPartner")
            assert fault.party == "sender"
            assert "means 'dropPartner', the Body is for 'getPartner'" in fault.reason
            assert "is not known" in (await client.fault(soap(GET), "urn:evil")).reason
            assert client.seen == []

    async def test_comments_and_whitespace(self) -> None:
        async with hosted() as client:
            text = "<!-- a -->" + soap("<!-- b -->\n" + GET).replace("<s:Body", "\n<s:Body")
            await client.answer(text)

    async def test_a_comment_does_not_cut_a_value(self) -> None:
        find = f'<findPartners xmlns="{NS}"><name>ab<!-- x -->cd</name></findPartners>'
        async with hosted({"partner": []}) as client:
            await client.answer(soap(find))
            assert client.seen[0].body.data["name"] == "abcd"

    async def test_another_charset(self) -> None:
        find = f'<findPartners xmlns="{NS}"><name>Ä</name></findPartners>'
        async with hosted({"partner": []}) as client:
            raw = f'<?xml version="1.0" encoding="utf-16"?>{soap(find)}'.encode("utf-16")
            assert (await client.post(raw, kind="text/xml; charset=utf-16"))[0] == 200
            raw = soap(find).encode("latin-1")
            assert (await client.post(raw, kind="text/xml; charset=iso-8859-1"))[0] == 200
            assert [m.body.data["name"] for m in client.seen] == ["Ä", "Ä"]

    @pytest.mark.parametrize("form", ["xml", "envelope"])
    async def test_as_xml(self, form: str) -> None:
        async with hosted(body=form) as client:
            await client.answer(soap(GET))
            root = client.seen[0].body.data
            name = "getPartner" if form == "xml" else "Envelope"
            assert etree.QName(root).localname == name

    async def test_one_way(self) -> None:
        drop = f'<dropPartner xmlns="{NS}"><id>4</id></dropPartner>'
        async with hosted() as client:
            assert await client.post(soap(drop)) == (202, b"")
            assert client.seen[0].body.data == {"id": 4}
        async with hosted(Unreachable("the queue is away")) as client:
            assert (await client.fault(soap(drop))).party == "receiver"

    async def test_rpc(self) -> None:
        add = '<t:add xmlns:t="urn:example:stock"><a>1</a><b>2</b></t:add>'
        async with hosted({"sum": 3}, wsdl=RPC_WSDL.name) as client:
            answer = await client.answer(soap(add))
            assert client.seen[0].body.data == {"a": 1, "b": 2}
            assert answer.tag == "{urn:example:stock}addResponse"
            assert answer[0].text == "3"


BAD_REQUESTS: list[tuple[str, str]] = [
    ("", "is empty"),
    ("<a><b></a>", "not well-formed XML at line 1"),
    ("{}", "not well-formed"),
    ("<html/>", "no SOAP envelope but an element 'html'"),
    (XXE + soap(GET.replace("1<", "&x;<")), "DOCTYPE"),
    (soap(""), "Body is empty"),
    (soap(f'<getPartnr xmlns="{NS}"/>'), "did you mean 'getPartner'?"),
    (soap("<getPartner><id>1</id></getPartner>"), f"it must be '{NS}'"),
    (soap(f'<getPartner xmlns="{NS}"/>'), "id"),
    (soap(f'<getPartner xmlns="{NS}"><id>x</id></getPartner>'), "id"),
    (soap(f'<getPartner xmlns="{NS}"><id>1</id><id>2</id></getPartner>'), "id"),
    (soap(f'<getPartner xmlns="{NS}"><id>1</id><more/></getPartner>'), "more"),
    (f'<s:Envelope xmlns:s="{S11}"/>', "no Body"),
]


@pytest.mark.parametrize(("text", "says"), BAD_REQUESTS)
@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_a_bad_request_is_the_senders_fault(text: str, says: str, version: str) -> None:
    kind = "text/xml"
    if version == "1.2":
        text, kind = text.replace(S11, S12), "application/soap+xml"
    async with hosted() as client:
        fault = await client.fault(text, kind=kind, status=500 if version == "1.1" else 400)
        assert fault.party == "sender"
        assert says in fault.reason + "".join("".join(d.itertext()) for d in fault.detail)
        assert "passwd" not in fault.reason
        assert client.seen == []


class TestRefused:
    async def test_an_envelope_of_no_known_version(self) -> None:
        async with hosted() as client:
            fault = await client.fault(soap(GET, "http://www.w3.org/2001/12/soap-envelope"))
            assert fault.code == "VersionMismatch"

    @pytest.mark.parametrize(("served", "sent"), [("1.1", S12), ("1.2", S11)])
    async def test_a_version_that_is_not_served(self, served: str, sent: str) -> None:
        async with hosted(soap=served) as client:
            status, raw = await client.post(soap(GET, sent))
            message = read_envelope(raw)
            assert (status, message.version) == (500, "1.1")
            assert message.fault is not None
            assert read_fault(message.fault).code == "VersionMismatch"
            assert message.header is not None
            upgrade = message.header[0]
            assert etree.QName(upgrade).localname == "Upgrade"
            told = [one.nsmap[one.get("qname").partition(":")[0]] for one in upgrade]
            assert told == [S11 if served == "1.1" else S12]

    @pytest.mark.parametrize("ns", [S11, S12])
    async def test_a_header_that_must_be_understood(self, ns: str) -> None:
        header = '<s:Header><h xmlns="urn:h" s:mustUnderstand="1"/></s:Header>'
        kind = "text/xml" if ns == S11 else "application/soap+xml"
        async with hosted() as client:
            fault = await client.fault(soap(GET, ns, header), kind=kind)
            assert fault.code == "MustUnderstand"
            assert "{urn:h}h" in fault.reason
        async with hosted(understood=["{urn:h}h"]) as client:
            await client.answer(soap(GET, ns, header), kind=kind)

    async def test_a_header_that_the_wsdl_declares(self, tmp_path: Path) -> None:
        text = with_session_header((HERE / "partner.wsdl").read_text())
        (tmp_path / "partner.wsdl").write_text(text)
        session = f'<Session xmlns="{NS}" s:mustUnderstand="1"><token>t</token></Session>'
        header = f"<s:Header>{session}</s:Header>"
        async with hosted(folder=tmp_path) as client:
            await client.answer(soap(GET, header=header))
            data = client.seen[0].body.data
            assert data["id"] == 1
            assert data["$headers"] == {"Session": {"token": "t"}}

    @pytest.mark.parametrize("kind", ["application/json", "multipart/related; boundary=x"])
    async def test_a_content_type_that_is_no_soap(self, kind: str) -> None:
        async with hosted() as client:
            assert (await client.fault(soap(GET), kind=kind, status=415)).party == "sender"

    async def test_too_much(self) -> None:
        async with hosted(max_body="1KB") as client:
            assert (await client.post(soap(GET) + " " * 2000))[0] == 413

    async def test_many_at_once(self) -> None:
        async with hosted() as client:
            answers = await asyncio.gather(
                *(client.post(soap(GET if i % 2 else "<x/>")) for i in range(40))
            )
            assert [status for status, _ in answers] == [500, 200] * 20


class TestAnswer:
    @pytest.mark.parametrize(
        "answer",
        [
            {},
            {"partner": {"name": "A"}},
            {"partner": {"name": "A", "kind": "dog"}},
            {"sum": 1},
            [],
            Body(b"<x/>", "application/xml"),
            Body(soap("<x/>").encode(), "text/xml"),
            Body(b"\x00", "application/octet-stream"),
        ],
    )
    async def test_one_that_does_not_fit_is_our_fault(self, answer: Any) -> None:
        async with hosted(answer if isinstance(answer, Body) else Body.of(answer)) as client:
            fault = await client.fault(soap(GET))
            assert fault.party == "receiver"
            assert fault.reason == "the answer does not fit the output of 'getPartner'"
            assert fault.detail == ()

    async def test_a_route_that_answers_nothing(self) -> None:
        async def same(envelope: Envelope) -> Envelope:
            return envelope

        async with hosted(same) as client:
            fault = await client.fault(soap(GET))
            assert fault.reason == "the route gives no answer for 'getPartner'"

    @pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.FILTERED])
    async def test_only_taken(self, outcome: Outcome) -> None:
        async def taken(envelope: Envelope) -> Envelope:
            return envelope.replace(outcome=outcome)

        find = f'<findPartners xmlns="{NS}"/>'
        async with hosted(taken) as client:
            fault = await client.fault(soap(GET))
            assert "was taken, but 'getPartner' promises an answer" in fault.reason
            # An output that may be empty is answered with an empty one.
            assert (await client.answer(soap(find))).tag == f"{{{NS}}}findPartnersResponse"

    async def test_dead(self) -> None:
        async def bury(envelope: Envelope) -> Envelope:
            return envelope.replace(outcome=Outcome.DEAD)

        async with hosted(bury) as client:
            assert "set aside" in (await client.fault(soap(GET))).reason

    async def test_an_element(self) -> None:
        raw = f'<getPartnerResponse xmlns="{NS}"><own/></getPartnerResponse>'.encode()
        async with hosted(Body(raw, "application/xml")) as client:
            assert (await client.answer(soap(GET)))[0].tag == f"{{{NS}}}own"

    async def test_an_envelope(self) -> None:
        raw = soap(f'<getPartnerResponse xmlns="{NS}"/>').encode()
        async with hosted(Body(raw, "text/xml")) as client:
            await client.answer(soap(GET))
            _, text = await client.post(soap(GET, S12), kind="application/soap+xml")
            assert read_envelope(text).version == "1.2"


class TestFaults:
    async def test_a_declared_fault_is_typed(self) -> None:
        error = Fault(
            "no such partner", name="PartnerNotFound", party="sender", data={"id": 7, "hint": "<1>"}
        )
        async with hosted(error) as client:
            fault = await client.fault(soap(GET))
            assert (fault.code, fault.reason) == ("Client", "no such partner")
            (detail,) = fault.detail
            assert detail.tag == f"{{{NS}}}PartnerNotFound"
            assert [e.text for e in detail] == ["7", "<1>"]
            fault = await client.fault(soap(GET, S12), kind="application/soap+xml", status=400)
            assert fault.code == "Sender"
            assert fault.detail[0].tag == f"{{{NS}}}PartnerNotFound"

    async def test_one_whose_data_does_not_fit_has_no_detail(self) -> None:
        error = Fault("no", name="PartnerNotFound", data={"other": 1})
        async with hosted(error) as client:
            fault = await client.fault(soap(GET))
            assert (fault.reason, fault.detail) == ("no", ())

    async def test_an_undeclared_one(self) -> None:
        async with hosted(Fault("no", name="Other", party="receiver", data={"a": 1})) as client:
            fault = await client.fault(soap(GET))
            assert (fault.code, fault.reason, fault.detail) == ("Server", "no", ())

    @pytest.mark.parametrize(
        ("error", "party"),
        [
            (BadMessage("the amount is negative"), "sender"),
            (Denied("not you", authenticated=True), "sender"),
            (RouteFailure("an expression failed"), "receiver"),
            (Unreachable("the service cannot be reached"), "receiver"),
            (Rejected("the service refused the message (status 404)", status=404), "receiver"),
        ],
    )
    @pytest.mark.parametrize("ns", [S11, S12])
    async def test_errors_of_the_route(self, error: EsbError, party: str, ns: str) -> None:
        async with hosted(error) as client:
            kind = "text/xml" if ns == S11 else "application/soap+xml"
            status = 400 if ns == S12 and party == "sender" else 500
            fault = await client.fault(soap(GET, ns), kind=kind, status=status)
            assert (fault.party, fault.reason) == (party, error.detail)

    async def test_what_is_wrong_and_where(self) -> None:
        errors = [{"pointer": "/amount", "detail": "is < 0"}]
        async with hosted(BadMessage("the amount is negative", errors)) as client:
            (detail,) = (await client.fault(soap(GET))).detail
            assert detail.tag == "{urn:esb:problem}errors"
            assert (detail[0].get("pointer"), detail[0].text) == ("/amount", "is < 0")

    async def test_when_to_come_back(self) -> None:
        async with hosted(Overloaded("too much", retry_after=3)) as client:
            await client.fault(soap(GET))
            assert client.headers["retry-after"] == "3"

    async def test_a_bug_tells_nothing(self) -> None:
        async with hosted(ZeroDivisionError("secret")) as client:
            fault = await client.fault(soap(GET))
            assert fault.reason == "the service failed"


class TestWsdl:
    async def get(self, client: Client, query: str, **headers: str) -> tuple[int, bytes]:
        async with client.session.get(client.url + query, headers=headers) as answer:
            return answer.status, await answer.read()

    async def test_it_is_served_with_our_address(self) -> None:
        async with hosted() as client:
            for query in ("?wsdl", "?WSDL", "?wsdl="):
                status, raw = await self.get(client, query)
                assert status == 200
                root = etree.fromstring(raw)
                found = [str(e.get("location")) for e in root.iter("{*}address")]
                assert found == [client.url, client.url]
                assert b"partners.invalid" not in raw

    async def test_the_address_is_the_one_that_the_client_used(self) -> None:
        listen = {"trusted_proxies": ["127.0.0.1"], "base_path": "/esb"}
        async with hosted(listen=listen) as client:
            _, raw = await self.get(
                client, "?wsdl",
                **{"x-forwarded-proto": "https", "x-forwarded-host": "api.example.org",
                   "x-forwarded-prefix": "/v1"},
            )  # fmt: skip
            assert b'location="https://api.example.org/v1/esb/soap"' in raw

    async def test_only_the_ports_that_are_served(self) -> None:
        async with hosted(soap="1.2") as client:
            root = etree.fromstring((await self.get(client, "?wsdl"))[1])
            assert [e.get("name") for e in root.iter("{*}port")] == ["PartnerPort12"]

    @pytest.mark.parametrize("lacking", ["service", "address"])
    async def test_what_a_client_needs_is_added(self, lacking: str, tmp_path: Path) -> None:
        """Vendors publish WSDLs that end with the bindings; the service is whoever hosts it."""
        root = etree.parse(HERE / "partner.wsdl").getroot()
        for element in list(root.iter(f"{{*}}{lacking}")):
            parent = element.getparent()
            assert parent is not None
            parent.remove(element)
        bindings = [str(b.get("name")) for b in root.iterchildren("{*}binding")]
        (tmp_path / "partner.wsdl").write_bytes(etree.tostring(root))
        service = bindings[0] if lacking == "service" else None
        async with hosted(folder=tmp_path, service=service) as client:
            _, raw = await self.get(client, "?wsdl")
            (tmp_path / "published.wsdl").write_bytes(raw)
            [found] = load_wsdl(tmp_path / "published.wsdl").services.values()
            assert {port.address for port in found.ports.values()} == {client.url}
            assert found.name == service or lacking == "address"
            await client.answer(soap(GET))

    async def test_get_without_wsdl_says_where_it_is(self) -> None:
        async with hosted() as client:
            status, raw = await self.get(client, "")
            assert status == 405
            assert f"{client.url}?wsdl".encode() in raw
            assert (await self.get(client, "?xsd=../../etc/passwd"))[0] == 405

    async def test_imports_are_served_too(self, tmp_path: Path) -> None:
        text = (HERE / "partner.wsdl").read_text()
        start, end = text.index("<xsd:schema"), text.index("</wsdl:types>")
        schema = text[start:end].replace(
            "<xsd:schema",
            '<xsd:schema xmlns:tns="urn:example:partner" '
            'xmlns:xsd="http://www.w3.org/2001/XMLSchema"',
            1,
        )
        include = (
            f'<xsd:schema targetNamespace="{NS}"><xsd:include schemaLocation="{{}}"/></xsd:schema>'
        )
        (tmp_path / "xsd").mkdir()
        (tmp_path / "xsd" / "a b.xsd").write_text(schema)
        (tmp_path / "partner.wsdl").write_text(
            text[:start] + include.format("xsd/a%20b.xsd") + text[end:]
        )
        async with hosted(folder=tmp_path) as client:
            root = etree.fromstring((await self.get(client, "?wsdl"))[1])
            include_ = next(root.iter("{http://www.w3.org/2001/XMLSchema}include"))
            location = str(include_.get("schemaLocation"))
            assert location.startswith(client.url + "?xsd=")
            _, raw = await self.get(client, location.removeprefix(client.url))
            assert etree.fromstring(raw).get("targetNamespace") == NS
            await client.answer(soap(GET))


class TestBuild:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"port": "PartnerPrt11"}, "port: .*did you mean"),
            ({"service": "X"}, "service: .*there are: PartnerService"),
            ({"path": "soap"}, "path: "),
        ],
    )
    async def test_mistakes(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(BuildFailed, match=says):
            async with hosted(**options):
                pass

    def test_two_on_one_path(self) -> None:
        build = FakeBuild(HERE, listen=ListenOptions.model_validate({"port": 0}))
        role = adapter.source
        assert role is not None
        options = role.options.model_validate({"wsdl": "partner.wsdl", "path": "/soap"})
        role.make(options, build)
        with pytest.raises(BuildFailed, match="http POST /soap is taken"):
            role.make(options, build)
