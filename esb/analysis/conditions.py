"""What a condition says: whether it is always true or never, and whether it implies another.

Only what is certain counts: comparisons of one thing with constants, joined by `and`. Everything
else is compared as it is written.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NamedTuple

from jinja2 import nodes

from esb.envelope import Envelope
from esb.errors import EsbError
from esb.expressions import ExpressionError, compile_expression, syntax
from esb.expressions.language import COMPARISONS, truth

_MIRRORED: Final = {
    "gt": "lt", "lt": "gt", "gteq": "lteq", "lteq": "gteq", "eq": "eq", "ne": "ne",
}  # fmt: skip
_BELOW: Final = ("lt", "lteq")
_ABOVE: Final = ("gt", "gteq")


class Term(NamedTuple):
    """A comparison of `of`, as it is written, with a constant; op "": `of` is the whole test."""

    of: str
    op: str = ""
    value: Any = None


def constant(source: str) -> bool | None:
    """Whether a condition is always true, or never; None if that depends on the message."""
    trees = syntax(source)
    asks = [
        nodes.Template([tree]).find(kind) for tree in trees for kind in (nodes.Name, nodes.Call)
    ]
    if not trees or any(asks):
        return None
    try:
        return truth(compile_expression(source)(Envelope()))
    except (EsbError, ExpressionError):
        return None


def terms(source: str) -> frozenset[Term]:
    """What all must hold for a condition to be true."""
    return frozenset(term for tree in syntax(source) for term in _conjuncts(tree))


def implies(one: frozenset[Term], other: frozenset[Term]) -> bool:
    """Whether the second condition is true wherever the first is."""
    return bool(other) and all(any(_implied(test, by) for by in one) for test in other)


def _conjuncts(node: nodes.Node) -> list[Term]:
    if isinstance(node, nodes.And):
        return [*_conjuncts(node.left), *_conjuncts(node.right)]
    if isinstance(node, nodes.Compare) and len(node.ops) == 1:
        left, op, right = node.expr, node.ops[0].op, node.ops[0].expr
        if (value := _value(right)) is not _NONE:
            return [Term(repr(left), op, value)]
        if (value := _value(left)) is not _NONE and op in _MIRRORED:
            return [Term(repr(right), _MIRRORED[op], value)]
    return [Term(repr(node))]


_NONE: Final = object()


def _value(node: nodes.Node) -> Any:
    """A constant, or a tuple of them; _NONE if it is none."""
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const):
        return -node.node.value
    if isinstance(node, nodes.List | nodes.Tuple):
        values = tuple(_value(item) for item in node.items)
        return _NONE if _NONE in values else values
    return _NONE


def _implied(test: Term, by: Term) -> bool:
    if test == by:
        return True
    if test.of != by.of or not test.op or not by.op:
        return False
    if by.op == "eq":
        return _holds(by.value, test)
    if by.op == "in" and isinstance(by.value, tuple):
        return all(_holds(value, test) for value in by.value)
    if not (_is_number(by.value) and _is_number(test.value)):
        return False
    for side in (_BELOW, _ABOVE):
        if by.op in side and test.op in side:
            inside = by.value < test.value if side is _BELOW else by.value > test.value
            same = by.value == test.value and test.op in (by.op, side[1])  # the second includes it
            return inside or same
        if by.op in side and test.op == "ne":
            return not _holds(test.value, by)
    return False


def _holds(value: Any, test: Term) -> bool:
    try:
        return COMPARISONS[test.op](value, test.value)
    except EsbError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
