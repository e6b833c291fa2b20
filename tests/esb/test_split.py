"""`split` over streams: any size, batch by batch, and no part lost or sent twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text, running, store_of
from support.stores import Place, lying, opened, setting
from support.waiting import until

from esb.bus import Bus
from esb.control import Selection, replay
from esb.durable import DEAD, Store, Stored
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.metrics import DEAD_LETTERS
from esb.steps import split
from esb.xml import StreamedXml

PROCESS = Path(__file__).parents[1] / "support" / "crashing_bus.py"


def routes(split: str) -> str:
    """A route nobody waits for, with this split, which sends its parts to the queue `out`."""
    return f"""
routes:
  r:
    from: {{queue: in}}
    retry: {{attempts: 1}}
    steps:
      - split: {split}
"""


async def send(bus: Bus, body: Body, **fields: Any) -> Envelope:
    """Run a message through the steps of the route `r`."""
    return await bus.routes["r"].step(Envelope(body=body, **fields))


async def sent(bus: Bus, queue: str = "out") -> list[Any]:
    """What lies in a queue."""
    stored = await store_of(bus).browse(f"queue:{queue}", limit=100_000)
    return [one.envelope.body.data for one in stored]


async def remembered(bus: Bus) -> int:
    """How many places in streams the store remembers."""
    counts = await store_of(bus).counts()
    return sum(count for channel, count in counts.items() if channel.startswith("kept:split:"))


LINES = Body(b"".join(b"%d\n" % n for n in range(10)), "text/plain")
OK = Headers([("x-ok", "yes")])
SEND = "steps: [{send: {queue: out}}]"


class TestStreams:
    @pytest.mark.parametrize(
        ("stream", "body", "parts"),
        [
            ("lines", Body(b"a\r\nb", "text/plain"), ["a", "b"]),
            ("csv", Body(b"a,b\n1,2\n", "text/csv"), [{"a": "1", "b": "2"}]),
            (
                '{csv: {header: false, columns: [x, y], delimiter: "|"}}',
                Body(b"1|2\n", ""),
                [{"x": "1", "y": "2"}],
            ),
            ("json", Body.of([1, {"a": [2]}]), [1, {"a": [2]}]),
            ("{json: data.rows}", Body.of({"data": {"rows": [1, 2]}}), [1, 2]),
            ("ndjson", Body(b"1\n[2]\n", ""), [1, [2]]),
            ("{fixed: {layout: [a: 1, b: 2]}}", Body(b"xyz\n", ""), [{"a": "x", "b": "yz"}]),
        ],
    )
    async def test_each_format_has_its_parts(
        self, stream: str, body: Body, parts: list[Any], tmp_path: Path
    ) -> None:
        async with running(routes(f"{{stream: {stream}, {SEND}}}"), tmp_path) as bus:
            result = await send(bus, body)
            assert await sent(bus) == parts
            assert result.outcome is Outcome.ACCEPTED
            assert result.params["split"] == {"count": len(parts), "failed": 0}

    async def test_elements_are_documents(self, tmp_path: Path) -> None:
        text = routes("{stream: {xml: o}, gather: true, steps: [{set: {body: \"xpath('@i')\"}}]}")
        async with running(text, tmp_path) as bus:
            result = await send(bus, Body(b"<a><o i='1'/><o i='2'/></a>", "text/xml"))
            assert result.body.data == ["1", "2"]

    async def test_parts_know_their_number_and_the_last(self, tmp_path: Path) -> None:
        inner = "[{set: {body: '[message.id, split.index, split.last]'}}]"
        for how in ("stream: lines", "each: text.splitlines()"):
            text = routes(f"{{{how}, gather: true, steps: {inner}}}")
            async with running(text, tmp_path) as bus:
                result = await send(bus, Body(b"a\nb\n", "text/plain"), id="m")
                assert result.body.data == [["m.0", 0, False], ["m.1", 1, True]]

    @pytest.mark.parametrize("how", ["stream: ndjson", "each: \"text.splitlines() | map('int')\""])
    async def test_parts_come_in_groups(self, how: str, tmp_path: Path) -> None:
        text = routes(f"{{{how}, group: 4, {SEND}}}")
        async with running(text, tmp_path) as bus:
            await send(bus, LINES)
            assert await sent(bus) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    async def test_a_file_of_a_form_is_a_stream_too(self, tmp_path: Path) -> None:
        text = """
routes:
  r:
    from: {http: {path: /upload}}
    steps:
      - map: body.upload.content
      - set: {content_type: text/csv; header=absent}
      - split: {stream: csv, gather: true, steps: [{map: body | join('-')}]}
"""
        form = Body(
            b'--X\r\nContent-Disposition: form-data; name="upload"; filename="a.csv"\r\n'
            b"Content-Type: application/vnd.ms-excel\r\n\r\n1,2\r\n3,4\r\n\r\n--X--\r\n",
            "multipart/form-data; boundary=X",
        )
        async with running(text, tmp_path) as bus:
            assert (await send(bus, form)).body.data == ["1-2", "3-4"]

    async def test_an_empty_stream_has_no_parts(self, tmp_path: Path) -> None:
        async with running(routes(f"{{stream: lines, {SEND}}}"), tmp_path) as bus:
            result = await send(bus, Body(b"", "text/plain"))
            assert result.outcome is Outcome.MESSAGE
            assert result.params["split"] == {"count": 0, "failed": 0}

    async def test_a_file_is_read_in_a_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(split, "SMALL", 10)
        file = tmp_path / "lines.txt"
        file.write_bytes(LINES.raw)
        body = Body.from_file(file, "text/plain", max_whole=5)
        text = routes(f"{{stream: lines, commit_every: 3, concurrency: 4, {SEND}}}")
        async with running(text, tmp_path) as bus:
            await send(bus, body)
            assert sorted(await sent(bus)) == [str(n) for n in range(10)]

    async def test_what_is_no_such_stream_is_refused(self, tmp_path: Path) -> None:
        async with running(routes(f"{{stream: json, gather: true, {SEND}}}"), tmp_path) as bus:
            result = await bus.routes["r"].step(Envelope(body=Body(b'{"a": 1}', "")))
            assert result.outcome is Outcome.DEAD
            [dead] = await store_of(bus).browse(DEAD)
            assert dead.failure is not None
            assert dead.failure.step == "steps[0].split"
            assert "line 1, column 1: it is no array" in dead.failure.detail


class TestBatches:
    """Part 7 fails: what is sent, and what a second run does."""

    def text(self, **more: Any) -> str:
        options = ", ".join(f"{key}: {value}" for key, value in more.items())
        inner = "[{filter: \"body != 7 or headers['x-ok'] is defined or 1 / 0 > 0\"}, "
        return routes(f"{{stream: ndjson, {options}, steps: {inner}{{send: {{queue: out}}}}]}}")

    async def test_a_message_that_failed_goes_on_from_its_last_batch(self, tmp_path: Path) -> None:
        async with running(self.text(commit_every=3), tmp_path) as bus:
            assert (await send(bus, LINES, id="m")).outcome is Outcome.DEAD
            assert await sent(bus) == [0, 1, 2, 3, 4, 5]
            assert await remembered(bus) == 1
            [dead] = await store_of(bus).browse(DEAD)
            assert dead.failure is not None
            assert dead.failure.step == "steps[0].split.steps[0].filter"
            assert "in part 7 of the message" in dead.failure.notes
            result = await send(bus, LINES, id="m", headers=OK)
            assert await sent(bus) == list(range(10))
            assert result.params["split"] == {"count": 10, "failed": 0}
            assert result.outcome is Outcome.ACCEPTED
            assert await remembered(bus) == 0

    @pytest.mark.parametrize("body", [b"8\n9\n", b"9\n" * 10])
    async def test_another_message_begins_at_the_beginning(
        self, tmp_path: Path, body: bytes
    ) -> None:
        async with running(self.text(commit_every=3), tmp_path) as bus:
            await send(bus, LINES, id="m")
            await send(bus, LINES, id="other", headers=OK)
            # The same id, but not the same body, even if it has the same size.
            await send(bus, Body(body, ""), id="m", headers=OK)
            lines = [int(line) for line in body.split()]
            assert await sent(bus) == [*range(6), *range(10), *lines]

    async def test_wherever_it_fails_each_part_is_sent_once_and_in_order(
        self, tmp_path: Path
    ) -> None:
        inner = """[{filter: "split.index | string != headers['x-fail'] or 1 / 0 > 0"},
            {send: {queue: out}}]"""
        sizes = {
            "one": "commit_every: 1",
            "three": "commit_every: 3",
            "pairs": "commit_every: 2, group: 2",
        }
        text = "routes:" + "".join(
            f"""
  {name}:
    from: {{queue: {name}}}
    retry: {{attempts: 1}}
    steps:
      - split: {{stream: ndjson, {options}, steps: {inner}}}
"""
            for name, options in sizes.items()
        )
        chance = random.Random(5)
        async with running(text, tmp_path) as bus:
            for case in range(30):
                name = chance.choice(list(sizes))
                lines = list(range(case * 100, case * 100 + chance.randrange(12)))
                body = Body("".join(f"{line}\n" for line in lines).encode(), "")
                fails = [str(chance.randrange(12)) for _ in range(chance.randrange(5))]
                for fail in [*fails, "none"]:
                    message = Envelope(
                        body=body, id=f"m{case}", headers=Headers([("x-fail", fail)])
                    )
                    result = await bus.routes[name].step(message)
                    if result.outcome is not Outcome.DEAD:
                        break
                found = [one if isinstance(one, list) else [one] for one in await sent(bus)]
                flat = [n for one in found for n in one]
                assert [n for n in flat if n >= case * 100] == lines, (case, name, fails)
            assert await remembered(bus) == 0

    async def test_in_a_loop_each_turn_begins_at_the_beginning(self, tmp_path: Path) -> None:
        text = """
routes:
  r:
    from: {queue: in}
    retry: {attempts: 1}
    steps:
      - loop:
          times: 2
          steps:
            - split:
                stream: ndjson
                commit_every: 4
                steps:
                  - filter: body != 9 or headers['x-ok'] is defined or 1 / 0 > 0
                  - send: {queue: out}
"""
        async with running(text, tmp_path) as bus:
            assert (await send(bus, LINES, id="m")).outcome is Outcome.DEAD
            assert await sent(bus) == list(range(8))
            await send(bus, LINES, id="m", headers=OK)
            # Those of the first turn that were through, and all of the second.
            assert await sent(bus) == [*range(8), *range(8), 8, 9, 8, 9]
            assert await remembered(bus) == 0

    async def test_routes_that_share_the_steps_do_not_share_the_place(self, tmp_path: Path) -> None:
        text = """
routes:
  r: {from: {queue: in}, retry: {attempts: 1}, steps: [{run: parts}]}
  other: {from: {queue: in2}, retry: {attempts: 1}, steps: [{run: parts}]}
  parts:
    steps:
      - split:
          stream: ndjson
          commit_every: 4
          steps:
            - filter: body != 9 or headers['x-ok'] is defined or 1 / 0 > 0
            - send: {queue: out}
"""
        async with running(text, tmp_path) as bus:
            message = Envelope(body=LINES, id="m")
            assert (await bus.routes["r"].step(message)).outcome is Outcome.DEAD
            await bus.routes["other"].step(message.replace(headers=OK))
            assert await sent(bus) == [*range(8), *range(10)]

    async def test_the_last_batch_is_committed_with_the_run(self, tmp_path: Path) -> None:
        text = routes(f"{{stream: lines, {SEND}}}") + "      - filter: 1 / 0 > 0\n"
        async with running(text, tmp_path) as bus:
            assert (await send(bus, LINES)).outcome is Outcome.DEAD
            assert await sent(bus) == []

    async def test_a_batch_ends_when_it_is_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(split, "BATCH_BYTES", 7)
        async with running(self.text(commit_every=1000), tmp_path) as bus:
            await send(bus, LINES)
            assert await sent(bus) == list(range(7))

    async def test_what_stands_before_broken_content_is_done(self, tmp_path: Path) -> None:
        text = routes(f"{{stream: json, commit_every: 4, {SEND}}}")
        async with running(text, tmp_path) as bus:
            assert (await send(bus, Body(b"[0,1,2,3,4,5 6]", ""))).outcome is Outcome.DEAD
            assert await sent(bus) == [0, 1, 2, 3, 4, 5]

    async def test_with_gather_all_is_one(self, tmp_path: Path) -> None:
        async with running(self.text(gather="true"), tmp_path) as bus:
            assert (await send(bus, LINES)).outcome is Outcome.DEAD
            assert await sent(bus) == []

    async def test_a_part_that_was_seen_is_skipped_in_a_later_batch(self, tmp_path: Path) -> None:
        inner = "[{skip_seen: text}, {send: {queue: out}}]"
        text = routes(f"{{stream: lines, commit_every: 2, steps: {inner}}}")
        async with running(text, tmp_path) as bus:
            await send(bus, Body(b"a\na\nb\na\nb\nc\n", "text/plain"))
            assert await sent(bus) == ["a", "b", "c"]


async def _failed_since(store: Store, before: Stored) -> list[Stored]:
    return [one for one in await store.browse(DEAD) if one.failure != before.failure]


class TestOnError:
    STEPS = 'steps: [{filter: "1 / (body - 7) != 0"}, {send: {queue: out}}]'

    @pytest.mark.parametrize(
        "how",
        [
            "stream: ndjson",
            "stream: ndjson, commit_every: 3",
            "stream: ndjson, commit_every: 4, concurrency: 3",
            "each: \"text.splitlines() | map('int')\"",
        ],
    )
    async def test_the_others_go_on_and_it_can_be_replayed(self, how: str, tmp_path: Path) -> None:
        text = routes(f"{{{how}, on_error: continue, {self.STEPS}}}")
        buried = DEAD_LETTERS.labels("r/split", "route-failure")
        before = buried.value
        async with running(text, tmp_path) as bus:
            result = await send(bus, LINES, id="m")
            assert buried.value == before + 1
            assert sorted(await sent(bus)) == [n for n in range(10) if n != 7]
            assert result.params["split"] == {"count": 10, "failed": 1}
            assert result.outcome is Outcome.ACCEPTED
            store = store_of(bus)
            [dead] = await store.browse(DEAD)
            assert dead.envelope.id == "m.7"
            assert dead.envelope.body.data == 7
            assert dead.failure is not None
            assert (dead.failure.route, dead.failure.code) == ("r/split", "route-failure")
            # It runs through the inner steps again, and as it fails again it is back there.
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 1
            [again] = await until(lambda: _failed_since(store, dead))
            assert again.failure.route == "r/split"

    async def test_parts_of_a_sub_route_are_replayed_into_it(self, tmp_path: Path) -> None:
        text = f"""
routes:
  r: {{from: {{queue: in}}, steps: [{{run: parts}}]}}
  parts:
    steps:
      - split: {{stream: ndjson, on_error: continue, {self.STEPS}}}
"""
        async with running(text, tmp_path) as bus:
            await send(bus, LINES, id="m")
            store = store_of(bus)
            [dead] = await store.browse(DEAD)
            assert dead.failure is not None
            assert dead.failure.route == "parts/split"
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 1
            await until(lambda: _failed_since(store, dead))

    async def test_what_cannot_be_read_is_left_out_as_well(self, tmp_path: Path) -> None:
        text = routes(f"{{stream: csv, on_error: continue, {SEND}}}")
        async with running(text, tmp_path) as bus:
            await send(bus, Body(b"a,b\n1,2\n3\n4,5\n", "text/csv"))
            assert await sent(bus) == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
            [dead] = await store_of(bus).browse(DEAD)
            assert dead.envelope.body.raw == b"3\n"
            assert dead.failure is not None
            assert "row 3 of the CSV (line 3)" in dead.failure.detail

    async def test_an_error_that_may_pass_fails_the_message(self, tmp_path: Path) -> None:
        inner = "[{send: {queue: out}}, {fail: {message: not now, as: transient}}]"
        text = routes(f"{{stream: lines, on_error: continue, steps: {inner}}}")
        async with running(text, tmp_path) as bus:
            assert (await send(bus, LINES, id="m")).outcome is Outcome.DEAD
            assert await sent(bus) == []
            [dead] = await store_of(bus).browse(DEAD)
            assert dead.envelope.id == "m"

    async def test_what_a_failed_part_sent_is_not_sent(self, tmp_path: Path) -> None:
        inner = '[{send: {queue: out}}, {filter: "1 / (body - 7) != 0"}]'
        text = routes(f"{{stream: ndjson, on_error: continue, steps: {inner}}}")
        async with running(text, tmp_path) as bus:
            await send(bus, LINES)
            assert await sent(bus) == [n for n in range(10) if n != 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{steps: []}", "one of 'each' and 'stream'"),
        ("{each: body, stream: lines, steps: []}", "one of 'each' and 'stream'"),
        ("{each: body, commit_every: 5, steps: []}", "batches only of a stream"),
        ("{stream: lines, gather: true, commit_every: 5, steps: []}", "none with 'gather'"),
        ("{stream: {xml: o}, group: 5, steps: []}", "pieces of xml make no list"),
        ("{stream: xml, steps: []}", "'element' is missing"),
        ("{stream: {xml: 'a b'}, steps: []}", "pattern"),
        ("{stream: yaml, steps: []}", "there is no stream 'yaml': there are csv, fixed, json"),
        ("{stream: {cvs: {}}, steps: []}", "did you mean 'csv'?"),
    ],
)
def test_mistakes(options: str, message: str, tmp_path: Path) -> None:
    [found] = load_text(routes(options), tmp_path).diagnostics
    assert message in str(found)
    assert found.line == 7


async def test_killed_in_the_middle_each_part_is_sent_once(tmp_path: Path, place: Place) -> None:
    many = 1_500
    text = routes(f"{{stream: lines, commit_every: 20, {SEND}}}") + setting(place, lease="500ms")
    (tmp_path / "routes.yaml").write_text(text)
    lines = b"".join(b"%d\n" % n for n in range(many))
    async with opened(place) as store:
        await store.put("queue:in", Envelope(body=Body(lines, "text/plain")))
    goals = [300, many - 1]
    for goal in goals:
        process = subprocess.Popen([sys.executable, str(PROCESS), str(tmp_path)])
        try:
            await until(lambda goal=goal: _more_than(place, goal))
        finally:
            process.kill()
        assert process.wait() == -9
    async with opened(place) as store:
        found: list[str] = []
        after = 0
        while page := await store.browse("queue:out", limit=1000, after=after):
            found += [stored.envelope.body.text for stored in page]
            after = page[-1].key
        assert found == [str(n) for n in range(many)]


async def _more_than(place: Place, count: int) -> bool:
    return await lying(place, "queue:out") > count


async def test_one_thread_reads_a_large_stream_from_its_begin_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended in another thread than it began in took down the process: see `StreamedXml`."""
    readers: set[int] = set()
    feed = StreamedXml.feed

    def seen(self: StreamedXml, chunk: bytes) -> Any:
        readers.add(threading.get_ident())
        return feed(self, chunk)

    monkeypatch.setattr(StreamedXml, "feed", seen)
    orders = b"<o>" + b"<order><a/></order>" * 40_000 + b"</o>"
    text = routes("{stream: {xml: order}, commit_every: 4000, steps: [{filter: 'false'}]}")
    async with running(text, tmp_path) as bus:
        busy = [asyncio.to_thread(time.sleep, 0.001) for _ in range(10)]
        await asyncio.gather(send(bus, Body(orders, "application/xml")), *busy)
    assert len(readers) == 1
    assert threading.get_ident() not in readers
