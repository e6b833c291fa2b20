"""Each step does what its pattern says, compiled from YAML as in a real route."""

from __future__ import annotations

import asyncio
import textwrap
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text

from esb import step
from esb.envelope import Body, Envelope, Headers, Outcome, codec_for
from esb.errors import BadMessage, RouteFailure
from esb.step import Step


def route(steps: str, folder: Path) -> Step:
    """The step of an HTTP route, whose callers wait, with these steps."""
    text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
    project = load_text(text + textwrap.indent(textwrap.dedent(steps), " " * 6), folder)
    assert project.diagnostics == []
    return project.routes[0].step


def message(data: Any = None, **fields: Any) -> Envelope:
    return Envelope(body=Body.of(data), **fields)


def raw(text: str, content_type: str = "application/json") -> Envelope:
    return Envelope(body=Body(text.encode(), content_type))


async def test_no_steps_give_the_message_back(tmp_path: Path) -> None:
    given = raw('{"a": 1.10}')
    result = await route("[]", tmp_path)(given)
    assert result.body is given.body
    assert not given.body.is_parsed


class TestFilter:
    async def test_what_matches_goes_on(self, tmp_path: Path) -> None:
        step = route("- filter: body.amount > 10", tmp_path)
        assert (await step(message({"amount": 11}))).outcome is Outcome.MESSAGE

    async def test_what_does_not_match_ends_there(self, tmp_path: Path) -> None:
        step = route("- filter: body.amount > 10\n- set: {body: \"'seen'\"}", tmp_path)
        result = await step(message({"amount": 10}))
        assert result.outcome is Outcome.FILTERED
        assert result.body.data == {"amount": 10}

    async def test_a_missing_field_is_an_error_and_no_false(self, tmp_path: Path) -> None:
        step = route("- filter: body.amount > 10", tmp_path)
        with pytest.raises(RouteFailure, match="amount"):
            await step(message({}))

    async def test_an_unreadable_body_is_the_senders_fault(self, tmp_path: Path) -> None:
        step = route("- filter: body.amount > 10", tmp_path)
        with pytest.raises(BadMessage) as caught:
            await step(raw('{"amount": '))
        assert caught.value.step == "steps[0].filter"


class TestChoose:
    STEPS = """
        - choose:
            - when: body.kind == 'a'
              steps: [{set: {headers: {x-branch: "'a'"}}}]
            - when: body.kind in ['a', 'b']
              steps: [{set: {headers: {x-branch: "'b'"}}}]
            - otherwise:
              steps: [{set: {headers: {x-branch: "'other'"}}}]
        - set: {headers: {x-after: "'yes'"}}
    """

    @pytest.mark.parametrize(("kind", "branch"), [("a", "a"), ("b", "b"), ("c", "other")])
    async def test_the_first_branch_that_matches_is_taken(
        self, kind: str, branch: str, tmp_path: Path
    ) -> None:
        result = await route(self.STEPS, tmp_path)(message({"kind": kind}))
        assert (result.headers.get("X-Branch"), result.headers.get("x-after")) == (branch, "yes")

    async def test_without_otherwise_the_message_goes_on(self, tmp_path: Path) -> None:
        steps = "- choose:\n    - when: body.a == 1\n      steps: [{filter: 'false'}]"
        result = await route(steps, tmp_path)(message({"a": 2}))
        assert result.outcome is Outcome.MESSAGE

    async def test_a_filter_in_a_branch_ends_the_route(self, tmp_path: Path) -> None:
        steps = """
            - choose:
                - when: body.a == 1
                  steps: [{filter: "false"}]
            - set: {body: "'reached'"}
        """
        result = await route(steps, tmp_path)(message({"a": 1}))
        assert result.outcome is Outcome.FILTERED

    async def test_an_error_names_the_step_inside(self, tmp_path: Path) -> None:
        steps = "- choose:\n    - otherwise:\n      steps: [{filter: body.nothing}]"
        with pytest.raises(RouteFailure) as caught:
            await route(steps, tmp_path)(message({}))
        assert caught.value.step == "steps[0].choose[0].steps[0].filter"


class TestSet:
    async def test_headers_are_set_and_removed(self, tmp_path: Path) -> None:
        steps = """
            - set:
                headers:
                  x-total: body.total
                  X-Old: null
        """
        given = message({"total": Decimal("1.10")}, headers=Headers([("x-old", "1"), ("b", "2")]))
        result = await route(steps, tmp_path)(given)
        assert [name for name, _ in result.headers] == ["b", "x-total"]

    async def test_a_body_is_made_of_expressions(self, tmp_path: Path) -> None:
        steps = """
            - set:
                body:
                  id: body.number
                  names: [body.first, body.last]
                  fixed: 7
        """
        given = message({"number": 5, "first": "A", "last": "B"})
        result = await route(steps, tmp_path)(given)
        assert result.body.data == {"id": 5, "names": ["A", "B"], "fixed": 7}
        assert result.content_type == "application/json"

    async def test_fields_change_a_copy(self, tmp_path: Path) -> None:
        steps = "- set: {fields: {customer.name: body.customer.name | upper, new.deep: 1}}"
        given = message({"customer": {"name": "ada", "id": 1}, "lines": [1]})
        result = await route(steps, tmp_path)(given)
        assert result.body.data == {
            "customer": {"name": "ADA", "id": 1},
            "lines": [1],
            "new": {"deep": 1},
        }
        assert given.body.data["customer"]["name"] == "ada"

    async def test_numbers_stay_exact(self, tmp_path: Path) -> None:
        step = route("- set: {fields: {seen: 'true'}}", tmp_path)
        result = await step(raw('{"price":1.10,"big":123456789012345678901234567890}'))
        assert b'"price":1.10' in result.body.raw
        assert b"123456789012345678901234567890" in result.body.raw

    async def test_attributes_are_set(self, tmp_path: Path) -> None:
        steps = "- set: {subject: body.id, correlation_id: message.id, type: \"'order'\"}"
        result = await route(steps, tmp_path)(message({"id": 9}, id="m1"))
        assert (result.subject, result.correlation_id, result.type) == ("9", "m1", "order")

    async def test_a_header_that_would_inject_another_is_refused(self, tmp_path: Path) -> None:
        step = route("- set: {headers: {x-a: body.a}}", tmp_path)
        with pytest.raises(BadMessage, match="line break"):
            await step(message({"a": "1\r\nX-Evil: 1"}))


class TestTransform:
    async def test_jinja_writes_the_type_its_name_says(self, tmp_path: Path) -> None:
        (tmp_path / "claim.xml.j2").write_text("<claim><of>{{ body.of }}</of></claim>")
        result = await route("- transform: {jinja: claim.xml.j2}", tmp_path)(
            message({"of": "A & <B>"})
        )
        assert result.content_type == "application/xml"
        assert result.body.raw == b"<claim><of>A &amp; &lt;B&gt;</of></claim>"

    async def test_xslt_makes_a_new_body(self, tmp_path: Path) -> None:
        (tmp_path / "t.xsl").write_text(
            '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
            '<xsl:output method="text"/><xsl:template match="/"><xsl:value-of select="//b"/>'
            "</xsl:template></xsl:stylesheet>"
        )
        step = route("- transform: {xslt: t.xsl, content_type: text/plain}", tmp_path)
        result = await step(raw("<a><b>hello</b></a>", "application/xml"))
        assert result.body.raw == b"hello"


class TestValidate:
    async def test_json_schema(self, tmp_path: Path) -> None:
        step = route("- validate: {json_schema: {required: [id]}}", tmp_path)
        assert (await step(message({"id": 1}))).outcome is Outcome.MESSAGE
        with pytest.raises(BadMessage) as caught:
            await step(message({}))
        assert caught.value.errors

    async def test_xsd(self, tmp_path: Path) -> None:
        (tmp_path / "a.xsd").write_text(
            '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">'
            '<xs:element name="a" type="xs:int"/></xs:schema>'
        )
        step = route("- validate: {xsd: a.xsd}", tmp_path)
        assert (await step(raw("<a>1</a>", "application/xml"))).outcome is Outcome.MESSAGE
        with pytest.raises(BadMessage):
            await step(raw("<a>x</a>", "application/xml"))


class TestSplit:
    async def test_results_are_gathered_in_order(self, tmp_path: Path) -> None:
        steps = """
            - split:
                each: body.lines
                gather: true
                concurrency: 4
                steps:
                  - filter: body.n != 2
                  - set: {body: body.n * 10}
        """
        step = route(steps, tmp_path)
        result = await step(message({"lines": [{"n": n} for n in range(5)]}))
        assert result.body.data == [0, 10, 30, 40]

    async def test_a_part_has_an_id_of_its_own_that_stays(self, tmp_path: Path) -> None:
        steps = "- split: {each: body, gather: true, steps: [{set: {body: message.id}}]}"
        step = route(steps, tmp_path)
        first = await step(message([1, 2], id="m"))
        again = await step(message([1, 2], id="m"))
        assert first.body.data == again.body.data == ["m.0", "m.1"]

    async def test_a_part_that_fails_fails_the_message(self, tmp_path: Path) -> None:
        steps = "- split: {each: body, concurrency: 3, steps: [{filter: body.ok}]}"
        with pytest.raises(RouteFailure):
            await route(steps, tmp_path)(message([{"ok": True}, {}]))

    async def test_what_is_no_list_cannot_be_split(self, tmp_path: Path) -> None:
        with pytest.raises(RouteFailure, match="list"):
            await route("- split: {each: body, steps: []}", tmp_path)(message({"a": 1}))

    async def test_xml_is_split_by_xpath(self, tmp_path: Path) -> None:
        steps = """
            - split:
                each: elements('//line')
                gather: true
                steps: [{set: {body: "xpath('@n') | int"}}]
        """
        result = await route(steps, tmp_path)(
            raw('<o><line n="1"/><line n="2"/></o>', "application/xml")
        )
        assert result.body.data == [1, 2]


class TestPolicies:
    async def test_a_step_has_its_own_timeout(self, tmp_path: Path) -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        steps = f"""
            - call: {{http: {{url: "http://127.0.0.1:{port}/", method: GET}}}}
              timeout: 50ms
        """
        text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
        project = load_text(text + textwrap.indent(textwrap.dedent(steps), " " * 6), tmp_path)
        assert project.diagnostics == []
        async with server:
            from esb.errors import EsbError

            with pytest.raises(EsbError) as caught:
                await project.routes[0].step(message({}))
        assert caught.value.code in ("timed-out", "outcome-unknown")


LARGE_XML = b"<o>" + b"<line>a</line>" * (step.LARGE // 10) + b"</o>"
LARGE_JSON = b'{"a": "' + b"a" * step.LARGE + b'"}'
SHEET = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:template match="/"><n><xsl:value-of select="count(//line)"/></n></xsl:template>
</xsl:stylesheet>"""


@pytest.mark.parametrize(
    ("steps", "body"),
    [
        ("[{set: {body: body.a | length}}]", Body(LARGE_JSON, "application/json")),
        ("[{map: {n: body.a | length}}]", Body(LARGE_JSON, "application/json")),
        ("[{filter: body.a != ''}]", Body(LARGE_JSON, "application/json")),
        ("[{log: '{{ body.a | length }}'}]", Body(LARGE_JSON, "application/json")),
        ("[{validate: {json_schema: {required: [a]}}}]", Body(LARGE_JSON, "application/json")),
        ("[{convert: yaml}]", Body(LARGE_JSON, "application/json")),
        ("[{choose: [{when: body.a == '', steps: []}]}]", Body(LARGE_JSON, "application/json")),
        ("[{transform: {xslt: sheet.xsl}}]", Body(LARGE_XML, "application/xml")),
        ("[{keep: [a]}]", Body(LARGE_JSON, "application/json")),
        ("[{remove: [a]}]", Body(LARGE_JSON, "application/json")),
        ("[{remove: {xpath: [//line]}}]", Body(LARGE_XML, "application/xml")),
        ("[{enrich: {steps: [{set: {body: {b: 1}}}]}}]", Body(LARGE_JSON, "application/json")),
        ("[{scatter_gather: {branches: {b: []}}}]", Body(LARGE_JSON, "application/json")),
        ("[{split: {each: '[body.a]', steps: []}}]", Body(LARGE_JSON, "application/json")),
        ("[{loop: {each: '[body.a]', steps: []}}]", Body(LARGE_JSON, "application/json")),
        ("[{loop: {while: body.a == '', steps: []}}]", Body(LARGE_JSON, "application/json")),
        *(
            (steps, Body(LARGE_JSON, "application/json"))
            for steps in (
                "[{send_each: {to: {a: {send: {queue: a}}}, names: 'body.b | default([])'}}]",
                "[{send_each: {to: {a: {when: body.a == '', send: {queue: a}}}}}]",
                "[{throttle: {rate: 100/1s, by: body.b | default('')}}]",
                "[{delay: {until: body.b | default('2026-01-01T00:00:00Z')}}]",
                "[{expire: {at: body.b | default(none)}}]",
                "[{try: {steps: [{fail: '{{ body.b | default(1) }}'}], catch: [{steps: []}]}}]",
            )
        ),
        (
            "[{normalize: [{type: application/xml, root: o, steps: []}]}]",
            Body(LARGE_XML, "application/xml"),
        ),
    ],
)
async def test_who_reads_a_large_body_keeps_nobody_waiting(
    steps: str, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: set[int] = set()
    data = Body.data.fget
    assert data is not None

    def seen(self: Body) -> Any:
        readers.add(threading.get_ident())
        return data(self)

    (tmp_path / "sheet.xsl").write_text(SHEET)
    run = route(steps, tmp_path)
    monkeypatch.setattr(Body, "data", property(seen))
    await run(Envelope(body=body.typed(body.content_type)))
    assert readers
    assert threading.get_ident() not in readers


@pytest.mark.parametrize(
    "steps",
    [
        "[{set: {body: {b: body.a}}}]",
        "[{map: {b: body.a}}, {keep: [b]}]",
        "[{enrich: {steps: [{set: {body: {b: 1}}}]}}]",
        "[{scatter_gather: {branches: {b: []}}}]",
    ],
)
async def test_what_is_made_of_a_large_body_is_written_in_a_thread(
    steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = await route(steps, tmp_path)(Envelope(body=Body(LARGE_JSON, "application/json")))
    writers: set[int] = set()
    codec = codec_for("application/json")
    encode = type(codec).encode

    def seen(self: Any, *args: Any) -> bytes:
        writers.add(threading.get_ident())
        return encode(self, *args)

    monkeypatch.setattr(type(codec), "encode", seen)
    await step.written(result.body)
    assert result.body.is_written
    assert writers
    assert threading.get_ident() not in writers
