"""The JSON Schema and the option page agree with what loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from esb.adapter import Adapter
from esb.reference import markdown, schema
from esb.steps import STEPS

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted([*PROJECT.glob("routes/*.yaml"), *PROJECT.glob("examples/*/*.yaml")])


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def data(text: str) -> Any:
    """As an editor sees it: references are text."""
    return yaml.safe_load(text)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_what_loads_is_valid(file: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(data(file.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "route: {}",
        "routes: {a: {steps: []}}",
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


def test_every_step_and_adapter_is_on_the_page() -> None:
    from importlib.metadata import entry_points

    page = markdown()
    words = {"source": "from", "sink": "send", "caller": "call"}
    for verb in STEPS:
        assert f"### {verb}\n" in page
    for point in entry_points(group="esb.adapters"):
        adapter: Adapter = point.load()
        for direction, word in words.items():
            assert (f"### {word}: {point.name}\n" in page) == bool(getattr(adapter, direction))


def test_the_page_in_the_project_is_that_of_the_models() -> None:
    written = (PROJECT / "docs" / "options.md").read_text()
    assert written == markdown(), "run `make fmt`"


def test_every_option_says_what_it_is_for() -> None:
    for line in markdown().splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), f"without a description: {line}"
