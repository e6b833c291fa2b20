"""The JSON Schema of constructs, exactly: what callers see in OpenAPI, and generators read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from support.wsdl import Feature, around
from support.wsdl import feature as load_feature

from esb.errors import BadMessage
from esb_soap.wsdl import load_wsdl

feature = functools.cache(load_feature)

INT = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1, "format": "int32"}
TEXT = {"type": "string"}
DATE = {
    "type": "string",
    "pattern": "^-?[0-9]{4,}-[0-9]{2}-[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})?$",
    "x-xsd-type": "date",
    "examples": ["2026-11-24"],
}
DECIMAL = {
    "type": ["number", "string"],
    "format": "decimal",
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$",
}
DOUBLE = {"anyOf": [{"type": "number", "format": "double"}, {"enum": ["INF", "-INF", "NaN"]}]}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(required: list[str], /, **properties: Any) -> dict[str, Any]:
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": required} if required else made


def variant(name: str, *, told: bool = True) -> dict[str, Any]:
    made = {
        "type": "object",
        "allOf": [ref(name)],
        "properties": {"@type": {"const": name}},
        "unevaluatedProperties": False,
    }
    return {**made, "required": ["@type"]} if told else made


def none_of(*names: str) -> dict[str, Any]:
    return {"not": {"anyOf": [{"required": [name]} for name in names]}}


COMPONENTS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "arrays",
        "it",
        closed(
            ["some", "few"],
            any={"type": "array", "items": INT},
            some={"type": "array", "items": TEXT, "minItems": 1},
            few={"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
            one=INT,
        ),
    ),
    (
        "nillable",
        "it",
        closed(
            ["must"],
            must={**INT, "type": ["integer", "null"]},
            may={"type": ["string", "null"]},
            many={"type": "array", "items": {**DATE, "type": ["string", "null"]}},
            object={"anyOf": [ref("it_object"), {"type": "null"}, ref("it_object.nil")]},
            full=INT,
        ),
    ),
    (
        "nillable",
        "it_object.nil",
        closed(["@xsi:nil"], **{"@xsi:nil": {"const": True}, "@why": TEXT}),
    ),
    (
        "defaults",
        "it",
        closed(
            [],
            count={**INT, "default": 1},
            unit={**TEXT, "default": "kg"},
            version={**DECIMAL, "const": 2},
        ),
    ),
    (
        "choice",
        "it",
        {
            "type": "object",
            "properties": {
                "email": TEXT,
                "street": TEXT,
                "city": TEXT,
                "floor": INT,
                "phone": {"type": "array", "items": TEXT, "minItems": 1},
                "note": TEXT,
                "mark": INT,
            },
            "allOf": [
                {
                    "oneOf": [
                        {"required": ["email"], **none_of("street", "city", "floor", "phone")},
                        {"required": ["street", "city"], **none_of("email", "phone")},
                        {"required": ["phone"], **none_of("email", "street", "city", "floor")},
                    ]
                },
                {
                    "oneOf": [
                        {"required": ["note"], **none_of("mark")},
                        {"required": ["mark"], **none_of("note")},
                        none_of("note", "mark"),
                    ]
                },
            ],
            "unevaluatedProperties": False,
        },
    ),
    (
        "facets",
        "Color",
        {
            "type": "string",
            "description": "How it looks.",
            "enum": ["red", "green"],
            "x-enum-descriptions": {"red": "Like blood."},
        },
    ),
    ("facets", "Level", {"type": "integer", "format": "int32", "enum": [1, 3]}),
    ("facets", "Code", {**TEXT, "minLength": 2, "maxLength": 4, "pattern": "^(?:[A-Z]+)$"}),
    (
        "facets",
        "Zip",
        {**TEXT, "pattern": "(?:^(?:[0-9]{5})$)|(?:^(?:(?![IO])[A-Z][0-9])$)"},
    ),
    ("facets", "Percent", {**INT, "minimum": 0, "maximum": 100}),
    ("facets", "Open", {**DECIMAL, "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    ("facets", "Price", {**DECIMAL, "x-total-digits": 5, "x-fraction-digits": 2}),
    ("facets", "Since", DATE),
    ("extension", "Person", {"type": "object", "properties": {"@id": INT, "name": TEXT},
                             "required": ["name"]}),
    ("extension", "Employee", {"type": "object", "allOf": [ref("Person")],
                               "properties": {"salary": DECIMAL}}),
    (
        "extension",
        "Person.any",
        {"oneOf": [variant("Person", told=False), variant("Employee"), variant("Manager")]},
    ),
    ("abstract-type", "Shape.any", {"oneOf": [variant("Circle"), variant("Square")]}),
    (
        "abstract-type",
        "Circle",
        {"type": "object", "allOf": [ref("Shape")], "properties": {"r": DOUBLE},
         "required": ["r"]},
    ),
    (
        "wildcards",
        "it_own",
        closed(
            ["$any"],
            **{
                "$any": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "description": "An element by its qualified name: {namespace}name.",
                        "propertyNames": {"pattern": r"^(?:\{urn:t\})"},
                        "minProperties": 1,
                        "maxProperties": 1,
                    },
                    "minItems": 1,
                    "maxItems": 2,
                }
            },
        ),
    ),
    (
        "wild-attributes",
        "it",
        {
            **closed([], **{"@id": INT}),
            "patternProperties": {r"^@(?!(?:id)$)(?!\{(?:urn:t)\})\{": TEXT},
        },
    ),
    (
        "mixed",
        "it",
        closed(
            [],
            **{
                "@lang": TEXT,
                "#mixed": {
                    "type": "array",
                    "description": "Text and elements in their order.",
                    "items": {
                        "anyOf": [
                            TEXT,
                            closed(["b"], b=TEXT),
                            closed(["link"], link=ref("it_link")),
                        ]
                    },
                },
            },
        ),
    ),
    (
        "recursion",
        "Folder",
        closed(
            ["name"],
            name=TEXT,
            folder={"type": "array", "items": ref("Folder")},
            link=ref("Link"),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "component", "schema"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in COMPONENTS],
)
def test_the_schema_is_exactly(name: str, component: str, schema: dict[str, Any]) -> None:
    assert feature(name).schema["components"]["schemas"][component] == schema


def test_chains_of_types_are_longer_than_calls_nest(tmp_path: Path) -> None:
    """As of the large standards (GML, HL7): one element leads to nearly all of the others."""
    chain = "".join(
        f'<xs:complexType name="T{n}"><xs:sequence>'
        f'<xs:element name="next" type="t:T{n + 1}" minOccurs="0"/>'
        "</xs:sequence></xs:complexType>"
        for n in range(1500)
    )
    end = '<xs:complexType name="T1500"/><xs:element name="it" type="t:T0"/>'
    it = Feature(load_wsdl(around(chain + end, tmp_path)))
    made = it.schema["components"]["schemas"]
    assert made["T1499"] == closed([], next=ref("T1500"))
    assert made["T1500"] == closed([])
    assert len([name for name in made if name.startswith("T")]) == 1501


def test_integers_tell_their_range_and_that_strings_will_do() -> None:
    numbers = feature("numbers").schema["components"]["schemas"]["it"]["properties"]
    assert numbers["long"] == {
        "type": ["integer", "string"],
        "minimum": -(2**63),
        "maximum": 2**63 - 1,
        "format": "int64",
        "pattern": "^[+-]?[0-9]+$",
    }
    assert numbers["unsignedLong"]["format"] == "uint64"
    assert numbers["unsignedLong"]["maximum"] == 2**64 - 1
    assert numbers["positive"] == {
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": r"^\+?0*[1-9][0-9]*$",
    }
    assert numbers["byte"] == {"type": "integer", "minimum": -128, "maximum": 127}


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("positive", ["1", "+7", "007", "10"], ["0", "-1", "+0", ""]),
        ("negative", ["-1", "-007"], ["0", "1", "-0", "+1"]),
        ("nonNegative", ["0", "+0", "-0", "7"], ["-1", "-10"]),
        ("nonPositive", ["0", "+0", "-0", "-7"], ["1", "+1", "7"]),
        ("integer", ["0", "+0", "-7", "7"], ["1.0", "+"]),
    ],
)
def test_integers_as_text_stay_on_their_side_of_zero(
    key: str, good: list[str], bad: list[str]
) -> None:
    it = feature("numbers")
    for value in good:
        assert it.refused_by_schema({key: value}) == ""
        assert it.write({key: value})
    for value in bad:
        assert it.refused_by_schema({key: value})
        with pytest.raises(BadMessage):
            it.write({key: value})


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("dateTime", ["2026-11-24T09:30:00", "-0044-03-15T09:30:00.5+01:00"], ["2026-11-24"]),
        ("date", ["2026-11-24", "2026-11-24Z"], ["2026-11-24T09:30:00", "24.11.2026"]),
        ("time", ["09:30:00.25", "09:30:00-08:00"], ["9:30", "09:30:00 "]),
        ("duration", ["P1Y", "-P1DT2H3.5S"], ["1D", "P1H"]),
        ("gYear", ["2026", "12026Z"], ["26", "2026-11"]),
        ("gYearMonth", ["2026-11"], ["2026", "2026-11-24"]),
        ("gMonthDay", ["--11-24"], ["11-24"]),
        ("gDay", ["---24"], ["24"]),
        ("gMonth", ["--11"], ["11"]),
    ],
)
def test_dates_have_their_form(key: str, good: list[str], bad: list[str]) -> None:
    dates = feature("dates")
    assert [dates.refused_by_schema({key: value}) for value in good] == [""] * len(good)
    assert all(dates.refused_by_schema({key: value}) for value in bad)
