"""The components of XML Schema 1.0 (XML Schema part 1, section 3) as data, and the built-in types.

What the schemas say is kept: facets, enumerations, defaults, substitution groups, documentation.
Names are qualified names in Clark notation ("{ns}name").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

XSD: Final = "http://www.w3.org/2001/XMLSchema"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
XML: Final = "http://www.w3.org/XML/1998/namespace"
SOAPENC: Final = frozenset(
    {"http://schemas.xmlsoap.org/soap/encoding/", "http://www.w3.org/2003/05/soap-encoding"}
)
WSDL: Final = "http://schemas.xmlsoap.org/wsdl/"

X: Final = f"{{{XSD}}}"
"""In front of the names of XML Schema itself."""
ANY_TYPE: Final = f"{X}anyType"


# --- components ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facets:
    """What restricts a simple type's values, its base's facets included.

    patterns: all must match, each by one of its alternatives. Bounds are in lexical form.
    """

    enumeration: tuple[str, ...] = ()
    patterns: tuple[tuple[str, ...], ...] = ()
    white_space: Literal["preserve", "replace", "collapse"] | None = None
    length: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_inclusive: str | None = None
    max_inclusive: str | None = None
    min_exclusive: str | None = None
    max_exclusive: str | None = None
    total_digits: int | None = None
    fraction_digits: int | None = None


@dataclass(eq=False, slots=True)
class SimpleType:
    """primitive: the local name of the nearest built-in type, for an atomic type. big_as_text:
    whether integers that a double cannot hold are strings in data. codec: for `scalars`."""

    name: str | None
    variety: Literal["atomic", "list", "union"]
    primitive: str = "string"
    facets: Facets = field(default_factory=Facets)
    item: SimpleType | None = None
    members: tuple[SimpleType, ...] = ()
    base: SimpleType | None = None
    documentation: str = ""
    owner: str = ""
    value_docs: dict[str, str] = field(default_factory=dict)
    big_as_text: bool = False
    codec: Any = field(default=None, repr=False)

    @property
    def is_builtin(self) -> bool:
        return self.name is not None and self.name.startswith(X)


@dataclass(frozen=True, slots=True)
class Wildcard:
    """namespaces: those allowed ("" is none); None: any. `excluded` are not."""

    namespaces: frozenset[str] | None
    excluded: frozenset[str]
    process: Literal["strict", "lax", "skip"]

    def allows(self, tag: str) -> bool:
        """Whether an element or attribute of that name may stand there."""
        namespace = tag[1:].partition("}")[0] if tag[0] == "{" else ""
        if self.namespaces is not None:
            return namespace in self.namespaces
        return namespace not in self.excluded


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute as a type uses it."""

    name: str
    type: SimpleType
    required: bool
    default: str | None
    fixed: str | None
    documentation: str
    array_type: str | None = None


class Element:
    """An element declaration. `type` is built when asked for, so that types may be recursive."""

    __slots__ = (
        "_make_type",
        "_type",
        "abstract",
        "default",
        "documentation",
        "fixed",
        "is_global",
        "name",
        "nillable",
        "owner",
    )

    def __init__(
        self,
        name: str,
        make_type: Callable[[], Type],
        *,
        nillable: bool = False,
        default: str | None = None,
        fixed: str | None = None,
        abstract: bool = False,
        is_global: bool = False,
        documentation: str = "",
        owner: str = "",
    ) -> None:
        self.name = name
        self._make_type = make_type
        self._type: Type | None = None
        self.nillable = nillable
        self.default = default
        self.fixed = fixed
        self.abstract = abstract
        self.is_global = is_global
        self.documentation = documentation
        self.owner = owner

    @property
    def type(self) -> Type:
        """Its type. Raises WsdlError if that is not there."""
        if self._type is None:
            self._type = self._make_type()
        return self._type

    @property
    def local(self) -> str:
        return local_name(self.name)


@dataclass(frozen=True, slots=True)
class Group:
    """A model group; named groups are replaced by what they stand for."""

    kind: Literal["sequence", "choice", "all"]
    items: tuple[Particle, ...]


@dataclass(frozen=True, slots=True)
class Particle:
    """max: None is unbounded."""

    min: int
    max: int | None
    term: Element | Group | Wildcard


@dataclass(eq=False, slots=True)
class ComplexType:
    """attributes, particle: everything, the base's included. own: what an extension adds to its
    base. simple: the type of the text, for simple content. array_of: what a SOAP encoded array
    holds, as (type name, "[,]" for each dimension)."""

    name: str | None
    owner: str = ""
    abstract: bool = False
    mixed: bool = False
    documentation: str = ""
    base: ComplexType | None = None
    derivation: Literal["extension", "restriction"] | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    any_attribute: Wildcard | None = None
    particle: Particle | None = None
    own: Particle | None = None
    simple: SimpleType | None = None
    array_of: tuple[str, str] | None = None

    @property
    def is_any(self) -> bool:
        """Whether this is xs:anyType."""
        return self.name == ANY_TYPE


Type = SimpleType | ComplexType


def local_name(name: str) -> str:
    """The part of a qualified name behind its namespace."""
    return name.rpartition("}")[2]


def namespace_of(name: str) -> str:
    """The namespace of a qualified name, "" for none."""
    return name[1:].partition("}")[0] if name[:1] == "{" else ""


def clark(namespace: str, local: str) -> str:
    """The qualified name."""
    return f"{{{namespace}}}{local}" if namespace else local


def split(name: str) -> tuple[str, str]:
    """Namespace and local name of a qualified name."""
    return namespace_of(name), local_name(name)


def elements_of(particle: Particle | None) -> Iterator[Element]:
    """The elements that a content model names."""
    if particle is None:
        return
    if isinstance(particle.term, Element):
        yield particle.term
    elif isinstance(particle.term, Group):
        for item in particle.term.items:
            yield from elements_of(item)


# --- built-in types ------------------------------------------------------------------------------

_DERIVED: Final = {  # built-in types by their base (XML Schema part 2, section 3)
    "anySimpleType": "",
    **dict.fromkeys(
        ("string", "boolean", "decimal", "float", "double", "duration", "dateTime", "time", "date",
         "gYearMonth", "gYear", "gMonthDay", "gDay", "gMonth", "hexBinary", "base64Binary",
         "anyURI", "QName", "NOTATION"),
        "anySimpleType",
    ),
    "normalizedString": "string", "token": "normalizedString", "language": "token",
    "NMTOKEN": "token", "Name": "token", "NCName": "Name", "ID": "NCName", "IDREF": "NCName",
    "ENTITY": "NCName", "integer": "decimal", "nonPositiveInteger": "integer",
    "negativeInteger": "nonPositiveInteger", "long": "integer", "int": "long", "short": "int",
    "byte": "short", "nonNegativeInteger": "integer", "unsignedLong": "nonNegativeInteger",
    "unsignedInt": "unsignedLong", "unsignedShort": "unsignedInt",
    "unsignedByte": "unsignedShort", "positiveInteger": "nonNegativeInteger",
    "anyAtomicType": "anySimpleType", "dateTimeStamp": "dateTime",
    "dayTimeDuration": "duration", "yearMonthDuration": "duration",
}  # fmt: skip


def _builtins(*, big_as_text: bool) -> dict[str, SimpleType]:
    made: dict[str, SimpleType] = {}
    for local, base in _DERIVED.items():
        white: Literal["preserve", "replace", "collapse"] = "collapse"
        if local in ("string", "anySimpleType", "anyAtomicType"):
            white = "preserve"
        elif local == "normalizedString":
            white = "replace"
        facets = Facets(white_space=white)
        made[X + local] = SimpleType(
            X + local, "atomic", primitive=local, facets=facets, base=made.get(X + base),
            big_as_text=big_as_text,
        )  # fmt: skip
    for local in ("NMTOKENS", "IDREFS", "ENTITIES"):
        item = made[X + local[:-1] if local != "ENTITIES" else X + "ENTITY"]
        made[X + local] = SimpleType(
            X + local, "list", facets=Facets(min_length=1, white_space="collapse"), item=item
        )
    return made


BUILTINS: Final = _builtins(big_as_text=False)
"""Built-in simple types by qualified name."""

ANYTHING: Final = Wildcard(None, frozenset(), "lax")
"""Any element, or any attribute."""

UR_TYPE: Final = ComplexType(
    ANY_TYPE,
    mixed=True,
    any_attribute=ANYTHING,
    particle=Particle(1, 1, Group("sequence", (Particle(0, None, ANYTHING),))),
)
"""xs:anyType."""
