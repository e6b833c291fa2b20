"""XML made up for an element from its declaration: the other half of a proof of the mapping.

`samples` makes up data from the plan (`shape`), so it can never show what the plan forgets. These
instances come from the schema's own content models, before anything is planned: what is read from
one and written again must be the same document.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from lxml import etree

from esb_soap.components import (
    XML,
    XSD,
    ComplexType,
    Element,
    Group,
    Particle,
    SimpleType,
    Type,
    Wildcard,
    clark,
    local_name,
    namespace_of,
)
from esb_soap.markup import NIL, XSI_TYPE
from esb_soap.samples import NoSample, Sampler
from esb_soap.scalars import QNAME, scalar
from esb_soap.shape import Mapping

_DEEP: Final = 5
"""From this depth on, only what is required is made."""
_TOO_DEEP: Final = 40
_FOREIGN: Final = "urn:example:foreign"


class Instances:
    """Makes up instances; each call gives another one, the same sequence for the same `seed`.

    noise: whether comments and white space are strewn where they mean nothing.
    """

    def __init__(self, mapping: Mapping, seed: int = 0, *, noise: bool = False) -> None:
        self._schemas = mapping.schemas
        self._rng = random.Random(seed)  # noqa: S311 - examples, not secrets
        self._samples = Sampler(mapping, "random", self._rng)
        self._mapping = mapping
        self._noise = noise
        self._budget = 0
        self._prefixes: dict[str, str] = {}

    def element(self, element: Element) -> etree._Element:
        """An instance of `element`. Raises NoSample if none was found."""
        self._budget = 300
        self._prefixes = {}
        return self._element(element, 0)

    # --- elements

    def _element(self, element: Element, depth: int) -> etree._Element:
        if depth > _TOO_DEEP:
            raise NoSample("the type cannot end")
        self._budget -= 1
        if element.is_global:
            element = self._standing_for(element)
        nil = element.nillable and element.fixed is None and self._chance(0.1 if depth < 9 else 1)
        if isinstance(element.type, ComplexType) and element.type.abstract:
            nil = False
        type_ = element.type if nil else self._actual(element.type, depth)
        said = type_ is not element.type
        attributes = self._attributes(type_)
        if said:
            assert type_.name is not None
            attributes[XSI_TYPE] = self._spelled(type_.name)
        simple = type_ if isinstance(type_, SimpleType) else type_.simple
        text = ""
        if nil:
            attributes[NIL] = "true"
        elif simple is not None:
            text = self._text(simple, element.fixed)
            if not text and element.default is not None:
                text = element.default  # which is what an empty element means
        elif isinstance(type_, ComplexType) and type_.is_any:
            text = "text"
        for name in (element.name, *attributes):
            self._spelled(name)
        node = etree.Element(element.name, attributes, nsmap=self._prefixes)
        if text:
            node.text = text
        if isinstance(type_, ComplexType) and simple is None and not nil and not type_.is_any:
            if type_.particle is not None:
                for child in self._particle(type_.particle, depth):
                    node.append(child)
            self._between(node, mixed=type_.mixed)
        return node

    def _standing_for(self, element: Element) -> Element:
        others = self._schemas.substitutes(element.name)
        choices = others if element.abstract else [element, *others]
        if not choices:
            raise NoSample(f"nothing can stand for the abstract element {element.local}")
        return self._rng.choice(choices)

    def _actual(self, type_: Type, depth: int) -> Type:
        if isinstance(type_, SimpleType):
            return type_
        derived = [one for one in self._schemas.derived(type_) if not one.abstract]
        if not type_.abstract:
            return self._rng.choice(derived) if derived and self._chance(0.4) else type_
        if not derived:
            raise NoSample(f"nothing can stand for the abstract type {type_.name}")
        return self._rng.choice(derived) if depth < _DEEP else derived[0]

    def _between(self, node: etree._Element, *, mixed: bool) -> None:
        """Text between the children: words in mixed content, else what means nothing."""
        if mixed:
            node.text = self._rng.choice(["", "some ", "x"]) or None
            for child in node:
                child.tail = self._rng.choice(["", " more ", "\n"]) or None
        elif self._noise and len(node):
            node.text = "\n  "
            for child in node:
                child.tail = self._rng.choice(["", "\n  ", "\t"])
            node.insert(self._rng.randint(0, len(node)), etree.Comment(" nothing "))

    # --- attributes and text

    def _attributes(self, type_: Type) -> dict[str, str]:
        made: dict[str, str] = {}
        if isinstance(type_, SimpleType) or type_.is_any:
            return made
        for attribute in type_.attributes.values():
            if attribute.required or self._chance(0.5):
                try:
                    made[attribute.name] = self._text(attribute.type, attribute.fixed)
                except NoSample:
                    if attribute.required:
                        raise
        wild = type_.any_attribute
        if wild is not None and wild.process != "strict" and self._chance(0.3):
            name = clark(_FOREIGN, "extra")
            if wild.allows(name):
                made[name] = "extra"
        return made

    def _text(self, type_: SimpleType, fixed: str | None) -> str:
        """A value as text, canonical so that writing it again cannot spell it otherwise."""
        if fixed is not None:
            if type_.primitive in ("QName", "NOTATION"):
                raise NoSample("fixed names are not made up")
            return scalar(type_).encode(scalar(type_).decode(fixed, None))
        text = scalar(type_).encode(self._samples.simple(type_))
        return QNAME.sub(lambda match: self._spelled(match[1]), text)

    def _spelled(self, name: str) -> str:
        """A name with a prefix. A namespace has one prefix in all of an instance: elements are
        joined later, and what is text is not adapted then."""
        namespace = namespace_of(name)
        if not namespace:
            return name
        if namespace == XML:
            return f"xml:{local_name(name)}"
        for prefix, known in self._prefixes.items():
            if known == namespace:
                return f"{prefix}:{local_name(name)}"
        prefix = f"p{len(self._prefixes)}"
        self._prefixes[prefix] = namespace
        return f"{prefix}:{local_name(name)}"

    # --- content models

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _count(self, low: int, high: int | None, depth: int) -> int:
        if depth > _DEEP or self._budget < 0:
            return low
        most = low + 2 if high is None else min(high, low + 2)
        return self._rng.randint(low, most)

    def _particle(self, particle: Particle, depth: int) -> Iterator[etree._Element]:
        for number in range(self._count(particle.min, particle.max, depth)):
            try:
                # A group that turns out impossible must not leave half of itself behind.
                yield from list(self._term(particle.term, depth))
            except NoSample:
                if number < particle.min:
                    raise
                return

    def _term(self, term: Element | Group | Wildcard, depth: int) -> Iterator[etree._Element]:
        if isinstance(term, Element):
            yield self._element(term, depth + 1)
        elif isinstance(term, Wildcard):
            yield self._wild(term, depth)
        elif term.kind == "choice":
            yield from self._branch(term, depth)
        else:
            # Those of xs:all too: their order is no part of what they say.
            for item in term.items:
                yield from self._particle(item, depth)

    def _branch(self, group: Group, depth: int) -> Iterator[etree._Element]:
        branches = list(group.items)
        self._rng.shuffle(branches)
        if depth > _DEEP:
            # The shortest way out.
            branches.sort(key=lambda item: item.min)
        failure: NoSample | None = None
        for branch in branches:
            try:
                yield from list(self._particle(branch, depth))
            except NoSample as e:
                failure = e
                continue
            return
        if failure is not None:
            raise failure

    def _wild(self, wildcard: Wildcard, depth: int) -> etree._Element:
        spaces = [_FOREIGN] if wildcard.namespaces is None else sorted(wildcard.namespaces)
        if wildcard.process != "strict":
            for namespace in spaces:
                name = clark(namespace, "anything")
                if wildcard.allows(name) and not self._schemas.has_element(name):
                    node = etree.Element(name, {"a": "b"})
                    node.text = "text"
                    return node
        for name in self._schemas.names("element")[:50]:
            if wildcard.allows(name) and namespace_of(name) != XSD:
                try:
                    return self._element(self._schemas.element(name), depth + 3)
                except NoSample:
                    continue
        raise NoSample("nothing is known that may stand here")
