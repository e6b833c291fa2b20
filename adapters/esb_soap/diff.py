"""What a new edition of a WSDL changes for the callers of the REST API that `expose` makes of it.

Requests must still be taken: a request schema may take more than before, never less. Answers must
still be understood: a response schema may promise more than before, never less. Callers are held to
ignore fields that they do not know and to be ready for any problem+json, so that new fields of
answers and new faults break nobody. Names of types, namespaces, actions and addresses are not seen
by these callers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, zip_longest
from typing import Any, Final, NamedTuple

_REF: Final = "#/components/schemas/"
_REFERENCE: Final = re.compile(r'"#/components/schemas/([^"/]+)"')
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_MANY: Final = 10
"""With more fields that depend on each other than this, only pairs of them are tried."""


@dataclass(frozen=True, slots=True)
class Change:
    """operation: its name in the API. direction: "request", "response", "fault NAME", or "" for the
    operation itself. pointer: JSON pointer of the schema, in the OpenAPI document of the new
    edition or, for what is gone, of the old one. field: where in the data ("partner.tag[]", "" for
    all of it). what: the change."""

    operation: str
    direction: str
    pointer: str
    field: str
    what: str
    breaking: bool


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The changes between two OpenAPI documents that `expose` made, breaking ones first."""
    found = list(_Documents(old, new).changes())
    return sorted(dict.fromkeys(found), key=lambda change: not change.breaking)


class _Operation(NamedTuple):
    path: str
    method: str
    described: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.described.get("operationId", self.path))

    @property
    def pointer(self) -> str:
        return _pointer("paths", self.path, self.method)

    @property
    def soap(self) -> str:
        return str(self.described.get("x-soap", {}).get("operation", ""))


class _Documents:
    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._old = _operations(old)
        self._new = _operations(new)
        self._schemas = _Schemas(
            old.get("components", {}).get("schemas", {}),
            new.get("components", {}).get("schemas", {}),
        )

    def changes(self) -> Iterator[Change]:
        added = [one for key, one in self._new.items() if key not in self._old]
        for key, old in self._old.items():
            new = self._new.get(key)
            if new is None:
                new = next((one for one in added if one.soap and one.soap == old.soap), None)
                if new is None:
                    yield Change(old.name, "", old.pointer, "", "the operation is gone", True)
                    continue
                added.remove(new)
                yield Change(
                    old.name, "", new.pointer, "",
                    f"{_shown(old)} is now {_shown(new)}", True,
                )  # fmt: skip
            yield from self._operation(old, new)
        for one in added:
            yield Change(one.name, "", one.pointer, "", "the operation is new", False)

    def _operation(self, old: _Operation, new: _Operation) -> Iterator[Change]:
        if old.described == new.described and self._schemas.are_same(old.described):
            return
        old_body, body = _body(old), _body(new)
        if old_body is not None and body is not None:
            for found in self._schemas.differences(old_body, body):
                yield _change(old.name, "request", found, breaks=found.narrows)
        (old_status, old_answer), (status, answer) = _answer(old), _answer(new)
        if status != old_status:
            yield Change(
                old.name, "response", _in(new.pointer, "responses", status), "",
                f"it answers {status} instead of {old_status}", True,
            )  # fmt: skip
        elif old_answer is not None and answer is not None:
            for found in self._schemas.differences(old_answer, answer):
                yield _change(old.name, "response", found, breaks=found.widens)
        yield from self._faults(old, new)

    def _faults(self, old: _Operation, new: _Operation) -> Iterator[Change]:
        before, after = _faults(old), _faults(new)
        for name in before | after:
            direction = f"fault {name}"
            if name not in after:
                at = before[name].pointer
                yield Change(old.name, direction, at, "", "the fault is gone", False)
            elif name not in before:
                at = after[name].pointer
                yield Change(old.name, direction, at, "", "the fault is new", False)
            else:
                for found in self._schemas.differences(before[name], after[name]):
                    yield _change(old.name, direction, found, breaks=found.widens)


def _operations(document: Mapping[str, Any]) -> dict[tuple[str, str], _Operation]:
    return {
        (path, method): _Operation(path, method, described)
        for path, item in document.get("paths", {}).items()
        for method, described in item.items()
    }


def _shown(operation: _Operation) -> str:
    return f"{operation.method.upper()} {operation.path}"


def _change(operation: str, direction: str, found: _Difference, *, breaks: bool) -> Change:
    return Change(operation, direction, found.pointer, found.field, found.what, breaks)


def _body(operation: _Operation) -> _At | None:
    content = operation.described.get("requestBody", {}).get("content", {})
    if _JSON not in content:
        return None
    at = _in(operation.pointer, "requestBody", "content", _JSON, "schema")
    return _At(content[_JSON].get("schema", {}), at)


def _answer(operation: _Operation) -> tuple[str, _At | None]:
    """The status of a good answer and the schema of its data."""
    for status, response in operation.described.get("responses", {}).items():
        if status.startswith("2"):
            content = response.get("content", {})
            if _JSON not in content:
                return status, None
            at = _in(operation.pointer, "responses", status, "content", _JSON, "schema")
            return status, _At(content[_JSON].get("schema", {}), at)
    return "", None


def _faults(operation: _Operation) -> dict[str, _At]:
    """The schema of each declared fault's data, by its name."""
    found: dict[str, _At] = {}
    for status, response in operation.described.get("responses", {}).items():
        schema = response.get("content", {}).get(_PROBLEM, {}).get("schema", {})
        at = _in(operation.pointer, "responses", status, "content", _PROBLEM, "schema")
        several = schema.get("oneOf")
        branches = [
            (branch, _in(at, "oneOf", number)) for number, branch in enumerate(several or ())
        ]
        for branch, where in branches or [(schema, at)]:
            properties = branch.get("properties", {})
            name = properties.get("title", {}).get("const")
            if name is not None and "fault" in properties:
                found.setdefault(name, _At(properties["fault"], _in(where, "properties", "fault")))
    return found


# --- schemas -------------------------------------------------------------------------------------


class _At(NamedTuple):
    """A schema and its place in its document."""

    schema: Mapping[str, Any]
    pointer: str


class _Difference(NamedTuple):
    """narrows: some data that fitted do not fit any more. widens: some data fit that did not, or
    lack what was promised."""

    pointer: str
    field: str
    what: str
    narrows: bool
    widens: bool


@dataclass(slots=True)
class _View:
    """What a schema says, with all that it refers to or is composed of."""

    at: str
    types: frozenset[str] = frozenset()
    properties: dict[str, _At] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    rules: list[Mapping[str, Any]] = field(default_factory=list)
    closed: bool = False
    any_attribute: bool = False
    values: list[Any] | None = None
    patterns: set[str] = field(default_factory=set)
    others: dict[str, Any] = field(default_factory=dict)
    items: _At | None = None


_RULES: Final = frozenset(
    {"required", "not", "anyOf", "oneOf", "allOf", "dependentRequired", "minProperties",
     "maxProperties"}
)  # fmt: skip
_LEAST: Final = {
    "minimum": "least value", "exclusiveMinimum": "value that all are above",
    "minLength": "least length", "minItems": "least number of items",
}  # fmt: skip
_MOST: Final = {
    "maximum": "greatest value", "exclusiveMaximum": "value that all are below",
    "maxLength": "greatest length", "maxItems": "greatest number of items",
    "x-total-digits": "greatest number of digits",
    "x-fraction-digits": "greatest number of digits behind the point",
}  # fmt: skip
_ABOUT: Final = frozenset({"description", "unevaluatedProperties"})
_OF_TEXT: Final = frozenset({"minLength", "maxLength"})
_ENCODINGS: Final = ("contentEncoding", "x-xsd-type")


class _Schemas:
    """Compares the schemas of two documents by what data fit them."""

    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._old = old
        self._new = new
        self._same = _same(old, new)
        self._seen: set[tuple[int, int]] = set()

    def are_same(self, schema: Any) -> bool:
        """Whether all that a schema refers to is what it was."""
        return self._same.issuperset(_REFERENCE.findall(json.dumps(schema)))

    def differences(self, old: _At, new: _At) -> list[_Difference]:
        """Each difference once, where it is first met."""
        self._seen = set()
        return list(self._compare(old, new, ""))

    def _compare(self, old: _At, new: _At, where: str) -> Iterator[_Difference]:
        pair = (_identity(old, self._old), _identity(new, self._new))
        if pair in self._seen or (old.schema == new.schema and self.are_same(new.schema)):
            return
        self._seen.add(pair)
        before, null_before = _options(old, self._old)
        after, null_after = _options(new, self._new)
        if null_before != null_after:
            what = "it may be null" if null_after else "null is no longer allowed"
            yield _Difference(new.pointer, where, what, not null_after, null_after)
        anything = [_is_anything(options) for options in (before, after)]
        if any(anything):
            if anything == [False, True]:
                yield _Difference(new.pointer, where, "it may be anything", False, True)
            elif anything == [True, False]:
                yield _Difference(new.pointer, where, "it may no longer be anything", True, False)
            return
        for one, other in _paired(before, after):
            if other is None:
                assert one is not None
                what = f"the form {_form(one)} is gone"
                yield _Difference(one.at, where, what, True, False)
            elif one is None:
                what = f"the form {_form(other)} is new"
                yield _Difference(other.at, where, what, False, True)
            else:
                yield from self._views(one, other, where)

    def _views(self, old: _View, new: _View, where: str) -> Iterator[_Difference]:
        kinds = [_kind(view) for view in (old, new)]
        if kinds[0] != kinds[1]:
            what = f"it was {_SHOWN[kinds[0]]} and is {_SHOWN[kinds[1]]}"
            yield _Difference(new.at, where, what, True, True)
            return
        if kinds[0] == "object":
            yield from self._objects(old, new, where)
        elif kinds[0] == "array":
            if old.items is not None and new.items is not None:
                yield from self._compare(old.items, new.items, f"{where}[]")
        else:
            yield from _types(old, new, where)
        yield from _facets(old, new, where)

    def _objects(self, old: _View, new: _View, where: str) -> Iterator[_Difference]:
        for name, before in old.properties.items():
            inner = f"{where}.{name}" if where else name
            after = new.properties.get(name)
            if after is None:
                yield _Difference(before.pointer, inner, "the field is gone", True,
                                  name in old.required)  # fmt: skip
                continue
            if name in new.required and name not in old.required:
                yield _Difference(after.pointer, inner, "the field is now required", True, False)
            elif name in old.required and name not in new.required:
                yield _Difference(after.pointer, inner, "the field may be absent", False, True)
            yield from self._compare(before, after, inner)
        for name, after in new.properties.items():
            if name not in old.properties:
                inner = f"{where}.{name}" if where else name
                needed = name in new.required
                what = "the field is new" + (" and required" if needed else "")
                yield _Difference(after.pointer, inner, what, needed, False)
        if old.any_attribute != new.any_attribute:
            what = "other attributes may be there" if new.any_attribute else (
                "other attributes are no longer allowed"
            )  # fmt: skip
            yield _Difference(new.at, where, what, not new.any_attribute, False)
        yield from _together(old, new, where)


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Names of components that say the same in both, down to all that they refer to."""
    same = {name for name, schema in old.items() if new.get(name) == schema}
    refers = {name: set(_REFERENCE.findall(json.dumps(old[name]))) for name in same}
    while wrong := {name for name in same if not refers[name] <= same}:
        same -= wrong
    return same


def _identity(at: _At, components: Mapping[str, Any]) -> int:
    """The same for all that refer to one component."""
    if at.schema.keys() - _ABOUT == {"$ref"}:
        return id(components.get(at.schema["$ref"].removeprefix(_REF)))
    return id(at.schema)


def _options(at: _At, components: Mapping[str, Any]) -> tuple[list[_View], bool]:
    """The forms that data may have, and whether null is one more."""
    schema, pointer = at
    reference = schema.get("$ref")
    if isinstance(reference, str) and not schema.keys() & {"properties", "required"}:
        target = components.get(reference.removeprefix(_REF), {})
        if _choice(target):
            inner = _pointer("components", "schemas", reference.removeprefix(_REF))
            return _options(_At(target, inner), components)
    keyword = _choice(schema)
    if keyword:
        views: list[_View] = []
        nullable = False
        for number, branch in enumerate(schema[keyword]):
            found, null = _options(_At(branch, _in(pointer, keyword, number)), components)
            views += found
            nullable = nullable or null
        return views, nullable
    view = _View(pointer)
    _gather(at, components, view)
    nullable = "null" in view.types
    view.types -= {"null"}
    if nullable and not view.types:
        return [], True
    return [view], nullable


def _choice(schema: Mapping[str, Any]) -> str:
    """The keyword with the forms of data, "" if there is but one."""
    for keyword in ("oneOf", "anyOf"):
        branches = schema.get(keyword)
        if branches and not all(branch.keys() <= _RULES for branch in branches):
            return keyword
    return ""


def _gather(at: _At, components: Mapping[str, Any], view: _View) -> None:
    """Add what a schema says to a view."""
    schema, pointer = at
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(_REF)
        inner = _pointer("components", "schemas", name)
        if view.at == pointer:
            view.at = inner
        _gather(_At(components.get(name, {}), inner), components, view)
    said = schema.get("type")
    if said is not None:
        view.types = frozenset([said] if isinstance(said, str) else said)
    for name, inner_schema in schema.get("properties", {}).items():
        view.properties[name] = _At(inner_schema, _in(pointer, "properties", name))
    view.required |= set(schema.get("required", ()))
    rule = {key: schema[key] for key in _RULES - {"required", "allOf"} if key in schema}
    if rule and not _choice(schema):
        view.rules.append(rule)
    for number, part in enumerate(schema.get("allOf", ())):
        if "$ref" not in part and part.keys() <= _RULES:
            view.rules.append(part)
        else:
            _gather(_At(part, _in(pointer, "allOf", number)), components, view)
    view.any_attribute = view.any_attribute or bool(schema.get("patternProperties"))
    if "enum" in schema:
        view.values = list(schema["enum"])
    if "const" in schema:
        view.values = [schema["const"]]
    if "pattern" in schema:
        view.patterns.add(schema["pattern"])
    view.patterns |= set(schema.get("x-xsd-pattern", ()))
    for key in (*_LEAST, *_MOST, *_ENCODINGS, "default"):
        if key in schema:
            view.others[key] = schema[key]
    if "items" in schema:
        view.items = _At(schema["items"], _in(pointer, "items"))


def _is_anything(options: Sequence[_View]) -> bool:
    """Whether data may be objects and single values alike: xs:anyType."""
    return any(
        (not view.types and not view.properties and view.values is None and view.items is None)
        or ("object" in view.types and len(view.types) > 1)
        for view in options
    )


# --- the forms of data ---------------------------------------------------------------------------

_SHOWN: Final = {"object": "an object", "array": "a list", "value": "a single value"}


def _kind(view: _View) -> str:
    if "object" in view.types or view.properties:
        return "object"
    return "array" if "array" in view.types or view.items is not None else "value"


def _key(view: _View) -> tuple[str, ...]:
    """What tells a form from the others: its kind, and the type that an object names."""
    if _kind(view) != "object":
        return (_kind(view),)
    named = (
        str(at.schema["const"])
        for name, at in view.properties.items()
        if name in view.required and "const" in at.schema
    )
    return ("object", next(named, ""))


def _form(view: _View) -> str:
    kind, *name = _key(view)
    if any(name):
        return f"'{name[0]}'"
    if kind == "object" and len(view.properties) == 1:
        return f"'{next(iter(view.properties))}'"
    return " or ".join(sorted(view.types)) if kind == "value" and view.types else kind


def _paired(
    old: Sequence[_View], new: Sequence[_View]
) -> Iterator[tuple[_View, _View] | tuple[_View, None] | tuple[None, _View]]:
    """Forms that belong together; None where one has no partner."""
    if len(old) == len(new) == 1:
        yield old[0], new[0]
        return
    keys = dict.fromkeys(map(_key, [*old, *new]))
    for key in keys:
        before = [view for view in old if _key(view) == key]
        after = [view for view in new if _key(view) == key]
        for same in (_said, lambda view: tuple(view.properties)):
            for view in list(before):
                partner = next((one for one in after if same(one) == same(view)), None)
                if partner is not None and (same(view) or same is _said):
                    before.remove(view)
                    after.remove(partner)
                    yield view, partner
        yield from zip_longest(before, after)


def _said(view: _View) -> str:
    """All that a view says, to find its like."""
    return json.dumps(
        [sorted(view.types), view.values, sorted(view.patterns), view.others,
         {name: at.schema for name, at in view.properties.items()}],
        sort_keys=True,
    )  # fmt: skip


# --- single values -------------------------------------------------------------------------------


def _types(old: _View, new: _View, where: str) -> Iterator[_Difference]:
    before, after = old.types, new.types
    if before == after or not before or not after:
        return
    # Every integer is a number.
    gone = {one for one in before - after if one != "integer" or "number" not in after}
    come = {one for one in after - before if one != "integer" or "number" not in before}
    if "number" in after - before and "integer" in before:
        come.add("number")
    if "number" in before - after and "integer" in after:
        gone.add("number")
    what = f"it was {_words(before)} and is {_words(after)}"
    yield _Difference(new.at, where, what, bool(gone), bool(come))


def _words(types: Iterable[str]) -> str:
    return " or ".join(sorted(types))


def _facets(old: _View, new: _View, where: str) -> Iterator[_Difference]:
    yield from _values(old, new, where)
    listed = old.values is not None and new.values is not None
    text, number = (
        all(not view.types or view.types & kinds for view in (old, new))
        for kinds in ({"string"}, {"integer", "number"})
    )
    if text and old.patterns != new.patterns and not listed:
        if new.patterns > old.patterns:
            yield _Difference(new.at, where, "a pattern is new", True, False)
        elif new.patterns < old.patterns:
            yield _Difference(new.at, where, "a pattern is gone", False, True)
        else:
            yield _Difference(new.at, where, "the pattern is another one", True, True)
    for limits, sign in ((_LEAST, 1), (_MOST, -1)):
        for key, words in limits.items():
            before, after = old.others.get(key), new.others.get(key)
            applies = text if key in _OF_TEXT else number or "array" in old.types
            if before == after or listed or not applies:
                continue
            at = _in(new.at, key)
            if after is None:
                yield _Difference(old.at, where, f"the {words}, {before}, is gone", False, True)
            elif before is None:
                yield _Difference(at, where, f"the {words} is {after}", True, False)
            else:
                tighter = (after - before) * sign > 0
                what = f"the {words} is {after} instead of {before}"
                yield _Difference(at, where, what, tighter, not tighter)
    for key in _ENCODINGS:
        before, after = old.others.get(key), new.others.get(key)
        if before != after:
            what = f"it is written as {after or 'text'} instead of {before or 'text'}"
            yield _Difference(new.at, where, what, True, True)
    before, after = old.others.get("default"), new.others.get("default")
    if before != after:
        what = f"it stands for {after!r} where it is absent" if after is not None else (
            f"it no longer stands for {before!r} where it is absent"
        )  # fmt: skip
        yield _Difference(new.at, where, what, False, False)


def _values(old: _View, new: _View, where: str) -> Iterator[_Difference]:
    if old.values == new.values:
        return
    if new.values is None:
        yield _Difference(new.at, where, "any value is allowed", False, True)
    elif old.values is None:
        what = f"only {_listed(new.values)} is allowed"
        yield _Difference(_in(new.at, "enum"), where, what, True, False)
    else:
        gone = [value for value in old.values if value not in new.values]
        come = [value for value in new.values if value not in old.values]
        if gone:
            what = f"the value {_listed(gone)} is gone"
            yield _Difference(_in(old.at, "enum"), where, what, True, False)
        if come:
            what = f"the value {_listed(come)} is new"
            yield _Difference(_in(new.at, "enum"), where, what, False, True)


def _listed(values: Sequence[Any]) -> str:
    shown = [json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


# --- fields that depend on each other ------------------------------------------------------------


def _together(old: _View, new: _View, where: str) -> Iterator[_Difference]:
    """Whether some set of fields was allowed and is no longer, or the other way round: tried out on
    sets of the fields that the rules speak of."""
    if old.rules == new.rules:
        return
    named = {name for rule in (*old.rules, *new.rules) for name in _named(rule)}
    always = old.required | new.required
    both = sorted((named & old.properties.keys() & new.properties.keys()) - always)
    for present in _sets(both):
        given = present | always
        if _allowed(old.rules, given) and not _allowed(new.rules, given):
            what = f"{_shown_set(present, both)} is no longer allowed"
            yield _Difference(new.at, where, what, True, False)
            break
    known = sorted((named & new.properties.keys()) - always)
    for present in _sets(known):
        given = present | always
        if _allowed(new.rules, given) and not _allowed(old.rules, given & old.properties.keys()):
            what = f"{_shown_set(present, known)} is allowed"
            yield _Difference(new.at, where, what, False, True)
            break


def _named(rule: Any) -> Iterator[str]:
    """The fields that a rule speaks of."""
    if isinstance(rule, Mapping):
        for key, value in rule.items():
            if key == "required":
                yield from value
            elif key == "dependentRequired":
                yield from value
                yield from chain.from_iterable(value.values())
            else:
                yield from _named(value)
    elif isinstance(rule, list):
        for one in rule:
            yield from _named(one)


def _sets(names: Sequence[str]) -> Iterator[set[str]]:
    """Sets of names, the small ones first."""
    most = len(names) if len(names) <= _MANY else 2
    for size in range(most + 1):
        yield from map(set, combinations(names, size))
    yield set(names)


def _allowed(rules: Iterable[Mapping[str, Any]], present: set[str]) -> bool:
    """Whether an object with these fields passes (JSON Schema 2020-12, core 10.2, validation
    6.5)."""

    def one(rule: Mapping[str, Any]) -> bool:
        return (
            present.issuperset(rule.get("required", ()))
            and not ("not" in rule and one(rule["not"]))
            and ("anyOf" not in rule or any(map(one, rule["anyOf"])))
            and ("oneOf" not in rule or sum(map(one, rule["oneOf"])) == 1)
            and all(map(one, rule.get("allOf", ())))
            and all(
                present.issuperset(needed)
                for name, needed in rule.get("dependentRequired", {}).items()
                if name in present
            )
            and rule.get("minProperties", 0) <= len(present)
            and len(present) <= rule.get("maxProperties", len(present))
        )

    return all(map(one, rules))


def _shown_set(present: set[str], known: Sequence[str]) -> str:
    if present:
        return f"only {', '.join(sorted(present))} of {', '.join(known)}"
    return f"none of {', '.join(known)}"


def _pointer(*parts: str | int) -> str:
    return _in("", *parts)


def _in(pointer: str, *parts: str | int) -> str:
    """The pointer of something below (RFC 6901)."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return pointer + "".join(f"/{part}" for part in escaped)
