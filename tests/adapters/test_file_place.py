"""Files are written whole, below their folder, and nothing that is there is lost."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.fake_build import FakeBuild

import esb.codecs  # noqa: F401 - registers them
from esb.envelope import Body, Envelope
from esb.errors import BadReply, Overloaded, Rejected, RouteFailure, Transient, Unreachable
from esb_file import adapter, place
from esb_file.options import CallOptions, SinkOptions


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def send(out: Path, text: str | bytes = "new", **options: Any) -> None:
    assert adapter.sink is not None
    valid = SinkOptions.model_validate({"folder": "out", "name": "a.txt", **options})
    sink = adapter.sink.make(valid, FakeBuild(out.parent))
    raw = text.encode() if isinstance(text, str) else text
    asyncio.run(sink.send(Envelope(body=Body(raw, "text/plain"))))


def call(out: Path, **options: Any) -> Envelope:
    assert adapter.caller is not None
    valid = CallOptions.model_validate({"folder": "out", "name": "a.txt", **options})
    caller = adapter.caller.make(valid, FakeBuild(out.parent))
    return asyncio.run(caller.call(Envelope(id="m1")))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- send -----------------------------------------------------------------------------------------


def test_folders_on_the_way_are_made(out: Path) -> None:
    send(out, name="2031/03/a.txt")
    assert (out / "2031/03/a.txt").read_text() == "new"
    assert names(out) == ["2031/03/a.txt"]


@pytest.mark.parametrize(
    "name",
    ["../a.txt", "/etc/a.txt", "a/../../b.txt", "a//b.txt", "./a.txt", "a/", "", "a\0.txt",
     "x" * 256, "\ud800.txt"],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(out: Path, name: str) -> None:
    with pytest.raises(RouteFailure, match="no name of a file"):
        send(out, name="{{ '' }}" + name)
    assert names(out.parent) == []


def test_no_link_leads_out_of_the_folder(out: Path) -> None:
    elsewhere = out.parent / "elsewhere"
    elsewhere.mkdir()
    (out / "link").symlink_to(elsewhere)
    with pytest.raises(Rejected):
        send(out, name="link/a.txt")
    target = elsewhere / "victim.txt"
    target.write_text("old")
    (out / "a.txt").symlink_to(target)
    for if_exists in ("fail", "append"):
        with pytest.raises(Rejected):
            send(out, if_exists=if_exists)
    send(out, if_exists="number")
    send(out, if_exists="replace")  # the link itself
    assert target.read_text() == "old"
    assert names(elsewhere) == ["victim.txt"]
    assert (out / "a.txt").read_text() == (out / "a-1.txt").read_text() == "new"
    assert not (out / "a.txt").is_symlink()


def test_nothing_waits_for_who_reads_a_pipe(out: Path) -> None:
    os.mkfifo(out / "a.txt")
    with pytest.raises(Rejected):
        send(out, if_exists="append")
    reader = os.open(out / "a.txt", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(Rejected):
            send(out, if_exists="append")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_what_is_there_is_kept_unless_the_route_says_otherwise(out: Path) -> None:
    (out / "a.txt").write_text("old")
    with pytest.raises(Rejected, match="there is a file of this name already"):
        send(out)
    assert (out / "a.txt").read_text() == "old"
    send(out, if_exists="replace")
    assert (out / "a.txt").read_text() == "new"
    for _ in range(2):
        send(out, "another", if_exists="number")
    send(out, "+", if_exists="append", end="\n")
    assert names(out) == ["a-1.txt", "a-2.txt", "a.txt"]
    assert (out / "a.txt").read_text() == "new+\n"


def test_a_second_try_of_the_same_message_is_no_conflict(out: Path) -> None:
    send(out, "x" * 3_000_000)
    send(out, "x" * 3_000_000)
    with pytest.raises(Rejected):
        send(out, "x" * 2_999_999 + "y")
    assert names(out) == ["a.txt"]


def test_lines_of_many_writers_are_whole(out: Path) -> None:
    lines = [f"{number}:{'x' * 10_000}" for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda line: send(out, line, if_exists="append", end="\n"), lines):
            pass
    assert sorted((out / "a.txt").read_text().splitlines()) == sorted(lines)


def test_a_number_is_given_once(out: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: send(out, str(n), if_exists="number"), range(60)))
    assert sorted(int((out / name).read_text()) for name in names(out)) == list(range(60))


def test_permissions(out: Path) -> None:
    send(out, mode="0640")
    assert stat.S_IMODE((out / "a.txt").stat().st_mode) == 0o640
    for wrong in ("0999", "rw", "7777"):
        with pytest.raises(ValidationError):
            SinkOptions.model_validate({"folder": "out", "name": "a", "mode": wrong})


def test_a_body_in_a_file_is_not_read_as_a_whole(out: Path) -> None:
    big = out.parent / "big"
    big.write_bytes(b"x" * 5_000_000)
    assert adapter.sink is not None
    sink = adapter.sink.make(SinkOptions(folder="out", name="copy"), FakeBuild(out.parent))
    body = Body.from_file(big, "text/plain", max_whole=10)
    asyncio.run(sink.send(Envelope(body=body)))
    assert (out / "copy").read_bytes() == big.read_bytes()


class Torn(io.BytesIO):
    """A body that ends in an error."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 0:
            raise OSError(errno.EIO, "it is torn")
        return super().read(10)


@pytest.mark.parametrize("if_exists", ["fail", "replace", "number", "append"])
def test_half_a_file_is_never_seen(out: Path, if_exists: Any) -> None:
    (out / "a.txt").write_text("old")
    with pytest.raises(OSError, match="torn"):
        place.write(out, "a.txt", Torn(b"x" * 100), if_exists)
    assert names(out) == ["a.txt"]
    assert (out / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, Overloaded),
        (errno.EDQUOT, Overloaded),
        (errno.EIO, Transient),
        (errno.EACCES, Transient),
        (errno.ENOENT, Unreachable),
        (errno.EISDIR, Rejected),
    ],
)
def test_what_a_file_system_says_means(code: int, kind: type[Exception]) -> None:
    error = place.told(OSError(code, os.strerror(code)), Path("/srv/out"), "a.txt")
    assert type(error) is kind
    assert "/srv" not in str(error)
    assert error.notes == (f"/srv/out/a.txt: {os.strerror(code)}",)


def test_a_full_disk(out: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as caught:
        place._fill(file, io.BytesIO(b"x" * 100_000), None, b"")
    assert type(place.told(caught.value, out, "a")) is Overloaded


def test_a_folder_in_the_place_of_the_file(out: Path) -> None:
    (out / "a.txt").mkdir()
    for if_exists in ("fail", "replace", "append"):
        with pytest.raises(Rejected):
            send(out, if_exists=if_exists)


# --- move -----------------------------------------------------------------------------------------


def test_a_move_keeps_what_is_there(out: Path) -> None:
    for text in ("1", "2", "3"):
        (out / "a.txt").write_text(text)
        place.move(out, "a.txt", out, "done/a.txt")
    found = {name: (out / name).read_text() for name in names(out)}
    assert found == {"done/a.txt": "1", "done/a-1.txt": "2", "done/a-2.txt": "3"}


def test_a_move_that_was_broken_off_between_two_names_is_finished(out: Path) -> None:
    (out / "done").mkdir()
    (out / "a.txt").write_text("1")
    os.link(out / "a.txt", out / "done" / "a.txt")
    assert place.move(out, "a.txt", out, "done/a.txt") == "done/a.txt"
    assert names(out) == ["done/a.txt"]


def refuse_to_delete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def refused(path: Any, **more: Any) -> None:
        if path == name:
            raise PermissionError(errno.EACCES, "not permitted", name)
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", refused)


def test_a_move_is_one_step(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "a.txt").write_text("1")
    refuse_to_delete("a.txt", monkeypatch)
    assert place.move(out, "a.txt", out, "done/a.txt") == "done/a.txt"
    assert names(out) == ["done/a.txt"]


@pytest.fixture
def other_file_system(tmp_path: Path) -> Path:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system")
    folder = memory / f"esb-test-{os.getpid()}-{os.urandom(4).hex()}"
    folder.mkdir()
    return folder


def test_a_move_to_another_file_system(out: Path, other_file_system: Path) -> None:
    try:
        for text in ("1", "2"):
            (out / "a.txt").write_text(text)
            (out / "a.txt").chmod(0o640)
            place.move(out, "a.txt", other_file_system, "day/a.txt")
        assert names(out) == []
        assert (other_file_system / "day/a.txt").read_text() == "1"
        assert (other_file_system / "day/a-1.txt").read_text() == "2"
        assert stat.S_IMODE((other_file_system / "day/a.txt").stat().st_mode) == 0o640
    finally:
        for path in sorted(other_file_system.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        other_file_system.rmdir()


def test_a_copy_whose_original_stays_is_taken_back(
    out: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "old.txt").write_text("1")
    refuse_to_delete("old.txt", monkeypatch)
    try:
        with pytest.raises(PermissionError):
            place.move(out, "old.txt", other_file_system, "new.txt")
        assert names(other_file_system) == []
    finally:
        for path in other_file_system.iterdir():
            path.unlink()
        other_file_system.rmdir()


def test_a_file_system_without_hard_links(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(place, "_renamed", lambda *_: False)
    monkeypatch.setattr(os, "link", link)
    for text in ("1", "2"):
        send(out, text, if_exists="number")
    with pytest.raises(Rejected):
        send(out, "3")
    assert {name: (out / name).read_text() for name in names(out)} == {
        "a.txt": "1",
        "a-1.txt": "2",
    }


# --- call -----------------------------------------------------------------------------------------


def test_a_file_is_a_reply(out: Path) -> None:
    (out / "prices.csv").write_text("a,b\n1,2\n")
    os.utime(out / "prices.csv", (1_700_000_000, 1_700_000_000))
    reply = call(out, name="prices.csv", charset="latin-1")
    assert reply.body.raw == b"a,b\n1,2\n"
    assert reply.content_type == "text/csv; charset=latin-1"
    assert reply.correlation_id == "m1"
    facts = reply.params["reply"]
    assert facts["size"] == 8
    assert facts["modified"].isoformat() == "2023-11-14T22:13:20+00:00"


def test_a_file_that_is_not_there_or_too_large(out: Path) -> None:
    with pytest.raises(Rejected) as missing:
        call(out)
    assert missing.value.status == 404
    (out / "a.txt").write_text("12345")
    assert call(out, max_size=5).body.raw == b"12345"
    with pytest.raises(BadReply, match="more than 4 bytes"):
        call(out, max_size=4)
    with pytest.raises(Unreachable):
        call(out, folder="not-mounted")
    with pytest.raises(RouteFailure):
        call(out, name="../bus.db")


def test_what_is_no_regular_file_is_no_reply(out: Path) -> None:
    os.mkfifo(out / "pipe")
    (out / "folder").mkdir()
    (out.parent / "secret").write_text("secret")
    (out / "link").symlink_to(out.parent / "secret")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(Rejected):
            call(out, name=name)
