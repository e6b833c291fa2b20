"""The one mapping between XML types and plain data, as a plan (docs/soap-json.md).

The codec, the JSON Schemas and the samples are all made from this plan, so that they cannot differ.
It follows from the schema alone, never from a document:

* a complex type is an object: "@name" for attributes, "#text" for simple content, a key for each
  element by its local name; an element that may repeat is always an array;
* a group that repeats is an ordered array of objects, "$choice" or "$sequence";
* a wildcard is an array "$any" of objects with one key, the element's qualified name;
* mixed content is an array "#mixed" of texts and such objects;
* an element that others may substitute is an object with one key, the element that stands there;
* a type that is derived from the declared one is named in "@type";
* nil is null, or an object with "@xsi:nil" where a nil element has attributes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Final, Literal

from esb_soap.components import (
    BUILTINS,
    XSD,
    Attribute,
    ComplexType,
    Element,
    Group,
    Particle,
    SimpleType,
    Type,
    Wildcard,
    clark,
    elements_of,
    local_name,
    namespace_of,
)
from esb_soap.documents import CATALOGUE
from esb_soap.xsd import Schemas

TYPE: Final = "@type"
TYPE_BESIDE: Final = "@xsi:type"
"""The key of xsi:type where types have an attribute `type` of their own."""
NIL_KEY: Final = "@xsi:nil"
"""The key that says of an object that it is nil: one that has attributes all the same."""


@dataclass(frozen=True, slots=True)
class Field:
    """An element of a content model. substitutes: the elements that may stand there, by key; empty
    where it is only itself."""

    key: str
    element: Element
    min: int
    max: int | None
    substitutes: tuple[tuple[str, Element], ...] = ()

    @property
    def many(self) -> bool:
        return self.max is None or self.max > 1

    @property
    def tags(self) -> tuple[str, ...]:
        """Qualified names of the elements that may stand there."""
        if self.substitutes:
            return tuple(element.name for _, element in self.substitutes)
        return (self.element.name,)


@dataclass(frozen=True, slots=True)
class Slot:
    """A wildcard; always an array. `but`: elements that other fields of the type claim."""

    key: str
    wildcard: Wildcard
    min: int
    max: int | None
    but: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Nodes:
    """A group. key: that of the array it is, "" for one that does not repeat and so has its fields
    in the object around it."""

    kind: Literal["sequence", "choice", "all"]
    items: tuple[Node, ...]
    min: int
    max: int | None
    key: str = ""


Node = Field | Slot | Nodes


@dataclass(frozen=True, slots=True)
class AttributeField:
    """An attribute and its key."""

    key: str
    attribute: Attribute


@dataclass(eq=False, slots=True)
class Shape:
    """How a complex type is an object.

    text: the type of "#text", for simple content. mixed: whether content is "#mixed".
    discriminator: the key that names a derived type. nil: whether it is that of a nil element.
    """

    name: str
    type: ComplexType
    attributes: tuple[AttributeField, ...]
    text: SimpleType | None
    mixed: bool
    content: Nodes | None
    discriminator: str
    nil: bool = False

    @property
    def has_attributes(self) -> bool:
        """Whether there may be something beside content."""
        return bool(self.attributes) or self.type.any_attribute is not None


@dataclass(eq=False, slots=True)
class Value:
    """What stands for a type in data.

    scalar: text by a simple type; object: by `shape`, and those of `derived`, which "@type" names;
    array: a list of `item` (SOAP encoding); any: whatever the element says it is.
    """

    kind: Literal["scalar", "object", "array", "any"]
    type: Type
    simple: SimpleType | None = None
    shape: Shape | None = None
    item: Element | None = None
    dimensions: int = 1
    derived: tuple[ComplexType, ...] = ()

    @property
    def abstract(self) -> bool:
        """Whether only derived types can be used."""
        return isinstance(self.type, ComplexType) and self.type.abstract


@dataclass(slots=True)
class _Scope:
    """Keys of one object while they are given away. locals: which element has a name plain."""

    locals: dict[str, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)


class Mapping:
    """The plan for all types of a WSDL. Its methods raise WsdlError where a schema is wrong."""

    def __init__(self, schemas: Schemas, prefixes: dict[str, str]) -> None:
        self.schemas = schemas
        self._prefixes = prefixes
        self._values: dict[int, Value] = {}
        self._shapes: dict[int, Shape] = {}
        self._nil_shapes: dict[int, Shape] = {}
        self._anonymous: dict[int, str] = {}
        self._named: dict[str, str] = {}
        self._alive: list[Type] = []

    # --- names

    @cached_property
    def _owners(self) -> dict[str, str]:
        """Global types by the names that they have in data and components."""
        owners: dict[str, str] = {}
        for name in self.schemas.names("type"):
            self._assign(name, owners)
        return owners

    def _assign(self, qualified: str, owners: dict[str, str]) -> str:
        """Give a type a name of its own: plain for the first of that name, else with its
        namespace's; numbered where letters that components cannot have were all that differed."""
        made = base = _clean(local_name(qualified))
        if made in owners:
            made = base = f"{base}_{self.alias(namespace_of(qualified))}"
        numbers = count(2)
        while made in owners:
            made = f"{base}_{next(numbers)}"
        owners[made] = qualified
        self._named[qualified] = made
        return made

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Short names of namespaces: the WSDL's own prefixes, else its schemas', else numbers; all
        given at once, for they must not depend on what somebody asks for first."""
        found = dict(self._prefixes)
        taken = set(found.values())
        for schema in self.schemas.all:
            for prefix, namespace in schema.node.nsmap.items():
                if prefix and prefix not in taken and namespace not in (XSD, *found):
                    found[namespace] = prefix
                    taken.add(prefix)
        numbers = count(1)
        for namespace in ("", *(schema.target for schema in self.schemas.all), *CATALOGUE):
            if namespace not in found:
                made = f"ns{next(numbers)}" if namespace else "local"
                while made in taken:
                    made = f"ns{next(numbers)}"
                found[namespace] = made
                taken.add(made)
        return found

    def alias(self, namespace: str) -> str:
        """A short name for a namespace of the WSDL's schemas."""
        known = self._aliases.get(namespace)
        if known is None:  # one that an import promised and that is not there
            known = self._aliases[namespace] = f"ns{len(self._aliases) + 1}"
        return known

    def name(self, type_: Type) -> str:
        """The name of a type, one for each, as "@type" and JSON Schema have it."""
        if type_.name is not None:
            if namespace_of(type_.name) == XSD:
                return f"xs:{local_name(type_.name)}"
            owners = self._owners
            return self._named.get(type_.name) or self._assign(type_.name, owners)
        name = self._anonymous.get(id(type_))
        if name is None:
            plain = name = _clean(type_.owner) or "Type"
            number = 1
            while name in self._owners:
                number += 1
                name = f"{plain}_{number}"
            self._owners[name] = f"\0{id(type_)}"
            self._anonymous[id(type_)] = name
            self._alive.append(type_)
        return name

    def named(self, name: str) -> Type | None:
        """The type that a "@type" names: as `name` gives it, or qualified ("{ns}local")."""
        if name.startswith("xs:"):
            qualified = f"{{{XSD}}}{name[3:]}"
            return self.schemas.type(qualified) if qualified in BUILTINS else None
        if name.startswith("{"):
            return self.schemas.type(name) if self.schemas.has_type(name) else None
        owner = self._owners.get(name)
        if owner is not None and not owner.startswith("\0"):
            return self.schemas.type(owner)
        local, _, alias = name.rpartition("_")
        for namespace, known in self._aliases.items():
            if known == alias and local:
                qualified = clark(namespace, local)
                if self.schemas.has_type(qualified):
                    return self.schemas.type(qualified)
        return None

    # --- values

    def value(self, type_: Type) -> Value:
        """What stands for `type_`."""
        made = self._values.get(id(type_))
        if made is None:
            made = self._value(type_)
            self._values[id(type_)] = made
            self._alive.append(type_)
        return made

    def _value(self, type_: Type) -> Value:
        if isinstance(type_, SimpleType):
            if type_.name in (f"{{{XSD}}}anySimpleType", f"{{{XSD}}}anyAtomicType"):
                return Value("any", type_)
            return Value("scalar", type_, simple=type_)
        if type_.is_any:
            return Value("any", type_)
        if type_.array_of is not None:
            return self._array(type_)
        derived = tuple(self.schemas.derived(type_))
        plain = not type_.attributes and type_.any_attribute is None and not derived
        if type_.simple is not None and plain and not type_.abstract:
            return Value("scalar", type_, simple=type_.simple)
        return Value("object", type_, shape=self.shape(type_), derived=derived)

    def _array(self, type_: ComplexType) -> Value:
        assert type_.array_of is not None
        name, dimensions = type_.array_of
        count = dimensions.count(",") + 1
        inner: Element | None = None
        for element in elements_of(type_.particle):
            inner = element
        if name:
            made = self._item_type(name)
            item = Element(inner.name if inner else "item", lambda: made, nillable=True)
        elif inner is not None:
            item = inner
        else:
            item = Element("item", lambda: self.schemas.type(f"{{{XSD}}}anyType"), nillable=True)
        return Value("array", type_, item=item, dimensions=count)

    def _item_type(self, name: str) -> Type:
        if not name.endswith("]"):
            return self.schemas.type(name)
        # "{ns}T[]": the items are arrays themselves.
        inner, _, dimensions = name.rpartition("[")
        return ComplexType(None, owner="Array", array_of=(inner, "[" + dimensions))

    def shape(self, type_: ComplexType) -> Shape:
        """How a complex type is an object."""
        made = self._shapes.get(id(type_))
        if made is None:
            made = self._shape(type_)
            self._shapes[id(type_)] = made
            self._alive.append(type_)
        return made

    def nil_shape(self, type_: ComplexType) -> Shape:
        """How an element of a complex type is an object when it is nil: its attributes are left."""
        made = self._nil_shapes.get(id(type_))
        if made is None:
            whole = self.shape(type_)
            empty = replace(type_, particle=None, own=None, simple=None, mixed=False)
            made = Shape(
                f"{whole.name}.nil", empty, whole.attributes, None, False, None,
                whole.discriminator, nil=True,
            )  # fmt: skip
            self._nil_shapes[id(type_)] = made
            self._alive.append(type_)
        return made

    def _shape(self, type_: ComplexType) -> Shape:
        keys: dict[str, str] = {}
        attributes = []
        for attribute in type_.attributes.values():
            key = f"@{local_name(attribute.name)}"
            while key in keys:
                key += f"_{self.alias(namespace_of(attribute.name))}"
            keys[key] = attribute.name
            attributes.append(AttributeField(key, attribute))
        content: Nodes | None = None
        if type_.particle is not None and type_.simple is None:
            plain = _normal(type_.particle)
            if plain is not None:
                scope = _Scope()
                node = self._keyed(plain, scope)
                content = (
                    node
                    if isinstance(node, Nodes) and not node.key and node.min
                    else Nodes("sequence", (node,), 1, 1)
                )
                tags = frozenset(tag for f in fields(content) for tag in f.tags)
                content = _guarded(content, tags)
        mixed = type_.mixed and type_.simple is None
        text = type_.simple
        if mixed and content is None:
            mixed, text = False, BUILTINS[f"{{{XSD}}}string"]
        return Shape(
            self.name(type_), type_, tuple(attributes), text, mixed, content,
            self._discriminator(type_),
        )  # fmt: skip

    def _discriminator(self, type_: ComplexType) -> str:
        root = type_
        while root.base is not None:
            root = root.base
        family = [type_, root, *self.schemas.derived(root)]
        clash = any(local_name(name) == "type" for one in family for name in one.attributes)
        clash |= any(one.any_attribute and one.any_attribute.allows("type") for one in family)
        return TYPE_BESIDE if clash else TYPE

    # --- content models

    def _keyed(self, particle: Particle, scope: _Scope) -> Node:
        term = particle.term
        if isinstance(term, Element):
            return Field(
                self._key(term, scope), term, particle.min, particle.max, self._substitutes(term)
            )
        if isinstance(term, Wildcard):
            return Slot(_numbered("$any", scope), term, particle.min, particle.max)
        if particle.max is None or particle.max > 1:
            key = _numbered("$choice" if term.kind == "choice" else "$sequence", scope)
            inner = _Scope()
            return Nodes(term.kind, self._items(term, inner), particle.min, particle.max, key)
        return Nodes(term.kind, self._items(term, scope), particle.min, particle.max)

    def _items(self, group: Group, scope: _Scope) -> tuple[Node, ...]:
        if group.kind != "choice":
            return tuple(self._keyed(item, scope) for item in group.items)
        # The branches of a choice exclude each other, so they may use the same keys, unless an
        # object could then be of two branches that write it differently.
        before, after = dict(scope.used), dict(scope.used)
        items: list[Node] = []
        for item in group.items:
            scope.used = dict(before)
            made = self._keyed(item, scope)
            if any(_is_ambiguous(made, other) for other in items):
                scope.used = dict(after)
                made = self._keyed(item, scope)
            items.append(made)
            for key, times in scope.used.items():
                after[key] = max(after.get(key, 0), times)
        scope.used = after
        return tuple(items)

    def _key(self, element: Element, scope: _Scope) -> str:
        local = element.local
        if scope.locals.setdefault(local, element.name) != element.name:
            local = f"{local}_{self.alias(namespace_of(element.name))}"
        return _numbered(local, scope)

    def _substitutes(self, element: Element) -> tuple[tuple[str, Element], ...]:
        if not element.is_global:
            return ()
        others = self.schemas.substitutes(element.name)
        if not others and not element.abstract:
            return ()
        found: dict[str, Element] = {}
        for one in ([] if element.abstract else [element]) + others:
            key = one.local
            if key in found:
                key += f"_{self.alias(namespace_of(one.name))}"
            found[key] = one
        return tuple(found.items())


def fields(node: Node | None) -> Iterator[Field]:
    """All fields of a content model, those in repeating groups too."""
    if isinstance(node, Field):
        yield node
    elif isinstance(node, Nodes):
        for item in node.items:
            yield from fields(item)


def slots(node: Node | None) -> Iterator[Slot]:
    """All wildcards of a content model."""
    if isinstance(node, Slot):
        yield node
    elif isinstance(node, Nodes):
        for item in node.items:
            yield from slots(item)


def keys(node: Node) -> Iterator[str]:
    """The keys that a node may have in the object it belongs to."""
    return (member.key for member in _members(node))


def _members(node: Node) -> Iterator[Node]:
    """The nodes of a content model that have keys in the object it belongs to."""
    if isinstance(node, Nodes) and not node.key:
        for item in node.items:
            yield from _members(item)
    else:
        yield node


def is_satisfied(node: Node, present: Collection[str]) -> bool:
    """Whether an object with the keys `present` has what a node requires."""
    if is_nullable(node) and not any(key in present for key in keys(node)):
        return True
    if isinstance(node, Field | Slot) or node.key:
        return node.key in present
    if node.kind == "choice":
        return any(is_satisfied(item, present) for item in node.items)
    return all(is_satisfied(item, present) for item in node.items)


def branch_of(node: Nodes, present: Collection[str]) -> int | None:
    """Which branch of a choice an object with the keys `present` has; None if it has none.

    Branches may share keys, and some keys may belong to what stands around the choice: the first
    branch that explains all of them is right, else the one that explains most.
    """
    names = [frozenset(keys(item)) for item in node.items]
    mine = frozenset().union(*names) & set(present)
    if not mine:
        return None
    best: tuple[int, int] | None = None
    for number, (own, item) in enumerate(zip(names, node.items, strict=True)):
        if own & mine and is_satisfied(item, mine):
            if mine <= own:
                return number
            if best is None or len(own & mine) > best[0]:
                best = (len(own & mine), number)
    return best[1] if best is not None else None


def _is_ambiguous(one: Node, other: Node) -> bool:
    """Whether an object can be of either of two branches, but is written in another way."""
    nodes = {member.key: member for member in _members(other)}
    for member in _members(one):
        like = nodes.get(member.key)
        if like is None or isinstance(member, Field):
            continue
        if not (
            isinstance(member, Slot) and isinstance(like, Slot) and member.wildcard == like.wildcard
        ):
            return True  # what is inside of them would have to tell
    mine, theirs = list(keys(one)), list(keys(other))
    both = set(mine) & set(theirs)
    if len(both) < 2 or not is_satisfied(one, both) or not is_satisfied(other, both):
        return False
    return [key for key in mine if key in both] != [key for key in theirs if key in both]


def is_nullable(node: Node) -> bool:
    """Whether a node may be empty."""
    if node.min == 0:
        return True
    if not isinstance(node, Nodes):
        return False
    if node.kind == "choice":
        return any(is_nullable(item) for item in node.items)
    return all(is_nullable(item) for item in node.items)


def _numbered(key: str, scope: _Scope) -> str:
    made = key
    between = "" if key.startswith("$") else "_"
    while made in scope.used:
        scope.used[key] += 1
        made = f"{key}{between}{scope.used[key]}"
    scope.used[made] = 1
    return made


def _guarded(node: Nodes, tags: frozenset[str]) -> Nodes:
    """Wildcards leave alone what the type has fields for, as in XML Schema 1.1: schemas that are
    ambiguous without that rule are common."""
    items: list[Node] = []
    for item in node.items:
        if isinstance(item, Slot):
            items.append(replace(item, but=frozenset(t for t in tags if item.wildcard.allows(t))))
        elif isinstance(item, Nodes):
            items.append(_guarded(item, tags))
        else:
            items.append(item)
    return replace(node, items=tuple(items))


def _normal(particle: Particle) -> Particle | None:
    """The simplest content model for the same documents: no group without need, no group that
    repeats where its element can; None for an empty one. Where that would take counting that
    nobody needs, (a{2,3}){2,5}, a few more documents are let pass rather than one misread."""
    term = particle.term
    low, high = particle.min, particle.max
    if not isinstance(term, Group):
        return particle
    kind = term.kind
    repeats = high is None or high > 1
    items: list[Particle] = []
    optional = False
    for each in term.items:
        item = _normal(each)
        if item is None:
            optional = True
            continue
        inner = item.term
        if isinstance(inner, Group) and inner.kind == kind and (item.min, item.max) == (1, 1):
            items += inner.items
        elif (
            kind == "choice"
            and isinstance(inner, Group)
            and inner.kind == "choice"
            and (item.min, item.max) == (0, 1)
        ):
            optional = True
            items += inner.items
        else:
            items.append(item)
    if not items:
        return None
    if kind == "choice" and optional:
        low = 0
    if len(items) == 1:
        only = items[0]
        if not repeats and low == 1:
            return only
        if not repeats and (only.min == 0 or (only.min, only.max) == (1, 1)):
            return Particle(min(low, only.min), only.max, only.term)
        if repeats and not isinstance(only.term, Group):
            most = None if high is None or only.max is None else high * only.max
            return Particle(low * only.min, most, only.term)
        if repeats and (only.min, only.max) == (1, 1):
            return _normal(Particle(low, high, only.term))
    if repeats and kind == "sequence" and len(items) > 1 and all(map(_may_be_empty, items)):
        # What belongs together in (a?, b?)* cannot be told: it is (a | b)*.
        items = [Particle(1, 1, Group("sequence", tuple(items)))]
        kind, low = "choice", 0
    if repeats and (loose := _loosened(kind, items)) != items:
        if kind == "choice" and any(item.min == 0 for item in items):
            low = 0
        counts = [item.max for item in loose if item.max is not None]
        counts += [item.max for item in items if item.max is not None]
        unlimited = high is None or len(counts) < len(loose) + len(items)
        high = None if unlimited or high is None else high * sum(counts)
        return _normal(Particle(low, high, Group(kind, tuple(loose))))
    return Particle(low, high, Group(kind, tuple(items)))


def _loosened(kind: str, items: list[Particle]) -> list[Particle]:
    """What is inside a group that repeats, without repeating what repeats with the group: of
    (a+ | b)* or (a+, b?)*, a run of a could be told as one item or as several."""
    if kind == "choice":
        made: list[Particle] = []
        for item in items:
            term = item.term
            apart = isinstance(term, Group) and term.kind == "sequence"
            if apart and isinstance(term, Group) and all(map(_may_be_empty, term.items)):
                made += (Particle(1, 1, one.term) for one in term.items)
            else:
                made.append(Particle(1, 1, term))
        return made
    return [
        Particle(min(item.min, 1), 1, item.term)
        if (item.max is None or item.max > 1)
        and all(_may_be_empty(other) for other in items if other is not item)
        else item
        for item in items
    ]


def _may_be_empty(particle: Particle) -> bool:
    term = particle.term
    if particle.min == 0:
        return True
    if not isinstance(term, Group):
        return False
    inside = map(_may_be_empty, term.items)
    return any(inside) if term.kind == "choice" else all(inside)


def _clean(name: str) -> str:
    """A name as OpenAPI allows it for components."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
