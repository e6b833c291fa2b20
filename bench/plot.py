"""Results as a picture: SVG, one bar a contestant in each scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape  # noqa: TID251 - it writes, nothing is parsed

_LABELS, _BARS, _BAR, _LEGEND = 370, 420, 14, 24
_COLOURS = ["#1f5fa8", "#8a8a8a", "#d9822b", "#4c9a52", "#a5508f", "#c2423a", "#7a6a4f", "#2aa1a8",
            "#222222", "#b0a300"]  # fmt: skip

Group = tuple[str, list[tuple[str, float]]]
"""A label, and values by contestant."""


def plot(result: dict[str, Any]) -> str:
    """What a message costs beside nginx, by scenario, the codec beside zeep, and how it goes on
    with more connections. As an SVG document."""
    panels: list[tuple[str, list[Group]]] = []
    for title, value in (
        ("Messages a second; nginx as reverse proxy = 1", lambda ratio: ratio.get("rate")),
        (
            "Messages per CPU second; nginx as reverse proxy = 1",
            lambda ratio: 1 / ratio["cpu"] if "cpu" in ratio else None,
        ),
    ):
        groups = [
            (scenario["title"], [(name, found) for name, ratio in scenario["to_nginx"].items()
                                 if name != "backend" and (found := value(ratio))])
            for scenario in result["scenarios"]
        ]  # fmt: skip
        panels.append((title, [group for group in groups if group[1]]))
    if "codec" in result:
        speeds = [
            (
                f"{one['direction']}, {one['size']}",
                [(n, t) for n, t in one["times_zeep"].items() if n.startswith("esb")],
            )
            for one in result["codec"]
        ]
        panels.append(("SOAP codec; zeep = 1", speeds))
    names = dict.fromkeys(
        name for _, groups in panels for _, rows in groups for name, _ in rows
    ) | dict.fromkeys(name for one in result.get("sweep", ()) for name in one["medians"])
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    drawn, top = [], 10
    for title, groups in panels:
        if groups:
            piece, top = _bars(title, groups, colours, top)
            drawn += piece
    for name in dict.fromkeys(one["title"] for one in result.get("sweep", ())):
        points = [one for one in result["sweep"] if one["title"] == name]
        piece, top = _lines(f"{name}: messages a second by connections", points, colours, top)
        drawn += piece
    width = _LABELS + _BARS + 80
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
        'font-family="sans-serif" font-size="12">\n'
        "<style>.one {stroke: #c33; stroke-dasharray: 4 3} .line {fill: none; stroke-width: 2} "
        ".axis {stroke: #999}</style>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n{chr(10).join(drawn)}\n</svg>\n'
    )


def _heading(title: str, colours: dict[str, str], shown: set[str], top: int) -> list[str]:
    drawn = [f'<text x="10" y="{top + 14}" font-weight="bold">{escape(title)}</text>']
    left = 10
    for name, colour in colours.items():
        if name in shown:
            drawn.append(
                f'<rect x="{left}" y="{top + 22}" width="10" height="10" fill="{colour}"/>'
            )
            drawn.append(f'<text x="{left + 14}" y="{top + 31}">{escape(name)}</text>')
            left += 30 + 7 * len(name)
    return drawn


def _bars(
    title: str, groups: Sequence[Group], colours: dict[str, str], top: int
) -> tuple[list[str], int]:
    """One panel of bars, and where the next one begins."""
    shown = {name for _, rows in groups for name, _ in rows}
    drawn = _heading(title, colours, shown, top)
    top += 20 + _LEGEND
    begun = top
    longest = max(1.0, *(value for _, rows in groups for _, value in rows))
    for label, rows in groups:
        drawn.append(
            f'<text x="{_LABELS - 8}" y="{top + len(rows) * _BAR / 2 + 4}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        for name, value in rows:
            width = value / longest * _BARS
            drawn.append(
                f'<rect x="{_LABELS}" y="{top + 1}" width="{width:.1f}" height="{_BAR - 2}" '
                f'fill="{colours[name]}"/>'
            )
            drawn.append(
                f'<text x="{_LABELS + width + 5:.1f}" y="{top + 11}" font-size="11">'
                f"{value:.2f}</text>"
            )
            top += _BAR
        top += 8
    one = _LABELS + _BARS / longest
    drawn.append(f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="{begun}" y2="{top}"/>')
    return drawn, top + 14


def _lines(
    title: str, points: Sequence[dict[str, Any]], colours: dict[str, str], top: int
) -> tuple[list[str], int]:
    """One panel of lines, a contestant each, and where the next one begins."""
    height, left = 180, 80
    shown = {name for one in points for name in one["medians"]}
    drawn = _heading(title, colours, shown, top)
    top += 24 + _LEGEND
    most = max(figures["rate"] for one in points for figures in one["medians"].values())
    step = (_LABELS + _BARS - left) / max(1, len(points) - 1)
    foot = top + height
    drawn.append(f'<line class="axis" x1="{left}" x2="{left}" y1="{top}" y2="{foot}"/>')
    drawn.append(
        f'<line class="axis" x1="{left}" x2="{left + step * (len(points) - 1):.0f}" '
        f'y1="{foot}" y2="{foot}"/>'
    )
    drawn.append(f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{most:,.0f}</text>')
    for at, one in enumerate(points):
        drawn.append(
            f'<text x="{left + at * step:.0f}" y="{foot + 16}" text-anchor="middle">'
            f"{one['connections']:,}</text>"
        )
    for name in colours:
        path = [
            f"{left + at * step:.1f},{foot - one['medians'][name]['rate'] / most * height:.1f}"
            for at, one in enumerate(points)
            if name in one["medians"]
        ]
        if path:
            drawn.append(
                f'<polyline class="line" stroke="{colours[name]}" points="{" ".join(path)}"/>'
            )
    return drawn, foot + 34
