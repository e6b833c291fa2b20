"""libxml2's validator for all schemas of a WSDL: the second gate behind the codec."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, Final

from lxml import etree

from esb_soap.components import XSD, local_name, namespace_of
from esb_soap.documents import Documents
from esb_soap.xsd import SchemaDocument, Schemas

_X: Final = f"{{{XSD}}}"
_ALL: Final = "urn:esb:all"


class _Memory(etree.Resolver):
    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._documents = documents

    def resolve(self, url: str, pubid: str, context: Any) -> Any:  # type: ignore[override]
        raw = self._documents.get(url)
        if raw is None:
            raise OSError(f"{url} is not part of the schemas")
        return self.resolve_file(io.BytesIO(raw), context, base_url=url, close=True)


def compile_schemas(schemas: Schemas, documents: Documents) -> tuple[etree.XMLSchema | None, str]:
    """All schemas as one validator, or None and why libxml2 refuses them.

    libxml2 reads one document for each namespace and forgets others of it: so each namespace gets a
    document that includes all of its own. Nothing is read but what is in memory.
    """
    everything = list(schemas.all)
    known = {schema.target for schema in everything}

    def take(namespace: str) -> None:
        document = documents.catalogue(namespace) if namespace not in known else None
        if document is not None:
            known.add(namespace)
            everything.append(SchemaDocument(document, document.root, namespace, False))

    for namespace in sorted(schemas.aliased):
        take(namespace)
    for schema in everything:
        for node in schema.node.iterchildren(f"{_X}import"):
            take(node.get("namespace", ""))
    spaces: dict[str, str] = {}
    for schema in everything:
        spaces.setdefault(schema.target, f"esb:///ns{len(spaces)}.xsd")
    written: dict[str, bytes] = {}
    drivers = {
        namespace: etree.Element(f"{_X}schema", {"targetNamespace": namespace} if namespace else {})
        for namespace in spaces
    }
    for name, kind in schemas.absent.items():
        namespace = namespace_of(name)
        if namespace not in drivers:
            spaces[namespace] = f"esb:///ns{len(spaces)}.xsd"
            drivers[namespace] = etree.Element(f"{_X}schema", {"targetNamespace": namespace})
        _add_stand_in(drivers[namespace], kind, local_name(name))
    for number, schema in enumerate(everything):
        if next(schema.node.iterchildren(f"{_X}redefine"), None) is not None:
            return None, "it uses redefine"
        url = f"esb:///doc{number}.xsd"
        root = etree.fromstring(_bytes(schema.node))
        imported = set()
        for node in list(root.iterchildren(f"{_X}include", f"{_X}import")):
            namespace = node.get("namespace", "")
            if node.tag == f"{_X}include" or namespace not in spaces or namespace in imported:
                root.remove(node)
            else:
                imported.add(namespace)
                node.set("schemaLocation", spaces[namespace])
        _add_imports(root, schema, imported, spaces)
        written[url] = _bytes(root)
        etree.SubElement(drivers[schema.target], f"{_X}include", schemaLocation=url)
    for namespace, driver in drivers.items():
        written[spaces[namespace]] = _bytes(driver)
    top = etree.Element(f"{_X}schema", targetNamespace=_ALL)
    for namespace, url in spaces.items():
        attributes = {"schemaLocation": url} | ({"namespace": namespace} if namespace else {})
        etree.SubElement(top, f"{_X}import", attributes)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    parser.resolvers.add(_Memory(written))
    try:
        root = etree.fromstring(_bytes(top), parser, base_url="esb:///all.xsd")
        return etree.XMLSchema(root), ""
    except etree.XMLSchemaParseError as e:
        return None, str(e).partition(", line ")[0][:300]


def _bytes(node: etree._Element) -> bytes:
    # In ASCII, which is lxml's default, there is no way to write names in other letters.
    return etree.tostring(node, encoding="UTF-8")


def _add_stand_in(schema: etree._Element, kind: str, name: str) -> None:
    """Declare a component that is not there so that it allows anything."""
    anything = {"minOccurs": "0", "maxOccurs": "unbounded", "processContents": "lax"}
    if kind == "type":
        made = etree.SubElement(schema, f"{_X}complexType", name=name, mixed="true")
        model = etree.SubElement(made, f"{_X}sequence")
        etree.SubElement(model, f"{_X}any", anything)
        etree.SubElement(made, f"{_X}anyAttribute", processContents="lax")
    elif kind == "element":
        etree.SubElement(schema, f"{_X}element", name=name, nillable="true")
    elif kind == "group":
        made = etree.SubElement(schema, f"{_X}group", name=name)
        etree.SubElement(etree.SubElement(made, f"{_X}sequence"), f"{_X}any", anything)
    elif kind == "attributeGroup":
        made = etree.SubElement(schema, f"{_X}attributeGroup", name=name)
        etree.SubElement(made, f"{_X}anyAttribute", processContents="lax")
    elif kind == "attribute":
        etree.SubElement(schema, f"{_X}attribute", name=name)


def _add_imports(
    root: etree._Element, schema: SchemaDocument, imported: set[str], spaces: Mapping[str, str]
) -> None:
    """Import what a schema uses but does not import: inline schemas often leave that out, and
    attributes such as xml:lang need it."""
    declared = {namespace for node in root.iter("*") for namespace in node.nsmap.values()}
    for namespace in sorted(declared):
        if namespace in spaces and namespace not in imported and namespace != schema.target:
            node = etree.Element(
                f"{_X}import", {"namespace": namespace, "schemaLocation": spaces[namespace]}
            )
            root.insert(0, node)


def errors_of(validator: etree.XMLSchema, node: etree._Element) -> list[tuple[etree._Element, str]]:
    """What a validator has against an element: where in it, and what."""
    if validator.validate(node):
        return []
    found: list[tuple[etree._Element, str]] = []
    for entry in validator.error_log:  # type: ignore[attr-defined]
        if "fixed value constraint" in entry.message:
            continue  # it compares spellings, 2.0 with 2.00; the codec compares values
        message = re.sub(r"\{[^}]*\}", "", entry.message)
        message = re.sub(r"^Element '[^']*'(, attribute '[^']*')?: ", "", message).strip()
        message = re.sub(r"^\[facet '[^']*'\] ", "", message).rstrip(".")
        error = (_at(entry.path or "", node), message[:1].lower() + message[1:])
        if error not in found:
            found.append(error)
    return found[:20]


def _at(path: str, node: etree._Element) -> etree._Element:
    """The element that libxml2's path means, in which `node` is the root."""
    relative = "/".join(path.split("/")[2:])
    prefixes = {prefix: uri for prefix, uri in node.nsmap.items() if prefix}
    try:
        found = node.xpath(relative, namespaces=prefixes) if relative else []
    except etree.XPathError:
        found = []
    first = found[0] if isinstance(found, list) and found else node
    return first if isinstance(first, etree._Element) else node
