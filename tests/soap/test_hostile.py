"""Whatever comes in: it is read or written, or refused with BadMessage (WsdlError for a WSDL)."""

from __future__ import annotations

import functools
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lxml import etree
from support.wsdl import FEATURES, NAMESPACES, Feature, around, feature_of
from support.wsdl import feature as load_feature

from esb.errors import BadMessage
from esb_soap.components import XSI
from esb_soap.documents import WsdlError
from esb_soap.instances import Instances
from esb_soap.samples import NoSample, Sampler
from esb_soap.wsdl import load_wsdl

feature = functools.cache(load_feature)

DOCUMENTS = sorted(path.stem for path in FEATURES.glob("*.wsdl"))

each_feature = pytest.mark.parametrize("name", DOCUMENTS)
often = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)

NASTY: list[Any] = [
    None, True, 0, -1, 2**64, 10**4299, -(10**4299), 0.5, float("nan"), float("-inf"),
    Decimal("NaN"), Decimal("1E+999999"), Decimal("-0"), "", " ", "\0", "\0{urn:t}x\0", "\x1b",
    "\ud800", "\uffff", "]]>", "<a>&b;", "'\"", "x" * 10_000, "{", "{}", "{}x", "{urn:t}",
    "{urn:t}it", "{urn:x}a:b", "{urn:'\"<&>}x", "xs:int", "xs:", "@", "@type", "#text", [], {},
    [[]], [None], {"": ""}, {"@": ""}, {"@type": 5}, {"@type": "xs:int"}, {"@xsi:nil": True},
    {"@type": "xs:int", "#text": "x"}, {"@type": "xs:anyType", "#text": "x"}, {"#text": None},
    {"#mixed": None}, {"#mixed": [None]}, {"$any": None}, {"$any": [{"": ""}]},
    {"$any": [{"{urn:x}y": None}]}, {"$items": []}, {"@{urn:x}y": "z"}, {"@xmlns": "z"},
    {"@xmlns:a": "z"}, {"@{http://www.w3.org/2000/xmlns/}a": "z"}, b"bytes", (1, 2), {1: 2},
]  # fmt: skip

anything = st.recursive(
    st.sampled_from(NASTY) | st.text(max_size=5) | st.integers() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["@type", "@xsi:type", "@xsi:nil", "#text", "#mixed", "$any", "$items",
                         "$choice", "$sequence", "a", "@a", "it", "{urn:x}y"])
        | st.text(max_size=3),
        inner, max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


def element_of(it: Feature) -> Any:
    [element] = it.message.parts.values()
    return element


def replaced(data: Any, rng: random.Random, new: Any) -> Any:
    """Data with `new` somewhere in them."""
    if isinstance(data, dict) and data and rng.random() < 0.8:
        key = rng.choice(list(data))
        if rng.random() < 0.1:
            return {**data, rng.choice(["@type", "@a", "#text", "x"]): new}
        return {**data, key: replaced(data[key], rng, new)}
    if isinstance(data, list) and data and rng.random() < 0.8:
        copied = list(data)
        index = rng.randrange(len(data))
        copied[index] = replaced(data[index], rng, new)
        return copied
    return new


@each_feature
@given(seed=st.integers(0, 2**32), new=anything)
@often
def test_data_are_written_as_xml_or_refused(name: str, seed: int, new: Any) -> None:
    it = feature(name)
    rng = random.Random(seed)
    try:
        data = Sampler(it.wsdl.mapping, "random", rng).element(element_of(it))
    except NoSample:
        assume(False)
    data = replaced(data, rng, new)
    try:
        written = it.write(data)
    except BadMessage as e:
        assert_fit_for_callers(e)
    else:
        it.message.codec.read(element_of(it), etree.fromstring(written), "it")


def assert_fit_for_callers(error: BadMessage) -> None:
    """Nothing of Python, nothing of the code in what a caller is told."""
    assert error.errors
    for one in error.errors:
        assert one["detail"]
        for word in ("NoneType", "object has no", "subscriptable", "unhashable", "Exceeds",
                     "argument", "<class", "Unfit", "expected str", "codec can't"):  # fmt: skip
            assert word not in one["detail"], one


TEXTS = ["", " ", "x", "1", "-1", "1e999", "INF", "2026-11-24", "\u0661", "x" * 5000, "true", "]]>"]
NAMES = ["{urn:t}it", "{urn:t}a", "{urn:u}a", "a", "{urn:t}name", "{urn:t}known", "{urn:x}y"]
XSI_VALUES = [
    "",
    " ",
    "true",
    "1",
    "maybe",
    "t:",
    ":",
    "t:Employee",
    "xs:int",
    "no:no",
    "xs:anyType",
]


def damaged(root: etree._Element, rng: random.Random) -> None:
    """Change something in a document."""
    node = rng.choice(list(root.iter("*")))
    match rng.randrange(8):
        case 0:
            node.text = rng.choice(TEXTS)
        case 1 if node is not root:
            node.tag = rng.choice(NAMES)
        case 2:
            etree.SubElement(node, rng.choice(NAMES)).text = rng.choice(TEXTS)
        case 3 if node is not root:
            node.getparent().remove(node)
        case 4:
            node.set(rng.choice(["a", "id", "{urn:x}y", f"{{{XSI}}}foo"]), rng.choice(TEXTS))
        case 5:
            node.set(f"{{{XSI}}}{rng.choice(['type', 'nil'])}", rng.choice(XSI_VALUES))
        case 6:
            node[:] = sorted(node, key=lambda _: rng.random())
        case _:
            node.insert(0, rng.choice([etree.Comment("c"), etree.ProcessingInstruction("p")]))


@each_feature
@given(seed=st.integers(0, 2**32))
@often
def test_xml_is_read_or_refused(name: str, seed: int) -> None:
    it = feature(name)
    rng = random.Random(seed)
    try:
        made = Instances(it.wsdl.mapping, seed).element(element_of(it))
    except NoSample:
        assume(False)
    prefixes: dict[str | None, str] = {key or None: uri for key, uri in NAMESPACES.items()}
    node = etree.Element(made.tag, made.attrib, nsmap=prefixes)
    node.text = made.text
    node[:] = list(made)
    for _ in range(rng.randint(1, 3)):
        damaged(node, rng)
    try:
        data = it.message.codec.read(element_of(it), node, "it")
    except BadMessage as e:
        assert_fit_for_callers(e)
    else:
        it.message.codec.read(element_of(it), etree.fromstring(it.write(data)), "it")


def nested(depth: int, data: Any, wrap: Any) -> Any:
    for _ in range(depth):
        data = wrap(data)
    return data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("recursion", nested(5000, {"name": ""}, lambda d: {"name": "", "folder": [d]})),
        ("any-type", {"any": [nested(5000, "x", lambda d: {"$any": [{"{urn:x}y": d}]})]}),
        ("wildcards", {"a": 1, "$any": [{"{urn:x}y": nested(5000, "", lambda d: {"#mixed": [
            {"{urn:x}y": d}]})}]}),
    ],
)  # fmt: skip
def test_data_nested_too_deep_are_refused(name: str, data: Any) -> None:
    with pytest.raises(BadMessage, match="nested too deep"):
        feature(name).write(data)


@pytest.mark.parametrize("inside", ["folder", "{urn:t}folder"])
def test_xml_nested_too_deep_is_refused(inside: str) -> None:
    node = root = etree.Element("{urn:t}it")
    for _ in range(5000):
        etree.SubElement(node, "{urn:t}name")
        node = etree.SubElement(node, "{urn:t}folder")
    it = feature("recursion")
    with pytest.raises(BadMessage, match="nested too deep"):
        it.message.codec.read(element_of(it), root, "it")


@pytest.mark.parametrize("key", ["decimal", "integer", "long", "double", "boolean", "any"])
def test_numbers_of_any_length_are_refused(key: str) -> None:
    it = feature("any-type" if key == "any" else "numbers")
    with pytest.raises(BadMessage) as refused:
        it.write({key: [10**5000] if key == "any" else 10**5000})
    assert_fit_for_callers(refused.value)


def test_what_messages_name_does_not_pile_up() -> None:
    it = feature("any-type")
    codec: Any = it.wsdl.codec

    def write(number: int) -> None:
        data = {"any": [number, {"@type": "Point", "x": 1, "y": 2}, {f"@{{urn:{number}}}a": "b"}]}
        assert f"urn:{number}".encode() in it.write(data)

    write(0)
    before = (len(codec._names), len(codec._kept), len(codec._prefixes))
    for number in range(1, 1000):
        write(number)
    assert (len(codec._names), len(codec._kept), len(codec._prefixes)) == before


# --- WSDLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
@given(seed=st.integers(0, 2**32))
@settings(often, max_examples=20)
def test_a_damaged_wsdl_is_loaded_or_refused(
    name: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    root = etree.parse(FEATURES / f"{name}.wsdl").getroot()
    for _ in range(rng.randint(1, 2)):
        node = rng.choice(list(root.iter("*")))
        match rng.randrange(4):
            case 0 if node is not root:
                node.getparent().remove(node)
            case 1 if node.attrib:
                del node.attrib[rng.choice(list(node.attrib))]
            case 2 if node.attrib:
                key = rng.choice(list(node.attrib))
                node.set(key, rng.choice(["", "x", "t:it", "t:x", "no:no", "-1", "0", "xs:int"]))
            case _:
                node.tag = rng.choice(list(root.iter("*"))).tag
    path = tmp_path_factory.getbasetemp() / f"{name}-damaged.wsdl"
    path.write_bytes(etree.tostring(root))
    try:
        wsdl = load_wsdl(path)
        for _, _, operation in wsdl.operations():
            operation.input.schema({})
            _ = wsdl.validator
            try:
                operation.input.write({})
            except BadMessage as e:
                assert_fit_for_callers(e)
    except WsdlError:
        return


def test_names_in_a_wsdl_never_become_code(tmp_path: Path) -> None:
    # Names of XML may have quotes' neighbours, dots and any letter, but no quote: fixed values,
    # defaults and namespaces may have anything.
    evil = "'+__import__('os').abort()+'\\\n{}{{g}}\"\"\""
    schema = f"""
      <xs:element name="it">
        <xs:complexType>
          <xs:sequence>
            <xs:element name="a.b-c" type="xs:string" default={_quoted(evil)} minOccurs="0"/>
            <xs:any namespace={_quoted("urn:" + evil)} minOccurs="0" processContents="lax"/>
          </xs:sequence>
          <xs:attribute name="d" type="xs:string" fixed={_quoted(evil)} use="required"/>
        </xs:complexType>
      </xs:element>
    """
    it = feature_of(schema, tmp_path)
    [node] = etree.fromstring(b"<Body>" + it.write({}) + b"</Body>")
    assert node.attrib == {"d": evil}
    assert it.message.codec.read(element_of(it), node, "it") == {"@d": evil}
    assert it.write({"a.b-c": "x", "@d": evil}).endswith(b":a.b-c></n1:it>")


def _quoted(text: str) -> str:
    for c, entity in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;"), ("\n", "&#10;")):
        text = text.replace(c, entity)
    return f'"{text}"'


def test_namespaces_never_become_code(tmp_path: Path) -> None:
    evil = "urn:e'+(x);$@!*=?,_~%27"
    schema = f"""
      <xs:schema targetNamespace="urn:t" elementFormDefault="qualified" xmlns:e="{evil}">
        <xs:import namespace="{evil}"/>
        <xs:element name="it">
          <xs:complexType>
            <xs:sequence><xs:element ref="e:x"/></xs:sequence><xs:attribute ref="e:y"/>
          </xs:complexType>
        </xs:element>
      </xs:schema>
      <xs:schema targetNamespace="{evil}">
        <xs:element name="x" type="xs:int"/><xs:attribute name="y" type="xs:int"/>
      </xs:schema>
    """
    it = feature_of(schema, tmp_path)
    written = etree.fromstring(it.write({"@y": 1, "x": 2}))
    assert written.attrib == {f"{{{evil}}}y": "1"}
    assert it.message.codec.read(element_of(it), written, "it") == {"@y": 1, "x": 2}


def test_a_pattern_that_backtracks_is_matched_in_time(tmp_path: Path) -> None:
    schema = """
      <xs:element name="it">
        <xs:simpleType>
          <xs:restriction base="xs:string"><xs:pattern value="(a+)+b"/></xs:restriction>
        </xs:simpleType>
      </xs:element>
    """
    it = feature_of(schema, tmp_path)
    with pytest.raises(BadMessage, match="does not have the form"):
        it.write("a" * 5000)
    assert around(schema, tmp_path).exists()
