"""Places in data, as `keep` and `remove` name them.

    customer.name     a field of a field
    items[].price     of each item of a list
    /items/0/a.b      a JSON Pointer (RFC 6901): one place, also where a name has a dot

Many places together are a tree: what is below each key, `ALL` where a place ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

EACH: Final = "[]"
ALL: Final[dict[str, Any]] = {}

Tree = dict[str, Any]

_PART: Final = re.compile(r"(?:^|\.)([^.\[\]]+)|(\[\])")


def parse_place(text: str) -> list[str]:
    """The keys on the way to a place. Raises ValueError with what is wrong."""
    if text.startswith("/"):
        return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]
    keys: list[str] = []
    end = 0
    for found in _PART.finditer(text):
        if found.start() != end:
            break
        keys.append(found[1] or EACH)
        end = found.end()
    if end != len(text) or not keys or text.startswith("."):
        raise ValueError(
            f"'{text}' names no place: customer.name, items[].price, or /a/0 (a JSON Pointer)"
        )
    return keys


def tree_of(places: Iterable[list[str]]) -> Tree:
    """All places as one tree; of two of which one holds the other the greater counts."""
    root: Tree = {}
    for keys in places:
        node = root
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if node is ALL:
                break
        else:
            node[keys[-1]] = ALL
    return root


def kept(data: Any, tree: Tree) -> Any:
    """A copy of what is at the places of the tree, and of what leads there."""
    if tree is ALL:
        return data
    if isinstance(data, dict):
        return {
            key: kept(value, tree[key])
            for key, value in data.items()
            if key in tree and _leads(value, tree[key])
        }
    if isinstance(data, list):
        below = [_below(tree, i) for i in range(len(data))]
        return [
            kept(item, node)
            for item, node in zip(data, below, strict=True)
            if node is not None and _leads(item, node)
        ]
    return data


def without(data: Any, tree: Tree) -> Any:
    """A copy of the data that lacks what is at the places of the tree."""
    if isinstance(data, dict):
        return {
            key: without(value, tree[key]) if key in tree else value
            for key, value in data.items()
            if tree.get(key) is not ALL
        }
    if isinstance(data, list):
        below = [_below(tree, i) for i in range(len(data))]
        return [
            item if node is None else without(item, node)
            for item, node in zip(data, below, strict=True)
            if node is not ALL
        ]
    return data


def _leads(value: Any, tree: Tree) -> bool:
    # A single value where more was expected is not what anybody asked for.
    return tree is ALL or isinstance(value, dict | list)


def _below(tree: Tree, index: int) -> Tree | None:
    each: Tree | None = tree.get(EACH)
    one: Tree | None = tree.get(str(index))
    if each is ALL or one is ALL:
        return ALL
    if each is None or one is None:
        return one if each is None else each
    return _merged(each, one)


def _merged(a: Tree, b: Tree) -> Tree:
    if a is ALL or b is ALL:
        return ALL
    return {
        key: _merged(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key))
        for key in {**a, **b}
    }
