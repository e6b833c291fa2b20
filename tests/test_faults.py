"""The short form of the fault suite; `make faults` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.catalogue import Fault, catalogue
from faults.places import ENGINES, PLACES
from faults.suite import SKIPPED, run

SHORT = [
    pytest.param(fault, place, engine, id=f"{fault.name}-{place}-{engine}")
    for fault in catalogue()
    if fault.short
    for place in PLACES
    if place in fault.places and place in fault.short_places
    for engine in ENGINES
    if engine in fault.engines
    if engine == "store" or (fault.name, place) == ("kill9", "sqlite")
]


@pytest.mark.parametrize(("fault", "place", "engine"), SHORT)
async def test_promises_are_kept(fault: Fault, place: str, engine: str, tmp_path: Path) -> None:
    # How fast it is back depends on who else is at work on the machine: nothing here asks for that.
    result = await run(
        fault, place, engine, rounds=fault.short, seed=7, folder=tmp_path, most_recovery=60
    )
    if result.verdict == SKIPPED:
        pytest.skip(result.problems[0])
    assert result.good, "\n".join([result.verdict, *result.problems])
    assert result.rounds == fault.short
    assert result.accepted > 0
