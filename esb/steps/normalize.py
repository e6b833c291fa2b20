"""Normalizer (EIP): messages that mean the same in several formats come out in one.

For example:

    normalize:
      - type: text/csv
        steps: [{convert: json}]
      - type: application/json
        steps: []
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from lxml import etree
from pydantic import Field, RootModel

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope, parse_content_type
from esb.errors import UnsupportedMedia
from esb.options import Options, RawSteps
from esb.step import Step, asked


class Format(Options):
    type: str = Field(
        description="The media type it has: `application/json`, `text/csv`. One that says nothing "
        "of its content, or has none, is told by its first characters if it is JSON or XML."
    )
    root: str | None = Field(
        None,
        description="Of XML: the name of its root element, `Order` or `{urn:shop:2}Order`.",
    )
    steps: RawSteps = Field(default_factory=list, description="What makes the common format of it.")


class NormalizeOptions(RootModel[list[Format]]):
    """The formats that may come, tried in order."""


_OPAQUE: Final = frozenset(("", "application/octet-stream", "text/plain"))
_XML: Final = re.compile(r"(application|text)/xml\Z|.*\+xml\Z")
_JSON: Final = re.compile(r"(application|text)/json\Z|.*\+json\Z")


def make(options: NormalizeOptions, build: Build) -> Step:
    """The result of the steps of the first format that the message has. Raises UnsupportedMedia,
    with those that may come, if it has none of them."""
    if not options.root:
        raise build.problem("there is no format", hint="- type: application/json")
    formats = []
    for i, one in enumerate(options.root):
        essence = family(parse_content_type(one.type).essence)
        if "/" not in essence:
            near = {"xml": "application/xml", "json": "application/json"}.get(essence, "text/csv")
            build.problem("a media type has a '/' in it", i, "type", hint=near)
        if one.root is not None and essence != "application/xml":
            build.problem("only XML has a root element", i, "root", key=True)
        formats.append((essence, one.root, build.steps(one.steps, i, "steps")))
    known = ", ".join(dict.fromkeys(one.type for one in options.root))

    async def normalize(envelope: Envelope) -> Envelope:
        said = parse_content_type(envelope.content_type).essence
        found = family(said)
        if said in _OPAQUE and (guess := guessed(envelope.body.raw)):
            found = guess
            envelope = envelope.with_body(Body(envelope.body.raw, guess))
        for essence, root, steps in formats:
            if essence != found:
                continue
            if root is None or root == await asked(partial(_root, like=root), envelope):
                return await steps(envelope)
        raise UnsupportedMedia(f"this is none of the formats that may come: {known}")

    return normalize


def family(essence: str) -> str:
    """One media type for all that are XML, one for all that are JSON."""
    if _XML.match(essence):
        return "application/xml"
    return "application/json" if _JSON.match(essence) else essence


def guessed(raw: bytes) -> str:
    """What the first characters say, or ""."""
    first = raw[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"<":
        return "application/xml"
    return "application/json" if first in (b"{", b"[") else ""


def _root(envelope: Envelope, like: str) -> str:
    data = envelope.body.data
    if not isinstance(data, etree._Element):
        return ""
    name = etree.QName(data)
    return name.text if like.startswith("{") else name.localname


step = Role(NormalizeOptions, make)
