"""The standard schemas of the catalogue: a WSDL that imports them needs no file and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.wsdl import NAMESPACES, around, canonical, element, exact, feature_of

from esb.errors import BadMessage
from esb_soap.certify import certify
from esb_soap.components import XML, local_name
from esb_soap.documents import CATALOGUE, Documents, WsdlError
from esb_soap.wsdl import load_wsdl
from esb_soap.xsd import Schemas

XSD = "{http://www.w3.org/2001/XMLSchema}"
WSN = "http://docs.oasis-open.org/wsn/b-2"
BF = "http://docs.oasis-open.org/wsrf/bf-2"
SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
XLINK = "http://www.w3.org/1999/xlink"
WSAW = "http://www.w3.org/2006/05/addressing/wsdl"
WSDL = "http://schemas.xmlsoap.org/wsdl/"
SWAREF = "http://ws-i.org/profiles/basic/1.1/xsd"
MS_TYPES = "http://microsoft.com/wsdl/types/"


def importing(namespace: str, content: str, location: str = "") -> str:
    """A schema that imports a namespace, with the prefix `c` for it."""
    where = f' schemaLocation="{location}"' if location else ""
    return f"""
        <xs:schema targetNamespace="urn:t" xmlns:c="{namespace}" elementFormDefault="qualified">
          <xs:import namespace="{namespace}"{where}/>{content}
        </xs:schema>
    """


def everything_of(namespace: str) -> str:
    """A schema whose <it> holds an element of the namespace, any that is not abstract, or an
    element of one of its types, and has its attributes."""
    document = Documents(None).catalogue(namespace)
    assert document is not None
    prefix = "xml" if namespace == XML else "c"
    elements, attributes = [], []
    for node in document.root.iterchildren("*"):
        name = node.get("name")
        if node.tag == f"{XSD}element" and node.get("abstract") != "true":
            elements.append(f'<xs:element ref="c:{name}"/>')
        elif node.tag in (f"{XSD}complexType", f"{XSD}simpleType"):
            elements.append(f'<xs:element name="of_{name}" type="c:{name}"/>')
        elif node.tag == f"{XSD}attribute":
            attributes.append(f'<xs:attribute ref="{prefix}:{name}"/>')
    return f"""
        <xs:element name="it">
          <xs:complexType>
            <xs:choice minOccurs="0">{"".join(elements)}</xs:choice>{"".join(attributes)}
          </xs:complexType>
        </xs:element>
    """


@pytest.mark.parametrize("location", ["http://schemas.example.com/standard.xsd", ""])
@pytest.mark.parametrize("namespace", CATALOGUE)
def test_a_wsdl_that_imports_it_is_whole(namespace: str, location: str, tmp_path: Path) -> None:
    schema = importing(namespace, everything_of(namespace), location)
    if namespace == XML:
        schema = schema.replace(f'xmlns:c="{XML}"', "")
    path = around(schema, tmp_path)
    wsdl = load_wsdl(path)
    assert wsdl.skipped == []
    assert wsdl.validator is not None, wsdl.validator_problem
    assert [file.name for file in wsdl.files] == ["feature.wsdl"]
    report = certify(path)
    assert report.loaded, report.error
    assert [str(lossy) for lossy in report.exceptions] == []
    assert report.certified == report.operations == 1


@pytest.mark.parametrize("namespace", CATALOGUE)
def test_all_that_it_refers_to_is_there(namespace: str) -> None:
    documents = Documents(None)
    document = documents.catalogue(namespace)
    assert document is not None
    assert document.root.get("targetNamespace") == namespace
    schemas = Schemas(documents)
    schemas.add(document, document.root)
    dangling = []
    for look_up, names in (
        (schemas.type, schemas.names("type")),
        (lambda name: schemas.element(name).type, schemas.names("element")),
    ):
        for name in names:
            try:
                look_up(name)
            except WsdlError as e:
                dangling.append(str(e))
    assert dangling == []
    assert documents.missing == []
    for node in document.root.iterdescendants(f"{XSD}import"):
        # Where it is belongs to whoever publishes it; here it is found by its namespace.
        assert node.get("namespace") in CATALOGUE
        assert node.get("schemaLocation") is None


NOTIFICATION: dict[str, Any] = {
    "Topic": {"@Dialect": "urn:topics", "#mixed": ["door/open"]},
    "ProducerReference": {"Address": {"#text": "urn:gate"}},
    "Message": {"$any": [{"{urn:t}event": "open"}]},
}


@pytest.mark.parametrize(
    ("namespace", "content", "data", "xml"),
    [
        pytest.param(
            WSN,
            '<xs:element name="it"><xs:complexType><xs:sequence>'
            '<xs:element ref="c:NotificationMessage"/></xs:sequence></xs:complexType></xs:element>',
            {"NotificationMessage": NOTIFICATION},
            f"""<it><c:NotificationMessage xmlns:c="{WSN}">
                <c:Topic Dialect="urn:topics">door/open</c:Topic>
                <c:ProducerReference><w:Address xmlns:w="http://www.w3.org/2005/08/addressing"
                  >urn:gate</w:Address></c:ProducerReference>
                <c:Message><event>open</event></c:Message>
            </c:NotificationMessage></it>""",
            id="WS-BaseNotification",
        ),
        pytest.param(
            SAML,
            '<xs:element name="it"><xs:complexType><xs:sequence>'
            '<xs:element ref="c:Subject"/></xs:sequence></xs:complexType></xs:element>',
            {
                "Subject": {
                    "NameID": {"@Format": "urn:f", "#text": "ann"},
                    "SubjectConfirmation": [{"@Method": "urn:m"}],
                }
            },
            f"""<it><c:Subject xmlns:c="{SAML}"><c:NameID Format="urn:f">ann</c:NameID>
                <c:SubjectConfirmation Method="urn:m"/></c:Subject></it>""",
            id="SAML",
        ),
        pytest.param(
            XLINK,
            '<xs:element name="it"><xs:complexType>'
            '<xs:attributeGroup ref="c:simpleAttrs"/></xs:complexType></xs:element>',
            {"@href": "http://example.com/", "@show": "new"},
            f'<it xmlns:c="{XLINK}" c:href="http://example.com/" c:show="new"/>',
            id="XLink",
        ),
        pytest.param(
            XLINK,
            '<xs:element name="it"><xs:complexType>'
            '<xs:attributeGroup ref="c:simpleLink"/></xs:complexType></xs:element>',
            {"@href": "#here"},
            f'<it xmlns:c="{XLINK}" c:href="#here"/>',
            id="XLink as GML has it",
        ),
        pytest.param(
            SWAREF,
            '<xs:element name="it" type="c:swaRef"/>',
            "cid:one",
            "<it>cid:one</it>",
            id="swaRef",
        ),
    ],
)
def test_its_types_are_those_of_the_standard(
    namespace: str, content: str, data: Any, xml: str, tmp_path: Path
) -> None:
    it = feature_of(importing(namespace, content, f"{namespace}.xsd"), tmp_path)
    tree = etree.fromstring(etree.tostring(element(xml)), etree.XMLParser(remove_blank_text=True))
    assert canonical(it.write(data)) == canonical(tree)
    assert exact(it.read(etree.tostring(tree).decode())) == exact(data)
    assert it.refused_by_schema(data) == ""
    assert it.invalid(it.write(data)) == []


@pytest.mark.parametrize(
    ("namespace", "content", "data", "problem"),
    [
        (
            WSN,
            '<xs:element name="it" type="c:TopicExpressionType"/>',
            {"#mixed": ["door"]},
            "Dialect",
        ),
        (SAML, '<xs:element name="it" type="c:DecisionType"/>', "Maybe", "Permit"),
        (MS_TYPES, '<xs:element name="it" type="c:guid"/>', "12", "pattern|form"),
        (
            XLINK,
            '<xs:element name="it"><xs:complexType><xs:attribute ref="c:show"/>'
            "</xs:complexType></xs:element>",
            {"@show": "loud"},
            "embed",
        ),
    ],
)
def test_what_the_standard_refuses_is_refused(
    namespace: str, content: str, data: Any, problem: str, tmp_path: Path
) -> None:
    it = feature_of(importing(namespace, content), tmp_path)
    with pytest.raises(BadMessage, match=problem):
        it.write(data)
    assert it.refused_by_schema(data) != ""


def test_a_fault_of_wsrf_keeps_what_its_code_holds(tmp_path: Path) -> None:
    """ErrorCode extends xs:anyType by an attribute alone: it holds anything."""
    it = feature_of(importing(BF, '<xs:element name="it" type="c:BaseFaultType"/>'), tmp_path)
    xml = f"""<it xmlns:c="{BF}"><c:Timestamp>2024-01-02T03:04:05Z</c:Timestamp>
        <c:ErrorCode dialect="urn:d">see <event>5</event> there</c:ErrorCode>
        <c:Description xml:lang="en">gone</c:Description></it>""".replace("\n        ", "")
    assert it.invalid(etree.tostring(element(xml))) == []
    data = it.read(xml)
    assert data["ErrorCode"]["@dialect"] == "urn:d"
    assert canonical(it.write(data)) == canonical(element(xml))
    assert it.refused_by_schema(data) == ""


def test_a_file_beside_the_wsdl_comes_first(tmp_path: Path) -> None:
    (tmp_path / "b-2.xsd").write_text(
        f"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{WSN}">
              <xs:element name="OfOurs" type="xs:int"/>
            </xs:schema>"""
    )
    content = """
        <xs:element name="it">
          <xs:complexType><xs:sequence><xs:element ref="c:OfOurs"/></xs:sequence></xs:complexType>
        </xs:element>
    """
    it = feature_of(importing(WSN, content, "b-2.xsd"), tmp_path)
    assert it.read(f'<it><c:OfOurs xmlns:c="{WSN}">5</c:OfOurs></it>') == {"OfOurs": 5}


def test_every_file_of_the_catalogue_is_in_its_table() -> None:
    document = Documents(None).catalogue(WSDL)
    assert document is not None
    there = {path.name for path in document.path.parent.glob("*.xsd")}
    assert there == set(CATALOGUE.values())


def test_what_names_an_array_types_wsdl_is_an_attribute(tmp_path: Path) -> None:
    """Schemas that import WSDL's namespace for wsdl:arrayType may give any location for it."""
    soapenc = "http://schemas.xmlsoap.org/soap/encoding/"
    path = around(
        f"""
        <xs:schema targetNamespace="urn:t" xmlns:soapenc="{soapenc}" xmlns:wsdl="{WSDL}">
          <xs:import namespace="{soapenc}"/>
          <xs:import namespace="{WSDL}" schemaLocation="{WSDL}"/>
          <xs:complexType name="Numbers">
            <xs:complexContent>
              <xs:restriction base="soapenc:Array">
                <xs:attribute ref="soapenc:arrayType" wsdl:arrayType="xs:int[]"/>
              </xs:restriction>
            </xs:complexContent>
          </xs:complexType>
          <xs:element name="it" type="t:Numbers"/>
        </xs:schema>
        """,
        tmp_path,
    )
    wsdl = load_wsdl(path)
    assert wsdl.documents.missing == []
    assert wsdl.validator is not None, wsdl.validator_problem
    made = wsdl.schemas.type("{urn:t}Numbers")
    assert local_name(getattr(made, "array_of", ("", ""))[0]) == "int"


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_types_of_the_soap_encoding_need_no_import(version: str, tmp_path: Path) -> None:
    """Generators of rpc services leave the import out; libxml2 insists on it."""
    prefix = "soapenc" if version == "1.1" else "enc"
    namespace = NAMESPACES[prefix]
    it = feature_of(
        f"""
        <xs:schema targetNamespace="urn:t" xmlns:{prefix}="{namespace}">
          <xs:element name="it">
            <xs:complexType>
              <xs:sequence><xs:element name="a" type="{prefix}:string"/></xs:sequence>
            </xs:complexType>
          </xs:element>
        </xs:schema>
        """,
        tmp_path,
    )
    assert it.read("<it><a xmlns=''>x</a></it>") == {"a": "x"}
    assert it.invalid(it.write({"a": "x"})) == []
