"""Certifying: what is proven, what is found, and what stands in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.wsdl import FEATURES, around

from esb_soap import shape
from esb_soap.certify import Report, certify

SCHEMAS = {
    "nil with attributes": """
        <xs:element name="it"><xs:complexType><xs:sequence>
          <xs:element name="a" minOccurs="0" maxOccurs="3" nillable="true">
            <xs:complexType><xs:simpleContent><xs:extension base="xs:int">
              <xs:attribute name="id" type="xs:token" use="required"/>
            </xs:extension></xs:simpleContent></xs:complexType>
          </xs:element>
        </xs:sequence></xs:complexType></xs:element>""",
    "a choice of orders": """
        <xs:element name="it"><xs:complexType><xs:choice>
          <xs:sequence>
            <xs:element name="title" type="xs:string"/>
            <xs:element name="meta" type="xs:string" minOccurs="0" maxOccurs="unbounded"/>
            <xs:element name="base" type="xs:anyURI" minOccurs="0"/>
          </xs:sequence>
          <xs:sequence>
            <xs:element name="base" type="xs:anyURI"/>
            <xs:element name="meta" type="xs:string" minOccurs="0" maxOccurs="unbounded"/>
            <xs:element name="title" type="xs:string"/>
          </xs:sequence>
        </xs:choice></xs:complexType></xs:element>""",
    "names in other letters": """
        <xs:simpleType name="種別"><xs:restriction base="xs:string">
          <xs:enumeration value="等高線"/></xs:restriction></xs:simpleType>
        <xs:simpleType name="行政"><xs:restriction base="xs:string">
          <xs:enumeration value="地域"/></xs:restriction></xs:simpleType>
        <xs:element name="it"><xs:complexType><xs:sequence>
          <xs:element name="型" type="t:種別" maxOccurs="2"/><xs:element name="é" type="t:行政"/>
        </xs:sequence></xs:complexType></xs:element>""",
    "a boolean of digits": """
        <xs:element name="it"><xs:complexType>
          <xs:attribute name="must" use="required"><xs:simpleType>
            <xs:restriction base="xs:boolean"><xs:pattern value="0|1"/></xs:restriction>
          </xs:simpleType></xs:attribute>
        </xs:complexType></xs:element>""",
    "an attribute named type": """
        <xs:complexType name="base"><xs:sequence/></xs:complexType>
        <xs:element name="it"><xs:complexType><xs:complexContent><xs:extension base="t:base">
          <xs:attribute name="type" type="xs:string"/>
        </xs:extension></xs:complexContent></xs:complexType></xs:element>""",
    "numbers of a form, between bounds": """
        <xs:element name="it"><xs:simpleType><xs:restriction base="xs:int">
          <xs:pattern value="0[0-9]{2}"/><xs:minInclusive value="7"/><xs:maxInclusive value="200"/>
        </xs:restriction></xs:simpleType></xs:element>""",
    "XML Schema imported by itself": """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
          <xs:import namespace="http://www.w3.org/2001/XMLSchema" schemaLocation="XMLSchema.xsd"/>
          <xs:element name="it" type="xs:int"/>
        </xs:schema>""",
    "ids with a form": """
        <xs:element name="it"><xs:complexType><xs:sequence>
          <xs:element name="a" minOccurs="2" maxOccurs="3"><xs:simpleType>
            <xs:restriction base="xs:ID"><xs:pattern value="[A-Z]{3}_[0-9]{9}"/></xs:restriction>
          </xs:simpleType></xs:element></xs:sequence></xs:complexType></xs:element>""",
    "a pattern of braces": r"""
        <xs:element name="it"><xs:simpleType><xs:restriction base="xs:string">
          <xs:pattern value="\{....-..\}"/></xs:restriction></xs:simpleType></xs:element>""",
    "an empty value and a default": """
        <xs:element name="it"><xs:complexType><xs:sequence>
          <xs:element name="a" type="xs:string" default="x" minOccurs="0"/>
        </xs:sequence></xs:complexType></xs:element>""",
    "an optional group with a choice in it": """
        <xs:element name="it"><xs:complexType><xs:sequence><xs:sequence minOccurs="0">
          <xs:element name="label" type="xs:string" minOccurs="0"/>
          <xs:choice><xs:element name="a" type="xs:int"/><xs:element name="b" type="xs:int"/>
          </xs:choice>
          <xs:element name="index" type="xs:int"/>
        </xs:sequence></xs:sequence></xs:complexType></xs:element>""",
    "keys": """
        <xs:element name="it"><xs:complexType><xs:sequence>
          <xs:element name="a" maxOccurs="unbounded"><xs:complexType>
            <xs:attribute name="n" type="xs:boolean" use="required"/></xs:complexType></xs:element>
        </xs:sequence></xs:complexType>
        <xs:unique name="once"><xs:selector xpath="t:a"/><xs:field xpath="@n"/></xs:unique>
        </xs:element>""",
    "what an import promised": """
        <xs:schema targetNamespace="urn:t" xmlns:u="urn:u" elementFormDefault="qualified">
          <xs:import namespace="urn:u" schemaLocation="http://nowhere.invalid/u.xsd"/>
          <xs:element name="it"><xs:complexType><xs:sequence>
            <xs:element ref="u:element"/><xs:element name="a" type="u:type"/>
            <xs:element name="b"><xs:simpleType><xs:restriction base="u:text">
              <xs:maxLength value="3"/></xs:restriction></xs:simpleType></xs:element>
            <xs:group ref="u:group"/>
          </xs:sequence><xs:attributeGroup ref="u:attributes"/></xs:complexType></xs:element>
        </xs:schema>""",
}


def report(schema: str, folder: Path) -> Report:
    return certify(around(schema, folder))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_nothing_is_lost(schema: str, tmp_path: Path) -> None:
    made = report(schema, tmp_path)
    assert made.error == ""
    assert [str(one) for one in made.exceptions] == []
    assert (made.operations, made.certified) == (1, 1)


@pytest.mark.parametrize("path", sorted(FEATURES.glob("*.wsdl")), ids=lambda path: path.stem)
def test_the_features_are_certified(path: Path) -> None:
    made = certify(path)
    assert made.error == ""
    assert [str(one) for one in made.exceptions] == []
    assert 0 < made.operations == made.certified


def test_what_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule taken away that keeps two orders apart, their loss is seen where it happens."""
    monkeypatch.setattr(shape, "_is_ambiguous", lambda one, other: False)
    made = report(SCHEMAS["a choice of orders"], tmp_path)
    assert made.certified == 0
    assert any(
        one.operation == "Feature.echo" and "came back as" in one.problem for one in made.exceptions
    )


def test_types_that_are_wrong_are_an_exception(tmp_path: Path) -> None:
    made = report(
        """<xs:element name="it"><xs:complexType><xs:sequence>
             <xs:element name="a" minOccurs="3" maxOccurs="2" type="xs:int"/>
           </xs:sequence></xs:complexType></xs:element>""",
        tmp_path,
    )
    assert made.loaded
    assert (made.operations, made.certified) == (1, 0)
    assert "maxOccurs 2 is less than minOccurs 3" in made.exceptions[0].problem


def test_a_type_nothing_can_be_of_is_an_exception(tmp_path: Path) -> None:
    made = report(
        """<xs:complexType name="nobody" abstract="true"/>
           <xs:element name="it" type="t:nobody"/>""",
        tmp_path,
    )
    assert made.certified == 0
    assert "abstract" in made.exceptions[0].problem


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "page.wsdl").write_text("<html><body>Sign in</body></html>")
    made = certify(tmp_path / "page.wsdl")
    assert not made.loaded
    assert "page.wsdl" in made.error
    assert made.operations == 0
