"""WSDLs in many files: includes, imports, redefinitions, the catalogue; what is not there."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.wsdl import Feature, around, canonical, element, exact

from esb.errors import BadMessage
from esb_soap.documents import WsdlError
from esb_soap.wsdl import load_wsdl

XS = 'xmlns:xs="http://www.w3.org/2001/XMLSchema"'


class Folder:
    """A WSDL around a schema, and what that refers to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).strip())

    def load(self, schema: str, root: Path | None = None) -> Feature:
        return Feature(load_wsdl(around(schema, self.path), root))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def both_ways(it: Feature, data: Any, xml: str) -> None:
    assert canonical(it.write(data)) == canonical(element(xml))
    assert exact(it.read(xml)) == exact(data)
    assert it.refused_by_schema(data) == ""


INCLUDING = """
    <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
      <xs:include schemaLocation="types/a.xsd"/>
      <xs:element name="it" type="t:A"/>
    </xs:schema>
"""


def test_an_include_is_relative_to_its_document(folder: Folder) -> None:
    folder.file(
        "types/a.xsd",
        f"""
        <xs:schema {XS} targetNamespace="urn:t" xmlns="urn:t" elementFormDefault="qualified">
          <xs:include schemaLocation="../more/b.xsd"/>
          <xs:complexType name="A">
            <xs:sequence><xs:element name="b" type="B"/></xs:sequence>
          </xs:complexType>
        </xs:schema>
        """,
    )
    folder.file(
        "more/b.xsd",
        f"""
        <xs:schema {XS} targetNamespace="urn:t" xmlns="urn:t">
          <xs:include schemaLocation="../types/a.xsd"/>
          <xs:simpleType name="B"><xs:restriction base="xs:int"/></xs:simpleType>
          <xs:complexType name="C">
            <xs:sequence><xs:element name="a" type="A" minOccurs="0"/></xs:sequence>
          </xs:complexType>
        </xs:schema>
        """,
    )
    it = folder.load(INCLUDING)
    both_ways(it, {"b": 5}, "<it><b>5</b></it>")
    assert it.invalid(it.write({"b": 5})) == []
    names = [path.relative_to(folder.path).as_posix() for path in it.wsdl.files]
    assert names == ["feature.wsdl", "types/a.xsd", "more/b.xsd"]


def test_a_chameleon_takes_the_namespace_of_who_includes_it(folder: Folder) -> None:
    folder.file(
        "common.xsd",
        f"""
        <xs:schema {XS} elementFormDefault="qualified">
          <xs:complexType name="Common">
            <xs:sequence><xs:element name="x" type="Number"/></xs:sequence>
          </xs:complexType>
          <xs:simpleType name="Number"><xs:restriction base="xs:int"/></xs:simpleType>
        </xs:schema>
        """,
    )
    it = folder.load(
        """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
          <xs:import namespace="urn:u"/>
          <xs:include schemaLocation="common.xsd"/>
          <xs:element name="it">
            <xs:complexType>
              <xs:sequence>
                <xs:element name="mine" type="t:Common"/>
                <xs:element name="theirs" type="u:Common"/>
              </xs:sequence>
            </xs:complexType>
          </xs:element>
        </xs:schema>
        <xs:schema targetNamespace="urn:u"><xs:include schemaLocation="common.xsd"/></xs:schema>
        """
    )
    data = {"mine": {"x": 1}, "theirs": {"x": 2}}
    both_ways(it, data, "<it><mine><x>1</x></mine><theirs><u:x>2</u:x></theirs></it>")
    assert it.invalid(it.write(data)) == []
    assert set(it.schema["components"]["schemas"]) >= {"Common", "Common_u"}


def test_imports_may_go_in_circles(folder: Folder) -> None:
    folder.file(
        "u.xsd",
        f"""
        <xs:schema {XS} targetNamespace="urn:u" xmlns:t="urn:t" elementFormDefault="qualified">
          <xs:import namespace="urn:t" schemaLocation="t.xsd"/>
          <xs:complexType name="U">
            <xs:sequence><xs:element name="t" type="t:T" minOccurs="0"/></xs:sequence>
          </xs:complexType>
        </xs:schema>
        """,
    )
    folder.file(
        "t.xsd",
        f"""
        <xs:schema {XS} targetNamespace="urn:t" xmlns:u="urn:u" elementFormDefault="qualified">
          <xs:import namespace="urn:u" schemaLocation="u.xsd"/>
          <xs:complexType name="T">
            <xs:sequence><xs:element name="u" type="u:U" minOccurs="0"/></xs:sequence>
          </xs:complexType>
          <xs:element name="it" xmlns:t="urn:t" type="t:T"/>
        </xs:schema>
        """,
    )
    it = folder.load('<xs:schema><xs:import namespace="urn:t" schemaLocation="t.xsd"/></xs:schema>')
    data = {"u": {"t": {"u": {}}}}
    both_ways(it, data, "<it><u><u:t><u/></u:t></u></it>")
    assert it.invalid(it.write(data)) == []


def test_a_redefinition_stands_for_the_original(folder: Folder) -> None:
    folder.file(
        "types/a.xsd",
        f"""
        <xs:schema {XS} targetNamespace="urn:t" xmlns:t="urn:t" elementFormDefault="qualified">
          <xs:complexType name="A">
            <xs:sequence>
              <xs:element name="code" type="t:Code"/>
              <xs:group ref="t:G"/>
            </xs:sequence>
            <xs:attributeGroup ref="t:H"/>
          </xs:complexType>
          <xs:simpleType name="Code"><xs:restriction base="xs:string"/></xs:simpleType>
          <xs:group name="G">
            <xs:sequence><xs:element name="g" type="xs:int"/></xs:sequence>
          </xs:group>
          <xs:attributeGroup name="H"><xs:attribute name="h" type="xs:int"/></xs:attributeGroup>
        </xs:schema>
        """,
    )
    it = folder.load(
        """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
          <xs:redefine schemaLocation="types/a.xsd">
            <xs:complexType name="A">
              <xs:complexContent>
                <xs:extension base="t:A">
                  <xs:sequence><xs:element name="more" type="xs:int"/></xs:sequence>
                </xs:extension>
              </xs:complexContent>
            </xs:complexType>
            <xs:simpleType name="Code">
              <xs:restriction base="t:Code"><xs:maxLength value="2"/></xs:restriction>
            </xs:simpleType>
            <xs:group name="G">
              <xs:sequence>
                <xs:group ref="t:G"/><xs:element name="k" type="xs:int" minOccurs="0"/>
              </xs:sequence>
            </xs:group>
            <xs:attributeGroup name="H">
              <xs:attributeGroup ref="t:H"/><xs:attribute name="i" type="xs:int"/>
            </xs:attributeGroup>
          </xs:redefine>
          <xs:element name="it" type="t:A"/>
        </xs:schema>
        """
    )
    both_ways(
        it,
        {"@h": 1, "@i": 2, "code": "ab", "g": 3, "k": 4, "more": 5},
        '<it h="1" i="2"><code>ab</code><g>3</g><k>4</k><more>5</more></it>',
    )
    with pytest.raises(BadMessage, match="must have a length of at most 2, not 3"):
        it.write({"code": "abc", "g": 3, "more": 5})


def test_standard_schemas_come_from_the_catalogue(folder: Folder) -> None:
    it = folder.load(
        """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified"
                   xmlns:wsa="http://www.w3.org/2005/08/addressing">
          <xs:import namespace="http://www.w3.org/XML/1998/namespace"
                     schemaLocation="http://www.w3.org/2001/xml.xsd"/>
          <xs:import namespace="http://www.w3.org/2005/08/addressing"
                     schemaLocation="https://www.w3.org/2006/03/addressing/ws-addr.xsd"/>
          <xs:element name="it">
            <xs:complexType>
              <xs:sequence><xs:element ref="wsa:ReplyTo"/></xs:sequence>
              <xs:attribute ref="xml:lang"/>
            </xs:complexType>
          </xs:element>
        </xs:schema>
        """
    )
    data = {"@lang": "de", "ReplyTo": {"Address": {"#text": "urn:x"}}}
    both_ways(
        it,
        data,
        '<it xml:lang="de"><w:ReplyTo xmlns:w="http://www.w3.org/2005/08/addressing">'
        "<w:Address>urn:x</w:Address></w:ReplyTo></it>",
    )
    assert it.invalid(it.write(data)) == []
    assert [path.name for path in it.wsdl.files] == ["feature.wsdl"]


def test_a_schema_that_is_not_there_is_told_with_what_needs_it(folder: Folder) -> None:
    with pytest.raises(WsdlError) as refused:
        folder.load(
            """
            <xs:schema targetNamespace="urn:t">
              <xs:include schemaLocation="gone.xsd"/>
              <xs:element name="it" type="t:Gone"/>
            </xs:schema>
            """
        )
    assert "there is no type 'Gone' in the namespace 'urn:t'" in str(refused.value)
    assert "gone.xsd" in f"{refused.value} {refused.value.hint}"


def test_what_an_import_promised_and_is_not_there_can_be_anything(folder: Folder) -> None:
    it = folder.load(
        """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
          <xs:import namespace="urn:u" schemaLocation="gone.xsd"/>
          <xs:element name="it">
            <xs:complexType>
              <xs:sequence><xs:element name="a" type="u:Gone"/></xs:sequence>
            </xs:complexType>
          </xs:element>
        </xs:schema>
        """
    )
    both_ways(
        it,
        {"a": {"@b": "c", "$any": [{"{urn:u}d": "e"}]}},
        '<it><a b="c"><u:d>e</u:d></a></it>',
    )
    assert it.wsdl.skipped == [
        "'Gone' of 'urn:u': its schema is not there, so it can hold anything"
    ]


@pytest.mark.parametrize("location", ["../outside.xsd", "/etc/outside.xsd"])
def test_nothing_outside_the_folder_is_read(folder: Folder, location: str) -> None:
    inner = Folder(folder.path / "in")
    inner.path.mkdir()
    folder.file("outside.xsd", f'<xs:schema {XS} targetNamespace="urn:t"/>')
    schema = INCLUDING.replace("types/a.xsd", location)
    with pytest.raises(WsdlError, match=r"outside the project's folder|absolute path"):
        inner.load(schema, root=inner.path)


def test_an_included_schema_of_another_namespace_is_refused(folder: Folder) -> None:
    folder.file("types/a.xsd", f'<xs:schema {XS} targetNamespace="urn:other"/>')
    with pytest.raises(WsdlError) as refused:
        folder.load(INCLUDING)
    assert refused.value.file.name == "a.xsd"
    assert "included into the namespace 'urn:t' but its own is 'urn:other'" in str(refused.value)


def test_a_type_derived_from_itself_is_refused(folder: Folder) -> None:
    it = folder.load(
        """
            <xs:element name="it" type="t:A"/>
            <xs:complexType name="A">
              <xs:complexContent><xs:extension base="t:B"/></xs:complexContent>
            </xs:complexType>
            <xs:complexType name="B">
              <xs:complexContent><xs:extension base="t:A"/></xs:complexContent>
            </xs:complexType>
            """
    )
    # Types are built when they are needed: at the latest for what is offered to callers.
    with pytest.raises(WsdlError, match="is derived from itself"):
        it.message.schema({})


def test_a_group_within_itself_is_refused(folder: Folder) -> None:
    it = folder.load(
        """
            <xs:element name="it">
              <xs:complexType><xs:group ref="t:G"/></xs:complexType>
            </xs:element>
            <xs:group name="G"><xs:sequence><xs:group ref="t:G"/></xs:sequence></xs:group>
            """
    )
    # Types are built when they are needed: at the latest for what is offered to callers.
    with pytest.raises(WsdlError, match="nested too deep"):
        it.message.schema({})


def test_short_names_do_not_depend_on_what_is_asked_first(folder: Folder) -> None:
    # Neither the WSDL nor a schema has a prefix for urn:x and urn:y.
    schema = """
        <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
          <xs:import namespace="urn:x"/><xs:import namespace="urn:y"/>
          <xs:element name="it">
            <xs:complexType>
              <xs:sequence>
                <xs:element ref="x:a" xmlns:x="urn:x"/><xs:element ref="y:a" xmlns:y="urn:y"/>
              </xs:sequence>
            </xs:complexType>
          </xs:element>
        </xs:schema>
        <xs:schema targetNamespace="urn:x">
          <xs:element name="a" type="xs:int"/><xs:complexType name="T"/>
        </xs:schema>
        <xs:schema targetNamespace="urn:y">
          <xs:element name="a" type="xs:int"/><xs:complexType name="T"/>
        </xs:schema>
    """
    plain, other = folder.load(schema), folder.load(schema)
    assert other.wsdl.mapping.name(other.wsdl.schemas.type("{urn:y}T")) == "T_ns2"
    for it in (plain, other):
        assert it.refused_by_schema({"a": 1, "a_ns2": 2}) == ""


def test_a_wsdl_in_two_files(folder: Folder) -> None:
    folder.load('<xs:element name="it" type="xs:int"/>')
    folder.file(
        "service.wsdl",
        """
        <definitions xmlns="http://schemas.xmlsoap.org/wsdl/" targetNamespace="urn:s"
                     xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:t="urn:t">
          <import namespace="urn:t" location="feature.wsdl"/>
          <service name="S">
            <port name="P" binding="t:Feature"><soap:address location="http://localhost/s"/></port>
          </service>
        </definitions>
        """,
    )
    wsdl = load_wsdl(folder.path / "service.wsdl")
    [(service, port, operation)] = wsdl.operations()
    assert (service.name, port.address, operation.name) == ("S", "http://localhost/s", "echo")
    both_ways(Feature(wsdl), 5, "<it>5</it>")
