"""Slips in the files that routes use: JSON Schemas, templates, WSDLs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

from lxml import etree

from mutants.slips import Slip, misspelt

_REFERENCES = frozenset({"element", "type", "base", "ref", "message", "binding", "itemType"})
"""Attributes of a WSDL or a schema in it that name something else."""


class FileSlips:
    """All slips in one file that routes use. times: how often each word is misspelt."""

    def __init__(self, name: str, text: str, chance: random.Random, times: int = 1) -> None:
        self.name = name
        self.text = text
        self.chance = chance
        self.times = times

    def all(self) -> Iterator[Slip]:
        """Every slip that is a mistake, each text once."""
        make = self.schema
        if self.name.endswith(".j2"):
            make = self.template
        elif self.name.endswith(".wsdl"):
            make = self.wsdl
        seen = {self.text}
        for slip in make():
            if slip.text not in seen:
                seen.add(slip.text)
                yield slip

    def _cut(self, kind: str, what: str, start: int, end: int, new: str = "") -> Slip:
        line = self.text[:start].count("\n") + 1
        text = self.text[:start] + new + self.text[end:]
        # A parser may notice only at what comes next.
        return Slip(kind, what, text, frozenset({line, line + 1}), self.name)

    def _words(self, kind: str, pattern: str) -> Iterator[Slip]:
        for found in re.finditer(pattern, self.text):
            for _ in range(self.times):
                wrong = misspelt(found[1], self.chance)
                what = f"{found[1]} -> {wrong}"
                yield self._cut(kind, what, found.start(1), found.end(1), wrong)

    def schema(self) -> Iterator[Slip]:
        """A JSON Schema: a mark is missing, a type misspelt. A keyword that is misspelt is legal
        (JSON Schema 2020-12, section 4.3.1), as is a field of another name."""
        for found in re.finditer(r'[{}\[\]":,]', self.text):
            slip = self._cut("schema file", f"no {found[0]}", found.start(), found.end())
            if not _is_json(slip.text):
                yield slip
        yield from self._words("schema file", r'"type": "(\w+)"')

    def template(self) -> Iterator[Slip]:
        """A template: a brace is missing, a name, a filter, a field, a word of a tag misspelt, or
        (XML) an element that is not closed, (JSON) a mark."""
        for found in re.finditer(r"\{\{|\}\}|\{%|%\}", self.text):
            one = found.start() + (found[0] in ("}}", "%}"))
            if found[0] == "%}":
                one = found.start()
            yield self._cut("template file", f"{found[0]} loses one", one, one + 1)
        yield from self._words("template file", r"\{%-? *(\w+)")
        yield from self._words("template file", r"(?<![\w.])(body|message|loop)(?=\.)")
        yield from self._words("template file", r"\| *(\w+)")
        yield from self._words("template file", r"(?:body|message|line|person|loop)\.(\w+)")
        if ".xml." in self.name:
            yield from self._words("template file", r"</(\w+)>")
        else:
            # Marks outside of expressions: in them Jinja2 minds.
            for found in re.finditer(r'"(?=\w+":)|(?<=\w)":|(?<=\}\}),$', self.text, re.MULTILINE):
                yield self._cut("template file", f"no {found[0]}", found.start(), found.start() + 1)

    def wsdl(self) -> Iterator[Slip]:
        """A WSDL: an element's name, one that an attribute refers to, the name of an attribute is
        misspelt, a mark is missing. What it calls its own things is for it to say."""
        kind = "WSDL file"
        yield from self._words(kind, r"<(?:\w+:)?(\w+)[ >]")
        for found in re.finditer(r'\b(\w+)="(?:\w+:)(\w+)"', self.text):
            if found[1] in _REFERENCES:
                wrong = misspelt(found[2], self.chance)
                yield self._cut(kind, f"{found[2]} -> {wrong}", found.start(2), found.end(2), wrong)
        yield from self._words(kind, r' (name|element|type|message|binding|base|ref)="')
        for found in re.finditer(r'(?<=")(?= |>|/>)|/(?=>)', self.text):
            slip = self._cut(kind, "a mark less", found.start() - (not found[0]), found.end())
            if not _is_xml(slip.text):
                yield slip


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_xml(text: str) -> bool:
    try:
        etree.fromstring(text.encode())
    except etree.XMLSyntaxError:
        return False
    return True
