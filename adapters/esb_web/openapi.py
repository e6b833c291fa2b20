"""OpenAPI 3.1 documents from what is mounted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from esb_web.messages import Site
from esb_web.problems import PROBLEM

_PARAMETER: Final = re.compile(r"([:*])(\w+)")

SEGMENT: Final = {
    "type": "string",
    "pattern": r"^(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]+$",
}
"""What a segment of a path may be, once it is decoded: see `router.decode_segment`."""

_REST: Final = {"type": "string", "pattern": r"^[^\\\x00-\x1f\x7f]*$"}
_REFERENCE: Final = re.compile(r'"#/components/schemas/([^"/]+)')
_WHOLE_REFERENCE: Final = re.compile(r"(#/components/schemas/[^/]+)(.*)\Z")

_PROBLEM_SCHEMA: Final = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "id": {"type": "string", "description": "The message's id."},
        "errors": {
            "type": "array",
            "description": "What is wrong with the message, and where.",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "format": "json-pointer"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
    "required": ["type", "title", "status"],
}


def operation_of(
    name: str,
    path: str,
    *,
    summary: str = "",
    description: str = "",
    tags: Sequence[str] = (),
    body: bool = True,
    consumes: Sequence[str] = ("application/json",),
    schema: Any = None,
    status: int = 200,
    accepted: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The Operation Object of a route that has none of its own. accepted: the Response Object of
    its only good answer, that it took the message (202)."""
    operation: dict[str, Any] = {"operationId": name}
    if summary:
        operation["summary"] = summary
    if description:
        operation["description"] = description
    if tags:
        operation["tags"] = list(tags)
    parameters = path_parameters(path)
    if parameters:
        operation["parameters"] = parameters
    if body:
        content = {media: {"schema": schema if schema is not None else {}} for media in consumes}
        operation["requestBody"] = {"content": content, "required": schema is not None}
    answers = {
        str(status): {"description": "The answer."},
        "202": {"description": "Taken; `id` is the message's."},
        "204": {"description": "Taken, and nothing was to do."},
    }
    operation["responses"] = answers if accepted is None else {"202": accepted}
    return operation


def path_parameters(path: str) -> list[dict[str, Any]]:
    """The parameters in a Site's path."""
    return [
        {"name": name, "in": "path", "required": True, "schema": SEGMENT if one == ":" else _REST}
        for one, name in _PARAMETER.findall(path)
    ]


def embedded_schema(name: str, schema: Any) -> Any:
    """A JSON Schema as the component `name`: its references to itself lead to where it now is;
    what refers to other files is left open."""
    base = f"#/components/schemas/{name}"

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        reference = value.get("$ref")
        if isinstance(reference, str):
            if not reference.startswith("#"):
                return {}
            value = {**value, "$ref": base + reference[1:]}
        return {k: walk(v) for k, v in value.items() if k not in ("$schema", "$id")}

    return walk(schema)


def document(
    sites: Iterable[Site], *, url: str, title: str, description: str = "", version: str = "1"
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of some sites, served below `url`.

    Component schemas are merged by name; one that differs from an earlier one of its name gets a
    number behind it, and the operations of its site refer to it by that.
    """
    paths: dict[str, dict[str, Any]] = {}
    components = _Components()
    problem = {"schema": {"$ref": components.add({"Problem": _PROBLEM_SCHEMA})[_ref("Problem")]}}
    used: set[str] = set()
    known: dict[str, Mapping[str, Any]] = {}
    shown = sorted((s for s in sites if s.operation is not None), key=lambda s: (s.path, s.methods))
    # All are described before the first one's schemas are read: they may share one mapping.
    for site, (described, schemas) in [(site, site.described()) for site in shown]:
        renamed = components.add(schemas)
        item = paths.setdefault(openapi_path(site.path), {})
        for method in site.methods:
            operation = _renamed(described, renamed)
            identifier = operation.get("operationId") or f"{method} {site.path}"
            operation["operationId"] = _free(identifier, used)
            declared = {p.get("name") for p in operation.get("parameters", ())}
            missing = [p for p in path_parameters(site.path) if p["name"] not in declared]
            if missing:
                operation["parameters"] = [*operation.get("parameters", ()), *missing]
            if site.auth is not None and site.auth.described:
                known.update(site.auth.described)
                operation["security"] = [{name: []} for name in site.auth.described]
            if method in ("GET", "HEAD"):
                operation.pop("requestBody", None)
            operation["responses"] = {
                **operation.get("responses", {}),
                "default": operation.get("responses", {}).get(
                    "default", {"description": "An error.", "content": {PROBLEM: problem}}
                ),
            }
            if method.lower() in _OPENAPI_METHODS:
                item[method.lower()] = operation
    info: dict[str, Any] = {"title": title or "Enterprise service bus", "version": version}
    if description:
        info["description"] = description
    schemes = {"securitySchemes": known} if known else {}
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": url or "/"}],
        "paths": {path: item for path, item in paths.items() if item},
        "components": {"schemas": components.schemas, **schemes},
    }


_OPENAPI_METHODS: Final = frozenset(
    {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
)


def openapi_path(path: str) -> str:
    """A Site's path as OpenAPI writes it: "/a/{id}"."""
    return _PARAMETER.sub(r"{\2}", path)


def _free(name: str, used: set[str]) -> str:
    found, number = name, 2
    while found in used:
        found, number = f"{name}-{number}", number + 1
    used.add(found)
    return found


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"


class _Components:
    """Component schemas of many sites under names that are free.

    Two schemas are the same if they are equal and so is everything they refer to.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._seen: dict[int, dict[str, str]] = {}

    def add(self, schemas: Mapping[str, Any]) -> dict[str, str]:
        """Add the schemas of one site; what each reference to them has to be, by what it was."""
        seen = self._seen.get(id(schemas))
        if seen is not None:
            return seen
        texts = {name: json.dumps(schema, sort_keys=True) for name, schema in schemas.items()}
        refers = {
            name: set(_REFERENCE.findall(text)) & texts.keys() for name, text in texts.items()
        }
        renamed: dict[str, str] = {}
        new: list[str] = []
        for name in texts:
            reached = _reached(name, refers)
            whole = "\n".join(f"{n} {texts[n]}" for n in sorted(reached))
            found = self._names.get((name, whole))
            if found is None:
                found = self._names[name, whole] = _free(name, set(self._names.values()))
                new.append(name)
            renamed[_ref(name)] = _ref(found)
        for name in new:
            final = renamed[_ref(name)].rpartition("/")[2]
            self.schemas[final] = _renamed(schemas[name], renamed)
        self._seen[id(schemas)] = renamed
        return renamed


def _reached(name: str, refers: Mapping[str, set[str]]) -> set[str]:
    reached, todo = {name}, [name]
    while todo:
        for other in refers[todo.pop()] - reached:
            reached.add(other)
            todo.append(other)
    return reached


def _renamed(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            k: _moved(v, renamed) if k == "$ref" and isinstance(v, str) else _renamed(v, renamed)
            for k, v in value.items()
        }
    return [_renamed(item, renamed) for item in value] if isinstance(value, list) else value


def _moved(reference: str, renamed: Mapping[str, str]) -> str:
    found = _WHOLE_REFERENCE.match(reference)
    if found is None:
        return reference
    return renamed.get(found[1], found[1]) + found[2]
