"""Stylesheets and schemas in a process that may be killed: whatever they do, the bus goes on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.bus import load_text, running, url
from support.waiting import until
from support.web import ask

from esb.aside import Done, Job, Pool, Work, compile_aside, frame
from esb.aside.__main__ import serve, work
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, RouteFailure, TooLarge
from esb.schemas import SchemaError
from esb.templates import TemplateError

MB = 1024 * 1024
XSL = (
    '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"'
    ' xmlns:exsl="http://exslt.org/common" extension-element-prefixes="exsl">{}'
    '<xsl:template match="/">{}</xsl:template></xsl:stylesheet>'
)
GOOD = XSL.format("", '<b><xsl:value-of select="/a"/></b>')
ENDLESS = XSL.format(  # 200 nodes to the fourth power
    "",
    '<b><xsl:value-of select="count(//i[count(//i[count(//i[count(//i[. &gt; 1]) &gt; 1]) &gt; 1])'
    ' &gt; 1])"/></b>',
)
MANY = f"<a>{'<i>2</i>' * 200}</a>"
BOMB = XSL.format(
    '<xsl:template name="t"><xsl:param name="s"/><xsl:param name="n"/><xsl:choose>'
    '<xsl:when test="$n = 0"><xsl:value-of select="string-length($s)"/></xsl:when><xsl:otherwise>'
    '<xsl:call-template name="t"><xsl:with-param name="s" select="concat($s, $s)"/>'
    '<xsl:with-param name="n" select="$n - 1"/></xsl:call-template></xsl:otherwise></xsl:choose>'
    "</xsl:template>",
    '<b><xsl:call-template name="t"><xsl:with-param name="s" select="\'0123456789\'"/>'
    '<xsl:with-param name="n" select="30"/></xsl:call-template></b>',
)
ITSELF = XSL.format(
    '<xsl:template name="t"><xsl:call-template name="t"/></xsl:template>',
    '<xsl:call-template name="t"/>',
)
READING = XSL.format("", "<b><xsl:copy-of select=\"document('file:///etc/passwd')\"/></b>")
WRITING = XSL.format("", '<exsl:document href="file:///{}/written">x</exsl:document>')
XSD = (
    '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">'
    '<xs:element name="a" type="xs:int"/></xs:schema>'
)


def written(folder: Path, text: str) -> tuple[Any, Path]:
    file = folder / ("a.xsd" if "XMLSchema" in text else "a.xsl")
    file.write_text(text)
    return ("xsd" if file.suffix == ".xsd" else "xslt"), file


def runs(pool: Pool, folder: Path, text: str, seconds: float = 20.0) -> Work:
    """What `compile_aside` makes of a file that is right, without a process for the load."""
    kind, file = written(folder, text)
    made = Work(Job(kind, str(file), str(folder), seconds), 64 * MB, {str(file): text.encode()})
    made.pool = pool
    return made


def compiled(folder: Path, text: str) -> Work:
    kind, file = written(folder, text)
    return compile_aside(kind, file, "", folder, 20, 64 * MB)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(64 * MB, most=1)
    await made.open()
    yield made
    await made.close()


def message(text: str = "<a>1</a>") -> Envelope:
    return Envelope(body=Body(text.encode(), "application/xml"))


def pid_of(pool: Pool) -> int:
    (process,) = pool._idle
    return process._process.pid


async def test_it_works_as_it_would_here(tmp_path: Path, pool: Pool) -> None:
    sheet, schema = runs(pool, tmp_path, GOOD), runs(pool, tmp_path, XSD)
    made = await sheet(message())
    assert made.raw == b'<?xml version="1.0"?>\n<b>1</b>\n'
    assert made.content_type == "application/xml"
    given = message()
    assert await schema(given) is given.body
    with pytest.raises(BadMessage) as e:
        await schema(message("<a>x</a>"))
    assert e.value.errors[0]["pointer"] == "/a"
    with pytest.raises(BadMessage, match="DOCTYPE"):
        await sheet(message('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'))
    with pytest.raises(TooLarge):
        await sheet(message(f"<a>{'<i/>' * 500_001}</a>"))


async def test_one_process_does_one_after_the_other(tmp_path: Path, pool: Pool) -> None:
    sheet = runs(pool, tmp_path, GOOD)
    before = pid_of(pool)
    made = await asyncio.gather(*(sheet(message(f"<a>{n}</a>")) for n in range(20)))
    assert [f"<b>{n}</b>".encode() in body.raw for n, body in enumerate(made)] == [True] * 20
    assert pid_of(pool) == before


async def test_what_is_at_work_when_all_is_closed_is_not_left(tmp_path: Path, pool: Pool) -> None:
    sheet, pid = runs(pool, tmp_path, GOOD), pid_of(pool)
    at_work = asyncio.create_task(sheet(message()))
    await asyncio.sleep(0)
    await pool.close()
    assert (await at_work).raw.endswith(b"<b>1</b>\n")
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_it_has_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = pid_of(pool)
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert [pair.partition(b"=")[0] for pair in environ.split(b"\0") if pair] == [b"PYTHONPATH"]
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 6
    for limit, most in {
        resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 32,
    }.items():  # fmt: skip
        assert resource.prlimit(pid, limit) == (most, most)
    assert resource.prlimit(pid, resource.RLIMIT_AS)[0] < 2048 * MB
    assert os.getsid(pid) != os.getsid(0)


WRONG = {
    "endless": (ENDLESS, MANY, 0.3, "took longer than 0.3 s"),
    "itself": (ITSELF, "<a/>", 20, "calls itself without an end"),
    "bomb": (BOMB, "<a/>", 20, "memory|took down|failed"),
    "reading": (READING, "<a/>", 20, "read or write a file"),
    "writing": (WRITING, "<a/>", 20, "read or write a file"),
}


async def test_what_it_does_wrong_fails_its_message_alone(tmp_path: Path, pool: Pool) -> None:
    good = runs(pool, tmp_path, GOOD)
    for name, (sheet, text, seconds, said) in WRONG.items():
        wrong = runs(pool, tmp_path, sheet.replace("{}", str(tmp_path)), seconds)
        with pytest.raises(RouteFailure) as e:
            await wrong(message(text))
        assert re.search(said, str(e.value)), name
        assert b"<b>1</b>" in (await good(message())).raw
    assert not (tmp_path / "written").exists()


async def test_a_crash_fails_its_message_alone(tmp_path: Path, pool: Pool) -> None:
    slow = runs(pool, tmp_path, ENDLESS)
    pid = pid_of(pool)
    at_work = asyncio.ensure_future(slow(message(MANY)))
    await until(lambda: not pool._idle)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(RouteFailure, match="took down the process"):
        await at_work
    good = runs(pool, tmp_path, GOOD)
    assert b"<b>1</b>" in (await good(message())).raw
    assert pid_of(pool) != pid


async def test_one_that_died_idle_harms_nobody(tmp_path: Path, pool: Pool) -> None:
    pid = pid_of(pool)
    (process,) = pool._idle
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not process.alive)
    sheet = runs(pool, tmp_path, GOOD)
    assert b"<b>1</b>" in (await sheet(message())).raw


async def test_who_gives_up_leaves_no_process_at_work(tmp_path: Path, pool: Pool) -> None:
    slow = runs(pool, tmp_path, ENDLESS)
    (process,) = pool._idle
    at_work = asyncio.ensure_future(slow(message(MANY)))
    await until(lambda: not pool._idle)
    at_work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await at_work
    await until(lambda: not process.alive)


async def test_what_answers_nonsense_is_killed(pool: Pool) -> None:
    (process,) = pool._idle

    async def nonsense(job: Job) -> Done:
        raise msgspec.DecodeError("not from us")

    process.ask = nonsense  # type: ignore[method-assign]
    with pytest.raises(RouteFailure, match="took down"):
        await pool.do(Job("xslt", "/a", "/", 5))
    await until(lambda: not process.alive)


def test_what_is_wrong_with_a_file_is_told_at_the_load(tmp_path: Path) -> None:
    assert compiled(tmp_path, GOOD).files == {tmp_path / "a.xsl"}
    with pytest.raises(TemplateError) as e:
        compiled(tmp_path, XSL.format("", '<xsl:value-of select="]"/>'))
    assert e.value.file == str(tmp_path / "a.xsl")
    with pytest.raises(SchemaError):
        compiled(tmp_path, XSD.replace("xs:int", "xs:nothing"))
    with pytest.raises(TemplateError, match="import fails"):
        compiled(tmp_path, XSL.format('<xsl:include href="../../etc/passwd"/>', ""))


async def test_what_runs_is_what_was_loaded(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "inner.xsl").write_text(GOOD)
    outer = compiled(
        tmp_path,
        XSL.format('<xsl:include href="inner.xsl"/>', "").replace('match="/"', 'match="nothing"'),
    )
    assert outer.files == {tmp_path / "a.xsl", tmp_path / "inner.xsl"}
    (tmp_path / "a.xsl").write_text("<broken")
    (tmp_path / "inner.xsl").unlink()
    assert b"<b>1</b>" in (await outer(message())).raw  # alone
    outer.pool = pool
    for _ in range(2):
        assert b"<b>1</b>" in (await outer(message())).raw


def test_frames() -> None:
    jobs = [Job("xslt", "/there/is/none", "/", 5), Job("xsd", "/there/is/none", "/", 5)]
    told = io.BytesIO()
    before = resource.getrlimit(resource.RLIMIT_CPU)
    try:
        serve(io.BytesIO(b"".join(map(frame, jobs))), told, lambda job: Done(detail=job.kind))
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before)
    assert told.getvalue() == b"".join(
        map(frame, (Done(), Done(detail="xslt"), Done(detail="xsd")))
    )
    assert work(jobs[0]).code == "template"
    assert work(jobs[1]).code == "schema"


ROUTES = """\
routes:
  slow:
    from: {http: {path: /slow}}
    steps: [{transform: {xslt: slow.xsl, untrusted: true, timeout: 30s}}]
  good:
    from: {http: {path: /good}}
    steps: [{validate: {xsd: a.xsd, untrusted: true}}]
"""


async def test_the_bus_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.xsl").write_text(ENDLESS)
    (tmp_path / "a.xsd").write_text(XSD)

    def request(path: str, text: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/xml\r\n"
        return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()

    async with running(ROUTES, tmp_path) as bus:
        (pool,) = [one for one in bus.shared.objects.values() if isinstance(one, Pool)]
        (process,) = pool._idle
        slow = asyncio.ensure_future(ask(url(bus), request("/slow", MANY)))
        await until(lambda: not pool._idle)
        for _ in range(3):
            assert (await ask(url(bus), request("/good", "<a>1</a>")))[0] == 200
        status, _, raw = await ask(url(bus), request("/good", "<a>x</a>"))
        assert (status, json.loads(raw)["errors"][0]["pointer"]) == (400, "/a")
        assert not slow.done()
        process.kill()
        status, _, raw = await slow
        assert (status, json.loads(raw)["type"]) == (500, "urn:esb:problem:route-failure")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("transform: {jinja: a.j2, untrusted: true}", "only a stylesheet"),
        ("validate: {json_schema: {type: string}, untrusted: true}", "only an XML Schema"),
        ("transform: {xslt: slow.xsl, timeout: 1s}", "'timeout' is for what runs"),
        ("validate: {xsd: a.xsd, memory: 1MB}", "'memory' is for what runs"),
        ("transform: {xslt: broken.xsl, untrusted: true}", "not well-formed"),
    ],
)
def test_mistakes(tmp_path: Path, step: str, said: str) -> None:
    (tmp_path / "a.j2").write_text("x")
    (tmp_path / "a.xsd").write_text(XSD)
    (tmp_path / "slow.xsl").write_text(GOOD)
    (tmp_path / "broken.xsl").write_text("<a>\n<b></a>")
    text = f"routes:\n  a:\n    from: {{http: {{path: /a}}}}\n    steps: [{{{step}}}]\n"
    (one,) = load_text(text, tmp_path).diagnostics
    assert said in one.message
    assert one.file.endswith("broken.xsl") == ("broken" in step)
