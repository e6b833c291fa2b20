"""Data made up for a message from its schema: examples for people, and input for proofs.

The same message gives the same data each time. With a `random.Random` each draw is another instance
of the same types.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from esb_soap.components import XSD, Attribute, ComplexType, Element, SimpleType, namespace_of
from esb_soap.patterns import BadPattern, pattern
from esb_soap.scalars import EXAMPLES, RANGES, scalar
from esb_soap.shape import NIL_KEY, Field, Mapping, Node, Nodes, Shape, Slot, Value

if TYPE_CHECKING:
    from esb_soap.message import FaultMessage, Message

_DEEP: Final = 6
"""From this depth on, only what is required is made."""

_TOO_DEEP: Final = 60

_AGAIN: Final = 2
"""How often a type is shown within itself where it need not be; drawn ones go deeper."""

Amount = Literal["full", "minimal", "random"]

_JSON: Final = msgspec.json.Encoder(decimal_format="number")


class NoSample(Exception):
    """No instance could be made up: the type needs itself, or its facets exclude what was tried."""


def example(mapping: Mapping, message: Message | FaultMessage, most: int | None = None) -> Any:
    """Data for a message with all that may be there, or else only what must be; with `most`, data
    that have no more bytes as JSON. They were written, so that nobody is shown what is refused.
    Raises NoSample."""
    from esb.errors import BadMessage
    from esb_soap.message import Message

    failure = NoSample("")
    for amount in ("full", "minimal"):
        sampler = Sampler(mapping, amount)
        try:
            if isinstance(message, Message):
                data = sampler.message(message)
            else:
                data = sampler.element(message.declared)
            message.write(data)
        except NoSample as e:
            failure = e
        except BadMessage as e:
            failure = NoSample(e.detail)
        else:
            if most is None or len(_JSON.encode(data)) <= most:
                return data
            failure = NoSample("it is too long")
    raise failure


class Sampler:
    """Makes up data. amount: everything that may be there, only what must, or as `rng` decides."""

    def __init__(
        self, mapping: Mapping, amount: Amount = "full", rng: random.Random | None = None
    ) -> None:
        self._mapping = mapping
        self._amount = amount
        self._rng = rng or random.Random(0)  # noqa: S311 - examples, not secrets
        self._ids = 0
        self._budget = 2000
        self._open: list[ComplexType] = []

    def message(self, message: Message) -> Any:
        """Data for a message, with the header blocks that the WSDL declares. Raises NoSample."""
        made = {name: self.element(element) for name, element in message.parts.items()}
        data: Any = made[next(iter(made))] if message.single else made
        headers = {header.name: self.element(header.element) for header in message.headers}
        headers = {name: one for name, one in headers.items() if one is not None}
        if not message.headers or (isinstance(data, dict) and not headers):
            return data
        if not isinstance(data, dict):
            data = {"$body": data}
        return {**data, "$headers": headers} if headers else data

    def element(self, element: Element, depth: int = 0) -> Any:
        """Data for an element. Raises NoSample."""
        if depth > _TOO_DEEP:
            raise NoSample("the type cannot end")
        self._budget -= 1
        value = self._mapping.value(element.type)
        if element.nillable and (depth > _DEEP * 2 or self._again(element) or self._chance(0.15)):
            return self._nil(value)
        if value.kind == "scalar":
            assert value.simple is not None
            if element.fixed is not None:
                return scalar(value.simple).decode(element.fixed, None)
            made = self.simple(value.simple)
            if element.default is not None and not scalar(value.simple).encode(made):
                # An empty element has its default (XML Schema part 1, 3.3.1).
                return scalar(value.simple).decode(element.default, None)
            return made
        if value.kind == "array":
            assert value.item is not None
            return [self.element(value.item, depth + 1) for _ in range(self._count(0, None, depth))]
        if value.kind == "any":
            # An element of XML Schema is the schema of a DataSet.
            if namespace_of(element.name) == XSD:
                return {"@id": "example", "$any": [{f"{{{XSD}}}element": {"@name": "example"}}]}
            return "text"
        return self._object(value, depth)

    def _again(self, element: Element) -> bool:
        """Whether enough was shown of a type that holds itself."""
        if self._amount == "random":
            return False
        return sum(one is element.type for one in self._open) >= _AGAIN

    def _nil(self, value: Value) -> Any:
        if value.shape is None or value.abstract:
            return None
        shape = self._mapping.nil_shape(value.shape.type)
        attributes = self._shape(shape, _DEEP)
        return {NIL_KEY: True, **attributes} if attributes else None

    def simple(self, type_: SimpleType) -> Any:
        """Data for a simple type. Raises NoSample."""
        if type_.facets.enumeration:
            choices = type_.facets.enumeration
            if self._amount == "random":
                # Not shuffled: lists of all post codes are common.
                choices = (*(self._rng.choice(choices) for _ in range(5)), *choices)
            for lexical in choices:
                if lexical[:1] == "{" and type_.primitive in ("QName", "NOTATION"):
                    return lexical
                found = _accepted(type_, lexical)
                if found is not None:
                    return found[0]
        if type_.variety == "list":
            assert type_.item is not None
            facets = type_.facets
            low = facets.length if facets.length is not None else facets.min_length or 0
            high = facets.length if facets.length is not None else facets.max_length
            count = self._count(max(low, 1), high, 0)
            made = [self._listable(type_.item) for _ in range(count)]
            return made
        if type_.variety == "union":
            members = list(type_.members)
            if self._amount == "random":
                self._rng.shuffle(members)
            for member in members:
                try:
                    made = self.simple(member)
                    text = scalar(type_).encode(made)
                    return made if "\0" in text else scalar(type_).decode(text, None)
                except (NoSample, ValueError):
                    continue
            raise NoSample("no member of the union has a value")
        if type_.primitive == "ID":
            self._ids += 1
            for lexical in (f"id{self._ids}", *_drawn(type_, self._rng)):
                if (found := _accepted(type_, lexical)) is not None:
                    return found[0]
        if type_.primitive in ("QName", "NOTATION"):
            return "{urn:example}name"
        candidates = list(_candidates(type_))
        if self._amount == "random":
            candidates = [*self._random(type_), *candidates]
        for lexical in candidates:
            found = _accepted(type_, lexical)
            if found is not None:
                return found[0]
        raise NoSample(f"no value of {type_.name or type_.primitive} was found")

    def _listable(self, type_: SimpleType) -> Any:
        """A value without white space in it, for a list."""
        for _ in range(10):
            made = self.simple(type_)
            text = scalar(type_).encode(made)
            if text.split() == [text]:
                return made
        return Sampler(self._mapping, "full").simple(type_)

    # --- decisions

    def _chance(self, probability: float) -> bool:
        return self._amount == "random" and self._rng.random() < probability

    def _wanted(self, depth: int) -> bool:
        if depth > _DEEP or self._budget < 0:
            return False
        return self._amount == "full" or self._chance(0.5)

    def _count(self, low: int, high: int | None, depth: int) -> int:
        most = low + 2 if high is None else min(high, low + 2)
        if depth > _DEEP or self._budget < 0 or self._amount == "minimal":
            return low
        if self._amount == "full":
            return max(min(2, most), low) if depth < 4 else max(min(1, most), low)
        return self._rng.randint(low, most)

    # --- objects

    def _object(self, value: Value, depth: int) -> dict[str, Any]:
        assert value.shape is not None
        self._open.append(value.shape.type)
        try:
            return self._derived(value, value.shape, depth)
        finally:
            self._open.pop()

    def _derived(self, value: Value, shape: Shape, depth: int) -> dict[str, Any]:
        concrete: list[ComplexType] = [one for one in value.derived if not one.abstract]
        type_: ComplexType | None = None
        if value.abstract:
            if not concrete:
                raise NoSample(f"nothing can stand for the abstract type {shape.name}")
            type_ = concrete[0]
        if concrete and self._chance(0.5):
            type_ = self._rng.choice(concrete)
        if type_ is None:
            return self._shape(shape, depth)
        inner = self._mapping.shape(type_)
        return {shape.discriminator: inner.name, **self._shape(inner, depth)}

    def _shape(self, shape: Shape, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for each in shape.attributes:
            if each.attribute.required or self._wanted(depth):
                made = self._attribute(each.attribute)
                if made is not None:
                    data[each.key] = made
        if shape.text is not None:
            data["#text"] = self.simple(shape.text)
        elif shape.mixed:
            assert shape.content is not None
            inside: dict[str, Any] = {}
            self._node(shape.content, inside, depth)
            parts = [part for one in _flat(shape.content, inside) for part in (one, "more")]
            data["#mixed"] = ["text", *parts]
        elif shape.content is not None:
            self._node(shape.content, data, depth)
        return data

    def _attribute(self, attribute: Attribute) -> Any:
        if attribute.fixed is not None:
            if attribute.type.primitive in ("QName", "NOTATION"):
                return None
            return scalar(attribute.type).decode(attribute.fixed, None)
        try:
            return self.simple(attribute.type)
        except NoSample:
            if attribute.required:
                raise
            return None

    def _node(self, node: Node, data: dict[str, Any], depth: int) -> None:
        if isinstance(node, Nodes) and not node.key:
            if node.min == 0 and not self._wanted(depth):
                return
            self._group(node, data, depth)
            return
        low, high = node.min, node.max
        if isinstance(node, Field) and self._again(node.element):
            high = low
        many = not isinstance(node, Field) or node.many
        if not many:
            if (
                isinstance(node, Field)
                and node.tags
                and (low or (high != low and self._wanted(depth)))
            ):
                try:
                    data[node.key] = self._one(node, depth + 1)
                except NoSample:
                    if low:
                        raise
            return
        items: list[Any] = []
        for _ in range(self._count(low, high, depth)):
            try:
                if isinstance(node, Field):
                    items.append(self._one(node, depth + 1))
                elif isinstance(node, Slot):
                    items.append(self._wild(node, depth))
                else:
                    item: dict[str, Any] = {}
                    self._group(Nodes(node.kind, node.items, 1, 1), item, depth + 1)
                    if item:
                        items.append(item)
            except NoSample:
                if len(items) < low:
                    raise
                break
        if items:
            data[node.key] = items

    def _group(self, node: Nodes, data: dict[str, Any], depth: int) -> None:
        if node.kind != "choice":
            for item in node.items:
                self._node(item, data, depth)
            return
        branches = list(node.items)
        if self._amount == "random":
            self._rng.shuffle(branches)
        # A type that holds itself ends at another branch.
        branches.sort(key=lambda one: isinstance(one, Field) and self._again(one.element))
        failure: NoSample | None = None
        for branch in branches:
            made: dict[str, Any] = {}
            try:
                self._node(_at_least_once(branch), made, depth)
            except NoSample as e:
                failure = e
                continue
            if made or branch.min == 0:
                data.update(made)
                return
        if failure is not None and node.min:
            raise failure

    def _one(self, field: Field, depth: int) -> Any:
        if not field.substitutes:
            return self.element(field.element, depth)
        choices = list(field.substitutes)
        if self._amount == "random":
            self._rng.shuffle(choices)
        choices.sort(key=lambda one: self._again(one[1]))
        for key, element in choices:
            try:
                return {key: self.element(element, depth)}
            except NoSample:
                continue
        raise NoSample(f"nothing can stand for {field.key}")

    def _wild(self, slot: Slot, depth: int) -> dict[str, Any]:
        wildcard = slot.wildcard
        allowed = wildcard.namespaces
        namespaces = sorted(allowed) if allowed is not None else ["urn:example"]
        for namespace in [*namespaces, "urn:example:2"]:
            name = f"{{{namespace}}}anything" if namespace else "anything"
            if wildcard.allows(name) and name not in slot.but and wildcard.process != "strict":
                return {name: {"@a": "b", "#text": "text"}}
        for name in self._mapping.schemas.names("element")[:50]:
            element = self._mapping.schemas.element(name)
            if wildcard.allows(name) and name not in slot.but and not element.abstract:
                try:
                    return {name: self.element(element, depth + 3)}
                except NoSample:
                    continue
        raise NoSample("nothing is known that may stand here")

    # --- values

    def _random(self, type_: SimpleType) -> Iterator[str]:
        rng, name = self._rng, type_.primitive
        yield from _drawn(type_, rng)
        if name in RANGES:
            low, high = RANGES[name]
            least = max(
                low if low is not None else -(10**30), _bound(type_, low=True, or_=-(10**30))
            )
            most = min(high if high is not None else 10**30, _bound(type_, low=False, or_=10**30))
            if least <= most:
                yield str(rng.choice([least, most, rng.randint(least, most)]))
        elif name == "decimal":
            yield f"{rng.randint(-(10**6), 10**6)}.{rng.randint(0, 999)}"
        elif name in ("float", "double"):
            yield rng.choice(["INF", "-INF", "0", "-0.5", "1e10", repr(rng.uniform(-1e6, 1e6))])
        elif name in ("string", "normalizedString", "token", "anyURI"):
            letters = "aZ09 .-&<>\"'é中\U0001f600" + ("\n\t" if name == "string" else "")
            text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 8)))
            yield text if name == "string" else " ".join(text.split())
        elif name == "boolean":
            yield rng.choice(["true", "false"])
        elif name == "base64Binary":
            yield rng.choice(["", "AAEC", "aGVsbG8=", "/w=="])


def _drawn(type_: SimpleType, rng: random.Random) -> Iterator[str]:
    """Texts of the form that a type must have."""
    for alternatives in type_.facets.patterns[-1:]:
        for _ in range(3):
            with contextlib.suppress(BadPattern):
                yield pattern(rng.choice(alternatives)).any(rng)


def _at_least_once(node: Node) -> Node:
    if node.min or isinstance(node, Nodes):
        return node
    if isinstance(node, Field):
        return Field(node.key, node.element, 1, node.max, node.substitutes)
    return node


def _flat(node: Node, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The elements of data by a content model as mixed content has them: one by one, in order."""
    if isinstance(node, Nodes):
        for inner in data.get(node.key, ()) if node.key else (data,):
            for item in node.items:
                yield from _flat(item, inner)
    elif node.key in data:
        found = data[node.key]
        many = not isinstance(node, Field) or node.many
        for one in found if many else [found]:
            yield one if isinstance(node, Slot) else {node.key: one}


def _accepted(type_: SimpleType, lexical: str) -> tuple[Any] | None:
    try:
        value = scalar(type_).decode(lexical, None)
        scalar(type_).encode(value)
    except ValueError:
        return None
    return (value,)


def _bound(type_: SimpleType, *, low: bool, or_: int) -> int:
    facets = type_.facets
    inclusive = facets.min_inclusive if low else facets.max_inclusive
    exclusive = facets.min_exclusive if low else facets.max_exclusive
    try:
        if inclusive is not None:
            return int(Decimal(inclusive))
        if exclusive is not None:
            return int(Decimal(exclusive)) + (1 if low else -1)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    return or_


def _candidates(type_: SimpleType) -> Iterator[str]:
    """Lexical forms that may be values, nice ones first."""
    name, facets = type_.primitive, type_.facets
    least = facets.length if facets.length is not None else facets.min_length or 0
    most = facets.length if facets.length is not None else facets.max_length
    for alternatives in facets.patterns:
        for source in alternatives:
            try:
                yield pattern(source).sample(least, most)
                yield pattern(source).sample(max(least, 1), most)
            except BadPattern:
                continue
    if name in RANGES or name in ("decimal", "float", "double"):
        yield "1"
        yield from (x for x in (facets.min_inclusive, facets.max_inclusive) if x is not None)
        for bound, step in ((facets.min_exclusive, 1), (facets.max_exclusive, -1)):
            if bound is not None:
                try:
                    yield str(Decimal(bound) + step)
                    yield str(Decimal(bound) + step * Decimal("0.01"))
                except InvalidOperation:
                    continue
        digits = facets.total_digits or 6
        yield "1" * digits
        yield "0"
        yield "-1"
    elif name == "boolean":
        yield "true"
    elif name in EXAMPLES:
        yield EXAMPLES[name]
        yield from (
            x for x in (facets.min_inclusive, facets.max_inclusive, facets.max_exclusive) if x
        )
    elif name == "base64Binary":
        import base64

        yield base64.b64encode(b"hello"[: most if most is not None else 5].ljust(least)).decode()
    elif name == "hexBinary":
        yield "CAFE"
        yield "AB" * max(least, 1)
    elif name == "anyURI":
        yield "http://example.com/"[: most if most is not None else None].ljust(least, "a")
    elif name == "language":
        yield "en"
    text = "text" if most is None else "text"[:most]
    yield text.ljust(least, "x")
    yield "A" * max(least, 1)
    yield "1" * max(least, 1)
    yield "a" * max(least, 1)
    yield ""
