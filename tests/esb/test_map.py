"""`map`: a new body, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text
from support.steps import compiled, data, mistakes

from esb.config import load
from esb.envelope import Body, Envelope
from esb.errors import RouteFailure

ORDER = {
    "number": 7,
    "client": {"name": "Ann", "phone": None},
    "lines": [{"code": "a", "qty": 2, "tags": ["x", "y"]}, {"code": "b", "qty": 0, "tags": []}],
}


@pytest.mark.parametrize(
    ("step", "made"),
    [
        ("map: {id: body.number, kind: \"'order'\", version: 2, none: null}",
         {"id": 7, "kind": "order", "version": 2, "none": None}),
        ("map: {customer.name: body.client.name, customer.id: body.number, a.b.c: 'true'}",
         {"customer": {"name": "Ann", "id": 7}, "a": {"b": {"c": True}}}),
        ("map: {customer: {name: body.client.name}, customer.id: body.number}",
         {"customer": {"name": "Ann", "id": 7}}),
        ("map: {phone?: body.client.phone, fax?: body.client.fax.number, n?: body.number}",
         {"n": 7}),
        ("map: {twice?: body.price * 2, name: body.client.name}", {"name": "Ann"}),
        ("map: {phone: body.client.phone}", {"phone": None}),
        ("map: {/a.b/c: body.number}", {"a.b": {"c": 7}}),
        ("map: [body.number, {a: body.client.name}]", [7, {"a": "Ann"}]),
        ("map: body.client", {"name": "Ann", "phone": None}),
        ("map: {lines: {each: body.lines, map: {sku: item.code, at: index, of: body.number}}}",
         {"lines": [{"sku": "a", "at": 0, "of": 7}, {"sku": "b", "at": 1, "of": 7}]}),
        ("map: {each: body.lines, when: item.qty > 0, map: item.code}", ["a"]),
        ("map: {each: body.lines, map: {each: item.tags, map: item}}", [["x", "y"], []]),
        ("map: {x.each: body.number, map: body.number}", {"x": {"each": 7}, "map": 7}),
    ],
)  # fmt: skip
async def test_a_new_body_is_made_of_expressions(step: str, made: Any, tmp_path: Path) -> None:
    result = await compiled(f"- {step}", tmp_path)(data(ORDER))
    assert result.body.data == made
    assert result.content_type == "application/json"


async def test_one_value_is_written_as_what_it_is(tmp_path: Path) -> None:
    async def made(source: str, body: Body) -> tuple[bytes, str]:
        result = await compiled(f"- map: {source}", tmp_path)(Envelope(body=body))
        return result.body.raw, result.content_type

    form = Body(
        b'--X\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n\xff\r\n--X--',
        "multipart/form-data; boundary=X",
    )
    assert await made("body.f.content", form) == (b"\xff", "application/octet-stream")
    assert await made("body.a", Body.of({"a": "é"})) == ("é".encode(), "text/plain; charset=utf-8")
    xml = Body(b"<a><b>1</b></a>", "text/xml")
    assert (await made("elements('b') | first", xml))[0].endswith(b"<b>1</b>")
    assert await made("body.a", Body.of({"a": 1})) == (b"1", "application/json")


async def test_elements_are_asked_one_by_one(tmp_path: Path) -> None:
    step = """
        - map:
            number: xpath('//n') | int
            lines: {each: elements('//line'), map: {sku: xpath('@sku'), at: index}}
    """
    xml = Body(b"<o><n>7</n><line sku='a'/><line sku='b'/></o>", "text/xml")
    result = await compiled(step, tmp_path)(Envelope(body=xml))
    lines = [{"sku": "a", "at": 0}, {"sku": "b", "at": 1}]
    assert result.body.data == {"number": 7, "lines": lines}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("map: {a: body.nothing}", "body.nothing is missing"),
        ("map: {a?: body.number / 0}", "divides by zero"),
        ("map: {each: body.number, map: item}", "'body.number' gave a number, a list is needed"),
        ("map: {each: body.lines, map: item.nothing}", "item.nothing is missing"),
    ],
)
async def test_what_fails_says_what(step: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RouteFailure) as found:
        await compiled(f"- {step}", tmp_path)(data(ORDER))
    assert message in str(found.value)
    assert found.value.step == "steps[0].map"


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("map: {}", "5: nothing is mapped (map: {id: body.number})"),
        ("map:", "5: nothing is mapped (map: {id: body.number})"),
        ("map: {a: bdy.x}", "5: there is nothing called bdy (did you mean body?)"),
        ("map: {a: item.x}", "5: there is nothing called item"),
        ("map: {a..b: body}", "5: 'a..b' names no place"),
        ("map: {'items[].a': body}", "5: a list is made with 'each' and 'map'"),
        ("map: {a: body, a.b: body}", "5: 'a.b' is a field that is made above"),
        ("map: {a.b: body, a: body}", "5: 'a' is a field that is made above"),
        ("map: {each: body}", "5: 'map' is missing"),
        ("map: {each: [body], map: item}", "5: must be an expression"),
        ("map: {each: body, map: itm.a}", "5: there is nothing called itm (did you mean item?)"),
    ],
)
def test_mistakes(step: str, found: str, tmp_path: Path) -> None:
    [mistake] = mistakes(f"- {step}", tmp_path)
    assert mistake.startswith(found)


ENVIRONMENT = """
routes:
  orders:
    from: {http: {path: /r}}
    steps:
      - map: {region: env.REGION, route: route.name, zone: "env.ZONE | default('z')"}
"""


async def test_the_environment_and_the_route_have_names(tmp_path: Path) -> None:
    project = load_text(ENVIRONMENT, tmp_path, environ={"REGION": "eu"}).check()
    result = await project.routes[0].step(data())
    assert result.body.data == {"region": "eu", "route": "orders", "zone": "z"}


def test_a_variable_that_is_not_set_is_found_at_load(tmp_path: Path) -> None:
    [found] = load_text(ENVIRONMENT, tmp_path).diagnostics
    assert "the environment variable REGION is not set" in found.message
    assert (found.line, found.column) == (6, 26)
    unresolved = load([tmp_path / "routes.yaml"], environ=None, root=tmp_path)
    assert unresolved.diagnostics == []
