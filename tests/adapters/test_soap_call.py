"""SOAP out: what is sent, and what every kind of answer means. Against a scripted backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.fake_build import FakeBuild
from support.peers import HERE, with_session_header
from support.web import backend, read_request

import esb.codecs  # noqa: F401 - registers the codecs
from esb.adapter import BuildFailed
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import (
    BadMessage,
    BadReply,
    EsbError,
    Fault,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    TimedOut,
    Transient,
    Unreachable,
    UnsupportedMedia,
)
from esb_soap import adapter

NS = "urn:example:partner"
S11 = "http://schemas.xmlsoap.org/soap/envelope/"
S12 = "http://www.w3.org/2003/05/soap-envelope"
PARTNER = f"""<getPartnerResponse xmlns="{NS}"><partner><id>1</id><name>A</name>
  <kind>company</kind><balance>10.50</balance><tag>x</tag></partner></getPartnerResponse>"""
NOT_FOUND = f'<PartnerNotFound xmlns="{NS}"><id>7</id><hint>try 1</hint></PartnerNotFound>'


def soap(body: str, ns: str = S11, header: str = "") -> str:
    return f'<s:Envelope xmlns:s="{ns}">{header}<s:Body>{body}</s:Body></s:Envelope>'


def fault(detail: str = "", code: str = "s:Client", text: str = "no") -> str:
    detail = f"<detail>{detail}</detail>" if detail else ""
    return soap(
        f"<s:Fault><faultcode>{code}</faultcode><faultstring>{text}</faultstring>{detail}</s:Fault>"
    )


class Service:
    """A backend that answers what a test put in, and keeps what it got."""

    def __init__(self, answer: str | bytes, status: int, kind: str, more: str) -> None:
        self.raw = answer.encode() if isinstance(answer, str) else answer
        self.head = (
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(self.raw)}\r\nConnection: close\r\n"
            + (f"Content-Type: {kind}\r\n" if kind else "")
            + more
            + "\r\n"
        )
        self.url = ""
        self.got: list[tuple[str, Headers, bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.append(await read_request(reader))
        writer.write(self.head.encode() + self.raw)
        await writer.drain()

    @property
    def headers(self) -> Headers:
        return self.got[-1][1]

    @property
    def sent(self) -> etree._Element:
        """The Body of the last request."""
        root = etree.fromstring(self.got[-1][2])
        return root.find("{*}Body")  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def service(
    answer: str | bytes = "", status: int = 200, kind: str = "text/xml", more: str = ""
) -> AsyncIterator[Service]:
    one = Service(answer, status, kind, more)
    async with backend(one) as one.url:
        yield one


@contextlib.asynccontextmanager
async def caller(
    url: str = "http://127.0.0.1:1", folder: Path = HERE, **options: Any
) -> AsyncIterator[Any]:
    build = FakeBuild(folder)
    raw = {"wsdl": "partner.wsdl", "operation": "getPartner", "url": url, **options}
    role = adapter.caller
    assert role is not None
    try:
        yield role.make(role.options.model_validate(raw), build)
    finally:
        for resource in build.objects.values():
            if hasattr(resource, "close"):
                await resource.close()


async def ask(one: Service, data: Any = None, /, **options: Any) -> Envelope:
    message = data if isinstance(data, Envelope) else Envelope(body=Body.of(data or {"id": 1}))
    async with caller(one.url, **options) as endpoint:
        reply: Envelope = await endpoint.call(message)
        return reply


def xml(text: str, kind: str = "application/xml") -> Envelope:
    return Envelope(body=Body(text.encode(), kind))


GET = f'<getPartner xmlns="{NS}"><id>1</id></getPartner>'


class TestRequest:
    async def test_soap_11(self) -> None:
        async with service(soap(PARTNER)) as one:
            await ask(one)
            assert one.got[0][0] == "POST / HTTP/1.1"
            assert one.headers.get("content-type") == "text/xml; charset=utf-8"
            assert one.headers.get("soapaction") == f'"{NS}/getPartner"'
            assert one.sent[0].tag == f"{{{NS}}}getPartner"
            assert [(e.tag, e.text) for e in one.sent[0]] == [(f"{{{NS}}}id", "1")]

    async def test_soap_12(self) -> None:
        async with service(soap(PARTNER, S12)) as one:
            await ask(one, soap="1.2")
            assert one.headers.get("content-type") == (
                f'application/soap+xml; charset=utf-8; action="{NS}/getPartner"'
            )
            assert "soapaction" not in one.headers
            assert one.sent.tag == f"{{{S12}}}Body"

    async def test_headers_of_the_message_stay_here(self) -> None:
        message = Envelope(
            body=Body.of({"id": 1}), headers=Headers([("SOAPAction", "evil"), ("x-own", "1")])
        )
        async with service(soap(PARTNER)) as one:
            await ask(one, message)
            assert one.headers.get("soapaction") == f'"{NS}/getPartner"'
            assert "x-own" not in one.headers
            await ask(one, message, forward_headers=["x-own", "soapaction"])
            assert one.headers.get_all("soapaction") == [f'"{NS}/getPartner"']
            assert one.headers.get("x-own") == "1"

    async def test_an_element_is_put_into_an_envelope(self) -> None:
        async with service(soap(PARTNER)) as one:
            reply = await ask(one, xml(f"<?xml version='1.0'?><!-- x -->{GET}<!-- y -->"))
            assert one.sent[0].tag == f"{{{NS}}}getPartner"
            assert reply.body.data["partner"]["name"] == "A"

    async def test_an_element_of_an_untyped_message(self) -> None:
        async with service(soap(PARTNER)) as one:
            await ask(one, xml(GET, ""))
            assert one.sent[0].tag == f"{{{NS}}}getPartner"

    async def test_json_of_an_untyped_message(self) -> None:
        async with service(soap(PARTNER)) as one:
            await ask(one, xml('{"id": 4}', ""))
            assert one.sent[0][0].text == "4"

    async def test_a_form(self) -> None:
        async with service(soap(PARTNER)) as one:
            await ask(one, xml("id=4", "application/x-www-form-urlencoded"))
            assert one.sent[0][0].text == "4"
            with pytest.raises(BadMessage, match="no form parameter 'idd'"):
                await ask(one, xml("idd=4", "application/x-www-form-urlencoded"))

    async def test_an_envelope_is_sent_as_it_is(self) -> None:
        text = soap(GET, header='<s:Header><h xmlns="urn:h">1</h></s:Header>')
        async with service(soap(PARTNER)) as one:
            reply = await ask(one, xml(text, "text/xml"))
            assert one.got[0][2] == text.encode()
            assert reply.body.raw == soap(PARTNER).encode()
            assert reply.content_type == "text/xml"

    async def test_an_envelope_of_the_other_version_is_rewritten(self) -> None:
        async with service(soap(PARTNER)) as one:
            await ask(one, xml(soap(GET, S12), "application/soap+xml"))
            assert one.sent.tag == f"{{{S11}}}Body"
            header = '<s:Header><h xmlns="urn:h"/></s:Header>'
            with pytest.raises(BadMessage, match=r"is SOAP 1\.2 and the service takes 1\.1"):
                await ask(one, xml(soap(GET, S12, header), "application/soap+xml"))

    async def test_an_envelope_in_another_charset(self) -> None:
        text = '<?xml version="1.0" encoding="iso-8859-1"?>' + soap(GET + "<!-- ü -->")
        message = Envelope(body=Body(text.encode("latin-1"), "text/xml; charset=iso-8859-1"))
        async with service(soap(PARTNER)) as one:
            await ask(one, message)
            assert one.headers.get("content-type") == "text/xml; charset=utf-8"
            assert one.got[0][2].decode("utf-8")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (f'<dropPartner xmlns="{NS}"><id>1</id></dropPartner>', "'getPartner' takes"),
            ("<getPartner><id>1</id></getPartner>", f"it must be '{NS}'"),
            (soap(f'<dropPartner xmlns="{NS}"/>'), "'getPartner' takes"),
            (soap(""), "Body of the envelope is empty"),
            (soap(GET, "urn:nowhere"), "neither SOAP 1.1 nor 1.2"),
            (f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{GET}', "DOCTYPE"),
            ("<a><b></a>", "not well-formed"),
            ("", "empty"),
        ],
    )
    async def test_xml_that_is_not_for_the_operation(self, text: str, says: str) -> None:
        async with caller() as endpoint:
            with pytest.raises(BadMessage, match=says):
                await endpoint.call(xml(text))

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            ({}, "id"),
            ({"id": "x"}, "id"),
            ({"id": 1, "name": "x"}, "name"),
            ([1], "object"),
            ("x", "object"),
        ],
    )
    async def test_data_that_does_not_fit(self, data: Any, says: str) -> None:
        async with caller() as endpoint:
            with pytest.raises(BadMessage, match=says):
                await endpoint.call(Envelope(body=Body.of(data)))

    async def test_a_header_that_the_wsdl_declares(self, tmp_path: Path) -> None:
        (tmp_path / "partner.wsdl").write_text(
            with_session_header((HERE / "partner.wsdl").read_text())
        )
        data = {"id": 1, "$headers": {"Session": {"token": "t"}}}
        async with service(soap(PARTNER)) as one:
            await ask(one, Envelope(body=Body.of(data)), folder=tmp_path)
            header = one.sent.getprevious()
            assert header is not None
            assert header[0].tag == f"{{{NS}}}Session"
            assert header[0][0].text == "t"

    async def test_attachments(self) -> None:
        async with caller() as endpoint:
            with pytest.raises(UnsupportedMedia):
                await endpoint.call(xml("--x", "multipart/related; boundary=x"))

    async def test_a_large_message_is_written_beside_the_loop(self) -> None:
        name = "x" * 1_500_000
        data = {"partner": {"name": name, "kind": "person"}}
        answer = soap(f'<createPartnerResponse xmlns="{NS}"><id>5</id></createPartnerResponse>')
        async with service(answer) as one:
            message = Envelope(body=Body(Body.of(data).raw, "application/json"))
            reply = await ask(one, message, operation="createPartner")
            assert reply.body.data == {"id": 5}
            assert one.sent[0][0][0].text == name


class TestHeaderParameters:
    """HTTP headers as SOAP headers that the WSDL declares."""

    MESSAGES = Path(__file__).parents[1] / "soap" / "messages"
    ANSWER = soap('<answer xmlns="urn:t">yes</answer>')

    async def sent(self, data: Any, *headers: tuple[str, str]) -> dict[str, Any]:
        """The text in each SOAP header block that goes out."""
        message = Envelope(body=Body.of(data), headers=Headers(headers))
        async with service(self.ANSWER) as one:
            await ask(
                one, message, folder=self.MESSAGES, wsdl="headers.wsdl", operation="get",
                bind=True, bind_headers=True,
            )  # fmt: skip
            root = etree.fromstring(one.got[-1][2])
        blocks = root.findall("{*}Header/*")
        return {etree.QName(one).localname: "".join(one.itertext()) for one in blocks}

    async def test_text_and_fields(self) -> None:
        found = await self.sent({}, ("SOAP-trace", "a b"), ("soap-session-ID", "7"))
        assert found == {"session": "7", "trace": "a b"}

    async def test_beside_those_of_the_body(self) -> None:
        found = await self.sent({"$headers": {"trace": "t"}}, ("SOAP-session-id", "7"))
        assert found == {"session": "7", "trace": "t"}

    async def test_others_are_left_alone(self) -> None:
        assert await self.sent({}, ("SOAP-nothing", "x"), ("trace", "y")) == {}

    async def test_what_does_not_fit_is_told(self) -> None:
        with pytest.raises(BadMessage, match="the header 'SOAP-session-id' must be a") as caught:
            await self.sent({}, ("SOAP-session-id", "seven"))
        assert caught.value.errors[0]["pointer"] == "/header/SOAP-session-id"
        with pytest.raises(BadMessage, match="one thing in a parameter and another in the body"):
            await self.sent({"$headers": {"session": {"id": 8}}}, ("SOAP-session-id", "7"))


class TestReply:
    async def test_data(self) -> None:
        async with service(soap(PARTNER)) as one:
            reply = await ask(one)
            assert reply.outcome is Outcome.REPLY
            assert reply.content_type == "application/json"
            partner = reply.body.data["partner"]
            assert partner["id"] == 1
            assert partner["tag"] == ["x"]
            assert Decimal(partner["balance"]) == Decimal("10.50")

    async def test_as_xml(self) -> None:
        async with service(soap(PARTNER)) as one:
            reply = await ask(one, reply="xml")
            assert reply.content_type == "application/xml"
            assert reply.body.data.tag == f"{{{NS}}}getPartnerResponse"

    async def test_as_envelope(self) -> None:
        async with service(soap(PARTNER)) as one:
            reply = await ask(one, reply="envelope")
            assert reply.body.raw == soap(PARTNER).encode()

    async def test_in_the_other_version(self) -> None:
        async with service(soap(PARTNER, S12), kind="application/soap+xml") as one:
            assert (await ask(one)).body.data["partner"]["id"] == 1

    async def test_in_another_charset(self) -> None:
        text = soap(PARTNER.replace("<name>A", "<name>Ä")).encode("latin-1")
        async with service(text, kind="text/xml; charset=iso-8859-1") as one:
            assert (await ask(one)).body.data["partner"]["name"] == "Ä"

    async def test_with_attributes_of_soap_itself(self) -> None:
        text = PARTNER.replace("Response xmlns", 'Response s:encodingStyle="" xmlns', 1)
        async with service(soap(text)) as one:
            assert (await ask(one)).body.data["partner"]["id"] == 1

    async def test_with_a_byte_order_mark(self) -> None:
        async with service(b"\xef\xbb\xbf" + soap(PARTNER).encode()) as one:
            assert (await ask(one)).body.data["partner"]["id"] == 1

    @pytest.mark.parametrize("status", [200, 202])
    async def test_one_way(self, status: int) -> None:
        async with service("", status, "") as one:
            reply = await ask(one, operation="dropPartner")
            assert reply.outcome is Outcome.ACCEPTED
            assert one.sent[0].tag == f"{{{NS}}}dropPartner"

    async def test_one_way_that_fails(self) -> None:
        async with service(fault(), 500) as one:
            with pytest.raises(Fault):
                await ask(one, operation="dropPartner")
        async with service(fault(), 200) as one:
            with pytest.raises(Fault):
                await ask(one, operation="dropPartner")
        async with service("", 503, "") as one:
            with pytest.raises(Overloaded):
                await ask(one, operation="dropPartner")

    async def test_send_leaves_out_the_reply(self) -> None:
        async with service(soap("<whatever/>")) as one, caller(one.url) as endpoint:
            await endpoint.send(Envelope(body=Body.of({"id": 1})))
        async with service(fault()) as one, caller(one.url) as endpoint:
            with pytest.raises(Fault):
                await endpoint.send(Envelope(body=Body.of({"id": 1})))

    @pytest.mark.parametrize(
        ("answer", "kind", "says"),
        [
            ("<html><body>Welcome</body></html>", "text/html", "web page"),
            ("<!DOCTYPE html><html></html>", "text/xml", "web page"),
            ("<html xmlns='x'/>", "text/html", "web page"),
            ("", "text/xml", "answered nothing"),
            ("{}", "application/json", "answered application/json, not SOAP"),
            ("hello", "text/plain", "answered text/plain, not SOAP"),
            ("<a/>", "text/xml", "no SOAP envelope but an element 'a'"),
            ("<a>", "text/xml", "not well-formed"),
            ("--x\r\n\r\n", "multipart/related; boundary=x", "attachments"),
            (soap(PARTNER, "urn:x"), "text/xml", "neither SOAP 1.1 nor 1.2"),
            (soap(""), "text/xml", "answered nothing, 'getPartnerResponse' was expected"),
            (soap("<a/>"), "text/xml", "answered 'a', 'getPartnerResponse' was expected"),
            (soap(PARTNER.replace("company", "dog")), "text/xml", "does not fit the WSDL"),
            (
                f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{soap(PARTNER)}',
                "text/xml",
                "DOCTYPE",
            ),
            (
                soap(
                    PARTNER,
                    header="<s:Header><h xmlns='urn:h' s:mustUnderstand='1'/></s:Header>",
                ),
                "text/xml",
                r"\{urn:h\}h must be understood",
            ),
        ],
    )
    async def test_what_is_no_reply(self, answer: str, kind: str, says: str) -> None:
        async with service(answer, 200, kind) as one:
            with pytest.raises(BadReply, match=says):
                await ask(one)

    async def test_a_header_said_to_be_understood(self) -> None:
        header = "<s:Header><h xmlns='urn:h' s:mustUnderstand='1'/></s:Header>"
        async with service(soap(PARTNER, header=header)) as one:
            assert (await ask(one, understood=["urn:h"])).body.data

    @pytest.mark.parametrize(
        ("status", "kind", "error"),
        [
            (404, "text/html", Rejected),
            (401, "", Rejected),
            (302, "text/html", Rejected),
            (500, "text/html", Transient),
            (503, "text/html", Overloaded),
            (504, "text/html", OutcomeUnknown),
        ],
    )
    async def test_an_error_page(self, status: int, kind: str, error: type[EsbError]) -> None:
        async with service("<html>oops</html>" if kind else "", status, kind) as one:
            with pytest.raises(error):
                await ask(one)

    async def test_an_error_with_an_envelope_that_is_no_fault(self) -> None:
        async with service(soap(PARTNER), 500) as one:
            with pytest.raises(Transient):
                await ask(one)

    async def test_nobody_listens(self) -> None:
        async with caller() as endpoint:
            with pytest.raises(Unreachable):
                await endpoint.call(Envelope(body=Body.of({"id": 1})))

    async def test_no_answer(self) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with backend(silent) as url:
            async with caller(url, timeout="300ms") as endpoint:
                with pytest.raises(OutcomeUnknown):
                    await endpoint.call(Envelope(body=Body.of({"id": 1})))
            async with caller(url, timeout="300ms", idempotent=True) as endpoint:
                with pytest.raises(TimedOut):
                    await endpoint.call(Envelope(body=Body.of({"id": 1})))


class TestFault:
    async def fault(self, answer: str, status: int = 500, **options: Any) -> Fault:
        async with service(answer, status, **options) as one:
            with pytest.raises(Fault) as caught:
                await ask(one)
            return caught.value

    @pytest.mark.parametrize("status", [200, 400, 404, 500, 503])
    async def test_declared(self, status: int) -> None:
        error = await self.fault(fault(NOT_FOUND), status)
        assert error.name == "PartnerNotFound"
        assert error.party == "sender"
        assert error.data == {"id": 7, "hint": "try 1"}
        assert error.type == f"{NS}#PartnerNotFound" or error.type == f"{NS}:PartnerNotFound"
        assert error.detail == "no"
        assert error.info["soap"] == {"version": "1.1", "code": "Client"}
        assert error.info["upstream_status"] == status

    async def test_of_soap_12(self) -> None:
        text = soap(
            f"<s:Fault xmlns:x='urn:x'><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>x:Y"
            "</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang='en'>no</s:Text></s:Reason>"
            f"<s:Role>urn:r</s:Role><s:Detail>{NOT_FOUND}</s:Detail></s:Fault>",
            S12,
        )
        error = await self.fault(text, 400, kind="application/soap+xml")
        assert error.name == "PartnerNotFound"
        assert error.info["soap"] == {
            "version": "1.2", "code": "Sender", "subcodes": ["{urn:x}Y"], "actor": "urn:r"
        }  # fmt: skip

    async def test_of_the_server(self) -> None:
        error = await self.fault(fault(code="s:Server", text="disk full"))
        assert (error.name, error.party, error.detail) == ("", "receiver", "disk full")

    async def test_told_by_its_code_alone(self) -> None:
        for code in ("s:Client.PartnerNotFound", "PartnerNotFound"):
            assert (await self.fault(fault(code=code))).name == "PartnerNotFound"

    async def test_a_declared_one_with_data_that_does_not_fit(self) -> None:
        error = await self.fault(
            fault(f'<PartnerNotFound xmlns="{NS}">x<y>1</y></PartnerNotFound>')
        )
        assert error.name == "PartnerNotFound"
        assert error.data == {"y": "1", "#text": "x"}

    async def test_an_undeclared_detail(self) -> None:
        error = await self.fault(fault("<a k='v'>t<b>1</b><b>2</b></a><c/>"))
        assert error.data == {"a": {"@k": "v", "b": ["1", "2"], "#text": "t"}, "c": ""}

    async def test_a_stack_trace_stays_here(self) -> None:
        detail = '<e:exception xmlns:e="http://jax-ws.dev.java.net/">at com.acme.Db</e:exception>'
        error = await self.fault(fault(detail))
        assert error.data is None
        assert "com.acme" not in str(error.info)
        assert "com.acme" in error.__notes__[0]  # for operators

    async def test_without_any_text(self) -> None:
        error = await self.fault(soap("<s:Fault/>"))
        assert error.detail == "the service answered with a fault"

    @pytest.mark.parametrize("status", [429, 503])
    async def test_of_a_gateway_that_is_overloaded(self, status: int) -> None:
        async with service(fault(), status, more="Retry-After: 7\r\n") as one:
            with pytest.raises(Overloaded) as caught:
                await ask(one)
            assert caught.value.retry_after == 7

    async def test_must_understand_is_our_fault(self) -> None:
        assert (await self.fault(fault(code="s:MustUnderstand"))).party == "receiver"


class TestBuild:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"operation": "getPartnr"}, "operation: .*no operation 'getPartnr'.*'getPartner'"),
            ({"operation": "zzzz"}, "there are: createPartner, dropPartner, findPartners"),
            ({"service": "PartnrService"}, "service: .*did you mean 'PartnerService'"),
            ({"port": "PartnerPort"}, "port: .*did you mean 'PartnerPort1"),
            ({"wsdl": "rpc.wsdl", "operation": "add", "soap": "1.2"}, r"soap: .*SOAP 1\.1 only"),
            ({"wsdl": "absent.wsdl"}, "no file absent.wsdl"),
            ({"wsdl": "server.php"}, "wsdl: "),
            ({"bind": ["idd"]}, "bind.0: .*no input 'idd'.*did you mean 'id'"),
        ],
    )
    async def test_mistakes(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(BuildFailed, match=says):
            async with caller(**options):
                pass

    def test_options_that_are_wrong(self) -> None:
        role = adapter.caller
        assert role is not None
        for wrong in ({"url": "ftp://x"}, {"soap": "1.3"}, {"reply": "json"}, {"wsdl": None}):
            raw = {"wsdl": "partner.wsdl", "operation": "getPartner", **wrong}
            with pytest.raises(ValueError):
                role.options.model_validate(raw)

    async def test_a_wsdl_is_read_once(self) -> None:
        build = FakeBuild(HERE)
        role = adapter.caller
        assert role is not None
        one, two = (
            role.make(
                role.options.model_validate({"wsdl": "partner.wsdl", "operation": name}), build
            )
            for name in ("getPartner", "createPartner")
        )
        assert one._found.port is two._found.port


class TestBind:
    async def test_path_and_query(self) -> None:
        message = Envelope(params={"path": {"id": "12"}, "query": {}})
        async with service(soap(PARTNER)) as one:
            await ask(one, message, bind=["id"])
            assert one.sent[0][0].text == "12"

    async def test_all_of_the_query(self) -> None:
        query = {"name": "x", "active": "true", "limit": "3", "tag": ["a", "b"]}
        message = Envelope(params={"query": query})
        answer = soap(f'<findPartnersResponse xmlns="{NS}"/>')
        async with service(answer) as one:
            await ask(one, message, operation="findPartners", bind=True)
            assert [e.text for e in one.sent[0]] == ["x", "true", "3", "a", "b"]
            with pytest.raises(BadMessage, match="'limt'"):
                await ask(one, Envelope(params={"query": {"limt": "1"}}),
                          operation="findPartners", bind=True)  # fmt: skip
