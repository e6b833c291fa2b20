"""`int64: string`: integers that a double cannot hold are strings, for who has nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.fake_build import FakeBuild
from support.wsdl import FEATURES, Feature, around, canonical, element, exact

from esb_soap.endpoint import WsdlOptions, load
from esb_soap.expose import ExposeOptions, expand
from esb_soap.wsdl import load_wsdl


def numbers(int64: Any) -> Feature:
    return Feature(load_wsdl(FEATURES / "numbers.wsdl", int64=int64))


BIG = ("integer", "long", "unsignedLong", "positive", "negative", "nonPositive", "nonNegative")
SMALL = ("int", "short", "byte", "unsignedInt", "unsignedShort", "unsignedByte")


@pytest.mark.parametrize("key", BIG)
def test_big_integers_are_strings_on_request(key: str) -> None:
    value = -1 if "eg" in key and "non" not in key.lower() else 0 if key == "nonPositive" else 5
    xml = f"<it><{key}>{value}</{key}></it>"
    asked, plain = numbers("string"), numbers("number")
    assert exact(asked.read(xml)) == exact({key: str(value)})
    assert exact(plain.read(xml)) == exact({key: value})
    for it in (asked, plain):
        for data in (value, str(value)):
            assert canonical(it.write({key: data})) == canonical(element(xml))
    assert asked.refused_by_schema({key: str(value)}) == ""
    assert asked.refused_by_schema({key: value}) != ""
    assert plain.refused_by_schema({key: str(value)}) == plain.refused_by_schema({key: value}) == ""


@pytest.mark.parametrize("key", SMALL)
def test_small_integers_stay_numbers(key: str) -> None:
    assert exact(numbers("string").read(f"<it><{key}>7</{key}></it>")) == exact({key: 7})


def test_it_holds_for_what_is_made_of_them(tmp_path: Path) -> None:
    schema = """
      <xs:element name="it">
        <xs:complexType>
          <xs:sequence>
            <xs:element name="ids" type="t:Ids"/>
            <xs:element name="id" type="t:Id" default="7"/>
            <xs:element name="small" type="t:Small"/>
            <xs:element name="any" type="xs:anyType"/>
          </xs:sequence>
          <xs:attribute name="n" type="xs:long"/>
        </xs:complexType>
      </xs:element>
      <xs:simpleType name="Ids"><xs:list itemType="t:Id"/></xs:simpleType>
      <xs:simpleType name="Id">
        <xs:restriction base="xs:long"><xs:minInclusive value="1"/></xs:restriction>
      </xs:simpleType>
      <xs:simpleType name="Small">
        <xs:restriction base="xs:integer">
          <xs:minInclusive value="0"/><xs:maxInclusive value="100"/>
        </xs:restriction>
      </xs:simpleType>
    """
    it = Feature(load_wsdl(around(schema, tmp_path), int64="string"))
    xml = (
        '<it n="9223372036854775807"><ids>1 2</ids><id/><small>3</small>'
        '<any xsi:type="xs:long">4</any></it>'
    )
    data = {
        "@n": "9223372036854775807",
        "ids": ["1", "2"],
        "id": "7",
        "small": 3,
        "any": {"@type": "xs:long", "#text": "4"},
    }
    assert exact(it.read(xml)) == exact(data)
    assert it.refused_by_schema(data) == ""
    assert b">7</" in it.write(data)


def test_an_api_passes_it_on_and_documents_it(tmp_path: Path) -> None:
    shutil.copy(FEATURES / "numbers.wsdl", tmp_path)
    raw = {"wsdl": "numbers.wsdl", "at": "/n", "int64": "string"}
    build: Any = FakeBuild(tmp_path)
    [route] = expand(ExposeOptions.model_validate({"n": raw}), build)
    [step] = route.route["steps"]
    assert step["call"]["soap"]["int64"] == "string"
    loaded = load(build, WsdlOptions(wsdl="numbers.wsdl", int64="string"), "wsdl")
    [operation] = [operation for _, _, operation in loaded.wsdl.operations()]
    loaded.schemas(operation)
    assert loaded.components["it"]["properties"]["long"] == {
        "type": "string",
        "format": "int64",
        "pattern": "^[+-]?[0-9]+$",
    }
