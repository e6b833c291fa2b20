"""JSON Schema of route files, made from the models that validate them; `esb.catalogue` is the same
for people."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import Any

from pydantic import TypeAdapter

from esb.adapter import Adapter, Section
from esb.middleware.endpoint import EndpointPolicies
from esb.projects import SHARED, Use
from esb.route import RouteOptions, StepPolicies
from esb.settings import SETTINGS
from esb.steps import STEPS


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a route file, with every installed adapter and every step."""
    definitions: dict[str, Any] = {}
    policies = _schema_of(StepPolicies, definitions)["properties"]
    definitions["step"] = {
        "anyOf": [
            _keyed(verb, options_schema(role.options, definitions), _summary(role.make), policies)
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
                options = options_schema(role.options, definitions)
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
    made: dict[str, Any] = resolved(whole, variables=True)
    return made


def resolved(schema: Any, *, variables: bool = False) -> Any:
    """With references where the models of raw parts say which definition stands there. variables:
    `${NAME}` may stand for a value."""
    if isinstance(schema, list):
        return [resolved(one, variables=variables) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "x-esb" in schema:
        rest = {key: value for key, value in schema.items() if key != "x-esb"}
        return {**rest, "$ref": f"#/$defs/{schema['x-esb']}"}
    made = {key: resolved(value, variables=variables) for key, value in schema.items()}
    if variables and schema.get("type") in ("integer", "number", "boolean"):
        # A reference is text until it is resolved.
        made |= {"type": [schema["type"], "string"], "pattern": r"\$\{.*\}"}
    return made


def _schema_of(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model; what it refers to moves into the common definitions."""
    found = TypeAdapter(model).json_schema(by_alias=True)
    definitions.update(found.pop("$defs", {}))
    return found


def options_schema(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model, or of the bare value that may stand for it; what it refers to moves
    into the common definitions."""
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
