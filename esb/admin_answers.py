"""What the document of the admin API says that no signature tells: refusals, which any operation
may get, what is no JSON, and who may."""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import Response, StreamingResponse

from esb.audit import LOOKS
from esb.identity import PUBLIC, Operators


class Octets(Response):
    """Bytes as they are."""

    media_type = "application/octet-stream"


class Lines(StreamingResponse):
    """A line of JSON for each thing that is told, as it happens."""

    media_type = "application/x-ndjson"


def _refusal(description: str) -> dict[str, Any]:
    # The listener's own refusals have a title, those of the API a detail.
    texts = {"title": {"type": "string"}, "detail": {}}
    schema = {"type": "object", "properties": texts, "minProperties": 1}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    400: _refusal("The body is no JSON."),
    401: _refusal("It is not known who asks."),
    403: _refusal("Who asks may not do this."),
    404: _refusal("There is no such thing."),
    409: _refusal("It cannot be done as things are."),
    422: _refusal("What was asked for makes no sense."),
    429: _refusal("Asked too often."),
    503: _refusal("It cannot be done now."),
}

MISTAKES: Final[dict[int | str, dict[str, Any]]] = {
    422: {
        "description": "There are mistakes in the files, or the request makes no sense.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def guarded(document: dict[str, Any], who: Operators) -> dict[str, Any]:
    """A copy of the document that tells how one proves who he is, and for each operation the roles
    that may, each of which is enough by itself (Security Requirement Object, OpenAPI 3.1)."""
    if who.auth is PUBLIC:
        return document
    paths: dict[str, Any] = {}
    for path, item in document["paths"].items():
        paths[path] = {
            method: {**operation, "security": _needed(method, who)}
            for method, operation in item.items()
        }
    components = {**document.get("components", {}), "securitySchemes": dict(who.auth.described)}
    return {**document, "paths": paths, "components": components}


def _needed(method: str, who: Operators) -> list[dict[str, list[str]]]:
    roles = who.operators | who.readers if method.upper() in LOOKS else who.operators
    return [{name: [role]} for name in who.auth.described for role in sorted(roles)]
