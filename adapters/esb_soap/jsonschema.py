"""JSON Schema 2020-12 of the data that stand for XML types (docs/soap-json.md), as OpenAPI 3.1
takes it: what XML Schema says and JSON Schema can say, documentation included.

Named types become components. Objects are closed: what is not declared is refused. Where other
types are derived from a type, uses of it refer to "Type.any", which is one of them by "@type".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as AbstractMapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from esb_soap.components import ComplexType, Element, SimpleType, Wildcard, namespace_of
from esb_soap.patterns import BadPattern, pattern
from esb_soap.scalars import EXAMPLES, RANGES, is_big, is_text, scalar
from esb_soap.shape import (
    NIL_KEY,
    Field,
    Mapping,
    Node,
    Nodes,
    Shape,
    Slot,
    Value,
    fields,
    is_nullable,
    keys,
    slots,
)

Registry = dict[str, Any]
"""Named JSON Schemas; `#/components/schemas/Name` refers to `registry["Name"]`."""

Json = dict[str, Any]

_REF: Final = "#/components/schemas/"
_NUMBER: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$"
_NULL: Final = {"type": "null"}
_ANY: Final = {
    "description": "Any content; @type tells its type.",
    "type": ["object", "string", "number", "boolean"],
}
_ANY_SIMPLE: Final = {
    **_ANY,
    "description": "Any text; @type tells its type.",
    "properties": {"@type": {"type": "string"}, "#text": {}},
    "required": ["@type", "#text"],
    "additionalProperties": False,
}


class Emitter:
    """Writes the schemas of one WSDL's types into one registry."""

    def __init__(self, mapping: Mapping, registry: Registry) -> None:
        self._mapping = mapping
        self._registry = registry
        self._waiting: list[tuple[str, Callable[[], Json]]] = []
        self._busy = False

    def element(self, element: Element) -> Json:
        """The schema of an element's data."""
        schema = self._typed(element)
        value = self._mapping.value(element.type)
        if element.nillable:
            schema = _nullable(schema)
            if value.shape is not None and value.shape.has_attributes:
                schema["anyOf"].append(self._nil(value, value.shape))
        about: Json = {}
        if element.documentation:
            about["description"] = element.documentation
        if value.kind == "scalar" and value.simple is not None:
            for keyword, text in (("const", element.fixed), ("default", element.default)):
                if text is not None:
                    found = _decoded(value.simple, text)
                    if found is not None and not (keyword == "const" and element.nillable):
                        about[keyword] = found
        return {**schema, **about}

    def parts(self, parts: AbstractMapping[str, Element]) -> Json:
        """The schema of a message with several parts."""
        made: Json = {
            "type": "object",
            "properties": {name: self.element(element) for name, element in parts.items()},
            "additionalProperties": False,
        }
        if parts:
            made["required"] = list(parts)
        return made

    def with_headers(self, schema: Json, headers: AbstractMapping[str, Element]) -> Json:
        """`schema` with the header blocks in it as "$headers"."""
        blocks: Json = {
            "type": "object",
            "description": "SOAP header blocks",
            "properties": {name: self.element(element) for name, element in headers.items()},
            "additionalProperties": False,
        }
        return self._holding(schema, blocks)

    def _holding(self, schema: Json, blocks: Json) -> Json:
        """`schema` with "$headers" among its keys, in each form that the data may have; around data
        that are no object, which are "$body" then."""
        if schema.keys() == {"$ref"}:
            return self._holding(self._registry[schema["$ref"].removeprefix(_REF)], blocks)
        for keyword in ("oneOf", "anyOf"):
            if keyword in schema:
                return {**schema, keyword: [self._holding(one, blocks) for one in schema[keyword]]}
        if "$ref" in schema or schema.get("type") == "object":
            properties = {**schema.get("properties", {}), "$headers": blocks}
            return {**schema, "properties": properties}
        if isinstance(schema.get("type"), list) and "object" in schema["type"]:
            return schema  # anything, so headers too
        return {
            "type": "object",
            "properties": {"$body": schema, "$headers": blocks},
            "required": ["$body"],
            "additionalProperties": False,
        }

    # --- types

    def _typed(self, element: Element) -> Json:
        value = self._mapping.value(element.type)
        if value.kind == "scalar":
            assert value.simple is not None
            return self.simple(value.simple)
        if value.kind == "array":
            assert value.item is not None
            return {"type": "array", "items": self.element(value.item)}
        if value.kind == "any":
            return dict(_ANY if isinstance(value.type, ComplexType) else _ANY_SIMPLE)
        return self._object(value)

    def simple(self, type_: SimpleType) -> Json:
        """The schema of a simple type; a reference if it has a name."""
        if type_.name is None or type_.is_builtin:
            return _simple(type_, self)
        return self._named(self._mapping.name(type_), lambda: _simple(type_, self))

    def _named(self, name: str, make: Callable[[], Json]) -> Json:
        """A reference to the component of that name. One that is new is made after the one that is
        being made: types refer to each other in chains longer than calls may nest."""
        if name not in self._registry:
            self._registry[name] = {}
            self._waiting.append((name, make))
            if not self._busy:
                self._make_all()
        return {"$ref": _REF + name}

    def _make_all(self) -> None:
        self._busy = True
        known = len(self._registry) - 1
        try:
            while self._waiting:
                name, make = self._waiting.pop()
                self._registry[name] = make()
        except BaseException:
            # Half of them is nothing to refer to.
            for name in list(self._registry)[known:]:
                del self._registry[name]
            raise
        finally:
            self._waiting.clear()
            self._busy = False

    def _object(self, value: Value) -> Json:
        shape = value.shape
        assert shape is not None
        if not value.derived and not value.abstract:
            reference = self._component(shape)
            # Types that others are made of are open; what is made of them is closed where it is.
            return reference if _is_closed(shape, self._mapping) else {
                **reference, "unevaluatedProperties": False
            }  # fmt: skip
        return self._named(f"{shape.name}.any", lambda: self._any_of(value, shape))

    def _any_of(self, value: Value, shape: Shape) -> Json:
        """A type or one derived from it."""
        concrete = [one for one in value.derived if not one.abstract]
        key = shape.discriminator
        branches: list[Json] = []
        if not value.abstract:
            branches.append(self._branch(shape, key, required=False))
        branches += [self._branch(self._mapping.shape(one), key, required=True) for one in concrete]
        if not branches:
            return {"not": {}, "description": "No type can stand here."}
        return branches[0] if len(branches) == 1 else {"oneOf": branches}

    def _nil(self, value: Value, shape: Shape) -> Json:
        """Nil with attributes."""
        return self._named(f"{shape.name}.nil", lambda: self._nil_of(value, shape))

    def _nil_of(self, value: Value, shape: Shape) -> Json:
        made = self._shape(self._mapping.nil_shape(shape.type))
        made.pop("unevaluatedProperties", None)
        made["properties"] = {NIL_KEY: {"const": True}, **made["properties"]}
        made["required"] = [NIL_KEY, *made.get("required", [])]
        made["additionalProperties"] = False
        if value.derived:
            # Those of derived types, and which of them it is.
            made["patternProperties"] = {"^@": {}}
        return made

    def _branch(self, shape: Shape, key: str, *, required: bool) -> Json:
        branch: Json = {
            "type": "object",
            "allOf": [self._component(shape)],
            "properties": {key: {"const": shape.name}},
            "unevaluatedProperties": False,
        }
        if required:
            branch["required"] = [key]
        return branch

    def _component(self, shape: Shape) -> Json:
        """A reference to the schema of a type alone, without those derived from it."""
        return self._named(shape.name, lambda: self._shape(shape))

    def _shape(self, shape: Shape) -> Json:
        made: Json = {"type": "object"}
        if shape.type.documentation:
            made["description"] = shape.type.documentation
        properties: Json = {}
        required: list[str] = []
        rules: list[Json] = []
        base = self._base(shape)
        skip: set[str] = set()
        if base is not None:
            made["allOf"] = [self._component(base)]
            skip = {each.key for each in base.attributes}
            skip |= set(keys(base.content)) if base.content is not None else set()
        for each in shape.attributes:
            if each.key in skip:
                continue
            attribute = each.attribute
            schema = dict(self.simple(attribute.type))
            for keyword, text in (("const", attribute.fixed), ("default", attribute.default)):
                if text is not None and (found := _decoded(attribute.type, text)) is not None:
                    schema[keyword] = found
            if attribute.documentation:
                schema["description"] = attribute.documentation
            properties[each.key] = schema
            if attribute.required and attribute.fixed is None:
                required.append(each.key)
        if shape.text is not None:
            properties["#text"] = self.simple(shape.text)
            required.append("#text")
        elif shape.mixed:
            properties["#mixed"] = self._mixed(shape)
        elif shape.content is not None:
            self._node(shape.content, properties, required, rules)
            for key in skip:
                properties.pop(key, None)
        made["properties"] = properties
        required = [key for key in dict.fromkeys(required) if key not in skip]
        if required:
            made["required"] = required
        if rules:
            made["allOf"] = [*made.get("allOf", []), *rules]
        if shape.type.any_attribute is not None:
            made["patternProperties"] = self._wild_attributes(shape, shape.type.any_attribute)
        if _is_closed(shape, self._mapping):
            made["unevaluatedProperties" if "allOf" in made else "additionalProperties"] = False
        return made

    def _wild_attributes(self, shape: Shape, wildcard: Wildcard) -> Json:
        declared = "|".join(_literal(each.key[1:]) for each in shape.attributes)
        but = f"(?!(?:{declared})$)" if declared else ""
        # A type made of this one may declare attributes that are no strings.
        open_ = wildcard.allows("x") and self._mapping.schemas.is_base(shape.type)
        return {f"^@{but}{_names(wildcard)}": {} if open_ else {"type": "string"}}

    def _base(self, shape: Shape) -> Shape | None:
        """The shape that this one extends, if JSON Schema can say so."""
        type_ = shape.type
        base: ComplexType | None = type_.base
        if type_.derivation != "extension" or base is None or base.name is None:
            return None
        if base.array_of is not None or shape.mixed or shape.text is not None:
            return None
        found = self._mapping.shape(base)
        if found.mixed or found.text is not None:
            return None
        if not found.attributes and found.content is None:
            return found if type_.base is not None else None
        mine = set(keys(shape.content)) if shape.content is not None else set()
        theirs = set(keys(found.content)) if found.content is not None else set()
        return found if theirs <= mine else None

    # --- content

    def _node(self, node: Node, properties: Json, required: list[str], rules: list[Json]) -> None:
        if isinstance(node, Nodes) and not node.key:
            if node.kind == "choice":
                self._choice(node, properties, rules)
            elif node.min == 0 and any(not is_nullable(item) for item in node.items):
                # All of it or nothing of it.
                inner: list[str] = []
                deeper: list[Json] = []
                for item in node.items:
                    self._node(item, properties, inner, deeper)
                names = list(keys(node))
                if deeper:
                    nothing = {"not": {"anyOf": [{"required": [key]} for key in names]}}
                    rules.append({"anyOf": [nothing, _rule(inner, deeper)]})
                elif len(names) > 1 and inner:
                    rules.append(
                        {"dependentRequired": {k: [r for r in inner if r != k] for k in names}}
                    )
            else:
                for item in node.items:
                    self._node(item, properties, required, rules)
            return
        _merge(properties, node.key, self._single(node))
        if not is_nullable(node):
            required.append(node.key)

    def _single(self, node: Field | Slot | Nodes) -> Json:
        if isinstance(node, Field):
            schema = self._field(node)
            return _array(schema, node) if node.many else schema
        if isinstance(node, Slot):
            return _array(self._wild(node.wildcard), node)
        inner: Json = {}
        required: list[str] = []
        rules: list[Json] = []
        self._node(Nodes(node.kind, node.items, 1, 1), inner, required, rules)
        item: Json = {"type": "object", "properties": inner, "additionalProperties": False}
        if required:
            item["required"] = required
        if rules:
            item["allOf"] = rules
        if node.kind == "choice" and all(
            isinstance(branch, Field | Slot) or branch.key for branch in node.items
        ):
            item.pop("allOf", None)
            item["minProperties"] = item["maxProperties"] = 1
        made = _array(item, node)
        made["description"] = "In this order."
        return made

    def _field(self, node: Field) -> Json:
        if not node.substitutes:
            return self.element(node.element)
        return {
            "type": "object",
            "properties": {key: self.element(element) for key, element in node.substitutes},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }

    def _wild(self, wildcard: Wildcard) -> Json:
        made: Json = {
            "type": "object",
            "description": "An element by its qualified name: {namespace}name.",
            "minProperties": 1,
            "maxProperties": 1,
        }
        if names := _names(wildcard):
            made["propertyNames"] = {"pattern": f"^{names}"}
        return made

    def _choice(self, node: Nodes, properties: Json, rules: list[Json]) -> None:
        branches: list[tuple[list[str], list[str], list[Json], Json]] = []
        for item in node.items:
            needed: list[str] = []
            inner: list[Json] = []
            own: Json = {}
            self._node(item, own, needed, inner)
            branches.append((list(keys(item)), needed, inner, own))
            for key, schema in own.items():
                _merge(properties, key, schema)
        every = [key for branch, *_ in branches for key in branch]
        names = list(dict.fromkeys(every))
        options: list[Json] = []
        for branch, needed, inner, own in branches:
            others = [key for key in names if key not in branch]
            present = needed or (branch if len(branch) == 1 else [])
            option = _rule(present, inner)
            if not present:
                option["anyOf"] = [{"required": [key]} for key in branch]
            if others:
                option["not"] = {"anyOf": [{"required": [key]} for key in others]}
            # Of a key that is something else in another branch.
            if special := {key: own[key] for key in own if own[key] != properties[key]}:
                option["properties"] = special
            options.append(option)
        if is_nullable(node):
            options.append({"not": {"anyOf": [{"required": [key]} for key in names]}})
        if len(options) == 1 and len(options[0]) == 1 and "required" in options[0]:
            rules.append(options[0])
        elif len(names) <= 30:
            # Branches that share keys do not exclude each other.
            rules.append({"oneOf" if len(names) == len(every) else "anyOf": options})
        elif not is_nullable(node):
            rules.append({"anyOf": [{"required": [key]} for key in names]})

    def _mixed(self, shape: Shape) -> Json:
        parts: list[Json] = [{"type": "string"}]
        for each in fields(shape.content):
            parts.append(
                {
                    "type": "object",
                    "properties": {each.key: self._field(each)},
                    "required": [each.key],
                    "additionalProperties": False,
                }
            )
        parts += [self._wild(slot.wildcard) for slot in slots(shape.content)]
        return {
            "type": "array",
            "items": {"anyOf": parts},
            "description": "Text and elements in their order.",
        }


def _literal(text: str) -> str:
    return re.sub(r"[\^$\\.*+?()\[\]{}|/]", r"\\\g<0>", text)


def _names(wildcard: Wildcard) -> str:
    """A regular expression for the start of qualified names that a wildcard allows."""
    if wildcard.namespaces is not None:
        starts = (rf"\{{{_literal(n)}\}}" if n else r"(?!\{)" for n in sorted(wildcard.namespaces))
        return f"(?:{'|'.join(starts)})"
    if not wildcard.excluded:
        return ""
    others = "|".join(_literal(n) for n in sorted(wildcard.excluded) if n)
    names = rf"(?!\{{(?:{others})\}})" if others else ""
    return names + (r"\{" if "" in wildcard.excluded else "")


def _merge(properties: Json, key: str, schema: Json) -> None:
    known = properties.get(key)
    properties[key] = schema if known in (None, schema) else {"anyOf": [known, schema]}


def _is_closed(shape: Shape, mapping: Mapping) -> bool:
    """Whether a type has a schema of its own that refuses what it does not know: it is neither
    derived from another nor another from it."""
    type_ = shape.type
    return type_.base is None and not mapping.schemas.is_base(type_)


def _rule(required: list[str], rules: list[Json]) -> Json:
    made: Json = {}
    if required:
        made["required"] = required
    if rules:
        made["allOf"] = rules
    return made


def _array(items: Json, node: Field | Slot | Nodes) -> Json:
    made: Json = {"type": "array", "items": items}
    if node.min and not is_nullable(node):
        made["minItems"] = node.min
    if node.max is not None:
        made["maxItems"] = node.max
    return made


def _nullable(schema: Json) -> Json:
    if isinstance(schema.get("type"), str) and "enum" not in schema and "const" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if isinstance(schema.get("type"), list) and "enum" not in schema:
        return {**schema, "type": [*schema["type"], "null"]}
    if not schema or set(schema) == {"description"}:
        return schema
    return {"anyOf": [schema, _NULL]}


# --- simple types --------------------------------------------------------------------------------

_DAY: Final = "-?[0-9]{4,}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
_ZONE: Final = "(Z|[+-][0-9]{2}:[0-9]{2})?"
_STRICT: Final = {
    "dateTime": f"^{_DAY}T{_CLOCK}{_ZONE}$",
    "dateTimeStamp": f"^{_DAY}T{_CLOCK}{_ZONE[:-1]}$",
    "date": f"^{_DAY}{_ZONE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "duration": r"^-?P([0-9]+Y)?([0-9]+M)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+(\.[0-9]+)?S)?)?$",
    "gYearMonth": f"^-?[0-9]{{4,}}-[0-9]{{2}}{_ZONE}$",
    "gYear": f"^-?[0-9]{{4,}}{_ZONE}$",
    "gMonthDay": f"^--[0-9]{{2}}-[0-9]{{2}}{_ZONE}$",
    "gDay": f"^---[0-9]{{2}}{_ZONE}$",
    "gMonth": f"^--[0-9]{{2}}(--)?{_ZONE}$",
}


def _simple(type_: SimpleType, emitter: Emitter) -> Json:
    made: Json
    facets = type_.facets
    if type_.variety == "list":
        assert type_.item is not None
        made = {"type": "array", "items": emitter.simple(type_.item)}
        for keyword, limit in (
            ("minItems", facets.length if facets.length is not None else facets.min_length),
            ("maxItems", facets.length if facets.length is not None else facets.max_length),
        ):
            if limit is not None:
                made[keyword] = limit
    elif type_.variety == "union":
        made = {"anyOf": [emitter.simple(member) for member in type_.members]}
    else:
        made = _atomic(type_)
    if facets.enumeration:
        values = [_decoded(type_, lexical) for lexical in facets.enumeration]
        if all(value is not None for value in values):
            kept = {k: v for k, v in made.items() if k in ("type", "format", "anyOf", "items")}
            # By what they look like: 1 and true are equal in Python.
            made = {**kept, "enum": list({repr(value): value for value in values}.values())}
        if type_.value_docs:
            made["x-enum-descriptions"] = {
                value: type_.value_docs[value]
                for value in facets.enumeration
                if value in type_.value_docs
            }
    if type_.documentation:
        made["description"] = type_.documentation
    return made


def _atomic(type_: SimpleType) -> Json:
    name, facets = type_.primitive, type_.facets
    made: Json
    if name in RANGES:
        made = _integer(type_)
    elif name == "boolean":
        return {"type": "boolean"}
    elif name == "decimal":
        made = {"type": ["number", "string"], "format": "decimal", "pattern": _NUMBER}
        made |= _bounds(type_)
    elif name in ("float", "double"):
        made = {"anyOf": [{"type": "number", "format": name, **_bounds(type_)},
                          {"enum": ["INF", "-INF", "NaN"]}]}  # fmt: skip
    else:
        made = {"type": "string"}
        if name == "base64Binary":
            made["contentEncoding"] = "base64"
        elif name == "hexBinary":
            made |= {"contentEncoding": "base16", "pattern": "^([0-9A-Fa-f]{2})*$"}
            for keyword, limit in _lengths(type_):
                made[keyword] = limit * 2
        elif name in _STRICT:
            made |= {"pattern": _STRICT[name], "x-xsd-type": name, "examples": [EXAMPLES[name]]}
        elif name == "anyURI":
            made["format"] = "uri-reference"
        elif name in ("QName", "NOTATION"):
            made["description"] = "A qualified name: {namespace}name."
        if name not in ("base64Binary", "hexBinary", "QName", "NOTATION"):
            made |= dict(_lengths(type_))
    if facets.total_digits is not None:
        made["x-total-digits"] = facets.total_digits
    if facets.fraction_digits is not None:
        made["x-fraction-digits"] = facets.fraction_digits
    if facets.patterns:
        _patterns(type_, made)
    return made


def _patterns(type_: SimpleType, made: Json) -> None:
    """Patterns that ECMA 262 can say; the others as they are."""
    rules: list[str] = []
    for alternatives in type_.facets.patterns:
        try:
            said = [pattern(source).ecma for source in alternatives]
        except BadPattern:
            said = [None]
        if None in said or made.get("type") == "integer":
            made.setdefault("x-xsd-pattern", []).extend(alternatives)
        else:
            rules.append(said[0] or "" if len(said) == 1 else "|".join(f"(?:{s})" for s in said))
    # A number may be given as text, and a pattern only speaks of text.
    if rules and isinstance(made.get("type"), list):
        made.pop("pattern", None)
    if rules and "pattern" not in made:
        made["pattern"] = rules.pop(0)
    if rules:
        made["allOf"] = [{"pattern": rule} for rule in rules]


def _integer(type_: SimpleType) -> Json:
    name = type_.primitive
    low, high = RANGES[name]
    made: Json = {"type": "integer"}
    bounds = _bounds(type_)
    if low is not None and not bounds.keys() & {"minimum", "exclusiveMinimum"}:
        made["minimum"] = low
    if high is not None and not bounds.keys() & {"maximum", "exclusiveMaximum"}:
        made["maximum"] = high
    made |= bounds
    if is_big(type_):
        # Not every client reads such numbers exactly, so text is as good, or all there is.
        rule = _digits(made)
        made = {"type": "string"} if is_text(type_) else {**made, "type": ["integer", "string"]}
        made["pattern"] = rule
        if name in ("long", "unsignedLong"):
            made["format"] = "int64" if name == "long" else "uint64"
    elif name == "int":
        made["format"] = "int32"
    if type_.facets.patterns and made["type"] == "integer":
        # Leading zeros that a pattern asks for can only be text.
        made["type"] = ["integer", "string"]
    return made


def _digits(made: Json) -> str:
    """How an integer with these bounds is written as text, of which bounds say nothing: at least
    on which side of zero it is."""
    low = made.get("minimum", made.get("exclusiveMinimum", -2) + 1)
    high = made.get("maximum", made.get("exclusiveMaximum", 2) - 1)
    if low > 0:
        return r"^\+?0*[1-9][0-9]*$"
    if high < 0:
        return r"^-0*[1-9][0-9]*$"
    if low == 0:
        return r"^(\+?[0-9]+|-0+)$"
    return r"^(-[0-9]+|\+?0+)$" if high == 0 else r"^[+-]?[0-9]+$"


def _bounds(type_: SimpleType) -> Json:
    facets = type_.facets
    made: Json = {}
    for keyword, lexical in (
        ("minimum", facets.min_inclusive),
        ("maximum", facets.max_inclusive),
        ("exclusiveMinimum", facets.min_exclusive),
        ("exclusiveMaximum", facets.max_exclusive),
    ):
        if lexical is not None:
            try:
                number = Decimal(lexical)
            except InvalidOperation:
                continue
            if number.is_finite():
                whole = number == number.to_integral_value()
                made[keyword] = int(number) if whole else float(number)
    return made


def _lengths(type_: SimpleType) -> list[tuple[str, int]]:
    facets = type_.facets
    low = facets.length if facets.length is not None else facets.min_length
    high = facets.length if facets.length is not None else facets.max_length
    found = (("minLength", low), ("maxLength", high))
    return [(keyword, limit) for keyword, limit in found if limit is not None]


def _decoded(type_: SimpleType, lexical: str) -> Any:
    """The data of a lexical value, None if it has none."""
    if type_.primitive in ("QName", "NOTATION") and namespace_of(lexical):
        return lexical
    try:
        value = scalar(type_).decode(lexical, None)
    except ValueError:
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
