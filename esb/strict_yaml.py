"""YAML read strictly, with the position of every key and value.

The YAML 1.2 core schema decides types, so `on` and `no` are words. Aliases, anchors, tags,
duplicate keys and several documents are errors. Parse events are read one by one: depth and size
are bounded, whatever the file holds. `${...}` in a value is a reference (see esb.secrets), resolved
here; `$${` is a literal `${`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from esb.codecs.yaml import MAX_BYTES, MAX_DEPTH, bracketed, events, plain_scalar
from esb.errors import Diagnostic
from esb.indentation import culprit
from esb.redaction import is_secret_name
from esb.secrets import ENV_NAME, References

READING = frozenset({"yaml", "reference", "duplicate-key"})
"""The codes of mistakes that are found here."""

YamlPath = tuple[str | int, ...]

REFERENCE = re.compile(r"\$(\$)?\{([^{}]*)\}")
_HALF_A_REFERENCE = re.compile(r"\$\{|\$[A-Za-z_]\w*:-[^{}]*\}")

_UNCLOSED = re.compile(r"did not find expected ',' or '(.)'|found unexpected end of stream")
"""What libyaml says where it gave up looking for the end of a bracket or a quote."""

_BLOCK = re.compile(r"did not find expected (key|'-' indicator|<document start>)")
"""What it says where a line fits no block."""

_NO_COLON = "could not find expected ':'"


class Mark(NamedTuple):
    """A position; both count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """One file: its plain data and where each part of it stands.

    values, keys: marks by path; `texts`: where the text of a scalar on one line begins, so that an
    offset into it is a column; `referenced`: paths whose value came from outside, so that no
    message ever repeats it; `open`: those whose value nobody here can say. origins: parts of the
    data that are written elsewhere: in which document, and where in it. note: what to add to a
    mistake, such as who uses this.
    """

    file: str
    folder: Path
    data: Any = None
    values: dict[YamlPath, Mark] = field(default_factory=dict)
    keys: dict[YamlPath, Mark] = field(default_factory=dict)
    texts: dict[YamlPath, Mark] = field(default_factory=dict)
    referenced: set[YamlPath] = field(default_factory=set)
    open: set[YamlPath] = field(default_factory=set)
    origins: dict[YamlPath, tuple[Document, YamlPath]] = field(default_factory=dict)
    note: str = ""
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def origin(self, path: YamlPath) -> tuple[Document, YamlPath]:
        """Where the part at `path` is written: the document, and the path in it."""
        if self.origins:
            for length in range(len(path), -1, -1):
                if (found := self.origins.get(path[:length])) is not None:
                    document, there = found
                    return document.origin((*there, *path[length:]))
        return self, path

    def view(self, note: str) -> Document:
        """The same places, with another note, and with origins of its own beside these."""
        return replace(self, data=None, note=note, origins=dict(self.origins), diagnostics=[])

    def mark(self, path: YamlPath, *, key: bool = False) -> Mark:
        """Where `path` stands, or the nearest thing around it that is written in the file."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
            if key and path in self.keys:
                return self.keys[path]
        return self.values.get(path, Mark(1, 1))

    def text_mark(self, path: YamlPath, offset: int) -> Mark:
        """The position of the character `offset` of the text at `path`, as near as can be told."""
        start = self.texts.get(self._nearest(path))
        return Mark(start.line, start.column + offset) if start else self.mark(path)

    def is_text(self, path: YamlPath) -> bool:
        """Whether an offset into the text at `path` is one of columns."""
        return self._nearest(path) in self.texts

    def is_referenced(self, path: YamlPath) -> bool:
        """Whether the value at `path` has a reference in it."""
        return self._nearest(path) in self.referenced

    def is_open(self, path: YamlPath) -> bool:
        """Whether it has one that stands for itself, since nobody here can say its value."""
        return self._nearest(path) in self.open

    def _nearest(self, path: YamlPath) -> YamlPath:
        while path and path not in self.values:  # a shorthand: the text stands one level up
            path = path[:-1]
        return path

    def problem(self, mark: Mark | None, code: str, message: str, hint: str = "") -> None:
        """Record a mistake at `mark`."""
        line, column = mark or (0, 0)
        self.diagnostics.append(Diagnostic(self.file, line, column, code, message, hint))


class Environment(Mapping[str, str]):
    """The environment variables, as `${NAME}` would be resolved: what was asked for is remembered
    there, so that secrets among them are known."""

    def __init__(self, references: References) -> None:
        self._references = references

    def __getitem__(self, name: str) -> str:
        if not ENV_NAME.match(name):
            raise KeyError(name)
        try:
            return self._references.resolve(name, Path())
        except ValueError as e:
            raise KeyError(name) from e

    def __iter__(self) -> Iterator[str]:
        return iter(self._references.environ or ())

    def __len__(self) -> int:
        return len(self._references.environ or ())


def resolved(
    text: str, folder: Path, references: References, problem: Callable[[str, str], object]
) -> str:
    """A text with the values of its references. problem: is told what is wrong, and a hint."""

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        try:
            return references.resolve(match[2], folder)
        except ValueError as e:
            unset = "is not set" in str(e)
            problem(str(e), f"set it, or give a default: ${{{match[2]}:-...}}" if unset else "")
            return match[0]  # as with `--no-env`, so that nobody misses a value as well

    return REFERENCE.sub(one, text)


def read_yaml(
    text: str, file: str, folder: Path, references: References, *, later: Collection[str] = ()
) -> Document:
    """Read one document; what is wrong is in `Document.diagnostics`, all at once where possible.

    later: keys at the top below which references stay as they are written.
    """
    document = Document(file, folder)
    if len(text) > MAX_BYTES:
        document.problem(None, "size", f"the file is larger than {MAX_BYTES // 1024**2} MB")
        return document
    if too_deep := bracketed(text):
        document.problem(Mark(*too_deep), "yaml", f"nested deeper than {MAX_DEPTH}")
        return document
    reader = _Reader(document, references, events(text), later)
    try:
        document.data = reader.document()
    except yaml.YAMLError as e:
        at, message, hint = _explain(e, text)
        document.problem(at, "yaml", message, hint)
    return document


def _explain(e: yaml.YAMLError, text: str) -> tuple[Mark | None, str, str]:
    """Where to look, what is wrong and what helps."""
    if not isinstance(e, yaml.MarkedYAMLError):
        strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if strange is None:
            return None, f"not readable as YAML: {str(e).splitlines()[0]}", ""
        before = text[: strange.start()]
        where = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        return where, f"the character U+{ord(strange[0]):04X} cannot stand in YAML", ""
    mark, opened = e.problem_mark or e.context_mark, e.context_mark
    unclosed = _UNCLOSED.match(e.problem or "")
    if mark and opened and unclosed and mark.line > opened.line:
        what = f"bracket that opens here is not closed by a {unclosed[1]}"
        if not unclosed[1]:
            what = "quote that opens here is not closed"
        return Mark(opened.line + 1, opened.column + 1), f"the {what}", ""
    if opened and e.problem and _NO_COLON in e.problem:
        key = Mark(opened.line + 1, opened.column + 1)
        return key, "this looks like a key, but no ': ' follows", "key: value"
    at = Mark(mark.line + 1, mark.column + 1) if mark else None
    if at and e.problem and _BLOCK.search(e.problem) and (found := culprit(text, at.line)):
        line = text.splitlines()[found.line - 1]
        return Mark(found.line, len(line) - len(line.lstrip()) + 1), found.message, found.hint
    return at, *_explain_problem(e.problem or "not valid YAML", text, at)


def _explain_problem(problem: str, text: str, at: Mark | None) -> tuple[str, str]:
    lines = text.splitlines()
    line = lines[at.line - 1] if at and at.line <= len(lines) else ""
    if re.search(r"[{\[,][^#]*[:,\[{]\s*\$\{", line):
        return problem, 'inside { } or [ ] quote a reference: "${NAME}"'
    before = line[: at.column - 1].rstrip() if at else ""
    if "did not find expected key" in problem and before.endswith(("'", '"')):
        return (
            "the value ends with the quote before this",
            """quote all of it, with the other quotes: '"a" == body.b'""",
        )
    if "unknown escape character" in problem:
        return "a \\ in double quotes begins an escape, and this is none", "use single quotes"
    if "expected node content" in problem:
        if at and not "".join(lines[at.line - 1 :])[at.column - 1 :].strip():
            return "the file ends before a bracket is closed by a ] or }", ""
        return "a value is missing here, or a bracket is not closed before", ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "a tab cannot indent YAML", "indent with spaces"
    if "mapping values are not allowed" in problem:
        return (
            "a ':' where no key can stand",
            "quote a value that has ': ' in it, and check the indentation",
        )
    if "did not find expected key" in problem or "did not find expected '-'" in problem:
        return f"{problem}, so the block above ends here", "check the indentation of this line"
    if "cannot start any token" in problem:
        return problem, "quote a value that starts with % @ or `"
    return problem, ""


class _Stop(yaml.MarkedYAMLError):
    pass


class _Reader:
    """Builds plain data from parse events."""

    def __init__(
        self,
        document: Document,
        references: References,
        events: Iterator[Any],
        later: Collection[str],
    ) -> None:
        self.doc = document
        self.references = references
        self.events = events
        self.later = later

    def document(self) -> Any:
        value: Any = None
        seen = False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self._problem(event, "a file holds one document", "remove the '---'")
                    break
                seen = True
                value = self._value(next(self.events), (), 0)
        return value

    def _problem(self, event: Any, message: str, hint: str = "", code: str = "yaml") -> None:
        self.doc.problem(_start(event), code, message, hint)

    def _value(self, event: Any, path: YamlPath, depth: int) -> Any:
        mark = event.start_mark
        self.doc.values[path] = _start(event)
        if isinstance(event, yaml.AliasEvent):
            self._problem(event, "aliases (*) are not allowed", "write the value out, or name a "
                          "connection")  # fmt: skip
            return None
        if getattr(event, "anchor", None):
            self._problem(event, "anchors (&) are not allowed", "there are no aliases to use them")
        if event.tag not in (None, "!"):
            self._problem(event, f"the tag {event.tag} is not allowed", "values are plain data")
        if depth > MAX_DEPTH:
            raise _Stop(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        return self._scalar(event, path)

    def _sequence(self, path: YamlPath, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: YamlPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _Stop(
                    problem="a key is a plain word" + self._flow_hint(event),
                    problem_mark=event.start_mark,
                )
            key = event.value
            here = (*path, key)
            duplicate = key in result
            if duplicate:
                first = self.doc.keys[here].line
                self._problem(
                    event, f"the key '{key}' stands here twice (first in line {first})",
                    code="duplicate-key",
                )  # fmt: skip
                here = (*path, key, "#duplicate")
            self.doc.keys[here] = _start(event)
            value = self._value(next(self.events), here, depth + 1)
            if not duplicate:
                result[key] = value
        return result

    @staticmethod
    def _flow_hint(event: Any) -> str:
        return ', "{{ }}" and "${}" need quotes here' if hasattr(event, "flow_style") else ""

    def _scalar(self, event: Any, path: YamlPath) -> Any:
        text: str = event.value
        mark, end = event.start_mark, event.end_mark
        if mark.line == end.line and event.style in (None, "", '"', "'") and "${" not in text:
            quote = 1 if event.style else 0
            self.doc.texts[path] = Mark(mark.line + 1, mark.column + 1 + quote)
        if "${" in text or _HALF_A_REFERENCE.search(text):
            return self._resolve(event, text, path)
        if event.style in ('"', "'", "|", ">") or (event.implicit and not event.implicit[0]):
            return text
        return plain_scalar(text)

    def _resolve(self, event: Any, text: str, path: YamlPath) -> str:
        def problem(message: str, hint: str) -> None:
            self._problem(event, message, hint, code="reference")

        if _HALF_A_REFERENCE.search(REFERENCE.sub("", text)):
            problem("a reference has both its braces", "${NAME}, or $${ for the signs themselves")
        if path and path[0] in self.later:
            return text
        found = [match[2] for match in REFERENCE.finditer(text) if not match[1]]
        if found:
            self.doc.referenced.add(path)
            if any(isinstance(key, str) and is_secret_name(key) for key in path[-2:]):
                self.references.called_so.update(found)
        if any(map(self.references.is_open, found)):
            self.doc.open.add(path)
        return resolved(text, self.doc.folder, self.references, problem)


def _start(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)
