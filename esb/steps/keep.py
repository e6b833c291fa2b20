"""Content Filter (EIP): keep the named parts of a message and nothing else.

For example:

    keep: [number, "lines[].price"]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lxml import etree

from esb.adapter import Build, Role
from esb.step import Step
from esb.steps._content import ContentOptions, content_filter
from esb.steps._places import kept


class KeepOptions(ContentOptions):
    """What stays. Of body and headers only that is filtered of which something is named."""


def make(options: KeepOptions, build: Build) -> Step:
    """The message with these parts alone, each where it was: what leads to it stays as well, empty
    but for it. Raises RouteFailure if its body is of the other kind."""
    return content_filter(options, build, of_data=kept, of_xml=_keep, headers_named=True)


def _keep(root: etree._Element, nodes: Iterable[Any]) -> None:
    whole: set[etree._Element] = set()  # stay as they are
    attributes: dict[etree._Element, set[str]] = {}
    texts: set[etree._Element] = set()
    for node in nodes:
        if isinstance(node, etree._Element):
            whole.add(node)
        elif getattr(node, "is_attribute", False):
            attributes.setdefault(node.getparent(), set()).add(node.attrname)
        elif getattr(node, "is_text", False):
            texts.add(node.getparent())
    named = {*whole, *attributes, *texts}
    leading = {above for node in named for above in node.iterancestors()}

    def prune(node: etree._Element) -> None:
        if node in whole:
            return
        for name in list(node.attrib):
            if name not in attributes.get(node, ()):
                del node.attrib[name]
        if node not in texts:
            node.text = None
        for child in list(node):
            if child in named or child in leading:
                child.tail = None
                prune(child)
            else:
                node.remove(child)

    prune(root)


step = Role(KeepOptions, make)
