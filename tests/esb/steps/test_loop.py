"""`loop`: so many turns as asked for, each on what the one before left, and always an end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.bus import running, store_of
from support.steps import compiled, data, mistakes
from support.stores import message
from support.waiting import until

from esb.envelope import Outcome
from esb.errors import RouteFailure

COUNT = "[{set: {fields: {n: body.n + turn.number}}}]"


async def test_while_is_asked_before_each_turn(tmp_path: Path) -> None:
    step = compiled(f"- loop: {{while: body.n < 6, steps: {COUNT}}}", tmp_path)
    assert (await step(data({"n": 0}))).body.data == {"n": 6}
    assert (await step(data({"n": 7}))).body.data == {"n": 7}


@pytest.mark.parametrize("times", ["3", "body.n + 3"])
async def test_so_many_times(times: str, tmp_path: Path) -> None:
    step = compiled(f"- loop: {{times: {times}, steps: {COUNT}}}", tmp_path)
    result = await step(data({"n": 0}))
    assert result.body.data == {"n": 6}
    assert "turn" not in result.params


async def test_each_item_has_a_turn(tmp_path: Path) -> None:
    steps = """
        - loop:
            each: body.add
            steps: [{set: {fields: {sum: "body.sum + turn.item.value"}}}]
    """
    given = data({"sum": 1, "add": [{"value": 10}, {"value": 100}]})
    assert (await compiled(steps, tmp_path)(given)).body.data["sum"] == 111


async def test_loops_in_loops_count_for_themselves(tmp_path: Path) -> None:
    steps = """
        - loop:
            times: 2
            steps:
              - loop: {times: 3, steps: [{set: {body: "body ~ turn.number"}}]}
              - set: {body: "body ~ '(' ~ turn.number ~ ')'"}
    """
    assert (await compiled(steps, tmp_path)(data(""))).body.data == "123(1)123(2)"


async def test_a_filtered_message_ends_it(tmp_path: Path) -> None:
    steps = f"- loop: {{times: 5, steps: [{{filter: turn.number < 3}}, {COUNT[1:-1]}]}}\n- fail: no"
    result = await compiled(steps, tmp_path)(data({"n": 0}))
    assert (result.outcome, result.body.data) == (Outcome.FILTERED, {"n": 3})


async def test_the_bound_is_kept(tmp_path: Path) -> None:
    step = compiled(f"- loop: {{while: 'true', most: 4, steps: {COUNT}}}", tmp_path)
    with pytest.raises(RouteFailure, match="did not end within 4 turns"):
        await step(data({"n": 0}))
    step = compiled(f"- loop: {{while: body.n < 10, most: 4, steps: {COUNT}}}", tmp_path)
    assert (await step(data({"n": 0}))).body.data == {"n": 10}, "the last turn is allowed"


@pytest.mark.parametrize("what", ["times: body | length", "each: body"])
async def test_what_is_too_much_does_not_begin(what: str, tmp_path: Path) -> None:
    text = f"""
        routes:
          r:
            from: {{queue: in}}
            steps:
              - loop: {{{what}, most: 3, steps: [{{copy_to: {{queue: out}}}}]}}
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", data([1, 2, 3, 4]))
        [dead] = await until(lambda: store.browse("dead"))
        assert dead.failure is not None
        assert dead.failure.detail == "a loop of 4 turns: at most 3 are allowed"
        assert await store.counts() == {"dead": 1}


@pytest.mark.parametrize("times", ["body", "0 - 1", "'3'", "true"])
async def test_a_number_of_turns_is_a_whole_number(times: str, tmp_path: Path) -> None:
    step = compiled(f'- loop: {{times: "{times}", steps: []}}', tmp_path)
    with pytest.raises(RouteFailure, match="whole number"):
        await step(data([1]))


async def test_what_it_sends_is_sent_in_order_and_with_the_run(tmp_path: Path) -> None:
    text = """
        routes:
          r:
            from: {queue: in}
            steps:
              - loop: {times: 3, steps: [{set: {body: turn.number}}, {send: {queue: out}}]}
              - filter: body == 3
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", message())
        await until(lambda: store.browse("queue:out"))
        assert [m.envelope.body.data for m in await store.browse("queue:out")] == [1, 2, 3]


async def test_the_parts_of_each_turn_are_messages_of_their_own(tmp_path: Path) -> None:
    text = """
        routes:
          r:
            from: {queue: in}
            steps:
              - loop:
                  times: 2
                  steps:
                    - split: {each: "[1, 2]", steps: [{run: gathered}]}
              - loop: {times: 1, steps: [{loop: {times: 1, steps: [{multicast: {branches: {
                  a: [{run: gathered}]}}}]}}]}
          gathered:
            steps: [{aggregate: {size: 6, steps: [{send: {queue: out}}]}}]
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", message(id="m"))

        async def gathered() -> set[str]:
            members = await store.browse("aggregate:gathered/aggregate")
            return {member.envelope.id for member in members}

        ids = await until(gathered)
        assert ids == {"m.1-0", "m.1-1", "m.2-0", "m.2-1", "m.1-1-2:a"}


async def test_steps_that_wait_for_nothing_let_others_work(tmp_path: Path) -> None:
    step = compiled(f"- loop: {{times: 1000, steps: {COUNT}}}", tmp_path)
    turns = asyncio.ensure_future(step(data({"n": 0})))
    seen = 0
    while not turns.done():
        await asyncio.sleep(0)
        seen += 1
    assert seen > 500


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    steps = """
        - loop: {steps: []}
        - loop:
            times: 3
            while: "true"
            steps: []
        - loop:
            times: 2000
            steps: []
    """
    assert mistakes(steps, tmp_path) == [
        "6: a loop has one of 'while', 'times' and 'each'",
        "8: a loop has one of 'while', 'times' and 'each'",
        "12: a loop has from 0 to 1000 turns (most: ...)",
    ]
