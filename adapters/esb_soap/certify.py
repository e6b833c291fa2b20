"""Certifying a WSDL: proof by instances that nothing is lost between XML and data.

For each message of each operation, and each type that it can hold:

* data made up from the plan are written, are valid for libxml2, and are read back as the same data;
  they fit the JSON Schema that callers are given, and survive JSON itself;
* XML made up from the schema's own content models is read and written again, is valid both times,
  and is the same document (comments, prefixes and white space that means nothing aside).

What is not the same is an exception that names the operation, the direction and the exact place.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import jsonschema_rs
import msgspec
from lxml import etree

from esb.errors import BadMessage
from esb_soap.components import ComplexType, Element, Type, clark, elements_of, local_name
from esb_soap.documents import WsdlError
from esb_soap.instances import Instances
from esb_soap.jsonschema import Registry
from esb_soap.markup import pointer_of
from esb_soap.message import Message, WrittenParts
from esb_soap.samples import Amount, NoSample, Sampler
from esb_soap.valid import UNREAD
from esb_soap.validator import errors_of
from esb_soap.wsdl import Operation, Wsdl, load_wsdl

ROUNDS: Final = 4
"""Random instances of each element, of data and of XML."""

_RANDOM: Final[Amount] = "random"
_AMOUNTS: Final[tuple[Amount, ...]] = ("full", "minimal", *[_RANDOM] * ROUNDS)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class Lossy:
    """What is lossy or could not be shown: operation ("port.operation"), direction ("input",
    "output" or a fault's name), JSON pointer of the place in its data, and what is wrong."""

    operation: str
    direction: str
    pointer: str
    problem: str

    def __str__(self) -> str:
        return f"{self.operation} {self.direction} {self.pointer or '/'}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What came of one file. `error`: why it could not be loaded, "" if it was. operations: those
    of all SOAP ports; certified: how many of them have no exception. load_ms: milliseconds."""

    file: str
    loaded: bool = False
    error: str = ""
    operations: int = 0
    certified: int = 0
    exceptions: list[Lossy] = field(default_factory=list)
    load_ms: float = 0.0


def certify(path: Path, repairs: Iterable[str] = ()) -> Report:
    """Load the WSDL at `path`, with repairs, and prove each of its operations. Never raises for
    what is wrong with the WSDL: that is in the report."""
    report = Report(str(path))
    begun = time.perf_counter()
    try:
        wsdl = load_wsdl(path, repairs=repairs)
    except WsdlError as e:
        report.error = f"{e} ({e.hint})" if e.hint else str(e)
        return report
    finally:
        report.load_ms = round((time.perf_counter() - begun) * 1000, 1)
    report.loaded = True
    prover = _Prover(wsdl)
    for _, port, operation in wsdl.operations():
        report.operations += 1
        name = f"{port.name}.{operation.name}"
        try:
            found = list(prover.operation(name, operation))
        except WsdlError as e:
            found = [Lossy(name, "", "", f"its types are wrong: {e}")]
        report.exceptions += found
        report.certified += not found
    return report


_KEYS: Final = re.compile("key identity-constraint|keyref|unique identity-constraint|key-sequence")

Problem = tuple[str, str]
"""A JSON pointer and what is wrong there."""


class _Prover:
    """Proves the elements of one WSDL, each once."""

    def __init__(self, wsdl: Wsdl) -> None:
        self._wsdl = wsdl
        self._registry: Registry = {}
        self._referred: dict[str, tuple[str, ...]] = {}
        self._elements: dict[int, list[Problem]] = {}
        self._messages: dict[tuple[int, ...], list[Problem]] = {}
        self._types: dict[str, list[Problem]] = {}

    def operation(self, name: str, operation: Operation) -> Iterator[Lossy]:
        """What is wrong with an operation."""
        literal = operation.use == "literal"
        directions: list[tuple[Literal["input", "output"], Message | None]] = [
            ("input", operation.input), ("output", operation.output)
        ]  # fmt: skip
        for direction, message in directions:
            if message is None:
                continue
            for pointer, problem in self._message(message):
                yield Lossy(name, direction, pointer, problem)
            for part, element in message.parts.items() if literal else ():
                at = "" if message.single else pointer_of(part)
                for pointer, problem in self._element(element):
                    yield Lossy(name, direction, at + pointer, problem)
            for header in message.headers if literal else ():
                at = pointer_of("$headers", header.name)
                for pointer, problem in self._element(header.element):
                    yield Lossy(name, direction, at + pointer, problem)
        for fault in operation.faults.values():
            for pointer, problem in self._element(fault.declared):
                yield Lossy(name, fault.name, pointer, problem)

    # --- data first

    def _message(self, message: Message) -> list[Problem]:
        elements = [*message.parts.values(), *(header.element for header in message.headers)]
        key = (id(message.codec), message.single, *(id(element) for element in elements))
        if key not in self._messages:
            self._messages[key] = list(dict.fromkeys(self._prove_message(message)))
        return self._messages[key]

    def _prove_message(self, message: Message) -> Iterator[Problem]:
        schema = self._json_schema(message)
        made = 0
        failure = ""
        for number, amount in enumerate(_AMOUNTS):
            sampler = Sampler(self._wsdl.mapping, amount, random.Random(number))  # noqa: S311
            try:
                data = sampler.message(message)
            except NoSample as e:
                failure = str(e)
                continue
            made += 1
            yield from self._there_and_back(message, data, schema)
        if not made:
            yield "", f"no data could be made up: {failure}"

    def _there_and_back(self, message: Message, data: Any, schema: Any) -> Iterator[Problem]:
        for error in islice(schema.iter_errors(data), 3):
            yield (
                pointer_of(*error.instance_path),
                f"the JSON Schema refuses it: {error.message[:160]}",
            )
        try:
            written = message.write(data)
        except BadMessage as e:
            yield from _told(e, "cannot be written")
            return
        body, header = _parsed(written)
        for element in body if message.codec is self._wsdl.codec else ():
            yield from self._invalid(element, "what is written is not valid")
        try:
            back = replace(message, gate=None).read(body, header)
        except BadMessage as e:
            yield from _told(e, "cannot be read back")
            return
        yield from _differences(data, back, "")
        try:
            again = message.write(_DECODER.decode(_ENCODER.encode(data)))
        except BadMessage as e:
            yield from _told(e, "cannot be written after JSON")
            return
        if again != written:
            yield "", "JSON changes it"

    def _json_schema(self, message: Message) -> Any:
        schema = message.schema(self._registry)
        needed: Registry = {}
        pending = list(_references(schema))
        while pending:
            name = pending.pop()
            if name not in needed:
                needed[name] = self._registry[name]
                if name not in self._referred:
                    self._referred[name] = tuple(_references(needed[name]))
                pending += self._referred[name]
        return jsonschema_rs.validator_for(
            {**schema, "components": {"schemas": needed}},
            validate_formats=False,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000),
        )

    def _invalid(self, node: etree._Element, words: str) -> list[Problem]:
        validator = self._wsdl.validator
        known = self._wsdl.schemas.has_element(str(node.tag))
        if validator is None or not known:
            return []
        # Which values are keys and refer to which is no matter of the mapping.
        errors = [d for _, d in errors_of(validator, node) if not _KEYS.search(d)]
        return [("", f"{words}: {detail}") for detail in errors[:2]]

    # --- XML first

    def _element(self, element: Element) -> list[Problem]:
        """What is wrong with an element and the types that may stand in it."""
        found = self._elements.get(id(element))
        if found is None:
            found = self._elements[id(element)] = []
            found += dict.fromkeys(self._prove_element(element))
            for type_ in self._types_in(element.type):
                found += self._type(type_)
        return found

    def _type(self, type_: ComplexType) -> list[Problem]:
        assert type_.name is not None
        if type_.name not in self._types:
            self._types[type_.name] = []  # types may hold themselves
            holder = Element("certified", lambda: type_)
            self._types[type_.name] = [
                (pointer, f"as the type {type_.name}: {problem}")
                for pointer, problem in dict.fromkeys(self._prove_element(holder))
            ]
        return self._types[type_.name]

    def _prove_element(self, element: Element) -> Iterator[Problem]:
        codec = self._wsdl.codec
        made = 0
        failure = ""
        for number in range(ROUNDS):
            instances = Instances(self._wsdl.mapping, number, noise=number % 2 == 1)
            try:
                node = instances.element(element)
                errors = self._invalid(node, "no valid instance was made")
            except NoSample as e:
                failure = str(e)
                continue
            if element.is_global and errors:
                failure = errors[0][1]
                continue
            made += 1
            try:
                declared = self._declared(element, str(node.tag))
                data = codec.read(declared, node, "the XML")
                quick = self._wsdl.gate.read(declared, node)
                if quick is not UNREAD:
                    yield from _differences(data, quick, "")
                raw = codec.write(declared, data, "its data")
            except BadMessage as e:
                yield from _told(e, "valid XML is refused")
                continue
            again = etree.fromstring(raw)
            yield from _unlike(node, again, "")
            if element.is_global:
                yield from self._invalid(again, "what is written of valid XML is not valid")
        if not made:
            yield "", f"no XML could be made up: {failure}"

    def _declared(self, element: Element, tag: str) -> Element:
        return element if tag == element.name else self._wsdl.schemas.element(tag)

    def _types_in(self, type_: Type) -> list[ComplexType]:
        """The types that may stand in `type_` only by xsi:type: instances may miss them."""
        found: dict[int, ComplexType] = {}
        pending: list[Type] = [type_]
        seen: set[int] = set()
        while pending:
            one = pending.pop()
            if id(one) in seen or not isinstance(one, ComplexType):
                continue
            seen.add(id(one))
            for derived in self._wsdl.schemas.derived(one):
                if not derived.abstract:
                    found[id(derived)] = derived
                pending.append(derived)
            pending += [element.type for element in elements_of(one.particle)]
        return list(found.values())


def _references(schema: Any) -> Iterator[str]:
    """The components that a JSON Schema refers to."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield value.rpartition("/")[2]
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _parsed(written: WrittenParts) -> tuple[etree._Element, etree._Element]:
    body = etree.fromstring(b"<Body>" + written.body + b"</Body>")
    return body, etree.fromstring(b"<Header>" + b"".join(written.headers) + b"</Header>")


def _told(error: BadMessage, words: str) -> Iterator[Problem]:
    if not error.errors:
        yield "", f"{words}: {error.detail}"
    for one in error.errors[:3]:
        yield one["pointer"], f"{words}: {one['detail']}"


def _differences(one: Any, other: Any, at: str) -> Iterator[Problem]:
    """Where data differ from what came back."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            where = at + pointer_of(key)
            if key not in other:
                yield where, "is lost"
            elif key not in one:
                yield where, "came from nowhere"
            else:
                yield from _differences(one[key], other[key], where)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield at, f"has {len(other)} items instead of {len(one)}"
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from _differences(*pair, at + pointer_of(number))
    elif type(one) is not type(other) or one != other:
        yield at, f"came back as {other!r:.80} instead of {one!r:.80}"


def _unlike(one: etree._Element, other: etree._Element, at: str) -> Iterator[Problem]:
    """Where two documents differ: in names, order, attributes or text; not in prefixes, comments
    or white space between elements."""
    at += f"/{local_name(str(one.tag))}"
    if one.tag != other.tag:
        yield at, f"came back as the element {other.tag!s}"
        return
    for name in {str(key) for key in [*one.attrib, *other.attrib]}:
        if not _same_text(one, one.get(name), other, other.get(name)):
            yield (
                at,
                f"{name} came back as {other.get(name)!r:.80} instead of {one.get(name)!r:.80}",
            )
    mine, theirs = list(one.iterchildren("*")), list(other.iterchildren("*"))
    if [c.tag for c in mine] != [c.tag for c in theirs]:
        yield at, (f"its elements came back as {_names(theirs)} instead of {_names(mine)}")
        return
    for text, back in zip(_texts(one), _texts(other), strict=True):
        if not _same_text(one, text, other, back) and (not mine or (text or back or "").strip()):
            yield at, f"its text came back as {back!r:.80} instead of {text!r:.80}"
    for pair in zip(mine, theirs, strict=True):
        yield from _unlike(*pair, at)


def _names(elements: list[etree._Element]) -> str:
    return ", ".join(local_name(str(one.tag)) for one in elements)[:120] or "none"


def _texts(node: etree._Element) -> list[str]:
    """The texts before, between and behind the elements in a node; comments do not part them."""
    texts = [node.text or ""]
    for child in node:
        if isinstance(child, etree._Comment):
            texts[-1] += child.tail or ""
        else:
            texts.append(child.tail or "")
    return texts


def _same_text(
    one: etree._Element, text: str | None, other: etree._Element, back: str | None
) -> bool:
    if text == back:
        return True
    if text is None or back is None:
        return False
    # Names may have other prefixes.
    mine, theirs = _resolved(one, text), _resolved(other, back)
    return mine is not None and mine == theirs


def _resolved(node: etree._Element, text: str) -> list[str] | None:
    found = []
    for word in text.split():
        prefix, colon, local = word.rpartition(":")
        namespace = node.nsmap.get(prefix if colon else None, None if colon else "")
        if namespace is None:
            return None
        found.append(clark(namespace or "", local))
    return found
