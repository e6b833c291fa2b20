"""SOAP envelopes and faults of both versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from esb.errors import BadMessage
from esb_soap.envelope import (
    NS,
    MustUnderstand,
    SoapFault,
    Version,
    VersionMismatch,
    check_understood,
    content_type,
    read_envelope,
    read_fault,
    soap_action,
    write_envelope,
    write_fault,
)

VERSIONS: list[Version] = ["1.1", "1.2"]
E11 = 'xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
E12 = 'xmlns:s="http://www.w3.org/2003/05/soap-envelope"'


def fault_of(text: str, ns: str = E11) -> SoapFault:
    message = read_envelope(f"<s:Envelope {ns}><s:Body>{text}</s:Body></s:Envelope>".encode())
    assert message.fault is not None
    return read_fault(message.fault)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_read(version: Version) -> None:
    raw = write_envelope(version, b"<a xmlns='urn:x'>1</a>", [b"<h xmlns='urn:h'/>"])
    message = read_envelope(raw)
    assert message.version == version
    assert message.content is not None
    assert message.content.tag == "{urn:x}a"
    assert message.header is not None
    assert message.header[0].tag == "{urn:h}h"
    assert message.fault is None


def test_an_envelope_without_header_and_content() -> None:
    message = read_envelope(write_envelope("1.1", b""))
    assert message.header is None
    assert message.content is None


def test_comments_before_inside_and_after() -> None:
    message = read_envelope(
        f"<!-- a --><s:Envelope {E11}><!-- b --><s:Body><!-- c --><x/><!-- d --></s:Body>"
        "<!-- e --></s:Envelope><!-- f -->".encode()
    )
    assert message.content is not None
    assert message.content.tag == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("<html><body>", "not well-formed"),
        ("<html/>", "no SOAP envelope but an element 'html'"),
        ("{}", "not well-formed"),
        (f"<s:Envelope {E11}/>", "no Body"),
        (f"<s:Envelope {E11}><x/><s:Body/></s:Envelope>", "'x' out of place"),
        (f"<s:Envelope {E12}><s:Body/><x/></s:Envelope>", "'x' out of place"),
        (f"<s:Envelope {E11}><s:Body/><s:Body/></s:Envelope>", "'Body' out of place"),
        (f"<s:Envelope {E11}><s:Body/><s:Header/></s:Envelope>", "'Header' out of place"),
        (f"<s:Envelope {E11}><s:Body/><x:y xmlns:x='urn:x'/></s:Envelope>", None),
        (f"<!DOCTYPE x><s:Envelope {E11}><s:Body/></s:Envelope>", "DOCTYPE"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
            f"<s:Envelope {E11}><s:Body>&x;</s:Body></s:Envelope>",
            "DOCTYPE",
        ),
    ],
)
def test_what_is_no_envelope(text: str, says: str | None) -> None:
    if says is None:
        assert read_envelope(text.encode()).content is None  # SOAP 1.1 lets others follow the Body
        return
    with pytest.raises(BadMessage, match=says):
        read_envelope(text.encode())


@pytest.mark.parametrize("ns", ["", "http://www.w3.org/2001/12/soap-envelope", "urn:x"])
def test_an_envelope_of_another_version(ns: str) -> None:
    with pytest.raises(VersionMismatch):
        read_envelope(f'<Envelope xmlns="{ns}"><Body/></Envelope>'.encode())


def test_multi_reference_values_are_not_the_content() -> None:
    enc = 'xmlns:enc="http://schemas.xmlsoap.org/soap/encoding/"'
    message = read_envelope(
        f'<s:Envelope {E11} {enc}><s:Body><multiRef id="id0" enc:root="0"/><opResponse/>'
        "</s:Body></s:Envelope>".encode()
    )
    assert message.content is not None
    assert message.content.tag == "opResponse"


class TestMustUnderstand:
    def check(self, header: str, *understood: str, ns: str = E11) -> None:
        text = f"<s:Envelope {ns}><s:Header>{header}</s:Header><s:Body/></s:Envelope>"
        check_understood(read_envelope(text.encode()), frozenset(understood))

    def test_what_need_not_be_understood(self) -> None:
        self.check('<h xmlns="urn:h"/><h xmlns="urn:h" s:mustUnderstand="0"/>')

    @pytest.mark.parametrize("ns", [E11, E12])
    def test_unknown(self, ns: str) -> None:
        with pytest.raises(MustUnderstand) as caught:
            self.check('<h xmlns="urn:h" s:mustUnderstand="1"/>', ns=ns)
        assert caught.value.names == ("{urn:h}h",)

    def test_known_by_name_or_namespace(self) -> None:
        self.check('<h xmlns="urn:h" s:mustUnderstand="1"/>', "{urn:h}h")
        self.check('<h xmlns="urn:h" s:mustUnderstand="1"/>', "urn:h")

    def test_meant_for_somebody_else(self) -> None:
        self.check('<h xmlns="urn:h" s:mustUnderstand="1" s:actor="urn:other"/>')
        self.check('<h xmlns="urn:h" s:mustUnderstand="true" s:role="urn:other"/>', ns=E12)

    def test_meant_for_the_next(self) -> None:
        actor = "http://schemas.xmlsoap.org/soap/actor/next"
        with pytest.raises(MustUnderstand):
            self.check(f'<h xmlns="urn:h" s:mustUnderstand="1" s:actor="{actor}"/>')


class TestReadFault:
    def test_soap_11(self) -> None:
        fault = fault_of(
            "<s:Fault><faultcode>s:Client.Auth</faultcode><faultstring> no \n way </faultstring>"
            "<faultactor>urn:me</faultactor><detail><d xmlns='urn:d'/></detail></s:Fault>"
        )
        assert (fault.code, fault.reason, fault.actor) == ("Client.Auth", "no way", "urn:me")
        assert fault.party == "sender"
        assert fault.detail[0].tag == "{urn:d}d"

    @pytest.mark.parametrize(
        ("written", "code", "party"),
        [
            ("s:Server", "Server", "receiver"),
            ("Server", "Server", "receiver"),
            ("Client", "Client", "sender"),
            ("SOAP-ENV:Client", "SOAP-ENV:Client", "receiver"),  # an undeclared prefix
            ("x:Own", "{urn:x}Own", "receiver"),
            ("PartnerNotFound", "PartnerNotFound", "receiver"),
            ("", "", "receiver"),
        ],
    )
    def test_codes(self, written: str, code: str, party: str) -> None:
        fault = fault_of(f'<s:Fault xmlns:x="urn:x"><faultcode>{written}</faultcode></s:Fault>')
        assert (fault.code, fault.party) == (code, party)

    def test_soap_12(self) -> None:
        fault = fault_of(
            "<s:Fault xmlns:x='urn:x'><s:Code><s:Value>s:Sender</s:Value><s:Subcode>"
            "<s:Value>x:Outer</s:Value><s:Subcode><s:Value>x:Inner</s:Value></s:Subcode>"
            "</s:Subcode></s:Code><s:Reason><s:Text xml:lang='de'>nein</s:Text>"
            "<s:Text xml:lang='en-GB'>no</s:Text></s:Reason><s:Node>urn:n</s:Node>"
            "<s:Role>urn:r</s:Role><s:Detail><d/></s:Detail></s:Fault>",
            E12,
        )
        assert fault == SoapFault(
            "Sender", "no", ("{urn:x}Outer", "{urn:x}Inner"), "urn:r", "urn:n", fault.detail
        )
        assert fault.party == "sender"
        assert [d.tag for d in fault.detail] == ["d"]

    def test_sloppy(self) -> None:
        fault = fault_of(
            "<s:Fault><s:faultcode>s:Client</s:faultcode><s:faultstring>x</s:faultstring></s:Fault>"
        )
        assert (fault.code, fault.reason) == ("Client", "x")
        assert fault_of("<s:Fault/>") == SoapFault("", "")
        assert fault_of("<s:Fault/>", E12).party == "receiver"

    def test_a_reason_only_in_the_detail(self) -> None:
        assert fault_of("<s:Fault><detail>told here</detail></s:Fault>").reason == "told here"

    def test_a_comment_does_not_cut_a_text(self) -> None:
        fault = fault_of("<s:Fault><faultstring>ab<!-- -->cd</faultstring></s:Fault>")
        assert fault.reason == "abcd"


class TestWriteFault:
    @pytest.mark.parametrize("version", VERSIONS)
    @given(reason=st.text(max_size=40), actor=st.text("abc:/", max_size=9))
    def test_any_text_can_be_told(self, version: Version, reason: str, actor: str) -> None:
        raw = write_fault(version, "sender", reason, actor=actor, detail=b"<d/>")
        fault = read_envelope(raw).fault
        assert fault is not None
        read = read_fault(fault)
        assert read.party == "sender"
        assert read.actor == actor
        assert [d.tag for d in read.detail] == ["d"]
        if reason.isprintable():
            assert read.reason == " ".join(reason.split())

    def test_children_of_soap_11_have_no_namespace(self) -> None:
        root = etree.fromstring(write_fault("1.1", "receiver", "r", actor="a", detail=b"<d/>"))
        names = [child.tag for child in root[0][0]]
        assert names == ["faultcode", "faultstring", "faultactor", "detail"]
        assert root[0][0][0].text == "soap:Server"

    def test_subcodes(self) -> None:
        raw = write_fault("1.2", "sender", "r", subcodes=["{urn:a?b&c}Outer", "{urn:x}Inner"])
        fault = read_envelope(raw).fault
        assert fault is not None
        assert read_fault(fault).subcodes == ("{urn:a?b&c}Outer", "{urn:x}Inner")

    def test_not_understood_is_told_in_headers(self) -> None:
        raw = write_fault("1.2", "MustUnderstand", "r", not_understood=["{urn:h}a", "b"])
        header = read_envelope(raw).header
        assert header is not None
        assert [block.tag for block in header] == [f"{{{NS['1.2']}}}NotUnderstood"] * 2
        assert header[0].get("qname") == "h:a"
        assert header[0].nsmap["h"] == "urn:h"

    def test_a_version_mismatch_says_what_is_read(self) -> None:
        header = read_envelope(write_fault("1.1", "VersionMismatch", "r")).header
        assert header is not None
        supported = [str(e.get("qname")).partition(":") for e in header[0]]
        assert [header[0][i].nsmap[p] for i, (p, _, _) in enumerate(supported)] == [
            NS["1.2"],
            NS["1.1"],
        ]


def test_content_types_and_actions() -> None:
    assert content_type("1.1", "urn:a") == "text/xml; charset=utf-8"
    assert content_type("1.2") == "application/soap+xml; charset=utf-8"
    assert content_type("1.2", "urn:a") == 'application/soap+xml; charset=utf-8; action="urn:a"'
    assert soap_action("") == '""'
    assert soap_action('a"b') == '"a\\"b"'
