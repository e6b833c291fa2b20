"""The JSON Schema of files of tests, for editors; made from the models that validate them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from esb.testing.models import RAW, SuiteOptions


def schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of `*.test.yaml`."""
    definitions: dict[str, Any] = {}
    whole = _of(SuiteOptions, definitions)
    for name, model in RAW.items():
        definitions[name] = _of(model, definitions)
    resolved: dict[str, Any] = _resolved(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **whole,
            "title": "Tests of routes of the bus",
            "$defs": definitions,
        }
    )
    return resolved


def _of(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model; what it refers to moves into the common definitions."""
    found = TypeAdapter(model).json_schema(by_alias=True)
    definitions.update(found.pop("$defs", {}))
    shorthand = getattr(model, "__shorthand__", "")
    return {"anyOf": [found["properties"][shorthand], found]} if shorthand else found


def _resolved(schema: Any) -> Any:
    """With references where the models of raw parts say which definition stands there."""
    if isinstance(schema, list):
        return [_resolved(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "x-esb" in schema:
        rest = {key: value for key, value in schema.items() if key != "x-esb"}
        return {**rest, "$ref": f"#/$defs/{schema['x-esb']}"}
    return {key: _resolved(value) for key, value in schema.items()}
