"""Components of XML Schema, built from documents when asked for.

Nothing is built before somebody needs it, so a WSDL with thousands of types loads in the time that
its XML takes to parse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Final, Literal, TypeVar

from lxml import etree

from esb_soap.components import (
    ANY_TYPE,
    ANYTHING,
    BUILTINS,
    SOAPENC,
    UR_TYPE,
    WSDL,
    XML,
    XSD,
    XSI,
    Attribute,
    ComplexType,
    Element,
    Facets,
    Group,
    Particle,
    SimpleType,
    Type,
    Wildcard,
    X,
    _builtins,
    local_name,
    namespace_of,
    split,
)
from esb_soap.documents import CATALOGUE, Document, Documents, WsdlError

MAX_NESTING: Final = 100
"""How deep groups and derivations may nest."""

T = TypeVar("T")

_KINDS: Final = {
    f"{X}element": "element",
    f"{X}complexType": "type",
    f"{X}simpleType": "type",
    f"{X}group": "group",
    f"{X}attributeGroup": "attributeGroup",
    f"{X}attribute": "attribute",
}
_REFERRING: Final = {
    f"{X}element": (("type", "type"), ("ref", "element"), ("substitutionGroup", "element")),
    f"{X}attribute": (("type", "type"), ("ref", "attribute")),
    f"{X}group": (("ref", "group"),),
    f"{X}attributeGroup": (("ref", "attributeGroup"),),
    f"{X}extension": (("base", "type"),),
    f"{X}restriction": (("base", "type"),),
    f"{X}list": (("itemType", "type"),),
    f"{X}union": (("memberTypes", "type"),),
}
_OWN: Final = frozenset({XSD, XSI, XML, ""})
_MODEL: Final = frozenset({f"{X}{n}" for n in ("sequence", "choice", "all", "group")})


@dataclass(frozen=True, eq=False)
class SchemaDocument:
    """One xs:schema, of one target namespace: a chameleon include has one for each includer."""

    document: Document
    node: etree._Element
    target: str
    chameleon: bool

    @cached_property
    def qualified_elements(self) -> bool:
        return self.node.get("elementFormDefault") == "qualified"

    @cached_property
    def qualified_attributes(self) -> bool:
        return self.node.get("attributeFormDefault") == "qualified"

    @cached_property
    def _nsmap(self) -> dict[str | None, str]:
        return dict(self.node.nsmap)

    def qname(self, node: etree._Element, text: str) -> str:
        """The qualified name that `text` is at `node`. Raises WsdlError for an unknown prefix."""
        prefix, colon, local = text.strip().rpartition(":")
        if not colon:
            namespace = node.nsmap.get(None, "") or (self.target if self.chameleon else "")
        else:
            found = node.nsmap.get(prefix)
            if found is None:
                if prefix != "xml":
                    raise self.document.error(f"the prefix of '{text}' is not declared", node)
                found = XML
            namespace = found
        return f"{{{namespace}}}{local}" if namespace else local

    def name(self, local: str) -> str:
        return f"{{{self.target}}}{local}" if self.target else local


@dataclass(frozen=True, slots=True)
class _Definition:
    node: etree._Element
    schema: SchemaDocument
    original: _Definition | None = None  # what a redefinition redefines


class Schemas:
    """All schemas of a WSDL.

    `documents` finds what they import; big_as_text: as in SimpleType. Every method that looks
    something up raises WsdlError if it is not there or is wrong.
    """

    def __init__(self, documents: Documents, *, big_as_text: bool = False) -> None:
        self._documents = documents
        self.all: list[SchemaDocument] = []
        self._seen: set[tuple[etree._Element, str]] = set()
        self._found: dict[tuple[str, str], _Definition] = {}
        builtins = _builtins(big_as_text=True) if big_as_text else BUILTINS
        self._types: dict[str, Type] = {ANY_TYPE: UR_TYPE, **builtins}
        self._elements: dict[str, Element] = {}
        self.absent: dict[str, str] = {}
        """Components that an import promised and nothing is there for, with their kinds."""
        self.aliased: set[str] = set()
        """Namespaces of the SOAP encoding whose types were taken for those of XML Schema."""
        self._building: list[str] = []
        self._depth = 0

    # --- adding documents

    def add(self, document: Document, node: etree._Element, target: str | None = None) -> None:
        """Take in an xs:schema with everything it includes and imports. `target`: the including
        schema's namespace."""
        pending: list[tuple[Document, etree._Element, str | None]] = [(document, node, target)]
        while pending:
            document, node, including = pending.pop(0)
            own = node.get("targetNamespace")
            if including is not None and own is not None and own != including:
                raise document.error(
                    f"it is included into the namespace '{including}' but its own is '{own}'", node
                )
            namespace = own if own is not None else including or ""
            if (node, namespace) in self._seen:
                continue
            self._seen.add((node, namespace))
            schema = SchemaDocument(document, node, namespace, own is None and bool(including))
            self.all.append(schema)
            pending += self._index(schema)
        self.__dict__.pop("_derived", None)
        self.__dict__.pop("_members", None)
        self.__dict__.pop("_bases", None)
        self.__dict__.pop("_targets", None)

    def _index(
        self, schema: SchemaDocument
    ) -> Iterator[tuple[Document, etree._Element, str | None]]:
        for node in schema.node.iterchildren("*"):
            kind = _KINDS.get(str(node.tag))
            if kind is not None:
                name = node.get("name")
                if name is None or not _is_ncname(name):
                    raise schema.document.error(f"a global {kind} needs a name", node)
                self._found.setdefault((kind, schema.name(name)), _Definition(node, schema))
            elif node.tag in (f"{X}import", f"{X}include", f"{X}redefine"):
                yield from self._reference(schema, node)

    def _reference(
        self, schema: SchemaDocument, node: etree._Element
    ) -> Iterator[tuple[Document, etree._Element, str | None]]:
        imports = node.tag == f"{X}import"
        namespace = node.get("namespace") if imports else schema.target
        location = node.get("schemaLocation")
        if imports and namespace == XSD:
            return  # its types are built in
        if imports and namespace in CATALOGUE and (location is None or "://" in location):
            return  # taken from the catalogue when something of it is used
        if location is None:
            return
        document = self._documents.resolve(location, namespace, schema.document, node)
        if document is None:
            return
        root = document.root
        if root.tag != f"{X}schema":
            raise document.error("this is no XML Schema", root)
        including = None if imports else schema.target
        if node.tag == f"{X}redefine":
            self.add(document, root, including)
            for child in node.iterchildren("*"):
                kind, name = _KINDS.get(str(child.tag)), child.get("name")
                if kind is not None and name is not None:
                    key = (kind, schema.name(name))
                    self._found[key] = _Definition(child, schema, self._found.get(key))
        else:
            yield document, root, including

    # --- looking up

    def _find(self, kind: str, name: str) -> _Definition | None:
        found = self._found.get((kind, name))
        if found is None:
            document = self._documents.catalogue(namespace_of(name))
            if document is not None and (document.root, namespace_of(name)) not in self._seen:
                self.add(document, document.root)
                found = self._found.get((kind, name))
        return found

    def has_element(self, name: str) -> bool:
        """Whether there is a global element of that name."""
        return self._find("element", name) is not None

    def element(self, name: str) -> Element:
        """The global element `name`."""
        made = self._elements.get(name)
        if made is None:
            found = self._find("element", name)
            if found is None:
                # <element ref="xs:schema"/>, as .NET has it
                if namespace_of(name) == XSD or self._is_absent("element", name):
                    made = Element(name, lambda: UR_TYPE, is_global=True, nillable=True)
                    self._elements[name] = made
                    return made
                raise self._missing("element", name)
            made = self._element(found.node, found.schema, "", is_global=True)
            self._elements[name] = made
        return made

    def has_type(self, name: str) -> bool:
        """Whether there is a global type of that name."""
        return name in self._types or self._alias(name) or self._find("type", name) is not None

    def type(self, name: str) -> Type:
        """The global type `name`."""
        made = self._types.get(name)
        if made is None:
            if self._alias(name):
                return self._types[X + _SOAPENC_NAMES.get(local_name(name), local_name(name))]
            found = self._find("type", name)
            if found is None:
                if self._is_absent("type", name):
                    return UR_TYPE
                raise self._missing("type", name)
            made = self._build(found, name)
            self._types[name] = made
        return made

    def _alias(self, name: str) -> bool:
        """Whether it is a type of the SOAP encoding that stands for one of XML Schema."""
        namespace, local = split(name)
        if namespace not in SOAPENC or X + _SOAPENC_NAMES.get(local, local) not in BUILTINS:
            return False
        self.aliased.add(namespace)
        return True

    def _build(self, found: _Definition, name: str) -> Type:
        if name in self._building or len(self._building) > MAX_NESTING:
            raise found.schema.document.error(
                f"the type '{local_name(name)}' is derived from itself", found.node
            )
        self._building.append(name)
        try:
            if found.node.tag == f"{X}simpleType":
                return self._simple(found.node, found.schema, name, "", found.original)
            return self._complex(found.node, found.schema, name, "", found.original)
        finally:
            self._building.pop()

    def _missing(self, kind: str, name: str) -> WsdlError:
        main = self.all[0].document if self.all else None
        text = f"there is no {kind} '{local_name(name)}' in the namespace '{namespace_of(name)}'"
        hint = ""
        if self._documents.missing:
            hint = f"not found: {', '.join(dict.fromkeys(self._documents.missing))}"
        return WsdlError(text, main.path if main else self._documents.files[0], 0, hint)

    @cached_property
    def _targets(self) -> frozenset[str]:
        return frozenset(schema.target for schema in self.all)

    def _is_absent(self, kind: str, name: str) -> bool:
        """Whether a component is of a namespace that an import promised and nothing is there for:
        then anything may stand for it, which is noted in `absent`."""
        namespace = namespace_of(name)
        if namespace in self._targets or not self._documents.missing or namespace in _OWN:
            return False
        self.absent.setdefault(name, kind)
        return True

    def dangling(self) -> list[WsdlError]:
        """References to components that are not there, each at its line."""
        found: list[WsdlError] = []
        for schema in list(self.all):
            if schema.document.catalogued:
                continue
            for node in schema.node.iter(*_REFERRING):
                for attribute, kind in _REFERRING[str(node.tag)]:
                    said = node.get(attribute)
                    if said is None:
                        continue
                    for one in said.split() if attribute == "memberTypes" else (said,):
                        try:
                            if not self._is_there(kind, schema.qname(node, one)):
                                name = schema.qname(node, one)
                                error = self._missing(kind, name)
                                found.append(schema.document.error(error.message, node, error.hint))
                        except WsdlError as e:
                            found.append(e)
        return found

    def _is_there(self, kind: str, name: str) -> bool:
        if kind == "type":
            return self.has_type(name) or self._is_absent(kind, name)
        if namespace_of(name) == XSD and kind == "element":
            return True
        return self._find(kind, name) is not None or self._is_absent(kind, name)

    def names(self, kind: Literal["element", "type"]) -> list[str]:
        """Names of all global elements or types, in the documents' order."""
        return [name for of, name in self._found if of == kind]

    # --- derivation and substitution

    @cached_property
    def _derived(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for (kind, name), definition in list(self._found.items()):
            if kind != "type" or definition.node.tag != f"{X}complexType":
                continue
            for content in definition.node.iterchildren(f"{X}complexContent", f"{X}simpleContent"):
                for step in content.iterchildren(f"{X}extension", f"{X}restriction"):
                    base = step.get("base")
                    if base is not None:
                        key = definition.schema.qname(step, base)
                        if key != name:
                            found.setdefault(key, []).append(name)
        return found

    @cached_property
    def _bases(self) -> frozenset[str]:
        """Names of all types that others are derived from, anonymous ones too."""
        return frozenset(
            schema.qname(step, base)
            for schema in self.all
            for step in schema.node.iter(f"{X}extension", f"{X}restriction")
            if (base := step.get("base")) is not None
        )

    def is_base(self, type_: Type) -> bool:
        """Whether another type is derived from `type_`."""
        return type_.name is not None and type_.name in self._bases

    def derived(self, type_: Type) -> list[ComplexType]:
        """The named complex types derived from `type_` in any number of steps, nearest first;
        xs:anyType has none listed."""
        if type_.name is None or isinstance(type_, SimpleType) or type_.is_any:
            return []
        names, level = [], [type_.name]
        seen = {type_.name}
        while level:
            level = [n for base in level for n in self._derived.get(base, ()) if n not in seen]
            level = list(dict.fromkeys(level))
            seen.update(level)
            names += level
        made = [self.type(name) for name in names]
        return [type_ for type_ in made if isinstance(type_, ComplexType)]

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for (kind, name), definition in list(self._found.items()):
            head = definition.node.get("substitutionGroup") if kind == "element" else None
            if head is not None:
                key = definition.schema.qname(definition.node, head)
                found.setdefault(key, []).append(name)
        return found

    def substitutes(self, name: str) -> list[Element]:
        """The elements that may stand for the global element `name`, without itself and without
        abstract ones."""
        names, level, seen = [], [name], {name}
        while level:
            level = [n for head in level for n in self._members.get(head, ()) if n not in seen]
            seen.update(level)
            names += level
        return [element for element in map(self.element, names) if not element.abstract]

    # --- elements and attributes

    def _element(
        self, node: etree._Element, schema: SchemaDocument, owner: str, *, is_global: bool = False
    ) -> Element:
        local = node.get("name")
        if local is None or not _is_ncname(local):
            raise schema.document.error("an element needs a name or a ref", node)
        form = node.get("form")
        qualified = is_global or (
            form == "qualified" if form is not None else schema.qualified_elements
        )
        path = f"{owner}_{local}" if owner else local
        return Element(
            schema.name(local) if qualified else local,
            lambda: self._element_type(node, schema, path),
            nillable=_true(node.get("nillable")),
            default=node.get("default"),
            fixed=node.get("fixed"),
            abstract=_true(node.get("abstract")),
            is_global=is_global,
            documentation=documentation(node),
            owner=owner,
        )

    def _element_type(self, node: etree._Element, schema: SchemaDocument, path: str) -> Type:
        name = node.get("type")
        if name is not None:
            return self._typed(node, schema, name)
        for child in node.iterchildren(f"{X}complexType", f"{X}simpleType"):
            if child.tag == f"{X}complexType":
                return self._complex(child, schema, None, path, None)
            return self._simple(child, schema, None, path, None)
        head = node.get("substitutionGroup")
        if head is not None:
            return self.element(schema.qname(node, head)).type
        return UR_TYPE

    def _typed(self, node: etree._Element, schema: SchemaDocument, name: str) -> Type:
        try:
            return self.type(schema.qname(node, name))
        except WsdlError as e:
            if e.line:
                raise
            raise schema.document.error(e.message, node, e.hint) from e

    def _attribute(self, node: etree._Element, schema: SchemaDocument, owner: str) -> Attribute:
        use = node
        array_type = None
        ref = node.get("ref")
        name: str
        if ref is not None:
            name = schema.qname(node, ref)
            for key, value in node.attrib.items():
                if key == f"{{{WSDL}}}arrayType":
                    array_type = _array_type(schema, node, str(value))
            found = self._find("attribute", name)
            if found is None and self._is_absent("attribute", name):
                return Attribute(
                    name, BUILTINS[f"{X}anySimpleType"], use.get("use") == "required",
                    None, None, "", array_type,
                )  # fmt: skip
            if found is None:
                error = self._missing("attribute", name)
                raise schema.document.error(error.message, node, error.hint)
            node, schema = found.node, found.schema
        else:
            local = node.get("name")
            if local is None or not _is_ncname(local):
                raise schema.document.error("an attribute needs a name or a ref", node)
            form = node.get("form")
            qualified = form == "qualified" if form is not None else schema.qualified_attributes
            name = schema.name(local) if qualified else local
        fixed = use.get("fixed", node.get("fixed"))
        return Attribute(
            name=name,
            type=self._attribute_type(node, schema, f"{owner}_{local_name(name)}"),
            required=use.get("use") == "required",
            default=use.get("default", node.get("default")),
            fixed=fixed,
            documentation=documentation(use) or documentation(node),
            array_type=array_type,
        )

    def _attribute_type(
        self, node: etree._Element, schema: SchemaDocument, owner: str
    ) -> SimpleType:
        name = node.get("type")
        if name is not None:
            found = self._typed(node, schema, name)
            if isinstance(found, ComplexType):
                raise schema.document.error("the type of an attribute must be simple", node)
            return found
        for child in node.iterchildren(f"{X}simpleType"):
            return self._simple(child, schema, None, owner, None)
        return BUILTINS[f"{X}anySimpleType"]

    # --- simple types

    def _simple(
        self,
        node: etree._Element,
        schema: SchemaDocument,
        name: str | None,
        owner: str,
        original: _Definition | None,
    ) -> SimpleType:
        docs = documentation(node)
        path = local_name(name) if name else owner
        for step in node.iterchildren(f"{X}restriction", f"{X}list", f"{X}union"):
            if step.tag == f"{X}restriction":
                base = self._simple_base(step, schema, name, path, original)
                made = self._restricted(step, schema, base)
            elif step.tag == f"{X}list":
                item = self._inline_or_named(step, schema, "itemType", path)
                made = SimpleType(None, "list", item=item, facets=Facets(white_space="collapse"))
            else:
                named = [
                    self._typed(step, schema, n) for n in (step.get("memberTypes") or "").split()
                ]
                inline: list[Type] = [
                    self._simple(child, schema, None, f"{path}_{number}", None)
                    for number, child in enumerate(step.iterchildren(f"{X}simpleType"), 1)
                ]
                members = tuple(t for t in named + inline if isinstance(t, SimpleType))
                if not members or len(members) != len(named) + len(inline):
                    raise schema.document.error("a union needs simple types as members", step)
                made = SimpleType(None, "union", members=members)
            made.name, made.owner, made.documentation = name, owner, docs
            return made
        raise schema.document.error("a simple type needs a restriction, list or union", node)

    def _simple_base(
        self,
        step: etree._Element,
        schema: SchemaDocument,
        name: str | None,
        path: str,
        original: _Definition | None,
    ) -> SimpleType:
        if original is not None and name is not None:
            base = step.get("base")
            if base is not None and schema.qname(step, base) == name:
                return self._simple(original.node, original.schema, None, path, original.original)
        return self._inline_or_named(step, schema, "base", path)

    def _inline_or_named(
        self, step: etree._Element, schema: SchemaDocument, attribute: str, path: str
    ) -> SimpleType:
        name = step.get(attribute)
        if name is not None:
            found = self._typed(step, schema, name)
            if isinstance(found, SimpleType):
                return found
            if found is UR_TYPE and schema.qname(step, name) in self.absent:
                return BUILTINS[f"{X}string"]
            raise schema.document.error(f"'{name}' is no simple type", step)
        for child in step.iterchildren(f"{X}simpleType"):
            return self._simple(child, schema, None, f"{path}_item", None)
        raise schema.document.error(f"{attribute} is missing", step)

    def _restricted(
        self, step: etree._Element, schema: SchemaDocument, base: SimpleType
    ) -> SimpleType:
        """A simple type like `base` with the facets below `step`."""
        facets = base.facets
        values: list[str] = []
        value_docs: dict[str, str] = {}
        patterns: list[str] = []
        changed: dict[str, str | int] = {}
        qnames = base.primitive in ("QName", "NOTATION") and base.variety == "atomic"
        for node in step.iterchildren("*"):
            kind = local_name(str(node.tag))
            value = node.get("value")
            if value is None:
                continue
            if kind == "enumeration":
                if qnames:
                    value = schema.qname(node, value)
                values.append(value)
                if docs := documentation(node):
                    value_docs[value] = docs
            elif kind == "pattern":
                patterns.append(value)
            elif kind == "whiteSpace" and value in ("preserve", "replace", "collapse"):
                changed["white_space"] = value
            elif kind in _INT_FACETS:
                try:
                    changed[_INT_FACETS[kind]] = int(value)
                except ValueError as e:
                    raise schema.document.error(f"{kind} must be a number", node) from e
            elif kind in _BOUND_FACETS:
                changed[_BOUND_FACETS[kind]] = value.strip()
        if values:
            changed["enumeration"] = tuple(values)  # type: ignore[assignment]
        if patterns:
            changed["patterns"] = (*facets.patterns, tuple(patterns))  # type: ignore[assignment]
        for own, other in (("min_inclusive", "min_exclusive"), ("max_inclusive", "max_exclusive")):
            if own in changed and other not in changed and getattr(facets, other) is not None:
                changed[other] = None  # type: ignore[assignment]
            if other in changed and own not in changed and base.is_builtin is False:
                changed[own] = None  # type: ignore[assignment]
        return SimpleType(
            None,
            base.variety,
            primitive=base.primitive,
            facets=replace(facets, **changed),  # type: ignore[arg-type]
            item=base.item,
            members=base.members,
            base=base,
            value_docs=value_docs or base.value_docs,
            big_as_text=base.big_as_text,
        )

    # --- complex types

    def _complex(
        self,
        node: etree._Element,
        schema: SchemaDocument,
        name: str | None,
        owner: str,
        original: _Definition | None,
    ) -> ComplexType:
        made = ComplexType(
            name,
            owner=owner,
            abstract=_true(node.get("abstract")),
            mixed=_true(node.get("mixed")),
            documentation=documentation(node),
        )
        path = local_name(name) if name else owner
        for content in node.iterchildren(f"{X}simpleContent", f"{X}complexContent"):
            for step in content.iterchildren(f"{X}extension", f"{X}restriction"):
                self._derive(made, content, step, schema, path, original)
                return made
            raise schema.document.error("an extension or a restriction is missing", content)
        made.particle = made.own = self._content(node, schema, path)
        self._attributes(made, node, schema, path)
        return made

    def _derive(
        self,
        made: ComplexType,
        content: etree._Element,
        step: etree._Element,
        schema: SchemaDocument,
        path: str,
        original: _Definition | None,
    ) -> None:
        base_name = step.get("base")
        if base_name is None:
            raise schema.document.error("the base is missing", step)
        base: Type
        if original is not None and schema.qname(step, base_name) == made.name:
            base = self._complex(original.node, original.schema, None, path, original.original)
        else:
            base = self._typed(step, schema, base_name)
        extends = step.tag == f"{X}extension"
        made.derivation = "extension" if extends else "restriction"
        if isinstance(base, ComplexType):
            made.base = base if not base.is_any else None
            made.attributes = dict(base.attributes)
            made.any_attribute = base.any_attribute if extends else None
            made.array_of = base.array_of
        if content.tag == f"{X}simpleContent":
            made.simple = self._simple_content(base, step, schema, path)
        else:
            mixed = content.get("mixed")
            if mixed is not None:
                made.mixed = _true(mixed)
            own = self._content(step, schema, path)
            made.own = own
            bare = own is None or (isinstance(own.term, Group) and not own.term.items)
            # Who adds elements to anyType means these alone: behind anything none could be told.
            if isinstance(base, ComplexType) and extends and (bare or not base.is_any):
                made.mixed = made.mixed or base.mixed
                made.particle = _together(base.particle, own)
                made.simple = base.simple
            else:
                made.particle = own
            if namespace_of(base.name or "") in SOAPENC and made.array_of is None:
                made.array_of = ("", "")
        self._attributes(made, step, schema, path)
        for attribute in made.attributes.values():
            if attribute.array_type is not None:
                item, _, dimensions = attribute.array_type.rpartition("[")
                made.array_of = (item, "[" + dimensions)

    def _simple_content(
        self, base: Type, step: etree._Element, schema: SchemaDocument, path: str
    ) -> SimpleType:
        if isinstance(base, SimpleType):
            simple = base
        elif base.simple is not None:
            simple = base.simple
        else:
            simple = BUILTINS[f"{X}string"]  # restriction of mixed content, if correct at all
        if step.tag == f"{X}restriction":
            for child in step.iterchildren(f"{X}simpleType"):
                simple = self._simple(child, schema, None, f"{path}_text", None)
            restricted = self._restricted(step, schema, simple)
            if restricted.facets != simple.facets:
                restricted.owner = f"{path}_text"
                return restricted
        return simple

    def _attributes(
        self, made: ComplexType, node: etree._Element, schema: SchemaDocument, path: str
    ) -> None:
        for use in node.iterchildren(f"{X}attribute"):
            if use.get("use") == "prohibited":
                ref, local = use.get("ref"), use.get("name") or ""
                made.attributes.pop(schema.qname(use, ref) if ref else local, None)
                continue
            attribute = self._attribute(use, schema, path)
            made.attributes[attribute.name] = attribute
        for use in node.iterchildren(f"{X}attributeGroup"):
            self._nested(partial(self._attribute_group, made, use, schema, path))
        for use in node.iterchildren(f"{X}anyAttribute"):
            made.any_attribute = _wildcard(use, schema)

    def _attribute_group(
        self, made: ComplexType, use: etree._Element, schema: SchemaDocument, path: str
    ) -> None:
        found = self._referenced("attributeGroup", use, schema)
        if found is None:
            made.any_attribute = ANYTHING
            return
        if found.original is not None:
            # A redefinition refers to itself for what it redefines.
            self._attributes(made, found.original.node, found.original.schema, path)
            for inner in found.node.iterchildren(f"{X}attribute"):
                attribute = self._attribute(inner, found.schema, path)
                made.attributes[attribute.name] = attribute
            return
        self._attributes(made, found.node, found.schema, path)

    def _referenced(
        self, kind: str, use: etree._Element, schema: SchemaDocument
    ) -> _Definition | None:
        """The group that `use` refers to; None for one that can hold anything."""
        ref = use.get("ref")
        if ref is None:
            raise schema.document.error("ref is missing", use)
        name = schema.qname(use, ref)
        found = self._find(kind, name)
        if found is None and not self._is_absent(kind, name):
            error = self._missing(kind, name)
            raise schema.document.error(error.message, use, error.hint)
        return found

    def _nested(self, build: Callable[[], T]) -> T:
        if self._depth > MAX_NESTING:
            raise WsdlError("groups are nested too deep", self.all[0].document.path)
        self._depth += 1
        try:
            return build()
        finally:
            self._depth -= 1

    # --- content models

    def _content(self, node: etree._Element, schema: SchemaDocument, path: str) -> Particle | None:
        for child in node.iterchildren(*_MODEL):
            return self._particle(child, schema, path)
        return None

    def _particle(self, node: etree._Element, schema: SchemaDocument, path: str) -> Particle | None:
        low, high = _occurs(node, schema)
        if high == 0:
            return None
        tag = node.tag
        term: Element | Group | Wildcard
        if tag == f"{X}element":
            ref = node.get("ref")
            if ref is not None:
                try:
                    term = self.element(schema.qname(node, ref))
                except WsdlError as e:
                    if e.line:
                        raise
                    raise schema.document.error(e.message, node, e.hint) from e
            else:
                term = self._element(node, schema, path)
        elif tag == f"{X}any":
            term = _wildcard(node, schema)
        elif tag == f"{X}group":
            found = self._referenced("group", node, schema)
            if found is None:
                return Particle(0, None, ANYTHING)
            made = self._nested(partial(self._group_content, found))
            if made is None:
                return None
            if (low, high) == (1, 1):
                return made
            if (made.min, made.max) == (1, 1):
                return replace(made, min=low, max=high)
            term = Group("sequence", (made,))
        else:
            items = self._nested(
                lambda: tuple(
                    item
                    for child in node.iterchildren("*")
                    if child.tag in _MODEL or child.tag in (f"{X}element", f"{X}any")
                    if (item := self._particle(child, schema, path)) is not None
                )
            )
            kind = local_name(str(tag))
            assert kind in ("sequence", "choice", "all")
            term = Group(kind, items)  # type: ignore[arg-type]
        return Particle(low, high, term)

    def _group_content(self, found: _Definition) -> Particle | None:
        name = found.node.get("name") or ""
        if found.original is not None:
            schema, original = found.schema, found.original
            key = ("group", schema.name(name))
            self._found[key] = original  # a redefinition refers to itself for the original
            try:
                return self._content(found.node, schema, name)
            finally:
                self._found[key] = found
        return self._content(found.node, found.schema, name)


# --- helpers -------------------------------------------------------------------------------------

_INT_FACETS: Final = {
    "length": "length",
    "minLength": "min_length",
    "maxLength": "max_length",
    "totalDigits": "total_digits",
    "fractionDigits": "fraction_digits",
}
_BOUND_FACETS: Final = {
    "minInclusive": "min_inclusive",
    "maxInclusive": "max_inclusive",
    "minExclusive": "min_exclusive",
    "maxExclusive": "max_exclusive",
}
_TEXT: Final = etree.XPath("string()")  # without comments
_SOAPENC_NAMES: Final = {"base64": "base64Binary"}


def documentation(node: etree._Element) -> str:
    """The text of a component's annotation."""
    texts = []
    for annotation in node.iterchildren(f"{X}annotation"):
        for docs in annotation.iterchildren(f"{X}documentation"):
            text = str(_TEXT(docs))
            lines = [line.strip() for line in text.strip().splitlines()]
            texts.append("\n".join(lines))
    return "\n\n".join(filter(None, texts))


def _true(value: str | None) -> bool:
    return value is not None and value.strip() in ("true", "1")


def _is_ncname(name: str) -> bool:
    try:
        etree.QName("urn:x", name)
    except ValueError:
        return False
    return ":" not in name


def _occurs(node: etree._Element, schema: SchemaDocument) -> tuple[int, int | None]:
    try:
        low = int(node.get("minOccurs", "1"))
        said = node.get("maxOccurs", "1").strip()
        high = None if said == "unbounded" else int(said)
    except ValueError as e:
        raise schema.document.error("minOccurs and maxOccurs must be numbers", node) from e
    if low < 0 or (high is not None and high < low):
        raise schema.document.error(f"maxOccurs {high} is less than minOccurs {low}", node)
    return low, high


def _wildcard(node: etree._Element, schema: SchemaDocument) -> Wildcard:
    process = node.get("processContents", "strict")
    if process not in ("strict", "lax", "skip"):
        process = "strict"
    names = node.get("namespace", "##any").split()
    if names == ["##any"]:
        return Wildcard(None, frozenset(), process)  # type: ignore[arg-type]
    if names == ["##other"]:
        return Wildcard(None, frozenset({schema.target, ""}), process)  # type: ignore[arg-type]
    spelled = {"##targetNamespace": schema.target, "##local": ""}
    allowed = frozenset(spelled.get(name, name) for name in names)
    return Wildcard(allowed, frozenset(), process)  # type: ignore[arg-type]


def _together(first: Particle | None, second: Particle | None) -> Particle | None:
    if first is None or second is None:
        return first or second
    return Particle(1, 1, Group("sequence", (first, second)))


def _array_type(schema: SchemaDocument, node: etree._Element, value: str) -> str:
    """A wsdl:arrayType with its name qualified: "{ns}Item[]"."""
    name, bracket, rest = value.partition("[")
    return schema.qname(node, name) + bracket + rest
