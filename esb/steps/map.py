"""Message Translator (EIP): make a new body field by field, `target: expression`.

    map:
      id: body.number
      customer.name: body.client.name            # a field of a field
      customer.phone?: body.client.phone         # left out where it is missing or null
      total: body.lines | sum(attribute='price')
      lines:
        each: body.lines
        when: item.qty > 0
        map: {sku: item.code, qty: item.qty, position: index + 1}

What is no expression is a number, true, false or null; a text is one in quotes: `kind: "'order'"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lxml import etree
from pydantic import RootModel

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope
from esb.errors import RouteFailure
from esb.expressions import Missing
from esb.expressions.language import kind, truth
from esb.step import Step, computed
from esb.steps._places import EACH, parse_place

_EACH: Final = frozenset({"each", "when", "map"})
_ITEM: Final = ("item", "index")

Value = Callable[[Envelope], Any]


class MapOptions(RootModel[Any]):
    """The new body: a mapping of dotted target fields to expressions, mappings and lists of them;
    or one expression. A field whose name ends in `?` is left out where what it is made of is
    missing or null. `{each: ..., when: ..., map: ...}` makes a list of another: `when` and `map`
    see each item as `item`, and its number, from 0, as `index`; of elements, `xpath('@n')` asks the
    item."""


def make(options: MapOptions, build: Build) -> Step:
    """All expressions see the message as it came in. Data becomes JSON, a text alone text/plain,
    bytes alone application/octet-stream, an element alone XML. Raises RouteFailure where an
    expression fails."""
    if options.root in (None, "", {}, []):
        raise build.problem("nothing is mapped", hint="map: {id: body.number}")
    value = _value(options.root, build, (), ())

    def map_(envelope: Envelope) -> Envelope:
        return envelope.with_body(_body(value(envelope)))

    return computed(map_)


def _body(data: Any) -> Body:
    if isinstance(data, str):
        return Body.of(data, "text/plain; charset=utf-8")
    if isinstance(data, bytes):
        return Body(data, "application/octet-stream")
    is_xml = isinstance(data, etree._Element)
    return Body.of(data, "application/xml" if is_xml else "application/json")


def _value(raw: Any, build: Build, path: tuple[str | int, ...], names: tuple[str, ...]) -> Value:
    """Compile what may stand as a value."""
    if isinstance(raw, str):
        return build.expression(raw, *path, names=names)
    if isinstance(raw, list):
        parts = [_value(one, build, (*path, i), names) for i, one in enumerate(raw)]
        return lambda e: [part(e) for part in parts]
    if isinstance(raw, dict):
        if "each" in raw and raw.keys() <= _EACH:
            return _each(raw, build, path, names)
        return _fields(raw, build, path, names)
    return lambda e: raw


def _each(
    raw: dict[str, Any], build: Build, path: tuple[str | int, ...], names: tuple[str, ...]
) -> Value:
    """A list of what is made of each item of another."""
    if "map" not in raw:
        raise build.problem("'map' is missing", *path, code="missing-key", key=True)
    for key in ("each", "when"):
        if not isinstance(raw.get(key, ""), str):
            raise build.problem("must be an expression", *path, key, code="type")
    items = build.expression(raw["each"], *path, "each", names=names)
    wanted = build.expression(raw["when"], *path, "when", names=_ITEM) if "when" in raw else None
    made = _value(raw["map"], build, (*path, "map"), _ITEM)

    def each(envelope: Envelope) -> list[Any]:
        found = items(envelope)
        if not isinstance(found, list | tuple):
            raise RouteFailure(f"'{raw['each']}' gave {kind(found)}, a list is needed")
        result = []
        for index, item in enumerate(found):
            one = envelope.replace(params={**envelope.params, "item": item, "index": index})
            if isinstance(item, etree._Element):
                one = one.replace(body=Body.of(item, "application/xml"))
            if wanted is None or truth(wanted(one)):
                result.append(made(one))
        return result

    return each


# --- objects --------------------------------------------------------------------------------------


class _Object:
    """An object as it is written in YAML: what is made for each key, and whether it may be left
    out."""

    def __init__(self) -> None:
        self.fields: dict[str, tuple[bool, Value | _Object]] = {}

    def __call__(self, envelope: Envelope) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, (optional, value) in self.fields.items():
            if not optional:
                made[key] = value(envelope)
                continue
            try:
                found = value(envelope)
            except Missing:
                continue
            if found is not None:
                made[key] = found
        return made


def _fields(
    raw: dict[str, Any], build: Build, path: tuple[str | int, ...], names: tuple[str, ...]
) -> Value:
    """An object of targets, which may be dotted."""
    root = _Object()
    for target, value in raw.items():
        here = (*path, target)
        optional = target.endswith("?")
        try:
            keys = parse_place(target.removesuffix("?"))
        except ValueError as e:
            build.problem(str(e), *here, key=True)
            continue
        if EACH in keys:
            hint = "{each: body.items, map: {price: item.price}}"
            build.problem("a list is made with 'each' and 'map'", *here, key=True, hint=hint)
            continue
        place: _Object | None = root
        for key in keys[:-1]:
            assert place is not None
            known = place.fields.setdefault(key, (False, _Object()))[1]
            place = known if isinstance(known, _Object) else None
            if place is None:
                break
        made = _value(value, build, here, names)
        if place is None or keys[-1] in place.fields:
            build.problem(f"'{target}' is a field that is made above", *here, key=True)
        else:
            place.fields[keys[-1]] = (optional, made)
    return root


step = Role(MapOptions, make)
