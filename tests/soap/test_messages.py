"""Whole messages: parts and headers, rpc literal and by the SOAP encoding, kinds of operations.

The XML is written by hand from WSDL 1.1 section 3, SOAP 1.1 sections 5 and 7, and SOAP 1.2 part 2
section 3.
"""

from __future__ import annotations

import functools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.wsdl import Feature, canonical, element, exact, inside

from esb.errors import BadMessage
from esb_soap.certify import certify
from esb_soap.wsdl import Message, Operation, Wsdl, load_wsdl

FOLDER = Path(__file__).resolve().parent / "messages"


@functools.cache
def wsdl(name: str) -> Wsdl:
    return load_wsdl(FOLDER / f"{name}.wsdl")


def operation(name: str, of: str) -> Operation:
    return next(o for _, _, o in wsdl(name).operations() if o.name == of)


def read(message: Message, body: str, header: str = "") -> Any:
    return message.read(inside(body), inside(header))


def refused(message: Message, body: str, header: str = "") -> list[tuple[str, str]]:
    with pytest.raises(BadMessage) as error:
        read(message, body, header)
    return [(one["pointer"], one["detail"]) for one in error.value.errors]


def not_written(message: Message, data: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadMessage) as error:
        message.write(data)
    return [(one["pointer"], one["detail"]) for one in error.value.errors]


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.wsdl")))
def test_each_is_certified(name: str) -> None:
    report = certify(FOLDER / f"{name}.wsdl")
    assert report.exceptions == []
    assert report.certified == report.operations > 0


# --- header blocks -------------------------------------------------------------------------------


def test_header_blocks_are_keys_of_headers() -> None:
    get = operation("headers", "get").input
    data = {"$headers": {"session": {"id": 7}, "trace": "abc"}}
    written = get.write(data)
    assert canonical(written.body) == canonical(element("<get/>"))
    assert [canonical(block) for block in written.headers] == [
        canonical(element("<session><id>7</id></session>")),
        canonical(element("<trace>abc</trace>")),
    ]
    header = "<session><id>7</id></session><u:unknown/><trace>abc</trace>"
    assert read(get, "<get/>", header) == data
    assert Feature(wsdl("headers"), get).refused_by_schema(data) == ""


def test_header_blocks_may_be_absent() -> None:
    get = operation("headers", "get").input
    assert get.write({}).headers == []
    assert read(get, "<get/>") == {}
    assert Feature(wsdl("headers"), get).refused_by_schema({}) == ""


def test_beside_header_blocks_data_that_are_no_object_are_the_body() -> None:
    answer = operation("headers", "get").output
    assert answer is not None
    data = {"$body": "yes", "$headers": {"trace": "abc"}}
    written = answer.write(data)
    assert canonical(written.body) == canonical(element("<answer>yes</answer>"))
    assert read(answer, "<answer>yes</answer>", "<trace>abc</trace>") == data
    assert read(answer, "<answer>yes</answer>") == {"$body": "yes"}
    schema = Feature(wsdl("headers"), answer)
    assert schema.refused_by_schema(data) == ""
    assert schema.refused_by_schema("yes") != ""


def test_header_blocks_that_do_not_fit() -> None:
    get = operation("headers", "get").input
    assert not_written(get, {"$headers": {"session": {}}}) == [
        ("/$headers/session/id", "is missing")
    ]
    assert not_written(get, {"$headers": {"sesion": {}}}) == [("/$headers/sesion", "is not known")]
    assert not_written(get, {"$headers": []}) == [("/$headers", "must be an object")]
    assert refused(get, "<get/>", "<session><id>x</id></session>") == [
        ("/$headers/session/id", "must be a whole number, not 'x'")
    ]


# --- parts ---------------------------------------------------------------------------------------


def test_several_parts_are_an_object_of_them() -> None:
    both = operation("parts", "both").input
    data = {"first": 1, "second": {"a": "x"}}
    xml = "<one>1</one><two><a>x</a></two>"
    assert canonical(b"<Body>" + both.write(data).body + b"</Body>") == canonical(
        b'<Body xmlns:t="urn:t"><t:one>1</t:one><t:two><t:a>x</t:a></t:two></Body>'
    )
    assert read(both, xml) == data
    schema = Feature(wsdl("parts"), both)
    assert schema.refused_by_schema(data) == ""
    for wrong, errors in (
        ({"first": 1}, [("/second", "is missing")]),
        ({**data, "third": 1}, [("/third", "is not known")]),
        ({"first": "x", "second": {}}, [("/first", "must be a whole number, not the string 'x'")]),
        ([], [("", "must be an object")]),
    ):
        assert not_written(both, wrong) == errors
        assert schema.refused_by_schema(wrong) != ""
    assert refused(both, "<one>1</one>") == [("/second", "is missing")]
    assert refused(both, xml + "<one>1</one>") == [("", "'one' is not expected in the Body")]
    assert refused(both, "<one>1</one><two><b/></two>")[0][0] == "/second/b"


def test_parts_names_those_in_the_body() -> None:
    chosen = operation("parts", "chosen").input
    assert canonical(chosen.write({"a": "x"}).body) == canonical(element("<two><a>x</a></two>"))
    assert read(chosen, "<two/>") == {}


def test_a_body_may_be_empty() -> None:
    none = operation("parts", "both").output
    assert none is not None
    assert none.write({}).body == none.write(None).body == b""
    assert read(none, "") == {}
    assert refused(none, "<one>1</one>") == [("", "'one' is not expected in the Body")]


# --- rpc -----------------------------------------------------------------------------------------


def test_rpc_literal_has_a_wrapper_and_parameters_without_namespace() -> None:
    move = operation("rpc-literal", "move")
    data = {"from": {"x": 1, "y": 2}, "by": Decimal("0.5")}
    xml = (
        '<r:move xmlns:r="urn:r"><from xmlns=""><t:x>1</t:x><t:y>2</t:y></from>'
        '<by xmlns="">0.5</by></r:move>'
    )
    assert canonical(move.input.write(data).body) == canonical(element(xml))
    assert exact(read(move.input, xml)) == exact(data)
    # Their order means nothing.
    assert read(
        move.input,
        '<r:move xmlns:r="urn:r"><by xmlns="">0.5</by><from xmlns=""><t:x>1</t:x></from></r:move>',
    ) == {"from": {"x": 1}, "by": Decimal("0.5")}
    assert move.output is not None
    answer = '<r:moveResponse xmlns:r="urn:r"><to xmlns=""><t:x>3</t:x></to></r:moveResponse>'
    assert canonical(move.output.write({"to": {"x": 3}}).body) == canonical(element(answer))
    assert read(move.output, answer) == {"to": {"x": 3}}
    assert refused(move.input, '<r:move xmlns:r="urn:r"><from xmlns=""/></r:move>')[0][0] == (
        "/from/x"
    )
    assert refused(move.input, "<move/>") == [("", "is '{urn:t}move' and not '{urn:r}move'")]


def test_rpc_without_parameters() -> None:
    ping = operation("rpc-literal", "ping")
    assert canonical(ping.input.write({}).body) == canonical(element('<ping xmlns="urn:r"/>'))
    assert read(ping.input, '<ping xmlns="urn:r"/>') == {}
    assert ping.output is not None
    assert read(ping.output, '<pingResponse xmlns="urn:r"/>') == {}


ORDER = {
    "id": "o1",
    "items": [{"name": "a", "count": 1}, {"@type": "Special", "name": "b", "why": "so"}],
    "table": [[1, 2], [], [3]],
    "best": {"name": "c"},
    "extra": {"@type": "xs:date", "#text": "2026-11-24"},
}

ORDER_11 = (
    '<r:order xmlns:r="urn:r" xmlns=""'
    ' env:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
    '<id xsi:type="xs:string">o1</id>'
    '<items xsi:type="soapenc:Array" soapenc:arrayType="t:Item[2]">'
    '<item xsi:type="t:Item"><name xsi:type="xs:string">a</name>'
    '<count xsi:type="xs:int">1</count></item>'
    '<item xsi:type="t:Special"><name xsi:type="xs:string">b</name>'
    '<why xsi:type="xs:string">so</why></item></items>'
    '<table xsi:type="soapenc:Array" soapenc:arrayType="xs:int[][3]">'
    '<item xsi:type="soapenc:Array" soapenc:arrayType="xs:int[2]">'
    '<item xsi:type="xs:int">1</item><item xsi:type="xs:int">2</item></item>'
    '<item xsi:type="soapenc:Array" soapenc:arrayType="xs:int[0]"/>'
    '<item xsi:type="soapenc:Array" soapenc:arrayType="xs:int[1]">'
    '<item xsi:type="xs:int">3</item></item></table>'
    '<best xsi:type="t:Item"><name xsi:type="xs:string">c</name></best>'
    '<extra xsi:type="xs:date">2026-11-24</extra></r:order>'
)


def test_the_soap_encoding_says_types_and_sizes() -> None:
    order = operation("rpc-encoded", "order").input
    assert canonical(order.write(ORDER).body) == canonical(element(ORDER_11))
    assert exact(read(order, ORDER_11)) == exact(ORDER)
    assert Feature(wsdl("rpc-encoded"), order).refused_by_schema(ORDER) == ""


def test_the_soap_encoding_of_soap_12() -> None:
    order = operation("rpc-encoded-12", "order").input
    data = {**ORDER, "items": [{"name": "a"}], "table": []}
    xml = (
        '<r:order xmlns:r="urn:r" xmlns=""'
        ' env12:encodingStyle="http://www.w3.org/2003/05/soap-encoding">'
        '<id xsi:type="xs:string">o1</id>'
        '<items xsi:type="enc:Array" enc:itemType="t:Item" enc:arraySize="1">'
        '<item xsi:type="t:Item"><name xsi:type="xs:string">a</name></item></items>'
        '<table xsi:type="enc:Array" enc:itemType="enc:Array" enc:arraySize="0"/>'
        '<best xsi:type="t:Item"><name xsi:type="xs:string">c</name></best>'
        '<extra xsi:type="xs:date">2026-11-24</extra></r:order>'
    )
    assert canonical(order.write(data).body) == canonical(element(xml))
    assert exact(read(order, xml)) == exact(data)


def test_values_by_reference() -> None:
    order = operation("rpc-encoded", "order").input
    # As Axis writes it: what is referred to stands beside the wrapper; and within, and in a chain.
    body = (
        '<r:order xmlns:r="urn:r" xmlns=""><id>o1</id><items href="#i"/>'
        '<table soapenc:arrayType="xs:int[][0]"/><best href="#a"/><extra xsi:nil="1"/></r:order>'
        '<multiRef xmlns="" id="i" soapenc:root="0" soapenc:arrayType="t:Item[2]">'
        '<Item href="#a"/><Item href="#b"/></multiRef>'
        '<multiRef xmlns="" id="a" xsi:type="t:Item"><name>a</name></multiRef>'
        '<multiRef xmlns="" id="b" xsi:type="t:Special"><why>so</why><name href="#n"/></multiRef>'
        '<multiRef xmlns="" id="n" xsi:type="xs:string">b</multiRef>'
    )
    assert read(order, body) == {
        "id": "o1",
        "items": [{"name": "a"}, {"@type": "Special", "name": "b", "why": "so"}],
        "table": [],
        "best": {"name": "a"},
        "extra": None,
    }


def test_a_parameter_left_out() -> None:
    """Read as the null that it means; ours are written, so that nobody reads a zero there."""
    order = operation("rpc-encoded", "order").input
    body = '<r:order xmlns:r="urn:r" xmlns=""><id/><items/><table/><best><name/></best></r:order>'
    assert read(order, body)["extra"] is None
    assert not_written(order, {k: v for k, v in ORDER.items() if k != "extra"}) == [
        ("/extra", "is missing")
    ]


def test_references_of_soap_12() -> None:
    order = operation("rpc-encoded-12", "order").input
    body = (
        '<r:order xmlns:r="urn:r" xmlns=""><id enc:id="x">o1</id>'
        '<items enc:itemType="t:Item" enc:arraySize="1"><item enc:ref="b"/></items>'
        '<table/><best enc:id="b"><name enc:ref="x"/></best><extra/></r:order>'
    )
    assert read(order, body) == {
        "id": "o1",
        "items": [{"name": "o1"}],
        "table": [],
        "best": {"name": "o1"},
        "extra": "",
    }


def test_what_the_encoding_cannot_mean() -> None:
    order = operation("rpc-encoded", "order").input
    start = '<r:order xmlns:r="urn:r" xmlns=""><id/><items/><table/>'
    assert refused(order, start + '<best href="#no"/><extra/></r:order>') == [
        ("/best", "refers to 'no', which is not there")
    ]
    assert refused(order, start + '<best id="b"><name href="#b"/></best><extra/></r:order>') == [
        ("/best/name", "contains itself, which data cannot")
    ]
    assert refused(
        order, start + '<best href="#1"/><extra/></r:order><m id="1" href="#1" xmlns=""/>'
    ) == [("/best", "is a reference to a reference to a reference and so on")]
    assert refused(order, start + "<best><nmae/></best><extra/></r:order>") == [
        ("/best/nmae", "is not known")
    ]
    assert refused(order, start + "<best><name/><count>x</count></best><extra/></r:order>") == [
        ("/best/count", "must be a whole number, not 'x'")
    ]
    assert not_written(order, {**ORDER, "items": [{"name": "a", "count": "x"}]}) == [
        ("/items/0/count", "must be a whole number, not the string 'x'")
    ]
    assert not_written(order, {**ORDER, "table": [[1], 2]}) == [
        ("/table/1", "must be an array, not the number 2")
    ]


def test_an_array_of_several_dimensions_is_refused() -> None:
    order = operation("rpc-encoded", "order").input
    data = {**ORDER, "extra": {"@type": "Grid", "$items": [1, 2]}}
    assert not_written(order, data) == [
        ("/extra", "is an array of several dimensions, which is not supported")
    ]
    body = (
        '<r:order xmlns:r="urn:r" xmlns=""><id/><items/><table/><best><name/></best>'
        '<extra xsi:type="t:Grid" soapenc:arrayType="xs:int[1,1]"><i>1</i></extra></r:order>'
    )
    assert refused(order, body) == [
        ("/extra", "is an array of several dimensions, which is not supported")
    ]


def test_a_bomb_of_references_is_refused() -> None:
    order = operation("rpc-encoded", "order").input
    # Ten references each to the next level's ten: a billion values in a few kilobytes.
    levels = "".join(
        f'<m xmlns="" id="{n}" soapenc:arrayType="xs:anyType[10]">'
        + f'<i href="#{n + 1}"/>' * 10
        + "</m>"
        for n in range(9)
    )
    body = (
        '<r:order xmlns:r="urn:r" xmlns=""><id/><items/><table/><best><name/></best>'
        f'<extra href="#0"/></r:order>{levels}<m xmlns="" id="9">x</m>'
    )
    [(_, words)] = refused(order, body)
    assert words == "the message has more than 200000 values"


# --- operations ----------------------------------------------------------------------------------


def test_overloads_are_told_by_their_input() -> None:
    assert [o.name for _, _, o in wsdl("operations").operations()] == [
        "find_byId", "find_byName", "tell"
    ]  # fmt: skip
    by_name = operation("operations", "find_byName")
    assert by_name.input.element == "{urn:t}name"
    assert by_name.output is not None
    assert by_name.output.element == "{urn:t}id"


def test_one_way_has_no_output() -> None:
    tell = operation("operations", "tell")
    assert tell.one_way
    assert tell.output is None


def test_what_cannot_be_used_is_told() -> None:
    [told] = wsdl("operations").skipped
    assert told.startswith("operation 'called':")
    assert "the service starts it" in told


def test_faults_are_elements_of_the_detail() -> None:
    gone = operation("operations", "find_byId").faults["gone"]
    assert gone.element == "{urn:t}gone"
    assert canonical(gone.write({})) == canonical(element("<gone/>"))
    assert gone.read(etree.fromstring('<gone xmlns="urn:t"/>')) == {}


@pytest.mark.parametrize("parts", ['parts="order"', ""])
@pytest.mark.parametrize(
    ("style", "told"), [("document", 'element="t:order"'), ("rpc", 'type="x:int"')]
)
def test_a_part_that_is_an_attachment_is_told_and_not_in_the_body(
    style: str, told: str, parts: str, tmp_path: Path
) -> None:
    """WSDL 1.1, section 5; messages with attachments are not there yet."""
    path = tmp_path / "attached.wsdl"
    path.write_text(f"""
<definitions targetNamespace="urn:t" xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:t="urn:t"
             xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
             xmlns:mime="http://schemas.xmlsoap.org/wsdl/mime/"
             xmlns:x="http://www.w3.org/2001/XMLSchema">
  <types><x:schema targetNamespace="urn:t"><x:element name="order" type="x:int"/></x:schema></types>
  <message name="in"><part name="order" {told}/><part name="scan" type="x:base64Binary"/></message>
  <portType name="P"><operation name="send"><input message="t:in"/></operation></portType>
  <binding name="B" type="t:P">
    <soap:binding style="{style}" transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="send">
      <input>
        <mime:multipartRelated>
          <mime:part><soap:body {parts} use="literal" namespace="urn:t"/></mime:part>
          <mime:part><mime:content part="scan" type="image/png"/></mime:part>
          <mime:part><mime:content part="scan" type="image/jpeg"/></mime:part>
        </mime:multipartRelated>
      </input>
    </operation>
  </binding>
</definitions>""")
    loaded = load_wsdl(path)
    [(_, _, found)] = loaded.operations()
    data: Any = 5 if style == "document" else {"order": 5}
    assert b"5" in found.input.write(data).body
    assert loaded.skipped == [
        "operation 'send': attached.wsdl:15: its part 'scan' is an attachment, which messages here "
        "do not have"
    ]
