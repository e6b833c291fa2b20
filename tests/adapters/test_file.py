"""Which files are taken, when, in which order, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.bus import load_text, running, store_of
from support.contract import Recorder, started
from support.fake_build import FakeBuild
from support.stores import opened
from support.waiting import until

from esb.adapter import BuildFailed
from esb.durable import DEAD, Confirm, Put, change
from esb.envelope import Envelope, Outcome
from esb.errors import EsbError, Permanent, Transient, Unavailable
from esb.middleware.dead_letter import dead_letters
from esb.middleware.retry import RetryOptions, retrying
from esb.middleware.transaction import transactional
from esb.step import wrap
from esb.store import SqliteStore
from esb_file import listing, place
from esb_file import source as source_module
from esb_file.listing import Folder, Found
from esb_file.options import SourceOptions
from esb_file.source import FileSource


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def make(tmp_path: Path, store: SqliteStore) -> Callable[..., FileSource]:
    def make(**options: Any) -> FileSource:
        defaults = {"settle": "0s", "poll": "50ms", "backoff": "50ms"}
        valid = SourceOptions.model_validate({"folder": "inbox", **defaults, **options})
        return FileSource(valid, FakeBuild(tmp_path, store=store))

    return make


Make = Callable[..., FileSource]


def paths(folder: Path) -> list[str]:
    """The files that are there."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def taken(step: Recorder) -> list[str]:
    return [e.params["file"]["path"] for e in step.got]


# --- what is taken --------------------------------------------------------------------------------


async def test_what_a_message_says_of_its_file(make: Make, inbox: Path) -> None:
    (inbox / "2031").mkdir()
    file = inbox / "2031" / "orders.csv"
    file.write_text("a,b\n1,2\n")
    os.utime(file, (1_700_000_000.5, 1_700_000_000.5))
    step = Recorder()
    async with started(make(recursive=True, charset="latin-1"), step):
        await until(lambda: step.finished)
    (message,) = step.got
    modified = datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    assert message.params["file"] == {
        "name": "orders.csv",
        "stem": "orders",
        "suffix": ".csv",
        "path": "2031/orders.csv",
        "size": 8,
        "modified": modified,
    }
    assert message.content_type == "text/csv; charset=latin-1"
    assert (message.source, message.subject) == ("file:inbox", "2031/orders.csv")
    assert message.time == modified
    assert paths(inbox) == ["done/2031/orders.csv"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.json", "application/json"),
        ("a.XML", "application/xml"),
        ("a.yml", "application/yaml"),
        ("a.txt", "text/plain"),
        ("a.csv.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
async def test_content_types(make: Make, inbox: Path, name: str, expected: str) -> None:
    (inbox / name).write_text("{}")
    step = Recorder()
    async with started(make(), step):
        await until(lambda: step.finished)
    assert step.got[0].content_type == expected


async def test_only_what_is_meant_is_taken(make: Make, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("secret")
    (inbox / "link.csv").symlink_to(tmp_path / "secret.csv")
    (inbox / "folder.csv").mkdir()
    (inbox / "folder.csv" / "inner.csv").write_text("inner")
    os.mkfifo(inbox / "pipe.csv")
    for name in (".hidden.csv", "b.txt", "c.csv.part", "empty.csv", "large.csv", "A.CSV"):
        (inbox / name).write_text("x" * {"empty.csv": 0, "large.csv": 11}.get(name, 5))
    (inbox / "z.csv").write_text("taken")
    step = Recorder()
    source = make(glob=["*.csv", "z*"], min_size=1, max_size=10, order=True)
    async with started(source, step):
        await until(lambda: step.finished)
        assert source.health().detail == "1 larger than max_size"
    assert taken(step) == ["z.csv"]
    assert len(paths(inbox)) == 9


async def test_folders_in_it_but_not_those_where_files_go(
    make: Make, inbox: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for file in (
        *(inbox / path for path in ("0/old", "1/old", "a", "b/0/d", "b/c")),
        *(elsewhere / name for name in ("secret",)),
    ):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("x")
    (inbox / "2").symlink_to(elsewhere)
    step = Recorder()
    source = make(recursive=True, order=True, then="0/{{ file.path }}", failed="1/")
    async with started(source, step):
        await until(lambda: len(step.finished) == 3)
        assert source.health().detail == ""
    assert taken(step) == ["a", "b/0/d", "b/c"]
    assert paths(inbox) == ["0/a", "0/b/0/d", "0/b/c", "0/old", "1/old"]


async def test_a_name_that_is_no_text(make: Make, inbox: Path) -> None:
    raw = os.fsencode(inbox) + b"/caf\xe9.txt"
    Path(os.fsdecode(raw)).write_text("x")
    step = Recorder()
    async with started(make(), step):
        await until(lambda: step.finished)
    assert taken(step) == ["caf\ufffd.txt"]
    assert os.listdir(os.fsencode(inbox / "done")) == [b"caf\xe9.txt"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("nanoseconds", "year"), [(-1, 1969), (2**62, 2116), (2**80, 9999), (-(2**80), 1)]
)
def test_a_time_that_nobody_can_have_meant(nanoseconds: int, year: int) -> None:
    assert Found("a", 1, nanoseconds, 0).params["modified"].year == year


# --- when -----------------------------------------------------------------------------------------


def test_a_file_has_settled_when_nothing_of_it_changes(inbox: Path) -> None:
    folder = Folder(inbox, SourceOptions(folder="inbox", settle=2.0), None, frozenset())
    file = inbox / "a.txt"

    def ready(now: float) -> tuple[list[str], float | None]:
        found = folder.look(now, lambda file: False)
        return [file.path for file in found.files], found.soon

    file.write_text("1")
    assert ready(100.0) == ([], 2.0)
    assert ready(101.5) == ([], 0.5)
    file.write_text("12")
    assert ready(102.0) == ([], 2.0)
    file.chmod(0o600)
    assert ready(103.0) == ([], 2.0)
    assert ready(105.0) == (["a.txt"], None)
    assert ready(106.0) == (["a.txt"], None)
    file.unlink()
    file.write_text("12")
    assert ready(107.0) == ([], 2.0)


async def test_what_has_settled_is_taken(make: Make, inbox: Path) -> None:
    (inbox / "a.txt").write_text("x")
    step = Recorder()
    async with started(make(settle="50ms", poll="1h"), step):
        await until(lambda: step.finished)


async def test_a_marker_says_that_a_file_is_whole(make: Make, inbox: Path) -> None:
    step = Recorder()
    source = make(marker="{{ file.stem }}.done", glob="*")
    async with started(source, step):
        for name in ("a.txt", "b.txt"):
            (inbox / name).write_text(name)
        (inbox / "b.done").touch()
        await until(lambda: step.finished)
        await until(lambda: paths(inbox) == ["a.txt", "done/b.txt"])
    assert taken(step) == ["b.txt"]


async def test_it_is_told_of_new_files(make: Make, inbox: Path) -> None:
    step = Recorder()
    source = make(poll="1h", recursive=True)
    async with started(source, step):
        await until(lambda: source.health().up)
        (inbox / "later").mkdir()

        async def arrived() -> bool:
            # The system may begin to tell a moment after it was asked to.
            draft = inbox / ".draft"
            draft.write_text("x")
            draft.rename(inbox / "later" / "a.txt")
            await asyncio.sleep(0.1)
            return bool(step.finished)

        await until(arrived)


async def test_it_looks_where_nobody_tells(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(*_: Any, **__: Any) -> Any:
        raise OSError("no watches are left")

    monkeypatch.setattr(listing.watchfiles, "watch", deaf)
    step = Recorder()
    source = make()
    async with started(source, step):
        await until(lambda: source.health().up)
        (inbox / "a.txt").write_text("x")
        await until(lambda: step.finished)


async def test_a_folder_that_is_not_there_is_waited_for(make: Make, inbox: Path) -> None:
    inbox.rmdir()
    step = Recorder()
    source = make()
    async with started(source, step):
        await until(lambda: source.health().detail == "the folder is not there")
        assert not source.health().up
        for _ in range(2):  # it goes, and another one comes
            inbox.mkdir()
            (inbox / "a.txt").write_text("x")
            count = len(step.finished)
            await until(lambda count=count: len(step.finished) > count)
            await until(lambda: source.health().up)
            await until(lambda: paths(inbox) == ["done/a.txt"])
            (inbox / "done" / "a.txt").unlink()
            (inbox / "done").rmdir()
            inbox.rmdir()
            await until(lambda: not source.health().up)


# --- in which order -------------------------------------------------------------------------------


@pytest.mark.parametrize(("sort", "expected"), [("name", "abc"), ("time", "bca"), ("size", "cab")])
async def test_order(make: Make, inbox: Path, sort: str, expected: str) -> None:
    for name, age, size in (("c", 20, 1), ("b", 30, 3), ("a", 10, 2)):
        (inbox / name).write_text("x" * size)
        os.utime(inbox / name, (1_700_000_000 - age,) * 2)
    step = Recorder()
    async with started(make(sort=sort, order=True), step):
        await until(lambda: len(step.finished) == 3)
    assert "".join(taken(step)) == expected
    assert step.most == 1


async def test_in_order_one_that_fails_holds_up_the_rest(make: Make, inbox: Path) -> None:
    for name in "abc":
        (inbox / name).write_text(name)
    step = Recorder([Transient("not now"), ZeroDivisionError("a bug"), Transient("not yet")])
    async with started(make(order=True), step):
        await until(lambda: len(step.finished) == 3)
    assert "".join(taken(step)) == "aaaabc"


async def test_in_order_what_is_through_holds_up_nobody(make: Make, inbox: Path) -> None:
    step = Recorder()
    for names in ("abc", "d"):
        for name in names:
            (inbox / name).write_text(name)
        async with started(make(order=True, then="keep", poll="1h"), step):
            await until(lambda names=names: taken(step)[-1:] == [names[-1]])
    assert "".join(taken(step)) == "abcd"


async def test_two_in_order_take_turns(make: Make, inbox: Path) -> None:
    step = Recorder()
    sources = [make(order=True) for _ in range(2)]
    for source in sources:
        await source.start(step)
    for number in range(20):
        (inbox / f"{number:02}").write_text("x")
    await until(lambda: len(step.finished) == 20)
    for source in sources:
        await source.stop(5)
    assert step.most == 1
    assert taken(step) == sorted(taken(step))


async def test_in_order_one_that_comes_first_waits_as_well(make: Make, inbox: Path) -> None:
    step = Recorder(gate=asyncio.Event())
    assert step._gate is not None
    sources = [make(order=True) for _ in range(2)]
    for source in sources:
        await source.start(step)
    (inbox / "b").write_text("b")
    await until(lambda: step.running)
    (inbox / "a").write_text("a")
    # The source that has nothing in hand has looked at it, and left it.
    await until(lambda: any(s._known["a"].until for s in sources if "a" in s._known))
    step._gate.set()
    await until(lambda: len(step.finished) == 2)
    for source in sources:
        await source.stop(5)
    assert taken(step) == ["b", "a"]
    assert step.most == 1


async def test_a_long_queue_of_files(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "AHEAD", 5)
    for number in range(23):
        (inbox / f"{number:02}").write_text("x")
    step = Recorder()
    async with started(make(order=True, poll="1h"), step):
        await until(lambda: len(step.finished) == 23)
    assert taken(step) == [f"{number:02}" for number in range(23)]


# --- what becomes of it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "outcome", "expected"),
    [
        ({}, Outcome.MESSAGE, ["done/a.txt"]),
        ({}, Outcome.DEAD, ["done/a.txt"]),
        ({"then": "delete"}, Outcome.ACCEPTED, []),
        ({"then": "delete"}, Outcome.DEAD, []),
        ({"then": "keep"}, Outcome.MESSAGE, ["a.txt"]),
        ({"then": "keep", "failed": "bad/"}, Outcome.DEAD, ["bad/a.txt"]),
        ({"then": "delete", "failed": "bad/"}, Outcome.FILTERED, []),
        ({"then": "delete", "failed": "bad/"}, Outcome.DEAD, ["bad/a.txt"]),
        ({"then": "done/{{ file.stem }}-{{ body }}.txt"}, Outcome.MESSAGE, ["done/a-x.txt"]),
    ],
)
async def test_what_becomes_of_a_file(
    make: Make, inbox: Path, options: dict[str, str], outcome: Outcome, expected: list[str]
) -> None:
    got = []

    async def step(envelope: Envelope) -> Envelope:
        got.append(envelope)
        return envelope.replace(outcome=outcome)

    (inbox / "a.txt").write_text("x")
    for _ in range(2):
        source = make(**options)
        await source.start(step)
        await until(lambda: got)
        await until(lambda: paths(inbox) == expected)
        await source.stop(5)
    assert len(got) == 1


async def test_it_may_go_anywhere(make: Make, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    step = Recorder()
    async with started(make(then=f"{tmp_path}/archive/{{{{ file.name }}}}.old"), step):
        for number in (1, 2):
            (inbox / "a.txt").write_text(str(number))
            await until(lambda number=number: len(paths(tmp_path / "archive")) == number)
    assert paths(tmp_path / "archive") == ["a.txt-1.old", "a.txt.old"]
    assert paths(inbox) == []


async def test_a_file_that_is_kept_is_taken_again_when_it_changes(make: Make, inbox: Path) -> None:
    file = inbox / "a.txt"
    file.write_text("1")
    step = Recorder()
    async with started(make(then="keep"), step):
        await until(lambda: len(step.finished) == 1)
        file.chmod(0o600)  # is no change of what it says
        (inbox / "b.txt").write_text("b")
        await until(lambda: len(step.finished) == 2)
        file.write_text("22")
        await until(lambda: len(step.finished) == 3)
    assert [e.body.text for e in step.got] == ["1", "b", "22"]
    assert len({e.id for e in step.got}) == 3


async def test_one_that_is_replaced_while_it_is_in_the_route_is_not_lost(
    make: Make, inbox: Path
) -> None:
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    (inbox / "a.txt").write_text("old")
    async with started(make(then="delete"), step):
        await until(lambda: step.running)
        (inbox / ".new").write_text("new")
        (inbox / ".new").rename(inbox / "a.txt")
        gate.set()
        await until(lambda: len(step.finished) == 2)
        await until(lambda: not paths(inbox))
    assert [e.body.text for e in step.got] == ["old", "new"]
    assert step.most == 1


async def test_the_same_name_size_and_time_once_more(make: Make, inbox: Path) -> None:
    step = Recorder()
    async with started(make(then="delete"), step):
        for number in (1, 2):
            draft = inbox / ".draft"
            draft.write_text("x")
            os.utime(draft, (1_700_000_000, 1_700_000_000))
            draft.rename(inbox / "a.txt")
            await until(lambda number=number: len(step.finished) == number)
            await until(lambda: not paths(inbox))


async def test_a_process_that_dies_before_the_file_is_moved(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    step = Recorder()
    (inbox / "a.txt").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(place, "move", denied)
        source = make()
        async with started(source, step):
            await until(lambda: source.health().detail == "a.txt: Permission denied")
            assert source.health().up
    assert paths(inbox) == ["a.txt"]
    async with started(make(), step):
        await until(lambda: paths(inbox) == ["done/a.txt"])
    assert len(step.got) == 1


async def test_a_dead_letter_goes_where_it_should_after_a_crash_too(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def step(envelope: Envelope) -> Envelope:
        return envelope.replace(outcome=Outcome.DEAD)

    (inbox / "a.txt").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(place, "move", lambda *_: 1 / 0)
        source = make(failed="failed/")
        await source.start(step)
        await until(lambda: source.health().detail == "a.txt: internal error")
        await source.stop(5)
    async with started(make(failed="failed/"), Recorder()):
        await until(lambda: paths(inbox) == ["failed/a.txt"])


async def test_what_the_route_sends_is_there_once(
    make: Make, inbox: Path, store: SqliteStore
) -> None:
    fails = [Transient("no")]

    async def send(envelope: Envelope) -> Envelope:
        await change(store, Put("queue:q", envelope))
        if fails:
            raise fails.pop()
        return envelope

    (inbox / "a.txt").write_text("x")
    source = make(then="delete")
    await source.start(transactional(store)(send))
    await until(lambda: not paths(inbox))
    await source.stop(5)
    assert (await store.counts()) == {"queue:q": 1}


async def test_a_large_file_is_not_read_to_be_taken(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "READ_AT_ONCE", 10)
    read = []

    async def step(envelope: Envelope) -> Envelope:
        assert envelope.body._raw is None
        with envelope.body.open() as stream:
            read.append(stream.read())
        return envelope

    (inbox / "a.txt").write_bytes(b"x" * 11)
    source = make()
    await source.start(step)
    await until(lambda: read)
    await source.stop(5)
    assert read == [b"x" * 11]


async def test_one_too_large_for_the_dead_letters(
    make: Make, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "MAX_WHOLE", 10)
    step = Recorder([Transient("hopeless; and no dead letter could be written")] * 2)
    (inbox / "a.txt").write_bytes(b"x" * 11)
    (inbox / "b.txt").write_bytes(b"x" * 10)
    async with started(make(failed="failed/", order=True), step):
        await until(lambda: step.finished)
    assert paths(inbox) == ["done/b.txt", "failed/a.txt"]


# --- crashes --------------------------------------------------------------------------------------


async def test_a_file_that_kills_the_process_is_refused_in_the_end(
    tmp_path: Path, inbox: Path
) -> None:
    (inbox / "a.txt").write_text("x")
    (inbox / "b.txt").write_text("x")
    got: list[str] = []
    for crashes in range(4):
        async with opened(tmp_path / "bus.db") as store:
            options = {"folder": "inbox", "settle": "0s", "poll": "50ms"}
            build = FakeBuild(tmp_path, store=store)
            source = FileSource(SourceOptions.model_validate(options), build)
            (file,) = [
                f for f in source._folder.look(0, lambda f: False).files if f.path == "a.txt"
            ]
            if crashes < 3:
                # What is left of a process that dies in the midst of it.
                claim = await store.claim(source._scope, source._value(file), source._remembered())
                assert (claim.state, claim.crashes) == ("new", crashes)
                continue

            async def step(envelope: Envelope, source: FileSource = source) -> Envelope:
                try:
                    admitted = await source.admit(envelope)
                except Permanent as e:
                    got.append(f"{envelope.subject}: {e.code}")
                    return envelope.replace(outcome=Outcome.DEAD)
                got.append(envelope.subject)
                return admitted

            await source.start(step)
            await until(lambda: len(got) == 2)
            await source.stop(5)
            assert sorted(got) == ["a.txt: poison", "b.txt"]
            # A replay of the dead letter is a run like any other.
            assert await source.admit(Envelope(id=source._value(file)))


async def test_a_suspect_runs_alone(tmp_path: Path, inbox: Path) -> None:
    for name in "abcdef":
        (inbox / name).write_text(name)
    others: dict[str, int] = {}
    running: set[str] = set()
    for crashes in range(3):
        async with opened(tmp_path / "bus.db") as store:
            options = {"folder": "inbox", "settle": "0s", "poll": "50ms"}
            build = FakeBuild(tmp_path, store=store)
            source = FileSource(SourceOptions.model_validate(options), build)
            files = source._folder.look(0, lambda f: False).files
            if crashes < 2:
                for file in files[2:4]:
                    await store.claim(source._scope, source._value(file), source._remembered())
                continue

            async def step(envelope: Envelope) -> Envelope:
                name = envelope.subject
                running.add(name)
                for _ in range(10):
                    await asyncio.sleep(0.005)
                    others[name] = max(others.get(name, 0), len(running) - 1)
                running.discard(name)
                return envelope

            await source.start(step)
            await until(lambda: paths(inbox) == [f"done/{name}" for name in "abcdef"])
            await source.stop(5)
            assert (others["c"], others["d"]) == (0, 0)
            assert others["a"]


# --- what is wrong with a route -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"then": "remove"}, "begins with a folder"),
        ({"then": "{{ file.stem }}/{{ file.name }}"}, "of a fixed name"),
        ({"failed": "delete"}, "begins with a folder"),
        ({"marker": "ready"}, "a marker of its own"),
        ({"poll": "0s"}, "greater than 0"),
        ({"sort": "date"}, "'name', 'time' or 'size'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, str], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        SourceOptions.model_validate({"folder": "inbox", **options})


def test_a_target_in_the_folder_itself(make: Make, inbox: Path) -> None:
    with pytest.raises(BuildFailed, match="leads into the folder"):
        make(then=f"{inbox}/done/{{{{ file.name }}}}")


def test_order_and_accept(make: Make) -> None:
    class Durable(FakeBuild):
        durable = True

    options = SourceOptions.model_validate({"folder": "inbox", "order": True})
    with pytest.raises(BuildFailed, match="order is lost"):
        FileSource(options, Durable(store=object()))


def test_what_check_finds(tmp_path: Path) -> None:
    project = load_text(
        """
        routes:
          a:
            from: {file: {folder: inbox, glob: "*.csv"}}
            steps:
              - filter: file.size > 3 and schedule.number == 1
              - send: {file: {folder: out, name: "{{ file.stem }}.json", if_exists: overwrite}}
          b:
            from: {file: {folder: inbox, glob: ["*.txt", "*.csv"]}}
            steps:
              - filter: fil.size > 3
          c:
            from: {file: {folder: inbox, glob: "*.csv", then: keep}}
          d:
            from: {schedule: {cron: "0 6 * * FUNDAY"}}
        """,
        tmp_path,
    )
    told = [(d.line, d.message.partition(":")[0]) for d in project.diagnostics]
    assert told == [
        (7, "must be one of"),
        (9, f"{tmp_path}/inbox/*.csv is served already by route 'a' at {tmp_path}/routes.yaml"),
        (11, "there is nothing called fil"),
        (15, "no cron expression (bad day-of-week)"),
    ]


def test_the_routes_on_the_page_load(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "files-and-schedules.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        assert load_text(block, tmp_path).diagnostics == []


# --- in a bus -------------------------------------------------------------------------------------


async def test_a_route_from_files_to_files(tmp_path: Path, inbox: Path) -> None:
    text = f"""
        routes:
          orders:
            from: {{file: {{folder: "{inbox}", settle: 0s, then: delete, failed: failed/}}}}
            steps:
              - filter: file.name != 'skipped.json'
              - choose:
                  - when: body.total > 10
                    steps:
                      - send:
                          file: {{folder: "{tmp_path}", name: "out/{{{{ file.stem }}}}.txt"}}
                  - otherwise:
                    steps: [{{send: {{queue: small}}}}]
          small:
            from: {{queue: small}}
            steps:
              - send:
                  file: {{folder: "{tmp_path}", name: all, if_exists: append, end: "\\n"}}
    """
    async with running(text, tmp_path) as bus:
        for name, content in {
            "large.json": '{"total": 11}',
            "small.json": '{"total": 1}',
            "wrong.json": '{"total": ',
            "skipped.json": "{}",
        }.items():
            (inbox / name).write_text(content)
        await until(lambda: paths(inbox) == ["failed/wrong.json"])
        await until(lambda: (tmp_path / "all").exists())
        await until(lambda: (tmp_path / "all").read_text() == '{"total": 1}\n')
        (dead,) = await store_of(bus).browse(DEAD)
    assert (tmp_path / "out/large.txt").read_text() == '{"total": 11}'
    assert dead.envelope.body.raw == b'{"total": '
    assert dead.envelope.params["file"]["name"] == "wrong.json"
    assert dead.failure is not None
    assert dead.failure.code == "bad-message"


async def test_accepted_files_run_from_the_store(tmp_path: Path, inbox: Path) -> None:
    text = f"""
        routes:
          orders:
            from: {{file: {{folder: "{inbox}", settle: 0s, then: delete}}}}
            accept: durable
            steps: [{{send: {{file: {{folder: "{tmp_path}", name: "{{{{ file.name }}}}.out"}}}}}}]
    """
    (inbox / "a.txt").write_text("x")
    async with running(text, tmp_path):
        await until(lambda: (tmp_path / "a.txt.out").exists())
    assert paths(inbox) == []


class Interrupted(SqliteStore):
    """A store of a process that dies just before the first commit that says a file was handled."""

    died = False

    async def commit(self, changes: Any) -> list[int]:
        if not self.died and any(isinstance(c, Confirm) for c in changes):
            self.died = True
            raise Unavailable("the process died", for_good=True)
        return await super().commit(changes)


@pytest.mark.parametrize(
    ("error", "channel"),
    [(Transient("not for an hour", retry_after=200), "park:test"), (Permanent("never"), DEAD)],
)
async def test_what_is_put_aside_is_there_once(
    tmp_path: Path, inbox: Path, error: EsbError, channel: str
) -> None:
    async def step(envelope: Envelope) -> Envelope:
        raise error

    (inbox / "a.txt").write_text("x")
    store = Interrupted(tmp_path / "bus.db")
    await store.open()
    layers = (
        dead_letters(route="test", store=store),
        retrying(RetryOptions(), route="test", store=store),
    )
    options = {"folder": "inbox", "settle": "0s", "poll": "50ms", "backoff": "50ms"}
    source = FileSource(SourceOptions.model_validate(options), FakeBuild(tmp_path, store=store))
    await source.start(wrap(step, *layers))
    await until(lambda: paths(inbox) == ["done/a.txt"])
    await source.stop(5)
    assert store.died
    assert await store.counts() == {channel: 1}
    await store.close()


@pytest.mark.parametrize("where", ["the file", "its folder"])
async def test_a_large_body_is_that_of_the_file_that_was_found(
    make: Make, inbox: Path, where: str
) -> None:
    """A link in its place, to what the bus may read and its sender may not, gives nothing."""
    secret = inbox.parent / "secret"
    secret.mkdir()
    large = b"x" * (source_module.READ_AT_ONCE + 1)
    (secret / "a.bin").write_bytes(b"secret" + large[6:])
    (inbox / "deep").mkdir()
    file = inbox / "deep" / "a.bin"
    file.write_bytes(large)

    async def reads(envelope: Envelope) -> Envelope:
        assert envelope.body.size == len(large)
        if where == "the file":
            file.unlink()
            file.symlink_to(secret / "a.bin")
        else:
            (inbox / "deep").rename(inbox.parent / "gone")
            (inbox / "deep").symlink_to(secret)
        seen.append(await asyncio.to_thread(attempt, envelope))
        return envelope

    def attempt(envelope: Envelope) -> object:
        try:
            return envelope.body.raw[:6]
        except Permanent as e:
            return str(e)

    seen: list[object] = []
    async with started(make(recursive=True, then="keep"), reads):
        await until(lambda: seen)
    assert seen == ["the file with the body is gone"]
