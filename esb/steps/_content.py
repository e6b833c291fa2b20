"""What `keep` and `remove` have in common: which parts of a message they name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import Any

from lxml import etree
from pydantic import Field

from esb.adapter import Build
from esb.envelope import Body, Envelope
from esb.errors import RouteFailure
from esb.options import Options
from esb.step import Step, computed
from esb.steps._places import Tree, parse_place, tree_of


class ContentOptions(Options):
    """Places in the message. What is not there is no mistake."""

    __shorthand__ = "fields"

    fields: list[str] = Field(
        default_factory=list,
        description="Places in a body of data: `customer.name`, `items[].price` (of each item), "
        "or a JSON Pointer, `/items/0/price`.",
    )
    xpath: list[str] = Field(
        default_factory=list,
        description="Elements and attributes of a body in XML, by XPath 1.0: `//card/@number`.",
    )
    namespaces: dict[str, str] = Field(
        default_factory=dict, description="Prefixes that `xpath` uses: `{o: urn:orders}`."
    )
    headers: list[str] = Field(
        default_factory=list, description="Headers by name; `x-*` is each that begins so."
    )


def content_filter(
    options: ContentOptions,
    build: Build,
    *,
    of_data: Callable[[Any, Tree], Any],
    of_xml: Callable[[etree._Element, Iterable[Any]], None],
    headers_named: bool,
) -> Step:
    """A step that changes a message by what is at the places.

    of_data: makes new data. of_xml: changes a copy of the document in place, given the nodes that
    were found. headers_named: whether the headers that are named stay, or the others.
    """
    if not (options.fields or options.xpath or options.headers):
        raise build.problem("nothing is named", hint="[customer.name, items[].price]")
    if options.fields and options.xpath:
        build.problem("a body is either data or XML: 'fields' or 'xpath'", "xpath", key=True)
    tree = _tree(options, build)
    paths = _paths(options, build)
    names = re.compile("|".join(translate(name.lower()) for name in options.headers))

    def body_of(envelope: Envelope) -> Body:
        body = envelope.body
        # Read for this step alone it need not be copied, which takes as much memory once more.
        own = type(body) is Body and body.is_written and not body.is_parsed and bool(paths)
        data = (body.typed(body.content_type) if own else body).data
        is_xml = isinstance(data, etree._Element)
        if is_xml != bool(paths):
            raise RouteFailure(
                "fields are of data, and the body is XML, which 'xpath' names the parts of"
                if is_xml
                else "the body is no XML, which alone 'xpath' names the parts of"
            )
        if not is_xml:
            return Body.of(of_data(data, tree), envelope.content_type)
        root = data if own else copy.deepcopy(data)
        of_xml(root, [node for path in paths for node in _found(path, root)])
        return Body.of(root, envelope.content_type)

    def change(envelope: Envelope) -> Envelope:
        if options.headers:
            kept = envelope.headers.keep(lambda n: bool(names.match(n)) == headers_named)
            envelope = envelope.replace(headers=kept)
        return envelope.with_body(body_of(envelope)) if tree or paths else envelope

    return computed(change)


def _tree(options: ContentOptions, build: Build) -> Tree:
    places = []
    for i, text in enumerate(options.fields):
        try:
            places.append(parse_place(text))
        except ValueError as e:
            build.problem(str(e), "fields", i)
    return tree_of(places)


def _paths(options: ContentOptions, build: Build) -> list[etree.XPath]:
    paths = []
    for i, source in enumerate(options.xpath):
        try:
            path = etree.XPath(source, namespaces=options.namespaces or None, regexp=False)
            path(etree.Element("none"))  # prefixes and functions are only looked up when it runs
            paths.append(path)
        except etree.XPathError as e:
            build.problem(f"no XPath that can run: {str(e).lower()}", "xpath", i)
    return paths


def _found(path: etree.XPath, root: etree._Element) -> list[Any]:
    try:
        nodes = path(root)
    except etree.XPathError as e:
        raise RouteFailure(f"an XPath failed: {str(e).lower()}") from e
    if not isinstance(nodes, list):
        raise RouteFailure("an XPath names no part of the document: it computes a value")
    return nodes
