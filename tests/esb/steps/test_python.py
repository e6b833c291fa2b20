"""`python`: functions of the project's own, from one folder, checked at load, safe to change."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.steps import compiled, data, mistakes, project

from esb.bus import Shared
from esb.config import load
from esb.errors import Rejected, RouteFailure


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "python"
    folder.mkdir()
    return folder


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


RETURNS = """
from esb.envelope import Body
from lxml import etree

def envelope(e): return e.replace(subject="new")
def nothing(e): return None
def body(e): return Body(b"1", "text/csv")
def mapping(e): return {"n": e.body.data["n"] + 1}
def text(e): return "text"
def raw(e): return b"raw"
def xml(e): return etree.fromstring("<a/>")
async def later(e): return [e.id]
def awaitable(e): return later(e)
def partial(e, options): return options
"""


@pytest.mark.parametrize(
    ("name", "content_type", "written"),
    [
        ("envelope", "application/json", b'{"n":1}'),
        ("nothing", "application/json", b'{"n":1}'),
        ("body", "text/csv", b"1"),
        ("mapping", "application/json", b'{"n":2}'),
        ("text", "text/plain; charset=utf-8", b"text"),
        ("raw", "application/octet-stream", b"raw"),
        ("later", "application/json", b'["m"]'),
        ("awaitable", "application/json", b'["m"]'),
    ],
)
async def test_what_it_returns_becomes_of_the_message(
    name: str, content_type: str, written: bytes, tmp_path: Path, modules: Path
) -> None:
    write(modules, {"f.py": RETURNS})
    result = await compiled(f"- python: f:{name}", tmp_path)(data({"n": 1}, id="m"))
    assert (result.content_type, result.body.raw) == (content_type, written)
    assert result.subject == ("new" if name == "envelope" else "")


async def test_a_function_loses_no_message(tmp_path: Path, modules: Path) -> None:
    dead = "from esb.envelope import Outcome\ndef f(e): return e.replace(outcome=Outcome.DEAD)\n"
    write(modules, {"f.py": dead})
    with pytest.raises(RouteFailure, match="raises an error"):
        await compiled("- python: f:f", tmp_path)(data({}))


async def test_xml_and_options(tmp_path: Path, modules: Path) -> None:
    write(modules, {"f.py": RETURNS})
    result = await compiled("- python: f:xml", tmp_path)(data({}))
    assert (result.content_type, result.body.data.tag) == ("application/xml", "a")
    steps = "- python: {function: f:partial, options: {rate: 1.5, to: [a]}}"
    result = await compiled(steps, tmp_path)(data({}))
    assert result.body.raw == b'{"rate":1.5,"to":["a"]}'


async def test_a_plain_function_runs_in_a_thread_and_blocks_nobody(
    tmp_path: Path, modules: Path
) -> None:
    write(
        modules, {"f.py": "def wait(e): e.params['go'].wait(20)\nasync def here(e): return 'x'\n"}
    )
    step = compiled("- python: {function: f:wait, threads: 2}", tmp_path)
    events = [threading.Event() for _ in range(4)]
    runs = [asyncio.ensure_future(step(data({}, params={"go": event}))) for event in events]
    assert (await compiled("- python: f:here", tmp_path)(data({}))).body.data == "x"
    for event in events[2:]:
        event.set()  # those two wait for a thread
    await asyncio.sleep(0.02)
    assert not any(run.done() for run in runs)
    runs[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await runs[0]
    for event in events:
        event.set()
    await asyncio.gather(*runs[1:])


async def test_errors_of_the_bus_pass_and_all_else_stays_in_the_log(
    tmp_path: Path, modules: Path
) -> None:
    write(
        modules,
        {
            "f.py": "from esb.errors import Rejected\n"
            "def refuse(e): raise Rejected('no', status=409)\n"
            "def bug(e): raise ValueError('a secret')\n"
            "async def bug2(e): raise KeyError('a secret')\n"
            "def leave(e): raise SystemExit(3)\n"
            "def stop(e): raise StopIteration\n"
        },
    )
    with pytest.raises(Rejected, match="no") as refused:
        await compiled("- python: f:refuse", tmp_path)(data({}))
    assert (refused.value.status, refused.value.step) == (409, "steps[0].python")
    for name, kind in {
        "bug": "ValueError",
        "bug2": "KeyError",
        "leave": "RuntimeError",
        "stop": "RuntimeError",
    }.items():
        with capture_logs() as logs, pytest.raises(RouteFailure) as caught:
            await compiled(f"- python: f:{name}", tmp_path)(data({}))
        assert str(caught.value) == f"the function f:{name} failed"
        assert "secret" not in str(caught.value.notes)
        [line] = [line for line in logs if line["event"] == "a python step failed"]
        assert type(line["exc_info"]).__name__ == kind


async def test_modules_reach_each_other_and_nobody_else_reaches_them(
    tmp_path: Path, modules: Path
) -> None:
    write(
        modules,
        {
            "json.py": "def total(e): return {'hidden': False}\n",  # hides no other `json`
            "prices.py": "import json\nfrom . import rates\nfrom .crm.names import NAME\n"
            "def total(e): return [rates.RATE, NAME, json.dumps(1)]\n",
            "rates.py": "RATE = 7\n",
            "crm/names.py": "from ..rates import RATE\nNAME = f'n{RATE}'\n"
            "def name(e): return NAME\n",
        },
    )
    steps = "- python: prices:total"
    assert (await compiled(steps, tmp_path)(data({}))).body.data == [7, "n7", "1"]
    assert (await compiled("- python: crm.names:name", tmp_path)(data({}))).body.data == "n7"
    assert "prices" not in sys.modules
    assert str(modules) not in sys.path
    assert not list(tmp_path.rglob("__pycache__"))


async def test_the_folder_may_be_that_of_the_project(tmp_path: Path, modules: Path) -> None:
    write(modules, {"f.py": "def f(e): return 'root'\n"})
    (tmp_path / "routes").mkdir()
    file = tmp_path / "routes" / "r.yaml"
    file.write_text("routes: {r: {from: {http: /r}, steps: [{python: 'f:f'}]}}")
    loaded = load([file], root=tmp_path).check()
    assert (await loaded.routes[0].step(data({}))).body.data == "root"
    write(tmp_path / "routes", {"python/f.py": "def f(e): return 'beside'\n"})
    loaded = load([file], root=tmp_path).check()
    assert (await loaded.routes[0].step(data({}))).body.data == "beside"


async def test_a_change_is_seen_by_the_next_load_and_not_by_what_runs(
    tmp_path: Path, modules: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("routes: {r: {from: {http: /r}, steps: [{python: 'f:f'}]}}")
    write(modules, {"f.py": "from .rates import RATE\ndef f(e): return RATE\n"})
    shared, loaded = Shared(), []
    for version in (1, None, 2, 3):
        if version:  # what the module imports is another, within the same second
            write(modules, {"rates.py": f"RATE = {version}\n"})
        loaded.append(load([file], root=tmp_path, shared=shared).check().routes[0])
    answers = [(await route.step(data({}))).body.data for route in loaded]
    assert answers == [1, 1, 2, 3]
    assert loaded[0].fingerprint == loaded[1].fingerprint
    assert len({route.fingerprint for route in loaded}) == 3


async def test_what_no_route_uses_any_more_is_forgotten(tmp_path: Path, modules: Path) -> None:
    def ours() -> list[str]:
        gc.collect()
        return [name for name in sys.modules if name.startswith("esb_project_")]

    write(modules, {"f.py": "from . import g\ndef f(e): return g.G\n", "g.py": "G = 1\n"})
    before = len(ours())
    step = compiled("- python: f:f", tmp_path)
    assert (await step(data({}))).body.data == 1
    assert len(ours()) == before + 3
    del step
    assert len(ours()) == before


def test_mistakes_are_found_at_load(tmp_path: Path, modules: Path) -> None:
    write(
        modules,
        {
            "good.py": "X = 1\ndef total(e): ...\ndef two(e, options): ...\ndef _private(e): ...\n",
            "syntax.py": "\ndef f(e:\n",
            "broken.py": "import good\n",
            "deep.py": "from . import raises\n",
            "raises.py": "def g():\n    raise SystemExit('no')\ng()\n",
        },
    )
    steps = """
        - python: good.total
        - python: god:total
        - python: good:totl
        - python: good:X
        - python: good:two
        - python: {function: good:total, options: {}}
        - python: syntax:f
        - python: broken:f
        - python: deep:f
        - python: ../outside:f
    """
    assert mistakes(steps, tmp_path) == [
        "6: a function is named as module:function",
        "7: there is no file python/god.py (did you mean 'python/good.py'?)",
        "8: there is no function 'totl' in good (there are: total, two)",
        "9: there is no function 'X' in good (there are: total, two)",
        "10: two cannot be called with the message: missing a required argument: 'options'",
        "11: total cannot be called with the message and the options: "
        "too many positional arguments",
        "12: python/syntax.py cannot be loaded: '(' was never closed (line 2)",
        "13: python/broken.py cannot be loaded: ModuleNotFoundError: No module named 'good', "
        "at broken.py:1",
        "14: python/deep.py cannot be loaded: SystemExit: no, at raises.py:2",
        "15: a function is named as module:function",
    ]
    assert [r.name for r in project("- python: good:total", tmp_path).check().routes] == ["r"]
