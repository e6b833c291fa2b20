"""Messages of operations: which elements stand in Body and Header, and what data they are.

A message with one element is that element's data. One with several parts is an object by part, one
of the rpc style an object of its parameters. Header blocks that the WSDL declares are in "$headers"
of that object; where the data is no object, it is in "$body" then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lxml import etree

from esb.errors import BadMessage
from esb_soap.components import Element, local_name
from esb_soap.encoded import EncodedCodec
from esb_soap.jsonschema import Emitter, Registry
from esb_soap.markup import bad_message, pointer_of
from esb_soap.valid import UNREAD, Gate


class ElementCodec(Protocol):
    """Reads and writes elements: literally, or by the SOAP encoding."""

    def read(self, element: Element, node: etree._Element, what: str) -> Any: ...
    def write(self, element: Element, data: Any, what: str) -> bytes: ...


class WrittenParts(NamedTuple):
    """A written message: what goes into the Body (no, one or several elements), and the header
    blocks. Each declares the namespaces that it uses."""

    body: bytes
    headers: list[bytes]


@dataclass(frozen=True, slots=True)
class Header:
    """A header block that the WSDL declares; `name` is its key in "$headers"."""

    name: str
    element: Element


@dataclass(frozen=True, eq=False)
class Message:
    """One direction of one operation.

    what: how errors call it. parts: the elements in the Body, by part. single: whether the data are
    those of the only part. gate: libxml2, which is asked first. strict: whether what it refuses is
    refused where the codec has nothing against it: our callers must be right, services may be odd.
    """

    what: str
    codec: ElementCodec
    emitter: Callable[[Registry], Emitter]
    parts: Mapping[str, Element]
    single: bool
    headers: Sequence[Header] = ()
    gate: Gate | None = None
    strict: bool = False

    @property
    def element(self) -> str | None:
        """Qualified name ("{ns}name") of the Body's child, the first if there are several; None if
        the Body is empty."""
        return next((element.name for element in self.parts.values()), None)

    @property
    def header_elements(self) -> tuple[str, ...]:
        """Qualified names of the header blocks that the WSDL declares."""
        return tuple(header.element.name for header in self.headers)

    # --- writing

    def write(self, data: Any) -> WrittenParts:
        """The XML of `data`. Raises BadMessage, with pointers, if the data do not fit."""
        blocks: list[bytes] = []
        if self.headers:
            data, given = self._split(data)
            for header in self.headers:
                if given.get(header.name) is not None:
                    with _Under("$headers", header.name, what=self.what):
                        written = self.codec.write(header.element, given[header.name], self.what)
                    blocks.append(written)
            unknown = given.keys() - {header.name for header in self.headers}
            if unknown:
                pointer = pointer_of("$headers", min(unknown))
                raise bad_message(self.what, [{"pointer": pointer, "detail": "is not known"}])
        return WrittenParts(self._write_body(data), blocks)

    def _split(self, data: Any) -> tuple[Any, Mapping[str, Any]]:
        given: Any = {}
        if isinstance(data, dict):
            given = data.get("$headers", {})
            data = {key: value for key, value in data.items() if key != "$headers"}
            if data.keys() == {"$body"}:
                data = data["$body"]
        if not isinstance(given, dict):
            error = {"pointer": "/$headers", "detail": "must be an object"}
            raise bad_message(self.what, [error])
        return data, given

    def _write_body(self, data: Any) -> bytes:
        if self.single:
            [element] = self.parts.values()
            return self.codec.write(element, data, self.what)
        if data is None and not self.parts:
            data = {}
        if not isinstance(data, dict):
            raise bad_message(self.what, [{"pointer": "", "detail": "must be an object"}])
        errors = [
            {"pointer": pointer_of(key), "detail": "is not known"}
            for key in data
            if key not in self.parts
        ]
        errors += [
            {"pointer": pointer_of(name), "detail": "is missing"}
            for name in self.parts
            if name not in data
        ]
        if errors:
            raise bad_message(self.what, errors)
        written = []
        for name, element in self.parts.items():
            with _Under(name, what=self.what):
                written.append(self.codec.write(element, data[name], self.what))
        return b"".join(written)

    # --- reading

    def read(self, body: etree._Element, header: etree._Element | None = None) -> Any:
        """The data of an envelope's Body (and Header). Raises BadMessage if they do not fit."""
        data = self._read_body(body)
        if not self.headers:
            return data
        found: dict[str, Any] = {}
        by_tag = {declared.element.name: declared for declared in self.headers}
        for block in header.iterchildren("*") if header is not None else ():
            declared = by_tag.get(str(block.tag))
            if declared is not None:
                with _Under("$headers", declared.name, what=self.what):
                    found[declared.name] = self.codec.read(declared.element, block, self.what)
        if not found:
            return data if isinstance(data, dict) else {"$body": data}
        if isinstance(data, dict):
            return {**data, "$headers": found}
        return {"$body": data, "$headers": found}

    def _read_body(self, body: etree._Element) -> Any:
        children = list(body.iterchildren("*"))
        if self.single:
            [element] = self.parts.values()
            if not children:
                detail = f"'{element.local}' is missing, the Body is empty"
                raise bad_message(self.what, [{"pointer": "", "detail": detail}])
            return self._read_element(element, self._root(element, children), "")
        data: dict[str, Any] = {}
        left = {element.name: name for name, element in self.parts.items()}
        for child in children:
            name = left.pop(str(child.tag), None)
            if name is None:
                detail = f"'{local_name(str(child.tag))}' is not expected in the Body"
                raise bad_message(self.what, [{"pointer": "", "detail": detail}])
            with _Under(name, what=self.what):
                data[name] = self._read_element(self.parts[name], child, name)
        if left:
            errors = [
                {"pointer": pointer_of(name), "detail": "is missing"} for name in left.values()
            ]
            raise bad_message(self.what, errors)
        return data

    def _root(self, element: Element, children: list[etree._Element]) -> etree._Element:
        if len(children) == 1:
            return children[0]
        # The SOAP encoding, and it alone, puts independent elements beside the one that counts.
        encoded = isinstance(self.codec, EncodedCodec)
        roots = [child for child in children if child.tag == element.name]
        others = [c for c in children if c not in roots and not (encoded and c.get("id"))]
        if len(roots) != 1 or others:
            detail = f"the Body has {len(children)} elements instead of one"
            raise bad_message(self.what, [{"pointer": "", "detail": detail}])
        return roots[0]

    def _read_element(self, element: Element, node: etree._Element, name: str) -> Any:
        if self.gate is None:
            return self.codec.read(element, node, self.what)
        data = self.gate.read(element, node)
        if data is not UNREAD:
            return data
        data = self.codec.read(element, node, self.what)
        if self.strict and (errors := self.gate.errors(element, node)):
            raise bad_message(self.what, errors)
        return data

    # --- describing

    def schema(self, registry: Registry) -> dict[str, Any]:
        """JSON Schema 2020-12 of the data; named components are added to `registry`, to which
        `#/components/schemas/Name` refers."""
        emitter = self.emitter(registry)
        if self.single:
            [element] = self.parts.values()
            made = emitter.element(element)
        else:
            made = emitter.parts(self.parts)
        if self.headers:
            made = emitter.with_headers(made, {h.name: h.element for h in self.headers})
        return made


@dataclass(frozen=True, eq=False)
class FaultMessage:
    """A declared fault; its data are those of the element in the fault's detail."""

    name: str
    documentation: str
    declared: Element
    codec: ElementCodec
    emitter: Callable[[Registry], Emitter]

    @property
    def element(self) -> str | None:
        """Qualified name of the detail's child."""
        return self.declared.name

    def write(self, data: Any) -> bytes:
        """The detail's child. Raises BadMessage, with pointers, if the data do not fit."""
        return self.codec.write(self.declared, data, f"the fault '{self.name}'")

    def read(self, detail_child: etree._Element) -> Any:
        """The data of the detail's child. Raises BadMessage if it does not fit."""
        return self.codec.read(self.declared, detail_child, f"the fault '{self.name}'")

    def schema(self, registry: Registry) -> dict[str, Any]:
        """JSON Schema 2020-12 of the data; named components are added to `registry`."""
        return self.emitter(registry).element(self.declared)


class _Under:
    """Puts what is wrong inside under a pointer."""

    def __init__(self, *parts: str, what: str) -> None:
        self._prefix = pointer_of(*parts)
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, type_: object, e: BaseException | None, traceback: object) -> None:
        if isinstance(e, BadMessage) and e.errors:
            errors = [{**error, "pointer": self._prefix + error["pointer"]} for error in e.errors]
            raise bad_message(self._what, errors) from None
