"""JSON Schema of route files, for editors, made from the models that validate them."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, TypeAdapter

from esb.adapter import Adapter, Section
from esb.config import SETTINGS
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
    for direction in ("source", "sink", "caller"):
        definitions[direction] = {"anyOf": []}
        for name, adapter in sorted(adapters.items()):
            role = getattr(adapter, direction)
            if role is not None:
                options = _options(role.options, definitions)
                if adapter.connection is not None:
                    options = _with_connection(options)
                definitions[direction]["anyOf"].append(_keyed(name, options, "", {}))
    definitions["connection"] = {
        "anyOf": [
            _keyed(name, {**_schema_of(adapter.connection, definitions), "required": []}, "", {})
            for name, adapter in sorted(adapters.items())
            if adapter.connection is not None
        ]
    }
    properties: dict[str, Any] = {
        "routes": _named(_schema_of(RouteOptions, definitions)),
        "connections": _named({"$ref": "#/$defs/connection"}),
    }
    for name, model in SETTINGS.items():
        properties[name] = _schema_of(model, definitions)
    for point in sorted(entry_points(group="esb.sections"), key=lambda p: p.name):
        section: Section = point.load()
        properties[point.name] = _schema_of(section.options, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A route file of the bus",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


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
    doc = inspect.getmodule(make).__doc__ or ""  # type: ignore[union-attr]
    return doc.strip().split("\n\n")[0].replace("\n", " ")
