"""The OpenAPI 3.1 description of an operation that is exposed as REST: parameters, bodies as JSON
and as XML with examples, and an answer for each status that a declared fault may have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec

from esb.errors import BadMessage
from esb_soap.bind import Field, InputFields
from esb_soap.call import fault_type
from esb_soap.components import split
from esb_soap.endpoint import Found, Loaded
from esb_soap.message import FaultMessage, Message
from esb_soap.wsdl import Version
from esb_web.openapi import SEGMENT

_PARAMETER: Final = re.compile(r":(\w+)")
_PROBLEM: Final = "application/problem+json"
_JSON: Final = "application/json"

_AS_JSON: Final = msgspec.json.Encoder(decimal_format="number")

_LONGEST_EXAMPLE: Final = 4000
"""In bytes: one that nobody would read only makes the document larger."""


class Described:
    """The OpenAPI 3.1 description of an operation, made when asked for."""

    def __init__(
        self,
        key: str,
        found: Found,
        loaded: Loaded,
        method: str,
        path: str,
        faults: Mapping[str, int],
        version: Version,
    ) -> None:
        self._key = key
        self._found = found
        self._faults = faults
        self._version = version
        self.has_body = method not in ("GET", "DELETE")
        self.path_parameters: list[str] = _PARAMETER.findall(path)
        self._schemas = loaded.schemas(found.operation)
        self._components = loaded.components
        self._mapping = loaded.wsdl.mapping
        self._made: dict[str, Any] | None = None

    @cached_property
    def inputs(self) -> InputFields:
        """The fields of the input."""
        return InputFields(self._schemas.input, self._components)

    @cached_property
    def bound(self) -> dict[str, Field]:
        """The fields that path parameters fill."""
        fields = {name: self.inputs.find(name) for name in self.path_parameters}
        return {name: field for name, field in fields.items() if field is not None}

    def __call__(self) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The Operation Object and its component schemas."""
        if self._made is None:
            self._made = self._operation()
        return self._made, self._components

    def _operation(self) -> dict[str, Any]:
        found = self._found
        operation = found.operation
        summary, _, rest = operation.documentation.strip().partition("\n")
        made: dict[str, Any] = {
            "operationId": self._key,
            "summary": " ".join(summary.split())[:120] or operation.name,
        }
        text = operation.documentation.strip()
        if rest or len(summary) > 120:
            made["description"] = text
        made["tags"] = [found.service.name]
        inputs, bound = self.inputs, self.bound
        parameters = [
            self._parameter(name, field, "path", required=True) for name, field in bound.items()
        ]
        taken = {field.path for field in bound.values()}
        if not self.has_body:
            parameters += [
                self._parameter(field.name, field, "query", required=field.required)
                for field in inputs.top
                if field.path not in taken and inputs.is_simple(field)
            ]
        parameters += [
            self._parameter(name, field, "header", required=False)
            for name, field in inputs.headers().items()
        ]
        if parameters:
            made["parameters"] = parameters
        if self.has_body:
            schema: Any = self._schemas.input
            for path in taken:
                schema = _without(schema, path, inputs)
            needed = bool(inputs.resolve(schema).get("required"))
            example = self._example(operation.input, taken)
            content = {_JSON: {"schema": schema, **example}, **self._as_xml(operation.input)}
            made["requestBody"] = {"required": needed, "content": content}
        made["responses"] = {**self._answer(), **self._fault_answers()}
        made["x-soap"] = {
            "service": found.service.name,
            "operation": operation.name,
            "version": self._version,
        }
        return made

    def _parameter(self, name: str, field: Field, where: str, *, required: bool) -> dict[str, Any]:
        parameter: dict[str, Any] = {
            "name": name,
            "in": where,
            "required": required,
            "schema": dict(field.schema),
        }
        if where == "path" and parameter["schema"] == {"type": "string"}:
            parameter["schema"] = SEGMENT
        if description := field.schema.get("description"):
            parameter["description"] = description
        return parameter

    def _answer(self) -> dict[str, Any]:
        schema, output = self._schemas.output, self._found.operation.output
        if schema is None or output is None:
            return {"202": {"description": "Taken; there is no answer."}}
        as_json = {"schema": schema, **self._example(output)}
        content = {_JSON: as_json, **self._as_xml(output)}
        return {"200": {"description": "The answer.", "content": content}}

    def _as_xml(self, message: Message) -> dict[str, Any]:
        """The content of a message that is its element as it is in the WSDL, if it has just one
        (XML Object of OpenAPI 3.1)."""
        if len(message.parts) != 1:
            return {}
        [element] = message.parts.values()
        namespace, name = split(element.name)
        made: dict[str, Any] = {
            "schema": {
                "type": "object",
                "description": f"The element '{name}', as the WSDL has it.",
                "xml": {"name": name, **({"namespace": namespace} if namespace else {})},
            }
        }
        if example := self._example(message):
            with contextlib.suppress(BadMessage):
                made["example"] = message.write(example["example"]).body.decode()
        return {"application/xml": made}

    def _example(
        self, message: Message | FaultMessage, but: Iterable[tuple[str, ...]] = ()
    ) -> dict[str, Any]:
        """An example of a message without what the URL carries; nothing if there is none that is
        short."""
        from esb_soap.samples import NoSample, example

        try:
            data = example(self._mapping, message, _LONGEST_EXAMPLE)
        except NoSample:
            return {}
        for *outer, name in but:
            holder = data
            for key in outer:
                holder = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(holder, dict):
                holder.pop(name, None)
        return {"example": msgspec.json.decode(_AS_JSON.encode(data))}

    def _fault_answers(self) -> dict[str, Any]:
        """A response for each status that a declared fault may have."""
        by_status: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        examples: dict[int, dict[str, Any]] = {}
        for name, fault in self._schemas.faults.items():
            schema = {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "format": "uri-reference"},
                    "title": {"const": name},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "fault": fault,
                },
                "required": ["type", "title", "status"],
            }
            status = self._faults.get(name, 422)
            by_status.setdefault(status, []).append((name, schema))
            declared = self._found.operation.faults[name]
            made = self._example(declared)
            if made:
                told = {"type": fault_type(declared.element), "title": name, "status": status}
                value = {**told, "fault": made["example"]}
                examples.setdefault(status, {})[name] = {"value": value}
        return {
            str(status): {
                "description": f"Fault {' or '.join(name for name, _ in faults)}.",
                "content": {
                    _PROBLEM: {
                        "schema": faults[0][1]
                        if len(faults) == 1
                        else {"oneOf": [schema for _, schema in faults]},
                        **({"examples": examples[status]} if status in examples else {}),
                    }
                },
            }
            for status, faults in sorted(by_status.items())
        }


def _without(schema: Mapping[str, Any], path: tuple[str, ...], inputs: InputFields) -> Any:
    """A copy of a schema that lacks the property at `path`: the URL carries it."""
    schema = inputs.resolve(schema)
    name, *rest = path
    properties = dict(schema.get("properties", {}))
    if name not in properties:
        parts = [_without(part, path, inputs) for part in schema.get("allOf", ())]
        return {**schema, "allOf": parts} if parts else dict(schema)
    if rest:
        properties[name] = _without(properties[name], tuple(rest), inputs)
        return {**schema, "properties": properties}
    del properties[name]
    required = [other for other in schema.get("required", ()) if other != name]
    return {**schema, "properties": properties, "required": required}
