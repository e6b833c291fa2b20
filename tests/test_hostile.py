"""The short form of the hostile corpus; `make hostile` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile.arena import Arena
from hostile.case import Case
from hostile.corpus import corpus, short
from hostile.suite import Result, run

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured in Linux's /proc"
)

PARTS = 4
"""Buses that share the inputs, so that several are attacked at the same time."""

CAUGHT = {
    "doctype": ("xml: an external entity, xpath", r"the answer holds b'planted"),
    "blocking": ("json: 10 MB of one text", "the event loop was kept"),
    "crash": ("json: 5,000 arrays deep", "a 500 that blames the bus"),
    "hoard": ("json: a key of 10 MB", "MB more"),
    "answering": ("amqp reply_to: a queue of somebody else, rpc", "a queue of somebody else got"),
}
"""Of each sabotage: an input, and what is found of it."""


async def attacked(cases: list[Case], folder: Path, sabotage: str = "-") -> list[Result]:
    async with Arena(folder, sabotage=sabotage) as arena:
        # Others work on this machine, and what they leave in its caches is none of the bus's.
        return await run(arena, cases, most_lag=1.0 if sabotage == "-" else 0.1)


@pytest.mark.parametrize("part", range(PARTS))
async def test_the_bus_stands_it(part: int, tmp_path: Path) -> None:
    families = list(dict.fromkeys(one.family for one in corpus()))[part::PARTS]
    cases = [one for one in short() if one.family in families]
    results = await attacked(cases, tmp_path)
    assert [f"{one.family}: {one.name}: {one.problems}" for one in results if one.problems] == []
    assert len(results) == len(cases)


@pytest.mark.parametrize("sabotage", CAUGHT)
async def test_a_bus_that_is_broken_is_caught(sabotage: str, tmp_path: Path) -> None:
    name, found = CAUGHT[sabotage]
    cases = [one for one in corpus() if f"{one.family}: {one.name}" == name]
    [result] = await attacked(cases, tmp_path, sabotage)
    assert any(found in problem for problem in result.problems), result


def test_there_are_enough() -> None:
    assert len(corpus()) >= 400
    assert {one.transport for one in corpus()} >= {"raw", "post", "reply", "dropped", "queued"}
