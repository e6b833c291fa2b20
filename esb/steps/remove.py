"""Content Filter (EIP): take parts out of a message.

For example:

    remove: [card, "lines[].cost"]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lxml import etree

from esb.adapter import Build, Role
from esb.errors import RouteFailure
from esb.step import Step
from esb.steps._content import ContentOptions, content_filter
from esb.steps._places import without


class RemoveOptions(ContentOptions):
    """What to take out. See `keep` for naming what stays."""


def make(options: RemoveOptions, build: Build) -> Step:
    """The message without these parts. Raises RouteFailure if its body is of the other kind."""
    return content_filter(options, build, of_data=without, of_xml=_take_out, headers_named=False)


def _take_out(root: etree._Element, nodes: Iterable[Any]) -> None:
    for node in nodes:
        if isinstance(node, etree._Element):
            _take_out_element(node)
        elif getattr(node, "is_attribute", False):
            node.getparent().attrib.pop(node.attrname, None)
        elif getattr(node, "is_tail", False):
            node.getparent().tail = None
        else:
            node.getparent().text = None


def _take_out_element(node: etree._Element) -> None:
    parent = node.getparent()
    if parent is None:
        raise RouteFailure("the root element cannot be taken out of a document")
    if node.tail:
        # The text behind an element is not the element's.
        before = node.getprevious()
        if before is not None:
            before.tail = (before.tail or "") + node.tail
        else:
            parent.text = (parent.text or "") + node.tail
    parent.remove(node)


step = Role(RemoveOptions, make)
