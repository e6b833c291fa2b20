"""YAML is read strictly, with positions, and nothing in a file can make the reader fall over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.strict_yaml import Document, Mark, References, plain_scalar, read_yaml


def read(text: str, environ: dict[str, str] | None = None, folder: Path = Path()) -> Document:
    return read_yaml(text, "f.yaml", folder, References({} if environ is None else environ))


def only(document: Document) -> tuple[int, int, str]:
    assert len(document.diagnostics) == 1, document.diagnostics
    found = document.diagnostics[0]
    return found.line, found.column, f"{found.message} ({found.hint})"


def test_words_that_yaml_1_1_takes_for_booleans_are_words() -> None:
    assert read("on: no\nyes: off\ny: n").data == {"on": "no", "yes": "off", "y": "n"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("010", 10), ("1.5", 1.5),
        ("1e3", 1000.0), (".5", 0.5), ("true", True), ("False", False), ("~", None), ("", None),
        ("1_000", "1_000"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("0x", "0x"),
        ("NO", "NO"), ("+", "+"), (".", "."), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_types_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = plain_scalar(text)
    assert (found, type(found)) == (value, type(value))


def test_quoted_scalars_are_text() -> None:
    assert read("a: '12'\nb: \"true\"\nc: |\n  1\n").data == {"a": "12", "b": "true", "c": "1\n"}


def test_each_key_and_value_knows_its_place() -> None:
    document = read(
        "routes:\n  orders:\n    from: {amqp: {queue: q}}\n    steps:\n      - log: x\n"
    )
    assert document.keys["routes", "orders", "from"] == Mark(3, 5)
    assert document.values["routes", "orders", "from", "amqp", "queue"] == Mark(3, 26)
    assert document.values["routes", "orders", "steps", 0] == Mark(5, 9)
    assert document.mark(("routes", "orders", "steps", 0, "log", "level")) == Mark(5, 14)


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "twice"),
        ("a: &x 1\n", 1, 4, "anchors"),
        ("a: *x\n", 1, 4, "aliases"),
        ("a: !!python/object/apply:os.system [x]\n", 1, 4, "tag"),
        ("a: 1\n---\nb: 2\n", 2, 1, "one document"),
        ("a:\n\tb: 1\n", 2, 1, "spaces"),
        ("a: b: c\n", 1, 5, "quote"),
        ("routes:\n  a:\n    x: 1\n   y: 2\n", 4, 4, "indentation"),
        ("a: {url: ${X}}\n", 1, 11, 'quote a reference: "${NAME}"'),
        ("a: @x\n", 1, 4, "quote"),
        ("? [a]\n: b\n", 1, 3, "plain word"),
        ("a: [1, 2\n", 1, 4, "not closed by a ]"),
        ("a: [\n", 2, 1, "the file ends before a bracket is closed"),
        ("a: {b: [1,, 2]}\n", 1, 11, "a value is missing here"),
        ("a: 'b' in c\n", 1, 8, "quote all of it"),
        ('a: "b" == c\n', 1, 8, "quote all of it"),
        ('a: "\\d"\n', 1, 5, "use single quotes"),
        ("a: 1\nb: x\x00y\n", 2, 5, "U+0000"),
        ("a: \x1b[1m\n", 1, 4, "U+001B"),
    ],
)
def test_what_is_not_allowed_is_found_where_it_stands(
    text: str, line: int, column: int, says: str
) -> None:
    found = only(read(text))
    assert found[:2] == (line, column)
    assert says in found[2]


def test_references_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    text = "a: ${X}\nb: ${Y:-z}/${X}\nc: $${X}\nd: ${file:secret}\ne: ${EMPTY}\n"
    document = read(text, {"X": "1", "EMPTY": ""}, tmp_path)
    assert document.data == {"a": "1", "b": "z/1", "c": "${X}", "d": "s3cret", "e": ""}
    assert document.diagnostics == []
    assert ("a",) in document.referenced
    assert ("c",) not in document.referenced


def test_a_missing_reference_is_a_mistake_with_the_way_out() -> None:
    document = read("a: 1\nb:   ${TOKEN}\n")
    message = "the environment variable TOKEN is not set"
    hint = "set it, or give a default: ${TOKEN:-...}"
    assert only(document) == (2, 6, f"{message} ({hint})")


def test_a_missing_secret_file_is_named_without_its_content(tmp_path: Path) -> None:
    found = only(read("a: ${file:nowhere}\n", folder=tmp_path))
    assert "nowhere" in found[2]
    assert "No such file" in found[2]


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 5_000, "- " * 5_000, "a: " + "[" * 61])
def test_deep_nesting_is_an_error_and_no_crash(text: str) -> None:
    assert read(text).diagnostics


def test_no_env_leaves_references_as_they_are() -> None:
    document = read_yaml("a: ${X}\nb: ${Y:-1}", "f.yaml", Path(), References(None))
    assert document.data == {"a": "${X}", "b": "1"}
    assert document.diagnostics == []


# JSON writes what is outside the BMP as surrogate pairs, which YAML does not know; DEL is no YAML;
# a key on one line has at most 1,024 characters.
texts = st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="\x7f"))
keys = st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="\x7f"), max_size=100)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | texts.filter(lambda t: "${" not in t),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(keys, plain, max_size=4))
def test_json_is_yaml(data: Any) -> None:
    document = read(json.dumps(data))
    assert document.diagnostics == []
    assert document.data == data


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    document = read(text)
    for found in document.diagnostics:
        assert found.line >= 0
        assert found.message
