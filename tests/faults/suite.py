"""Runs faults and tells how they went."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults.arena import Arena
from faults.catalogue import Fault, Vacuous
from faults.judge import Verdict, judge

MOST_RECOVERY = 5.0
"""Seconds from the start of a bus that was killed to the first message that it accepts."""

_LONGEST = 800

KEPT, CAUGHT, SKIPPED = "kept", "caught", "skipped"


@dataclass
class Result:
    """One fault, one store, one engine. rounds: those that were really run. verdict: "kept" (its
    promises), "caught" (a mutant, convicted), "skipped", or else what went wrong."""

    fault: str
    about: str
    store: str
    engine: str
    seed: int
    verdict: str
    rounds: int = 0
    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    filtered: int = 0
    kills: int = 0
    unknown: int = 0
    redeliveries: int = 0
    duplicates: int = 0
    lost: int = 0
    recovery_seconds: float = 0.0
    seconds: float = 0.0
    stages: dict[str, int] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it ended as it should."""
        return self.verdict in (KEPT, CAUGHT, SKIPPED)


async def run(
    fault: Fault,
    place: str,
    engine: str,
    *,
    rounds: int,
    seed: int,
    folder: Path,
    most_recovery: float = MOST_RECOVERY,
) -> Result:
    """Make a fault happen in `folder`, and judge what came of it. What goes wrong is in the result,
    never raised."""
    result = Result(fault.name, fault.about, place, engine, seed, KEPT)
    if lacks := fault.lacks():
        result.verdict, result.problems = SKIPPED, [lacks]
        return result
    begun = time.monotonic()
    arena = Arena(
        folder,
        place=place,
        engine=engine,
        seed=seed,
        flows=fault.flows,
        proxied=fault.proxied,
        sabotage=fault.sabotage,
        disk=fault.disk,
        clustered=fault.clustered,
        routes=fault.routes,
    )
    arena.environ = fault.environ(arena)
    if fault.must_lose:
        arena.patience = 3.0  # what it has lost will not come
    try:
        async with arena:
            result.rounds = await fault.happen(arena, rounds)
            await arena.revive()
            evidence = await arena.settled()
            verdict = judge(evidence, arena.allowance)
            _fill(result, verdict)
            result.problems = [*verdict.problems, *arena.against_metrics(verdict)]
            result.kills, result.stages = arena.kills, arena.stages
            fault.prove(arena, evidence, verdict, result.rounds)
        if arena.recovery > most_recovery:
            result.problems.append(f"{arena.recovery:.1f} s until it accepted again")
    except Vacuous as e:
        result.problems.append(f"proves nothing: {e}")
    except Exception as e:  # noqa: BLE001 - whatever it is, the other faults are still to be run
        text = f"{type(e).__name__}: {e}\n" + "\n".join(getattr(e, "__notes__", ()))
        result.problems.append(text if len(text) < _LONGEST else f"...{text[-_LONGEST:]}")
    result.memory_mb = arena.memory
    result.recovery_seconds = round(arena.recovery, 2)
    result.seconds = round(time.monotonic() - begun, 1)
    if fault.must_lose:
        proper = result.lost > 0 and not any(p.startswith("proves") for p in result.problems)
        result.verdict = CAUGHT if proper else "NOT CAUGHT"
    elif result.problems:
        result.verdict = "BROKEN"
    return result


def _fill(result: Result, verdict: Verdict) -> None:
    for name in (
        "accepted", "delivered", "dead", "filtered", "unknown", "redeliveries", "duplicates", "lost"
    ):  # fmt: skip
        setattr(result, name, getattr(verdict, name))


# --- telling --------------------------------------------------------------------------------------

_COLUMNS = (
    ("fault", "fault"),
    ("store", "store"),
    ("engine", "engine"),
    ("rounds", "rounds"),
    ("kills", "kills"),
    ("accepted", "accepted"),
    ("unknown", "unknown"),
    ("redelivered", "redeliveries"),
    ("duplicates", "duplicates"),
    ("lost", "lost"),
    ("recovery s", "recovery_seconds"),
    ("verdict", "verdict"),
)


def row(result: Result) -> list[str]:
    """Its cells in the table."""
    return [str(getattr(result, name)) for _, name in _COLUMNS]


def line(cells: Sequence[str]) -> str:
    """A line of the table that is printed while faults run."""
    widths = (16, 8, 8, 6, 6, 8, 7, 11, 10, 5, 10, 10)
    return "  ".join(
        cell.ljust(width) if at in (0, 1, 2, 11) else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


HEAD = [title for title, _ in _COLUMNS]


_READING = """\
Each row is a bus under load between a sender and a receiver that keep ledgers, and `rounds` are
those that were really run. `kept`: every promise was (`tests/faults/judge.py` lists them).
`caught`: a bus that was broken on purpose was convicted, so the row shows that the judge sees.
`unknown` outcomes are those a sender did not learn; `redelivered` are requests to the far side
beyond the first of a message, and `duplicates` those of them that it took: all with the same
`Idempotency-Key`. `recovery` is the longest time until the first message was accepted again."""


def page(objects: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    days = sorted({one["when"] for one in objects})
    made = " to ".join(dict.fromkeys((days[0], days[-1])))
    results = [
        Result(**{name: value for name, value in one.items() if name != "when"}) for one in objects
    ]
    lines = [
        "# Faults",
        "",
        f"Made by `make faults` on {made}: {_machine()}.",
        "",
        _READING,
        "",
        "| " + " | ".join(HEAD) + " |",
        "| " + " | ".join("---" if at in (0, 1, 2, 11) else "---:" for at in range(12)) + " |",
        *("| " + " | ".join(row(result)) + " |" for result in results),
        "",
        "| fault | what is done |",
        "| --- | --- |",
        *(f"| {name} | {about} |" for name, about in {r.fault: r.about for r in results}.items()),
    ]
    weighed = [r for r in results if r.memory_mb]
    if weighed:
        lines += ["", "## Memory (RSS)", ""]
        lines += [
            f"* {r.fault} ({r.store}, {r.engine}): "
            + ", ".join(f"{when}: {size:.0f} MB" for when, size in r.memory_mb.items())
            for r in weighed
        ]
    told = [r for r in results if r.problems]
    if told:
        lines += ["", "## What was found", ""]
        lines += [
            f"* {r.fault} ({r.store}, {r.engine}): {r.verdict}. {problem.splitlines()[0]}"
            for r in told
            for problem in r.problems
        ]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory:.0f} GB, Python {platform.python_version()}"


def save(results: Sequence[Result], folder: Path, when: str, order: Sequence[str]) -> None:
    """faults.json, one object a fault, and faults.md. What lies there of other faults, stores and
    engines stays: each row says when it was made and how many rounds were run for it."""
    file = folder / "faults.json"
    folder.mkdir(parents=True, exist_ok=True)
    objects = json.loads(file.read_text()) if file.exists() else []
    rows = {_key(one): one for one in objects}
    rows |= {_key(one): one for one in ({"when": when, **asdict(result)} for result in results)}
    objects = sorted(rows.values(), key=lambda one: order.index(one["fault"]))
    file.write_text(json.dumps(objects, indent=1) + "\n")
    (folder / "faults.md").write_text(page(objects))


def _key(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["fault"], one["store"], one["engine"]


def tidy(folder: Path) -> None:
    """Remove what a run left behind."""
    shutil.rmtree(folder, ignore_errors=True)
