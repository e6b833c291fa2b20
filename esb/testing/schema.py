"""The JSON Schema of files of tests, for editors; made from the models that validate them."""

from __future__ import annotations

from typing import Any

from esb.reference import options_schema, resolved
from esb.testing.models import RAW, SuiteOptions


def schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of `*.test.yaml`."""
    definitions: dict[str, Any] = {}
    whole = options_schema(SuiteOptions, definitions)
    for name, model in RAW.items():
        definitions[name] = options_schema(model, definitions)
    made: dict[str, Any] = resolved(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **whole,
            "title": "Tests of routes of the bus",
            "$defs": definitions,
        }
    )
    return made
