"""Path, query and form parameters as fields of an operation's input."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.errors import BadMessage
from esb_soap.bind import Binder, InputFields

COMPONENTS: dict[str, Any] = {
    "Id": {"type": "integer"},
    "Filter": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "name": {"type": "string"},
            "next": {"$ref": "#/components/schemas/Filter"},
        },
    },
    "Base": {"type": "object", "properties": {"base": {"type": "boolean"}}, "required": ["base"]},
}
SCHEMA: dict[str, Any] = {
    "allOf": [{"$ref": "#/components/schemas/Base"}],
    "type": "object",
    "properties": {
        "id": {"$ref": "#/components/schemas/Id"},
        "name": {"type": ["string", "null"]},
        "price": {"type": "number"},
        "big": {"type": ["integer", "string"]},
        "tag": {"type": "array", "items": {"type": "integer"}},
        "lines": {"type": "array", "items": {"type": "object", "properties": {}}},
        "filter": {"$ref": "#/components/schemas/Filter"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    },
    "required": ["id"],
}
INPUTS = InputFields(SCHEMA, COMPONENTS)


def bind(data: Any = None, *, strict: bool = True, **params: dict[str, Any]) -> Any:
    return Binder(INPUTS, {}, strict=strict)(data, params)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("id", "7", 7),
        ("id", "-0012", -12),
        ("name", "7", "7"),
        ("price", "1.10", Decimal("1.10")),
        ("price", "3", 3),
        ("big", "99999999999999999999", 99999999999999999999),
        ("big", "n/a", "n/a"),
        ("base", "true", True),
        ("base", "0", False),
        ("either", "a", "a"),
        ("tag", "1", [1]),
        ("tag", ["1", "2"], [1, 2]),
    ],
)
def test_text_becomes_the_type_of_the_field(name: str, text: Any, value: Any) -> None:
    assert bind(query={name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("id", "x", "whole number"),
        ("id", "1.5", "whole number"),
        ("id", "\u0661", "whole number"),  # a digit, but none of XML's
        ("id", ["1", "2"], "more than once"),
        ("price", "nan", "number"),
        ("price", "", "number"),
        ("base", "yes", "boolean"),
        ("tag", ["1", "x"], "whole number"),
        ("nam", "x", "no query parameter 'nam'"),
        ("lines", "x", "no query parameter 'lines'"),
        ("filter", "x", "no query parameter 'filter'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(name: str, text: Any, says: str) -> None:
    with pytest.raises(BadMessage, match=says) as caught:
        bind(query={name: text})
    assert caught.value.errors[0]["pointer"] == f"/query/{name}"


def test_a_field_further_in() -> None:
    assert bind({"filter": {"name": "n"}}, path={"city": "Bern"}) == {
        "filter": {"name": "n", "city": "Bern"}
    }


def test_the_nearest_field_counts() -> None:
    assert bind(path={"name": "n"}) == {"name": "n"}


def test_the_given_data_is_not_changed() -> None:
    data = {"filter": {"name": "n"}}
    bind(data, path={"city": "Bern"})
    assert data == {"filter": {"name": "n"}}


def test_url_and_body_must_agree() -> None:
    assert bind({"id": 1}, path={"id": "1"}) == {"id": 1}
    with pytest.raises(BadMessage, match="one thing in a parameter and another in the body"):
        bind({"id": 1}, path={"id": "2"})


def test_a_body_that_is_no_object() -> None:
    with pytest.raises(BadMessage, match="must be an object"):
        bind([1], path={"id": "2"})


def test_only_named_fields_unless_strict() -> None:
    fields = {"id": INPUTS.find("id")}
    assert fields["id"] is not None
    binder = Binder(INPUTS, fields, strict=False)  # type: ignore[arg-type]
    assert binder(None, {"query": {"id": "1", "name": "x", "other": "y"}}) == {"id": 1}


def test_ambiguous_or_absent_fields_are_not_found() -> None:
    two = {"type": "object", "properties": {"x": {"type": "string"}}}
    inputs = InputFields({"properties": {"a": two, "b": two}}, {})
    assert inputs.find("x") is None
    assert inputs.find("y") is None
    assert inputs.find("a") is None


def test_recursive_types_end() -> None:
    wide = {f"p{i}": {"$ref": "#/components/schemas/W"} for i in range(50)}
    inputs = InputFields(
        {"properties": wide}, {"W": {"type": "object", "properties": {**wide, "q": {}}}}
    )
    assert inputs.find("nowhere") is None


@given(st.text(max_size=20))
def test_any_text_is_bound_or_refused(text: str) -> None:
    for name in ("id", "price", "base", "tag", "name"):
        try:
            value = bind(query={name: text})[name]
        except BadMessage:
            continue
        assert not isinstance(value, Decimal) or value.is_finite()
