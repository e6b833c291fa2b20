"""`saga`: all of it is done, or none, or somebody is told; whatever fails, and whenever."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.bus import running, store_of
from support.steps import data, mistakes
from support.stores import Place, opened, setting
from support.waiting import until

from esb.control import Selection, replay
from esb.durable import DEAD, Change, Confirm, Store
from esb.errors import Unavailable

PROCESS = Path(__file__).parents[2] / "support" / "crashing_bus.py"

WORLD = '''
"""The far sides: each call is a line in a file; a message says which of them fail."""
import asyncio
from pathlib import Path
from esb.errors import KINDS

LOG = Path(__file__).parent / "log"

async def act(envelope, options):
    name = options["name"]
    with LOG.open("a") as log:
        log.write(f"{name}\\n")
    errors = envelope.body.data.get("fail", {}).get(name, [])
    number = LOG.read_text().split().count(name)
    if number <= len(errors) and errors[number - 1] == "hang":
        await asyncio.Event().wait()
    if number <= len(errors) and errors[number - 1]:
        raise KINDS[errors[number - 1]](f"{name} failed")
    return {**envelope.body.data, name: True}
'''


def stages(*names: str, send: bool = False) -> str:
    """Stages of a saga, as YAML; each sends what it does to a queue of its own, if asked to."""

    def steps(name: str) -> str:
        sends = f", {{send: {{queue: {name}}}}}" if send else ""
        return f"[{{python: {{function: 'world:act', options: {{name: {name}}}}}}}{sends}]"

    return ", ".join(f"{{name: {n}, do: {steps(n)}, undo: {steps('un' + n)}}}" for n in names)


def route(folder: Path, saga: str, *, after: str = "", retry: str = "{attempts: 1}") -> str:
    (folder / "python").mkdir(exist_ok=True)
    (folder / "python" / "world.py").write_text(WORLD)
    return f"""
routes:
  order:
    from: {{queue: {{name: in, backoff: 1ms}}}}
    steps:
      - saga: {{steps: [{saga}], retry: {{attempts: 2, backoff: 1ms}}}}
      {after}
    retry: {retry}
"""


def log(folder: Path) -> list[str]:
    file = folder / "python" / "log"
    return file.read_text().split() if file.exists() else []


async def run(
    text: str,
    folder: Path,
    fail: Mapping[str, Sequence[str]] = {},
    **counts: int,
) -> list[Any]:
    """Run a message through; the bus must then have these messages in its channels. Returns the
    dead letters."""
    async with running(text, folder) as bus:
        store = store_of(bus)
        await store.put("queue:in", data({"fail": fail}, id="m"))
        await until(lambda: _rests(store))
        assert await store.counts() == {
            name.replace("queue_", "queue:"): count for name, count in counts.items()
        }
        return await store.browse(DEAD)


async def _rests(store: Store) -> bool:
    counts = await store.counts()
    return not any(counts.get(channel) for channel in ("queue:in", "park:order", "accept:order"))


async def test_all_of_it_is_done_in_order(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b", "c", send=True), after="- send: {queue: out}")
    await run(text, tmp_path, queue_a=1, queue_b=1, queue_c=1, queue_out=1)
    assert log(tmp_path) == ["a", "b", "c"]


async def test_what_is_done_is_undone_the_last_first(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b", "c", send=True), after="- send: {queue: out}")
    [dead] = await run(
        text, tmp_path, {"c": ["rejected"]},
        queue_a=1, queue_b=1, queue_unb=1, queue_una=1, dead=1,
    )  # fmt: skip
    assert log(tmp_path) == ["a", "b", "c", "unb", "una"]
    assert (dead.failure.code, dead.failure.detail) == ("rejected", "c failed")
    assert dead.failure.step == "steps[0].saga.steps[2].do[0].python"
    assert dead.failure.notes == ("undone: a, b",)


@pytest.mark.parametrize("code", ["outcome-unknown", "timed-out", "bad-reply"])
async def test_what_may_be_done_is_undone_too(code: str, tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b"))
    await run(text, tmp_path, {"b": [code]}, dead=1)
    assert log(tmp_path) == ["a", "b", "unb", "una"]


async def test_undoing_is_tried_again(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b"))
    [dead] = await run(text, tmp_path, {"b": ["rejected"], "una": ["unreachable"]}, dead=1)
    assert log(tmp_path) == ["a", "b", "una", "una"]
    assert dead.failure.code == "rejected"


async def test_what_cannot_be_undone_is_named_and_a_replay_goes_on_from_there(
    tmp_path: Path,
) -> None:
    text = route(tmp_path, stages("a", "b", "c", "d"), after="- send: {queue: out}")
    fail = {"d": ["rejected"], "unb": ["unreachable", "unreachable"]}
    [dead] = await run(text, tmp_path, fail, dead=1)
    assert log(tmp_path) == ["a", "b", "c", "d", "unc", "unb", "unb", "una"]
    assert (dead.failure.code, dead.failure.detail) == (
        "not-undone",
        "the saga failed at 'd', and this could not be undone: b",
    )
    assert dead.failure.notes == (
        "failed: rejected: d failed",
        "b: unreachable: unb failed",
    )
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await replay(store, bus.routes, Selection(all=True), None)
        await until(lambda: store.browse("queue:out"))
    assert log(tmp_path)[8:] == ["a", "c", "d"], "b is done"


async def test_a_run_that_fails_later_does_not_do_it_again(tmp_path: Path) -> None:
    after = "- python: {function: 'world:act', options: {name: later}}\n      - send: {queue: out}"
    text = route(tmp_path, stages("a", "b"), after=after, retry="{attempts: 4, backoff: 1ms}")
    await run(text, tmp_path, {"later": ["transient", "transient"]}, queue_out=1)
    assert log(tmp_path) == ["a", "b", "later", "later", "later"]


async def test_once_undone_it_is_begun_anew(tmp_path: Path) -> None:
    text = route(
        tmp_path,
        stages("a", "b"),
        after="- send: {queue: out}",
        retry="{attempts: 3, backoff: 1ms}",
    )
    await run(text, tmp_path, {"b": ["transient"]}, queue_out=1)
    assert log(tmp_path) == ["a", "b", "una", "a", "b"]


async def test_each_time_a_message_passes_it_is_done(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a"), after="- loop: {times: 2, steps: [{run: again}]}\n") + (
        "  again:\n    steps:\n"
        f"      - saga: {{steps: [{stages('x', 'y')}]}}\n"
        "      - try: {steps: [{run: once}, {fail: no}], catch: [{steps: [{run: once}]}]}\n"
        f"  once: {{steps: [{{saga: {{steps: [{stages('z')}]}}}}]}}\n"
    )
    await run(text, tmp_path)
    assert log(tmp_path) == ["a", *(["x", "y", "z"] * 2)], "what is done is done, also in `try`"


async def test_nothing_is_kept_in_mind_of_one_that_is_through(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b"))
    await run(text, tmp_path)
    await run(text, tmp_path)
    assert log(tmp_path) == ["a", "b", "a", "b"], "the same id, and another message"


async def test_parts_of_a_split_have_sagas_of_their_own(tmp_path: Path) -> None:
    saga = stages("a", "b")
    text = route(tmp_path, saga).replace(
        "      - saga:",
        "      - split: {each: '[body, body, body]', concurrency: 3, steps: [{saga:",
    )
    text = text.replace("backoff: 1ms}}\n      \n", "backoff: 1ms}}}]}\n")
    await run(text, tmp_path)
    assert sorted(log(tmp_path)) == ["a"] * 3 + ["b"] * 3


async def test_a_run_that_is_cancelled_undoes_what_is_done(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b"))
    async with running(text, tmp_path, grace=0) as bus:
        await store_of(bus).put("queue:in", data({"fail": {"b": ["hang"]}}, id="m"))
        await until(lambda: log(tmp_path) == ["a", "b"])
    assert log(tmp_path) == ["a", "b", "unb", "una"]
    async with opened(tmp_path / "bus.db") as store:
        assert await store.counts() == {"queue:in": 1}, "given back"


async def test_a_message_has_one_run_in_it_at_a_time(tmp_path: Path) -> None:
    text = route(tmp_path, stages("a", "b"))
    with capture_logs() as lines:
        async with running(text, tmp_path, grace=0) as bus:
            store = store_of(bus)
            message = data({"fail": {"b": ["hang"]}}, id="m")
            await store.put("queue:in", message)
            await until(lambda: log(tmp_path) == ["a", "b"])
            await store.put("queue:in", message)
            await until(lambda: any(line.get("code") == "in-progress" for line in lines))
            assert log(tmp_path) == ["a", "b"]


async def test_after_a_crash_it_goes_on_where_it_was(tmp_path: Path, place: Place) -> None:
    text = route(tmp_path, stages("a", "b", "c"), after="- send: {queue: out}") + setting(
        place, **({} if isinstance(place, Path) else {"lease": "500ms"})
    )
    (tmp_path / "routes.yaml").write_text(text)
    async with opened(place) as store:
        await store.put("queue:in", data({"fail": {"b": ["hang"]}}, id="m"))
    process = subprocess.Popen([sys.executable, str(PROCESS), str(tmp_path)])
    try:
        await until(lambda: log(tmp_path) == ["a", "b"])
    finally:
        process.kill()
        process.wait()
    async with running(text, tmp_path) as bus:
        [out] = await until(lambda: store_of(bus).browse("queue:out"))
    assert log(tmp_path) == ["a", "b", "b", "c"]
    assert set(out.envelope.body.data) == {"fail", "a", "b", "c"}, "also what a has left"


async def test_if_it_cannot_be_noted_it_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = route(
        tmp_path,
        stages("a", "b"),
        after="- send: {queue: out}",
        retry="{attempts: 2, backoff: 1ms}",
    )
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        commit, away = store.commit, iter([False, True])

        async def commit_or_not(changes: Sequence[Change]) -> list[int]:
            if any(isinstance(change, Confirm) for change in changes) and next(away, False):
                raise Unavailable("the store is away")
            return await commit(changes)

        monkeypatch.setattr(store, "commit", commit_or_not)
        await store.put("queue:in", data({}, id="m"))
        await until(lambda: store.browse("queue:out"))
    assert log(tmp_path) == ["a", "b", "unb", "una", "a", "b"]


CODES = st.sampled_from(["rejected", "transient", "outcome-unknown", "timed-out", "", "", ""])
SCRIPTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "una", "unb", "unc"]), st.lists(CODES, max_size=4)
)


def test_whatever_fails_all_is_done_or_none_or_it_is_said(tmp_path: Path) -> None:
    text = route(
        tmp_path, stages("a", "b", "c"), after="- send: {queue: out}",
        retry="{attempts: 3, backoff: 1ms}",
    )  # fmt: skip
    file = tmp_path / "python" / "log"
    loop = asyncio.new_event_loop()
    bus = running(text, tmp_path)
    store = store_of(loop.run_until_complete(bus.__aenter__()))
    numbers = count()

    async def one(script: Mapping[str, Sequence[str]]) -> tuple[bool, set[str]]:
        """Whether it went through, and what the dead letter says is left."""
        file.unlink(missing_ok=True)
        key = f"m{next(numbers)}"
        await store.put("queue:in", data({"fail": script}, id=key))
        found: list[Any] = []

        async def ended() -> bool:
            nonlocal found
            found, _ = await store.find(key)
            return any(one.channel in (DEAD, "queue:out") for one in found)

        await until(ended)
        [message] = found
        if message.channel == DEAD and message.failure.code == "not-undone":
            return False, set(message.failure.detail.rpartition(": ")[2].split(", "))
        return message.channel != DEAD, set()

    @given(SCRIPTS)
    @settings(max_examples=60, deadline=None)
    def check(script: Mapping[str, Sequence[str]]) -> None:
        through, left = loop.run_until_complete(one(script))
        may_be_done: set[str] = set()
        times: Counter[str] = Counter()
        for name in log(tmp_path):
            code = [*script.get(name, ()), *[""] * 99][times[name]]
            times[name] += 1
            if not name.startswith("un"):
                may_be_done |= {name} if code in ("", "outcome-unknown", "timed-out") else set()
            elif not code:
                may_be_done.discard(name.removeprefix("un"))
        assert may_be_done == ({"a", "b", "c"} if through else left)

    try:
        check()
    finally:
        loop.run_until_complete(bus.__aexit__(None, None, None))
        loop.close()


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    steps = """
        - saga: {steps: []}
        - saga: {steps: [{do: [], undo: []}, {name: "1", do: []}]}
        - saga: {steps: [{undo: []}]}
    """
    found = mistakes(steps, tmp_path)
    assert found[1] == "7: two stages are called '1'"
    assert found[2] == "8: 'do' is missing"
