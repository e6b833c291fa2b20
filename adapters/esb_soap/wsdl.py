"""WSDL 1.1 with its SOAP 1.1 and 1.2 bindings (WSDL 1.1, sections 2 and 3; WS-I Basic Profile 1.1
where the specification leaves a choice).

    wsdl = load_wsdl(Path("partner.wsdl"))
    operation = wsdl.services["Partner"].ports["PartnerSoap"].operations["getPartner"]
    written = operation.input.write({"id": 7})      # bytes for an envelope's Body and Header
    data = operation.output.read(body, header)      # plain data of an answer

Data are dict, list, str, int, float, Decimal, bool and None; docs/soap-json.md tells how XML and
data correspond. Nothing is fetched: what a document imports is a file beside it or a standard
schema of the catalogue. What cannot be used is listed with its reason and harms nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from lxml import etree

from esb_soap.addressing import Actions, Addressing, actions_of, asked_for
from esb_soap.codec import Codec
from esb_soap.components import (
    ANY_TYPE,
    XSD,
    ComplexType,
    Element,
    Group,
    Particle,
    clark,
    local_name,
    namespace_of,
)
from esb_soap.documents import Document, Documents, WsdlError
from esb_soap.encoded import EncodedCodec
from esb_soap.jsonschema import Emitter, Registry
from esb_soap.message import ElementCodec, FaultMessage, Header, Message, WrittenParts
from esb_soap.shape import Mapping
from esb_soap.valid import Gate
from esb_soap.validator import compile_schemas
from esb_soap.xsd import SchemaDocument, Schemas

Version = Literal["1.1", "1.2"]

_WSDL: Final = "{http://schemas.xmlsoap.org/wsdl/}"
_MIME: Final = "{http://schemas.xmlsoap.org/wsdl/mime/}"
_SOAP: Final[dict[str, Version]] = {
    "http://schemas.xmlsoap.org/wsdl/soap/": "1.1",
    "http://schemas.xmlsoap.org/wsdl/soap12/": "1.2",
}
_HTTP_TRANSPORTS: Final = (
    "http://schemas.xmlsoap.org/soap/http",
    "http://www.w3.org/2003/05/soap/bindings/HTTP",
)


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation of a SOAP port. `output` is None where it is one-way; `soap_action` is "" where
    there is none; `actions` are those of WS-Addressing. Overloaded operations have the input's name
    added: "get_byName"."""

    name: str
    documentation: str
    soap_action: str
    style: Literal["document", "rpc"]
    use: Literal["literal", "encoded"]
    one_way: bool
    input: Message
    output: Message | None
    faults: dict[str, FaultMessage]
    actions: Actions = field(default_factory=Actions)


@dataclass(frozen=True, eq=False)
class Port:
    """A SOAP port. `address` is "" where the WSDL gives none; `addressing` is the version of
    WS-Addressing that it asks for, None if it does not."""

    name: str
    documentation: str
    address: str
    soap_version: Version
    operations: dict[str, Operation]
    addressing: Addressing | None = None


@dataclass(frozen=True, eq=False)
class Service:
    """A service and its SOAP ports."""

    name: str
    documentation: str
    ports: dict[str, Port]


@dataclass(eq=False)
class Wsdl:
    """A loaded WSDL.

    files: the documents it consists of, the WSDL first; those of the catalogue are not among them.
    skipped: what is there but not usable, and why ("port 'StockGet': ...").
    """

    path: Path
    target_namespace: str
    documentation: str
    documents: Documents
    schemas: Schemas
    mapping: Mapping
    services: dict[str, Service] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The documents it consists of, the WSDL first; not those of the catalogue."""
        return self.documents.files

    @cached_property
    def codec(self) -> Codec:
        """What reads and writes its types literally."""
        return Codec(self.mapping)

    @cached_property
    def gate(self) -> Gate:
        """libxml2 in front of that."""
        return Gate(self)

    def encoded(self, version: Version) -> EncodedCodec:
        """What reads and writes its types by the SOAP encoding."""
        return EncodedCodec(self.codec, version)

    @cached_property
    def _compiled(self) -> tuple[etree.XMLSchema | None, str]:
        return compile_schemas(self.schemas, self.documents)

    @property
    def validator(self) -> etree.XMLSchema | None:
        """libxml2's schema of all types, compiled when first asked for; None where libxml2 cannot
        compile it (`validator_problem` then says why)."""
        return self._compiled[0]

    @property
    def validator_problem(self) -> str:
        """Why there is no validator, "" if there is one."""
        return self._compiled[1]

    def operations(self) -> Iterator[tuple[Service, Port, Operation]]:
        """Every operation with its place."""
        for service in self.services.values():
            for port in service.ports.values():
                for operation in port.operations.values():
                    yield service, port, operation


def load_wsdl(
    path: Path,
    root: Path | None = None,
    repairs: Iterable[str] = (),
    int64: Literal["number", "string"] = "number",
) -> Wsdl:
    """Load a WSDL and what it imports: files below `root` (any relative path if left out) and the
    standard schemas of the catalogue, never the network. `repairs` are made, by name. int64: what
    integers that a double cannot hold are in data that are read; both are written.

    Raises WsdlError for one that cannot be read, or has no operation that can be used; its hint
    names the repairs that may help. ValueError for a repair that there is not.
    """
    documents = Documents(root, repairs)
    try:
        return _Reader(path, documents, int64).wsdl
    except WsdlError as e:
        e.hint = documents.hint(e)
        raise


class _Reader:
    """One WSDL being read."""

    def __init__(self, path: Path, documents: Documents, int64: str) -> None:
        main = documents.load(path)
        if main.root.tag != f"{_WSDL}definitions":
            raise _no_wsdl(main)
        schemas = Schemas(documents, big_as_text=int64 == "string")
        self._definitions: list[Document] = []
        self._index: dict[tuple[str, str], tuple[etree._Element, Document]] = {}
        self.wsdl = Wsdl(
            path,
            main.root.get("targetNamespace", ""),
            _documentation(main.root),
            documents,
            schemas,
            Mapping(schemas, _prefixes(main)),
        )
        self._add(main)
        self._services()
        self._drop_dangling()
        self._refuse_empty()

    # --- documents

    def _add(self, document: Document) -> None:
        pending = [document]
        while pending:
            document = pending.pop(0)
            if document in self._definitions:
                continue
            self._definitions.append(document)
            root = document.root
            namespace = root.get("targetNamespace", "")
            for node in root.iterchildren(*(_WSDL + k for k in ("message", "portType", "binding"))):
                key = (local_name(str(node.tag)), clark(namespace, node.get("name", "")))
                self._index.setdefault(key, (node, document))
            for types in root.iterchildren(f"{_WSDL}types"):
                for schema in types.iterchildren(f"{{{XSD}}}schema"):
                    self.wsdl.schemas.add(document, schema)
            for node in root.iterchildren(f"{_WSDL}import"):
                location = node.get("location")
                found = self.wsdl.documents.resolve(location, node.get("namespace"), document, node)
                if found is None:
                    raise document.error(
                        f"it imports '{location or ''}', which is not there", node,
                        "nothing is fetched: put the file beside the WSDL",
                    )  # fmt: skip
                if found.root.tag == f"{{{XSD}}}schema":
                    self.wsdl.schemas.add(found, found.root)
                elif found.root.tag == f"{_WSDL}definitions":
                    pending.append(found)
                else:
                    raise _no_wsdl(found)

    def qname(self, node: etree._Element, text: str, document: Document) -> str:
        """The qualified name that `text` is at `node`."""
        prefix, colon, local = text.strip().rpartition(":")
        namespace = node.nsmap.get(prefix if colon else None)
        if namespace is None and colon:
            raise document.error(f"the prefix of '{text}' is not declared", node)
        return clark(namespace or "", local)

    def _lookup(
        self, kind: str, name: str, node: etree._Element, document: Document
    ) -> tuple[etree._Element, Document]:
        qualified = self.qname(node, name, document)
        found = self._index.get((kind, qualified))
        if found is None:
            raise document.error(f"there is no {kind} '{name}'", node)
        return found

    # --- services

    def _services(self) -> None:
        services = self.wsdl.services
        for document in self._definitions:
            for node in document.root.iterchildren(f"{_WSDL}service"):
                name = node.get("name", "")
                service = services.setdefault(name, Service(name, _documentation(node), {}))
                for port in node.iterchildren(f"{_WSDL}port"):
                    self._port(port, service, document)
        if not any(service.ports for service in services.values()):
            # Bindings without a service are usable where the address is configured.
            for (kind, qualified), (node, document) in self._index.items():
                if kind == "binding" and _soap_binding(node) is not None:
                    name = local_name(qualified)
                    service = services.setdefault(name, Service(name, _documentation(node), {}))
                    self._binding(node, document, service, name, "", "")

    def _port(self, node: etree._Element, service: Service, document: Document) -> None:
        name = node.get("name", "")
        address = ""
        for child in node.iterchildren("*"):
            if namespace_of(str(child.tag)) in _SOAP and local_name(str(child.tag)) == "address":
                address = (child.get("location") or "").strip()
        try:
            binding, where = self._lookup("binding", node.get("binding", ""), node, document)
            self._binding(binding, where, service, name, address, _documentation(node), node)
        except WsdlError as e:
            self.skip(f"port '{name}'", e)

    def _binding(
        self,
        node: etree._Element,
        document: Document,
        service: Service,
        name: str,
        address: str,
        documentation: str,
        *port: etree._Element,
    ) -> None:
        soap = _soap_binding(node)
        if soap is None:
            self.wsdl.skipped.append(f"port '{name}': it is bound to something other than SOAP")
            return
        transport = soap.get("transport", _HTTP_TRANSPORTS[0]).rstrip("/")
        if "http" not in transport.lower().removeprefix("http://") and "://" in transport:
            self.wsdl.skipped.append(f"port '{name}': its transport {transport} is not HTTP")
            return
        version = _SOAP[namespace_of(str(soap.tag))]
        port_type, described_in = self._lookup("portType", node.get("type", ""), node, document)
        described: dict[str, list[etree._Element]] = {}
        for operation in port_type.iterchildren(f"{_WSDL}operation"):
            described.setdefault(operation.get("name", ""), []).append(operation)
        operations: dict[str, Operation] = {}
        for bound in node.iterchildren(f"{_WSDL}operation"):
            operation_name = bound.get("name", "")
            try:
                overloads = described.get(operation_name, [])
                abstract = _overload(overloads, bound)
                if abstract is None:
                    raise document.error("the port type has no such operation", bound)
                key = operation_name
                if len(overloads) > 1:
                    one = next(abstract.iterchildren(f"{_WSDL}input"), None)
                    message = one.get("name") if one is not None else None
                    key = f"{operation_name}_{message}" if message else operation_name
                number = 1
                while key in operations:
                    number += 1
                    key = f"{operation_name}_{number}"
                operations[key] = _OperationReader(
                    self, bound, document, abstract, described_in,
                    soap.get("style", "document"), key, version,
                ).operation  # fmt: skip
            except WsdlError as e:
                self.skip(f"operation '{operation_name}'", e)
        if operations:
            asked = asked_for(node, *port)
            service.ports[name] = Port(name, documentation, address, version, operations, asked)

    def skip(self, what: str, problem: WsdlError) -> None:
        """Note what cannot be used, and what could be done about it."""
        hint = self.wsdl.documents.hint(problem)
        said = str(problem) if problem.line else problem.message
        self.wsdl.skipped.append(f"{what}: {said}" + (f" ({hint})" if hint else ""))

    def _drop_dangling(self) -> None:
        """Operations whose types refer to what is not there cannot be used."""
        wsdl = self.wsdl
        if wsdl.schemas.dangling():
            for service in wsdl.services.values():
                for port in list(service.ports.values()):
                    for name, operation in list(port.operations.items()):
                        problem = _unusable(operation)
                        if problem is not None:
                            del port.operations[name]
                            self.skip(f"operation '{name}'", problem)
                    if not port.operations:
                        del service.ports[port.name]
        for name in wsdl.schemas.absent:
            what = f"'{local_name(name)}' of '{namespace_of(name)}'"
            text = "its schema is not there, so it can hold anything"
            self.skip(what, WsdlError(text, wsdl.path))

    def _refuse_empty(self) -> None:
        wsdl = self.wsdl
        if any(True for _ in wsdl.operations()):
            wsdl.services = {n: s for n, s in wsdl.services.items() if s.ports}
            return
        if wsdl.skipped:
            reasons = list(dict.fromkeys(wsdl.skipped))
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            error = WsdlError("", wsdl.path)
            # What the whole file's hint will say need not be said here.
            reason = reasons[0].removesuffix(f" ({wsdl.documents.hint(error)})")
            raise WsdlError(f"nothing in it can be used: {reason}{more}", wsdl.path)
        kinds = {kind for kind, _ in self._index}
        if "binding" in kinds:
            raise WsdlError("it binds no operation to SOAP over HTTP", wsdl.path)
        if "portType" in kinds:
            raise WsdlError(
                "it has a port type but no binding and no service", wsdl.path, 0,
                "load the WSDL that imports this one",
            )  # fmt: skip
        raise WsdlError("it describes no operation", wsdl.path)

    # --- messages

    def parts(
        self, reference: etree._Element, document: Document
    ) -> dict[str, tuple[etree._Element, Document]]:
        """The parts of the message that an input, output, fault or header refers to."""
        said = reference.get("message")
        if said is None:
            raise document.error("the message is missing", reference)
        node, where = self._lookup("message", said, reference, document)
        return {part.get("name", ""): (part, where) for part in node.iterchildren(f"{_WSDL}part")}

    def element(self, part: etree._Element, document: Document) -> Element | None:
        """The element of a part; None if it has a type instead."""
        said = part.get("element")
        if said is None:
            return None
        found: Element = self._located(
            lambda: self.wsdl.schemas.element(self.qname(part, said, document)), part, document
        )
        return found

    def accessor(self, part: etree._Element, document: Document, *, nillable: bool) -> Element:
        """The element that a part is inside of an rpc message (SOAP 1.1, section 7.1)."""
        element = self.element(part, document)
        if element is not None:
            return element
        said, name = part.get("type"), part.get("name", "")
        if said is None:
            raise document.error(f"the part '{name}' has neither element nor type", part)
        qualified = self.qname(part, said, document)
        type_ = self._located(lambda: self.wsdl.schemas.type(qualified), part, document)
        return Element(name, lambda: type_, nillable=nillable, documentation=_documentation(part))

    def _located(self, find: Callable[[], Any], node: etree._Element, document: Document) -> Any:
        try:
            return find()
        except WsdlError as e:
            if e.line:
                raise
            raise document.error(e.message, node, e.hint) from e

    def emitter(self, registry: Registry) -> Emitter:
        """What writes the JSON Schemas of messages."""
        return Emitter(self.wsdl.mapping, registry)


class _OperationReader:
    """Makes one Operation."""

    def __init__(
        self,
        reader: _Reader,
        bound: etree._Element,
        document: Document,
        abstract: etree._Element,
        described_in: Document,
        style: str,
        name: str,
        version: Version,
    ) -> None:
        self._reader = reader
        self._version = version
        self._document = document
        self._described_in = described_in
        self._name = bound.get("name", "")
        self._use: Literal["literal", "encoded"] = "literal"
        action = ""
        for child in bound.iterchildren("*"):
            if local_name(str(child.tag)) == "operation" and namespace_of(str(child.tag)) in _SOAP:
                action = (child.get("soapAction") or "").strip()
                style = child.get("style", style)
        if style not in ("document", "rpc"):
            raise document.error(f"the style '{style}' is neither document nor rpc", bound)
        self._style: Literal["document", "rpc"] = "rpc" if style == "rpc" else "document"
        order = [local_name(str(child.tag)) for child in abstract.iterchildren("*")]
        if "input" not in order or (
            "output" in order and order.index("output") < order.index("input")
        ):
            raise document.error("the service starts it (solicit or notification)", bound)
        request = self._direction(bound, abstract, "input")
        assert request is not None
        response = self._direction(bound, abstract, "output")
        self.operation = Operation(
            name,
            _documentation(abstract) or _documentation(bound),
            action,
            self._style,
            self._use,
            response is None,
            request,
            response,
            self._faults(bound, abstract),
            actions_of(abstract, action),
        )

    def _direction(
        self, bound: etree._Element, abstract: etree._Element, which: Literal["input", "output"]
    ) -> Message | None:
        described = next(abstract.iterchildren(_WSDL + which), None)
        if described is None:
            return None
        concrete = next(bound.iterchildren(_WSDL + which), None)
        parts = self._reader.parts(described, self._described_in)
        body, declared = self._extensions(concrete)
        encoded = body is not None and body.get("use") == "encoded"
        if encoded:
            self._use = "encoded"
        headers = tuple(self._headers(declared))
        attached = self._attached(concrete)
        chosen = self._body_parts(parts, body, [*declared, *attached], described)
        what = f"the {which} of '{self._name}'"
        reader, wsdl = self._reader, self._reader.wsdl
        codec: ElementCodec = wsdl.encoded(self._version) if encoded else wsdl.codec
        gate = None if encoded else wsdl.gate
        if self._style == "rpc":
            namespace = body.get("namespace", "") if body is not None else ""
            if not namespace and body is None:
                namespace = wsdl.target_namespace
            tag = clark(namespace, self._name + ("" if which == "input" else "Response"))
            wrapper = self._wrapper(tag, chosen, encoded=encoded)
            return Message(what, codec, reader.emitter, {"": wrapper}, True, headers)
        elements: dict[str, Element] = {}
        for name, (part, where) in chosen.items():
            element = reader.element(part, where)
            if element is None and "typed-parts" in wsdl.documents.repairs:
                element = reader.accessor(part, where, nillable=False)
            if element is None:
                raise where.error(
                    f"the part '{name}' of a document message has a type instead of an element",
                    part,
                )
            elements[name] = element
        single = len(elements) == 1
        strict = which == "input"
        return Message(
            what, codec, reader.emitter, elements, single, headers, gate=gate, strict=strict
        )

    def _extensions(
        self, concrete: etree._Element | None
    ) -> tuple[etree._Element | None, list[etree._Element]]:
        """The soap:body and the soap:headers of a bound message, those inside MIME parts too."""
        body: etree._Element | None = None
        headers = []
        for node in concrete.iter("*") if concrete is not None else ():
            if namespace_of(str(node.tag)) in _SOAP:
                if local_name(str(node.tag)) == "body" and body is None:
                    body = node
                elif local_name(str(node.tag)) == "header":
                    headers.append(node)
        return body, headers

    def _attached(self, concrete: etree._Element | None) -> list[etree._Element]:
        """The parts that are attachments (WSDL 1.1, section 5): told, for messages lack them."""
        if concrete is None:
            return []
        nodes = concrete.iter(f"{_MIME}content", f"{_MIME}mimeXml")
        found = [node for node in nodes if node.get("part")]
        for name in dict.fromkeys(str(node.get("part")) for node in found):
            text = f"its part '{name}' is an attachment, which messages here do not have"
            problem = self._document.error(text, found[0])
            self._reader.wsdl.skipped.append(f"operation '{self._name}': {problem}")
        return found

    def _body_parts(
        self,
        parts: dict[str, tuple[etree._Element, Document]],
        body: etree._Element | None,
        headers: list[etree._Element],
        described: etree._Element,
    ) -> dict[str, tuple[etree._Element, Document]]:
        said = body.get("parts") if body is not None else None
        if said is not None:
            for name in said.split():
                if name not in parts:
                    raise self._document.error(f"the message has no part '{name}'", body)
            return {name: parts[name] for name in said.split()}
        own = local_name(described.get("message", "").replace(":", "}"))
        taken = {
            node.get("part", "")
            for node in headers
            if namespace_of(str(node.tag)) == _MIME[1:-1]
            or local_name(node.get("message", "").replace(":", "}")) == own
        }
        return {name: part for name, part in parts.items() if name not in taken}

    def _wrapper(
        self, tag: str, parts: dict[str, tuple[etree._Element, Document]], *, encoded: bool
    ) -> Element:
        """The element around the parameters of an rpc message (SOAP 1.1, section 7.1)."""
        accessors = [self._reader.accessor(*part, nillable=True) for part in parts.values()]
        items = tuple(Particle(1, 1, accessor) for accessor in accessors)
        type_ = ComplexType(
            None,
            owner=local_name(tag),
            particle=Particle(1, 1, Group("all", items)) if items else None,
        )
        return Element(tag, lambda: type_)

    def _headers(self, nodes: list[etree._Element]) -> Iterator[Header]:
        names: set[str] = set()
        said: set[tuple[str, str]] = set()
        for node in nodes:
            # Some say the same header twice; a message has it once.
            reference = (node.get("message", ""), node.get("part", ""))
            if reference in said:
                continue
            said.add(reference)
            parts = self._reader.parts(node, self._document)
            found = parts.get(node.get("part", ""))
            if found is None:
                raise self._document.error(
                    f"the header's message has no part '{node.get('part')}'", node
                )
            element = self._reader.element(*found)
            if element is None:
                element = self._reader.accessor(*found, nillable=False)
                namespace = node.get("namespace")
                if namespace:
                    inner = element.type
                    element = Element(clark(namespace, element.name), lambda t=inner: t)  # type: ignore[misc]
            name, number = element.local, 1
            while name in names:
                number += 1
                name = f"{element.local}_{number}"
            names.add(name)
            yield Header(name, element)

    def _faults(self, bound: etree._Element, abstract: etree._Element) -> dict[str, FaultMessage]:
        found: dict[str, FaultMessage] = {}
        encoded = {
            node.get("name")
            for node in bound.iterchildren(f"{_WSDL}fault")
            if any(child.get("use") == "encoded" for child in node.iterchildren("*"))
        }
        for node in abstract.iterchildren(f"{_WSDL}fault"):
            try:
                parts = self._reader.parts(node, self._described_in)
                if not parts:
                    continue
                part, where = next(iter(parts.values()))
                element = self._reader.accessor(part, where, nillable=False)
            except WsdlError as e:
                self._reader.skip(f"a fault of '{self._name}'", e)
                continue
            name = node.get("name") or element.local
            wsdl = self._reader.wsdl
            codec: ElementCodec = wsdl.encoded(self._version) if name in encoded else wsdl.codec
            found[name] = FaultMessage(
                name, _documentation(node), element, codec, self._reader.emitter
            )
        return found


# --- helpers -------------------------------------------------------------------------------------


def _unusable(operation: Operation) -> WsdlError | None:
    """What is wrong with the types that an operation needs."""
    messages = [m for m in (operation.input, operation.output) if m is not None]
    pending: list[Element] = [e for m in messages for e in m.parts.values()]
    pending += [h.element for m in messages for h in m.headers]
    pending += [fault.declared for fault in operation.faults.values()]
    seen: set[int] = set()
    alive: list[object] = []
    while pending:
        element = pending.pop()
        try:
            type_ = element.type
        except WsdlError as e:
            return e
        if id(type_) in seen or not isinstance(type_, ComplexType) or type_.is_any:
            continue
        seen.add(id(type_))
        alive.append(type_)
        pending += _elements(type_.particle)
    return None


def _elements(particle: Particle | None) -> Iterator[Element]:
    if particle is not None and isinstance(particle.term, Element):
        yield particle.term
    elif particle is not None and isinstance(particle.term, Group):
        for item in particle.term.items:
            yield from _elements(item)


def _no_wsdl(document: Document) -> WsdlError:
    root = document.root
    local, namespace = local_name(str(root.tag)), namespace_of(str(root.tag))
    hint = ""
    if namespace == "http://www.w3.org/ns/wsdl":
        hint = "it is WSDL 2.0; WSDL 1.1 is what is read here"
    elif local == "Metadata":
        hint = "save the wsdl:definitions inside it as a file of its own"
    elif local.lower() == "html":
        hint = "it is a web page: the WSDL is often at the address with ?wsdl"
    elif namespace == XSD:
        hint = "it is an XML Schema: load the WSDL that imports it"
    return document.error(f"this is no WSDL but <{local}>", root, hint)


def _prefixes(main: Document) -> dict[str, str]:
    """The WSDL's own prefixes, as short names of namespaces."""
    found: dict[str, str] = {}
    for prefix, namespace in main.root.nsmap.items():
        if prefix and namespace not in found and namespace != XSD:
            found[namespace] = prefix
    return found


def _soap_binding(node: etree._Element) -> etree._Element | None:
    for child in node.iterchildren("*"):
        if namespace_of(str(child.tag)) in _SOAP and local_name(str(child.tag)) == "binding":
            return child
    return None


def _overload(candidates: list[etree._Element], bound: etree._Element) -> etree._Element | None:
    """The operation of the port type that is bound; overloads are told by their messages' names."""
    if len(candidates) <= 1:
        return candidates[0] if candidates else None

    def names(node: etree._Element) -> list[str | None]:
        return [n.get("name") for n in node.iterchildren(f"{_WSDL}input", f"{_WSDL}output")]

    return next((c for c in candidates if names(c) == names(bound)), candidates[0])


def _documentation(node: etree._Element) -> str:
    for child in node.iterchildren(f"{_WSDL}documentation"):
        lines = str(_TEXT(child)).strip().splitlines()
        return "\n".join(" ".join(line.split()) for line in lines)
    return ""


_TEXT: Final = etree.XPath("string()")

__all__ = [
    "ANY_TYPE",
    "FaultMessage",
    "Message",
    "Operation",
    "Port",
    "Registry",
    "SchemaDocument",
    "Service",
    "WrittenParts",
    "Wsdl",
    "WsdlError",
    "load_wsdl",
]
