"""Path, query and header parameters as part of an operation's data.

A parameter of path or query stands for the input field of its name: one at the top of the data, or
the only one of that name further in. The HTTP header `SOAP-<block>`, or `SOAP-<block>-<field>`,
stands for what a SOAP header block that the WSDL declares holds. The text of a parameter becomes
the type that the schema gives the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from esb.envelope import Headers
from esb.errors import BadMessage

_REF: Final = "#/components/schemas/"
_DEPTH: Final = 4
_BREADTH: Final = 1000
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,4300}\Z")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


class Field(NamedTuple):
    """A field of the input that a parameter can fill. `schema` is resolved."""

    path: tuple[str, ...]
    schema: Mapping[str, Any]
    required: bool

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def is_list(self) -> bool:
        return "array" in types(self.schema)


class InputFields:
    """The fields of an operation's input, by its JSON Schema and the components that it uses."""

    def __init__(self, schema: Mapping[str, Any], components: Mapping[str, Any]) -> None:
        self._components = components
        self.top = list(self._fields(schema, ()))

    def find(self, name: str) -> Field | None:
        """The field that a parameter `name` fills; None if there is none, or several equally
        near the top."""
        level = self.top
        for _ in range(_DEPTH):
            found = [field for field in level if field.name == name and self.is_simple(field)]
            if found or len(level) > _BREADTH:
                return found[0] if len(found) == 1 else None
            level = [
                inner
                for field in level
                if "object" in types(field.schema)
                for inner in self._fields(field.schema, field.path)
            ]
        return None

    def headers(self) -> dict[str, Field]:
        """The fields in SOAP header blocks that one HTTP header can fill, by its name."""
        found: dict[str, Field] = {}
        for blocks in (field for field in self.top if field.path == ("$headers",)):
            for block in self._fields(blocks.schema, blocks.path):
                inner = [block]
                if "object" in types(block.schema):
                    inner = list(self._fields(block.schema, block.path))
                for field in inner:
                    name = "-".join(["SOAP", block.name, field.name.lstrip("@")])
                    if field is block or field.name == "#text":
                        name = f"SOAP-{block.name}"
                    if _TOKEN.match(name) and not field.is_list and self.is_simple(field):
                        found[name] = field
        return found

    def is_simple(self, field: Field) -> bool:
        """Whether text can fill it: a scalar or a list of scalars."""
        if field.is_list:
            item = self.resolve(field.schema.get("items", {}))
            return not {"array", "object"} & types(item)
        return "object" not in types(field.schema)

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """`schema`, or what it refers to."""
        for _ in range(20):
            ref = schema.get("$ref")
            if not isinstance(ref, str) or not ref.startswith(_REF):
                break
            schema = self._components.get(ref.removeprefix(_REF), {})
        return schema

    def _fields(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[Field]:
        """The properties of an object, those of what it is composed of included."""
        schema = self.resolve(schema)
        required = schema.get("required", ())
        for name, inner in schema.get("properties", {}).items():
            if isinstance(inner, Mapping):
                yield Field((*path, name), self.resolve(inner), name in required)
        for part in schema.get("allOf", ()):
            yield from self._fields(part, path)

    def convert(self, field: Field, value: str | list[str]) -> Any:
        """The data that the text of a parameter stands for. Raises ValueError saying what is
        expected."""
        if field.is_list:
            item = self.resolve(field.schema.get("items", {}))
            values = value if isinstance(value, list) else [value]
            return [_scalar(item, text) for text in values]
        if isinstance(value, list):
            raise ValueError("is given more than once")
        return _scalar(field.schema, value)


def types(schema: Mapping[str, Any]) -> set[str]:
    """The types a schema allows, as far as it says so."""
    own = schema.get("type")
    found = {own} if isinstance(own, str) else set(own or ())
    for key in ("anyOf", "oneOf"):
        for part in schema.get(key, ()):
            found |= types(part)
    if "properties" in schema or "allOf" in schema:
        found.add("object")
    return found


def _scalar(schema: Mapping[str, Any], text: str) -> Any:
    kinds = types(schema)
    if "boolean" in kinds and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kinds & {"integer", "number"} and _INTEGER.match(text):
        return int(text)
    if "number" in kinds and _NUMBER.match(text):
        return Decimal(text)
    if "string" in kinds or not kinds & {"boolean", "integer", "number"}:
        return text
    expected = " or ".join(sorted(kinds - {"null"})).replace("integer", "whole number")
    raise ValueError(f"must be a {expected}")


class Binder:
    """Merges parameters into data. `fields` are those it knows, by the parameter's name."""

    def __init__(self, inputs: InputFields, fields: Mapping[str, Field], *, strict: bool) -> None:
        self._inputs = inputs
        self._fields = dict(fields)
        self._strict = strict

    def __call__(self, data: Any, params: Mapping[str, Mapping[str, Any]]) -> Any:
        """`data` with the parameters of the groups form, query and path in their places; the given
        data is not changed.

        Raises BadMessage for a parameter of the wrong type, for one that contradicts the data and,
        if strict, for one that stands for nothing.
        """
        result = data
        for group in ("form", "query", "path"):
            for name, value in params.get(group, {}).items():
                field = self._fields.get(name)
                if field is None:
                    field = self._inputs.find(name) if self._strict else None
                    if field is not None:
                        self._fields[name] = field
                if field is not None:
                    text = _converted(self._inputs, field, name, value, group)
                    result = _merged(result, field.path, text)
                elif self._strict and group != "path":
                    raise BadMessage(
                        f"there is no {group} parameter '{name}'",
                        [{"pointer": f"/{group}/{_escaped(name)}", "detail": "is not known"}],
                    )
        return result


class HeaderBinder:
    """Merges HTTP headers into the SOAP headers of data."""

    def __init__(self, inputs: InputFields) -> None:
        self._inputs = inputs
        self._fields = inputs.headers()

    def __call__(self, data: Any, headers: Headers) -> Any:
        """`data` with what the headers say in its "$headers"; the given data is not changed.

        Raises BadMessage for a header of the wrong type or one that contradicts the data.
        """
        result = data
        for name, field in self._fields.items():
            text = headers.get(name)
            if isinstance(text, str):
                if result is not None and not isinstance(result, dict):
                    result = {"$body": result}
                value = _converted(self._inputs, field, name, text, "header")
                result = _merged(result, field.path, value)
        return result


def _converted(inputs: InputFields, field: Field, name: str, value: Any, group: str) -> Any:
    try:
        return inputs.convert(field, value)
    except ValueError as e:
        what = "header" if group == "header" else f"{group} parameter"
        raise BadMessage(
            f"the {what} '{name}' {e}",
            [{"pointer": f"/{group}/{_escaped(name)}", "detail": str(e)}],
        ) from e


def _merged(data: Any, path: tuple[str, ...], value: Any) -> Any:
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise BadMessage("the body must be an object")
    name, *rest = path
    there = data.get(name)
    if rest:
        value = _merged(there, tuple(rest), value)
    elif name in data and there != value:
        raise BadMessage(
            f"'{name}' is one thing in a parameter and another in the body",
            [{"pointer": f"/{_escaped(name)}", "detail": "contradicts the parameter"}],
        )
    return {**data, name: value}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
