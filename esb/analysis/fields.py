"""Expressions and templates that ask for what a message does not have, where that is known.

What the body is, is known from a schema: of the source, of a `validate`, of a WSDL; it is followed
from step to step until one makes another of it. What `path` holds is known from the source.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError, nodes

from esb.analysis.findings import Findings, place_of
from esb.analysis.schemas import Missing, Shape, field, items, shape_of, values
from esb.expressions import syntax
from esb.expressions.sandbox import Sandbox
from esb.mistakes import shown_path
from esb.outline import NOTHING_GIVEN, Part, Spot, Use

_KEEP_THE_BODY: Final = frozenset(
    {
        *("choose", "copy_to", "delay", "expire", "filter", "log", "sample", "send", "send_each"),
        *("skip_seen", "throttle", "validate"),
    }
)
"""Steps that leave the body as it was. Of any other nothing is known of what it makes."""

_ASK_WHAT_COMES: Final = _KEEP_THE_BODY | {
    *("load_balance", "multicast", "scatter_gather", "set", "split", "transform"),
}
"""Steps whose expressions are about the message as it comes. Those of others may be about what
their inner steps have made of it, or about something else."""

_BEGIN_WITH_IT: Final = frozenset({"choose", "load_balance", "multicast", "scatter_gather", "try"})
"""Steps whose inner steps begin with the message as it came."""

_SANDBOX: Final = Sandbox()


@dataclass(frozen=True)
class Known:
    """What is known of a message at one place: of its body, and of which names its params have."""

    body: Shape | None = None
    params: Mapping[str, frozenset[str]] | None = None

    def with_body(self, body: Shape | None) -> Known:
        """The same, with another body."""
        return replace(self, body=body)


def check(route: Part, found: Findings) -> None:
    """Fields that are not there, and comparisons with what cannot be."""
    source = next((part for part in route.parts if part.kind == "source"), None)
    known = Known()
    if source is not None:
        body = shape_of(source.given.body) or shape_of(source.schema)
        params = {group: frozenset(names) for group, names in source.given.params.items()}
        known = Known(body, params)
    flow = _Flow(found)
    for use in route.uses:  # of the route itself: `business_key`
        flow.asks(route, use, known)
    answer = known
    for steps in route.parts:
        if steps.kind == "steps":
            answer = flow.through(steps, known)
    for use in source.uses if source is not None else ():
        flow.asks(source or route, use, answer if use.answer else known)


class _Flow:
    """Follows a message through steps."""

    def __init__(self, found: Findings) -> None:
        self.found = found

    def through(self, steps: Part, known: Known) -> Known:
        """What is known behind a list of steps."""
        for step in steps.parts:
            known = self.step(step, known)
        return known

    def step(self, step: Part, known: Known) -> Known:
        """What is known behind one step; nothing, if it could not be built."""
        if step.options is None:
            return Known()
        asked = known if step.name in _ASK_WHAT_COMES else known.with_body(None)
        for use in step.uses:
            self.asks(step, use, asked)
        for part in step.parts:
            if part.kind == "endpoint":
                self.endpoint(part, known)
        after = [self.through(part, self.inside(step, known)) for part in step.parts
                 if part.kind == "steps"]  # fmt: skip
        if step.name == "set":
            return known.with_body(_after_set(step.options, known.body))
        if step.name == "call":
            given = step.parts[0].given if step.parts else NOTHING_GIVEN
            return known.with_body(shape_of(given.body))
        if step.name == "validate" and step.schema is not None:
            return known.with_body(shape_of(step.schema))
        if step.name == "split":
            return known.with_body(None if step.options.gather else known.body)
        if step.name not in _KEEP_THE_BODY:
            return known.with_body(None)
        return known if all(one.body == known.body for one in after) else known.with_body(None)

    def inside(self, step: Part, known: Known) -> Known:
        """What is known at the first of the inner steps."""
        if step.name in _BEGIN_WITH_IT:
            return known
        if step.name == "split":
            trees = syntax(str(step.uses[0].source)) if step.uses else []
            each = _Reader(known, {}, lambda *_: None).shape(trees[0]) if trees else None
            return known.with_body(items(each))
        return Known()

    def endpoint(self, endpoint: Part, known: Known) -> None:
        """What the options of an endpoint ask for."""
        for use in endpoint.uses:
            self.asks(endpoint, use, known)

    def asks(self, part: Part, use: Use, known: Known) -> None:
        """Look for what is not there."""
        if use.what == "template":
            self._template(part, use, known)
            return

        def report(node: nodes.Node, code: str, message: str, hint: str, sure: bool) -> None:
            self.found.add(
                part, code, message, hint, at=place_of(use, node.lineno - 1),
                severity="error" if sure else "warning",
            )  # fmt: skip

        for tree in syntax(str(use.source), text=use.what == "text"):
            _Reader(known, {}, report).shape(tree)

    def _template(self, part: Part, use: Use, known: Known) -> None:
        try:
            source = use.source
            text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
            tree = _SANDBOX.parse(text)
        except (OSError, UnicodeDecodeError, TemplateError):
            return
        file = shown_path(source) if isinstance(source, Path) else ""

        def report(node: nodes.Node, code: str, message: str, hint: str, sure: bool) -> None:
            if file:
                used = f"used at {use.spot.file}:{use.spot.line}"
                hint = f"{hint}; {used}" if hint else used
            at = Spot(file, node.lineno, 1) if file else place_of(use)
            self.found.add(
                part, code, message, hint, at=at,
                severity="error" if sure else "warning",
            )  # fmt: skip

        _Reader(known, {}, report).read(tree)


Report = Callable[[nodes.Node, str, str, str, bool], None]


class _Reader:
    """Reads the syntax tree of an expression or a template. names: the shapes of variables."""

    def __init__(self, known: Known, names: dict[str, Shape | None], report: Report) -> None:
        self.known = known
        self.names = names
        self.report = report

    def read(self, node: nodes.Node) -> None:
        """A part of a template."""
        if isinstance(node, nodes.For):
            each = items(self.shape(node.iter))
            inner = self._inner(node.target, each)
            for part in (*node.body, *([node.test] if node.test else ())):
                inner.read(part)
            for part in node.else_:
                self.read(part)
        elif isinstance(node, nodes.Assign):
            shape = self.shape(node.node)
            self.names |= self._inner(node.target, shape).names
        elif isinstance(node, nodes.Macro | nodes.CallBlock):
            inner = _Reader(self.known, {**self.names, **{a.name: None for a in node.args}},
                            self.report)  # fmt: skip
            for part in node.body:
                inner.read(part)
        elif isinstance(node, nodes.Expr):
            self.shape(node)
        else:
            for child in node.iter_child_nodes():
                self.read(child)

    def _inner(self, target: nodes.Node, shape: Shape | None) -> _Reader:
        names: dict[str, Shape | None] = dict.fromkeys(n.name for n in target.find_all(nodes.Name))
        if isinstance(target, nodes.Name):
            names = {target.name: shape}
        return _Reader(self.known, {**self.names, **names}, self.report)

    def shape(self, node: nodes.Node) -> Shape | None:
        """What is known of the value of an expression; what it asks for is looked at."""
        if isinstance(node, nodes.Name):
            return self.names.get(node.name, self.known.body if node.name == "body" else None)
        if isinstance(node, nodes.Getattr):
            if isinstance(node.node, nodes.Name) and node.node.name not in self.names:
                self._param(node, node.node.name, node.attr)
            return self._field(node, self.shape(node.node), node.attr)
        if isinstance(node, nodes.Getitem):
            owner = self.shape(node.node)
            if isinstance(node.arg, nodes.Const):
                key = node.arg.value
                return self._field(node, owner, key) if isinstance(key, str) else items(owner)
            self.shape(node.arg)
            return None
        if isinstance(node, nodes.Filter):
            for value in (*node.args, *(pair.value for pair in node.kwargs)):
                self.shape(value)
            reader = self._unsure() if node.name in ("default", "d") else self
            inner = reader.shape(node.node) if node.node is not None else None
            if node.name in ("_each", "default", "d", "sort", "list", "reverse", "unique"):
                return inner
            return items(inner) if node.name in ("first", "last") else None
        if isinstance(node, nodes.Test) and node.name in ("defined", "undefined"):
            self._unsure().shape(node.node)
            return None
        if isinstance(node, nodes.Compare):
            self._compared(node)
        for child in node.iter_child_nodes():
            self.shape(child)
        return None

    def _unsure(self) -> _Reader:
        """For what may be missing: that it always is, is odd, and no error."""

        def report(node: nodes.Node, code: str, message: str, hint: str, sure: bool) -> None:
            self.report(node, code, message, hint, False)

        return _Reader(self.known, self.names, report)

    def _param(self, node: nodes.Node, group: str, name: str) -> None:
        names = (self.known.params or {}).get(group)
        if names is not None and name not in names:
            self.report(node, "unknown-field", f"there is no {group}.{name}",
                        _meant(name, names, "the source gives: "), True)  # fmt: skip

    def _field(self, node: nodes.Node, owner: Shape | None, name: str) -> Shape | None:
        found = field(owner, name)
        if isinstance(found, Missing):
            message = f"the schema has no field '{name}' there"
            if found.kind:
                message = f"'{name}' is no field: by the schema there is a {found.kind}"
            self.report(node, "unknown-field", message, _meant(name, found.names, "it has: "),
                        found.closed)  # fmt: skip
            return None
        return found

    def _compared(self, node: nodes.Compare) -> None:
        """`body.kind == 'travle'`, where the schema knows all kinds."""
        if len(node.ops) != 1 or node.ops[0].op not in ("eq", "ne", "in", "notin"):
            return
        other = node.ops[0].expr
        quiet = _Reader(self.known, self.names, lambda *_: None)
        possible = values(quiet.shape(node.expr)) or ()
        given = other.items if isinstance(other, nodes.List | nodes.Tuple) else [other]
        for one in given if possible else ():
            if isinstance(one, nodes.Const) and one.value not in possible:
                hint = _meant(str(one.value), map(str, possible), "it is one of: ")
                self.report(one, "impossible", f"by the schema this is never {one.value!r}", hint,
                            False)  # fmt: skip


def _meant(word: str, names: Iterable[str], listed: str) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return listed + ", ".join(known) if 0 < len(known) <= 24 else ""


def _after_set(options: Any, body: Shape | None) -> Shape | None:
    if "body" in options.model_fields_set:
        made = _tree(options.body)
        return Shape(made, made) if "properties" in made else None
    if not options.fields or body is None:
        return body
    schema = dict(body.schema)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or {"$ref", "allOf", "oneOf", "anyOf"} & schema.keys():
        return None
    new: dict[str, Any] = {name.split(".")[0]: {} for name in options.fields}
    schema["properties"] = {**properties, **new}
    return Shape(schema, body.root)


def _tree(raw: Any) -> dict[str, Any]:
    """The schema of what `set` makes of a tree of expressions."""
    if isinstance(raw, Mapping):
        properties = {str(key): _tree(value) for key, value in raw.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if isinstance(raw, list) and raw:
        return {"type": "array", "items": _tree(raw[0])} if len(raw) == 1 else {"type": "array"}
    return {}
