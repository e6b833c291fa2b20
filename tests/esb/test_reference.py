"""The JSON Schema agrees with what loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from esb.config import route_files_in
from esb.reference import schema

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted(
    file
    for folder in (PROJECT / "routes", *(PROJECT / "examples").iterdir())
    if folder.is_dir()
    for file in route_files_in(folder)
    if file.suffix == ".yaml"  # *.yml belongs to what runs beside the bus
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


class Reader(yaml.SafeLoader):
    """YAML 1.2, where `on` and `no` are words."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [one for one in resolvers if one[0] != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def data(text: str) -> Any:
    """As an editor sees it: references are text."""
    return yaml.load(text, Reader)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_what_loads_is_valid(file: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(data(file.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "route: {}",
        "routes: {a: {from: {queue: q}, step: []}}",
        "routes: {a: {from: {quue: q}}}",
        "routes: {a: {from: {queue: q}, steps: [{sned: {queue: q}}]}}",
        "routes: {a: {from: {queue: q}, steps: [{log: a, send: {queue: q}}]}}",
        "routes: {a: {from: {http: {methode: GET, path: /}}}}",
        "routes: {a: {from: {queue: q}, accept: durably}}",
        "routes: {a: {from: {queue: q}, timeout: 5}}",
        "connections: {a: {amqp: {urll: 'amqp://x'}}}",
        "connections: {a: {http: {circuit_breaker: {failure: 3}}}}",
        "routes: {a: {from: {queue: {name: q, circuit_breaker: {}}}}}",
        "routes: {a: {from: {queue: q}, steps: [{send: {http: {url: u, circuit_breaker: 3}}}]}}",
        "routes: {a: {from: {queue: q}, retry: {'on': [rejectd]}}}",
        "routes: {a: {from: {queue: q}, retry: {'on': [200]}}}",
    ],
)
def test_what_does_not_load_is_not(text: str, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(data(text))


@pytest.mark.parametrize(
    "text",
    [
        "connections: {a: {http: {circuit_breaker: {failures: 3}, concurrency: 5}}}",
        "routes: {a: {from: {queue: q}, steps: [{send: {queue: {name: q, concurrency: 1}}}]}}",
        "routes: {a: {from: {queue: q}, retry: {'on': [transient, rejected, 409], within: 2h}}}",
    ],
)
def test_options_that_any_endpoint_may_have(
    text: str, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(data(text))
