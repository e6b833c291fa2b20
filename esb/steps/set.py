"""Content Enricher without a resource (EIP): write headers, fields or the body by expression.

For example:

    set:
      headers: {x-kind: body.kind}
      fields: {total: body.net * 1.2}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope
from esb.errors import RouteFailure
from esb.options import Options
from esb.step import Step, computed


class SetOptions(Options):
    headers: dict[str, Any] = Field(
        default_factory=dict,
        description="Header: expression. A value of none (or YAML null) removes the header.",
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Dotted field of the body: expression, `{customer.name: headers['x-name']}`.",
    )
    body: Any = Field(
        None,
        description="The new body: an expression, or a mapping or list of expressions. To make one "
        "field by field, of another, there is `map`.",
    )
    content_type: str = Field("", description="Of the new body; application/json if left out.")
    subject: str | None = Field(None, description="The message's subject: an expression.")
    correlation_id: str | None = Field(None, description="The correlation id: an expression.")
    type: str | None = Field(None, description="The message's type: an expression.")


Value = Callable[[Envelope], Any]


def make(options: SetOptions, build: Build) -> Step:
    """All expressions see the message as it came in. Raises RouteFailure where one fails."""
    if not options.model_fields_set:
        raise build.problem("there is nothing to set", hint="body, headers, fields, ...")
    headers = [(n, _tree(v, build, "headers", n)) for n, v in options.headers.items()]
    fields = [(n.split("."), _tree(v, build, "fields", n)) for n, v in options.fields.items()]
    for name in options.fields:
        if "" in name.split("."):
            build.problem(
                f"'{name}' names no field", "fields", name, key=True, hint="customer.name"
            )
    body = _tree(options.body, build, "body") if "body" in options.model_fields_set else None
    if body and fields:
        build.problem("'fields' changes the body that 'body' replaces", "fields", key=True,
                      hint="put them into 'body'")  # fmt: skip
    names = ("subject", "correlation_id", "type")
    attributes = [
        (name, build.expression(source, name))
        for name in names
        if (source := getattr(options, name)) is not None
    ]
    if body is not None:
        build.body("made")
    elif not fields and not options.content_type:
        build.body("kept")

    def set_(envelope: Envelope) -> Envelope:
        changes: dict[str, Any] = {name: str(value(envelope)) for name, value in attributes}
        if headers:
            values = {name: _header(value(envelope)) for name, value in headers}
            changes["headers"] = envelope.headers.replace(values)
        changed = envelope.replace(**changes)
        if body is not None:
            content_type = options.content_type or "application/json"
            return changed.with_body(Body.of(body(envelope), content_type))
        if fields:
            data = envelope.body.data
            for path, value in fields:
                data = with_field(data, path, value(envelope))
            content_type = options.content_type or envelope.content_type
            return changed.with_body(Body.of(data, content_type))
        if options.content_type:
            return changed.with_body(envelope.body.typed(options.content_type))
        return changed

    return computed(set_)


def _tree(raw: Any, build: Build, *path: str | int) -> Value:
    """Compile every text in a tree of mappings and lists; other scalars stand for themselves."""
    if isinstance(raw, str):
        return build.expression(raw, *path)
    if isinstance(raw, dict):
        items = [(key, _tree(value, build, *path, key)) for key, value in raw.items()]
        return lambda e: {key: value(e) for key, value in items}
    if isinstance(raw, list):
        parts = [_tree(value, build, *path, i) for i, value in enumerate(raw)]
        return lambda e: [part(e) for part in parts]
    return lambda e: raw


def _header(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise RouteFailure("a header takes a single value, not a list or an object")
    return value


def with_field(data: Any, path: list[str], value: Any) -> Any:
    """A copy of `data` with one field changed; what is not on the path is shared."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise RouteFailure(f"there is no field '{path[0]}' to set: the body is no object there")
    if len(path) > 1:
        value = with_field(data.get(path[0]), path[1:], value)
    return {**data, path[0]: value}


step = Role(SetOptions, make)
