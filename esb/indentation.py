"""Which line of a YAML file broke its blocks, told by trying which single change would mend it.

A YAML parser gives up at the first line that fits no block, which often stands far below the slip:
a key that is missing, or moved by a space, is noticed where the next key of its level comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

_MOST_LINES = 15_000
"""How many lines all trials may read in all, so that a large file does not take seconds."""

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Culprit(NamedTuple):
    """line: from 1; message and hint: what is wrong with it, and what helps."""

    line: int
    message: str
    hint: str


class _Trial(NamedTuple):
    """One change. cost: how unlikely it is; moved: by how many columns; line: from 1."""

    cost: int
    moved: int
    line: int
    lines: list[str]
    message: str
    hint: str


def culprit(text: str, failed: int) -> Culprit | None:
    """The line that made the parser give up in line `failed`; None if no change of one line alone
    would mend it."""
    lines = text.splitlines()
    depths = [_depth(line) for line in lines]
    step = _usual_step(depths)
    best: tuple[tuple[int, int, int], _Trial] | None = None
    left = _MOST_LINES
    for trial in _trials(lines, depths, step, min(failed, len(lines))):
        left -= len(lines)
        if left < 0:
            break
        flaws = _flaws(trial.lines, step)
        if flaws is None:
            continue
        # Of two that mend it the earlier is the likelier: what is below it followed from it.
        rank = (flaws + trial.cost, trial.moved, trial.line)
        if best is None or rank < best[0]:
            best = (rank, trial)
    return Culprit(best[1].line, best[1].message, best[1].hint) if best else None


def _depth(line: str) -> int:
    """Its indentation; -1 for one that says nothing."""
    bare = line.lstrip(" ")
    return -1 if not bare or bare.startswith("#") else len(line) - len(bare)


def _usual_step(depths: list[int]) -> int:
    told = [depth for depth in depths if depth >= 0]
    steps = Counter(b - a for a, b in pairwise(told) if b > a)
    return steps.most_common(1)[0][0] if steps else 2


def _trials(lines: list[str], depths: list[int], step: int, failed: int) -> Iterator[_Trial]:
    """Each change of one line at or above `failed`, the nearest first."""

    def changed(at: int, *new: str) -> list[str]:
        return [*lines[:at], *new, *lines[at + 1 :]]

    for at in range(failed - 1, -1, -1):
        depth, bare = depths[at], lines[at].lstrip(" ")
        if depth < 0:
            continue
        before = next((d for d in reversed(depths[:at]) if d >= 0), -step)
        for right in sorted({d for d in (*depths, before + step) if 0 <= d <= before + 2 * step}):
            moved = abs(right - depth)
            if moved:
                yield _Trial(
                    int(moved > step), moved, at + 1, changed(at, " " * right + bare),
                    f"the indentation is wrong: {_spaces(depth)}, where {right} would fit",
                    f"with these, the block is broken in line {failed} at the latest",
                )  # fmt: skip
        if bare.startswith("-") and not bare.startswith("- "):
            yield _Trial(
                0, 0, at + 1, changed(at, " " * depth + "- " + bare[1:]),
                "a '-' begins an item only with a space behind it", f"- {bare[1:]}",
            )  # fmt: skip
        elif depth >= 2 and not bare.startswith("-"):
            yield _Trial(
                2, 0, at + 1, changed(at, " " * (depth - 2) + "- " + bare),
                "an item of a list begins with '- '", f"- {bare}",
            )  # fmt: skip
        for key in ("x:", "- x:"):
            for missing in {before + step, depth - step}:
                if 0 <= missing < depth or (missing == depth and bare.startswith("-")):
                    yield _Trial(
                        2 if missing else 1, 0, at + 1, changed(at, " " * missing + key, lines[at]),
                        "a line is missing above this one",
                        f"the key that this belongs to, with {_spaces(missing)} before it",
                    )  # fmt: skip


def _spaces(count: int) -> str:
    return f"{count} space{'' if count == 1 else 's'}"


def _flaws(lines: list[str], step: int) -> int | None:
    """How much is still odd about a text; None if it is no YAML."""
    try:
        tree = yaml.compose("\n".join(lines), Loader=_SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    odd = 3 * next((depth > 0 for line in lines if (depth := _depth(line)) >= 0), 0)
    before, opened = 0, ""
    for line in lines:
        depth = _depth(line)
        if depth < 0:
            continue
        bare = line.strip()
        odd += depth % step > 0  # as no other line is
        odd += 2 * (depth - before > step)  # too far to the right of the line above
        odd += bare.startswith("- ") and depth == before and opened.endswith(":")
        opened = "" if bare.startswith("- ") else bare
        before = depth + (2 if bare.startswith("- ") else 0)
    return odd + _strange(tree)


def _strange(node: Any) -> int:
    """Keys that stand twice, have no value or begin with a dash; texts of several lines."""
    if isinstance(node, yaml.SequenceNode):
        return sum(_strange(item) for item in node.value)
    if not isinstance(node, yaml.MappingNode):
        several = node.start_mark.line != node.end_mark.line
        return 2 if several and node.value and not node.style else 0
    keys = Counter(str(key.value) for key, _ in node.value)
    empty = sum(1 for _, value in node.value if value.value == "" and not value.style)
    dashes = sum(1 for key in keys if key.startswith("-"))
    doubled = keys.total() - len(keys)
    return 2 * doubled + 2 * dashes + empty + sum(_strange(value) for _, value in node.value)
