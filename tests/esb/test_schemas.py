"""JSON Schema and XSD: exact, located, capped, and without any network."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import Body, Envelope
from esb.errors import BadMessage
from esb.schemas import MAX_ERRORS, SchemaError, compile_json_schema, compile_xsd, pointer

XS = 'xmlns:xs="http://www.w3.org/2001/XMLSchema"'


def check(schema: Any, data: Any) -> list[dict[str, str]]:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    try:
        compile_json_schema(schema)(Envelope(body=Body(raw, "application/json")))
    except BadMessage as e:
        return e.errors
    return []


# --- JSON Schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "raw", "valid"),
    [
        ({"type": "number"}, b"1.10", True),
        ({"type": "string"}, b"1.10", False),
        ({"type": "integer"}, b"1.0", True),
        ({"type": "integer"}, b"1.5", False),
        ({"type": "integer"}, b"123456789012345678901234567890", True),
        ({"multipleOf": Decimal("0.01")}, b"1.10", True),
        ({"multipleOf": 0.01}, b"1.11", True),
        ({"multipleOf": 0.01}, b"1.111", False),
        ({"maximum": Decimal("0.3")}, b"0.30000000000000000001", False),
        ({"maximum": 18446744073709551616}, b"18446744073709551617", False),
        ({"const": Decimal("1.10")}, b"1.1", True),
        ({"enum": [1]}, b"1.0", True),
        ({"uniqueItems": True}, b"[1, 1.0]", False),
        ({"maximum": 5}, b"1e400", False),
        ({"format": "date-time"}, b'"2025-01-01T00:00:00Z"', True),
        ({"format": "date-time"}, b'"yesterday"', False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]},
         b"[1]", False),
        (True, b"1", True),
    ],
)  # fmt: skip
def test_numbers_are_exact_and_formats_checked(schema: Any, raw: bytes, valid: bool) -> None:
    if schema is True:
        schema = {"not": False}
    assert (check(schema, raw) == []) is valid


def test_errors_say_where_and_hide_the_value() -> None:
    schema = {
        "type": "object",
        "properties": {
            "card": {"type": "string", "maxLength": 4},
            "a/b": {"items": {"type": "object", "properties": {"~c": {"maximum": 5}}}},
        },
        "required": ["id"],
    }
    errors = check(schema, {"card": "4111-1111-secret", "a/b": [{}, {"~c": 7}]})
    located = {error["pointer"]: error["detail"] for error in errors}
    assert located.keys() == {"", "/card", "/a~1b/1/~0c"}
    assert '"id" is a required property' in located[""]
    assert located["/a~1b/1/~0c"] == "the value is greater than the maximum of 5"
    assert "secret" not in json.dumps(errors)
    assert pointer(["a/b", 0, "~"]) == "/a~1b/0/~0"


def test_errors_are_few_and_short() -> None:
    errors = check({"items": {"type": "integer"}}, ["x"] * 1000)
    assert len(errors) == MAX_ERRORS
    errors = check({"enum": ["y" * 100 for _ in range(1)] + ["z" * 5000]}, "x")
    assert len(errors[0]["detail"]) <= 200


def test_data_that_is_no_json_does_not_match() -> None:
    validator = compile_json_schema({"type": "object"})
    for body in (Body(b"%PDF", "application/pdf"), Body(b"<a/>", "text/xml")):
        with pytest.raises(BadMessage, match="does not match the schema"):
            validator(Envelope(body=body))
    with pytest.raises(BadMessage, match="ends too early"):
        validator(Envelope(body=Body(b"{", "application/json")))


def test_hostile_patterns_and_depth_take_no_time() -> None:
    started = time.perf_counter()
    assert check({"pattern": "^(a+)+$"}, "a" * 10_000 + "!")
    assert check({"pattern": r"^(?=(a+)+$).*\1$"}, "a" * 10_000 + "!")
    nested: Any = 1
    for _ in range(190):
        nested = {"a": nested}
    recursive = {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n"}}}}}
    assert check(recursive, nested) == []
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nope"}, "at /type: 'nope'"),
        ({"properties": {"a": {"type": 7}}}, "at /properties/a/type"),
        ({"pattern": "(("}, "at /pattern"),
        ({"$ref": "#/$defs/nope"}, "/$defs/nope"),
        ({"$ref": "http://127.0.0.1:1/x.json"}, "beside the schema only"),
        ({"$ref": "https://127.0.0.1:1/x.json"}, "beside the schema only"),
        ({"$ref": "file:///etc/passwd"}, "beside the schema only"),
        ({"$ref": "other.json"}, "beside the schema only"),
        ({"$schema": "http://127.0.0.1:1/meta"}, "meta-schema"),
    ],
)
def test_a_wrong_schema_is_found_at_load(schema: Any, message: str) -> None:
    with pytest.raises(SchemaError) as e:
        compile_json_schema(schema)
    assert message in e.value.message


def test_references_reach_files_of_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)

    def write(name: str, schema: Any) -> Path:
        (folder / name).write_text(json.dumps(schema))
        return folder / name

    write("money.json", {"$id": "https://example.com/money", "type": "number", "multipleOf": 0.01})
    write("sub/line.json", {"properties": {"price": {"$ref": "../money.json"}}})
    main = write(
        "order.json",
        {
            "properties": {
                "lines": {"items": {"$ref": "sub/line.json"}},
                "total": {"$ref": "https://example.com/money"},
            }
        },
    )
    validator = compile_json_schema(main)
    assert {file.name for file in validator.files} == {"order.json", "line.json", "money.json"}
    assert check(main, b'{"lines":[{"price":1.10}],"total":1.10}') == []
    pointers = [e["pointer"] for e in check(main, b'{"lines":[{"price":1.111}],"total":1.111}')]
    assert sorted(pointers) == ["/lines/0/price", "/total"]
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    for ref in ("../secret.json", "link.json", "/etc/passwd", "nope.json", f"file://{tmp_path}/x"):
        with pytest.raises(SchemaError, match="beside the schema only"):
            compile_json_schema(write("bad.json", {"$ref": ref}))


def test_a_schema_file_that_is_no_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, line in (('{\n"a":}', 2), ("[]", 0)):
        file.write_text(text)
        with pytest.raises(SchemaError) as e:
            compile_json_schema(file)
        assert (e.value.file, e.value.line) == (str(file), line)


# --- XSD -----------------------------------------------------------------------------------------


def schema_file(folder: Path, content: str, name: str = "a.xsd") -> Path:
    file = folder / name
    file.write_text(f"<xs:schema {XS}>\n{content}\n</xs:schema>")
    return file


LINES = (
    '<xs:element name="a"><xs:complexType><xs:sequence>'
    '<xs:element name="b" type="xs:int" maxOccurs="unbounded"/>'
    "</xs:sequence></xs:complexType></xs:element>"
)


def test_xsd_errors_say_where(tmp_path: Path) -> None:
    validator = compile_xsd(schema_file(tmp_path, LINES))
    validator(Envelope(body=Body(b"<a><b>1</b><b>2</b></a>", "text/xml")))
    with pytest.raises(BadMessage) as e:
        validator(Envelope(body=Body(b"<a><b>1</b>\n<b>x</b><c/></a>", "text/xml")))
    assert e.value.errors == [
        {
            "pointer": "/a/b[2]",
            "detail": "line 2: 'x' is not a valid value of the atomic type 'xs:int'.",
        },
        {
            "pointer": "/a/c",
            "detail": "line 2: This element is not expected. Expected is ( b ).",
        },
    ]
    with pytest.raises(BadMessage) as e:
        validator(Envelope(body=Body(b"<a>" + b"<b>x</b>" * 100 + b"</a>", "text/xml")))
    assert len(e.value.errors) == MAX_ERRORS
    with pytest.raises(BadMessage, match="no XML"):
        validator(Envelope(body=Body(b"{}", "application/json")))


def test_a_message_cannot_bring_its_own_schema(tmp_path: Path) -> None:
    validator = compile_xsd(schema_file(tmp_path, '<xs:element name="a" type="xs:int"/>'))
    other = schema_file(tmp_path, '<xs:element name="zz"/>', "zz.xsd")
    xsi = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    raw = f'<zz {xsi} xsi:noNamespaceSchemaLocation="{other}"/>'.encode()
    with pytest.raises(BadMessage):
        validator(Envelope(body=Body(raw, "text/xml")))


def test_xsd_includes_come_from_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    small = (
        '<xs:simpleType name="T"><xs:restriction base="xs:int"><xs:maxInclusive value="5"/>'
        "</xs:restriction></xs:simpleType>"
    )
    schema_file(folder / "sub", small, "t.xsd")
    outside = schema_file(tmp_path, small, "t.xsd")
    (folder / "link.xsd").symlink_to(outside)
    element = '<xs:element name="a" type="T"/>'
    good = schema_file(folder, f'<xs:include schemaLocation="sub/t.xsd"/>{element}')
    validator = compile_xsd(good)
    assert {file.name for file in validator.files} == {"a.xsd", "t.xsd"}
    with pytest.raises(BadMessage):
        validator(Envelope(body=Body(b"<a>7</a>", "text/xml")))
    for location in ("../t.xsd", str(outside), f"file://{outside}", "link.xsd", "nope.xsd",
                     "http://169.254.169.254/t.xsd", "/etc/passwd"):  # fmt: skip
        for how in ("include", 'import namespace="urn:x"'):
            name = how.partition(" ")[0]
            file = schema_file(folder, f'<xs:{how} schemaLocation="{location}"/>{element}', "b.xsd")
            with pytest.raises(SchemaError) as e:
                compile_xsd(file)
            assert "an include fails" in e.value.message, name
            assert (e.value.file, e.value.line) == (str(file), 2)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('\n<xs:element name="a" type="xs:nope"/>', 3, "does not resolve"),
        ("<xs:element", 3, "not well-formed XML"),
        ("<xs:nope/>", 2, "content is not valid"),
    ],
)
def test_mistakes_in_an_xsd_are_found_at_load(
    content: str, line: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SchemaError) as e:
        compile_xsd(schema_file(tmp_path, content))
    assert message in e.value.message
    assert e.value.line == line
