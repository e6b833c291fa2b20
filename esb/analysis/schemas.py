"""What a JSON Schema says of one field: is it there, what is it, which values may it have.

Everything a schema leaves open stays open: None is a body, or a part of one, of which nothing is
known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from esb.codecs.json import loads
from esb.errors import BadMessage

_DEPTH: Final = 12


class Shape(NamedTuple):
    """A schema, and the document in which what it refers to is found."""

    schema: Mapping[str, Any]
    root: Mapping[str, Any]


class Missing(NamedTuple):
    """A field that a schema does not have. names: those it has. closed: whether it allows no other.
    kind: what stands there instead, if that has no fields at all."""

    names: tuple[str, ...]
    closed: bool
    kind: str = ""


def shape_of(schema: Mapping[str, Any] | Path | None) -> Shape | None:
    """The shape of a whole body."""
    if isinstance(schema, Path):
        try:
            schema = loads(schema.read_bytes())
        except (OSError, BadMessage):
            return None
    return Shape(schema, schema) if isinstance(schema, Mapping) else None


def field(shape: Shape | None, name: str) -> Shape | Missing | None:
    """What is under a key."""
    if shape is None:
        return None
    variants = list(_variants(shape))
    found = [_own_field(variant, name) for variant in variants]
    if not found or any(one is None for one in found):
        return None
    shapes = [one for one in found if isinstance(one, Shape)]
    if shapes:
        return shapes[0] if len(found) == 1 else None  # one of several, no telling which
    missing = [one for one in found if isinstance(one, Missing)]
    names = tuple(sorted({name for one in missing for name in one.names}))
    kinds = {one.kind for one in missing}
    return Missing(
        names, all(one.closed for one in missing), kinds.pop() if len(kinds) == 1 else ""
    )


def items(shape: Shape | None) -> Shape | None:
    """What the items of a list are."""
    variants = list(_variants(shape)) if shape is not None else []
    if len(variants) != 1:
        return None
    inner = variants[0].schema.get("items")
    return Shape(inner, variants[0].root) if isinstance(inner, Mapping) else None


def values(shape: Shape | None) -> tuple[Any, ...] | None:
    """The only values that may stand there; None if there are others."""
    found: list[Any] = []
    for variant in _variants(shape) if shape is not None else ():
        if "const" in variant.schema:
            found.append(variant.schema["const"])
        elif isinstance(variant.schema.get("enum"), list):
            found += variant.schema["enum"]
        else:
            return None
    return tuple(found) or None


def _own_field(shape: Shape, name: str) -> Shape | Missing | None:
    schema = shape.schema
    properties = schema.get("properties")
    types = schema.get("type", "object" if properties else None)
    if types is None:
        return None
    types = [types] if isinstance(types, str) else types
    if "object" not in types:
        if "null" in types and len(types) > 1:
            types = [one for one in types if one != "null"]
        return Missing((), True, " or ".join(types))
    if not isinstance(properties, Mapping) or schema.get("patternProperties"):
        return None
    if name in properties:
        inner = properties[name]
        return Shape(inner, shape.root) if isinstance(inner, Mapping) else None
    more = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
    if isinstance(more, Mapping) and more:
        return Shape(more, shape.root)
    if more is True:
        return None  # it says so: there may be others
    return Missing(tuple(properties), more is False)


def _variants(shape: Shape, depth: int = 0) -> Iterator[Shape]:
    """The alternatives of a schema, what they refer to put in; parts that all must hold in one."""
    schema = shape.schema
    if depth > _DEPTH:
        yield Shape({}, shape.root)
        return
    if "$ref" in schema:
        target = _referred(str(schema["$ref"]), shape.root)
        if target is None:
            yield Shape({}, shape.root)  # in another file, or not there
            return
        schema = {**{k: v for k, v in schema.items() if k != "$ref"}}
        schema = _together(target, schema) if schema else target
    if isinstance(schema.get("allOf"), list):
        whole: Mapping[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            inner = next(_variants(Shape(part, shape.root), depth + 1)).schema if part else {}
            whole = _together(whole, inner)
        schema = whole
    for word in ("oneOf", "anyOf"):
        if isinstance(schema.get(word), list):
            rest = {k: v for k, v in schema.items() if k != word}
            for part in schema[word]:
                if isinstance(part, Mapping):
                    yield from _variants(Shape(_together(rest, part), shape.root), depth + 1)
                else:
                    yield Shape({}, shape.root)
            return
    yield Shape(schema, shape.root)


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = {**one.get("properties", {}), **other.get("properties", {})}
    return {**one, **other, **({"properties": properties} if properties else {})}


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not reference.startswith("#"):
        return None
    found: Any = root
    for part in re.split("/", reference[1:].lstrip("/")) if reference != "#" else ():
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found if isinstance(found, Mapping) else None
