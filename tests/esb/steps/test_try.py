"""`try`: what fails is handled where it fails, and the rest of the run knows nothing of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.bus import running, store_of
from support.steps import compiled, data, mistakes
from support.stores import message
from support.waiting import Jumping, until

from esb.durable import DEAD
from esb.envelope import Body, Envelope, Outcome
from esb.errors import BadMessage, Fault, Rejected, RouteFailure, Transient
from esb.steps._scope import facts


async def test_what_does_not_fail_is_as_if_it_stood_alone(tmp_path: Path) -> None:
    steps = """
        - try:
            steps: [{set: {fields: {tried: "true"}}}]
            catch: [{steps: [{set: {fields: {caught: "true"}}}]}]
    """
    result = await compiled(steps, tmp_path)(data({}))
    assert result.body.data == {"tried": True}
    assert "error" not in result.params


async def test_the_message_that_is_caught_is_the_one_that_came_in(tmp_path: Path) -> None:
    steps = """
        - try:
            steps:
              - set: {fields: {tried: "true"}}
              - filter: body.nothing
            catch:
              - steps: [{set: {fields: {code: error.code, step: error.step, why: error.detail}}}]
        - set: {fields: {after: error.code is defined}}
    """
    result = await compiled(steps, tmp_path)(data({"a": 1}))
    assert result.body.data == {
        "a": 1,
        "code": "route-failure",
        "step": "steps[0].try.steps[1].filter",
        "why": "body.nothing is missing",
        "after": False,
    }


CHOICE = """
    - try:
        steps: [{fail: {message: no, as: "${KIND}"}}]
        catch:
          - on: [transient]
            when: body.amount > 10
            steps: [{set: {body: "'large'"}}]
          - on: [overloaded, denied]
            steps: [{set: {body: "'second'"}}]
          - on: [transient]
            steps: [{set: {body: "'third'"}}]
"""


@pytest.mark.parametrize(
    ("kind", "amount", "branch"),
    [
        ("transient", 11, "large"),
        ("transient", 10, "third"),
        ("overloaded", 11, "large"),  # a code stands for the kinds below it
        ("overloaded", 10, "second"),
        ("denied", 11, "second"),
    ],
)
async def test_the_first_branch_that_matches_is_taken(
    kind: str, amount: int, branch: str, tmp_path: Path
) -> None:
    step = compiled(CHOICE.replace("${KIND}", kind), tmp_path)
    assert (await step(data({"amount": amount}))).body.data == branch


async def test_what_no_branch_matches_goes_on(tmp_path: Path) -> None:
    step = compiled(CHOICE.replace("${KIND}", "bad-message"), tmp_path)
    with pytest.raises(BadMessage, match="no") as caught:
        await step(data({"amount": 11}))
    assert caught.value.step == "steps[0].try.steps[0].fail"


async def test_an_error_in_the_handling_is_raised_and_tells_operators_of_the_first(
    tmp_path: Path,
) -> None:
    steps = """
        - try:
            steps: [{fail: first}]
            catch: [{steps: [{fail: second}]}]
    """
    with pytest.raises(BadMessage, match="second") as caught:
        await compiled(steps, tmp_path)(data({}))
    assert caught.value.notes == ("in the handling of bad-message: first",)


async def test_a_condition_that_fails_is_an_error_in_the_handling(tmp_path: Path) -> None:
    steps = """
        - try:
            steps: [{fail: first}]
            catch: [{when: body.nothing}]
    """
    with pytest.raises(RouteFailure, match="nothing"):
        await compiled(steps, tmp_path)(data({}))


async def test_an_error_can_go_on_after_its_handling(tmp_path: Path) -> None:
    steps = """
        - try:
            steps:
              - try:
                  steps: [{fail: "first {{ body }}"}]
                  catch: [{rethrow: true, steps: [{set: {body: "'handled'"}}]}]
            catch: [{steps: [{set: {body: "error.detail ~ ', ' ~ body"}}]}]
    """
    result = await compiled(steps, tmp_path)(data("in"))
    assert result.body.data == "first in, in"


async def test_in_a_handling_within_another_each_sees_its_own_error(tmp_path: Path) -> None:
    steps = """
        - try:
            steps: [{fail: outer}]
            catch:
              - steps:
                  - try:
                      steps: [{fail: inner}]
                      catch: [{steps: [{set: {fields: {inner: error.detail}}}]}]
                  - set: {fields: {outer: error.detail}}
    """
    result = await compiled(steps, tmp_path)(data({}))
    assert result.body.data == {"inner": "inner", "outer": "outer"}


async def test_a_filtered_message_is_no_error(tmp_path: Path) -> None:
    steps = """
        - try:
            steps: [{filter: "false"}]
            catch: [{steps: []}]
        - fail: not reached
    """
    assert (await compiled(steps, tmp_path)(data({}))).outcome is Outcome.FILTERED


def test_what_expressions_may_know_of_an_error() -> None:
    fault = facts(Fault("no such partner", name="PartnerNotFound", data={"id": 5}))
    assert (fault["code"], fault["fault"], fault["data"]) == ("fault", "PartnerNotFound", {"id": 5})
    assert facts(Rejected("no", status=409).noted("http://inside"))["status"] == 409
    assert (
        facts(BadMessage("no", [{"pointer": "/a", "detail": "b"}]))["errors"][0]["pointer"] == "/a"
    )
    assert facts(ValueError("a secret"))["detail"] == "internal error"
    assert facts(asyncio.CancelledError())["code"] == "cancelled"
    assert "inside" not in str(facts(Rejected("no").noted("http://inside")))


class TestFinally:
    STEPS = """
        - try:
            steps: [{filter: body.ok}, {fail: "no {{ body.n }}"}]
            catch: [{on: [denied]}]
            finally:
              - copy_to: {queue: "{{ 'failed' if error.code is defined else 'passed' }}"}
              - set: {body: "'changed'"}
    """

    @pytest.mark.parametrize(
        ("body", "queue"),
        [({"ok": False}, "passed"), ({"ok": True, "n": 1}, "failed"), ({}, "failed")],
    )
    async def test_it_runs_in_any_case_and_changes_nothing(
        self, body: dict[str, object], queue: str, tmp_path: Path
    ) -> None:
        text = "routes:\n  r:\n    from: {queue: in}\n    steps:" + self.STEPS
        async with running(text, tmp_path) as bus:
            store = store_of(bus)
            await store.put("queue:in", Envelope(body=Body.of(body)))
            await until(lambda: _empty(store, "queue:in"))
            failed = queue == "failed"
            assert await store.counts() == {f"queue:{queue}": 1, **({DEAD: 1} if failed else {})}
            [copied] = await store.browse(f"queue:{queue}")
            assert copied.envelope.body.data == body

    async def test_an_error_there_fails_a_message_that_was_well(self, tmp_path: Path) -> None:
        steps = "- try: {steps: [{set: {body: '1'}}], finally: [{fail: at the end}]}"
        with pytest.raises(BadMessage, match="at the end"):
            await compiled(steps, tmp_path)(data({}))

    async def test_an_error_there_does_not_hide_the_first(self, tmp_path: Path) -> None:
        steps = "- try: {steps: [{fail: first}], finally: [{fail: at the end}]}"
        with pytest.raises(BadMessage, match="first") as caught:
            await compiled(steps, tmp_path)(data({}))
        assert caught.value.notes == ("finally failed, too: at the end",)

    async def test_of_a_message_whose_time_is_over_it_has_some_left(self, tmp_path: Path) -> None:
        jumping = Jumping()
        steps = """
            - try:
                steps: [{delay: 1s}]
                finally: [{delay: 4s}]
        """
        step = compiled(steps, tmp_path, clock=jumping.clock)
        with pytest.raises(Transient) as caught:
            await step(data({}, deadline=jumping.now + 0.5))
        assert (jumping.slept, caught.value.notes) == ([4.0], ())

    async def test_a_run_that_is_cancelled_does_it_and_ends(self, tmp_path: Path) -> None:
        steps = """
            - try:
                steps: [{delay: 60s}]
                finally: [{log: "{{ error.code }}"}, {python: "last:seen"}]
        """
        (tmp_path / "python").mkdir()
        (tmp_path / "python" / "last.py").write_text(
            "async def seen(envelope):\n"
            "    envelope.params['seen'].append(envelope.params['error']['code'])\n"
        )
        seen: list[str] = []
        run = asyncio.ensure_future(compiled(steps, tmp_path)(data({}, params={"seen": seen})))
        await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert seen == ["cancelled"]

    async def test_what_it_does_then_has_an_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("esb.steps.try_.LAST", 0.01)
        (tmp_path / "python").mkdir()
        (tmp_path / "python" / "last.py").write_text(
            "import asyncio\nasync def wait(envelope):\n    await asyncio.Event().wait()\n"
        )
        steps = "- try: {steps: [{python: 'last:wait'}], finally: [{python: 'last:wait'}]}"
        run = asyncio.ensure_future(compiled(steps, tmp_path)(data({})))
        await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_what_failed_sends_nothing_and_what_handled_it_does(tmp_path: Path) -> None:
    text = """
        routes:
          r:
            from: {queue: in}
            steps:
              - send: {queue: before}
              - try:
                  steps: [{send: {queue: tried}}, {skip_seen: body.id}, {fail: no}]
                  catch: [{steps: [{send: {queue: handled}}]}]
              - skip_seen: body.id
              - send: {queue: after}
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", Envelope(body=Body.of({"id": 1})))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:before": 1, "queue:handled": 1, "queue:after": 1}


async def test_an_error_that_goes_on_takes_all_with_it(tmp_path: Path) -> None:
    text = """
        routes:
          r:
            from: {queue: in}
            steps:
              - send: {queue: before}
              - try:
                  steps: [{fail: no}]
                  catch: [{rethrow: true, steps: [{send: {queue: a}}, {copy_to: {queue: b}}]}]
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", message())
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:b": 1, DEAD: 1}


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    steps = """
        - try: {steps: []}
        - try:
            steps: []
            catch:
              - steps: []
              - on: [transient]
        - try:
            steps: []
            catch:
              - on: [transiet]
        - try:
            steps: []
            catch:
              - when: eror.code == 'fault'
    """
    first, second, third, fourth = mistakes(steps, tmp_path)
    assert first == "6: nothing is caught (catch: [...] or finally: [...])"
    assert second == "10: this catches every error: those below are never tried"
    assert third == "15: there is no error 'transiet': did you mean 'transient'?"
    assert fourth == "19: there is nothing called eror (did you mean error?)"


async def _empty(store: object, *channels: str) -> bool:
    counts = await store.counts()  # type: ignore[attr-defined]
    return not any(counts.get(channel) for channel in channels)
