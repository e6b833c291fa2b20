"""`esb graph`, `explain`, `list` and `docs`, as they are typed."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from typer.testing import CliRunner

from esb import graph
from esb.cli import app
from esb.config import load, route_files_in
from esb.explain import explain
from esb.route import Called
from esb.strict_yaml import References, read_yaml

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent for path in PROJECT.glob("examples/*/routes.yaml"))
SVG = "{http://www.w3.org/2000/svg}"
ROUTES = """
connections:
  books: {http: {url: "https://books.example", auth: {bearer: "${BOOKS_TOKEN}"}, timeout: 7s}}
routes:
  orders:
    description: Takes <orders> & more.
    from: {http: {path: /orders}}
    accept: durable
    steps:
      - run: price
      - choose:
          - when: body.n > 10 | int
            steps: [{send: {queue: later}}]
          - otherwise:
            steps: [{call: {http: {connection: books, path: "/{{ body.id }}"}}}]
      - copy_to: {queue: audit}
    dead_letter: {queue: broken}
  price: {steps: [{set: {fields: {price: "1"}}}]}
  later: {from: {queue: later}, steps: [{send: {queue: again}}]}
  again: {from: {queue: again}, steps: [{run: price}, {send: {queue: later}}]}
  audit: {from: {queue: {name: audit, order: true}}, steps: [log], retry: {attempts: 3}}
"""


def esb(folder: Path, *args: str, status: int = 0, **environ: str) -> tuple[str, str]:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, args, env=dict(environ))
    assert done.exit_code == status, (done.exit_code, done.output, done.exception)
    return done.stdout, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "r.yaml").write_text(ROUTES)
    return tmp_path


# --- graph ----------------------------------------------------------------------------------------


def read(folder: Path) -> graph.Graph:
    with contextlib.chdir(PROJECT):
        return graph.read(load([folder], environ=None).routes)


def test_what_is_between_routes(project: Path) -> None:
    found = read(project / "routes")
    assert {card.name: card.source for card in found.cards} == {
        "orders": "POST /orders", "price": "sub-route", "later": "queue later",
        "again": "queue again", "audit": "queue audit",
    }  # fmt: skip
    edges = {
        (e.card, e.kind, e.place, e.other if isinstance(e.other, str) else e.other.name)
        for e in found.edges
    }
    assert edges == {
        ("orders", "runs", "steps[0].run", "price"),
        ("orders", "sends", "steps[1].choose[0].steps[0].send", "queue later"),
        ("orders", "calls", "steps[1].choose[1].steps[0].call", "https://books.example"),
        ("orders", "copies", "steps[2].copy_to", "queue audit"),
        ("orders", "buries", "", "queue broken"),
        ("later", "reads", "", "queue later"),
        ("later", "sends", "steps[0].send", "queue again"),
        ("again", "reads", "", "queue again"),
        ("again", "runs", "steps[0].run", "price"),
        ("again", "sends", "steps[1].send", "queue later"),
        ("audit", "reads", "", "queue audit"),
    }
    [orders] = [card for card in found.cards if card.name == "orders"]
    assert [(row.depth, row.text) for row in orders.rows] == [
        (0, "run price"),
        (0, "choose"),
        (1, "when body.n > 10 | int"),
        (2, "send"),
        (1, "otherwise"),
        (2, "call"),
        (0, "copy_to"),
    ]


@pytest.mark.parametrize("folder", [*EXAMPLES, PROJECT / "routes"], ids=lambda path: path.name)
def test_a_picture_shows_everything_and_nothing_on_top_of_another(folder: Path) -> None:
    whole(read(folder))


def test_a_picture_with_loops(project: Path) -> None:
    whole(read(project / "routes"))


def whole(found: graph.Graph) -> None:
    picture = etree.fromstring(graph.svg(found).encode())
    titles = {title.text for title in picture.iter(f"{SVG}title")}
    assert titles >= {node.name for node in found.nodes}
    assert titles >= {card.description or card.name for card in found.cards}
    kinds = ("card", "channel", "outside")
    boxes = [
        tuple(float(one.attrib[name]) for name in ("x", "y", "width", "height"))
        for one in picture.iter(f"{SVG}rect")
        if one.get("class") in kinds
    ]
    assert len(boxes) == len(found.cards) + len(found.nodes)
    wide, high = float(picture.attrib["width"]), float(picture.attrib["height"])
    for n, (x, y, width, height) in enumerate(boxes):
        assert min(x, y) >= 0
        assert x + width <= wide
        assert y + height <= high
        for left, top, w, h in boxes[:n]:
            apart = x >= left + w or left >= x + width or y >= top + h or top >= y + height
            assert apart, "one lies on another"
    lines = [one for one in picture.iter(f"{SVG}path") if one.get("class")]
    assert len(lines) == len(found.edges)


def test_a_picture_of_nothing() -> None:
    assert etree.fromstring(graph.svg(graph.Graph()).encode()).tag == f"{SVG}svg"


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_a_flowchart_defines_what_it_connects(folder: Path) -> None:
    text = graph.mermaid(read(folder))
    defined = set(re.findall(r"^\s*(?:subgraph )?(n\d+)[\[(]", text, re.MULTILINE))
    arrow = r'(?:-- "[^"]*" -->|-->|<-->|-\.->|-\. [a-z ]+ \.->)'
    for line in text.splitlines():
        if re.search(r"-->|\.->", line):
            ends = re.fullmatch(rf"\s*(n\d+) {arrow} (n\d+)", line)
            assert ends, line
            assert {ends[1], ends[2]} <= defined
    assert text.count("subgraph ") == text.count("\n  end")


def test_the_format_follows_from_the_file(project: Path) -> None:
    esb(project, "graph", "-o", "g.svg")
    assert (project / "g.svg").read_text().startswith("<svg ")
    esb(project, "graph", "-o", "g.mmd")
    out, _ = esb(project, "graph", "--mermaid")
    assert (project / "g.mmd").read_text() == out
    assert "Takes" not in out
    assert esb(project, "graph", "--svg")[0].startswith("<svg ")
    esb(project, "graph", "--svg", "--mermaid", status=2)
    assert "there is no drawing of .png" in esb(project, "graph", "-o", "g.png", status=2)[1]
    assert not (project / "g.png").exists()
    (project / "routes" / "r.yaml").write_text("routes: {a: {from: {quue: a}}}")
    assert "did you mean 'queue'?" in esb(project, "graph", status=1)[1]


# --- explain --------------------------------------------------------------------------------------


def test_a_route_with_all_that_it_is(project: Path) -> None:
    out, _ = esb(project, "explain", "orders", BOOKS_TOKEN="s3cret-token")
    assert "s3cret" not in out
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0].endswith("routes/r.yaml:5")
    assert "url: https://books.example  # connection books" in lines
    assert "auth:  # connection books" in lines
    assert "bearer: ${BOOKS_TOKEN}" in lines
    assert "timeout: 7s  # connection books" in lines
    assert "connect_timeout: 5s  # default" in lines
    assert "retry:  # default, since nobody waits for an answer" in lines
    assert "- when: body.n > 10 | int" in lines
    assert "name: broken" in lines
    assert "${BOOKS_TOKEN}" in esb(project, "explain", "orders")[0]  # nor is it needed


def test_what_is_written_elsewhere_says_where(project: Path) -> None:
    (project / "routes" / "t.yaml").write_text("""\
defaults: {retry: {attempts: 7}}
policies:
  patient: {timeout: 5m}
templates:
  feed:
    parameters: {queue: {}}
    route:
      from: {queue: "${queue}"}
      policy: patient
      steps: [{send: {queue: done}}]
routes:
  fed: {use: feed, with: {queue: fed}}
""")
    lines = esb(project, "explain", "fed", BOOKS_TOKEN="x")[0].splitlines()
    assert lines[0] == "# fed: routes/t.yaml:12, made from template feed"
    told = [line.strip() for line in lines]
    assert "name: fed" in told
    assert "retry:  # defaults, line 1" in told
    assert "timeout: 5m  # policy patient, line 3" in told
    assert "- send:  # line 10" in told


def test_an_unknown_route(project: Path) -> None:
    _, err = esb(project, "explain", "order", BOOKS_TOKEN="x", status=1)
    assert "there is no route 'order': did you mean 'orders'?" in err


@pytest.mark.parametrize("folder", [*EXAMPLES, PROJECT / "routes"], ids=lambda path: path.name)
def test_what_is_explained_is_the_same_route(folder: Path, tmp_path: Path) -> None:
    """What `explain` writes loads without what is a default anyway, and is explained as before."""
    with contextlib.chdir(PROJECT):
        routes = load([folder], environ=None).routes
    shared = [_top(file) for file in route_files_in(folder)]
    for route in routes:
        if isinstance(route.source, Called):
            continue
        first = explain(route, {})
        data = dict(_plain(_given(first)))
        names = set(re.findall(r"run: ([\w-]+)", first))
        subs = [_given(explain(one, {})) for one in routes if one.name in names]
        for more in [*shared, *map(_plain, subs)]:
            for key, value in more.items():
                data[key] = {**data.get(key, {}), **value}
        again = folder / f".explained-{tmp_path.name}.yaml"  # beside the files that it names
        again.write_text(json.dumps(data))
        try:
            with contextlib.chdir(PROJECT):
                loaded = load([again], environ=None)
        finally:
            again.unlink()
        assert loaded.diagnostics == []
        [same] = [one for one in loaded.routes if one.name == route.name]
        assert _plain(explain(same, {})) == _plain(first)


def _given(text: str) -> str:
    """Without what is a default."""
    kept: list[str] = []
    within = -1
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if 0 <= within < depth:
            continue
        within = depth if re.search(r"  # default(,|$)", line) else -1
        if within < 0:
            kept.append(line)
    return "\n".join(kept)


def _top(file: Path) -> dict[str, Any]:
    found = _plain(file.read_text()) or {}
    return {key: found[key] for key in ("auth", "connections", "listen") if key in found}


def _plain(text: str) -> Any:
    """Without the comments."""
    document = read_yaml(text, "explained", PROJECT, References(None))
    assert document.diagnostics == []
    return document.data


# --- list and docs --------------------------------------------------------------------------------


def test_what_routes_can_be_made_of(tmp_path: Path) -> None:
    out, _ = esb(tmp_path, "list")
    assert re.search(r"^http +from, send, call +Take HTTP requests", out, re.MULTILINE)
    assert re.search(r"^choose +Content-Based Router \(EIP\)", out, re.MULTILINE)
    assert re.search(r"^csv +Comma-separated", out, re.MULTILINE)
    assert "STEPS" not in esb(tmp_path, "list", "adapters")[0]
    found = json.loads(esb(tmp_path, "list", "steps", "--json")[0])
    assert {"filter", "split"} <= {one["name"] for one in found["steps"]}
    esb(tmp_path, "list", "steps", "filter", status=2)


def test_the_options_of_one_thing(tmp_path: Path) -> None:
    out, _ = esb(tmp_path, "list", "options", "filter")
    assert re.search(r"^  when +text +required ", out, re.MULTILINE)
    out, _ = esb(tmp_path, "list", "options", "from: queue")
    assert "from: queue" in out
    assert "send: queue" not in out
    assert "business_key" in esb(tmp_path, "list", "options", "route")[0]
    [table, *_] = json.loads(esb(tmp_path, "list", "options", "filter", "--json")[0])
    assert table["options"][0]["name"] == "when"
    _, err = esb(tmp_path, "list", "options", "fliter", status=2)
    assert "did you mean 'filter'?" in err
    esb(tmp_path, "list", "options", status=2)


def test_the_reference_as_files(tmp_path: Path) -> None:
    out, _ = esb(tmp_path, "docs", "-o", "made")
    assert "made/index.md" in out
    assert "(EIP)" in (tmp_path / "made" / "steps" / "filter.md").read_text()
    assert "# http" in (tmp_path / "made" / "adapters" / "http.md").read_text()
