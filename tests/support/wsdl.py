"""WSDLs for tests: the feature files, and ones built around a schema; XML and data compared."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
from lxml import etree

from esb_soap.components import XSD, XSI, Element
from esb_soap.validator import errors_of
from esb_soap.wsdl import Message, Wsdl, load_wsdl

FEATURES = Path(__file__).resolve().parent.parent / "soap" / "features"

NAMESPACES = {
    "": "urn:t",
    "u": "urn:u",
    "xsi": XSI,
    "xs": XSD,
    "soapenc": "http://schemas.xmlsoap.org/soap/encoding/",
    "enc": "http://www.w3.org/2003/05/soap-encoding",
    "env": "http://schemas.xmlsoap.org/soap/envelope/",
    "env12": "http://www.w3.org/2003/05/soap-envelope",
    "t": "urn:t",
}
"""The prefixes that XML in tests may use without saying so."""

_AROUND = """\
<definitions name="Feature" targetNamespace="urn:t" xmlns="http://schemas.xmlsoap.org/wsdl/"
             xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
             xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:t="urn:t" xmlns:u="urn:u">
  <types>{schemas}</types>
  <message name="it"><part name="it" element="t:it"/></message>
  <portType name="Feature">
    <operation name="echo"><input message="t:it"/><output message="t:it"/></operation>
  </portType>
  <binding name="Feature" type="t:Feature">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="echo">
      <input><soap:body use="literal"/></input><output><soap:body use="literal"/></output>
    </operation>
  </binding>
</definitions>"""

_TARGET = '<xs:schema targetNamespace="urn:t" elementFormDefault="qualified">'


def around(schema: str, folder: Path) -> Path:
    """A WSDL file whose operation echo sends and answers <it>, as `schema` declares it: one or
    several xs:schema, or what is inside one of the namespace urn:t."""
    if "<xs:schema" not in schema:
        schema = f"{_TARGET}{schema}</xs:schema>"
    path = folder / "feature.wsdl"
    path.write_text(_AROUND.format(schemas=schema))
    return path


def element(xml: str) -> etree._Element:
    """The element that `xml` is, with the prefixes of NAMESPACES declared."""
    [one] = inside(xml)
    return one


def inside(xml: str) -> etree._Element:
    """A Body or Header that holds `xml`, with the prefixes of NAMESPACES declared."""
    declared = " ".join(
        f'xmlns{":" * bool(prefix)}{prefix}="{uri}"' for prefix, uri in NAMESPACES.items()
    )
    return etree.fromstring(f"<env:Body {declared}>{xml}</env:Body>")


def canonical(xml: etree._Element | bytes) -> str:
    """XML as it is compared: whatever its prefixes are (Canonical XML 2.0), those in the text of
    <qname> too."""
    root = etree.fromstring(xml if isinstance(xml, bytes) else etree.tostring(xml))
    for node in root.iter(etree.Element):
        if said := node.get(_ARRAY_TYPE):
            # The name of a type, but with brackets behind it.
            prefix, _, rest = said.partition(":")
            node.set(_ARRAY_TYPE, f"{{{node.nsmap[prefix]}}}{rest}")
    types = [f"{{{XSI}}}type", f"{{{NAMESPACES['enc']}}}itemType"]
    return etree.canonicalize(
        etree.tostring(root, encoding="unicode", with_tail=False),
        rewrite_prefixes=True,
        qname_aware_attrs=types,
        qname_aware_tags=["{urn:t}qname"],
    )


_ARRAY_TYPE = f"{{{NAMESPACES['soapenc']}}}arrayType"


def exact(data: Any) -> Any:
    """Data as they are compared: 1, 1.0, True and Decimal("1") are four values."""
    if isinstance(data, dict):
        return {key: exact(value) for key, value in data.items()}
    if isinstance(data, list):
        return [exact(value) for value in data]
    return (type(data).__name__, data)


class Feature:
    """One operation's message, for tables of data and XML."""

    def __init__(self, wsdl: Wsdl, message: Message | None = None) -> None:
        self.wsdl = wsdl
        self.message = message or only_message(wsdl)

    @property
    def element(self) -> Element:
        """The only element in the Body."""
        [element] = self.message.parts.values()
        return element

    def write(self, data: Any) -> bytes:
        """The XML in the Body."""
        return self.message.write(data).body

    def read(self, xml: str) -> Any:
        """The data of XML in the Body."""
        return self.message.read(inside(xml))

    def invalid(self, xml: bytes) -> list[str]:
        """What libxml2 has against a document."""
        assert self.wsdl.validator is not None, self.wsdl.validator_problem
        return [detail for _, detail in errors_of(self.wsdl.validator, etree.fromstring(xml))]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The message's JSON Schema with all that it refers to."""
        registry: dict[str, Any] = {}
        made = self.message.schema(registry)
        return {**made, "components": {"schemas": registry}}

    @cached_property
    def _validators(self) -> tuple[Any, Any]:
        jsonschema.Draft202012Validator.check_schema(self.schema)
        return (
            jsonschema_rs.validator_for(self.schema),
            jsonschema.Draft202012Validator(self.schema),
        )

    def refused_by_schema(self, data: Any) -> str:
        """Why the JSON Schema refuses data, "" if it takes them; two validators must agree."""
        ours, second = self._validators
        mine = next((error.message for error in ours.iter_errors(data)), "")
        theirs = next((error.message for error in second.iter_errors(_plain(data))), "")
        assert bool(mine) == bool(theirs), (data, mine, theirs)
        return mine


def _plain(data: Any) -> Any:
    """Data as a validator wants them that takes a Decimal for no whole number."""
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    return float(data) if isinstance(data, Decimal) else data


def only_message(wsdl: Wsdl) -> Message:
    """The input of a WSDL's first operation."""
    _, _, operation = next(wsdl.operations())
    return operation.input


def feature(name: str) -> Feature:
    """The feature file `name`."""
    return Feature(load_wsdl(FEATURES / f"{name}.wsdl"))


def feature_of(schema: str, folder: Path) -> Feature:
    """The element `it` of a schema (see `around`)."""
    return Feature(load_wsdl(around(schema, folder)))
