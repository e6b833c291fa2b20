"""Reading what libxml2 has found valid: the same data as `codec` reads, without looking twice.

Which elements stand where, which attributes they have and what their texts may be is known then, so
the generated functions only take things out. Should one stumble all the same, the caller reads
again with `Codec.read`, which trusts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from esb_soap.codec import Codec
from esb_soap.components import Attribute, Element, SimpleType
from esb_soap.explain import locate
from esb_soap.generate import ReadGenerator
from esb_soap.markup import Unfit, without_comments
from esb_soap.scalars import BOOLEANS, RANGES, is_text, normal_space, scalar, white_space
from esb_soap.shape import Field, Mapping, Node, Shape, slots
from esb_soap.validator import errors_of

if TYPE_CHECKING:
    from esb_soap.wsdl import Wsdl

_STRIPPED = frozenset(
    {"duration", "dateTime", "time", "date", "gYearMonth", "gYear", "gMonthDay", "gDay", "gMonth",
     "language", "Name", "NCName", "NMTOKEN", "ID", "IDREF", "ENTITY"}
)  # fmt: skip


UNREAD: Final = object()
"""What `Gate.read` answers for what it cannot vouch for."""


class Gate:
    """libxml2 in front of the codec of a WSDL's types."""

    def __init__(self, wsdl: Wsdl) -> None:
        self._wsdl = wsdl

    @cached_property
    def _codec(self) -> ValidCodec:
        return ValidCodec(self._wsdl.mapping)

    def read(self, element: Element, node: etree._Element) -> Any:
        """The data of an element that is valid; UNREAD if it is not, or if that cannot be said."""
        validator = self._wsdl.validator
        if validator is None or not element.is_global or not validator.validate(node):
            return UNREAD
        try:
            return self._codec.reader(element)(without_comments(node))
        except (Unfit, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return UNREAD

    def errors(self, element: Element, node: etree._Element) -> list[dict[str, str]]:
        """What libxml2 has against an element, with JSON pointers."""
        validator = self._wsdl.validator
        if validator is None or not element.is_global:
            return []
        return [
            {"pointer": locate(self._wsdl.codec, element, node, at), "detail": detail}
            for at, detail in errors_of(validator, node)
        ]


class ValidCodec(Codec):
    """Reads valid elements. Raises whatever happens if one is not."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        self._names |= {"int": int, "Decimal": Decimal, "B": BOOLEANS}

    @property
    def _generator(self) -> type[ReadGenerator]:
        return _TrustingGenerator

    def parser(self, element: Element, type_: SimpleType) -> str:
        """The name of the function (text, element) -> value."""
        if element.default is not None or element.fixed is not None:
            return super().parser(element, type_)
        return self._constant("p", trusting(type_), type_)


def trusting(type_: SimpleType) -> Callable[..., Any]:
    """What reads a valid text as a value of a type."""
    name = type_.primitive
    if type_.variety == "atomic" and not type_.facets.patterns:
        if name in RANGES and not is_text(type_):
            return lambda text, at: int(text)
        if name == "decimal":
            return lambda text, at: Decimal(text)
    if type_.variety == "atomic" and name in _STRIPPED:
        return lambda text, at: text.strip(" \t\r\n")
    if type_.variety == "atomic" and name == "string":
        space = white_space(type_)
        return lambda text, at: normal_space(text, space)
    return scalar(type_).decode


class _TrustingGenerator(ReadGenerator):
    """Leaves out what valid documents make needless: checks, and looking at names that are known.

    A look at the next element's name (`t`) is put off until a condition needs it.
    """

    _unseen = False
    _plain = False

    def function(self, shape: Shape, name: str) -> str:
        """The source of a function from an element to an object."""
        # Wildcards: libxml2 and we may not agree on who takes an element that both could.
        self._plain = not any(slots(shape.content))
        return super().function(shape, name)

    def _special(self, element: Element, c: str) -> str:
        return f"{c}.keys()" if element.nillable else ""

    def _text(self, parse: str, type_: SimpleType, c: str) -> str:
        if parse[0] == "p" and type_.variety == "atomic" and not is_text(type_):
            if type_.primitive == "string" and white_space(type_) == "preserve":
                return f"({c}.text or '')"
            if not type_.facets.patterns:
                if type_.primitive in RANGES:
                    return f"int({c}.text)"
                if type_.primitive == "decimal":
                    return f"Decimal({c}.text)"
                if type_.primitive == "boolean":
                    return f"B[{c}.text]"
        return super()._text(parse, type_, c)

    def _attribute(self, attribute: Attribute) -> Callable[..., Any]:
        return trusting(attribute.type)

    def _no_attributes(self) -> None:
        pass

    def _end(self, shape: Shape) -> None:
        if not self._plain:
            self._look("  ")
            super()._end(shape)

    def _next(self, pad: str) -> None:
        self._lines.append(f"{pad}c = next(it, None)")
        self._unseen = True

    def _look(self, pad: str) -> None:
        if self._unseen:
            self._lines.append(f"{pad}t = None if c is None else c.tag")
            self._unseen = False

    def _expect(self, node: Field, pad: str) -> None:
        if not self._plain:
            self._look(pad)
            super()._expect(node, pad)

    def _bounds(self, node: Node, key: str, pad: str) -> None:
        self._lines.append(f"{pad}pass")
