"""Checks of a body against JSON Schema and XML Schema, compiled at load, without any network."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import jsonschema_rs
from lxml import etree

from esb.codecs.json import loads
from esb.envelope import Envelope
from esb.errors import BadMessage
from esb.xml import XmlFileError, parse_file

MAX_ERRORS = 20
"""How many errors are told to the sender of a message."""

_MAX_DETAIL = 200
_BASE: Final = "esb:///"
_VALUE: Final = "the value"


class SchemaError(ValueError):
    """A schema that cannot be compiled: `file` ("" for one in a route), `line` or 0, `hint`."""

    def __init__(self, message: str, file: str = "", line: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.hint = hint


# --- JSON Schema ---------------------------------------------------------------------------------


class JsonSchema:
    """A compiled JSON Schema; called with an envelope it raises BadMessage if its body is none.

    The errors locate what is wrong by JSON pointer (RFC 6901). `files` are the files it is made of.
    """

    def __init__(self, validator: Any, files: frozenset[Path]) -> None:
        self.files = files
        self._validator = validator

    def __call__(self, envelope: Envelope) -> None:
        self.check(envelope.body.data)

    def check(self, data: Any) -> None:
        """Check plain data. Raises BadMessage."""
        try:
            if self._validator.is_valid(data):
                return
            errors = list(islice(self._validator.iter_errors(data), MAX_ERRORS))
        except ValueError as e:  # data that no JSON could hold: bytes, XML
            raise BadMessage("the body is no JSON, so it does not match the schema") from e
        raise BadMessage("the body does not match the schema", [_located(e) for e in errors])


def _located(error: Any) -> dict[str, str]:
    return {"pointer": pointer(error.instance_path), "detail": _shortened(error.message)}


def pointer(path: Any) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and numbers."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else text[: _MAX_DETAIL - 3] + "..."


def compile_json_schema(
    schema: Mapping[str, Any] | Path, *, folder: Path | None = None
) -> JsonSchema:
    """Compile a JSON Schema (2020-12 unless it says another draft): a file, or the schema itself.

    `$ref` reaches files of `folder` (that of the schema's file when left out), by their name or by
    their `$id`, never the network.
    Formats are checked. Raises SchemaError.
    """
    files: set[Path] = set()
    if isinstance(schema, Path):
        shown, folder = str(schema), (folder or schema.parent).resolve()
        loaded = _read(schema, shown)
        files.add(schema.resolve())
        base = _BASE + schema.resolve().relative_to(folder).as_posix()
    else:
        shown, loaded, base = "", dict(schema), _BASE
        folder = folder.resolve() if folder else None
    retrieve = _retriever(folder, files)
    try:
        validator = jsonschema_rs.validator_for(
            loaded,
            validate_formats=True,
            retriever=retrieve,
            base_uri=base,
            mask=_VALUE,  # the value itself may be a secret, and its sender has it
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000),
        )
    except jsonschema_rs.ValidationError as e:
        where = pointer(e.instance_path)
        at = f" at {where}" if where else ""
        message = e.message.partition("ValueError: ")[2] or e.message
        if message.startswith(_VALUE):
            message = repr(e.instance)[:60] + message.removeprefix(_VALUE)
        raise SchemaError(f"the schema is wrong{at}: {_shortened(message)}", shown) from e
    except (jsonschema_rs.ReferencingError, ValueError) as e:
        raise SchemaError(f"the schema is wrong: {_shortened(str(e))}", shown) from e
    return JsonSchema(validator, frozenset(files))


def _read(path: Path, shown: str) -> Any:
    try:
        loaded = loads(path.read_bytes())
    except BadMessage as e:
        found = re.search(r"line (\d+)", e.detail)
        line = int(found[1]) if found else 0
        raise SchemaError(e.detail.replace("the body", "this"), shown, line) from e
    except OSError as e:
        raise SchemaError(f"{path.name} cannot be read", shown) from e
    if not isinstance(loaded, dict | bool):
        raise SchemaError("a JSON Schema is an object", shown)
    return loaded


def _retriever(folder: Path | None, files: set[Path]) -> Callable[[str], Any]:
    def retrieve(uri: str) -> Any:
        parts = urlsplit(uri)
        if parts.scheme == "esb" and folder is not None:
            file = (folder / unquote(parts.path).lstrip("/")).resolve()
            if file.is_relative_to(folder) and file.is_file():
                files.add(file)
                return _read(file, str(file))
        elif folder is not None:
            for file in sorted(folder.rglob("*.json")):
                loaded = _read(file, str(file))
                if isinstance(loaded, dict) and loaded.get("$id") == uri:
                    files.add(file)
                    return loaded
        raise ValueError(f"$ref reaches files beside the schema only, not {uri}")

    return retrieve


# --- XML Schema ----------------------------------------------------------------------------------


class XmlSchema:
    """A compiled XSD 1.0; called with an envelope it raises BadMessage if its body is not valid.

    The errors locate what is wrong by path and line. `files` are the files it is made of.
    """

    def __init__(self, schema: etree.XMLSchema, files: frozenset[Path]) -> None:
        self.files = files
        self._schema = schema
        self._lock = threading.Lock()  # the log of errors belongs to the schema, not to the call

    def __call__(self, envelope: Envelope) -> None:
        root = envelope.body.data
        if not isinstance(root, etree._Element):
            raise BadMessage("the body is no XML, so it does not match the schema")
        with self._lock:
            if self._schema.validate(root):
                return
            errors = [
                {
                    "pointer": entry.path or "",
                    "detail": _shortened(f"line {entry.line}: {_plain(entry.message)}"),
                }
                for entry in islice(cast(Iterable[Any], self._schema.error_log), MAX_ERRORS)
            ]
        raise BadMessage("the body does not match the schema", errors)


def _plain(message: str) -> str:
    return message.split(": ", 1)[-1] if message.startswith("Element '") else message


def compile_xsd(
    path: Path,
    *,
    folder: Path | None = None,
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> XmlSchema:
    """Compile an XML Schema; what it includes or imports lies in `folder`, that of its file if left
    out. read: gives the content of each file. Raises SchemaError with file and line."""
    try:
        root, resolver = parse_file(path, folder or path.parent, read)
    except XmlFileError as e:
        raise SchemaError(e.message, str(path), e.line) from e
    try:
        schema = etree.XMLSchema(root.getroottree())
    except (etree.XMLSchemaParseError, OSError) as e:
        entries = list(getattr(e, "error_log", ()))
        line = next((entry.line for entry in entries if entry.line), 0)
        if resolver.refused:
            raise SchemaError(f"an include fails: {resolver.refused[0]}", str(path), line) from e
        message = entries[0].message if entries else str(e)
        raise SchemaError(_shortened(_plain(message)), str(path), line) from e
    return XmlSchema(schema, frozenset({path.resolve(), *resolver.files}))
