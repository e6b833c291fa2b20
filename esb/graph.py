"""Routes as a picture: what is in them, and the channels between them (EIP: Message Channel).

`read` makes a `Graph` from the outlines of routes: a card for each route with its steps, a node for
each channel and each far side, an edge for each place where a message leaves a card or gets into
one. `mermaid` and `svg` draw it. The SVG needs no program to lay it out: cards are trees, and what
is between them stands in columns in the order in which messages flow (Sugiyama, Tagawa, Toda 1981:
layers, order by barycentres, positions).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any, Final, Literal

from pydantic import BaseModel

from esb.adapter import Source
from esb.outline import Part
from esb.redaction import shown, without_password
from esb.route import Called, Route

EdgeKind = Literal["reads", "sends", "calls", "copies", "runs", "buries"]


# --- what is drawn --------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """A line of a card: a step, or the name of a branch. depth: how far in it stands."""

    place: str
    text: str
    depth: int
    kind: Literal["step", "branch"] = "step"


@dataclass(slots=True)
class Card:
    """A route."""

    name: str
    source: str
    description: str = ""
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Node:
    """A channel, or a far side. name: what it is called, and what tells it from others."""

    name: str
    kind: Literal["channel", "outside"]


@dataclass(frozen=True, slots=True)
class Edge:
    """From a card's row to a node or another card; or, one that is read, from a node to a card.

    card: the route. place: the row; "" for the card itself. other: a node, or the name of a route.
    """

    kind: EdgeKind
    card: str
    place: str
    other: Node | str


@dataclass
class Graph:
    """Routes and what is between them."""

    cards: list[Card] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """Each node once, in the order of the edges."""
        return list(dict.fromkeys(e.other for e in self.edges if isinstance(e.other, Node)))


def read(routes: Iterable[Route]) -> Graph:
    """The graph of routes."""
    graph = Graph()
    for route in routes:
        if route.outline.kind != "route":
            continue  # a continuation: its steps are in the route that it begins in
        card = Card(route.name, _came_from(route.source), route.options.description)
        graph.cards.append(card)
        for part in route.outline.parts:
            _part(graph, card, part, 0, "")
    names = {card.name for card in graph.cards}
    graph.edges = [
        edge
        for edge in dict.fromkeys(graph.edges)
        if isinstance(edge.other, Node) or edge.other in names
    ]
    return graph


def _came_from(source: Source) -> str:
    return "sub-route" if isinstance(source, Called) else source.where


def _part(graph: Graph, card: Card, part: Part, depth: int, row: str) -> None:
    match part.kind:
        case "source":
            graph.edges += [
                Edge("reads", card.name, "", Node(channel.name, "channel"))
                for channel in part.channels
            ]
        case "step":
            row = part.place
            card.rows.append(Row(row, f"{part.name} {detail(part)}".rstrip(), depth))
            depth += 1
        case "subroute":
            graph.edges.append(Edge("runs", card.name, row, part.name))
        case "endpoint":
            buried = part.place.startswith("dead_letter")
            kind: EdgeKind = "calls" if part.direction == "caller" else "sends"
            if buried:
                kind = "buries"
            elif row.endswith("copy_to"):
                kind = "copies"
            kinds = [Node(channel.name, "channel") for channel in part.channels]
            for node in kinds or [Node(target(part), "outside")]:
                graph.edges.append(Edge(kind, card.name, row, node))
        case _:
            pass
    for inner in part.parts:
        if label := _branch(part, inner):
            card.rows.append(Row(inner.place, label, depth, "branch"))
        _part(graph, card, inner, depth + bool(label), row)


def _branch(step: Part, steps: Part) -> str:
    """The name of a branch of a step."""
    if step.kind != "step" or steps.kind != "steps":
        return ""
    if not steps.parts:
        return ""  # a branch that does nothing, such as a `finally` that is left out
    options = _within(step.options, steps.name.removesuffix(".steps"))
    name = steps.name.removesuffix(".steps")
    word = "" if name.startswith("[") else name.partition("[")[0]  # `catch` of catch[0]
    for telling in ("when", "on", "type", "root"):
        value = getattr(options, telling, None)
        if value and telling in getattr(options, "model_fields_set", ()):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            return f"{word} {telling} {shown}".strip()
    if "otherwise" in getattr(options, "model_fields_set", ()):
        return "otherwise"
    if sum(part.kind == "steps" for part in step.parts) < 2:
        return ""
    if not name.startswith("["):
        name = name.partition(".")[2] or name  # branches.books
    name = re.sub(r"\[(\d+)\]\.?", lambda n: f" {int(n[1]) + 1} ", name)
    return name.strip().rstrip("_")


def _within(options: Any, path: str) -> Any:
    """What stands in options at a path such as "[0]" or "catch[1]"."""
    found = getattr(options, "root", options)
    for key in re.findall(r"[^.\[\]]+", path):
        try:
            found = found[int(key)] if key.isdecimal() else _get(found, key)
        except (LookupError, TypeError, AttributeError):
            return None
        found = getattr(found, "root", found)
    return found if isinstance(found, BaseModel) else None


def _get(of: Any, key: str) -> Any:
    return of[key] if isinstance(of, dict) else getattr(of, key, None) or getattr(of, f"{key}_")


# --- in a few words -------------------------------------------------------------------------------


def target(part: Part) -> str:
    """What an endpoint leads to, for people: "queue orders", "http https://crm.example"."""
    if part.channels:
        return part.channels[0].name
    options = part.options
    shorthand = getattr(type(options), "__shorthand__", "")
    for name in (shorthand, "url", "operation", "queue", "exchange", "path", "folder", "name"):
        value = getattr(options, name, None) if name else None
        if isinstance(value, str) and value:
            shown = without_password(value)
            return shown if shown.startswith(("http://", "https://")) else f"{part.name} {shown}"
    return part.name


_TELLING: Final = ("when", "each", "by", "jinja", "xslt", "json_schema", "xsd", "message", "while_")


def detail(part: Part) -> str:
    """What a step is about: its expression, its file, or the names of what it sets."""
    options = part.options
    if not isinstance(options, BaseModel) or hasattr(options, "root"):
        return ""
    shorthand = getattr(type(options), "__shorthand__", "")
    for name in (shorthand, *_TELLING):
        value = getattr(options, name, None) if name else None
        if isinstance(value, str) and value and name in options.model_fields_set:
            return " ".join(value.split())
    told: list[str] = []
    for name in type(options).model_fields:
        if name not in options.model_fields_set or name in (shorthand, f"{shorthand}_"):
            continue
        value = getattr(options, name)
        if isinstance(value, dict) and name not in _INNER:
            told += map(str, value)
        elif isinstance(value, str) and value:
            told.append(f"{name.rstrip('_')} {value}")
    return " ".join(", ".join(told).split())


_INNER: Final = frozenset({"call", "to", "branches", "among"})
"""Options that hold endpoints or steps, which have their own place."""


# --- Mermaid --------------------------------------------------------------------------------------

_ARROWS: Final[dict[EdgeKind, str]] = {
    "reads": "-->",
    "sends": "-->",
    "calls": "<-->",
    "copies": "-.->",
    "runs": "-.->",
    "buries": "-. dead letters .->",
}


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, which GitHub and others draw.

    https://mermaid.js.org/syntax/flowchart.html
    """
    names: dict[object, str] = {}

    def name(of: object) -> str:
        return names.setdefault(of, f"n{len(names)}")

    out = ["flowchart LR"]
    for card in graph.cards:
        title = f"{card.name}<br/><small>{_quoted(card.source)}</small>"
        out += [f"  subgraph {name(card.name)}[{_text(title, raw=True)}]", "    direction TB"]
        out.append(f"    {name((card.name, ''))}(( ))")
        out += [f"    {line}" for line in _flow(card, name)]
        out.append("  end")
    for node in graph.nodes:
        text = _text(node.name)
        out.append(f"  {name(node)}" + (f"[({text})]" if node.kind == "channel" else f"([{text}])"))
    for edge in graph.edges:
        row = name((edge.card, edge.place))
        other = name(edge.other) if isinstance(edge.other, Node) else name((edge.other, ""))
        ends = (other, row) if edge.kind == "reads" else (row, other)
        out.append(f"  {ends[0]} {_ARROWS[edge.kind]} {ends[1]}")
    return "\n".join(out) + "\n"


def _flow(card: Card, name: Any) -> Iterator[str]:
    """A card's steps, each with an arrow from the one before, or from that of its branch."""
    last: dict[int, tuple[str, str]] = {0: (name((card.name, "")), "")}
    for row in card.rows:
        before, label = last.get(row.depth) or last[row.depth - 1]
        for deeper in [depth for depth in last if depth > row.depth]:
            del last[deeper]
        if row.kind == "branch":
            last[row.depth + 1] = (before, row.text)
            continue
        here = name((card.name, row.place))
        yield f"{here}[{_text(row.text)}]"
        arrow = f"-- {_text(label)} -->" if label else "-->"
        yield f"{before} {arrow} {here}"
        last[row.depth] = last[row.depth + 1] = (here, "")


def _quoted(text: str) -> str:
    short = _short(text, 60)
    return "".join(c if c.isalnum() or c in " ./:-_,'" else f"#{ord(c)};" for c in short)


def _text(text: str, *, raw: bool = False) -> str:
    return f'"{text if raw else _quoted(text)}"'


def _short(text: str, longest: int) -> str:
    text = " ".join(text.split())
    text = shown(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


# --- SVG ------------------------------------------------------------------------------------------

_ROW: Final = 22.0
_HEAD: Final = 46.0
_CHAR: Final = 6.7  # about the width of a letter of 12 px
_INDENT: Final = 16.0
_PAD: Final = 12.0
_GAP_X: Final = 90.0
_GAP_Y: Final = 26.0
_LONGEST: Final = 46  # letters of a text
_LANE: Final = 18.0  # of an edge that leads back
_SWEEPS: Final = 12

_STYLE: Final = """
    text { font: 12px ui-sans-serif, system-ui, "Segoe UI", "Liberation Sans", sans-serif;
           fill: #1f2933; }
    .name { font-weight: 600; font-size: 13px; } .soft { fill: #667380; font-size: 11px; }
    .card { fill: #ffffff; stroke: #9aa8b5; } .head { fill: #e8eef4; stroke: none; }
    .channel { fill: #fff4d6; stroke: #c9a227; } .outside { fill: #e6f4ea; stroke: #5a9e6f; }
    .branch { fill: #7a5195; font-style: italic; }
    path { fill: none; stroke: #5b6b7a; stroke-width: 1.4; }
    .copies, .runs { stroke-dasharray: 5 4; } .buries { stroke: #c0392b; stroke-dasharray: 2 3; }
"""


@dataclass(slots=True, eq=False)
class _Box:
    """Something that has a place. of: a card, a node, or None for the bend of a long edge."""

    of: Card | Node | None
    width: float
    height: float
    layer: int = 0
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True, eq=False)
class _Line:
    """An edge between boxes, left to right, over its bends. backwards: it leads back to the left,
    below all others, at the height `low`."""

    edge: Edge
    left: _Box
    right: _Box
    backwards: bool = False
    low: float = 0.0
    bends: list[_Box] = field(default_factory=list)


def svg(graph: Graph) -> str:
    """The graph as an SVG picture (https://www.w3.org/TR/SVG11/) that needs nothing but itself."""
    boxes: dict[Any, _Box] = {card.name: _card_box(card) for card in graph.cards}
    boxes |= {node: _Box(node, _wide(node.name) + 2 * _PAD, 30.0) for node in graph.nodes}
    lines = [_line(edge, boxes) for edge in graph.edges]
    width, height = 0.0, _GAP_Y
    for part in _parted(list(boxes.values()), lines):
        right, height = _laid_out(part, [line for line in lines if line.left in part], height)
        width = max(width, right)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{len(graph.cards)} routes</title><style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fbfcfd"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        ' orient="auto-start-reverse"><path d="M0,0 8,4 0,8z" style="fill:#5b6b7a;stroke:none"/>'
        "</marker></defs>",
    ]
    out += [_drawn_line(line) for line in lines]
    for box in boxes.values():
        if isinstance(box.of, Card):
            out.append(_drawn_card(box, box.of))
        elif box.of is not None:
            out.append(_drawn_node(box, box.of))
    return "\n".join([*out, "</svg>"]) + "\n"


def _wide(text: str, letters: int = _LONGEST) -> float:
    return min(len(text), letters) * _CHAR


def _card_box(card: Card) -> _Box:
    rows = [_wide(row.text) + row.depth * _INDENT for row in card.rows]
    widest = max([_wide(card.name) * 1.12, _wide(card.source), *rows])
    return _Box(card, widest + 2 * _PAD + 14, _HEAD + len(card.rows) * _ROW + 6)


def _line(edge: Edge, boxes: dict[Any, _Box]) -> _Line:
    card, other = boxes[edge.card], boxes[edge.other]
    return _Line(edge, other, card) if edge.kind == "reads" else _Line(edge, card, other)


def _parted(boxes: list[_Box], lines: list[_Line]) -> list[list[_Box]]:
    """Boxes that are connected, together, in the order of the first of each."""
    part = {box: [box] for box in boxes}
    for line in lines:
        one, other = part[line.left], part[line.right]
        if one is not other:
            one += other
            part.update(dict.fromkeys(other, one))
    order = {box: number for number, box in enumerate(boxes)}
    parts = {id(one): one for one in part.values()}
    return [sorted(one, key=lambda box: order[box]) for one in parts.values()]


def _laid_out(boxes: list[_Box], lines: list[_Line], top: float) -> tuple[float, float]:
    """Give boxes that belong together their places from `top` on; where they end, to the right and
    below."""
    layers = _layered(boxes, lines)
    _ordered(layers, lines)
    _placed(layers, lines)
    within = [box for layer in layers for box in layer]
    shift = top - min(box.y for box in within)
    for box in within:
        box.y += shift
    right = max(box.x + box.width for box in within) + _GAP_Y
    bottom = max(box.y + box.height for box in within)
    for line in lines:
        if line.backwards:
            bottom += _LANE
            line.low, right = bottom, max(right, line.left.x + line.left.width + 2 * _LANE)
    return right, bottom + _GAP_Y


def _layered(boxes: list[_Box], lines: list[_Line]) -> list[list[_Box]]:
    """Each box in a column to the right of all that lead to it; long edges get bends."""
    after: dict[_Box, list[_Line]] = {box: [] for box in boxes}
    for line in lines:
        after[line.left].append(line)
    state: dict[_Box, int] = {}

    def visit(box: _Box) -> None:
        state[box] = 1
        for line in after[box]:
            if state.get(line.right) == 1:
                line.backwards = True  # a loop: it is opened here
            elif line.right not in state:
                visit(line.right)
        state[box] = 2

    for box in boxes:
        if box not in state:
            visit(box)
    forward = [line for line in lines if not line.backwards]
    for _ in boxes:
        moved = False
        for line in forward:
            if line.right.layer <= line.left.layer:
                line.right.layer, moved = line.left.layer + 1, True
        if not moved:
            break
    # What only leads on stands next to where it leads.
    entered = {line.right for line in forward}
    for box in boxes:
        if box not in entered and (
            to := [line.right.layer for line in forward if line.left is box]
        ):
            box.layer = max(box.layer, min(to) - 1)
    layers: list[list[_Box]] = [[] for _ in range(max((b.layer for b in boxes), default=0) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    for line in forward:
        for layer in range(line.left.layer + 1, line.right.layer):
            bend = _Box(None, 0.0, 6.0, layer)
            line.bends.append(bend)
            layers[layer].append(bend)
    return layers


@dataclass(frozen=True, slots=True)
class _Near:
    """A neighbour of a box: how far down the edge between them touches it, and the box."""

    box: _Box
    there: float
    here: float


def _neighbours(lines: list[_Line]) -> tuple[dict[_Box, list[_Near]], dict[_Box, list[_Near]]]:
    """The neighbours of each box, on its left and on its right."""
    left: dict[_Box, list[_Near]] = {}
    right: dict[_Box, list[_Near]] = {}
    for line in lines:
        if line.backwards:
            continue
        chain = [line.left, *line.bends, line.right]
        for a, b in pairwise(chain):
            leaves, enters = _port(a, line.edge.place), _port(b, "")
            right.setdefault(a, []).append(_Near(b, enters, leaves))
            left.setdefault(b, []).append(_Near(a, leaves, enters))
    return left, right


def _ordered(layers: list[list[_Box]], lines: list[_Line]) -> None:
    """Sort each column so that fewer edges cross."""
    left, right = _neighbours(lines)
    for sweep in range(_SWEEPS):
        near = left if sweep % 2 == 0 else right
        rank = {box: float(n) for layer in layers for n, box in enumerate(layer)}
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            keys = {
                box: fmean(rank[n.box] + n.there / (n.box.height + 1) for n in near[box])
                if box in near
                else rank[box]
                for box in layer
            }
            layer.sort(key=keys.__getitem__)
            rank.update({box: float(n) for n, box in enumerate(layer)})


def _placed(layers: list[list[_Box]], lines: list[_Line]) -> None:
    """Give each box its place: the columns side by side, and in each the boxes as near to their
    neighbours as there is room."""
    left, right = _neighbours(lines)
    x = _GAP_Y
    for layer in layers:
        y = 0.0
        for box in layer:
            box.x, box.y = x, y
            y += box.height + _GAP_Y
        wide = max(box.width for box in layer)
        for box in layer:
            if box.of is None:
                box.width = wide  # straight past the others of its column
        x += wide + _GAP_X
    for sweep in range(_SWEEPS):
        near = left if sweep % 2 == 0 else right
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            _settle(layer, near)


def _settle(layer: Sequence[_Box], near: dict[_Box, list[_Near]]) -> None:
    """Move the boxes of a column to where their neighbours are: together, where they are in each
    other's way, so that none is pushed further than the others pull."""
    groups: list[tuple[float, float, list[_Box]]] = []  # where it wants to be, its height, boxes
    for box in layer:
        wanted = box.y
        if box in near:
            wanted = fmean(n.box.y + n.there - n.here for n in near[box])
        group = (wanted, box.height + _GAP_Y, [box])
        while groups and groups[-1][0] + groups[-1][1] > group[0]:
            at, height, boxes = groups.pop()
            # In the middle of what the two want, weighed by how many want it.
            share = len(boxes) / (len(boxes) + len(group[2]))
            middle = at * share + (group[0] - height) * (1 - share)
            group = (middle, height + group[1], [*boxes, *group[2]])
        groups.append(group)
    for at, _, boxes in groups:
        y = at
        for box in boxes:
            box.y = y
            y += box.height + _GAP_Y


def _port(box: _Box, place: str) -> float:
    """How far below the top of a box an edge touches it."""
    if isinstance(box.of, Card):
        for number, row in enumerate(box.of.rows):
            if place and row.place == place:
                return _HEAD + number * _ROW + _ROW / 2
        return _HEAD / 2
    return box.height / 2


def _drawn_line(line: _Line) -> str:
    edge = line.edge
    place = edge.place if isinstance(line.left.of, Card) else ""
    begin = (line.left.x + line.left.width, line.left.y + _port(line.left, place))
    end = (line.right.x, line.right.y + _port(line.right, ""))
    if line.backwards:
        path = _back(begin, end, line.low)
    else:
        bends = [(bend.x, bend.x + bend.width, bend.y + bend.height / 2) for bend in line.bends]
        path = f"M{begin[0]:.1f},{begin[1]:.1f}"
        at = begin
        for left, right, y in [*bends, (end[0], end[0], end[1])]:
            bow = (left - at[0]) / 2
            path += f" C{at[0] + bow:.1f},{at[1]:.1f} {left - bow:.1f},{y:.1f} {left:.1f},{y:.1f}"
            path += f" H{right:.1f}" if right > left else ""
            at = (right, y)
    both = ' marker-start="url(#a)"' if edge.kind == "calls" else ""
    return f'<path class="{edge.kind}" d="{path}" marker-end="url(#a)"{both}/>'


def _back(begin: tuple[float, float], end: tuple[float, float], low: float) -> str:
    """Down from the right of one box, and up to the left of another."""
    (x1, y1), (x2, y2), out = begin, end, 2 * _LANE
    return (
        f"M{x1:.1f},{y1:.1f} C{x1 + out:.1f},{y1:.1f} {x1 + out:.1f},{low:.1f} {x1:.1f},{low:.1f}"
        f" H{x2:.1f} C{x2 - out:.1f},{low:.1f} {x2 - out:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    )


def _drawn_node(box: _Box, node: Node) -> str:
    middle = (box.x + box.width / 2, box.y + box.height / 2 + 4)
    return (
        f"<g><title>{escape(shown(node.name))}</title>"
        + _rect(node.kind, box.x, box.y, box.width, box.height, 15 if node.kind == "channel" else 6)
        + _text_at(*middle, escape(_short(node.name, _LONGEST)), ' text-anchor="middle"')
        + "</g>"
    )


def _drawn_card(box: _Box, card: Card) -> str:
    left = box.x + _PAD
    out = [
        f"<g><title>{escape(shown(card.description or card.name))}</title>",
        _rect("card", box.x, box.y, box.width, box.height, 6),
        _rect("head", box.x + 1, box.y + 1, box.width - 2, _HEAD - 6, 5),
        _text_at(left, box.y + 18, escape(_short(card.name, _LONGEST)), ' class="name"'),
        _text_at(left, box.y + 33, escape(_short(card.source, _LONGEST)), ' class="soft"'),
    ]
    for number, row in enumerate(card.rows):
        if row.kind == "branch":
            text = f'<tspan class="branch">{escape(_short(row.text, _LONGEST))}</tspan>'
        else:
            verb, _, rest = row.text.partition(" ")
            rest = _short(rest, _LONGEST - len(verb))
            text = f'{escape(verb)} <tspan class="soft">{escape(rest)}</tspan>'
        text += f"<title>{escape(shown(row.text))}</title>"
        down = box.y + _HEAD + number * _ROW + 15
        out.append(_text_at(left + row.depth * _INDENT, down, text))
    return "".join(out) + "</g>"


def _rect(kind: str, x: float, y: float, width: float, height: float, radius: int) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size} rx="{radius}"/>'


def _text_at(x: float, y: float, inner: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{inner}</text>'
