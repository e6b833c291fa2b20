"""Steps that send a message several ways, or one that it says itself."""

from __future__ import annotations

import socket
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.backend import backend
from support.bus import load_text, running, store_of

from esb.bus import Bus
from esb.config import Project
from esb.envelope import Body, Envelope, Outcome
from esb.errors import BadMessage, EsbError, Rejected, RouteFailure, Transient, UnsupportedMedia
from esb.step import Step


def project(steps: str, folder: Path, more: str = "") -> Project:
    """An HTTP route `r`, whose callers wait, with these steps; `more` are further routes."""
    text = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"
    text += textwrap.indent(textwrap.dedent(steps), " " * 6)
    return load_text(text + textwrap.indent(textwrap.dedent(more), "  "), folder)


def step_of(steps: str, folder: Path, more: str = "") -> Step:
    return project(steps, folder, more).check().routes[0].step


def message(data: Any = None, **fields: Any) -> Envelope:
    return Envelope(body=Body.of(data), **fields)


async def lying_in(bus: Bus, queue: str) -> list[Envelope]:
    return [one.envelope for one in await store_of(bus).browse(f"queue:{queue}")]


ROUTE = "routes:\n  r:\n    from: {http: {path: /r}}\n    steps:\n"


class TestSendEach:
    TEXT = (
        ROUTE
        + """
      - send_each:
          to:
            all: {send: {queue: all}}
            large: {send: {queue: large}, when: body.amount > 100}
            crm: {send: {http: "%s"}}
          names: body.names | default(['all', 'large'])
          concurrency: %d
    """
    )

    async def run(self, data: Any, folder: Path, concurrency: int = 1, status: int = 200) -> Any:
        with backend() as far:
            far.statuses.append(status)
            async with running(self.TEXT % (far.url, concurrency), folder) as bus:
                result: Envelope | EsbError
                try:
                    result = await bus.routes["r"].step(message(data))
                except EsbError as e:
                    result = e
                lie = [len(await lying_in(bus, name)) for name in ("all", "large")]
                return result, (*lie, len(far.asked))

    async def test_it_goes_to_those_it_is_for(self, tmp_path: Path) -> None:
        result, reached = await self.run({"amount": 101}, tmp_path)
        assert (result.outcome, reached) == (Outcome.ACCEPTED, (1, 1, 0))

    async def test_a_condition_keeps_it_from_one(self, tmp_path: Path) -> None:
        _, reached = await self.run({"amount": 1}, tmp_path)
        assert reached == (1, 0, 0)

    async def test_a_message_may_name_them_and_nobody_else(self, tmp_path: Path) -> None:
        _, reached = await self.run({"amount": 1, "names": "crm"}, tmp_path)
        assert reached == (0, 0, 1)
        result, reached = await self.run({"amount": 1, "names": ["all", "evil"]}, tmp_path)
        assert isinstance(result, BadMessage)
        assert reached == (0, 0, 0)

    async def test_to_nobody_it_goes_on_as_it_was(self, tmp_path: Path) -> None:
        result, reached = await self.run({"amount": 1, "names": []}, tmp_path)
        assert (result.outcome, reached) == (Outcome.MESSAGE, (0, 0, 0))

    @pytest.mark.parametrize("concurrency", [1, 8])
    async def test_one_that_fails_fails_the_message_and_no_queue_has_it(
        self, concurrency: int, tmp_path: Path
    ) -> None:
        data = {"amount": 1, "names": ["all", "crm"]}
        result, reached = await self.run(data, tmp_path, concurrency, status=422)
        assert isinstance(result, Rejected)
        assert reached == (0, 0, 1)


class TestMulticast:
    async def test_each_branch_has_a_copy_of_its_own(self, tmp_path: Path) -> None:
        text = (
            ROUTE
            + """
      - multicast:
          concurrency: 2
          branches:
            a: [{set: {fields: {by: "'a'"}}}, {send: {queue: a}}]
            b: [{filter: body.amount > 10}, {send: {queue: b}}]
      - set: {fields: {after: "'yes'"}}
        """
        )
        async with running(text, tmp_path) as bus:
            result = await bus.routes["r"].step(message({"amount": 1}, id="m"))
            assert result.body.data == {"amount": 1, "after": "yes"}
            assert (result.outcome, result.id) == (Outcome.MESSAGE, "m")
            [copy] = await lying_in(bus, "a")
            assert (copy.id, copy.correlation_id) == ("m.a", "m")
            assert copy.body.data == {"amount": 1, "by": "a"}
            assert await lying_in(bus, "b") == []

    async def test_what_all_branches_were_accepted_with_is_accepted(self, tmp_path: Path) -> None:
        text = (
            ROUTE
            + """
      - multicast: {branches: {a: [{send: {queue: a}}], b: [{send: {queue: b}}]}}
        """
        )
        async with running(text, tmp_path) as bus:
            assert (await bus.routes["r"].step(message(1))).outcome is Outcome.ACCEPTED

    async def test_a_copy_that_was_filtered_is_no_objection(self, tmp_path: Path) -> None:
        text = (
            ROUTE
            + """
      - multicast:
          branches: {a: [{send: {queue: a}}], b: [{filter: body > 1}, {send: {queue: b}}]}
      - split:
          each: "[1, body]"
          steps: [{filter: body > 1}, {send: {queue: c}}]
        """
        )
        async with running(text, tmp_path) as bus:
            assert (await bus.routes["r"].step(message(2))).outcome is Outcome.ACCEPTED
            assert (await bus.routes["r"].step(message(1))).outcome is Outcome.ACCEPTED
            assert [len(await lying_in(bus, name)) for name in "abc"] == [2, 1, 1]

    async def test_a_branch_that_fails_fails_the_message(self, tmp_path: Path) -> None:
        text = (
            ROUTE
            + """
      - multicast:
          branches: {a: [{send: {queue: a}}], b: [{set: {body: body.nothing}}]}
        """
        )
        async with running(text, tmp_path) as bus:
            with pytest.raises(RouteFailure) as caught:
                await bus.routes["r"].step(message({}))
            assert caught.value.step == "steps[0].multicast.branches.b[0].set"
            assert await lying_in(bus, "a") == []


class TestScatterGather:
    STEPS = """
        - scatter_gather:
            {more}
            branches:
              a: [{{filter: body.a is defined}}, {{set: {{body: body.a / body.by}}}}]
              b: [{{set: {{body: body.b}}}}]
    """

    @pytest.mark.parametrize(
        ("more", "data", "gathered"),
        [
            ("concurrency: 2", {"a": 6, "by": 2, "b": "x"}, {"a": 3, "b": "x"}),
            ("concurrency: 1", {"b": "x"}, {"b": "x"}),
            ("need: 1", {"a": 6, "by": 0, "b": "x"}, {"b": "x"}),
            ("need: 1", {"a": 6, "by": 2}, {"a": 3}),
        ],
    )
    async def test_what_they_answer_is_the_body(
        self, more: str, data: Any, gathered: Any, tmp_path: Path
    ) -> None:
        result = await step_of(self.STEPS.format(more=more), tmp_path)(message(data))
        assert result.body.data == gathered

    @pytest.mark.parametrize(
        ("more", "data"),
        [("timeout: 5s", {"a": 6, "by": 0, "b": 1}), ("need: 2", {"a": 6, "by": 2})],
    )
    async def test_an_error_that_is_not_allowed_for(
        self, more: str, data: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(RouteFailure):
            await step_of(self.STEPS.format(more=more), tmp_path)(message(data))

    async def test_who_is_too_slow_is_not_waited_for(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, backend() as fast:
            slow = f"http://127.0.0.1:{silent.getsockname()[1]}"
            text = (
                ROUTE
                + f"""
      - scatter_gather:
          timeout: 300ms
          need: 1
          branches:
            slow: [{{call: {{http: {slow}}}}}]
            fast: [{{call: {{http: {fast.url}}}}}]
            """
            )
            async with running(text, tmp_path) as bus:
                result = await bus.routes["r"].step(message({}))
                assert result.body.data == {"fast": {"ok": True}}

    def test_more_than_there_are_cannot_answer(self, tmp_path: Path) -> None:
        [found] = project(self.STEPS.format(more="need: 3"), tmp_path).diagnostics
        assert "there are 2 branches" in found.message


class TestEnrich:
    async def test_the_answer_goes_into_a_field(self, tmp_path: Path) -> None:
        steps = """
            - enrich:
                steps: [{set: {body: "{'name': 'N' ~ body}"}}]
                with: body.id
                into: who.full
        """
        given = message({"id": 7, "who": {"x": 1}})
        result = await step_of(steps, tmp_path)(given)
        assert result.body.data == {"id": 7, "who": {"x": 1, "full": {"name": "N7"}}}
        assert given.body.data == {"id": 7, "who": {"x": 1}}
        assert result.outcome is Outcome.MESSAGE

    async def test_without_a_field_its_fields_are_added(self, tmp_path: Path) -> None:
        steps = "- enrich: {steps: [{set: {body: \"{'b': 2}\"}}]}"
        assert (await step_of(steps, tmp_path)(message({"a": 1}))).body.data == {"a": 1, "b": 2}
        with pytest.raises(RouteFailure, match="must be objects"):
            await step_of(steps, tmp_path)(message([1]))

    async def test_a_filtered_answer_adds_nothing(self, tmp_path: Path) -> None:
        steps = "- enrich: {steps: [{filter: 'false'}], into: b}"
        result = await step_of(steps, tmp_path)(message({"a": 1}))
        assert (result.body.data, result.outcome) == ({"a": 1}, Outcome.MESSAGE)

    async def test_an_endpoint_is_asked(self, tmp_path: Path) -> None:
        with backend() as far:
            text = (
                ROUTE
                + f"""
      - enrich: {{call: {{http: {far.url}}}, with: "{{'id': body.id}}", into: crm}}
            """
            )
            async with running(text, tmp_path) as bus:
                result = await bus.routes["r"].step(message({"id": 7}))
                assert result.body.data == {"id": 7, "crm": {"ok": True}}
                assert far.asked[0].body == b'{"id":7}'

    def test_one_of_call_and_steps(self, tmp_path: Path) -> None:
        [found] = project("- enrich: {into: x}", tmp_path).diagnostics
        assert "one of 'call' and 'steps'" in found.message


SUBS = """
    double:
      steps: [{set: {fields: {n: body.n * 2}}}]
    stop:
      steps: [{filter: "false"}]
"""


class TestRoutingSlip:
    STEPS = "- routing_slip: {slip: body.slip, among: [double, stop], most: 3}"

    async def test_it_is_followed(self, tmp_path: Path) -> None:
        step = step_of(self.STEPS, tmp_path, SUBS)
        result = await step(message({"n": 3, "slip": ["double", "double"]}))
        assert result.body.data["n"] == 12
        stopped = await step(message({"n": 3, "slip": ["double", "stop", "double"]}))
        assert (stopped.outcome, stopped.body.data["n"]) == (Outcome.FILTERED, 6)
        assert (await step(message({"n": 3, "slip": []}))).body.data["n"] == 3

    @pytest.mark.parametrize("slip", [["double", "r"], ["double"] * 4, [None], "double"])
    async def test_what_it_may_not_say(self, slip: Any, tmp_path: Path) -> None:
        step = step_of(self.STEPS, tmp_path, SUBS)
        with pytest.raises((BadMessage, RouteFailure)):
            await step(message({"n": 3, "slip": slip}))


class TestDynamicRouter:
    STEPS = """
        - dynamic_router:
            next: "'double' if body.n < body.most else body.then"
            among: [double, stop]
            most: 5
    """

    async def test_it_is_asked_again_after_each(self, tmp_path: Path) -> None:
        step = step_of(self.STEPS, tmp_path, SUBS)
        result = await step(message({"n": 3, "most": 20, "then": None}))
        assert result.body.data["n"] == 24
        stopped = await step(message({"n": 3, "most": 0, "then": "stop"}))
        assert stopped.outcome is Outcome.FILTERED

    async def test_a_way_without_an_end(self, tmp_path: Path) -> None:
        step = step_of(self.STEPS, tmp_path, SUBS)
        with pytest.raises(RouteFailure, match="no end within 5 hops"):
            await step(message({"n": 1, "most": 10**9, "then": ""}))

    async def test_a_name_it_may_not_go_by(self, tmp_path: Path) -> None:
        step = step_of(self.STEPS, tmp_path, SUBS)
        with pytest.raises(BadMessage, match="'r' is none of the routes"):
            await step(message({"n": 1, "most": 0, "then": "r"}))

    def test_sub_routes_that_are_none(self, tmp_path: Path) -> None:
        steps = "- dynamic_router: {next: body.x, among: [dubble, stop]}"
        found = project(steps, tmp_path, SUBS).diagnostics
        assert [one.hint for one in found if one.code == "unknown-route"] == [
            "did you mean 'double'?"
        ]


class TestLoadBalance:
    WAYS = """
        - load_balance:
            {more}
            to:
              a: {{steps: [{{set: {{body: "'a'"}}}}], weight: 3}}
              b: {{steps: [{{set: {{body: "'b'"}}}}]}}
              spare: {{steps: [{{set: {{body: "'spare'"}}}}], weight: 0}}
    """

    async def test_turns_go_by_weight_and_are_spread(self, tmp_path: Path) -> None:
        step = step_of(self.WAYS.format(more="failover: true"), tmp_path)
        taken = [(await step(message())).body.data for _ in range(8)]
        assert Counter(taken) == {"a": 6, "b": 2}
        assert "aaaa" not in "".join(taken)

    async def test_one_key_goes_one_way(self, tmp_path: Path) -> None:
        step = step_of(self.WAYS.format(more="strategy: sticky\n            by: body"), tmp_path)
        ways = {key: {(await step(message(key))).body.data for _ in range(3)} for key in range(400)}
        assert all(len(way) == 1 for way in ways.values())
        share = Counter(way for one in ways.values() for way in one)
        assert share.keys() == {"a", "b"}
        assert 240 < share["a"] < 360

    @pytest.mark.parametrize(("status", "tried"), [(503, "b"), (404, "")])
    async def test_the_next_takes_what_one_could_not(
        self, status: int, tried: str, tmp_path: Path
    ) -> None:
        with backend() as far:
            far.statuses.append(status)
            text = (
                ROUTE
                + f"""
      - load_balance:
          strategy: in_order
          to:
            a: {{steps: [{{send: {{queue: a}}}}, {{send: {{http: {far.url}}}}}]}}
            b: {{steps: [{{send: {{queue: b}}}}]}}
            """
            )
            async with running(text, tmp_path) as bus:
                if tried:
                    result = await bus.routes["r"].step(message({}))
                    assert result.outcome is Outcome.ACCEPTED
                else:
                    with pytest.raises(Rejected):
                        await bus.routes["r"].step(message({}))
                assert len(far.asked) == 1
                assert await lying_in(bus, "a") == []
                assert len(await lying_in(bus, "b")) == len(tried)

    async def test_if_all_fail_the_last_error_says_so(self, tmp_path: Path) -> None:
        text = (
            ROUTE
            + """
      - load_balance:
          to:
            a: {steps: [{send: {http: "http://127.0.0.1:1/"}}]}
            b: {steps: [{send: {http: "http://127.0.0.1:1/"}}]}
        """
        )
        async with running(text, tmp_path) as bus:
            with pytest.raises(Transient) as caught:
                await bus.routes["r"].step(message({}))
            assert any("by way of b" in note for note in caught.value.notes)

    @pytest.mark.parametrize("more", ["strategy: sticky", "by: body"])
    def test_sticky_needs_something_to_go_by(self, more: str, tmp_path: Path) -> None:
        [found] = project(self.WAYS.format(more=more), tmp_path).diagnostics
        assert "'by' belongs to 'strategy: sticky'" in found.message


class TestNormalize:
    STEPS = """
        - normalize:
            - type: application/json
              steps: [{set: {body: "{'id': body.id}"}}]
            - type: application/xml
              root: "{urn:2}Order"
              steps: [{set: {body: "{'id': xpath('string(/*/@id)') | int}"}}]
            - type: text/xml
              root: Order
              steps: [{set: {body: "{'id': xpath('string(/*/@no)') | int}"}}]
            - type: text/csv
              steps: [{set: {body: "{'id': body[0].id | int}"}}]
    """

    @pytest.mark.parametrize(
        ("raw", "content_type"),
        [
            (b'{"id": 7}', "application/json"),
            (b'  {"id": 7}', ""),
            (b'{"id": 7}', "application/vnd.shop+json; charset=utf-8"),
            (b'<Order xmlns="urn:2" id="7"/>', "application/xml"),
            (b'\xef\xbb\xbf<Order no="7"/>', "application/octet-stream"),
            (b'<Order xmlns="urn:1" no="7"/>', "application/soap+xml"),
            (b"id,n\n7,1\n", "text/csv"),
        ],
    )
    async def test_all_come_out_the_same(
        self, raw: bytes, content_type: str, tmp_path: Path
    ) -> None:
        result = await step_of(self.STEPS, tmp_path)(Envelope(body=Body(raw, content_type)))
        assert result.body.data == {"id": 7}

    @pytest.mark.parametrize(
        ("raw", "content_type"),
        [(b"<Invoice/>", "text/xml"), (b"id;n", "text/plain"), (b"", "application/pdf")],
    )
    async def test_another_is_refused(self, raw: bytes, content_type: str, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedMedia, match="application/json, application/xml, text/xml"):
            await step_of(self.STEPS, tmp_path)(Envelope(body=Body(raw, content_type)))

    def test_what_is_no_media_type(self, tmp_path: Path) -> None:
        [found] = project("- normalize: [{type: json}]", tmp_path).diagnostics
        assert found.hint == "application/json"

    def test_only_xml_has_a_root(self, tmp_path: Path) -> None:
        steps = "- normalize: [{type: application/json, root: x}]"
        [found] = project(steps, tmp_path).diagnostics
        assert "only XML has a root element" in found.message
