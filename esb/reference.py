"""JSON Schema and the option page of route files, made from the models that validate them."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import entry_points
from typing import Any, get_args

from pydantic import BaseModel, RootModel, SecretStr, TypeAdapter

from esb.adapter import Adapter, Section
from esb.config import SETTINGS
from esb.middleware.endpoint import EndpointPolicies
from esb.options import Options, Range
from esb.projects import SHARED, Use
from esb.route import RouteOptions, StepPolicies
from esb.steps import STEPS


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a route file, with every installed adapter and every step."""
    definitions: dict[str, Any] = {}
    policies = _schema_of(StepPolicies, definitions)["properties"]
    definitions["step"] = {
        "anyOf": [
            _keyed(verb, _options(role.options, definitions), _summary(role.make), policies)
            for verb, role in STEPS.items()
        ]
    }
    adapters: dict[str, Adapter] = {p.name: p.load() for p in entry_points(group="esb.adapters")}
    endpoint = _schema_of(EndpointPolicies, definitions)["properties"]
    for direction in ("source", "sink", "caller"):
        definitions[direction] = {"anyOf": []}
        for name, adapter in sorted(adapters.items()):
            role = getattr(adapter, direction)
            if role is not None:
                options = _options(role.options, definitions)
                if direction != "source":
                    options = _with(options, endpoint)
                if adapter.connection is not None:
                    options = _with_connection(options)
                definitions[direction]["anyOf"].append(_keyed(name, options, "", {}))
    definitions["connection"] = {
        "anyOf": [
            _keyed(name, _connection(adapter, definitions, endpoint), "", {})
            for name, adapter in sorted(adapters.items())
            if adapter.connection is not None
        ]
    }
    route = definitions["route"] = _schema_of(RouteOptions, definitions)
    definitions["any_route"] = {
        "anyOf": [
            {"$ref": "#/$defs/route"},
            _with(_schema_of(Use, definitions), route["properties"]),
        ]
    }
    properties: dict[str, Any] = {
        "routes": _named({"$ref": "#/$defs/any_route"}),
        "connections": _named({"$ref": "#/$defs/connection"}),
    }
    for name, model in {**SHARED, **SETTINGS}.items():
        properties[name] = _schema_of(model, definitions)
    properties["profiles"] = _named({"$ref": "#"})
    for point in sorted(entry_points(group="esb.sections"), key=lambda p: p.name):
        section: Section = point.load()
        properties[point.name] = _schema_of(section.options, definitions)
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A route file of the bus",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }
    resolved: dict[str, Any] = _resolved(whole)
    return resolved


def _resolved(schema: Any) -> Any:
    """With references where the models of raw parts say which definition stands there."""
    if isinstance(schema, list):
        return [_resolved(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "x-esb" in schema:
        rest = {key: value for key, value in schema.items() if key != "x-esb"}
        return {**rest, "$ref": f"#/$defs/{schema['x-esb']}"}
    made = {key: _resolved(value) for key, value in schema.items()}
    if schema.get("type") in ("integer", "number", "boolean"):
        # A reference is text until it is resolved.
        made |= {"type": [schema["type"], "string"], "pattern": r"\$\{.*\}"}
    return made


def _schema_of(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model; what it refers to moves into the common definitions."""
    found = TypeAdapter(model).json_schema(by_alias=True)
    definitions.update(found.pop("$defs", {}))
    return found


def _options(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    full = _schema_of(model, definitions)
    shorthand = getattr(model, "__shorthand__", "")
    if not shorthand:
        return full
    return {"anyOf": [full["properties"][shorthand], full]}


def _with(options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """With more properties."""
    if "anyOf" in options:
        return {"anyOf": [*options["anyOf"][:-1], _with(options["anyOf"][-1], more)]}
    return {**options, "properties": {**options.get("properties", {}), **more}}


def _connection(
    adapter: Adapter, definitions: dict[str, Any], endpoint: dict[str, Any]
) -> dict[str, Any]:
    options = {**_schema_of(adapter.connection, definitions), "required": []}
    return _with(options, endpoint) if adapter.sink or adapter.caller else options


def _with_connection(options: dict[str, Any]) -> dict[str, Any]:
    """With `connection: name` what is required may come from there."""
    if "anyOf" in options:
        return {"anyOf": [*options["anyOf"][:-1], _with_connection(options["anyOf"][-1])]}
    properties = {**options.get("properties", {}), "connection": {"type": "string"}}
    required = options.get("required", [])
    merged = {k: v for k, v in options.items() if k != "required"} | {"properties": properties}
    if required:
        merged["anyOf"] = [{"required": required}, {"required": ["connection"]}]
    return merged


def _keyed(
    key: str, value: dict[str, Any], description: str, siblings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": {key: value, **siblings},
        "required": [key],
        "additionalProperties": False,
    }


def _named(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


def _summary(make: Any) -> str:
    doc = inspect.getmodule(make).__doc__ or ""
    return doc.strip().split("\n\n")[0].replace("\n", " ")


def markdown() -> str:
    """The option reference as one page of Markdown, from the same models."""
    out = [
        "# Options",
        "",
        "Made by `esb schema --markdown` from the models that validate route files.",
        "",
        "## A route",
        "",
        *_table(RouteOptions),
        "",
        *_intro(Use),
        *_table(Use),
        "",
        "## Steps",
        "",
    ]
    for verb, role in STEPS.items():
        out += [f"### {verb}", "", _summary(role.make), "", *_table(role.options), ""]
    out += ["Any step may have these beside its verb:", "", *_table(StepPolicies), ""]
    out += ["## Adapters", ""]
    out += [*_intro(EndpointPolicies), *_table(EndpointPolicies), ""]
    words = {"source": "from", "sink": "send", "caller": "call"}
    for point in sorted(entry_points(group="esb.adapters"), key=lambda p: p.name):
        adapter: Adapter = point.load()
        for direction, word in words.items():
            role_ = getattr(adapter, direction)
            if role_ is not None:
                out += [f"### {word}: {point.name}", "", *_intro(role_.options)]
                out += [*_table(role_.options), ""]
        if adapter.connection is not None:
            out += [f"### connections: {point.name}", "", *_table(adapter.connection), ""]
    out += ["## Sections", ""]
    sections: dict[str, Any] = {**SHARED, **SETTINGS}
    for point in sorted(entry_points(group="esb.sections"), key=lambda p: p.name):
        sections[point.name] = point.load().options
    for name, model in sections.items():
        out += [f"### {name}", ""]
        for one in _models_in(model):
            out += [*_intro(one), *_table(one), ""]
    return "\n".join(out).rstrip() + "\n"


def _intro(model: type[BaseModel]) -> list[str]:
    doc = inspect.cleandoc(model.__doc__ or "")
    return [doc, ""] if doc and "!!!" not in doc else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _table(model: type[BaseModel]) -> list[str]:
    """A table of a model's options, then one for each model that they hold."""
    if issubclass(model, RootModel):
        found = _models_in(model.model_fields["root"].annotation)
        return [line for one in found for line in _table(one)] or _intro(model)
    rows = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    properties = TypeAdapter(model).json_schema(by_alias=True).get("properties", {})
    nested: list[str] = []
    told: set[type[BaseModel]] = set()
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in properties:
            continue  # not for route files: only code can fill it
        kind = _type(properties[key])
        value = field.get_default(call_default_factory=True, validated_data={})
        default = "required" if field.is_required() else _shown(value, kind)
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{key}` | {kind} | {default} | {meaning} |")
        for inner in _models_in(field.annotation):
            if inner is not model and inner not in told and issubclass(inner, Options):
                told.add(inner)
                nested += ["", f"`{key}`:", "", *_table(inner)]
    return rows + nested


def _shown(value: Any, kind: str) -> str:
    """A default as it would be written in YAML."""
    match value:
        case (SecretStr() as only,):
            value = only.get_secret_value()  # what everybody has is no secret
    if value is None or value in ("", {}, [], ()):
        return ""
    if isinstance(value, Range):
        return f"`{value.first:g}s..{value.longest:g}s`"
    if isinstance(value, BaseModel):
        return ""
    if kind.startswith("duration"):
        days, rest = divmod(value, 86400)
        return f"`{days:g}d`" if days and not rest else f"`{value:g}s`"
    if kind.startswith("size"):
        for unit, size in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
            if value and value % size == 0:
                return f"`{value // size}{unit}`"
    return f"`{json.dumps(value, default=str)}`"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "x-esb" in schema:
        return {"step": "step", "source": "endpoint"}.get(schema["x-esb"], "endpoint")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name if name.islower() else "mapping"
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " \\| ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    pattern = str(schema.get("pattern", ""))
    if "ms|s" in pattern:
        return "duration"
    if "[bB]" in pattern:
        return "size"
    kind = schema.get("type", "any")
    words = {"string": "text", "object": "mapping", "boolean": "true \\| false"}
    return words.get(kind, kind) if isinstance(kind, str) else " \\| ".join(kind)
