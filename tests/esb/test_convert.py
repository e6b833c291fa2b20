"""`convert`: the same content in another format, and what cannot be is told with its place."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text

import esb.step
from esb.codecs import FORMATS
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, EsbError, RouteFailure, UnsupportedMedia
from esb.step import Step
from esb.steps import convert


def route(step: str, folder: Path) -> Step:
    """The step of a route with this one step."""
    text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
    project = load_text(text + textwrap.indent(f"- {step}\n", " " * 6), folder)
    assert project.diagnostics == []
    return project.routes[0].step


def problems(step: str, folder: Path) -> list[tuple[int, int, str]]:
    text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
    project = load_text(text + textwrap.indent(f"- {step}\n", " " * 6), folder)
    return [(d.line, d.column, d.message + d.hint) for d in project.diagnostics]


CSV = b"id;name\r\n1;Ada\r\n2;Bob\r\n"
ROWS = [{"id": "1", "name": "Ada"}, {"id": "2", "name": "Bob"}]


@pytest.mark.parametrize(
    ("step", "given", "raw", "content_type"),
    [
        (
            'convert: {from: {csv: {delimiter: ";"}}, to: json}',
            Body(CSV, "application/octet-stream"),
            b'[{"id":"1","name":"Ada"},{"id":"2","name":"Bob"}]',
            "application/json",
        ),
        (
            "convert: json",
            Body(CSV, 'text/csv; delimiter=";"'),
            b'[{"id":"1","name":"Ada"},{"id":"2","name":"Bob"}]',
            "application/json",
        ),
        (
            'convert: {to: {csv: {delimiter: ";"}}}',
            Body.of(ROWS),
            CSV,
            'text/csv; charset=utf-8; delimiter=";"',
        ),
        (
            "convert: {to: {fixed: {layout: [{id: {width: 4, type: int}}, {name: 5}]}}}",
            Body.of(ROWS),
            b"   1Ada  \n   2Bob  \n",
            "text/plain; charset=utf-8",
        ),
        (
            "convert: {from: {fixed: {layout: [id: 1, name: 3]}}, to: ndjson}",
            Body(b"1Ada\n2Bob\n", "text/plain"),
            b'{"id":"1","name":"Ada"}\n{"id":"2","name":"Bob"}\n',
            "application/x-ndjson",
        ),
        (
            "convert: json",
            Body(b"<order id='1'><line>a</line><line>b</line></order>", "text/xml"),
            b'{"order":{"@id":"1","line":["a","b"]}}',
            "application/json",
        ),
        (
            "convert: {to: {xml: {root: rows, item: row}}}",
            Body.of(ROWS[:1]),
            b"<?xml version='1.0' encoding='utf-8'?>\n"
            b"<rows><row><id>1</id><name>Ada</name></row></rows>",
            "application/xml; charset=utf-8",
        ),
        ("convert: yaml", Body.of({"a": [1, "1"]}), b'a:\n- 1\n- "1"\n', "application/yaml"),
        ("convert: form", Body.of({"a": 1}), b"a=1", "application/x-www-form-urlencoded"),
        ("convert: {from: lines, to: json}", Body(b"a\nb\n", ""), b'["a","b"]', "application/json"),
        ("convert: text", Body(b'"a"', "application/json"), b"a", "text/plain; charset=utf-8"),
    ],
)
async def test_one_format_becomes_another(
    step: str, given: Body, raw: bytes, content_type: str, tmp_path: Path
) -> None:
    result = await route(step, tmp_path)(Envelope(body=given))
    assert result.body.raw == raw
    assert result.content_type == content_type


async def test_what_was_converted_is_read_again_by_its_type(tmp_path: Path) -> None:
    step = route('convert: {to: {csv: {delimiter: ";", header: false}}}', tmp_path)
    result = await step(Envelope(body=Body.of([[1, 2]])))
    assert result.body.data == [["1", "2"]]
    form = await route("convert: multipart", tmp_path)(Envelope(body=Body.of({"a": "b"})))
    assert form.body.data == {"a": "b"}


async def test_a_large_body_is_converted_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esb.step, "LARGE", 10)
    file = tmp_path / "rows.csv"
    file.write_bytes(CSV)
    body = Body.from_file(file, 'text/csv; delimiter=";"')
    result = await route("convert: json", tmp_path)(Envelope(body=body))
    assert result.body.data == ROWS


@pytest.mark.parametrize(
    ("step", "given", "error", "message"),
    [
        ("convert: json", Body(b"a,b\n1\n", "text/csv"), BadMessage, "row 2 of the CSV (line 2)"),
        ("convert: json", Body(b"x", "weird"), UnsupportedMedia, "no format reads weird"),
        ("convert: csv", Body.of({"a": 1}), RouteFailure, "a list of rows"),
        ("convert: json", Body(b"<a", "text/xml"), BadMessage, "line 1"),
        ("convert: xml", Body.of({"a": 1, "b": 2}), RouteFailure, "`root`"),
    ],
)
async def test_what_cannot_be_converted(
    step: str, given: Body, error: type[EsbError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as found:
        await route(step, tmp_path)(Envelope(body=given))
    assert message in str(found.value)
    assert found.value.step == "steps[0].convert"


@pytest.mark.parametrize(
    ("step", "place", "message"),
    [
        ("convert: jsn", (5, 18), "there is no format 'jsn': did you mean 'json'?"),
        ("convert: {to: {cvs: {}}}", (5, 24), "unknown key 'cvs'did you mean 'csv'?"),
        ("convert: {from: csv}", (5, 9), "'to' is missing"),
        ("convert: {to: {csv: {delimiter: ab}}}", (5, 41), "must be one character"),
        ("convert: {to: {csv: {delimeter: ';'}}}", (5, 30), "did you mean 'delimiter'?"),
        ("convert: {to: {csv: {charset: utf-9}}}", (5, 39), "there is no charset 'utf-9'"),
        ("convert: {to: {fixed: {}}}", (5, 24), "'layout' is missing"),
        ("convert: {to: {csv: {}, json: {}}}", (5, 23), "one format: a name, or"),
        ("convert: {to: {csv: 5}}", (5, 23), "the options of csv are a mapping"),
    ],
)
def test_mistakes_have_their_place(
    step: str, place: tuple[int, int], message: str, tmp_path: Path
) -> None:
    [(line, column, found)] = problems(step, tmp_path)
    assert message in found
    assert (line, column) == place


def test_each_format_is_in_the_schema() -> None:
    schema: Any = convert.ConvertOptions.model_json_schema()
    names = schema["properties"]["to"]["anyOf"][0]["enum"]
    assert {"csv", "fixed", "json", "lines", "multipart", "ndjson", "xml", "yaml"} <= set(names)
    formats = schema["$defs"]["FormatChoice"]["properties"]
    assert set(formats) == set(names)
    assert {"type": "string"} in formats["multipart"]["anyOf"]  # its shorthand
    assert {"type": "string"} not in formats["csv"]["anyOf"]


def test_what_was_chosen_is_shown_with_all_its_options() -> None:
    options = convert.ConvertOptions.model_validate(
        {"from": {"csv": {"header": False}}, "to": "json"}
    )
    assert options.model_dump(by_alias=True) == {
        "from": {
            "csv": {
                "delimiter": ",",
                "quote": '"',
                "header": False,
                "columns": [],
                "charset": "utf-8",
            }
        },
        "to": {"json": {}},
    }


def test_the_routes_on_the_page_about_formats_load(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert load_text(block, tmp_path).diagnostics == []


async def test_the_mapping_on_the_page_is_the_mapping(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    [xml] = re.findall(r"```xml\n(.*?)```", page, re.DOTALL)
    [data] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    there = await route("convert: json", tmp_path)(Envelope(body=Body(xml.encode(), "text/xml")))
    assert there.body.data == json.loads(data)
    back = await route("convert: xml", tmp_path)(there)
    assert xml.strip().encode() in back.body.raw
    assert {f"| `{name}` |" in page for name in FORMATS} == {True}
