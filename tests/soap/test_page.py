"""What docs/soap-json.md shows is so: its examples, both ways, and its refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.wsdl import NAMESPACES, Feature, canonical, element, exact, feature_of

from esb.codecs.json import loads
from esb.errors import BadMessage
from esb_soap.wsdl import load_wsdl

PAGE = Path(__file__).parents[2] / "docs" / "soap-json.md"
MESSAGES = Path(__file__).parent / "messages"

_PART = re.compile(
    r"^## (?P<heading>[^\n]+)$"
    r"|^<!-- (?P<wsdl>\S+\.wsdl) (?P<operation>\w+) -->$"
    r"|^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Example(NamedTuple):
    """schema: a schema, or a message of the folder as (file, operation). xml: the document that
    the data are, or the words for what is wrong with them."""

    schema: str | tuple[str, str]
    json: str
    xml: str
    words: str


def examples() -> list[Any]:
    """All examples, each named after its section."""
    found: list[Any] = []
    heading, xml, json = "", "", ""
    of: str | tuple[str, str] = ""
    number = 0
    for part in _PART.finditer(PAGE.read_text()):
        kind, text = part["kind"], part["text"]
        if part["heading"]:
            heading, number = part["heading"], 0
        elif part["wsdl"]:
            of = (part["wsdl"], part["operation"])
        elif kind == "xsd":
            of = text
        elif kind == "xml":
            xml = text
        elif kind == "json":
            json = text
        if kind in ("json", "text") and (xml or kind == "text"):
            number += 1
            one = Example(of, json, xml if kind == "json" else "", text if kind == "text" else "")
            found.append(pytest.param(one, id=f"{heading} {number}"))
            xml = ""
    return found


EXAMPLES = examples()


def message_of(example: Example, folder: Path) -> Feature:
    if isinstance(example.schema, str):
        return feature_of(example.schema, folder)
    file, name = example.schema
    wsdl = load_wsdl(MESSAGES / file)
    return Feature(wsdl, next(o.input for _, _, o in wsdl.operations() if o.name == name))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.values[0].xml])
def test_an_example_is_so(example: Example, tmp_path: Path) -> None:
    it = message_of(example, tmp_path)
    data = loads(example.json.encode())
    assert it.refused_by_schema(data) == ""
    if isinstance(example.schema, str):
        xml = example.xml.strip()
        assert exact(it.read(xml)) == exact(data)
        assert canonical(it.write(data)) == canonical(element(xml))
    else:
        envelope = element(without_indentation(example.xml))
        header = envelope.find(f"{{{NAMESPACES['env']}}}Header")
        body = envelope.find(f"{{{NAMESPACES['env']}}}Body")
        assert body is not None
        assert exact(it.message.read(body, header)) == exact(data)
        written = it.message.write(data)
        assert canonical(inside_of("Body", written.body)) == canonical(body)
        if header is not None:
            assert canonical(inside_of("Header", *written.headers)) == canonical(header)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not e.values[0].xml])
def test_a_refusal_is_told_so(example: Example, tmp_path: Path) -> None:
    it = message_of(example, tmp_path)
    data = loads(example.json.encode())
    with pytest.raises(BadMessage) as refused:
        it.write(data)
    said = [f"{e['pointer']} {e['detail']}".strip() for e in refused.value.errors]
    assert example.words.strip() in said
    assert it.refused_by_schema(data) != ""


def test_each_section_with_a_schema_has_an_example() -> None:
    text = PAGE.read_text()
    shown = {e.values[0].schema for e in EXAMPLES}
    assert set(re.findall(r"^```xsd\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)) <= shown
    assert text.count("```json") == len(EXAMPLES)


def without_indentation(xml: str) -> str:
    return re.sub(r">\s+<", "><", xml.strip())


def inside_of(name: str, *written: bytes) -> bytes:
    return (
        f'<e:{name} xmlns:e="{NAMESPACES["env"]}">{b"".join(written).decode()}</e:{name}>'.encode()
    )
