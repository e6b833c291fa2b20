"""The documents about what is served: valid OpenAPI 3.1, and pages that need no other server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from support.bus import running, url
from support.web import ask, serving, site

from esb.envelope import Headers
from esb.errors import BadMessage
from esb_web.openapi import document, embedded_schema, operation_of
from esb_web.router import decode_segment


async def get(url: str, path: str, *headers: str) -> tuple[int, Headers, bytes]:
    lines = "".join(f"{header}\r\n" for header in ("Host: bus.example", *headers))
    return await ask(url, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())


ORDER = {"type": "object", "properties": {"of": {"$ref": "#/components/schemas/Partner"}}}


def described(name: str, path: str, **options: Any) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Order"}
    return {"operation": operation_of(name, path, schema=reference, **options)}


def test_a_document_is_valid_and_complete() -> None:
    schemas = {"Order": ORDER, "Partner": {"type": "string"}}
    found = document(
        [
            site("/orders/:id", "GET", "PUT", **described("order", "/orders/:id"), schemas=schemas),
            site("/files/*rest", "GET", operation={"responses": {"200": {"description": "a"}}}),
            site("/orders", "POST", **described("order", "/orders"), schemas=schemas),
            site("/hidden", "GET"),
        ],
        url="/esb",
        title="Orders",
        description="All of them",
    )
    validate(found)
    assert found["openapi"].startswith("3.1")
    assert found["servers"] == [{"url": "/esb"}]
    assert list(found["paths"]) == ["/files/{rest}", "/orders", "/orders/{id}"]
    item = found["paths"]["/orders/{id}"]
    assert set(item) == {"get", "put"}
    assert "requestBody" not in item["get"]
    assert item["put"]["parameters"][0]["name"] == "id"
    problem = item["put"]["responses"]["default"]["content"]["application/problem+json"]
    assert problem["schema"]["$ref"] == "#/components/schemas/Problem"
    identifiers = re.findall(r'"operationId": "([^"]+)"', json.dumps(found))
    assert len(identifiers) == len(set(identifiers)) == 4
    assert set(found["components"]["schemas"]) == {"Problem", "Order", "Partner"}


def test_a_parameter_of_a_path_says_what_a_segment_may_be() -> None:
    good = ["7", "a b", "ü", "...", ".a", "a:b*"]
    found = document([site("/a/:id", **described("a", "/a/:id"))], url="", title="")
    [told] = found["paths"]["/a/{id}"]["post"]["parameters"]
    check = Draft202012Validator(told["schema"])
    for value in good:
        assert check.is_valid(value)
        assert decode_segment(quote(value, safe="")) == value
    for value in (".", "..", "a/b", "a\\b", "a\nb", "\x00", "\x7f"):
        assert not check.is_valid(value)
        with pytest.raises(BadMessage):
            decode_segment(quote(value, safe=""))
    found = document([site("/a/*rest", **described("a", "/a/*rest"))], url="", title="")
    [told] = found["paths"]["/a/{rest}"]["post"]["parameters"]
    check = Draft202012Validator(told["schema"])
    assert all(map(check.is_valid, ["", "a/b", *good]))
    assert not check.is_valid("a/\nb")


def test_schemas_of_one_name_are_kept_apart() -> None:
    def partners(kind: str) -> dict[str, Any]:
        return {"Order": ORDER, "Partner": {"type": kind}, "Same": {"type": "boolean"}}

    found = document(
        [
            site("/a", **described("a", "/a"), schemas=partners("string")),
            site("/b", **described("b", "/b"), schemas=partners("integer")),
            site("/c", **described("c", "/c"), schemas=partners("string")),
        ],
        url="",
        title="",
    )
    validate(found)
    schemas = found["components"]["schemas"]
    # Order itself is the same text in both, and means another thing in each.
    assert set(schemas) == {"Problem", "Order", "Partner", "Same", "Order-2", "Partner-2"}

    def partner_of(path: str) -> Any:
        body = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        order = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        return schemas[order["properties"]["of"]["$ref"].rpartition("/")[2]]["type"]

    assert [partner_of(p) for p in ("/a", "/b", "/c")] == ["string", "integer", "string"]


def test_a_schema_moves_with_its_references() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/claim",
        "properties": {"a": {"$ref": "#/$defs/a"}, "self": {"$ref": "#"}, "x": {"$ref": "x.json"}},
        "$defs": {"a": {"type": "string"}},
    }
    moved = embedded_schema("claim", schema)
    assert moved["properties"] == {
        "a": {"$ref": "#/components/schemas/claim/$defs/a"},
        "self": {"$ref": "#/components/schemas/claim"},
        "x": {},
    }
    assert not {"$schema", "$id"} & set(moved)


async def test_the_pages() -> None:
    sites = (
        site("/partners/:id", "GET", api="/partners", title="Part<ners>",
             operation={"responses": {"200": {"description": "one"}}, "summary": "<b>one</b>"}),
        site("/claims", operation={"responses": {"200": {"description": "one"}}}),
    )  # fmt: skip
    async with serving(
        *sites, docs=True, base_path="/esb", trusted_proxies=["127.0.0.1"]
    ) as server:
        url = server.url
        status, headers, body = await get(url, "/esb/openapi.json")
        assert status == 200
        whole = json.loads(body)
        validate(whole)
        assert set(whole["paths"]) == {"/partners/{id}", "/claims"}
        assert whole["servers"] == [{"url": "/esb"}]
        _, _, body = await get(url, "/esb/partners/openapi.json", "X-Forwarded-Prefix: /v1")
        part = json.loads(body)
        validate(part)
        assert set(part["paths"]) == {"/partners/{id}"}
        assert part["info"]["title"] == "Part<ners>"
        assert part["servers"] == [{"url": "/v1/esb"}]
        for path in ("/esb/docs", "/esb/partners/docs", "/esb/"):
            status, headers, body = await get(url, path)
            assert status == 200, path
            assert "default-src 'none'" in headers.get("content-security-policy")
            page = body.decode()
            assert "<b>one" not in page
            assert "<ners>" not in page
            # Every file that the page asks for is served here.
            assert not re.findall(r'(?:src|href)="https?:', page)
            for asset in re.findall(r'(?:src|href)="(/[^"]+)"', page):
                status, _, body = await get(url, asset)
                assert (status, bool(body)) == (200, True), asset
        # A parameter does not take the place of a page, a path of its own does.
        assert (await get(url, "/esb/partners/7"))[0] == 200
        for path in ("/esb/claims/docs", "/docs", "/esb/docs/assets/../x", "/esb/nope/docs"):
            assert (await get(url, path))[0] in (400, 404), path
        server.mount(site("/docs", "GET"))
        assert (await get(url, "/esb/docs"))[2].startswith(b"GET /docs")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/"])
async def test_documents_can_be_turned_off(path: str) -> None:
    async with serving(site("/a", operation={"responses": {}}), docs=False) as server:
        assert (await get(server.url, path))[0] == 404


async def test_a_document_follows_what_is_mounted() -> None:
    first, second = (site(path, operation={"responses": {}}) for path in ("/a", "/b"))
    async with serving(first, docs=True) as server:
        for change, expected in (
            (lambda: None, {"/a"}),
            (lambda: server.mount(second), {"/a", "/b"}),
            (lambda: server.unmount(first), {"/b"}),
        ):
            change()
            _, _, body = await get(server.url, "/openapi.json")
            assert set(json.loads(body)["paths"]) == expected


async def test_a_route_says_what_it_is_for(tmp_path: Path) -> None:
    text = f"""
    listen: {{port: 0}}
    routes:
      short: {{description: For clerks., from: {{http: /short}}, steps: [log: a]}}
      long: {{description: "{"x" * 200}", from: {{http: /long}}, steps: [log: a]}}
      own:
        description: Of the route
        from: {{http: {{path: /own, summary: Its own}}}}
        steps: [log: a]
    """
    async with running(text, tmp_path) as bus:
        _, _, page = await get(url(bus), "/")
        assert b"For clerks." in page
        _, _, content = await get(url(bus), "/openapi.json")
    told = [json.loads(content)["paths"][path]["post"] for path in ("/short", "/long", "/own")]
    assert [(one.get("summary"), one.get("description")) for one in told] == [
        ("For clerks.", None), (None, "x" * 200), ("Its own", None),
    ]  # fmt: skip
