"""`compare`: what a new edition of a WSDL breaks for REST callers, and exactly where."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from esb.errors import BadMessage
from esb_soap.cli import Api
from esb_soap.diff import Change, compare
from esb_soap.samples import Sampler
from esb_soap.wsdl import load_wsdl

EDITION = """\
<definitions name="Shop" targetNamespace="urn:t" xmlns="http://schemas.xmlsoap.org/wsdl/"
             xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
             xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:t="urn:t">
  <types><xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
    <xs:element name="ask"><xs:complexType><xs:sequence>{ask}</xs:sequence></xs:complexType>
    </xs:element>
    <xs:element name="answer"><xs:complexType><xs:sequence>{answer}</xs:sequence></xs:complexType>
    </xs:element>
    <xs:element name="sorry"><xs:complexType><xs:sequence>{sorry}</xs:sequence></xs:complexType>
    </xs:element>
    {types}
  </xs:schema></types>
  <message name="ask"><part name="ask" element="t:ask"/></message>
  <message name="answer"><part name="answer" element="t:answer"/></message>
  <message name="sorry"><part name="sorry" element="t:sorry"/></message>
  <portType name="Shop">{operations}</portType>
  <binding name="Shop" type="t:Shop">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>{bound}
  </binding>
  <service name="Shop"><port name="Shop" binding="t:Shop"/></service>
</definitions>"""

ASK = '<input message="t:ask"/>'
ANSWER = '<output message="t:answer"/>'
SORRY = '<fault name="Sorry" message="t:sorry"/>'


def document(
    folder: Path,
    *,
    ask: str = "",
    answer: str = "",
    sorry: str = "",
    types: str = "",
    operations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The OpenAPI document of an edition."""
    described = operations or {"buy": ASK + ANSWER + SORRY}
    text = EDITION.format(
        ask=ask, answer=answer, sorry=sorry, types=types,
        operations="".join(f'<operation name="{n}">{m}</operation>' for n, m in described.items()),
        bound="".join(f'<operation name="{n}"/>' for n in described),
    )  # fmt: skip
    path = folder / "shop.wsdl"
    path.write_text(text)
    return Api.of(path, load_wsdl(path), at="/").document()


def element(name: str = "x", type_: str = "xs:string", rest: str = "") -> str:
    return f'<xs:element name="{name}" type="{type_}" {rest}/>'


def restricted(base: str, *facets: str) -> str:
    """A simple type T."""
    inner = "".join(f"<xs:{facet}/>" for facet in facets)
    restriction = f'<xs:restriction base="{base}">{inner}</xs:restriction>'
    return f'<xs:simpleType name="T">{restriction}</xs:simpleType>'


def resolved(documents: list[Any], pointer: str) -> bool:
    """Whether a JSON pointer leads somewhere in one of the documents."""
    for found in documents:
        try:
            for part in pointer.split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError):
            continue
        return True
    return False


def both_ways(folder: Path, old: dict[str, str], new: dict[str, str]) -> tuple[list[Change], ...]:
    """The changes when the same is done to the request and to the answer, apart."""
    made: list[list[Change]] = []
    for where in ("ask", "answer"):
        editions = [
            document(folder, **{where: edition.get("content", "")}, types=edition.get("types", ""))
            for edition in (old, new)
        ]
        found = compare(*editions)
        for change in found:
            assert change.operation == "buy"
            assert change.direction == {"ask": "request", "answer": "response"}[where]
            assert resolved(editions, change.pointer), change.pointer
        made.append(found)
    return tuple(made)


OPTIONAL = 'minOccurs="0"'
MANY = 'maxOccurs="unbounded"'
CHOICE = "<xs:choice>{}</xs:choice>"

# What is done, the field that is named, what is said, whether it breaks requests, and answers.
CASES: dict[str, tuple[dict[str, str], dict[str, str], str, str, bool, bool]] = {
    "new optional field": (
        {"content": element("a")}, {"content": element("a") + element("b", rest=OPTIONAL)},
        "b", "the field is new", False, False,
    ),
    "new required field": (
        {"content": element("a")}, {"content": element("a") + element("b")},
        "b", "the field is new and required", True, False,
    ),
    "required field gone": (
        {"content": element("a") + element("b")}, {"content": element("a")},
        "b", "the field is gone", True, True,
    ),
    "optional field gone": (
        {"content": element("a") + element("b", rest=OPTIONAL)}, {"content": element("a")},
        "b", "the field is gone", True, False,
    ),
    "now required": (
        {"content": element(rest=OPTIONAL)}, {"content": element()},
        "x", "the field is now required", True, False,
    ),
    "now optional": (
        {"content": element()}, {"content": element(rest=OPTIONAL)},
        "x", "the field may be absent", False, True,
    ),
    "now nillable": (
        {"content": element()}, {"content": element(rest='nillable="true"')},
        "x", "it may be null", False, True,
    ),
    "no longer nillable": (
        {"content": element(rest='nillable="true"')}, {"content": element()},
        "x", "null is no longer allowed", True, False,
    ),
    "one becomes many": (
        {"content": element()}, {"content": element(rest=MANY)},
        "x", "it was a single value and is a list", True, True,
    ),
    "many become one": (
        {"content": element(rest=MANY)}, {"content": element()},
        "x", "it was a list and is a single value", True, True,
    ),
    "another type": (
        {"content": element()}, {"content": element(type_="xs:int")},
        "x", "it was string and is integer", True, True,
    ),
    "wider integer": (
        {"content": element(type_="xs:short")}, {"content": element(type_="xs:int")},
        "x", "the greatest value is 2147483647 instead of 32767", False, True,
    ),
    "narrower integer": (
        {"content": element(type_="xs:int")}, {"content": element(type_="xs:short")},
        "x", "the least value is -32768 instead of -2147483648", True, False,
    ),
    "integer becomes long": (
        {"content": element(type_="xs:int")}, {"content": element(type_="xs:long")},
        "x", "it was integer and is integer or string", False, True,
    ),
    "date becomes a moment": (
        {"content": element(type_="xs:date")}, {"content": element(type_="xs:dateTime")},
        "x", "it is written as dateTime instead of date", True, True,
    ),
    "other encoding of bytes": (
        {"content": element(type_="xs:hexBinary")}, {"content": element(type_="xs:base64Binary")},
        "x", "it is written as base64 instead of base16", True, True,
    ),
    "value added": (
        {"content": element(type_="t:T"),
         "types": restricted("xs:string", 'enumeration value="a"')},
        {"content": element(type_="t:T"),
         "types": restricted("xs:string", 'enumeration value="a"', 'enumeration value="b"')},
        "x", 'the value "b" is new', False, True,
    ),
    "value gone": (
        {"content": element(type_="t:T"),
         "types": restricted("xs:string", 'enumeration value="a"', 'enumeration value="b"')},
        {"content": element(type_="t:T"),
         "types": restricted("xs:string", 'enumeration value="a"')},
        "x", 'the value "b" is gone', True, False,
    ),
    "values listed": (
        {"content": element()},
        {"content": element(type_="t:T"),
         "types": restricted("xs:string", 'enumeration value="a"')},
        "x", 'only "a" is allowed', True, False,
    ),
    "pattern": (
        {"content": element(type_="t:T"), "types": restricted("xs:string")},
        {"content": element(type_="t:T"), "types": restricted("xs:string", 'pattern value="a+"')},
        "x", "a pattern is new", True, False,
    ),
    "longer": (
        {"content": element(type_="t:T"), "types": restricted("xs:string", 'maxLength value="3"')},
        {"content": element(type_="t:T"), "types": restricted("xs:string", 'maxLength value="5"')},
        "x", "the greatest length is 5 instead of 3", False, True,
    ),
    "fewer digits": (
        {"content": element(type_="t:T"),
         "types": restricted("xs:decimal", 'fractionDigits value="4"')},
        {"content": element(type_="t:T"),
         "types": restricted("xs:decimal", 'fractionDigits value="2"')},
        "x", "the greatest number of digits behind the point is 2 instead of 4", True, False,
    ),
    "fewer items": (
        {"content": element(rest='maxOccurs="5"')}, {"content": element(rest='maxOccurs="3"')},
        "x", "the greatest number of items is 3 instead of 5", True, False,
    ),
    "inside of items": (
        {"content": element(type_="xs:short", rest=MANY)},
        {"content": element(type_="xs:byte", rest=MANY)},
        "x[]", "the greatest value is 127 instead of 32767", True, False,
    ),
    "new alternative": (
        {"content": CHOICE.format(element("a") + element("b"))},
        {"content": CHOICE.format(element("a") + element("b") + element("c"))},
        "", "only c of a, b, c is allowed", False, True,
    ),
    "no longer alternatives": (
        {"content": element("a", rest=OPTIONAL) + element("b", rest=OPTIONAL)},
        {"content": CHOICE.format(element("a") + element("b"))},
        "", "none of a, b is no longer allowed", True, False,
    ),
    "default": (
        {"content": element(rest=OPTIONAL + ' default="a"')},
        {"content": element(rest=OPTIONAL + ' default="b"')},
        "x", "it stands for 'b' where it is absent", False, False,
    ),
    "anything": (
        {"content": element()}, {"content": element(type_="xs:anyType")},
        "x", "it may be anything", False, True,
    ),
    "no longer anything": (
        {"content": element(type_="xs:anyType")}, {"content": element()},
        "x", "it may no longer be anything", True, False,
    ),
    "other attributes": (
        {"content": element(type_="t:T"), "types": '<xs:complexType name="T"/>'},
        {"content": element(type_="t:T"),
         "types": '<xs:complexType name="T"><xs:anyAttribute/></xs:complexType>'},
        "x", "other attributes may be there", False, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_requests_may_ask_for_less_and_answers_promise_more(case: Any, tmp_path: Path) -> None:
    old, new, field, what, breaks_requests, breaks_answers = case
    requests, answers = both_ways(tmp_path, old, new)
    for found, breaks in ((requests, breaks_requests), (answers, breaks_answers)):
        told = [one for one in found if (one.field, one.what) == (field, what)]
        assert len(told) == 1, found
        assert told[0].breaking is breaks
        assert any(one.breaking for one in found) is breaks, found


# The data that would be refused are not among those that are made up: hexadecimal digits that are
# no base64, more than two items, an object for anything.
NOT_SHOWN = {"other encoding of bytes", "fewer items", "no longer anything"}


@pytest.mark.parametrize("name", CASES)
def test_the_new_edition_takes_old_requests_unless_told(name: str, tmp_path: Path) -> None:
    """The codec as witness: requests made up for the old edition, written by the new one."""
    old, new, *_, breaks_requests, _ = CASES[name]
    path = tmp_path / "shop.wsdl"
    refused = 0
    for number in range(60):
        document(tmp_path, ask=old["content"], types=old.get("types", ""))
        before = load_wsdl(path)
        document(tmp_path, ask=new["content"], types=new.get("types", ""))
        after = load_wsdl(path)
        [(_, _, asked)], [(_, _, taken)] = before.operations(), after.operations()
        sampler = Sampler(before.mapping, "random", random.Random(number))
        data = sampler.message(asked.input)
        written = etree.fromstring(b"<Body>" + asked.input.write(data).body + b"</Body>")
        try:
            raw = taken.input.write(asked.input.read(written)).body
            taken.input.read(etree.fromstring(b"<Body>" + raw + b"</Body>"))
        except BadMessage:
            refused += 1
    assert (refused > 0) is (breaks_requests and name not in NOT_SHOWN)


BASE = '<xs:complexType name="Pet"><xs:sequence><xs:element name="name" type="xs:string"/>\
</xs:sequence></xs:complexType>'


def derived(name: str, content: str) -> str:
    return f'<xs:complexType name="{name}"><xs:complexContent><xs:extension base="t:Pet">\
<xs:sequence>{content}</xs:sequence></xs:extension></xs:complexContent></xs:complexType>'


class TestDerivedTypes:
    def test_a_new_one_may_be_answered(self, tmp_path: Path) -> None:
        pet = element("pet", "t:Pet")
        dog, cat = derived("Dog", element("tricks")), derived("Cat", element("lives", "xs:int"))
        requests, answers = both_ways(
            tmp_path,
            {"content": pet, "types": BASE + dog},
            {"content": pet, "types": BASE + dog + cat},
        )
        assert [(c.field, c.what, c.breaking) for c in requests] == [
            ("pet", "the form 'Cat' is new", False)
        ]
        assert [(c.what, c.breaking) for c in answers] == [("the form 'Cat' is new", True)]

    def test_the_first_one(self, tmp_path: Path) -> None:
        """Then only does the type that was alone say which it is."""
        pet = element("pet", "t:Pet")
        requests, answers = both_ways(
            tmp_path,
            {"content": pet, "types": BASE},
            {"content": pet, "types": BASE + derived("Dog", element("tricks"))},
        )
        assert not [c for c in requests if c.breaking]
        assert [c.what for c in answers if c.breaking] == ["the form 'Dog' is new"]

    def test_a_change_of_the_base_is_one_of_each(self, tmp_path: Path) -> None:
        pet, dog = element("pet", "t:Pet"), derived("Dog", element("tricks"))
        wider = BASE.replace('"xs:string"/>', '"xs:string"/><xs:element name="age" type="xs:int"/>')
        requests, _ = both_ways(
            tmp_path, {"content": pet, "types": BASE + dog}, {"content": pet, "types": wider + dog}
        )
        assert {(c.field, c.what) for c in requests if c.breaking} == {
            ("pet.age", "the field is new and required")
        }


def test_recursive_types_end(tmp_path: Path) -> None:
    tree = '<xs:complexType name="Tree"><xs:sequence>{}\
<xs:element name="child" type="t:Tree" minOccurs="0" maxOccurs="unbounded"/>\
</xs:sequence></xs:complexType>'
    content = element("tree", "t:Tree")
    requests, _ = both_ways(
        tmp_path,
        {"content": content, "types": tree.format("")},
        {"content": content, "types": tree.format(element("leaf"))},
    )
    assert [(c.field, c.pointer, c.breaking) for c in requests] == [
        ("tree.leaf", "/components/schemas/Tree/properties/leaf", True)
    ]


class TestOperations:
    def test_gone_and_new(self, tmp_path: Path) -> None:
        old = document(tmp_path, operations={"buy": ASK + ANSWER, "sell": ASK + ANSWER})
        new = document(tmp_path, operations={"buy": ASK + ANSWER, "lend": ASK + ANSWER})
        assert compare(old, new) == [
            Change("sell", "", "/paths/~1sell/post", "", "the operation is gone", True),
            Change("lend", "", "/paths/~1lend/post", "", "the operation is new", False),
        ]

    def test_moved(self, tmp_path: Path) -> None:
        old = document(tmp_path)
        new = document(tmp_path)
        new["paths"] = {"/Shop/buy": new["paths"]["/buy"]}
        [change] = compare(old, new)
        assert change.what == "POST /buy is now POST /Shop/buy"
        assert change.breaking

    def test_no_answer_any_more(self, tmp_path: Path) -> None:
        old = document(tmp_path, operations={"buy": ASK + ANSWER})
        new = document(tmp_path, operations={"buy": ASK})
        [change] = compare(old, new)
        assert change.what == "it answers 202 instead of 200"
        assert change.breaking

    def test_faults(self, tmp_path: Path) -> None:
        plain = document(tmp_path, operations={"buy": ASK + ANSWER})
        with_fault = document(tmp_path, sorry=element("why"))
        other = document(tmp_path, sorry=element("why", rest=OPTIONAL))
        assert [(c.direction, c.what, c.breaking) for c in compare(plain, with_fault)] == [
            ("fault Sorry", "the fault is new", False)
        ]
        assert [(c.what, c.breaking) for c in compare(with_fault, plain)] == [
            ("the fault is gone", False)
        ]
        [change] = compare(with_fault, other)
        assert (change.direction, change.field, change.breaking) == ("fault Sorry", "why", True)
        assert resolved([other], change.pointer)

    def test_what_rest_callers_do_not_see(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.wsdl"
        old = document(tmp_path, ask=element("a", "t:T"), types=restricted("xs:string"))
        path.write_text(path.read_text().replace("urn:t", "urn:t:2026"))
        assert compare(old, Api.of(path, load_wsdl(path), at="/").document()) == []
